"""What operators refuse, with data or without: types, shapes, devices, and where tensors begin in memory.

Kernels read words, and a word at an odd place stops a CUDA device. A GPU kernel reads by the width given here, in bytes. Triton
makes loads wider only if an address and all steps from it are known to be multiples of 16.

* `kernels.cpu`: values by their element, metadata 4 (codes of 16:32 are words of 32 bits), dense operands any place.
* `gpu.gemm`, `gpu.decompress`, `gpu.sparse_activations`: values 4 if they are read by pairs (`reads_pairs`), else one element;
  metadata 1, 2 or 4, a word of codes; dense operands one element.
* `gpu.gemv`: values 8, a word of them; metadata 2, 4 or 8, the widest plane; x one element. Else x is copied.
* `gpu.skip_gemv`: values and dense operands one element, metadata 1, 2 or 4.
* `gpu.prune`, `gpu.compress`: one element of the input. torch places what they write.

All operators ask 4 of packed metadata, so that what one takes the others take. Tensors without memory are not asked.
"""

import torch
from torch import Tensor

from kernels.ops import dispatch
from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import NMWeight, check_parts, checked_place, checked_tensor
from kernels.stored.rows import STEP_ELEMS, kernel_format
from nmsim.errors import brief
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

WORD_BYTES = 4
"""A pair of 16-bit values, and the widest word of codes in packed rows."""
RUN_BYTES = 8
"""Values that the decode kernel reads as one word."""
TOKEN_SHIFTS = ("mean", "median")
"""Shifts that are computed from each token."""
OF_TOKENS = ("v", "eta")
"""Vectors of a product with one number per token; all others have one per output."""
MOST_SHIFT = torch.finfo(torch.float32).max
"""Shifts are subtracted in float32."""


def check_begin(name: str, tensor: Tensor, needed_bytes: int) -> None:
    """Refuse a tensor that does not begin at a multiple of so many bytes.

    Raises
    ------
    KernelError
        It does not.

    Examples
    --------
    >>> check_begin("x", torch.zeros(4, dtype=torch.float16)[2:], 4)
    """
    address = tensor.data_ptr()
    if address % needed_bytes:
        raise KernelError(
            f"memory of {name} begins at address {address:#x}, {address % needed_bytes} modulo {needed_bytes}: expected a "
            f"multiple of {needed_bytes} bytes (clone() gives one)"
        )


def check_packed(values: Tensor, metadata: Tensor, values_bytes: int) -> None:
    """Refuse packed rows that kernels cannot read as whole words, on any device."""
    check_begin("values", values, values_bytes)
    check_begin("metadata", metadata, WORD_BYTES)


def check_dense(**parts: Tensor | None) -> None:
    """Refuse dense operands, named, whose elements a CUDA device cannot read. A CPU reads them anywhere."""
    for name, part in parts.items():
        if part is not None and dispatch.serves(part):
            check_begin(name, part, part.element_size())


def bytes_of_values(values: Tensor, pattern: Pattern) -> int:
    """Give the multiple of bytes at which packed rows must begin to be multiplied or decompressed in place."""
    pairs = dispatch.serves(values) and reads_pairs(values, pattern)
    return WORD_BYTES if pairs else values.element_size()


def reads_pairs(values: Tensor, pattern: Pattern) -> bool:
    """Say if GPU kernels take packed values two at a time, as `kernels.gpu.expand.spread` does."""
    return pattern in STEP_ELEMS and values.element_size() * 2 == WORD_BYTES


def realigned(tensor: Tensor) -> Tensor:
    """Take a packed tensor as it is, or a copy that begins where every kernel of packed rows can read it."""
    return tensor.clone() if tensor.data_ptr() % WORD_BYTES else tensor


def checked_weight(weights: NMWeight) -> NMWeight:
    """Refuse what is not an `NMWeight`."""
    if not isinstance(weights, NMWeight):
        raise KernelError(
            f"weights are a {type(weights).__name__}: expected an NMWeight, as ops.compress makes it"
        )
    return weights


def check_bias(bias: Tensor | None, out_features: int, device: torch.device) -> None:
    """Refuse a bias that is not one number per output."""
    _check_vector("bias", bias, out_features, device)


def check_one_type(x: Tensor, values: Tensor, bias: Tensor | None) -> None:
    """Refuse operands of two types, which the matrix units of a GPU do not take."""
    for name, part in (("x", x), ("bias", bias)):
        if part is not None and part.dtype != values.dtype:
            raise KernelError(
                f"{name} has dtype {part.dtype}, the weights {values.dtype}: expected one type on a CUDA device"
            )


def check_x(x: Tensor, in_features: int) -> None:
    """Refuse tokens [..., K] of another length than that of the weights."""
    checked_tensor("x", x)
    if x.ndim == 0 or x.shape[-1] != in_features:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected [..., {in_features}], K of the weights")


def checked_rows(values: Tensor, metadata: Tensor, format: str, k: int) -> SparseFormat:
    """Refuse packed rows of K in features that do not fit their format, and parse it."""
    checked_tensor("values", values)
    checked_place("metadata", metadata)
    parsed = kernel_format(format)
    check_parts(values, metadata, parsed, k)
    return parsed


def kind_of_shift(shift: object) -> tuple[str, float, Tensor | None]:
    """Distinguish kinds of shift: its name, the constant, the vector."""
    if shift is None:
        return "none", 0.0, None
    if isinstance(shift, Tensor):
        return "vector", 0.0, shift
    if isinstance(shift, str) and shift in TOKEN_SHIFTS:
        return shift, 0.0, None
    if isinstance(shift, int | float) and not isinstance(shift, bool) and -MOST_SHIFT <= shift <= MOST_SHIFT:
        return "constant", float(shift), None
    raise KernelError(
        f"shift is {brief(shift)}: expected {' or '.join(map(repr, TOKEN_SHIFTS))}, a number within float32, "
        "a tensor [K] or None"
    )


def checked_tokens(
    x: Tensor, format: str, channels: Tensor | None, vector: Tensor | None, variance: bool
) -> SparseFormat:
    """Refuse tokens [T, K] and vectors [K] that no kernel takes, and parse the format."""
    checked_tensor("x", x)
    parsed = kernel_format(format)
    if x.ndim != 2 or x.shape[1] == 0:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected tokens [T, K] with K at least 1")
    if variance and x.shape[1] < 2:
        raise KernelError("variance of tokens with a single in feature: expected at least two")
    for name, part in (("shift", channels), ("vector", vector)):
        _check_vector(name, part, x.shape[1], x.device)
    return parsed


def checked_product(
    values: Tensor, metadata: Tensor, weight: Tensor, format: str, **vectors: Tensor | None
) -> SparseFormat:
    """Refuse packed tokens, a weight [O, K] and vectors, `OF_TOKENS` [T] and others [O], that do not fit together."""
    checked_tensor("values", values)
    checked_place("metadata", metadata)
    checked_tensor("weight", weight)
    parsed = kernel_format(format)
    if weight.ndim != 2 or 0 in weight.shape:
        raise KernelError(
            f"weight has shape {tuple(weight.shape)}: expected a matrix [O, K] that is not empty"
        )
    check_parts(values, metadata, parsed, weight.shape[1], least_rows=0)
    if weight.dtype != values.dtype or weight.device != values.device:
        raise KernelError(
            f"weight is {weight.dtype} on {weight.device}: expected {values.dtype} on {values.device}, like the values"
        )
    for name, part in vectors.items():
        length = values.shape[0] if name in OF_TOKENS else weight.shape[0]
        _check_vector(name, part, length, values.device)
    return parsed


def check_contiguous(weight: Tensor) -> None:
    """Refuse a weight with gaps between its rows."""
    if not weight.is_contiguous():
        raise KernelError(
            f"weight has strides {weight.stride()}: expected a contiguous tensor (contiguous() gives one)"
        )


def _check_vector(name: str, part: Tensor | None, length: int, device: torch.device) -> None:
    if part is None:
        return
    checked_tensor(name, part)
    if part.shape != (length,) or part.device != device:
        raise KernelError(f"{name} is {tuple(part.shape)} on {part.device}: expected [{length}] on {device}")
