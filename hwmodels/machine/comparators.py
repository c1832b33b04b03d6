"""Networks of comparators that put the N largest of M keys on known wires."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

from nmsim.errors import SpecError, brief
from nmsim.pattern import Pattern

Stage = tuple[tuple[int, int], ...]
"""Comparators that work side by side; each leaves the greater key on its first wire."""


class Network(NamedTuple):
    """Comparators stage by stage over M wires (M rounded up to a power of two), and the wires that end up kept."""

    stages: tuple[Stage, ...]
    kept: tuple[int, ...]

    @property
    def comparators(self) -> int:
        """Comparators of all stages."""
        return sum(map(len, self.stages))


@functools.lru_cache(maxsize=256)
def network(pattern: Pattern, kind: str) -> Network:
    """Build the network of comparators that puts the N largest keys of a group on known wires.

    Parameters
    ----------
    pattern : Pattern
        M is rounded up to a power of two: the wires beyond M carry the smallest key (assumption A5).
    kind : {"half", "bitonic"}
        `"bitonic"` sorts the whole group. `"half"` sorts blocks of as many elements as are kept, or as are
        dropped if that is less. Then a half-cleaner removes half of two blocks at a time. For N = M/2 these are two
        sorters and one half-cleaner.

    Returns
    -------
    Network

    Raises
    ------
    SpecError
        Another kind.

    Source
    ------
    K. Batcher, Sorting networks and their applications, AFIPS 1968. Selection by half-cleaners: Shanbhag, Pirk and
    Madden, Efficient Top-K Query Processing on GPUs, SIGMOD 2018.

    Examples
    --------
    >>> [network(Pattern(m // 2, m), "half").comparators for m in (4, 8, 16, 32)]
    [4, 16, 56, 176]
    >>> [len(network(Pattern(m // 2, m), "bitonic").stages) for m in (4, 8, 16, 32)]
    [3, 6, 10, 15]
    """
    if kind not in ("half", "bitonic"):
        raise SpecError(f"selector kind {brief(kind)}: expected half or bitonic for a network of comparators")
    width = 1 << (pattern.m - 1).bit_length()
    if pattern.n == pattern.m:
        return Network((), tuple(range(pattern.n)))
    if kind == "bitonic":
        return Network(tuple(_sort([range(width)])), tuple(range(pattern.n)))
    keep_largest = 2 * pattern.n <= width
    fewer = pattern.n if keep_largest else width - pattern.n
    stages, chosen = _select(width, fewer)
    if keep_largest:
        return Network(stages, chosen)
    mirrored = tuple(tuple((low, high) for high, low in stage) for stage in stages)
    return Network(mirrored, tuple(wire for wire in range(width) if wire not in chosen))


def _select(width: int, count: int) -> tuple[tuple[Stage, ...], tuple[int, ...]]:
    """Stages that put the `count` largest keys of `width` wires on the wires that come back."""
    block = 1 << (count - 1).bit_length()
    blocks = [range(start, start + block) for start in range(0, width, block)]
    stages = list(_sort(blocks))
    while len(blocks) > 1:
        pairs = list(zip(blocks[::2], blocks[1::2], strict=True))
        stages.append(
            tuple((a, b) for left, right in pairs for a, b in zip(left, reversed(right), strict=True))
        )
        blocks = [left for left, _ in pairs]
        if len(blocks) > 1 or count < block:
            stages.extend(_merge(blocks, block))
    return tuple(stages), tuple(blocks[0][:count])


def _sort(blocks: list[range]) -> Iterator[Stage]:
    """Sort every block, largest first: pairs of sorted halves are cleaned against each other, then merged."""
    size = 2
    while size <= len(blocks[0]):
        parts = [block[i : i + size] for block in blocks for i in range(0, len(block), size)]
        yield tuple((part[i], part[size - 1 - i]) for part in parts for i in range(size // 2))
        yield from _merge(
            [half for part in parts for half in (part[: size // 2], part[size // 2 :])], size // 2
        )
        size *= 2


def _merge(blocks: list[range], size: int) -> Iterator[Stage]:
    """Sort blocks that are bitonic already."""
    half = size // 2
    while half:
        yield tuple(
            (block[i], block[i + half])
            for block in blocks
            for i in range(len(block))
            if i % (2 * half) < half
        )
        half //= 2
