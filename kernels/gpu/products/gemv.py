"""One to four tokens times N:M weights: Y[T, N] = X[T, K] W[N, K]^T, weights in the order of `kernels.stored.shuffled`.

A thread takes one row. From every unit it reads 16 bytes of values and turns the codes into positions of 4 bits. Then it
gathers x, not weights, at them. Warps of a program share K. Sums are float32 and always in the same order. Nothing here was
timed: warps, units per turn and parts of K are guesses. `docs/reference/sass.md` counts the instructions of a turn.

They are few for three reasons. Tables give positions of 4 bits (`kernels.gpu.codes`). They become byte offsets for four slots
at a time. Each unit's part of x lies within 256 aligned bytes (`widened`, `aligned`). So an address is the unit's own with
its lowest byte replaced, one instruction (`prmt`).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, KINDS, as_bits, as_float, on_device_of
from kernels.gpu.codes import DECODE, position_table, positions, positions_of_32, stream
from kernels.gpu.split import processors, sum_parts
from kernels.stored.errors import KernelError
from kernels.stored.rows import STEP_ELEMS
from kernels.stored.shuffled import MOST_TOKENS, WARP_ROWS, ShuffledWeight
from nmsim.format import SparseFormat

PAGE_BYTES = 256
"""What an address can reach by its lowest byte."""


@triton.jit(do_not_specialize=["tokens", "elements"])
def widen_kernel(
    x: tl.tensor, wide: tl.tensor, tokens: tl.tensor, k: tl.tensor, elements: tl.tensor,
    ELEMS: tl.constexpr, PAIRS: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Lay tokens beside each other as float32: [T, K] -> [units, PAIRS, elements of a unit, 2], zero if there is no x."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    token = tl.arange(0, 2 * PAIRS)[None, :]
    inside = (column < k) & (token < tokens)
    number = as_float(tl.load(x + token.to(tl.int64) * k + column, mask=inside, other=0), KIND)
    place = (column // ELEMS * PAIRS + token // 2) * (2 * ELEMS) + column % ELEMS * 2 + token % 2
    tl.store(wide + place, number, mask=(column < elements) & (token >= 0))


def widened(x: Tensor, elems: int, units: int) -> Tensor:
    """Lay tokens [T, K] out by `widen_kernel`, units of so many elements."""
    tokens, k = x.shape
    pairs = triton.cdiv(tokens, 2)
    wide = _room(units * elems * pairs * 2 * 4, x.device).view(torch.float32)
    with on_device_of(x):
        widen_kernel[(triton.cdiv(units * elems, 256),)](
            x.view(INTEGERS[x.dtype]), wide, tokens, k, units * elems, ELEMS=elems, PAIRS=pairs,
            KIND=KINDS[x.dtype], BLOCK=256, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return wide


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


TURN_ELEMS = 32
"""Elements of its row that a thread takes in a turn of its loop. With 64, 16:32 spills registers (sm_80, sm_100)."""
MAX_WARPS = 16
"""Warps of a program, at most. With 32, four tokens would have too few registers."""
LEAST_WARPS = 4
PROCESSOR_WARPS = 32
"""Warps needed per multiprocessor, for enough bytes to be under way."""
LEAST_TURNS = 2
"""Turns of the loop below which a part of K is not worth its own sum."""


@triton.jit
def _gather(
    window: tl.tensor, offsets: tl.tensor, end: tl.tensor,
    AHEAD: tl.constexpr, BYTES: tl.constexpr, MASKED: tl.constexpr, PRMT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Read x at four byte offsets, the bytes of a word, in a unit's window: -> its bits [W, R, 4]."""
    slot = tl.arange(0, 4)[None, None, :]
    bottom = window.to(tl.uint32)[:, :, None]
    word = offsets[:, :, None]
    if PRMT:
        everywhere = word.to(tl.int32) + 0 * slot
        bottom = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [everywhere.to(tl.uint32), bottom + tl.zeros_like(everywhere).to(tl.uint32), 0x7650 + slot + 0 * everywhere],
            dtype=tl.uint32,
            is_pure=True,
            pack=1,
        )  # fmt: skip
    else:
        bottom = (bottom & 0xFFFFFF00) | ((word >> (8 * slot).to(tl.uint32)) & 0xFF)
    address = ((window >> 32) << 32)[:, :, None] | bottom.to(tl.int64)
    WORD: tl.constexpr = tl.int16 if BYTES == 2 else (tl.int32 if BYTES == 4 else tl.int64)
    at = (address + AHEAD).to(tl.pointer_type(WORD))
    if MASKED:
        raw = tl.load(at, mask=address < end, other=0)
    else:
        raw = tl.load(at)
    return raw


@triton.jit
def _half(
    sums: tl.tensor, sums_1: tl.tensor, sums_2: tl.tensor, sums_3: tl.tensor, values: tl.tensor,
    inside: tl.tensor, even: tl.tensor, odd: tl.tensor, window: tl.tensor, end: tl.tensor,
    KIND: tl.constexpr, X_KIND: tl.constexpr, X_BYTES: tl.constexpr, WINDOW: tl.constexpr,
    TOKENS: tl.constexpr, MASKED: tl.constexpr, PRMT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Add eight products a thread and token: values of even slots are the low halves of words, odd ones the high halves."""
    slot = tl.arange(0, 4)[None, None, :]
    mask = inside[:, :, None] if MASKED else None
    raw = stream(values[:, :, None] + slot, mask, MASKED)
    for part in tl.static_range(2):
        number = as_float((raw if part == 0 else raw >> 16).to(tl.int16), KIND)
        offsets = even if part == 0 else odd
        x = _gather(window, offsets, end, 0, X_BYTES, MASKED, PRMT)
        if TOKENS == 1:
            sums += number * as_float(x, X_KIND)
        else:
            sums += number * as_float(x.to(tl.int32), "float32")
            sums_1 += number * as_float((x >> 32).to(tl.int32), "float32")
        if TOKENS > 2:
            x = _gather(window, offsets, end, WINDOW, X_BYTES, MASKED, PRMT)
            sums_2 += number * as_float(x.to(tl.int32), "float32")
            sums_3 += number * as_float((x >> 32).to(tl.int32), "float32")
    return sums, sums_1, sums_2, sums_3


@triton.jit
def _unit(
    sums: tl.tensor, sums_1: tl.tensor, sums_2: tl.tensor, sums_3: tl.tensor, values: tl.tensor,
    codes: tl.tensor, more: tl.tensor, table: tl.tensor, window: tl.tensor, low: tl.tensor, inside: tl.tensor,
    rows: tl.tensor, end: tl.tensor,
    ELEMS: tl.constexpr, DECODE: tl.constexpr, KIND: tl.constexpr, X_KIND: tl.constexpr,
    X_BYTES: tl.constexpr, TOKENS: tl.constexpr, MASKED: tl.constexpr, PRMT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Take one unit a thread: where its values and codes are [W, R], and its part of x [W, 1]."""
    WINDOW: tl.constexpr = ELEMS * X_BYTES
    SHIFT: tl.constexpr = 1 if X_BYTES == 2 else (2 if X_BYTES == 4 else 3)
    OFFSETS: tl.constexpr = 0x0F0F0F0F << SHIFT
    low = (low.to(tl.uint32) & (256 - WINDOW)) * 0x01010101
    if ELEMS == 16:
        word = positions(codes, more, table, inside, DECODE, MASKED)
        even = ((word << SHIFT) & OFFSETS) | low
        odd = ((word >> (4 - SHIFT)) & OFFSETS) | low
        sums, sums_1, sums_2, sums_3 = _half(
            sums, sums_1, sums_2, sums_3, values, inside, even, odd, window, end,
            KIND, X_KIND, X_BYTES, WINDOW, TOKENS, MASKED, PRMT,
        )  # fmt: skip
    else:
        FIFTHS: tl.constexpr = 0x01010101 << (4 + SHIFT)
        both, upper = positions_of_32(codes, more, table, inside, DECODE, MASKED)
        for half in tl.static_range(2):
            word = (both if half == 0 else both >> 32).to(tl.uint32)
            late = (upper if half == 0 else upper >> 32).to(tl.uint32)
            even = ((word << SHIFT) & OFFSETS) | ((late << (4 + SHIFT)) & FIFTHS) | low
            odd = ((word >> (4 - SHIFT)) & OFFSETS) | ((late << SHIFT) & FIFTHS) | low
            sums, sums_1, sums_2, sums_3 = _half(
                sums, sums_1, sums_2, sums_3, values + half * 4 * rows, inside, even, odd, window, end,
                KIND, X_KIND, X_BYTES, WINDOW, TOKENS, MASKED, PRMT,
            )  # fmt: skip
    return sums, sums_1, sums_2, sums_3


@triton.jit(do_not_specialize=["outputs", "units", "part_units", "x_bytes"])
def gemv_kernel(
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, x: tl.tensor, bias: tl.tensor, y: tl.tensor,
    outputs: tl.tensor, rows: tl.tensor, units: tl.tensor, part_units: tl.tensor, x_bytes: tl.tensor,
    ELEMS: tl.constexpr, DECODE: tl.constexpr, KIND: tl.constexpr, X_KIND: tl.constexpr,
    X_BYTES: tl.constexpr, TOKENS: tl.constexpr, Y_KIND: tl.constexpr, BIAS_KIND: tl.constexpr,
    WARPS: tl.constexpr, UNROLL: tl.constexpr, PRMT: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply with some rows, and a part of K: see `launch` for what goes in and out."""
    TURN: tl.constexpr = WARPS * UNROLL
    WORDS: tl.constexpr = ELEMS // 4  # of 32 bits, that hold a unit's values
    NARROW: tl.constexpr = tl.uint32 if DECODE == "index4" or DECODE == "bitmask32" else tl.uint16
    FIRST: tl.constexpr = tl.uint64 if DECODE == "index5" else NARROW
    MORE: tl.constexpr = tl.uint8 if DECODE == "index3" else tl.uint16
    UNIT_X_BYTES: tl.constexpr = ELEMS * X_BYTES * (2 if TOKENS > 2 else 1)
    tl.static_assert(TURN * UNIT_X_BYTES % 256 == 0)  # so that `low` is the same in every turn
    row = tl.program_id(0) * 32 + tl.arange(0, 32)
    first = tl.program_id(1) * part_units
    last = tl.minimum(first + part_units, units)
    # What lies before `whole` are whole units of x, so that nothing need be checked.
    whole = tl.minimum(last, (x_bytes // UNIT_X_BYTES).to(tl.int32))
    whole = tl.maximum(first, first + (whole - first) // TURN * TURN)
    end = x.to(tl.int64) + x_bytes
    plane = units * rows.to(tl.int64)
    warp = tl.arange(0, WARPS)[:, None]
    unit = (first + warp).to(tl.int64)
    place = unit * rows + row[None, :]
    values_at = values + unit * rows * WORDS + row[None, :] * 4
    codes_at = metadata.to(tl.pointer_type(FIRST)) + place
    more_at = (metadata + plane * (2 if ELEMS == 16 else 8)).to(tl.pointer_type(MORE)) + place
    window = x.to(tl.int64) + unit * UNIT_X_BYTES
    low = window
    sums = tl.zeros([WARPS, 32, 4], tl.float32)
    sums_1 = tl.zeros([WARPS, 32, 4], tl.float32)
    sums_2 = tl.zeros([WARPS, 32, 4], tl.float32)
    sums_3 = tl.zeros([WARPS, 32, 4], tl.float32)
    for _ in range(first, whole, TURN):
        for u in tl.static_range(UNROLL):
            sums, sums_1, sums_2, sums_3 = _unit(
                sums, sums_1, sums_2, sums_3, values_at, codes_at, more_at, table,
                window, low + u * WARPS * UNIT_X_BYTES, None, rows, end,
                ELEMS, DECODE, KIND, X_KIND, X_BYTES, TOKENS, False, PRMT,
            )  # fmt: skip
            values_at += WARPS * WORDS * rows
            codes_at += WARPS * rows
            more_at += WARPS * rows
            window += WARPS * UNIT_X_BYTES
    for start in range(whole, last, WARPS):
        inside = (start + warp < units) & (row >= 0)[None, :]
        sums, sums_1, sums_2, sums_3 = _unit(
            sums, sums_1, sums_2, sums_3, values_at, codes_at, more_at, table,
            window, window, inside, rows, end,
            ELEMS, DECODE, KIND, X_KIND, X_BYTES, TOKENS, True, PRMT,
        )  # fmt: skip
        values_at += WARPS * WORDS * rows
        codes_at += WARPS * rows
        more_at += WARPS * rows
        window += WARPS * UNIT_X_BYTES
    is_output = row < outputs
    for token in tl.static_range(TOKENS):
        total = sums if token == 0 else (sums_1 if token == 1 else (sums_2 if token == 2 else sums_3))
        total = tl.sum(tl.sum(total, axis=2), axis=0)
        if BIAS_KIND != "none":
            total += as_float(tl.load(bias + row, mask=is_output, other=0), BIAS_KIND)
        at = y + (tl.program_id(1) * TOKENS + token).to(tl.int64) * outputs + row
        tl.store(at, as_bits(total, Y_KIND), mask=is_output)


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

    Two or more tokens are first laid out as float32 (`widen_kernel`, one more launch). One token that does not begin at a
    multiple of a unit's bytes is copied. Parts of K are summed by a second launch.

    Parameters
    ----------
    x : Tensor [T, K] of a type in `KINDS`, T from 1 to 4
        Contiguous, as all are, and on the weight's device.
    weight : ShuffledWeight
    out : Tensor [T, N] of a type in `KINDS`
        Every element is written.
    bias : Tensor [N] of a type in `KINDS`, optional
    warps : {4, 8, 16}, optional
        Warps of a program; as many as `plan` finds when absent, as with
    n_parts : int, optional
        Parts of K, each summed by a program of its own.

    Raises
    ------
    KernelError
        More tokens than 4, or none.
    """
    tokens = len(x)
    if not 1 <= tokens <= MOST_TOKENS:
        raise KernelError(f"x has {tokens} tokens: expected 1 to {MOST_TOKENS}")
    elems = STEP_ELEMS[weight.pattern]
    unroll = TURN_ELEMS // elems
    found = plan(weight.rows, weight.units // unroll, weight.values.device)
    warps = found[0] if warps is None else warps
    n_parts = found[1] if n_parts is None else n_parts
    turn = warps * unroll
    part_units = triton.cdiv(triton.cdiv(weight.units, n_parts), turn) * turn
    n_parts = triton.cdiv(weight.units, part_units)
    if tokens == 1:
        laid = aligned(x, elems * x.element_size())
    else:
        laid = widened(x, elems, weight.units)
    # Parts of K stay float32 until all are summed, so that the result is rounded once.
    alone = n_parts == 1
    parts = out if alone else out.new_empty((n_parts, *out.shape), dtype=torch.float32)
    about_it = constants(weight.format, weight.values.dtype, x.dtype, tokens, parts.dtype)
    about_bias = KINDS[bias.dtype] if alone and bias is not None else "none"
    with on_device_of(x):
        gemv_kernel[(weight.rows // WARP_ROWS, n_parts)](
            weight.values.view(torch.int32), weight.metadata,
            position_table(weight.format, weight.values.device),
            laid, bias.view(INTEGERS[bias.dtype]) if alone and bias is not None else None,
            parts.view(INTEGERS[parts.dtype]), weight.shape[0], weight.rows, weight.units, part_units, laid.nbytes,
            **about_it, BIAS_KIND=about_bias, WARPS=warps, PRMT=not triton.knobs.runtime.interpret,
            num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    if not alone:
        sum_parts(parts, bias, out)


def plan(rows: int, turns: int, device: torch.device) -> tuple[int, int]:
    """Count warps of a program and parts of K that give every multiprocessor of a device `PROCESSOR_WARPS`.

    A warp alone would take so many turns of the loop.

    Examples
    --------
    >>> plan(4096, 128, torch.device("cpu"))
    (4, 1)
    """
    blocks = rows // WARP_ROWS
    wanted = triton.cdiv(PROCESSOR_WARPS * processors(device), blocks)
    warps = min(MAX_WARPS, max(LEAST_WARPS, triton.next_power_of_2(wanted)))
    return warps, max(1, min(triton.cdiv(wanted, warps), turns // (warps * LEAST_TURNS)))


def constants(
    format: SparseFormat, dtype: torch.dtype, x_dtype: torch.dtype, tokens: int, y_dtype: torch.dtype
) -> dict[str, Any]:
    """Name what `gemv_kernel` is compiled for, except the bias and what `plan` finds."""
    return {
        "ELEMS": STEP_ELEMS[format.pattern],
        "DECODE": DECODE[format],
        "KIND": KINDS[dtype],
        "X_KIND": KINDS[x_dtype] if tokens == 1 else "float32",
        "X_BYTES": x_dtype.itemsize if tokens == 1 else 8,
        "TOKENS": tokens,
        "UNROLL": TURN_ELEMS // STEP_ELEMS[format.pattern],
        "Y_KIND": KINDS[y_dtype],
    }
