"""`GroupedWeight`: the matrices of several experts, of one shape, in the order of the decode kernel, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.stored.errors import KernelError
from kernels.stored.rows import Stored
from kernels.stored.shuffled import ShuffledWeight
from nmsim.errors import brief
from nmsim.format import SparseFormat


@dataclass(frozen=True, eq=False)
class GroupedWeight(Stored):
    """W[E, N, K], each expert as a `ShuffledWeight` has it. Made by `group`.

    Parameters
    ----------
    values : Tensor [E, units * halves, rows, 8]
    metadata : uint8 Tensor [E, bytes]
    format : SparseFormat
    shape : tuple of int
        (E, N, K) of the dense matrices.
    scales : float32 Tensor [E, blocks, rows], optional
    block : int, optional
    """

    values: Tensor
    metadata: Tensor
    format: SparseFormat
    shape: tuple[int, int, int]
    scales: Tensor | None = None
    block: int | None = None

    def expert(self, number: int) -> ShuffledWeight:
        """Give the weights of one expert, on the same memory."""
        scales = None if self.scales is None else self.scales[number]
        return ShuffledWeight(
            self.values[number], self.metadata[number], self.format, self.shape[1:], scales, self.block
        )

    def __repr__(self) -> str:
        return f"GroupedWeight({self.format.short}, {list(self.shape)}, {self.values.dtype}, {self.values.device})"


def group(weights: Sequence[ShuffledWeight]) -> GroupedWeight:
    """Put the weights of experts one after the other.

    Parameters
    ----------
    weights : sequence of ShuffledWeight
        Of one shape, format, type, device and block. They are copied.

    Raises
    ------
    KernelError
        No weight, or weights that differ.
    """
    if not weights:
        raise KernelError("weights are empty: expected one ShuffledWeight at least")
    for number, weight in enumerate(weights):
        if not isinstance(weight, ShuffledWeight):
            raise KernelError(
                f"weights {number} are a {type(weight).__name__}: expected a ShuffledWeight, as for_decode makes it"
            )
        if repr(weight) != repr(weights[0]):
            raise KernelError(
                f"weights {number} are {brief(weight)}: expected {brief(weights[0])}, as weights 0 are"
            )
    first = weights[0]
    scales = [weight.scales for weight in weights if weight.scales is not None]
    return GroupedWeight(
        torch.stack([weight.values for weight in weights]),
        torch.stack([weight.metadata for weight in weights]),
        first.format,
        (len(weights), *first.shape),
        torch.stack(scales) if scales else None,
        first.block,
    )
