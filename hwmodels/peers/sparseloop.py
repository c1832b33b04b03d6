"""Sparseloop's sparse-tensor-core study (MICRO'22, figure 15), any layer, design and density of that family.

Three stages work at the same time and the slowest sets the cycles. They are MACs, reads from shared memory at 42 words
per cycle, and DRAM at 32 words per cycle. Values take one word of 8 bits each. Metadata take the bits that the study enters,
after Timeloop has rounded them up to a width that divides its metadata SRAM.

The core has 4 subpartitions of 16 rows by 16 columns of int8 MACs. Rows take M, columns take the kept values of a span of
K. A register file holds 16 x 128 sums per subpartition. So at most 128 columns of N pass before A is read again. Tiles of
A and B stay in 256 Ki words of shared memory with all of their K. An operand without metadata may be streamed through it
instead, and is then read from DRAM each time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from hwmodels.estimate.bounds import metadata_bits, stream
from nmsim.case import GemmShape
from nmsim.errors import SpecError, brief
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.units import ceil_div

SCHEMES = {
    Fraction("0.4375"): Pattern(7, 16),
    Fraction("0.375"): Pattern(3, 8),
    Fraction("0.3125"): Pattern(5, 16),
}
"""Weight density of a run -> its structure, if that is not 2:M (`design-to-scheme.yaml`)."""
DENSE = Pattern(1, 1)
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_LAYER = re.compile(rf"M([0-9]+)-K([0-9]+)-N([0-9]+)(?:-IAD{_NUMBER})?(?:-WD{_NUMBER})?", re.ASCII)
_EXPECTED_LAYER = "expected text such as 'M128-K1152-N1024-IAD0.44-WD0.25' (IAD and WD may be left out)"
_EXPECTED_DENSITY = (
    "expected a Pattern such as '2:8', or a density above 0, at most 1, such as 'WD-0.25' or 0.25"
)


@dataclass(frozen=True)
class StudyLayer:
    """Z[M, N] = A[M, K] B[K, N] in the letters of the study: A are the weights, B the activations, N counts tokens."""

    M: int
    K: int
    N: int
    operand_b_density: Fraction | None = None
    density: Fraction | None = None


def parse_layer(layer: object) -> StudyLayer:
    """Read a layer.

    Parameters
    ----------
    layer : str, GemmShape or StudyLayer
        The study's text: M out features, K in features, N tokens, IAD the density of B, WD that of A. Or a `GemmShape`,
        whose M and N trade places: there M counts tokens.

    Raises
    ------
    SpecError
        Another text or type, a dimension of 0, or a density that is not above 0 and at most 1.

    Examples
    --------
    >>> parse_layer("M128-K1152-N1024-IAD0.44")
    StudyLayer(M=128, K=1152, N=1024, operand_b_density=Fraction(11, 25), density=None)
    """
    if isinstance(layer, StudyLayer):
        return layer
    if isinstance(layer, GemmShape):
        return StudyLayer(layer.N, layer.K, layer.M)
    match = _LAYER.fullmatch(layer) if isinstance(layer, str) else None
    if match is None:
        raise SpecError(
            f"layer={brief(layer)} (type {type(layer).__name__}): {_EXPECTED_LAYER}, or a GemmShape"
        )
    M, K, N = (int(match[i]) for i in (1, 2, 3))
    if not M * K * N:
        raise SpecError(f"layer={brief(layer)}: a dimension is 0; {_EXPECTED_LAYER}")
    densities = [None if match[i] is None else Fraction(match[i]) for i in (4, 5)]
    for name, value in zip(("IAD", "WD"), densities, strict=True):
        if value is not None and not 0 < value <= 1:
            raise SpecError(f"layer={brief(layer)}: {name} is a density; expected one above 0, at most 1")
    return StudyLayer(M, K, N, *densities)


def parse_density(density: object, layer: StudyLayer) -> Pattern:
    """Find the structure that a weight density stands for in the study; `Pattern(1, 1)` is dense.

    Parameters
    ----------
    density : Pattern, str, int, float, Fraction or None
        `"WD-0.25"`, 0.25, `"2:8"` or `Pattern(2, 8)`. A bare number means what the study lets it mean, or else 2:M. None
        takes the WD of the layer.
    layer : StudyLayer

    Raises
    ------
    SpecError
        None of these, no structure has that density, or the layer's WD says otherwise.
    PatternError
        A text with a colon that is no pattern.

    Examples
    --------
    >>> print(parse_density("WD-0.3333", parse_layer("M128-K1152-N1024")))
    2:6
    """
    if density is None:
        if layer.density is None:
            raise SpecError(f"density=None, and the layer has no WD: {_EXPECTED_DENSITY}")
        return _structure(layer.density, _name_of(layer.density))
    pattern = _pattern_of(density)
    if layer.density is not None:
        named = _name_of(layer.density)
        if pattern.density != _structure(layer.density, named).density:
            raise SpecError(
                f"density={brief(density)}: the layer says {named}; expected the same, or no WD there"
            )
    return pattern


def _name_of(number: Fraction) -> str:
    return f"WD-{float(number):g}"


def _pattern_of(density: object) -> Pattern:
    if isinstance(density, Pattern):
        return density
    if isinstance(density, str) and ":" in density:
        return Pattern.parse(density)
    number = None
    if isinstance(density, str):
        match = re.fullmatch(rf"(?:WD-?)?{_NUMBER}", density, re.ASCII)
        number = Fraction(match[1]) if match else None
    elif isinstance(density, int | float | Fraction) and not isinstance(density, bool) and 0 < density <= 1:
        number = Fraction(str(density))
    if number is None or not 0 < number <= 1:
        raise SpecError(f"density={brief(density)} (type {type(density).__name__}): {_EXPECTED_DENSITY}")
    return _structure(number, density)


def _structure(number: Fraction, given: object) -> Pattern:
    if number == 1:
        return DENSE
    known = SCHEMES.get(round(number, 4))
    if known is not None:
        return known
    m = round(2 / number)
    if m < 2 or round(Fraction(2, m), 4) != round(number, 4):
        raise SpecError(
            f"density={brief(given)}: no 2:M has it, and many N:M might; expected a Pattern, such as Pattern(3, 5)"
        )
    return Pattern(2, m)


ARRAY_ROWS, ARRAY_COLUMNS, SUBPARTITIONS = 16, 16, 4
MACS = ARRAY_ROWS * ARRAY_COLUMNS * SUBPARTITIONS
SPAN_LIMIT = 64
"""Most elements of K that the columns select from."""
SUMS_PER_ROW = 128
WORD_BITS = 8
SMEM_WORDS = 262_144
SMEM_WORDS_PER_CYCLE, DRAM_WORDS_PER_CYCLE = 42, 32
LARGEST_TILE = 8
"""Most times that a tile of shared memory holds what the array works on at once, along M and along N."""


def ceil_times(count: int, ratio: Fraction) -> int:
    """Multiply by a ratio and round up.

    Examples
    --------
    >>> ceil_times(10, Fraction(1, 4))
    3
    """
    return ceil_div(count * ratio.numerator, ratio.denominator)


@dataclass(frozen=True)
class Reads:
    """What is read from one level of memory over the whole product.

    Parameters
    ----------
    a_elems, b_elems : int
        Elements of the weights and of the other operand, as stored.
    a_metadata_bits, b_metadata_bits : int
    """

    a_elems: int
    a_metadata_bits: int
    b_elems: int
    b_metadata_bits: int

    @property
    def bits(self) -> int:
        """All bits read."""
        return WORD_BITS * (self.a_elems + self.b_elems) + self.a_metadata_bits + self.b_metadata_bits


class Operands(NamedTuple):
    """The two operands as stored; A has M x K elements and B has K x N before compression."""

    M: int
    K: int
    N: int
    a_density: Fraction
    a_bits_per_value: Fraction
    b_elems: int
    b_metadata_bits: int

    def reads(self, a_passes: int, b_passes: int) -> Reads:
        """Count what so many passes over A and over B read."""
        a_elems = ceil_times(self.M * self.K * a_passes, self.a_density)
        return Reads(
            a_elems,
            ceil_times(a_elems, self.a_bits_per_value),
            self.b_elems * b_passes,
            self.b_metadata_bits * b_passes,
        )

    def tile_words(self, rows: int, columns: int, stream_a: bool, stream_b: bool) -> int:
        """Count the words of shared memory that a tile of each takes; a compressed B may turn out dense."""
        a = 0 if stream_a else ceil_times(min(rows, self.M) * self.K, self.a_density)
        return a + (0 if stream_b else min(columns, self.N) * self.K)


class Mapped(NamedTuple):
    """A mapping: how often M fills the rows of the array, and what is read from each level."""

    row_passes: int
    smem: Reads
    dram: Reads


def best_mapping(operands: Operands, span: int) -> Mapped:
    """Find the mapping with the fewest cycles, then the fewest bits from DRAM, then from shared memory.

    Parameters
    ----------
    operands : Operands
    span : int
        Elements of K that the columns take at once.

    Raises
    ------
    SpecError
        No tile with all of K fits the shared memory.

    Source
    ------
    Constraints and sizes: Sparseloop MICRO'22 artifact, fig15_stc_related_setup: `FlexibleGH-Ms-constraints.yaml`,
    `STC_flexible-RF2x-24-bandwidth-RLE.yaml`, `sweep.py`. Its mapper takes exact factors of M and N only; here the last
    tile may be partly empty.
    """
    best: tuple[tuple[int, int, int], Mapped] | None = None
    for mapped in _mappings(operands):
        cycles = max(
            mapped.row_passes * operands.N * ceil_div(operands.K, span),
            ceil_div(mapped.smem.bits, SMEM_WORDS_PER_CYCLE * WORD_BITS),
            ceil_div(mapped.dram.bits, DRAM_WORDS_PER_CYCLE * WORD_BITS),
        )
        rank = cycles, mapped.dram.bits, mapped.smem.bits
        if best is None or rank < best[0]:
            best = rank, mapped
    if best is None:
        raise SpecError(
            f"layer M{operands.M}-K{operands.K}-N{operands.N}: K={operands.K} is too long. A tile of all of K must fit "
            f"{SMEM_WORDS} words of shared memory"
        )
    return best[1]


def _mappings(operands: Operands) -> Iterator[Mapped]:
    may_stream_a, may_stream_b = not operands.a_bits_per_value, not operands.b_metadata_bits
    may_stream = [(a, b) for a in (False, may_stream_a) for b in (False, may_stream_b)]
    for subpartitions in range(1, SUBPARTITIONS + 1):
        rows = subpartitions * ARRAY_ROWS
        row_passes = ceil_div(operands.M, rows)
        columns = SUMS_PER_ROW
        while columns:
            column_passes = ceil_div(operands.N, columns)
            smem = operands.reads(column_passes, row_passes)
            for stream_a, stream_b in dict.fromkeys(may_stream):
                for a_passes, b_passes in _dram_passes(operands, rows, columns, stream_a, stream_b):
                    dram = operands.reads(
                        column_passes if stream_a else a_passes, row_passes if stream_b else b_passes
                    )
                    yield Mapped(row_passes, smem, dram)
            columns //= 2


def _dram_passes(
    operands: Operands, rows: int, columns: int, stream_a: bool, stream_b: bool
) -> Iterator[tuple[int, int]]:
    """Passes over A and over B from DRAM, for tiles as large as fit and either loop outside."""
    for column_tile in range(1, LARGEST_TILE + 1):
        fitting = (
            row_tile
            for row_tile in range(LARGEST_TILE, 0, -1)
            if operands.tile_words(rows * row_tile, columns * column_tile, stream_a, stream_b) <= SMEM_WORDS
        )
        row_tile = next(fitting, 0)
        if not row_tile:
            return
        row_tiles = ceil_div(operands.M, rows * row_tile)
        column_tiles = ceil_div(operands.N, columns * column_tile)
        yield 1, row_tiles if column_tiles > 1 else 1
        yield column_tiles if row_tiles > 1 else 1, 1


METADATA_SRAM_BITS = 64
"""Width of the metadata SRAM of the study's shared memory, and of its DRAM."""
TYPED_DIGITS = 5
"""Decimal digits of the densities in the study's input files: 2:6 is 0.33333 there."""
STC_PATTERN = Pattern(2, 4)
RUN_LENGTH_BITS = {Pattern(2, 6): 2}
"""Run-length symbols that the study types in narrower than the longest run needs: 2 bits for runs of 0 to 4."""


class Design(NamedTuple):
    """A tensor core of the study: what it makes of sparse weights, how it codes them, whether B is compressed too."""

    pattern: Literal["none", "2:4", "any"]
    metadata: Literal["", "CP", "RLE"] = ""
    compresses_b: bool = False


DESIGNS = {
    "TC": Design("none"),
    "STC": Design("2:4", "CP"),
    "STC_flexible": Design("any", "CP"),
    "STC_flexible-RLE": Design("any", "RLE"),
    "STC_flexible_dualCompress-RLE": Design("any", "RLE", compresses_b=True),
}
"""Name in the study -> design. `CP` is a coordinate a kept value, `RLE` a run length, a compressed B has a bitmask."""


@dataclass(frozen=True)
class SparseloopCycles:
    """Cycles of one product in Sparseloop's study, and the parts they come from.

    Parameters
    ----------
    cycles : int
        The greatest of the three stages.
    compute_cycles, smem_cycles, dram_cycles : int
        Each stage on its own. Sparseloop prints the greater of a level and the MACs instead.
    bound : {"compute", "smem", "dram"}
        The stage that sets the cycles.
    pattern : Pattern
        Structure in which the weights are stored; 1:1 is dense.
    metadata_bits_per_value : Fraction
        Charged for each kept weight; the mean over a stream if an encoding was asked for.
    smem, dram : Reads
        What is read from shared memory and from DRAM.
    utilisation : float
        MACs with a kept weight over what the array can do in `cycles`, zeros that a 2:4 core stores left out.
    """

    cycles: int
    compute_cycles: int
    smem_cycles: int
    dram_cycles: int
    bound: str
    pattern: Pattern
    metadata_bits_per_value: Fraction
    smem: Reads
    dram: Reads
    utilisation: float


def sparseloop_cycles(
    layer: str | GemmShape | StudyLayer,
    design: str,
    density: str | float | Fraction | Pattern | None = None,
    *,
    rounding: bool = True,
    encoding: str | None = None,
    packing: str = "bitstream",
) -> SparseloopCycles:
    """Give the cycles of a layer on a tensor core of Sparseloop's study.

    Parameters
    ----------
    layer : str or GemmShape
        The study's text, such as `"M128-K1152-N1024-IAD0.44-WD0.25"`, whose M counts out features and N tokens; or a
        `GemmShape`, whose M counts tokens.
    design : str
        A key of `DESIGNS`.
    density : str, float or Pattern, optional
        Of the weights: `"WD-0.25"`, 0.25 or `"2:8"`. The layer's WD where left out. The flexible designs need 1/4 or more.
    rounding : bool
        True for what Sparseloop reports: metadata widths rounded up (`AdjustFormatWordBits`), densities typed with five
        digits. False for the widths asked for and exact densities.
    encoding, packing : str, optional
        An encoding of `nmsim.encodings` and its packing policy instead of the study's metadata; `rounding` is then without
        effect, and so are these for dense weights.

    Returns
    -------
    SparseloopCycles

    Raises
    ------
    SpecError
        Bad text, an unknown design or one that cannot be reproduced, a density it cannot select, or a K too long for it.
    PatternError, EncodingError, BitstreamError
        No such pattern, encoding or packing policy.

    Source
    ------
    Wu et al., Sparseloop, MICRO'22 (arXiv 2205.05826), artifact `fig15_stc_related_setup`; `AdjustFormatWordBits` in
    Timeloop's `src/model/sparse-optimization-parser.cpp`. Published cycles: `hwmodels/data/sparseloop_stc.csv`.

    Examples
    --------
    >>> answer = sparseloop_cycles("M128-K1152-N1024-IAD0.44", "STC_flexible", "2:8")
    >>> answer.cycles, answer.bound, answer.smem.a_elems, answer.metadata_bits_per_value
    (66707, 'smem', 294912, Fraction(4, 1))
    """
    how = _design(design)
    shape = parse_layer(layer)
    wanted = parse_density(density, shape)
    pattern = _stored_pattern(how, wanted, design)
    if how.compresses_b and shape.operand_b_density is None:
        raise SpecError(
            f"layer={brief(layer)}, design={brief(design)}: it compresses B; expected a layer with an IAD"
        )
    as_reported = rounding and encoding is None
    exact = pattern.density
    # The study enters densities with few digits; their rounding is part of its published cycles.
    stored = Fraction(int(exact * 10**TYPED_DIGITS), 10**TYPED_DIGITS) if as_reported else exact
    span = pattern.m * (ARRAY_COLUMNS // pattern.n) if pattern != DENSE else ARRAY_COLUMNS
    K = ceil_div(shape.K, span) * span
    bits_per_value = Fraction(0)
    if pattern != DENSE:
        bits_per_value = (
            Fraction(_typed_bits(how, pattern, rounding))
            if encoding is None
            else encoded_bits_per_value(
                sparse_format(pattern, encoding=encoding, packing=packing), shape.M * K
            )
        )
    b_elems, b_bits = K * shape.N, 0
    if how.compresses_b and shape.operand_b_density is not None and shape.operand_b_density < 1:
        b_elems, b_bits = ceil_times(K * shape.N, shape.operand_b_density), K * shape.N
    operands = Operands(shape.M, K, shape.N, stored, bits_per_value, b_elems, b_bits)
    mapped = best_mapping(operands, span)
    compute = ceil_times(mapped.row_passes * shape.N * (K // span), exact / stored)
    smem = ceil_div(mapped.smem.bits, SMEM_WORDS_PER_CYCLE * WORD_BITS)
    dram = max(
        ceil_div(mapped.dram.bits, DRAM_WORDS_PER_CYCLE * WORD_BITS),
        ceil_div(shape.M * shape.N, DRAM_WORDS_PER_CYCLE),
    )
    stages = {"compute": compute, "smem": smem, "dram": dram}
    bound = max(stages, key=lambda name: stages[name])
    effectual_macs = shape.M * shape.N * shape.K * wanted.density
    return SparseloopCycles(
        cycles=stages[bound],
        compute_cycles=compute,
        smem_cycles=smem,
        dram_cycles=dram,
        bound=bound,
        pattern=pattern,
        metadata_bits_per_value=bits_per_value,
        smem=mapped.smem,
        dram=mapped.dram,
        utilisation=float(effectual_macs / (MACS * stages[bound])),
    )


def _design(name: str) -> Design:
    if name == "DSTC":
        raise SpecError(
            "design='DSTC': it cannot be reproduced; its cycles come from densities of random tiles, in code that the "
            f"artifact does not hold. Expected one of {', '.join(DESIGNS)}"
        )
    if name not in DESIGNS:
        raise SpecError(f"design={brief(name)}: expected one of {', '.join(DESIGNS)}")
    return DESIGNS[name]


def _stored_pattern(how: Design, pattern: Pattern, design: str) -> Pattern:
    """The structure that the design stores the weights in; dense if it cannot gain."""
    if how.pattern == "none" or pattern.n == pattern.m:
        return DENSE
    if how.pattern == "2:4":
        return STC_PATTERN if pattern.density <= STC_PATTERN.density else DENSE
    if pattern.n > ARRAY_COLUMNS or pattern.m * (ARRAY_COLUMNS // pattern.n) > SPAN_LIMIT:
        raise SpecError(
            f"density {pattern} on design={brief(design)}: expected at most {ARRAY_COLUMNS} kept in a group. Whole groups "
            f"must fill {ARRAY_COLUMNS} columns from at most {SPAN_LIMIT} elements (a density of 1/4 or more)"
        )
    return pattern


def _typed_bits(how: Design, pattern: Pattern, rounding: bool) -> int:
    """Bits that the study asks for, and what Timeloop makes of them: the next width that divides the metadata SRAM."""
    if how.metadata == "CP":
        bits = (pattern.m - 1).bit_length()
    else:
        bits = RUN_LENGTH_BITS.get(pattern, (pattern.m - pattern.n).bit_length())
    while rounding and METADATA_SRAM_BITS % bits:
        bits += 1
    return bits


def encoded_bits_per_value(format: SparseFormat, elems: int) -> Fraction:
    """Count the bits of our own stream over all of A, for each kept value.

    Examples
    --------
    >>> encoded_bits_per_value(sparse_format("8:16/combinatorial"), 4096)
    Fraction(7, 4)
    """
    groups = ceil_div(elems, format.pattern.m)
    return Fraction(int(metadata_bits(groups, stream(format))), groups * format.pattern.n)
