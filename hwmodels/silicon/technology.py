"""Costs of elementary actions and structures at a technology node, each with its range, from `technology.toml`."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from hwmodels.gates.spread import Spread, power_law
from hwmodels.gates.table import Gates
from hwmodels.silicon.structures import FIELDS, LOGIC_CELLS, Cells
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError, brief
from nmsim.support.schema import (
    About,
    Kind,
    Number,
    OneOf,
    Quantity,
    Text,
    about,
    names_of,
    read_record,
    record,
)


@dataclass(frozen=True)
class CostRange:
    """What one action or structure costs at a technology node.

    Parameters
    ----------
    low, nominal, high : float
        Positive, in this order.
    unit : str
        One of `nmsim.support.schema.UNITS`.
    kind : {"datasheet", "measured", "fitted", "assumed"}
    source : str
    node_nm : float
        Technology node of the figures, in nanometres.

    Raises
    ------
    SpecError
        A field is none of the above.

    Examples
    --------
    >>> CostRange(0.5, 1.0, 2.0, "um2", "assumed", "an example", 45).times(10)
    Spread(low=5.0, nominal=10.0, high=20.0)
    """

    low: float
    nominal: float
    high: float
    unit: str
    kind: Kind
    source: str
    node_nm: float

    def __post_init__(self) -> None:
        for name in ("low", "nominal", "high"):
            try:
                Quantity(getattr(self, name), self.unit, self.kind, self.source)
            except SpecError as error:
                raise SpecError(f"{name}: {error}") from error
        if not self.low <= self.nominal <= self.high:
            raise SpecError(
                f"low={brief(self.low)}, nominal={brief(self.nominal)}, high={brief(self.high)}: "
                "expected low <= nominal <= high"
            )
        number = isinstance(self.node_nm, int | float) and not isinstance(self.node_nm, bool)
        if not number or not self.node_nm > 0:
            raise SpecError(f"node_nm={brief(self.node_nm)}: expected a technology node in nanometres")

    @property
    def spread(self) -> Spread:
        """The three figures alone."""
        return Spread(self.low, self.nominal, self.high)

    def times(self, count: float | Spread) -> Spread:
        """Cost of so many of it."""
        return self.spread.times(count)


MOST_JOULES = 1e-6
"""More is a figure in picojoules."""
ADDERS = ("int32", "fp16", "fp32")
LIBRARY_ERROR = 0.12
"""Share by which gates differ if another library of cells is mapped to (A36)."""
DRAMS = ("hbm2", "hbm3", "hbm3e", "hbm4", "gddr6", "gddr7", "lpddr4", "lpddr5", "lpddr5x", "ddr4")
SHARES = (
    "layout_overhead", "leakage_when_cut_share", "sram_write_share", "gated_share", "l2_distance_share",
)  # fmt: skip


class Table(About):
    """A table of costs: its unit, how it scales beyond its anchors, the family of its spread, its keys.

    `keys` is None if the keys are capacities in bytes.
    """

    def __init__(
        self, unit: str, meaning: str, *, scaling: str | None, spread: str, keys: tuple[str, ...] | None
    ) -> None:
        super().__init__(
            f"{meaning} Unit: {unit}. Keys: {', '.join(keys) if keys else 'capacities in bytes'}."
        )
        self.unit = unit
        self.scaling = scaling
        self.spread = spread
        self.keys = keys


@record
class Anchor:
    """A figure at a technology node."""

    node_nm: Annotated[float, Number("nm", "Technology node.", least=1, most=1000)]
    value: Annotated[float, Number("the table's unit", "The figure.")]
    kind: Annotated[Kind, About("How it is known.")]
    source: Annotated[Text, About("A name of the table `sources`.")]
    low: Annotated[
        float | None, Number("the table's unit", "Low end. If left out, from the spread of the table.")
    ] = None
    high: Annotated[
        float | None, Number("the table's unit", "High end. If left out, from the spread of the table.")
    ] = None
    note: Annotated[str, About("Remark on the figure.")] = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check the ends of the range."""
        if self.value <= 0:
            yield "value", f"{brief(self.value)}, expected a positive number"
        if self.low is None or self.high is None:
            if (self.low is None) != (self.high is None):
                yield "", "low and high: expected both or neither"
        elif not 0 < self.low <= self.value <= self.high:
            yield (
                "",
                f"low={brief(self.low)}, nominal={brief(self.value)}, high={brief(self.high)}: "
                "expected low <= nominal <= high",
            )


Anchors = tuple[Anchor, ...]
Typed = Mapping[Annotated[str, OneOf(VALUE_BITS)], Anchors]
Added = Mapping[Annotated[str, OneOf(ADDERS)], Anchors]


@record
class Family:
    """Range of figures that state none: factors of the value."""

    low: Annotated[float, Number("ratio", "Low end over the value.")]
    high: Annotated[float, Number("ratio", "High end over the value.")]
    source: Annotated[Text, About("Assumption behind it.")]


@record
class Families:
    """Ranges by family of costs."""

    energy: Annotated[Family, About("Of energies.")]
    area: Annotated[Family, About("Of areas, cells and shares.")]


@record
class Scalings:
    """Factors over 45 nm, for costs beyond their anchors."""

    logic_energy: Annotated[Anchors, About("Energy of logic.")]
    logic_area: Annotated[Anchors, About("Area of logic.")]
    sram_area: Annotated[Anchors, About("Area of SRAM.")]


# fmt: off
@record
class TechnologyFile:
    """What elementary actions and structures cost, at the nodes where somebody published it."""

    sources: Annotated[Mapping[str, Text], About("Name of a source -> the source in full.")]
    spread: Annotated[Families, About("Ranges of figures that state none.")]
    scaling: Annotated[Scalings, About("Factors from node to node.")]
    multiply_joules: Annotated[Typed, Table("joules", "Energy of a multiplication.",
        scaling="logic_energy", spread="energy", keys=tuple(VALUE_BITS))]
    add_joules: Annotated[Added, Table("joules", "Energy of an addition.",
        scaling="logic_energy", spread="energy", keys=ADDERS)]
    logic_joules: Annotated[Mapping[Annotated[str, OneOf(("gate", "flip_flop"))], Anchors], Table("joules",
        "Energy of a gate or flip-flop at work.", scaling="logic_energy", spread="energy", keys=("gate", "flip_flop"))]
    register_joules_per_bit: Annotated[Mapping[Annotated[str, OneOf(("register_file",))], Anchors], Table("joules_per_bit",
        "Energy of registers.", scaling="logic_energy", spread="energy", keys=("register_file",))]
    sram_joules_per_bit: Annotated[Mapping[str, Anchors], Table("joules_per_bit", "Energy of reading SRAM.",
        scaling="logic_energy", spread="energy", keys=None)]
    dram_joules_per_bit: Annotated[Mapping[Annotated[str, OneOf(DRAMS)], Anchors], Table("joules_per_bit",
        "Energy of DRAM.", scaling=None, spread="energy", keys=DRAMS)]
    wire_joules_per_bit_mm: Annotated[Mapping[Annotated[str, OneOf(("wire",))], Anchors], Table("joules_per_bit_mm",
        "Energy of a wire.", scaling=None, spread="energy", keys=("wire",))]
    leakage_watts_per_mm2: Annotated[Mapping[Annotated[str, OneOf(("logic", "sram"))], Anchors], Table("watts_per_mm2",
        "Static power of an area that is powered, at any clock.", scaling=None, spread="energy", keys=("logic", "sram"))]
    multiply_um2: Annotated[Typed, Table("um2", "Area of a multiplier.",
        scaling="logic_area", spread="area", keys=tuple(VALUE_BITS))]
    add_um2: Annotated[Added, Table("um2", "Area of an adder.", scaling="logic_area", spread="area", keys=ADDERS)]
    logic_um2: Annotated[Mapping[Annotated[str, OneOf(("gate",))], Anchors], Table("um2", "Area of a gate.",
        scaling="logic_area", spread="area", keys=("gate",))]
    sram_um2_per_bit: Annotated[Mapping[str, Anchors], Table("um2_per_bit", "Area of SRAM with its periphery.",
        scaling="sram_area", spread="area", keys=None)]
    cell_gates: Annotated[Mapping[Annotated[str, OneOf(LOGIC_CELLS)], Anchors], Table("gates", "Cells in gates.",
        scaling=None, spread="area", keys=LOGIC_CELLS)]
    shares: Annotated[Mapping[Annotated[str, OneOf(SHARES)], Anchors], Table("ratio", "Ratios.",
        scaling=None, spread="area", keys=SHARES)]
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check keys, sources and nodes, and ask whether joules were given in picojoules."""
        for name, table in TABLES.items():
            entries = getattr(self, name)
            for key in table.keys or ():
                if key not in entries:
                    yield f"{name}.{key}", "missing; this key is required"
            if table.keys is None and (
                len(entries) < 2 or not all(key.isdecimal() and int(key) for key in entries)
            ):
                yield name, f"expected a table of two or more capacities in bytes, got {list(entries)}"
        for place, anchors in self._anchors():
            if not anchors:
                yield place, "expected at least one anchor"
            if len({anchor.node_nm for anchor in anchors}) < len(anchors):
                yield place, "two anchors at one node"
            for i, anchor in enumerate(anchors):
                if anchor.source not in self.sources:
                    yield f"{place}[{i}].source", f"{brief(anchor.source)}: expected one of {', '.join(self.sources)}"
                if "joules" in place and anchor.value > MOST_JOULES:
                    yield (
                        f"{place}[{i}].value",
                        f"{brief(anchor.value)} joules: expected at most {MOST_JOULES:g}; did you mean "
                        f"{anchor.value * 1e-12:g} ({anchor.value:g} pJ)?",
                    )

    def _anchors(self) -> Iterator[tuple[str, Anchors]]:
        for name in ("logic_energy", "logic_area", "sram_area"):
            yield f"scaling.{name}", getattr(self.scaling, name)
        for name in TABLES:
            for key, anchors in getattr(self, name).items():
                yield f"{name}.{key}", anchors

    def costs(self, node_nm: float) -> Mapping[str, Mapping[str, CostRange]]:
        """Costs at one node, by table and key."""
        scalings = {
            name: self._ranges(getattr(self.scaling, name), "ratio", self.spread.energy)
            for name in ("logic_energy", "logic_area", "sram_area")
        }
        costs = {}
        for name, table in TABLES.items():
            scaling = scalings[table.scaling] if table.scaling else None
            family = getattr(self.spread, table.spread)
            costs[name] = MappingProxyType(
                {
                    key: _at_node(self._ranges(anchors, table.unit, family), node_nm, scaling)
                    for key, anchors in getattr(self, name).items()
                }
            )
        return MappingProxyType(costs)

    def _ranges(self, anchors: Anchors, unit: str, family: Family) -> list[CostRange]:
        """Anchors as costs with their ranges and sources in full, finest node first."""
        ranges = []
        for anchor in sorted(anchors, key=lambda anchor: anchor.node_nm):
            parts = [self.sources[anchor.source], anchor.note]
            low, high = anchor.low, anchor.high
            if low is None or high is None:
                low, high = anchor.value * family.low, anchor.value * family.high
                parts.append(f"range: assumption {family.source}")
            source = "; ".join(part for part in parts if part)
            ranges.append(CostRange(low, anchor.value, high, unit, anchor.kind, source, anchor.node_nm))
        return ranges


TABLES: Mapping[str, Table] = {
    name: table
    for name in names_of(TechnologyFile, declared=Table)
    if isinstance(table := about(TechnologyFile, name), Table)
}


def _at_node(anchors: list[CostRange], node_nm: float, scaling: list[CostRange] | None) -> CostRange:
    """A cost at a node: its anchor, between two anchors, or scaled from the nearest one."""
    for anchor in anchors:
        if anchor.node_nm == node_nm or (scaling is None and len(anchors) == 1):
            return anchor
    for fine, coarse in pairwise(anchors):
        if fine.node_nm < node_nm < coarse.node_nm:
            spread = power_law((fine.node_nm, fine.spread), (coarse.node_nm, coarse.spread), node_nm)
            source = (
                f"between {fine.node_nm:g} nm ({fine.source}) and {coarse.node_nm:g} nm ({coarse.source})"
            )
            return _moved(fine, spread, node_nm, source)
    nearest = anchors[0] if node_nm < anchors[0].node_nm else anchors[-1]
    if scaling is None:
        return nearest
    there, here = (_at_node(scaling, node, None) for node in (nearest.node_nm, node_nm))
    # The ends of a ratio of two ranges need not be in order.
    ratios = sorted((here.low / there.low, here.nominal / there.nominal, here.high / there.high))
    source = f"{nearest.source}, scaled from {nearest.node_nm:g} nm by {here.nominal / there.nominal:.3g} ({here.source})"
    return _moved(nearest, nearest.spread.times(Spread(*ratios)), node_nm, source)


def _moved(anchor: CostRange, spread: Spread, node_nm: float, source: str) -> CostRange:
    return CostRange(spread.low, spread.nominal, spread.high, anchor.unit, anchor.kind, source, node_nm)


TECHNOLOGY_FILE = Path(__file__).parent / "technology.toml"
NODES_NM = (3.0, 45.0)
"""Finest and coarsest node with costs."""


@dataclass(frozen=True)
class Technology:
    """Costs at one technology node. `load` makes one.

    Parameters
    ----------
    node_nm : float
    costs : mapping of str to mapping of str to CostRange
        By table and key, see `hwmodels.silicon.technology.TABLES`.

    Source
    ------
    Every cost carries its own. Ranges and scaling are assumptions A30 to A39.

    Examples
    --------
    >>> load(7).cost("multiply_joules", "fp16").nominal
    3.4e-13
    """

    node_nm: float
    costs: Mapping[str, Mapping[str, CostRange]] = field(hash=False, repr=False)

    def cost(self, table: str, key: str) -> CostRange:
        """Look a cost up.

        Raises
        ------
        SpecError
            No such table, or no such key in it.
        """
        for what, name, among in (("table", table, self.costs), ("key", key, self.costs.get(table, {}))):
            if name not in among:
                raise SpecError(f"cost {table}.{key}: no such {what}; expected one of {', '.join(among)}")
        return self.costs[table][key]

    def sram_read_joules_per_bit(self, capacity_bytes: float) -> Spread:
        """Energy of reading a bit from an SRAM of a capacity.

        A power of the capacity between 8 KB, 32 KB and 1 MB. Beyond 1 MB the last power continues; below 8 KB it is
        as at 8 KB (assumption A33).

        Raises
        ------
        SpecError
            No positive capacity.

        Examples
        --------
        >>> round(load(45).sram_read_joules_per_bit(32768).nominal * 64 * 1e12, 3)
        20.0
        """
        return _at_capacity(self.costs["sram_joules_per_bit"], capacity_bytes, extend=True)

    def sram_write_joules_per_bit(self, capacity_bytes: float) -> Spread:
        """Energy of writing a bit to an SRAM of a capacity."""
        return self.sram_read_joules_per_bit(capacity_bytes).times(self.share("sram_write_share"))

    def sram_um2_per_bit(self, capacity_bytes: float) -> Spread:
        """Area per bit of SRAM with its part of the periphery; as at 1 KB below that, as at 1 MB above that."""
        return _at_capacity(self.costs["sram_um2_per_bit"], capacity_bytes, extend=False)

    def share(self, name: str) -> Spread:
        """A ratio of the `shares` table."""
        return self.cost("shares", name).spread

    def gates(self, structure: Gates | Cells) -> Spread:
        """Two-input NAND equivalents of a unit from the table of synthesis, or of counted cells; with flip-flops.

        Gates of the table may be wrong by `LIBRARY_ERROR`, and by the error of the fit if they were fitted (A36).

        Examples
        --------
        >>> round(load(45).gates(Cells(full_adder=3)).nominal, 2), load(45).gates(Gates(nand2=10.0)).nominal
        (15.99, 10.0)
        """
        logic = self._logic(structure)
        if isinstance(structure, Cells):
            return logic
        return logic + self.cost("cell_gates", "flip_flop").times(structure.flip_flops)

    def _logic(self, structure: Gates | Cells) -> Spread:
        if isinstance(structure, Cells):
            parts = (self.cost("cell_gates", name).times(getattr(structure, name)) for name in FIELDS)
            return functools.reduce(Spread.__add__, parts)
        error = LIBRARY_ERROR + structure.error
        return Spread(max(0.0, 1 - error), 1.0, 1 + error).times(structure.nand2)

    def um2(self, structure: Gates | Cells) -> Spread:
        """Area of a structure, wiring included."""
        return self.laid_out(self.gates(structure).times(self.cost("logic_um2", "gate").spread))

    def joules(self, structure: Gates | Cells) -> Spread:
        """Energy of using a structure once: each gate as one of an int8 multiplier at work (A39)."""
        logic = self._logic(structure).times(self.cost("logic_joules", "gate").spread)
        flip_flops = 0.0 if isinstance(structure, Cells) else structure.flip_flops
        return logic + self.cost("logic_joules", "flip_flop").times(flip_flops)

    def laid_out(self, cells_um2: Spread) -> Spread:
        """Area of a block of cells, with room for wires."""
        return cells_um2.times(self.share("layout_overhead"))


def _at_capacity(points: Mapping[str, CostRange], capacity_bytes: float, extend: bool) -> Spread:
    if isinstance(capacity_bytes, bool) or not capacity_bytes > 0:
        raise SpecError(f"capacity_bytes={brief(capacity_bytes)}: expected a positive number")
    known = sorted((float(key), cost.spread) for key, cost in points.items())
    smallest, largest = known[0][0], known[-1][0]
    at = max(capacity_bytes, smallest) if extend else min(max(capacity_bytes, smallest), largest)
    segment = next((pair for pair in pairwise(known) if at <= pair[1][0]), (known[-2], known[-1]))
    return power_law(*segment, at)


@functools.cache
def load(node_nm: float, path: Path = TECHNOLOGY_FILE) -> Technology:
    """Load all costs at a technology node.

    Parameters
    ----------
    node_nm : float
        3 to 45, in nanometres.
    path : Path
        A TOML file like the one that ships.

    Returns
    -------
    Technology
        A cost that is known at nodes on both sides is a power of the node between them. Beyond its last known node it
        scales as its family does (assumption A32).

    Raises
    ------
    SpecError
        A node out of range, or a file with an unknown, missing or malformed entry.

    Examples
    --------
    >>> round(load(7).cost("logic_um2", "gate").nominal, 4)
    0.0471
    """
    number = isinstance(node_nm, int | float) and not isinstance(node_nm, bool)
    if not number or not NODES_NM[0] <= node_nm <= NODES_NM[1]:
        raise SpecError(
            f"node_nm={brief(node_nm)}: expected a technology node of {NODES_NM[0]:g} to {NODES_NM[1]:g} nm"
        )
    return Technology(float(node_nm), _file(path).costs(float(node_nm)))


@functools.cache
def _file(path: Path) -> TechnologyFile:
    return read_record(TechnologyFile, path)
