"""Tokens as the decode kernel wants them: each unit's part of x within 256 aligned bytes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, KINDS, as_float, on_device_of

PAGE_BYTES = 256
"""What an address can reach by its lowest byte."""


@triton.jit(do_not_specialize=["tokens", "elements"])
def widen_kernel(
    x: tl.tensor,
    wide: tl.tensor,
    tokens: tl.tensor,
    k: tl.tensor,
    elements: tl.tensor,
    ELEMS: tl.constexpr,
    PAIRS: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Lay tokens beside each other as float32: [T, K] -> [units, PAIRS, elements of a unit, 2], zero where there is no x."""
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
            KIND=KINDS[x.dtype], BLOCK=256, num_warps=4,
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
