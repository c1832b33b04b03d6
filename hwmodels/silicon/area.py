"""Area of a core design: what it is built of times what that takes, with low, nominal and high."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.gates.spread import Spread
from hwmodels.gates.table import Gates
from hwmodels.silicon.datapath import ADDER_BITS, datapath
from hwmodels.silicon.technology import Technology, load
from hwmodels.silicon.units import per_group, select_gates
from hwmodels.tensorcore.point import BLOCK_BYTES, Point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError, brief
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


class UnitAreas(NamedTuple):
    """Areas of the units of a core, um2, float64 arrays [3]: low, nominal, high.

    A cell is what stands at a row and a column of the array. `cell_multiply`: its multipliers and the sum of their products.
    `cell_accumulate`: what accumulates in 32 bits. `decoder`, `selector`, `encoder` [lengths, 3]: one of groups of M elements.
    `group_elems` [lengths, 1]: M.
    """

    cell_multiply: Floats
    cell_accumulate: Floats
    cell_select: Floats
    decoder: Floats
    selector: Floats
    encoder: Floats
    group_elems: Floats
    register_bit: Floats


@dataclass(frozen=True)
class AreaReport:
    """Area of a chip of equal cores.

    Parameters
    ----------
    total : Spread
        In um2.
    parts : mapping of str to Spread
        By `PARTS`, in um2, all cores together.
    lane_um2 : mapping of str to Spread
        The same but memories, in um2 per multiply-add of `lane_bits`.
    sparse_lane_um2 : Spread
        What sparsity adds per such a multiply-add.
    overhead_of_arrays, overhead_of_cores, overhead_of_chip : Spread
        What sparsity adds, as a share of three dense sums. Arrays: multipliers and adders. Cores: partial sums and operand
        registers too. Chip: shared memory and L2 as well.
    explanation : str
        One sentence.
    """

    total: Spread
    parts: Mapping[str, Spread]
    lane_um2: Mapping[str, Spread]
    sparse_lane_um2: Spread
    overhead_of_arrays: Spread
    overhead_of_cores: Spread
    overhead_of_chip: Spread
    explanation: str


def ends(spread: Spread) -> Floats:
    """Low, nominal and high as an array [3]."""
    return np.array([spread.low, spread.nominal, spread.high])


def summed(arrays: Iterable[Floats]) -> Floats:
    """Add arrays up, number by number."""
    return functools.reduce(np.add, arrays)


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
    found = [datapath(core, dtype) for dtype in core.dtypes]
    groups = per_group(core)
    decoder, selector, encoder = (
        np.array([ends(technology.um2(gates)) for gates in each or (Gates(),)])
        for each in (groups.decoders, groups.selectors, groups.encoders)
    )
    return UnitAreas(
        cell_multiply=_largest([each.multiply_um2 + each.sum_um2 for each in found]),
        cell_accumulate=_largest([each.accumulate_um2 for each in found]),
        cell_select=ends(technology.um2(select_gates(core))),
        decoder=decoder,
        selector=selector,
        encoder=encoder,
        group_elems=np.array([[float(m)] for m in groups.m or (1,)]),
        register_bit=_register_um2_per_bit(technology),
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
    (shared,) = at_capacity([Technology.sram_um2_per_bit], node_nm, p.shared_bytes)
    (l2,) = at_capacity([Technology.sram_um2_per_bit], node_nm, p.l2_bytes)
    return {
        "multiply": cells * (unit.cell_multiply + unit.cell_accumulate * (p.accumulator_bits / ADDER_BITS)),
        "accumulators": cores * p.accumulator_bytes * 8 * unit.register_bit,
        "registers": cores * register_bytes * 8 * unit.register_bit,
        "select": cells * unit.cell_select,
        "decode": cores * _most(unit.decoder, unit, p.decoder_elements_per_cycle),
        "prune": cores * _most(unit.selector, unit, p.selector_elements_per_cycle),
        "encode": cores * _most(unit.encoder, unit, p.selector_elements_per_cycle),
        "shared": cores * p.shared_bytes * 8 * shared,
        "l2": p.l2_bytes * 8 * l2,
    }


def _most(one: Floats, unit: UnitAreas, elements_per_cycle: Any) -> Floats:
    """Area of the units of a core that take so many elements in a cycle: of the length of a group that needs most."""
    needs = (np.ceil(elements_per_cycle / m) * um2 for m, um2 in zip(unit.group_elems, one, strict=True))
    return functools.reduce(np.maximum, needs)


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
    sparse = summed(found[name] for name in SPARSE_PARTS)
    dense_cores = summed(found[name] for name in ("multiply", "accumulators", "registers"))
    dense = (found["multiply"], dense_cores, ends(total) - sparse)
    of_arrays, of_cores, of_chip = (_share(sparse, um2) for um2 in dense)
    per_lane = 1 / (core.cores * core.array_rows * core.array_cols * core.array_depth)
    lane = {name: part.times(per_lane) for name, part in parts.items() if name not in MEMORY_PARTS}
    sparse_lane = Spread(*(sparse * per_lane).tolist())
    text = _explained(core, total, parts, sparse_lane, (of_arrays, of_cores, of_chip))
    return AreaReport(
        total,
        MappingProxyType(parts),
        MappingProxyType(lane),
        sparse_lane,
        of_arrays,
        of_cores,
        of_chip,
        text,
    )


def _share(part: Floats, whole: Floats) -> Spread:
    """A ratio of two ranges that err together; its ends need not be in their order."""
    _, nominal, _ = ratios = (part / whole).tolist()
    return Spread(min(ratios), nominal, max(ratios))


def only(core: SparseTensorCore, dtype: str) -> SparseTensorCore:
    """The same chip if it multiplies one value type alone, with as many bits per row and column.

    Raises
    ------
    SpecError
        No such value type.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> chip = only(load_core("flexible-8x16"), "int8")
    >>> chip.array_depth, chip.lane_bits
    (32, 8)
    """
    if dtype not in VALUE_BITS:
        raise SpecError(f"dtype={brief(dtype)}: expected one of {', '.join(VALUE_BITS)}")
    return replace(
        core, dtypes=(dtype,), lane_bits=VALUE_BITS[dtype], array_depth=core.depth(VALUE_BITS[dtype])
    )


def _explained(
    core: SparseTensorCore,
    total: Spread,
    parts: Mapping[str, Spread],
    sparse_lane: Spread,
    shares: Sequence[Spread],
) -> str:
    largest = max(PARTS, key=lambda name: parts[name].nominal)
    text = (
        f"{core.id} takes {_mm2(total)} at {core.node_nm:g} nm, and {largest} the largest part of it, "
        f"{percent(parts[largest].nominal / total.nominal, 0, unit='%')}"
    )
    if not any(parts[name].high for name in SPARSE_PARTS):
        return f"{text}; nothing is there for sparsity."
    dearest = max(SPARSE_PARTS, key=lambda name: parts[name].nominal)
    of_arrays, of_cores, of_chip = (percent(share.nominal, 1, unit="%") for share in shares)
    return (
        f"{text}; sparsity adds {sparse_lane.nominal:.3g} um2 per lane of {core.lane_bits} bits: {of_arrays} of the "
        f"arrays, {of_cores} of the cores and {of_chip} of all that is modelled, most of it for {dearest}."
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
    """Turn records of arrays [..., 3] into one record of arrays [..., 3, n], row by row; short ones are filled up."""
    fields = [_alike(of_field) for of_field in zip(*units, strict=True)]
    # All numbers are taken in one go: that is many times as fast as field by field.
    flat = np.take(np.concatenate([each.reshape(len(units), -1) for each in fields], axis=1).T, rows, axis=1)
    ends_at = np.cumsum([each[0].size for each in fields])
    parts = np.split(flat, ends_at[:-1])
    return type(units[0])(
        *(part.reshape(*each.shape[1:], -1) for part, each in zip(parts, fields, strict=True))
    )


def _alike(arrays: Sequence[Floats]) -> Floats:
    """Arrays below each other; of decoders for fewer lengths than others have, the last one is repeated."""
    most = max(len(each) for each in arrays)
    if all(len(each) == most for each in arrays):
        return np.array(arrays)
    return np.array([np.pad(each, ((0, most - len(each)), (0, 0)), mode="edge") for each in arrays])
