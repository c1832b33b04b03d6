"""Dense rows compressed, on the device: what a mask keeps, or the greatest magnitudes.

Without a mask this is the pruning of tokens, which stores the same bytes. With one, a program takes a tile of a row.
Nothing here was timed: block sizes are guesses.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, code_table, on_device_of
from kernels.gpu.codes import store_codes
from kernels.gpu.movers import prune
from kernels.gpu.movers.units import compress_units, tile_constants, warps_for
from nmsim.errors import PatternError
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern


@triton.jit
def compress_kernel(
    dense: tl.tensor, mask: tl.tensor, table: tl.tensor, values: tl.tensor, metadata: tl.tensor,
    overfull: tl.tensor, k: tl.tensor, n_groups: tl.tensor,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr, POSITION_BITS: tl.constexpr, UNIT_GROUPS: tl.constexpr, UNIT: tl.constexpr,
) -> None:  # fmt: skip
    """Compress one tile of a row as its mask says, and note whether a group of it keeps more than N: see `launch`.

    A group that keeps fewer gets its lowest free positions, and zeros are stored for them.
    """
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * GROUPS
    dense_row, mask_row = dense + row * k, mask + row * k
    values_row = values + row * n_groups * N
    metadata_row = metadata + row * (n_groups * CODE_BITS // 8)
    if UNIT > 0:
        n_wanted = compress_units(
            dense_row, mask_row, table, values_row, metadata_row, first, k, n_groups,
            N, M, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS, UNIT,
        )  # fmt: skip
    else:
        group = first + tl.arange(0, GROUPS)
        lane = tl.arange(0, LANES)[None, :]
        column = group[:, None] * M + lane
        inside = (lane < M) & (column < k)
        wanted = (tl.load(mask_row + column, mask=inside, other=0) != 0).to(tl.int32)
        n_wanted = tl.sum(wanted, axis=1)
        free = tl.where(lane < M, 1 - wanted, 0)
        keep = (wanted > 0) | ((free > 0) & (tl.cumsum(free, axis=1) <= (N - n_wanted)[:, None]))
        slot = tl.cumsum(keep.to(tl.int32), axis=1) - 1
        raw = tl.load(dense_row + column, mask=wanted > 0, other=0)
        fits = keep & (slot < N)
        tl.store(values_row + group[:, None] * N + slot, raw, mask=fits & (group < n_groups)[:, None])
        if CODE_BITS > 0:
            store_codes(
                metadata_row, group, fits, slot, table, first, n_groups,
                N, LANES, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS,
            )  # fmt: skip
    # A kernel cannot raise: the host reads these marks.
    worst = tl.max(n_wanted, axis=0)
    tl.store(overfull + row * tl.num_programs(1) + tl.program_id(1), (worst > N).to(tl.int8))


def launch(
    dense: Tensor, format: SparseFormat, out: tuple[Tensor, Tensor], *, mask: Tensor | None = None
) -> None:
    """Compress rows; with a mask, wait for the device to hear whether it was one of the pattern.

    Parameters
    ----------
    dense : Tensor [R, K] of a type in `INTEGERS`
    out : values [R, G * N] like dense, metadata uint8 [R, bytes of a row]
        Contiguous, as all are; every element is written.
    mask : bool Tensor [R, K], optional
        What to keep; the greatest magnitudes when absent, of equals the first, NaN above infinity.

    Raises
    ------
    PatternError
        A mask that keeps more than N of a group.
    """
    if len(dense) == 0:
        return
    if mask is None:
        unused = dense.new_empty((2, len(dense)), dtype=torch.float32)
        prune.launch(dense, format, (*out, unused[0], unused[1]), shift="none")
        return
    check_fit(enqueue(dense, mask, format, out), mask, format.pattern)


def enqueue(dense: Tensor, mask: Tensor, format: SparseFormat, out: tuple[Tensor, Tensor]) -> Tensor:
    """Have rows compressed as a mask says, as `launch` does, without waiting for the device.

    Returns
    -------
    Tensor int8 [R, tiles of a row]
        1 if a tile has a group that keeps more than N, else 0. What is stored of such a tile means nothing.
    """
    pattern, (values, metadata) = format.pattern, out
    rows, k = dense.shape
    integer = INTEGERS[dense.dtype]
    about_it = tile_constants(format, k, dense.dtype)
    n_groups = values.shape[1] // pattern.n
    tiles = triton.cdiv(n_groups, about_it["GROUPS"])
    overfull = torch.empty((rows, tiles), dtype=torch.int8, device=dense.device)
    with on_device_of(dense):
        compress_kernel[(rows, tiles)](
            dense.view(integer), mask.view(torch.uint8), code_table(format, dense.device), values.view(integer), metadata,
            overfull, k, n_groups, **about_it, num_warps=warps_for(pattern, k, dense.dtype), enable_fp_fusion=False,
        )  # fmt: skip
    return overfull


def check_fit(overfull: Tensor, mask: Tensor, pattern: Pattern) -> None:
    """Wait for the device, and refuse a mask that `enqueue` found to keep too many.

    Raises
    ------
    PatternError
        A mask that keeps more than N of a group.
    """
    if overfull.any():
        raise PatternError(_first_overfull(mask, pattern))


def _first_overfull(mask: Tensor, pattern: Pattern) -> str:
    """Say where a mask keeps too many: the first group that does."""
    rows, k = mask.shape
    n_groups = pattern.groups(k)
    whole = torch.nn.functional.pad(mask, (0, n_groups * pattern.m - k)).view(rows, n_groups, pattern.m)
    kept = whole.sum(dim=2)
    row, group = (int(place) for place in (kept > pattern.n).nonzero()[0])
    last = min(k, (group + 1) * pattern.m) - 1
    return (
        f"mask row {row}, group {group} (elements {group * pattern.m} to {last}) keeps {int(kept[row, group])}: "
        f"expected at most {pattern.n} of every {pattern.m}"
    )
