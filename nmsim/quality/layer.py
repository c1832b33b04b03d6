"""One layer as the measurement sees it: its weights block by block, the sums that are measured, and the entropy of masks.

Weights are changed beforehand if a mitigation folds into them. Sums add up over layers.

Entropy is bits per group under a code that knows the frequency of each mask. There are two figures, and the result names
which one it is. `miller_madow` needs many groups per possible mask. It is the plug-in entropy of the groups' masks plus
its first-order bias. `upper_bound` is used otherwise. One figure is the bits of the columns of the mask one by one, each
with the same correction. The other is log2 C(M, N) per group. The smaller of the two is taken. It is log2 C(M, N)
unless columns are kept with different frequency.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import encodings
from nmsim.criteria import FloatArray, matrix
from nmsim.errors import PatternError
from nmsim.mask import BoolArray, complete, to_words
from nmsim.mitigation import golden, rewrite
from nmsim.mitigation.recipe import Recipe
from nmsim.pattern import Pattern
from nmsim.quality.way import Way

Kind = Literal["miller_madow", "upper_bound"]
GROUPS_PER_MASK = 8
"""Groups that the estimate needs per legal mask. Its correction is then at most 1 / (16 ln 2) = 0.09 bits per group."""


class MaskEntropy(NamedTuple):
    """Bits of all groups together, the elements that they cover, and the kind of estimate."""

    bits: float
    elems: int
    kind: Kind

    @property
    def bits_per_elem(self) -> float:
        """NaN without a group."""
        return self.bits / self.elems if self.elems else math.nan


class MaskCounter:
    """Counts masks block by block, in memory that does not grow with the blocks.

    Parameters
    ----------
    pattern : Pattern
    groups : int
        Whole groups that will come in all; they decide between estimate and bound.

    Examples
    --------
    >>> counter = MaskCounter(Pattern(1, 2), 32)
    >>> counter.add(np.tile([[True, False]], (32, 1)))
    >>> counter.entropy()
    MaskEntropy(bits=0.0, elems=64, kind='miller_madow')
    """

    def __init__(self, pattern: Pattern, groups: int) -> None:
        self.pattern = pattern
        self.groups = 0
        self.rows = 0
        self.column_counts: NDArray[np.int64] | None = None
        enough = groups >= GROUPS_PER_MASK * pattern.configurations
        self.mask_counts = np.zeros(pattern.configurations, np.int64) if enough else None

    def add(self, mask: BoolArray) -> None:
        """Count the whole groups of a mask [rows, K], always of the same K; tails are left out.

        A group that keeps fewer than N is completed as it would be stored.
        """
        m = self.pattern.m
        whole = mask.shape[1] // m * m
        full = complete(mask[:, :whole], self.pattern)
        if not full.size:
            return
        by_group = full.reshape(-1, m)
        self.groups += len(by_group)
        self.rows += len(full)
        if self.column_counts is None:
            self.column_counts = np.zeros(whole, np.int64)
        self.column_counts += np.count_nonzero(full, axis=0)
        if self.mask_counts is not None:
            codes = encodings.get("combinatorial").encode_words(to_words(full, self.pattern), self.pattern)
            self.mask_counts += np.bincount(codes.astype(np.int64), minlength=len(self.mask_counts))

    def entropy(self) -> MaskEntropy:
        """Find the entropy of what was counted.

        Source
        ------
        Miller 1955: plug-in entropy plus (masks seen - 1) / (2 groups ln 2) bits. Bound: the entropy of a row is at most the
        sum of those of its elements.
        """
        most = self.pattern.entropy_bits
        elems = self.groups * self.pattern.m
        if self.mask_counts is not None:
            seen = self.mask_counts[self.mask_counts > 0]
            correction = (len(seen) - 1) / (2 * max(1, self.groups) * math.log(2))
            bits = min(most, _plug_in_bits(seen) + correction)
            return MaskEntropy(self.groups * bits, elems, "miller_madow")
        bits = 0.0
        if self.column_counts is not None:
            shares = self.column_counts / self.rows
            with np.errstate(divide="ignore", invalid="ignore"):
                by_column = -np.nan_to_num(shares * np.log2(shares)) - np.nan_to_num(
                    (1 - shares) * np.log2(1 - shares)
                )
            corrected = by_column + np.where(by_column > 0, 1 / (2 * self.rows * math.log(2)), 0.0)
            bits = self.rows * float(corrected.sum())
        return MaskEntropy(min(self.groups * most, bits), elems, "upper_bound")


def _plug_in_bits(counts: NDArray[Any]) -> float:
    shares = counts[counts > 0] / counts.sum() if len(counts) else counts
    return float(abs(-(shares * np.log2(shares)).sum()))


def entropy_of(mask: BoolArray, pattern: Pattern) -> MaskEntropy:
    """Find the entropy of one mask [rows, K].

    Examples
    --------
    >>> entropy_of(np.array([[True, False, False, True]] * 16), Pattern(1, 2)).bits_per_elem
    0.5
    """
    counter = MaskCounter(pattern, len(mask) * (mask.shape[1] // pattern.m))
    counter.add(mask)
    return counter.entropy()


BLOCK_ELEMS = 1 << 22
"""Weights that are in memory as float32 at a time."""


@dataclass(frozen=True)
class Measured:
    """Sums of one layer, in float64.

    Parameters
    ----------
    way : Way
    elems : int
        Elements of the pruned operand, kept or not.
    energy, energy_kept : float
        Sum of squares of the pruned operand, and of what is kept of it in any part.
    output_energy, output_error : float
        Sum of squares of the dense output Y, and of what the output is off by.
    entropy : MaskEntropy or None
        Of the N:M masks; None if there are no groups.
    """

    way: Way
    elems: int
    energy: float
    energy_kept: float
    output_energy: float
    output_error: float
    entropy: MaskEntropy | None

    @property
    def energy_kept_share(self) -> float:
        """1 if all is zero."""
        return self.energy_kept / self.energy if self.energy else 1.0

    @property
    def relative_output_error(self) -> float:
        """|Y - Y_dense|^2 / |Y_dense|^2; NaN where the dense output is zero."""
        return self.output_error / self.output_energy if self.output_energy else math.nan


def row_blocks(rows: int, row_elems: int, block_elems: int = BLOCK_ELEMS) -> list[slice]:
    """Cut the rows of a matrix into blocks of at most so many elements, at least one row each.

    Examples
    --------
    >>> row_blocks(5, 10, 20)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, block_elems // row_elems)
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def squares(x: NDArray[Any]) -> float:
    """Sum of squares, added in float64."""
    return float(np.square(x, dtype=np.float64).sum())


def refuse_unusable(name: str, x: NDArray[Any], first_row: int = 0) -> None:
    """Refuse a matrix with what is no number, or one so large that the squares of a row overflow float32.

    If neither tokens nor weights hold such a number, no product of theirs overflows. `first_row` is the row
    of x in the whole matrix.

    Raises
    ------
    PatternError
        Naming the first such element.

    Examples
    --------
    >>> refuse_unusable("x", np.array([[1.0, 1e30]]))
    Traceback (most recent call last):
    nmsim.errors.PatternError: x[0, 1] is 1e+30, expected finite numbers of at most 1.3e+19
    """
    if place := first_unusable(x):
        raise PatternError(
            f"{name}[{first_row + place[0]}, {place[1]}] is {float(x[place]):g}, expected finite numbers of at most "
            f"{most_of(x):.2g}"
        )


def first_unusable(x: NDArray[Any]) -> tuple[int, int] | None:
    """Place of the first element that `refuse_unusable` refuses, None if there is none."""
    # A scalar of numpy, so that 16-bit floats are compared in float64.
    bad = ~(np.abs(x) <= np.float64(most_of(x)))
    if not bad.any():
        return None
    row, column = np.unravel_index(int(bad.argmax()), x.shape)
    return int(row), int(column)


def most_of(x: NDArray[Any]) -> float:
    """The greatest magnitude that a row of x [L, K] may have throughout: K of its squares add up in float32."""
    return math.sqrt(float(np.finfo(np.float32).max) / max(1, x.shape[1]))


def tokens_of(name: str, x: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float32]:
    """Take tokens as float32, or refuse them.

    Raises
    ------
    PatternError
        Not [L, K] with the K of the weights, no token, or as `refuse_unusable`.
    """
    x = np.asarray(x)
    if x.ndim != 2 or weight.ndim != 2 or not len(x) or x.shape[1] != weight.shape[1]:
        raise PatternError(f"{name} has shape {x.shape}, weight {weight.shape}: expected [L, K] and [O, K]")
    refuse_unusable(name, x)
    return x.astype(np.float32)


Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration tokens of one layer, from which parameters are fitted, and what is made of them once.

    Layers that read the same tokens may share one.

    Parameters
    ----------
    tokens : float32 array [L, K]
    """

    tokens: NDArray[np.float32]

    @functools.cached_property
    def norms(self) -> FloatArray:
        """sqrt(sum_i x_ij^2) of each in feature: Wanda's vector."""
        found: FloatArray = np.sqrt(np.square(self.tokens, dtype=np.float64).sum(axis=0))
        return found

    @functools.cached_property
    def largest(self) -> NDArray[np.float32]:
        """max_i |x_ij| of each in feature."""
        found: NDArray[np.float32] = np.abs(self.tokens).max(axis=0)
        return found

    @functools.cached_property
    def eigenvectors(self) -> NDArray[np.float64]:
        """Rotation of La RoSA: `eigenvectors` of the tokens."""
        return eigenvectors(self.tokens)

    def equalisation(self, columns: "Columns") -> FloatArray:
        """Factors that share the range between the tokens and weights with these columns."""
        return golden.equalisation(self.largest[None], columns.largest[None])


def needed(way: Way, known: Calibration | None) -> Calibration:
    """Take calibration tokens, or refuse that there are none.

    Raises
    ------
    PatternError
        None, and the way needs them.
    """
    if known is None:
        raise PatternError(f"{way}: no calibration tokens, expected some to fit {', '.join(way.fitted)} to")
    return known


def eigenvectors(x: NDArray[Any]) -> NDArray[np.float64]:
    """Rotation of La RoSA: eigenvectors of X^T X, columns of Q [K, K], greatest eigenvalue first.

    Fewer tokens than in features leave the last of them free: any basis of what no token reaches.

    Source
    ------
    La RoSA as the code of arXiv 2509.22166 has it, with 8192 samples there.

    Examples
    --------
    >>> np.abs(eigenvectors(np.array([[0.0, 3.0], [1.0, 0.0]]))).round(6).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    x = matrix("x", x)
    found: NDArray[np.float64] = np.linalg.eigh(x.T @ x)[1][:, ::-1]
    return found


class Columns(NamedTuple):
    """What is known of the columns of W, from one pass over its rows; each [K]."""

    largest: NDArray[np.float32]
    """max_o |w_oj|."""
    mean: FloatArray
    """mean_o w_oj."""
    squares: FloatArray
    """sum_o w_oj^2."""
    absolute: FloatArray
    """sum_o |w_oj|."""


class Layer:
    """Weights [O, K] that are read in blocks of rows as float32; one block is in memory at a time.

    Parameters
    ----------
    weight : array [O, K]
        Of any dtype; a view of a file will do.
    fold : Recipe
        Rotation and equalisation alone; they are folded into every block, if they are static.
    block_elems : int
    """

    def __init__(self, weight: Array, fold: Recipe = rewrite.PLAIN, block_elems: int = BLOCK_ELEMS) -> None:
        self.weight = weight
        self.shape: tuple[int, int] = weight.shape
        self.fold = fold
        self.block_elems = block_elems

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows and their weights, first to last."""
        for rows in row_blocks(*self.shape, self.block_elems):
            yield rows, self._folded(self.weight[rows].astype(np.float32))

    def whole(self) -> Array:
        """All weights at once, for what cannot be made block by block."""
        plain = self.fold.rotation is None and isinstance(self.fold.equalise, str)
        return self.weight if plain else self._folded(self.weight.astype(np.float32))

    def produced(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tokens as these weights meet them."""
        return rewrite.produced(x, self.fold)

    def output(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dense output [L, O] of tokens from `produced`."""
        found = np.empty((len(x), self.shape[0]), np.float32)
        for rows, block in self.blocks():
            found[:, rows] = x @ block.T
        return found

    def columns(self) -> Columns:
        """Go through the rows once.

        Raises
        ------
        PatternError
            A weight that is no finite number, or too large to be squared in float32.
        """
        out_features, in_features = self.shape
        largest = np.zeros(in_features, np.float32)
        total, sum_of_squares, absolute = (np.zeros(in_features) for _ in range(3))
        for rows, block in self.blocks():
            refuse_unusable("weight", block, rows.start)
            sizes = np.abs(block)
            np.maximum(largest, sizes.max(axis=0), out=largest)
            absolute += sizes.sum(axis=0, dtype=np.float64)
            total += block.sum(axis=0, dtype=np.float64)
            sum_of_squares += np.square(block).sum(axis=0, dtype=np.float64)
        return Columns(largest, total / out_features, sum_of_squares, absolute)

    def _folded(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.fold.rotation is None and isinstance(self.fold.equalise, str):
            return block
        return rewrite.prepare(block, self.fold).weight
