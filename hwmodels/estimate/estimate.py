"""The estimate: what real kernels are expected to take, from the bound's stages and the fitted constants.

`hwmodels.estimate.bounds` says how fast a product could be. This module says how fast libraries and fused kernels run it. It
counts launches, tiles and waves, bandwidth that is reached, caches, and power.
"""

from typing import Any, NamedTuple

import numpy as np

from hwmodels.estimate.bounds import EXECUTIONS, Bound, Plan, Traffic, where
from hwmodels.estimate.constants import Constants
from hwmodels.estimate.library import Product, library_time_s, norm
from hwmodels.machine.chip import Chip, chip
from hwmodels.machine.spec import HardwareSpec

CACHE_STATES = ("", "cold", "warm")
"""Where operands lie. `""`: in DRAM. `"cold"`: in DRAM, after a benchmark flushed the cache by writing to it, which
the product then waits for. `"warm"`: wherever the same product left them, called back to back."""
VECTOR_TOKENS = 8
"""Most tokens that a fused kernel multiplies on the vector lanes, one expanded value for all of them. For as many tokens a
dense library has a kernel that is one long read (A25)."""
ROADS = ("dense", "unit", "fused", "expanded")
"""How the estimate runs a product. `unit`: the library of a sparse matrix unit. `fused`: codes are decoded inside the
product. `expanded`: the operand is written out dense first, for the dense library."""
EXPAND_TILE_TOKENS = 128
"""Tokens that share one expansion of a tile in a fused kernel on the matrix units (A25)."""


class Estimate(NamedTuple):
    """Expected seconds of products and of their dense baselines, and how each is run (place in `ROADS`)."""

    time_s: Any
    dense_time_s: Any
    road: Any


def estimate(
    hardware: HardwareSpec,
    constants: Constants,
    how: Plan,
    shape: tuple[Any, Any, Any],
    moved: Traffic,
    bound: Bound,
    moved_dense: Traffic,
    state: Any,
) -> Estimate:
    """Estimate products on a GPU.

    Parameters
    ----------
    hardware : HardwareSpec
    constants : Constants
    how : Plan
        Of numbers, or of arrays [rows].
    shape : tuple of int or int64 array [rows]
        Tokens M, out features N, in features K.
    moved, bound, moved_dense
        What `hwmodels.estimate.bounds.evaluate` says of the same rows.
    state : int or int8 array [rows]
        Place in `CACHE_STATES`.

    Returns
    -------
    Estimate
        Numbers, or float64 arrays [rows].

    Source
    ------
    `docs/explanation/estimate.md`.
    """
    M, N, K = shape
    device = chip(hardware)
    warm, flushed = state == CACHE_STATES.index("warm"), state == CACHE_STATES.index("cold")
    sparse = how.execution != EXECUTIONS.index("dense")
    native = how.execution == EXECUTIONS.index("native")
    many = M > VECTOR_TOKENS
    tokens, rows = where(how.sparse_activations, N, M), where(how.sparse_activations, M, N)
    value_bytes = how.value_bits / 8.0
    output_bytes, more_inputs = how.output_bits / 8.0, how.input_copies - 1.0
    # A launch of several products reads X of each. One of them stands in `Product`; the others are charged per output.
    own_copies = where(how.sparse_activations, how.input_copies, 1.0)
    kind = how.value_type
    energy = energy_ratio(how.value_bits, how.on_vector_lanes, constants)
    stored_bytes = moved.values_bytes + moved.metadata_bytes
    dense_bytes = rows * K * value_bytes * own_copies
    stored_per_elem = stored_bytes / (rows * K) / own_copies
    x_bytes_per_elem = where(how.sparse_activations, stored_per_elem, value_bytes)

    written = output_bytes + more_inputs * x_bytes_per_elem * K / N

    def library(rate: Any, ratio: Any, on_unit: Any, needed: Any) -> Any:
        product = Product(
            tokens, rows, K, stored_per_elem, value_bytes, written, rate, ratio, on_unit, warm, kind
        )
        return library_time_s(product, device, constants, needed)

    no = native & False
    dense_rate = how.dense_peak_flop_per_s
    # The baseline is one figure, whichever operand is pruned.
    written_dense = output_bytes + more_inputs * value_bytes * K / N
    dense = Product(M, N, K, value_bytes, value_bytes, written_dense, dense_rate, energy, no, warm, kind)
    dense_library_s = library_time_s(dense, device, constants)
    dense_time_s = dense_s(M, dense_library_s, moved_dense.total_bytes, warm, device, constants)

    unit_s = library(how.matrix_peak_flop_per_s, energy * constants.sparse_energy_ratio, native, native)
    read_s = stream_s(moved.total_bytes, warm, device, constants, fused=True)
    small_s = norm(read_s, bound.decode_s, bound.select_s, bound.matrix_s)
    decoding_s = bound.decode_s * np.ceil(tokens / EXPAND_TILE_TOKENS)
    tiled_s = norm(library(dense_rate, energy, no, sparse & many) + decoding_s, bound.select_s)
    written_s = (stored_bytes + dense_bytes) / (device.dram_bytes_per_s * constants.dram_share)
    unpacked_s = constants.library_launch_s + np.maximum(written_s, bound.decode_s)
    sparse_roads = (
        norm(unit_s, bound.decode_s, bound.select_s),
        where(many, tiled_s, small_s),
        norm(dense_library_s + unpacked_s, bound.select_s),
    )
    time_s, road = where(sparse, np.inf, dense_time_s), np.int8(ROADS.index("dense"))
    for place, road_s in enumerate(sparse_roads, start=1):
        faster = sparse & (road_s < time_s)
        time_s, road = where(faster, road_s, time_s), where(faster, np.int8(place), road)
    wait_s = flush_s(flushed, device, constants)
    return Estimate(time_s + wait_s, dense_time_s + wait_s, road)


def dense_s(
    tokens: Any, library_s: Any, total_bytes: Any, warm: Any, device: Chip, constants: Constants
) -> Any:
    """Seconds of a dense product: a library has kernels for few tokens that are one long read (A25)."""
    streamed_s = stream_s(total_bytes, warm, device, constants, fused=False)
    return where(tokens <= VECTOR_TOKENS, np.minimum(streamed_s, library_s), library_s)


def energy_ratio(value_bits: Any, on_vector_lanes: Any, constants: Constants) -> Any:
    """Joules of an operation on values so wide, over those of a dense 16-bit tensor operation."""
    byte = constants.byte_value_energy_ratio
    # Each halving of the bits saves the same share.
    narrow = where(value_bits < 8, byte * byte, byte)
    tensor = where(value_bits <= 8, narrow, where(value_bits == 32, 2.0, 1.0))
    lanes = constants.vector_energy_joules_per_flop / constants.tensor_energy_joules_per_flop
    return where(on_vector_lanes, lanes, tensor)


def flush_s(flushed: Any, device: Chip, constants: Constants) -> Any:
    """Seconds that a product waits after a flush, whichever kernel runs it: for events, and for dirty lines."""
    written_s = constants.cache_writeback_share * device.cache_bytes / device.dram_bytes_per_s
    return where(flushed, constants.timed_alone_s + written_s, 0.0)


def stream_s(total_bytes: Any, warm: Any, device: Chip, constants: Constants, *, fused: bool) -> Any:
    """Estimate a kernel that reads its operands once and does little else: a matrix-vector product.

    Parameters
    ----------
    total_bytes : array
        All bytes of the product.
    warm : bool array
    device : Chip
    constants : Constants
    fused : bool
        The kernel decodes while it reads.

    Returns
    -------
    array
        Seconds.
    """
    share = constants.fused_dram_share if fused else constants.stream_dram_share
    room = constants.cache_residency_share * device.cache_bytes
    outgrown = (total_bytes - room) / (constants.cache_overflow_ratio * room)
    beyond = np.minimum(np.maximum(outgrown, 0.0), 1.0)
    from_dram = where(warm, beyond, 1.0) * total_bytes
    read_s = norm(
        from_dram / (device.dram_bytes_per_s * share),
        total_bytes / (device.cache_bytes_per_s * constants.cache_bandwidth_share),
    )
    return constants.library_launch_s + read_s
