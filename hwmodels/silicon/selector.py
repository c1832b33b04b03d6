"""The selector that keeps the N largest of M magnitudes: its comparators, its stages, its cells."""

import functools
from collections.abc import Iterator
from typing import NamedTuple, get_args

from hwmodels.silicon.cells import Cells
from hwmodels.silicon.structures import index_bits, popcount
from hwmodels.tensorcore.record import SelectorKind
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError
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
def network(pattern: Pattern, kind: SelectorKind) -> Network:
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
        raise SpecError(f"selector kind {kind!r}: expected half or bitonic for a network of comparators")
    width = 1 << index_bits(pattern.m)
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
    block = 1 << index_bits(count)
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


def comparators(pattern: Pattern, kind: SelectorKind) -> int:
    """Count the comparators of a selector.

    Parameters
    ----------
    pattern : Pattern
    kind : {"all_pairs", "bitonic", "half"}
        `"all_pairs"` compares each of M(M-1)/2 pairs at once and counts the wins of every element.

    Raises
    ------
    SpecError
        Another kind.

    Examples
    --------
    >>> comparators(Pattern(8, 16), "all_pairs"), comparators(Pattern(8, 16), "half")
    (120, 56)
    """
    _check_kind(kind)
    if pattern.n == pattern.m:
        return 0
    return pattern.m * (pattern.m - 1) // 2 if kind == "all_pairs" else network(pattern, kind).comparators


def stages(pattern: Pattern, kind: SelectorKind) -> int:
    """Count the comparators that a key passes one after another; with `"all_pairs"`, which only counts wins then, 1.

    Examples
    --------
    >>> [stages(Pattern(m // 2, m), "half") for m in (4, 8, 16, 32)]
    [2, 4, 7, 11]
    """
    _check_kind(kind)
    if pattern.n == pattern.m:
        return 0
    return 1 if kind == "all_pairs" else len(network(pattern, kind).stages)


def key_bits(dtype: str) -> int:
    """Bits by which magnitudes of a value type are compared.

    All bits except the sign of a float (18 of TF32); all bits of an integer, whose magnitude is taken first.

    Raises
    ------
    SpecError
        No such value type.

    Examples
    --------
    >>> key_bits("fp16"), key_bits("int8"), key_bits("tf32")
    (15, 8, 18)
    """
    if dtype not in VALUE_BITS:
        raise SpecError(f"dtype={dtype!r}: expected one of {', '.join(VALUE_BITS)}")
    if dtype == "tf32":
        return 18
    return VALUE_BITS[dtype] - (not dtype.startswith("int"))


def selector_cells(pattern: Pattern, kind: SelectorKind, dtype: str, latency_cycles: int = 0) -> Cells:
    """Count the cells that turn a group of M values into its mask.

    Parameters
    ----------
    pattern : Pattern
    kind : {"all_pairs", "bitonic", "half"}
    dtype : str
        Type of the values.
    latency_cycles : int
        Ranks of registers that a key passes on its way.

    Returns
    -------
    Cells
        First come magnitudes of integers. A network has comparators of key and position (for ties), two multiplexers
        per wire to swap them, and a decoder of each kept position. `"all_pairs"` has comparators of keys alone, a
        population count of wins for each element, and a comparison with N.

    Raises
    ------
    SpecError
        An unknown kind or value type, or a negative latency.

    Source
    ------
    Counted from the structure that is described here; no published netlist.

    Examples
    --------
    >>> selector_cells(Pattern(2, 4), "half", "fp16").comparator_bit
    68
    """
    _check_kind(kind)
    if isinstance(latency_cycles, bool) or not isinstance(latency_cycles, int) or latency_cycles < 0:
        raise SpecError(f"latency_cycles={latency_cycles!r}: expected a whole number, 0 or more")
    bits, position = key_bits(dtype), index_bits(pattern.m)
    if pattern.n == pattern.m:
        return Cells()
    magnitudes = Cells(half_adder=pattern.m * bits if dtype.startswith("int") else 0)
    count = comparators(pattern, kind)
    if kind == "all_pairs":
        compared = Cells(comparator_bit=count * bits)
        ranked = (popcount(pattern.m - 1) + Cells(comparator_bit=position)).times(pattern.m)
        return magnitudes + compared + ranked + Cells(flip_flop=latency_cycles * pattern.m * bits)
    wire = bits + position
    exchanged = Cells(comparator_bit=count * wire, mux2=2 * count * wire)
    marked = Cells(and2=pattern.n * pattern.m * max(position - 1, 0) + pattern.m * (pattern.n - 1))
    return magnitudes + exchanged + marked + Cells(flip_flop=latency_cycles * pattern.m * wire)


def _check_kind(kind: str) -> None:
    if kind not in get_args(SelectorKind):
        raise SpecError(f"selector kind {kind!r}: expected one of {', '.join(get_args(SelectorKind))}")
