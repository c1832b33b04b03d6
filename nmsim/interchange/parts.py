"""Packed tensors that consist of several tensors of a checkpoint, which may lie in different shards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import ContainerError
from nmsim.files.safetensors import MAX_ELEMS, RawTensor, SafetensorsReader, TensorInfo

Tensor = TypeVar("Tensor")
Held = Mapping[str, SafetensorsReader]
"""Name of every tensor of a checkpoint -> the file that holds it."""


@dataclass(frozen=True)
class Parts:
    """The tensors of one packed tensor, and where they lie.

    Parameters
    ----------
    held : mapping of names to files
    names : mapping of str to str
        Role, such as "bitmask" -> name of the tensor.
    """

    held: Held
    names: Mapping[str, str]

    def file(self, role: str) -> SafetensorsReader:
        """The file that holds a part."""
        return self.held[self.names[role]]

    def info(self, role: str) -> TensorInfo:
        """What the header says of a part."""
        return self.file(role).tensors[self.names[role]]

    def where(self, role: str) -> str:
        """Begin an error about a part."""
        return self.file(role).where(self.names[role])

    def refuse(self, role: str, found: object, expected: object) -> NoReturn:
        """Refuse a part."""
        raise ContainerError(f"{self.where(role)}: {found}, expected {expected}")

    def check(self, role: str, *, dtype: str, shape: tuple[int, ...]) -> None:
        """Refuse a part of another dtype or shape."""
        info = self.info(role)
        if (info.dtype, info.shape) != (dtype, shape):
            self.refuse(role, f"is {info.dtype} {list(info.shape)}", f"{dtype} {list(shape)}")

    def values_dtype(self, role: str) -> np.dtype[Any]:
        """The numpy dtype of stored values; others than nmsim's value types are refused."""
        info = self.info(role)
        if info.dtype not in dtypes.BY_CONTAINER_CODE:
            self.refuse(role, f"dtype {info.dtype}", f"one of {', '.join(dtypes.BY_CONTAINER_CODE)}")
        return dtypes.BY_CONTAINER_CODE[info.dtype].dtype

    def rows(self, role: str, part: slice, columns: int, dtype: Any) -> NDArray[Any]:
        """Read some rows of a part: [part, columns]."""
        block = np.empty((part.stop - part.start, columns), dtype)
        return self.file(role).read(self.names[role], part.start * columns * block.itemsize, block)

    def array(self, role: str) -> NDArray[Any]:
        """Read a whole part; for those that are small beside the dense tensor."""
        array = self.file(role).array(self.names[role])
        assert not isinstance(array, RawTensor), "its dtype is checked before"
        return array

    def matrix_shape(self, role: str) -> tuple[int, int]:
        """Read a dense shape that is stored as a tensor: I64 [2] or [2, 1]."""
        info = self.info(role)
        if info.dtype != "I64" or info.shape not in ((2,), (2, 1)):
            self.refuse(
                role, f"is {info.dtype} {list(info.shape)}", "I64 [2] or [2, 1] with rows and columns"
            )
        rows, columns = (int(size) for size in self.array(role).reshape(-1))
        if rows < 0 or columns < 0 or max(rows, 1) * max(columns, 1) > MAX_ELEMS:
            self.refuse(
                role, f"says shape [{rows}, {columns}]", "two sizes from 0, at most 2**55 elements in all"
            )
        return rows, columns

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(self.info(role).stored_bytes for role in self.names)


def suffixed(held: Held, roles: Sequence[str], *, signs: int, format: str) -> dict[str, Parts]:
    """Find packed tensors whose parts are named P.role; P -> its parts.

    Parameters
    ----------
    held : mapping of names to files
    roles : sequence of str
        The `signs` first ones are names that no other format uses: each of them alone says that a tensor is packed.
    signs : int
    format : str
        For errors.

    Raises
    ------
    ContainerError
        A P that has some of the parts and lacks others.
    """
    found = {}
    for name in held:
        prefix, _, role = name.rpartition(".")
        if role not in roles[:signs] or prefix in found:
            continue
        names = {role: f"{prefix}.{role}" for role in roles}
        missing = [part for part in names.values() if part not in held]
        if missing:
            raise ContainerError(
                f"{held[name].where(name)}: is a part of {format}, and {', '.join(missing)} is missing, expected all parts"
            )
        found[prefix] = Parts(held, names)
    return found


def standing_for(
    found: Mapping[str, Parts], makers: Mapping[str, Callable[[str, Parts], Tensor]]
) -> tuple[dict[str, Tensor], set[str]]:
    """Make a tensor for each part that stands for one: name of that part -> tensor; names of all parts.

    Parameters
    ----------
    found : mapping
        From `suffixed`.
    makers : mapping
        Role of a part that stands for a tensor -> what makes the tensor of a name and its parts.
    """
    tensors = {
        parts.names[role]: make(prefix, parts)
        for prefix, parts in found.items()
        for role, make in makers.items()
    }
    return tensors, {name for parts in found.values() for name in parts.names.values()}
