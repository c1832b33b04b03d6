"""Weights in the order of `kernels.stored.shuffled` back to dense ones, on the device: bit for bit, zeros elsewhere.

So one stored copy serves few tokens, by the decode kernel, and many, by a dense product. One program makes a tile of some
rows and units in registers (`kernels.gpu.expand.spread`). Neighbouring rows lie beside each other in what it reads, and
neighbouring units in what it writes. Nothing here was timed: block sizes are guesses.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import INTEGERS, on_device_of
from kernels.gpu.codes import DECODE, position_table, positions
from kernels.gpu.expand import spread
from kernels.stored.rows import STEP_ELEMS
from kernels.stored.shuffled import ShuffledWeight
from nmsim.format import SparseFormat

TILE_ROWS = 64
TILE_ELEMS = 64
"""Elements of a row: whole lines of memory, 128 bytes, are written, and lines of eight rows of a unit are read."""
WARPS = 4


@triton.jit
def _masks(
    codes: tl.tensor, more: tl.tensor, table: tl.tensor, inside: tl.tensor,
    ENCODING: tl.constexpr, DECODE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Read the codes of units: -> uint32, bit i set if element i is kept; nothing is kept of what is not inside."""
    code = tl.load(codes, mask=inside, other=0)
    if ENCODING == "bitmask":
        word = code.to(tl.uint32)
    else:
        late = code
        if DECODE == "index3" or DECODE == "index5":
            late = tl.load(more, mask=inside, other=0)
        if DECODE == "index5":
            low, high = code, late.to(tl.uint32)
        else:
            low = positions(code, late, table, DECODE)
            high = low * 0
        word = high * 0
        for i in tl.static_range(16 if DECODE == "index5" else 8):
            position = (low >> (4 * i)).to(tl.uint32) & 15
            if DECODE == "index5":
                position |= ((high >> i) & 1) << 4
            word |= (word * 0 + 1) << position
    return tl.where(inside, word, 0)


@triton.jit(do_not_specialize=["outputs", "units"])
def unshuffle_kernel(
    values: tl.tensor, metadata: tl.tensor, table: tl.tensor, dense: tl.tensor, outputs: tl.tensor,
    k: tl.tensor, rows: tl.tensor, units: tl.tensor,
    ENCODING: tl.constexpr, DECODE: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
) -> None:  # fmt: skip
    """Make one dense tile: see `launch` for what goes in and out."""
    PAIRS: tl.constexpr = UNIT // 4
    NARROW: tl.constexpr = tl.uint32 if DECODE == "index4" or DECODE == "bitmask32" else tl.uint16
    FIRST: tl.constexpr = tl.uint64 if DECODE == "index5" else NARROW
    MORE: tl.constexpr = tl.uint8 if DECODE == "index3" else tl.uint16
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    first = tl.program_id(0) * UNITS
    unit = first + tl.arange(0, UNITS)[None, :]
    plane = units * rows.to(tl.int64)
    place = unit * rows.to(tl.int64) + row
    word = _masks(
        metadata.to(tl.pointer_type(FIRST)) + place,
        (metadata + plane * (2 if UNIT == 16 else 8)).to(tl.pointer_type(MORE)) + place,
        table, (row < rows) & (unit < units), ENCODING, DECODE,
    )  # fmt: skip
    # A run of eight values is four pairs.
    pair = tl.arange(0, UNITS * PAIRS)[None, :]
    run = first * (PAIRS // 4) + pair // 4
    at = values.to(tl.pointer_type(tl.uint32)) + (run * rows.to(tl.int64) + row) * 4 + pair % 4
    pairs = tl.load(
        at, mask=(row < rows) & (run < units * (PAIRS // 4)), other=0, eviction_policy="evict_first"
    )
    tile = spread(pairs, word, units, ROWS, UNITS, UNIT)
    column = first * UNIT + tl.arange(0, UNITS * UNIT)[None, :]
    tl.store(dense + row.to(tl.int64) * k + column, tile, mask=(row < outputs) & (column < k))


def launch(weight: ShuffledWeight, out: Tensor) -> None:
    """Make the dense matrix, all tensors contiguous.

    Parameters
    ----------
    weight : ShuffledWeight of values of 16 bits
        Where `kernels.ops.checks` says, as for the decode kernel.
    out : Tensor [N, K] of the type of the values
        Every element is written.
    """
    integer = INTEGERS[weight.values.dtype]
    about_it = constants(weight.format)
    outputs, k = weight.shape
    grid = (triton.cdiv(weight.units, about_it["UNITS"]), triton.cdiv(outputs, TILE_ROWS))
    table = None
    if about_it["ENCODING"] != "bitmask":
        table = position_table(weight.format, weight.values.device)
    with on_device_of(out):
        unshuffle_kernel[grid](
            weight.values.view(integer), weight.metadata, table, out.view(integer), outputs, k, weight.rows, weight.units,
            **about_it, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def constants(format: SparseFormat) -> dict[str, Any]:
    """Name what `unshuffle_kernel` is compiled for."""
    unit = STEP_ELEMS[format.pattern]
    return {
        "ENCODING": format.encoding.name,
        "DECODE": DECODE[format],
        "UNIT": unit,
        "ROWS": TILE_ROWS,
        "UNITS": TILE_ELEMS // unit,
    }
