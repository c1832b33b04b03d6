"""Packing: where in a stream each code lies.

Stream bit k is bit k % 8 of byte k // 8, and a code's lowest bit goes first. Bits that no code covers are
zero. A policy is a name, or a name and the bits of a word: `bitstream`, `no_straddle`, `no_straddle:64`,
`power_of_two`, `byte`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nmsim.errors import BitstreamError, brief

WORD_BITS = (8, 16, 32, 64, 128)
POLICIES = ("bitstream", "no_straddle", "power_of_two", "byte")

LengthAt = Callable[[list[int], int], int]
"""Given the bits of a stream and the bit where a code starts, the number of its bits."""


@dataclass(frozen=True)
class Report:
    """What the bits of a stream are spent on.

    Parameters
    ----------
    payload_bits : int
        Bits of the codes.
    padding_bits : int
        Zero bits between the codes: inside the slots of `power_of_two` and `byte`, at the high end of the
        words of `no_straddle` that another word follows.
    alignment_bits : int
        Zero bits from the last slot to the end of the stream.
    stream_bytes : int
        Bytes of the stream.

    Examples
    --------
    >>> report(3, 3, "power_of_two")
    Report(payload_bits=9, padding_bits=3, alignment_bits=4, stream_bytes=2)
    """

    payload_bits: int
    padding_bits: int
    alignment_bits: int
    stream_bytes: int


def parse_policy(policy: str) -> tuple[str, int]:
    """Split a policy into its name and the bits that its streams are a multiple of.

    Raises
    ------
    BitstreamError
        No such policy, or no such word.

    Examples
    --------
    >>> parse_policy("no_straddle"), parse_policy("no_straddle:64"), parse_policy("byte")
    (('no_straddle', 32), ('no_straddle', 64), ('byte', 8))
    """
    name, colon, word = policy.partition(":")
    if name not in POLICIES:
        raise BitstreamError(f"packing {brief(policy)}: expected one of {', '.join(POLICIES)}")
    if name != "no_straddle":
        if colon:
            raise BitstreamError(f"packing {brief(policy)}: {name} takes no number")
        return name, 8
    if not colon:
        return name, 32
    if word not in [str(bits) for bits in WORD_BITS]:
        raise BitstreamError(f"packing {brief(policy)}: expected words of {WORD_BITS} bits")
    return name, int(word)


def pack(codes: list[int], lengths: int | list[int], policy: str = "bitstream") -> bytes:
    """Write codes into a stream.

    Parameters
    ----------
    codes : list of int
        Unsigned integers.
    lengths : int or list of int
        Bits of every code, or of each if codes differ in length.
    policy : str
        Where the codes lie.

    Raises
    ------
    BitstreamError
        A code does not fit its bits, the lengths are not one per code, the policy is unknown, or codes differ in
        length under `no_straddle`.

    Examples
    --------
    >>> pack([0b101, 0b011, 0b001], 3).hex()
    '5d00'
    """
    each = _lengths(len(codes), lengths)
    starts, _, stream_bits = _place(each, isinstance(lengths, int), policy)
    bits = [0] * stream_bits
    for i, (code, length, start) in enumerate(zip(codes, each, starts, strict=True)):
        if not 0 <= code < 2**length:
            raise BitstreamError(f"code {i} is {code}: expected 0 <= code < 2**{length}")
        for k in range(length):
            bits[start + k] = code >> k & 1
    return bytes(sum(bits[8 * byte + k] * 2**k for k in range(8)) for byte in range(stream_bits // 8))


def unpack(stream: bytes, n_codes: int, length: int | LengthAt, policy: str = "bitstream") -> list[int]:
    """Read codes from a stream.

    Parameters
    ----------
    stream : bytes
        Exactly the stream.
    n_codes : int
        Codes in it.
    length : int or function
        Bits of every code, or the function that finds the length of the code that starts at a given bit.
    policy : str
        Where the codes lie.

    Raises
    ------
    BitstreamError
        The stream is truncated, too long, or has a bit that is not zero where no code lies.

    Examples
    --------
    >>> unpack(bytes.fromhex("5d00"), 3, 3)
    [5, 3, 1]
    """
    if n_codes < 0:
        raise BitstreamError(f"n_codes={n_codes}: expected 0 or more")
    bits = [byte >> k & 1 for byte in stream for k in range(8)]
    if isinstance(length, int):
        lengths = [length] * n_codes
    else:
        lengths = _find_lengths(bits, n_codes, length, policy)
    starts, _, stream_bits = _place(lengths, isinstance(length, int), policy)
    if len(stream) < stream_bits // 8:
        raise BitstreamError(f"truncated: expected {stream_bits // 8} bytes, got {len(stream)}")
    if len(stream) > stream_bits // 8:
        raise BitstreamError(f"stream too long: expected {stream_bits // 8} bytes, got {len(stream)}")
    codes = []
    for start, code_length in zip(starts, lengths, strict=True):
        codes.append(sum(bits[start + k] * 2**k for k in range(code_length)))
        bits[start : start + code_length] = [0] * code_length
    if 1 in bits:
        raise BitstreamError(f"padding bit {bits.index(1)} is 1, expected 0")
    return codes


def report(n_codes: int, lengths: int | list[int], policy: str = "bitstream") -> Report:
    """Count what the bits of a stream are spent on, without writing it.

    Raises
    ------
    BitstreamError
        As `pack`.

    Examples
    --------
    >>> report(5, 14, "no_straddle:32")
    Report(payload_bits=70, padding_bits=8, alignment_bits=18, stream_bytes=12)
    """
    each = _lengths(n_codes, lengths)
    _, end, stream_bits = _place(each, isinstance(lengths, int), policy)
    return Report(sum(each), end - sum(each), stream_bits - end, stream_bits // 8)


def _lengths(n_codes: int, lengths: int | list[int]) -> list[int]:
    if n_codes < 0:
        raise BitstreamError(f"n_codes={n_codes}: expected 0 or more")
    each = [lengths] * n_codes if isinstance(lengths, int) else lengths
    if len(each) != n_codes:
        raise BitstreamError(f"{len(each)} lengths for {n_codes} codes: expected one per code")
    return each


def _place(lengths: list[int], fixed_width: bool, policy: str) -> tuple[list[int], int, int]:
    """First bit of each code, first bit after the last slot, bits of the whole stream."""
    name, multiple = parse_policy(policy)
    if not fixed_width:
        _refuse_words(name, policy)
    starts = []
    end = 0
    for length in lengths:
        if name == "no_straddle":
            left_in_word = -end % multiple
            if length > left_in_word:
                end += left_in_word
            starts.append(end)
            end += length
        else:
            starts.append(end)
            end += _slot_bits(name, length)
    return starts, end, end + -end % multiple


def _refuse_words(name: str, policy: str) -> None:
    if name == "no_straddle":
        raise BitstreamError(
            f"packing {brief(policy)}: expected codes of one length, because a reader could not distinguish "
            "the unused bits of a word from a code"
        )


def _slot_bits(name: str, length: int) -> int:
    if length == 0 or name == "bitstream":
        return length
    if name == "byte":
        return length + -length % 8
    slot = 1
    while slot < length:
        slot *= 2
    return slot


def _find_lengths(bits: list[int], n_codes: int, length_at: LengthAt, policy: str) -> list[int]:
    name, _ = parse_policy(policy)
    _refuse_words(name, policy)
    lengths: list[int] = []
    start = 0
    for _ in range(n_codes):
        lengths.append(length_at(bits, start))
        start += _slot_bits(name, lengths[-1])
    return lengths
