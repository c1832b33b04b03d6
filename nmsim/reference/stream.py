"""The whole way of a row's metadata: group masks -> codes -> stream, and back."""

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.reference import gap, packing
from nmsim.reference.encoding import ReferenceEncoding, get


def write(
    masks: list[int], pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> bytes:
    """Encode group masks and pack the codes.

    Raises
    ------
    EncodingError
        An unknown encoding, or a mask that does not have exactly N ones among its low M bits.
    BitstreamError
        An unknown packing, or one that cannot hold codes that differ in length.

    Examples
    --------
    >>> write([0b0110, 0b1100, 0b0011], Pattern(2, 4)).hex()  # codes 2, 5, 0 of 3 bits
    '2a00'
    """
    chosen = get(encoding)
    codes = chosen.encode(masks, pattern)
    return packing.pack(codes, _lengths(chosen, codes, pattern), policy)


def report(
    masks: list[int], pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> packing.Report:
    """Count what the bits of the stream that `write` makes are spent on.

    Examples
    --------
    >>> report([0b0110, 0b1100, 0b0011], Pattern(2, 4))
    Report(payload_bits=9, padding_bits=0, alignment_bits=7, stream_bytes=2)
    """
    chosen = get(encoding)
    codes = chosen.encode(masks, pattern)
    return packing.report(len(codes), _lengths(chosen, codes, pattern), policy)


def read_codes(
    stream: bytes, n_codes: int, pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> list[int]:
    """Read a stream's codes.

    Raises
    ------
    BitstreamError
        The stream is truncated, too long, or has a bit that is not zero where no code lies.
    EncodingError
        The end of a code cannot be found, since a position reaches M.

    Examples
    --------
    >>> read_codes(bytes.fromhex("2a00"), 3, Pattern(2, 4))
    [2, 5, 0]
    """
    chosen = get(encoding)
    if chosen.fixed_width(pattern):
        return packing.unpack(stream, n_codes, chosen.code_bits(pattern), policy)

    def length_at(bits: list[int], start: int) -> int:
        return gap.length_at(bits, start, pattern, chosen.parameter)

    return packing.unpack(stream, n_codes, length_at, policy)


def read(
    stream: bytes, n_groups: int, pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> list[int]:
    """Read a stream's group masks.

    Raises
    ------
    BitstreamError
        The stream is truncated, too long, or has a bit that is not zero where no code lies.
    EncodingError
        A code stands for no mask.

    Examples
    --------
    >>> [bin(mask) for mask in read(bytes.fromhex("2a00"), 3, Pattern(2, 4))]
    ['0b110', '0b1100', '0b11']
    """
    if n_groups < 0:
        raise EncodingError(f"n_groups={n_groups}: expected 0 or more")
    chosen = get(encoding)
    n_codes = -(-n_groups // chosen.groups_per_code(pattern))
    return chosen.decode(read_codes(stream, n_codes, pattern, encoding, policy), pattern, n_groups)


def _lengths(chosen: ReferenceEncoding, codes: list[int], pattern: Pattern) -> int | list[int]:
    if chosen.fixed_width(pattern):
        return chosen.code_bits(pattern)
    return chosen.code_lengths(codes, pattern)
