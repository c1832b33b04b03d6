"""Products with N:M weights for torch, dispatched by device, known to autograd and `torch.compile`.

Importing this module registers `nmsim::sparse_linear` and `nmsim::unpack`. On the CPU they run `kernels.cpu` on the memory of
the tensors, with as many threads as torch uses (`torch.set_num_threads`). On CUDA tensors they run the Triton kernels of
`kernels.gpu`.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import cpu
from kernels.ops import checks, dispatch
from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import (
    NMWeight,
    as_array,
    as_nm_weight,
    as_sparse,
    as_tensor,
    checked_place,
    checked_tensor,
    checked_type,
    empty_rows,
    from_packed,
)
from kernels.stored.rows import (
    SLACK_BYTES,
    STEP_ELEMS,
    SparseWeights,
    aligned,
    checked_matrix,
    kernel_format,
)
from nmsim.dtypes import refuse_not_finite
from nmsim.errors import PatternError
from nmsim.format import FormatLike, SparseFormat
from nmsim.units import ceil_div

__all__ = ["NMWeight", "compress", "decompress", "from_packed", "sparse_linear"]

MANY_TOKENS = 512
"""From so many on the weights are decompressed and multiplied by torch. On one Zen 3 core both took the same time there for
16:32 and 8:16 (4096 in, 2048 out features, float32). For 2:4 the kernels were still 1.2 times as fast."""
MANY_TOKENS_PORTABLE = 32
"""The same if plain loops serve: no AVX2, or a pattern without a kernel of its own. On that core both took the same time there
for 1:4; for 8:16 without AVX2 decompressing was twice as fast already."""
SERIAL_MACS = 1 << 17
"""Smaller products stay on the calling thread: on that machine, waking another took 70 microseconds, as long as these."""
PAGE_BYTES = 4096
"""Memory is readable or not by whole pages of at least so many bytes."""


def compress(dense_weight: Tensor, format: FormatLike, *, mask: Tensor | None = None) -> NMWeight:
    """Prune a dense weight along its in features and store what is kept, on as many cores as torch uses.

    Parameters
    ----------
    dense_weight : Tensor [N, K] of float32, float16 or bfloat16
        On the CPU, in any memory order, or on a CUDA device. Kept elements are stored bit for bit; the tensor itself is not
        touched.
    format : SparseFormat, Pattern or str
        Such as `"8:16"` or `"8:16/bitmask"`. M at most 32; `index` if no encoding is named, `bitmask`,
        `combinatorial` or, packed on the CPU, `tiled`.
    mask : bool Tensor [N, K], optional
        What to keep; the greatest magnitudes (`nmsim.prune`) if absent.

    Returns
    -------
    NMWeight

    Raises
    ------
    KernelError
        Not a matrix of a type listed, a device without kernels, or a format without kernels.
    PatternError
        A mask that keeps more than N of a group, or is not a bool tensor of that shape. Without a mask, a weight that is
        NaN or infinite.

    Examples
    --------
    >>> weight = compress(torch.tensor([[1.0, -4.0, 3.0, 2.0]]), "2:4")
    >>> weight.shape, weight.values[0, :2].tolist(), weight.metadata.tolist()
    ((1, 4), [-4.0, 3.0], [[73, 68]])
    """
    if dispatch.serves(checked_tensor("dense_weight", dense_weight)):
        if mask is None:
            _refuse_not_finite(dense_weight.detach())
        return _compress_on_gpu(dense_weight.detach(), kernel_format(format), mask)
    dense = _on_cpu("dense_weight", dense_weight)
    keep: NDArray[np.bool_] | None = None
    if mask is not None:
        checked_place("mask", checked_type("mask", mask))
        keep = as_array(_on_cpu("mask", mask))
    return as_nm_weight(cpu.compress(as_array(dense), format, mask=keep, threads=torch.get_num_threads()))


def decompress(weights: NMWeight) -> Tensor:
    """Rebuild the pruned matrix [N, K]: kept values bit for bit, zeros elsewhere.

    Raises
    ------
    KernelError
        Not an `NMWeight`.

    Examples
    --------
    >>> decompress(compress(torch.tensor([[1.0, -4.0, 3.0, 2.0]]), "2:4")).tolist()
    [[0.0, -4.0, 3.0, 0.0]]
    """
    weights = checks.checked_weight(weights)
    dense: Tensor = torch.ops.nmsim.unpack(
        weights.values, weights.metadata, weights.format_text, weights.shape[1]
    )
    return dense


def sparse_linear(x: Tensor, weights: NMWeight, *, bias: Tensor | None = None) -> Tensor:
    """Multiply tokens with sparse weights: Y[..., N] = X[..., K] W[N, K]^T + bias[N].

    Sums are float32 for all types; the result is rounded once, to the dtype of x. From `MANY_TOKENS` tokens on
    (`MANY_TOKENS_PORTABLE` if only plain loops serve) the weights are decompressed, once per call, and torch multiplies. The
    result differs only in the order of its sums, and if x holds an infinity or NaN at a dropped weight. Those have no effect in
    a sparse kernel. They make NaN in a dense one, and in the matrix units of a CUDA device.
    On a CUDA device the weights are decompressed from 128 tokens on. Torch multiplies in their type with its own settings. It
    allows partial sums in 16 bits by default, or TF32.

    Differentiable in x and bias, through the decompressed weights; the weights are frozen.

    Parameters
    ----------
    x : Tensor [..., K] of float32, float16 or bfloat16
        In any memory order. Any number of tokens, none included.
    weights : NMWeight
        On the CPU of any of the three types; on a CUDA device of the type of x.
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
    >>> weights = compress(torch.tensor([[1.0, -4.0, 3.0, 2.0]]), "2:4")
    >>> sparse_linear(torch.tensor([1.0, 10.0, 100.0, 1000.0]), weights)
    tensor([260.])
    """
    weights = checks.checked_weight(weights)
    checked_type("x", x)
    if bias is not None:
        checked_type("bias", bias)
    y: Tensor = torch.ops.nmsim.sparse_linear(
        x, weights.values, weights.metadata, bias, weights.format_text, weights.shape[1]
    )
    return y


@torch.library.custom_op("nmsim::sparse_linear", mutates_args=())
def _sparse_linear(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, format: str, in_features: int
) -> Tensor:
    parsed = check_operands(x, values, metadata, bias, format, in_features)
    checks.check_packed(values, metadata, checks.bytes_of_values(values, parsed.pattern))
    checks.check_dense(x=x, bias=bias)
    if dispatch.serves(x):
        return _multiply_on_gpu(x.detach(), values, metadata, bias, parsed)
    tokens = x.detach().float().reshape(x.shape[:-1].numel(), in_features)
    y = _multiply_on_cpu(tokens, as_sparse(values, metadata, parsed, in_features))
    if bias is not None:
        y += bias.detach().float()
    return y.to(x.dtype).reshape(*x.shape[:-1], len(values))


@_sparse_linear.register_fake
def empty_product(x: Tensor, values: Tensor, *rest: Any) -> Tensor:
    """Check the operands of a product, and make its result without numbers."""
    check_operands(x, values, *rest)
    return x.new_empty((*x.shape[:-1], values.shape[0]))


@torch.library.custom_op("nmsim::unpack", mutates_args=())
def _decompress(values: Tensor, metadata: Tensor, format: str, in_features: int) -> Tensor:
    parsed = checks.checked_rows(values, metadata, format, in_features)
    checks.check_packed(values, metadata, checks.bytes_of_values(values, parsed.pattern))
    if dispatch.serves(values):
        out = values.new_empty((len(values), in_features))
        dispatch.module("movers.decompress").launch(values.detach(), metadata, parsed, out)
        return out
    return _dense(as_sparse(values, metadata, parsed, in_features))


@_decompress.register_fake
def _(values: Tensor, metadata: Tensor, format: str, in_features: int) -> Tensor:
    checks.checked_rows(values, metadata, format, in_features)
    return values.new_empty((values.shape[0], in_features))


def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what `gradients` needs of a product's operands."""
    x, values, metadata, bias, *ctx.about = inputs
    ctx.save_for_backward(values, metadata)
    ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype


def gradients(ctx: Any, grad: Tensor, *, unpack: str = "unpack") -> tuple[Tensor | None, ...]:
    """Gradients of x [..., K] and bias [N] from that of the result [..., N], summed in float32.

    `unpack` names the operator that makes the weights dense.
    """
    of_x = of_bias = None
    if ctx.needs_input_grad[0]:
        dense = getattr(torch.ops.nmsim, unpack)(*ctx.saved_tensors, *ctx.about)
        of_x = (grad.float() @ dense.float()).to(ctx.x_dtype)
    if ctx.needs_input_grad[3]:
        of_bias = grad.float().reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype)
    return of_x, None, None, of_bias, *([None] * len(ctx.about))


_sparse_linear.register_autograd(gradients, setup_context=remember)


def check_operands(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, format: str, in_features: int
) -> SparseFormat:
    """Refuse operands of a product that do not fit together, with data or without, and parse the format."""
    checked_tensor("x", x)
    parsed = checks.checked_rows(values, metadata, format, in_features)
    checks.check_x(x, in_features)
    if x.device != values.device:
        raise KernelError(f"x is on {x.device}, the weights on {values.device}: expected one device")
    checks.check_bias(bias, values.shape[0], x.device)
    return parsed


def _multiply_on_gpu(
    x: Tensor, values: Tensor, metadata: Tensor, bias: Tensor | None, format: SparseFormat
) -> Tensor:
    """Multiply by `kernels.gpu.products.gemm`, which takes one type: x [..., K] -> [..., N]."""
    checks.check_one_type(x, values, bias)
    tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1]).contiguous()
    out = x.new_empty((len(tokens), len(values)))
    if len(tokens):
        bias = None if bias is None else bias.detach().contiguous()
        dispatch.module("products.gemm").launch(tokens, values.detach(), metadata, format, out, bias=bias)
    return out.reshape(*x.shape[:-1], len(values))


def check_weight(dense_weight: Tensor) -> None:
    """Refuse what `compress` refuses if there is no mask, and change nothing."""
    weight = checked_tensor("dense_weight", dense_weight).detach()
    if dispatch.serves(weight):
        _refuse_not_finite(_checked_on_gpu(weight))
    else:
        refuse_not_finite(checked_matrix(as_array(_on_cpu("dense_weight", weight))), "dense_weight")


def _refuse_not_finite(dense: Tensor) -> None:
    """Refuse NaN and infinity on a device as `nmsim.dtypes.refuse_not_finite` does on the CPU."""
    if not bool(dense.isfinite().all()):
        refuse_not_finite(as_array(dense.cpu()), "dense_weight")


def _compress_on_gpu(dense: Tensor, format: SparseFormat, mask: Tensor | None) -> NMWeight:
    """Compress by `kernels.gpu.movers.compress`, which waits for the device if there is a mask."""
    _checked_on_gpu(dense)
    if mask is not None:
        checked_place("mask", checked_type("mask", mask))
        if mask.dtype != torch.bool or mask.shape != dense.shape or mask.device != dense.device:
            raise PatternError(
                f"mask is {mask.dtype} of shape {tuple(mask.shape)} on {mask.device}: expected torch.bool of "
                f"{tuple(dense.shape)} on {dense.device}"
            )
        mask = mask.contiguous()
    stored = empty_rows(dense, format)
    dispatch.module("movers.compress").launch(dense.contiguous(), format, stored, mask=mask)
    return NMWeight(*stored, format, (dense.shape[0], dense.shape[1]))


def _checked_on_gpu(dense: Tensor) -> Tensor:
    """Refuse a tensor that the kernel cannot compress."""
    if dense.ndim != 2 or 0 in dense.shape:
        raise KernelError(
            f"dense_weight has shape {tuple(dense.shape)}: expected a matrix with something in it"
        )
    checks.check_dense(dense_weight=dense)
    return dense


def _on_cpu(name: str, tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu":
        raise KernelError(f"{name} is on {tensor.device}: expected a tensor with data, on the CPU")
    return tensor


def _multiply_on_cpu(tokens: Tensor, weights: SparseWeights) -> Tensor:
    """Multiply by sparse kernels, or by torch for many tokens: float32 [T, K] -> float32 [T, N]."""
    many = len(tokens) >= MANY_TOKENS
    if not many and len(tokens) >= MANY_TOKENS_PORTABLE:
        many = weights.pattern not in STEP_ELEMS or cpu.instruction_sets()[0] == "portable"
    if many:
        return torch.nn.functional.linear(tokens, _dense(weights).float())
    return torch.from_numpy(_multiply_arrays(tokens.numpy(), weights))


def _dense(weights: SparseWeights) -> Tensor:
    return as_tensor(cpu.decompress(weights, threads=torch.get_num_threads()))


def _multiply_arrays(x: NDArray[Any], weights: SparseWeights) -> NDArray[np.float32]:
    """Multiply by the kernels of `kernels.cpu`, which read some bytes behind the last row.

    A tensor's memory may end with its last byte. Then the last rows are copied to where there is room.
    """
    macs = len(x) * weights.values.size
    threads = 1 if macs < SERIAL_MACS else torch.get_num_threads()
    stored = (weights.values, weights.metadata)
    if all(_same_page_goes_on(part) for part in stored):
        return cpu.matmul(x, weights, threads=threads)
    last = max(ceil_div(SLACK_BYTES, max(1, part[0].nbytes)) for part in stored)
    rows = weights.shape[0]
    split = max(0, rows - last)
    y = np.empty((len(x), rows), np.float32)
    if split:
        y[:, :split] = cpu.matmul(x, _some_rows(weights, *(part[:split] for part in stored)), threads=threads)
    y[:, split:] = cpu.matmul(x, _some_rows(weights, *(_with_room(part[split:]) for part in stored)))
    return y


def _same_page_goes_on(part: NDArray[Any]) -> bool:
    """Say if what kernels read behind the last byte lies in the same page of memory, and so is readable."""
    end = part.ctypes.data + part.nbytes
    return (end - 1) // PAGE_BYTES == (end + SLACK_BYTES - 1) // PAGE_BYTES


def _some_rows(weights: SparseWeights, values: NDArray[Any], metadata: NDArray[np.uint8]) -> SparseWeights:
    return replace(weights, values=values, metadata=metadata, shape=(len(values), weights.shape[1]))


def _with_room(part: NDArray[Any]) -> NDArray[Any]:
    copy = aligned(part.shape, part.dtype)
    copy[:] = part
    return copy
