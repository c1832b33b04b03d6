"""An order of words in memory: a reshape and a transpose, and therefore always a permutation."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WordOrder:
    """Where each word of a row-major [rows, columns] array of words lies in memory.

    Parameters
    ----------
    word : str
        numpy type of a word. It fixes how many nibbles travel together.
    row_split, column_split : tuple of int
        Factors of rows and columns, slowest first. The digits of (row, column) in these mixed radices are the
        axes 0, 1, 2, ... of the transpose.
    memory_axes : tuple of int
        The same axes in the order of memory, slowest first.
    """

    word: str
    row_split: tuple[int, ...]
    column_split: tuple[int, ...]
    memory_axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of words."""
        return math.prod(self.row_split), math.prod(self.column_split)

    def scatter(self, words: NDArray[Any]) -> NDArray[Any]:
        """Put row-major words in the order of memory: [rows, columns] to [rows * columns]."""
        split = words.reshape(self.row_split + self.column_split)
        return np.ascontiguousarray(split.transpose(self.memory_axes)).reshape(-1)

    def gather(self, memory: NDArray[Any]) -> NDArray[Any]:
        """Undo `scatter`: [rows * columns] to [rows, columns]."""
        split = self.row_split + self.column_split
        in_memory = memory.reshape([split[axis] for axis in self.memory_axes])
        row_major = in_memory.transpose(np.argsort(self.memory_axes))
        return np.ascontiguousarray(row_major).reshape(self.shape)

    def offsets(self) -> NDArray[np.int64]:
        """Tabulate each word's position in memory, counted in words: int64 [rows, columns]."""
        return self.gather(np.arange(math.prod(self.shape), dtype=np.int64))
