"""GGUF files, through the `gguf` package. Read only: Q4_0, Q4_1 and Q8_0 become F32, and F32, F16 and BF16 stay.

Names, and the order of rows, are those of the file: llama.cpp renames tensors and permutes the rows of some q and k weights.
Groups along the columns are not touched by either.
"""

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nmsim import dtypes
from nmsim.errors import ContainerError, NmsimError, brief
from nmsim.interchange.tensors import Block, DenseTensor, extent, slices
from nmsim.support.sources import open_regular

FORMAT = "gguf"
PLAIN = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
QUANTISED = ("Q4_0", "Q4_1", "Q8_0")
TYPES = (*QUANTISED, *PLAIN)


def read(path: Path) -> tuple[DenseTensor, ...]:
    """Find the tensors of a GGUF file.

    Raises
    ------
    ContainerError
        No `gguf` package, a damaged file, or a tensor of another type.
    """
    try:
        import gguf
    except ImportError:
        raise ContainerError(
            f"{path}: needs the package gguf, which is not installed; expected `pip install 'nmsim[gguf]'`"
        ) from None
    open_regular(path).close()
    # The package indexes the file without checks, so that damage ends in any error at all.
    try:
        reader = gguf.GGUFReader(path)
        tensors = tuple(_dense(path, tensor, gguf) for tensor in reader.tensors)
    except (NmsimError, MemoryError):
        raise
    except OSError as error:
        raise ContainerError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        text = " ".join(str(error).split())[:150]
        raise ContainerError(
            f"{path}: is no GGUF file that the package gguf reads: {type(error).__name__}: {text}"
        ) from error
    return tensors


def _dense(path: Path, tensor: Any, gguf: Any) -> DenseTensor:
    kind, name = tensor.tensor_type.name, tensor.name
    where = f"{path}: tensor {brief(name)}, data at byte {int(tensor.data_offset)}"
    if kind not in TYPES:
        raise ContainerError(f"{where}: is {kind}, expected one of {', '.join(TYPES)}")
    # The file lists sizes from the fastest to the slowest, numpy in reverse.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    rows, columns = extent(shape)
    code = PLAIN.get(kind, "F32")
    dtype = dtypes.BY_CONTAINER_CODE[code].dtype

    def blocks() -> Iterator[Block]:
        raw = np.asarray(tensor.data).view(np.uint8).reshape(rows, -1)
        for part in slices(rows if columns else 0, columns, dtype.itemsize):
            if kind in PLAIN:
                yield Block(np.ascontiguousarray(raw[part]).view(dtype))
            else:
                yield Block(gguf.quants.dequantize(raw[part], tensor.tensor_type))

    return DenseTensor(
        name=name,
        dtype=code,
        shape=shape,
        blocks=blocks,
        where=where,
        stored_bytes=int(tensor.n_bytes),
        release=lambda: _release(tensor.data),
    )


def _release(array: Any) -> None:
    """Give the pages of a mapped file back to the system."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError, ValueError):
            array.madvise(mmap.MADV_DONTNEED)
