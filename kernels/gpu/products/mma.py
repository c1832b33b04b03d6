"""Five to 64 tokens times N:M weights: Y[T, N] = X[T, K] W[N, K]^T, weights in the order of `kernels.stored.shuffled`.

A warp takes 32 rows, and in a step four units of each of them. A thread holds one unit of four rows, and expands it in its
registers. The matrix units take the elements from there (`kernels.gpu.products.fragments`): none goes through shared memory. A
thread reads x where it lies, a whole unit of every eighth token. Weights are read one step ahead. The program that ends last
adds up parts of K, in the same order always. Sums are float32.

The layout of tensors is Gluon's: in every tensor here the first dimension is the thread, and its own elements are the rest.
An infinity or NaN of x has an effect even at a dropped weight: zero times it is NaN. Nothing here was timed.
"""

import math
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.gpu.bits import KINDS, on_device_of
from kernels.gpu.codes import DECODE, position_table, positions, positions_of_32, upper_bits
from kernels.gpu.products.fragments import ROWS, WARP_TILE_ROWS, expansion, multiplication
from kernels.gpu.products.plan import Machine, machine_of, programs_at_once, time_of
from kernels.gpu.split import counters, is_last, split
from kernels.stored.errors import KernelError
from kernels.stored.rows import STEP_ELEMS
from kernels.stored.shuffled import MOST_MATRIX_TOKENS, ShuffledWeight
from nmsim.format import SparseFormat

TILE_TOKENS = 8
STEP_UNITS = 4
"""Units of a row that a warp takes in a step, one per thread."""
WARPS = 4
REGISTERS = {16: {1: 72, 2: 112, 4: 136, 8: 255}, 32: {1: 128, 2: 144, 4: 255, 8: 255}}
"""Elements of a unit -> tiles of tokens -> registers of a thread, counted for sm_90, those of the longest format."""
LAY_BLOCK = 1024
MOST_WARPS = 16
"""Warps of a multiprocessor that are asked for at most: 2 KB each under way are enough for memory."""
DIRECT_TOKENS = 16
"""Tokens up to which x is read where it lies. For more it is laid out first, by a launch of its own.

Eight threads of a warp read 16 bytes each at a time. Where x lies, these are in two lines; laid out they are one. For 64
tokens L1 then serves 32 threads with 16 elements each in 41 passes, not 57, counted on the emulator. Memory takes 28 to 34
cycles of an H200."""
LEAST_STEPS = 4
"""Steps below which a part of K is not worth a program. A guess."""
STEP_BUSY_TOKENS = 2
"""Tokens of the decode kernel whose own work, as a share of memory's time for a turn, is that of a step here: 0.83.

A step takes 95 cycles of the integer pipe per unit of a thread, counted for sm_90. An H200's memory takes 111 cycles."""
MASK = "mask"
"""How codes that are masks are read; others as `kernels.gpu.codes` has it."""


@gluon.jit
def _picked(low: gl.tensor, high: gl.tensor, selector: gl.tensor) -> gl.tensor:
    """Pick four bytes of two words, as the four lowest nibbles of the selector say."""
    return gl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, selector], dtype=gl.uint32, is_pure=True, pack=1
    )


@gluon.jit
def _mask_of(positions: gl.tensor, upper: gl.tensor, BYTES: gl.constexpr) -> gl.tensor:
    """Make a mask of eight positions of 4 bits, to which 16 is added where `upper` has 15: uint32 to uint32."""
    low = positions & 0x77777777
    byte = ((positions >> 3) & 0x11111111) | (upper & 0x22222222)
    zero = positions * 0
    mask = zero
    for i in gl.static_range(BYTES):
        bits = zero
        for half in gl.static_range(2):
            one = _picked(zero + 0x08040201, zero + 0x80402010, low >> (16 * half))
            bits |= one & _picked(zero + (0xFF << (8 * i)), zero, byte >> (16 * half))
        mask |= (bits * 0x01010101) >> 24 << (8 * i)
    return mask


@gluon.jit
def _masks(codes: gl.tensor, more: gl.tensor, table: gl.tensor, READ: gl.constexpr) -> gl.tensor:
    """Decode units to masks, uint32."""
    if READ == "mask":
        mask = codes.to(gl.uint32)
    elif READ == "index5":
        word, lower = positions_of_32(codes, more, table, READ)
        mask = _mask_of(word.to(gl.uint32), upper_bits(lower, 0), 4)
        mask |= _mask_of((word >> 32).to(gl.uint32), upper_bits(lower, 1), 4)
    else:
        word = positions(codes, more, table, READ)
        mask = _mask_of(word, word * 0, 2)
    return mask


@gluon.jit
def _expand(
    low: gl.tensor, high: gl.tensor, masks: gl.tensor, EXPAND: gl.constexpr, ELEMS: gl.constexpr
) -> Any:
    """Expand a unit of a row: values [threads, 4], twice so for 32 elements, to words [threads, 4] of two elements each."""
    if ELEMS == 16:
        a, b = gl.inline_asm_elementwise(
            EXPAND, "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r,r,r,r,r,r,r,r", [low, masks],
            dtype=(gl.int32, gl.int32), is_pure=True, pack=4,
        )  # fmt: skip
        c, d = a, b
    else:
        a, b, c, d = gl.inline_asm_elementwise(
            EXPAND,
            "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r,r,r,r,r,r,r,r,r,r,r,r",
            [low, high, masks], dtype=(gl.int32, gl.int32, gl.int32, gl.int32), is_pure=True, pack=4,
        )  # fmt: skip
    return a, b, c, d


@gluon.jit
def _multiply(
    sums: gl.tensor, row: gl.tensor, eighth: gl.tensor, x: gl.tensor, MULTIPLY: gl.constexpr
) -> gl.tensor:
    """Add the products of a row and the eighth after it: words [threads, 4] with x [threads, tiles, 4]."""
    zero = gl.zeros_like(x)
    return gl.inline_asm_elementwise(
        MULTIPLY, "=&f,=&f,=&f,=&f,f,f,f,f,r,r,r,r,r,r,r,r,r,r,r,r",
        [sums, row[:, None, :] + zero, eighth[:, None, :] + zero, x], dtype=gl.float32, is_pure=True, pack=4,
    )  # fmt: skip


@gluon.jit
def _values(at: gl.tensor, rows: gl.tensor, ELEMS: gl.constexpr) -> Any:
    """Read the values of a unit of a row: one run of four words, and the next for 32 elements."""
    low = gl.load(at, eviction_policy="evict_first")
    high = low
    if ELEMS == 32:
        high = gl.load(at + rows * 4, eviction_policy="evict_first")
    return low, high


@gluon.jit
def _whole(of_threads: gl.tensor) -> gl.tensor:
    """Give a number per thread all three dimensions."""
    return of_threads[:, None][:, None, :]


@gluon.jit(do_not_specialize=["tokens", "outputs", "units", "part_steps"])
def mma_kernel(
    values: gl.tensor, metadata: gl.tensor, table: gl.tensor, x: gl.tensor, bias: gl.tensor, y: gl.tensor,
    parts: gl.tensor, counter: gl.tensor,
    tokens: gl.tensor, outputs: gl.tensor, rows: gl.tensor, units: gl.tensor, part_steps: gl.tensor,
    x_words: gl.tensor,
    ELEMS: gl.constexpr, READ: gl.constexpr, EXPAND_0: gl.constexpr, EXPAND_1: gl.constexpr,
    EXPAND_2: gl.constexpr, EXPAND_3: gl.constexpr, MULTIPLY: gl.constexpr, TILES: gl.constexpr,
    LAID: gl.constexpr,     HAS_BIAS: gl.constexpr, SPLIT: gl.constexpr, WARPS: gl.constexpr,
) -> None:  # fmt: skip
    """Multiply some rows of weights with all tokens, over a part of K: see `launch` for what goes in and out."""
    THREADS: gl.constexpr = WARPS * 32
    WIDE: gl.constexpr = gl.BlockedLayout([1, TILES, 4], [32, 1, 1], [WARPS, 1, 1], [2, 1, 0])
    FOUR: gl.constexpr = gl.SliceLayout(1, WIDE)
    RUN: gl.constexpr = ELEMS // 4  # words of a unit's values
    CODE: gl.constexpr = (
        gl.uint64 if READ == "index5" else (gl.uint32 if READ == "index4" or RUN == 8 else gl.uint16)
    )
    thread = gl.arange(0, THREADS, gl.SliceLayout(1, FOUR))
    word = gl.arange(0, 4, gl.SliceLayout(0, FOUR))
    tile = gl.arange(0, TILES, gl.SliceLayout(0, gl.SliceLayout(2, WIDE)))[None, :][:, :, None]
    place = thread % 4
    block = gl.program_id(0)
    # Rows are whole warps of 32, but the last program may have more warps than are left.
    warp_row = gl.minimum((block * WARPS + thread // 32) * 32, rows - 32)
    row = warp_row + thread % 32 // 4
    first = gl.program_id(1) * part_steps
    last = gl.minimum(first + part_steps, (units + 3) // 4)
    codes = metadata.to(gl.pointer_type(CODE)) + (row[:, None] + word[None, :] * 8)
    more_at = metadata + units * rows.to(gl.int64) * (8 if RUN == 8 else 2)
    more_at = more_at.to(gl.pointer_type(gl.uint8 if READ == "index3" else gl.uint16))
    more_at += row[:, None] + word[None, :] * 8
    values += row[:, None] * 4 + word[None, :]
    # Sums of tokens that are not there are not stored, so any x will do.
    # Words from eight elements of a thread to its next eight, and from a step to the next.
    PIECE: gl.constexpr = 128 if LAID else 4
    STEP: gl.constexpr = TILES * ELEMS // 8 * PIECE if LAID else 2 * ELEMS
    if LAID:
        x += tile * (ELEMS // 8 * PIECE) + first * STEP + _whole(thread % 32 * 4) + word[None, :][:, None, :]
    else:
        token = gl.minimum(_whole(thread % 32 // 4) + tile * 8, tokens - 1)
        x += (
            token.to(gl.int64) * x_words
            + _whole((first * 4 + place) * (ELEMS // 2))
            + word[None, :][:, None, :]
        )
    upper = gl.zeros([THREADS, TILES, 4], gl.float32, WIDE)
    lower = gl.zeros([THREADS, TILES, 4], gl.float32, WIDE)
    # One step ahead. Units that are not there are read from the last one, and their masks are 0.
    unit = gl.minimum(first * 4 + place, units - 1).to(gl.int64)[:, None] * rows
    a_low, a_high = _values(values + unit * RUN, rows, ELEMS)
    b_low, b_high = _values(values + unit * RUN + 32, rows, ELEMS)
    c_low, c_high = _values(values + unit * RUN + 64, rows, ELEMS)
    d_low, d_high = _values(values + unit * RUN + 96, rows, ELEMS)
    code = gl.load(codes + unit, eviction_policy="evict_first")
    more = code
    if READ == "index3" or READ == "index5":
        more = gl.load(more_at + unit, eviction_policy="evict_first")
    for step in range(first, last):
        is_there = gl.where(step * 4 + place < units, 0xFFFFFFFF, 0).to(gl.uint32)
        mask = _masks(code, more, table, READ) & is_there[:, None]
        a0, a1, a2, a3 = _expand(a_low, a_high, mask, EXPAND_0, ELEMS)
        b0, b1, b2, b3 = _expand(b_low, b_high, mask, EXPAND_1, ELEMS)
        x0 = gl.load(x)
        x1 = gl.load(x + PIECE)
        upper = _multiply(upper, a0, b0, x0, MULTIPLY)
        upper = _multiply(upper, a1, b1, x1, MULTIPLY)
        c0, c1, c2, c3 = _expand(c_low, c_high, mask, EXPAND_2, ELEMS)
        d0, d1, d2, d3 = _expand(d_low, d_high, mask, EXPAND_3, ELEMS)
        lower = _multiply(lower, c0, d0, x0, MULTIPLY)
        lower = _multiply(lower, c1, d1, x1, MULTIPLY)
        if ELEMS == 32:
            x0 = gl.load(x + 2 * PIECE)
            x1 = gl.load(x + 3 * PIECE)
            upper = _multiply(upper, a2, b2, x0, MULTIPLY)
            upper = _multiply(upper, a3, b3, x1, MULTIPLY)
            lower = _multiply(lower, c2, d2, x0, MULTIPLY)
            lower = _multiply(lower, c3, d3, x1, MULTIPLY)
        x += STEP
        unit = gl.minimum(gl.minimum(step + 1, last - 1) * 4 + place, units - 1).to(gl.int64)[:, None] * rows
        a_low, a_high = _values(values + unit * RUN, rows, ELEMS)
        b_low, b_high = _values(values + unit * RUN + 32, rows, ELEMS)
        c_low, c_high = _values(values + unit * RUN + 64, rows, ELEMS)
        d_low, d_high = _values(values + unit * RUN + 96, rows, ELEMS)
        code = gl.load(codes + unit, eviction_policy="evict_first")
        more = code
        if READ == "index3" or READ == "index5":
            more = gl.load(more_at + unit, eviction_policy="evict_first")

    is_whole = True
    if SPLIT:
        n_parts = gl.num_programs(1)
        at = parts + (block * (2 * TILES) + tile).to(gl.int64) * (THREADS * 4)
        at += _whole(thread) * 4 + word[None, :][:, None, :]
        PART: gl.constexpr = 2 * TILES * THREADS * 4
        part = gl.num_programs(0).to(gl.int64) * PART
        own = at + gl.program_id(1) * part
        gl.store(own, upper)
        gl.store(own + TILES * THREADS * 4, lower)
        is_whole = is_last(counter + block, n_parts)
        if is_whole:
            upper = gl.zeros([THREADS, TILES, 4], gl.float32, WIDE)
            lower = gl.zeros([THREADS, TILES, 4], gl.float32, WIDE)
            for _ in range(n_parts):
                upper += gl.load(at, cache_modifier=".cg")
                lower += gl.load(at + TILES * THREADS * 4, cache_modifier=".cg")
                at += part
    if is_whole:
        output = _whole(row) + (word // 2 * 8)[None, :][:, None, :]
        column = _whole(place * 2) + tile * 8 + (word % 2)[None, :][:, None, :]
        is_own = _whole((block * WARPS + thread // 32) * 32 < rows) & (column < tokens)
        if HAS_BIAS:
            upper += gl.load(bias + output, mask=output < outputs, other=0).to(gl.float32)
            lower += gl.load(bias + output + 16, mask=output + 16 < outputs, other=0).to(gl.float32)
        to = y + (column.to(gl.int64) * outputs + output)
        gl.store(to, upper.to(y.dtype.element_ty), mask=is_own & (output < outputs))
        gl.store(to + 16, lower.to(y.dtype.element_ty), mask=is_own & (output + 16 < outputs))


def runs_here(x: Tensor, weight: ShuffledWeight) -> bool:
    """Say whether `launch` takes x [..., K]: 1 to 64 tokens, of the type of values of 16 bits, on matrix units that have it."""
    # Triton's interpreter has no Gluon, and a GPU before sm_80 has no such instruction.
    able = not triton.knobs.runtime.interpret
    able = able and (x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) >= (8, 0))
    return (
        able
        and 1 <= x.shape[:-1].numel() <= MOST_MATRIX_TOKENS
        and x.dtype == weight.values.dtype
        and weight.scales is None
    )


def launch(
    x: Tensor,
    weight: ShuffledWeight,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    warps: int = WARPS,
    n_parts: int | None = None,
) -> None:
    """Multiply tokens, summed in float32 and rounded once.

    One launch for up to 16 tokens, if K fills whole steps of four units and x begins at a multiple of 16 bytes. Else x is
    first laid out by `lay_kernel`, in the order in which threads read it.

    Parameters
    ----------
    x : Tensor [T, K] of the type of values, T from 1 to 64
        Contiguous, as all are, and on the weight's device.
    weight : ShuffledWeight
        Of float16 or bfloat16.
    out : Tensor [T, N] of the type of values
        Every element is written.
    bias : Tensor [N] of the type of values, optional
    warps : int
        Of a program; a power of two. Each has 32 rows.
    n_parts : int, optional
        Parts of K, each summed by a program of its own; as many as `plan_parts` finds when absent.

    Raises
    ------
    KernelError
        More tokens than 64, or none; x of another type; weights of 8 bits; a process that interprets.
    """
    if not runs_here(x, weight):
        raise KernelError(
            f"{len(x)} tokens of {x.dtype}, weights of {weight.values.dtype}: expected 1 to "
            f"{MOST_MATRIX_TOKENS} tokens of the type of values of 16 bits; sm_80 or later; TRITON_INTERPRET unset"
        )
    tokens, elems, device = len(x), STEP_ELEMS[weight.pattern], x.device
    steps = triton.cdiv(weight.units, STEP_UNITS)
    # Where x lies, threads read whole steps of it, 16 bytes at a time.
    is_laid = tokens > DIRECT_TOKENS or x.shape[1] != steps * STEP_UNITS * elems or x.data_ptr() % 16 != 0
    compiled_for = constants(weight.format, weight.values.dtype, tokens, laid=is_laid)
    # A small weight has no rows for more warps.
    warps = min(warps, triton.next_power_of_2(weight.rows // WARP_TILE_ROWS))
    blocks = triton.cdiv(weight.rows, WARP_TILE_ROWS * warps)
    if n_parts is None:
        unit_bytes = (weight.values.nbytes + weight.metadata.nbytes) // (weight.units * weight.rows)
        n_parts = plan_parts(
            blocks, steps, elems=elems, warps=warps, tokens=tokens, step_bytes=unit_bytes * STEP_UNITS * WARP_TILE_ROWS,
            machine=machine_of(device),
        )  # fmt: skip
    n_parts, part_steps = split(steps, 1, blocks, device, n_parts)
    sums = n_parts * blocks * warps * WARP_TILE_ROWS * TILE_TOKENS * compiled_for["TILES"]
    is_split = n_parts > 1
    with on_device_of(x):
        tiles = compiled_for["TILES"]
        given = _laid_out(x, steps, elems=elems, tiles=tiles) if is_laid else x
        mma_kernel[(blocks, n_parts)](
            weight.values.view(torch.int32), weight.metadata, table_of(weight.format, device),
            given.view(torch.int32), bias, out,
            torch.empty(sums, dtype=torch.float32, device=device) if is_split else None,
            counters(blocks, device) if is_split else None,
            tokens, weight.shape[0], weight.rows, weight.units, part_steps, x.shape[1] // 2,
            **compiled_for, HAS_BIAS=bias is not None, SPLIT=is_split, WARPS=warps, num_warps=warps,
            enable_fp_fusion=False,
        )  # fmt: skip


@triton.jit(do_not_specialize=["tokens", "elements"])
def lay_kernel(
    x: tl.tensor, laid: tl.tensor, tokens: tl.tensor, k: tl.tensor, elements: tl.tensor,
    ELEMS: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Lay tokens out as threads read them: [T, K] -> [steps, tiles, eights of a unit, lanes, 8], zero if there is no x."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = at // 8 % 32
    piece = at // 256 % (ELEMS // 8)
    tile = at // (32 * ELEMS) % TILES
    step = at // (32 * ELEMS * TILES)
    token = tile * 8 + lane // 4
    column = (step * 4 + lane % 4) * ELEMS + piece * 8 + at % 8
    number = tl.load(x + token.to(tl.int64) * k + column, mask=(token < tokens) & (column < k), other=0)
    tl.store(laid + at, number, mask=at < elements)


def _laid_out(x: Tensor, steps: int, *, elems: int, tiles: int) -> Tensor:
    """Lay tokens of 16 bits out by `lay_kernel`."""
    elements = steps * STEP_UNITS * elems * tiles * TILE_TOKENS
    laid = torch.empty(elements, dtype=torch.int16, device=x.device)
    lay_kernel[(triton.cdiv(elements, LAY_BLOCK),)](
        x.view(torch.int16), laid, len(x), x.shape[1], elements, ELEMS=elems, TILES=tiles, BLOCK=LAY_BLOCK,
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return laid


@lru_cache(maxsize=4096)
def plan_parts(
    blocks: int, steps: int, *, elems: int, warps: int, tokens: int, step_bytes: int, machine: Machine
) -> int:  # fmt: skip
    """Choose into how many parts K is cut, by the time of `kernels.gpu.products.plan` and that of the sums of parts.

    Parameters
    ----------
    blocks : int
        Programs for each part of K.
    steps : int
        Of all of K.
    elems, warps, tokens : int
        Elements of a unit, 16 or 32; warps of a program.
    step_bytes : int
        Bytes of weights that a warp reads in a step.
    machine : Machine

    Examples
    --------
    >>> plan_parts(112, 64, elems=16, warps=4, tokens=16, step_bytes=2304, machine=Machine())
    4
    """
    registers = REGISTERS[elems][triton.next_power_of_2(triton.cdiv(tokens, TILE_TOKENS))]
    at_once = max(1, min(programs_at_once(registers, warps, machine), MOST_WARPS // warps))
    best = (math.inf, 1)
    for n_parts in range(1, max(1, steps // LEAST_STEPS) + 1):
        time = time_of(
            blocks, triton.cdiv(steps, n_parts), n_parts=n_parts, warps=warps, at_once=at_once,
            tokens=STEP_BUSY_TOKENS, turn_bytes=step_bytes, machine=machine,
        )  # fmt: skip
        if n_parts > 1:
            # Sums of float32 are stored and read once, here counted as if memory and not its cache had them.
            sums_bytes = 2 * 4 * n_parts * blocks * warps * WARP_TILE_ROWS * tokens
            time += sums_bytes / step_bytes / machine.processors
        best = min(best, (time, n_parts))
    return best[1]


def table_of(format: SparseFormat, device: torch.device) -> Tensor | None:
    """Give the table that codes are looked up in; masks and positions need none."""
    return None if format.encoding.name == "bitmask" else position_table(format, device)


def constants(
    format: SparseFormat, dtype: torch.dtype, tokens: int, *, laid: bool | None = None
) -> dict[str, Any]:  # fmt: skip
    """Name what `mma_kernel` is compiled for, except bias, parts and warps."""
    elems = STEP_ELEMS[format.pattern]
    return {
        "ELEMS": elems,
        "READ": MASK if format.encoding.name == "bitmask" else DECODE[format],
        **{f"EXPAND_{row}": expansion(format.pattern.m, elems, row) for row in range(ROWS)},
        "MULTIPLY": multiplication(KINDS[dtype]),
        "LAID": tokens > DIRECT_TOKENS if laid is None else laid,
        "TILES": triton.next_power_of_2(triton.cdiv(tokens, TILE_TOKENS)),
    }
