"""nmsim's own packed files as one format among others: read block by block, and written without pruning anything."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes, words
from nmsim import mask as masks
from nmsim.errors import BitstreamError, NmsimError
from nmsim.files.container import METADATA_DTYPE, PackedEntry, read_entries, read_packed
from nmsim.files.safetensors import SafetensorsReader
from nmsim.format import SparseFormat
from nmsim.interchange.streaming import OutTensor
from nmsim.interchange.tensors import Block, DenseTensor, bits_of, extent, scattered, slices
from nmsim.interchange.zeros import chosen
from nmsim.tensor import decompress

FORMAT = "nmsim"


def read(file: SafetensorsReader) -> tuple[dict[str, DenseTensor], set[str]]:
    """Find the packed tensors of a file: name of the part that stands for each -> dense tensor; names of all parts.

    Raises
    ------
    ContainerError
        As `nmsim.files.container.read_entries`.
    """
    entries = read_entries(file)
    tensors = {entry.values_name: _dense(file, entry) for entry in entries.values()}
    return tensors, {part for e in entries.values() for part in (e.values_name, e.metadata_name)}


def _dense(file: SafetensorsReader, entry: PackedEntry) -> DenseTensor:
    rows, columns = extent(entry.shape)
    pattern = entry.format.pattern
    dtype = dtypes.BY_CONTAINER_CODE[file.tensors[entry.values_name].dtype].dtype

    def blocks() -> Iterator[Block]:
        if entry.axis != len(entry.shape) - 1:
            # Groups that run down the columns are rare: the tensor is made dense in one piece.
            packed = read_packed(file, entry)
            try:
                dense, kept = decompress(packed).reshape(rows, columns), packed.mask().reshape(rows, columns)
            except NmsimError as error:
                raise error.within(file.where(entry.metadata_name)) from error
            for part in slices(rows, columns, dense.itemsize):
                yield Block(dense[part], kept[part])
            return
        per_row = pattern.groups(columns)
        stream = file.raw(entry.metadata_name)
        try:
            codes = entry.format.encoding.read_stream(stream, pattern, rows * per_row, entry.format.packing)
        except NmsimError as error:
            raise error.within(file.where(entry.metadata_name)) from error
        for part in slices(rows if columns else 0, columns, dtype.itemsize):
            groups = codes[part.start * per_row : part.stop * per_row]
            kept = masks.from_words(groups, pattern, part.stop - part.start, per_row * pattern.m)
            values = np.empty((part.stop - part.start, per_row * pattern.n), dtype)
            file.read(entry.values_name, part.start * per_row * pattern.n * dtype.itemsize, values)
            dense = scattered(values, kept)
            if bits_of(dense[:, columns:]).any():
                raise BitstreamError(
                    f"{file.where(entry.values_name)}: a value that is not zero is stored beyond the {columns} elements of "
                    "a row, expected 0"
                )
            yield Block(np.ascontiguousarray(dense[:, :columns]), kept[:, :columns])

    return DenseTensor(
        name=entry.name,
        dtype=file.tensors[entry.values_name].dtype,
        shape=entry.shape,
        blocks=blocks,
        where=file.where(entry.values_name),
        shard=file.path.name,
        stored_bytes=file.tensors[entry.values_name].stored_bytes
        + file.tensors[entry.metadata_name].stored_bytes,
    )


def write(tensor: DenseTensor, format: SparseFormat) -> tuple[list[OutTensor], PackedEntry]:
    """Plan the two tensors of a matrix whose groups have at most N non-zeros, and their entry in the header.

    The metadata are encoded once here, to learn their length, and once when they are written.
    """
    rows, columns = tensor.shape
    pattern = format.pattern
    per_row = pattern.groups(columns)

    def masked() -> Iterator[tuple[Block, NDArray[np.bool_]]]:
        row = 0
        for block in tensor.blocks():
            yield block, chosen(block, pattern, first_row=row)
            row += len(block.values)

    def values() -> Iterator[NDArray[Any]]:
        short = per_row * pattern.m - columns
        for block, kept in masked():
            padded = np.pad(bits_of(block.values), ((0, 0), (0, short))) if short else bits_of(block.values)
            yield padded[kept]

    def encoded() -> tuple[NDArray[np.uint8], int, int]:
        codes = words.empty(rows * per_row, pattern.m)
        at = 0
        for _, kept in masked():
            part = masks.to_words(kept, pattern)
            codes[at : at + len(part)] = part
            at += len(part)
        stream, report = format.encoding.write_stream(codes, pattern, format.packing)
        return stream, report.payload_bits, report.padding_bits

    # Holding the stream of every tensor until it is written would take more memory than encoding it twice takes time.
    stream, payload_bits, padding_bits = encoded()
    entry = PackedEntry(tensor.name, format, "linear", tensor.shape, 1, payload_bits, padding_bits)
    return [
        OutTensor(entry.values_name, tensor.dtype, (rows, per_row * pattern.n), values, tensor),
        OutTensor(entry.metadata_name, METADATA_DTYPE, (len(stream),), lambda: iter((encoded()[0],)), tensor),
    ], entry
