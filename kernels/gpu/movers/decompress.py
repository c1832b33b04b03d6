"""Packed rows back to dense ones, on the device: kept values bit for bit, zeros elsewhere.

One program makes a tile in registers and stores it. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, code_table, on_device_of
from kernels.gpu.expand import columns, dense_tile, tile_constants
from nmsim.format import SparseFormat

TILE_ROWS = 16
TILE_BYTES = 512
"""Bytes of a row's dense tile."""
WARPS = 4


@triton.jit(do_not_specialize=["rows"])
def decompress_kernel(
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, dense: tl.tensor, rows: tl.tensor, k: tl.tensor,
    n_groups: tl.tensor, row_bytes: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Decompress one tile: see `launch` for what goes in and out."""
    step = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < rows
    tile = dense_tile(
        values, metadata, table, row, is_row, step, n_groups, row_bytes,
        N, M, LANES, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT, ROWS,
    )  # fmt: skip
    column = columns(step * GROUPS, M, GROUPS, LANES)[None, :]
    inside = is_row[:, None] & (column >= 0) & (column < k)
    tl.store(dense + row.to(tl.int64)[:, None] * k + column, tile, mask=inside)


def launch(values: Tensor, metadata: Tensor, format: SparseFormat, out: Tensor) -> None:
    """Decompress rows, all tensors contiguous.

    Parameters
    ----------
    values, metadata : Tensor [R, G * N] of a type in `INTEGERS` and uint8 Tensor [R, bytes of a row]
        As `kernels.gpu.movers.compress` and `kernels.stored.rows.compress` write them, where `kernels.ops.checks` says
        (at multiples of sixteen bytes, for loads of sixteen).
    out : Tensor [R, K] of the type of values
        Every element is written.
    """
    rows, k = out.shape
    if rows == 0:
        return
    integer = INTEGERS[values.dtype]
    about_it = constants(format, k, values.dtype)
    grid = (triton.cdiv(rows, about_it["ROWS"]), triton.cdiv(format.pattern.groups(k), about_it["GROUPS"]))
    table = code_table(format, values.device)
    with on_device_of(values):
        decompress_kernel[grid](
            values.view(integer), metadata, table, out.view(integer), rows, k, values.shape[1] // format.pattern.n,
            metadata.shape[1], **about_it, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def constants(format: SparseFormat, k: int, dtype: torch.dtype) -> dict[str, Any]:
    """Name what `decompress_kernel` is compiled for."""
    return tile_constants(format, k, dtype, TILE_BYTES) | {"ROWS": TILE_ROWS}
