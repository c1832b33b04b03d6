"""The header of a safetensors file: parsed with every claim checked, and written.

A file is 8 bytes (length of the header, little endian), the header (JSON, padded with spaces), and the data.
The tensors cover the data from end to end, without gap or overlap. The safetensors library reads and writes
the same format. nmsim parses headers itself for two reasons. The library's numpy reader has no bfloat16 or 8-bit
floats without a copy, and its errors name neither file nor byte.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from nmsim.errors import ContainerError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64
MAX_ELEMS = 2**55
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
    """Parse JSON, with a key given twice, NaN and Infinity refused, and every failure a ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _loads(text: bytes, path: str) -> dict[str, Any]:
    if text[:1] != b"{":
        raise ContainerError(f"{path}: byte {LENGTH_BYTES}: header starts with {text[:1]!r}, expected b'{{'")
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
            raise ValueError(f"key {key!r} is given twice, expected once")
        found[key] = value
    return found


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
            f"{self._path}: tensor {name!r}, header entry at byte {LENGTH_BYTES + max(at, 0)}: {message}"
        )

    def metadata(self, found: Any) -> dict[str, str]:
        """Take the free entries: text to text."""
        if not isinstance(found, dict):
            self._fail(METADATA_KEY, f"found {_short(found)}, expected an object of strings")
        for key, value in found.items():
            if not isinstance(value, str):
                self._fail(METADATA_KEY, f"entry {key!r} is {_short(value)}, expected a string")
            if not (is_unicode(key) and is_unicode(value)):
                self._fail(METADATA_KEY, f"entry {key!r} is not valid Unicode")
        return found

    def entry(self, name: str, found: Any) -> TensorInfo:
        """Take one tensor's entry."""
        if not is_unicode(name):
            self._fail(name, "the name is not valid Unicode")
        if not isinstance(found, dict) or set(found) != set(ENTRY_KEYS):
            self._fail(name, f"found {_short(found)}, expected an object of {', '.join(ENTRY_KEYS)}")
        dtype, shape, offsets = (found[key] for key in ENTRY_KEYS)
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            self._fail(name, f"dtype {_short(dtype)}, expected one of {', '.join(DTYPE_BITS)}")
        if not _are_counts(shape):
            self._fail(name, f"shape {_short(shape)}, expected a list of non-negative integers")
        if len(shape) > MAX_DIMENSIONS:
            self._fail(name, f"shape has {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}")
        # A dimension of 0 would hide absurd other dimensions, so it counts as 1 here.
        if math.prod(max(d, 1) for d in shape) > MAX_ELEMS:
            self._fail(name, f"shape {_short(shape)} is absurd: expected at most 2**55 elements")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self._fail(name, f"data_offsets {_short(offsets)}, expected [begin, end] with 0 <= begin <= end")
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


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
