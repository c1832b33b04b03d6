"""What `kernels.ops.activations` refuses, with data or without."""

import torch
from torch import Tensor

from kernels.cpu import KernelError
from kernels.stored.nm_weight import check_parts
from kernels.stored.rows import checked_encoding, checked_pattern
from kernels.stored.tensors import checked_place, checked_tensor
from nmsim.pattern import Pattern

TOKEN_SHIFTS = ("mean", "median")
"""Shifts found anew for each token."""
MOST_SHIFT = torch.finfo(torch.float32).max
"""Shifts are subtracted in float32."""


def kind_of_shift(shift: object) -> tuple[str, float, Tensor | None]:
    """Tell kinds of shift apart: its name, the constant, the vector."""
    if shift is None:
        return "none", 0.0, None
    if isinstance(shift, Tensor):
        return "vector", 0.0, shift
    if isinstance(shift, str) and shift in TOKEN_SHIFTS:
        return shift, 0.0, None
    if isinstance(shift, int | float) and not isinstance(shift, bool) and -MOST_SHIFT <= shift <= MOST_SHIFT:
        return "constant", float(shift), None
    raise KernelError(
        f"shift is {shift!r}: expected {' or '.join(map(repr, TOKEN_SHIFTS))}, a number within float32, a tensor [K] or None"
    )


def check_tokens(
    x: Tensor, pattern: str, encoding: str, channels: Tensor | None, vector: Tensor | None, variance: bool
) -> Pattern:
    """Refuse tokens [T, K] and vectors [K] that no kernel takes."""
    checked_tensor("x", x)
    parsed = checked_pattern(pattern)
    checked_encoding(encoding)
    if x.ndim != 2 or x.shape[1] == 0:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected tokens [T, K] with K at least 1")
    if variance and x.shape[1] < 2:
        raise KernelError("variance of tokens with a single in feature: expected at least two")
    for name, part in (("shift", channels), ("vector", vector)):
        _check_vector(name, part, x.shape[1], x.device)
    return parsed


def check_product(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    pattern: str,
    encoding: str,
    of_tokens: dict[str, Tensor | None],
    of_outputs: dict[str, Tensor | None],
    *,
    row_major: bool = True,
) -> Pattern:
    """Refuse packed tokens, a weight [O, K] and vectors [T] and [O] that do not fit together."""
    checked_tensor("values", values)
    checked_place("metadata", metadata)
    checked_tensor("weight", weight)
    parsed = checked_pattern(pattern)
    if weight.ndim != 2 or 0 in weight.shape:
        raise KernelError(
            f"weight has shape {tuple(weight.shape)}: expected a matrix [O, K] that is not empty"
        )
    check_parts(values, metadata, parsed, checked_encoding(encoding), weight.shape[1], least_rows=0)
    if weight.dtype != values.dtype or weight.device != values.device:
        raise KernelError(
            f"weight is {weight.dtype} on {weight.device}: expected {values.dtype} on {values.device}, like the values"
        )
    if row_major and not weight.is_contiguous():
        raise KernelError(
            f"weight has strides {weight.stride()}: expected a contiguous tensor (contiguous() gives one)"
        )
    for parts, length in ((of_tokens, values.shape[0]), (of_outputs, weight.shape[0])):
        for name, part in parts.items():
            _check_vector(name, part, length, values.device)
    return parsed


def _check_vector(name: str, part: Tensor | None, length: int, device: torch.device) -> None:
    if part is None:
        return
    checked_tensor(name, part)
    if part.shape != (length,) or part.device != device:
        raise KernelError(f"{name} is {tuple(part.shape)} on {part.device}: expected [{length}] on {device}")
