"""One layer as the measurement sees it: weights block by block, changed beforehand where a mitigation folds into them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import FloatArray
from nmsim.mitigation import rewrite
from nmsim.mitigation.recipe import Recipe
from nmsim.quality.measured import BLOCK_ELEMS, refuse_unusable, row_blocks

Array = NDArray[Any]


class Columns(NamedTuple):
    """What is known of the columns of W, from one pass over its rows; each [K]."""

    largest: NDArray[np.float32]
    """max_o |w_oj|."""
    mean: FloatArray
    """mean_o w_oj."""
    squares: FloatArray
    """sum_o w_oj^2."""


class Layer:
    """Weights [O, K] that are read in blocks of rows as float32; one block is in memory at a time.

    Parameters
    ----------
    weight : array [O, K]
        Of any dtype; a view of a file will do.
    fold : Recipe
        Its rotation and its static equalisation are folded into every block.
    block_elems : int
    """

    def __init__(self, weight: Array, fold: Recipe = rewrite.PLAIN, block_elems: int = BLOCK_ELEMS) -> None:
        self.weight = weight
        self.shape: tuple[int, int] = weight.shape
        self.fold = Recipe(rotation=fold.rotation, equalise=fold.equalise)
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
        total, sum_of_squares = np.zeros(in_features), np.zeros(in_features)
        for rows, block in self.blocks():
            refuse_unusable("weight", block, rows.start)
            np.maximum(largest, np.abs(block).max(axis=0), out=largest)
            total += block.sum(axis=0, dtype=np.float64)
            sum_of_squares += np.square(block).sum(axis=0, dtype=np.float64)
        return Columns(largest, total / out_features, sum_of_squares)

    def _folded(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.fold.rotation is None and isinstance(self.fold.equalise, str):
            return block
        return rewrite.prepare(block, self.fold).weight
