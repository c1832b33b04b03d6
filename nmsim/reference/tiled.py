"""`tiled`: masks of two halves, numbered so that a code falls apart into the numbers of its halves.

Everything is written out as lists: the tiles of a group, of its halves, of their halves, down to single bits. A tile is
`(first code, bits, ones above, ones below, first above, bits above, first below, bits below)`: all pairs of 2^(bits above)
numbers of the upper half and 2^(bits below) numbers of the lower half.
"""

from functools import cache
from itertools import product
from math import comb

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.reference.masks import check_masks

TileRow = tuple[int, int, int, int, int, int, int, int]


def code_bits(pattern: Pattern) -> int:
    """Count the bits of a code: those that count C(M, N) masks.

    Raises
    ------
    EncodingError
        M is none of 1, 2, 4, 8, 16, 32, 64.

    Examples
    --------
    >>> code_bits(Pattern(2, 4)), code_bits(Pattern(8, 16)), code_bits(Pattern(4, 4))
    (3, 14, 0)
    """
    if pattern.m not in (1, 2, 4, 8, 16, 32, 64):
        raise EncodingError(
            f"{pattern}: a tiled group is halved down to bits, expected an M that is a power of two of at most 64"
        )
    return (comb(pattern.m, pattern.n) - 1).bit_length()


def encode(masks: list[int], pattern: Pattern) -> list[int]:
    """Turn group masks into codes.

    Raises
    ------
    EncodingError
        A mask does not have exactly N ones among its low M bits, or M is not as `code_bits` says.

    Examples
    --------
    >>> encode([0b0101, 0b0110, 0b1001, 0b1010, 0b0011, 0b1100], Pattern(2, 4))
    [0, 1, 2, 3, 4, 5]
    """
    code_bits(pattern)
    check_masks(masks, pattern)
    return [_number(mask, pattern.m, pattern) for mask in masks]


def decode(codes: list[int], pattern: Pattern) -> list[int]:
    """Turn codes into group masks.

    Raises
    ------
    EncodingError
        A code, or what it gives for a half, lies in no tile; or M is not as `code_bits` says.

    Examples
    --------
    >>> [bin(mask) for mask in decode([0, 5], Pattern(2, 4))]
    ['0b101', '0b1100']
    """
    code_bits(pattern)
    masks = []
    for i, code in enumerate(codes):
        mask = _mask(code, pattern.m, pattern.n, pattern)
        if mask is None:
            raise EncodingError(
                f"code {i} is {code}: it lies in no tile of {pattern}, or what it gives for a half does not"
            )
        masks.append(mask)
    return masks


def tile_rows(bits: int, ones: int, pattern: Pattern) -> list[TileRow]:
    """List the tiles of a block of so many bits and ones, of the codes of a pattern.

    Examples
    --------
    >>> for row in tile_rows(4, 2, Pattern(2, 4)):
    ...     print(row)
    (0, 2, 1, 1, 0, 1, 0, 1)
    (4, 0, 0, 2, 0, 0, 0, 0)
    (5, 0, 2, 0, 0, 0, 0, 0)
    """
    return list(_tile_rows(bits, ones, pattern.m, min(pattern.n, pattern.m - pattern.n)))


def _number(mask: int, bits: int, pattern: Pattern) -> int:
    """The number of a mask of so many bits. A mask that is more than half full has that of its complement."""
    if bits == 1:
        return 0
    if mask.bit_count() * 2 > bits:
        mask = 2**bits - 1 - mask
    above, below = divmod(mask, 2 ** (bits // 2))
    number_above, number_below = _number(above, bits // 2, pattern), _number(below, bits // 2, pattern)
    for first, _, ones_above, _, first_above, bits_above, first_below, bits_below in tile_rows(
        bits, mask.bit_count(), pattern
    ):
        up, down = number_above - first_above, number_below - first_below
        if ones_above == above.bit_count() and 0 <= up < 2**bits_above and 0 <= down < 2**bits_below:
            return first + _shuffle(up, bits_above, down, bits_below)
    raise AssertionError(f"mask {mask:#x} of {bits} bits lies in no tile of {pattern}")


def _mask(number: int, bits: int, ones: int, pattern: Pattern) -> int | None:
    """The mask with a number, or None."""
    if ones * 2 > bits:
        mask = _mask(number, bits, bits - ones, pattern)
        return None if mask is None else 2**bits - 1 - mask
    if bits == 1:
        return 0 if number == 0 else None
    for first, field, ones_above, ones_below, first_above, bits_above, first_below, bits_below in tile_rows(
        bits, ones, pattern
    ):
        if first <= number < first + 2**field:
            up, down = _unshuffle(number - first, bits_above, bits_below)
            above = _mask(first_above + up, bits // 2, ones_above, pattern)
            below = _mask(first_below + down, bits // 2, ones_below, pattern)
            return None if above is None or below is None else above * 2 ** (bits // 2) + below
    return None


def _shuffle(up: int, bits_up: int, down: int, bits_down: int) -> int:
    """Take one bit of `down`, one of `up`, and so on, from the lowest; a number that has no bits left is passed over."""
    out = place = 0
    while bits_up or bits_down:
        if bits_down:
            out, place, down, bits_down = out + (down % 2 << place), place + 1, down // 2, bits_down - 1
        if bits_up:
            out, place, up, bits_up = out + (up % 2 << place), place + 1, up // 2, bits_up - 1
    return out


def _unshuffle(number: int, bits_up: int, bits_down: int) -> tuple[int, int]:
    """Undo `_shuffle`."""
    up = down = 0
    for i in range(max(bits_up, bits_down)):
        if i < bits_down:
            down, number = down + (number % 2 << i), number // 2
        if i < bits_up:
            up, number = up + (number % 2 << i), number // 2
    return up, down


def _split_ones(bits: int, ones: int) -> list[tuple[int, int]]:
    """Ones of the upper and of the lower half, as many as fit."""
    half = bits // 2
    return [(a, ones - a) for a in range(ones + 1) if a <= half and ones - a <= half]


def _pieces(size: int) -> list[tuple[int, int]]:
    """Powers of two that add up to a size, the largest first: where each begins, and its exponent."""
    found, begin = [], 0
    for exponent in range(size.bit_length() - 1, -1, -1):
        if size & 2**exponent:
            found.append((begin, exponent))
            begin += 2**exponent
    return found


def _with_few_pieces(size: int, most: int) -> int:
    """The least number of at most so many pieces that is at least `size`."""
    while len(_pieces(size)) > most:
        size += 2 ** _pieces(size)[-1][1]
    return size


@cache
def _most_pieces(m: int, ones: int) -> tuple[tuple[int, int], ...]:
    """Bits of a half, and of how many pieces its sizes are made at most; from short halves to long ones.

    Each is the least with which all codes still fit, while longer halves may have any number of pieces.
    """
    capacity = 2 ** (comb(m, ones) - 1).bit_length()
    chosen: tuple[tuple[int, int], ...] = ()
    bits = 2
    while bits < m:
        most = 1
        while _need(m, ones, (*chosen, (bits, most))) > capacity:
            most += 1
        chosen = (*chosen, (bits, most))
        bits *= 2
    return chosen


@cache
def _need(bits: int, ones: int, most_pieces: tuple[tuple[int, int], ...]) -> int:
    """Numbers that a block takes if every pair of numbers of its halves takes one."""
    if bits == 1:
        return 1
    half = bits // 2
    return sum(_size(half, a, most_pieces) * _size(half, b, most_pieces) for a, b in _split_ones(bits, ones))


@cache
def _size(bits: int, ones: int, most_pieces: tuple[tuple[int, int], ...]) -> int:
    """Numbers that a half is given, of few pieces."""
    need = _need(bits, min(ones, bits - ones), most_pieces)
    for length, most in most_pieces:
        if length == bits:
            return _with_few_pieces(need, most)
    return need


@cache
def _tile_rows(bits: int, ones: int, m: int, ones_of_m: int) -> tuple[TileRow, ...]:
    """The tiles of a block: of all ways to cut its classes that fit, the one of fewest tiles."""
    most_pieces = _most_pieces(m, ones_of_m)
    if bits == m:
        capacity = 2 ** (comb(m, ones) - 1).bit_length()
    else:
        capacity = _size(bits, ones, most_pieces)
    # Ways so far: tiles, numbers, and the sizes to which the halves of each class are rounded.
    ways: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(0, 0, ())]
    for a, b in _split_ones(bits, ones):
        sizes = [
            sorted({_with_few_pieces(size, most) for most in range(1, len(_pieces(size)) + 1)})
            for size in (_size(bits // 2, a, most_pieces), _size(bits // 2, b, most_pieces))
        ]
        more = sorted(
            (tiles + len(_pieces(up)) * len(_pieces(down)), numbers + up * down, (*cut, (up, down)))
            for tiles, numbers, cut in ways
            for up, down in product(*sizes)
        )
        ways = []
        for tiles, numbers, cut in more:
            # A way of as many tiles or more that takes as many numbers or more cannot end as the best one.
            if numbers <= capacity and (not ways or numbers < ways[-1][1]):
                ways.append((tiles, numbers, cut))
    cut = min(ways)[2]
    rows = [
        (field_up + field_down, a, b, first_up, field_up, first_down, field_down)
        for (a, b), (up, down) in zip(_split_ones(bits, ones), cut, strict=True)
        for first_up, field_up in _pieces(up)
        for first_down, field_down in _pieces(down)
    ]
    rows.sort(key=lambda row: (-row[0], min(row[1], row[2]), row[1], row[3], row[5]))
    placed: list[TileRow] = []
    begin = 0
    for row in rows:
        placed.append((begin, *row))
        begin += 2 ** row[0]
    return tuple(placed)
