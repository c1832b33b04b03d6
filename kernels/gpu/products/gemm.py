"""Tokens times packed weights: Y[T, N] = X[T, K] W[N, K]^T + bias, for more tokens than a `gemv` takes.

For few tokens one program makes one tile of Y^T = W X^T. It reads packed weights and makes a dense tile of each step of K in
registers. The matrix units multiply it, and sum in float32. Weights are the left operand, because matrix units need 64 rows
or more there and take as few as 8 tokens on the right. K is split if tiles are too few for the device. For many tokens each
packed tile would be expanded once per tile of tokens. Then the weights are decompressed once and torch multiplies. Nothing here
was timed: block sizes, and the number of tokens that decides, are guesses.

An infinity or NaN of x has an effect even at a dropped weight: zero times it is NaN.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import tuned
from kernels.gpu.bits import INTEGERS, code_table, on_device_of, refuse_interpreted_bfloat16
from kernels.gpu.expand import columns, dense_tile, step_bytes, tile_constants
from kernels.gpu.movers import decompress
from kernels.gpu.split import add_parts, counters, is_last, split
from nmsim.format import SparseFormat

DENSE_TOKENS = 128
"""From so many tokens on the weights are decompressed, once per call, and torch multiplies.

Not timed, to be tuned on a GPU. Decompressing writes and reads 2 + 2 bytes per element of the weight besides the packed ones.
Two tiles of 64 tokens expand everything twice, which takes instructions but no bytes of DRAM."""
TILE_TOKENS = 64
LEAST_TOKENS = 16
TILE_OUTPUTS = 64
WARPS = 4


# Each variant is a compilation, and these make no address wide.
@triton.jit(do_not_specialize=["tokens", "part_groups"])
def gemm_kernel(
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, x: tl.tensor, bias: tl.tensor, y: tl.tensor,
    sums: tl.tensor, counters: tl.tensor,
    tokens: tl.tensor, outputs: tl.tensor, k: tl.tensor, n_groups: tl.tensor, row_bytes: tl.tensor,
    part_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT: tl.constexpr, TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr, HAS_BIAS: tl.constexpr, SPLIT: tl.constexpr,
) -> None:  # fmt: skip
    """Make one tile of Y, or a part that the last program adds up to it: see `launch_small` for what goes in and out."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    part = tl.program_id(2)
    is_output = output < outputs
    is_token = token < tokens
    x_row = x + token.to(tl.int64)[None, :] * k
    total = tl.zeros([OUTPUTS, TOKENS], tl.float32)
    last = tl.minimum((part + 1) * part_groups, n_groups)
    for step in range(part * part_groups // GROUPS, tl.cdiv(last, GROUPS)):
        tile = dense_tile(
            values, metadata, table, output, is_output, step, n_groups, row_bytes,
            N, M, LANES, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT, OUTPUTS,
        )  # fmt: skip
        dense = tile.to(x.dtype.element_ty, bitcast=True)
        column = columns(step * GROUPS, M, GROUPS, LANES)[:, None]
        inside = (column >= 0) & (column < k) & is_token[None, :]
        total = tl.dot(dense, tl.load(x_row + column, mask=inside, other=0), total, input_precision="ieee")

    place = token.to(tl.int64)[None, :] * outputs + output[:, None]
    inside = is_output[:, None] & is_token[None, :]
    if SPLIT:
        stride = tokens * outputs.to(tl.int64)
        tl.store(sums + part * stride + place, total, mask=inside)
        tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        if is_last(counters + tile, tl.num_programs(2)):
            # Each part that is read ahead takes the registers of a tile.
            total = add_parts(sums, place, stride, inside, tl.num_programs(2), 4 if TOKENS <= 16 else 1)
            _store(y, bias, total, place, output, is_output, inside, HAS_BIAS)
    else:
        _store(y, bias, total, place, output, is_output, inside, HAS_BIAS)


@triton.jit
def _store(
    y: tl.tensor, bias: tl.tensor, total: tl.tensor, place: tl.tensor, output: tl.tensor, is_output: tl.tensor,
    inside: tl.tensor, HAS_BIAS: tl.constexpr,
) -> None:  # fmt: skip
    """Add the bias and round once."""
    if HAS_BIAS:
        total += tl.load(bias + output, mask=is_output, other=0).to(tl.float32)[:, None]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=inside)


def launch(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    format: SparseFormat,
    out: Tensor,
    *,
    bias: Tensor | None = None,
) -> None:
    """Multiply by `launch_small` below `DENSE_TOKENS` tokens, or as many as were measured, else by `launch_large`.

    Parameters
    ----------
    x : Tensor [T, K] of the type of values
    values, metadata : Tensor [N, G * n] and uint8 Tensor [N, bytes of a row]
        Where `kernels.ops.checks` says (at multiples of sixteen bytes, for loads of sixteen).
    out : Tensor [T, N] of the type of values
        Contiguous, as all are; every element is written.
    bias : Tensor [N] of the type of values, optional
        Added in float32, before the only rounding.

    Raises
    ------
    KernelError
        bfloat16 under Triton's interpreter, which multiplies its bits as integers.
    """
    shape = (1, len(values), x.shape[1])
    measured = tuned.chosen(x.device, "gpu.gemm", format, values.dtype, shape)
    if len(x) < measured.get("dense_tokens", DENSE_TOKENS):
        launch_small(x, values, metadata, format, out, bias=bias)
    else:
        launch_large(x, values, metadata, format, out, bias=bias)


def launch_large(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    format: SparseFormat,
    out: Tensor,
    *,
    bias: Tensor | None = None,
) -> None:
    """Decompress to a dense copy, dropped afterwards, and multiply with torch. What goes in and out is as for `launch`."""
    dense = values.new_empty(len(values), x.shape[1])
    decompress.launch(values, metadata, format, dense)
    if bias is None:
        torch.mm(x, dense.T, out=out)
    else:
        torch.addmm(bias, x, dense.T, out=out)


def launch_small(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    format: SparseFormat,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    warps: int | None = None,
    tile_outputs: int | None = None,
    n_parts: int | None = None,
) -> None:
    """Expand packed tiles in registers and multiply them. What goes in and out is as for `launch`.

    Parameters
    ----------
    warps, tile_outputs : int
        Of a program; powers of two, of outputs at least 16. When absent, as measured (`kernels.gpu.tuned`), or `WARPS` and
        `TILE_OUTPUTS`.
    n_parts : int, optional
        Parts of K, each summed by a program of its own; as many as `split` finds when absent.
    """
    refuse_interpreted_bfloat16(values)
    (tokens, k), outputs = x.shape, len(values)
    if tokens == 0:
        return
    if warps is None and tile_outputs is None and n_parts is None:
        measured = tuned.chosen(x.device, "gpu.gemm_small", format, values.dtype, (tokens, outputs, k))
        warps, tile_outputs, n_parts = (measured.get(name) for name in ("warps", "tile_outputs", "n_parts"))
    warps, tile_outputs = warps or WARPS, tile_outputs or TILE_OUTPUTS
    about_it = constants(format, k, values.dtype, tokens) | {"OUTPUTS": tile_outputs}
    grid = (triton.cdiv(outputs, about_it["OUTPUTS"]), triton.cdiv(tokens, about_it["TOKENS"]))
    n_groups = values.shape[1] // format.pattern.n
    n_parts, part_groups = split(n_groups, about_it["GROUPS"], grid[0] * grid[1], x.device, n_parts)
    is_split = n_parts > 1
    sums = x.new_empty((n_parts, tokens, outputs), dtype=torch.float32) if is_split else None
    table = code_table(format, values.device)
    with on_device_of(values):
        gemm_kernel[(*grid, n_parts)](
            values.view(INTEGERS[values.dtype]), metadata, table, x, bias, out, sums,
            counters(grid[0] * grid[1], x.device) if is_split else None, tokens, outputs, k,
            n_groups, metadata.shape[1], part_groups,
            **about_it, HAS_BIAS=bias is not None, SPLIT=is_split, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip


def constants(format: SparseFormat, k: int, dtype: torch.dtype, tokens: int) -> dict[str, Any]:
    """Name what `gemm_kernel` is compiled for, except the bias."""
    return tile_constants(format, k, dtype, step_bytes(format.pattern, dtype)) | {
        "TOKENS": min(TILE_TOKENS, max(LEAST_TOKENS, triton.next_power_of_2(tokens))),
        "OUTPUTS": TILE_OUTPUTS,
    }
