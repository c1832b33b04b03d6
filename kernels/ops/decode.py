"""Products of one to four tokens with N:M weights in the order that the decode kernel reads, for torch.

Importing this module registers `nmsim::decode_linear` and `nmsim::decode_or_sparse_linear`, which has the weights in both
orders and takes the one that fits the number of tokens when it runs. On CUDA tensors they run `kernels.gpu.gemv`; elsewhere
the first puts the weights back into rows, the second has them in rows, and `kernels.ops.sparse_linear` multiplies.
The first has no gradients, the second those of `ops.sparse_linear`.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.cpu import KernelError
from kernels.ops import sparse_linear as ops
from kernels.ops import triton_kernels
from kernels.stored import alignment
from kernels.stored.nm_weight import NMWeight
from kernels.stored.rows import STEP_ELEMS
from kernels.stored.shuffled import (
    HALF_VALUES,
    MOST_TOKENS,
    PLANES,
    WARP_ROWS,
    ShuffledWeight,
    has_order,
    shuffle,
    unshuffle,
)
from kernels.stored.tensors import checked_place, checked_tensor, checked_type
from nmsim.pattern import Pattern
from nmsim.units import ceil_div

__all__ = ["MOST_TOKENS", "ShuffledWeight", "decode_linear", "for_decode", "has_order", "unshuffle"]


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
    _check_memory(weights, x, bias)
    if triton_kernels.serves(x):
        return _multiply_on_gpu(x, weights, bias)
    return ops.sparse_linear(x.detach(), unshuffle(weights), None if bias is None else bias.detach())


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


@torch.library.custom_op("nmsim::decode_or_sparse_linear", mutates_args=())
def _decode_or_sparse_linear(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pattern: str,
    encoding: str,
    in_features: int,
    decode_values: Tensor,
    decode_metadata: Tensor,
) -> Tensor:
    """Take the decode kernel for as few tokens as it takes on a CUDA device, the packed rows for others and elsewhere.

    The choice is made here and not before the call, so that a compiled graph holds for any number of tokens.
    """
    if triton_kernels.serves(x) and 1 <= x.shape[:-1].numel() <= MOST_TOKENS:
        about = pattern, encoding, len(values), in_features
        weights = _checked(x, decode_values, decode_metadata, bias, *about)
        _check_memory(weights, x, bias)
        ops.check_one_type(x, decode_values, bias)
        return _multiply_on_gpu(x, weights, bias)
    found: Tensor = torch.ops.nmsim.sparse_linear(
        x.detach(), values, metadata, None if bias is None else bias.detach(), pattern, encoding, in_features
    )
    return found


@_decode_or_sparse_linear.register_fake
def _(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pattern: str,
    encoding: str,
    in_features: int,
    decode_values: Tensor,
    decode_metadata: Tensor,
) -> Tensor:
    ops.check_operands(x, values, metadata, bias, pattern, encoding, in_features)
    for name, part in (("decode_values", decode_values), ("decode_metadata", decode_metadata)):
        if part.device != x.device:
            raise KernelError(f"x is on {x.device}, {name} on {part.device}: expected one device")
    return x.new_empty((*x.shape[:-1], values.shape[0]))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ops.remember(ctx, inputs[:-2], output)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *ops.gradients(ctx, grad), None, None


_decode_or_sparse_linear.register_autograd(_gradients, setup_context=_remember)


def _multiply_on_gpu(x: Tensor, weights: ShuffledWeight, bias: Tensor | None) -> Tensor:
    """Multiply by `kernels.gpu.gemv`: x [..., K] -> [..., N]."""
    rows, k = weights.shape
    tokens = x.detach().reshape(x.shape[:-1].numel(), k).contiguous()
    out = x.new_empty((len(tokens), rows))
    bias = None if bias is None else bias.detach().contiguous()
    triton_kernels.module("gemv").launch(tokens, weights, out, bias=bias)
    return out.reshape(*x.shape[:-1], rows)


def _checked(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, pattern: str, encoding: str,
    out_features: int, in_features: int,
) -> ShuffledWeight:  # fmt: skip
    """Refuse operands that do not fit together."""
    checked_tensor("x", x)
    if x.ndim == 0 or x.shape[-1] != in_features:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected [..., {in_features}], K of the weights")
    tokens = x.shape[:-1].numel()
    if not 1 <= tokens <= MOST_TOKENS:
        raise KernelError(
            f"x has {tokens} tokens: expected 1 to {MOST_TOKENS}; ops.sparse_linear takes any number"
        )
    checked_place("metadata", metadata)
    for name, part in (("weights", values), ("metadata", metadata), ("bias", bias)):
        if part is not None and part.device != x.device:
            raise KernelError(f"x is on {x.device}, {name} on {part.device}: expected one device")
    if bias is not None and checked_tensor("bias", bias).shape != (out_features,):
        raise KernelError(f"bias has shape {tuple(bias.shape)}: expected ({out_features},)")
    parsed = Pattern.parse(pattern)
    if not has_order(parsed, encoding, values.dtype):
        raise KernelError(
            f"weights are {pattern} {encoding} of {values.dtype}: no order for the decode kernel"
        )
    weights = ShuffledWeight(values, metadata, parsed, encoding, (out_features, in_features))
    _check_stored(weights)
    return weights


def _check_stored(weights: ShuffledWeight) -> None:
    """Refuse parts that are not what `for_decode` makes: a kernel would read beyond them."""
    pattern, units = weights.pattern, weights.units
    rows = ceil_div(weights.shape[0], WARP_ROWS) * WARP_ROWS
    halves = STEP_ELEMS[pattern] // 2 // HALF_VALUES
    codes_bytes = units * rows * sum(PLANES[pattern, weights.encoding]) // 8
    for name, part, shape, dtype in (
        ("values", weights.values, (units * halves, rows, HALF_VALUES), weights.values.dtype),
        ("metadata", weights.metadata, (codes_bytes,), torch.uint8),
    ):
        if part.shape != shape or part.dtype != dtype or not part.is_contiguous():
            raise KernelError(
                f"{name} are {part.dtype} {list(part.shape)} with strides {part.stride()}: expected a contiguous {dtype} "
                f"{list(shape)}, as for_decode makes them"
            )


def _check_memory(weights: ShuffledWeight, x: Tensor, bias: Tensor | None) -> None:
    """Refuse operands that begin where the kernel cannot read them."""
    widest_bits = max(PLANES[weights.pattern, weights.encoding])
    alignment.check_begin("values", weights.values, alignment.WORD_BYTES)
    alignment.check_begin("metadata", weights.metadata, widest_bits // 8)
    alignment.check_dense(x=x, bias=bias)
