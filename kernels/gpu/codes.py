"""Codes of packed rows on the device: read as fields of bits, as masks or as positions of 4 bits, and written.

Positions of 4 bits are for rows in the order of `kernels.stored.shuffled`. The positions of eight elements, one byte of a mask,
come from a table. A group keeps exactly N, so a second table can place those of the other byte, and one `or` joins both.
"""

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import ones_of
from kernels.stored.rows import kernel_format
from nmsim.format import SparseFormat
from nmsim.words import word_dtype


@triton.jit
def read_field(
    row: tl.tensor, start: tl.tensor, row_bytes: tl.tensor, mask: tl.tensor, WIDTH: tl.constexpr
) -> tl.tensor:
    """Read so many bits of a row's stream, from a bit on, lowest first."""
    BYTES: tl.constexpr = WIDTH // 8 if WIDTH % 8 == 0 else (1 if 8 % WIDTH == 0 else (WIDTH + 6) // 8 + 1)
    first = start // 8
    off = start % 8
    word = (off * 0).to(tl.uint32)
    for i in tl.static_range(BYTES):
        byte = tl.load(row + first + i, mask=mask & (first + i < row_bytes), other=0).to(tl.uint32)
        if i == 0:
            word |= byte >> off.to(tl.uint32)
        elif i < 4:
            word |= byte << (8 * i - off).to(tl.uint32)
        else:
            word |= tl.where(off > 0, byte << tl.minimum(8 * i - off, 31).to(tl.uint32), 0)
    if WIDTH < 32:
        word &= (1 << WIDTH) - 1
    return word


@triton.jit
def read_masks(
    row: tl.tensor, group: tl.tensor, row_bytes: tl.tensor, mask: tl.tensor, table: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, ENCODING: tl.constexpr, CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Decode groups to words whose bit i is set where element i is kept; rows [T, 1], groups [1, G] -> uint32 [T, G]."""
    start = group * CODE_BITS
    if ENCODING == "bitmask":
        word = read_field(row, start, row_bytes, mask, M)
    elif CODE_BITS == 0:
        word = mask.to(tl.uint32) * ((1 << M) - 1)
    elif ENCODING == "index":
        word = mask.to(tl.uint32) * 0
        for i in range(N):
            position = read_field(row, start + i * POSITION_BITS, row_bytes, mask, POSITION_BITS)
            word |= (position * 0 + 1) << position
    else:
        code = read_field(row, start, row_bytes, mask, CODE_BITS)
        word = code * 0
        missing = word.to(tl.int32) + N
        for i in range(M):
            position = M - 1 - i
            below = tl.load(table + position * (N + 1) + missing).to(tl.uint32)
            taken = (missing > 0) & (code >= below)
            code -= tl.where(taken, below, 0)
            missing -= taken.to(tl.int32)
            word |= taken.to(tl.uint32) << position
    return word


@triton.jit
def store_codes(
    metadata_row: tl.tensor, group: tl.tensor, keep: tl.tensor, slot: tl.tensor, table: tl.tensor,
    first: tl.tensor, n_groups: tl.tensor,
    N: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT_GROUPS: tl.constexpr,
) -> None:  # fmt: skip
    """Write the codes of a tile, a unit of groups that makes whole bytes after the other.

    Each kept element adds its part to the stream: a one, its position, or C(position, slot + 1).
    """
    lane = tl.arange(0, LANES)[None, :]
    start = ((group % UNIT_GROUPS) * CODE_BITS)[:, None]
    if ENCODING == "bitmask":
        field = tl.full([GROUPS, LANES], 1, tl.uint32)
        start = start + lane
    elif ENCODING == "index":
        field = (lane + 0 * slot).to(tl.uint32)
        start = start + slot * POSITION_BITS
    else:
        field = tl.load(table + lane * (N + 1) + slot + 1, mask=keep, other=0).to(tl.uint32)
        start = start + 0 * slot
    # Codes may cross bytes, but a unit ends with one: so units are summed and stored without their neighbours.
    unit_bytes: tl.constexpr = UNIT_GROUPS * CODE_BITS // 8
    unit = first // UNIT_GROUPS + tl.arange(0, GROUPS // UNIT_GROUPS)
    byte = tl.arange(0, 4)[None, :]
    for chunk in range((unit_bytes + 3) // 4):
        shift = start - 32 * chunk
        upward = tl.minimum(tl.maximum(shift, 0), 31).to(tl.uint32)
        downward = tl.minimum(tl.maximum(-shift, 0), 31).to(tl.uint32)
        part = tl.where(keep & (shift < 32), (field << upward) >> downward, 0)
        word = tl.sum(part.to(tl.uint32), axis=1)
        word = tl.sum(tl.reshape(word, [GROUPS // UNIT_GROUPS, UNIT_GROUPS]), axis=1)
        tl.store(
            metadata_row + unit[:, None] * unit_bytes + 4 * chunk + byte,
            ((word[:, None] >> (8 * byte).to(tl.uint32)) & 0xFF).to(tl.uint8),
            mask=(4 * chunk + byte < unit_bytes) & (unit * UNIT_GROUPS < n_groups)[:, None],
        )


DECODE = {
    kernel_format(text): kind
    for text, kind in {
        "2:4/bitmask": "bytes",
        "4:8/bitmask": "bytes",
        "8:16/bitmask": "bytes",
        "16:32/bitmask": "bitmask32",
        "2:4/index": "index2",
        "4:8/index": "index3",
        "8:16/index": "index4",
        "16:32/index": "index5",
        "2:4/combinatorial": "bytes",
        "4:8/combinatorial": "bytes",
        "8:16/combinatorial": "codes",
        "2:4/tiled": "bytes",
        "4:8/tiled": "bytes",
        "8:16/tiled": "codes",
    }.items()
}
"""How codes become positions: byte by byte from two tables, by arithmetic, or one code at a time from a table."""
LOOKED_UP = ("bytes", "bitmask32", "codes")
"""Those that need a table."""


@triton.jit
def stream(at: tl.tensor, inside: tl.tensor, MASKED: tl.constexpr) -> tl.tensor:
    """Read what no other program reads."""
    if MASKED:
        raw = tl.load(at, mask=inside, other=0, eviction_policy="evict_first")
    else:
        raw = tl.load(at, eviction_policy="evict_first")
    return raw


@triton.jit
def positions(codes: tl.tensor, more: tl.tensor, table: tl.tensor, DECODE: tl.constexpr) -> tl.tensor:
    """Decode units of 16 elements: -> uint32, eight positions of 4 bits, the first one lowest."""
    code = codes.to(tl.uint32)
    if DECODE == "index4":
        word = code
    elif DECODE == "bytes":
        first = tl.load(table + (code & 0xFF).to(tl.int32))
        second = tl.load(table + 256 + (code >> 8).to(tl.int32))
        word = (first | second).to(tl.uint32, bitcast=True)
    elif DECODE == "codes":
        word = tl.load(table + code.to(tl.int32)).to(tl.uint32, bitcast=True)
    elif DECODE == "index3":
        code |= more.to(tl.uint32) << 16
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
    codes: tl.tensor, more: tl.tensor, table: tl.tensor, DECODE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Decode units of 32 elements: -> uint64, sixteen positions in their half; int32, how many lie in the lower half."""
    code = codes
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
        lower = 16 - ones_of(more.to(tl.uint32))
    return word, lower


@triton.jit
def upper_bits(lower: tl.tensor, HALF: tl.constexpr) -> tl.tensor:
    """Say which of eight slots lie in the upper half, given how many of sixteen do not: -> uint32, 15 for each that does."""
    # A shift by all 64 bits has no defined result; two by half of them have.
    shift = (2 * lower).to(tl.uint64)
    upper = ((shift | 0xFFFFFFFFFFFFFFFF) << shift) << shift
    return (upper >> (32 * HALF)).to(tl.uint32)


@lru_cache
def position_table(format: SparseFormat, device: torch.device) -> Tensor | None:
    """Tabulate positions of 4 bits, the first one lowest: int32, or nothing if arithmetic finds them.

    Codes that are no code of the pattern have entries as well, so that none is read beyond the table.
    """
    kind = DECODE[format]
    if kind not in LOOKED_UP:
        return None
    if kind == "codes":
        masks = _masks_of_codes(format)
        words = [_word(mask) for mask in masks] + [0] * ((1 << 16) - len(masks))
    else:
        low = [_byte_mask(byte, format) for byte in range(256)]
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


def _byte_mask(byte: int, format: SparseFormat) -> int:
    """Read a byte of codes: the mask of its eight elements."""
    if format.encoding.name == "bitmask":
        return byte
    width = format.pattern.m  # of codes of 2:4 and 4:8, as they are stored
    masks = _masks_of_codes(format)
    mask = 0
    for start in range(0, 8, width):
        code = byte >> start & ((1 << width) - 1)
        mask |= masks[code] << start if code < len(masks) else 0
    return mask


def _masks_of_codes(format: SparseFormat) -> list[int]:
    """List the masks of all codes that are looked up: 0 for a code that no mask has."""
    pattern = format.pattern
    masks = [mask for mask in range(1 << pattern.m) if mask.bit_count() == pattern.n]
    if format.encoding.name == "combinatorial":
        return masks
    codec = format.encoding
    codes = codec.encode(np.array(masks, word_dtype(pattern.m)), pattern)
    found = [0] * (int(codes.max()) + 1)
    for mask, code in zip(masks, codes.tolist(), strict=True):
        found[code] = mask
    return found


def _word(mask: int) -> int:
    kept = [position for position in range(mask.bit_length()) if mask >> position & 1]
    return sum(position << 4 * slot for slot, position in enumerate(kept[:8]))
