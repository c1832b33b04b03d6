"""`NMWeight`: an N:M matrix as torch tensors, byte for byte what `SparseWeights` holds as arrays.

Tensors and numpy arrays on the same memory, and what operators refuse of a tensor, are here too.
"""

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import nmsim
from kernels.stored import rows as stored_rows
from kernels.stored.errors import KernelError
from kernels.stored.rows import SparseWeights, Stored, kernel_format, row_lengths
from nmsim import mask as masks
from nmsim.format import SparseFormat

DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
}
"""The value types with kernels, in torch's and in numpy's words."""


def as_array(tensor: Tensor) -> NDArray[Any]:
    """View a tensor in main memory as an array. Numpy has no bfloat16 of its own: its bits are seen as `ml_dtypes`'."""
    found = tensor.detach()
    if found.dtype == torch.bfloat16:
        return found.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: NDArray[Any] = found.numpy()
    return array


def as_tensor(array: NDArray[Any]) -> Tensor:
    """View an array as a tensor. An array marked read-only must be a caller's own: a tensor may be written to."""
    writable = array.view()
    writable.flags.writeable = True
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(writable.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(writable)


def checked_tensor(name: str, tensor: object) -> Tensor:
    """Refuse what is not a strided tensor of a type with kernels, on a device with kernels."""
    found = checked_type(name, tensor)
    checked_place(name, found)
    if found.dtype not in DTYPES:
        raise KernelError(f"{name} has dtype {found.dtype}: expected one of {', '.join(map(str, DTYPES))}")
    return found


def checked_type(name: str, tensor: object) -> Tensor:
    """Refuse what is not a tensor."""
    if not isinstance(tensor, Tensor):
        raise KernelError(f"{name} is a {type(tensor).__name__}: expected a torch tensor")
    return tensor


def checked_place(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that no kernel can reach: expected in main memory, on a CUDA device, or of no memory (`meta`)."""
    if tensor.device.type not in ("cpu", "meta", "cuda"):
        raise KernelError(f"{name} is on {tensor.device}: expected a tensor on the CPU or on a CUDA device")
    if tensor.layout != torch.strided:
        raise KernelError(f"{name} has layout {tensor.layout}: expected an ordinary (strided) tensor")


@dataclass(frozen=True, eq=False)
class NMWeight(Stored):
    """W[N, K] of which N in M elements along K are stored, as two tensors. Made by `ops.compress` and `ops.from_packed`.

    On a CUDA device codes are not looked at: a wrong one reads a wrong value of its group.

    Parameters
    ----------
    values : Tensor [N, G * n] of float32, float16 or bfloat16
        Stored values, each row filled with zeros to whole steps, as `docs/explanation/cpu-kernels.md` says.
    metadata : uint8 Tensor [N, bytes of a row]
    format : SparseFormat
        As `kernel_format` gives it.
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
    format: SparseFormat
    shape: tuple[int, int]
    format_text: str = field(init=False)
    """The format as operators take it; torch.compile with dynamic shapes cannot write it."""

    def __post_init__(self) -> None:
        if not isinstance(self.format, SparseFormat):
            raise KernelError(f"format is a {type(self.format).__name__}: expected a SparseFormat")
        object.__setattr__(self, "format", kernel_format(self.format))
        object.__setattr__(self, "format_text", str(self.format))
        checked_tensor("values", self.values)
        checked_place("metadata", checked_type("metadata", self.metadata))
        if self.values.requires_grad:
            raise KernelError(
                "values require a gradient, but packed weights are frozen: expected values.detach()"
            )
        rows, k = self.shape
        check_parts(self.values, self.metadata, self.format, k)
        if len(self.values) != rows:
            raise KernelError(f"values have {len(self.values)} rows: expected {rows}, for shape {self.shape}")
        if self.values.device.type == "cpu":
            _check_codes(as_sparse(self.values, self.metadata, self.format, k))

    def __repr__(self) -> str:
        return f"NMWeight({self.format.short}, {list(self.shape)}, {self.dtype}, {self.device})"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the stored values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.values.device


def from_packed(packed: nmsim.PackedTensor) -> NMWeight:
    """Take a matrix that nmsim has packed, such as one that `nmsim.load_file` gives: its values and its positions.

    Raises
    ------
    KernelError
        Not a matrix pruned along its second axis, or a type or format without kernels.
    BitstreamError, EncodingError
        The metadata does not decode.

    Examples
    --------
    >>> dense = np.arange(32, dtype=np.float32).reshape(2, 16)
    >>> from_packed(nmsim.compress(dense, "8:16/bitmask")).values.tolist()[0]
    [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    """
    return as_nm_weight(stored_rows.from_packed(packed, threads=torch.get_num_threads()))


def as_sparse(values: Tensor, metadata: Tensor, format: SparseFormat, k: int) -> SparseWeights:
    """View tensors as `kernels.cpu` takes them, without a copy."""
    return SparseWeights(as_array(values), as_array(metadata), format, (len(values), k))


def check_parts(
    values: Tensor, metadata: Tensor, format: SparseFormat, k: int, *, least_rows: int = 1
) -> None:
    """Refuse values and codes whose types, shapes, memory or places do not fit K in features."""
    if values.device != metadata.device:
        raise KernelError(
            f"values are on {values.device}, metadata on {metadata.device}: expected one device"
        )
    if metadata.dtype != torch.uint8:
        raise KernelError(f"metadata has dtype {metadata.dtype}: expected torch.uint8")
    values_columns, metadata_columns = row_lengths(format, k)
    for name, part, columns in (("values", values, values_columns), ("metadata", metadata, metadata_columns)):
        if part.ndim != 2 or part.shape[0] < least_rows or part.shape[1] != columns:
            raise KernelError(
                f"{name} have shape {tuple(part.shape)}: expected [N, {columns}] for {format.short} and "
                f"{k} in features"
            )
        if not part.is_contiguous():
            raise KernelError(f"{name} have strides {part.stride()}: expected a contiguous tensor")
    if len(values) != len(metadata):
        raise KernelError(f"values have {len(values)} rows, metadata {len(metadata)}: expected as many")


def empty_rows(dense: Tensor, format: SparseFormat) -> tuple[Tensor, Tensor]:
    """Make room for what is stored of a matrix [rows, K], of its type and where it is: values and metadata."""
    values_columns, metadata_columns = row_lengths(format, dense.shape[1])
    values = dense.new_empty((dense.shape[0], values_columns))
    return values, dense.new_empty((dense.shape[0], metadata_columns), dtype=torch.uint8)


def as_nm_weight(weights: SparseWeights) -> NMWeight:
    """View arrays as tensors, without a copy."""
    values, metadata = as_tensor(weights.values), as_tensor(weights.metadata)
    return NMWeight(values, metadata, weights.format, weights.shape)


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
