"""Decoders and encoders of metadata as cells: from a code to the positions of a group, and back, one group at a time."""

import math

from hwmodels.silicon.structures import Cells, index_bits, mask_to_positions, prefix_sums, slot_lines
from hwmodels.silicon.technology import Technology
from nmsim.errors import EncodingError
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern


def decoder(format: SparseFormat, technology: Technology) -> Cells:
    """Count the cells that turn codes into positions, one group at a time.

    Parameters
    ----------
    format : SparseFormat
    technology : Technology
        Decides whether a combinatorial code is looked up or unranked: what takes less area.

    Returns
    -------
    Cells
        `index`: none, codes are positions. `bitmask`: `mask_to_positions`. `gap`: prefix sums of N gaps, and a
        constant added to each. `combinatorial`: `rom_decoder` or `unranking_decoder`. `joint`: a division by C(M, N)
        for each group, then as `combinatorial`.

    Raises
    ------
    EncodingError
        `gap` with escapes, whose codes have no fixed place.

    Examples
    --------
    >>> from hwmodels.silicon import technology
    >>> decoder(SparseFormat.parse("2:4/index"), technology.load(7)) == Cells()
    True
    >>> decoder(SparseFormat.parse("2:4/combinatorial"), technology.load(7)).rom_bits
    24
    """
    pattern, family = format.pattern, _family(format)
    if family == "index":
        return Cells()
    if family == "bitmask":
        return mask_to_positions(pattern)
    if family == "gap":
        bits = index_bits(pattern.m)
        return prefix_sums(pattern.n, [bits] * index_bits(pattern.n)) + Cells(half_adder=pattern.n * bits)
    lookup, unranking = rom_decoder(pattern), unranking_decoder(pattern)
    smaller = min(lookup, unranking, key=lambda cells: technology.um2(cells).nominal)
    return smaller if family == "combinatorial" else smaller + _digit_divider(format)


def rom_decoder(pattern: Pattern) -> Cells:
    """Count the cells of a table of all masks, C(M, N) entries of M bits, and of what makes positions of a mask.

    Examples
    --------
    >>> rom_decoder(Pattern(8, 16)).rom_bits
    205920
    """
    return Cells(rom_bits=pattern.configurations * pattern.m) + mask_to_positions(pattern)


def unranking_decoder(pattern: Pattern) -> Cells:
    """Count the cells of M steps that each compare the code with a binomial, subtract it and set a bit of the mask.

    A step at position p looks up C(p, k) for the k elements still to place, and subtracts. The borrow is the comparison, and
    a multiplexer keeps one of the two numbers. The step counts k down and registers code, k and mask. So a group enters
    every cycle. Then `mask_to_positions`.

    Source
    ------
    Combinatorial number system, Knuth, TAOCP 7.2.1.3.

    Examples
    --------
    >>> unranking_decoder(Pattern(2, 4)).full_adder
    12
    """
    counter = pattern.n.bit_length()
    total = mask_to_positions(pattern)
    for p in range(pattern.m - 1, 0, -1):
        bits = _rest_bits(pattern, p + 1)
        if not bits:
            continue
        table = sum(math.comb(p, k).bit_length() for k in range(1, min(pattern.n, p) + 1))
        total += Cells(
            full_adder=bits,
            half_adder=counter,
            mux2=bits,
            flip_flop=bits + counter + pattern.m - p,
            rom_bits=table,
        )
    return total


def encoder(format: SparseFormat) -> Cells:
    """Count the cells that turn masks into codes, one group at a time, as activations need that are pruned online.

    Parameters
    ----------
    format : SparseFormat

    Returns
    -------
    Cells
        `bitmask`: none. `index`: `mask_to_positions`. `gap`: and differences of neighbours. `combinatorial`:
        `slot_lines` that pick C(p, j + 1) for the kept element j at position p, and a tree that adds N of them.
        `joint`: and a multiplication by C(M, N) and an addition.

    Raises
    ------
    EncodingError
        As `decoder`.

    Examples
    --------
    >>> encoder(SparseFormat.parse("8:16/bitmask")) == Cells()
    True
    """
    pattern, family = format.pattern, _family(format)
    if family == "bitmask":
        return Cells()
    if family in ("index", "gap"):
        differences = (pattern.n - 1) * index_bits(pattern.m) if family == "gap" else 0
        return mask_to_positions(pattern) + Cells(full_adder=differences)
    ranking = _ranking(pattern)
    if family == "combinatorial":
        return ranking
    whole = format.code_bits
    return ranking + Cells(full_adder=whole * (_code_bits(pattern) + 1), flip_flop=whole)


def _ranking(pattern: Pattern) -> Cells:
    table = sum(
        math.comb(p, j + 1).bit_length()
        for j in range(pattern.n)
        for p in range(j, j + pattern.m - pattern.n + 1)
    )
    summed = Cells(full_adder=(pattern.n - 1) * _code_bits(pattern))
    return slot_lines(pattern) + summed + (Cells(rom_bits=table) if pattern.n < pattern.m else Cells())


def _digit_divider(format: SparseFormat) -> Cells:
    """One restoring division of a joint code by C(M, N), used once for each group; the quotient goes round."""
    whole = format.code_bits
    digit = _code_bits(format.pattern)
    steps = max(0, whole - digit)
    return Cells(full_adder=steps * (digit + 1), mux2=steps * (digit + 1), flip_flop=whole if steps else 0)


def _code_bits(pattern: Pattern) -> int:
    return (pattern.configurations - 1).bit_length()


def _rest_bits(pattern: Pattern, positions: int) -> int:
    """Bits of what is left of a code when `positions` positions are still open."""
    most = max(math.comb(positions, k) for k in range(min(pattern.n, positions) + 1))
    return min((most - 1).bit_length(), _code_bits(pattern))


def _family(format: SparseFormat) -> str:
    pattern, known = format.pattern, format.encoding
    family = known.spec.name
    if family == "gap" and known.expected_bits_per_group(pattern) != known.bits_per_group(pattern):
        raise EncodingError(
            f"encoding {known.name!r} of {pattern}: no hardware is modelled for symbols with escapes; expected `gap`"
        )
    return family
