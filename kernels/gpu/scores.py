"""Elements of a token as they are pruned: shifted, rounded once to be stored, and ranked."""

import triton
import triton.language as tl

from kernels.gpu.bits import as_bits, as_float


@triton.jit
def scored(
    x_row: tl.tensor,
    vector: tl.tensor,
    shift: tl.tensor,
    eta: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    lane: tl.tensor,
    KIND: tl.constexpr,
    SHIFT: tl.constexpr,
    HAS_VECTOR: tl.constexpr,
    UNIQUE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Read elements: -> shifted, in float32; the bits to store; a rank. Beyond the row's end ranks are below all inside.

    No two ranks of a group are equal if they are to be UNIQUE, or if nothing is computed of 16-bit values; else equal scores
    have equal ranks.
    """
    raw = tl.load(x_row + column, mask=inside, other=0)
    number = as_float(raw, KIND)
    if SHIFT == "vector":
        number = tl.where(inside, number - tl.load(shift + column, mask=inside, other=0), 0.0)
    elif SHIFT != "none":
        number = tl.where(inside, number - eta, 0.0)

    SCORED: tl.constexpr = SHIFT != "none" or HAS_VECTOR or KIND == "float32"
    if not SCORED:
        # Fifteen bits of magnitude on top of a lane's six: few operations, and they fit 32 bits.
        rank = ((raw.to(tl.int32) << 16) & 0x7FFF0000) | (63 - lane)
    else:
        if SHIFT == "none" and not HAS_VECTOR:
            magnitude = raw & 0x7FFFFFFF
        else:
            score = number
            if HAS_VECTOR:
                score = number * tl.load(vector + column, mask=inside, other=0)
            magnitude = score.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            magnitude = tl.where(score != score, 0x7FFFFFFF, magnitude)
        rank = (magnitude.to(tl.int64) << 6) | (63 - lane) if UNIQUE else magnitude
    rank = tl.where(inside, rank, 31 - lane if UNIQUE or not SCORED else -1)
    stored = raw if SHIFT == "none" else as_bits(number, KIND)
    return number, stored, rank
