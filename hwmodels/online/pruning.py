"""Activations that are pruned online on one core: what the selector and the mitigations cost, and what the pattern brings.

Encoding keeps pace with selecting (A46). What of the work of selector and vector lanes remains after overlap: A45, A48.

The same for weights that were pruned beforehand, with what stands beside their product.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np

from hwmodels.estimate.bounds import fetched_columns, metadata_bits, stream
from hwmodels.online.mitigations import DEFAULT_SETTINGS, Settings, StageCost
from hwmodels.online.overheads import mitigation_names, stage_costs, strongest_wait
from hwmodels.silicon.structures import index_bits
from hwmodels.silicon.units import key_bits
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.latency import selector_cycles
from hwmodels.tensorcore.point import Point, mapping, point
from hwmodels.tensorcore.record import Placement, SelectorKind, SparseTensorCore
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import RowError, brief
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.units import bits_to_bytes, ceil_div

SPECIAL_OPS = 8
"""Operations that a division or a square root takes the time of (A47)."""


def lane_cycles(costs: Sequence[StageCost], parts: tuple[str, ...], ops_per_cycle: float) -> int:
    """Cycles of the vector lanes for the stages of these parts."""
    ops = sum(
        cost.multiplies + cost.adds + cost.compares + SPECIAL_OPS * cost.specials + cost.lane_macs
        for cost in costs
        if cost.part in parts
    )
    return int(np.ceil(ops / ops_per_cycle))


class Arrival(NamedTuple):
    """Cycles for writing X by its producer, cycles for reading it again, and its tokens (A45)."""

    cycles: int
    again_cycles: int
    tokens: int

    def exposed_choice(self, statistics: int, scoring: int, selecting: int, waits_for: str) -> int:
        """Cycles that a choice beside the producer takes after X has left it: what waits cannot overlap."""
        choosing = max(scoring, selecting)
        if waits_for == "group":
            return max(0, max(statistics + scoring, selecting) - self.cycles)
        if waits_for == "token":
            work = statistics + choosing
            return max(work - self.cycles, ceil_div(work, self.tokens))
        return max(0, statistics - self.cycles) + max(choosing, self.again_cycles)

    def exposed_statistics(self, statistics: int, waits_for: str) -> int:
        """Cycles that statistics take after X has left its producer, if the choice is made elsewhere."""
        last = ceil_div(statistics, self.tokens) if waits_for == "token" else 0
        return max(last, statistics - self.cycles)


def exposed_epilogue(epilogue: int, product: Cycles, buffers: int) -> int:
    """Cycles of an epilogue that the product does not hide: with one buffer of sums all, else at least the last wave's."""
    if buffers < 2:
        return epilogue
    return max(ceil_div(epilogue, max(1, int(product.waves))), epilogue - int(product.cycles))


VECTOR_OPS_PER_CYCLE = 128
"""Operations of the vector lanes of a core in a cycle (A47)."""


@dataclass(frozen=True, kw_only=True)
class PruningSetup:
    """How activations are pruned.

    Parameters
    ----------
    placement : {"producer", "consumer"} or None
        The core's own when None.
    criterion : str
        A key of `hwmodels.online.mitigations.CRITERIA` that gives N:M.
    mitigation : str or sequence of str
        Of `hwmodels.online.mitigations.MITIGATIONS`, `+` between several.
    selector_elements_per_cycle : float or None
        Dense elements of one core, M per group; the core's own when None. Fractions are allowed, `inf` is a selector that
        takes no time.
    selector_kind : {"all_pairs", "bitonic", "half", "planes"} or None
        The core's own when None.
    vector_ops_per_cycle : float
        Of the vector lanes of one core.
    settings : Settings
        Sizes of mitigations; its `selector_kind` is not read.

    Raises
    ------
    RowError
        A field is none of these.

    Examples
    --------
    >>> PruningSetup(placement="consumer").criterion
    'magnitude'
    """

    placement: Placement | None = None
    criterion: str = "magnitude"
    mitigation: str | Sequence[str] = ()
    selector_elements_per_cycle: float | None = None
    selector_kind: SelectorKind | None = None
    vector_ops_per_cycle: float = VECTOR_OPS_PER_CYCLE
    settings: Settings = DEFAULT_SETTINGS

    def __post_init__(self) -> None:
        object.__setattr__(self, "mitigation", mitigation_names(self.mitigation))
        if self.placement not in (None, *get_args(Placement)):
            raise RowError(
                f"placement={brief(self.placement)}: expected one of {', '.join(get_args(Placement))}"
            )
        if self.criterion.startswith("unstructured"):
            raise RowError(f"criterion={brief(self.criterion)}: leaves no N:M pattern for a core to skip by")
        if self.selector_elements_per_cycle is not None and not self.selector_elements_per_cycle > 0:
            raise RowError(
                f"selector_elements_per_cycle={brief(self.selector_elements_per_cycle)}: expected a positive number"
            )
        if self.selector_kind not in (None, *get_args(SelectorKind)):
            raise RowError(
                f"selector_kind={brief(self.selector_kind)}: expected one of {', '.join(get_args(SelectorKind))}"
            )
        if not self.vector_ops_per_cycle > 0:
            raise RowError(
                f"vector_ops_per_cycle={brief(self.vector_ops_per_cycle)}: expected a positive number"
            )


LEVELS = ("dram", "l2", "shared")
ACTIONS = ("multiplies", "adds", "compares", "specials", "selector_compares", "lane_macs", "macs")


@dataclass(frozen=True, kw_only=True)
class OnlinePruning:
    """Cost and benefit of pruning the activations of one product online. Whole chip, all tokens.

    All are cycles. `product_cycles` is the sparse product with a selector that takes no time. `selector_cycles`,
    `statistics_cycles` (the lanes, before a choice) and `epilogue_cycles` (the lanes, beside the product) are working times.
    `exposed_*_cycles` are the parts of them that do not overlap. `parameter_cycles`: parameters beside the weights from
    DRAM. `side_cycles`: side products on the array. `net_cycles` adds the product, the exposed parts and the last two.
    `dense_cycles` and `weights_cycles` are the same product on the same core dense, and with weights of the same pattern.

    Bytes. `activation_bytes_saved` and `weight_bytes_saved` by level (`dram`, `l2`, `shared`), with the tiles of the sparse
    product: negative where metadata outweigh. `written_bytes_saved`: when the producer writes X. `encoded_bits`: metadata
    written.

    Actions, for energy. `selector_comparisons` of `comparison_bits` each; `encoded_groups` and their mean bits;
    `vector_multiplies`, `vector_adds`, `vector_compares`, `vector_specials`; `lane_macs`, `side_macs`.
    """

    case: Case
    core: str
    placement: Placement
    criterion: str
    mitigation: tuple[str, ...]
    streams: bool
    waits_for: str
    dense_cycles: int
    weights_cycles: int
    product_cycles: int
    selector_cycles: int
    statistics_cycles: int
    epilogue_cycles: int
    exposed_selector_cycles: int
    exposed_epilogue_cycles: int
    parameter_cycles: int
    side_cycles: int
    net_cycles: int
    selected_groups: int
    selector_comparisons: int
    comparison_bits: int
    encoded_groups: int
    encoded_bits: int
    vector_multiplies: int
    vector_adds: int
    vector_compares: int
    vector_specials: int
    lane_macs: int
    side_macs: int
    macs_saved: int
    weight_columns: int
    activation_bytes_saved: dict[str, int]
    weight_bytes_saved: dict[str, int]
    written_bytes_saved: int

    @property
    def speedup_vs_dense(self) -> float:
        """Against the dense product on the same core."""
        return self.dense_cycles / self.net_cycles

    @property
    def speedup_vs_sparse_weights(self) -> float:
        """Against weights of the same pattern on the same core."""
        return self.weights_cycles / self.net_cycles


def online_pruning(
    case: Case, core: SparseTensorCore, *, setup: PruningSetup | None = None, **changes: Any
) -> OnlinePruning:
    """Work out what pruning activations online costs and brings for one product on one core.

    Parameters
    ----------
    case : Case
        With a pattern and `sparse_operand="activations"`.
    core : SparseTensorCore
    setup : PruningSetup, optional
    **changes
        Fields of `PruningSetup`.

    Returns
    -------
    OnlinePruning

    Raises
    ------
    RowError
        A dense case, one with sparse weights, a core without a selector whose rate is not given either, or as `point` and
        `stage_costs`.

    Source
    ------
    Closed form of the pipeline, `hwmodels.tensorcore.cycles`; overlap as in `docs/explanation/online-pruning.md`,
    assumptions A45 to A49.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> case = Case(GemmShape(1, 14336, 4096), "8:16", sparse_operand="activations")
    >>> found = online_pruning(case, load_core("flexible-8x16"), mitigation="var")
    >>> found.encoded_groups, found.weight_columns, found.streams
    (256, 2048, True)
    """
    return online_prunings([case], core, dataclasses.replace(setup or PruningSetup(), **changes))[0]


class _Points(NamedTuple):
    """Points of one case: dense, sparse weights, sparse activations with a selector that takes no time and with the real one.

    `whole` is `free` with all columns of W, `unpruned` with X dense as well: for bytes that are saved.
    """

    dense: Point
    weights: Point
    free: Point
    real: Point
    whole: Point
    unpruned: Point


class _Asked(NamedTuple):
    """Settings of all cases of a call: the core as placed, elements per cycle, kind of selector, and the rest."""

    core: SparseTensorCore
    rate: float
    kind: SelectorKind
    setup: PruningSetup


def online_prunings(
    cases: Sequence[Case], core: SparseTensorCore, setup: PruningSetup
) -> list[OnlinePruning]:
    """Do `online_pruning` for many cases at once."""
    asked = _asked(core, setup)
    settings = dataclasses.replace(setup.settings, selector_kind=asked.kind)
    points = [_points(case, asked) for case in cases]
    costs = [
        stage_costs(
            case.shape, _pattern(case), dtype=case.dtype, criterion=setup.criterion, mitigation=setup.mitigation,
            settings=settings,
        )
        for case in cases
    ]  # fmt: skip
    sides = [
        [point(core, Case(shape, dtype=case.dtype)) for cost in stages for shape in cost.products]
        for case, stages in zip(cases, costs, strict=True)
    ]
    timed = [row for rows, side in zip(points, sides, strict=True) for row in (*rows[:4], *side)]
    answers = _answers(timed)
    of_free = [answers[start + 2] for start in np.cumsum([0, *(4 + len(side) for side in sides[:-1])])]
    saved = _saved(points, of_free)
    found, start = [], 0
    for case, stages, side, bytes_saved in zip(cases, costs, sides, saved, strict=True):
        end = start + 4 + len(side)
        found.append(_assemble(case, asked, answers[start:end], stages, bytes_saved))
        start = end
    return found


def _asked(core: SparseTensorCore, setup: PruningSetup) -> _Asked:
    rate = setup.selector_elements_per_cycle or core.selector_elements_per_cycle
    if not rate:
        raise RowError(f"sparse activations: {core.id} has no selector; expected selector_elements_per_cycle")
    placed = dataclasses.replace(
        core,
        selector_placement=setup.placement or core.selector_placement,
        selector_elements_per_cycle=max(1, core.selector_elements_per_cycle),
        selector_kind=setup.selector_kind or core.selector_kind,
        selector_latency_cycles=0 if math.isinf(rate) else core.selector_latency_cycles,
    )
    return _Asked(placed, float(rate), placed.selector_kind, setup)


def _pattern(case: Case) -> Pattern:
    if case.pattern is None or case.sparse_operand != "activations":
        raise RowError(
            f"online pruning: pattern {case.pattern} of {case.sparse_operand}: expected a pattern of activations"
        )
    return case.pattern


def _points(case: Case, asked: _Asked) -> _Points:
    _pattern(case)
    sparse = point(asked.core, case)._replace(selector_elements_per_cycle=asked.rate)
    free = sparse._replace(selector_elements_per_cycle=math.inf, selector_latency_cycles=0.0)
    whole = free._replace(skip=0.0)
    return _Points(
        point(asked.core, Case(case.shape, dtype=case.dtype)),
        point(asked.core, dataclasses.replace(case, sparse_operand="weights")),
        free,
        sparse,
        whole,
        whole._replace(
            a_n=1.0, a_m=1.0, a_groups_per_code=1.0, a_codes_per_slot=1.0, a_slot_bits=0.0, a_mean_bits=0.0, native=0.0,
            decoded=0.0, consumer=0.0,
        ),
    )  # fmt: skip


def _answers(points: Sequence[Point]) -> list[Cycles]:
    """Cycles of all points; a point that has none raises the reason."""
    answers = [Cycles(*row) for row in closed_form(np.array(points)).tolist()]
    for row, answer in zip(points, answers, strict=True):
        if math.isnan(answer.cycles):
            mapping(row)
    return answers


def _saved(points: Sequence[_Points], free: Sequence[Cycles]) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Bytes of X and of W that are not read, by level: against the same tiles with X dense, and with all columns of W."""
    cuts = [
        mapping(row.free, (int(answer.tile_rows), int(answer.tile_cols)))
        for row, answer in zip(points, free, strict=True)
    ]
    rows = [one for row in points for one in (row.free, row.whole, row.unpruned)]
    answers = closed_form(np.array(rows), np.array([cut for cut in cuts for _ in range(3)]))
    levels = answers[:, [Cycles._fields.index(f"{level}_read_bytes") for level in LEVELS]]
    by_case = levels.reshape(-1, 3, len(LEVELS))
    of_w, of_x = by_case[:, 1] - by_case[:, 0], by_case[:, 2] - by_case[:, 1]
    return [(_by_level(one), _by_level(other)) for one, other in zip(of_x, of_w, strict=True)]


def _by_level(sizes: Any) -> dict[str, int]:
    return {level: int(size) for level, size in zip(LEVELS, sizes, strict=True)}


def _assemble(
    case: Case, asked: _Asked, answers: Sequence[Cycles], costs: Sequence[StageCost],
    saved: tuple[dict[str, int], dict[str, int]],
) -> OnlinePruning:  # fmt: skip
    (dense, weights, free, real), sides = answers[:4], answers[4:]
    core, setup, pattern, shape = asked.core, asked.setup, _pattern(case), case.shape
    consumer = core.selector_placement == "consumer"
    latency_cycles = selector_cycles(core, pattern, case.dtype)
    groups = shape.M * ceil_div(shape.K, pattern.m)
    again = int(real.pruned_groups) // groups if consumer else 1
    costs = [cost.times(again) if cost.part == "selector" else cost for cost in costs]
    waits_for = strongest_wait(costs)
    lanes = core.cores * setup.vector_ops_per_cycle
    statistics = lane_cycles(costs, ("producer",), lanes)
    scoring = lane_cycles(costs, ("selector",), lanes)
    epilogue = lane_cycles(costs, ("epilogue", "side path"), lanes)
    x_bytes = bits_to_bytes(shape.M * shape.K * VALUE_BITS[case.dtype])
    back = core.l2_bytes_per_cycle if x_bytes <= core.l2_bytes else core.dram_bytes_per_cycle
    arrival = Arrival(ceil_div(x_bytes, core.l2_bytes_per_cycle), math.ceil(x_bytes / back), shape.M)
    how = stream(case.format or SparseFormat(pattern))
    columns = int(fetched_columns(shape.K, shape.M, how)) if core.column_skip else shape.K
    if consumer:
        selecting = int(real.prune_cycles)
        exposed = int(real.cycles - free.cycles) + arrival.exposed_statistics(statistics, waits_for)
        exposed += _look_ahead_cycles(core, latency_cycles) if columns < shape.K else 0
        epilogue += scoring
    else:
        selecting = math.ceil(ceil_div(groups, core.cores) * pattern.m / asked.rate)
        exposed = latency_cycles + arrival.exposed_choice(statistics, scoring, selecting, waits_for)
    exposed_beside = exposed_epilogue(epilogue, free, core.accumulator_buffers)
    parameter_cycles = math.ceil(sum(cost.dram_read_bytes for cost in costs) / core.dram_bytes_per_cycle)
    side_cycles = sum(int(side.cycles) for side in sides)
    # A consumer hands positions to the select network, so nothing is encoded or written.
    encoded_bits = 0 if consumer else int(metadata_bits(groups, how))
    stored_bytes = bits_to_bytes(groups * pattern.n * VALUE_BITS[case.dtype]) + bits_to_bytes(encoded_bits)
    total = {name: sum(getattr(cost, name) for cost in costs) for name in ACTIONS}
    return OnlinePruning(
        case=case,
        core=core.id,
        placement=core.selector_placement,
        criterion=setup.criterion,
        mitigation=tuple(setup.mitigation),
        streams=waits_for == "group",
        waits_for=waits_for,
        dense_cycles=int(dense.cycles),
        weights_cycles=int(weights.cycles),
        product_cycles=int(free.cycles),
        selector_cycles=selecting,
        statistics_cycles=statistics,
        epilogue_cycles=epilogue,
        exposed_selector_cycles=exposed,
        exposed_epilogue_cycles=exposed_beside,
        parameter_cycles=parameter_cycles,
        side_cycles=side_cycles,
        net_cycles=int(free.cycles) + exposed + exposed_beside + parameter_cycles + side_cycles,
        selected_groups=again * groups,
        selector_comparisons=total["selector_compares"],
        comparison_bits=key_bits(case.dtype)
        + (0 if asked.kind in ("all_pairs", "planes") else index_bits(pattern.m)),
        encoded_groups=0 if consumer else groups,
        encoded_bits=encoded_bits,
        vector_multiplies=total["multiplies"],
        vector_adds=total["adds"],
        vector_compares=total["compares"],
        vector_specials=total["specials"],
        lane_macs=total["lane_macs"],
        side_macs=total["macs"] - total["lane_macs"],
        macs_saved=int(dense.effectual_macs - free.effectual_macs),
        weight_columns=columns,
        activation_bytes_saved=saved[0],
        weight_bytes_saved=saved[1],
        written_bytes_saved=0 if consumer else x_bytes - stored_bytes,
    )


def _look_ahead_cycles(core: SparseTensorCore, selecting: int) -> int:
    """Cycles by which X runs ahead of W where only a core can tell which columns are needed (A49)."""
    return core.dram_latency_cycles + core.l2_latency_cycles + selecting


class OfflinePruning(NamedTuple):
    """Cycles of the dense product, of the pruned one alone, and of all: `net_cycles` adds what stands beside it.

    `exposed_epilogue_cycles` is the part of the vector lanes' work that the product does not hide. `parameter_cycles` is the
    reading of other weights from DRAM. `side_cycles` are side products on the array.
    """

    dense_cycles: int
    product_cycles: int
    exposed_epilogue_cycles: int
    parameter_cycles: int
    side_cycles: int

    @property
    def net_cycles(self) -> int:
        """Cycles of the product and of all that stands beside it."""
        return sum(self[1:])


def offline_pruning(
    case: Case,
    core: SparseTensorCore,
    *,
    mitigation: str | Sequence[str] = "",
    settings: Settings = DEFAULT_SETTINGS,
) -> OfflinePruning:
    """Count the cycles of a product of pruned weights with mitigations, by the rules of `online_pruning`.

    Parameters
    ----------
    case : Case
        Of sparse weights, or dense.
    core : SparseTensorCore
    mitigation : str or sequence of str
        Those of weights, `+` between several.
    settings : Settings

    Returns
    -------
    OfflinePruning

    Raises
    ------
    RowError
        Sparse activations, a mitigation of activations, or a product that the core does not take.

    Source
    ------
    Closed form of the product; what overlaps is A47 and A48.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16/combinatorial")
    >>> found = offline_pruning(case, load_core("flexible-8x16"), mitigation="outliers")
    >>> found.product_cycles < found.net_cycles < found.dense_cycles
    True
    """
    if case.pattern is not None and case.sparse_operand != "weights":
        raise RowError(
            f"offline pruning: pattern {case.pattern} of {case.sparse_operand}: expected one of weights"
        )
    costs: tuple[StageCost, ...] = ()
    if case.pattern is not None:
        costs = stage_costs(
            case.shape, case.pattern, dtype=case.dtype,
            criterion=None, mitigation=mitigation, operand="weights", settings=settings,
        )  # fmt: skip
    asked = [case, Case(case.shape, dtype=case.dtype)]
    asked += [Case(shape, dtype=case.dtype) for cost in costs for shape in cost.products]
    points = [point(core, one) for one in asked]
    product, dense, *sides = _answers(points)
    lanes = lane_cycles(costs, ("epilogue", "side path"), core.cores * VECTOR_OPS_PER_CYCLE)
    return OfflinePruning(
        dense_cycles=int(dense.cycles),
        product_cycles=int(product.cycles),
        exposed_epilogue_cycles=exposed_epilogue(lanes, product, core.accumulator_buffers),
        parameter_cycles=math.ceil(sum(cost.dram_read_bytes for cost in costs) / core.dram_bytes_per_cycle),
        side_cycles=sum(int(side.cycles) for side in sides),
    )
