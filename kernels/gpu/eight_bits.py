"""Values of 8 bits on the device: `e4m3` and `int8` become float16, which holds all of them, exactly.

Architectures from sm_89 on have an instruction for two values of `e4m3`. On others bits are moved: sign, exponent and fraction
of `e4m3` are those of a float16 that is 256 times smaller, subnormal ones as well. `int8` plus 1152 is a float16 whose lowest
byte is the value plus 128.
"""

import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq


@triton.constexpr_function
def is_eight_bits(kind: str) -> bool:
    """Say whether values are of a kind of this module."""
    return kind in ("e4m3", "int8")


@triton.constexpr_function
def smaller(kind: str, asm: bool) -> float:
    """Say how many times too small `wider` makes numbers. `cvt.rn.f16x2.e4m3x2` is of PTX ISA 7.8 and sm_89."""
    return 256.0 if kind == "e4m3" and not (asm and cuda_capability_geq(8, 9)) else 1.0


@triton.jit
def wider(word: tl.tensor, KIND: tl.constexpr, ASM: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Turn eight values into two words of four float16, the first one lowest. `smaller` says by how much they are too small."""
    first, second = _four(word.to(tl.int32), KIND, ASM)
    low = _joined(first, second)
    first, second = _four((word >> 32).to(tl.int32), KIND, ASM)
    return low, _joined(first, second)


@triton.jit
def _joined(low: tl.tensor, high: tl.tensor) -> tl.tensor:
    return (
        low.to(tl.uint32, bitcast=True).to(tl.uint64) | (high.to(tl.uint32, bitcast=True).to(tl.uint64) << 32)
    ).to(tl.int64, bitcast=True)


@triton.jit
def _four(word: tl.tensor, KIND: tl.constexpr, ASM: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Turn four bytes into two pairs of float16."""
    if KIND == "e4m3" and smaller(KIND, ASM) == 1.0:
        low, high = tl.inline_asm_elementwise(
            "{.reg .b16 low, high; mov.b32 {low, high}, $2;"
            " cvt.rn.f16x2.e4m3x2 $0, low; cvt.rn.f16x2.e4m3x2 $1, high;}",
            "=&r,=&r,r",
            [word],
            dtype=(tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    elif KIND == "e4m3":
        low = _bytes(word, 0, 0x1404, ASM)
        high = _bytes(word, 0, 0x3424, ASM)
        low = ((low >> 1) & 0x3F803F80) | (low & -0x7FFF8000)
        high = ((high >> 1) & 0x3F803F80) | (high & -0x7FFF8000)
    else:
        word = word ^ -0x7F7F7F80
        low = _less_1152(_bytes(word, 0x64646464, 0x4140, ASM), ASM)
        high = _less_1152(_bytes(word, 0x64646464, 0x4342, ASM), ASM)
    return low, high


@triton.jit
def _bytes(word: tl.tensor, OTHER: tl.constexpr, SELECTOR: tl.constexpr, ASM: tl.constexpr) -> tl.tensor:
    """Put four bytes together, as `prmt` does: the selector names those of the word by 0 to 3, any other by 4."""
    if ASM:
        found = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [word, tl.full(word.shape, OTHER, tl.int32), tl.full(word.shape, SELECTOR, tl.int32)],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        found = tl.zeros_like(word)
        for place in tl.static_range(4):
            SOURCE: tl.constexpr = SELECTOR >> (4 * place) & 15
            byte = (word >> (8 * SOURCE)) & 0xFF if SOURCE < 4 else tl.zeros_like(word) + (OTHER & 0xFF)
            found |= byte << (8 * place)
    return found


@triton.jit
def _less_1152(pair: tl.tensor, ASM: tl.constexpr) -> tl.tensor:
    """Subtract 1152 from two float16: whole numbers from 1024 to 1279 and what is left are exact."""
    if ASM:
        found = tl.inline_asm_elementwise(
            "sub.rn.f16x2 $0, $1, $2;",
            "=r,r,r",
            [pair, tl.full(pair.shape, 0x64806480, tl.int32)],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        low = (pair.to(tl.int16).to(tl.float16, bitcast=True) - 1152.0).to(tl.float16)
        high = ((pair >> 16).to(tl.int16).to(tl.float16, bitcast=True) - 1152.0).to(tl.float16)
        found = (low.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF) | (
            high.to(tl.int16, bitcast=True).to(tl.int32) << 16
        )
    return found
