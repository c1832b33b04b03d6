"""The cost of decoding and selecting in software, in lane instructions per group.

One lane (a GPU thread, a 32-bit SIMD lane of a CPU) handles one group. The counts include the lane's loads
and the products with one token. They are those of a whole fused kernel, whose time is compared with that of
memory.
"""

from dataclasses import dataclass

from hwmodels.machine.comparators import network
from nmsim.errors import EncodingError, brief
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.support.schema import Quantity

KEPT_IN_COUNTED_GROUP = 8
"""The counted kernels decode 8:16 groups: 16 elements, 8 of them kept."""

_COUNTED = (
    "SASS instructions in the loop body of a Triton 3.6.0 kernel compiled ahead of time for sm_90; one "
    "thread owns one 8:16 group of one row (8 kept values), loads, decoding and 8 multiply-adds included"
)

INDEX_INSTRUCTIONS = Quantity(
    88, "instructions", "measured", f"{_COUNTED}; 4-bit positions, gathered activations"
)
BITMASK_INSTRUCTIONS = Quantity(110, "instructions", "measured", f"{_COUNTED}; 16-bit mask, 256-entry table")
GAP_EXTRA_PER_KEPT = Quantity(
    1, "instructions", "assumed", "A2: one add a kept value turns gaps into positions"
)
UNRANK_PER_ELEMENT = Quantity(
    4, "instructions", "assumed", "A3: load of a binomial, compare, subtract, select for each element of a group"
)  # fmt: skip
JOINT_EXTRA_PER_GROUP = Quantity(
    20,
    "instructions",
    "assumed",
    "A4: wide division of the joint code by C(M,N) through a reciprocal product",
)
COMPARATOR_INSTRUCTIONS = Quantity(
    2, "instructions", "assumed", "A5: a comparator of a selection network is one minimum and one maximum"
)
TABLE_ENTRIES_LIMIT = 1 << 16
"""Largest C(M, N) whose masks are looked up in a table (assumption A3)."""


@dataclass(frozen=True)
class SoftwareCost:
    """Lane instructions of one group, and the kind of knowledge behind the figure."""

    instructions: float
    kind: str
    source: str


def decode_cost(format: SparseFormat) -> SoftwareCost:
    """Count the lane instructions that decode and use one group in software.

    Parameters
    ----------
    format : SparseFormat

    Returns
    -------
    SoftwareCost
        Per group of M elements. Scales with the kept values (assumption A1).

    Raises
    ------
    EncodingError
        An encoding without a software decoder in this model.

    Source
    ------
    Counted kernels for `index` and `bitmask`; assumptions A1 to A4 for the others.

    Examples
    --------
    >>> decode_cost(SparseFormat.parse("8:16/bitmask")).instructions
    110.0
    >>> decode_cost(SparseFormat.parse("2:4/index")).instructions
    22.0
    """
    pattern, family = format.pattern, format.encoding.spec.name
    index = INDEX_INSTRUCTIONS.value / KEPT_IN_COUNTED_GROUP * pattern.n
    bitmask = BITMASK_INSTRUCTIONS.value / KEPT_IN_COUNTED_GROUP * pattern.n
    if family == "index":
        return SoftwareCost(index, INDEX_INSTRUCTIONS.kind, INDEX_INSTRUCTIONS.source)
    if family == "bitmask":
        return SoftwareCost(bitmask, BITMASK_INSTRUCTIONS.kind, BITMASK_INSTRUCTIONS.source)
    if family == "gap":
        return SoftwareCost(
            index + GAP_EXTRA_PER_KEPT.value * pattern.n, "assumed", GAP_EXTRA_PER_KEPT.source
        )
    if family in ("combinatorial", "tiled", "joint"):
        by_table = pattern.configurations <= TABLE_ENTRIES_LIMIT
        instructions = bitmask if by_table else index + UNRANK_PER_ELEMENT.value * pattern.m
        if family != "joint":
            return SoftwareCost(instructions, "assumed", UNRANK_PER_ELEMENT.source)
        return SoftwareCost(
            instructions + JOINT_EXTRA_PER_GROUP.value, "assumed", JOINT_EXTRA_PER_GROUP.source
        )
    raise EncodingError(
        f"encoding {brief(format.encoding.name)}: no software decoder is modelled; expected bitmask, index, gap, "
        "combinatorial, tiled or joint"
    )


def comparators(pattern: Pattern) -> int:
    """Count the comparators of a network that separates the larger half of a group from the smaller one.

    Two bitonic sorters of half the group and one half-cleaner; M is rounded up to a power of two (assumption
    A5).

    Examples
    --------
    >>> [comparators(Pattern(m // 2, m)) for m in (4, 8, 16, 32)]
    [4, 16, 56, 176]
    """
    half = 1 << max((pattern.m - 1).bit_length() - 1, 0)
    return network(Pattern(half, 2 * half), "half").comparators if pattern.m > 1 else 0


def select_cost(format: SparseFormat) -> SoftwareCost:
    """Count the lane instructions that prune and encode one group of activations in software.

    Returns
    -------
    SoftwareCost
        Per group of M elements: a selection network, then as many instructions as decoding takes (assumption
        A5).

    Raises
    ------
    EncodingError
        As `decode_cost`.

    Examples
    --------
    >>> select_cost(SparseFormat.parse("8:16/index")).instructions
    200.0
    """
    network = COMPARATOR_INSTRUCTIONS.value * comparators(format.pattern)
    return SoftwareCost(network + decode_cost(format).instructions, "assumed", COMPARATOR_INSTRUCTIONS.source)
