"""Points of a space to columns of answers: arrays throughout, in blocks that stay in a cache."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.sweeps.designs import Designs
from hwmodels.sweeps.space import GATHERED, Space
from hwmodels.sweeps.steps import COST_STEPS, STEPS, Block, Step
from hwmodels.tensorcore.cycles import LIMITS, Cycles, closed_form
from hwmodels.tensorcore.point import EXECUTIONS, Point
from hwmodels.tensorcore.record import WORDS
from nmsim.support.jit import njit

BLOCK_POINTS = 1 << 13
NO_TILE = "no tile fits into the partial sums and the shared memory of a core"
FIELD = {name: place for place, name in enumerate(Point._fields)}
LIMIT = Cycles._fields.index("limit")
OF_ONE_PRODUCT = ("tile_rows", "tile_cols", "tile_k", "wave_rows", "wave_cols")
DERIVED = ("cycles", "time_s", "dense_cycles", "speedup_vs_dense", "utilisation", "metadata_bits_per_elem")

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


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
        self._tokens = np.array(space.tokens, np.float64)
        products = [product for work in space.works for product in work.products]
        self._N = np.array([product.N for product in products], np.float64)
        self._K = np.array([product.K for product in products], np.float64)
        self._counts = np.array([product.count for product in products], np.float64)
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
            answers["quality"] = np.array(self.space.quality)[places_of]
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
        works, tokens = digits[-2], self._tokens[digits[-3]]
        if self.space.by_layer:
            return self._of_products(designs, places, digits, works, tokens, steps)
        lengths = self._products[works]
        owner = np.repeat(np.arange(len(works)), lengths)
        first = np.cumsum(lengths) - lengths
        product = self._first[works][owner] + np.arange(len(owner)) - first[owner]
        answers = self._of_products(designs, places[owner], digits[:, owner], product, tokens[owner], steps)
        counts = self._counts[product]
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
