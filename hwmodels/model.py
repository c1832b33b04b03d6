"""`predict`: cases in, predictions out, with the stage that bounds each one named."""

from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels import table
from hwmodels.bounds import EXECUTIONS, STAGES, Bound, Plan, evaluate, plan
from hwmodels.spec import HardwareSpec, load
from hwmodels.traffic import Stream
from nmsim import encodings, packing
from nmsim.errors import NmsimError, RowError
from nmsim.pattern import Pattern
from nmsim.records import VALUE_BITS, Case, Phase, Prediction, SparseOperand

BLOCK_ROWS = 1 << 16
"""Rows computed at a time: their columns stay in a core's cache, and temporaries stay small."""

TIME_COLUMNS = (
    "predicted_time_s",
    "predicted_memory_s",
    "predicted_decode_s",
    "predicted_select_s",
    "predicted_matrix_s",
    "predicted_dense_time_s",
    "predicted_speedup_vs_dense",
)
BYTE_COLUMNS = (
    "values_bytes",
    "metadata_bytes",
    "dense_operand_bytes",
    "output_bytes",
    "dense_traffic_bytes",
)
PREDICTED_COLUMNS = ("hardware", "execution", *TIME_COLUMNS, *BYTE_COLUMNS, "bound")
"""Columns that `predict` adds to a table, in this order."""


@overload
def predict(cases: Case, hardware: str | Path | HardwareSpec) -> Prediction: ...
@overload
def predict(cases: pd.DataFrame, hardware: str | Path | HardwareSpec) -> pd.DataFrame: ...


def predict(cases: Case | pd.DataFrame, hardware: str | Path | HardwareSpec) -> Prediction | pd.DataFrame:
    """Predict the least time each case can take on a machine: the Roof-Surface bound.

    Parameters
    ----------
    cases : Case or DataFrame
        One case, or a table of them with a row each. A table needs the columns M, N and K (positive ints);
        `phase`, `dtype`, `sparse_operand`, `pattern`, `encoding` and `packing` default to those of `Case`. A
        missing pattern or `"dense"` is a dense case. Further columns are carried along.
    hardware : str, Path or HardwareSpec
        As for `hwmodels.load`.

    Returns
    -------
    Prediction or DataFrame
        For a table: a new one, its columns followed by `PREDICTED_COLUMNS`; times in seconds of one product,
        bytes to or from DRAM. The text columns added are categorical.

    Raises
    ------
    RowError
        A column is missing or already there, or a cell is wrong; row numbers count from 0.
    SpecError
        Unknown hardware.

    Source
    ------
    DECA, arXiv 2505.19349, with the traffic and the assumptions of `docs/explanation/cost-model.md`.

    Examples
    --------
    >>> from nmsim.pattern import Pattern
    >>> from nmsim.records import Case, GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), pattern=Pattern(8, 16), encoding="combinatorial")
    >>> answer = predict(case, "h200-8x16")
    >>> answer.execution, answer.bound, round(answer.predicted_speedup_vs_dense, 3)
    ('native', 'memory', 1.802)
    >>> print(answer.explanation)
    memory: 18.63 MB at 4.8 TB/s takes 3.881 us; the next stage, decode, takes 1.003 us (26 %)
    """
    spec = load(hardware)
    if isinstance(cases, Case):
        return _predict_case(cases, spec)
    if isinstance(cases, pd.DataFrame):
        return _predict_table(cases, spec)
    raise RowError(f"cases of type {type(cases).__name__}: expected a Case or a pandas DataFrame")


def _predict_case(case: Case, spec: HardwareSpec) -> Prediction:
    shape = case.shape
    for name in table.SHAPE_COLUMNS:
        if getattr(shape, name) > table.MAX_DIMENSION:
            raise RowError(f"case {name}={getattr(shape, name)}: expected at most {table.MAX_DIMENSION}")
    try:
        how = plan(spec, case.dtype, case.sparse_operand, case.pattern, case.encoding, case.packing)
    except NmsimError as error:
        raise RowError(f"case: {error}") from error
    moved, bound, moved_dense, bound_dense = evaluate(spec, how, shape.M, shape.N, shape.K)
    time_s, dense_s = float(bound.time_s), float(bound_dense.time_s)
    return Prediction(
        case=case,
        hardware=spec.id,
        execution=EXECUTIONS[how.execution],
        predicted_time_s=time_s,
        predicted_memory_s=float(bound.memory_s),
        predicted_decode_s=float(bound.decode_s),
        predicted_select_s=float(bound.select_s),
        predicted_matrix_s=float(bound.matrix_s),
        predicted_dense_time_s=dense_s,
        predicted_speedup_vs_dense=dense_s / time_s,
        values_bytes=int(moved.values_bytes),
        metadata_bytes=int(moved.metadata_bytes),
        dense_operand_bytes=int(moved.dense_operand_bytes),
        output_bytes=int(moved.output_bytes),
        dense_traffic_bytes=int(moved_dense.total_bytes),
        bound=STAGES[int(bound.stage)],
        explanation=_explain(bound, int(moved.total_bytes), spec),
    )


def _explain(bound: Bound, moved_bytes: int, spec: HardwareSpec) -> str:
    times = {stage: float(time_s) for stage, time_s in zip(STAGES, bound.stages, strict=True)}
    first, second = sorted(STAGES, key=lambda stage: (-times[stage], STAGES.index(stage)))[:2]
    cause = ""
    if first == "memory":
        bandwidth = spec.dram_bandwidth_bytes_per_s.value
        rate = f"{bandwidth / 1e12:.4g} TB/s" if bandwidth >= 1e12 else f"{bandwidth / 1e9:.4g} GB/s"
        cause = f"{moved_bytes / 1e6:.4g} MB at {rate} takes "
    share = 100 * times[second] / times[first]
    return (
        f"{first}: {cause}{times[first] * 1e6:.4g} us; the next stage, {second}, takes "
        f"{times[second] * 1e6:.4g} us ({share:.0f} %)"
    )


def _predict_table(cases: pd.DataFrame, spec: HardwareSpec) -> pd.DataFrame:
    taken = [name for name in PREDICTED_COLUMNS if name in cases.columns]
    if taken:
        raise RowError(f"column {taken[0]}: already in the table; predict adds it and overwrites nothing")
    M, N, K = table.read_shape(cases)
    kind_of_row, plans = _plans(cases, spec)
    stacked = _stack(plans)
    execution = np.array([how.execution for how in plans], np.int8)[kind_of_row]
    numbers = {name: np.empty(len(cases)) for name in TIME_COLUMNS}
    counts = {name: np.empty(len(cases), np.int64) for name in BYTE_COLUMNS}
    stage = np.empty(len(cases), np.int8)
    for start in range(0, len(cases), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        how = _take(stacked, kind_of_row[rows])
        moved, bound, moved_dense, bound_dense = evaluate(spec, how, M[rows], N[rows], K[rows])
        time_s, dense_s = bound.time_s, bound_dense.time_s
        for name, value in zip(TIME_COLUMNS, (time_s, *bound.stages, dense_s, dense_s / time_s), strict=True):
            numbers[name][rows] = value
        counts["values_bytes"][rows] = moved.values_bytes
        counts["metadata_bytes"][rows] = moved.metadata_bytes
        counts["dense_operand_bytes"][rows] = moved.dense_operand_bytes
        counts["output_bytes"][rows] = moved.output_bytes
        counts["dense_traffic_bytes"][rows] = moved_dense.total_bytes
        stage[rows] = bound.stage
    names = {
        "hardware": _categories(np.zeros(len(cases), np.int8), (spec.id,)),
        "execution": _categories(execution, EXECUTIONS),
        "bound": _categories(stage, STAGES),
    }
    added = {**names, **numbers, **counts}
    answers = pd.DataFrame({name: added[name] for name in PREDICTED_COLUMNS}, index=cases.index)
    return pd.concat([cases, answers], axis=1)


def _categories(codes: NDArray[np.int8], names: tuple[str, ...]) -> Any:
    return pd.Categorical.from_codes(codes, pd.Index(names))


def _plans(cases: pd.DataFrame, spec: HardwareSpec) -> tuple[NDArray[np.intp], list[Plan]]:
    """Position of each row's plan [rows], and the plans: one a combination of choices that occurs."""
    parsers: dict[str, Any] = {
        "phase": table.one_of(get_args(Phase)),
        "dtype": table.one_of(tuple(VALUE_BITS)),
        "sparse_operand": table.optional(table.one_of(get_args(SparseOperand))),
        "pattern": table.parse_pattern,
        "encoding": table.optional(_known_encoding),
        "packing": table.optional(_known_packing),
    }
    choices = {
        name: table.read_choice(cases, name, parse, table.default_of(name)) for name, parse in parsers.items()
    }
    del choices["phase"]
    key = np.zeros(len(cases), np.int64)
    for codes, levels in choices.values():
        key = key * len(levels) + codes
    kind_of_row, kinds = pd.factorize(key)
    plans = []
    for kind, packed in enumerate(kinds.tolist()):
        chosen: dict[str, Any] = {}
        for name, (_, levels) in reversed(choices.items()):
            packed, place = divmod(packed, len(levels))
            chosen[name] = levels[place]
        try:
            plans.append(_plan_of(spec, **chosen))
        except RowError as error:
            raise RowError(f"row {int(np.argmax(kind_of_row == kind))}, {error}") from error
    return kind_of_row, plans


def _plan_of(
    spec: HardwareSpec,
    dtype: str,
    sparse_operand: str | None,
    pattern: Pattern | None,
    encoding: str | None,
    packing: str | None,
) -> Plan:
    if pattern is None:
        sparse_operand, encoding, packing = "weights", "", ""
    for name, value in (("sparse_operand", sparse_operand), ("encoding", encoding), ("packing", packing)):
        if value is None:
            raise RowError(f"column {name}: missing; expected one in a row with a pattern")
    assert sparse_operand is not None
    assert encoding is not None
    assert packing is not None
    try:
        return plan(spec, dtype, sparse_operand, pattern, encoding, packing)
    except RowError as error:
        raise RowError(f"column dtype: {error}") from error
    except NmsimError as error:
        raise RowError(f"column encoding: {error}") from error


def _known_encoding(name: Any) -> str:
    encodings.get(name)
    return str(name)


def _known_packing(name: Any) -> str:
    packing.parse(name)
    return str(name)


def _stack(plans: list[Plan]) -> Plan:
    """Plans of numbers to one plan of arrays [plans]."""
    streams = (np.array([how.how[place] for how in plans]) for place in range(len(Stream._fields)))
    rest = (np.array([how[place] for how in plans]) for place in range(1, len(Plan._fields)))
    return Plan(Stream(*streams), *rest)


def _take(stacked: Plan, kind: NDArray[np.intp]) -> Plan:
    """One entry of each array for each row."""
    return Plan(Stream(*(column[kind] for column in stacked.how)), *(column[kind] for column in stacked[1:]))
