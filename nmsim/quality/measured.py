"""What is measured of one layer under one way of pruning: sums, which add up over layers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import PatternError
from nmsim.quality.entropy import MaskEntropy
from nmsim.quality.way import Way

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
        Of the N:M masks; None where there are no groups.
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
        """1 where all is zero."""
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


def tokens_of(name: str, x: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float32]:
    """Take tokens as float32, or refuse them.

    Raises
    ------
    PatternError
        Not [L, K] with the K of the weights, no token, or a number that is not finite.
    """
    x = np.asarray(x)
    if x.ndim != 2 or weight.ndim != 2 or not len(x) or x.shape[1] != weight.shape[1]:
        raise PatternError(f"{name} has shape {x.shape}, weight {weight.shape}: expected [L, K] and [O, K]")
    found = x.astype(np.float32)
    if not np.isfinite(found).all():
        raise PatternError(f"{name} holds what is no finite number, expected finite ones")
    return found


def finite_output(energy: float) -> float:
    """Refuse a dense output that no error can be measured against.

    Raises
    ------
    PatternError
        Not finite.
    """
    if not math.isfinite(energy):
        raise PatternError("the dense output is not finite, expected weights that are finite numbers")
    return energy
