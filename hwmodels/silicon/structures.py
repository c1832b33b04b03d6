"""Cells of what is counted, not synthesised: multipliers' sums, aligned trees of products, and the accumulation behind them."""

import operator
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError, brief


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

    Raises
    ------
    SpecError
        A count is not a whole number of 0 or more.

    Examples
    --------
    >>> Cells(mux2=3) + Cells(and2=1).times(4)
    Cells(full_adder=0, half_adder=0, comparator_bit=0, mux2=3, and2=4)
    """

    full_adder: int = 0
    half_adder: int = 0
    comparator_bit: int = 0
    mux2: int = 0
    and2: int = 0

    def __post_init__(self) -> None:
        for name, count in zip(FIELDS, counts(self), strict=True):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise SpecError(f"cells: {name}={brief(count)}: expected a whole number, 0 or more")

    def __add__(self, other: "Cells") -> Self:
        return type(self)(*(a + b for a, b in zip(counts(self), counts(other), strict=True)))

    def times(self, copies: int) -> Self:
        """So many copies of the structure."""
        return type(self)(*(count * copies for count in counts(self)))


FIELDS = tuple(part.name for part in fields(Cells))
counts = operator.attrgetter(*FIELDS)
"""All counts of a structure as a tuple."""
LOGIC_CELLS = (*FIELDS, "flip_flop")
"""Cells with an equivalent in gates."""


def index_bits(count: int) -> int:
    """Bits that tell `count` things apart.

    Examples
    --------
    >>> index_bits(16), index_bits(17), index_bits(1)
    (4, 5, 0)
    """
    return (count - 1).bit_length()


class FloatType(NamedTuple):
    """Bits of a floating-point type: of its exponent, of its significand with the leading one, and of any exact product."""

    exponent_bits: int
    significand_bits: int
    exact_bits: int


FLOATS = {
    "fp32": FloatType(8, 24, 554),
    "tf32": FloatType(8, 11, 528),
    "fp16": FloatType(5, 11, 80),
    "bf16": FloatType(8, 8, 522),
    "fp8": FloatType(5, 4, 64),
    "fp4": FloatType(2, 2, 8),
}
"""`exact_bits`: fixed point that holds every product, 2 (largest - smallest exponent + significand). fp8: E4M3 and E5M2."""
SUM_EXPONENT_BITS = 8
"""Of a partial sum of 32 bits."""
SUM_SIGNIFICAND_BITS = 24
INTEGER_BITS = 2
"""A product of two significands is below 4."""


def significand_bits(dtype: str) -> int:
    """Bits of the two numbers that a multiplier of this value type multiplies: significands, or integers.

    Raises
    ------
    SpecError
        No such value type.

    Examples
    --------
    >>> [significand_bits(dtype) for dtype in ("fp16", "bf16", "fp8", "int8")]
    [11, 8, 4, 8]
    """
    if dtype not in VALUE_BITS:
        raise SpecError(f"dtype={brief(dtype)}: expected one of {', '.join(VALUE_BITS)}")
    return FLOATS[dtype].significand_bits if dtype in FLOATS else VALUE_BITS[dtype]


def word_bits(dtype: str, fraction_bits: int) -> int:
    """Bits of an aligned product, without sign and carries.

    An integer product is exact. A product of floats keeps `fraction_bits` behind the leading bit of the largest one, or is
    exact if that takes no more.

    Examples
    --------
    >>> word_bits("int8", 25), word_bits("fp16", 25), word_bits("fp4", 25)
    (16, 27, 8)
    """
    if dtype not in FLOATS:
        return 2 * significand_bits(dtype)
    return min(FLOATS[dtype].exact_bits, fraction_bits + INTEGER_BITS)


def shifter(into_bits: int, word: int, amount_bits: int) -> Cells:
    """Count the cells of a right shift of `into_bits` into a word, by any amount of `amount_bits`.

    A stage is a multiplexer for each bit that it can find in two places, and a gate for each that it finds in one. Amounts
    beyond the word clear it.

    Examples
    --------
    >>> shifter(4, 8, 3)
    Cells(full_adder=0, half_adder=0, comparator_bit=0, mux2=9, and2=11)
    """
    mux2 = and2 = 0
    bits, stages = min(into_bits, word), min(index_bits(word), amount_bits)
    for shift in (1 << stage for stage in range(stages)):
        out = min(word, bits + shift)
        both = max(0, bits - shift)
        mux2, and2, bits = mux2 + both, and2 + out - both, out
    beyond = amount_bits - stages
    return Cells(mux2=mux2, and2=and2 + (word + beyond if beyond else 0))


def sum_of(words: int, bits: int) -> Cells:
    """Count the adders of a tree that adds words up, each level a bit wider than the one before.

    Examples
    --------
    >>> sum_of(4, 8).full_adder
    28
    """
    adders = 0
    while words > 1:
        bits += 1
        adders += (words // 2) * bits
        words -= words // 2
    return Cells(full_adder=adders)


def product_tree(dtype: str, products: int, fraction_bits: int) -> Cells:
    """Count the cells that add up the products of one cell of the array, exact and not yet normalised.

    Parameters
    ----------
    dtype : str
        Type of the values.
    products : int
        That are summed in a cycle.
    fraction_bits : int
        Bits of an aligned product behind the leading bit of the largest one; what is shifted out is cut off.

    Returns
    -------
    Cells
        Integers: a tree of adders. Floats: sums of exponents, the largest of them, differences to it, a shifter and the choice
        of the complement for each product, and the tree. If products fit into the word whatever their exponents, as of fp4,
        there is nothing to compare.

    Source
    ------
    NVIDIA tensor cores align products to the largest and cut off: Fasi et al., PeerJ Computer Science 7:e330, 2021; Khattak
    and Mikaitis, arXiv 2512.07004. Counted by this structure; no published netlist.

    Examples
    --------
    >>> product_tree("int8", 16, 25).full_adder
    266
    """
    word = word_bits(dtype, fraction_bits)
    if dtype not in FLOATS:
        return sum_of(products, word)
    kind = FLOATS[dtype]
    exponent = kind.exponent_bits + 1
    each = Cells(full_adder=kind.exponent_bits, mux2=word)
    if word < kind.exact_bits:
        each += Cells(comparator_bit=exponent, mux2=exponent, full_adder=exponent)
    each += shifter(2 * kind.significand_bits, word, exponent)
    return each.times(products) + sum_of(products, word + 1)


def accumulation(dtype: str, products: int, fraction_bits: int) -> Cells:
    """Count the cells that add a tree's sum to a partial sum of 32 bits, once per cell of the array.

    Returns
    -------
    Cells
        Integers: an adder. Floats: the partial sum is aligned with the products, added, and normalised: magnitude, leading
        zeros, a left shifter, the exponent. It is cut off and not rounded.

    Source
    ------
    As `product_tree`.

    Examples
    --------
    >>> accumulation("int8", 16, 25)
    Cells(full_adder=32, half_adder=0, comparator_bit=0, mux2=0, and2=0)
    """
    if dtype not in FLOATS:
        return Cells(full_adder=32)
    word = max(word_bits(dtype, fraction_bits), SUM_SIGNIFICAND_BITS)
    total = word + 1 + index_bits(products + 1)
    aligned = Cells(
        comparator_bit=SUM_EXPONENT_BITS, mux2=SUM_EXPONENT_BITS + word, full_adder=SUM_EXPONENT_BITS
    ) + shifter(SUM_SIGNIFICAND_BITS, word, SUM_EXPONENT_BITS)
    magnitude = Cells(half_adder=total, mux2=total)
    # A tree over pairs: a gate says whether a half is empty, and multiplexers pass on where the leading one is.
    leading = Cells(and2=total, mux2=total)
    normalised = Cells(mux2=total * index_bits(total), full_adder=SUM_EXPONENT_BITS)
    return aligned + Cells(full_adder=total) + magnitude + leading + normalised
