"""Saving and loading tensors, packed or not, as an ordinary safetensors file.

`nmsim.files.packed_entry` describes a packed tensor in the file. `nmsim.files.checkpoint` handles whole checkpoints,
tensor by tensor.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError
from nmsim.files import writer
from nmsim.files.header import DTYPE_BITS, is_unicode
from nmsim.files.packed_entry import (
    ENTRY_PREFIX,
    FORMAT_KEY,
    FORMAT_VERSION,
    METADATA_DTYPE,
    PackedEntry,
    read_entries,
    read_packed,
)
from nmsim.files.reader import CODE_OF_DTYPE, RawTensor, SafetensorsReader
from nmsim.tensor import PackedTensor

Tensor = NDArray[Any] | PackedTensor | RawTensor

__all__ = ["RawTensor", "Tensor", "load_file", "save_file"]


@dataclass(frozen=True)
class _Part:
    """One tensor of the file to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[Any]


def save_file(
    tensors: Mapping[str, NDArray[Any] | PackedTensor | RawTensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a safetensors file, which any safetensors library can read.

    The file appears under its name only when it is complete; one of that name is then replaced. The header
    lists the tensors in the given order; their data lies in order of falling item width, so that all of it is
    aligned.

    Parameters
    ----------
    tensors : mapping of str to array, PackedTensor or RawTensor
        Arrays of any dtype that the format knows, `ml_dtypes` included, in native byte order.
    path : path
    metadata : mapping of str to str, optional
        Free entries of the header.

    Raises
    ------
    ContainerError
        A name or entry that is taken or reserved, an array of another dtype, or a path that cannot be
        written.

    Examples
    --------
    >>> import tempfile
    >>> from nmsim import compress
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_file({"w": compress(np.eye(4, dtype=np.float32), "2:4"), "b": np.zeros(4)}, path)
    >>> sorted(load_file(path))
    ['b', 'w']
    """
    if not isinstance(tensors, Mapping):
        raise ContainerError(f"tensors are a {type(tensors).__name__}: expected a mapping of names to arrays")
    parts: list[_Part] = []
    entries: list[PackedEntry] = []
    for name, tensor in tensors.items():
        if isinstance(tensor, PackedTensor):
            entry = PackedEntry.of(name, tensor)
            entries.append(entry)
            parts.append(_array_part(entry.values_name, tensor.values))
            parts.append(_Part(entry.metadata_name, METADATA_DTYPE, tensor.metadata.shape, tensor.metadata))
        elif isinstance(tensor, RawTensor):
            parts.append(_Part(name, tensor.dtype, tensor.shape, tensor.data))
        else:
            parts.append(_array_part(name, tensor))
    dense = {part.name for part in parts}
    for entry in entries:
        if entry.name in dense:
            raise ContainerError(
                f"tensor name {entry.name!r} is a packed tensor and also a part of another one"
            )
    writer.refuse_reserved_names(part.name for part in parts)
    free = free_entries(metadata or {}, entries)
    # The widest elements come first, so that every tensor begins at a multiple of its element.
    in_data_order = sorted(parts, key=lambda part: -DTYPE_BITS[part.dtype])
    room = writer.header_room(((p.name, p.dtype, p.shape) for p in in_data_order), free)
    with writer.create(Path(path), room, force=True) as sink:
        for part in in_data_order:
            sink.add(part.name, part.dtype, part.shape, part.data)
        sink.finish([part.name for part in parts], free)


def load_file(path: str | os.PathLike[str]) -> dict[str, NDArray[Any] | PackedTensor | RawTensor]:
    """Read all tensors of a safetensors file into memory; packed ones stay packed.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict of str to array, PackedTensor or RawTensor
        In the order of the header. A `RawTensor` where numpy has no such dtype.

    Raises
    ------
    ContainerError
        The file is not what it claims to be; the message names file, tensor and byte.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_file({"b": np.array([1.5, 2.5], np.float16)}, path)
    >>> load_file(path)
    {'b': array([1.5, 2.5], dtype=float16)}
    """
    found: dict[str, Tensor] = {}
    with SafetensorsReader(path) as file:
        entries = read_entries(file)
        by_values = {entry.values_name: entry for entry in entries.values()}
        codes = {entry.metadata_name for entry in entries.values()}
        for name in file.tensors:
            if name in by_values:
                entry = by_values[name]
                found[entry.name] = read_packed(file, entry, copy=True)
            elif name not in codes:
                tensor = file.array(name)
                found[name] = (
                    RawTensor(tensor.dtype, tensor.shape, np.array(tensor.data))
                    if isinstance(tensor, RawTensor)
                    else np.array(tensor)
                )
            file.release(name)
    return found


def free_entries(metadata: Mapping[str, str], entries: Iterable[PackedEntry]) -> dict[str, str]:
    """Join a user's free entries with those of nmsim, which a user must not set.

    `nmsim_format` is set when there are entries.
    """
    if not isinstance(metadata, Mapping):
        raise ContainerError(f"metadata is a {type(metadata).__name__}: expected a mapping of str to str")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ContainerError(f"metadata entry {key!r} is {value!r}: expected a str for a str")
        if not (is_unicode(key) and is_unicode(value)):
            raise ContainerError(f"metadata entry {key!r}: expected valid Unicode")
        if key == FORMAT_KEY or key.startswith(ENTRY_PREFIX):
            raise ContainerError(
                f"metadata entry {key!r}: expected another name, nmsim keeps this one for itself"
            )
    ours = {entry.key: entry.to_json() for entry in entries}
    return dict(metadata) | ({FORMAT_KEY: FORMAT_VERSION} | ours if ours else {})


def _array_part(name: str, array: Any) -> _Part:
    if not isinstance(array, np.ndarray | np.generic):
        raise ContainerError(
            f"tensor {name!r} is a {type(array).__name__}: expected a numpy array, a PackedTensor or a "
            "RawTensor"
        )
    code = CODE_OF_DTYPE.get(array.dtype.name)
    if code is None or not array.dtype.isnative:
        raise ContainerError(
            f"tensor {name!r} has dtype {array.dtype}: expected one of {', '.join(CODE_OF_DTYPE)}, in native "
            "byte order"
        )
    return _Part(name, code, array.shape, np.asarray(array))
