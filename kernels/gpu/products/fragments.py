"""Instructions of one thread that turn stored values and their mask into operands of `mma.sync`, written as PTX.

The sum of a product may take K in any order. So thread (g, t) of a warp may hold a whole unit of row g: 16 elements that lie
together. What it expands in its registers is then an operand of the matrix units as it stands.

Elements are made in pairs, one 32-bit word each. A group's first half is taken from the front of its values, its second half
from their end. Values wait in a queue of words, and `prmt`, which picks any bytes of two words, does all the work. It takes a
pair from the first word, with zeros for dropped elements. It moves the queue on by no, one or two values. The selectors of
both come from a table of four entries of 16 bits, for the four masks of a pair. `prmt` looks them up as well. A group that
keeps another number than its N, which no encoder writes, gives other values of the same unit.
"""

from functools import lru_cache
from itertools import pairwise

from kernels.gpu.bits import WARP_THREADS

Table = tuple[int, int]
"""Four entries of 16 bits, for the masks 00, 01, 10 and 11 of a pair; the first element is the lower bit."""
FRONT_TAKE: Table = (0x4410_4444, 0x3210_1044)
"""From (word, 0): the first value, if only one is kept, goes to the place of the one that is kept."""
FRONT_MOVE: Table = (0x5432_3210, 0x7654_5432)
"""From (word, next word): as many values on as are kept."""
BACK_TAKE: Table = (0x4432_4444, 0x3210_3244)
BACK_MOVE: Table = (0x5432_7654, 0x3210_5432)
"""From (word before, word): as many values back as are kept."""
MULTIPLY_BITS = {"float16": "f16", "bfloat16": "bf16"}
ROWS = 4
"""Rows of a warp of which a thread holds a unit: g, g + 8, g + 16 and g + 24."""
WARP_TILE_ROWS = ROWS * WARP_THREADS // 4


class _Text:
    """Instructions, each of which writes a register of its own. What was computed once is not computed again."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._registers: dict[str, str] = {}

    def of(self, operation: str, *operands: str) -> str:
        """Name the register that holds a result."""
        instruction = f"{operation} {{}}, {', '.join(operands)};"
        if instruction not in self._registers:
            name = self._registers[instruction] = f"t{len(self._registers)}"
            self._lines.append(instruction.format(name))
        return self._registers[instruction]

    def write(self, number: int, operation: str, *operands: str) -> None:
        """Write a result of the whole text."""
        self._lines.append(f"{operation} ${number}, {', '.join(operands)};")

    def whole(self) -> str:
        """Give all instructions, and the registers that they need."""
        return "\n".join(["{", f".reg .b32 t<{len(self._registers)}>;", *self._lines, "}"])


@lru_cache
def expansion(group_elems: int, unit_elems: int, row: int) -> str:
    """Write the expansion of one unit: half as many values of 16 bits as elements, and a mask, to all elements.

    Operands are the words of all elements, then those of values, then the masks of the `ROWS` rows.

    Parameters
    ----------
    group_elems : int
        M of the pattern, which keeps half of them: 4, 8, 16 or 32.
    unit_elems : int
        16 or 32.
    row : int
        Which mask counts, below `ROWS`.
    """
    text = _Text()
    n_words, n_values = unit_elems // 2, unit_elems // 4
    values = [f"${n_words + i}" for i in range(n_values)]
    mask = f"${n_words + n_values + row}"
    half = group_elems // 4  # pairs of a group that are taken from one end

    def selector(table: Table, pair: int) -> str:
        """Look up the selector of a pair. Masks of every second pair of eight are nibbles of a word, as `prmt` wants them."""
        down = pair // 8 * 16 + pair % 2 * 2
        masks = text.of("shr.u32", mask, str(down)) if down else mask
        # Each mask becomes the places of both bytes of its entry.
        places = text.of("prmt.b32", "0x76543210", "0", text.of("and.b32", masks, "0x3333"))
        place = pair % 8 // 2
        # One look-up serves two pairs, if both are taken from the same end.
        down = place * 8 if half == 2 else place // 2 * 16
        places = text.of("shr.u32", places, str(down)) if down else places
        found = text.of("prmt.b32", hex(table[0]), hex(table[1]), places)
        return found if half == 2 or place % 2 == 0 else text.of("shr.u32", found, "16")

    for first in range(0, n_words, 2 * half):
        front = back = values[first // 2 : first // 2 + half]
        for i in range(half):
            pair = first + i
            text.write(pair, "prmt.b32", front[0], "0", selector(FRONT_TAKE, pair))
            if len(front) > 1:
                by = selector(FRONT_MOVE, pair)
                front = [text.of("prmt.b32", a, b, by) for a, b in pairwise(front)]
            pair = first + 2 * half - 1 - i
            text.write(pair, "prmt.b32", back[-1], "0", selector(BACK_TAKE, pair))
            if len(back) > 1:
                by = selector(BACK_MOVE, pair)
                back = [text.of("prmt.b32", a, b, by) for a, b in pairwise(back)]
    return text.whole()


@lru_cache
def multiplication(kind: str) -> str:
    """Write two products of 16 rows, 16 elements of K and 8 tokens, added to sums.

    Operands are four sums as they come out, and four as they go in. Four words of a row follow, four of the eighth row after
    it, and four of a token. A thread's words in turn are elements of K in turn.

    Parameters
    ----------
    kind : {"float16", "bfloat16"}
    """
    bits = MULTIPLY_BITS[kind]
    name = f"mma.sync.aligned.m16n8k16.row.col.f32.{bits}.{bits}.f32"
    return (
        f"{name} {{$0, $1, $2, $3}}, {{$8, $12, $9, $13}}, {{$16, $17}}, {{$4, $5, $6, $7}};\n"
        f"{name} {{$0, $1, $2, $3}}, {{$10, $14, $11, $15}}, {{$18, $19}}, {{$0, $1, $2, $3}};"
    )
