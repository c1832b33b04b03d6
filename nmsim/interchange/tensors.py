"""What every format is read into and written from: dense tensors that are read block by block of rows."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.files.safetensors import DTYPE_BITS, SafetensorsReader, tensor_bytes

BoolArray = NDArray[np.bool_]

BLOCK_BYTES = 1 << 22
"""Bytes of dense values that are held at a time; a block has at least eight rows."""
ROW_MULTIPLE = 8
"""Rows of a block are a multiple of this, so that the bits of a block fill whole bytes."""


@dataclass(frozen=True)
class Block:
    """Some rows of a tensor.

    Parameters
    ----------
    values : array [rows, columns]
    kept : bool array [rows, columns] or None
        Positions that the source stores, zeros among them; None if it stores all.
    """

    values: NDArray[Any]
    kept: BoolArray | None = None


@dataclass(frozen=True)
class DenseTensor:
    """One tensor of a source, dense, whatever its format.

    Parameters
    ----------
    name : str
    dtype : str
        As a safetensors header names it.
    shape : tuple of int
    blocks : function
        Gives the rows in order, `rows_per_block` at a time. Rows are all dimensions but the last.
    where : str
        Begins every error: file, tensor, byte.
    shard : str
        Name of the file that the tensor goes into, if the target has several.
    stored_bytes : int
        Bytes in the source.
    release : function
        Gives memory back to the system that reading took.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Block]]
    where: str
    shard: str = ""
    stored_bytes: int = 0
    release: Callable[[], None] = field(default=lambda: None)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor when dense."""
        return tensor_bytes(self.dtype, self.shape) or 0

    @property
    def is_matrix(self) -> bool:
        """Whether it has rows and columns of a value type that can be pruned."""
        return len(self.shape) == 2 and self.dtype in dtypes.BY_CONTAINER_CODE and math.prod(self.shape) > 0


@dataclass(frozen=True)
class Source:
    """An open source.

    Parameters
    ----------
    path : Path
        As the user named it.
    format : str
    tensors : tuple of DenseTensor
    paths : tuple of Path
        Files that must not be replaced.
    metadata : mapping of shard to mapping
        Free entries of each header.
    index : mapping
        Index of the shards, or empty.
    index_name : str
        Name of the index file, or "" for a single file.
    config : mapping
        The `config.json` beside, or empty.
    notes : tuple of str
        What a user should know about how it was read.
    """

    path: Path
    format: str
    tensors: tuple[DenseTensor, ...]
    paths: tuple[Path, ...]
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    index_name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def rows_per_block(columns: int, item_bytes: float) -> int:
    """Count the rows of a block.

    Examples
    --------
    >>> rows_per_block(4096, 2)
    512
    """
    rows = int(BLOCK_BYTES // max(1, columns * item_bytes))
    return max(ROW_MULTIPLE, rows // ROW_MULTIPLE * ROW_MULTIPLE)


def slices(rows: int, columns: int, item_bytes: float) -> Iterator[slice]:
    """Cut rows into blocks.

    Examples
    --------
    >>> [(part.start, part.stop) for part in slices(1000, 4096, 2)]
    [(0, 512), (512, 1000)]
    """
    step = rows_per_block(columns, item_bytes)
    for low in range(0, rows, step):
        yield slice(low, min(rows, low + step))


def extent(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of any shape: the last dimension is the columns.

    Examples
    --------
    >>> extent((2, 3, 4)), extent(())
    ((6, 4), (1, 1))
    """
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def nonzero(values: NDArray[Any]) -> BoolArray:
    """Find the elements that are not zero; -0.0 is zero, NaN is not.

    Examples
    --------
    >>> nonzero(np.array([0.0, -0.0, 1.0, np.nan])).tolist()
    [False, False, True, True]
    """
    mask: BoolArray = dtypes.magnitude_keys(values) != 0
    return mask


def bits_of(values: NDArray[Any]) -> NDArray[Any]:
    """View values as unsigned integers of their width, so that no copy changes a bit."""
    return values.view(f"u{values.dtype.itemsize}")


def scattered(values: NDArray[Any], kept: BoolArray) -> NDArray[Any]:
    """Put stored values at their positions, row by row: values [any], kept [rows, columns] -> [rows, columns]."""
    dense = np.zeros(kept.shape, values.dtype)
    bits_of(dense)[kept] = bits_of(np.ascontiguousarray(values).reshape(-1))
    return dense


def stored_tensor(file: SafetensorsReader, name: str, *, shard: str = "") -> DenseTensor:
    """Take a tensor of a safetensors file as it is stored."""
    info = file.tensors[name]
    rows, columns = extent(info.shape)
    item_bytes = DTYPE_BITS[info.dtype] / 8

    def blocks() -> Iterator[Block]:
        if info.dtype not in dtypes.BY_CONTAINER_CODE:
            # Bytes of a dtype that is never interpreted are handed on as bytes.
            for begin in range(0, info.stored_bytes, BLOCK_BYTES):
                size = min(BLOCK_BYTES, info.stored_bytes - begin)
                yield Block(file.read(name, begin, np.empty((1, size), np.uint8)))
            return
        kind = dtypes.BY_CONTAINER_CODE[info.dtype].dtype
        for part in slices(rows if columns else 0, columns, item_bytes):
            block = np.empty((part.stop - part.start, columns), kind)
            yield Block(file.read(name, part.start * columns * kind.itemsize, block))

    return DenseTensor(
        name=name,
        dtype=info.dtype,
        shape=info.shape,
        blocks=blocks,
        where=file.where(name),
        shard=shard or file.path.name,
        stored_bytes=info.stored_bytes,
    )
