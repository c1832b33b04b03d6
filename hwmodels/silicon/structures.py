"""What structures are built of: counts of standard cells, before anybody says what a cell costs."""

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, Self, get_args

from nmsim.errors import SpecError, brief
from nmsim.pattern import Pattern
from nmsim.units import ceil_div


@dataclass(frozen=True)
class Cells:
    """Counts of the cells of a structure. Sums and multiples of structures are structures.

    Parameters
    ----------
    full_adder, half_adder : int
        One bit of an addition or a subtraction.
    comparator_bit : int
        One bit of deciding which of two numbers is greater.
    mux2 : int
        Two inputs, one bit.
    and2 : int
        Two-input gates: AND or OR.
    flip_flop : int
    rom_bits : int

    Raises
    ------
    SpecError
        A count is not a whole number of 0 or more.

    Examples
    --------
    >>> Cells(mux2=3) + Cells(and2=1).times(4)
    Cells(full_adder=0, half_adder=0, comparator_bit=0, mux2=3, and2=4, flip_flop=0, rom_bits=0)
    """

    full_adder: int = 0
    half_adder: int = 0
    comparator_bit: int = 0
    mux2: int = 0
    and2: int = 0
    flip_flop: int = 0
    rom_bits: int = 0

    def __post_init__(self) -> None:
        for name, count in zip(FIELDS, counts(self), strict=True):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise SpecError(f"cells: {name}={brief(count)}: expected a whole number, 0 or more")

    def __add__(self, other: "Cells") -> Self:
        return type(self)(*(a + b for a, b in zip(counts(self), counts(other), strict=True)))

    def times(self, copies: int) -> Self:
        """So many copies of the structure."""
        return type(self)(*(count * copies for count in counts(self)))

    def shared_with(self, other: "Cells") -> Self:
        """A structure that can serve as either of two, one at a time: the larger count of every cell."""
        return type(self)(*map(max, counts(self), counts(other)))


FIELDS = tuple(part.name for part in fields(Cells))
counts = operator.attrgetter(*FIELDS)
"""All counts of a structure as a tuple."""
LOGIC_CELLS = FIELDS[:-1]
"""All but `rom_bits`: those with an equivalent in gates."""


SelectStructure = Literal["mux", "ordered_mux", "onehot", "crossbar", "banked", "butterfly", "benes"]


def index_bits(count: int) -> int:
    """Bits that tell `count` things apart.

    Examples
    --------
    >>> index_bits(16), index_bits(17), index_bits(1)
    (4, 5, 0)
    """
    return (count - 1).bit_length()


def popcount(bits: int) -> Cells:
    """Count the adders that add up `bits` bits: at every weight three bits become a sum and a carry, until one is left.

    Source
    ------
    Counting by full adders, Knuth, TAOCP 7.1.2. `bits` less the ones of `bits` in binary are adders of either kind.

    Examples
    --------
    >>> popcount(7).full_adder, popcount(8).full_adder, popcount(8).half_adder
    (4, 4, 3)
    """
    full = half = 0
    while bits > 1:
        full += (bits - 1) // 2
        half += bits % 2 == 0
        bits //= 2
    return Cells(full_adder=full, half_adder=half)


def prefix_sums(count: int, widths: Iterable[int]) -> Cells:
    """Count the adders of a Sklansky network that makes all prefix sums of `count` numbers.

    Parameters
    ----------
    count : int
    widths : iterable of int
        Bits of an adder at each level; as many levels as `index_bits(count)`.

    Source
    ------
    J. Sklansky, Conditional-sum addition logic, 1960: position p adds at level l where bit l of p is set.

    Examples
    --------
    >>> prefix_sums(16, [1, 2, 3, 4]).full_adder
    80
    """
    levels = range(index_bits(count))
    return Cells(
        full_adder=sum(
            width * sum(p >> level & 1 for p in range(count))
            for level, width in zip(levels, widths, strict=True)
        )
    )


def slot_lines(pattern: Pattern) -> Cells:
    """Count the cells that compute, from a mask, the kept element of every position.

    There are prefix counts of the mask's ones. Each possible pair of position and slot, N(M - N + 1) of them, has a line. It
    is set if the position goes to the slot: the decoded count, and the mask's own bit.

    Examples
    --------
    >>> slot_lines(Pattern(2, 4))
    Cells(full_adder=6, half_adder=0, comparator_bit=0, mux2=0, and2=12, flip_flop=0, rom_bits=0)
    """
    if pattern.n == pattern.m:
        return Cells()
    counter = pattern.n.bit_length()
    widths = (min(level + 1, counter) for level in range(index_bits(pattern.m)))
    lines = pattern.n * (pattern.m - pattern.n + 1)
    return prefix_sums(pattern.m, widths) + Cells(and2=lines * counter)


def mask_to_positions(pattern: Pattern) -> Cells:
    """Count the cells that turn a mask into N positions: `slot_lines`, and each slot's lines put into binary by ORs.

    Examples
    --------
    >>> mask_to_positions(Pattern(2, 4)).and2
    16
    """
    per_slot = index_bits(pattern.m) * ((pattern.m - pattern.n + 1) // 2)
    return slot_lines(pattern) + Cells(and2=pattern.n * per_slot if pattern.n < pattern.m else 0)


def operand_select(
    patterns: Iterable[Pattern], value_bits: int, macs: int, structure: SelectStructure = "mux"
) -> Cells:
    """Count the cells that bring kept values together with their elements of operand B.

    Parameters
    ----------
    patterns : iterable of Pattern
        What a core takes, one at a time: the larger count of every cell serves them all. None: nothing to select.
    value_bits : int
        Bits of an element of operand B.
    macs : int
        Multiply-adds that are fed side by side with one row or column of operand B.
    structure : {"mux", "ordered_mux", "crossbar", "banked", "benes"}
        `"mux"`: an M:1 multiplexer for each multiply-add, M - 1 of two inputs per bit. `"ordered_mux"`: only M - N + 1
        inputs, which is enough if positions ascend. `"crossbar"`, and `"banked"` with a crossbar before its banks: per
        group N x M gates per bit, ORs for each output, and the decoded positions. `"benes"`: M log2 M - M/2 switches
        of two multiplexers per bit for each group, M rounded up to a power of two. The logic for its settings is
        not counted (assumption A39).

    Returns
    -------
    Cells

    Raises
    ------
    SpecError
        Another structure, or no positive number of bits or multiply-adds.

    Source
    ------
    A multiplexer of M inputs is a tree of M - 1. Benes network: V. Benes, Mathematical Theory of Connecting Networks
    and Telephone Traffic, 1965.

    Examples
    --------
    >>> operand_select([Pattern(2, 4)], 16, 4).mux2, operand_select([Pattern(8, 16)], 16, 4).mux2
    (192, 960)
    >>> operand_select([Pattern(2, 4), Pattern(8, 16)], 16, 4).mux2
    960
    """
    if structure not in get_args(SelectStructure):
        raise SpecError(
            f"select structure {brief(structure)}: expected one of {', '.join(get_args(SelectStructure))}"
        )
    for name, value in (("value_bits", value_bits), ("macs", macs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"{name}={brief(value)}: expected a positive whole number")
    needs = (_select_one(pattern, value_bits, macs, structure) for pattern in patterns)
    return functools.reduce(Cells.shared_with, needs, Cells())


def _select_one(pattern: Pattern, value_bits: int, macs: int, structure: SelectStructure) -> Cells:
    n, m = pattern.n, pattern.m
    if n == m:
        return Cells()
    if structure in ("mux", "ordered_mux"):
        inputs = m if structure == "mux" else m - n + 1
        return Cells(mux2=macs * (inputs - 1) * value_bits)
    groups = ceil_div(macs, n)
    if structure == "onehot":
        return Cells(and2=groups * n * (m - n + 1) * value_bits)
    if structure in ("benes", "butterfly"):
        levels = index_bits(m)
        switches = (levels << levels) - ((1 << levels) >> 1)
        return Cells(mux2=groups * switches * 2 * value_bits)
    crosspoints = n * m * value_bits + n * (m - 1) * value_bits
    return Cells(and2=groups * (crosspoints + n * m * max(index_bits(m) - 1, 0)))
