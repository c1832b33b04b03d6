"""Hypothesis strategies for the types of nmsim: `from strategies import patterns, group_masks`."""

import random

from hypothesis import strategies as st

from nmsim.pattern import MAX_M, Pattern

WORD_BITS = (8, 16, 32, 64, 128)


@st.composite
def patterns(draw, *, min_m: int = 1, max_m: int = 64) -> Pattern:
    """Any N:M with min_m <= M <= max_m; the ends of both ranges come up often."""
    m = draw(st.integers(min_m, max_m))
    n = draw(st.integers(1, m))
    return Pattern(n, m)


def wide_patterns() -> st.SearchStrategy[Pattern]:
    """Patterns whose masks need more than one 64-bit word."""
    return patterns(min_m=65, max_m=MAX_M)


@st.composite
def legal_masks(draw, pattern: Pattern) -> int:
    """One mask with exactly N ones: the first, the last, or any."""
    first = 2**pattern.n - 1
    which = draw(st.sampled_from(["first", "last", "any", "any", "any"]))
    if which == "first":
        return first
    if which == "last":
        return first << (pattern.m - pattern.n)
    kept = random.Random(draw(st.integers(0, 2**32 - 1))).sample(range(pattern.m), pattern.n)
    return sum(2**position for position in kept)


def group_masks(pattern: Pattern, *, min_size: int = 0, max_size: int = 20) -> st.SearchStrategy[list[int]]:
    """A list of masks, each with exactly N ones among its low M bits."""
    return st.lists(legal_masks(pattern), min_size=min_size, max_size=max_size)


def partial_masks(pattern: Pattern) -> st.SearchStrategy[int]:
    """One mask with at most N ones, as a group with few non-zeros leaves it."""
    return st.builds(
        lambda mask, holes: mask & ~holes, legal_masks(pattern), st.integers(0, 2**pattern.m - 1)
    )


def any_masks(pattern: Pattern, *, max_size: int = 5) -> st.SearchStrategy[list[int]]:
    """A list of masks that may keep too many, too few, or what lies beyond the group."""
    one = st.one_of(legal_masks(pattern), st.integers(0, 2 ** min(pattern.m + 2, MAX_M) - 1))
    return st.lists(one, max_size=max_size)


def encoding_names() -> st.SearchStrategy[str]:
    """Names of encodings that have codes for every pattern, with and without a parameter."""
    return st.one_of(
        st.sampled_from(["bitmask", "index", "gap", "combinatorial", "joint"]),
        st.integers(1, 16).map(lambda run_bits: f"gap:{run_bits}"),
        st.integers(1, 20).map(lambda groups: f"joint:{groups}"),
    )


def halving_patterns(max_m: int = 64) -> st.SearchStrategy[Pattern]:
    """Patterns whose M is a power of two: those that `tiled` has codes for."""
    sizes = [m for m in (1, 2, 4, 8, 16, 32, 64) if m <= max_m]
    return st.sampled_from(sizes).flatmap(lambda m: st.integers(1, m).map(lambda n: Pattern(n, m)))


@st.composite
def coded_patterns(draw, any_pattern: st.SearchStrategy[Pattern], *, max_m: int = 64) -> tuple[Pattern, str]:
    """A pattern and the name of an encoding that has codes for it."""
    if draw(st.integers(0, 5)) == 0:
        return draw(halving_patterns(max_m)), "tiled"
    return draw(any_pattern), draw(encoding_names())


def packings() -> st.SearchStrategy[str]:
    """Names of packing policies."""
    words = st.sampled_from(WORD_BITS).map(lambda bits: f"no_straddle:{bits}")
    return st.one_of(st.sampled_from(["bitstream", "no_straddle", "power_of_two", "byte"]), words)
