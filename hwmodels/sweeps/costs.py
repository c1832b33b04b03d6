"""Energy and area as steps of a sweep."""

import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hwmodels.silicon.area import area_columns
from hwmodels.silicon.energy import Design as Silicon
from hwmodels.silicon.energy import design as silicon_of
from hwmodels.silicon.energy import energy_columns
from hwmodels.sweeps.steps import Block, Floats, Step
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import Case
from nmsim.errors import NmsimError
from nmsim.pattern import Pattern


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
