"""A packed or dense tensor of a file in blocks of rows, so that no tensor is in memory as a whole.

A tensor is seen as [A, K, B]: the axes before the pruned one, that axis, and those after it. Its rows are the A * B runs
along K. If B is 1, a block is one piece of the file. Otherwise it may be a strip of columns, with one piece per position
along K.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.encodings.streams import StreamReader, StreamWriter
from nmsim.errors import BitstreamError, ContainerError
from nmsim.files.container import PackedEntry
from nmsim.files.fitting import refuse_dropping
from nmsim.files.safetensors import COPY_BYTES, RawTensor, SafetensorsReader, SafetensorsWriter, TensorInfo
from nmsim.mask import BoolArray
from nmsim.tensor import pack_rows, refuse_other_counts, unpack_rows
from nmsim.words import empty as new_words

BLOCK_ELEMS = 1 << 24
"""Most elements of a tensor that are in memory at a time."""
BLOCK_BYTES = 1 << 25
"""Most bytes of them."""
SHORT_BYTES = 1 << 9
"""Pieces of a strip that are shorter are read and written together with what lies between them."""


@dataclass(frozen=True, eq=False)
class WeightRows:
    """Some rows of a weight: stored numbers [rows, k], what to keep of them (None: by magnitude), and the real numbers."""

    x: NDArray[Any]
    keep: BoolArray | None
    real: NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Some rows of a tensor [A, K, B], or a part of one row. Each field is a range of positions."""

    outer: range
    along: range
    inner: range

    @property
    def shape(self) -> tuple[int, int, int]:
        """[a, k, b] of the block."""
        return len(self.outer), len(self.along), len(self.inner)

    @property
    def rows(self) -> int:
        """Rows in the block."""
        return len(self.outer) * len(self.inner)


@dataclass(frozen=True)
class Blocks:
    """One dense tensor as blocks, in the order of its rows.

    Parameters
    ----------
    shape : tuple of int
        Of the dense tensor.
    axis : int
        The pruned axis, not negative.
    dtype : str
        As the safetensors format names it; one that nmsim prunes.

    Examples
    --------
    >>> [block.shape for block in Blocks((2, 8), 1, "BF16").cut(4)]
    [(2, 8, 1)]
    """

    shape: tuple[int, ...]
    axis: int
    dtype: str

    @property
    def dims(self) -> tuple[int, int, int]:
        """A, K and B."""
        return (
            math.prod(self.shape[: self.axis]),
            self.shape[self.axis],
            math.prod(self.shape[self.axis + 1 :]),
        )

    @property
    def bits_dtype(self) -> np.dtype[Any]:
        """The unsigned dtype of the stored bits."""
        return dtypes.BY_CONTAINER_CODE[self.dtype].bits_dtype

    def first_row(self, block: Block) -> int:
        """Rows of the tensor before those of a block."""
        return block.outer.start * self.dims[2] + block.inner.start

    def cut(self, step: int) -> Iterator[Block]:
        """Cut the tensor. A row is only cut if it is longer than a block, and then at multiples of `step` elements."""
        outer, k, inner = self.dims
        most = max(1, min(BLOCK_ELEMS, BLOCK_BYTES // self.bits_dtype.itemsize))
        if 0 in (outer, k, inner):
            return
        if k > most:
            length = max(step, most // step * step)
            for row in range(outer * inner):
                a, b = divmod(row, inner)
                for low in range(0, k, length):
                    yield Block(range(a, a + 1), range(low, min(k, low + length)), range(b, b + 1))
        elif k * inner > most:
            width = most // k
            for a in range(outer):
                for low in range(0, inner, width):
                    yield Block(range(a, a + 1), range(k), range(low, min(inner, low + width)))
        else:
            height = most // (k * inner)
            for low in range(0, outer, height):
                yield Block(range(low, min(outer, low + height)), range(k), range(inner))

    def read(self, file: SafetensorsReader, name: str, step: int) -> Iterator[NDArray[Any]]:
        """Read the tensor as arrays [rows, k], in order; each is valid until the next one is asked for."""
        room = np.empty(0, self.bits_dtype)
        for block in self.cut(step):
            elems = math.prod(block.shape)
            room = room if room.size >= elems else np.empty(elems, self.bits_dtype)
            part = room[:elems].reshape(block.shape)
            self._load(file, name, block, part)
            rows = np.moveaxis(part, 1, 2).reshape(block.rows, len(block.along))
            yield rows.view(dtypes.BY_CONTAINER_CODE[self.dtype].dtype)

    def write(self, sink: SafetensorsWriter, name: str, block: Block, rows: NDArray[Any]) -> None:
        """Write the rows of a block [rows, k] to their places in a tensor that `sink` has room for."""
        a, k, b = block.shape
        part = np.ascontiguousarray(np.moveaxis(rows.reshape(a, b, k), 2, 1))
        if self._in_one_piece(block):
            sink.write_at(name, self._place(block.outer.start, block.along.start, block.inner.start), part)
        elif b * part.itemsize >= SHORT_BYTES:
            for i, position in enumerate(block.along):
                sink.write_at(name, self._place(block.outer.start, position, block.inner.start), part[0, i])
        else:
            for low, high, lines, place in self._lines(block):
                sink.read_at(name, place, lines)
                lines[:, block.inner.start : block.inner.stop] = part[0, low:high]
                sink.write_at(name, place, lines)

    def _load(self, file: SafetensorsReader, name: str, block: Block, part: NDArray[Any]) -> None:
        if self._in_one_piece(block):
            place = self._place(block.outer.start, block.along.start, block.inner.start)
            file.read(name, place, part)
        elif part.shape[2] * part.itemsize >= SHORT_BYTES:
            for i, position in enumerate(block.along):
                file.read(name, self._place(block.outer.start, position, block.inner.start), part[0, i])
        else:
            for low, high, lines, place in self._lines(block):
                file.read(name, place, lines)
                part[0, low:high] = lines[:, block.inner.start : block.inner.stop]

    def _place(self, a: int, k: int, b: int) -> int:
        """Byte of the tensor at which an element begins."""
        _, all_k, all_b = self.dims
        return ((a * all_k + k) * all_b + b) * self.bits_dtype.itemsize

    def _in_one_piece(self, block: Block) -> bool:
        _, all_k, all_b = self.dims
        a, k, b = block.shape
        return b == all_b and (a == 1 or k == all_k)

    def _lines(self, block: Block) -> Iterator[tuple[int, int, NDArray[Any], int]]:
        """Whole lines [k, B] that hold a narrow strip, some at a time: first and last of them, room, and their place."""
        all_b = self.dims[2]
        step = max(1, COPY_BYTES // (all_b * self.bits_dtype.itemsize))
        for low in range(0, len(block.along), step):
            high = min(len(block.along), low + step)
            place = self._place(block.outer.start, block.along[low], 0)
            yield low, high, np.zeros((high - low, all_b), self.bits_dtype), place


def pack_tensor(
    file: SafetensorsReader,
    entry: PackedEntry,
    sink: SafetensorsWriter,
    parts: Iterable[WeightRows],
    *,
    exact: bool,
    threads: int,
) -> PackedEntry:
    """Prune and pack one tensor of a file into another.

    Parameters
    ----------
    file : SafetensorsReader
    entry : PackedEntry
        As planned: its bits are upper bounds.
    sink : SafetensorsWriter
    parts : iterable of WeightRows
        Its rows, in order.
    exact : bool
        Refuse a tensor of which elements other than zero would be dropped.
    threads : int
        Cores to use.

    Returns
    -------
    PackedEntry
        With the bits that were written.

    Raises
    ------
    PatternError
        Elements would be dropped that must not be.
    """
    pattern, kind = entry.format.pattern, dtypes.BY_CONTAINER_CODE[file.tensors[entry.name].dtype]
    codes = StreamWriter(entry.format.encoding, pattern, entry.format.packing, threads=threads)
    sink.reserve(entry.values_name, kind.container_code, entry.values_shape)
    reached_bytes = 0
    for part in parts:
        rows, k = part.x.shape
        values = np.empty((rows, pattern.groups(k) * pattern.n), kind.bits_dtype)
        group_masks = new_words(rows * pattern.groups(k), pattern.m)
        pack_rows(part.x, pattern, values=values, group_masks=group_masks, keep=part.keep, threads=threads)
        if exact and _nonzeros(part.x) != _nonzeros(values.view(kind.dtype)):
            # The error counts groups of the whole tensor, which is read for it.
            whole = file.array(entry.name)
            assert not isinstance(whole, RawTensor), "the rule takes no such dtype"
            refuse_dropping(whole, entry.axis, pattern)
        sink.write_at(entry.values_name, reached_bytes, values)
        reached_bytes += values.nbytes
        sink.append_late(entry.metadata_name, codes.write(group_masks))
    last, report = codes.finish()
    sink.append_late(entry.metadata_name, last)
    return dataclasses.replace(
        entry, metadata_payload_bits=report.payload_bits, metadata_padding_bits=report.padding_bits
    )


def _nonzeros(array: NDArray[Any]) -> int:
    return int(np.count_nonzero(dtypes.magnitude_keys(array)))


def unpack_tensor(
    file: SafetensorsReader, entry: PackedEntry, sink: SafetensorsWriter, *, threads: int
) -> None:
    """Make one packed tensor of a file dense again, in another file.

    Parameters
    ----------
    file : SafetensorsReader
    entry : PackedEntry
        As read from the file, and checked against its tensors.
    sink : SafetensorsWriter
    threads : int
        Cores to use.

    Raises
    ------
    BitstreamError, EncodingError
        Metadata that no mask has, or a value that is not zero beyond the end of a row.
    ContainerError
        The entry states other bits than the codes have, or the file is changed meanwhile.
    """
    pattern, info = entry.format.pattern, file.tensors[entry.values_name]
    blocks = Blocks(entry.shape, entry.axis, info.dtype)
    codes = _codes_of(file, entry, threads)
    sink.reserve(entry.name, info.dtype, entry.shape)
    reached_bytes = 0
    for block in blocks.cut(pattern.m):
        k = len(block.along)
        groups = pattern.groups(k)
        values = np.empty((block.rows, groups * pattern.n), blocks.bits_dtype)
        file.read(info.name, reached_bytes, values)
        reached_bytes += values.nbytes
        group_masks = codes.read(block.rows * groups)
        dense = unpack_rows(
            values, group_masks, pattern, row_elems=k, first_row=blocks.first_row(block), threads=threads
        )
        blocks.write(sink, entry.name, block, dense)
        # Released before the next block is read, which bounds the memory by one block.
        del values, group_masks, dense
    _refuse_other_counts(file, entry, codes)


def check_counts(file: SafetensorsReader, entry: PackedEntry, *, threads: int = 1) -> None:
    """Read the codes of a packed tensor, and compare the stated payload and padding bits with theirs.

    Raises
    ------
    BitstreamError, EncodingError
        Metadata that no mask has.
    ContainerError
        The entry states other bits.
    """
    codes = _codes_of(file, entry, threads)
    step = max(1, BLOCK_ELEMS // entry.format.pattern.m)
    for low in range(0, entry.n_groups, step):
        codes.read(min(step, entry.n_groups - low))
    _refuse_other_counts(file, entry, codes)


def _codes_of(file: SafetensorsReader, entry: PackedEntry, threads: int) -> StreamReader:
    format, stored = entry.format, file.tensors[entry.metadata_name]
    return StreamReader(
        format.encoding,
        format.pattern,
        format.packing,
        n_groups=entry.n_groups,
        stream_bytes=stored.stored_bytes,
        read_bytes=lambda begin, end: file.read(stored.name, begin, np.empty(end - begin, np.uint8)),
        threads=threads,
    )


def _refuse_other_counts(file: SafetensorsReader, entry: PackedEntry, codes: StreamReader) -> None:
    """Of codes that differ in length, only reading all of them tells whether the entry states their bits."""
    try:
        refuse_other_counts((entry.metadata_payload_bits, entry.metadata_padding_bits), codes.finish())
    except BitstreamError as error:
        raise ContainerError(f"{file.where(entry.metadata_name)}: {error}") from error


def copy_tensor(file: SafetensorsReader, info: TensorInfo, sink: SafetensorsWriter) -> None:
    """Copy one tensor of a file into another, as it is."""
    sink.reserve(info.name, info.dtype, info.shape)
    for begin, piece in file.pieces(info.name):
        sink.write_at(info.name, begin, piece)
