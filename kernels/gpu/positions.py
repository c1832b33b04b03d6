"""Codes in the order of `kernels.stored.shuffled` as positions of 4 bits: device functions, and the tables that they look into.

A byte of eight elements has its positions in a table, and as a group keeps exactly N, a second table can hold those of the
other byte where they will be: the two are joined by one `or`.
"""

from functools import lru_cache
from math import comb

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import ones_of
from kernels.stored.rows import STEP_ELEMS
from nmsim.pattern import Pattern

DECODE = {
    **{(pattern, "bitmask"): "bytes" for pattern in STEP_ELEMS},
    (Pattern(16, 32), "bitmask"): "bitmask32",
    (Pattern(2, 4), "index"): "index2",
    (Pattern(4, 8), "index"): "index3",
    (Pattern(8, 16), "index"): "index4",
    (Pattern(16, 32), "index"): "index5",
    (Pattern(2, 4), "combinatorial"): "bytes",
    (Pattern(4, 8), "combinatorial"): "bytes",
    (Pattern(8, 16), "combinatorial"): "codes",
}
"""How codes become positions: byte by byte from two tables, by arithmetic, or one code at a time from a table."""


@triton.jit
def stream(at: tl.tensor, inside: tl.tensor, MASKED: tl.constexpr) -> tl.tensor:
    """Read what no other program reads."""
    if MASKED:
        raw = tl.load(at, mask=inside, other=0, eviction_policy="evict_first")
    else:
        raw = tl.load(at, eviction_policy="evict_first")
    return raw


@triton.jit
def positions(
    codes: tl.tensor,
    more: tl.tensor,
    table: tl.tensor,
    inside: tl.tensor,
    DECODE: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Decode units of 16 elements: -> uint32, eight positions of 4 bits, the first one lowest."""
    code = stream(codes, inside, MASKED).to(tl.uint32)
    if DECODE == "index4":
        word = code
    elif DECODE == "bytes":
        first = tl.load(table + (code & 0xFF).to(tl.int32))
        second = tl.load(table + 256 + (code >> 8).to(tl.int32))
        word = (first | second).to(tl.uint32, bitcast=True)
    elif DECODE == "codes":
        word = tl.load(table + code.to(tl.int32)).to(tl.uint32, bitcast=True)
    elif DECODE == "index3":
        code |= stream(more, inside, MASKED).to(tl.uint32) << 16
        word = (code & 0xFFF) | ((code & 0xFFF000) << 4)
        word = (word & 0x003F003F) | ((word & 0x0FC00FC0) << 2)
        word = (word & 0x07070707) | ((word & 0x38383838) << 1) | 0x88880000
    else:
        word = (code | (code << 8)) & 0x00FF00FF
        word = (word | (word << 4)) & 0x0F0F0F0F
        word = ((word | (word << 2)) & 0x33333333) | 0xCC884400
    return word


@triton.jit
def positions_of_32(
    codes: tl.tensor,
    more: tl.tensor,
    table: tl.tensor,
    inside: tl.tensor,
    DECODE: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Decode units of 32 elements: -> uint64, sixteen positions in their half; uint64, 15 for each in the upper half."""
    code = stream(codes, inside, MASKED)
    if DECODE == "bitmask32":
        b0 = code & 0xFF
        b3 = code >> 24
        first = tl.load(table + b0.to(tl.int32))
        second = tl.load(table + 512 + ((code >> 8) & 0xFF).to(tl.int32))
        third = tl.load(table + 768 + ((code >> 16) & 0xFF).to(tl.int32))
        last = tl.load(table + 256 + b3.to(tl.int32))
        word = second.to(tl.uint32, bitcast=True).to(tl.uint64) << (4 * ones_of(b0)).to(tl.uint64)
        word |= (third.to(tl.uint32, bitcast=True).to(tl.uint64) << 32) >> (4 * ones_of(b3)).to(tl.uint64)
        word |= first.to(tl.uint32, bitcast=True).to(tl.uint64)
        word |= last.to(tl.uint32, bitcast=True).to(tl.uint64) << 32
        lower = ones_of(code & 0xFFFF)
    else:
        word = code
        lower = 16 - ones_of(stream(more, inside, MASKED).to(tl.uint32))
    # A shift by all 64 bits has no defined result; two by half of them have.
    shift = (2 * lower).to(tl.uint64)
    upper = ((word | 0xFFFFFFFFFFFFFFFF) << shift) << shift
    return word, upper


@lru_cache
def table(pattern: Pattern, encoding: str, device: torch.device) -> Tensor | None:
    """Tabulate positions of 4 bits, the first one lowest: int32, or nothing where arithmetic finds them.

    Codes that are no code of the pattern have entries as well, so that none is read beyond the table.
    """
    kind = DECODE[pattern, encoding]
    if kind not in ("bytes", "bitmask32", "codes"):
        return None
    if kind == "codes":
        masks = [mask for mask in range(1 << 16) if mask.bit_count() == 8]
        words = [_word(mask) for mask in masks] + [0] * ((1 << 16) - len(masks))
    else:
        low = [_byte_mask(byte, pattern, encoding) for byte in range(256)]
        from_top = [4 * (8 - mask.bit_count()) for mask in low]
        parts = [
            [_word(mask) for mask in low],
            [_word(mask << 8) << shift for mask, shift in zip(low, from_top, strict=True)],
            [_word(mask << 8) for mask in low],
            [_word(mask) << shift for mask, shift in zip(low, from_top, strict=True)],
        ]
        words = [word for part in parts for word in part]
    signed = torch.tensor(words, dtype=torch.int64)
    return torch.where(signed < 1 << 31, signed, signed - (1 << 32)).to(torch.int32).to(device)


def _byte_mask(byte: int, pattern: Pattern, encoding: str) -> int:
    """Read a byte of codes: the mask of its eight elements."""
    if encoding == "bitmask":
        return byte
    width = pattern.m  # of codes of `combinatorial` 2:4 and 4:8, as they are stored
    masks = [mask for mask in range(1 << pattern.m) if mask.bit_count() == pattern.n]
    assert len(masks) == comb(pattern.m, pattern.n)
    mask = 0
    for start in range(0, 8, width):
        code = byte >> start & ((1 << width) - 1)
        mask |= masks[code] << start if code < len(masks) else 0
    return mask


def _word(mask: int) -> int:
    kept = [position for position in range(mask.bit_length()) if mask >> position & 1]
    return sum(position << 4 * slot for slot, position in enumerate(kept[:8]))
