"""Packed activations times a dense weight: Y[T, O] = Xsp[T, K] W[O, K]^T, with the epilogue of the mitigations.

One program makes one tile of Y. It reads the codes of its tokens and makes a dense tile of each step of K in registers. The
matrix units multiply it, and sum in float32. The weight is read whole, so this saves bytes of activations, not operations. It
computes with packed activations on a GPU, and is not expected to save time. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, code_table, on_device_of, refuse_interpreted_bfloat16
from kernels.gpu.expand import columns, dense_tile, tile_constants, unit_elems
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

TILE_TOKENS = 64
TILE_OUTPUTS = 64
STEP_BYTES = 128
"""Bytes of a dense row of tokens per step of K. With 256, registers spill if K is no multiple of 16 (sm_80 and sm_90)."""
LEAST_TOKENS = 16
"""Fewer rows of a tile no matrix unit takes; tokens that are missing are zeros."""
WARPS = 4
GATHER_WARPS = 8
"""Where values are gathered: with 4, many variants spill registers (compiled for sm_90 by Triton 3.9)."""


@triton.jit(do_not_specialize=["tokens"])
def product_kernel(
    values: tl.tensor, metadata: tl.tensor, weight: tl.tensor, table: tl.tensor, v: tl.tensor, eta: tl.tensor,
    row_sums: tl.tensor, scale: tl.tensor, bias: tl.tensor, y: tl.tensor, tokens: tl.tensor,
    outputs: tl.tensor, k: tl.tensor, n_groups: tl.tensor, row_bytes: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT: tl.constexpr, TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr, HAS_V: tl.constexpr, HAS_ETA: tl.constexpr, HAS_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
) -> None:  # fmt: skip
    """Make one tile of Y: see `launch` for what goes in and out."""
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_token = token < tokens
    is_output = output < outputs
    weight_row = weight + output.to(tl.int64)[None, :] * k
    total = tl.zeros([TOKENS, OUTPUTS], tl.float32)
    for step in range(tl.cdiv(n_groups, GROUPS)):
        tile = dense_tile(
            values, metadata, table, token, is_token, step, n_groups, row_bytes,
            N, M, LANES, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT, TOKENS,
        )  # fmt: skip
        dense = tile.to(weight.dtype.element_ty, bitcast=True)
        column = columns(step * GROUPS, M, GROUPS, LANES)[:, None]
        inside = (column >= 0) & (column < k) & is_output[None, :]
        total = tl.dot(
            dense, tl.load(weight_row + column, mask=inside, other=0), total, input_precision="ieee"
        )

    # The epilogue runs on float32 sums, before the only rounding.
    if HAS_V:
        total *= tl.load(v + token, mask=is_token, other=0)[:, None]
    if HAS_ETA:
        sums = tl.load(row_sums + output, mask=is_output, other=0)
        total += tl.load(eta + token, mask=is_token, other=0)[:, None] * sums[None, :]
    if HAS_SCALE:
        total *= 1 + tl.load(scale + output, mask=is_output, other=0)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + output, mask=is_output, other=0)[None, :]
    place = y + token.to(tl.int64)[:, None] * outputs + output[None, :]
    tl.store(place, total.to(y.dtype.element_ty), mask=is_token[:, None] & is_output[None, :])


def launch(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    format: SparseFormat,
    out: Tensor,
    *,
    v: Tensor | None = None,
    eta: Tensor | None = None,
    row_sums: Tensor | None = None,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Write y_io = (v_i sum_j xsp_ij w_oj + eta_i r_o) (1 + s_o) + b_o, summed in float32 and rounded once.

    Parameters
    ----------
    values, metadata : Tensor [T, G * N] and uint8 Tensor [T, bytes of a row]
        As `kernels.gpu.movers.prune` writes them.
    weight : Tensor [O, K] of the type of values
    out : Tensor [T, O] of the same type
        Contiguous, as all are; every element is written.
    v, eta : float32 Tensor [T], optional
        `eta` goes with `row_sums`.
    row_sums, scale, bias : float32 Tensor [O], optional

    Raises
    ------
    KernelError
        bfloat16 under Triton's interpreter, which multiplies its bits as integers.
    """
    refuse_interpreted_bfloat16(values)
    tokens, (outputs, k) = len(values), weight.shape
    if tokens == 0:
        return
    about_it = constants(format, k, values.dtype, tokens)
    grid = (triton.cdiv(outputs, about_it["OUTPUTS"]), triton.cdiv(tokens, about_it["TOKENS"]))
    table = code_table(format, values.device)
    with on_device_of(values):
        product_kernel[grid](
            values.view(INTEGERS[values.dtype]), metadata, weight, table, v, eta, row_sums, scale, bias, out, tokens,
            outputs, k, values.shape[1] // format.pattern.n, metadata.shape[1], **about_it, HAS_V=v is not None,
            HAS_ETA=eta is not None, HAS_SCALE=scale is not None, HAS_BIAS=bias is not None,
            num_warps=warps_for(format.pattern, values.dtype), enable_fp_fusion=False,
        )  # fmt: skip


def warps_for(pattern: Pattern, dtype: torch.dtype) -> int:
    """Choose how many warps a program has."""
    return WARPS if unit_elems(pattern, dtype) else GATHER_WARPS


def constants(format: SparseFormat, k: int, dtype: torch.dtype, tokens: int) -> dict[str, Any]:
    """Name what `product_kernel` is compiled for, except the parts of the epilogue."""
    return tile_constants(format, k, dtype, STEP_BYTES) | {
        "TOKENS": min(TILE_TOKENS, max(LEAST_TOKENS, triton.next_power_of_2(tokens))),
        "OUTPUTS": TILE_OUTPUTS,
    }
