"""Sparseloop's sparse-tensor-core study (MICRO'22, figure 15), any layer, design and density of that family.

Three stages work at the same time and the slowest sets the cycles. They are MACs, reads from shared memory at 42 words
per cycle, and DRAM at 32 words per cycle. Values take one word of 8 bits each. Metadata take the bits that the study enters,
after Timeloop has rounded them up to a width that divides its metadata SRAM.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from hwmodels.estimate import traffic
from hwmodels.peers.sparseloop_layer import DENSE, StudyLayer, parse_density, parse_layer
from hwmodels.peers.sparseloop_mapping import (
    ARRAY_COLUMNS,
    DRAM_WORDS_PER_CYCLE,
    MACS,
    SMEM_WORDS_PER_CYCLE,
    SPAN_LIMIT,
    WORD_BITS,
    Operands,
    Reads,
    best_mapping,
    ceil_times,
)
from nmsim.case import GemmShape
from nmsim.errors import SpecError
from nmsim.format import as_format
from nmsim.pattern import Pattern
from nmsim.units import ceil_div

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
        raise SpecError(f"layer={layer!r}, design={design!r}: it compresses B; expected a layer with an IAD")
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
            else _encoded_bits(pattern, shape.M * K, encoding, packing)
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
        raise SpecError(f"design={name!r}: expected one of {', '.join(DESIGNS)}")
    return DESIGNS[name]


def _stored_pattern(how: Design, pattern: Pattern, design: str) -> Pattern:
    """The structure that the design stores the weights in; dense if it cannot gain."""
    if how.pattern == "none" or pattern.n == pattern.m:
        return DENSE
    if how.pattern == "2:4":
        return STC_PATTERN if pattern.density <= STC_PATTERN.density else DENSE
    if pattern.n > ARRAY_COLUMNS or pattern.m * (ARRAY_COLUMNS // pattern.n) > SPAN_LIMIT:
        raise SpecError(
            f"density {pattern} on design={design!r}: expected at most {ARRAY_COLUMNS} kept in a group. Whole groups "
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


def _encoded_bits(pattern: Pattern, elems: int, encoding: str, packing: str) -> Fraction:
    """Bits of our own stream over all of A, for each kept value."""
    groups = ceil_div(elems, pattern.m)
    bits = int(
        traffic.metadata_bits(groups, traffic.stream(as_format(pattern, encoding=encoding, packing=packing)))
    )
    return Fraction(bits, groups * pattern.n)
