"""What of a selector's and the vector lanes' work is left when all that can overlap has overlapped (A45, A48)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hwmodels.online.stage_cost import StageCost
from hwmodels.tensorcore.cycles import Cycles
from nmsim.units import ceil_div

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
        """Cycles that statistics take after X has left its producer, where the choice is made elsewhere."""
        last = ceil_div(statistics, self.tokens) if waits_for == "token" else 0
        return max(last, statistics - self.cycles)


def exposed_epilogue(epilogue: int, product: Cycles, buffers: int) -> int:
    """Cycles of an epilogue that the product does not hide: with one buffer of sums all, else at least the last wave's."""
    if buffers < 2:
        return epilogue
    return max(ceil_div(epilogue, max(1, int(product.waves))), epilogue - int(product.cycles))
