"""From the codes of a step to masks, or to positions in vector lanes; and the tables that kernels look them up in.

Codes that no mask has have entries too, so that no code makes a kernel read beyond its table.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.code import I1, I8, I16, I32, I64, Code, Value, constants, vector
from kernels.cpu.recipe import Recipe
from kernels.stored.rows import TABLED

BYTES = 256
LONG_ORDER = (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15)
"""The kept elements of a 16:32 group in the order of the 16-bit lanes that hold their positions."""


@functools.cache
def table(recipe: Recipe) -> NDArray[Any]:
    """The table of a kernel; a single zero if it computes all it needs."""
    if recipe.x_in_planes and (recipe.m, recipe.encoding) == (32, "bitmask"):
        return _upper_halves()
    if recipe.pattern is None or recipe.encoding == "index" or recipe.m == 32:
        return np.zeros(1, np.uint8)
    if recipe.by_columns or recipe.isa != "avx2":
        return _masks(recipe)
    if recipe.m == 8 or (recipe.m == 16 and recipe.encoding in TABLED):
        return positions_of_codes(recipe)
    return np.zeros(1, np.uint8)


def positions_of_codes(recipe: Recipe) -> NDArray[np.uint32]:
    """Code -> its positions as fields, the first lowest, of 2, 8 and 4 bits each for M = 4, 8 and 16."""
    assert recipe.pattern is not None
    n, m = recipe.pattern.n, recipe.m
    masks = _legal_masks(recipe)
    ones = np.nonzero(masks[:, None] >> np.arange(m, dtype=masks.dtype) & 1)[1].reshape(-1, n)
    field_bits = {4: 2, 8: 8, 16: 4}[m]
    by_code = np.zeros(1 << m, np.uint32)
    by_code[_codes(recipe)] = (ones << (field_bits * np.arange(n))).sum(axis=1)
    return by_code


def _upper_halves() -> NDArray[np.uint16]:
    """Ones in the low half of a 16:32 mask -> 16 for every kept element that lies in the high half, in its lane."""
    return np.where(np.array(LONG_ORDER) >= np.arange(17)[:, None], 16, 0).astype(np.uint16)


def _masks(recipe: Recipe) -> NDArray[np.uint16]:
    """A 16-bit code -> its mask; or a byte of shorter codes, as the low and as the high half of 16 elements."""
    masks = np.zeros(1 << recipe.m, np.uint16)
    masks[_codes(recipe)] = _legal_masks(recipe)
    if recipe.m == 16:
        return masks
    if recipe.m == 4:
        every = np.arange(BYTES)
        masks = masks[every & 15] | masks[every >> 4] << 4
    return np.concatenate([masks, masks << 8])


def _legal_masks(recipe: Recipe) -> NDArray[Any]:
    assert recipe.pattern is not None
    every = np.arange(1 << recipe.m, dtype=np.uint16 if recipe.m > 8 else np.uint8)
    return np.extract(np.bitwise_count(every) == recipe.pattern.n, every)


def _codes(recipe: Recipe) -> NDArray[np.int64]:
    assert recipe.format is not None
    return recipe.format.encoding.encode(_legal_masks(recipe), recipe.format.pattern).astype(np.int64)


LANES = 8
NIBBLES = 0x1111111111111111
"""The lowest bit of every nibble."""
ALL_PLACES = -0x123456789ABCDF0
"""0xFEDCBA9876543210: each nibble's own number."""


def mask(code: Code, recipe: Recipe, codes: Value) -> Value:
    """The mask of the step whose codes begin at an address, as i64."""
    build, table = code.ir, code.arguments["table"]
    if recipe.encoding == "bitmask":
        return build.zext(code.load(codes, I32 if recipe.m == 32 else I16), I64)
    if recipe.m == 16:
        at = build.mul(build.zext(code.load(codes, I16), I64), I64(2))
        return build.zext(code.load(code.at(table, at), I16), I64)
    halves = []
    for half in range(2):
        at = build.mul(build.zext(code.load(code.at(codes, half), I8), I64), I64(2))
        halves.append(code.load(code.at(table, at, half * BYTES * 2), I16))
    return build.zext(build.or_(*halves), I64)


def ones(code: Code, recipe: Recipe, codes: Value) -> list[Value]:
    """Positions of the kept elements of a step, counted from its beginning, as i64."""
    build = code.ir
    if recipe.encoding != "index" and recipe.m < 32:
        places = _places_of_ones(code, build.trunc(mask(code, recipe, codes), I16))
        return [build.and_(build.lshr(places, I64(4 * j)), I64(15)) for j in range(recipe.step_kept)]
    if recipe.encoding != "index":
        left, found = mask(code, recipe, codes), []
        for _ in range(recipe.step_kept):
            found.append(code.call("llvm.cttz.i64", I64, left, I1(1)))
            left = build.and_(left, build.sub(left, I64(1)))
        return found
    assert recipe.pattern is not None
    bits, found = (recipe.m - 1).bit_length(), []
    for octet in range(recipe.step_kept // LANES):
        word = code.load(code.at(codes, octet * bits), I64)
        for j in range(LANES):
            field = build.and_(build.lshr(word, I64(bits * j)), I64(recipe.m - 1))
            found.append(build.add(field, I64(recipe.m * ((octet * LANES + j) // recipe.pattern.n))))
    return found


def positions_in_lanes(code: Code, recipe: Recipe, codes: Value) -> Value:
    """2:4 and 4:8: eight positions in their groups as 32-bit lanes; what stands above their bits has no meaning."""
    build = code.ir
    if recipe.encoding == "index":
        bits = (recipe.m - 1).bit_length()
        word = code.spread(code.load(codes, I32), LANES)
        return build.lshr(word, constants(I32, [bits * j for j in range(LANES)]))
    if recipe.m == 4:
        return _positions_of_nibbles(code, recipe, codes)
    words = constants(I32, [0, 0])
    for half in range(2):
        byte = build.zext(code.load(code.at(codes, half), I8), I64)
        word = code.load(code.at(code.arguments["table"], build.mul(byte, I64(4))), I32)
        words = build.insert_element(words, word, I32(half))
    return build.zext(build.bitcast(words, vector(I8, LANES)), vector(I32, LANES))


def positions_in_bytes(code: Code, recipe: Recipe, codes: Sequence[Value]) -> Value:
    """8:16 and 16:32: 32 positions of four or two rows as bytes, in the order that `avx2` unpacks.

    The first half of the register has the first four of every eight positions, the second half the last four.
    """
    if recipe.m == 32:
        fields = _fields_of_32 if recipe.encoding == "index" else _fields_of_long_mask
        words = [fields(code, row) for row in codes]
    else:
        rows = [_nibbles_of_16(code, recipe, row) for row in codes]
        words = [
            code.call("llvm.x86.avx2.packusdw", vector(I16, 16), *rows[i : i + 2])
            for i in range(0, len(rows), 2)
        ]
    return code.call("llvm.x86.avx2.packuswb", vector(I8, 32), *words)


def _positions_of_nibbles(code: Code, recipe: Recipe, codes: Value) -> Value:
    """2:4: a nibble of metadata is a group, and its two positions come from a table in a register."""
    build = code.ir
    words = code.spread(code.load(codes, I32), LANES)
    shifted = build.lshr(words, constants(I32, [4 * (j // 2) for j in range(LANES)]))
    nibbles = build.and_(shifted, constants(I32, [15] * LANES))
    both = constants(I8, [int(entry) for entry in positions_of_codes(recipe)] * 2)
    found = code.call("llvm.x86.avx2.pshuf.b", both.type, both, build.bitcast(nibbles, both.type))
    lanes = build.bitcast(found, vector(I32, LANES))
    return build.lshr(lanes, constants(I32, [2 * (j % 2) for j in range(LANES)]))


def _nibbles_of_16(code: Code, recipe: Recipe, codes: Value) -> Value:
    """8:16: the eight positions of a row as 32-bit lanes."""
    build = code.ir
    if recipe.encoding == "index":
        word = code.spread(code.load(codes, I32), LANES)
    elif recipe.encoding in TABLED:
        at = build.mul(build.zext(code.load(codes, I16), I64), I64(4))
        word = code.spread(code.load(code.at(code.arguments["table"], at), I32), LANES)
    else:
        places = _places_of_ones(code, code.load(codes, I16))
        word = code.spread(build.trunc(places, I32), LANES)
    shifted = build.lshr(word, constants(I32, [4 * j for j in range(LANES)]))
    return build.and_(shifted, constants(I32, [15] * LANES))


def _fields_of_32(code: Code, codes: Value) -> Value:
    """The sixteen 5-bit fields of a 16:32 row as 16-bit lanes in `LONG_ORDER`."""
    return _fields_of_long(code, code.load(codes, vector(I8, 16)), 5)


def _fields_of_long(code: Code, stored: Value, bits: int) -> Value:
    """Fields of 16 bytes as 16-bit lanes in `LONG_ORDER`: two bytes that have a field, moved down by one to eight bits.

    Never by none: a shift of 16-bit lanes is a multiplication that keeps the upper half.
    """
    build = code.ir
    control, shifts = [], []
    for start in (bits * j for j in LONG_ORDER):
        shift = start % 8 or 8
        first = (start - shift) // 8
        control += [first if first >= 0 else -1, first + 1]
        shifts.append(shift)
    both = code.shuffle(stored, stored, list(range(16)) * 2)
    picked = code.call("llvm.x86.avx2.pshuf.b", both.type, both, constants(I8, control))
    lanes = build.lshr(build.bitcast(picked, vector(I16, 16)), constants(I16, shifts))
    return build.and_(lanes, constants(I16, [(1 << bits) - 1] * 16))


def _places_of_ones(code: Code, mask_: Value) -> Value:
    """Where the ones of 16 bits are, as nibbles of an i64."""
    build = code.ir
    nibbles = code.call("llvm.x86.bmi.pdep.64", I64, build.zext(mask_, I64), I64(NIBBLES))
    return code.call("llvm.x86.bmi.pext.64", I64, I64(ALL_PLACES), build.mul(nibbles, I64(15)))


def _fields_of_long_mask(code: Code, codes: Value) -> Value:
    """The positions of a row's 32 bits as 16-bit lanes, in the same order.

    The nibbles of the low 16 bits, and behind them those of the high ones, to which a table adds 16.
    """
    build = code.ir
    low_mask, high_mask = code.load(codes, I16), code.load(code.at(codes, 2), I16)
    held = build.zext(code.call("llvm.ctpop.i16", I16, low_mask), I64)
    # With 16 ones in the low half there are none in the high one, and a shift by 0 does no harm.
    shift = build.and_(build.mul(held, I64(4)), I64(63))
    nibbles = build.or_(_places_of_ones(code, low_mask), build.shl(_places_of_ones(code, high_mask), shift))
    stored = build.bitcast(code.spread(nibbles, 2), vector(I8, 16))
    fields = _fields_of_long(code, stored, 4)
    at = code.at(code.arguments["table"], build.mul(held, I64(32)))
    return build.or_(fields, code.load(at, vector(I16, 16)))
