"""Entropy of masks: bits per group under a code that knows the frequency of each mask.

There are two figures, and the result names which one it is. `miller_madow` needs many groups per possible mask. It is the
plug-in entropy of the groups' masks plus its first-order bias. `upper_bound` is used otherwise. One figure is
the bits of the columns of the mask one by one, each with the same correction. The other is log2 C(M, N) per group. The
smaller of the two is taken. It is log2 C(M, N)
unless columns are kept with different frequency.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import encodings
from nmsim.mask import BoolArray, complete, to_words
from nmsim.pattern import Pattern

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
