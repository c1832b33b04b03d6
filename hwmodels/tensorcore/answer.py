"""`predict_core`: one product on one tensor core, with the stage that limits it named in words and the next one beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.tensorcore.cycles import LIMITS, STAGES_OF_LIMIT, Cycles, closed_form
from hwmodels.tensorcore.point import Mapping, execution, mapping, point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from hwmodels.tensorcore.services import STAGES
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.units import percent

STAGE_WORDS = {
    "dram": "DRAM to L2",
    "l2": "L2 to shared memory",
    "shared": "shared memory to registers",
    "prune": "online pruning",
    "decode": "decoding",
    "select": "selecting operand B",
    "multiply": "multiplying",
    "accumulate": "adding to the sums",
    "write": "writing back",
}
"""Stage -> what it does, in words."""


def limit_in_words(limit: str) -> str:
    """Say what limits a product, for each name in `LIMITS`.

    Examples
    --------
    >>> limit_in_words("dram"), limit_in_words("shared and prune waiting")
    ('DRAM to L2', 'shared memory to registers and online pruning, waiting for each other')
    >>> limit_in_words("latency")
    'latency'
    """
    words = " and ".join(STAGE_WORDS[stage] for stage in STAGES_OF_LIMIT[limit])
    return f"{words}, waiting for each other" if len(STAGES_OF_LIMIT[limit]) > 1 else words or limit


@dataclass(frozen=True)
class CoreAnswer:
    """What the closed form says of one product on one core.

    Cycles and seconds are of the whole product, a lower bound of what the simulator sees. `utilisation` is effectual
    multiply-adds over what the arrays of all cores could have done in that time, never above 1. `stage_cycles` is how long
    each stage works; `limit` one of `LIMITS`. `traffic_bytes` by level, `actions` by kind: fields of `Cycles`.
    """

    case: Case
    core: str
    execution: str
    cycles: int
    time_s: float
    dense_cycles: int
    predicted_speedup_vs_dense: float
    utilisation: float
    limit: str
    stage_cycles: dict[str, int]
    traffic_bytes: dict[str, float]
    actions: dict[str, float]
    mapping: Mapping
    explanation: str


def predict_core(
    case: Case,
    core: str | Path | SparseTensorCore,
    *,
    other: Pattern | str | None = None,
    tile: tuple[int, int] | None = None,
) -> CoreAnswer:
    """Predict what one product takes on a tensor core, and what limits it.

    Parameters
    ----------
    case : Case
    core : str, Path or SparseTensorCore
        As for `load_core`.
    other : Pattern or its text, optional
        Of the other operand, on a dual-sided core. The cycles are then those of pairs that arrive evenly.
    tile : (rows of A, columns of B), optional
        Chosen by rule when absent.

    Returns
    -------
    CoreAnswer
        `predicted_speedup_vs_dense` against the dense product on the same core.

    Raises
    ------
    RowError
        A value type, encoding or second pattern that the core does not take, or a tile that does not fit.
    SpecError
        Unknown core.

    Source
    ------
    `docs/explanation/tensor-core.md`.

    Examples
    --------
    >>> from nmsim.case import GemmShape
    >>> case = Case(GemmShape(4096, 4096, 4096), "8:16/combinatorial")
    >>> answer = predict_core(case, "flexible-8x16")
    >>> answer.limit, round(answer.predicted_speedup_vs_dense, 2)
    ('shared', 1.74)
    """
    if not isinstance(case, Case):
        raise RowError(f"case of type {type(case).__name__}: expected a Case")
    machine = load_core(core)
    second = Pattern.parse(other) if isinstance(other, str) else other
    p = point(machine, case, second)
    cut = mapping(p, tile)
    dense_case = Case(case.shape, dtype=case.dtype)
    dense_point = point(machine, dense_case)
    # Both products go through the compiled closed form in one call.
    points, cuts = np.array([p, dense_point]), np.array([cut, mapping(dense_point, tile)])
    mine, dense = (Cycles(*row.tolist()) for row in closed_form(points, cuts))
    stages = {stage: int(getattr(mine, f"{stage}_cycles")) for stage in STAGES}
    rate = machine.macs_per_cycle(VALUE_BITS[case.dtype])
    return CoreAnswer(
        case=case,
        core=machine.id,
        execution=execution(machine, case),
        cycles=int(mine.cycles),
        time_s=mine.cycles / machine.clock_hz,
        dense_cycles=int(dense.cycles),
        predicted_speedup_vs_dense=dense.cycles / mine.cycles,
        utilisation=mine.effectual_macs / (mine.cycles * rate),
        limit=LIMITS[int(mine.limit)],
        stage_cycles=stages,
        traffic_bytes=_named(mine, "_bytes"),
        actions={
            name: getattr(mine, name)
            for name in ("macs", "effectual_macs", "decoded_groups", "pruned_groups", "accumulator_accesses")
        },
        mapping=cut,
        explanation=explain(mine, stages),
    )


def _named(found: Cycles, suffix: str) -> dict[str, float]:
    return {name: value for name, value in found._asdict().items() if name.endswith(suffix)}


def explain(found: Cycles, stages: dict[str, Any]) -> str:
    """Say in a sentence which stage limits a product, and how far the next one is.

    Parameters
    ----------
    found : Cycles
        Of one point.
    stages : dict of str to int
        Cycles by stage.

    Returns
    -------
    str
    """
    # The select network takes at least as long as the array; if it takes no longer, it is not what limits.
    idle = "select" if stages["select"] == stages["multiply"] else ""
    busiest = sorted((stage for stage in STAGES if stage != idle), key=lambda stage: -stages[stage])
    first, second = busiest[:2]
    used, used_next = (percent(stages[stage] / found.cycles, 0, unit="%") for stage in (first, second))
    text = f"{STAGE_WORDS[first]} works {stages[first]} of {found.cycles:.0f} cycles ({used})"
    limiting = STAGES_OF_LIMIT[LIMITS[int(found.limit)]]
    if not limiting:
        text = f"latency takes most of {found.cycles:.0f} cycles; {STAGE_WORDS[first]} works {stages[first]} ({used})"
    elif len(limiting) > 1:
        one, other = limiting
        text += f", held up where {STAGE_WORDS[one]} and {STAGE_WORDS[other]} wait for room between them"
    return f"{text}; next is {STAGE_WORDS[second]} with {stages[second]} ({used_next})"
