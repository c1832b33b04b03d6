"""What one action of a core takes in joules, for one way to store the operands: sourced costs times counted cells."""

import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.silicon import core_units
from hwmodels.silicon.area import adder_of, ends
from hwmodels.silicon.codecs import rom_decoder
from hwmodels.silicon.structures import Cells, index_bits
from hwmodels.silicon.technology import Spread, Technology, load
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim import encodings
from nmsim.case import VALUE_BITS, Case
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

Floats = NDArray[np.float64]


class UnitCosts(NamedTuple):
    """Joules of one action, float64 arrays [3]: low, nominal, high; what depends on a memory's capacity is left out.

    Parameters
    ----------
    dram_bit, register_bit : joules
        A bit read or written. Partial sums lie in registers.
    wire_bit_mm : joules
        A bit over one millimetre.
    l2_distance : ratio
        Way between L2 and a core over the side of the chip.
    multiply, add : joules
        Of one value type; the addition of 32 bits, of which other widths take their share.
    gated : ratio
        Of a multiply-add, if an operand is zero or a lane idle.
    select, passed : joules
        An element of operand B to the kept value that needs it; or through the network with nothing to select.
    decode, prune, encode : joules
        A group. None for weights, or by software, of the last two.
    cell_multiply, cell_add : joules
        What a cell of the array takes in a cycle at full pace, in the value type that takes most.
    static : ratio
        Static power over dynamic power at full pace.
    """

    dram_bit: Floats
    register_bit: Floats
    wire_bit_mm: Floats
    l2_distance: Floats
    multiply: Floats
    add: Floats
    gated: Floats
    select: Floats
    passed: Floats
    decode: Floats
    prune: Floats
    encode: Floats
    cell_multiply: Floats
    cell_add: Floats
    static: Floats


def unit_costs(core: SparseTensorCore, case: Case, other: Pattern | None = None) -> UnitCosts:
    """Work out what the actions of a core take for a case, whatever its shape and packing.

    Parameters
    ----------
    core : SparseTensorCore
    case : Case
    other : Pattern, optional
        Of the other operand.

    Returns
    -------
    UnitCosts

    Raises
    ------
    SpecError
        A technology node that no cost is known for.
    EncodingError
        An encoding without a decoder.

    Source
    ------
    `technology.toml`; structures as in `hwmodels.silicon.core_units`; A30 to A39, A52 to A54.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> costs = unit_costs(load_core("edge-npu-8x16"), Case(GemmShape(1, 1, 1), "8:16", dtype="int8"))
    >>> float(costs.multiply[1])
    7e-14
    """
    return _unit_costs(core, case.dtype, case.format, case.sparse_operand, other)


@functools.lru_cache(maxsize=1 << 14)
def _unit_costs(
    core: SparseTensorCore, dtype: str, format: SparseFormat | None, operand: str, other: Pattern | None
) -> UnitCosts:
    technology = load(core.node_nm)
    static = technology.share("static_share")
    nothing = Spread()
    select = decode = prune = encode = nothing
    if format is not None:
        pattern = format.pattern
        lane_bits = VALUE_BITS[dtype]
        lanes = core.depth(lane_bits)
        if core.takes(pattern, operand):
            cells = core_units.select_one(pattern, lane_bits, lanes, core.select_network, other is not None)
            select = technology.joules(cells).times(1 / lanes)
        decode = _decode_joules(technology, format)
        if other is not None:
            decode = max(
                decode,
                _decode_joules(technology, replace(format, pattern=other)),
                key=lambda cost: cost.nominal,
            )
        if operand == "activations" and core.selector_groups_per_cycle:
            latency = core.selector_latency_cycles
            prune = technology.joules(core_units.pruner(pattern, core.selector_kind, dtype, latency))
            written = format.encoding if core.selector_placement == "producer" else encodings.get("index")
            encode = _encode_joules(technology, replace(format, encoding=written))
    # Static power belongs to the chip, so it follows its most demanding value type and not this product's.
    full_pace = max(
        (
            (
                technology.cost("multiply_joules", each).times(core.depth(VALUE_BITS[each])),
                technology.cost("add_joules", adder_of(each)).times(core.depth(VALUE_BITS[each])),
            )
            for each in core.dtypes
        ),
        key=lambda parts: parts[0].nominal + parts[1].nominal,
    )
    return UnitCosts(
        dram_bit=ends(technology.cost("dram_joules_per_bit", core.dram_kind).spread),
        register_bit=ends(technology.cost("register_joules_per_bit", "register_file").spread),
        wire_bit_mm=ends(technology.cost("wire_joules_per_bit_mm", "wire").spread),
        l2_distance=ends(technology.share("l2_distance_share")),
        multiply=ends(technology.cost("multiply_joules", dtype).spread),
        add=ends(technology.cost("add_joules", adder_of(dtype)).spread),
        gated=ends(technology.share("gated_share")),
        select=ends(select),
        passed=ends(technology.joules(core_units.pass_cells(core)).times(VALUE_BITS[dtype] / core.lane_bits)),
        decode=ends(decode),
        prune=ends(prune),
        encode=ends(encode),
        cell_multiply=ends(full_pace[0]),
        cell_add=ends(full_pace[1]),
        static=ends(Spread(*(share / (1 - share) for share in (static.low, static.nominal, static.high)))),
    )


def _decode_joules(technology: Technology, format: SparseFormat) -> Spread:
    """Logic of a decoder at work, and its table: a mask looked up, or a binomial for every position."""
    pattern = format.pattern
    cells = core_units.decoder(format, technology.node_nm)
    looked_up = cells.rom_bits == rom_decoder(pattern).rom_bits
    bits = pattern.m if looked_up else (pattern.m - 1) * _code_bits(pattern)
    return technology.joules(cells) + _table_joules(technology, cells.rom_bits, bits)


def _encode_joules(technology: Technology, format: SparseFormat) -> Spread:
    """Logic of an encoder at work, and a binomial for every kept element."""
    cells, pattern = core_units.encoder(format), format.pattern
    return technology.joules(cells) + _table_joules(
        technology, cells.rom_bits, pattern.n * _code_bits(pattern)
    )


def _table_joules(technology: Technology, table_bits: int, read_bits: int) -> Spread:
    """A table is a memory that is read, or a gate for each of its bits: whichever takes less (A53)."""
    if not table_bits:
        return Spread()
    as_memory = technology.rom_read_joules_per_bit(table_bits).times(read_bits)
    as_gates = technology.joules(Cells(and2=table_bits))
    return min(as_memory, as_gates, key=lambda cost: cost.nominal)


def _code_bits(pattern: Pattern) -> int:
    return index_bits(pattern.configurations)
