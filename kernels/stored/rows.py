"""`SparseWeights`: an N:M matrix as the kernels read it, how it is made, and which formats kernels read.

A row's values and its codes lie one after the other as in a `nmsim.PackedTensor`, but every row begins at a whole byte.
Rows are filled up to whole *steps*, the few groups that a kernel takes at a time. A group added so keeps its lowest
positions, and all its values are zero.
"""

import functools
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import nmsim
from kernels.stored.errors import KernelError
from nmsim import packing
from nmsim.dtypes import refuse_not_finite
from nmsim.errors import brief
from nmsim.format import DEFAULT_PACKING, FormatLike, SparseFormat, sparse_format
from nmsim.mask import BoolArray
from nmsim.pattern import Pattern
from nmsim.units import ceil_div
from nmsim.words import Words

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
DEFAULT_ENCODING = "index"
"""The encoding of a format that names none: the one that kernels read fastest."""
PACKINGS = {
    "bitmask": "bitstream",
    "index": "bitstream",
    "combinatorial": "power_of_two",
    "tiled": "power_of_two",
}
"""Encodings with kernels -> the packing of their codes."""
TABLED = ("combinatorial", "tiled")
"""Encodings whose codes are looked up."""
STEP_ELEMS = {Pattern(2, 4): 16, Pattern(4, 8): 16, Pattern(8, 16): 16, Pattern(16, 32): 32}
"""Dense elements that a kernel made for the pattern takes at a time."""
MAX_M = 32
BLOCK_ELEMS = 1 << 18
"""A matrix is packed by rows of so many elements: packing works with some 7 bytes per element beside what it stores."""
SLACK_BYTES = 64
"""Readable bytes behind the last code and the last value: kernels load whole machine words."""
CACHE_LINE_BYTES = 64


class Stored:
    """Common properties of all containers of sparse weights: arrays and tensors both have `nbytes`."""

    values: Any
    metadata: Any
    format: SparseFormat

    @property
    def pattern(self) -> Pattern:
        """The pattern of the format."""
        return self.format.pattern

    @property
    def encoding(self) -> str:
        """Name of the encoding of the format."""
        return self.format.encoding.name

    @property
    def values_bytes(self) -> int:
        """Bytes of all stored values."""
        return int(self.values.nbytes)

    @property
    def metadata_bytes(self) -> int:
        """Bytes of all stored codes."""
        return int(self.metadata.nbytes)


@dataclass(frozen=True, eq=False)
class SparseWeights(Stored):
    """W[N, K] of which N in M elements along K are stored. Made by `compress` and `from_packed`; read-only.

    Behind the last byte of both arrays `SLACK_BYTES` more must be readable.

    Parameters
    ----------
    values : array [rows, G * N]
        Stored values; G is the number of groups of a row, those added included.
    metadata : uint8 array [rows, bytes of a row]
    format : SparseFormat
        As `kernel_format` gives it.
    shape : tuple of int
        (N, K) of the dense matrix.
    """

    values: NDArray[Any]
    metadata: NDArray[np.uint8]
    format: SparseFormat
    shape: tuple[int, int]

    @property
    def packing(self) -> str:
        """The policy of `nmsim.packing` that codes are stored under."""
        return str(self.format.packing)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored values."""
        return self.values.dtype

    @property
    def groups_per_row(self) -> int:
        """Groups stored of each row, those added to fill its last step included."""
        return int(self.values.shape[1]) // self.pattern.n

    @property
    def values_padding_bytes(self) -> int:
        """Bytes of `values_bytes` that groups added to fill steps take."""
        rows, k = self.shape
        return self.values_bytes - rows * self.pattern.groups(k) * self.pattern.n * self.dtype.itemsize

    @property
    def metadata_padding_bytes(self) -> int:
        """Bytes of `metadata_bytes` beyond the stream that `nmsim.compress` would store."""
        rows, k = self.shape
        return self.metadata_bytes - self.format.stream_bytes(rows * self.pattern.groups(k))

    def group_masks(self, rows: slice) -> Words:
        """Decode the metadata of some rows: masks [rows * groups_per_row]."""
        part = self.metadata[rows]
        n_groups = len(part) * self.groups_per_row
        return self.format.encoding.read_stream(part.reshape(-1), self.pattern, n_groups, self.packing)


def compress(
    weights: NDArray[Any], format: FormatLike, *, mask: BoolArray | None = None, threads: int = 1
) -> SparseWeights:
    """Prune a matrix along K and store what is kept.

    Parameters
    ----------
    weights : array [N, K] of float32, float16 or ml_dtypes.bfloat16
        In any memory order. Kept elements are stored bit for bit.
    format : SparseFormat, Pattern or str
        Such as `"8:16"` or `"8:16/bitmask"`, as `kernel_format` takes it.
    mask : bool array [N, K], optional
        What to keep; the greatest magnitudes (`nmsim.prune`) when absent.
    threads : int
        Cores to use.

    Returns
    -------
    SparseWeights

    Raises
    ------
    KernelError
        Not a matrix of a type listed, or a format without kernels.
    PatternError
        A mask that keeps more than N of a group, or is not a bool array of that shape. Without a mask, a weight that is
        NaN or infinite.

    Examples
    --------
    >>> w = compress(np.arange(32, dtype=np.float32).reshape(2, 16), "8:16")
    >>> w.values_bytes, w.metadata_bytes, w.format.short
    (64, 8, '8:16/index')
    """
    chosen = kernel_format(format)
    n_rows, k = checked_matrix(weights).shape
    step = max(1, BLOCK_ELEMS // k)
    if mask is not None or step >= n_rows:
        packed = nmsim.compress(weights, chosen, mask=mask, threads=threads)
        return _lay_out(packed, chosen, trusted=True, threads=threads)
    # Of the whole matrix, so that the error names the place in it.
    refuse_not_finite(weights)
    columns = row_lengths(chosen, k)
    values = aligned((n_rows, columns[0]), weights.dtype)
    metadata = aligned((n_rows, columns[1]), np.dtype(np.uint8))
    for low in range(0, n_rows, step):
        rows = slice(low, low + step)
        part = _lay_out(
            nmsim.compress(weights[rows], chosen, threads=threads), chosen, trusted=True, threads=threads
        )
        values[rows], metadata[rows] = part.values, part.metadata
    metadata.flags.writeable = values.flags.writeable = False
    return SparseWeights(values, metadata, chosen, (n_rows, k))


def from_packed(packed: nmsim.PackedTensor, *, threads: int = 1) -> SparseWeights:
    """Take a `nmsim.PackedTensor`: its encoding, its codes and its values, under the packing kernels read.

    Raises
    ------
    KernelError
        Not a matrix pruned along its second axis, or a type or format without kernels.
    BitstreamError, EncodingError
        The metadata does not decode.
    """
    if not isinstance(packed, nmsim.PackedTensor):
        raise KernelError(f"packed is a {type(packed).__name__}: expected a nmsim.PackedTensor")
    if len(packed.shape) != 2 or packed.axis != 1 or 0 in packed.shape:
        raise KernelError(
            f"packed tensor of shape {packed.shape}, pruned along axis {packed.axis}: expected a matrix [N, K] that is "
            "not empty, pruned along axis 1"
        )
    chosen = kernel_format(SparseFormat(packed.pattern, packed.format.encoding))
    if packed.dtype not in DTYPES.values():
        raise KernelError(f"packed tensor of dtype {packed.dtype}: expected one of {', '.join(DTYPES)}")
    return _lay_out(packed, chosen, trusted=False, threads=threads)


def decompress(weights: SparseWeights, *, threads: int = 1) -> NDArray[Any]:
    """Rebuild the pruned matrix [N, K]: kept values bit for bit, zeros elsewhere.

    Parameters
    ----------
    weights : SparseWeights
    threads : int
        Cores to use.

    Raises
    ------
    KernelError
        Not `SparseWeights`.
    """
    checked_weights(weights)
    rows, k = weights.shape
    pattern, n_groups = weights.pattern, weights.groups_per_row
    report = packing.report(rows * n_groups, weights.format.code_bits, weights.packing)
    filled = nmsim.PackedTensor(
        values=weights.values,
        metadata=weights.metadata.reshape(-1),
        format=weights.format,
        shape=(rows, n_groups * pattern.m),
        axis=1,
        metadata_payload_bits=report.payload_bits,
        metadata_padding_bits=report.padding_bits,
    )
    return np.ascontiguousarray(nmsim.decompress(filled, threads=threads)[:, :k])


def checked_weights(weights: SparseWeights) -> SparseWeights:
    """Refuse anything but `SparseWeights`."""
    if not isinstance(weights, SparseWeights):
        raise KernelError(
            f"weights of type {type(weights).__name__}: expected SparseWeights, as cpu.compress makes them"
        )
    return weights


def checked_matrix(weights: NDArray[Any]) -> NDArray[Any]:
    """Refuse weights that are not a matrix of a type with kernels."""
    if not isinstance(weights, np.ndarray):
        raise KernelError(f"weights of type {type(weights).__name__}: expected a numpy array [N, K]")
    if weights.dtype not in DTYPES.values():
        raise KernelError(f"weights have dtype {weights.dtype}: expected one of {', '.join(DTYPES)}")
    if weights.ndim != 2 or 0 in weights.shape:
        raise KernelError(f"weights have shape {weights.shape}: expected a matrix [N, K] that is not empty")
    return weights


def checked_encoding(encoding: str) -> str:
    """Refuse an encoding without kernels."""
    if encoding not in PACKINGS:
        raise KernelError(f"encoding {brief(encoding)}: kernels read one of {', '.join(PACKINGS)}")
    return encoding


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make room that begins at a cache line and has readable bytes behind its end. Only those are set."""
    n_bytes = prod(shape) * dtype.itemsize
    raw = np.empty(n_bytes + SLACK_BYTES + CACHE_LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE_BYTES
    raw[start + n_bytes :] = 0
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def step_groups(format: SparseFormat) -> int:
    """Groups of a step: as many as the kernel takes at a time, or as make whole bytes."""
    if format.pattern in STEP_ELEMS:
        return STEP_ELEMS[format.pattern] // format.pattern.m
    return 8 // gcd(8, format.stream_bits(1))


def row_lengths(format: SparseFormat, k: int) -> tuple[int, int]:
    """Count the stored values and the bytes of codes of a row of K elements."""
    step = step_groups(format)
    n_groups = ceil_div(format.pattern.groups(k), step) * step
    return n_groups * format.pattern.n, format.stream_bytes(n_groups)


def kernel_format(format: FormatLike) -> SparseFormat:
    """Turn what a caller gave into a format that kernels read: with `index` if it names no encoding.

    Codes are packed as `PACKINGS` says, which also replaces the default packing of a format.

    Parameters
    ----------
    format : SparseFormat, Pattern or str
        M at most 32; `"bitmask"`, `"index"`, `"combinatorial"` or, on the CPU, `"tiled"`.

    Raises
    ------
    KernelError
        A pattern, encoding or packing without kernels.
    PatternError, EncodingError, BitstreamError
        Text that is no format.

    Examples
    --------
    >>> str(kernel_format("8:16")), str(kernel_format("2:4/combinatorial"))
    ('8:16/index/bitstream', '2:4/combinatorial/power_of_two')
    """
    return _of_text(format) if isinstance(format, str) else _readable(format)


@functools.lru_cache(maxsize=4096)
def _of_text(text: str) -> SparseFormat:
    """Parse once: operators of torch take formats as text, and small products take microseconds."""
    return _readable(text)


def _readable(format: FormatLike) -> SparseFormat:
    given = sparse_format(format, encoding=DEFAULT_ENCODING)
    name, policy = checked_encoding(given.encoding.name), PACKINGS[given.encoding.name]
    if given.pattern.m > MAX_M:
        raise KernelError(f"pattern {given.pattern}: kernels take M up to {MAX_M}")
    if str(given.packing) not in (DEFAULT_PACKING, policy):
        raise KernelError(f"packing {given.packing}: kernels read codes of {name} packed as {policy}")
    return SparseFormat(given.pattern, given.encoding, packing.parse(policy))


def _lay_out(
    packed: nmsim.PackedTensor, format: SparseFormat, *, trusted: bool, threads: int
) -> SparseWeights:
    """Give every row a beginning of its own. Codes that are not trusted are decoded, and so checked."""
    pattern, codec = format.pattern, format.encoding
    rows, n_groups = packed.rows, packed.groups_per_row
    step = step_groups(format)
    padded = ceil_div(n_groups, step) * step
    stream = packed.metadata
    if not trusted or padded != n_groups:
        group_masks = codec.read_stream(
            stream, pattern, rows * n_groups, packed.format.packing, threads=threads
        )
        all_masks = np.full((rows, padded), (1 << pattern.n) - 1, group_masks.dtype)
        all_masks[:, :n_groups] = group_masks.reshape(rows, n_groups)
        stream, _ = codec.write_stream(all_masks.reshape(-1), pattern, str(format.packing), threads=threads)
    metadata = aligned((rows, len(stream) // rows), np.dtype(np.uint8))
    metadata[:] = stream.reshape(metadata.shape)
    values = aligned((rows, padded * pattern.n), packed.dtype)
    values[:, : n_groups * pattern.n] = packed.values
    values[:, n_groups * pattern.n :] = 0
    metadata.flags.writeable = values.flags.writeable = False
    return SparseWeights(values, metadata, format, (packed.shape[0], packed.shape[1]))
