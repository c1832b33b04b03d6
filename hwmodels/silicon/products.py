"""Products on tensor cores as flat records, with their energy; and what a core does not take."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from numpy.typing import NDArray

from hwmodels.estimate.table import format_cells
from hwmodels.gates.spread import Spread
from hwmodels.silicon.area import area, only
from hwmodels.silicon.energy import energy
from hwmodels.tensorcore.answer import predict_core
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.tensorcore.simulate import simulate
from nmsim import encodings
from nmsim.case import Case
from nmsim.errors import NmsimError
from nmsim.format import DENSE, SparseFormat
from nmsim.mask import prune
from nmsim.pattern import Pattern

ENERGIES = ("energy_joules_low", "energy_joules", "energy_joules_high")
Asked = tuple[SparseTensorCore, Case]


class Compared(NamedTuple):
    """Records of products that cores take, these products, and sentences about what is left out or not known."""

    records: list[dict[str, Any]]
    taken: list[Asked]
    remarks: list[str]


def product_record(core: SparseTensorCore, case: Case, other: Pattern | None) -> tuple[dict[str, Any], str]:
    """Predict one product on one core.

    Returns
    -------
    tuple of dict and str
        A flat record: cycles, seconds, joules (None if not known). The reason why energy is not known, or nothing.

    Raises
    ------
    RowError
        As `predict_core`.
    """
    answer = predict_core(case, core, other=other)
    try:
        joules, problem = energy(case, core, other).total, ""
    except NmsimError as error:
        joules, problem = None, str(error)
    fields: dict[str, Any] = asdict(answer)
    del fields["case"], fields["mapping"]
    pattern, encoding, packing = format_cells(case.format)
    return {
        "core": fields.pop("core"),
        **asdict(case.shape),
        "dtype": case.dtype,
        "pattern": pattern,
        "other_pattern": str(other) if other else None,
        "sparse_operand": case.sparse_operand,
        "encoding": encoding,
        "packing": packing,
        **fields,
        "mapping": {name: int(value) for name, value in answer.mapping._asdict().items()},
        **dict(
            zip(ENERGIES, (joules.low, joules.nominal, joules.high) if joules else (None,) * 3, strict=True)
        ),
    }, problem


ALONE = ("bf16", "fp8", "int8", "int4")
"""Value types that a chip may be built for alone."""
SHARES = ("overhead_of_arrays", "overhead_of_cores", "overhead_of_chip")


def area_records(core: SparseTensorCore) -> list[dict[str, Any]]:
    """Say what sparsity adds to a core: as it is, and if it multiplied one value type alone with as many bits.

    Returns
    -------
    list of dict
        `core`, `dtypes`, `lane_bits`; `area_um2`, `lane_um2` and `sparse_lane_um2` (multiplier, adder and their registers, and
        what sparsity adds, per lane); `SHARES`. Areas and shares have `_low` and `_high` beside them. None without sparsity,
        or if no cost is known.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> [each["dtypes"] for each in area_records(load_core("nvidia-like-2x4"))][1:]
    [['bf16'], ['fp8'], ['int8'], ['int4']]
    """
    found = []
    for each in (core, *(only(core, dtype) for dtype in ALONE)) if core.patterns else ():
        # Columns of a chip without known costs would be empty, so it has no row.
        try:
            report = area(each)
        except NmsimError:
            return []
        spreads = {
            "area_um2": report.total,
            "lane_um2": functools.reduce(Spread.__add__, (report.lane_um2[name] for name in DENSE_LANE)),
            "sparse_lane_um2": report.sparse_lane_um2,
            **{name: getattr(report, name) for name in SHARES},
        }
        numbers = {
            f"{name}{end}": value
            for name, spread in spreads.items()
            for end, value in (("_low", spread.low), ("", spread.nominal), ("_high", spread.high))
        }
        found.append({"core": core.id, "dtypes": list(each.dtypes), "lane_bits": each.lane_bits, **numbers})
    return found


DENSE_LANE = ("multiply", "accumulators", "registers")
"""Parts of a lane that a dense core has."""


def best_encoding(core: SparseTensorCore, case: Case, other: Pattern | None = None) -> Case:
    """Choose the encoding that a core decodes with which a product takes the fewest cycles, then the fewest bytes.

    A dense case, or one that the core takes with none of its encodings, comes back as it is.
    """
    if case.format is None:
        return case
    answers = []
    for name in core.encodings_of(case.format.pattern):
        stored = SparseFormat(case.format.pattern, encodings.get(name), case.format.packing)
        candidate = Case(case.shape, stored, dtype=case.dtype, sparse_operand=case.sparse_operand)
        try:
            answers.append(predict_core(candidate, core, other=other))
        except NmsimError:
            continue
    if not answers:
        return case
    return min(answers, key=lambda each: (each.cycles, each.traffic_bytes["dram_read_bytes"])).case


def compare(asked: Sequence[Asked], other: Pattern | None = None) -> Compared:
    """Predict products on cores, leaving out what a core does not take.

    Parameters
    ----------
    asked : sequence of (SparseTensorCore, Case)
    other : Pattern, optional
        Of the second operand, on dual-sided cores.

    Raises
    ------
    NmsimError
        The only product is not taken.
    """
    records, taken = [], []
    left_out: dict[tuple[str, str, str], list[str]] = {}
    unknown: dict[str, None] = {}
    for core, case in asked:
        try:
            if other is not None and case.pattern is None:
                raise NmsimError(f"pattern {DENSE}: expected a pattern N:M beside --other {other}")
            row, problem = product_record(core, case, other)
        except NmsimError as error:
            if len(asked) == 1:
                raise
            # One sentence for all patterns that are refused for one reason.
            patterns = left_out.setdefault(
                (core.id, case.format.encoding.name if case.format else DENSE, str(error)), []
            )
            patterns += [str(case.pattern)] if case.pattern else []
            continue
        records.append(row)
        taken.append((core, case))
        if problem:
            unknown[problem] = None
    remarks = [
        f"left out{' for ' + ', '.join(patterns) if patterns else ''}: {text}"
        for (_, _, text), patterns in left_out.items()
    ]
    return Compared(records, taken, [*remarks, *(f"no energy: {problem}" for problem in unknown)])


def simulated_record(
    core: SparseTensorCore,
    case: Case,
    other: Pattern | None,
    values: NDArray[Any] | None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Simulate one product, on the mask of a matrix [N, K] if one is given.

    Returns
    -------
    dict
        Cycles, busy cycles of each stage, effectual multiply-adds and events, each with the prefix `simulated_`.
    """
    mask = prune(values, case.pattern) if values is not None and case.pattern is not None else None
    seen = simulate(case, core, mask=mask, other=other, progress=progress)
    return {
        "simulated_cycles": seen.cycles,
        "simulated_busy_cycles": seen.busy_cycles,
        "simulated_effectual_macs": seen.effectual_macs,
        "simulated_events": seen.events,
    }


def next_stage(record: dict[str, Any]) -> tuple[str, float]:
    """Name the stage that works longest after the one that limits, and its share of the cycles."""
    stages = {name: cycles for name, cycles in record["stage_cycles"].items() if name != record["limit"]}
    # The select network takes at least as long as the array; if it takes no longer, it does not limit.
    if stages.get("select") == record["stage_cycles"]["multiply"]:
        del stages["select"]
    name = max(stages, key=lambda stage: stages[stage])
    return name, stages[name] / record["cycles"]
