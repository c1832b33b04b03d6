"""The Roof-Surface bound: a product takes at least as long as its slowest stage.

It is a **bound**: the best case that the machine's numbers allow, never an estimate of a kernel. It knows no
launch overhead, no latency, no tile or wave quantisation, no cache reuse across products and no clock that
drops.

The model follows DECA (arXiv 2505.19349), which adds a decode ceiling to the roofline's memory and matrix ceilings.
`select` is added here for activations that are pruned online.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodels.estimate.traffic import DENSE_STREAM, Stream, Traffic, stream, traffic, where
from hwmodels.machine.software import decode_cost, select_cost
from hwmodels.machine.spec import HardwareSpec
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError
from nmsim.format import SparseFormat
from nmsim.units import ceil_div

STAGES = ("memory", "decode", "select", "matrix")
"""Stages in the order in which a tie is settled: the first one named is called the bound."""

EXECUTIONS = ("dense", "native", "expand")
"""How a product is run. `dense`: nothing is pruned. `native`: the sparse unit takes pattern, encoding,
packing, operand and value type as they are. `expand`: software turns codes into positions or dense tiles."""


class Plan(NamedTuple):
    """What the bound needs to know of (machine, value type, operand, pattern, encoding, packing).

    Numbers, or arrays of one entry per case. Rates that are no limit are zero seconds per group. `vector_work` is
    the share of the dense multiplications that the vector lanes would have to do. It is infinite if they take no
    part. `on_vector_lanes`: even dense products of this value type run there.
    """

    how: Stream
    value_bits: Any
    sparse_activations: Any
    execution: Any
    decode_s_per_group: Any
    select_s_per_group: Any
    matrix_peak_flop_per_s: Any
    vector_work: Any
    dense_peak_flop_per_s: Any
    on_vector_lanes: Any


@dataclass(frozen=True)
class Bound:
    """Times of one product by stage, in seconds; numbers, or arrays of one entry a case."""

    memory_s: Any
    decode_s: Any
    select_s: Any
    matrix_s: Any

    @property
    def stages(self) -> tuple[Any, Any, Any, Any]:
        """The times in the order of `STAGES`."""
        return self.memory_s, self.decode_s, self.select_s, self.matrix_s

    @property
    def time_s(self) -> Any:
        """The longest stage."""
        return functools.reduce(np.maximum, self.stages)

    @property
    def stage(self) -> Any:
        """Position in `STAGES` of the longest stage."""
        longest, place = self.memory_s, np.int8(0)
        for position, time_s in enumerate(self.stages[1:], start=1):
            place = where(time_s > longest, np.int8(position), place)
            longest = np.maximum(longest, time_s)
        return place


@functools.lru_cache(maxsize=65536)
def plan(hardware: HardwareSpec, dtype: str, operand: str, format: SparseFormat | None) -> Plan:
    """Find how a machine runs a product, and at which rates.

    Parameters
    ----------
    hardware : HardwareSpec
    dtype : str
        Value type, a key of `nmsim.case.VALUE_BITS`.
    operand : {"weights", "activations"}
        The sparse operand; without effect if `format` is None.
    format : SparseFormat or None
        None for a dense product.

    Returns
    -------
    Plan

    Raises
    ------
    RowError
        The machine has no dense peak for `dtype`.
    EncodingError
        An encoding and a packing that do not go together.

    Source
    ------
    Software rates: `hwmodels.machine.software` and assumption A6. Vector lanes: assumption A9.
    """
    peak = hardware.dense_peak_flop_per_s.get(dtype)
    if peak is None:
        raise RowError(
            f"dtype {dtype!r}: {hardware.id} has no peak for it; it has "
            f"{', '.join(hardware.dense_peak_flop_per_s)}"
        )
    dense = float(peak.value)
    bits = VALUE_BITS[dtype]
    lanes_only = dtype == "fp32"
    if format is None:
        return Plan(
            DENSE_STREAM, bits, False, EXECUTIONS.index("dense"), 0.0, 0.0, dense, 1.0, dense, lanes_only
        )
    how = stream(format)
    online = operand == "activations"
    unit = hardware.native_unit(format, operand=operand, dtype=dtype)
    lanes = hardware.issue_lanes_per_s
    select_s = select_cost(format).instructions / lanes if online else 0.0
    # Without a unit the matrix stage may run on the matrix unit or on the vector lanes, so both rates are kept.
    if unit is None:
        decode_s = decode_cost(format).instructions / lanes
        work = float(format.pattern.density)
        return Plan(
            how, bits, online, EXECUTIONS.index("expand"), decode_s, select_s, dense, work, dense, lanes_only
        )
    decoder, selector = unit.decoder_groups_per_s, unit.selector_groups_per_s
    if online and selector is not None:
        select_s = 1.0 / selector.value
    return Plan(
        how,
        bits,
        online,
        EXECUTIONS.index("native"),
        1.0 / decoder.value if decoder is not None else 0.0,
        select_s,
        float(hardware.sparse_peak_flop_per_s[dtype].value),
        np.inf,
        dense,
        lanes_only,
    )


def evaluate(
    hardware: HardwareSpec, how: Plan, M: Any, N: Any, K: Any
) -> tuple[Traffic, Bound, Traffic, Bound]:
    """Compute traffic and bound of products, and of the same products dense.

    Parameters
    ----------
    hardware : HardwareSpec
    how : Plan
        Of numbers, or of arrays with one entry a case.
    M, N, K : int or int64 array
        Tokens, out features, in features.

    Returns
    -------
    tuple of Traffic, Bound, Traffic, Bound
        Of the product, then of its dense baseline: the same bound on dense bytes and the dense peak.

    Source
    ------
    Roof-Surface, DECA, arXiv 2505.19349; formulas in `docs/explanation/cost-model.md`.
    """
    bandwidth = float(hardware.dram_bandwidth_bytes_per_s.value)
    vector_peak = float(hardware.vector_peak_flop_per_s.value)
    skip = hardware.weight_column_skip.supported
    moved = traffic(M, N, K, how.value_bits, how.how, how.sparse_activations, skip)
    moved_dense = traffic(M, N, K, how.value_bits, DENSE_STREAM, False, False)
    groups = where(how.sparse_activations, M, N) * ceil_div(K, how.how.m)
    flop = 2.0 * M * N * K
    vector_s = flop / vector_peak
    bound = Bound(
        memory_s=moved.total_bytes / bandwidth,
        decode_s=groups * how.decode_s_per_group,
        select_s=groups * how.select_s_per_group,
        matrix_s=np.minimum(flop / how.matrix_peak_flop_per_s, vector_s * how.vector_work),
    )
    bound_dense = Bound(
        memory_s=moved_dense.total_bytes / bandwidth,
        decode_s=0.0,
        select_s=0.0,
        matrix_s=np.minimum(flop / how.dense_peak_flop_per_s, vector_s),
    )
    return moved, bound, moved_dense, bound_dense
