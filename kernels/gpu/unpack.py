"""Packed rows back to dense ones, on the device: kept values bit for bit, zeros elsewhere.

One program makes a tile in registers and stores it. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, binomials, on_device_of
from kernels.gpu.expand import columns, dense_tile, tile_constants
from nmsim.pattern import Pattern

TILE_ROWS = 16
TILE_BYTES = 512
"""Bytes of a row's dense tile."""
WARPS = 4


@triton.jit(do_not_specialize=["rows"])
def unpack_kernel(
    values: tl.tensor,
    metadata: tl.tensor,
    table: tl.tensor,
    dense: tl.tensor,
    rows: tl.tensor,
    k: tl.tensor,
    n_groups: tl.tensor,
    row_bytes: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Unpack one tile: see `launch` for what goes in and out."""
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


def launch(values: Tensor, metadata: Tensor, pattern: Pattern, encoding: str, out: Tensor) -> None:
    """Unpack rows, all tensors contiguous.

    Parameters
    ----------
    values, metadata : Tensor [R, G * N] of a type in `INTEGERS` and uint8 Tensor [R, bytes of a row]
        As `kernels.gpu.pack` and `kernels.stored.nm_weight.pack` write them, where `kernels.stored.alignment` says
        (at multiples of sixteen bytes, for loads of sixteen).
    out : Tensor [R, K] of the type of values
        Every element is written.
    """
    rows, k = out.shape
    if rows == 0:
        return
    integer = INTEGERS[values.dtype]
    about_it = constants(pattern, encoding, k, values.dtype)
    grid = (triton.cdiv(rows, about_it["ROWS"]), triton.cdiv(pattern.groups(k), about_it["GROUPS"]))
    table = binomials(pattern, values.device) if encoding == "combinatorial" else None
    with on_device_of(values):
        unpack_kernel[grid](
            values.view(integer), metadata, table, out.view(integer), rows, k, values.shape[1] // pattern.n,
            metadata.shape[1], **about_it, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def constants(pattern: Pattern, encoding: str, k: int, dtype: torch.dtype) -> dict[str, Any]:
    """Name what `unpack_kernel` is compiled for."""
    return tile_constants(pattern, encoding, k, dtype, TILE_BYTES) | {"ROWS": TILE_ROWS}
