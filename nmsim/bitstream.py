"""Bits in and out of bytes, little end first: stream bit k is bit k % 8 of byte k // 8.

These functions know nothing of padding rules; `nmsim.packing` does. Codes are `Words`: [G] unsigned of the
narrowest dtype, or rows of uint64 when one takes more than 64 bits.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import words
from nmsim.support import parallel
from nmsim.support.jit import njit
from nmsim.units import ceil_div
from nmsim.words import Words

SPLIT_CODES = 1 << 18
"""Fewest codes worth a core of their own."""


class Spacing(NamedTuple):
    """Where codes start: `per_block` of them follow each other at the start of every block of `block_bits` bits."""

    per_block: int
    block_bits: int


Slots = NDArray[np.unsignedinteger[Any]]
"""Bits from the start of each code to the start of the next, when codes differ in length."""


def write(
    codes: Words, code_bits: int, places: Spacing | Slots, stream_bytes: int, *, threads: int = 1
) -> NDArray[np.uint8]:
    """Write each code at its place; every other bit of the stream is zero.

    Parameters
    ----------
    codes : Words, [G] or [G, W]
        Each below 2**code_bits.
    code_bits : int
    places : Spacing, or unsigned array [G]
    stream_bytes : int
        Bytes of the stream; all codes must fit.
    threads : int
        Cores to use if codes follow each other without gaps.

    Returns
    -------
    uint8 array [stream_bytes]
    """
    if code_bits == 0 or len(codes) == 0:
        return np.zeros(stream_bytes, np.uint8)
    out = np.zeros(ceil_div(stream_bytes, 8) + 1, np.uint64)
    if not isinstance(places, Spacing):
        _write_slots(words.rows(codes), code_bits, places, out)
    elif codes.ndim == 1 and places == (1, code_bits) and code_bits < words.WORD_BITS:
        if code_bits == codes.itemsize * 8 and codes.nbytes == stream_bytes:
            return codes.view(np.uint8).copy()

        def write_slice(part: slice) -> None:
            _write_dense(codes[part], np.uint64(code_bits), out[_words_of(part, code_bits)])

        parallel.run(write_slice, _slices(len(codes), threads), threads)
    else:
        _write_spaced(words.rows(codes), code_bits, *places, out)
    return out.view(np.uint8)[:stream_bytes]


def read(
    stream: NDArray[np.uint8], code_bits: int, n_codes: int, places: Spacing, *, threads: int = 1
) -> Words:
    """Read `n_codes` codes of `code_bits` bits from their places.

    Parameters
    ----------
    stream : uint8 array
        Long enough for all codes.
    code_bits, n_codes : int
    places : Spacing
    threads : int
        Cores to use if codes follow each other without gaps.

    Returns
    -------
    Words, [n_codes] or [n_codes, W]
    """
    out = words.zeros(n_codes, code_bits)
    if code_bits == 0 or n_codes == 0:
        return out
    dense = out.ndim == 1 and places == (1, code_bits) and code_bits < words.WORD_BITS
    if dense and code_bits == out.itemsize * 8:
        return stream[: n_codes * out.itemsize].view(out.dtype).copy()
    source = as_words(stream)
    if dense:

        def read_slice(part: slice) -> None:
            _read_dense(source[part.start // 64 * code_bits :], np.uint64(code_bits), out[part])

        parallel.run(read_slice, _slices(n_codes, threads), threads)
    else:
        _read_spaced(source, code_bits, *places, words.rows(out))
    return out


def _slices(n_codes: int, threads: int) -> list[slice]:
    """Codes cut for several cores at places where a code starts at the first bit of a word: after every 64th."""
    parts = min(threads, max(1, n_codes // SPLIT_CODES))
    edges = [n_codes * part // parts // 64 * 64 for part in range(parts)]
    return [slice(low, high) for low, high in zip(edges, [*edges[1:], n_codes], strict=True)]


def _words_of(part: slice, code_bits: int) -> slice:
    """The words that the codes of a slice fill."""
    return slice(part.start // 64 * code_bits, ceil_div(part.stop * code_bits, 64))


def as_words(stream: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Copy a stream into 64-bit words, with one to spare that reads as zero."""
    out = np.zeros(len(stream) // 8 + 2, np.uint64)
    out.view(np.uint8)[: len(stream)] = stream
    return out


@njit(cache=True, nogil=True)
def _write_dense(codes, code_bits, out):  # type: ignore[no-untyped-def]
    """Codes end to end, [G] -> [ceil(G * bits / 64)] words; bits < 64."""
    acc = np.uint64(0)
    fill = np.uint64(0)
    word = 0
    full = np.uint64(64)
    for i in range(codes.size):
        code = np.uint64(codes[i])
        acc |= code << fill
        fill += code_bits
        if fill >= full:
            out[word] = acc
            word += 1
            fill -= full
            acc = code >> (code_bits - fill)
    if word < out.size:
        out[word] = acc


@njit(cache=True, nogil=True)
def _read_dense(source, code_bits, out):  # type: ignore[no-untyped-def]
    """Codes end to end -> [G]; one word beyond the last code must be readable; bits < 64."""
    mask = (np.uint64(1) << code_bits) - np.uint64(1)
    one, low, last = np.uint64(1), np.uint64(63), np.uint64(6)
    for i in range(out.size):
        bit = np.uint64(i) * code_bits
        word = bit >> last
        shift = bit & low
        out[i] = ((source[word] >> shift) | ((source[word + one] << one) << (low - shift))) & mask


@njit(cache=True, nogil=True)
def _put(row, code_bits, start, out):  # type: ignore[no-untyped-def]
    """One code [W] at any bit; one spare word at the end of out."""
    one, low = np.uint64(1), np.uint64(63)
    for w in range(row.size):
        bit = start + 64 * w
        shift = np.uint64(bit) & low
        out[bit >> 6] |= np.uint64(row[w]) << shift
        if w * 64 + 64 - np.int64(shift) < code_bits:
            out[(bit >> 6) + 1] |= (np.uint64(row[w]) >> one) >> (low - shift)


@njit(cache=True, nogil=True)
def _write_spaced(rows, code_bits, per_block, block_bits, out):  # type: ignore[no-untyped-def]
    """Codes [G, W], `per_block` of them in each block."""
    block, held = 0, 0
    for i in range(rows.shape[0]):
        _put(rows[i], code_bits, block + held * code_bits, out)
        held += 1
        if held == per_block:
            block, held = block + block_bits, 0


@njit(cache=True, nogil=True)
def _write_slots(rows, code_bits, slots, out):  # type: ignore[no-untyped-def]
    """Codes [G, W], each in a slot of its own length."""
    start = np.int64(0)
    for i in range(rows.shape[0]):
        _put(rows[i], code_bits, start, out)
        start += np.int64(slots[i])


@njit(cache=True, nogil=True)
def _read_spaced(source, code_bits, per_block, block_bits, out):  # type: ignore[no-untyped-def]
    """`per_block` codes from each block -> [G, W]; one spare word at the end of source."""
    one, low = np.uint64(1), np.uint64(63)
    block, held = 0, 0
    for i in range(out.shape[0]):
        left, start = code_bits, block + held * code_bits
        for w in range(out.shape[1]):
            bit = start + 64 * w
            shift = np.uint64(bit) & low
            word = bit >> 6
            value = source[word] >> shift
            if left > 64 - np.int64(shift):
                value |= (source[word + 1] << one) << (low - shift)
            if left < 64:
                value &= (one << np.uint64(left)) - one
            out[i, w] = value
            left -= 64
        held += 1
        if held == per_block:
            block, held = block + block_bits, 0
