"""What the zeros of a tensor say: non-zeros per group, the smallest N:M that holds, and what a stated N:M means."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import PatternError
from nmsim.interchange.tensors import Block, BoolArray, DenseTensor, nonzero
from nmsim.mask import complete
from nmsim.pattern import Pattern

GROUPS = (4, 8, 16, 32)
"""Values of M that are tried if no pattern is named."""


@dataclass
class Survey:
    """What one reading of a tensor tells.

    Parameters
    ----------
    nonzeros, negative_zeros : int
        Elements that are not zero, and zeros with their sign bit set.
    most : dict of M to int
        Most non-zeros in a group of M along the columns.
    violations : int
        Groups of `pattern` with more than N non-zeros.
    first : (int, int) or None
        Row and group of the first of them.
    """

    pattern: Pattern | None = None
    nonzeros: int = 0
    negative_zeros: int = 0
    most: dict[int, int] = field(default_factory=dict)
    violations: int = 0
    first: tuple[int, int] | None = None

    def smallest(self) -> Pattern | None:
        """The N:M of the lowest density that holds, of the smallest M; None if every M has a full group.

        Examples
        --------
        >>> Survey(most={4: 2, 8: 4, 16: 8}).smallest()
        Pattern(n=2, m=4)
        """
        held = [Pattern(max(1, most), m) for m, most in sorted(self.most.items()) if most < m]
        return min(held, key=lambda pattern: pattern.density) if held else None


def group_counts(mask: BoolArray, m: int) -> NDArray[np.uint8] | NDArray[np.int64]:
    """Count what is set in each group of M along the columns: bool [rows, K] -> [rows, groups]; a tail is a group.

    Examples
    --------
    >>> group_counts(np.array([[True, False, True, True, True, False]]), 4).tolist()
    [[3, 1]]
    """
    rows, columns = mask.shape
    short = -columns % m
    if short:
        mask = np.pad(mask, ((0, 0), (0, short)))
    if m in (8, 16, 32, 64):
        words = np.packbits(mask, axis=1, bitorder="little").view(f"<u{m // 8}")
        counts: NDArray[np.uint8] = np.bitwise_count(words)
        return counts
    sums: NDArray[np.int64] = np.add.reduce(mask.reshape(rows, -1, m), axis=2, dtype=np.int64)
    return sums


def survey(tensor: DenseTensor, pattern: Pattern | None = None, *, groups: tuple[int, ...] = ()) -> Survey:
    """Read a matrix once and count.

    Parameters
    ----------
    tensor : DenseTensor
        A matrix.
    pattern : Pattern, optional
        Whose violations are counted.
    groups : tuple of int
        Values of M of `most`.
    """
    found = Survey(pattern, most=dict.fromkeys(groups, 0))
    row = 0
    for block in tensor.blocks():
        mask = nonzero(block.values)
        found.nonzeros += int(np.count_nonzero(mask))
        found.negative_zeros += int(np.count_nonzero(_stored(block.values) & ~mask))
        for m in groups:
            found.most[m] = max(found.most[m], int(group_counts(mask, m).max(initial=0)))
        if pattern is not None:
            over = group_counts(mask, pattern.m) > pattern.n
            count = int(np.count_nonzero(over))
            if count and found.first is None:
                at, group = np.unravel_index(int(np.argmax(over)), over.shape)
                found.first = row + int(at), int(group)
            found.violations += count
        row += len(mask)
    return found


def _stored(values: NDArray[np.generic]) -> BoolArray:
    """Whether any bit of an element is set."""
    bits: BoolArray = values.view(f"u{values.dtype.itemsize}") != 0
    return bits


def stated_pattern(text: str, found: Survey, *, where: str) -> Pattern:
    """Say which N:M a file means that states a pattern without saying whether N counts the kept or the pruned.

    The zeros decide: of N:M and (M-N):M the one with fewer kept elements that holds in every group. If neither holds,
    the user must say.

    Parameters
    ----------
    text : str
        Such as "2:8".
    found : Survey
        With `most` of that M.
    where : str
        Begins an error.

    Raises
    ------
    PatternError
        No pattern, or a tensor whose zeros hold neither reading.

    Examples
    --------
    >>> stated_pattern("2:8", Survey(most={8: 6}), where="config.json")
    Pattern(n=6, m=8)
    """
    stated = Pattern.parse(text)
    readings = sorted({stated.n, stated.m - stated.n} - {0})
    most = found.most[stated.m]
    for kept in readings:
        if most <= kept:
            return Pattern(kept, stated.m)
    raise PatternError(
        f"{where}: states {text}, and N counts kept elements in some tools and pruned ones in others. A group has {most} "
        f"non-zeros, so the zeros do not tell; expected a pattern with N kept, such as `-p {readings[0]}:{stated.m}`"
    )


def chosen(block: Block, pattern: Pattern, *, first_row: int = 0) -> BoolArray:
    """Choose exactly N stored positions in every group: bool [rows, G * M].

    The positions that the source stores stay if they are at most N per group. Otherwise those of the non-zeros are taken.
    Groups with fewer are completed at their lowest free positions, as `nmsim.compress` does.

    Raises
    ------
    PatternError
        A group with more than N non-zeros.
    """
    mask = nonzero(block.values)
    if block.kept is not None and int(group_counts(block.kept, pattern.m).max(initial=0)) <= pattern.n:
        mask |= block.kept
        if int(group_counts(mask, pattern.m).max(initial=0)) > pattern.n:
            mask = nonzero(block.values)
    return complete(mask, pattern, first_row=first_row)
