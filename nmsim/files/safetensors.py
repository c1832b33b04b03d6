"""Safetensors files tensor by tensor: the header with every claim checked, a reader, and a writer.

A file is 8 bytes (length of the header, little endian), the header (JSON, padded with spaces), and the data.
The tensors cover the data from end to end, without gap or overlap. The safetensors library reads and writes
the same format. nmsim parses headers itself for two reasons. The library's numpy reader has no bfloat16 or 8-bit
floats without a copy, and its errors name neither file nor byte.

The reader opens the file and reads a tensor, or a part of one, when it is asked for, into memory of its own. It does not
map the file: a mapped file that another process cuts would end this process by a signal.

The writer does not need the length of every tensor before it begins. The header comes first in the file but is known
last. Room for it is left in front, and what it does not need of that is filled with spaces, which the format allows.
Tensors of unknown length are kept in a second, nameless file and appended at the end, which also keeps every tensor
behind them aligned.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import ContainerError, brief
from nmsim.files import atomic
from nmsim.support.sources import Pieces

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64
MAX_ELEMS = 2**55
MAX_DIGITS = 40
ALIGN_BYTES = 8
METADATA_KEY = "__metadata__"
ENTRY_KEYS = ("dtype", "shape", "data_offsets")

DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Every dtype of the format (safetensors 0.8) -> bits of an element."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header states it; `begin` and `end` are bytes counted from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def stored_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A checked header: tensors in their listed order, and the first byte of the data."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    data_start: int


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int | None:
    """Count the bytes of a tensor; None when elements narrower than a byte do not fill whole bytes.

    Examples
    --------
    >>> tensor_bytes("BF16", [2, 3]), tensor_bytes("F4", [3])
    (12, None)
    """
    whole, rest = divmod(math.prod(shape) * DTYPE_BITS[dtype], 8)
    return None if rest else whole


def parse(raw: bytes, path: str, file_bytes: int) -> Header:
    """Parse and check a header.

    Parameters
    ----------
    raw : bytes
        The file's first bytes: all of the header, or all of the file when that is shorter.
    path : str
        What the file is called in errors.
    file_bytes : int
        Length of the file.

    Raises
    ------
    ContainerError
        Anything that the format does not allow. The message names the file, the tensor, the byte, what was
        found and what was expected.
    """
    length = header_bytes(raw[:LENGTH_BYTES], path, file_bytes)
    text = raw[LENGTH_BYTES : LENGTH_BYTES + length]
    entries = _loads(text, path)
    check = _Checker(path, text)
    data_start = LENGTH_BYTES + length
    metadata = check.metadata(entries.pop(METADATA_KEY, {}))
    tensors = tuple(check.entry(name, entry) for name, entry in entries.items())
    check.coverage(tensors, data_start, file_bytes)
    return Header(tensors, metadata, data_start)


def header_bytes(first: bytes, path: str, file_bytes: int) -> int:
    """Read the header's length from a file's first bytes, and refuse one that cannot be true."""
    if file_bytes < LENGTH_BYTES:
        raise ContainerError(
            f"{path}: byte 0: the file has {file_bytes} bytes, expected at least {LENGTH_BYTES} for the "
            "length of a safetensors header"
        )
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        raise ContainerError(
            f"{path}: byte 0: header length is {length}, expected at most {MAX_HEADER_BYTES} (is this a "
            "safetensors file?)"
        )
    if length > file_bytes - LENGTH_BYTES:
        raise ContainerError(
            f"{path}: byte 0: header length is {length}, expected at most {file_bytes - LENGTH_BYTES}, which "
            f"is what is left of a file of {file_bytes} bytes"
        )
    return length


def render(tensors: Iterable[TensorInfo], metadata: Mapping[str, str], room_bytes: int = 0) -> bytes:
    """Write a header, its length in front, padded with spaces so that the data starts at a multiple of 8.

    Parameters
    ----------
    tensors : TensorInfo, in the order in which they are to be listed
    metadata : mapping of str to str
        Left out when empty.
    room_bytes : int
        Least number of bytes to fill, the 8 of the length included.

    Examples
    --------
    >>> render([], {})
    b'\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x00{}      '
    """
    entries: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    for info in tensors:
        entries[info.name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.begin, info.end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    wanted = max(LENGTH_BYTES + len(text), room_bytes)
    text = text.ljust(wanted + -wanted % ALIGN_BYTES - LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise ContainerError(f"the header takes {len(text)} bytes: expected at most {MAX_HEADER_BYTES}")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def loads_strict(text: str) -> Any:
    """Parse JSON. A key given twice, NaN, Infinity and whole numbers beyond `MAX_DIGITS` are refused; all as ValueError."""
    try:
        return json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant, parse_int=_whole_number
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _loads(text: bytes, path: str) -> dict[str, Any]:
    if text[:1] != b"{":
        raise ContainerError(
            f"{path}: byte {LENGTH_BYTES}: header starts with {brief(text[:1])}, expected b'{{'"
        )
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        at = LENGTH_BYTES + error.start
        raise ContainerError(f"{path}: byte {at}: header is not UTF-8: {error.reason}") from None
    try:
        entries = loads_strict(decoded)
    except json.JSONDecodeError as error:
        at = LENGTH_BYTES + len(decoded[: error.pos].encode())
        raise ContainerError(f"{path}: byte {at}: header is not JSON: {error.msg}") from None
    except ValueError as error:
        raise ContainerError(f"{path}: byte {LENGTH_BYTES}: header is not valid: {error}") from None
    assert isinstance(entries, dict), "JSON that starts with { is an object"
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {brief(key)} is given twice, expected once")
        found[key] = value
    return found


def _whole_number(text: str) -> int:
    """Read a whole number; no count of bytes or elements has as many digits as is refused here."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits, expected at most {MAX_DIGITS}")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


class _Checker:
    """The checks of one header; knows where in the file a name stands."""

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._text = text

    def _fail(self, name: str, message: str) -> NoReturn:
        try:
            at = self._text.find(json.dumps(name, ensure_ascii=False).encode())
        except UnicodeEncodeError:
            at = -1
        raise ContainerError(
            f"{self._path}: tensor {brief(name)}, header entry at byte {LENGTH_BYTES + max(at, 0)}: {message}"
        )

    def metadata(self, found: Any) -> dict[str, str]:
        """Take the free entries: text to text."""
        if not isinstance(found, dict):
            self._fail(METADATA_KEY, f"found {brief(found)}, expected an object of strings")
        for key, value in found.items():
            if not isinstance(value, str):
                self._fail(METADATA_KEY, f"entry {brief(key)} is {brief(value)}, expected a string")
            if not (is_unicode(key) and is_unicode(value)):
                self._fail(METADATA_KEY, f"entry {brief(key)} is not valid Unicode")
        return found

    def entry(self, name: str, found: Any) -> TensorInfo:
        """Take one tensor's entry."""
        if not is_unicode(name):
            self._fail(name, "the name is not valid Unicode")
        if not isinstance(found, dict) or set(found) != set(ENTRY_KEYS):
            self._fail(name, f"found {brief(found)}, expected an object of {', '.join(ENTRY_KEYS)}")
        dtype, shape, offsets = (found[key] for key in ENTRY_KEYS)
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            self._fail(name, f"dtype {brief(dtype)}, expected one of {', '.join(DTYPE_BITS)}")
        if not _are_counts(shape):
            self._fail(name, f"shape {brief(shape)}, expected a list of non-negative integers")
        if len(shape) > MAX_DIMENSIONS:
            self._fail(name, f"shape has {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}")
        # A dimension of 0 would hide absurd other dimensions, so it counts as 1 here.
        if math.prod(max(d, 1) for d in shape) > MAX_ELEMS:
            self._fail(name, f"shape {brief(shape)} is absurd: expected at most 2**55 elements")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self._fail(name, f"data_offsets {brief(offsets)}, expected [begin, end] with 0 <= begin <= end")
        begin, end = offsets
        expected = tensor_bytes(dtype, shape)
        if expected is None:
            self._fail(name, f"{math.prod(shape)} elements of {dtype} do not fill whole bytes")
        if end - begin != expected:
            self._fail(
                name,
                f"data_offsets [{begin}, {end}] span {end - begin} bytes, expected {expected} for {dtype} of "
                f"shape {list(shape)}",
            )
        return TensorInfo(name, dtype, tuple(shape), begin, end)

    def coverage(self, tensors: tuple[TensorInfo, ...], data_start: int, file_bytes: int) -> None:
        """Refuse gaps, overlaps, and data that is missing or left over."""
        reached = 0
        for info in sorted(tensors, key=lambda info: (info.begin, info.end)):
            if info.begin != reached:
                what = "a gap" if info.begin > reached else "an overlap"
                self._fail(
                    info.name,
                    f"data begins at byte {data_start + info.begin}, expected byte {data_start + reached}, "
                    f"where the tensor before it ends ({what} of {abs(info.begin - reached)} bytes)",
                )
            reached = info.end
            if data_start + reached > file_bytes:
                self._fail(
                    info.name,
                    f"data ends at byte {data_start + reached}, expected at most {file_bytes}, the length of "
                    "the file (truncated?)",
                )
        if data_start + reached != file_bytes:
            raise ContainerError(
                f"{self._path}: byte {data_start + reached}: the last tensor ends here, expected the end of "
                f"the file but {file_bytes - data_start - reached} bytes are left"
            )


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def is_unicode(text: str) -> bool:
    """Say whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


EXTRA_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
"""Dtypes that numpy can hold and nmsim does not prune, by their name in the file."""

CODE_OF_DTYPE = {kind.name: kind.container_code for kind in dtypes.TYPES} | {
    dtype.name: code for code, dtype in EXTRA_DTYPES.items()
}
"""Numpy's name of a dtype -> its name in the file."""


@dataclass(frozen=True, eq=False)
class RawTensor:
    """A tensor of a dtype that numpy cannot hold (`F4`, `F6_E2M3`, `F6_E3M2`): its bytes as in the file.

    Parameters
    ----------
    dtype : str
        As the safetensors format names it.
    shape : tuple of int
        In elements.
    data : uint8 array, 1-D

    Raises
    ------
    ContainerError
        Fields that do not fit together.

    Examples
    --------
    >>> RawTensor("F4", (2, 2), np.array([0x21, 0x43], np.uint8)).shape
    (2, 2)
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BITS:
            raise ContainerError(
                f"raw tensor dtype {brief(self.dtype)}: expected one of {', '.join(DTYPE_BITS)}"
            )
        expected = tensor_bytes(self.dtype, self.shape)
        if self.data.dtype != np.uint8 or self.data.ndim != 1 or len(self.data) != expected:
            raise ContainerError(
                f"raw tensor data is {self.data.dtype} {self.data.shape}: expected {expected} bytes as uint8 "
                f"for {self.dtype} of shape {self.shape}"
            )


def numpy_dtype(code: str) -> np.dtype[Any] | None:
    """Find the numpy dtype of a name in the file; None when there is none.

    Examples
    --------
    >>> numpy_dtype("BF16"), numpy_dtype("F4")
    (dtype(bfloat16), None)
    """
    kind = dtypes.BY_CONTAINER_CODE.get(code)
    return kind.dtype if kind else EXTRA_DTYPES.get(code)


class SafetensorsReader:
    """An open safetensors file, for a `with` block; every array read from it is new and the caller's own.

    Parameters
    ----------
    path : path of a file

    Attributes
    ----------
    path : Path
    tensors : dict of str to TensorInfo
        In the order in which the header lists them.
    metadata : dict of str to str
        The header's free entries.
    data_start : int
        Byte of the file at which the data starts.

    Raises
    ------
    ContainerError
        No such file, or one whose header or length is not right.

    Examples
    --------
    >>> import tempfile, safetensors.numpy
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> safetensors.numpy.save_file({"x": np.arange(3)}, path)
    >>> with SafetensorsReader(path) as file:
    ...     file.tensors["x"].dtype, file.array("x").tolist()
    ('I64', [0, 1, 2])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._pieces = Pieces(path, expected="a safetensors file")
        try:
            size = self._pieces.size_bytes
            first = self._read(0, min(LENGTH_BYTES, size)).tobytes()
            length = header_bytes(first, str(path), size)
            header = parse(self._read(0, LENGTH_BYTES + length).tobytes(), str(path), size)
        except BaseException:
            self.close()
            raise
        self.tensors: dict[str, TensorInfo] = {info.name: info for info in header.tensors}
        self.metadata = header.metadata
        self.data_start = header.data_start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._pieces.close()

    def in_data_order(self) -> list[TensorInfo]:
        """List the tensors in the order in which their data lies in the file."""
        return sorted(self.tensors.values(), key=lambda info: (info.begin, info.end))

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Read a tensor's bytes.

        Raises
        ------
        ContainerError
            The file was changed since it was opened, or cannot be read.
        """
        info = self.tensors[name]
        return self._read(self.data_start + info.begin, info.stored_bytes)

    def array(self, name: str) -> NDArray[Any] | RawTensor:
        """Read a tensor; errors as for `raw`."""
        info = self.tensors[name]
        dtype = numpy_dtype(info.dtype)
        data = self.raw(name)
        if dtype is None:
            return RawTensor(info.dtype, info.shape, data)
        return data.view(dtype).reshape(info.shape)

    def read(self, name: str, begin: int, target: NDArray[Any]) -> NDArray[Any]:
        """Fill a contiguous array with bytes of a tensor, from its byte `begin` on; gives the array back.

        Raises
        ------
        ContainerError
            The file cannot be read, or has become shorter.
        """
        info = self.tensors[name]
        assert target.flags.c_contiguous, f"{name}: a copy would be filled"
        raw = target.reshape(-1).view(np.uint8)
        assert begin + len(raw) <= info.stored_bytes, f"{name}: bytes beyond its end"
        self._pieces.read_into(raw.data, self.data_start + info.begin + begin)
        return target

    def pieces(self, name: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Read a tensor in pieces of at most `COPY_BYTES`, each with its first byte, valid until the next one."""
        size = self.tensors[name].stored_bytes
        room = np.empty(min(size, COPY_BYTES), np.uint8)
        for begin in range(0, size, COPY_BYTES):
            yield begin, self.read(name, begin, room[: min(COPY_BYTES, size - begin)])

    def where(self, name: str) -> str:
        """Say where a tensor is, for errors: file, tensor, byte."""
        info = self.tensors[name]
        return f"{self.path}: tensor {brief(name)}, data at byte {self.data_start + info.begin}"

    def _read(self, begin: int, size_bytes: int) -> NDArray[np.uint8]:
        data = np.empty(size_bytes, np.uint8)
        self._pieces.read_into(data.data, begin)
        return data


COPY_BYTES = 1 << 22
"""Bytes that are copied at a time. A multiple of the width of every element."""


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

    def reserve(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        """Make room for a tensor after those before it; `write_at` fills it."""
        size = tensor_bytes(dtype, shape)
        assert size is not None, f"{name}: {dtype} {shape} does not fill whole bytes"
        self._written[name] = TensorInfo(name, dtype, tuple(shape), self._reached, self._reached + size)
        self._reached += size

    def write_at(self, name: str, begin: int, data: NDArray[Any]) -> None:
        """Write bytes of a reserved tensor, from its byte `begin` on. `data` is any contiguous array of them."""
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self._stream.seek(self._place(name, begin, len(raw)))
        self._stream.write(raw.data)

    def read_at(self, name: str, begin: int, target: NDArray[Any]) -> None:
        """Read what was written of a reserved tensor into a contiguous array; what was not written may be anything."""
        raw = target.reshape(-1).view(np.uint8)
        self._stream.seek(self._place(name, begin, len(raw)))
        found = self._stream.read(len(raw))
        raw[: len(found)] = np.frombuffer(found, np.uint8)

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor, as far as it is written or reserved."""
        return (self._written.get(name) or self._late[name]).stored_bytes

    def _place(self, name: str, begin: int, size: int) -> int:
        info = self._written[name]
        assert begin + size <= info.stored_bytes, f"{name}: bytes beyond its end"
        return self._room_bytes + info.begin + begin

    def add(self, name: str, dtype: str, shape: Sequence[int], data: NDArray[Any]) -> None:
        """Write a whole tensor after those before it. `data` is any contiguous array of the tensor's bytes."""
        self.reserve(name, dtype, shape)
        self.write_at(name, 0, data)

    def append_late(self, name: str, data: NDArray[np.uint8]) -> None:
        """Write the next bytes of a tensor of bytes that lies behind all reserved ones; its length need not be known.

        Such tensors are written one after the other.
        """
        begin = self._late[name].begin if name in self._late else self._late_reached
        self._late_stream.write(np.ascontiguousarray(data).data)
        self._late_reached += len(data)
        self._late[name] = TensorInfo(name, "U8", (self._late_reached - begin,), begin, self._late_reached)

    def finish(self, order: Iterable[str], metadata: Mapping[str, str]) -> None:
        """Append the late tensors and write the header, which lists tensors in the given order."""
        self._late_stream.seek(0)
        self._stream.seek(self._room_bytes + self._reached)
        shutil.copyfileobj(self._late_stream, self._stream, COPY_BYTES)
        behind = {
            name: TensorInfo(
                name, info.dtype, info.shape, self._reached + info.begin, self._reached + info.end
            )
            for name, info in self._late.items()
        }
        written = self._written | behind
        header = render([written[name] for name in order], metadata, self._room_bytes)
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
    return len(render(infos, metadata))


def refuse_reserved_names(names: Iterable[str]) -> None:
    """Refuse names that the format keeps for itself, is given twice, or cannot write."""
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str):
            raise ContainerError(f"tensor name {brief(name)} (type {type(name).__name__}): expected a str")
        if name == METADATA_KEY:
            raise ContainerError(f"tensor name {brief(name)}: the safetensors format keeps it for itself")
        if not is_unicode(name):
            raise ContainerError(f"tensor name {brief(name)}: expected valid Unicode")
        if name in seen:
            raise ContainerError(f"tensor name {brief(name)} is taken twice in the file to be written")
        seen.add(name)
