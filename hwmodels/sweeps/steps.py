"""What a sweep adds to the closed form's columns, one step after another: each a function of whole arrays."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.sweeps.designs import Design
from hwmodels.tensorcore.cycles import Cycles
from hwmodels.tensorcore.point import Point

Floats = NDArray[np.float64]


class Block(NamedTuple):
    """Products that a step is given: one on one core each, none of them refused.

    `points` [n, fields of Point] and `answers` [n, fields of Cycles] are float64; `places` int64 [n] says which of the
    `designs` each is. Numbers of a core that are fields of `Point` are swept, and to be read there; all others stand in
    the core of the design.
    """

    points: Floats
    answers: Floats
    places: NDArray[np.int64]
    designs: Sequence[Design]


class Step(NamedTuple):
    """Columns that a function of a block fills, float64 [columns, n].

    `adds_up`: over the products of a model, each times its count. Otherwise the first product's value stands for all.
    """

    columns: tuple[str, ...]
    adds_up: bool
    values: Callable[[Block], Floats]


def peak_macs(block: Block) -> Floats:
    """Multiply-adds that all arrays could do in the cycles of a product."""
    p, found = Point(*block.points.T), Cycles(*block.answers.T)
    peak: Floats = found.cycles * (p.cores * p.array_rows * p.array_cols * p.depth)
    return peak[None]


STEPS: tuple[Step, ...] = (Step(("peak_macs",), True, peak_macs),)
"""In the order of their columns. A step that is added here is a column of every sweep; costs have steps of their own."""
