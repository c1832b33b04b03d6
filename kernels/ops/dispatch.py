"""Where operators run: modules of `kernels.gpu` for CUDA tensors, imported when one first needs them."""

import functools
import importlib
from typing import Any

from torch import Tensor

from kernels.stored.errors import KernelError


def serves(tensor: Tensor) -> bool:
    """Say if a tensor is where the kernels of `kernels.gpu` work: on a CUDA device."""
    return tensor.device.type == "cuda"


@functools.cache
def module(name: str) -> Any:
    """Import a module of `kernels.gpu`, which is slow, and fails if Triton is missing.

    Raises
    ------
    KernelError
        Triton is not installed.
    """
    try:
        return importlib.import_module(f"kernels.gpu.{name}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise KernelError(
            "Triton is not installed, and tensors on a CUDA device need it: pip install 'nmsim[gpu]'"
        ) from error
