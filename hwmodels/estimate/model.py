"""Predictions on machines: an estimate with its error bar, and the bound with its stage named."""

import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate import constants
from hwmodels.estimate.bounds import EXECUTIONS, STAGES, Bound, Plan, Stream, Traffic, evaluate, plan
from hwmodels.estimate.constants import Constants
from hwmodels.estimate.cpu import CpuWork, cpu_work, estimate_cpu
from hwmodels.estimate.estimate import CACHE_STATES, ROADS, estimate
from hwmodels.estimate.intervals import (
    CPU_FAMILY,
    DECODE_TOKENS,
    PREFILL_TOKENS,
    REGIMES,
    ROAD_FAMILIES,
    UNIT_PATTERN,
    Interval,
    interval,
    regime_of,
    width_of,
)
from hwmodels.estimate.table import (
    MAX_DIMENSION,
    SHAPE_COLUMNS,
    read_choice,
    read_kinds,
    read_shape,
)
from hwmodels.machine.libraries import measured
from hwmodels.machine.spec import HardwareSpec
from nmsim.case import Case, Prediction
from nmsim.errors import NmsimError, RowError, brief
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

TIME_COLUMNS = (
    "predicted_time_s", "predicted_dense_time_s", "predicted_speedup_vs_dense", "predicted_speedup_low",
    "predicted_speedup_high", "bound_time_s", "bound_memory_s", "bound_decode_s", "bound_select_s", "bound_matrix_s",
    "bound_dense_time_s", "bound_speedup_vs_dense",
)  # fmt: skip
BYTE_COLUMNS = (
    "values_bytes", "metadata_bytes", "dense_operand_bytes", "output_bytes", "dense_traffic_bytes",
)  # fmt: skip
PREDICTED_COLUMNS = (
    "hardware", "execution", *TIME_COLUMNS, "comparable_rows", "extrapolates", *BYTE_COLUMNS, "limit",
)  # fmt: skip
"""Columns that `predict` adds to a table, in this order."""


class Known(NamedTuple):
    """What is known of the error of a prediction."""

    interval: Interval
    extrapolates: bool


@functools.lru_cache(maxsize=4096)
def interval_of(spec: HardwareSpec, pattern: Pattern | None, dtype: str, regime: str, road: int) -> Known:
    """Find the measured rows that a prediction compares with, and whether they are of its pattern.

    Parameters
    ----------
    spec : HardwareSpec
    pattern : Pattern or None
        None for a dense product, whose speedup is 1 by definition.
    dtype : str
    regime : str
        As `hwmodels.estimate.intervals.regime_of`.
    road : int
        Place in `hwmodels.estimate.estimate.ROADS`.
    """
    if pattern is None:
        return Known(Interval(1.0, 1.0, 0), False)
    if spec.family == "cpu":
        found = interval(CPU_FAMILY, width_of(dtype), regime)
        return Known(found, found.widened)
    name = ROADS[road]
    found = interval(ROAD_FAMILIES[name], width_of(dtype), regime, measured=measured(spec.generation))
    of_unit = name == "unit" and pattern == UNIT_PATTERN and not spec.hypothetical
    return Known(found, not of_unit or found.widened)


def with_interval(speedup: Any, known: Known) -> dict[str, Any]:
    """Columns of error bars around speedups."""
    return {
        "predicted_speedup_low": speedup * known.interval.low,
        "predicted_speedup_high": speedup * known.interval.high,
        "comparable_rows": known.interval.rows,
        "extrapolates": known.extrapolates,
    }


class Asked(NamedTuple):
    """How products are run, beyond what the product is: place in `CACHE_STATES`, cores (0: all), and work on a CPU.

    Numbers, or arrays of one entry a case.
    """

    state: Any
    threads: Any
    work: CpuWork


class TypedFormat(NamedTuple):
    """A combination of choices that occurs in a table."""

    dtype: str
    format: SparseFormat | None

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of the format; None for a dense product."""
        return self.format.pattern if self.format else None


NO_CPU_WORK = CpuWork(0.0, 0.0, 0.0, 0.0, 0.0)
"""On a GPU, whose estimate counts none."""


def cpu_work_of(spec: HardwareSpec, typed: TypedFormat, tokens: int) -> CpuWork:
    """Work of a product on a CPU; zeros on a GPU."""
    return cpu_work(spec, typed.dtype, typed.format, tokens) if spec.family == "cpu" else NO_CPU_WORK


class Answer(NamedTuple):
    """What is said of products: the columns that are numbers, places in `STAGES` and `ROADS`, and what is behind them."""

    numbers: dict[str, Any]
    stage: Any
    road: Any
    bound: Bound
    moved: Traffic


def answer(
    spec: HardwareSpec, values: Constants, how: Plan, shape: tuple[Any, Any, Any], asked: Asked
) -> Answer:
    """Estimate and bound products, numbers or arrays of one entry a case; the interval is left to the caller."""
    moved, bound, moved_dense, bound_dense = evaluate(spec, how, *shape)
    time_s, dense_s = bound.time_s, bound_dense.time_s
    if spec.family == "gpu":
        expected = estimate(spec, values, how, shape, moved, bound, moved_dense, asked.state)
    else:
        expected = estimate_cpu(spec, how, shape, moved, bound, moved_dense, *asked)
        # Of a ragged group the estimate counts what is kept, the bound the whole group; caches only spare the memory.
        working = np.maximum(np.maximum(bound.decode_s, bound.select_s), bound.matrix_s)
        expected = expected._replace(time_s=np.maximum(expected.time_s, working))
    numbers = {
        "predicted_time_s": expected.time_s,
        "predicted_dense_time_s": expected.dense_time_s,
        "predicted_speedup_vs_dense": expected.dense_time_s / expected.time_s,
        "bound_time_s": time_s,
        "bound_memory_s": bound.memory_s,
        "bound_decode_s": bound.decode_s,
        "bound_select_s": bound.select_s,
        "bound_matrix_s": bound.matrix_s,
        "bound_dense_time_s": dense_s,
        "bound_speedup_vs_dense": dense_s / time_s,
        "values_bytes": moved.values_bytes,
        "metadata_bytes": moved.metadata_bytes,
        "dense_operand_bytes": moved.dense_operand_bytes,
        "output_bytes": moved.output_bytes,
        "dense_traffic_bytes": moved_dense.total_bytes,
    }
    return Answer(numbers, bound.stage, expected.road, bound, moved)


MAX_KEYS = 1 << 63
"""Combinations that one int64 can number."""
BLOCK_ROWS = 1 << 14
"""Rows computed at a time: their columns stay in a core's cache, and temporaries stay small."""


def predict_case(case: Case, spec: HardwareSpec, output_bits: int | None) -> Prediction:
    """`hwmodels.predict` of one case on a machine."""
    shape = case.shape
    for name in SHAPE_COLUMNS:
        if getattr(shape, name) > MAX_DIMENSION:
            raise RowError(f"case {name}={getattr(shape, name)}: expected at most {MAX_DIMENSION}")
    try:
        how = plan(spec, case.dtype, case.sparse_operand, case.format)
        how = how if output_bits is None else how._replace(output_bits=output_bits)
    except NmsimError as error:
        raise RowError(f"case: {error}") from error
    work = cpu_work_of(spec, TypedFormat(case.dtype, case.format), shape.M)
    asked = Asked(CACHE_STATES.index(""), 0, work)
    found = answer(spec, constants.load(), how, (shape.M, shape.N, shape.K), asked)
    values: dict[str, Any] = {name: np.asarray(number).item() for name, number in found.numbers.items()}
    known = interval_of(spec, case.pattern, case.dtype, regime_of(shape.M), int(found.road))
    values |= with_interval(values["predicted_speedup_vs_dense"], known)
    return Prediction(
        case=case,
        hardware=spec.id,
        execution=EXECUTIONS[how.execution],
        limit=STAGES[found.stage],
        explanation=_explain(found, spec) + _pairs_hint(spec, case, EXECUTIONS[how.execution]),
        **values,
    )


def _explain(found: Answer, spec: HardwareSpec) -> str:
    times = dict(zip(STAGES, found.bound.stages, strict=True))
    first, second = sorted(STAGES, key=lambda stage: (-times[stage], STAGES.index(stage)))[:2]
    cause = ""
    if first == "memory":
        bandwidth = spec.dram_bandwidth_bytes_per_s.value
        rate = f"{bandwidth / 1e12:.4g} TB/s" if bandwidth >= 1e12 else f"{bandwidth / 1e9:.4g} GB/s"
        cause = f"{found.moved.total_bytes / 1e6:.4g} MB at {rate} takes "
    share = 100 * times[second] / times[first]
    return (
        f"{first}: {cause}{times[first] * 1e6:.4g} us; the next stage, {second}, takes "
        f"{times[second] * 1e6:.4g} us ({share:.0f} %)"
    )


def _pairs_hint(spec: HardwareSpec, case: Case, execution: str) -> str:
    """What to know of a product that the machine's unit takes in pairs alone, as of 2:4 in fp4."""
    units = [unit for unit in spec.native if unit.pairs and case.dtype in unit.dtypes]
    if not units or case.pattern is None or execution == "native":
        return ""
    return (
        f". The sparse {case.dtype} unit of {spec.id} takes {units[0].takes_pattern} of elements, not {case.pattern} of single "
        "ones, so codes are decoded in software"
    )


def predict_table(cases: pd.DataFrame, spec: HardwareSpec, values: Constants | None = None) -> pd.DataFrame:
    """`predict` for a table, under other constants than the fitted ones if they are given."""
    taken = [name for name in PREDICTED_COLUMNS if name in cases.columns]
    if taken:
        raise RowError(f"column {taken[0]}: already in the table; predict adds it and overwrites nothing")
    sizes = read_shape(cases)
    kind_of_row, plans, typed = _plans(cases, spec)
    codes, states = read_choice(cases, "l2_state", _state, 0)
    state = np.array([*states, 0], np.int8)[codes]
    codes, counts = read_choice(cases, "threads", _threads, 0)
    threads = np.array([*counts, 0], np.int64)[codes]
    asks: Any = (kind_of_row, *sizes, state, threads)
    # Tables of a study repeat the same product many times, so each distinct one is computed once.
    first, place = _distinct(asks)
    kind, M, N, K, state, threads = (column[first] for column in asks)
    stacked, work = _stack(plans), _cpu_work(spec, typed, kind, M)
    blocks = []
    for start in range(0, max(len(first), 1), BLOCK_ROWS):
        at = slice(start, start + BLOCK_ROWS)
        asked = Asked(state[at], threads[at], CpuWork(*work[:, at]))
        how, shape = _take(stacked, kind[at]), (M[at], N[at], K[at])
        blocks.append(answer(spec, values or constants.load(), how, shape, asked))
    numbers = {name: np.concatenate([block.numbers[name] for block in blocks]) for name in blocks[0].numbers}
    stage = np.concatenate([block.stage for block in blocks])
    known = _intervals(spec, typed, kind, M, np.concatenate([block.road for block in blocks]))
    numbers |= with_interval(numbers["predicted_speedup_vs_dense"], known)
    added: dict[str, Any] = {name: column[place] for name, column in numbers.items()}
    added["hardware"] = _categories(np.zeros(len(cases), np.int8), (spec.id,))
    added["execution"] = _categories(stacked.execution.astype(np.int8)[kind_of_row], EXECUTIONS)
    added["limit"] = _categories(stage[place], STAGES)
    answers = pd.DataFrame({name: added[name] for name in PREDICTED_COLUMNS}, index=cases.index, copy=False)
    return pd.concat([cases, answers], axis=1)


def _cpu_work(
    spec: HardwareSpec, typed: list[TypedFormat], kind: NDArray[np.intp], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`CpuWork` of all rows [5, rows]: one look-up for each kind and number of tokens that occurs on a CPU."""
    if spec.family != "cpu":
        return np.zeros((len(CpuWork._fields), len(kind)))
    example, codes = _distinct((kind, tokens))
    counts = [cpu_work_of(spec, typed[kind[row]], int(tokens[row])) for row in example]
    return np.array(counts).reshape(-1, len(CpuWork._fields)).T[:, codes]


def _intervals(
    spec: HardwareSpec,
    typed: list[TypedFormat],
    kind: NDArray[np.intp],
    tokens: NDArray[np.int64],
    road: NDArray[np.int8],
) -> Known:
    """Error bars of all rows: one look-up for each kind, regime and method that occurs."""
    regime = np.searchsorted([DECODE_TOKENS + 1, PREFILL_TOKENS], tokens, side="right")
    example, codes = _distinct((kind, regime, road))
    kinds = ((row, typed[kind[row]]) for row in example)
    known = [
        interval_of(spec, one.pattern, one.dtype, REGIMES[regime[row]], int(road[row])) for row, one in kinds
    ]
    return Known(
        Interval(*(np.array([k.interval[i] for k in known])[codes] for i in range(4))),  # type: ignore[arg-type]
        np.array([k.extrapolates for k in known], bool)[codes],  # type: ignore[arg-type]
    )


def _distinct(columns: tuple[NDArray[Any], ...]) -> tuple[NDArray[np.intp], NDArray[np.intp] | slice]:
    """First row of each distinct combination of codes from 0, and the place of each row's combination among them.

    A table often asks about few distinct products: patterns and encodings repeat, and layers do. Where hardly any row
    repeats another, every row stands for itself.
    """
    key, keys = np.zeros(len(columns[0]), np.int64), 1
    for codes in columns:
        levels = int(codes.max(initial=0)) + 1
        if keys * levels > MAX_KEYS:
            (key, found), (codes, known) = pd.factorize(key), pd.factorize(codes)
            keys, levels = len(found), len(known)
        key, keys = key * levels + codes, keys * levels
    ordered = np.sort(key)
    if 2 * np.count_nonzero(np.diff(ordered)) >= len(key):  # numbering them would cost more than it saves
        return np.arange(len(key)), slice(None)
    place, found = pd.factorize(key)
    first = np.empty(len(found), np.intp)
    first[place[::-1]] = np.arange(len(place) - 1, -1, -1)
    return first, place


def _state(word: Any) -> int:
    text = "" if word is None else word
    if text not in CACHE_STATES:
        raise RowError(f"{brief(word)}: expected cold, warm or nothing")
    return CACHE_STATES.index(text)


def _threads(count: Any) -> int:
    if count is None:
        return 0
    if isinstance(count, bool) or count != int(count) or count < 1:
        raise RowError(f"{brief(count)}: expected a positive int, or nothing for all cores")
    return int(count)


def _categories(codes: NDArray[np.int8], names: tuple[str, ...]) -> Any:
    return pd.Categorical.from_codes(codes, pd.Index(names))


def _plans(cases: pd.DataFrame, spec: HardwareSpec) -> tuple[NDArray[np.intp], list[Plan], list[TypedFormat]]:
    """Position of each row's plan [rows], the plans, and the choices that each is of."""
    kind_of_row, kinds = read_kinds(cases)
    plans = []
    for place, kind in enumerate(kinds):
        try:
            found = _plan_of(spec, kind.dtype, kind.sparse_operand, kind.format)
        except RowError as error:
            row = int(np.argmax(kind_of_row == place))
            raise RowError.at(error.problem, row=row, column=error.column) from error
        own: dict[str, Any] = {"output_bits": kind.output_bits, "input_copies": kind.input_copies}
        plans.append(found._replace(**{name: value for name, value in own.items() if value is not None}))
    return kind_of_row, plans, [TypedFormat(kind.dtype, kind.format) for kind in kinds]


def _plan_of(spec: HardwareSpec, dtype: str, sparse_operand: str, format: SparseFormat | None) -> Plan:
    try:
        return plan(spec, dtype, sparse_operand, format)
    except RowError as error:
        raise RowError.at(str(error), column="dtype") from error
    except NmsimError as error:
        raise RowError.at(str(error), column="encoding") from error


def _stack(plans: list[Plan]) -> Plan:
    """Plans of numbers to one plan of arrays [plans]."""
    streams = (np.array([how.how[place] for how in plans]) for place in range(len(Stream._fields)))
    rest = (np.array([how[place] for how in plans]) for place in range(1, len(Plan._fields)))
    return Plan(Stream(*streams), *rest)


def _take(stacked: Plan, kind: NDArray[np.intp]) -> Plan:
    """One entry of each array for each row."""
    return Plan(Stream(*(column[kind] for column in stacked.how)), *(column[kind] for column in stacked[1:]))
