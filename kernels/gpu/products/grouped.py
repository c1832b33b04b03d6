"""Products of tokens with the matrices of their experts, in one launch: y[t, c] = W[experts[t, c]] x[t].

Each program is one of the decode kernel, with the weights, token and outputs of its choice. So two tokens that choose one
expert read its weights twice; the second read may come from the last-level cache. Nothing here was timed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, KINDS, on_device_of
from kernels.gpu.codes import position_table
from kernels.gpu.products.gemv import REGISTERS, TURN_ELEMS, aligned, constants, gemv_kernel
from kernels.gpu.products.plan import machine_of, plan
from kernels.gpu.split import counters
from kernels.stored.grouped import GroupedWeight
from kernels.stored.rows import STEP_ELEMS
from kernels.stored.shuffled import WARP_ROWS


@triton.jit(do_not_specialize=["outputs", "units", "part_units", "x_bytes", "experts_held", "choices"])
def grouped_kernel(
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, x: tl.tensor, bias: tl.tensor, y: tl.tensor,
    parts: tl.tensor, counters: tl.tensor, scales: tl.tensor, experts: tl.tensor,
    outputs: tl.tensor, rows: tl.tensor, units: tl.tensor, part_units: tl.tensor, x_bytes: tl.tensor,
    experts_held: tl.tensor, choices: tl.tensor, k: tl.tensor, expert_words: tl.tensor, expert_bytes: tl.tensor,
    expert_scales: tl.tensor,
    ELEMS: tl.constexpr, DECODE: tl.constexpr, KIND: tl.constexpr, X_KIND: tl.constexpr,
    LANES: tl.constexpr, TOKENS: tl.constexpr, Y_KIND: tl.constexpr, BIAS_KIND: tl.constexpr,
    BLOCK_UNITS: tl.constexpr, SPLIT: tl.constexpr, WARPS: tl.constexpr, ASM: tl.constexpr,
    STRIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply one token with some rows of one of its experts, and a part of K."""
    choice = tl.program_id(2)
    expert = tl.load(experts + choice).to(tl.int64)
    y += choice.to(tl.int64) * outputs
    if (expert >= 0) & (expert < experts_held):
        if SPLIT:
            parts += choice.to(tl.int64) * tl.num_programs(1) * rows
            counters += choice * tl.num_programs(0)
        if expert_scales is not None:
            scales += expert * expert_scales
        if BIAS_KIND != "none":
            bias += expert * outputs
        gemv_kernel(
            values + expert * expert_words, metadata + expert * expert_bytes, table,
            x + (choice // choices).to(tl.int64) * k, bias, y, parts, counters, scales,
            outputs, rows, units, part_units, x_bytes,
            ELEMS, DECODE, KIND, X_KIND, LANES, TOKENS, Y_KIND, BIAS_KIND, BLOCK_UNITS, SPLIT, WARPS, ASM,
            STRIDE,
        )  # fmt: skip
    else:
        row = tl.program_id(0) * 32 + tl.arange(0, 32)
        tl.store(y + row, tl.zeros([32], y.dtype.element_ty), mask=row + tl.program_id(1) * outputs < outputs)


def launch(
    x: Tensor,
    weight: GroupedWeight,
    experts: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    warps: int | None = None,
    n_parts: int | None = None,
) -> None:
    """Multiply each token with the matrices of its experts, summed in float32 and rounded once.

    Tokens whose K is not a multiple of a unit are copied, as are tokens that do not begin at a multiple of its bytes.

    Parameters
    ----------
    x : Tensor [T, K] of a type in `KINDS`
        Contiguous, as all are, and on the weight's device.
    weight : GroupedWeight
    experts : int32 or int64 Tensor [T, C]
        An expert that is not there gives zeros.
    out : Tensor [T, C, N] of a type in `KINDS`
        Every element is written.
    bias : Tensor [E, N] of a type in `KINDS`, optional
    warps : {4, 8, 16}, optional
        Warps of a program; as many as `plan` finds when absent, as with
    n_parts : int, optional
        Parts of K, each summed by a program of its own.
    """
    elems, device = STEP_ELEMS[weight.pattern], x.device
    held, outputs, k = weight.shape
    one = weight.expert(0)
    turn_units = TURN_ELEMS // elems
    # Every token must begin where a unit's part of x can: an address is its own with the lowest byte replaced.
    if k % elems:
        x = torch.nn.functional.pad(x, (0, -k % elems))
    laid = aligned(x, elems * x.element_size())
    choices = experts.numel()
    if warps is None or n_parts is None:
        unit_bytes = (one.values.nbytes + one.metadata.nbytes + one.scales_bytes) // (one.units * one.rows)
        found = plan(
            one.rows * choices, one.units, tokens=1, registers=REGISTERS, turn_units=turn_units,
            turn_bytes=WARP_ROWS * turn_units * unit_bytes, machine=machine_of(device),
        )  # fmt: skip
        warps = found[0] if warps is None else warps
        n_parts = found[1] if n_parts is None else n_parts
    turn = warps * turn_units
    part_units = triton.cdiv(triton.cdiv(one.units, n_parts), turn) * turn
    n_parts = triton.cdiv(one.units, part_units)
    blocks, is_split = one.rows // WARP_ROWS, n_parts > 1
    room = choices * n_parts * one.rows
    with on_device_of(x):
        grouped_kernel[(blocks, n_parts, choices)](
            weight.values.view(torch.int64), weight.metadata, position_table(weight.format, device),
            laid.view(INTEGERS[x.dtype]), None if bias is None else bias.view(INTEGERS[bias.dtype]),
            out.view(INTEGERS[out.dtype]),
            torch.empty(room, dtype=torch.float32, device=device) if is_split else None,
            counters(choices * blocks, device) if is_split else None, weight.scales, experts,
            outputs, one.rows, one.units, part_units, laid.shape[1] * laid.element_size(),
            held, experts.shape[1], laid.shape[1], one.values.nbytes // 8, one.metadata.nbytes,
            None if one.scales is None else one.scales.numel(),
            **constants(weight.format, weight.values.dtype, x.dtype, 1, out.dtype, block=weight.block),
            BIAS_KIND="none" if bias is None else KINDS[bias.dtype], SPLIT=is_split, WARPS=warps,
            ASM=not triton.knobs.runtime.interpret, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
