"""Decoder and encoder of the tiled code.

`nmsim.encodings.tiles` cuts the numbers of a block, m neighbouring elements, into tiles. The decoder goes from the whole
group to pairs of elements. At each step it has for each block one line per number of ones, a number, and a line that flips
its mask. A few bits of the number say which tile it lies in, and the fields of the number are wires. The encoder counts ones
from pairs up, then joins numbers from pairs up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl.parts import Cut, DecodingUnit, Rule, any_of
from hwmodels.rtl.unit import Unit
from nmsim.encodings import tiles
from nmsim.errors import SpecError

PLAIN = "plain"


def build(spec: UnitSpec) -> Unit:
    """Build a decoder, a position decoder or an encoder of the tiled code.

    Parameters
    ----------
    spec : UnitSpec
        `decoder`: port `code` to `mask` and `valid`. `position_decoder`: port `code` to `position_0` .. and, if some codes are
        illegal, `valid`. `encoder`: port `mask` to `code` and `legal`. Of variant `plain`.

        If `valid` or `legal` is 0, the other outputs mean nothing.

    Raises
    ------
    SpecError
        Another unit, encoding or variant, or a pattern that keeps all elements.
    EncodingError
        M is no power of two, or more than 64.

    Examples
    --------
    >>> unit = build(UnitSpec("decoder", 8, 16, "tiled", "plain"))
    >>> [(port.name, len(port)) for port in unit.ports]
    [('code', 14), ('mask', 16), ('valid', 1)]
    """
    if spec.encoding != "tiled" or spec.variant != PLAIN:
        raise SpecError(f"{spec}: expected encoding tiled, variant {PLAIN}")
    plan = tiles.plan(spec.pattern)
    if spec.unit == "encoder":
        return TiledEncoder(spec, plan)
    if spec.unit not in ("decoder", "position_decoder"):
        raise SpecError(f"{spec}: expected a decoder, a position_decoder or an encoder")
    return DecodingUnit(spec, _Decoding(spec, plan).rule)


class Cube(NamedTuple):
    """Numbers that have given values at some bits: those of `value` at the ones of `care`.

    Examples
    --------
    >>> Cube(0b110, 0b100).meets(Cube(0b010, 0b010)), Cube(0b110, 0b100).meets(Cube(0b001, 0b001))
    (False, True)
    """

    care: int
    value: int

    def meets(self, other: "Cube") -> bool:
        """Whether some number lies in both."""
        return not (self.value ^ other.value) & self.care & other.care

    def without(self, bit: int) -> "Cube":
        """Any value at one bit more."""
        return Cube(self.care & ~(1 << bit), self.value & ~(1 << bit))

    def widened(self, others: Iterable["Cube"]) -> "Cube":
        """Let go of bits, the highest first, as long as it meets none of the others."""
        found, apart = self, list(others)
        for bit in reversed(range(self.care.bit_length())):
            looser = found.without(bit)
            if not any(looser.meets(other) for other in apart):
                found = looser
        return found

    def line(self, number: Sequence[Value]) -> Iterator[Value]:
        """The bits of a number, or their complements, that are all 1 in the cube."""
        for bit in range(self.care.bit_length()):
            if self.care >> bit & 1:
                yield number[bit] if self.value >> bit & 1 else ~number[bit]


@dataclass(frozen=True)
class Shape:
    """What a decoder looks at in the number of a block.

    Parameters
    ----------
    bits : int
        Of the largest number that reaches the block.
    matches : tuple of (Tile, Cube)
        Each tile with the bits that distinguish it from the others.
    gaps : tuple of Cube
        Numbers that reach the block and are in no tile.
    """

    bits: int
    matches: tuple[tuple[tiles.Tile, Cube], ...]
    gaps: tuple[Cube, ...]

    def ignored(self, chunk: tiles.Chunk) -> int:
        """Zeros of a chunk's upper bits that nothing looks at, so that they may have any value; as a mask."""
        cubes = [*(cube for _, cube in self.matches), *self.gaps]
        free = 0
        for bit in reversed(range(chunk.bits, self.bits)):
            more = free | 1 << bit
            fixed = ((1 << self.bits) - 1) >> chunk.bits << chunk.bits & ~more
            reached = [cube for cube in cubes if cube.meets(Cube(fixed, chunk.first & fixed))]
            if not chunk.first >> bit & 1 and not any(cube.care & more for cube in reached):
                free = more
        return free


def shapes(plan: tiles.Plan) -> Mapping[tuple[int, int], Shape]:
    """What a decoder looks at, of each block of a plan that has tiles.

    A number beyond all that reach a block may do anything, so tiles let go of the bits that only such numbers would need.
    """
    # What lies beyond the whole block is reached by illegal codes.
    ends = {(plan.m, plan.ones): 1 << plan.code_bits}
    for block in sorted(plan.blocks.values(), key=lambda block: -block.m):
        for tile in block.tiles:
            for ones, chunk in ((tile.upper_ones, tile.upper), (tile.lower_ones, tile.lower)):
                half = plan.block(block.m // 2, ones)
                end = chunk.first + (1 << chunk.bits)
                ends[half.m, half.ones] = max(end, ends.get((half.m, half.ones), 0))
    return {key: _shape(block, ends[key]) for key, block in plan.blocks.items() if block.tiles}


def _shape(block: tiles.Block, end: int) -> Shape:
    bits = (end - 1).bit_length()

    def cube(first: int, free_bits: int) -> Cube:
        care = ((1 << bits) - 1) >> free_bits << free_bits
        return Cube(care, first & care)

    exact = [cube(tile.first, tile.bits) for tile in block.tiles]
    wide = list(exact)
    # Small tiles first: a single bit then distinguishes them from large ones, which keep that bit.
    for i in reversed(range(len(wide))):
        wide[i] = exact[i].widened(wide[:i] + wide[i + 1 :])
    gaps, first = [], block.used
    while first < end:
        free_bits = (first & -first).bit_length() - 1
        while first + (1 << free_bits) > end:
            free_bits -= 1
        gaps.append(cube(first, free_bits).widened(exact))
        first += 1 << free_bits
    return Shape(bits, tuple(zip(block.tiles, wide, strict=True)), tuple(dict.fromkeys(gaps)))


class _Block(NamedTuple):
    """What a decoder knows of a block before it is split.

    Parameters
    ----------
    m : int
    first : int
        Its lowest element.
    ones : mapping of int to Signal
        Ones of the block, or of its complement if those are fewer -> the line of this number.
    number : Signal
    flipped : Signal
        1 if zeros and ones change places.
    """

    m: int
    first: int
    ones: Mapping[int, Signal]
    number: Signal
    flipped: Signal

    @property
    def name(self) -> str:
        """Of its signals."""
        return f"e{self.first}_{self.first + self.m - 1}"


class _Half:
    """What the tiles of a block ask of one of its halves."""

    def __init__(self, number_bits: int) -> None:
        self.ones: dict[int, list[Value]] = {}
        self.flips: list[Value] = []
        self.sources: list[dict[int | str, list[Value]]] = [{} for _ in range(number_bits)]
        """Of each bit of the half's number: bit of the block's number, or a constant -> lines of the tiles that take it."""

    def bit(self, place: int, number: Signal) -> Value:
        """A bit of the half's number."""
        sources = self.sources[place]
        if not sources:
            return Const(0, 1)
        values = {
            source: number[source] if isinstance(source, int) else Const(int(source), 1) for source in sources
        }
        if len(sources) == 1:
            return next(iter(values.values()))
        if len(sources) == 2 and not {"0", "1"} & sources.keys():
            fewer, more = sorted(sources, key=lambda source: len(sources[source]))
            return Mux(any_of(sources[fewer]), values[fewer], values[more])
        return any_of(any_of(lines) & values[source] for source, lines in sources.items() if source != "0")


class _Decoding:
    """The logic from a code to a mask, as `Rule` wants it."""

    def __init__(self, spec: UnitSpec, plan: tiles.Plan) -> None:
        self.plan = plan
        self.shapes = shapes(plan)
        self.flips_all = spec.n > plan.ones

    @property
    def rule(self) -> Rule:
        """For `DecodingUnit`."""
        whole = f"e0_{self.plan.m - 1}"
        notes = {
            f"{whole}_number": "eA_B_number: which of the masks of elements A to B with so many ones; its fields are wires",
            f"{whole}_has_{self.plan.ones}": "eA_B_has_k: elements A to B have k ones, or k zeros if they are flipped",
            f"{whole}_flipped": "eA_B_flipped: zeros and ones of elements A to B change places",
            f"{whole}_has_{self.plan.ones}_tile0": "eA_B_has_k_tileT: and the number lies in tile T of these",
            f"{whole}_in_no_tile": "eA_B_in_no_tile: and the number lies in none of their tiles",
        }
        return Rule(
            self.plan.code_bits,
            self.decode,
            refuses=any(shape.gaps for shape in self.shapes.values()),
            boundaries=self.plan.m.bit_length() - 2,
            notes=notes,
        )

    def decode(self, module: Module, code: Signal, cut: Cut) -> tuple[Value, Value]:
        """Split the group into halves until pairs of elements are left."""
        m = self.plan.m
        name = f"e0_{m - 1}"
        has, flipped = Signal(name=f"{name}_has_{self.plan.ones}"), Signal(name=f"{name}_flipped")
        number = Signal(self.plan.code_bits, name=f"{name}_number")
        module.d.comb += [has.eq(1), number.eq(code), flipped.eq(self.flips_all)]
        blocks = [_Block(m, 0, {self.plan.ones: has}, number, flipped)]
        illegal: Value = Const(0, 1)
        for boundary in range(m.bit_length() - 2):
            wrong = [illegal]
            halves = [half for block in blocks for half in self.split(module, block, wrong)]
            illegal_so_far = Signal(name=f"illegal_so_far_{boundary}")
            module.d.comb += illegal_so_far.eq(any_of(wrong))
            (illegal,) = cut(boundary, illegal_so_far)
            blocks = [_passed(cut, boundary, half) for half in halves]
        return Cat(*(bit for block in blocks for bit in _pair(block))), ~illegal

    def split(self, module: Module, block: _Block, wrong: list[Value]) -> tuple[_Block, _Block]:
        """Give the lower and the upper half of a block; lines of numbers that lie in no tile join the wrong ones."""
        m = block.m // 2
        upper, lower = (_Half(self.bits_of(m)) for _ in range(2))
        for ones, line in block.ones.items():
            shape = self.shapes[block.m, ones]
            number = block.number
            for at, (tile, cube) in enumerate(shape.matches):
                taken = Signal(name=f"{block.name}_has_{ones}_tile{at}")
                module.d.comb += taken.eq(Cat(line, *cube.line(number)).all())
                self.ask(upper, m, taken, tile.upper_ones, tile.upper, tile.upper_places)
                self.ask(lower, m, taken, tile.lower_ones, tile.lower, tile.lower_places)
            wrong += [Cat(line, *gap.line(number)).all() for gap in shape.gaps]
        return (
            self.half(module, m, block.first, lower, block),
            self.half(module, m, block.first + m, upper, block),
        )

    def bits_of(self, m: int) -> int:
        """Of the longest number of blocks of m elements."""
        return max((shape.bits for (bits, _), shape in self.shapes.items() if bits == m), default=0)

    def ask(
        self, half: _Half, m: int, line: Signal, ones: int, chunk: tiles.Chunk, places: Sequence[int]
    ) -> None:
        """Note what a tile wants of a half: ones, flips, and where each bit of its number comes from."""
        fewer = min(ones, m - ones)
        half.ones.setdefault(fewer, []).append(line)
        if fewer < ones:
            half.flips.append(line)
        if (m, fewer) not in self.shapes:
            return
        shape = self.shapes[m, fewer]
        ignored = shape.ignored(chunk)
        for bit in range(shape.bits):
            if bit < chunk.bits:
                half.sources[bit].setdefault(places[bit], []).append(line)
            elif not ignored >> bit & 1:
                half.sources[bit].setdefault(str(chunk.first >> bit & 1), []).append(line)

    def half(self, module: Module, m: int, first: int, asked: _Half, block: _Block) -> _Block:
        """Make the signals of a half out of what all tiles want of it."""
        name = f"e{first}_{first + m - 1}"
        lines = {}
        for ones, wanted in sorted(asked.ones.items()):
            lines[ones] = Signal(name=f"{name}_has_{ones}")
            module.d.comb += lines[ones].eq(1 if len(asked.ones) == 1 else any_of(wanted))
        flipped = Signal(name=f"{name}_flipped")
        module.d.comb += flipped.eq(block.flipped ^ any_of(asked.flips))
        number = Signal(max(1, len(asked.sources)), name=f"{name}_number")
        module.d.comb += [number[bit].eq(asked.bit(bit, block.number)) for bit in range(len(asked.sources))]
        return _Block(m, first, lines, number, flipped)


def _passed(cut: Cut, boundary: int, block: _Block) -> _Block:
    """Take a block over a boundary."""
    number, flipped, *lines = cut(boundary, block.number, block.flipped, *block.ones.values())
    return _Block(block.m, block.first, dict(zip(block.ones, lines, strict=True)), number, flipped)


def _pair(block: _Block) -> tuple[Value, Value]:
    """Both elements of a pair: the number says which one is kept, if it is one."""
    if 1 not in block.ones:
        return block.flipped, block.flipped
    one, upper = block.ones[1], block.number[0]
    return (one & ~upper) ^ block.flipped, (one & upper) ^ block.flipped


class _Counted(NamedTuple):
    """What an encoder knows of a block.

    Parameters
    ----------
    ones : sequence of Signal
        At k: the block has k ones.
    flipped : Value
        1 if the number is that of the block's complement.
    """

    ones: Sequence[Value]
    flipped: Value


class TiledEncoder(Unit):
    """Numbers pairs of elements, then joins the numbers of halves.

    Raises
    ------
    SpecError
        A pattern that drops nothing, or more stages than steps.
    """

    def __init__(self, spec: UnitSpec, plan: tiles.Plan) -> None:
        if spec.n == spec.m:
            raise SpecError(f"{spec}: all elements are kept and a code has no bits; expected N < M")
        self.plan = plan
        self.mask = Signal(spec.m, name="mask")
        self.code = Signal(plan.code_bits, name="code")
        self.legal = Signal(name="legal")
        notes = {
            "mask": "bit p is 1 if element p is kept",
            "code": f"{plan.code_bits} bits of metadata",
            "legal": f"1 if the mask has {spec.n} ones; if not, the code means nothing",
            "e0_1_are_1": "eA_B_are_k: elements A to B have k ones",
            "e0_1_flipped": "eA_B_flipped: zeros and ones of elements A to B change places before they are numbered",
            "e0_1_number": "eA_B_number: which of the masks of elements A to B with so many ones",
        }
        super().__init__(
            spec, (self.mask,), (self.code, self.legal), boundaries=spec.m.bit_length() - 1, notes=notes
        )

    def elaborate(self, platform: object) -> Module:
        """Build the logic: counts from pairs up, flips from the group down, then numbers from pairs up."""
        module, m = Module(), self.spec.m
        counted = self.counted(module)
        legal, code = counted[m][0].ones[self.spec.n], Signal.like(self.code, name=f"e0_{m - 1}_number")
        classes = {
            bits: [self.classes(module, bits, at, counted) for at in range(m // bits)]
            for bits in sorted(counted)
            if bits > 2
        }
        numbers = []
        for at, pair in enumerate(counted[2]):
            number = Signal(name=f"e{2 * at}_{2 * at + 1}_number")
            module.d.comb += number.eq(self.mask[2 * at + 1] ^ pair.flipped)
            numbers.append(number)
        for boundary, bits in enumerate(sorted(classes)):
            # What this step and all later ones read passes the boundary.
            (legal,) = self.at_boundary(module, boundary, legal)
            numbers = list(self.at_boundary(module, boundary, *numbers))
            for later in sorted(classes)[boundary:]:
                classes[later] = [
                    dict(zip(found, self.at_boundary(module, boundary, *found.values()), strict=True))
                    for found in classes[later]
                ]
            numbers = [
                self.joined(module, bits, at, found, numbers[2 * at : 2 * at + 2])
                for at, found in enumerate(classes[bits])
            ]
        last = len(classes)
        module.d.comb += code.eq(numbers[0])
        code, legal = self.at_boundary(module, last, code, legal)
        module.d.comb += [self.code.eq(code), self.legal.eq(legal)]
        return module

    def counted(self, module: Module) -> dict[int, list[_Counted]]:
        """Count the ones of every block, and say which blocks are flipped."""
        m = self.spec.m
        ones: dict[int, list[list[Signal]]] = {1: []}
        for element in range(m):
            zero, one = Signal(name=f"e{element}_is_0"), Signal(name=f"e{element}_is_1")
            module.d.comb += [zero.eq(~self.mask[element]), one.eq(self.mask[element])]
            ones[1].append([zero, one])
        bits = 2
        while bits <= m:
            ones[bits] = []
            for at in range(m // bits):
                low, high = ones[bits // 2][2 * at : 2 * at + 2]
                # Only counts that a legal mask can have. Other masks may have no line at all.
                counts = [Signal(name=f"e{at * bits}_{(at + 1) * bits - 1}_are_{k}") for k in range(bits + 1)]
                for k, line in enumerate(counts):
                    module.d.comb += line.eq(
                        any_of(low[k - a] & high[a] for a in range(len(high)) if 0 <= k - a < len(low))
                    )
                ones[bits].append(counts)
            bits *= 2
        found = {m: [_Counted(ones[m][0], Const(int(self.spec.n > self.plan.ones), 1))]}
        while bits > 4:
            bits //= 2
            half = bits // 2
            found[half] = []
            for at, counts in enumerate(ones[half]):
                flipped = Signal(name=f"e{at * half}_{(at + 1) * half - 1}_flipped")
                heavy = any_of(counts[half // 2 + 1 :])
                # With as many ones as zeros, what the block around it does goes on.
                module.d.comb += flipped.eq(heavy | (counts[half // 2] & found[bits][at // 2].flipped))
                found[half].append(_Counted(counts, flipped))
        return found

    def classes(
        self, module: Module, bits: int, at: int, counted: Mapping[int, list[_Counted]]
    ) -> dict[tuple[int, int], Signal]:
        """Say of a block how many ones it has, and how many of them are in its upper half, after flips."""
        block, half = counted[bits][at], bits // 2
        upper = counted[half][2 * at + 1].ones
        found = {}
        for (m, ones), shape in self.plan.blocks.items():
            if m != bits:
                continue
            whole: Value = Const(1, 1)
            if bits < self.spec.m:
                whole = block.ones[ones] | block.ones[bits - ones]
            for a in sorted({tile.upper_ones for tile in shape.tiles}):
                line = Signal(name=f"e{at * bits}_{(at + 1) * bits - 1}_has_{ones}_of_which_{a}_above")
                module.d.comb += line.eq(whole & Mux(block.flipped, upper[half - a], upper[a]))
                found[ones, a] = line
        return found

    def joined(
        self,
        module: Module,
        bits: int,
        at: int,
        classes: Mapping[tuple[int, int], Signal],
        halves: Sequence[Signal],
    ) -> Signal:
        """Join the numbers of the lower and of the upper half."""
        name = f"e{at * bits}_{(at + 1) * bits - 1}"
        width = max(
            ((block.used - 1).bit_length() for (m, _), block in self.plan.blocks.items() if m == bits),
            default=0,
        )
        sources: list[list[Value]] = [[] for _ in range(width)]
        for (ones, a), line in classes.items():
            found = [tile for tile in self.plan.block(bits, ones).tiles if tile.upper_ones == a]
            # These tiles differ in their chunks only, so each asks for bits that distinguish its chunks.
            cuts = [dict.fromkeys(getattr(tile, side) for tile in found) for side in ("lower", "upper")]
            for tile in found:
                taken = Signal(name=f"{name}_has_{ones}_from_{tile.first}")
                inside = [
                    bit
                    for chunk, chunks, half in zip((tile.lower, tile.upper), cuts, halves, strict=True)
                    for bit in _chunk_cube(chunk, chunks).line(half)
                ]
                module.d.comb += taken.eq(Cat(line, *inside).all())
                fields = dict(zip(tile.lower_places, halves[0], strict=False))
                fields |= dict(zip(tile.upper_places, halves[1], strict=False))
                for bit in range(width):
                    if bit in fields:
                        sources[bit].append(taken & fields[bit])
                    elif tile.first >> bit & 1:
                        sources[bit].append(taken)
        number = Signal(max(1, width), name=f"{name}_number")
        module.d.comb += [number[bit].eq(any_of(lines)) for bit, lines in enumerate(sources)]
        return number


def _chunk_cube(chunk: tiles.Chunk, others: Iterable[tiles.Chunk]) -> Cube:
    """The bits that distinguish a chunk from the others of its half."""
    every = list(others)
    bits = max(((other.first + (1 << other.bits) - 1).bit_length() for other in every), default=0)

    def cube(one: tiles.Chunk) -> Cube:
        care = ((1 << bits) - 1) >> one.bits << one.bits
        return Cube(care, one.first & care)

    return cube(chunk).widened(cube(other) for other in every if other != chunk)
