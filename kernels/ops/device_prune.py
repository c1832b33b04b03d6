"""The mask of N:M pruning, made where the tensor is: from the pruning kernel's codes, or by ranks in plain torch.

Rules and results are those of `nmsim.prune`.
"""

import torch
from torch import Tensor

from kernels.ops import triton_kernels
from kernels.stored.nm_weight import row_lengths
from kernels.stored.rows import MAX_M
from nmsim.errors import PatternError
from nmsim.pattern import Pattern

INTEGERS = {2: torch.int16, 4: torch.int32}
"""Types of stored bits, by bytes."""


def prune_on_device(x: Tensor, pattern: Pattern, scores: Tensor | None) -> Tensor:
    """Choose what to keep of x [..., K], by magnitudes or by scores [..., K]: -> bool [..., K].

    Magnitudes go through the kernel up to M of 32. All else is ranked by torch, which takes some 30 bytes of memory for each
    element while it works. Looking for NaN among scores waits for the device.

    Raises
    ------
    PatternError
        A score that is NaN.
    """
    if x.numel() == 0:
        return x.new_empty(x.shape, dtype=torch.bool)
    rows = x.reshape(-1, x.shape[-1])
    if scores is not None:
        return by_rank(_ordered(_checked(scores).reshape(rows.shape)), pattern).reshape(x.shape)
    if pattern.m > MAX_M:
        return by_rank(_magnitudes(rows), pattern).reshape(x.shape)
    return _by_codes(rows.contiguous(), pattern).reshape(x.shape)


def by_rank(keys: Tensor, pattern: Pattern) -> Tensor:
    """Keep the N greatest int32 keys of every M in a row, of equals the first: [R, K] -> bool [R, K].

    A key and its place make one number, so that no two are equal and the order in which torch meets them does not matter.

    Examples
    --------
    >>> by_rank(torch.tensor([[1, 3, 3, 2, 5]], dtype=torch.int32), Pattern(1, 4)).tolist()
    [[False, True, False, False, True]]
    """
    rows, k = keys.shape
    n_groups, m = pattern.groups(k), pattern.m
    below_all = torch.iinfo(torch.int32).min - 1
    whole = torch.nn.functional.pad(keys.long(), (0, n_groups * m - k), value=below_all)
    from_last = torch.arange(m - 1, -1, -1, device=keys.device)
    ranks = whole.view(rows, n_groups, m) * m + from_last
    least = ranks.topk(pattern.n, dim=-1).values[..., -1:]
    return (ranks >= least).view(rows, n_groups * m)[:, :k].contiguous()


def _by_codes(x: Tensor, pattern: Pattern) -> Tensor:
    """Let the kernel prune and pack tokens [T, K], and read the bits of its codes: -> bool [T, K]."""
    tokens, k = x.shape
    values_columns, metadata_columns = row_lengths(pattern, "bitmask", k)
    values, metadata = (
        x.new_empty((tokens, values_columns)),
        x.new_empty((tokens, metadata_columns), dtype=torch.uint8),
    )
    unused = x.new_empty((2, tokens), dtype=torch.float32)
    out = (values, metadata, unused[0], unused[1])
    triton_kernels.module("prune").launch(x, pattern, "bitmask", out, shift="none")
    bit = (1 << torch.arange(8, device=x.device)).to(torch.uint8)
    return ((metadata[:, :, None] & bit) != 0).view(tokens, -1)[:, :k].contiguous()


def _magnitudes(x: Tensor) -> Tensor:
    """Take stored bits without the sign: int32, NaN above infinity."""
    integer = INTEGERS[x.element_size()]
    return (x.view(integer) & torch.iinfo(integer).max).int()


def _ordered(scores: Tensor) -> Tensor:
    """Turn numbers into integers of the same order, -0.0 and 0.0 into one: int32."""
    bits = scores.float().view(torch.int32)
    bits = bits.masked_fill(bits == torch.iinfo(torch.int32).min, 0)
    return bits ^ ((bits >> 31) & torch.iinfo(torch.int32).max)


def _checked(scores: Tensor) -> Tensor:
    """Refuse a score that is NaN, the first one named."""
    odd = scores.isnan()
    if odd.any():
        where = ", ".join(str(int(place)) for place in odd.nonzero()[0])
        raise PatternError(f"scores[{where}] is NaN: expected numbers that have an order")
    return scores
