"""Products of one to four tokens with N:M weights in the order that the decode kernel reads, for torch.

Importing this module registers `nmsim::decode_linear`. On CUDA tensors it runs `kernels.gpu.gemv`, on others the weights are
put back into rows and `kernels.ops` multiplies: right, and no faster than those. No gradients.
"""

import torch
from torch import Tensor

from kernels import ops, triton_kernels
from kernels.cpu import KernelError
from kernels.gpu.shuffled import PLANES, ShuffledWeight, shuffle, unshuffle
from kernels.nm_weight import NMWeight
from kernels.tensors import checked_place, checked_tensor, checked_type
from nmsim.pattern import Pattern

__all__ = ["MOST_TOKENS", "ShuffledWeight", "decode_linear", "for_decode", "unshuffle"]

MOST_TOKENS = 4


def for_decode(weights: NMWeight) -> ShuffledWeight:
    """Put packed weights into the decode kernel's order, a second copy of them where they are.

    Raises
    ------
    KernelError
        Not an `NMWeight`, or a pattern, encoding or type that has no such order: 2:4, 4:8, 8:16 and 16:32 of float16 and
        bfloat16 have, but for `combinatorial` of 16:32.

    Examples
    --------
    >>> for_decode(ops.pack(torch.ones(40, 64, dtype=torch.float16), "8:16"))
    ShuffledWeight(8:16 index, [40, 64], torch.float16, cpu)
    """
    if not isinstance(weights, NMWeight):
        raise KernelError(
            f"weights are a {type(weights).__name__}: expected an NMWeight, as ops.pack makes it"
        )
    return shuffle(weights)


def decode_linear(x: Tensor, weights: ShuffledWeight, bias: Tensor | None = None) -> Tensor:
    """Multiply one to four tokens with sparse weights: Y[..., N] = X[..., K] W[N, K]^T + bias[N].

    Sums are float32; the result is rounded once, to the dtype of x.

    Parameters
    ----------
    x : Tensor [..., K] of float32, float16 or bfloat16
        In any memory order.
    weights : ShuffledWeight
        From `for_decode`.
    bias : Tensor [N], optional
        Of any of the three types.

    Returns
    -------
    Tensor [..., N] of the dtype of x

    Raises
    ------
    KernelError
        More tokens than four or none, or operands of another type, shape or device.

    Examples
    --------
    >>> weights = for_decode(ops.pack(torch.tensor([[1.0, -4.0, 3.0, 2.0]], dtype=torch.float16), "2:4"))
    >>> decode_linear(torch.tensor([1.0, 10.0, 100.0, 1000.0]), weights)
    tensor([260.])
    """
    if not isinstance(weights, ShuffledWeight):
        raise KernelError(
            f"weights are a {type(weights).__name__}: expected a ShuffledWeight, as for_decode makes it"
        )
    checked_type("x", x)
    rows, k = weights.shape
    found: Tensor = torch.ops.nmsim.decode_linear(
        x, weights.values, weights.metadata, bias, str(weights.pattern), weights.encoding, rows, k
    )
    return found


@torch.library.custom_op("nmsim::decode_linear", mutates_args=())
def _decode_linear(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pattern: str,
    encoding: str,
    out_features: int,
    in_features: int,
) -> Tensor:
    weights = _checked(x, values, metadata, bias, pattern, encoding, out_features, in_features)
    x = x.detach()
    bias = None if bias is None else bias.detach().contiguous()
    if x.device.type == "cpu":
        return ops.sparse_linear(x, unshuffle(weights), bias)
    tokens = x.reshape(x.shape[:-1].numel(), in_features).contiguous()
    out = x.new_empty((len(tokens), out_features))
    triton_kernels.module("gemv").launch(tokens, weights, out, bias=bias)
    return out.reshape(*x.shape[:-1], out_features)


@_decode_linear.register_fake
def _(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pattern: str,
    encoding: str,
    out_features: int,
    in_features: int,
) -> Tensor:
    _checked(x, values, metadata, bias, pattern, encoding, out_features, in_features)
    return x.new_empty((*x.shape[:-1], out_features))


def _checked(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, pattern: str, encoding: str,
    out_features: int, in_features: int,
) -> ShuffledWeight:  # fmt: skip
    """Refuse operands that do not fit together."""
    checked_tensor("x", x, gpu=True)
    if x.ndim == 0 or x.shape[-1] != in_features:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected [..., {in_features}], K of the weights")
    tokens = x.shape[:-1].numel()
    if not 1 <= tokens <= MOST_TOKENS:
        raise KernelError(
            f"x has {tokens} tokens: expected 1 to {MOST_TOKENS}; ops.sparse_linear takes any number"
        )
    checked_place("metadata", metadata, gpu=True)
    for name, part in (("weights", values), ("metadata", metadata), ("bias", bias)):
        if part is not None and part.device != x.device:
            raise KernelError(f"x is on {x.device}, {name} on {part.device}: expected one device")
    if bias is not None and checked_tensor("bias", bias, gpu=True).shape != (out_features,):
        raise KernelError(f"bias has shape {tuple(bias.shape)}: expected ({out_features},)")
    parsed = Pattern.parse(pattern)
    if (parsed, encoding) not in PLANES:
        raise KernelError(f"weights are {pattern} {encoding}: no order for the decode kernel")
    return ShuffledWeight(values, metadata, parsed, encoding, (out_features, in_features))
