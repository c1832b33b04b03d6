"""Points of a space to columns of answers: arrays throughout, in blocks that stay in a cache.

What of a design point is more than a number is put together here: cores, value types, ways to store. Each combination is
worked out once, by `hwmodels.tensorcore.point`, when the first point needs it. Steps then add columns to those of the closed
form: each is a function of whole arrays.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.silicon.area import area_columns
from hwmodels.silicon.energy import Design as Silicon
from hwmodels.silicon.energy import design as silicon_of
from hwmodels.silicon.energy import energy_columns
from hwmodels.sweeps.space import GATHERED, STAND_IN, Space, SweptFormat
from hwmodels.tensorcore.cycles import LIMITS, Cycles, closed_form
from hwmodels.tensorcore.point import EXECUTIONS, Point, execution, point
from hwmodels.tensorcore.record import WORDS, SparseTensorCore
from nmsim.case import Case
from nmsim.errors import NmsimError, SpecError, brief
from nmsim.pattern import Pattern
from nmsim.support.jit import njit

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
        if refused := self.stored[way].refused:
            return Design(None, case, other, None, "", np.nan, refused)
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
            what = "no point of the space exists" if only else f"{name}: {brief(value)}: no point takes it"
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


BLOCK_POINTS = 1 << 13
NO_TILE = "no tile fits into the partial sums and the shared memory of a core"
FIELD = {name: place for place, name in enumerate(Point._fields)}
LIMIT = Cycles._fields.index("limit")
OF_ONE_PRODUCT = ("tile_rows", "tile_cols", "tile_k", "wave_rows", "wave_cols")
DERIVED = ("cycles", "time_s", "dense_cycles", "speedup_vs_dense", "utilisation", "metadata_bits_per_elem")


class Words(NamedTuple):
    """A column of texts: places in a list of them, int32 [n]."""

    codes: NDArray[np.int32]
    texts: tuple[str, ...]


Columns = dict[str, Words | NDArray[Any]]


class Answers(NamedTuple):
    """Of products or, added up, of rows: what the closed form says [n, fields], and the steps' columns [columns, n]."""

    found: Floats
    added: Floats


class Evaluator:
    """A space ready to be evaluated, any stretch of it at a time and by several threads.

    Parameters
    ----------
    space : Space

    Raises
    ------
    SpecError
        A space of too many designs.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.designs, self.dense = Designs(space), Designs(space, dense=True)
        self._lengths = np.array(space.lengths, np.int64)
        products = [product for work in space.works for product in work.products]
        self._N = np.array([product.N for product in products], np.float64)
        self._K = np.array([product.K for product in products], np.float64)
        # Of a set of experts, the tokens of each and those that are reached depend on the tokens of the row.
        found = [[product.at(tokens) for tokens in space.tokens] for product in products]
        self._M = np.array([[tokens for tokens, _ in row] for row in found], np.float64)
        self._counts = np.array([[count for _, count in row] for row in found], np.float64)
        self._output_bits = np.array([product.output_bits for product in products], np.float64)
        self._written_share = np.array([product.written_share for product in products])
        self._products = np.array([len(work.products) for work in space.works])
        self._first = np.cumsum(self._products) - self._products
        self._gathered = [
            (FIELD[axis.name], place, np.array(axis.values, np.float64))
            for place, axis in enumerate(space.axes, 1)
            if axis.name in GATHERED
        ]
        of_one = OF_ONE_PRODUCT if space.by_layer else ()
        kept = [name for name in Cycles._fields[LIMIT + 1 :] if name in of_one or name not in OF_ONE_PRODUCT]
        self._kept = [Cycles._fields.index(name) for name in kept]
        self.steps: tuple[Step, ...] = (*STEPS, *(COST_STEPS if space.costs else ()))
        added = [column for step in self.steps for column in step.columns]
        self._row = {name: row for row, name in enumerate((*DERIVED, *kept, *added))}

    def columns(self, start: int, stop: int) -> Columns:
        """Evaluate the points `start` to `stop` of the space.

        Returns
        -------
        dict
            Name -> float64 or int64 array [n], or `Words`. Where `refused` says why there is no such point, floats are NaN.
        """
        count = stop - start
        indices = self.space.indices(start, stop)
        digits = np.empty((len(self._lengths), count), np.int64)
        _split(indices, self._lengths, digits)
        numbers = np.empty((len(self._row), count))
        limits, places = np.empty(count, np.int32), np.empty(count, np.int64)
        for first in range(0, count, BLOCK_POINTS):
            part = slice(first, min(first + BLOCK_POINTS, count))
            self._fill(indices[part], digits[:, part], numbers[:, part], limits[part], places[part])
        designs = self.designs.found
        refusals = tuple(dict.fromkeys(("", NO_TILE, *(design.refused for design in designs))))
        reasons = np.array([refusals.index(design.refused) for design in designs], np.int32)[places]
        reasons[(reasons == 0) & np.isnan(numbers[self._row["cycles"]])] = 1
        limits[reasons > 0] = 0
        executions = ("", *EXECUTIONS)
        executed = np.array([executions.index(design.execution) for design in designs], np.int32)
        answers: Columns = self._axes(digits)
        answers["execution"] = Words(executed[places], executions)
        answers["refused"] = Words(reasons, refusals)
        answers["limit"] = Words(limits, ("", *LIMITS))
        if self.space.quality is not None:
            places_of = np.ravel_multi_index(tuple(digits[[-2, -4, -1]]), tuple(self._lengths[[-2, -4, -1]]))
            for name, values in self.space.quality.columns.items():
                answers[name] = np.array(values)[places_of]
        return answers | dict(zip(self._row, numbers, strict=True))

    def _fill(
        self, indices: Integers, digits: Integers, numbers: Floats, limits: Any, places: Integers
    ) -> None:
        """Fill in the columns of one block."""
        places[:] = self.designs.places(digits)
        answers = self._answers(self.designs, places, digits, self.steps)
        # The ways to store are innermost: those of one dense product stand side by side.
        dense = indices // self._lengths[-1]
        new = np.append(True, dense[1:] != dense[:-1])
        dense_digits = digits[:, new]
        baseline = self._answers(self.dense, self.dense.places(dense_digits), dense_digits, ()).found[:, 0]
        cycles = answers.found[:, 0]
        dense_cycles = baseline[np.cumsum(new) - 1]
        row = self._row
        numbers[row["cycles"]] = cycles
        numbers[row["time_s"]] = cycles / self.designs.clock_hz[places]
        numbers[row["dense_cycles"]] = dense_cycles
        numbers[row["speedup_vs_dense"]] = dense_cycles / cycles
        numbers[row["metadata_bits_per_elem"]] = self.designs.metadata_bits_per_elem[places]
        for place, field in enumerate(self._kept, len(DERIVED)):
            numbers[place] = answers.found[:, field]
        numbers[len(DERIVED) + len(self._kept) :] = answers.added
        numbers[row["utilisation"]] = numbers[row["effectual_macs"]] / numbers[row["peak_macs"]]
        limits[:] = np.where(np.isnan(cycles), -1.0, answers.found[:, LIMIT]) + 1.0

    def _answers(
        self, designs: Designs, places: Integers, digits: Integers, steps: tuple[Step, ...]
    ) -> Answers:
        """Evaluate the products of rows, and add them up."""
        works = digits[-2]
        if self.space.by_layer:
            return self._of_products(designs, places, digits, works, self._M[works, digits[-3]], steps)
        lengths = self._products[works]
        owner = np.repeat(np.arange(len(works)), lengths)
        first = np.cumsum(lengths) - lengths
        product = self._first[works][owner] + np.arange(len(owner)) - first[owner]
        tokens = digits[-3][owner]
        of_products = self._M[product, tokens]
        answers = self._of_products(designs, places[owner], digits[:, owner], product, of_products, steps)
        counts = self._counts[product, tokens]
        found = np.add.reduceat(answers.found * counts[:, None], first, axis=0)
        longest = answers.found[:, 0] * counts
        at_most = np.flatnonzero(longest >= np.maximum.reduceat(longest, first)[owner])
        found[:, LIMIT] = np.nan
        found[owner[at_most], LIMIT] = answers.found[at_most, LIMIT]
        added = np.add.reduceat(answers.added * counts, first, axis=1)
        for place, adds_up in enumerate(step.adds_up for step in steps for _ in step.columns):
            if not adds_up:
                added[place] = answers.added[place, first]
        return Answers(found, added)

    def _of_products(
        self, designs: Designs, places: Integers, digits: Integers, product: Integers, tokens: Floats,
        steps: tuple[Step, ...],
    ) -> Answers:  # fmt: skip
        """Evaluate one product per row; NaN if the design is refused, or no tile fits."""
        live = designs.live[places]
        if not live.all():
            found = np.full((len(places), len(Cycles._fields)), np.nan)
            added = np.full((sum(len(step.columns) for step in steps), len(places)), np.nan)
            if live.any():
                of_live = self._of_products(
                    designs, places[live], digits[:, live], product[live], tokens[live], steps
                )
                found[live], added[:, live] = of_live
            return Answers(found, added)
        points = designs.rows[places]
        tokens_first, N = designs.tokens_first[places], self._N[product]
        points[:, FIELD["a_rows"]] = np.where(tokens_first, tokens, N)
        points[:, FIELD["b_cols"]] = np.where(tokens_first, N, tokens)
        points[:, FIELD["K"]] = self._K[product]
        own_bits = self._output_bits[product]
        stated_bits = np.where(own_bits > 0, own_bits, points[:, FIELD["output_bits"]])
        points[:, FIELD["output_bits"]] = stated_bits * self._written_share[product]
        for field, axis, values in self._gathered:
            points[:, field] = values[digits[axis]]
        found = closed_form(points)
        block = Block(points, found, places, designs.found)
        columns = [step.values(block) for step in steps]
        return Answers(found, np.concatenate(columns) if columns else np.empty((0, len(places))))

    def _axes(self, digits: Integers) -> Columns:
        """Columns of what a point is."""
        space = self.space

        def words(texts: Any, axis: int) -> Words:
            # An axis of one value needs no array of Python strings for each point.
            if len(texts) == 1:
                return Words(np.zeros(digits.shape[1], np.int32), (str(texts[0]),))
            distinct = {text: code for code, text in enumerate(dict.fromkeys(map(str, texts)))}
            codes = np.array([distinct[str(text)] for text in texts], np.int32)
            return Words(codes[digits[axis]], tuple(distinct))

        columns: Columns = {"core": words([core.id for core in space.cores], 0)}
        for place, axis in enumerate(space.axes, 1):
            if axis.name in WORDS:
                columns[axis.name] = words(axis.values, place)
            else:
                columns[axis.name] = np.array(axis.values)[digits[place]]
        columns["dtype"] = words(space.dtypes, -4)
        columns["tokens"] = np.array(space.tokens)[digits[-3]]
        works = space.works
        if works[0].model:
            columns["model"] = words([work.model for work in works], -2)
        if works[0].layer:
            columns["layer"] = words([work.layer for work in works], -2)
            columns["count"] = np.array([work.count for work in works])[digits[-2]]
            columns["N"] = np.array([work.products[0].N for work in works])[digits[-2]]
            columns["K"] = np.array([work.products[0].K for work in works])[digits[-2]]
        for name in space.stored[0].cells:
            if name != "other_pattern" or space.dual:
                columns[name] = words([stored.cells[name] for stored in space.stored], -1)
        return columns


@functools.lru_cache(maxsize=4)
def evaluator(space: Space) -> Evaluator:
    """The evaluator of a space; the same one for all its chunks in a process."""
    return Evaluator(space)


@njit(cache=True, nogil=True)
def _split(indices: Any, lengths: Any, digits: Any) -> None:
    """Split places in a product into a digit of each axis, the last one innermost."""
    for row in range(len(indices)):
        rest = indices[row]
        for axis in range(len(lengths) - 1, -1, -1):
            whole = rest // lengths[axis]
            digits[axis, row] = rest - whole * lengths[axis]
            rest = whole
