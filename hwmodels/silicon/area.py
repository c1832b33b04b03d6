"""Area of a core design: what it is built of times what that takes, with low, nominal and high."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.gates.spread import Spread
from hwmodels.silicon.structures import Cells
from hwmodels.silicon.technology import Technology, load
from hwmodels.silicon.units import decoder_cells, encoder_cells, pruner_cells, select_cells
from hwmodels.tensorcore.point import BLOCK_BYTES, Point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError
from nmsim.units import percent

Floats = NDArray[np.float64]

PARTS = (
    "multiply", "accumulators", "registers", "select", "decode", "prune", "encode", "shared", "l2",
)  # fmt: skip
"""Parts of a chip. `multiply`: multipliers and adders. `accumulators`, `registers`: their storage."""
SPARSE_PARTS = ("select", "decode", "prune", "encode")
"""What a dense core has not."""
MEMORY_PARTS = ("shared", "l2")
REGISTER_BANK_BYTES = (32768, 4096, 1024)
"""Banks that registers and partial sums are made of, from the low to the high end of their area (A51)."""
ADDER_BITS = 32
"""Width of the adders whose area and energy are published; others take them in proportion (A54)."""


class UnitAreas(NamedTuple):
    """Areas of the units of a core, um2, float64 arrays [3]: low, nominal, high.

    A cell is what stands at a row and a column of the array. `group_elems`: M of the widest pattern, whose groups decoders
    and selectors take.
    """

    cell_multiply: Floats
    cell_add: Floats
    cell_select: Floats
    decoder: Floats
    selector: Floats
    encoder: Floats
    register_bit: Floats
    group_elems: Floats


@dataclass(frozen=True)
class AreaReport:
    """Area of a chip of equal cores.

    Parameters
    ----------
    total : Spread
        In um2.
    parts : mapping of str to Spread
        By `PARTS`, in um2, all cores together.
    overhead_of_cores, overhead_of_chip : Spread
        What sparsity adds, as a share of the dense cores without shared memory and L2, and with them.
    explanation : str
        One sentence.
    """

    total: Spread
    parts: Mapping[str, Spread]
    overhead_of_cores: Spread
    overhead_of_chip: Spread
    explanation: str


def ends(spread: Spread) -> Floats:
    """Low, nominal and high as an array [3]."""
    return np.array([spread.low, spread.nominal, spread.high])


def summed(arrays: Iterable[Floats]) -> Floats:
    """Add arrays up, number by number."""
    return functools.reduce(np.add, arrays)


def adder_of(dtype: str) -> str:
    """Name the adder that sums up products of a value type, in the tables of costs."""
    return f"{'int' if dtype.startswith('int') else 'fp'}{ADDER_BITS}"


@functools.lru_cache(maxsize=4096)
def unit_areas(core: SparseTensorCore) -> UnitAreas:
    """Work out the areas of the units of a core.

    Parameters
    ----------
    core : SparseTensorCore
        Of its numbers only those count that the units depend on; how many there are is left to `part_areas`.

    Raises
    ------
    SpecError
        A technology node that no cost is known for.
    EncodingError
        An encoding without a decoder.

    Source
    ------
    `technology.toml`; structures as in `hwmodels.silicon.units`; A51 and A54.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> unit_areas(load_core("dense")).cell_select.tolist()
    [0.0, 0.0, 0.0]
    """
    technology = load(core.node_nm)
    overhead = technology.share("layout_overhead")
    multipliers = [
        technology.cost("multiply_um2", dtype).times(core.depth(VALUE_BITS[dtype])) for dtype in core.dtypes
    ]
    adders = [technology.cost("add_um2", adder_of(dtype)).times(core.array_depth) for dtype in core.dtypes]
    selector = pruner_cells(core) if core.selector_elements_per_cycle else Cells()
    widest = float(max((pattern.m for pattern in core.patterns), default=1))
    return UnitAreas(
        cell_multiply=_largest(multipliers) * ends(overhead),
        cell_add=_largest(adders) * ends(overhead),
        cell_select=ends(technology.um2(select_cells(core))),
        decoder=ends(technology.um2(decoder_cells(core))),
        selector=ends(technology.um2(selector)),
        encoder=ends(technology.um2(encoder_cells(core))),
        register_bit=_register_um2_per_bit(technology),
        group_elems=np.full(3, widest),
    )


def _largest(areas: Sequence[Spread]) -> Floats:
    """One unit serves all value types, one at a time, and is as large as the largest need."""
    return functools.reduce(np.maximum, map(ends, areas))


def _register_um2_per_bit(technology: Technology) -> Floats:
    banks = [ends(technology.sram_um2_per_bit(size)) for size in REGISTER_BANK_BYTES]
    return np.diagonal(np.array(banks)).copy()


def part_areas(unit: UnitAreas, numbers: Any, node_nm: Any) -> dict[str, Floats]:
    """Add up the units of chips.

    Parameters
    ----------
    unit : UnitAreas
        Of one core, arrays [3]; or of a row each, arrays [3, n].
    numbers : SparseTensorCore or Point
        How many of everything there are: numbers, or arrays [n].
    node_nm : float or float64 array [n]

    Returns
    -------
    dict of str to float64 array [3] or [3, n]
        By `PARTS`, in um2.
    """
    p, cores = numbers, numbers.cores
    cells = cores * p.array_rows * p.array_cols
    register_bytes = p.register_blocks * (p.fragment_rows + p.fragment_cols) * BLOCK_BYTES
    selectors = cores * p.selector_elements_per_cycle / unit.group_elems
    (shared,) = at_capacity([Technology.sram_um2_per_bit], node_nm, p.shared_bytes)
    (l2,) = at_capacity([Technology.sram_um2_per_bit], node_nm, p.l2_bytes)
    return {
        "multiply": cells * (unit.cell_multiply + unit.cell_add * (p.accumulator_bits / ADDER_BITS)),
        "accumulators": cores * p.accumulator_bytes * 8 * unit.register_bit,
        "registers": cores * register_bytes * 8 * unit.register_bit,
        "select": cells * unit.cell_select,
        "decode": cores * p.decoder_elements_per_cycle / unit.group_elems * unit.decoder,
        "prune": selectors * unit.selector,
        "encode": selectors * unit.encoder,
        "shared": cores * p.shared_bytes * 8 * shared,
        "l2": p.l2_bytes * 8 * l2,
    }


def at_capacity(
    costs: Sequence[Callable[[Technology, float], Spread]], node_nm: Any, capacity_bytes: Any
) -> list[Floats]:
    """Costs of memories of a capacity each: float64 [3], or [3, n] for arrays [n]; each distinct memory once."""
    memories = np.atleast_1d(node_nm + 1j * capacity_bytes)
    if (memories == memories[0]).all():
        distinct, places = memories[:1], None
    else:
        distinct, places = np.unique(memories, return_inverse=True)
    known = [(load(each.real), each.imag) for each in distinct.tolist()]
    found = [np.array([ends(cost(*memory)) for memory in known]).T for cost in costs]
    if places is not None:
        return [each[:, places] for each in found]
    return found if np.ndim(node_nm + capacity_bytes) else [each[:, 0] for each in found]


def area(core: str | Path | SparseTensorCore) -> AreaReport:
    """Add up the area of a core design.

    Parameters
    ----------
    core : str, Path or SparseTensorCore
        As for `load_core`.

    Returns
    -------
    AreaReport

    Raises
    ------
    SpecError, EncodingError
        As `unit_areas`.

    Source
    ------
    `docs/explanation/energy-and-area.md`.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> report = area(load_core("flexible-8x16"))
    >>> report.total.nominal > area(load_core("dense")).total.nominal
    True
    """
    return _area(load_core(core))


@functools.lru_cache(maxsize=4096)
def _area(core: SparseTensorCore) -> AreaReport:
    found = part_areas(unit_areas(core), core, core.node_nm)
    parts = {name: Spread(*found[name].tolist()) for name in PARTS}
    total = functools.reduce(Spread.__add__, parts.values())
    sparse = sum(found[name] for name in SPARSE_PARTS)
    of_cores = sum(found[name] for name in PARTS if name not in (*SPARSE_PARTS, *MEMORY_PARTS))
    of_chip = ends(total) - sparse
    cores_share, chip_share = (Spread(*np.sort(sparse / dense).tolist()) for dense in (of_cores, of_chip))
    text = _explained(core, total, parts, cores_share, chip_share)
    return AreaReport(total, MappingProxyType(parts), cores_share, chip_share, text)


def _explained(
    core: SparseTensorCore, total: Spread, parts: Mapping[str, Spread], of_cores: Spread, of_chip: Spread
) -> str:
    largest = max(PARTS, key=lambda name: parts[name].nominal)
    text = (
        f"{core.id} takes {_mm2(total)} at {core.node_nm:g} nm, and {largest} the largest part of it, "
        f"{percent(parts[largest].nominal / total.nominal, 0, unit='%')}"
    )
    if not any(parts[name].high for name in SPARSE_PARTS):
        return f"{text}; nothing is there for sparsity."
    dearest = max(SPARSE_PARTS, key=lambda name: parts[name].nominal)
    return (
        f"{text}; sparsity adds {percent(of_cores.nominal, 1, unit='%')} to the cores and "
        f"{percent(of_chip.nominal, 1, unit='%')} with their memories, "
        f"most of it for {dearest}."
    )


def _mm2(spread: Spread) -> str:
    low, nominal, high = (f"{1e-6 * end:.3g}" for end in (spread.low, spread.nominal, spread.high))
    return f"{nominal} mm2 ({low} to {high})"


def area_columns(
    cores: Sequence[SparseTensorCore], places: NDArray[np.int64], points: Floats
) -> dict[str, Floats]:
    """Add up the areas of many designs at once.

    Parameters
    ----------
    cores : sequence of SparseTensorCore
        With what is no number of a `Point`: node, networks, patterns, encodings, value types.
    places : int64 array [n]
        Which of the cores each point is.
    points : float64 array [n, fields of Point]
        Their numbers take the place of the core's own.

    Returns
    -------
    dict of str to float64 array [n]
        `area_um2_low`, `area_um2`, `area_um2_high`.

    Raises
    ------
    SpecError
        Places and points of different lengths; or as `unit_areas`.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from hwmodels.tensorcore.point import point
    >>> from nmsim.case import Case, GemmShape
    >>> core = load_core("dense")
    >>> row = point(core, Case(GemmShape(1, 4096, 4096)))
    >>> found = area_columns([core], np.array([0]), np.array([row]))
    >>> bool(np.isclose(found["area_um2"][0], area(core).total.nominal))
    True
    """
    if len(places) != len(points):
        raise SpecError(
            f"{len(places)} places and {len(points)} points: expected as many of one as of the other"
        )
    used, rows = np.unique(places, return_inverse=True)
    unit = gathered([unit_areas(cores[place]) for place in used], rows)
    node_nm = np.array([cores[place].node_nm for place in used])[rows]
    total = summed(part_areas(unit, Point(*points.T), node_nm).values())
    return dict(zip(("area_um2_low", "area_um2", "area_um2_high"), total, strict=True))


def gathered(units: Sequence[Any], rows: NDArray[np.int64]) -> Any:
    """Turn records of arrays [3] into one record of arrays [3, n], row by row."""
    return type(units[0])(*np.moveaxis(np.array(units), 0, 2)[:, :, rows])
