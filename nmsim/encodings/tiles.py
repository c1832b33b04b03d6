"""How the tiled code cuts the pairs of two halves into tiles: a plan of few numbers, the same for software and hardware.

A block is m neighbouring bits with k ones, m a power of two. Its masks have numbers, and its room is a number that all of them
lie below. The halves of a block are blocks too. A tile is made of a range of 2^i numbers of the
upper half and a range of 2^j numbers of the lower half. It holds all their pairs, and takes 2^(i+j) numbers of the block.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern

MAX_M = 64
"""Codes are machine words, and a plan takes a fraction of a second."""


@dataclass(frozen=True)
class Chunk:
    """A range of 2^bits numbers of a half, from `first` on."""

    first: int
    bits: int


@dataclass(frozen=True)
class Tile:
    """All pairs of two chunks, as the numbers from `first` on.

    Parameters
    ----------
    first : int
        A multiple of 2^bits.
    upper_ones, lower_ones : int
        Ones of the halves.
    upper, lower : Chunk
        Of the halves' numbers.

    Examples
    --------
    >>> tile = Tile(16, 1, 1, Chunk(0, 1), Chunk(4, 2))
    >>> tile.bits, tile.number(1, 6), tile.halves(22)
    (3, 22, (1, 6))
    """

    first: int
    upper_ones: int
    lower_ones: int
    upper: Chunk
    lower: Chunk

    @property
    def bits(self) -> int:
        """Of the number that are fields of the halves; those above are the same in the whole tile."""
        return self.upper.bits + self.lower.bits

    @property
    def lower_places(self) -> tuple[int, ...]:
        """Bits of the number that hold the field of the lower half, its lowest bit first."""
        return dealt(self.upper.bits, self.lower.bits)[1]

    @property
    def upper_places(self) -> tuple[int, ...]:
        """Bits of the number that hold the field of the upper half, its lowest bit first."""
        return dealt(self.upper.bits, self.lower.bits)[0]

    def number(self, upper: int, lower: int) -> int:
        """Join the numbers of two halves that lie in the tile's chunks."""
        found = self.first
        for value, places in (
            (upper - self.upper.first, self.upper_places),
            (lower - self.lower.first, self.lower_places),
        ):
            found += sum((value >> i & 1) << place for i, place in enumerate(places))
        return found

    def halves(self, number: int) -> tuple[int, int]:
        """Split a number that lies in the tile into those of the upper and of the lower half."""
        upper = sum((number >> place & 1) << i for i, place in enumerate(self.upper_places))
        lower = sum((number >> place & 1) << i for i, place in enumerate(self.lower_places))
        return self.upper.first + upper, self.lower.first + lower


@dataclass(frozen=True)
class Block:
    """The tiles of m bits with k ones, at most half of them ones.

    Parameters
    ----------
    m, ones : int
    room : int
        All numbers lie below it.
    tiles : tuple of Tile
        From number 0 on without gaps, larger ones first. Empty if m is 1.
    """

    m: int
    ones: int
    room: int
    tiles: tuple[Tile, ...]

    @property
    def used(self) -> int:
        """Numbers of all tiles; those from here on belong to no mask. Some of those below may belong to none either."""
        return sum(1 << tile.bits for tile in self.tiles) if self.tiles else 1


@dataclass(frozen=True)
class Plan:
    """All blocks that the codes of a pattern need.

    Parameters
    ----------
    m : int
    ones : int
        N, or M - N if that is less: masks of more ones are complements of those of fewer.
    code_bits : int
    most_ones : mapping of int to int
        Bits of a half -> binary ones that the room of such a half has at most.
    blocks : mapping of (int, int) to Block
        By bits and ones.
    """

    m: int
    ones: int
    code_bits: int
    most_ones: Mapping[int, int]
    blocks: Mapping[tuple[int, int], Block]

    def block(self, m: int, ones: int) -> Block:
        """The block of so many bits and ones, or, with more than half of them ones, that of its complements."""
        return self.blocks[m, min(ones, m - ones)]

    @property
    def whole(self) -> Block:
        """The block of a whole group."""
        return self.blocks[self.m, self.ones]


def dealt(upper_bits: int, lower_bits: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Deal the bits of a number to two fields by turns, the lower half first; when one is full the other takes the rest.

    Returns
    -------
    tuple of two tuples of int
        Places of the upper field, places of the lower field; the lowest bit of a field first.

    Examples
    --------
    >>> dealt(1, 3)
    ((1,), (0, 2, 3))
    """
    both = min(upper_bits, lower_bits)
    rest = tuple(range(2 * both, upper_bits + lower_bits))
    upper, lower = tuple(range(1, 2 * both, 2)), tuple(range(0, 2 * both, 2))
    return (upper + rest, lower) if upper_bits > lower_bits else (upper, lower + rest)


def rounded_up(size: int, ones: int) -> int:
    """The least number of at most so many binary ones that is not below `size`.

    Examples
    --------
    >>> rounded_up(70, 1), rounded_up(70, 2), rounded_up(70, 3)
    (128, 72, 70)
    """
    if size.bit_count() <= ones:
        return size
    for _ in range(size.bit_count() - ones):
        size &= size - 1
    # One unit of the lowest one that is kept; the carry never adds ones.
    return size + (size & -size)


def chunks(size: int) -> Iterator[Chunk]:
    """Cut the numbers below `size` at its binary ones, the largest chunk first.

    Examples
    --------
    >>> list(chunks(6))
    [Chunk(first=0, bits=2), Chunk(first=4, bits=1)]
    """
    first = 0
    for bits in reversed(range(size.bit_length())):
        if size >> bits & 1:
            yield Chunk(first, bits)
            first += 1 << bits


def supports(pattern: Pattern) -> bool:
    """Say whether groups can be halved down to bits, and are not too long."""
    return pattern.m.bit_count() == 1 and pattern.m <= MAX_M


def check(pattern: Pattern) -> None:
    """Refuse a pattern whose groups have no halves, quarters and so on, or whose plan would be long.

    Raises
    ------
    EncodingError
        M is no power of two, or more than `MAX_M`.
    """
    if not supports(pattern):
        raise EncodingError(
            f"tiled {pattern}: expected M to be a power of two of at most {MAX_M}, got {pattern.m}"
        )


@functools.cache
def plan(pattern: Pattern) -> Plan:
    """Cut the codes of a pattern into tiles.

    Raises
    ------
    EncodingError
        M is no power of two, or more than `MAX_M`.

    Examples
    --------
    >>> whole = plan(Pattern(4, 8)).whole
    >>> [(tile.first, tile.upper_ones, tile.upper.bits, tile.lower.bits) for tile in whole.tiles]
    [(0, 2, 3, 3), (64, 1, 2, 2), (80, 3, 2, 2), (96, 0, 0, 0), (97, 4, 0, 0)]
    """
    check(pattern)
    ones = min(pattern.n, pattern.m - pattern.n)
    code_bits = (math.comb(pattern.m, ones) - 1).bit_length()
    most_ones: dict[int, int] = {}
    m = 2
    while m < pattern.m:
        # The least that still leaves room for all codes, with halves of more bits not rounded.
        most_ones[m] = 1
        while _Rooms(pattern.m, most_ones).sum(pattern.m, ones) > 1 << code_bits:
            most_ones[m] += 1
        m *= 2
    rooms = _Rooms(pattern.m, most_ones)
    rooms.of_whole = 1 << code_bits
    blocks: dict[tuple[int, int], Block] = {}
    wanted = {(pattern.m, ones)}
    while wanted:
        m, k = wanted.pop()
        blocks[m, k] = _block(m, k, rooms)
        for tile in blocks[m, k].tiles:
            halves = ((m // 2, min(q, m // 2 - q)) for q in (tile.upper_ones, tile.lower_ones))
            wanted |= set(halves) - blocks.keys()
    return Plan(pattern.m, ones, code_bits, most_ones, dict(sorted(blocks.items())))


class _Rooms:
    """Rooms of blocks, from those of their halves up."""

    def __init__(self, whole: int, most_ones: Mapping[int, int]) -> None:
        self.whole, self.most_ones = whole, most_ones
        self.of_whole = 0
        self._known: dict[tuple[int, int], int] = {}

    def room(self, m: int, ones: int) -> int:
        """Rounded up to few binary ones, so that it makes few chunks."""
        key = m, min(ones, m - ones)
        if key not in self._known:
            needed = self.sum(*key)
            self._known[key] = rounded_up(needed, self.most_ones[m]) if m in self.most_ones else needed
        return self.of_whole if m == self.whole else self._known[key]

    def sum(self, m: int, ones: int) -> int:
        """Numbers that a block needs if no chunk of its halves is rounded further."""
        if m == 1:
            return 1
        return sum(self.room(m // 2, a) * self.room(m // 2, ones - a) for a in _upper_ones(m, ones))


def _upper_ones(m: int, ones: int) -> range:
    """How many ones the upper half of m bits can have."""
    return range(max(0, ones - m // 2), min(ones, m // 2) + 1)


def _block(m: int, ones: int, rooms: _Rooms) -> Block:
    """Cut one block: the fewest tiles for which its room suffices, larger ones first.

    Of tiles of one size those come first whose halves differ most in ones, then those with fewer ones in the upper half.
    A class and its mirror image so follow one another, and differ in one bit of the number.
    """
    if m == 1:
        return Block(m, ones, 1, ())
    cut = _fewest_tiles(m, ones, rooms)
    found = [(a, upper, lower) for a, (u, low) in cut.items() for upper in chunks(u) for lower in chunks(low)]
    found.sort(
        key=lambda tile: (
            -tile[1].bits - tile[2].bits,
            min(tile[0], ones - tile[0]),
            tile[0],
            tile[1].first,
            tile[2].first,
        )
    )
    tiles, first = [], 0
    for a, upper, lower in found:
        tiles.append(Tile(first, a, ones - a, upper, lower))
        first += 1 << tiles[-1].bits
    return Block(m, ones, rooms.room(m, ones), tuple(tiles))


def _fewest_tiles(m: int, ones: int, rooms: _Rooms) -> dict[int, tuple[int, int]]:
    """Choose what the rooms of both halves are rounded up to, for each number of ones of the upper half.

    Fewest tiles; of those, fewest numbers; of those, the smallest roundings, by rising ones of the upper half. For each
    count of tiles the best choice for the classes so far is kept, which is enough: numbers of classes add up.
    """
    room = rooms.room(m, ones)
    best: _Choices = {0: (0, ())}
    for a in _upper_ones(m, ones):
        options: _Choices = {}
        for upper in _roundings(rooms.room(m // 2, a)):
            for lower in _roundings(rooms.room(m // 2, ones - a)):
                tiles = upper.bit_count() * lower.bit_count()
                option = upper * lower, ((upper, lower),)
                options[tiles] = min(option, options.get(tiles, option))
        options = _worth_it(options, room)
        longer: _Choices = {}
        for so_far, (numbers, cut) in best.items():
            for more, (size, pair) in options.items():
                choice = numbers + size, cut + pair
                longer[so_far + more] = min(choice, longer.get(so_far + more, choice))
        best = _worth_it(longer, room)
    return dict(zip(_upper_ones(m, ones), best[min(best)][1], strict=True))


_Choices = dict[int, tuple[int, tuple[tuple[int, int], ...]]]
"""Count of tiles -> their numbers, and what both rooms are rounded up to, class by class."""


def _worth_it(choices: _Choices, room: int) -> _Choices:
    """Drop choices that do not fit, and those of more tiles that save no numbers."""
    kept, least = {}, room + 1
    for tiles in sorted(choices):
        if choices[tiles][0] < least:
            kept[tiles], least = choices[tiles], choices[tiles][0]
    return kept


def _roundings(size: int) -> list[int]:
    """What a room may be rounded up to: fewer and fewer binary ones."""
    return sorted({rounded_up(size, ones) for ones in range(1, size.bit_count() + 1)})
