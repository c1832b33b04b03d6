"""Elements of x that stored values meet, picked by AVX2 permutations, eight lanes at a time.

Up to 4:8 a stored value and its element of x lie in the same half of a register, where a permutation is cheap. For
8:16 and 16:32, x is first cut into byte planes: 16 elements are four half registers of 16 bytes each. Each holds one
byte of every float32. One byte shuffle then serves as many positions as a register has bytes, those of several rows
at once. Interleaving the four results gives the floats.
"""

from collections.abc import Sequence

from kernels.cpu import decode
from kernels.cpu.code import F32, I8, I16, I32, Code, Part, Value, constants, numbers, vector
from kernels.cpu.recipe import Recipe

LANES = 8
TWICE = list(range(16)) * 2
PLANES = 4
"""Bytes of a float32."""


def parts(
    code: Code, recipe: Recipe, codes: Sequence[Value], values: Sequence[Value], x: Sequence[Value]
) -> list[list[Part]]:
    """Bring a step's weights and x together.

    Parameters
    ----------
    codes, values : addresses, one for every row
    x : addresses, one for every token

    Returns
    -------
    list of rows of parts
    """
    picked = _by_planes(code, recipe, codes, x) if recipe.x_in_planes else _by_halves(code, recipe, codes, x)
    size = LANES * recipe.value_bytes
    return [
        [
            Part(numbers(code, recipe.dtype, code.at(row, size * i), LANES), found)
            for i, found in enumerate(of_row)
        ]
        for row, of_row in zip(values, picked, strict=True)
    ]


def _by_halves(
    code: Code, recipe: Recipe, codes: Sequence[Value], x: Sequence[Value]
) -> list[list[list[Value]]]:
    """2:4 and 4:8: positions in the lanes that keep the element; one octet a step."""
    xs = []
    for token in x:
        low, high = (code.load(code.at(token, 4 * LANES * v), vector(F32, LANES)) for v in range(2))
        even = code.shuffle(low, high, [0, 1, 2, 3, 8, 9, 10, 11])
        odd = code.shuffle(low, high, [4, 5, 6, 7, 12, 13, 14, 15])
        xs.append((even, odd))
    picked = []
    for row in codes:
        at = decode.positions_in_lanes(code, recipe, row)
        of_tokens = []
        for quads in xs:
            even, odd = (code.call("llvm.x86.avx.vpermilvar.ps.256", at_.type, at_, at) for at_ in quads)
            if recipe.m == 4:
                of_tokens.append(code.shuffle(even, odd, [0, 1, 10, 11, 4, 5, 14, 15]))
                continue
            sign = code.ir.bitcast(code.ir.shl(at, constants(I32, [29] * LANES)), even.type)
            of_tokens.append(code.call("llvm.x86.avx.blendv.ps.256", even.type, even, odd, sign))
        picked.append([of_tokens])
    return picked


def _by_planes(
    code: Code, recipe: Recipe, codes: Sequence[Value], x: Sequence[Value]
) -> list[list[list[Value]]]:
    """8:16 and 16:32: the positions of four or two rows are the bytes of one register."""
    at = decode.positions_in_bytes(code, recipe, codes)
    shuffles = [at]
    if recipe.m == 32:
        # A byte with its top bit set gives zero: each half of the group leaves out what the other one has.
        shuffles = [code.ir.add(at, constants(I8, [0x70] * 32)), code.ir.sub(at, constants(I8, [0x10] * 32))]
    of_tokens = [_floats(code, shuffles, token) for token in x]
    count = recipe.step_kept // LANES
    return [
        [[floats[row * count + part] for floats in of_tokens] for part in range(count)]
        for row in range(len(codes))
    ]


def _floats(code: Code, shuffles: Sequence[Value], x: Value) -> list[Value]:
    """The 32 elements of x that bytes of positions point at, in four registers."""
    build = code.ir
    planes = []
    for plane in range(PLANES):
        found = None
        for half, shuffle in enumerate(shuffles):
            stored = code.load(code.at(x, 16 * (PLANES * half + plane)), vector(I8, 16))
            both = code.shuffle(stored, stored, TWICE)
            part = code.call("llvm.x86.avx2.pshuf.b", both.type, both, shuffle)
            found = part if found is None else build.or_(found, part)
        planes.append(found)
    floats = []
    for pick_bytes in (_interleaved(32, 0), _interleaved(32, 8)):
        low = build.bitcast(code.shuffle(planes[0], planes[1], pick_bytes), vector(I16, 16))
        high = build.bitcast(code.shuffle(planes[2], planes[3], pick_bytes), vector(I16, 16))
        words = (code.shuffle(low, high, _interleaved(16, start)) for start in (0, 4))
        floats += [build.bitcast(word, vector(F32, LANES)) for word in words]
    return floats


def _interleaved(lanes: int, start: int) -> list[int]:
    """Lanes of two registers in turn, from `start` on in each of their halves."""
    half = lanes // 2
    return [
        side * lanes + base + start + i for base in (0, half) for i in range(half // 2) for side in (0, 1)
    ]
