"""The baselines of sparse kernels: how fast memory is copied and read, and a dense product of one to four tokens.

They are written in Triton as the others are, so that what the compiler does not reach, it reaches for neither. The library's
own dense calls are the baseline of a speedup; this dense product is not. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, KINDS, as_float, on_device_of
from kernels.gpu.split import PARTS_AHEAD, add_parts, counters, is_last, split, store_rounded
from kernels.stored.errors import KernelError

WORD_BYTES = 4
COPY_WORDS = 2048
"""Words that a program copies, or reads at a time: four times 16 bytes per thread."""
WARPS = 4
READ_PROGRAMS = 1024
"""Programs that read; each writes one word."""
MOST_TOKENS = 4
"""Tokens of the dense product: each has sums of its own in registers."""
DENSE_ROWS = 8
DENSE_ELEMS = 256
"""Elements of a row that a program of the dense product takes at a time."""


@triton.jit
def copy_kernel(source: tl.tensor, target: tl.tensor, words: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Copy a block of words."""
    word = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = word < words
    raw = tl.load(source + word, mask=inside, other=0, eviction_policy="evict_first")
    tl.store(target + word, raw, mask=inside)


@triton.jit
def read_kernel(source: tl.tensor, sums: tl.tensor, words: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Add up every so manieth block of words, modulo 2^32."""
    total = tl.zeros([BLOCK], tl.int32)
    stride = tl.num_programs(0).to(tl.int64) * BLOCK
    for first in range(tl.program_id(0).to(tl.int64) * BLOCK, words, stride):
        word = first + tl.arange(0, BLOCK)
        total += tl.load(source + word, mask=word < words, other=0, eviction_policy="evict_first")
    tl.store(sums + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["part_elems"])
def dense_kernel(
    weight: tl.tensor, x: tl.tensor, bias: tl.tensor, y: tl.tensor, parts: tl.tensor, counters: tl.tensor,
    outputs: tl.tensor, k: tl.tensor, part_elems: tl.tensor,
    KIND: tl.constexpr, X_KIND: tl.constexpr, Y_KIND: tl.constexpr, BIAS_KIND: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, ELEMS: tl.constexpr, SPLIT: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply with some rows, and a part of K: see `dense` for what goes in and out."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_output = row < outputs
    part = tl.program_id(1)
    weight_row = weight + row.to(tl.int64)[:, None] * k
    # A sum per token has a name of its own: registers cannot be indexed.
    sums = tl.zeros([ROWS, ELEMS], tl.float32)
    sums_1 = tl.zeros([ROWS, ELEMS], tl.float32)
    sums_2 = tl.zeros([ROWS, ELEMS], tl.float32)
    sums_3 = tl.zeros([ROWS, ELEMS], tl.float32)
    for first in range(part * part_elems, tl.minimum(k, (part + 1) * part_elems), ELEMS):
        column = (first + tl.arange(0, ELEMS))[None, :]
        inside = column < k
        mask = is_output[:, None] & inside
        number = as_float(
            tl.load(weight_row + column, mask=mask, other=0, eviction_policy="evict_first"), KIND
        )
        for token in tl.static_range(TOKENS):
            product = number * as_float(tl.load(x + token * k + column, mask=inside, other=0), X_KIND)
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
        sum_of = tl.sum(total, axis=1)
        if SPLIT:
            at = parts + (part * TOKENS + token).to(tl.int64) * outputs + row
            tl.store(at, sum_of, mask=is_output)
        else:
            store_rounded(y, bias, sum_of, token * outputs + row, row, is_output, Y_KIND, BIAS_KIND)
    if SPLIT:
        n_parts = tl.num_programs(1)
        if is_last(counters + tl.program_id(0), n_parts):
            for token in tl.static_range(TOKENS):
                place = token * outputs + row
                sum_of = add_parts(parts, place, TOKENS * outputs, is_output, n_parts, PARTS_AHEAD)
                store_rounded(y, bias, sum_of, place, row, is_output, Y_KIND, BIAS_KIND)


def copy(source: Tensor, out: Tensor) -> None:
    """Copy all bytes of a tensor.

    Parameters
    ----------
    source, out : Tensor of the same type and shape
        Contiguous, of a multiple of four bytes.

    Raises
    ------
    KernelError
        Tensors of different types or shapes, or of other numbers of bytes.
    """
    if source.dtype != out.dtype or source.shape != out.shape:
        raise KernelError(
            f"out is {out.dtype} {tuple(out.shape)}: expected {source.dtype} {tuple(source.shape)}, like the source"
        )
    words, target = _words("source", source), _words("out", out)
    with on_device_of(source):
        copy_kernel[(triton.cdiv(len(words), COPY_WORDS),)](
            words, target, len(words), BLOCK=COPY_WORDS, num_warps=WARPS, enable_fp_fusion=False
        )


def read(source: Tensor) -> Tensor:
    """Read all bytes of a tensor, and add up its words of 32 bits modulo 2^32: -> int32 [programs], that add up to the sum.

    Parameters
    ----------
    source : Tensor
        Contiguous, of a multiple of four bytes.

    Raises
    ------
    KernelError
        Another number of bytes.
    """
    words = _words("source", source)
    programs = min(READ_PROGRAMS, triton.cdiv(len(words), COPY_WORDS))
    sums = torch.empty(programs, dtype=torch.int32, device=source.device)
    with on_device_of(source):
        read_kernel[(programs,)](
            words, sums, len(words), BLOCK=COPY_WORDS, num_warps=WARPS, enable_fp_fusion=False
        )
    return sums


def dense(
    x: Tensor, weight: Tensor, out: Tensor, *, bias: Tensor | None = None, n_parts: int | None = None
) -> None:
    """Multiply one to four tokens with a dense weight, summed in float32 and rounded once.

    Parameters
    ----------
    x : Tensor [T, K] of a type in `KINDS`
        Contiguous, as all are.
    weight : Tensor [N, K] of a type in `KINDS`
    out : Tensor [T, N] of a type in `KINDS`
        Every element is written.
    bias : Tensor [N] of a type in `KINDS`, optional
    n_parts : int, optional
        Parts of K, each summed by a program of its own; as many as `split` finds when absent.

    Raises
    ------
    KernelError
        More tokens than 4, or none.
    """
    tokens, k = x.shape
    if not 1 <= tokens <= MOST_TOKENS:
        raise KernelError(f"x has {tokens} tokens: expected 1 to {MOST_TOKENS}")
    outputs = len(weight)
    blocks = triton.cdiv(outputs, DENSE_ROWS)
    n_parts, part_elems = split(k, DENSE_ELEMS, blocks, weight.device, n_parts)
    is_split = n_parts > 1
    parts = x.new_empty((n_parts, tokens, outputs), dtype=torch.float32) if is_split else None
    with on_device_of(x):
        dense_kernel[(blocks, n_parts)](
            weight.view(INTEGERS[weight.dtype]), x.view(INTEGERS[x.dtype]),
            None if bias is None else bias.view(INTEGERS[bias.dtype]), out.view(INTEGERS[out.dtype]), parts,
            counters(blocks, x.device) if is_split else None, outputs, k, part_elems,
            **constants(weight.dtype, x.dtype, tokens, out.dtype),
            BIAS_KIND="none" if bias is None else KINDS[bias.dtype], SPLIT=is_split,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def constants(dtype: torch.dtype, x_dtype: torch.dtype, tokens: int, y_dtype: torch.dtype) -> dict[str, Any]:
    """Name what `dense_kernel` is compiled for, except the bias and whether K is cut."""
    return {
        "KIND": KINDS[dtype],
        "X_KIND": KINDS[x_dtype],
        "Y_KIND": KINDS[y_dtype],
        "TOKENS": tokens,
        "ROWS": DENSE_ROWS,
        "ELEMS": DENSE_ELEMS,
    }


def _words(name: str, tensor: Tensor) -> Tensor:
    if tensor.nbytes == 0 or tensor.nbytes % WORD_BYTES:
        raise KernelError(f"{name} has {tensor.nbytes} bytes: expected a multiple of {WORD_BYTES}, and some")
    return tensor.view(-1).view(torch.int32)
