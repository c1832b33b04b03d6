"""One packed token times dense weights: y[N] = xsp[K] W[K, N], reading only the rows of W whose element was kept.

Weights are stored K-major, so that all weights of one in feature lie in one piece. Pieces whose element was dropped are never
read: a pattern of N:M reads N / M of the weights. One program takes a block of outputs and a part of K. The last
program adds up the parts, in order, in float32. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, KINDS, about, as_float, code_table, on_device_of, ones_of
from kernels.gpu.codes import read_field
from kernels.gpu.expand import masks_of
from kernels.gpu.split import PARTS_AHEAD, add_parts, counters, is_last, split, store_rounded
from nmsim.format import SparseFormat

STEP_ROWS = 32
"""Rows of the weight that a program holds at a time."""
BLOCK_BYTES = 512
"""Bytes of such a row: 16 for each of the threads of a warp."""
WARPS = 4


@triton.jit
def positions_of(
    metadata: tl.tensor, group: tl.tensor, row_bytes: tl.tensor, stored: tl.tensor, table: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, SLOTS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Find where in its group each kept element was: groups [G] -> int32 [G, SLOTS], of slots beyond N anything."""
    slot = tl.arange(0, SLOTS)
    if ENCODING == "index" and CODE_BITS > 0:
        start = group[:, None] * CODE_BITS + slot[None, :] * POSITION_BITS
        is_slot = stored[:, None] & (slot < N)[None, :]
        position = read_field(metadata, start, row_bytes, is_slot, POSITION_BITS).to(tl.int32)
    else:
        word = masks_of(
            metadata, group[None, :], row_bytes, stored[None, :], table,
            N, M, ENCODING, CODE_BITS, POSITION_BITS,
        )  # fmt: skip
        word = tl.reshape(word, [group.shape[0], 1])
        lane = tl.arange(0, LANES)
        ones = tl.full([1, LANES], 1, tl.uint32) << lane.to(tl.uint32)[None, :]
        rank = tl.where((word & ones) != 0, ones_of(word & (ones - 1)), -1)
        hit = rank[:, None, :] == slot[None, :, None]
        position = tl.sum(tl.where(hit, lane[None, None, :], 0), axis=2)
    return position


@triton.jit(do_not_specialize=["part_groups"])
def skip_gemv_kernel(
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, weight: tl.tensor, bias: tl.tensor,
    y: tl.tensor, sums: tl.tensor, counters: tl.tensor,
    outputs: tl.tensor, k: tl.tensor, n_groups: tl.tensor, part_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, SLOTS: tl.constexpr, GROUPS: tl.constexpr,
    ENCODING: tl.constexpr, CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, KIND: tl.constexpr,
    OUTPUTS: tl.constexpr, BIAS_KIND: tl.constexpr, SPLIT: tl.constexpr,
) -> None:  # fmt: skip
    """Sum a block of outputs over a part of K: see `launch` for what goes in and out."""
    output = (tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]
    part = tl.program_id(1)
    row_bytes = n_groups * CODE_BITS // 8
    slot = tl.arange(0, SLOTS)[None, :]
    last = tl.minimum((part + 1) * part_groups, n_groups)
    total = tl.zeros([GROUPS * SLOTS, OUTPUTS], tl.float32)
    # A program has its own part of K; the last one of a block adds the parts up.
    for first in range(part * part_groups, last, GROUPS):
        group = first + tl.arange(0, GROUPS)
        position = positions_of(
            metadata, group, row_bytes, group < last, table,
            N, M, LANES, SLOTS, ENCODING, CODE_BITS, POSITION_BITS,
        )  # fmt: skip
        row = group[:, None] * M + position
        kept = (group < last)[:, None] & (slot < N) & (row < k)
        number = as_float(tl.load(values + group[:, None] * N + slot, mask=kept, other=0), KIND)
        row = tl.reshape(row, [GROUPS * SLOTS])[:, None]
        mask = tl.reshape(kept, [GROUPS * SLOTS])[:, None] & (output < outputs)
        place = weight + row.to(tl.int64) * outputs + output
        raw = tl.load(place, mask=mask, other=0, eviction_policy="evict_first")
        total += tl.reshape(number, [GROUPS * SLOTS])[:, None] * as_float(raw, KIND)
    sum_of = tl.sum(total, axis=0)[None, :]
    is_output = output < outputs
    if SPLIT:
        tl.store(sums + part.to(tl.int64) * outputs + output, sum_of, mask=is_output)
        if is_last(counters + tl.program_id(0), tl.num_programs(1)):
            sum_of = add_parts(sums, output, outputs, is_output, tl.num_programs(1), PARTS_AHEAD)
            store_rounded(y, bias, sum_of, output, output, is_output, KIND, BIAS_KIND)
    else:
        store_rounded(y, bias, sum_of, output, output, is_output, KIND, BIAS_KIND)


def launch(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    format: SparseFormat,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    n_parts: int | None = None,
) -> None:
    """Multiply one token, summed in float32 and rounded once.

    Parameters
    ----------
    values, metadata : Tensor [1, G * n] and uint8 Tensor [1, bytes of a row]
        As `kernels.gpu.movers.prune` writes them, metadata at a multiple of four bytes.
    weight : Tensor [K, N] of the type of values
    out : Tensor [1, N] of the same type
        Contiguous, as all are; every element is written.
    bias : Tensor [N] of a type in `KINDS`, optional
    n_parts : int, optional
        Parts of K, each summed by a program of its own; as many as `split` finds when absent.
    """
    k, outputs = weight.shape
    about_it = constants(format, k, values.dtype)
    integer = INTEGERS[values.dtype]
    blocks = triton.cdiv(outputs, about_it["OUTPUTS"])
    n_groups = values.shape[1] // format.pattern.n
    n_parts, part_groups = split(n_groups, about_it["GROUPS"], blocks, values.device, n_parts)
    is_split = n_parts > 1
    sums = values.new_empty((n_parts, outputs), dtype=torch.float32) if is_split else None
    table = code_table(format, values.device)
    with on_device_of(values):
        skip_gemv_kernel[(blocks, n_parts)](
            values.view(integer), metadata, table, weight.view(integer),
            None if bias is None else bias.view(INTEGERS[bias.dtype]), out.view(INTEGERS[out.dtype]), sums,
            counters(blocks, values.device) if is_split else None, outputs, k, n_groups, part_groups,
            **about_it, BIAS_KIND="none" if bias is None else KINDS[bias.dtype], SPLIT=is_split,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def constants(format: SparseFormat, k: int, dtype: torch.dtype) -> dict[str, Any]:
    """Name what `skip_gemv_kernel` is compiled for."""
    slots = triton.next_power_of_2(format.pattern.n)
    return about(format, k) | {
        "SLOTS": slots,
        "GROUPS": max(1, STEP_ROWS // slots),
        "KIND": KINDS[dtype],
        "OUTPUTS": BLOCK_BYTES // dtype.itemsize,
    }
