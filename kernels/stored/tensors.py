"""Torch tensors and numpy arrays on the same memory."""

from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from kernels.stored.errors import KernelError

DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
}
"""The value types with kernels, in torch's and in numpy's words."""


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """View a tensor in main memory as an array. Numpy has no bfloat16 of its own: its bits are seen as `ml_dtypes`'."""
    found = tensor.detach()
    if found.dtype == torch.bfloat16:
        return found.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: NDArray[Any] = found.numpy()
    return array


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """View an array as a tensor. An array marked read-only must be a caller's own: a tensor may be written to."""
    writable = array.view()
    writable.flags.writeable = True
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(writable.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(writable)


def checked_tensor(name: str, tensor: object) -> torch.Tensor:
    """Refuse what is not a strided tensor of a type with kernels, on a device with kernels."""
    found = checked_type(name, tensor)
    checked_place(name, found)
    if found.dtype not in DTYPES:
        raise KernelError(f"{name} has dtype {found.dtype}: expected one of {', '.join(map(str, DTYPES))}")
    return found


def checked_type(name: str, tensor: object) -> torch.Tensor:
    """Refuse what is not a tensor."""
    if not isinstance(tensor, torch.Tensor):
        raise KernelError(f"{name} is a {type(tensor).__name__}: expected a torch tensor")
    return tensor


def checked_place(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that no kernel can reach: expected in main memory, on a CUDA device, or of no memory (`meta`)."""
    if tensor.device.type not in ("cpu", "meta", "cuda"):
        raise KernelError(f"{name} is on {tensor.device}: expected a tensor on the CPU or on a CUDA device")
    if tensor.layout != torch.strided:
        raise KernelError(f"{name} has layout {tensor.layout}: expected an ordinary (strided) tensor")
