"""Choosing and checking masks, and groups of masks as integers.

The pruned axis is cut into groups of M consecutive elements from its start. What is left over, the tail, is a group
of its own whose missing elements count as not kept. Group g of row r is number r * ceil(K / M) + g, rows in C order.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes, words
from nmsim.errors import PatternError, brief
from nmsim.pattern import Pattern, as_pattern
from nmsim.support.jit import njit
from nmsim.words import Words

BoolArray = NDArray[np.bool_]

ABREAST = 64
"""Groups ranked side by side."""
PARTED_FROM = 128
"""Elements of a group from which it is parted at a threshold. Ranking compares each pair, which takes longer then."""


def prune(
    x: NDArray[Any],
    pattern: Pattern | str,
    *,
    axis: int = -1,
    scores: NDArray[Any] | None = None,
    bit_order: bool = False,
) -> BoolArray:
    """Choose the N elements to keep in every group of M.

    The elements of greatest score are kept. Of equal scores, the lower index is kept. A tail of t elements keeps
    min(N, t). The default score is the magnitude by stored bits, and -0.0 equals 0.0.

    Parameters
    ----------
    x : array, at least 1-D
        Any type that `nmsim.dtypes` lists.
    pattern : Pattern or str
    axis : int
        The axis along which M consecutive elements form a group.
    scores : array like x, optional
        Real numbers to rank by instead of magnitudes; greater is kept, -inf is allowed.
    bit_order : bool
        Take NaN and infinity as a selector in hardware does: infinity is above every finite number, and NaN above
        infinity. Otherwise both are refused.

    Returns
    -------
    bool array like x
        True where an element is kept.

    Raises
    ------
    PatternError
        A scalar, an axis out of range, an element that is NaN or infinite, scores of another shape, or a score that is NaN.

    Examples
    --------
    >>> prune(np.array([1, -4, 3, 2], np.int8), "2:4").tolist()
    [False, True, True, False]
    """
    pattern = as_pattern(pattern)
    x = np.asarray(x)
    axis = checked_axis(x.shape, axis)
    if not bit_order:
        dtypes.refuse_not_finite(x)
    keys = _keys(x, scores)
    rows = np.moveaxis(keys, axis, -1)
    mask = choose_rows(rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1]), pattern)
    return np.moveaxis(mask.reshape(rows.shape), -1, axis)


def choose_rows(keys: NDArray[Any], pattern: Pattern) -> BoolArray:
    """Choose in every row: unsigned or float keys [rows, K] -> bool [rows, K]."""
    rows, k = keys.shape
    mask = np.empty((rows, k), np.bool_)
    whole = k // pattern.m * pattern.m
    for part, n, m in (
        (slice(0, whole), pattern.n, pattern.m),
        (slice(whole, k), min(pattern.n, k - whole), k - whole),
    ):
        if part.stop > part.start:
            size = part.stop - part.start
            groups = keys[:, part].reshape(rows * (size // m), m)
            mask[:, part] = _choose(groups, n).reshape(rows, size)
    return mask


def complete(mask: BoolArray, pattern: Pattern, *, first_row: int = 0) -> BoolArray:
    """Bring every group to exactly N kept: bool [rows, K] -> bool [rows, G * M].

    If a group has fewer than N kept elements, its lowest positions that are not kept are added until it has N.
    Positions beyond the end of a row count as not kept. The value stored for an added position is zero. Errors
    count rows from `first_row`.

    Raises
    ------
    PatternError
        A group with more than N kept elements.
    """
    rows, k = mask.shape
    n_groups = pattern.groups(k)
    out = np.zeros((rows, n_groups * pattern.m), np.bool_)
    out[:, :k] = mask
    bad = _complete(out.reshape(-1, pattern.m), pattern.n)
    if bad >= 0:
        row, group = divmod(bad, n_groups)
        kept = int(mask[row, group * pattern.m : (group + 1) * pattern.m].sum())
        raise PatternError(
            f"mask row {first_row + row}, group {group} (elements {group * pattern.m} to "
            f"{min(k, (group + 1) * pattern.m) - 1}) keeps {kept}: expected at most {pattern.n} of every {pattern.m}"
        )
    return out


def to_words(mask: BoolArray, pattern: Pattern) -> Words:
    """Groups as integers, bit i for element i: bool [rows, G * M] -> Words, rows * G of them."""
    m = pattern.m
    flat = mask.reshape(-1)
    if m in (8, 16, 32, 64):
        return np.packbits(flat, bitorder="little").view(words.word_dtype(m))
    groups = flat.reshape(-1, m)
    if words.is_wide(m):
        out = words.zeros(len(groups), m)
        packed = np.packbits(groups, axis=1, bitorder="little")
        out.view(np.uint8)[:, : packed.shape[1]] = packed
        return out
    out = words.empty(len(groups), m)
    _gather_bits(groups, out)
    return out


def from_words(masks: Words, pattern: Pattern, rows: int, k: int) -> BoolArray:
    """Integers back to a mask, positions beyond the end of a row dropped: Words -> bool [rows, K]."""
    word_bytes = masks.itemsize * (masks.shape[1] if masks.ndim == 2 else 1)
    raw = np.ascontiguousarray(masks).view(np.uint8).reshape(len(masks), word_bytes)
    bits = np.unpackbits(raw, axis=1, count=pattern.m, bitorder="little")
    return bits.reshape(rows, pattern.groups(k) * pattern.m)[:, :k].astype(np.bool_)


def checked_axis(shape: tuple[int, ...], axis: int) -> int:
    """Turn an axis into a non-negative one, or refuse it."""
    if not shape:
        raise PatternError("a scalar has no axis to prune along: expected an array of at least one dimension")
    if isinstance(axis, bool) or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        raise PatternError(f"axis={brief(axis)}: expected an int from {-len(shape)} to {len(shape) - 1}")
    return axis % len(shape)


def _keys(x: NDArray[Any], scores: NDArray[Any] | None) -> NDArray[Any]:
    if scores is None:
        return dtypes.magnitude_keys(x)
    scores = np.asarray(scores)
    if scores.shape != x.shape:
        raise PatternError(f"scores have shape {scores.shape}: expected that of x, {x.shape}")
    if scores.dtype.name not in dtypes.BY_NAME:
        raise PatternError(f"scores have dtype {scores.dtype}: expected real numbers")
    if dtypes.of(scores).kind != "float":
        return scores
    wide = scores.astype(np.float64 if scores.dtype == np.float64 else np.float32)
    if np.isnan(wide).any():
        where = np.unravel_index(int(np.argmax(np.isnan(wide))), wide.shape)
        raise PatternError(
            f"scores[{', '.join(map(str, where))}] is NaN: expected numbers that have an order"
        )
    return wide


def _choose(groups: NDArray[Any], n: int) -> BoolArray:
    """Keep the n best of every group: keys [G, m] -> mask [G, m]."""
    m = groups.shape[1]
    if m >= PARTED_FROM:
        return greatest(groups, n)
    mask = np.empty(groups.shape, np.bool_)
    across = np.zeros((m, ABREAST), groups.dtype)
    rank = np.empty((m, ABREAST), f"u{groups.itemsize}")
    _rank_and_keep(np.ascontiguousarray(groups), n, across, rank, mask)
    return mask


def greatest(keys: NDArray[Any], count: int) -> BoolArray:
    """Keep the `count` greatest of every row of keys [rows, K] without a NaN; of equal ones, the lower index wins."""
    k = keys.shape[1]
    if not 0 < count < k:
        return np.full(keys.shape, count > 0)
    # The count-th greatest of each row parts it. A partition takes a fifth of the time of a sort.
    least = np.partition(keys, k - count, axis=1)[:, k - count, None]
    mask: BoolArray = keys >= least
    surplus = np.flatnonzero(np.count_nonzero(mask, axis=1) > count)
    if len(surplus):
        some, least = keys[surplus], least[surplus]
        above, equal = some > least, some == least
        room = count - np.count_nonzero(above, axis=1)[:, None]
        mask[surplus] = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return mask


def keep(x: NDArray[Any], mask: BoolArray) -> NDArray[Any]:
    """Elements where they are kept, zero elsewhere: float32 or float64, like x.

    Examples
    --------
    >>> keep(np.array([[1.0, -2.0]]), np.array([[False, True]])).tolist()
    [[0.0, -2.0]]
    """
    x, mask = np.ascontiguousarray(x), np.ascontiguousarray(mask)
    out = np.empty_like(x)
    _keep(x.reshape(-1), mask.reshape(-1), out.reshape(-1))
    return out


@njit(cache=True, nogil=True)
def _keep(x, mask, out):  # type: ignore[no-untyped-def]
    """Choose without a branch: `np.where` has one per element, and no processor guesses a mask."""
    zero = x.dtype.type(0)
    for i in range(x.size):
        out[i] = x[i] if mask[i] else zero


@njit(cache=True, nogil=True)
def _rank_and_keep(groups, n, across, rank, mask):  # type: ignore[no-untyped-def]
    """Rank of an element = how many of its group beat it; kept when fewer than n do.

    Every element starts as beaten by all later ones; each pair that it wins takes one of them back. Groups stand
    abreast, one a vector lane, so that each comparison of two positions serves many groups.
    """
    m = groups.shape[1]
    for first in range(0, groups.shape[0], ABREAST):
        block, kept = groups[first : first + ABREAST], mask[first : first + ABREAST]
        for lane in range(block.shape[0]):
            for i in range(m):
                across[i, lane] = block[lane, i]
        for i in range(m):
            rank[i, :] = m - 1 - i
        for i in range(1, m):
            later, later_rank = across[i], rank[i]
            for j in range(i):
                earlier, earlier_rank = across[j], rank[j]
                for lane in range(ABREAST):
                    beaten = earlier[lane] >= later[lane]
                    later_rank[lane] += beaten
                    earlier_rank[lane] -= beaten
        for lane in range(block.shape[0]):
            for i in range(m):
                kept[lane, i] = rank[i, lane] < n


@njit(cache=True, nogil=True)
def _complete(groups, n):  # type: ignore[no-untyped-def]
    """Add the lowest positions not kept until n are: bool [G, M], in place. The first over-full group, or -1."""
    m = groups.shape[1]
    for g in range(groups.shape[0]):
        held = 0
        for i in range(m):
            held += groups[g, i]
        if held > n:
            return g
        i = 0
        while held < n:
            if not groups[g, i]:
                groups[g, i] = True
                held += 1
            i += 1
    return -1


@njit(cache=True, nogil=True)
def _gather_bits(groups, out):  # type: ignore[no-untyped-def]
    """Bool [G, M] -> integers [G], M <= 64."""
    for g in range(groups.shape[0]):
        mask = np.uint64(0)
        for i in range(groups.shape[1]):
            mask |= np.uint64(groups[g, i]) << np.uint64(i)
        out[g] = mask
