"""Codes to bits and back, under a stated policy. Payload, padding and alignment bits are counted apart.

Stream bit k is bit k % 8 of byte k // 8, and a code's lowest bit goes first. Four policies:

========================  ==============================================================================
`bitstream`               codes follow each other without a space
`no_straddle[:W]`         no code crosses a W-bit word (W = 32 unless given); the rest of a word is zero
`power_of_two`            each code is padded with zeros to the next power of two of its length
`byte`                    each code is padded with zeros to whole bytes
========================  ==============================================================================

The end of a stream is padded with zeros to whole bytes (to whole words under `no_straddle`).
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nmsim import bitstream, words
from nmsim.bitstream import Slots, Spacing
from nmsim.errors import BitstreamError, brief
from nmsim.support.jit import njit
from nmsim.support.names import did_you_mean
from nmsim.units import bits_to_bytes, ceil_div
from nmsim.words import Words

Lengths = NDArray[np.integer[Any]]
"""Bits of each code, when they differ."""

POLICIES = ("bitstream", "no_straddle", "power_of_two", "byte")
WORD_BITS_CHOICES = (8, 16, 32, 64, 128)
DEFAULT_WORD_BITS = 32
MAX_BITS = 1 << 20
"""Most bits of one code that these functions take. Those of encodings are shorter, see `nmsim.encodings.base`."""


@dataclass(frozen=True)
class Policy:
    """A packing policy by name; `word_bits` matters to `no_straddle` only."""

    name: str
    word_bits: int = DEFAULT_WORD_BITS

    def __str__(self) -> str:
        return f"no_straddle:{self.word_bits}" if self.name == "no_straddle" else self.name

    def slot_bits(self, length: Any) -> Any:
        """Stored bits of a code of `length` bits, its own padding included (not for `no_straddle`)."""
        if self.name == "bitstream":
            return length
        if self.name == "byte":
            return (length + 7) // 8 * 8
        return _next_power_of_two(length)


@dataclass(frozen=True)
class PackingReport:
    """Where the bits of a stream go. `payload + padding + alignment == 8 * stream_bytes`, always."""

    payload_bits: int
    padding_bits: int
    alignment_bits: int

    @property
    def stream_bytes(self) -> int:
        """Bytes of the whole stream."""
        return (self.payload_bits + self.padding_bits + self.alignment_bits) // 8


@functools.cache
def parse(policy: str | Policy) -> Policy:
    """Read a policy's name, such as `"bitstream"` or `"no_straddle:64"`; a policy stays as it is.

    Raises
    ------
    BitstreamError
        Unknown name, or a word width that is not 8, 16, 32, 64 or 128.
    """
    if isinstance(policy, Policy):
        return policy
    name, colon, width = policy.partition(":") if isinstance(policy, str) else (policy, "", "")
    if name not in POLICIES or (colon and name != "no_straddle"):
        raise BitstreamError(
            f"packing {brief(policy)}: expected one of {', '.join(POLICIES)} (no_straddle takes a word width, "
            f"such as no_straddle:{DEFAULT_WORD_BITS}){did_you_mean(name, POLICIES)}"
        )
    if not colon:
        return Policy(name)
    if width not in map(str, WORD_BITS_CHOICES):
        raise BitstreamError(
            f"packing {brief(policy)}: expected a word width of "
            f"{', '.join(map(str, WORD_BITS_CHOICES))} bits, got {brief(width)}"
        )
    return Policy(name, int(width))


@overload
def stream_bits(n_codes: int, code_bits: int, policy: str | Policy) -> int: ...
@overload
def stream_bits(n_codes: NDArray[np.int64], code_bits: int, policy: str | Policy) -> NDArray[np.int64]: ...


def stream_bits(n_codes: Any, code_bits: int, policy: str | Policy) -> Any:
    """Count the bits of `n_codes` codes of one width, padding included, before the end is rounded to bytes.

    Parameters
    ----------
    n_codes : int or int64 array
    code_bits : int
    policy : str

    Returns
    -------
    int or int64 array
        Bits; for `no_straddle` a whole number of words.

    Examples
    --------
    >>> stream_bits(10, 14, "bitstream"), stream_bits(10, 14, "power_of_two")
    (140, 160)
    >>> stream_bits(10, 14, "no_straddle:32")
    160
    """
    how = parse(policy)
    if how.name != "no_straddle":
        return n_codes * how.slot_bits(code_bits)
    if code_bits == 0:
        return n_codes * 0
    if code_bits > how.word_bits:
        return n_codes * ceil_div(code_bits, how.word_bits) * how.word_bits
    return -(-n_codes // (how.word_bits // code_bits)) * how.word_bits


def report(
    n_codes: int, code_bits: int, policy: str | Policy = "bitstream", lengths: Lengths | None = None
) -> PackingReport:
    """Count payload, padding and alignment bits of a stream without making it.

    Parameters
    ----------
    n_codes, code_bits : int
        Number of codes and bits of each.
    policy : str
    lengths : integers [n_codes], optional
        Bits of each code when they differ, at most `code_bits`.

    Raises
    ------
    BitstreamError
        Unknown policy, or `no_straddle` for codes of differing lengths.

    Examples
    --------
    >>> report(3, 14, "byte")
    PackingReport(payload_bits=42, padding_bits=6, alignment_bits=0)
    """
    how = parse(policy)
    if n_codes < 0 or not 0 <= code_bits <= MAX_BITS:
        raise BitstreamError(
            f"{brief(n_codes)} codes of {brief(code_bits)} bits: expected 0 codes or more, of 0 to {MAX_BITS} bits"
        )
    if lengths is not None:
        refuse_differing_lengths(how)
        lengths = _checked_lengths(lengths, n_codes, code_bits)
        payload, slots = int(lengths.sum()), int(how.slot_bits(lengths).sum())
    elif how.name == "no_straddle":
        payload, slots = n_codes * code_bits, _end_of_last_code(n_codes, code_bits, how.word_bits)
        total = stream_bits(n_codes, code_bits, policy)
        return PackingReport(payload, slots - payload, total - slots)
    else:
        payload, slots = n_codes * code_bits, n_codes * how.slot_bits(code_bits)
    return PackingReport(payload, slots - payload, 8 * bits_to_bytes(slots) - slots)


def pack(
    codes: Any,
    code_bits: int,
    policy: str | Policy = "bitstream",
    lengths: Lengths | None = None,
    *,
    threads: int = 1,
) -> NDArray[np.uint8]:
    """Write codes into a stream of bytes.

    Parameters
    ----------
    codes : unsigned integers, shape [G]
        One per code; an object array of Python ints, or uint64 rows [G, W], if one takes more than 64 bits.
    code_bits : int
        Bits of each code, or of the longest one when `lengths` is given.
    policy : str
    lengths : integers [G], optional
        Bits of each code when they differ, at most `code_bits`.
    threads : int
        Cores to use.

    Returns
    -------
    uint8 array
        The stream, `report(...).stream_bytes` long.

    Raises
    ------
    BitstreamError
        Unknown policy, a code with bits at or above its length, or `no_straddle` with differing lengths.

    Examples
    --------
    >>> pack([1, 2, 5], 3).tobytes().hex()
    '5101'
    """
    how = parse(policy)
    data = _code_words(codes, code_bits)
    count = len(data)
    if lengths is None:
        total = stream_bits(count, code_bits, policy)
        places: Spacing | Slots = _spacing(code_bits, how)
    else:
        refuse_differing_lengths(how)
        lengths = _checked_lengths(lengths, count, code_bits)
        slots = how.slot_bits(lengths)
        places, total = slots, int(slots.sum())
        _refuse_long_codes(data, lengths)
    return bitstream.write(data, code_bits, places, bits_to_bytes(total), threads=threads)


def unpack(
    stream: NDArray[np.uint8] | bytes, n_codes: int, code_bits: int, policy: str | Policy = "bitstream"
) -> NDArray[Any]:
    """Read codes of one width back from a stream.

    Parameters
    ----------
    stream : uint8 array or bytes
        Exactly the stream, no more and no less.
    n_codes, code_bits : int
    policy : str

    Returns
    -------
    unsigned integer array [n_codes]
        An object array of Python ints when a code takes more than 64 bits.

    Raises
    ------
    BitstreamError
        The stream is too short or too long, or a padding or alignment bit is not zero.

    Examples
    --------
    >>> unpack(bytes.fromhex("5101"), 3, 3).tolist()
    [1, 2, 5]
    """
    return words.to_integers(unpack_words(stream, n_codes, code_bits, policy))


def whole_codes(code_bits: int, policy: str | Policy = "bitstream") -> int:
    """Count the codes of one width after which a stream stands at the start of a byte, and of a word if it has words.

    A stream may be cut after any multiple of them: each piece is then the stream of its own codes.

    Examples
    --------
    >>> whole_codes(14), whole_codes(14, "no_straddle:32"), whole_codes(14, "byte")
    (4, 2, 1)
    """
    places = _spacing(code_bits, parse(policy))
    return places.per_block * (8 // math.gcd(8, places.block_bits))


def unpack_words(
    stream: NDArray[np.uint8] | bytes,
    n_codes: int,
    code_bits: int,
    policy: str | Policy = "bitstream",
    *,
    threads: int = 1,
    first_code: int = 0,
) -> Words:
    """Like `unpack`, with wide codes as uint64 rows [n_codes, W].

    Errors count codes and bits from `first_code`, a multiple of `whole_codes`: the codes before a piece of a stream.
    """
    data = as_stream(stream)
    how = parse(policy)
    rep = report(n_codes, code_bits, policy)
    check_length(len(data), rep.stream_bytes)
    places = _spacing(code_bits, how)
    codes = bitstream.read(data, code_bits, n_codes, places, threads=threads)
    first_byte = stream_bits(first_code, code_bits, policy) // 8
    if rep.padding_bits:
        again = bitstream.write(codes, code_bits, places, len(data), threads=threads)
        refuse_padding(data, again, first_byte=first_byte)
    elif rep.alignment_bits:
        _refuse_alignment(data, rep.payload_bits, first_byte)
    return codes


def as_stream(stream: Any) -> NDArray[np.uint8]:
    """Take bytes or a uint8 array as a flat uint8 array."""
    if isinstance(stream, bytes | bytearray | memoryview):
        return np.frombuffer(stream, np.uint8)
    array = np.asarray(stream)
    if array.dtype != np.uint8 or array.ndim != 1:
        raise BitstreamError(
            f"metadata stream: expected bytes or a 1-D uint8 array, got {array.dtype} {array.shape}"
        )
    return np.ascontiguousarray(array)


def check_length(stream_bytes: int, expected_bytes: int) -> None:
    """Refuse a stream that is not exactly as long as it must be."""
    if stream_bytes != expected_bytes:
        word = "truncated" if stream_bytes < expected_bytes else "too long"
        raise BitstreamError(
            f"metadata stream is {word}: expected {brief(expected_bytes)} bytes, got {stream_bytes}"
        )


def refuse_padding(
    stream: NDArray[np.uint8], without_padding: NDArray[np.uint8], *, first_byte: int = 0
) -> None:
    """Refuse a stream that differs from the same codes written with zero padding; errors count from `first_byte`."""
    if np.array_equal(stream, without_padding):
        return
    byte = int(np.argmax(stream != without_padding))
    differing = int(stream[byte]) ^ int(without_padding[byte])
    byte += first_byte
    bit = 8 * byte + (differing & -differing).bit_length() - 1
    raise BitstreamError(f"metadata stream: padding bit {bit} (byte {byte}) is 1, expected 0")


def _refuse_alignment(stream: NDArray[np.uint8], used_bits: int, first_byte: int) -> None:
    """Refuse a stream with a bit that is 1 after the last code."""
    first = used_bits // 8
    left = int.from_bytes(stream[first:].tobytes(), "little") >> used_bits % 8
    if left:
        bit = 8 * first_byte + used_bits + (left & -left).bit_length() - 1
        raise BitstreamError(f"metadata stream: padding bit {bit} (byte {bit // 8}) is 1, expected 0")


def _code_words(codes: Any, code_bits: int) -> Words:
    """Take a user's codes, or rows of words that nmsim made itself."""
    if not 0 <= code_bits <= MAX_BITS:
        raise BitstreamError(f"codes of {brief(code_bits)} bits: expected 0 to {MAX_BITS}")
    if not (isinstance(codes, np.ndarray) and codes.ndim == 2 and codes.dtype == np.uint64):
        return words.from_integers(codes, code_bits, "code", BitstreamError)
    width = ceil_div(code_bits, words.WORD_BITS)
    if not words.is_wide(code_bits) or codes.shape[1] != width:
        raise BitstreamError(
            f"codes of {brief(code_bits)} bits have shape {codes.shape}: expected "
            + (f"(G, {width}) words of 64 bits" if words.is_wide(code_bits) else "one integer each")
        )
    spare = np.uint64(width * words.WORD_BITS - code_bits)
    beyond = codes[:, -1] >> (np.uint64(words.WORD_BITS) - spare) if spare else np.zeros(len(codes))
    if beyond.any():
        first = int(np.argmax(beyond != 0))
        raise BitstreamError(
            f"code {first} is {brief(words.integer_at(codes, first))}: expected 0 <= code < 2**{code_bits}"
        )
    return codes


def _checked_lengths(lengths: Any, n_codes: int, code_bits: int) -> Lengths:
    """Take lengths as an array wide enough to be rounded up and added."""
    array = np.asarray(lengths)
    if array.ndim != 1 or len(array) != n_codes or (array.size and array.dtype.kind not in "ui"):
        raise BitstreamError(
            f"lengths of shape {array.shape} and dtype {array.dtype} for {n_codes} codes: expected one integer a code"
        )
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= code_bits:
        raise BitstreamError(
            f"lengths from {array.min()} to {array.max()}: expected 0 to {code_bits}, the longest code"
        )
    return array.astype(np.int32)


def _spacing(code_bits: int, how: Policy) -> Spacing:
    """Where codes of one width start under a policy."""
    if how.name != "no_straddle":
        return Spacing(1, int(how.slot_bits(code_bits)))
    if code_bits > how.word_bits:
        return Spacing(1, ceil_div(code_bits, how.word_bits) * how.word_bits)
    return Spacing(how.word_bits // max(1, code_bits), how.word_bits)


def _end_of_last_code(count: int, code_bits: int, word_bits: int) -> int:
    if count == 0 or code_bits == 0:
        return 0
    if code_bits > word_bits:
        return (count - 1) * ceil_div(code_bits, word_bits) * word_bits + code_bits
    per_word = word_bits // code_bits
    return (count - 1) // per_word * word_bits + ((count - 1) % per_word + 1) * code_bits


def _next_power_of_two(length: Any) -> Any:
    if isinstance(length, int):
        return 1 << (length - 1).bit_length() if length > 0 else 0
    out = np.ones_like(length)
    while (short := out < length).any():
        out[short] *= 2
    out[length == 0] = 0
    return out


def refuse_differing_lengths(how: Policy) -> None:
    """Refuse the one policy under which codes of differing lengths could not be read back."""
    if how.name == "no_straddle":
        raise BitstreamError(
            f"packing {how}: codes of differing lengths cannot be packed so, because padding looks like a "
            "code; expected bitstream, power_of_two or byte"
        )


def _refuse_long_codes(codes: Words, lengths: Lengths) -> None:
    bad = _first_long(words.rows(codes), lengths)
    if bad >= 0:
        raise BitstreamError(
            f"code {bad} is {brief(words.integer_at(codes, bad))}: expected fewer than 2**{int(lengths[bad])}"
        )


@njit(cache=True, nogil=True)
def _first_long(rows, lengths):  # type: ignore[no-untyped-def]
    """The first code [G, W] with a bit at or above its length, or -1."""
    for i in range(rows.shape[0]):
        for w in range(rows.shape[1]):
            left: Any = np.int64(lengths[i]) - 64 * w
            beyond = np.uint64(rows[i, w])
            if left > 0:
                beyond = (beyond >> np.uint64(min(left, 64) - 1)) >> np.uint64(1)
            if beyond != 0:
                return i
    return -1
