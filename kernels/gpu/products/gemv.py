"""One to eight tokens times N:M weights: Y[T, N] = X[T, K] W[N, K]^T, weights in the order of `kernels.stored.shuffled`.

A thread takes one row. From every unit it reads 16 bytes of values and turns the codes into positions of 4 bits. Then it
gathers x, not weights, at them. Warps of a program share K. Sums are float32 and always in the same order. Nothing here was
timed. `docs/reference/sass.md` counts the instructions of a turn; `kernels.gpu.products.plan` cuts the work.

What a turn needs is asked for one turn before, and codes that a table decodes two turns before. So a thread never waits for
two answers of memory in a row. Instructions are few for four reasons. Tables give positions of 4 bits (`kernels.gpu.codes`).
They become byte offsets for four slots at a time. Each unit's part of x lies within 256 aligned bytes (`laid_out`,
`aligned`). So an address is the unit's own with its lowest byte replaced, one instruction (`prmt`). Up to four tokens of 16
bits lie beside each other, so that one gather reads them all.
"""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tuned
from kernels.gpu.bits import INTEGERS, KINDS, as_float, on_device_of
from kernels.gpu.codes import (
    DECODE,
    LOOKED_UP,
    position_table,
    positions,
    positions_of_32,
    stream,
    upper_bits,
)
from kernels.gpu.eight_bits import is_eight_bits, smaller, wider
from kernels.gpu.products.plan import machine_of, plan
from kernels.gpu.split import counters, is_last, store_rounded
from kernels.stored.errors import KernelError
from kernels.stored.rows import STEP_ELEMS
from kernels.stored.shuffled import MOST_TOKENS, WARP_ROWS, ShuffledWeight
from nmsim.format import SparseFormat

PAGE_BYTES = 256
"""What an address can reach by its lowest byte."""
GATHER_BYTES = 8
"""Of x that a thread reads at once, at most: four tokens of 16 bits."""
ROWS_TOKENS = 2
"""Tokens of 16 bits that are not laid out but read by rows: their second gather takes less time than a launch.

They are up to eight more passes through L1 for 32 rows of 16 elements. If L1 is the limit, those take up to 3.5 us of an H200
for 14336 x 4096, else nothing. A launch takes some 1.7 us in a CUDA graph. Counted, not timed."""
LAY_ELEMS = 256
"""Elements of K that a program lays out."""
TURN_ELEMS = 32
"""Elements of its row that a thread takes in a turn of its loop. With 64, 16:32 spills registers (sm_80, sm_100)."""
REGISTERS = {4: 48, 8: 48, 16: 64}
"""Warps that a program may have -> registers that a thread is taken to need until the kernel is compiled."""


@triton.jit(do_not_specialize=["tokens", "elements"])
def lay_kernel(
    x: tl.tensor, laid: tl.tensor, tokens: tl.tensor, k: tl.tensor, elements: tl.tensor,
    ELEMS: tl.constexpr, LANES: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Lay bits of tokens beside each other: [T, K] -> [units, PLANES, elements of a unit, LANES], zero if there is no x."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    for plane in tl.static_range(PLANES):
        token = plane * LANES + lane
        inside = (column < k) & (token < tokens)
        raw = tl.load(x + token.to(tl.int64) * k + column, mask=inside, other=0)
        place = (column // ELEMS * PLANES + plane) * (ELEMS * LANES) + column % ELEMS * LANES + lane
        tl.store(laid + place, raw, mask=(column < elements) & (token >= 0))


def lanes_of(dtype: torch.dtype, tokens: int) -> int:
    """Count the tokens that one gather reads together: as many as there are, in at most 8 bytes."""
    return min(int(triton.next_power_of_2(tokens)), GATHER_BYTES // dtype.itemsize)


def laid_out(x: Tensor, elems: int, units: int) -> Tensor:
    """Lay the bits of tokens [T, K] out by `lay_kernel`, units of so many elements."""
    tokens, k = x.shape
    lanes = lanes_of(x.dtype, tokens)
    planes = triton.cdiv(tokens, lanes)
    raw = x.view(INTEGERS[x.dtype])
    laid = _room(units * elems * planes * lanes * x.itemsize, x.device).view(raw.dtype)
    with on_device_of(x):
        lay_kernel[(triton.cdiv(units * elems, LAY_ELEMS),)](
            raw, laid, tokens, k, units * elems, ELEMS=elems, LANES=lanes, PLANES=planes, BLOCK=LAY_ELEMS,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return laid


def aligned(x: Tensor, multiple_bytes: int) -> Tensor:
    """Take tokens as they are, or a copy that begins at a multiple of so many bytes."""
    if x.data_ptr() % multiple_bytes == 0:
        return x
    return _room(x.nbytes, x.device).view(x.dtype).view(x.shape).copy_(x)


def _room(n_bytes: int, device: torch.device) -> Tensor:
    """Make room that begins at a page of addresses: uint8 [bytes]."""
    room = torch.empty(n_bytes + PAGE_BYTES, dtype=torch.uint8, device=device)
    start = -room.data_ptr() % PAGE_BYTES
    return room[start : start + n_bytes]


@triton.jit
def _values(
    values: tl.tensor, place: tl.tensor, second: tl.tensor, inside: tl.tensor,
    HALVES: tl.constexpr, EIGHT_BITS: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Read eight values per half, 16 bytes: two words of four values each; `second` is how far the next half is.

    Values of 8 bits are one word.
    """
    found: tl.tuple = ()
    for half in tl.static_range(HALVES):
        at = (place + half * second).to(tl.int64)
        if EIGHT_BITS:
            found += (stream(values + at, inside, MASKED),)
        else:
            pair = (at * 2)[:, None] + tl.arange(0, 2)[None, :]
            low, high = tl.split(stream(values + pair, inside[:, None] if MASKED else None, MASKED))
            found += (low, high)
    return found


@triton.jit
def _scales(
    scales: tl.tensor, unit: tl.tensor, row: tl.tensor, rows: tl.tensor, inside: tl.tensor,
    UNITS: tl.constexpr, WARPS: tl.constexpr, BLOCK_UNITS: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Read the scales of one or two units, if blocks of K have their own."""
    found: tl.tuple = ()
    if BLOCK_UNITS > 0:
        for number in tl.static_range(UNITS):
            at = scales + (unit + number * WARPS) // BLOCK_UNITS * rows + row
            if MASKED:
                found += (tl.load(at, mask=inside, other=0),)
            else:
                found += (tl.load(at),)
    return found


@triton.jit
def _codes(
    codes: tl.tensor, more: tl.tensor, place: tl.tensor, second: tl.tensor, inside: tl.tensor,
    UNITS: tl.constexpr, HAS_MORE: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Read the codes of one or two units: a word of each plane."""
    found: tl.tuple = ()
    for unit in tl.static_range(UNITS):
        at = (place + unit * second).to(tl.int64)
        found += (stream(codes + at, inside, MASKED),)
        if HAS_MORE:
            found += (stream(more + at, inside, MASKED),)
    return found


@triton.jit
def _positions(
    codes: tl.tuple, table: tl.tensor, DECODE: tl.constexpr, ELEMS: tl.constexpr, UNITS: tl.constexpr,
    HAS_MORE: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Decode them: a word of positions for each half, then, of units of 32, how many lie in the lower 16 elements."""
    PLANES: tl.constexpr = 2 if HAS_MORE else 1
    found: tl.tuple = ()
    if ELEMS == 32:
        word, lower = positions_of_32(codes[0], codes[PLANES - 1], table, DECODE)
        found += (word.to(tl.uint32), (word >> 32).to(tl.uint32), lower)
    else:
        for unit in tl.static_range(UNITS):
            found += (positions(codes[unit * PLANES], codes[unit * PLANES + PLANES - 1], table, DECODE),)
    return found


@triton.jit
def _address(window: tl.tensor, offsets: tl.tensor, BYTE: tl.constexpr, ASM: tl.constexpr) -> tl.tensor:
    """Replace the lowest byte of addresses by one of the four bytes of words."""
    bottom = window.to(tl.uint32)
    if ASM:
        bottom = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [offsets, bottom + tl.zeros_like(offsets), tl.full(offsets.shape, 0x7650 + BYTE, tl.int32)],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )  # fmt: skip
    else:
        bottom = (bottom & 0xFFFFFF00) | ((offsets >> (8 * BYTE)) & 0xFF)
    return ((window >> 32) << 32) | bottom.to(tl.int64)


@triton.jit
def _half(word: tl.tensor, HIGH: tl.constexpr, KIND: tl.constexpr, ASM: tl.constexpr) -> tl.tensor:
    """Read one of the two 16-bit numbers of a word of 32 bits as float32: exact."""
    if KIND == "float16" and ASM:
        # Written like this the compiler reads the half where it lies; it would shift it down first.
        number = tl.inline_asm_elementwise(
            "{.reg .b16 low, high; mov.b32 {low, high}, $1; cvt.f32.f16 $0, "
            + ("high" if HIGH else "low")
            + ";}",
            "=r,r",
            [word],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        number = as_float((word >> (16 if HIGH else 0)).to(tl.int16), KIND)
    return number


@triton.jit
def _fence(word: tl.tensor, ASM: tl.constexpr) -> tl.tensor:
    """Keep the compiler from moving loads from before this behind it: it sinks them to where they are used."""
    if ASM:
        word = tl.inline_asm_elementwise(
            "bar.warp.sync 0xffffffff; mov.b32 $0, $1;", "=r,r", [word], dtype=tl.int32, is_pure=False, pack=1
        )
    return word


@triton.jit
def _products(
    sums: tl.tuple, low: tl.tensor, high: tl.tensor, even: tl.tensor, odd: tl.tensor,
    window: tl.tensor, end: tl.tensor,
    AHEAD: tl.constexpr, PLANE: tl.constexpr, KIND: tl.constexpr, X_KIND: tl.constexpr, LANES: tl.constexpr,
    TOKENS: tl.constexpr, CHAINS: tl.constexpr, MASKED: tl.constexpr, ASM: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Add eight products per thread and token; even and odd hold the byte offsets of x for even and for odd slots.

    Tokens that are not read together lie `PLANE` bytes further.
    """
    X_BITS: tl.constexpr = 32 if X_KIND == "float32" else 16
    GATHER: tl.constexpr = (
        tl.int16 if X_BITS * LANES == 16 else (tl.int32 if X_BITS * LANES == 32 else tl.int64)
    )
    BITS: tl.constexpr = tl.int16 if X_BITS == 16 else tl.int32
    # Slots are taken one after the other, so that a thread holds few numbers of x at a time.
    for slot in tl.static_range(8):
        word = low if slot < 4 else high
        word = (word if slot % 4 < 2 else word >> 32).to(tl.int32)
        number = _half(word, slot % 2 == 1, KIND, ASM)
        address = _address(window, even if slot % 2 == 0 else odd, slot // 2, ASM)
        found: tl.tuple = ()
        for plane in tl.static_range((TOKENS + LANES - 1) // LANES):
            at = (address + (AHEAD + plane * PLANE)).to(tl.pointer_type(GATHER))
            if MASKED:
                raw = tl.load(at, mask=address < end, other=0)
            else:
                raw = tl.load(at)
            for lane in tl.static_range(LANES):
                if plane * LANES + lane < TOKENS:
                    if LANES == 1 or X_BITS == 32:
                        one = as_float((raw >> (lane * X_BITS)).to(BITS), X_KIND)
                    else:
                        one = _half((raw >> (lane // 2 * 32)).to(tl.int32), lane % 2 == 1, X_KIND, ASM)
                    found += (one,)
        added: tl.tuple = ()
        for i in tl.static_range(TOKENS * CHAINS):
            if i // TOKENS == slot % CHAINS:
                added += (sums[i] + number * found[i % TOKENS],)
            else:
                added += (sums[i],)
        sums = added
    return sums


@triton.jit
def _halves(
    sums: tl.tuple, values: tl.tuple, words: tl.tuple, scales: tl.tuple,
    window: tl.tensor, end: tl.tensor,
    ELEMS: tl.constexpr, HALVES: tl.constexpr, STEP: tl.constexpr, KIND: tl.constexpr, BLOCK_UNITS: tl.constexpr,
    X_KIND: tl.constexpr, LANES: tl.constexpr, TOKENS: tl.constexpr, STRIDE: tl.constexpr, CHAINS: tl.constexpr,
    MASKED: tl.constexpr, ASM: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Take one or two halves: x of the second lies in the same window (units of 32) or `STEP` bytes further."""
    X_BYTES: tl.constexpr = (4 if X_KIND == "float32" else 2) * LANES
    WINDOW: tl.constexpr = ELEMS * X_BYTES
    SHIFT: tl.constexpr = 1 if X_BYTES == 2 else (2 if X_BYTES == 4 else 3)
    OFFSETS: tl.constexpr = 0x0F0F0F0F << SHIFT
    FIFTHS: tl.constexpr = 0x01010101 << (4 + SHIFT)
    # Whole pages further an address has the same lowest byte, so the second unit needs no window of its own.
    SAME: tl.constexpr = ELEMS == 32 or STEP % 256 == 0
    for half in tl.static_range(HALVES):
        here = window
        if not SAME:
            here = window + half * STEP
        low = (here.to(tl.uint32) & (256 - WINDOW)) * 0x01010101
        even = ((words[half] << SHIFT) & OFFSETS) | low
        odd = ((words[half] >> (4 - SHIFT)) & OFFSETS) | low
        if ELEMS == 32:
            late = upper_bits(words[2], half)
            even |= (late << (4 + SHIFT)) & FIFTHS
            odd |= (late << SHIFT) & FIFTHS
        if is_eight_bits(KIND):
            first, second = wider(values[half], KIND, ASM)
        else:
            first, second = values[2 * half], values[2 * half + 1]
        before: tl.tuple = ()
        if BLOCK_UNITS == 0:
            before = sums
        else:
            for _ in tl.static_range(TOKENS * CHAINS):
                before += (tl.zeros(here.shape, tl.float32) + tl.zeros_like(even).to(tl.float32),)
        found = _products(
            before, first, second, even, odd, here, end,
            half * STEP if SAME and ELEMS == 16 else 0, STRIDE if STRIDE > 0 else WINDOW,
            "float16" if is_eight_bits(KIND) else KIND, X_KIND, LANES, TOKENS, CHAINS, MASKED, ASM,
        )  # fmt: skip
        if BLOCK_UNITS > 0:
            scaled: tl.tuple = ()
            for i in tl.static_range(TOKENS * CHAINS):
                scaled += (sums[i] + found[i] * scales[half if ELEMS == 16 else 0],)
            found = scaled
        sums = found
    return sums


@triton.jit
def _join(
    parts: tl.tensor, counters: tl.tensor, y: tl.tensor, bias: tl.tensor, row: tl.tensor, rows: tl.tensor,
    outputs: tl.tensor,
    TOKENS: tl.constexpr, Y_KIND: tl.constexpr, BIAS_KIND: tl.constexpr, WARPS: tl.constexpr,
) -> None:  # fmt: skip
    """Have the program that ends last add up the parts of its rows: which one that is changes no result."""
    n_parts = tl.num_programs(1)
    if is_last(counters + tl.program_id(0), n_parts):
        for token in tl.static_range(TOKENS):
            total: tl.tensor = tl.zeros([32], tl.float32)
            for first in range(0, n_parts, WARPS):
                part = first + tl.arange(0, WARPS)[:, None]
                at = parts + (part * TOKENS + token) * rows.to(tl.int64) + row[None, :]
                there = (part < n_parts) & (row >= 0)[None, :]
                total += tl.sum(tl.load(at, mask=there, other=0, cache_modifier=".cg"), axis=0)
            place = token * outputs.to(tl.int64) + row
            store_rounded(y, bias, total, place, row, row < outputs, Y_KIND, BIAS_KIND)


@triton.jit(do_not_specialize=["outputs", "units", "part_units", "x_bytes"])
def gemv_kernel(
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, x: tl.tensor, bias: tl.tensor, y: tl.tensor,
    parts: tl.tensor, counters: tl.tensor, scales: tl.tensor,
    outputs: tl.tensor, rows: tl.tensor, units: tl.tensor, part_units: tl.tensor, x_bytes: tl.tensor,
    ELEMS: tl.constexpr, DECODE: tl.constexpr, KIND: tl.constexpr, X_KIND: tl.constexpr,
    LANES: tl.constexpr, TOKENS: tl.constexpr, Y_KIND: tl.constexpr, BIAS_KIND: tl.constexpr,
    BLOCK_UNITS: tl.constexpr, SPLIT: tl.constexpr, WARPS: tl.constexpr, ASM: tl.constexpr, STRIDE: tl.constexpr = 0,
) -> None:  # fmt: skip
    """Multiply with some rows, and a part of K: see `launch` for what goes in and out."""
    UNROLL: tl.constexpr = 32 // ELEMS
    TURN: tl.constexpr = WARPS * UNROLL
    NARROW: tl.constexpr = tl.uint32 if DECODE == "index4" or DECODE == "bitmask32" else tl.uint16
    FIRST: tl.constexpr = tl.uint64 if DECODE == "index5" else NARROW
    MORE: tl.constexpr = tl.uint8 if DECODE == "index3" else tl.uint16
    HAS_MORE: tl.constexpr = DECODE == "index3" or DECODE == "index5"
    TABLE: tl.constexpr = DECODE == "bytes" or DECODE == "codes" or DECODE == "bitmask32"
    EIGHT_BITS: tl.constexpr = is_eight_bits(KIND)
    CHAINS: tl.constexpr = 2 if TOKENS <= 2 else 1
    UNIT_X_BYTES: tl.constexpr = (
        ELEMS
        * (4 if X_KIND == "float32" else 2)
        * LANES
        * (1 if STRIDE > 0 else (TOKENS + LANES - 1) // LANES)
    )
    STEP: tl.constexpr = WARPS * UNIT_X_BYTES
    tl.static_assert(
        TURN * UNIT_X_BYTES % 256 == 0
    )  # so that a window's lowest byte is the same in every turn
    # Threads are numbered in one dimension. With another one for warps, Triton chooses which threads are a warp. Version 3.6
    # then spread a warp over eight units, and one gather met eight windows of x.
    thread = tl.arange(0, WARPS * 32)
    row = tl.program_id(0) * 32 + thread % 32
    warp = thread // 32
    first = tl.program_id(1) * part_units
    last = tl.minimum(first + part_units, units)
    # What lies before `whole` are whole units of x, so that nothing need be checked.
    whole = tl.minimum(last, (x_bytes // UNIT_X_BYTES).to(tl.int32))
    whole = tl.maximum(first, first + (whole - first) // TURN * TURN)
    end = x.to(tl.int64) + x_bytes
    codes_at = metadata.to(tl.pointer_type(FIRST))
    plane = units * rows.to(tl.int64)
    more_at = (metadata + plane * (2 if ELEMS == 16 else 8)).to(tl.pointer_type(MORE))
    second = WARPS * rows if ELEMS == 16 else rows  # from a half to the next
    sums: tl.tuple = ()
    for _ in tl.static_range(TOKENS * CHAINS):
        sums += (tl.zeros([WARPS * 32], tl.float32),)
    if first < whole:
        # Codes are asked for a turn before values, if they have to be looked up in a table: two turns ahead.
        place = (first + warp) * rows + row
        values_place = (first + warp) * (ELEMS // 16) * rows + row
        window = x.to(tl.int64) + (first + warp).to(tl.int64) * UNIT_X_BYTES
        number = _values(values, values_place, second, None, 2, EIGHT_BITS, False)
        scale = _scales(scales, first + warp, row, rows, None, UNROLL, WARPS, BLOCK_UNITS, False)
        codes = _codes(codes_at, more_at, place, second, None, UNROLL, HAS_MORE, False)
        words = codes
        if TABLE:
            words = _positions(codes, table, DECODE, ELEMS, UNROLL, HAS_MORE)
            place += tl.where(first + TURN < whole, TURN, 0) * rows
            codes = _codes(codes_at, more_at, place, second, None, UNROLL, HAS_MORE, False)
        for start in range(first, whole, TURN):
            # The last turns ask for what they have already: a load that depends on nothing is not delayed.
            values_place += tl.where(start + TURN < whole, 2 * WARPS, 0) * rows
            next_number = _values(values, values_place, second, None, 2, EIGHT_BITS, False)
            ahead = tl.where(start + TURN < whole, TURN, 0)
            next_scale = _scales(
                scales, start + ahead + warp, row, rows, None, UNROLL, WARPS, BLOCK_UNITS, False
            )
            if TABLE:
                next_words = _positions(codes, table, DECODE, ELEMS, UNROLL, HAS_MORE)
                place += tl.where(start + 2 * TURN < whole, TURN, 0) * rows
                codes = _codes(codes_at, more_at, place, second, None, UNROLL, HAS_MORE, False)
                now = words
            else:
                place += tl.where(start + TURN < whole, TURN, 0) * rows
                next_words = _codes(codes_at, more_at, place, second, None, UNROLL, HAS_MORE, False)
                now = _positions(words, table, DECODE, ELEMS, UNROLL, HAS_MORE)
            place = _fence(place, ASM)
            sums = _halves(
                sums, number, now, scale, window, end,
                ELEMS, 2, STEP, KIND, BLOCK_UNITS, X_KIND, LANES, TOKENS, STRIDE, CHAINS, False, ASM,
            )  # fmt: skip
            number = next_number
            scale = next_scale
            words = next_words
            window += TURN * UNIT_X_BYTES
    for start in range(whole, last, WARPS):
        unit = start + warp
        inside = (unit < units) & (row >= 0)
        at = unit * rows + row
        number = _values(
            values, unit * (ELEMS // 16) * rows + row, second, inside, ELEMS // 16, EIGHT_BITS, True
        )
        scale = _scales(scales, unit, row, rows, inside, 1, WARPS, BLOCK_UNITS, True)
        codes = _codes(codes_at, more_at, at, second, inside, 1, HAS_MORE, True)
        now = _positions(codes, table, DECODE, ELEMS, 1, HAS_MORE)
        sums = _halves(
            sums, number, now, scale, x.to(tl.int64) + unit.to(tl.int64) * UNIT_X_BYTES, end,
            ELEMS, ELEMS // 16, STEP, KIND, BLOCK_UNITS, X_KIND, LANES, TOKENS, STRIDE, CHAINS, True, ASM,
        )  # fmt: skip
    row = tl.program_id(0) * 32 + tl.arange(0, 32)
    for token in tl.static_range(TOKENS):
        total = sums[token]
        if CHAINS == 2:
            total += sums[TOKENS + token]
        total = tl.sum(tl.reshape(total, [WARPS, 32]), axis=0)
        if EIGHT_BITS:
            if BLOCK_UNITS == 0:
                total *= tl.load(scales + row)
            total *= smaller(KIND, ASM)
        if SPLIT:
            tl.store(parts + (tl.program_id(1) * TOKENS + token) * rows.to(tl.int64) + row, total)
        else:
            place = token * outputs.to(tl.int64) + row
            store_rounded(y, bias, total, place, row, row < outputs, Y_KIND, BIAS_KIND)
    if SPLIT:
        _join(parts, counters, y, bias, row, rows, outputs, TOKENS, Y_KIND, BIAS_KIND, WARPS)


def launch(
    x: Tensor,
    weight: ShuffledWeight,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    warps: int | None = None,
    n_parts: int | None = None,
) -> None:
    """Multiply tokens, summed in float32 and rounded once.

    Three or more tokens, or two of float32, are first laid out beside each other (`lay_kernel`, one more launch). Fewer are
    read as they are, or copied if they do not begin at a multiple of a unit's bytes. The program that ends last adds up parts
    of K, in the same order always.

    Parameters
    ----------
    x : Tensor [T, K] of a type in `KINDS`, T from 1 to 8
        Contiguous, as all are, and on the weight's device.
    weight : ShuffledWeight
    out : Tensor [T, N] of a type in `KINDS`
        Every element is written.
    bias : Tensor [N] of a type in `KINDS`, optional
    warps : {4, 8, 16}, optional
        Warps of a program. When absent, as many as were measured to be fastest (`kernels.gpu.tuned`), or as `plan` finds.
    n_parts : int, optional
        Parts of K, each summed by a program of its own; when absent, as with warps.

    Raises
    ------
    KernelError
        More tokens than 8, or none.
    """
    tokens = len(x)
    if not 1 <= tokens <= MOST_TOKENS:
        raise KernelError(f"x has {tokens} tokens: expected 1 to {MOST_TOKENS}")
    elems, device = STEP_ELEMS[weight.pattern], x.device
    turn_units = TURN_ELEMS // elems
    compiled_for = constants(
        weight.format, weight.values.dtype, x.dtype, tokens, out.dtype, block=weight.block, k=x.shape[1]
    )
    as_it_is = tokens == 1 or compiled_for["STRIDE"]
    laid = aligned(x, elems * x.element_size()) if as_it_is else laid_out(x, elems, weight.units)
    compiled_for["BIAS_KIND"] = "none" if bias is None else KINDS[bias.dtype]
    if warps is None and n_parts is None and weight.scales is None:
        # What was measured comes first: `plan` is a model of the device.
        shape = (tokens, *weight.shape)
        measured = tuned.chosen(device, "gpu.gemv", weight.format, x.dtype, shape)
        warps, n_parts = measured.get("warps"), measured.get("n_parts")
    if warps is None or n_parts is None:
        unit_bytes = (weight.values.nbytes + weight.metadata.nbytes + weight.scales_bytes) // (
            weight.units * weight.rows
        )
        about = tuple(compiled_for.items())
        found = _cut(device, weight.rows, weight.units, turn_units, unit_bytes, about)
        warps = found[0] if warps is None else warps
        n_parts = found[1] if n_parts is None else n_parts
    turn = warps * turn_units
    part_units = triton.cdiv(triton.cdiv(weight.units, n_parts), turn) * turn
    n_parts = triton.cdiv(weight.units, part_units)
    blocks, is_split = weight.rows // WARP_ROWS, n_parts > 1
    with on_device_of(x):
        gemv_kernel[(blocks, n_parts)](
            weight.values.view(torch.int64), weight.metadata, position_table(weight.format, device),
            laid.view(INTEGERS[x.dtype]), None if bias is None else bias.view(INTEGERS[bias.dtype]),
            out.view(INTEGERS[out.dtype]),
            torch.empty(n_parts * tokens * weight.rows, dtype=torch.float32, device=device) if is_split else None,
            counters(blocks, device) if is_split else None, weight.scales,
            weight.shape[0], weight.rows, weight.units, part_units, laid[:1].nbytes if as_it_is else laid.nbytes,
            **compiled_for, SPLIT=is_split, WARPS=warps, **_options(warps),
        )  # fmt: skip


def _options(warps: int) -> dict[str, Any]:
    return {"ASM": not triton.knobs.runtime.interpret, "num_warps": warps, "enable_fp_fusion": True}


@lru_cache(maxsize=4096)
def _cut(
    device: torch.device, rows: int, units: int, turn_units: int, unit_bytes: int, about: tuple[tuple[str, Any], ...]
) -> tuple[int, int]:  # fmt: skip
    """Choose warps and parts of K by the registers of the kernel as it is compiled for a device."""
    registers = dict(REGISTERS)
    tokens = dict(about)["TOKENS"]
    while True:
        warps, n_parts = plan(
            rows, units, tokens=tokens, registers=registers, turn_units=turn_units,
            turn_bytes=WARP_ROWS * turn_units * unit_bytes, machine=machine_of(device),
        )  # fmt: skip
        # Only what was chosen is compiled: if it needs other registers than it was taken to need, the choice is made again.
        needed = _registers(device, about, n_parts > 1, warps) if device.type == "cuda" else registers[warps]
        if needed == registers[warps]:
            return warps, n_parts
        registers[warps] = needed


@lru_cache(maxsize=1024)
def _registers(device: torch.device, about: tuple[tuple[str, Any], ...], split: bool, warps: int) -> int:
    """Compile the kernel as a launch on aligned tensors would, and count the registers of a thread."""
    found = dict(about)
    x, y, bias = (_integer(found[name]) for name in ("X_KIND", "Y_KIND", "BIAS_KIND"))
    table = torch.int32 if found["DECODE"] in LOOKED_UP else None
    with torch.cuda.device(device):
        kernel = gemv_kernel.warmup(
            torch.int64, torch.uint8, table, x, bias, y, torch.float32 if split else None,
            torch.int32 if split else None, torch.float32 if is_eight_bits(found["KIND"]) else None, 1, WARP_ROWS, 1, 1, 1,
            **found, SPLIT=split, WARPS=warps, **_options(warps), grid=(1,),
        )  # fmt: skip
        assert kernel.run is not None  # asking for it loads the code, and only then the registers are known
    return int(kernel.n_regs)


def _integer(kind: str) -> torch.dtype | None:
    return {"none": None, "float32": torch.int32}.get(kind, torch.int16)


def constants(
    format: SparseFormat, dtype: torch.dtype, x_dtype: torch.dtype, tokens: int, y_dtype: torch.dtype,
    *, block: int | None = None, k: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Name what `gemv_kernel` is compiled for, except the bias and what `plan` finds; without K, tokens are laid out."""
    as_they_are = tokens == ROWS_TOKENS and x_dtype.itemsize == 2
    return {
        "ELEMS": STEP_ELEMS[format.pattern],
        "DECODE": DECODE[format],
        "KIND": KINDS[dtype],
        "BLOCK_UNITS": 0 if block is None else block // STEP_ELEMS[format.pattern],
        "X_KIND": KINDS[x_dtype],
        "LANES": 1 if as_they_are and k else lanes_of(x_dtype, tokens),
        "STRIDE": k * x_dtype.itemsize if as_they_are else 0,
        "TOKENS": tokens,
        "Y_KIND": KINDS[y_dtype],
    }
