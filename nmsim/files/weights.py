"""A chosen weight as the commands need it: its stored numbers, the axis of its groups, and the scales of a quantised one."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.blocks import Blocks, WeightRows
from nmsim.errors import ContainerError, NmsimError, brief_names
from nmsim.files import quantised
from nmsim.files.roles import Role
from nmsim.files.safetensors import RawTensor, TensorInfo
from nmsim.files.selection import Choice, Selection
from nmsim.files.sharded import Checkpoint, open_checkpoint
from nmsim.mask import BoolArray, checked_axis, prune
from nmsim.pattern import Pattern


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that is pruned.

    Parameters
    ----------
    x : array
        Its numbers as they are stored, all finite.
    axis : int
        Along which groups run, not negative.
    scales : float32 array or None
        What the numbers of a quantised weight are multiplied with, one per block.
    blocks : tuple of int
        Elements that share a scale along each axis.
    """

    x: NDArray[Any]
    axis: int
    scales: NDArray[np.float32] | None = None
    blocks: tuple[int, ...] = ()

    def mask(self, pattern: Pattern) -> BoolArray | None:
        """Choose by real magnitudes; None if the stored numbers are in the same order.

        Examples
        --------
        >>> x = np.array([[4, 3, 2, 1]], np.int8)
        >>> Weight(x, 1, np.array([[1, 8]], np.float32), (1, 2)).mask(Pattern(2, 4)).tolist()
        [[False, False, True, True]]
        """
        if self.scales is None or self.scales.shape[self.axis] == 1 or not self.blocks[self.axis] % pattern.m:
            return None
        return prune(self.x, pattern, axis=self.axis, scores=np.abs(self.real()))

    def real(self) -> NDArray[Any]:
        """Give the real numbers: the stored ones, times their scales."""
        if self.scales is None:
            return self.x
        product: NDArray[np.float32] = self.x.astype(np.float32)
        product *= quantised.spread(self.scales, self.blocks, self.x.shape)
        return product


def matrix_shape(role: Role, info: TensorInfo, axis: int) -> tuple[int, int]:
    """Out and in features of the matrices that a tensor holds.

    Examples
    --------
    >>> info = TensorInfo("h.0.attn.c_attn.weight", "F32", (64, 192), 0, 0)
    >>> matrix_shape(Role("linear", "", 0), info, 0)
    (192, 64)
    """
    if len(info.shape) == 3:
        return info.shape[3 - axis], info.shape[axis]
    if role.period:
        return info.shape[1 - axis], role.period
    return info.shape[1 - axis], info.shape[axis]


def matrix_of(x: NDArray[Any], role: Role, axis: int, number: int) -> NDArray[Any]:
    """Take one of the matrices that a tensor holds, as [out, in].

    Examples
    --------
    >>> matrix_of(np.arange(6).reshape(1, 2, 3), Role("linear", "", 1, matrices=1), 1, 0).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    matrix: NDArray[Any]
    if x.ndim == 3:
        matrix, axis = x[number], axis - 1
    elif role.period:
        matrix = x[number * role.period : (number + 1) * role.period]
    else:
        matrix = x
    return matrix.T if axis == 0 else matrix


def read_weight(checkpoint: Checkpoint, choice: Choice, info: TensorInfo) -> Weight:
    """Read a weight that the rule chose.

    Parameters
    ----------
    checkpoint : Checkpoint
    choice : Choice
    info : TensorInfo

    Returns
    -------
    Weight

    Raises
    ------
    NmsimError
        An axis that the tensor has not, an element or a scale that is NaN or infinite, or scales of another shape. The
        error names file and tensor.
    """
    file = checkpoint.file_of[info.name]
    x = file.array(info.name)
    assert not isinstance(x, RawTensor), "the rule takes no such dtype"
    try:
        axis = checked_axis(info.shape, choice.axis(info))
        dtypes.refuse_not_finite(x, "value")
        about = choice.roles[info.name].quantisation
        if about is None or not about.scales:
            return Weight(x, axis)
        beside = choice.tensors[about.scales]
        numbers = checkpoint.array(about.scales)
        assert not isinstance(numbers, RawTensor), "recognise takes no such dtype"
        scales = quantised.compact_scales(numbers, info, beside)
        blocks = quantised.scale_blocks(info, beside, choice.config)
    except NmsimError as error:
        raise error.within(file.where(info.name)) from error
    return Weight(x, axis, scales, blocks)


def weight_rows(
    checkpoint: Checkpoint, choice: Choice, info: TensorInfo, pattern: Pattern
) -> Iterable[WeightRows]:
    """Read a weight that the rule chose, in blocks of rows as they are asked for; a quantised one with scales as a whole.

    Raises
    ------
    NmsimError
        As for `read_weight`.
    """
    about = choice.roles[info.name].quantisation
    if about is not None and about.scales:
        # The scales of a block of rows may lie anywhere, and such weights are of one byte per element.
        weight = read_weight(checkpoint, choice, info)
        mask = weight.mask(pattern)
        keep = None if mask is None else as_rows(mask, weight.axis)
        return [WeightRows(as_rows(weight.x, weight.axis), keep, as_rows(weight.real(), weight.axis))]
    return _finite_rows(checkpoint, info, checked_axis(info.shape, choice.axis(info)), pattern)


def _finite_rows(
    checkpoint: Checkpoint, info: TensorInfo, axis: int, pattern: Pattern
) -> Iterator[WeightRows]:
    file = checkpoint.file_of[info.name]
    for rows in Blocks(info.shape, axis, info.dtype).read(file, info.name, pattern.m):
        if dtypes.not_finite(rows) is not None:
            # The error counts the elements of the whole tensor, which is read for it.
            whole = file.array(info.name)
            assert not isinstance(whole, RawTensor), "the rule takes no such dtype"
            dtypes.refuse_not_finite(whole, "value")
        yield WeightRows(rows, None, rows)


def as_rows(x: NDArray[Any], axis: int) -> NDArray[Any]:
    """Turn the pruned axis last and the others into rows: [rows, K]."""
    turned = np.moveaxis(x, axis, -1)
    return turned.reshape(math.prod(turned.shape[:-1]), turned.shape[-1])


def read_matrix(path: str | os.PathLike[str], tensor: str | None) -> NDArray[Any]:
    """Read a matrix of finite floating-point numbers [N, K] from a checkpoint.

    A weight that is stored as [in, out] is turned. One in FP8 or INT8 with scales gives its real numbers.

    Parameters
    ----------
    path : path
        As for `nmsim.files.sharded.open_checkpoint`.
    tensor : str or None
        Its name; None is refused with some of the names.

    Raises
    ------
    ContainerError
        No name, a tensor that is not there, another shape or value type.
    PatternError
        A value that is NaN or infinite.
    """
    # The rules on checkpoints decide on axis and scales, but any matrix may be asked for, such as an embedding.
    with open_checkpoint(path) as checkpoint:
        some = brief_names(checkpoint.names, most=4)
        if tensor is None:
            raise ContainerError(f"--weights: expected --tensor as well, one of {some}")
        if tensor not in checkpoint.file_of:
            raise ContainerError(
                f"--tensor {tensor}: not in {path}; expected one of its names, such as {some}"
            )
        choice = Selection().of(checkpoint)
        info, role = choice.tensors[tensor], choice.roles[tensor]
        kind = dtypes.BY_CONTAINER_CODE.get(info.dtype)
        about = role.quantisation
        is_real = kind is not None and (kind.kind == "float" or (about is not None and about.scales != ""))
        if role.kind in ("quantised", "scales") or len(info.shape) != 2 or not is_real:
            held = f" ({role.reason})" if about is not None else ""
            raise ContainerError(
                f"--tensor {tensor}: expected a matrix of floating-point numbers [N, K], got {info.dtype} "
                f"{list(info.shape)}{held}"
            )
        weight = read_weight(checkpoint, choice, info)
    return weight.real().T if role.is_pruned and weight.axis == 0 and not role.period else weight.real()
