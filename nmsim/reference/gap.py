"""`gap` and `gap:R` (run length): the number of dropped elements before each kept one, R bits a symbol.

With p_0 < ... < p_{N-1} kept and p_{-1} = -1, gap_j = p_j - p_{j-1} - 1. The symbol ESC = 2**R - 1 means
"skip ESC elements, keep none". A gap g is floor(g / ESC) symbols ESC followed by the symbol g mod ESC.
Symbols follow each other from the low end of the code, so a code has R * (N + number of ESC) bits.
"""

from collections.abc import Iterator

from nmsim.errors import BitstreamError, EncodingError
from nmsim.pattern import Pattern
from nmsim.reference.masks import check_masks, mask_of, positions

MAX_RUN_BITS = 16


def default_run_bits(pattern: Pattern) -> int:
    """Find the least R that never needs ESC: the greatest gap, M-N, must stay below 2**R - 1.

    Examples
    --------
    >>> default_run_bits(Pattern(2, 4)), default_run_bits(Pattern(4, 4)), default_run_bits(Pattern(8, 16))
    (2, 1, 4)
    """
    run_bits = 1
    while pattern.m - pattern.n >= 2**run_bits - 1:
        run_bits += 1
    return run_bits


def code_bits(pattern: Pattern, run_bits: int | None = None) -> int:
    """Count the bits of the longest code.

    Examples
    --------
    >>> code_bits(Pattern(2, 4)), code_bits(Pattern(2, 4), 1)
    (4, 4)
    """
    run_bits = _run_bits(pattern, run_bits)
    escape: int = 2**run_bits - 1
    return run_bits * (pattern.n + (pattern.m - pattern.n) // escape)


def fixed_width(pattern: Pattern, run_bits: int | None = None) -> bool:
    """Say whether all codes of a pattern have the same number of bits: no gap is long enough for ESC.

    Examples
    --------
    >>> fixed_width(Pattern(2, 4)), fixed_width(Pattern(2, 4), 1)
    (True, False)
    """
    run_bits = _run_bits(pattern, run_bits)
    escape: int = 2**run_bits - 1
    return pattern.m - pattern.n < escape


def encode(masks: list[int], pattern: Pattern, run_bits: int | None = None) -> list[int]:
    """Turn group masks into codes.

    Parameters
    ----------
    masks : list of int
        One per group, exactly N ones among the low M bits.
    pattern : Pattern
        N and M.
    run_bits : int, optional
        R, 1 <= R <= 16. The least that never needs ESC if not given.

    Raises
    ------
    EncodingError
        A mask does not have exactly N ones among its low M bits, or R is out of range.

    Examples
    --------
    >>> [bin(code) for code in encode([0b0011, 0b1100], Pattern(2, 4), 1)]
    ['0b0', '0b11']
    """
    run_bits = _run_bits(pattern, run_bits)
    check_masks(masks, pattern)
    codes = []
    for mask in masks:
        symbols = _symbols_of(mask, run_bits)
        codes.append(sum(symbol << (k * run_bits) for k, symbol in enumerate(symbols)))
    return codes


def decode(codes: list[int], pattern: Pattern, run_bits: int | None = None) -> list[int]:
    """Turn codes into group masks.

    Raises
    ------
    EncodingError
        A position reaches M, or bits that are not zero follow the last symbol.

    Examples
    --------
    >>> [bin(mask) for mask in decode([0b00, 0b0011], Pattern(2, 4), 1)]
    ['0b11', '0b1100']
    """
    run_bits = _run_bits(pattern, run_bits)
    return [_decode_one(i, code, pattern, run_bits)[0] for i, code in enumerate(codes)]


def code_lengths(codes: list[int], pattern: Pattern, run_bits: int | None = None) -> list[int]:
    """Count the bits of each code.

    Raises
    ------
    EncodingError
        As `decode`.

    Examples
    --------
    >>> code_lengths([0b00, 0b0011], Pattern(2, 4), 1)
    [2, 4]
    """
    run_bits = _run_bits(pattern, run_bits)
    return [run_bits * _decode_one(i, code, pattern, run_bits)[1] for i, code in enumerate(codes)]


def length_at(bits: list[int], start: int, pattern: Pattern, run_bits: int | None = None) -> int:
    """Count the bits of the code that starts at bit `start` of a stream.

    Raises
    ------
    BitstreamError
        The stream ends before N elements are kept.
    EncodingError
        A position reaches M.

    Examples
    --------
    >>> length_at([0, 0, 1, 1, 0, 0], 2, Pattern(2, 4), 1)
    4
    """
    run_bits = _run_bits(pattern, run_bits)

    def symbols() -> Iterator[int]:
        at = start
        while at + run_bits <= len(bits):
            yield sum(bits[at + i] * 2**i for i in range(run_bits))
            at += run_bits
        raise BitstreamError(
            f"truncated: the code that starts at bit {start} needs more bits, got {len(bits) // 8} bytes"
        )

    return run_bits * len(_read(symbols(), f"code at bit {start}", pattern, run_bits)[1])


def _run_bits(pattern: Pattern, run_bits: int | None) -> int:
    if run_bits is None:
        return default_run_bits(pattern)
    if not 1 <= run_bits <= MAX_RUN_BITS:
        raise EncodingError(f"gap:{run_bits}: expected 1 to {MAX_RUN_BITS} bits a symbol")
    return run_bits


def _symbols_of(mask: int, run_bits: int) -> list[int]:
    escape: int = 2**run_bits - 1
    symbols = []
    previous = -1
    for position in positions(mask):
        gap = position - previous - 1
        symbols += [escape] * (gap // escape) + [gap % escape]
        previous = position
    return symbols


def _decode_one(i: int, code: int, pattern: Pattern, run_bits: int) -> tuple[int, int]:
    """Mask of an integer code, and the number of its symbols. Above its top bit an integer has zeros."""
    if code < 0:
        raise EncodingError(f"code {i} is {code}: expected an unsigned integer")

    def symbols() -> Iterator[int]:
        rest = code
        while True:
            yield rest % 2**run_bits
            rest //= 2**run_bits

    kept, read = _read(symbols(), f"code {i} is {code}", pattern, run_bits)
    if code >= 2 ** (run_bits * len(read)):
        raise EncodingError(
            f"code {i} is {code}, with bits that are not zero after its last symbol: "
            f"expected {run_bits * len(read)} bits"
        )
    return mask_of(kept), len(read)


def _read(symbols: Iterator[int], what: str, pattern: Pattern, run_bits: int) -> tuple[list[int], list[int]]:
    """Positions kept, and the symbols read to learn them."""
    escape: int = 2**run_bits - 1
    kept: list[int] = []
    read: list[int] = []
    position = 0
    while len(kept) < pattern.n:
        symbol = next(symbols)
        read.append(symbol)
        position += symbol
        if position >= pattern.m:
            raise EncodingError(
                f"{what}, whose symbol {len(read) - 1} reaches position {position}: "
                f"expected below M={pattern.m}"
            )
        if symbol != escape:
            kept.append(position)
            position += 1
    return kept, read
