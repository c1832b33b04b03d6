"""What is said of a checkpoint while and after it is packed or unpacked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Progress = Callable[[str, int, int], None]
"""Called before each tensor with its name, the bytes done and the bytes in all; last with an empty name."""


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor. `kept_as_is` says why it was not packed, and is empty when it was."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    dense_bytes: int
    values_bytes: int
    metadata_bytes: int
    kept_as_is: str = ""

    @property
    def total_bytes(self) -> int:
        """Bytes in the packed file."""
        return self.values_bytes + self.metadata_bytes


@dataclass(frozen=True)
class CheckpointReport:
    """What became of a checkpoint; all bytes are those of tensors, without headers."""

    target: Path
    tensors: tuple[TensorReport, ...]

    @property
    def packed(self) -> list[TensorReport]:
        """The tensors that are packed."""
        return [tensor for tensor in self.tensors if not tensor.kept_as_is]

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors when dense."""
        return sum(tensor.dense_bytes for tensor in self.tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors in the packed file."""
        return sum(tensor.total_bytes for tensor in self.tensors)


@dataclass
class Counter:
    """Bytes done, reported to a progress function."""

    total_bytes: int
    report: Progress | None
    done_bytes: int = 0
    tensors: list[TensorReport] = field(default_factory=list)

    def tell(self, name: str) -> None:
        """Report that a tensor is next; an empty name says that all is done."""
        if self.report is not None:
            self.report(name, self.done_bytes, self.total_bytes)
