"""compressed-tensors `sparse-bitmask`: all non-zeros, and a bit per element; exact for any N:M.

A linear weight `P.weight` [R, C] is four tensors. `P.compressed` has all non-zeros row by row. `P.bitmask` is U8
[R, ceil(C/8)], and bit j of byte b is column 8b+j. `P.row_offsets` is I64 [R]: non-zeros before each row. `P.shape` is I64
[2]. Source: compressed-tensors 0.14.0.1, `sparse_bitmask.py`; byte-equal with it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.interchange.parts import Held, Parts, standing_for, suffixed
from nmsim.interchange.sparse_24_bitmask import module_name
from nmsim.interchange.streaming import OutTensor, small
from nmsim.interchange.tensors import Block, DenseTensor, bits_of, nonzero, scattered, slices
from nmsim.interchange.zeros import Survey
from nmsim.units import ceil_div

FORMAT = "sparse-bitmask"
ROLES = ("row_offsets", "bitmask", "compressed", "shape")


def read(held: Held) -> tuple[dict[str, DenseTensor], set[str]]:
    """Find the tensors of this format: name of the part that stands for each -> dense tensor; names of all parts.

    Raises
    ------
    ContainerError
        Parts that are missing, or do not fit together.
    """
    return standing_for(suffixed(held, ROLES, signs=3, format=FORMAT), {"compressed": _dense})


def _dense(prefix: str, parts: Parts) -> DenseTensor:
    rows, columns = parts.matrix_shape("shape")
    dtype = parts.values_dtype("compressed")
    parts.check("bitmask", dtype="U8", shape=(rows, ceil_div(columns, 8)))
    parts.check("row_offsets", dtype="I64", shape=(rows,))
    if len(parts.info("compressed").shape) != 1:
        parts.refuse("compressed", f"has shape {list(parts.info('compressed').shape)}", "one dimension")

    def blocks() -> Iterator[Block]:
        stored = parts.info("compressed").shape[0]
        begin = 0
        for part in slices(rows if columns else 0, columns, dtype.itemsize):
            bits = parts.rows("bitmask", part, ceil_div(columns, 8), np.uint8)
            offsets = parts.rows("row_offsets", part, 1, np.int64)[:, 0]
            if columns % 8 and (bits[:, -1] >> columns % 8).any():
                row = part.start + int(np.argmax(bits[:, -1] >> columns % 8))
                parts.refuse("bitmask", f"row {row} has a bit set beyond its {columns} columns", "none there")
            kept = np.unpackbits(bits, axis=1, count=columns, bitorder="little").view(np.bool_)
            counts = np.count_nonzero(kept, axis=1)
            ends = begin + np.cumsum(counts)
            # Offsets say again what the bits say; where they differ, one of the two is damaged.
            differ = offsets != ends - counts
            if differ.any():
                at = int(np.argmax(differ))
                parts.refuse(
                    "row_offsets",
                    f"row {part.start + at} begins at {int(offsets[at])}",
                    f"{int((ends - counts)[at])}, the bits set in the bitmask before it",
                )
            end = int(ends[-1])
            if end > stored:
                parts.refuse(
                    "compressed", f"has {stored} values", f"at least {end}, the bits set in the bitmask"
                )
            values = parts.rows("compressed", slice(begin, end), 1, dtype)
            yield Block(scattered(values, kept), kept)
            begin = end
        if begin != stored:
            parts.refuse("compressed", f"has {stored} values", f"{begin}, the bits set in the bitmask")

    return DenseTensor(
        name=f"{prefix}.weight",
        dtype=parts.info("compressed").dtype,
        shape=(rows, columns),
        blocks=blocks,
        where=parts.where("compressed"),
        shard=parts.file("compressed").path.name,
        stored_bytes=parts.stored_bytes,
    )


def packed_bytes(tensor: DenseTensor, nonzeros: int) -> int:
    """Count the bytes that a matrix takes in this format."""
    rows, columns = tensor.shape
    item_bytes = tensor.dense_bytes // (rows * columns)
    return nonzeros * item_bytes + rows * ceil_div(columns, 8) + 8 * rows + 16


def write(tensor: DenseTensor, found: Survey) -> list[OutTensor]:
    """Plan the four tensors of a weight whose non-zeros are counted.

    Raises
    ------
    ContainerError
        A name that does not end in `.weight`.
    """
    prefix = module_name(tensor)
    rows, columns = tensor.shape

    # Each part is written in one piece. So each reads the tensor again, and none is held in memory.
    def masks() -> Iterator[tuple[Block, NDArray[np.bool_]]]:
        return ((block, nonzero(block.values)) for block in tensor.blocks())

    def compressed() -> Iterator[NDArray[Any]]:
        return (bits_of(block.values)[kept] for block, kept in masks())

    def bitmask() -> Iterator[NDArray[np.uint8]]:
        return (np.packbits(kept, axis=1, bitorder="little") for _, kept in masks())

    def row_offsets() -> Iterator[NDArray[np.int64]]:
        before = 0
        for _, kept in masks():
            counts = np.count_nonzero(kept, axis=1)
            ends = before + np.cumsum(counts, dtype=np.int64)
            yield ends - counts
            before = int(ends[-1])

    return [
        OutTensor(f"{prefix}.compressed", tensor.dtype, (found.nonzeros,), compressed, tensor),
        OutTensor(f"{prefix}.bitmask", "U8", (rows, ceil_div(columns, 8)), bitmask, tensor),
        OutTensor(f"{prefix}.row_offsets", "I64", (rows,), row_offsets, tensor),
        small(f"{prefix}.shape", "I64", np.array(tensor.shape, np.int64), tensor),
    ]
