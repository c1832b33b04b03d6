"""Values of 8 bits with float32 scales: how packed values become `e4m3` or `int8`, and what they stand for.

A stored value stands for itself times the scale of its block. The scale is the greatest magnitude of the block over the
greatest number of the type, 448 or 127. So nothing overflows, and NaN is never stored. A block is so many elements of K in
one row, kept or not, or the whole row.
"""

import torch
from torch import Tensor

from kernels.stored.errors import KernelError
from nmsim.errors import brief
from nmsim.units import ceil_div

VALUES = {"e4m3": torch.float8_e4m3fn, "int8": torch.int8}
"""Types of 8 bits, by their names: 1 sign, 4 exponent and 3 fraction bits without infinities (OCP FP8), and whole numbers."""
GREATEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
"""The greatest magnitude that is stored. -128 is not."""
LEAST_SCALE = torch.finfo(torch.float32).tiny
"""A smaller scale would lose bits itself, and that of zeros would be zero. Blocks of tinier values round to steps of it."""


def quantize(values: Tensor, *, type_name: str, block: int | None = None) -> tuple[Tensor, Tensor]:
    """Round rows of values to 8 bits, to the nearest and to even.

    Parameters
    ----------
    values : Tensor [N, columns] of float32, float16 or bfloat16
        Of rows that are whole numbers of units.
    type_name : {"e4m3", "int8"}
    block : int, optional
        Stored values of a row that share a scale, all of the row if absent. The last block may be shorter.

    Returns
    -------
    Tensor [N, columns] of the type, float32 Tensor [N, blocks]

    Raises
    ------
    KernelError
        Another name, or a value that is NaN or infinite.

    Examples
    --------
    >>> found, scales = quantize(torch.tensor([[1.0, -254.0], [0.0, 0.0]]), type_name="int8")
    >>> found.tolist(), scales[0].tolist()
    ([[0, -127], [0, 0]], [2.0])
    """
    dtype = checked_type_name(type_name)
    rows, columns = values.shape
    finite = values.isfinite().all(dim=1)
    if not finite.all():
        raise KernelError(
            f"values row {int((~finite).nonzero()[0])} holds a NaN or an infinity: expected finite values to store as "
            f"{type_name}"
        )
    blocks = _blocks(values.float(), columns if block is None else block)
    # 127 times the rounded quotient may be beyond the greatest float32: the factor keeps it below.
    most_scale = torch.finfo(torch.float32).max / GREATEST[dtype] * (1 - 2**-23)
    scales = (blocks.abs().amax(dim=2) / GREATEST[dtype]).clamp(LEAST_SCALE, most_scale)
    numbers = blocks / scales[:, :, None]
    if dtype == torch.int8:
        numbers = numbers.round()
    stored = numbers.clamp(-GREATEST[dtype], GREATEST[dtype]).to(dtype)
    return stored.reshape(rows, -1)[:, :columns].contiguous(), scales


def dequantize(values: Tensor, scales: Tensor, *, block: int | None = None) -> Tensor:
    """Multiply stored values by their scales: [N, columns], [N, blocks] -> float32 [N, columns].

    Examples
    --------
    >>> dequantize(torch.tensor([[1, -127]], dtype=torch.int8), torch.tensor([[2.0]])).tolist()
    [[2.0, -254.0]]
    """
    rows, columns = values.shape
    numbers = _blocks(values.float(), columns if block is None else block) * scales[:, :, None]
    return numbers.reshape(rows, -1)[:, :columns].contiguous()


def checked_type_name(name: str) -> torch.dtype:
    """Give the type of 8 bits that has this name.

    Raises
    ------
    KernelError
        None has.
    """
    if name not in VALUES:
        raise KernelError(f"values of type {brief(name)}: expected one of {', '.join(VALUES)}")
    return VALUES[name]


def _blocks(numbers: Tensor, block: int) -> Tensor:
    """Cut rows, the last block filled up with zeros: [N, columns] -> [N, blocks, block]."""
    rows, columns = numbers.shape
    count = ceil_div(columns, block)
    if count * block != columns:
        numbers = torch.cat([numbers, numbers.new_zeros(rows, count * block - columns)], dim=1)
    return numbers.view(rows, count, block)
