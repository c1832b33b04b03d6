"""A product of weights that were pruned beforehand, with what stands beside it, on a core."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hwmodels.online.activations import VECTOR_OPS_PER_CYCLE, exposed_epilogue, lane_cycles
from hwmodels.online.overheads import stage_costs
from hwmodels.online.stage_cost import DEFAULT_SETTINGS, Settings, StageCost
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.mapping import mapping
from hwmodels.tensorcore.point import point
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import Case
from nmsim.errors import RowError


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
    product, dense, *sides = (Cycles(*row) for row in closed_form(np.array(points)).tolist())
    for row, found in zip(points, (product, dense, *sides), strict=True):
        if math.isnan(found.cycles):
            mapping(row)
    lanes = lane_cycles(costs, ("epilogue", "side path"), core.cores * VECTOR_OPS_PER_CYCLE)
    return OfflinePruning(
        dense_cycles=int(dense.cycles),
        product_cycles=int(product.cycles),
        exposed_epilogue_cycles=exposed_epilogue(lanes, product, core.accumulator_buffers),
        parameter_cycles=math.ceil(sum(cost.dram_read_bytes for cost in costs) / core.dram_bytes_per_cycle),
        side_cycles=sum(int(side.cycles) for side in sides),
    )
