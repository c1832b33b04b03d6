"""What a structure is built of: counts of standard cells, before anybody says what a cell costs."""

import operator
from dataclasses import dataclass, fields
from typing import Self

from nmsim.errors import SpecError


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
                raise SpecError(f"cells: {name}={count!r}: expected a whole number, 0 or more")

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
