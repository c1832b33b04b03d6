"""Index: the positions of the kept elements, ascending, each in ceil(log2 M) bits. NVIDIA's 2:4 is index with M = 4."""

import functools
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nmsim import words
from nmsim.encodings.base import Encoding, EncodingSpec, Kernel
from nmsim.pattern import Pattern
from nmsim.support.jit import njit
from nmsim.units import ceil_div
from nmsim.words import BYTE, MACHINE_WORD, Words, popcount

TWO_BYTES = 16
PART_SHIFT = 40
ILLEGAL = 1 << 63
WORTH_COMPILING = 1 << 18
"""Words of codes from which on a kernel is compiled for a pattern: a file of many patterns must not cost a second for each."""
BLOCK = 2048
"""Codes decoded, then checked, while they are in the first-level cache."""


def position_bits(m: int) -> int:
    """Bits of one position in a group of `m`: ceil(log2 m)."""
    return (m - 1).bit_length()


class Index(Encoding):
    """N positions of ceil(log2 M) bits each."""

    spec = EncodingSpec(
        name="index",
        title="position of every kept element",
        bits_formula="N * ceil(log2 M)",
        code_definition=(
            "With b = ceil(log2 M) and kept positions p_0 < p_1 < ..., the code is the sum of p_j * 2^(j*b). "
            "The first position is in the lowest bits."
        ),
        decoding="Field j of b bits is p_j. Rejected: a position of M or more, or one that is not above its predecessor.",
        fixed_width=True,
        parameter="",
        detects="flips that break the ascending order or make a position M or more; others give another legal mask",
        source="PTX ISA, sparse matrix storage (2 bits per kept element at 2:4); Timeloop 'coordinate-payload'",
    )

    def code_bits(self, pattern: Pattern) -> int:
        """N * ceil(log2 M)."""
        return pattern.n * position_bits(pattern.m)

    def encoder(self, pattern: Pattern) -> Kernel:
        bits = position_bits(pattern.m)
        if pattern.m <= TWO_BYTES and 0 < self.code_bits(pattern) <= 32:
            return partial(_encode_two_bytes, *_two_byte_tables(pattern))
        return partial(_encode_any, bits, pattern.n)

    def decoder(self, pattern: Pattern) -> Kernel:
        return partial(_decode_any, pattern.n, position_bits(pattern.m), pattern.m)

    def _legal_codes(self, pattern: Pattern) -> str:
        return (
            f"{pattern.n} ascending positions below {pattern.m}, {position_bits(pattern.m)} bits each, "
            "the first in the lowest bits"
        )


@functools.cache
def _byte_fields(bits: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Byte -> the positions of its ones as fields of `bits` bits, and a one in each of these fields."""
    fields = np.zeros(BYTE, np.uint64)
    ones = np.zeros(BYTE, np.uint64)
    for byte in range(BYTE):
        held = [p for p in range(8) if byte >> p & 1]
        fields[byte] = sum(p << (bits * j) for j, p in enumerate(held)) & MACHINE_WORD
        ones[byte] = sum(1 << (bits * j) for j in range(len(held))) & MACHINE_WORD
    return fields, ones


@functools.cache
def _two_byte_tables(pattern: Pattern) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Low byte -> its fields, and above them where its number of ones has its part of the other table.

    There: high byte -> its fields, moved up behind those of the low byte, or `ILLEGAL` when both do not hold N ones.
    """
    bits = position_bits(pattern.m)
    fields, ones = _byte_fields(bits)
    count = np.bitwise_count(np.arange(BYTE)).astype(np.uint64)
    low = fields | (count * np.uint64(BYTE)) << np.uint64(PART_SHIFT)
    high = np.empty((9, BYTE), np.uint64)
    for held in range(9):
        moved = (fields + np.uint64(8) * ones) << np.uint64(held * bits)
        high[held] = np.where(count + np.uint64(held) == pattern.n, moved, np.uint64(ILLEGAL))
    return low, high.reshape(-1)


@njit(cache=True, nogil=True)
def _encode_two_bytes(low, high, masks, codes):  # type: ignore[no-untyped-def]
    """Masks [G] -> codes [G], M <= 16 and at most 32 code bits: storing a code drops what stands above it."""
    flags = np.uint64(0)
    eight, byte_mask, part = np.uint64(8), np.uint64(BYTE - 1), np.uint64(PART_SHIFT)
    for i in range(masks.size):
        mask = np.uint64(masks[i])
        first = low[mask & byte_mask]
        second = high[(first >> part) + (mask >> eight)]
        codes[i] = first | second
        flags |= second
    if flags < np.uint64(ILLEGAL):
        return -1
    for i in range(masks.size):
        mask = np.uint64(masks[i])
        if high[(low[mask & byte_mask] >> part) + (mask >> eight)] == np.uint64(ILLEGAL):
            return i
    return -1


@njit(cache=True, nogil=True)
def _encode_bytes(fields, ones, bits, n, masks, codes):  # type: ignore[no-untyped-def]
    """Masks [G, V] -> codes [G, W], any width, eight elements at a time."""
    full, byte_mask = np.uint64(64), np.uint64(255)
    for i in range(masks.shape[0]):
        codes[i, :] = 0
        held = 0
        for v in range(masks.shape[1]):
            mask = np.uint64(masks[i, v])
            base = np.uint64(64 * v)
            while mask:
                byte = mask & byte_mask
                if byte:
                    value = fields[byte] + base * ones[byte]
                    count = popcount(byte)
                    if held + count > n:
                        return i
                    bit = held * bits
                    word, shift = bit >> 6, np.uint64(bit & 63)
                    codes[i, word] |= value << shift
                    if np.int64(shift) + count * bits > 64:
                        codes[i, word + 1] |= value >> (full - shift)
                    held += count
                mask >>= np.uint64(8)
                base += np.uint64(8)
        if held != n:
            return i
    return -1


def _encode_any(bits: int, n: int, masks: Words, codes: Words) -> int:
    """Encode whatever the widths."""
    return int(_encode_bytes(*_byte_fields(bits), bits, n, words.rows(masks), words.rows(codes)))


def _decode_any(n: int, bits: int, m: int, codes: Words, masks: Words) -> int:
    """Decode many narrow codes at full speed, with a kernel of their own; all others one field at a time."""
    decoder = None
    if m <= words.WORD_BITS and codes.size >= WORTH_COMPILING:
        if 0 < n * bits <= words.WORD_BITS:
            decoder = _decoder_of(n, bits, m)
        elif n * bits > words.WORD_BITS and ceil_div(n, 2) * bits <= words.WORD_BITS:
            decoder = _long_decoder_of(n, bits, m)
    if decoder is not None and decoder(codes, masks):
        return -1
    return int(_decode_fields(bits, n, m, words.rows(codes), words.rows(masks)))


@functools.cache
def _decoder_of(n, bits, m):  # type: ignore[no-untyped-def]
    """A kernel with N and the field width as constants, so that it unrolls and runs on vector lanes.

    Fields ascend if each odd one is above the even one before it, and each even one above the odd one before it. With a
    guard bit set above every field, two subtractions compare all of them at once.
    """
    wide = n * bits > 32 or m > 32
    lane = np.uint64 if wide else np.uint32
    pairs = (n + 1) // 2
    even = lane(sum(((1 << bits) - 1) << (2 * bits * j) for j in range(pairs)))
    guards = [1 << (2 * bits * j + bits) for j in range(pairs)]
    odd_guard = lane(sum(guards[: n // 2]))
    even_guard = lane(sum(guards[: (n - 1) // 2]))
    odd_ones, even_ones = lane(odd_guard >> lane(bits)), lane(even_guard >> lane(bits))
    odd_fields = lane(odd_ones * lane((1 << bits) - 1))
    even_fields = lane(even_ones * lane((1 << bits) - 1))
    field, one, step, last = lane((1 << bits) - 1), lane(1), lane(bits), lane((n - 1) * bits)
    beyond = lane((1 << bits) - m)

    @njit(cache=True, nogil=True)
    def decode(codes, masks):  # type: ignore[no-untyped-def]
        legal = True
        for low in range(0, codes.size, BLOCK):
            some_codes, some_masks = codes[low : low + BLOCK], masks[low : low + BLOCK]
            for i in range(some_codes.size):
                code = lane(some_codes[i])
                mask = lane(0)
                for j in range(n):
                    mask = lane(mask | lane(one << lane(lane(code >> lane(j * bits)) & field)))
                some_masks[i] = mask
            # The second loop only collects whether a code is illegal. Without a branch it runs on vector lanes.
            above, after, too_high = odd_guard, even_guard, lane(0)
            for i in range(some_codes.size):
                code = lane(some_codes[i])
                evens, odds = lane(code & even), lane(lane(code >> step) & even)
                pairs = lane(
                    lane(lane(odds & odd_fields) | odd_guard) - lane(lane(evens & odd_fields) + odd_ones)
                )
                above = lane(above & pairs)
                nexts = lane(lane(evens >> lane(step + step)) & even_fields)
                pairs = lane(lane(nexts | even_guard) - lane(lane(odds & even_fields) + even_ones))
                after = lane(after & pairs)
                if beyond > 0:
                    over = lane(lane(lane(code >> last) + beyond) >> step)
                    too_high = lane(too_high | over)
            legal = legal and above == odd_guard and after == even_guard and too_high == lane(0)
        return legal

    return decode


@functools.cache
def _long_decoder_of(n, bits, m):  # type: ignore[no-untyped-def]
    """The same for codes of two words, half of whose fields fit one.

    Each block is cut into the lower and the upper half of the fields first.
    A field that is not above its predecessor, or a last one of M or more, leaves a negative difference.
    """
    lane = np.uint64
    lower, upper = n // 2, n - n // 2
    split, rest = lane(lower * bits), lane(words.WORD_BITS - lower * bits)
    field, one, highest, sign = lane((1 << bits) - 1), lane(1), lane(m - 1), lane(words.WORD_BITS - 1)
    width = lane(bits)

    @njit(cache=True, nogil=True)
    def decode(codes, masks):  # type: ignore[no-untyped-def]
        lows, highs = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
        wrong = lane(0)
        for start in range(0, codes.shape[0], BLOCK):
            some_codes, some_masks = codes[start : start + BLOCK], masks[start : start + BLOCK]
            count = some_codes.shape[0]
            # Three loops, because only loops without steps from word to word run on vector lanes.
            for i in range(count):
                lows[i] = some_codes[i, 0]
                highs[i] = some_codes[i, 0] >> split | some_codes[i, 1] << rest
            for i in range(count):
                low, high, mask = lows[i], highs[i], lane(0)
                for j in range(lower):
                    mask = mask | one << (low >> lane(j) * width & field)
                for j in range(upper):
                    mask = mask | one << (high >> lane(j) * width & field)
                some_masks[i] = mask
            for i in range(count):
                low, high, negative = lows[i], highs[i], lane(0)
                before = low & field
                for j in range(1, lower):
                    place = low >> lane(j) * width & field
                    negative = negative | (place - before - one)
                    before = place
                for j in range(upper):
                    place = high >> lane(j) * width & field
                    negative = negative | (place - before - one)
                    before = place
                wrong = wrong | negative | (highest - before)
        return wrong >> sign == lane(0)

    return decode


@njit(cache=True, nogil=True)
def _decode_fields(bits, n, m, codes, masks):  # type: ignore[no-untyped-def]
    """Codes [G, W] -> masks [G, V], any width, one field after the other."""
    field = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    full = np.uint64(64)
    for i in range(codes.shape[0]):
        masks[i, :] = 0
        previous = np.int64(-1)
        for j in range(n):
            bit = j * bits
            word, shift = bit >> 6, np.uint64(bit & 63)
            value = np.uint64(codes[i, word]) >> shift
            if np.int64(shift) + bits > 64:
                value |= np.uint64(codes[i, word + 1]) << (full - shift)
            position = np.int64(value & field)
            if position <= previous or position >= m:
                return i
            masks[i, position >> 6] |= np.uint64(1) << np.uint64(position & 63)
            previous = position
    return -1
