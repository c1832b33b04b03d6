"""A design point as the closed form takes it: one product on one core, all of it numbers.

Two operands meet. A is the sparse one: W [N, K] for sparse weights and dense products, X [M, K] for sparse activations. B is
the other. Names as in `hwmodels.tensorcore.record`, all floats, so that compiled code may take a row of a table for one.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from hwmodels.estimate.bounds import DENSE_STREAM, OUTPUT_BITS, stream
from hwmodels.estimate.table import MAX_DIMENSION, SHAPE_COLUMNS
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import RowError
from nmsim.pattern import Pattern

EXECUTIONS = ("dense", "native", "expanded")
"""`native`: the array skips what the pattern leaves out. `expanded`: codes are decoded, zeros multiplied."""


class Point(NamedTuple):
    """Numbers of one product on one core. `a_*` and `b_*` are how the metadata of an operand add up (`Stream`).

    `native`, `consumer`, `skip`, `dual`, `multicast` are 0 or 1. `native`: the array skips zeros of A. `consumer`: A arrives
    dense and is pruned in the core. `skip`: columns of B that no row of A needs stay in DRAM. `dual`: zeros of B are skipped
    too.
    """

    a_rows: Any
    b_cols: Any
    K: Any
    value_bits: Any
    output_bits: Any
    a_n: Any
    a_m: Any
    a_groups_per_code: Any
    a_codes_per_slot: Any
    a_slot_bits: Any
    a_mean_bits: Any
    b_n: Any
    b_m: Any
    b_groups_per_code: Any
    b_codes_per_slot: Any
    b_slot_bits: Any
    b_mean_bits: Any
    native: Any
    consumer: Any
    skip: Any
    dual: Any
    cores: Any
    array_rows: Any
    array_cols: Any
    depth: Any
    accumulator_bits: Any
    accumulator_bytes: Any
    accumulator_buffers: Any
    accumulator_bytes_per_cycle: Any
    accumulate_steps: Any
    decoder_groups_per_cycle: Any
    decoder_latency_cycles: Any
    operand_b_bytes_per_cycle: Any
    match_windows: Any
    selector_groups_per_cycle: Any
    selector_latency_cycles: Any
    fragment_rows: Any
    fragment_cols: Any
    register_blocks: Any
    shared_bytes: Any
    shared_bytes_per_cycle: Any
    shared_access_bytes: Any
    shared_blocks: Any
    l2_bytes: Any
    l2_bytes_per_cycle: Any
    l2_access_bytes: Any
    l2_blocks: Any
    l2_latency_cycles: Any
    multicast: Any
    dram_bytes_per_cycle: Any
    dram_access_bytes: Any
    dram_latency_cycles: Any


CORE_FIELDS = tuple(name for name in Point._fields if name in SparseTensorCore.__dataclass_fields__)
"""Fields that are taken from the core as they are."""


def execution(core: SparseTensorCore, case: Case) -> str:
    """Say how a core runs a case: one of `EXECUTIONS`."""
    if case.pattern is None:
        return "dense"
    return "native" if core.takes(case.pattern, case.sparse_operand) else "expanded"


def point(core: SparseTensorCore, case: Case, other: Pattern | None = None) -> Point:
    """Put a case and a core together.

    Parameters
    ----------
    core : SparseTensorCore
    case : Case
    other : Pattern, optional
        Of the other operand, stored with the same encoding and packing; for dual-sided cores.

    Returns
    -------
    Point

    Raises
    ------
    RowError
        A value type or encoding that the core does not take. Consumer-side pruning without a selector. A second
        pattern on a core that is not dual-sided or does not take it.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16/combinatorial")
    >>> found = point(load_core("flexible-8x16"), case)
    >>> found.a_rows, found.b_cols, found.depth, found.native
    (4096.0, 1.0, 16.0, 1.0)
    """
    if not isinstance(case, Case):
        raise RowError(f"case of type {type(case).__name__}: expected a Case")
    for name in SHAPE_COLUMNS:
        if getattr(case.shape, name) > MAX_DIMENSION:
            raise RowError(f"case {name}={getattr(case.shape, name)}: expected at most {MAX_DIMENSION}")
    if case.dtype not in core.dtypes:
        raise RowError(f"dtype {case.dtype!r}: {core.id} takes {', '.join(core.dtypes)}")
    online = case.pattern is not None and case.sparse_operand == "activations"
    if case.format is not None and case.format.encoding.spec.name not in core.encodings:
        raise RowError(
            f"encoding {case.format.encoding.name!r}: {core.id} decodes {', '.join(core.encodings) or 'none'}"
        )
    if other is not None:
        if not core.dual_sided or other not in core.patterns:
            raise RowError(f"second pattern {other}: {core.id} does not skip zeros of both operands by it")
        if case.pattern is None or execution(core, case) != "native":
            raise RowError(
                f"second pattern {other}: the first one, {case.pattern or 'dense'}, is not native to {core.id}"
            )
    consumer = online and core.selector_placement == "consumer"
    if consumer and not core.selector_groups_per_cycle:
        raise RowError(f"sparse activations: {core.id} prunes on loading, but has no selector")
    bits = VALUE_BITS[case.dtype]
    shape = case.shape
    a = stream(case.format) if case.format else DENSE_STREAM
    b = stream(replace(case.format, pattern=other)) if case.format and other else DENSE_STREAM
    numbers = {
        "a_rows": shape.M if online else shape.N,
        "b_cols": shape.N if online else shape.M,
        "K": shape.K,
        "value_bits": bits,
        "output_bits": 32 if bits == 32 else OUTPUT_BITS,
        **{f"a_{name}": value for name, value in _named(a)},
        **{f"b_{name}": value for name, value in _named(b)},
        "native": execution(core, case) == "native",
        "consumer": consumer,
        "skip": online and core.column_skip and other is None,
        "dual": other is not None,
        "depth": core.depth(bits),
        **{name: getattr(core, name) for name in CORE_FIELDS},
    }
    # All numbers are floats, so that one compiled function serves single points and sweeps.
    return Point(**{name: float(value) for name, value in numbers.items()})


def _named(how: Any) -> Any:
    names = ("n", "m", "groups_per_code", "codes_per_slot", "slot_bits", "mean_bits")
    return zip(names, how, strict=True)
