"""Reading a safetensors file tensor by tensor, through a memory map: nothing is read before it is needed."""

import contextlib
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import ContainerError
from nmsim.files import header as headers
from nmsim.files.header import DTYPE_BITS, TensorInfo, tensor_bytes

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
            raise ContainerError(f"raw tensor dtype {self.dtype!r}: expected one of {', '.join(DTYPE_BITS)}")
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
    """An open safetensors file, for a `with` block; arrays read from it are read-only views of the file.

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
        self._map = _map_file(self.path)
        try:
            size = len(self._map)
            length = headers.header_bytes(self._map[: headers.LENGTH_BYTES], str(path), size)
            raw = self._map[: headers.LENGTH_BYTES + length]
            header = headers.parse(raw, str(path), size)
        except BaseException:
            self._map.close()
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
        """Let go of the file. Arrays that are still held keep their memory valid."""
        with contextlib.suppress(BufferError):  # views are alive: the map closes with the last of them
            self._map.close()

    def in_data_order(self) -> list[TensorInfo]:
        """List the tensors in the order in which their data lies in the file."""
        return sorted(self.tensors.values(), key=lambda info: (info.begin, info.end))

    def raw(self, name: str) -> NDArray[np.uint8]:
        """View a tensor's bytes."""
        info = self.tensors[name]
        if not info.stored_bytes:
            return np.zeros(0, np.uint8)
        return np.frombuffer(self._map, np.uint8, info.stored_bytes, self.data_start + info.begin)

    def array(self, name: str) -> NDArray[Any] | RawTensor:
        """View a tensor; it is a copy only if its data is not aligned to its items."""
        info = self.tensors[name]
        dtype = numpy_dtype(info.dtype)
        data = self.raw(name)
        if dtype is None:
            return RawTensor(info.dtype, info.shape, data)
        array = data.view(dtype).reshape(info.shape)
        return array if array.flags.aligned else array.copy()

    def where(self, name: str) -> str:
        """Say where a tensor is, for errors: file, tensor, byte."""
        info = self.tensors[name]
        return f"{self.path}: tensor {name!r}, data at byte {self.data_start + info.begin}"

    def release(self, name: str) -> None:
        """Give a tensor's pages back to the system; they are read again when needed. Bounds memory in use."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        info = self.tensors[name]
        begin = (self.data_start + info.begin) // mmap.PAGESIZE * mmap.PAGESIZE
        if info.stored_bytes:
            self._map.madvise(mmap.MADV_DONTNEED, begin, self.data_start + info.end - begin)


def _map_file(path: Path) -> mmap.mmap:
    """Map a regular file that is not empty."""
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ContainerError(f"{path}: is no regular file, expected a safetensors file")
            if status.st_size < headers.LENGTH_BYTES:
                headers.header_bytes(b"", str(path), status.st_size)
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ContainerError(f"{path}: cannot be read: {error.strerror or error}") from error
