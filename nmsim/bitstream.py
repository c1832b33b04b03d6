"""Bits in and out of bytes, little end first: stream bit k is bit k % 8 of byte k // 8.

These functions know nothing of padding rules; `nmsim.packing` does. Codes are `Words`: [G] unsigned of the
narrowest dtype, or rows of uint64 when one takes more than 64 bits.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nmsim import words
from nmsim.units import ceil_div
from nmsim.words import Words

Starts = NDArray[np.int64] | int
"""First bit of each code: an array, or one number of bits between neighbours when they are evenly spaced."""


def write(codes: Words, code_bits: int, starts: Starts, stream_bytes: int) -> NDArray[np.uint8]:
    """Write each code at its start; every other bit of the stream is zero.

    Parameters
    ----------
    codes : Words, [G] or [G, W]
        Each below 2**code_bits.
    code_bits : int
    starts : int64 array [G] or int
    stream_bytes : int
        Bytes of the stream; all codes must fit.

    Returns
    -------
    uint8 array [stream_bytes]
    """
    if code_bits == 0 or len(codes) == 0:
        return np.zeros(stream_bytes, np.uint8)
    if isinstance(starts, int):
        if codes.ndim == 1 and starts == code_bits == codes.itemsize * 8 and codes.nbytes == stream_bytes:
            return codes.view(np.uint8).copy()
        if codes.ndim == 1 and starts == code_bits < words.WORD_BITS:
            out = np.zeros(ceil_div(stream_bytes, 8), np.uint64)
            _write_dense(codes, np.uint64(code_bits), out)
            return out.view(np.uint8)[:stream_bytes]
        starts = np.arange(len(codes), dtype=np.int64) * starts
    out = np.zeros(ceil_div(stream_bytes, 8) + 1, np.uint64)
    rows = words.rows(codes.astype(np.uint64, copy=False))
    _write_at(rows, code_bits, starts, out)
    return out.view(np.uint8)[:stream_bytes]


def read(stream: NDArray[np.uint8], code_bits: int, n_codes: int, starts: Starts) -> Words:
    """Read `n_codes` codes of `code_bits` bits from their starts.

    Parameters
    ----------
    stream : uint8 array
        Long enough for all codes.
    code_bits, n_codes : int
    starts : int64 array [n_codes] or int

    Returns
    -------
    Words, [n_codes] or [n_codes, W]
    """
    out = words.zeros(n_codes, code_bits)
    if code_bits == 0 or n_codes == 0:
        return out
    if isinstance(starts, int) and out.ndim == 1 and starts == code_bits == out.itemsize * 8:
        return stream[: n_codes * out.itemsize].view(out.dtype).copy()
    source = np.zeros(len(stream) // 8 + 2, np.uint64)
    source.view(np.uint8)[: len(stream)] = stream
    if isinstance(starts, int):
        if out.ndim == 1 and starts == code_bits < words.WORD_BITS:
            _read_dense(source, np.uint64(code_bits), out)
            return out
        starts = np.arange(n_codes, dtype=np.int64) * starts
    _read_at(source, code_bits, starts, words.rows(out))
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
def _write_at(rows, code_bits, starts, out):  # type: ignore[no-untyped-def]
    """Codes [G, W] at any start; one spare word at the end of out."""
    one, low = np.uint64(1), np.uint64(63)
    for i in range(rows.shape[0]):
        for w in range(rows.shape[1]):
            bit = starts[i] + 64 * w
            shift = np.uint64(bit) & low
            word = bit >> 6
            out[word] |= rows[i, w] << shift
            if w * 64 + 64 - np.int64(shift) < code_bits:
                out[word + 1] |= (rows[i, w] >> one) >> (low - shift)


@njit(cache=True, nogil=True)
def _read_at(source, code_bits, starts, out):  # type: ignore[no-untyped-def]
    """Codes from any start -> [G, W]; one spare word at the end of source."""
    one, low = np.uint64(1), np.uint64(63)
    for i in range(out.shape[0]):
        left = code_bits
        for w in range(out.shape[1]):
            bit = starts[i] + 64 * w
            shift = np.uint64(bit) & low
            word = bit >> 6
            value = source[word] >> shift
            if left > 64 - np.int64(shift):
                value |= (source[word + 1] << one) << (low - shift)
            if left < 64:
                value &= (one << np.uint64(left)) - one
            out[i, w] = value
            left -= 64
