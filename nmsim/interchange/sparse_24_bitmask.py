"""compressed-tensors `sparse-24-bitmask`: two kept values of every four columns, and a bit per element.

A linear weight `P.weight` [R, C] is three tensors. `P.compressed` [R, C/2] has the kept values row by row. `P.bitmask` is U8
[R, ceil(C/8)], and bit j of byte b is column 8b+j. `P.shape` is I64 [2, 1]. Source: compressed-tensors 0.14.0.1,
`sparse_24_bitmask.py`; byte-equal with it on data without ties.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError
from nmsim.interchange.parts import Held, Parts, standing_for, suffixed
from nmsim.interchange.streaming import OutTensor, small
from nmsim.interchange.tensors import Block, DenseTensor, bits_of, scattered, slices
from nmsim.interchange.zeros import chosen
from nmsim.pattern import Pattern
from nmsim.units import ceil_div

FORMAT = "sparse-24-bitmask"
PATTERN = Pattern(2, 4)
ROLES = ("bitmask", "compressed", "shape")
NIBBLE_COUNTS = np.array(
    [(byte & 15).bit_count() | (byte >> 4).bit_count() << 4 for byte in range(256)], np.uint8
)
"""A byte of a bitmask -> how many bits are set in its low half, and in its high half."""


def read(held: Held) -> tuple[dict[str, DenseTensor], set[str]]:
    """Find the tensors of this format: name of the part that stands for each -> dense tensor; names of all parts.

    Raises
    ------
    ContainerError
        Parts that are missing, or do not fit together.
    """
    return standing_for(suffixed(held, ROLES, signs=2, format=FORMAT), {"compressed": _dense})


def _dense(prefix: str, parts: Parts) -> DenseTensor:
    rows, columns = parts.matrix_shape("shape")
    if columns % PATTERN.m:
        parts.refuse("shape", f"says {columns} columns", "a multiple of 4")
    dtype = parts.values_dtype("compressed")
    parts.check("compressed", dtype=parts.info("compressed").dtype, shape=(rows, columns // 2))
    parts.check("bitmask", dtype="U8", shape=(rows, ceil_div(columns, 8)))

    def blocks() -> Iterator[Block]:
        for part in slices(rows if columns else 0, columns, dtype.itemsize):
            bits = parts.rows("bitmask", part, ceil_div(columns, 8), np.uint8)
            values = parts.rows("compressed", part, columns // 2, dtype)
            counts = NIBBLE_COUNTS[bits]
            # The last byte of a row has four columns only if C is no multiple of 8; its high half must be empty.
            expected = np.full(counts.shape, 0x22, np.uint8)
            if columns % 8:
                expected[:, -1] = 0x02
            wrong = counts != expected
            if wrong.any():
                row, byte = (int(at) for at in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
                low, high = int(counts[row, byte]) & 15, int(counts[row, byte]) >> 4
                parts.refuse(
                    "bitmask",
                    f"row {part.start + row}, byte {byte} has {low} and {high} bits set in its halves",
                    "2 for each 4 columns, and none beyond the last column",
                )
            kept = np.unpackbits(bits, axis=1, count=columns, bitorder="little").view(np.bool_)
            yield Block(scattered(values, kept), kept)

    return DenseTensor(
        name=f"{prefix}.weight",
        dtype=parts.info("compressed").dtype,
        shape=(rows, columns),
        blocks=blocks,
        where=parts.where("compressed"),
        shard=parts.file("compressed").path.name,
        stored_bytes=parts.stored_bytes,
    )


def write(tensor: DenseTensor) -> list[OutTensor]:
    """Plan the three tensors of a weight whose groups of 4 have at most two non-zeros.

    Raises
    ------
    ContainerError
        A name that does not end in `.weight`, or columns that are no multiple of 4.
    """
    prefix = module_name(tensor)
    rows, columns = tensor.shape
    if columns % PATTERN.m:
        raise ContainerError(f"{tensor.where}: has {columns} columns, expected a multiple of 4 for {FORMAT}")

    def masks() -> Iterator[tuple[Block, NDArray[np.bool_]]]:
        row = 0
        for block in tensor.blocks():
            yield block, chosen(block, PATTERN, first_row=row)
            row += len(block.values)

    def compressed() -> Iterator[NDArray[Any]]:
        return (bits_of(block.values)[kept] for block, kept in masks())

    def bitmask() -> Iterator[NDArray[np.uint8]]:
        return (np.packbits(kept, axis=1, bitorder="little") for _, kept in masks())

    return [
        OutTensor(f"{prefix}.compressed", tensor.dtype, (rows, columns // 2), compressed, tensor),
        OutTensor(f"{prefix}.bitmask", "U8", (rows, ceil_div(columns, 8)), bitmask, tensor),
        small(f"{prefix}.shape", "I64", np.array(tensor.shape, np.int64).reshape(2, 1), tensor),
    ]


def module_name(tensor: DenseTensor) -> str:
    """Name of the module of a weight: the writers of compressed-tensors drop `.weight`."""
    prefix = tensor.name.removesuffix(".weight")
    if prefix == tensor.name:
        raise ContainerError(f"{tensor.where}: expected a name that ends in .weight for compressed-tensors")
    return prefix
