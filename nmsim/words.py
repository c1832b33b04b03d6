"""Unsigned integers of any width as arrays: one machine word each up to 64 bits, rows of words beyond.

Inside nmsim a sequence of group masks or codes is an array of shape [G] with the narrowest unsigned dtype that
holds `bits` bits. Above 64 bits it is an array [G, W] of uint64 with the least significant word first. In the public
API wide ones are Python integers in an object array. So a user always sees one integer per group.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import EncodingError, NmsimError, brief
from nmsim.support.jit import njit
from nmsim.units import ceil_div

Words = NDArray[np.unsignedinteger[Any]]

WORD_BITS = 64
BYTE = 256
"""Values of a byte: the length of tables that a byte indexes."""
MACHINE_WORD = (1 << WORD_BITS) - 1
"""The greatest value of a word."""


def word_dtype(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Narrowest unsigned dtype that holds `bits` bits; uint64 for anything above 32."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if bits <= np.iinfo(dtype).bits:
            return np.dtype(dtype)
    return np.dtype(np.uint64)


def is_wide(bits: int) -> bool:
    """Say whether integers of `bits` bits need more than one machine word."""
    return bits > WORD_BITS


def zeros(count: int, bits: int) -> Words:
    """Make room for `count` integers of `bits` bits: shape [count], or [count, W] when wide."""
    if is_wide(bits):
        return np.zeros((count, ceil_div(bits, WORD_BITS)), np.uint64)
    return np.zeros(count, word_dtype(bits))


def empty(count: int, bits: int) -> Words:
    """Like `zeros`, unset."""
    if is_wide(bits):
        return np.empty((count, ceil_div(bits, WORD_BITS)), np.uint64)
    return np.empty(count, word_dtype(bits))


def from_integers(values: Any, bits: int, what: str, error: type[NmsimError] = EncodingError) -> Words:
    """Take a user's integers in.

    Parameters
    ----------
    values : array of integers, shape [G], or a sequence of int
    bits : int
        Every value must be below 2**bits.
    what : str
        What a value is called in errors, such as `"group mask"`.
    error : type of NmsimError
        What to raise.

    Returns
    -------
    Words

    Raises
    ------
    EncodingError, or `error`
        Not one-dimensional, not integers, negative, or too large.
    """
    array = np.asarray(values) if not isinstance(values, Sequence) else _array_of(values, what, error)
    if array.ndim != 1:
        raise error(f"{what}s: expected one unsigned integer each in a 1-D array, got shape {array.shape}")
    if array.dtype == object:
        return _from_objects(array.tolist(), bits, what, error)
    if array.dtype.kind not in "ui":
        if array.size == 0:
            return zeros(0, bits)
        raise error(f"{what}s: expected unsigned integers, got dtype {array.dtype}")
    if is_wide(bits):
        return _from_objects(array.tolist(), bits, what, error)
    target = word_dtype(bits)
    if array.size and not (array.dtype == target and bits == np.iinfo(target).bits):
        wrong = array >= np.uint64(1 << bits) if bits < WORD_BITS else np.zeros(array.shape, bool)
        if array.dtype.kind == "i":
            wrong |= array < 0
        if wrong.any():
            first = int(np.argmax(wrong))
            raise error(f"{what} {first} is {brief(int(array[first]))}: expected 0 <= {what} < 2**{bits}")
    return np.ascontiguousarray(array, dtype=target)


def to_integers(words: Words) -> NDArray[Any]:
    """Give integers back to a user: [G] unchanged, wide [G, W] as an object array of Python ints."""
    if words.ndim == 1:
        return words
    out = np.empty(len(words), object)
    raw = np.ascontiguousarray(words).astype("<u8", copy=False).tobytes()
    step = words.shape[1] * 8
    for i in range(len(words)):
        out[i] = int.from_bytes(raw[i * step : (i + 1) * step], "little")
    return out


def rows(words: Words) -> Words:
    """View [G] as [G, 1]; wide [G, W] as it is."""
    return words if words.ndim == 2 else words[:, None]


def integer_at(words: Words, position: int) -> int:
    """One integer of the sequence as a Python int."""
    if words.ndim == 1:
        return int(words[position])
    return int.from_bytes(np.ascontiguousarray(words[position], "<u8").tobytes(), "little")


def put(words: Words, position: int, number: int) -> None:
    """Store a Python int that fits at a position of the sequence."""
    if words.ndim == 1:
        words[position] = number
        return
    words[position] = np.frombuffer(number.to_bytes(8 * words.shape[1], "little"), "<u8")


def _array_of(values: Sequence[Any], what: str, error: type[NmsimError]) -> NDArray[Any]:
    """An object array of a Python sequence, so that no integer is rounded on the way."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise error(f"{what} {i} is {brief(value)} (type {type(value).__name__}): expected an int")
        array[i] = int(value)
    return array


def _from_objects(values: list[Any], bits: int, what: str, error: type[NmsimError]) -> Words:
    out = zeros(len(values), bits)
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise error(f"{what} {i} is {brief(value)} (type {type(value).__name__}): expected an int")
        number = int(value)
        if not 0 <= number < 1 << bits:
            raise error(f"{what} {i} is {brief(number)}: expected 0 <= {what} < 2**{bits}")
        put(out, i, number)
    return out


@njit(cache=True, nogil=True)
def popcount(x):  # type: ignore[no-untyped-def]
    """Ones of a uint64, by adding neighbours; LLVM recognises the idiom and vectorises it."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
