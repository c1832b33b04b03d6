"""Writing a safetensors file tensor by tensor, before the length of every tensor is known.

The header comes first in the file but is known last. Room for it is left in front, and what it does not need
of that is filled with spaces, which the format allows. Tensors of unknown length are kept in a second,
nameless file and appended at the end, which also keeps every tensor behind them aligned.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError
from nmsim.files import atomic
from nmsim.files import header as headers
from nmsim.files.header import TensorInfo, tensor_bytes

COPY_BYTES = 1 << 22


class SafetensorsWriter:
    """A safetensors file being written; made by `create`."""

    def __init__(self, stream: BinaryIO, late: BinaryIO, room_bytes: int) -> None:
        self._stream = stream
        self._late_stream = late
        self._room_bytes = room_bytes
        self._reached = 0
        self._late_reached = 0
        self._written: dict[str, TensorInfo] = {}
        self._late: dict[str, TensorInfo] = {}
        stream.write(bytes(room_bytes))

    def add(self, name: str, dtype: str, shape: Sequence[int], data: NDArray[Any]) -> None:
        """Write a tensor after those before it. `data` is any contiguous array of the tensor's bytes."""
        raw = _as_bytes(name, dtype, shape, data)
        self._written[name] = TensorInfo(name, dtype, tuple(shape), self._reached, self._reached + len(raw))
        self._stream.write(raw.data)
        self._reached += len(raw)

    def add_late(self, name: str, dtype: str, shape: Sequence[int], data: NDArray[Any]) -> None:
        """Write a tensor behind all those of `add`."""
        raw = _as_bytes(name, dtype, shape, data)
        begin = self._late_reached
        self._late[name] = TensorInfo(name, dtype, tuple(shape), begin, begin + len(raw))
        self._late_stream.write(raw.data)
        self._late_reached += len(raw)

    def finish(self, order: Iterable[str], metadata: Mapping[str, str]) -> None:
        """Append the late tensors and write the header, which lists tensors in the given order."""
        self._late_stream.seek(0)
        shutil.copyfileobj(self._late_stream, self._stream, COPY_BYTES)
        behind = {
            name: TensorInfo(
                name, info.dtype, info.shape, self._reached + info.begin, self._reached + info.end
            )
            for name, info in self._late.items()
        }
        written = self._written | behind
        header = headers.render([written[name] for name in order], metadata, self._room_bytes)
        assert len(header) == self._room_bytes, "room was reserved for the longest header there can be"
        self._stream.seek(0)
        self._stream.write(header)


@contextmanager
def create(
    target: Path, room_bytes: int, *, force: bool = False, sources: Iterable[Path] = ()
) -> Iterator[SafetensorsWriter]:
    """Open a safetensors file for writing that takes its name on success; see `nmsim.files.atomic.new_file`.

    Parameters
    ----------
    target : Path
    room_bytes : int
        Length of the longest header there can be, from `header_room`.
    force : bool
        Replace a file of that name.
    sources : paths
        Files that must not be replaced.
    """
    with (
        atomic.new_file(target, force=force, sources=sources) as stream,
        tempfile.TemporaryFile(dir=target.parent) as late,
    ):
        yield SafetensorsWriter(stream, late, room_bytes)


def header_room(tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> int:
    """Count the bytes of a header from (name, dtype, shape) of every tensor in the order of their data.

    Shapes and numbers in the metadata may be upper bounds: a header with smaller ones in their place is no
    longer.
    """
    infos = []
    reached = 0
    for name, dtype, shape in tensors:
        end = reached + (tensor_bytes(dtype, shape) or 0)
        infos.append(TensorInfo(name, dtype, tuple(shape), reached, end))
        reached = end
    return len(headers.render(infos, metadata))


def refuse_reserved_names(names: Iterable[str]) -> None:
    """Refuse names that the format keeps for itself, is given twice, or cannot write."""
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str):
            raise ContainerError(f"tensor name {name!r} (type {type(name).__name__}): expected a str")
        if name == headers.METADATA_KEY:
            raise ContainerError(f"tensor name {name!r}: the safetensors format keeps it for itself")
        if not headers.is_unicode(name):
            raise ContainerError(f"tensor name {name!r}: expected valid Unicode")
        if name in seen:
            raise ContainerError(f"tensor name {name!r} is taken twice in the file to be written")
        seen.add(name)


def _as_bytes(name: str, dtype: str, shape: Sequence[int], data: NDArray[Any]) -> NDArray[np.uint8]:
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    expected = tensor_bytes(dtype, shape)
    assert len(raw) == expected, f"{name}: {len(raw)} bytes for {dtype} {shape}, expected {expected}"
    return raw
