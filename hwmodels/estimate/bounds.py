"""Bytes of a product, and the Roof-Surface bound: it takes at least as long as its slowest stage.

It is a **bound**: the least time that the machine's numbers allow, never an estimate of a kernel. It knows no
launch overhead, no latency, no tile or wave quantisation, no cache reuse across products and no clock that
drops.

The model follows DECA (arXiv 2505.19349), which adds a decode ceiling to the roofline's memory and matrix ceilings.
`select` is added here for activations that are pruned online.

Bytes between DRAM and the chip are exact, operand by operand.

One definition serves a single case (plain numbers) and a table of cases (arrays): all functions take either.

The sparse operand is stored as N values per group and a stream of codes over all its rows. A group with fewer non-zeros
and the tail group are filled up with zeros. Codes of a row may share a byte with those of the next. The other operand is
dense. Each operand is moved once (assumption A10). Values and metadata are each rounded up to whole bytes.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodels.machine.libraries import VALUE_TYPES
from hwmodels.machine.software import decode_cost, select_cost
from hwmodels.machine.spec import HardwareSpec
from nmsim import packing
from nmsim.case import VALUE_BITS
from nmsim.errors import EncodingError, RowError, brief
from nmsim.format import SparseFormat
from nmsim.units import ceil_div

OUTPUT_BITS = 16
"""Bits of an output element, except for 32-bit value types, whose output has 32."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one product by operand; numbers, or arrays of one entry per case."""

    values_bytes: Any
    metadata_bytes: Any
    dense_operand_bytes: Any
    output_bytes: Any

    @property
    def total_bytes(self) -> Any:
        """All bytes moved."""
        return self.values_bytes + self.metadata_bytes + self.dense_operand_bytes + self.output_bytes


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Choose as `numpy.where` does; a plain condition chooses at the cost of a plain choice.

    Examples
    --------
    >>> where(np.array([True, False]), 1, 2).tolist(), where(True, 1, 2)
    ([1, 2], 1)
    """
    return np.where(condition, yes, no) if isinstance(condition, np.ndarray) else yes if condition else no


class Stream(NamedTuple):
    """How the metadata of one (pattern, encoding, packing) adds up; numbers, or arrays of one entry per case.

    `codes_per_slot` codes share a slot of `slot_bits` bits, and each code covers `groups_per_code` groups.
    If codes differ in length `mean_bits_per_group` is the exact mean over uniform masks (assumption A15),
    else 0.
    """

    n: Any
    m: Any
    groups_per_code: Any
    codes_per_slot: Any
    slot_bits: Any
    mean_bits_per_group: Any


DENSE_STREAM = Stream(1, 1, 1, 1, 0, 0.0)
"""A dense operand: every element kept, no metadata."""


@functools.lru_cache(maxsize=4096)
def stream(format: SparseFormat | None) -> Stream:
    """Look up how the metadata of a format add up.

    Parameters
    ----------
    format : SparseFormat or None
        None for a dense operand.

    Returns
    -------
    Stream

    Raises
    ------
    EncodingError
        Codes that differ in length, under a policy other than `bitstream`.

    Examples
    --------
    >>> stream(SparseFormat.parse("8:16/combinatorial/no_straddle"))
    Stream(n=8, m=16, groups_per_code=1, codes_per_slot=2, slot_bits=32, mean_bits_per_group=0.0)
    """
    if format is None:
        return DENSE_STREAM
    pattern, how, parsed = format.pattern, format.encoding, format.packing
    groups_per_code, code_bits = how.groups_per_code(pattern), how.code_bits(pattern)
    mean = how.expected_bits_per_group(pattern)
    if mean != how.bits_per_group(pattern):
        if parsed.name != "bitstream":
            raise EncodingError(
                f"encoding {brief(how.name)} with pattern {pattern}: its codes differ in length; expected packing "
                f"'bitstream', got {brief(str(parsed))}"
            )
        return Stream(pattern.n, pattern.m, groups_per_code, 1, 0, float(mean))
    slot_bits = packing.stream_bits(1, code_bits, parsed)
    codes_per_slot = 1
    while slot_bits and packing.stream_bits(codes_per_slot + 1, code_bits, parsed) == slot_bits:
        codes_per_slot += 1
    return Stream(pattern.n, pattern.m, groups_per_code, codes_per_slot, slot_bits, 0.0)


def metadata_bits(groups: Any, how: Stream) -> Any:
    """Count the bits of the code stream of `groups` groups, padding included.

    Parameters
    ----------
    groups : int or int64 array
    how : Stream

    Returns
    -------
    int or int64 array
        Bits, before they are rounded up to whole bytes. Rounded to the nearest bit if it is a mean.

    Source
    ------
    `nmsim.packing.stream_bits`.

    Examples
    --------
    >>> int(metadata_bits(1_048_576, stream(SparseFormat.parse("8:16/combinatorial")))) // 8
    1835008
    """
    codes = ceil_div(groups, how.groups_per_code)
    fixed = ceil_div(codes, how.codes_per_slot) * how.slot_bits
    return fixed + np.rint(groups * np.float64(how.mean_bits_per_group)).astype(np.int64)


def fetched_columns(K: Any, tokens: Any, how: Stream) -> Any:
    """Count the weight columns along K that at least one of the tokens needs, in expectation.

    Parameters
    ----------
    K, tokens : int or int64 array
        In features; tokens with sparse activations.
    how : Stream

    Returns
    -------
    int64
        K * (1 - (1 - N/M)^T) to the nearest column, the tail group counted with its own density.

    Source
    ------
    Assumption A7: the masks of different tokens are independent and uniform.

    Examples
    --------
    >>> how = stream(SparseFormat.parse("8:16/bitmask"))
    >>> [int(fetched_columns(4096, tokens, how)) for tokens in (1, 2, 16)]
    [2048, 3072, 4096]
    """
    tail = K % how.m
    missed_share = 1.0 - np.divide(how.n, how.m)
    missed_share_of_tail = 1.0 - np.divide(np.minimum(how.n, tail), np.maximum(tail, 1))
    missed = (K - tail) * np.power(missed_share, tokens) + tail * np.power(missed_share_of_tail, tokens)
    return np.rint(K - missed).astype(np.int64)


def output_bits_of(value_bits: Any) -> Any:
    """Bits of an output element if nobody says otherwise.

    Examples
    --------
    >>> output_bits_of(8), output_bits_of(32)
    (16, 32)
    """
    return where(value_bits == 32, 32, OUTPUT_BITS)


def _copied(size_bytes: Any, copies: Any) -> Any:
    """Bytes of an operand of which one launch reads so many, each as large; one copy is exact in any size."""
    many = np.rint(size_bytes * np.float64(copies)).astype(np.int64)
    return where(copies == 1, size_bytes, many)


def traffic(
    M: Any,
    N: Any,
    K: Any,
    value_bits: Any,
    how: Stream,
    sparse_activations: Any,
    skip: bool,
    *,
    output_bits: Any = None,
    input_copies: Any = 1,
) -> Traffic:
    """Count the bytes one product moves between DRAM and the chip.

    Parameters
    ----------
    M, N, K : int or int64 array
        Tokens, out features, in features of Y[M, N] = X[M, K] W[N, K]^T, in elements.
    value_bits : int or int64 array
        Bits of a value of either operand.
    how : Stream
        Of the sparse operand; `DENSE_STREAM` for a dense product.
    sparse_activations : bool or bool array
        X is the sparse operand, pruned by its producer (assumption A16); else W is.
    skip : bool
        Weight columns that no token needs are not fetched (assumption A8).
    output_bits : int or int64 array, optional
        Bits of an element of Y; those of `output_bits_of` if absent.
    input_copies : float or float64 array
        Products in one launch, each with M tokens of its own. N counts the out features of all of them.

    Returns
    -------
    Traffic
        int64 bytes.

    Source
    ------
    Formula, `docs/explanation/cost-model.md`.

    Examples
    --------
    >>> how = stream(SparseFormat.parse("8:16/combinatorial"))
    >>> moved = traffic(1, 4096, 4096, 16, how, False, True)
    >>> int(moved.values_bytes), int(moved.metadata_bytes), int(moved.total_bytes)
    (16777216, 1835008, 18628608)
    """
    sparse_rows = where(sparse_activations, M, N)
    dense_rows = where(sparse_activations, N, M)
    groups = sparse_rows * ceil_div(K, how.m)
    columns = K
    if skip and np.asarray(sparse_activations).any():
        columns = where(sparse_activations, fetched_columns(K, M, how), K)
    output_bits = output_bits_of(value_bits) if output_bits is None else output_bits
    moved = Traffic(
        values_bytes=ceil_div(groups * how.n * value_bits, 8),
        metadata_bytes=ceil_div(metadata_bits(groups, how), 8),
        dense_operand_bytes=ceil_div(dense_rows * columns * value_bits, 8),
        output_bytes=ceil_div(M * N * output_bits, 8),
    )
    if np.all(input_copies == 1):
        return moved
    # N already counts the weights of all products of the launch, so X alone is read several times.
    of_sparse, of_dense = (
        where(sparse_activations, input_copies, 1),
        where(sparse_activations, 1, input_copies),
    )
    return Traffic(
        values_bytes=_copied(moved.values_bytes, of_sparse),
        metadata_bytes=_copied(moved.metadata_bytes, of_sparse),
        dense_operand_bytes=_copied(moved.dense_operand_bytes, of_dense),
        output_bytes=moved.output_bytes,
    )


STAGES = ("memory", "decode", "select", "matrix")
"""Stages in the order in which a tie is settled: the first one named is called the bound."""

EXECUTIONS = ("dense", "native", "expand")
"""How a product is run. `dense`: nothing is pruned. `native`: the sparse unit takes pattern, encoding,
packing, operand and value type as they are. `expand`: software turns codes into positions or dense tiles."""


class Plan(NamedTuple):
    """What the bound needs to know of (machine, value type, operand, pattern, encoding, packing).

    Numbers, or arrays of one entry per case. Rates that are no limit are zero seconds per group. `vector_work` is
    the share of the dense multiplications that the vector lanes would have to do. It is infinite if they take no
    part. `on_vector_lanes`: even dense products of this value type run there. `output_bits` and `input_copies` are
    those of `traffic`, for the product and for its dense baseline. `value_type` is a place in
    `hwmodels.machine.libraries.VALUE_TYPES`.
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
    output_bits: Any
    input_copies: Any
    value_type: Any


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
            f"dtype {brief(dtype)}: {hardware.id} has no peak for it; it has "
            f"{', '.join(hardware.dense_peak_flop_per_s)}"
        )
    dense = float(peak.value)
    bits, value_place = VALUE_BITS[dtype], VALUE_TYPES.index(dtype)
    output_bits = output_bits_of(bits)
    lanes_only = dtype == "fp32"
    if format is None:
        return Plan(
            DENSE_STREAM,
            bits,
            False,
            EXECUTIONS.index("dense"),
            0.0,
            0.0,
            dense,
            1.0,
            dense,
            lanes_only,
            output_bits,
            1.0,
            value_place,
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
            how,
            bits,
            online,
            EXECUTIONS.index("expand"),
            decode_s,
            select_s,
            dense,
            work,
            dense,
            lanes_only,
            output_bits,
            1.0,
            value_place,
        )
    decoder, selector, elems = unit.decoder_elements_per_s, unit.selector_elements_per_s, unit.pattern.m
    if online and selector is not None:
        select_s = elems / selector.value
    return Plan(
        how,
        bits,
        online,
        EXECUTIONS.index("native"),
        elems / decoder.value if decoder is not None else 0.0,
        select_s,
        float(hardware.sparse_peak_flop_per_s[dtype].value),
        np.inf,
        dense,
        lanes_only,
        output_bits,
        1.0,
        value_place,
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
    launched: dict[str, Any] = {"output_bits": how.output_bits, "input_copies": how.input_copies}
    moved = traffic(M, N, K, how.value_bits, how.how, how.sparse_activations, skip, **launched)
    moved_dense = traffic(M, N, K, how.value_bits, DENSE_STREAM, False, False, **launched)
    groups = where(how.sparse_activations, M * how.input_copies, N) * ceil_div(K, how.how.m)
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
