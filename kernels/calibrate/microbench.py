"""Loops that do one thing as fast as a core can: read, copy, multiply-add, shuffle bits.

The vector loops are written as LLVM instructions, in vectors of the processor's width. So no compiler decides how many
chains run side by side. The figures are what a core can reach. No product of ours is timed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from nmsim.support.jit import njit

LANE_BITS = 32
CHAINS = 10
"""Vectors that are worked on side by side: more than latency times units of a core, fewer than its registers."""
FMA_STEPS = 4
MIX_STEPS = 2
MIX = ("add", "shift by a vector", "exclusive or", "shuffle")
"""One step of a chain of `mix`."""
READ_VECTORS = 8
"""Vectors that one turn of the reading loop loads."""
STREAMS = (1, 4)
"""Places of an array that are read side by side; which is faster depends on the prefetchers."""
ROWS_ABREAST = STREAMS[-1]
"""Rows of a block in `read_blocks`."""
CLOCK_OPS = 8
"""Instructions a turn of `clock`."""

FMA_FLOP = 2 * CHAINS * FMA_STEPS
"""Flop per lane and turn of `fma`."""
MIX_INSTRUCTIONS = len(MIX) * CHAINS * MIX_STEPS
"""Vector instructions per turn of `mix`."""

I32, I64, F32 = ir.IntType(LANE_BITS), ir.IntType(64), ir.FloatType()
Values = list[Any]


@functools.cache
def lanes() -> int:
    """Count the 32-bit lanes of the widest vectors of this processor."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.Constant(ir.VectorType(value.type, lanes()), ir.Undefined)
    for lane in range(lanes()):
        vector = builder.insert_element(vector, value, ir.Constant(I32, lane))
    return vector


def _loop(builder: Any, turns: Any, start: Values, step: Callable[[Any, Values], Values]) -> Values:
    """Run `step` on values that stay in registers, `turns` times, at least once."""
    before = builder.block
    body = builder.append_basic_block("turn")
    after = builder.append_basic_block("after")
    builder.branch(body)
    builder.position_at_end(body)
    turn = builder.phi(I64)
    held = [builder.phi(value.type) for value in start]
    found = step(turn, held)
    following = builder.add(turn, ir.Constant(I64, 1))
    for phi, first, last in zip(
        [turn, *held], [ir.Constant(I64, 0), *start], [following, *found], strict=True
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(last, body)
    builder.cbranch(builder.icmp_signed("<", following, turns), body, after)
    builder.position_at_end(after)
    return found


def _first_lane(builder: Any, vectors: Values, join: Callable[[Any, Any], Any]) -> Any:
    """Fold vectors into one number, so that none of them is for nothing."""
    return builder.extract_element(functools.reduce(join, vectors), ir.Constant(I32, 0))


def _constant(kind: Any, values: Sequence[Any]) -> Any:
    return ir.Constant(ir.VectorType(kind, lanes()), list(values))


@intrinsic
def _fma_loop(context, turns, factor, term):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        turns, factor, term = arguments
        factor, term = _splat(builder, factor), _splat(builder, term)
        vector = ir.VectorType(F32, lanes())
        name = f"llvm.fma.v{lanes()}f32"
        kind = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]

        def step(turn: Any, chains: Values) -> Values:
            for _ in range(FMA_STEPS):
                chains = [builder.call(fma, [chain, factor, term]) for chain in chains]
            return chains

        start = [builder.fadd(term, _constant(F32, [float(c)] * lanes())) for c in range(CHAINS)]
        return _first_lane(builder, _loop(builder, turns, start, step), builder.fadd)

    return types.float32(types.int64, types.float32, types.float32), generate


@intrinsic
def _mix_loop(context, turns, term, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        turns, term, bits = arguments
        term, bits = _splat(builder, term), _splat(builder, bits)
        distance = builder.and_(bits, _constant(I32, [1] * lanes()))
        backwards = _constant(I32, [lane ^ 3 for lane in range(lanes())])

        def step(turn: Any, chains: Values) -> Values:
            for _ in range(MIX_STEPS):
                chains = [builder.add(chain, term) for chain in chains]
                chains = [builder.lshr(chain, distance) for chain in chains]
                chains = [builder.xor(chain, bits) for chain in chains]
                chains = [builder.shuffle_vector(chain, chain, backwards) for chain in chains]
            return chains

        first = [[c * lanes() + lane for lane in range(lanes())] for c in range(CHAINS)]
        start = [builder.add(term, _constant(I32, numbers)) for numbers in first]
        return _first_lane(builder, _loop(builder, turns, start, step), builder.xor)

    return types.uint32(types.int64, types.uint32, types.uint32), generate


@intrinsic
def _read_loop(context, address, turns, pair_bytes, turn_bytes):  # type: ignore[no-untyped-def]
    """Load `READ_VECTORS` vectors a turn, in pairs that lie `pair_bytes` apart."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address, turns, pair_bytes, turn_bytes = arguments
        vector = ir.VectorType(I32, lanes())
        vector_bytes = lanes() * LANE_BITS // 8

        def step(turn: Any, sums: Values) -> Values:
            start = builder.add(address, builder.mul(turn, turn_bytes))
            found = []
            for i, total in enumerate(sums):
                pair = builder.mul(pair_bytes, ir.Constant(I64, i // 2))
                place = builder.add(builder.add(start, pair), ir.Constant(I64, i % 2 * vector_bytes))
                found.append(
                    builder.add(total, builder.load(builder.inttoptr(place, vector.as_pointer()), align=4))
                )
            return found

        zeros = [_constant(I32, [0] * lanes())] * READ_VECTORS
        return _first_lane(builder, _loop(builder, turns, zeros, step), builder.add)

    return types.uint32(types.int64, types.int64, types.int64, types.int64), generate


@njit(cache=True, nogil=True)
def fma(turns, factor, term):  # type: ignore[no-untyped-def]
    """Multiply-add in fp32: `FMA_FLOP` flop per lane and turn."""
    return _fma_loop(turns, factor, term)  # type: ignore[call-arg]


@njit(cache=True, nogil=True)
def mix(turns, term, bits):  # type: ignore[no-untyped-def]
    """Integer instructions of the kinds in `MIX`: `MIX_INSTRUCTIONS` a turn."""
    return _mix_loop(turns, term, bits)  # type: ignore[call-arg]


@njit(cache=True, nogil=True)
def clock(turns, term, bits):  # type: ignore[no-untyped-def]
    """`CLOCK_OPS` additions and exclusive ors per turn. Each waits for the one before: one per clock cycle."""
    value = term
    for _ in range(turns):
        value = (value ^ bits) + term
        value = (value ^ bits) + term
        value = (value ^ bits) + term
        value = (value ^ bits) + term
    return value


@njit(cache=True, nogil=True)
def _read_passes(address, turns, pair_bytes, turn_bytes, passes):  # type: ignore[no-untyped-def]
    total = np.uint32(0)
    for _ in range(passes):
        total ^= _read_loop(address, turns, pair_bytes, turn_bytes)  # type: ignore[call-arg]
    return total


@njit(cache=True, nogil=True)
def _read_every_block(address, blocks, turns, row_bytes, turn_bytes):  # type: ignore[no-untyped-def]
    total = np.uint32(0)
    for block in range(blocks):
        start = address + block * ROWS_ABREAST * row_bytes
        total ^= _read_loop(start, turns, row_bytes, turn_bytes)  # type: ignore[call-arg]
    return total


def read_blocks(array: NDArray[np.uint8], row_bytes: int) -> int:
    """Load every byte of an array once, in blocks of `ROWS_ABREAST` rows that are read side by side.

    Parameters
    ----------
    array : uint8 array
        Contiguous, at least one block.
    row_bytes : int
        A multiple of two vectors.

    Returns
    -------
    int
        Rows that were read.
    """
    turn_bytes = 2 * lanes() * LANE_BITS // 8
    blocks = array.nbytes // (ROWS_ABREAST * row_bytes)
    assert blocks > 0
    assert row_bytes % turn_bytes == 0
    _read_every_block(array.ctypes.data, blocks, row_bytes // turn_bytes, row_bytes, turn_bytes)
    return blocks * ROWS_ABREAST


def read(array: NDArray[np.uint8], streams: int = 1, passes: int = 1) -> int:
    """Load every byte of an array into a register, except a tail of less than a few hundred bytes.

    Parameters
    ----------
    array : uint8 array
        Contiguous, at least a few hundred bytes.
    streams : {1, 4}
        Places at which it is read side by side.
    passes : int

    Returns
    -------
    int
        Bytes loaded in one pass.
    """
    pair = 2 * lanes() * LANE_BITS // 8
    turn_bytes = pair if streams > 1 else pair * READ_VECTORS // 2
    turns = array.nbytes // (streams * turn_bytes)
    assert streams in STREAMS
    assert turns > 0
    apart = turns * turn_bytes if streams > 1 else pair
    _read_passes(array.ctypes.data, turns, apart, turn_bytes, passes)
    return turns * turn_bytes * streams


@njit(cache=True, nogil=True)
def copy(source, target, passes):  # type: ignore[no-untyped-def]
    """Copy an array, `passes` times."""
    for _ in range(passes):
        for i in range(source.size):
            target[i] = source[i]
