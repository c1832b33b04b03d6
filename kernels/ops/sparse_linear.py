"""N:M sparse products and pruning for torch: public calls, dispatched by device, known to autograd and torch.compile.

Importing this module registers three operators, `nmsim::sparse_linear`, `nmsim::unpack` and `nmsim::prune`. On the CPU they
run `kernels.cpu` and `nmsim` on the memory of the tensors, with as many threads as torch uses (`torch.set_num_threads`); on
CUDA tensors the Triton kernels of `kernels.gpu`.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import nmsim
from kernels.cpu import KernelError
from kernels.ops import products_cpu, triton_kernels
from kernels.ops.device_prune import prune_on_device
from kernels.stored import alignment
from kernels.stored.nm_weight import NMWeight, as_sparse, check_parts, from_packed, pack
from kernels.stored.tensors import as_array, checked_place, checked_tensor, checked_type
from nmsim import mask as masks
from nmsim.pattern import Pattern

__all__ = ["NMWeight", "from_packed", "pack", "prune", "sparse_linear", "unpack"]


def sparse_linear(x: Tensor, weights: NMWeight, bias: Tensor | None = None) -> Tensor:
    """Multiply tokens with sparse weights: Y[..., N] = X[..., K] W[N, K]^T + bias[N].

    Sums are float32 whatever the types; the result is rounded once, to the dtype of x. From `MANY_TOKENS` tokens on
    (`MANY_TOKENS_PORTABLE` where only plain loops serve) the weights are unpacked, once a call, and torch multiplies:
    the same result but for the order of its sums, and but for an infinity or NaN of x where a weight was dropped. It
    has no effect in a sparse kernel and makes NaN in a dense one, and in the matrix units of a CUDA device.
    On a CUDA device the weights are unpacked from 128 tokens on, and torch multiplies in their type as it is set to: with
    partial sums in 16 bits, which it allows by default, or in TF32.

    Differentiable in x and bias, through the unpacked weights; the weights are frozen.

    Parameters
    ----------
    x : Tensor [..., K] of float32, float16 or bfloat16
        In any memory order. Any number of tokens, none included.
    weights : NMWeight
        On the CPU of any of the three types, that of x or not; on a CUDA device of that of x.
    bias : Tensor [N], optional
        As the weights.

    Returns
    -------
    Tensor [..., N] of the dtype of x

    Raises
    ------
    KernelError
        Operands of another type, shape or device, or that do not fit together.

    Examples
    --------
    >>> weights = pack(torch.tensor([[1.0, -4.0, 3.0, 2.0]]), "2:4")
    >>> sparse_linear(torch.tensor([1.0, 10.0, 100.0, 1000.0]), weights)
    tensor([260.])
    """
    weights = _checked_weight(weights)
    checked_type("x", x)
    if bias is not None:
        checked_type("bias", bias)
    found: Tensor = torch.ops.nmsim.sparse_linear(
        x, weights.values, weights.metadata, bias, weights.pattern_text, weights.encoding, weights.shape[1]
    )
    return found


def unpack(weights: NMWeight) -> Tensor:
    """Rebuild the pruned matrix [N, K]: kept values bit for bit, zeros elsewhere.

    Raises
    ------
    KernelError
        Not an `NMWeight`.

    Examples
    --------
    >>> unpack(pack(torch.tensor([[1.0, -4.0, 3.0, 2.0]]), "2:4")).tolist()
    [[0.0, -4.0, 3.0, 0.0]]
    """
    weights = _checked_weight(weights)
    found: Tensor = torch.ops.nmsim.unpack(
        weights.values, weights.metadata, weights.pattern_text, weights.encoding, weights.shape[1]
    )
    return found


def prune(x: Tensor, pattern: Pattern | str, scores: Tensor | None = None) -> Tensor:
    """Choose the N elements to keep in every M consecutive ones of the last axis, such as those of activations.

    The rules are those of `nmsim.prune`: greatest magnitude or score first, of equals the lower index, NaN above
    infinity; a tail of t elements keeps min(N, t). `x.where(prune(x, pattern), 0)` is the pruned tensor, and lets
    gradients through to what is kept.

    Parameters
    ----------
    x : Tensor [..., K] of float32, float16 or bfloat16
        In any memory order, with at least one axis.
    pattern : Pattern or str
    scores : Tensor like x, optional
        Numbers to rank by instead of magnitudes, of any of the three types; -inf is allowed, NaN is not. On a CUDA device
        the call waits until it knows that there is none, so that such a call cannot be captured in a CUDA graph; and it
        takes some 30 bytes of memory for each element while it works, as does an M above 32.

    Returns
    -------
    bool Tensor like x
        True where an element is kept.

    Raises
    ------
    KernelError
        Tensors of another type or device.
    PatternError
        A scalar, scores of another shape, or a score that is NaN.

    Examples
    --------
    >>> x = torch.tensor([1.0, -4.0, 3.0, 2.0])
    >>> x.where(prune(x, "2:4"), 0).tolist()
    [0.0, -4.0, 3.0, 0.0]
    """
    checked_type("x", x)
    if scores is not None:
        checked_type("scores", scores)
    found: Tensor = torch.ops.nmsim.prune(x, pattern if isinstance(pattern, str) else str(pattern), scores)
    return found


@torch.library.custom_op("nmsim::sparse_linear", mutates_args=())
def _sparse_linear(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pattern: str,
    encoding: str,
    in_features: int,
) -> Tensor:
    check_operands(x, values, metadata, bias, pattern, encoding, in_features)
    parsed = checked_memory(x, values, metadata, bias, pattern)
    if triton_kernels.serves(x):
        return _multiply_on_gpu(x.detach(), values, metadata, bias, parsed, encoding)
    tokens = x.detach().float().reshape(x.shape[:-1].numel(), in_features)
    y = products_cpu.multiply(tokens, as_sparse(values, metadata, parsed, encoding, in_features))
    if bias is not None:
        y += bias.detach().float()
    return y.to(x.dtype).reshape(*x.shape[:-1], len(values))


@_sparse_linear.register_fake
def _(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pattern: str,
    encoding: str,
    in_features: int,
) -> Tensor:
    check_operands(x, values, metadata, bias, pattern, encoding, in_features)
    return x.new_empty((*x.shape[:-1], values.shape[0]))


@torch.library.custom_op("nmsim::unpack", mutates_args=())
def _unpack(values: Tensor, metadata: Tensor, pattern: str, encoding: str, in_features: int) -> Tensor:
    _check_stored(values, metadata, pattern, encoding, in_features)
    parsed = _pattern(pattern)
    alignment.check_packed(values, metadata, alignment.bytes_of_values(values, parsed))
    if triton_kernels.serves(values):
        out = values.new_empty((len(values), in_features))
        triton_kernels.module("unpack").launch(values.detach(), metadata, parsed, encoding, out)
        return out
    return products_cpu.dense(as_sparse(values, metadata, parsed, encoding, in_features))


@_unpack.register_fake
def _(values: Tensor, metadata: Tensor, pattern: str, encoding: str, in_features: int) -> Tensor:
    _check_stored(values, metadata, pattern, encoding, in_features)
    return values.new_empty((values.shape[0], in_features))


@torch.library.custom_op("nmsim::prune", mutates_args=())
def _prune(x: Tensor, pattern: str, scores: Tensor | None) -> Tensor:
    _check_pruned(x, pattern, scores)
    if triton_kernels.serves(x):
        alignment.check_dense(x=x, scores=scores)
        return prune_on_device(x.detach(), _pattern(pattern), None if scores is None else scores.detach())
    ranked = None if scores is None else as_array(scores)
    return torch.from_numpy(nmsim.prune(as_array(x), _pattern(pattern), scores=ranked))


@_prune.register_fake
def _(x: Tensor, pattern: str, scores: Tensor | None) -> Tensor:
    _check_pruned(x, pattern, scores)
    return x.new_empty(x.shape, dtype=torch.bool)


def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what `gradients` needs of a product's operands."""
    x, values, metadata, bias, *ctx.about = inputs
    ctx.save_for_backward(values, metadata)
    ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype


def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of x [..., K] and bias [N] from that of the result [..., N], summed in float32."""
    of_x = of_bias = None
    if ctx.needs_input_grad[0]:
        dense = torch.ops.nmsim.unpack(*ctx.saved_tensors, *ctx.about)
        of_x = (grad.float() @ dense.float()).to(ctx.x_dtype)
    if ctx.needs_input_grad[3]:
        of_bias = grad.float().reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype)
    return of_x, None, None, of_bias, None, None, None


_sparse_linear.register_autograd(gradients, setup_context=remember)


def _multiply_on_gpu(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, pattern: Pattern, encoding: str
) -> Tensor:
    """Multiply by `kernels.gpu.gemm`, which takes one type: x [..., K] -> [..., N]."""
    check_one_type(x, values, bias)
    tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1]).contiguous()
    out = x.new_empty((len(tokens), len(values)))
    if len(tokens):
        bias = None if bias is None else bias.detach().contiguous()
        launch = triton_kernels.module("gemm").launch
        launch(tokens, values.detach(), metadata, pattern, encoding, out, bias=bias)
    return out.reshape(*x.shape[:-1], len(values))


def check_one_type(x: Tensor, values: Tensor, bias: Tensor | None) -> None:
    """Refuse operands of two types, which the matrix units of a GPU do not take."""
    for name, part in (("x", x), ("bias", bias)):
        if part is not None and part.dtype != values.dtype:
            raise KernelError(
                f"{name} has dtype {part.dtype}, the weights {values.dtype}: expected one type on a CUDA device"
            )


def checked_memory(x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, pattern: str) -> Pattern:
    """Refuse operands that begin where kernels cannot read them."""
    parsed = _pattern(pattern)
    alignment.check_packed(values, metadata, alignment.bytes_of_values(values, parsed))
    alignment.check_dense(x=x, bias=bias)
    return parsed


def check_operands(
    x: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pattern: str,
    encoding: str,
    in_features: int,
) -> None:
    """Refuse operands of a product that do not fit together, with data or without."""
    checked_tensor("x", x)
    _check_stored(values, metadata, pattern, encoding, in_features)
    if x.ndim == 0 or x.shape[-1] != in_features:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected [..., {in_features}], K of the weights")
    if x.device != values.device:
        raise KernelError(f"x is on {x.device}, the weights on {values.device}: expected one device")
    if bias is not None:
        checked_tensor("bias", bias)
        if bias.shape != values.shape[:1] or bias.device != x.device:
            raise KernelError(
                f"bias is {tuple(bias.shape)} on {bias.device}: expected [{values.shape[0]}] on {x.device}"
            )


def _check_stored(values: Tensor, metadata: Tensor, pattern: str, encoding: str, in_features: int) -> None:
    checked_tensor("values", values)
    checked_place("metadata", metadata)
    check_parts(values, metadata, _pattern(pattern), encoding, in_features)


def _check_pruned(x: Tensor, pattern: str, scores: Tensor | None) -> None:
    checked_tensor("x", x)
    _pattern(pattern)
    masks.checked_axis(tuple(x.shape), -1)
    if scores is not None:
        checked_tensor("scores", scores)
        if scores.shape != x.shape or scores.device != x.device:
            raise KernelError(
                f"scores are {tuple(scores.shape)} on {scores.device}: expected {tuple(x.shape)} on {x.device}, like x"
            )


def _checked_weight(weights: NMWeight) -> NMWeight:
    if not isinstance(weights, NMWeight):
        raise KernelError(
            f"weights are a {type(weights).__name__}: expected an NMWeight, as ops.pack makes it"
        )
    return weights


@lru_cache
def _pattern(text: str) -> Pattern:
    return Pattern.parse(text)
