"""Products of few tokens with N:M weights in the order that the decode kernel reads, for torch.

Importing this module registers `nmsim::decode_linear`, `decode_or_sparse_linear` and `unpack_shuffled`. The second takes any
number of tokens. On CUDA tensors one to four run `kernels.gpu.products.gemv`, and 5 to 64 run `kernels.gpu.products.mma`. For
more, the weights are made dense as by the third, and torch multiplies. Elsewhere weights are put back into rows, and
`ops.sparse_linear` multiplies. The first has no gradients, the second those of `ops.sparse_linear`.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.ops import checks, dispatch
from kernels.ops.weights import gradients, remember, sparse_linear
from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import NMWeight, checked_place, checked_type
from kernels.stored.rows import STEP_ELEMS, kernel_format
from kernels.stored.scaled import GREATEST
from kernels.stored.shuffled import (
    HALF_VALUES,
    MOST_MATRIX_TOKENS,
    MOST_TOKENS,
    PLANES,
    WARP_ROWS,
    ShuffledWeight,
    count_blocks,
    has_order,
    is_stored,
    packed_parts,
    shuffle,
    unshuffle,
)
from nmsim.units import ceil_div

LEAST_MATRIX_TOKENS = 5
"""Tokens from which the matrix units multiply, where they can.

By counting for sm_90: expanding 16 elements takes 95 cycles however many tokens there are, and gathering x for four takes 100.
Nothing was timed."""

__all__ = ["MOST_TOKENS", "ShuffledWeight", "decode_linear", "for_decode", "has_order", "unshuffle"]


def for_decode(weights: NMWeight, *, values: str | None = None, block: int | None = None) -> ShuffledWeight:
    """Put packed weights into the decode kernel's order: new tensors, where the packed ones are.

    The encoding stays. `index`, the default of `compress`, is the one to take on an H200 or B200. On an H100, A100 or RTX 4090
    it is `bitmask`. `kernels.gpu.products.plan.cheapest_encoding` compares bytes with passes through L1, as counted, not timed.

    Parameters
    ----------
    weights : NMWeight
    values : {"e4m3", "int8"}, optional
        Store the values in 8 bits, with float32 scales: the greatest magnitude over 448 or 127. As they are if absent.
    block : int, optional
        Elements of K that share a scale, such as 128: a multiple of 16, or of 32 for 16:32. One scale per row if absent.

    Raises
    ------
    KernelError
        Not an `NMWeight`, or a format or type that has no such order. 2:4, 4:8, 8:16 and 16:32 of float16 and bfloat16 have
        one, except 16:32 as `combinatorial` or `tiled`. In 8 bits float32 has one too; NaN and infinities have none.

    Examples
    --------
    >>> from kernels.ops import compress
    >>> for_decode(compress(torch.ones(40, 64, dtype=torch.float16), "8:16"))
    ShuffledWeight(8:16/index, [40, 64], torch.float16, cpu)
    >>> for_decode(compress(torch.ones(40, 256), "8:16"), values="e4m3", block=128)
    ShuffledWeight(8:16/index, [40, 256], torch.float8_e4m3fn, cpu, block=128)
    """
    return shuffle(checks.checked_weight(weights), values=values, block=block)


def decode_linear(x: Tensor, weights: ShuffledWeight, *, bias: Tensor | None = None) -> Tensor:
    """Multiply one to eight tokens with sparse weights: Y[..., N] = X[..., K] W[N, K]^T + bias[N].

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
        More tokens than eight or none, or operands of another type, shape or device.

    Examples
    --------
    >>> from kernels.ops import compress
    >>> weights = for_decode(compress(torch.tensor([[1.0, -4.0, 3.0, 2.0]], dtype=torch.float16), "2:4"))
    >>> decode_linear(torch.tensor([1.0, 10.0, 100.0, 1000.0]), weights)
    tensor([260.])
    """
    if not isinstance(weights, ShuffledWeight):
        raise KernelError(
            f"weights are a {type(weights).__name__}: expected a ShuffledWeight, as for_decode makes it"
        )
    checked_type("x", x)
    rows, k = weights.shape
    y: Tensor = torch.ops.nmsim.decode_linear(
        x, weights.values, weights.metadata, bias, str(weights.format), rows, k, weights.scales, weights.block
    )
    return y


@torch.library.custom_op("nmsim::decode_linear", mutates_args=())
def _decode_linear(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, format: str, out_features: int,
    in_features: int, scales: Tensor | None = None, block: int | None = None,
) -> Tensor:  # fmt: skip
    weights = _checked_few(x, values, metadata, bias, format, out_features, in_features, scales, block)
    check_memory(weights, x=x, bias=bias)
    if dispatch.serves(x):
        return _multiply_on_gpu(_kernel(x, weights), x, weights, bias)
    return sparse_linear(x.detach(), unshuffle(weights), bias=None if bias is None else bias.detach())


@_decode_linear.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    weights = _checked_few(x, *rest)
    return x.new_empty((*x.shape[:-1], weights.shape[0]))


@torch.library.custom_op("nmsim::decode_or_sparse_linear", mutates_args=())
def _decode_or_sparse_linear(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, format: str, out_features: int,
    in_features: int,
) -> Tensor:  # fmt: skip
    """Take a kernel of this order for as few tokens as it takes on a CUDA device, a dense product for more.

    The choice is made here and not before the call, so that a compiled graph holds for any number of tokens.
    """
    weights = _checked(x, values, metadata, bias, format, out_features, in_features)
    check_memory(weights, x=x, bias=bias)
    bias = None if bias is None else bias.detach()
    if not dispatch.serves(x):
        packed = packed_parts(weights)
        y: Tensor = torch.ops.nmsim.sparse_linear(x.detach(), *packed, bias, format, in_features)
        return y
    checks.check_one_type(x, values, bias)
    tokens = x.shape[:-1].numel()
    if tokens == 0:
        return x.new_empty((*x.shape[:-1], out_features))
    if (kernel := _kernel(x, weights)) is not None:
        return _multiply_on_gpu(kernel, x, weights, bias)
    return torch.nn.functional.linear(x.detach(), _dense(weights), bias)


@_decode_or_sparse_linear.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    weights = _checked(x, *rest)
    return x.new_empty((*x.shape[:-1], weights.shape[0]))


@torch.library.custom_op("nmsim::unpack_shuffled", mutates_args=())
def _unpack(values: Tensor, metadata: Tensor, format: str, out_features: int, in_features: int) -> Tensor:
    weights = checked_weights(values, metadata, format, out_features, in_features)
    check_memory(weights)
    return _dense(weights)


@_unpack.register_fake
def _(values: Tensor, *rest: Any) -> Tensor:
    return values.new_empty(checked_weights(values, *rest).shape)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return gradients(ctx, grad, unpack="unpack_shuffled")


_decode_or_sparse_linear.register_autograd(_gradients, setup_context=remember)


def _dense(weights: ShuffledWeight) -> Tensor:
    """Make the dense matrix [N, K] of weights without scales."""
    if not dispatch.serves(weights.values):
        dense: Tensor = torch.ops.nmsim.unpack(*packed_parts(weights), str(weights.format), weights.shape[1])
        return dense
    out = weights.values.new_empty(weights.shape)
    dispatch.module("movers.unshuffle").launch(weights, out)
    return out


def _kernel(x: Tensor, weights: ShuffledWeight) -> Any:
    """Choose the module that multiplies so many tokens on a GPU; None for a dense product."""
    tokens = x.shape[:-1].numel()
    if LEAST_MATRIX_TOKENS <= tokens <= MOST_MATRIX_TOKENS:
        matrix_units = dispatch.module("products.mma")
        if matrix_units.runs_here(x, weights):
            return matrix_units
    return dispatch.module("products.gemv") if tokens <= MOST_TOKENS else None


def _multiply_on_gpu(kernel: Any, x: Tensor, weights: ShuffledWeight, bias: Tensor | None) -> Tensor:
    """Multiply by a module of `kernels.gpu.products`: x [..., K] -> [..., N]."""
    rows, k = weights.shape
    tokens = x.detach().reshape(x.shape[:-1].numel(), k).contiguous()
    out = x.new_empty((len(tokens), rows))
    bias = None if bias is None else bias.detach().contiguous()
    kernel.launch(tokens, weights, out, bias=bias)
    return out.reshape(*x.shape[:-1], rows)


def _checked_few(x: Tensor, *operands: Any) -> ShuffledWeight:
    """Refuse more tokens than the decode kernel takes, or none, and operands that do not fit together."""
    weights = _checked(x, *operands)
    tokens = x.shape[:-1].numel()
    if not 1 <= tokens <= MOST_TOKENS:
        raise KernelError(
            f"x has {tokens} tokens: expected 1 to {MOST_TOKENS}; ops.sparse_linear takes any number"
        )
    return weights


def _checked(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, format: str,
    out_features: int, in_features: int, scales: Tensor | None = None, block: int | None = None,
) -> ShuffledWeight:  # fmt: skip
    """Refuse operands that do not fit together."""
    checks.check_x(x, in_features)
    checked_place("metadata", metadata)
    for name, part in (("weights", values), ("metadata", metadata), ("scales", scales), ("bias", bias)):
        if part is not None and part.device != x.device:
            raise KernelError(f"x is on {x.device}, {name} on {part.device}: expected one device")
    checks.check_bias(bias, out_features, x.device)
    return checked_weights(values, metadata, format, out_features, in_features, scales, block)


def checked_weights(
    values: Tensor, metadata: Tensor, format: str, out_features: int, in_features: int,
    scales: Tensor | None = None, block: int | None = None,
) -> ShuffledWeight:  # fmt: skip
    """Refuse parts that are no weights in this order."""
    if values.device != metadata.device:
        raise KernelError(
            f"values are on {values.device}, metadata on {metadata.device}: expected one device"
        )
    parsed = kernel_format(format)
    if not is_stored(parsed, values.dtype, scales):
        about = f"{values.dtype}" + " without scales" * (values.dtype in GREATEST)
        raise KernelError(f"weights are {parsed.short} of {about}: no order for the decode kernel")
    weights = ShuffledWeight(values, metadata, parsed, (out_features, in_features), scales, block)
    _check_stored(weights)
    return weights


def _check_stored(weights: ShuffledWeight) -> None:
    """Refuse parts that are not what `for_decode` makes: a kernel would read beyond them."""
    units = weights.units
    rows = ceil_div(weights.shape[0], WARP_ROWS) * WARP_ROWS
    halves = STEP_ELEMS[weights.pattern] // 2 // HALF_VALUES
    codes_bytes = units * rows * sum(PLANES[weights.format]) // 8
    parts: list[tuple[str, Tensor, tuple[int, ...], torch.dtype]] = [
        ("values", weights.values, (units * halves, rows, HALF_VALUES), weights.values.dtype),
        ("metadata", weights.metadata, (codes_bytes,), torch.uint8),
    ]
    if weights.scales is not None:
        blocks = count_blocks(weights.shape[1], weights.pattern, weights.block)
        parts.append(("scales", weights.scales, (blocks, rows), torch.float32))
    for name, part, shape, dtype in parts:
        if part.shape != shape or part.dtype != dtype or not part.is_contiguous():
            raise KernelError(
                f"{name} are {part.dtype} {list(part.shape)} with strides {part.stride()}: expected a contiguous {dtype} "
                f"{list(shape)}, as for_decode makes them"
            )


def check_memory(weights: ShuffledWeight, **dense: Tensor | None) -> None:
    """Refuse operands that begin where the kernel cannot read them."""
    checks.check_begin("values", weights.values, checks.RUN_BYTES)
    checks.check_begin("metadata", weights.metadata, max(PLANES[weights.format]) // 8)
    checks.check_dense(**dense)
