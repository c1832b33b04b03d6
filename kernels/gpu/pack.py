"""Dense rows to packed ones, on the device: what a mask keeps, or the greatest magnitudes.

Without a mask this is the pruning of tokens, which stores the same bytes. With one, a program takes a tile of a row.
Nothing here was timed: block sizes are guesses.
"""

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu import prune
from kernels.gpu.bits import INTEGERS, about, binomials, on_device_of
from kernels.gpu.codes import store_codes
from nmsim.errors import PatternError
from nmsim.pattern import Pattern

TILE_ELEMS = 1024
WARPS = 4


@triton.jit
def pack_kernel(
    dense: tl.tensor,
    mask: tl.tensor,
    table: tl.tensor,
    values: tl.tensor,
    metadata: tl.tensor,
    overfull: tl.tensor,
    k: tl.tensor,
    n_groups: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    ENCODING: tl.constexpr,
    CODE_BITS: tl.constexpr,
    POSITION_BITS: tl.constexpr,
    UNIT_GROUPS: tl.constexpr,
) -> None:
    """Pack one tile of a row as its mask says, and note whether a group of it keeps more than N: see `launch`.

    A group that keeps fewer gets its lowest free positions, and zeros are stored for them.
    """
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * GROUPS
    group = first + tl.arange(0, GROUPS)
    lane = tl.arange(0, LANES)[None, :]
    column = group[:, None] * M + lane
    inside = (lane < M) & (column < k)
    wanted = tl.load(mask + row * k + column, mask=inside, other=0).to(tl.int32)
    n_wanted = tl.sum(wanted, axis=1)
    free = tl.where(lane < M, 1 - wanted, 0)
    keep = (wanted > 0) | ((free > 0) & (tl.cumsum(free, axis=1) <= (N - n_wanted)[:, None]))
    slot = tl.cumsum(keep.to(tl.int32), axis=1) - 1
    raw = tl.load(dense + row * k + column, mask=wanted > 0, other=0)
    fits = keep & (slot < N)
    stays = fits & (group < n_groups)[:, None]
    tl.store(values + (row * n_groups + group[:, None]) * N + slot, raw, mask=stays)
    if CODE_BITS > 0:
        store_codes(
            metadata + row * (n_groups * CODE_BITS // 8), group, fits, slot, table, first, n_groups,
            N, LANES, GROUPS, ENCODING, CODE_BITS, POSITION_BITS, UNIT_GROUPS,
        )  # fmt: skip
    worst = tl.max(n_wanted, axis=0)
    tl.store(overfull + row * tl.num_programs(1) + tl.program_id(1), (worst > N).to(tl.int8))


def launch(
    dense: Tensor,
    pattern: Pattern,
    encoding: str,
    out: tuple[Tensor, Tensor],
    *,
    mask: Tensor | None = None,
) -> None:
    """Pack rows; with a mask, wait for the device to hear whether it was a mask of the pattern.

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
    values, metadata = out
    rows, k = dense.shape
    if rows == 0:
        return
    if mask is None:
        unused = dense.new_empty((2, rows), dtype=torch.float32)
        prune.launch(dense, pattern, encoding, (values, metadata, unused[0], unused[1]), shift="none")
        return
    integer = INTEGERS[dense.dtype]
    about_it = constants(pattern, encoding, k)
    n_groups = values.shape[1] // pattern.n
    tiles = triton.cdiv(n_groups, about_it["GROUPS"])
    overfull = torch.empty((rows, tiles), dtype=torch.int8, device=dense.device)
    table = binomials(pattern, dense.device) if encoding == "combinatorial" else None
    with on_device_of(dense):
        pack_kernel[(rows, tiles)](
            dense.view(integer), mask.view(torch.uint8), table, values.view(integer), metadata, overfull, k, n_groups,
            **about_it, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    if overfull.any():
        raise PatternError(_first_overfull(mask, pattern))


def constants(pattern: Pattern, encoding: str, k: int) -> dict[str, Any]:
    """Name what `pack_kernel` is compiled for."""
    codes = about(pattern, encoding, k)
    groups = max(8, triton.next_power_of_2(pattern.groups(k)))
    return codes | {
        "GROUPS": min(TILE_ELEMS // codes["LANES"], groups),
        "UNIT_GROUPS": 8 // gcd(8, codes["CODE_BITS"]),
    }


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
