"""Writing safetensors files whose tensors come block by block; the order and the bytes are those of the library."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError, brief
from nmsim.files import atomic, safetensors
from nmsim.files.safetensors import DTYPE_BITS, TensorInfo, tensor_bytes
from nmsim.interchange.tensors import DenseTensor

DTYPE_RANK = {code: rank for rank, code in enumerate(DTYPE_BITS)}
"""Dtype -> its place in the order of the safetensors library, which writes the last one first."""


@dataclass(frozen=True)
class OutTensor:
    """A tensor to be written: its length is known, its bytes come from `blocks` in order."""

    name: str
    dtype: str
    shape: Sequence[int]
    blocks: Callable[[], Iterator[NDArray[Any]]]
    of: DenseTensor

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file."""
        return tensor_bytes(self.dtype, self.shape) or 0


def unchanged(tensor: DenseTensor) -> OutTensor:
    """Write a tensor dense, bit for bit."""
    return OutTensor(
        tensor.name, tensor.dtype, tensor.shape, lambda: (block.values for block in tensor.blocks()), tensor
    )


def small(name: str, dtype: str, values: NDArray[Any], of: DenseTensor) -> OutTensor:
    """Write an array that is in memory."""
    return OutTensor(name, dtype, values.shape, lambda: iter((values,)), of)


def write_file(
    path: Path,
    tensors: Iterable[OutTensor],
    *,
    metadata: Mapping[str, str],
    force: bool = False,
    sources: Iterable[Path] = (),
    tell: Callable[[OutTensor], None] = lambda tensor: None,
) -> int:
    """Write a file; it takes its name when it is complete.

    Parameters
    ----------
    path : Path
    tensors : OutTensor
        In any order: data and header follow the order of the safetensors library.
    metadata : mapping of str to str
        Free entries of the header.
    force : bool
        Replace a file of that name.
    sources : paths
        Files that must not be replaced.
    tell : function
        Called after each tensor.

    Returns
    -------
    int
        Bytes of all tensors.

    Raises
    ------
    ContainerError
        A name that is taken or reserved, a target that cannot be written, or a source that changed meanwhile.
    """
    ordered = sorted(tensors, key=lambda tensor: (-DTYPE_RANK[tensor.dtype], tensor.name))
    safetensors.refuse_reserved_names(tensor.name for tensor in ordered)
    infos, reached = [], 0
    for tensor in ordered:
        end = reached + tensor.stored_bytes
        infos.append(TensorInfo(tensor.name, tensor.dtype, tuple(tensor.shape), reached, end))
        reached = end
    with atomic.new_file(path, force=force, sources=sources) as stream:
        stream.write(safetensors.render(infos, metadata))
        for tensor in ordered:
            written = 0
            for block in tensor.blocks():
                raw = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
                stream.write(raw.data)
                written += len(raw)
            # The header is written before the data. So data of another length would make a damaged file.
            if written != tensor.stored_bytes:
                raise ContainerError(
                    f"{tensor.of.where}: gave {written} bytes for {brief(tensor.name)}, expected {tensor.stored_bytes} as at "
                    "the first reading (was the file changed meanwhile?)"
                )
            tensor.of.release()
            tell(tensor)
    return reached
