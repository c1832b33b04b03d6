"""What of a design point is more than a number to be put in its place: cores, value types and ways to store, put together.

Each combination is worked out once, by `hwmodels.tensorcore.point`, when the first point needs it.
"""

import itertools
import threading
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.sweeps.space import GATHERED, STAND_IN, Space, SweptFormat
from hwmodels.tensorcore.point import Point, execution, point
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import Case
from nmsim.errors import NmsimError, SpecError
from nmsim.pattern import Pattern

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_DESIGNS = 1 << 24
"""Combinations that a space may have: they are worked out one by one, in Python."""
NONE = -1


class Design(NamedTuple):
    """One combination: a core with its words and flags, a case whose shape stands for any, and
    the second pattern, if any.

    `metadata_bits_per_elem` is that of what is stored of the sparse operand, per element before pruning. `refused` says
    why there is no such point; `core` and `row` are None then.
    """

    core: SparseTensorCore | None
    case: Case
    other: Pattern | None
    row: Point | None
    execution: str
    metadata_bits_per_elem: float
    refused: str


class Designs:
    """The combinations of a space, by their place in the product of their axes.

    Parameters
    ----------
    space : Space
    dense : bool
        Run all of them dense: there is one way to store, which is none.

    Raises
    ------
    SpecError
        More than `MAX_DESIGNS`.
    """

    def __init__(self, space: Space, dense: bool = False) -> None:
        self.space = space
        self.stored = (SweptFormat(),) if dense else space.stored
        lengths = space.lengths
        self.core_axes = tuple(place for place, axis in enumerate(space.axes, 1) if axis.name not in GATHERED)
        self.axes = (0, *self.core_axes, len(space.axes) + 1)
        self.shape = (*(lengths[axis] for axis in self.axes), len(self.stored))
        if np.prod(self.shape, dtype=float) > MAX_DESIGNS:
            raise SpecError(
                f"axes: {np.prod(self.shape, dtype=float):.3g} combinations of cores, value types and ways to store: "
                f"expected at most {MAX_DESIGNS}"
            )
        self.found: list[Design] = []
        self._place = np.full(int(np.prod(self.shape)), NONE, np.int32)
        self.rows = np.empty((0, len(Point._fields)))
        self.live, self.tokens_first = np.empty(0, bool), np.empty(0, bool)
        self.clock_hz, self.metadata_bits_per_elem = np.empty(0), np.empty(0)
        self._cores: dict[tuple[int, ...], SparseTensorCore | str] = {}
        self._lock = threading.Lock()

    def places(self, digits: Integers) -> Integers:
        """Look designs up in `found` and the arrays beside it, and work out those that nobody has asked for.

        Parameters
        ----------
        digits : int64 array [axes of the space, n]

        Returns
        -------
        int64 array [n]
        """
        ids = digits[0].copy()
        for axis, length in zip(self.axes[1:], self.shape[1:-1], strict=True):
            ids *= length
            ids += digits[axis]
        if len(self.stored) > 1:
            ids *= self.shape[-1]
            ids += digits[-1]
        places = self._place[ids]
        if places.min(initial=0) == NONE:
            with self._lock:
                # Another thread may have added them while this one waited.
                new = np.unique(ids[self._place[ids] == NONE])
                if len(new):
                    self._add(new)
            places = self._place[ids]
        known: Integers = places.astype(np.int64)
        return known

    def _add(self, new: Integers) -> None:
        """Work designs out. Threads that look others up meanwhile find the arrays complete at any moment."""
        shape = self.shape
        added = [self.design(tuple(int(digit) for digit in np.unravel_index(each, shape))) for each in new]
        found = [*self.found, *added]
        rows = [design.row or (np.nan,) * len(Point._fields) for design in added]
        self.rows = np.vstack([self.rows, rows])
        self.live = np.array([design.row is not None for design in found])
        self.tokens_first = self.rows[:, Point._fields.index("a_rows")] == STAND_IN.M
        self.clock_hz = np.array([design.core.clock_hz if design.core else np.nan for design in found])
        self.metadata_bits_per_elem = np.array([design.metadata_bits_per_elem for design in found])
        self.found = found
        self._place[new] = np.arange(len(found) - len(new), len(found), dtype=np.int32)

    def design(self, digits: tuple[int, ...]) -> Design:
        """Put one combination together: `digits` of the core, of `core_axes`, of the value type and of the way to store."""
        *of_core, dtype, way = digits
        case = self.stored[way].case(self.space.dtypes[dtype])
        other = self.stored[way].other
        core = self._core(tuple(of_core))
        if isinstance(core, str):
            return Design(None, case, other, None, "", np.nan, core)
        try:
            row = point(core, case, other)
        except NmsimError as error:
            return Design(None, case, other, None, "", np.nan, str(error))
        return Design(core, case, other, row, execution(core, case), _metadata_bits_per_elem(row), "")

    def _core(self, digits: tuple[int, ...]) -> SparseTensorCore | str:
        """A core with its words, flags and widths put in, or what is wrong with it."""
        if digits not in self._cores:
            axes = (self.space.axes[place - 1] for place in self.core_axes)
            values = {axis.name: axis.values[digit] for axis, digit in zip(axes, digits[1:], strict=True)}
            try:
                self._cores[digits] = replace(self.space.cores[digits[0]], **values)  # type: ignore[arg-type]
            except NmsimError as error:
                self._cores[digits] = str(error)
        return self._cores[digits]


def refuse_useless_values(designs: Designs) -> None:
    """Refuse a space with a value that no point can take.

    Raises
    ------
    SpecError
        Naming the axis, the value and the last reason; if there is no point at all, that reason alone.
    """
    labels = _labels(designs)
    waiting: dict[tuple[str, object], None]
    waiting = dict.fromkeys(label for axis in labels for of_digit in axis for label in of_digit)
    while waiting:
        name, value = wanted = next(iter(waiting))
        choices = [
            [digit for digit, has in enumerate(axis) if wanted in has] or range(len(axis)) for axis in labels
        ]
        for digits in itertools.product(*choices):
            found = designs.design(digits)
            if not found.refused:
                for of_axis, digit in zip(labels, digits, strict=True):
                    for label in of_axis[digit]:
                        waiting.pop(label, None)
                break
        else:
            only = all(len(digits) == length for digits, length in zip(choices, designs.shape, strict=True))
            what = "no point of the space exists" if only else f"{name}: {value!r}: no point takes it"
            raise SpecError(f"axes: {what}: {found.refused}")


def _labels(designs: Designs) -> list[list[tuple[tuple[str, object], ...]]]:
    """Axis and value that each digit of each axis of the designs stands for; a way to store stands for several."""
    space = designs.space
    swept = [space.axes[place - 1] for place in designs.core_axes]
    labels: list[list[tuple[tuple[str, object], ...]]] = [[(("core", core.id),) for core in space.cores]]
    labels += [[((axis.name, value),) for value in axis.values] for axis in swept]
    labels.append([(("dtype", dtype),) for dtype in space.dtypes])
    labels.append([tuple(stored.cells.items()) for stored in designs.stored])
    return labels


def _metadata_bits_per_elem(row: Point) -> float:
    """Bits of metadata of A; none if it is pruned on loading, and stored dense."""
    if row.consumer:
        return 0.0
    per_group = row.a_slot_bits / row.a_codes_per_slot / row.a_groups_per_code + row.a_mean_bits
    return float(per_group / row.a_m)
