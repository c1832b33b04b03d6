"""Units of a core as cells: selectors, decoders and encoders of metadata, and the select network of one cell."""

import functools
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import get_args

from hwmodels.machine.comparators import network
from hwmodels.silicon.structures import (
    Cells,
    index_bits,
    mask_to_positions,
    operand_select,
    popcount,
    prefix_sums,
    slot_lines,
)
from hwmodels.silicon.technology import Technology, load
from hwmodels.tensorcore.latency import selector_cycles
from hwmodels.tensorcore.record import Network, SelectorKind, SparseTensorCore
from nmsim.case import VALUE_BITS
from nmsim.errors import EncodingError, SpecError, brief
from nmsim.format import SparseFormat, sparse_format
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
    if kind == "planes":
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
    if kind == "planes":
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
        raise SpecError(f"dtype={brief(dtype)}: expected one of {', '.join(VALUE_BITS)}")
    if dtype == "tf32":
        return 18
    return VALUE_BITS[dtype] - (not dtype.startswith("int"))


@functools.lru_cache(maxsize=1024, typed=True)
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
        raise SpecError(f"latency_cycles={brief(latency_cycles)}: expected a whole number, 0 or more")
    bits, position = key_bits(dtype), index_bits(pattern.m)
    if pattern.n == pattern.m:
        return Cells()
    magnitudes = Cells(half_adder=pattern.m * bits if dtype.startswith("int") else 0)
    count = comparators(pattern, kind)
    if kind == "all_pairs":
        compared = Cells(comparator_bit=count * bits)
        ranked = (popcount(pattern.m - 1) + Cells(comparator_bit=position)).times(pattern.m)
        return magnitudes + compared + ranked + Cells(flip_flop=latency_cycles * pattern.m * bits)
    if kind == "planes":
        # Bit by bit: the keys still in question are counted, compared with what is left of N, and narrowed.
        plane = popcount(pattern.m) + Cells(comparator_bit=position + 1, and2=3 * pattern.m)
        return magnitudes + plane.times(bits) + Cells(flip_flop=latency_cycles * 2 * pattern.m)
    wire = bits + position
    exchanged = Cells(comparator_bit=count * wire, mux2=2 * count * wire)
    marked = Cells(and2=pattern.n * pattern.m * max(position - 1, 0) + pattern.m * (pattern.n - 1))
    return magnitudes + exchanged + marked + Cells(flip_flop=latency_cycles * pattern.m * wire)


def _check_kind(kind: str) -> None:
    if kind not in get_args(SelectorKind):
        raise SpecError(f"selector kind {brief(kind)}: expected one of {', '.join(get_args(SelectorKind))}")


@functools.lru_cache(maxsize=1024)
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


@functools.lru_cache(maxsize=1024)
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
    return ranking + Cells(full_adder=whole * (index_bits(pattern.configurations) + 1), flip_flop=whole)


def _ranking(pattern: Pattern) -> Cells:
    table = sum(
        math.comb(p, j + 1).bit_length()
        for j in range(pattern.n)
        for p in range(j, j + pattern.m - pattern.n + 1)
    )
    summed = Cells(full_adder=(pattern.n - 1) * index_bits(pattern.configurations))
    return slot_lines(pattern) + summed + (Cells(rom_bits=table) if pattern.n < pattern.m else Cells())


def _digit_divider(format: SparseFormat) -> Cells:
    """One restoring division of a joint code by C(M, N), used once for each group; the quotient goes round."""
    whole = format.code_bits
    digit = index_bits(format.pattern.configurations)
    steps = max(0, whole - digit)
    return Cells(full_adder=steps * (digit + 1), mux2=steps * (digit + 1), flip_flop=whole if steps else 0)


def _rest_bits(pattern: Pattern, positions: int) -> int:
    """Bits of what is left of a code when `positions` positions are still open."""
    most = max(math.comb(positions, k) for k in range(min(pattern.n, positions) + 1))
    return min((most - 1).bit_length(), index_bits(pattern.configurations))


def _family(format: SparseFormat) -> str:
    pattern, known = format.pattern, format.encoding
    family = known.spec.name
    if family == "gap" and known.expected_bits_per_group(pattern) != known.bits_per_group(pattern):
        raise EncodingError(
            f"encoding {brief(known.name)} of {pattern}: no hardware is modelled for symbols with escapes; expected `gap`"
        )
    return family


def select_cells(core: SparseTensorCore) -> Cells:
    """Count the cells that feed one cell of the array, `array_depth` multiply-adds, whatever native pattern runs.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> select_cells(load_core("flexible-8x16")).mux2 == 16 * 15 * 16
    True
    """
    network = core.select_network
    needs = (
        select_one(pattern, core.lane_bits, core.array_depth, network, core.dual_sided)
        for pattern in core.patterns
    )
    return functools.reduce(Cells.shared_with, needs, Cells())


@functools.lru_cache(maxsize=1024)
def select_one(pattern: Pattern, value_bits: int, lanes: int, network: Network, dual_sided: bool) -> Cells:
    """Count the cells that feed the lanes of one cell of the array with elements of operand B, for one pattern.

    Where zeros of both operands are skipped, both are selected, by positions of the ones that two masks share. What lets
    lanes run ahead of each other is not counted (assumption A54).

    Examples
    --------
    >>> select_one(Pattern(2, 4), 16, 4, "mux", False).mux2
    192
    """
    cells = operand_select([pattern], value_bits, lanes, network)
    if not dual_sided:
        return cells
    return cells.times(2) + mask_to_positions(pattern) + Cells(and2=pattern.m)


def pass_cells(core: SparseTensorCore) -> Cells:
    """Count the cells on the way of one element of operand B through the network when nothing is selected.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> pass_cells(load_core("flexible-8x16")).mux2, pass_cells(load_core("dense")).mux2
    (64, 0)
    """
    levels = max(((pattern.m - 1).bit_length() for pattern in core.patterns), default=0)
    return Cells(mux2=levels * core.lane_bits)


def decoder_cells(core: SparseTensorCore) -> Cells:
    """Count the cells of one decoder of all encodings and native patterns.

    One pattern in one encoding at a time: logic is as large as the largest need. Tables of different content are all there.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> decoder_cells(load_core("flexible-8x16")).rom_bits
    1169
    """
    return _decoder_of(core.patterns, core.encodings, core.node_nm)


@functools.lru_cache(maxsize=256)
def _decoder_of(patterns: tuple[Pattern, ...], known: tuple[str, ...], node_nm: float) -> Cells:
    return _any_of(
        decoder(sparse_format(pattern, encoding=encoding), load(node_nm))
        for pattern in patterns
        for encoding in known
    )


def encoder_cells(core: SparseTensorCore) -> Cells:
    """Count the cells of one encoder, shared as in `decoder_cells`; none without a selector.

    A selector in the producer writes codes. One in the consumer hands positions to the array.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> encoder_cells(load_core("nvidia-like-2x4")) == Cells()
    True
    """
    if not core.selector_elements_per_cycle:
        return Cells()
    written = core.encodings if core.selector_placement == "producer" else ("index",)
    return _encoder_of(core.patterns, written)


@functools.lru_cache(maxsize=256)
def _encoder_of(patterns: tuple[Pattern, ...], written: tuple[str, ...]) -> Cells:
    return _any_of(
        encoder(sparse_format(pattern, encoding=encoding)) for pattern in patterns for encoding in written
    )


def pruner_cells(core: SparseTensorCore) -> Cells:
    """Count the cells of one selector that prunes to any native pattern, in any value type, with its ranks of registers.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> pruner_cells(load_core("flexible-8x16")).comparator_bit
    1064
    """
    needs = (
        selector_cells(pattern, core.selector_kind, dtype, selector_cycles(core, pattern, dtype))
        for pattern in core.patterns
        for dtype in core.dtypes
    )
    return functools.reduce(Cells.shared_with, needs, Cells())


def _any_of(needs: Iterable[Cells]) -> Cells:
    parts = list(needs)
    logic = functools.reduce(Cells.shared_with, (replace(cells, rom_bits=0) for cells in parts), Cells())
    return replace(logic, rom_bits=sum(cells.rom_bits for cells in parts))
