"""What a sweep adds to the closed form's columns, one step after another: each a function of whole arrays."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.silicon.area import area_columns
from hwmodels.silicon.energy import Design as Silicon
from hwmodels.silicon.energy import design as silicon_of
from hwmodels.silicon.energy import energy_columns
from hwmodels.sweeps.designs import Design
from hwmodels.tensorcore.cycles import Cycles
from hwmodels.tensorcore.point import Point
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import Case
from nmsim.errors import NmsimError
from nmsim.pattern import Pattern

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


@functools.lru_cache(maxsize=1 << 14)
def _silicon(core: SparseTensorCore, case: Case, other: Pattern | None) -> Silicon | None:
    """What energy wants of a design; None if no cost is known of it: of its node, or of codes of many lengths."""
    try:
        return silicon_of(core, case, other)
    except NmsimError:
        return None


def _priced(
    block: Block,
) -> tuple[NDArray[np.bool_], list[Silicon], list[SparseTensorCore], NDArray[np.int64]]:
    """Rows whose costs are known and that have an answer [n]; the designs among them, their cores, and each row's place."""
    used, rows = np.unique(block.places, return_inverse=True)
    found = [block.designs[place] for place in used.tolist()]
    silicons = [_silicon(each.core, each.case, each.other) if each.core else None for each in found]
    known = np.array([silicon is not None for silicon in silicons])
    priced = known[rows] & ~np.isnan(block.answers[:, 0])
    place = np.cumsum(known) - 1
    return (
        priced,
        [silicon for silicon in silicons if silicon is not None],
        [
            each.core
            for each, silicon in zip(found, silicons, strict=True)
            if silicon is not None and each.core
        ],
        place[rows[priced]],
    )


def _scattered(priced: NDArray[np.bool_], columns: Mapping[str, Floats] | None) -> Floats:
    found = np.full((3, len(priced)), np.nan)
    if columns is not None:
        found[:, priced] = list(columns.values())
    return found


def energy_joules(block: Block) -> Floats:
    """Joules of the products of a block [3, n]: low, nominal, high; NaN if no cost is known."""
    priced, silicons, _, places = _priced(block)
    rows = block.points[priced], block.answers[priced]
    return _scattered(priced, energy_columns(silicons, places, *rows) if len(places) else None)


def area_um2(block: Block) -> Floats:
    """Areas of the chips of a block [3, n], in um2: low, nominal, high; NaN if no cost is known."""
    priced, _, cores, places = _priced(block)
    return _scattered(priced, area_columns(cores, places, block.points[priced]) if len(places) else None)


COST_STEPS = (
    Step(("energy_joules_low", "energy_joules", "energy_joules_high"), True, energy_joules),
    Step(("area_um2_low", "area_um2", "area_um2_high"), False, area_um2),
)
"""What a space adds unless it says `costs = false`."""
