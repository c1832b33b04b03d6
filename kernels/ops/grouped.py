"""Products of tokens with the matrices of their experts, for torch, as mixtures of experts need them.

Importing this module registers `nmsim::grouped_linear`. On CUDA tensors it runs `kernels.gpu.products.grouped`, one launch for
all tokens and experts. On others each expert that was chosen multiplies its tokens with packed rows. It has no gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.ops import checks, dispatch
from kernels.ops.decode import check_memory, checked_weights
from kernels.ops.weights import sparse_linear
from kernels.stored.errors import KernelError
from kernels.stored.grouped import GroupedWeight, group
from kernels.stored.nm_weight import checked_place, checked_tensor, checked_type
from kernels.stored.shuffled import ShuffledWeight, unshuffle

__all__ = ["GroupedWeight", "for_experts", "grouped_linear"]


def for_experts(weights: Sequence[ShuffledWeight]) -> GroupedWeight:
    """Put the weights of experts one after the other, for `grouped_linear`.

    Parameters
    ----------
    weights : sequence of ShuffledWeight
        One per expert, from `for_decode`, of one shape, format, type, device and block. They are copied.

    Raises
    ------
    KernelError
        No weight, or weights that differ.

    Examples
    --------
    >>> from kernels.ops import compress, for_decode
    >>> dense = torch.ones(4, 40, 64, dtype=torch.float16)
    >>> for_experts([for_decode(compress(one, "8:16")) for one in dense])
    GroupedWeight(8:16/index, [4, 40, 64], torch.float16, cpu)
    """
    return group(weights)


def grouped_linear(
    x: Tensor, weights: GroupedWeight, *, experts: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Multiply each token with the matrices of its experts: y[t, c] = W[experts[t, c]] x[t] + bias[experts[t, c]].

    Sums are float32; the result is rounded once, to the dtype of x. The second product of experts, whose inputs differ by
    expert, takes x [T * C, K] and experts [T * C, 1].

    Parameters
    ----------
    x : Tensor [T, K] of float32, float16 or bfloat16
    weights : GroupedWeight
        From `for_experts`.
    experts : int32 or int64 Tensor [T, C]
        Of each token. One that is not there, such as -1, gives zeros.
    bias : Tensor [E, N], optional
        Of any of the three types.

    Returns
    -------
    Tensor [T, C, N] of the dtype of x

    Raises
    ------
    KernelError
        Operands of another type, shape or device.

    Examples
    --------
    >>> from kernels.ops import compress, for_decode
    >>> one, two = (torch.tensor([[value, 0.0, 0.0, 0.0]], dtype=torch.float16) for value in (1.0, 2.0))
    >>> weights = for_experts([for_decode(compress(part, "2:4")) for part in (one, two)])
    >>> grouped_linear(torch.ones(1, 4), weights, experts=torch.tensor([[1, 0, -1]])).tolist()
    [[[2.0], [1.0], [0.0]]]
    """
    if not isinstance(weights, GroupedWeight):
        raise KernelError(
            f"weights are a {type(weights).__name__}: expected a GroupedWeight, as for_experts makes it"
        )
    for name, part in (("x", x), ("experts", experts)):
        checked_type(name, part)
    y: Tensor = torch.ops.nmsim.grouped_linear(
        x, weights.values, weights.metadata, experts, bias, str(weights.format), *weights.shape[1:], weights.scales,
        weights.block,
    )  # fmt: skip
    return y


@torch.library.custom_op("nmsim::grouped_linear", mutates_args=())
def _grouped_linear(
    x: Tensor, values: Tensor, metadata: Tensor, experts: Tensor, bias: Tensor | None, format: str,
    out_features: int, in_features: int, scales: Tensor | None = None, block: int | None = None,
) -> Tensor:  # fmt: skip
    weights = _checked(x, values, metadata, experts, bias, format, out_features, in_features, scales, block)
    y = x.new_zeros((*experts.shape, out_features))
    if not y.numel():
        return y
    x = x.detach().contiguous()
    if dispatch.serves(x):
        check_memory(weights.expert(0), x=x, bias=bias)
        bias = None if bias is None else bias.detach().contiguous()
        dispatch.module("products.grouped").launch(x, weights, experts.contiguous(), y, bias=bias)
        return y
    for number in sorted(set(experts.flatten().tolist())):
        if 0 <= number < weights.shape[0]:
            token, choice = (experts == number).nonzero(as_tuple=True)
            one = None if bias is None else bias.detach()[number]
            y[token, choice] = sparse_linear(x[token], unshuffle(weights.expert(number)), bias=one)
    return y


@_grouped_linear.register_fake
def _(
    x: Tensor, values: Tensor, metadata: Tensor, experts: Tensor, bias: Tensor | None, format: str,
    out_features: int, in_features: int, scales: Tensor | None = None, block: int | None = None,
) -> Tensor:  # fmt: skip
    _checked(x, values, metadata, experts, bias, format, out_features, in_features, scales, block)
    return x.new_empty((*experts.shape, out_features))


def _checked(
    x: Tensor, values: Tensor, metadata: Tensor, experts: Tensor, bias: Tensor | None, format: str,
    out_features: int, in_features: int, scales: Tensor | None, block: int | None,
) -> GroupedWeight:  # fmt: skip
    """Refuse operands that do not fit together."""
    checks.check_x(x, in_features)
    checked_place("experts", experts)
    if x.ndim != 2:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected tokens [T, {in_features}]")
    if experts.dtype not in (torch.int32, torch.int64) or experts.ndim != 2 or len(experts) != len(x):
        raise KernelError(
            f"experts are {experts.dtype} {list(experts.shape)}: expected int32 or int64 [{len(x)}, choices]"
        )
    held = values.shape[0] if values.ndim else 0
    parts = {"values": values, "metadata": metadata, "scales": scales, "experts": experts, "bias": bias}
    for name, part in parts.items():
        if part is not None and part.device != x.device:
            raise KernelError(f"x is on {x.device}, {name} on {part.device}: expected one device")
        # The kernel finds an expert by its number times a size, so there may be no gaps.
        is_stored = name in ("values", "metadata", "scales")
        if part is None or not is_stored:
            continue
        if not held or len(part) != held or not part.is_contiguous():
            raise KernelError(
                f"{name} are {list(part.shape)} with strides {part.stride()}: expected them contiguous and of {held} experts, "
                "at least one, as for_experts makes them"
            )
    one = checked_weights(
        values[0],
        metadata[0],
        format,
        out_features,
        in_features,
        None if scales is None else scales[0],
        block,
    )
    if bias is not None:
        checked_tensor("bias", bias)
        if bias.shape != (held, out_features):
            raise KernelError(f"bias is {list(bias.shape)}: expected [{held}, {out_features}]")
    return GroupedWeight(values, metadata, one.format, (held, *one.shape), scales, block)
