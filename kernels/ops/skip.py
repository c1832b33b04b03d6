"""The product of one N:M-sparse token with a dense weight stored K-major, of which only the kept elements' rows are read.

Importing this module registers `nmsim::skip_linear`. On CUDA tensors it runs `kernels.gpu.skip_gemv`, on others torch
multiplies the whole. No gradients.
"""

import torch
from torch import Tensor

from kernels.cpu import KernelError
from kernels.ops import triton_kernels
from kernels.ops.activation_checks import check_product
from kernels.ops.activations import NMActivations
from kernels.ops.activations_cpu import multiply_on_cpu
from kernels.stored import alignment
from kernels.stored.tensors import checked_type
from nmsim.pattern import Pattern

__all__ = ["skip_linear"]


def skip_linear(activations: NMActivations, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply one pruned token: y_o = sum_j xsp_j w_jo + b_o, over what is kept.

    Sums are float32, the result is rounded once. A weight that no kept element meets may hold anything on a CUDA device; on the
    CPU an infinity or NaN there makes NaN.

    Parameters
    ----------
    activations : NMActivations
        Of one token, from `kernels.ops.activations.prune_activations` without a shift of the token and without the variance.
    weight : Tensor [K, O] of the type of the values
        Contiguous.
    bias : Tensor [O], optional

    Returns
    -------
    Tensor [..., O] of the type of the values

    Raises
    ------
    KernelError
        More than one token, one that was shifted or is to be scaled, or operands of another type, shape or device.

    Examples
    --------
    >>> from kernels.ops.activations import prune_activations
    >>> kept = prune_activations(torch.tensor([1.0, 5.0, 3.0, 2.0]), "2:4")
    >>> skip_linear(kept, torch.ones(4, 3)).tolist()
    [8.0, 8.0, 8.0]
    """
    if not isinstance(activations, NMActivations):
        raise KernelError(
            f"activations are a {type(activations).__name__}: expected NMActivations, as prune_activations makes them"
        )
    if activations.eta is not None or activations.v is not None:
        raise KernelError(
            "the token was shifted or is to be scaled: expected neither; activations_linear takes both"
        )
    checked_type("weight", weight)
    if weight.ndim != 2 or weight.shape[0] != activations.shape[-1]:
        raise KernelError(
            f"weight has shape {tuple(weight.shape)}: expected [{activations.shape[-1]}, O], in features first"
        )
    y: Tensor = torch.ops.nmsim.skip_linear(
        activations.values, activations.metadata, weight, activations.pattern, activations.encoding, bias
    )
    return y.reshape(*activations.shape[:-1], weight.shape[1])


@torch.library.custom_op("nmsim::skip_linear", mutates_args=())
def _skip_linear(
    values: Tensor, metadata: Tensor, weight: Tensor, pattern: str, encoding: str, bias: Tensor | None
) -> Tensor:
    parsed = _check(values, metadata, weight, pattern, encoding, bias)
    alignment.check_packed(values, metadata, values.element_size())
    alignment.check_dense(weight=weight, bias=bias)
    values, weight = values.detach(), weight.detach()
    bias = None if bias is None else bias.detach().float().contiguous()
    if not triton_kernels.serves(values):
        rows = weight.T.contiguous()
        return multiply_on_cpu(
            values, metadata, rows, parsed, encoding, v=None, eta=None, row_sums=None, scale=None, bias=bias
        )
    out = values.new_empty((1, weight.shape[1]))
    triton_kernels.module("skip_gemv").launch(values, metadata, weight, parsed, encoding, out, bias=bias)
    return out


@_skip_linear.register_fake
def _(
    values: Tensor, metadata: Tensor, weight: Tensor, pattern: str, encoding: str, bias: Tensor | None
) -> Tensor:
    _check(values, metadata, weight, pattern, encoding, bias)
    return values.new_empty((1, weight.shape[1]))


def _check(
    values: Tensor, metadata: Tensor, weight: Tensor, pattern: str, encoding: str, bias: Tensor | None
) -> Pattern:
    if values.ndim != 2 or values.shape[0] != 1:
        raise KernelError(
            f"activations have {len(values)} tokens: expected one; activations_linear takes any number"
        )
    if not weight.is_contiguous():
        raise KernelError(
            f"weight has strides {weight.stride()}: expected a contiguous tensor (contiguous() gives one)"
        )
    return check_product(values, metadata, weight.T, pattern, encoding, {}, {"bias": bias}, row_major=False)
