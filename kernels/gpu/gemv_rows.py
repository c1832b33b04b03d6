"""One to four tokens times weights of any N:M, row after row as they are packed: Y[T, N] = X[T, K] W[N, K]^T.

For what has no order in `kernels.gpu.shuffled`: other patterns, float32, `combinatorial` of 16:32. Each element, kept or not,
has a thread look for its value by its rank, so that the operations are those of a dense product and more; the bytes read
are those of the packed weight. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.cpu import KernelError
from kernels.gpu.bits import INTEGERS, KINDS, about, as_float, binomials, on_device_of, ones_of
from kernels.gpu.codes import read_masks
from kernels.gpu.gemv import MAX_TOKENS
from kernels.gpu.split import parts_for, sum_parts
from nmsim.pattern import Pattern

TILE_ROWS = 8
TILE_ELEMS = 128
WARPS = 4


@triton.jit
def gemv_rows_kernel(
    values: tl.tensor,
    metadata: tl.tensor,
    table: tl.tensor,
    x: tl.tensor,
    parts: tl.tensor,
    outputs: tl.tensor,
    k: tl.tensor,
    n_groups: tl.tensor,
    part_groups: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
    KIND: tl.constexpr,
    X_KIND: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Multiply with some rows, and a part of K: see `launch` for what goes in and out."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_output = row < outputs
    part = tl.program_id(1)
    wide = row.to(tl.int64)[:, None]
    row_bytes = n_groups * CODE_BITS // 8
    lane = tl.arange(0, LANES)[None, None, :]
    below = (tl.full([1, 1, LANES], 1, tl.uint32) << lane.to(tl.uint32)) - 1
    values_row = values + wide[:, :, None] * n_groups * N
    sums = tl.zeros([ROWS, GROUPS, LANES], tl.float32)
    sums_1 = tl.zeros([ROWS, GROUPS, LANES], tl.float32)
    sums_2 = tl.zeros([ROWS, GROUPS, LANES], tl.float32)
    sums_3 = tl.zeros([ROWS, GROUPS, LANES], tl.float32)
    for first in range(part * part_groups, tl.minimum(n_groups, (part + 1) * part_groups), GROUPS):
        group = (first + tl.arange(0, GROUPS))[None, :]
        stored = is_output[:, None] & (group < n_groups)
        word = read_masks(
            metadata + wide * row_bytes,
            group,
            row_bytes,
            stored,
            table,
            N,
            M,
            ENCODING,
            CODE_BITS,
            POSITION_BITS,
        )
        word = tl.where(stored, word, 0)[:, :, None]
        column = group[:, :, None] * M + lane
        # What is not kept is left out, not multiplied by zero: x may be infinite there.
        kept = (((word >> lane.to(tl.uint32)) & 1) != 0) & (column < k)
        place = group[:, :, None] * N + ones_of(word & below)
        number = as_float(tl.load(values_row + place, mask=kept, other=0), KIND)
        for token in tl.static_range(TOKENS):
            product = number * as_float(tl.load(x + token * k + column, mask=kept, other=0), X_KIND)
            if token == 0:
                sums += product
            elif token == 1:
                sums_1 += product
            elif token == 2:
                sums_2 += product
            else:
                sums_3 += product
    for token in tl.static_range(TOKENS):
        total = sums if token == 0 else (sums_1 if token == 1 else (sums_2 if token == 2 else sums_3))
        at = parts + (part * TOKENS + token).to(tl.int64) * outputs + row
        tl.store(at, tl.sum(tl.sum(total, axis=2), axis=1), mask=is_output)


def launch(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    pattern: Pattern,
    encoding: str,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    n_parts: int | None = None,
) -> None:
    """Multiply tokens, summed in float32 and rounded once.

    Parameters
    ----------
    x : Tensor [T, K] of a type in `KINDS`, T from 1 to 4
        Contiguous, as all are.
    values, metadata : Tensor [N, G * n] of a type in `KINDS` and uint8 Tensor [N, bytes of a row]
        As `kernels.nm_weight.pack` writes them, metadata at a multiple of four bytes.
    out : Tensor [T, N] of a type in `KINDS`
        Every element is written.
    bias : Tensor [N] of a type in `KINDS`, optional
    n_parts : int, optional
        Parts of K, each summed by a program of its own; as many as `parts_for` finds when absent.

    Raises
    ------
    KernelError
        More tokens than 4, or none.
    """
    tokens, k = x.shape
    if not 1 <= tokens <= MAX_TOKENS:
        raise KernelError(f"x has {tokens} tokens: expected 1 to {MAX_TOKENS}")
    outputs, n_groups = len(values), values.shape[1] // pattern.n
    about_it = constants(pattern, encoding, k, values.dtype, x.dtype, tokens)
    blocks = triton.cdiv(outputs, TILE_ROWS)
    steps = triton.cdiv(n_groups, about_it["GROUPS"])
    n_parts = parts_for(blocks, steps, values.device) if n_parts is None else n_parts
    part_groups = triton.cdiv(steps, n_parts) * about_it["GROUPS"]
    n_parts = triton.cdiv(n_groups, part_groups)
    parts = x.new_empty((n_parts, tokens, outputs), dtype=torch.float32)
    table = binomials(pattern, values.device) if encoding == "combinatorial" else None
    with on_device_of(x):
        gemv_rows_kernel[(blocks, n_parts)](
            values.view(INTEGERS[values.dtype]), metadata, table, x.view(INTEGERS[x.dtype]), parts, outputs, k,
            n_groups, part_groups, **about_it, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    sum_parts(parts, bias, out)


def constants(
    pattern: Pattern, encoding: str, k: int, dtype: torch.dtype, x_dtype: torch.dtype, tokens: int
) -> dict[str, Any]:
    """Name what `gemv_rows_kernel` is compiled for."""
    codes = about(pattern, encoding, k)
    return codes | {
        "GROUPS": TILE_ELEMS // codes["LANES"],
        "KIND": KINDS[dtype],
        "X_KIND": KINDS[x_dtype],
        "TOKENS": tokens,
        "ROWS": TILE_ROWS,
    }
