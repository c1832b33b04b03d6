"""Saving and loading tensors, packed or not, as an ordinary safetensors file.

A packed tensor `name` is two tensors and an entry. The tensors are `name.values` (dtype of the dense tensor, shape
[rows, G * N]) and `name.metadata` (`U8`). The entry is `nmsim:name` in the header's `__metadata__`, a JSON object with
all other fields of `PackedTensor`. `nmsim_format` there says that the file is packed, and by which version of these rules.
`nmsim.files.checkpoint` handles whole checkpoints, tensor by tensor.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes, encodings, packing, words
from nmsim.errors import ContainerError, NmsimError, brief, brief_names
from nmsim.files import safetensors
from nmsim.files.safetensors import (
    CODE_OF_DTYPE,
    DTYPE_BITS,
    MAX_ELEMS,
    RawTensor,
    SafetensorsReader,
    TensorInfo,
    is_unicode,
    loads_strict,
)
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.tensor import PackedTensor
from nmsim.units import bits_to_bytes

FORMAT_KEY = "nmsim_format"
FORMAT_VERSION = "1"
ENTRY_PREFIX = "nmsim:"
VALUES_SUFFIX = ".values"
METADATA_SUFFIX = ".metadata"
METADATA_DTYPE = "U8"


@dataclass(frozen=True)
class PackedEntry:
    """What the header says of one packed tensor; fields as in `PackedTensor`."""

    name: str
    format: SparseFormat
    layout: str
    shape: tuple[int, ...]
    axis: int
    metadata_payload_bits: int
    metadata_padding_bits: int

    @classmethod
    def of(cls, name: str, packed: PackedTensor) -> Self:
        """Take the fields of a packed tensor."""
        return cls(name, *(getattr(packed, field.name) for field in dataclasses.fields(cls)[1:]))

    @classmethod
    def planned(cls, name: str, shape: tuple[int, ...], axis: int, format: SparseFormat) -> Self:
        """Foresee the entry of a tensor that is yet to be packed; bits are upper bounds."""
        bounds = MetadataBounds.of(format, _n_groups(shape, axis, format.pattern))
        return cls(name, format, "linear", shape, axis, bounds.payload_bits, bounds.padding_bits)

    @property
    def key(self) -> str:
        """Name of the entry among the header's free ones."""
        return ENTRY_PREFIX + self.name

    @property
    def values_name(self) -> str:
        """Name of the tensor of kept values."""
        return self.name + VALUES_SUFFIX

    @property
    def metadata_name(self) -> str:
        """Name of the tensor of codes."""
        return self.name + METADATA_SUFFIX

    @property
    def values_shape(self) -> tuple[int, int]:
        """[rows, G * N]."""
        pattern = self.format.pattern
        return _rows(self.shape, self.axis), pattern.groups(self.shape[self.axis]) * pattern.n

    @property
    def metadata_bounds(self) -> "MetadataBounds":
        """Most bytes and bits of the codes."""
        return MetadataBounds.of(self.format, self.n_groups)

    @property
    def n_groups(self) -> int:
        """Groups of the whole tensor."""
        return _n_groups(self.shape, self.axis, self.format.pattern)

    def outline(self, dtype: np.dtype[Any], metadata_bytes: int) -> PackedTensor:
        """Make a packed tensor of zeros that takes no memory: its fields are checked, and its footprint is right."""
        values = np.broadcast_to(np.zeros((), dtype), self.values_shape)
        return self.with_parts(values, np.zeros(metadata_bytes, np.uint8))

    def with_parts(self, values: NDArray[Any], metadata: NDArray[np.uint8]) -> PackedTensor:
        """Make the packed tensor."""
        return PackedTensor(values=values, metadata=metadata, **self._fields())

    def to_json(self) -> str:
        """Write the entry's text."""
        fields = self._fields()
        stored = fields.pop("format")
        names = {
            "pattern": str(stored.pattern),
            "encoding": stored.encoding.name,
            "packing": str(stored.packing),
        }
        return json.dumps(names | fields, separators=(",", ":"))

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[1:]}

    @classmethod
    def from_json(cls, name: str, text: str, where: str) -> Self:
        """Read an entry's text; `where` begins every error."""
        try:
            found = loads_strict(text)
        except ValueError as error:
            raise ContainerError(f"{where}: is not JSON: {error}") from None
        kinds: dict[str, Any] = dict.fromkeys(("pattern", "encoding", "packing"), str)
        kinds |= {field.name: field.type for field in dataclasses.fields(cls)[2:]}
        if not isinstance(found, dict) or set(found) != set(kinds):
            what = f"holds {type(found).__name__}"
            if isinstance(found, dict):
                missing, unknown = (
                    brief_names(sorted(names)) for names in (set(kinds) - set(found), set(found) - set(kinds))
                )
                what = f"misses keys {missing or 'none'} and has unknown keys {unknown or 'none'}"
            raise ContainerError(f"{where}: {what}, expected an object of {', '.join(kinds)}")
        for key, value in found.items():
            # `type` and not `isinstance`: JSON's true is an int in Python.
            if kinds[key] is int and type(value) is not int:
                raise ContainerError(f"{where}: {key} is {brief(value)}, expected an integer")
            if kinds[key] is str and type(value) is not str:
                raise ContainerError(f"{where}: {key} is {brief(value)}, expected a string")
        shape = found["shape"]
        if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape):
            raise ContainerError(
                f"{where}: shape is {brief(shape)}, expected a list of non-negative integers"
            )
        if math.prod(max(d, 1) for d in shape) > MAX_ELEMS:
            raise ContainerError(f"{where}: shape {shape} is absurd, expected at most 2**55 elements")
        if not 0 <= found["axis"] < len(shape):
            raise ContainerError(f"{where}: axis is {found['axis']}, expected 0 to {len(shape) - 1}")
        try:
            stored = SparseFormat(
                Pattern.parse(found.pop("pattern")),
                encodings.get(found.pop("encoding")),
                packing.parse(found.pop("packing")),
            )
        except NmsimError as error:
            raise ContainerError(f"{where}: {error}") from None
        return cls(name, stored, **(found | {"shape": tuple(shape)}))


@dataclass(frozen=True)
class MetadataBounds:
    """Most bytes and bits that the codes of a tensor take; exactly those when `exact`."""

    stream_bytes: int
    payload_bits: int
    padding_bits: int
    exact: bool

    @classmethod
    def of(cls, format: SparseFormat, n_groups: int) -> Self:
        """Compute them without encoding anything.

        Raises
        ------
        BitstreamError
            An encoding and a packing that do not go together.
        """
        bits, count, policy = format.code_bits, format.n_codes(n_groups), format.packing
        lengths = format.encoding.code_lengths(words.zeros(0, bits), format.pattern)
        if lengths is None:
            report = packing.report(count, bits, policy)
            return cls(report.stream_bytes, report.payload_bits, report.padding_bits, True)
        packing.refuse_differing_lengths(policy)
        most = count * int(policy.slot_bits(bits))
        return cls(bits_to_bytes(most), count * bits, most, False)


def read_entries(file: SafetensorsReader) -> dict[str, PackedEntry]:
    """Find the packed tensors of a file, and check each against the two tensors it consists of.

    Parameters
    ----------
    file : SafetensorsReader

    Returns
    -------
    dict of str to PackedEntry
        Empty for a file that is not packed.

    Raises
    ------
    ContainerError
        Another version of the rules, an entry that is malformed, or tensors that are missing or do not fit
        it.
    """
    version = file.metadata.get(FORMAT_KEY)
    if version is None:
        return {}
    if version != FORMAT_VERSION:
        raise ContainerError(
            f"{file.path}: __metadata__ entry {FORMAT_KEY} is {brief(version)}, expected {brief(FORMAT_VERSION)}"
        )
    entries: dict[str, PackedEntry] = {}
    for key, text in file.metadata.items():
        if key.startswith(ENTRY_PREFIX):
            name = key.removeprefix(ENTRY_PREFIX)
            entries[name] = PackedEntry.from_json(name, text, f"{file.path}: __metadata__ entry {brief(key)}")
    # Two entries of the same tensor would give its bytes two meanings.
    taken: dict[str, str] = {}
    for entry in entries.values():
        if entry.name in file.tensors:
            raise ContainerError(
                f"{file.where(entry.name)}: is there both packed and dense, expected one of them"
            )
        for part in (entry.values_name, entry.metadata_name):
            if part in taken:
                raise ContainerError(
                    f"{file.path}: tensor {brief(part)} belongs to both {brief(taken[part])} and {brief(entry.name)}"
                )
            taken[part] = entry.name
        _check_parts(file, entry)
    return entries


def read_outline(file: SafetensorsReader, entry: PackedEntry) -> PackedTensor:
    """Check the fields of one packed tensor of a file, without its values and codes; see `PackedEntry.outline`.

    Raises
    ------
    ContainerError
        Parts that do not fit together.
    """
    values, codes = file.tensors[entry.values_name], file.tensors[entry.metadata_name]
    try:
        return entry.outline(dtypes.BY_CONTAINER_CODE[values.dtype].dtype, codes.stored_bytes)
    except NmsimError as error:
        raise ContainerError(f"{file.where(values.name)}: {error}") from error


def read_packed(file: SafetensorsReader, entry: PackedEntry) -> PackedTensor:
    """Read one packed tensor of a file.

    Raises
    ------
    ContainerError
        Parts that do not fit together, or stated bits that are not those of the codes.
    """
    values, metadata = file.array(entry.values_name), file.array(entry.metadata_name)
    assert not isinstance(values, RawTensor), "checked by read_entries"
    assert not isinstance(metadata, RawTensor), "checked by read_entries"
    try:
        packed = entry.with_parts(values, metadata)
    except NmsimError as error:
        raise ContainerError(f"{file.where(entry.values_name)}: {error}") from error
    # Codes of one width were counted when the header was read. Others have to be read to be counted.
    if not entry.metadata_bounds.exact:
        try:
            packed.check_counts()
        except NmsimError as error:
            raise ContainerError(f"{file.where(entry.metadata_name)}: {error}") from error
    return packed


def _check_parts(file: SafetensorsReader, entry: PackedEntry) -> None:
    for part in (entry.values_name, entry.metadata_name):
        if part not in file.tensors:
            raise ContainerError(
                f"{file.path}: __metadata__ entry {brief(entry.key)} needs tensor {brief(part)}, which the file has not"
            )

    def refuse(info: TensorInfo, what: str, found: Any, expected: Any) -> NoReturn:
        raise ContainerError(
            f"{file.where(info.name)}: {what} {found}, expected {expected} by entry {brief(entry.key)}"
        )

    values, codes = file.tensors[entry.values_name], file.tensors[entry.metadata_name]
    if values.dtype not in dtypes.BY_CONTAINER_CODE:
        refuse(values, "dtype", values.dtype, f"one of {', '.join(dtypes.BY_CONTAINER_CODE)}")
    if values.shape != entry.values_shape:
        refuse(values, "shape", list(values.shape), list(entry.values_shape))
    if codes.dtype != METADATA_DTYPE or len(codes.shape) != 1:
        refuse(codes, "is", f"{codes.dtype} {list(codes.shape)}", f"{METADATA_DTYPE} of one dimension")
    try:
        bounds = entry.metadata_bounds
    except NmsimError as error:
        raise ContainerError(f"{file.path}: __metadata__ entry {brief(entry.key)}: {error}") from None
    payload, padding = entry.metadata_payload_bits, entry.metadata_padding_bits
    # Codes of one width have a known length. Of others only the sum is known before they are read, see `read_packed`.
    if bounds.exact:
        if codes.stored_bytes != bounds.stream_bytes:
            refuse(codes, "length in bytes", codes.stored_bytes, bounds.stream_bytes)
        if (payload, padding) != (bounds.payload_bits, bounds.padding_bits):
            refuse(
                codes,
                "payload and padding bits",
                (payload, padding),
                (bounds.payload_bits, bounds.padding_bits),
            )
    elif min(payload, padding) < 0 or bits_to_bytes(payload + padding) != codes.stored_bytes:
        refuse(codes, "length in bytes", codes.stored_bytes, f"what {payload} + {padding} bits take")


def _rows(shape: tuple[int, ...], axis: int) -> int:
    return math.prod(shape[:axis] + shape[axis + 1 :])


def _n_groups(shape: tuple[int, ...], axis: int, pattern: Pattern) -> int:
    return _rows(shape, axis) * pattern.groups(shape[axis])


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
                f"tensor name {brief(entry.name)} is a packed tensor and also a part of another one"
            )
    safetensors.refuse_reserved_names(part.name for part in parts)
    free = free_entries(metadata or {}, entries)
    # The widest elements come first, so that every tensor begins at a multiple of its element.
    in_data_order = sorted(parts, key=lambda part: -DTYPE_BITS[part.dtype])
    room = safetensors.header_room(((p.name, p.dtype, p.shape) for p in in_data_order), free)
    with safetensors.create(Path(path), room, force=True) as sink:
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
                found[entry.name] = read_packed(file, entry)
            elif name not in codes:
                found[name] = file.array(name)
    return found


def free_entries(metadata: Mapping[str, str], entries: Iterable[PackedEntry]) -> dict[str, str]:
    """Join a user's free entries with those of nmsim, which a user must not set.

    `nmsim_format` is set when there are entries.
    """
    if not isinstance(metadata, Mapping):
        raise ContainerError(f"metadata is a {type(metadata).__name__}: expected a mapping of str to str")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ContainerError(f"metadata entry {brief(key)} is {brief(value)}: expected a str for a str")
        if not (is_unicode(key) and is_unicode(value)):
            raise ContainerError(f"metadata entry {brief(key)}: expected valid Unicode")
        if key == FORMAT_KEY or key.startswith(ENTRY_PREFIX):
            raise ContainerError(
                f"metadata entry {brief(key)}: expected another name, nmsim keeps this one for itself"
            )
    ours = {entry.key: entry.to_json() for entry in entries}
    return dict(metadata) | ({FORMAT_KEY: FORMAT_VERSION} | ours if ours else {})


def _array_part(name: str, array: Any) -> _Part:
    if not isinstance(array, np.ndarray | np.generic):
        raise ContainerError(
            f"tensor {brief(name)} is a {type(array).__name__}: expected a numpy array, a PackedTensor or a "
            "RawTensor"
        )
    code = CODE_OF_DTYPE.get(array.dtype.name)
    if code is None or not array.dtype.isnative:
        raise ContainerError(
            f"tensor {brief(name)} has dtype {array.dtype}: expected one of {', '.join(CODE_OF_DTYPE)}, in native "
            "byte order"
        )
    return _Part(name, code, array.shape, np.asarray(array))
