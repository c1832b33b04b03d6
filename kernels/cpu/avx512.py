"""Weights and elements of x brought together as AVX-512 does it: one instruction for what AVX2 needs many for.

Masks *expand* stored values to the lanes they belong to, and additions leave out the others. Positions *permute*
elements of x from two registers. With `isa="generic"`, memory serves for both, in instructions that LLVM lowers for
any x86 CPU. So everything else here is tested without the machine.
"""

from collections.abc import Sequence

from kernels.cpu import decode
from kernels.cpu.code import (
    F32,
    HALF,
    I1,
    I8,
    I16,
    I32,
    I64,
    Code,
    Part,
    Value,
    constants,
    numbers,
    vector,
    zero,
)  # fmt: skip
from kernels.cpu.recipe import Recipe

WIDE = 16
PERMUTATIONS = {8: "llvm.x86.avx512.vpermi2var.ps.256", 16: "llvm.x86.avx512.vpermi2var.ps.512"}


def parts(
    code: Code, recipe: Recipe, codes: Sequence[Value], values: Sequence[Value], x: Sequence[Value]
) -> list[list[Part]]:
    """Bring a step's weights and x together; as `avx2.parts`."""
    find = _permuted if recipe.encoding == "index" else _expanded
    return [find(code, recipe, *row, x) for row in zip(codes, values, strict=True)]


def _expanded(code: Code, recipe: Recipe, codes: Value, values: Value, x: Sequence[Value]) -> list[Part]:
    """Stored values spread over 16 elements at a time."""
    build, found = code.ir, []
    mask, at = decode.mask(code, recipe, codes), values
    for place in range(recipe.step_elems // WIDE):
        part = build.trunc(build.lshr(mask, I64(WIDE * place)), I16)
        keep = build.bitcast(part, vector(I1, WIDE))
        elements = [code.load(code.at(token, 4 * WIDE * place), vector(F32, WIDE)) for token in x]
        found.append(Part(_expand(code, recipe, at, keep), elements, keep))
        held = build.zext(code.call("llvm.ctpop.i16", I16, part), I64)
        at = code.at(at, build.mul(held, I64(recipe.value_bytes)))
    return found


def _expand(code: Code, recipe: Recipe, values: Value, keep: Value) -> Value:
    """The values at an address in the lanes to keep, in their order."""
    build, wide = code.ir, vector(F32, WIDE)
    if recipe.isa == "avx512":
        lanes = WIDE if recipe.m == 32 else WIDE // 2
        compact = numbers(code, recipe.dtype, values, lanes)
        if lanes < WIDE:
            compact = code.shuffle(compact, zero(compact.type), list(range(WIDE)))
        return code.call("llvm.x86.avx512.mask.expand.v16f32", wide, compact, zero(wide), keep)
    element, name = {"float32": (F32, "f32"), "float16": (HALF, "f16"), "bfloat16": (I16, "i16")}[
        recipe.dtype
    ]
    kind = vector(element, WIDE)
    stored = code.call(f"llvm.masked.expandload.v16{name}", kind, values, keep, zero(kind))
    if recipe.dtype == "float32":
        return stored
    if recipe.dtype == "float16":
        return build.fpext(stored, wide)
    bits = build.shl(build.zext(stored, vector(I32, WIDE)), constants(I32, [16] * WIDE))
    return build.bitcast(bits, wide)


def _permuted(code: Code, recipe: Recipe, codes: Value, values: Value, x: Sequence[Value]) -> list[Part]:
    """All stored values of a step, and x by their positions."""
    lanes = recipe.lanes
    at = _positions(code, recipe, codes)
    return [
        Part(numbers(code, recipe.dtype, values, lanes), [_permute(code, recipe, token, at) for token in x])
    ]


def _positions(code: Code, recipe: Recipe, codes: Value) -> Value:
    """Positions in the step as 32-bit lanes; only their low bits, five of 16 lanes or four of 8, have a meaning."""
    assert recipe.pattern is not None
    build, lanes, m = code.ir, recipe.lanes, recipe.m
    bits = (m - 1).bit_length()
    starts = [bits * j for j in range(lanes)]
    if m == 32:
        stored = code.load(codes, vector(I8, 16))
        words = code.shuffle(stored, stored, [min(start // 8 + i, 9) for start in starts for i in (0, 1)])
        fields = build.lshr(
            build.bitcast(words, vector(I16, lanes)), constants(I16, [start % 8 for start in starts])
        )
        return build.zext(fields, vector(I32, lanes))
    fields = build.lshr(code.spread(code.load(codes, I32), lanes), constants(I32, starts))
    if m == 16:
        return fields
    begin = constants(I32, [m * (j // recipe.pattern.n) for j in range(lanes)])
    return build.or_(build.and_(fields, constants(I32, [m - 1] * lanes)), begin)


def _permute(code: Code, recipe: Recipe, x: Value, at: Value) -> Value:
    """Elements of x by position, from as many as two registers hold."""
    lanes, build = recipe.lanes, code.ir
    kind = vector(F32, lanes)
    if recipe.isa == "avx512":
        low, high = (code.load(code.at(x, 4 * lanes * half), kind) for half in range(2))
        return code.call(PERMUTATIONS[lanes], kind, low, at, high)
    found = zero(kind)
    for lane in range(lanes):
        position = build.zext(build.and_(build.extract_element(at, I32(lane)), I32(2 * lanes - 1)), I64)
        element = code.load(code.at(x, build.mul(position, I64(4))), F32)
        found = build.insert_element(found, element, I32(lane))
    return found
