"""The selector that keeps the N largest of M magnitudes: its comparators, its stages, its cells."""

from typing import get_args

from hwmodels.machine.comparators import network
from hwmodels.silicon.structures import Cells, index_bits, popcount
from hwmodels.tensorcore.record import SelectorKind
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError
from nmsim.pattern import Pattern


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
