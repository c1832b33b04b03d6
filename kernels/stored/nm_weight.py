"""`NMWeight`: an N:M matrix as torch tensors, byte for byte what `kernels.cpu` packs, and the roads to it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import nmsim
from kernels import cpu
from kernels.cpu import KernelError, SparseWeights
from kernels.ops import triton_kernels
from kernels.stored import alignment
from kernels.stored.rows import PACKINGS, checked_encoding, checked_pattern, step_groups
from kernels.stored.tensors import as_array, as_tensor, checked_place, checked_tensor, checked_type
from nmsim import encodings, packing
from nmsim import mask as masks
from nmsim.errors import PatternError
from nmsim.pattern import Pattern
from nmsim.units import ceil_div


@dataclass(frozen=True, eq=False)
class NMWeight:
    """W[N, K] of which N in M elements along K are stored, as two tensors. Made by `pack` and `from_packed`.

    On a CUDA device codes are not looked at: a wrong one reads a wrong value of its group.

    Parameters
    ----------
    values : Tensor [N, G * n] of float32, float16 or bfloat16
        Stored values, each row filled with zeros to whole steps, as `docs/explanation/cpu-kernels.md` says.
    metadata : uint8 Tensor [N, bytes of a row]
    pattern : Pattern
    encoding : {"bitmask", "index", "combinatorial"}
    shape : tuple of int
        (N, K) of the dense matrix.

    Raises
    ------
    KernelError, EncodingError
        Parts that do not fit together, a code that no mask has, or a value stored beyond the end of a row. Tensors on
        the `meta` device are checked for their shapes only.
    """

    values: Tensor
    metadata: Tensor
    pattern: Pattern
    encoding: str
    shape: tuple[int, int]
    pattern_text: str = field(init=False)
    """The pattern as operators take it; torch.compile with dynamic shapes cannot format it."""

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, Pattern):
            raise KernelError(f"pattern is a {type(self.pattern).__name__}: expected a Pattern")
        object.__setattr__(self, "pattern_text", str(checked_pattern(self.pattern)))
        checked_encoding(self.encoding)
        checked_tensor("values", self.values)
        checked_place("metadata", checked_type("metadata", self.metadata))
        if self.values.requires_grad:
            raise KernelError(
                "values require a gradient, but packed weights are frozen: expected values.detach()"
            )
        rows, k = self.shape
        check_parts(self.values, self.metadata, self.pattern, self.encoding, k)
        if len(self.values) != rows:
            raise KernelError(f"values have {len(self.values)} rows: expected {rows}, for shape {self.shape}")
        if self.values.device.type == "cpu":
            _check_codes(as_sparse(self.values, self.metadata, self.pattern, self.encoding, k))

    def __repr__(self) -> str:
        return f"NMWeight({self.pattern} {self.encoding}, {list(self.shape)}, {self.dtype}, {self.device})"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the stored values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device

    @property
    def values_bytes(self) -> int:
        """Bytes of all stored values."""
        return self.values.nbytes

    @property
    def metadata_bytes(self) -> int:
        """Bytes of all stored codes."""
        return self.metadata.nbytes


def pack(
    dense_weight: Tensor,
    pattern: Pattern | str,
    encoding: str = "index",
    mask: Tensor | None = None,
) -> NMWeight:
    """Prune a dense weight along its in features and store what is kept, on as many cores as torch uses.

    Parameters
    ----------
    dense_weight : Tensor [N, K] of float32, float16 or bfloat16
        On the CPU, in any memory order, or on a CUDA device. Kept elements are stored bit for bit; the tensor itself is not
        touched.
    pattern : Pattern or str
        M at most 32.
    encoding : {"index", "bitmask", "combinatorial"}
    mask : bool Tensor [N, K], optional
        What to keep; the greatest magnitudes (`nmsim.prune`) when absent.

    Returns
    -------
    NMWeight

    Raises
    ------
    KernelError
        Not a matrix of a type listed, a place without kernels, or a pattern or encoding without kernels.
    PatternError
        A mask that keeps more than N of a group, or is not a bool tensor of that shape.

    Examples
    --------
    >>> weight = pack(torch.tensor([[1.0, -4.0, 3.0, 2.0]]), "2:4")
    >>> weight.shape, weight.values[0, :2].tolist(), weight.metadata.tolist()
    ((1, 4), [-4.0, 3.0], [[73, 68]])
    """
    if triton_kernels.serves(checked_tensor("dense_weight", dense_weight)):
        return _packed_on_gpu(
            dense_weight.detach(), checked_pattern(pattern), checked_encoding(encoding), mask
        )
    dense = _on_cpu("dense_weight", dense_weight)
    keep: NDArray[np.bool_] | None = None
    if mask is not None:
        checked_place("mask", checked_type("mask", mask))
        keep = as_array(_on_cpu("mask", mask))
    return _of(cpu.pack(as_array(dense), pattern, encoding, keep, threads=torch.get_num_threads()))


def from_packed(packed: nmsim.PackedTensor) -> NMWeight:
    """Take a matrix that nmsim has packed, such as one that `nmsim.load_file` gives: its values and its positions.

    Raises
    ------
    KernelError
        Not a matrix pruned along its second axis, or a type, pattern or encoding without kernels.
    BitstreamError, EncodingError
        The metadata does not decode.

    Examples
    --------
    >>> dense = np.arange(32, dtype=np.float32).reshape(2, 16)
    >>> from_packed(nmsim.compress(dense, "8:16", encoding="bitmask")).values.tolist()[0]
    [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    """
    return _of(cpu.from_packed(packed, threads=torch.get_num_threads()))


def as_sparse(values: Tensor, metadata: Tensor, pattern: Pattern, encoding: str, k: int) -> SparseWeights:
    """View tensors as `kernels.cpu` takes them, without a copy."""
    return SparseWeights(as_array(values), as_array(metadata), pattern, encoding, (len(values), k))


def check_parts(
    values: Tensor, metadata: Tensor, pattern: Pattern, encoding: str, k: int, *, least_rows: int = 1
) -> None:
    """Refuse values and codes whose types, shapes, memory or places do not fit K in features."""
    if values.device != metadata.device:
        raise KernelError(
            f"values are on {values.device}, metadata on {metadata.device}: expected one device"
        )
    if metadata.dtype != torch.uint8:
        raise KernelError(f"metadata has dtype {metadata.dtype}: expected torch.uint8")
    values_columns, metadata_columns = row_lengths(pattern, encoding, k)
    for name, part, columns in (("values", values, values_columns), ("metadata", metadata, metadata_columns)):
        if part.ndim != 2 or part.shape[0] < least_rows or part.shape[1] != columns:
            raise KernelError(
                f"{name} have shape {tuple(part.shape)}: expected [N, {columns}] for {pattern} {encoding} and "
                f"{k} in features"
            )
        if not part.is_contiguous():
            raise KernelError(f"{name} have strides {part.stride()}: expected a contiguous tensor")
    if len(values) != len(metadata):
        raise KernelError(f"values have {len(values)} rows, metadata {len(metadata)}: expected as many")


def row_lengths(pattern: Pattern, encoding: str, k: int) -> tuple[int, int]:
    """Count the stored values and the bytes of codes of a row."""
    step = step_groups(pattern, encoding)
    n_groups = ceil_div(pattern.groups(k), step) * step
    bits = packing.stream_bits(n_groups, encodings.get(encoding).code_bits(pattern), PACKINGS[encoding])
    return n_groups * pattern.n, ceil_div(bits, 8)


def _of(weights: SparseWeights) -> NMWeight:
    values, metadata = as_tensor(weights.values), as_tensor(weights.metadata)
    return NMWeight(values, metadata, weights.pattern, weights.encoding, weights.shape)


def _packed_on_gpu(dense: Tensor, pattern: Pattern, encoding: str, mask: Tensor | None) -> NMWeight:
    if dense.ndim != 2 or 0 in dense.shape:
        raise KernelError(
            f"dense_weight has shape {tuple(dense.shape)}: expected a matrix with something in it"
        )
    alignment.check_dense(dense_weight=dense)
    if mask is not None:
        checked_place("mask", checked_type("mask", mask))
        if mask.dtype != torch.bool or mask.shape != dense.shape or mask.device != dense.device:
            raise PatternError(
                f"mask is {mask.dtype} of shape {tuple(mask.shape)} on {mask.device}: expected torch.bool of "
                f"{tuple(dense.shape)} on {dense.device}"
            )
        mask = mask.contiguous()
    rows, k = dense.shape
    values_columns, metadata_columns = row_lengths(pattern, encoding, k)
    values = dense.new_empty((rows, values_columns))
    metadata = dense.new_empty((rows, metadata_columns), dtype=torch.uint8)
    triton_kernels.module("pack").launch(dense.contiguous(), pattern, encoding, (values, metadata), mask=mask)
    return NMWeight(values, metadata, pattern, encoding, (rows, k))


def _on_cpu(name: str, tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu":
        raise KernelError(f"{name} is on {tensor.device}: expected a tensor with data, on the CPU")
    return tensor


def _check_codes(weights: SparseWeights) -> None:
    """Decode every code, and look at what is stored for positions beyond K."""
    rows, k = weights.shape
    pattern, n_groups = weights.pattern, weights.groups_per_row
    codes = weights.group_masks(slice(0, rows)).reshape(rows, n_groups)
    first = k // pattern.m  # groups before it lie inside the row
    if first == n_groups:
        return
    tail = (n_groups - first) * pattern.m
    kept = masks.from_words(codes[:, first:].reshape(-1), pattern, rows, tail)
    found: NDArray[Any] = np.zeros((rows, tail), weights.dtype)
    found[kept] = weights.values[:, first * pattern.n :].reshape(-1)
    bad = (found[:, k - first * pattern.m :] != 0).any(axis=1)
    if bad.any():
        raise KernelError(
            f"values row {int(bad.argmax())}: a value that is not zero is stored beyond the row's {k} elements, expected 0"
        )
