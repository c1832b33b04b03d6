"""A design space: axes of plain values, whose product, or a sample of it, is what a sweep evaluates."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.tensorcore.point import CORE_FIELDS
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import Case, GemmShape, SparseOperand
from nmsim.format import DENSE, SparseFormat
from nmsim.pattern import Pattern

NOTHING = "none"
"""What `encoding`, `packing` and `sparse_operand` say of it."""
GATHERED = tuple(name for name in CORE_FIELDS if name not in ("multicast", "selector_groups_per_cycle"))
"""Numbers of a core that change a `Point` in their own field and nowhere else, so that arrays of them are put in."""
MAX_POINTS = 1 << 60
STAND_IN = GemmShape(M=1, N=2, K=1)
"""Shape of a case before its own is known. M and N differ, so that a `Point` says which of the two came first."""

Integers = NDArray[np.int64]


class SweptFormat(NamedTuple):
    """How the operands are stored: nothing is sparse if `format` is None, one operand if `other` is."""

    format: SparseFormat | None = None
    other: Pattern | None = None
    sparse_operand: SparseOperand = "weights"

    def case(self, dtype: str) -> Case:
        """A case that is stored so, with a shape that stands for any."""
        return Case(STAND_IN, self.format, dtype=dtype, sparse_operand=self.sparse_operand)

    @property
    def cells(self) -> dict[str, str]:
        """Its texts in the columns of an answer."""
        if self.format is None:
            dense = {"pattern": DENSE, "other_pattern": DENSE}
            return dense | dict.fromkeys(("encoding", "packing", "sparse_operand"), NOTHING)
        return {
            "pattern": str(self.format.pattern),
            "other_pattern": str(self.other or DENSE),
            "encoding": self.format.encoding.name,
            "packing": str(self.format.packing),
            "sparse_operand": self.sparse_operand,
        }


@dataclass(frozen=True)
class Product:
    """`count` products with weights [N, K], in elements."""

    N: int
    K: int
    count: int


@dataclass(frozen=True)
class Work:
    """What a row of the answer stands for: one layer (of which the model has `count`), or all products of a model."""

    model: str
    layer: str
    count: int
    products: tuple[Product, ...]


class Axis(NamedTuple):
    """Values that a number, flag or word of the core takes."""

    name: str
    values: tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Space:
    """A design space as `load_space` makes it. Its order: cores outermost, ways to store innermost.

    Parameters
    ----------
    cores : tuple of SparseTensorCore
    axes : tuple of Axis
        Numbers, flags and words of the cores, each value put in the place of the core's own.
    dtypes : tuple of str
    tokens : tuple of int
        Rows of X: sequences of a decode step, or tokens of a prompt.
    works : tuple of Work
    stored : tuple of SweptFormat
    sample_points : int, optional
        Draw so many points of the product; all of it when absent.
    seed : int
    quality : tuple of float, optional
        Of each (work, dtype, stored), in this order. The user's; higher is better.
    dual : bool
        The space has an axis `other_pattern`.
    costs : bool
        Add energy and area.
    """

    cores: tuple[SparseTensorCore, ...]
    axes: tuple[Axis, ...]
    dtypes: tuple[str, ...]
    tokens: tuple[int, ...]
    works: tuple[Work, ...]
    stored: tuple[SweptFormat, ...]
    sample_points: int | None = None
    seed: int = 0
    quality: tuple[float, ...] | None = field(default=None, repr=False)
    dual: bool = False
    costs: bool = True

    @property
    def lengths(self) -> tuple[int, ...]:
        """Values of each axis, outermost first: cores, `axes`, dtypes, tokens, works, ways to store."""
        inner = (self.dtypes, self.tokens, self.works, self.stored)
        return (len(self.cores), *(len(axis.values) for axis in self.axes), *map(len, inner))

    @property
    def product_points(self) -> int:
        """Points of the whole product."""
        return math.prod(self.lengths)

    @property
    def points(self) -> int:
        """Points that a sweep evaluates."""
        return self.product_points if self.sample_points is None else self.sample_points

    @property
    def by_layer(self) -> bool:
        """Whether a row stands for one layer or shape."""
        return all(work.layer for work in self.works)

    @property
    def digest(self) -> str:
        """Hexadecimal digits that two spaces share only if all their values are equal."""
        return hashlib.sha256(repr((self, self.quality)).encode()).hexdigest()[:16]

    def indices(self, start: int, stop: int) -> Integers:
        """Places in the product of the points `start` to `stop`, ascending.

        A sample cuts the product into equal parts, in its order, and draws one point of each. So no point comes twice, and
        every range of an axis is drawn as often as its share. Any part of the sample can be drawn on its own.

        Source
        ------
        Stratified sampling. Random numbers: Philox, J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
        SC 2011, as numpy implements it.
        """
        places = np.arange(start, stop, dtype=np.int64)
        if self.sample_points is None:
            return places
        part, longer = divmod(self.product_points, self.sample_points)
        first = places * part + np.minimum(places, longer)
        draws = np.random.Philox(key=self.seed).advance(start // 4)
        numbers = draws.random_raw(stop - start + start % 4)[start % 4 :]
        shares = (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53
        widths = part + (places < longer)
        chosen: Integers = first + np.minimum((shares * widths).astype(np.int64), widths - 1)
        return chosen
