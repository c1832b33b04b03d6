"""`SparseWeights`: an N:M matrix as the kernels read it, and the roads in and out.

A row's values and its codes lie one after the other exactly as in a `nmsim.PackedTensor`, but every row begins at a
whole byte: rows are filled up to whole *steps*, the few groups that a kernel takes at a time. A group added so keeps
its lowest positions, and all its values are zero.
"""

from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import nmsim
from kernels.stored.errors import KernelError
from nmsim import encodings, packing
from nmsim import mask as masks
from nmsim.mask import BoolArray
from nmsim.pattern import Pattern
from nmsim.units import ceil_div
from nmsim.words import Words

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
PACKINGS = {"bitmask": "bitstream", "index": "bitstream", "combinatorial": "power_of_two"}
"""Encoding -> how its codes are packed."""
STEP_ELEMS = {Pattern(2, 4): 16, Pattern(4, 8): 16, Pattern(8, 16): 16, Pattern(16, 32): 32}
"""Dense elements that a kernel made for the pattern takes at a time."""
MAX_M = 32
SLACK_BYTES = 64
"""Readable bytes behind the last code and the last value: kernels load whole machine words."""
CACHE_LINE_BYTES = 64


@dataclass(frozen=True, eq=False)
class SparseWeights:
    """W[N, K] of which N in M elements along K are stored. Made by `pack` and `from_packed`; read-only.

    Behind the last byte of both arrays `SLACK_BYTES` more must be readable.

    Parameters
    ----------
    values : array [rows, G * N]
        Stored values; G is the number of groups of a row, those added included.
    metadata : uint8 array [rows, bytes of a row]
    pattern : Pattern
    encoding : str
        `"bitmask"`, `"index"` or `"combinatorial"`.
    shape : tuple of int
        (N, K) of the dense matrix.
    """

    values: NDArray[Any]
    metadata: NDArray[np.uint8]
    pattern: Pattern
    encoding: str
    shape: tuple[int, int]

    @property
    def packing(self) -> str:
        """The policy of `nmsim.packing` that codes are stored under."""
        return PACKINGS[self.encoding]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored values."""
        return self.values.dtype

    @property
    def groups_per_row(self) -> int:
        """Groups stored of each row, those added to fill its last step included."""
        return int(self.values.shape[1]) // self.pattern.n

    @property
    def values_bytes(self) -> int:
        """Bytes of all stored values."""
        return self.values.nbytes

    @property
    def metadata_bytes(self) -> int:
        """Bytes of all stored codes."""
        return self.metadata.nbytes

    @property
    def values_padding_bytes(self) -> int:
        """Bytes of `values_bytes` that groups added to fill steps take."""
        rows, k = self.shape
        return self.values_bytes - rows * self.pattern.groups(k) * self.pattern.n * self.dtype.itemsize

    @property
    def metadata_padding_bytes(self) -> int:
        """Bytes of `metadata_bytes` beyond the stream that `nmsim.compress` would store."""
        rows, k = self.shape
        bits = encodings.get(self.encoding).code_bits(self.pattern)
        report = packing.report(rows * self.pattern.groups(k), bits, self.packing)
        return self.metadata_bytes - report.stream_bytes

    def group_masks(self, rows: slice) -> Words:
        """Decode the metadata of some rows: masks [rows * groups_per_row]."""
        part = self.metadata[rows]
        n_groups = len(part) * self.groups_per_row
        return encodings.get(self.encoding).read_stream(
            part.reshape(-1), self.pattern, n_groups, self.packing
        )


def pack(
    weights: NDArray[Any],
    pattern: Pattern | str,
    encoding: str = "bitmask",
    mask: BoolArray | None = None,
    *,
    threads: int = 1,
) -> SparseWeights:
    """Prune a matrix along K and store what is kept.

    Parameters
    ----------
    weights : array [N, K] of float32, float16 or ml_dtypes.bfloat16
        In any memory order. Kept elements are stored bit for bit.
    pattern : Pattern or str
        M at most 32.
    encoding : {"bitmask", "index", "combinatorial"}
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
        Not a matrix of a type listed, or a pattern or encoding without kernels.
    PatternError
        A mask that keeps more than N of a group, or is not a bool array of that shape.

    Examples
    --------
    >>> w = pack(np.arange(32, dtype=np.float32).reshape(2, 16), "8:16")
    >>> w.values_bytes, w.metadata_bytes, w.packing
    (64, 4, 'bitstream')
    """
    pattern = checked_pattern(pattern)
    packing_policy = PACKINGS[checked_encoding(encoding)]
    weights = checked_matrix(weights)
    packed = nmsim.compress(
        weights, pattern, encoding=encoding, packing=packing_policy, mask=mask, threads=threads
    )
    return _lay_out(packed, trusted=True, threads=threads)


def from_packed(packed: nmsim.PackedTensor, *, threads: int = 1) -> SparseWeights:
    """Take a `nmsim.PackedTensor`: its encoding, its codes and its values, under the packing kernels read.

    Raises
    ------
    KernelError
        Not a matrix pruned along its second axis, or a type, pattern or encoding without kernels.
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
    checked_pattern(packed.pattern)
    checked_encoding(packed.encoding)
    if packed.dtype not in DTYPES.values():
        raise KernelError(f"packed tensor of dtype {packed.dtype}: expected one of {', '.join(DTYPES)}")
    return _lay_out(packed, trusted=False, threads=threads)


def unpack(weights: SparseWeights, *, threads: int = 1) -> NDArray[Any]:
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
    codec, pattern, n_groups = encodings.get(weights.encoding), weights.pattern, weights.groups_per_row
    report = packing.report(rows * n_groups, codec.code_bits(pattern), weights.packing)
    filled = nmsim.PackedTensor(
        values=weights.values,
        metadata=weights.metadata.reshape(-1),
        pattern=pattern,
        encoding=weights.encoding,
        packing=weights.packing,
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
            f"weights of type {type(weights).__name__}: expected SparseWeights, as kernels.cpu.pack makes them"
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
        raise KernelError(f"encoding {encoding!r}: the CPU kernels read one of {', '.join(PACKINGS)}")
    return encoding


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make room that begins at a cache line and has readable bytes behind its end. Unset but for those."""
    n_bytes = prod(shape) * dtype.itemsize
    raw = np.empty(n_bytes + SLACK_BYTES + CACHE_LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE_BYTES
    raw[start + n_bytes :] = 0
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def step_groups(pattern: Pattern, encoding: str) -> int:
    """Groups of a step: as many as the kernel takes at a time, or as make whole bytes."""
    if pattern in STEP_ELEMS:
        return STEP_ELEMS[pattern] // pattern.m
    slot_bits = packing.stream_bits(1, encodings.get(encoding).code_bits(pattern), PACKINGS[encoding])
    return 8 // gcd(8, slot_bits)


def checked_pattern(pattern: Pattern | str) -> Pattern:
    """Take a pattern, or the text of one, and refuse one without kernels."""
    pattern = masks.as_pattern(pattern)
    if pattern.m > MAX_M:
        raise KernelError(f"pattern {pattern}: the CPU kernels take M up to {MAX_M}")
    return pattern


def _lay_out(packed: nmsim.PackedTensor, *, trusted: bool, threads: int) -> SparseWeights:
    """Give every row a beginning of its own. Codes that are not trusted are decoded, and so checked."""
    pattern, codec = packed.pattern, encodings.get(packed.encoding)
    rows, n_groups = packed.rows, packed.groups_per_row
    step = step_groups(pattern, codec.name)
    padded = ceil_div(n_groups, step) * step
    stream = packed.metadata
    if not trusted or padded != n_groups:
        group_masks = codec.read_stream(stream, pattern, rows * n_groups, packed.packing, threads=threads)
        all_masks = np.full((rows, padded), (1 << pattern.n) - 1, group_masks.dtype)
        all_masks[:, :n_groups] = group_masks.reshape(rows, n_groups)
        stream, _ = codec.write_stream(all_masks.reshape(-1), pattern, PACKINGS[codec.name], threads=threads)
    metadata = aligned((rows, len(stream) // rows), np.dtype(np.uint8))
    metadata[:] = stream.reshape(metadata.shape)
    values = aligned((rows, padded * pattern.n), packed.dtype)
    values[:, : n_groups * pattern.n] = packed.values
    values[:, n_groups * pattern.n :] = 0
    metadata.flags.writeable = values.flags.writeable = False
    return SparseWeights(values, metadata, pattern, codec.name, (packed.shape[0], packed.shape[1]))
