"""Energy of products on core designs: counted actions times what one of each takes, with low, nominal and high."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.gates.spread import Spread
from hwmodels.silicon.area import (
    MEMORY_PARTS,
    UnitAreas,
    at_capacity,
    ends,
    gathered,
    part_areas,
    summed,
    unit_areas,
)
from hwmodels.silicon.datapath import ADDER_BITS, datapath
from hwmodels.silicon.technology import Technology, load
from hwmodels.silicon.units import (
    decoder,
    encoder,
    passed_share,
    select_gates,
    select_one,
    selector,
)
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.point import Point, mapping, point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from hwmodels.tensorcore.simulate import Simulation
from nmsim import encodings
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import SpecError
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.units import percent

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
    multiply, accumulate : joules
        Of a multiply-add of one value type. `multiply`: with its part of the sum of products. `accumulate`: its part of an
        accumulation in 32 bits, of which other widths take their share.
    gated : ratio
        Of a multiply-add, if an operand is zero or a lane idle.
    select, passed : joules
        An element of operand B to the kept value that needs it; or through the network with nothing to select.
    decode, prune, encode : joules
        A group. None for weights, or by software, of the last two.
    logic_leakage, sram_leakage : watts per mm2
        Static power of what is powered.
    when_cut : ratio
        Static power of an array that does not work, over that of one that works: 1 without power gating.
    """

    dram_bit: Floats
    register_bit: Floats
    wire_bit_mm: Floats
    l2_distance: Floats
    multiply: Floats
    accumulate: Floats
    gated: Floats
    select: Floats
    passed: Floats
    decode: Floats
    prune: Floats
    encode: Floats
    logic_leakage: Floats
    sram_leakage: Floats
    when_cut: Floats


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
    `technology.toml`; structures as in `hwmodels.silicon.units`; A30 to A39, A52 to A54.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> costs = unit_costs(load_core("edge-npu-8x16"), Case(GemmShape(1, 1, 1), "8:16", dtype="int8"))
    >>> f"{costs.multiply[1]:.2e}"
    '8.76e-14'
    """
    return _unit_costs(core, case.dtype, case.format, case.sparse_operand, other)


@functools.lru_cache(maxsize=1 << 14)
def _unit_costs(
    core: SparseTensorCore, dtype: str, format: SparseFormat | None, operand: str, other: Pattern | None
) -> UnitCosts:
    technology = load(core.node_nm)
    nothing = Spread()
    select = decode = prune = encode = nothing
    lane_bits = VALUE_BITS[dtype]
    lanes = core.depth(lane_bits)
    if format is not None:
        pattern = format.pattern
        if core.takes(pattern, operand):
            chosen = select_one(pattern, lane_bits, lanes, core.select_network, other is not None)
            select = technology.joules(chosen).times(1 / lanes)
        how = "native" if core.takes(pattern, operand) else "expanded"
        how = how if other is None else "dual"
        decode = technology.joules(decoder(core, format, how))
        if other is not None:
            beside = technology.joules(decoder(core, replace(format, pattern=other), how))
            decode = max(decode, beside, key=lambda cost: cost.nominal)
        if operand == "activations" and core.selector_elements_per_cycle:
            prune = technology.joules(selector(core, pattern, dtype))
            written = format.encoding if core.selector_placement == "producer" else encodings.get("index")
            encode = technology.joules(encoder(replace(format, encoding=written)))
    # A dense product passes the network too, since nothing leads around it.
    passed = technology.joules(select_gates(core)).times(
        passed_share(core) / core.array_depth * lane_bits / core.lane_bits
    )
    cell = datapath(core, dtype)
    return UnitCosts(
        dram_bit=ends(technology.cost("dram_joules_per_bit", core.dram_kind).spread),
        register_bit=ends(technology.cost("register_joules_per_bit", "register_file").spread),
        wire_bit_mm=ends(technology.cost("wire_joules_per_bit_mm", "wire").spread),
        l2_distance=ends(technology.share("l2_distance_share")),
        multiply=ends((cell.multiply_joules + cell.sum_joules).times(1 / lanes)),
        accumulate=ends(cell.accumulate_joules.times(1 / lanes)),
        gated=ends(technology.share("gated_share")),
        select=ends(select),
        passed=ends(passed),
        decode=ends(decode),
        prune=ends(prune),
        encode=ends(encode),
        logic_leakage=ends(technology.cost("leakage_watts_per_mm2", "logic").spread),
        sram_leakage=ends(technology.cost("leakage_watts_per_mm2", "sram").spread),
        when_cut=ends(
            technology.share("leakage_when_cut_share") if core.power_gating else Spread(1.0, 1.0, 1.0)
        ),
    )


PARTS = (
    "dram", "l2", "shared", "registers", "prune", "encode", "decode", "select", "multiply", "accumulate", "clock", "static",
)  # fmt: skip
"""Where energy goes. `l2` has the wires between it and the cores; `multiply` has gated lanes. `clock`: arrays in cycles in
which they do not work. `static`: leakage."""
PHRASES: Mapping[str, str] = {
    "dram": "DRAM",
    "l2": "L2 and the wires to it",
    "shared": "shared memory",
    "registers": "operands in registers",
    "prune": "pruning",
    "encode": "encoding",
    "decode": "decoding",
    "select": "selecting operands",
    "multiply": "multiply-adds",
    "accumulate": "partial sums",
    "clock": "clocks of idle arrays",
    "static": "static power",
}
L2_BANK_BYTES = 1 << 20
"""Largest bank of L2 that an access reads (A50)."""
UM2_PER_MM2 = 1e6
SRAM_PARTS = ("accumulators", "registers", *MEMORY_PARTS)
"""Parts of a chip that are memory; the others are logic."""
SRAM_COSTS = (Technology.sram_read_joules_per_bit, Technology.sram_write_joules_per_bit)


class Design(NamedTuple):
    """A core and what is stored on it, ready for any number of products: see `design`."""

    node_nm: Any
    clock_hz: Any
    costs: UnitCosts
    areas: UnitAreas


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one product.

    Parameters
    ----------
    total : Spread
        In joules.
    parts : mapping of str to Spread
        By `PARTS`, in joules.
    explanation : str
        One sentence that names the largest part.
    """

    total: Spread
    parts: Mapping[str, Spread]
    explanation: str


def design(core: SparseTensorCore, case: Case, other: Pattern | None = None) -> Design:
    """Work out all that `energy_columns` wants of a core and a way to store; the shape of the case is without effect.

    Raises
    ------
    SpecError, EncodingError
        As `unit_costs`.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> design(load_core("dense"), Case(GemmShape(1, 1, 1))).node_nm
    5
    """
    return Design(core.node_nm, core.clock_hz, unit_costs(core, case, other), unit_areas(core))


def shared_write_bytes(p: Any, c: Any) -> Any:
    """Count what enters the shared memories: every tile's blocks, and no less than leaves L2.

    Parameters
    ----------
    p : Point
    c : Cycles
        Numbers, or arrays [n].

    Returns
    -------
    float or float64 array [n]
        In bytes, without what whole accesses add.
    """
    a_metadata = p.a_slot_bits / (p.a_codes_per_slot * p.a_groups_per_code) + p.a_mean_bits
    b_metadata = p.b_slot_bits / (p.b_codes_per_slot * p.b_groups_per_code) + p.b_mean_bits
    a_bits = np.where(p.consumer, p.value_bits, (p.a_n * p.value_bits + a_metadata) / p.a_m)
    needed = 1 - (1 - p.a_n / p.a_m) ** np.minimum(c.tile_rows, p.a_rows)
    b_bits = (p.b_n * p.value_bits + b_metadata) / p.b_m * np.where(p.skip, needed, 1.0)
    tiles_a, tiles_b = np.ceil(p.a_rows / c.tile_rows), np.ceil(p.b_cols / c.tile_cols)
    own = p.K * (p.a_rows * a_bits * tiles_b + p.b_cols * b_bits * tiles_a) / 8
    return np.maximum(own, c.l2_read_bytes)


def part_joules(of: Design, p: Any, c: Any) -> Iterator[tuple[str, Floats]]:
    """Weigh the actions of products.

    Parameters
    ----------
    of : Design
        Of one product, arrays [3]; or of a row each, arrays [3, n], `node_nm` and `clock_hz` [n].
    p : Point
    c : Cycles
        Numbers, or arrays [n].

    Yields
    ------
    tuple of str and float64 array [3] or [3, n]
        Each of `PARTS` and its joules.
    """
    cost, node_nm = of.costs, of.node_nm
    yield "dram", 8 * (c.dram_read_bytes + c.dram_write_bytes) * cost.dram_bit
    areas = part_areas(of.areas, p, node_nm)
    total_um2 = summed(areas.values())
    bank_bytes = np.minimum(p.l2_bytes, L2_BANK_BYTES)
    out, into = c.l2_read_bytes + c.dram_write_bytes, c.dram_read_bytes + c.dram_write_bytes
    distance_mm = cost.l2_distance * np.sqrt(total_um2 / UM2_PER_MM2)
    l2_read, l2_write = at_capacity(SRAM_COSTS, node_nm, bank_bytes)
    yield "l2", 8 * (out * (l2_read + cost.wire_bit_mm * distance_mm) + into * l2_write)
    read, write = at_capacity(SRAM_COSTS, node_nm, p.shared_bytes)
    yield "shared", 8 * (c.shared_read_bytes * read + shared_write_bytes(p, c) * write)
    positions = np.where(p.native, np.ceil(np.log2(p.a_m)), 0.0)
    a_bits = c.macs / p.array_cols * (p.value_bits + positions)
    yield "registers", (8 * (c.shared_read_bytes + c.operand_b_bytes) + a_bits) * cost.register_bit
    pruned = np.where(p.consumer, c.pruned_groups, p.a_rows * np.ceil(p.K / p.a_m))
    yield "prune", pruned * cost.prune
    # At the consumer positions go straight to the select network.
    yield "encode", np.where(p.consumer, 0.0, pruned) * cost.encode
    yield "decode", c.decoded_groups * cost.decode
    offered = p.a_rows * p.b_cols * p.K
    yield "select", np.where(p.native, c.effectual_macs * cost.select, offered * cost.passed)
    idle = np.maximum(c.macs - c.effectual_macs, 0.0)
    width = p.accumulator_bits / ADDER_BITS
    multiply_add = cost.multiply + cost.accumulate * width
    yield "multiply", (c.effectual_macs + idle * cost.gated) * multiply_add
    sums = c.accumulator_accesses + p.a_rows * p.b_cols
    yield "accumulate", sums * p.accumulator_bits * cost.register_bit
    # Idle arrays are clocked, and gated as lanes with a zero operand are, unless they are cut from power.
    offered_macs = c.cycles * p.cores * p.array_rows * p.array_cols * p.depth
    idle_macs = np.maximum(offered_macs - c.macs, 0.0)
    powered = (cost.when_cut == 1.0) * 1.0
    yield "clock", idle_macs * cost.gated * multiply_add * powered
    busy = np.minimum(c.macs / offered_macs, 1.0)
    memory_um2 = summed(areas[name] for name in SRAM_PARTS)
    watts = (total_um2 - memory_um2) * cost.logic_leakage * (busy + (1.0 - busy) * cost.when_cut)
    watts = (watts + memory_um2 * cost.sram_leakage) / UM2_PER_MM2
    yield "static", c.cycles / of.clock_hz * watts


def energy(
    case: Case,
    core: str | Path | SparseTensorCore,
    other: Pattern | None = None,
    simulation: Simulation | None = None,
) -> EnergyReport:
    """Add up the energy of one product on one core design.

    Parameters
    ----------
    case : Case
    core : str, Path or SparseTensorCore
        As for `load_core`.
    other : Pattern, optional
        Of the other operand, on a dual-sided core.
    simulation : Simulation, optional
        Of this case: its counts, on real masks, take the place of the closed form's.

    Returns
    -------
    EnergyReport

    Raises
    ------
    RowError
        As `point` and `mapping`.
    SpecError, EncodingError
        As `unit_costs`.

    Source
    ------
    `docs/explanation/energy-and-area.md`.

    Examples
    --------
    >>> from nmsim.case import GemmShape
    >>> report = energy(Case(GemmShape(1, 4096, 4096), "8:16"), "flexible-8x16")
    >>> max(report.parts, key=lambda part: report.parts[part].nominal)
    'dram'
    """
    core = load_core(core)
    p = point(core, case, other)
    mapping(p)
    counted = Cycles(*closed_form(np.array([p]))[0].tolist())
    if simulation is not None:
        same = {name for name in Cycles._fields if name in Simulation.__dataclass_fields__}
        counted = counted._replace(**{name: getattr(simulation, name) for name in same})
    found = part_joules(design(core, case, other), p, counted)
    parts = {name: Spread(*joules.tolist()) for name, joules in found}
    total = functools.reduce(Spread.__add__, parts.values())
    return EnergyReport(total, MappingProxyType(parts), _explained(total, parts))


def _explained(total: Spread, parts: Mapping[str, Spread]) -> str:
    largest = max(PARTS, key=lambda name: parts[name].nominal)
    low, nominal, high = (f"{end:.3g}" for end in (total.low, total.nominal, total.high))
    share = parts[largest].nominal / total.nominal
    return f"{PHRASES[largest]} take{_s(largest)} {percent(share, 0, unit='%')} of {nominal} J ({low} to {high})."


def _s(part: str) -> str:
    """The ending of the verb."""
    return "" if part in ("registers", "multiply", "accumulate", "l2", "clock") else "s"


def energy_columns(
    designs: Sequence[Design], places: NDArray[np.int64], points: Floats, answers: Floats
) -> dict[str, Floats]:
    """Add up the energy of many products at once.

    Parameters
    ----------
    designs : sequence of Design
    places : int64 array [n]
        Which of the designs each point is.
    points : float64 array [n, fields of Point]
        Their numbers take the place of the core's own.
    answers : float64 array [n, fields of Cycles]
        As `closed_form` gives them.

    Returns
    -------
    dict of str to float64 array [n]
        `energy_joules_low`, `energy_joules`, `energy_joules_high`; NaN if there is no answer.

    Raises
    ------
    SpecError
        Arrays of different lengths.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.case import GemmShape
    >>> core, case = load_core("flexible-8x16"), Case(GemmShape(64, 4096, 4096), "8:16")
    >>> points = np.array([point(core, case)])
    >>> found = energy_columns([design(core, case)], np.array([0]), points, closed_form(points))
    >>> bool(np.isclose(found["energy_joules"][0], energy(case, core).total.nominal))
    True
    """
    if not len(places) == len(points) == len(answers):
        raise SpecError(
            f"{len(places)} places, {len(points)} points and {len(answers)} answers: expected as many of each"
        )
    used, rows = np.unique(places, return_inverse=True)
    found = [designs[place] for place in used]
    of_rows = Design(
        np.array([each.node_nm for each in found])[rows],
        np.array([each.clock_hz for each in found])[rows],
        gathered([each.costs for each in found], rows),
        gathered([each.areas for each in found], rows),
    )
    total = summed(joules for _, joules in part_joules(of_rows, Point(*points.T), Cycles(*answers.T)))
    return dict(zip(("energy_joules_low", "energy_joules", "energy_joules_high"), total, strict=True))
