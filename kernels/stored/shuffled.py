"""The order of packed weights in GPU memory for products of one to a few tokens, and the conversions to it and back.

Neighbouring threads take neighbouring rows. All of them then read the same few elements of x at a time. A unit is 16 elements
of a row, or 32 for 16:32 (`STEP_ELEMS`). Its values are one run of 16 bytes, or two, beside that of the next row:

* values [units * halves, rows, 8], a half being 8 stored values in ascending order of position: 16:32 has two in a unit;
* metadata, plane after plane, each [units, rows] of a word of 8 to 64 bits, lowest bytes first: `PLANES` says which.

Rows are filled up with zeros to whole warps, K is filled up to whole units as `NMWeight` has it. Codes stay as they are
stored, except `index` of 16:32: positions of 5 bits are cut into their low 4 bits and their high bits.

Values of 8 bits take the same places, so that a run is 8 bytes. Their scales are float32 [blocks, rows], one block of K after
the other (`kernels.stored.scaled`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import NMWeight
from kernels.stored.rows import STEP_ELEMS, Stored, kernel_format, row_lengths
from kernels.stored.scaled import GREATEST, dequantize, quantize
from nmsim.errors import brief
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.units import ceil_div

MOST_TOKENS = 8
"""Tokens that a product in this order takes. With more its instructions take longer than reading the dense weights."""
MOST_MATRIX_TOKENS = 64
"""Tokens that a product on matrix units takes in this order. With more, the sums of a thread take too many registers."""
WARP_ROWS = 32
"""Rows of a warp: one per thread."""
HALF_VALUES = 8
"""16-bit values that a thread reads at once, 16 bytes."""
PLANES: dict[SparseFormat, tuple[int, ...]] = {
    kernel_format(text): planes
    for text, planes in {
        "2:4/bitmask": (16,),
        "4:8/bitmask": (16,),
        "8:16/bitmask": (16,),
        "16:32/bitmask": (32,),
        "2:4/index": (16,),
        "4:8/index": (16, 8),
        "8:16/index": (32,),
        "16:32/index": (64, 16),
        "2:4/combinatorial": (16,),
        "4:8/combinatorial": (16,),
        "8:16/combinatorial": (16,),
        "2:4/tiled": (16,),
        "4:8/tiled": (16,),
        "8:16/tiled": (16,),
    }.items()
}
"""Widths in bits of the words that hold a unit's codes. 16:32 has none for codes that are looked up: no table is small."""
LONG_INDEX = kernel_format("16:32/index")
"""The format whose positions of 5 bits are cut."""


@dataclass(frozen=True, eq=False)
class ShuffledWeight(Stored):
    """W[N, K] in the order of this module. Made by `shuffle`.

    Parameters
    ----------
    values : Tensor [units * halves, rows, 8] of float16, bfloat16, float8_e4m3fn or int8
        Rows are those of W and more, up to whole warps.
    metadata : uint8 Tensor [bytes]
        All planes, one after the other.
    format : SparseFormat
        One of `PLANES`.
    shape : tuple of int
        (N, K) of the dense matrix.
    scales : float32 Tensor [blocks, rows], optional
        What values of 8 bits are multiplied by. Others have none.
    block : int, optional
        Elements of K that share a scale; all of the row if absent.
    """

    values: Tensor
    metadata: Tensor
    format: SparseFormat
    shape: tuple[int, int]
    scales: Tensor | None = None
    block: int | None = None

    @property
    def units(self) -> int:
        """Units of a row."""
        return ceil_div(self.shape[1], STEP_ELEMS[self.pattern])

    @property
    def rows(self) -> int:
        """Rows stored, those added included."""
        return int(self.values.shape[1])

    @property
    def scales_bytes(self) -> int:
        """Bytes of the scales."""
        return 0 if self.scales is None else self.scales.nbytes

    def __repr__(self) -> str:
        about = f"{self.format.short}, {list(self.shape)}, {self.values.dtype}, {self.values.device}"
        about += f", block={self.block}" * (self.block is not None)
        return f"ShuffledWeight({about})"


def has_order(format: SparseFormat, dtype: torch.dtype) -> bool:
    """Say whether weights have an order here; those that have none are multiplied as they are packed.

    Examples
    --------
    >>> has_order(kernel_format("8:16"), torch.bfloat16), has_order(kernel_format("3:7"), torch.bfloat16)
    (True, False)
    """
    return format in PLANES and dtype in (torch.float16, torch.bfloat16)


def check_order(format: SparseFormat, dtype: torch.dtype) -> None:
    """Refuse what has no order.

    Raises
    ------
    KernelError
        A format or type that `has_order` denies.
    """
    if not has_order(format, dtype):
        raise KernelError(
            f"weights are {format.short} of {dtype}: expected 2:4, 4:8, 8:16 or 16:32 (not 16:32/combinatorial "
            "or 16:32/tiled) of torch.float16 or torch.bfloat16"
        )


def is_stored(format: SparseFormat, dtype: torch.dtype, scales: Tensor | None) -> bool:
    """Say whether this order holds values of this type: 16 bits without scales, or 8 bits with them."""
    return (
        format in PLANES
        if scales is not None and dtype in GREATEST
        else scales is None and has_order(format, dtype)
    )


def shuffle(weight: NMWeight, *, values: str | None = None, block: int | None = None) -> ShuffledWeight:
    """Put packed weights into this order, where they are.

    Parameters
    ----------
    weight : NMWeight
        2:4, 4:8, 8:16 or 16:32 of float16 or bfloat16; not `combinatorial` or `tiled` of 16:32. To store 8 bits also of
        float32.
    values : {"e4m3", "int8"}, optional
        Store values of 8 bits with scales; as they are if absent.
    block : int, optional
        Elements of K that share a scale, a multiple of a unit's. One scale per row if absent.

    Returns
    -------
    ShuffledWeight

    Raises
    ------
    KernelError
        A format or type without an order. To store 8 bits: a value that is NaN or infinite, or another block.

    Examples
    --------
    >>> import nmsim, numpy as np
    >>> from kernels.stored.nm_weight import from_packed
    >>> packed = nmsim.compress(np.ones((40, 50), np.float16), "4:8/index")
    >>> shuffle(from_packed(packed)).values.shape
    torch.Size([4, 64, 8])
    >>> shuffle(from_packed(packed), values="int8", block=32).scales.shape
    torch.Size([2, 64])
    """
    pattern, dtype = weight.pattern, weight.dtype
    # Rounding to 8 bits starts from any type: float32 is not rounded to 16 bits first.
    check_order(weight.format, torch.float16 if values else dtype)
    n, k = weight.shape
    units = ceil_div(k, STEP_ELEMS[pattern])
    stored, scales = weight.values, None
    if values is not None:
        stored, scales = quantize(stored, type_name=values, block=_block_values(block, pattern))
        scales = _whole_warps(scales).T.contiguous()
    elif block is not None:
        raise KernelError(f"block={block}, but values stay as they are: expected values='e4m3' or 'int8'")
    stored = _whole_warps(stored.view(n, -1, HALF_VALUES)).permute(1, 0, 2)
    words = weight.metadata.view(n, units, -1)
    if weight.format == LONG_INDEX:
        words = _cut(words)
    planes, first = [], 0
    for width_bytes in _widths_bytes(weight.format):
        plane = _whole_warps(words[..., first : first + width_bytes])
        planes.append(plane.permute(1, 0, 2).reshape(-1))
        first += width_bytes
    return ShuffledWeight(stored.contiguous(), torch.cat(planes), weight.format, weight.shape, scales, block)


def unshuffle(weight: ShuffledWeight) -> NMWeight:
    """Put weights back as they were packed, byte for byte. Values of 8 bits become float32, multiplied by their scales."""
    return NMWeight(*packed_parts(weight), weight.format, weight.shape)


def packed_parts(weight: ShuffledWeight) -> tuple[Tensor, Tensor]:
    """Give values and metadata of packed rows as `unshuffle` does, and look at no code."""
    n, k = weight.shape
    values = weight.values.permute(1, 0, 2)[:n].reshape(n, -1)
    if weight.scales is not None:
        scales = weight.scales[:, :n].T
        values = dequantize(values, scales, block=_block_values(weight.block, weight.pattern))
    planes, first = [], 0
    for width_bytes in _widths_bytes(weight.format):
        last = first + width_bytes * weight.units * weight.rows
        plane = weight.metadata[first:last].view(weight.units, weight.rows, width_bytes)
        planes.append(plane.permute(1, 0, 2)[:n])
        first = last
    words = torch.cat(planes, dim=-1)
    if weight.format == LONG_INDEX:
        words = _joined(words)
    return values, words.reshape(n, row_lengths(weight.format, k)[1])


def count_blocks(k: int, pattern: Pattern, block: int | None) -> int:
    """Count the scales of a row of K elements, in blocks of so many or in one.

    Raises
    ------
    KernelError
        A block that is no multiple of a unit.

    Examples
    --------
    >>> [count_blocks(k, Pattern(8, 16), block) for k, block in ((4096, 128), (100, 64), (100, None))]
    [32, 2, 1]
    """
    return 1 if _block_values(block, pattern) is None else ceil_div(k, block or k)


def _block_values(block: int | None, pattern: Pattern) -> int | None:
    """Count the stored values of a block; refuse a block that is no multiple of a unit."""
    if block is None:
        return None
    elems = STEP_ELEMS[pattern]
    if not isinstance(block, int) or isinstance(block, bool) or block < 1 or block % elems:
        raise KernelError(f"block is {brief(block)}: expected a multiple of {elems} elements for {pattern}")
    return block // pattern.m * pattern.n


def _widths_bytes(format: SparseFormat) -> list[int]:
    return [width // 8 for width in PLANES[format]]


def _whole_warps(part: Tensor) -> Tensor:
    more = -len(part) % WARP_ROWS
    return torch.cat([part, part.new_zeros(more, *part.shape[1:])]) if more else part


def _cut(codes: Tensor) -> Tensor:
    """Cut 16 positions of 5 bits: uint8 [..., 10] -> [..., 10], the low 4 bits of each, then the high bits."""
    of_eight = _number(codes.reshape(*codes.shape[:-1], 2, 5), 8)
    positions = (of_eight[..., None] >> _shifts(8, 5, codes)) & 31
    low = _bytes(_number(positions & 15, 4), 4)
    high = _bytes(_number(positions >> 4, 1), 1)
    return torch.cat([low.flatten(-2), high.flatten(-2)], dim=-1)


def _joined(words: Tensor) -> Tensor:
    """Undo `_cut`."""
    low = (
        _number(words[..., :8].reshape(*words.shape[:-1], 2, 4), 8)[..., None] >> _shifts(8, 4, words)
    ) & 15
    high = (words[..., 8:].long()[..., None] >> _shifts(8, 1, words)) & 1
    return _bytes(_number(low | high << 4, 5), 5).flatten(-2)


def _shifts(count: int, width: int, like: Tensor) -> Tensor:
    return torch.arange(0, count * width, width, device=like.device)


def _number(fields: Tensor, width: int) -> Tensor:
    """Put fields of so many bits together, the first one lowest: [..., count] -> int64 [...]."""
    return (fields.long() << _shifts(fields.shape[-1], width, fields)).sum(-1)


def _bytes(number: Tensor, count: int) -> Tensor:
    """Split numbers into bytes, the lowest first: int64 [...] -> uint8 [..., count]."""
    return ((number[..., None] >> _shifts(count, 8, number)) & 0xFF).to(torch.uint8)
