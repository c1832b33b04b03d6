"""The tables of `technology.toml`: declared, checked, and moved to one technology node."""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated

from hwmodels.silicon.cells import LOGIC_CELLS
from hwmodels.silicon.cost import CostRange, Spread
from nmsim.case import VALUE_BITS
from nmsim.support.schema import About, Kind, Number, OneOf, Text, about, names_of, record

MOST_JOULES = 1e-6
"""More is a figure in picojoules."""
ADDERS = ("int32", "fp16", "fp32")
DRAMS = ("hbm2", "hbm3", "gddr6", "lpddr4", "lpddr5", "ddr4")
SHARES = (
    "layout_overhead",
    "static_share",
    "rom_read_share",
    "sram_write_share",
    "gated_share",
    "l2_distance_share",
)


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
            yield "value", f"{self.value!r}, expected a positive number"
        if self.low is None or self.high is None:
            if (self.low is None) != (self.high is None):
                yield "", "low and high: expected both or neither"
        elif not 0 < self.low <= self.value <= self.high:
            yield (
                "",
                f"low={self.low!r}, nominal={self.value!r}, high={self.high!r}: expected low <= nominal <= high",
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
    multiply_um2: Annotated[Typed, Table("um2", "Area of a multiplier.",
        scaling="logic_area", spread="area", keys=tuple(VALUE_BITS))]
    add_um2: Annotated[Added, Table("um2", "Area of an adder.", scaling="logic_area", spread="area", keys=ADDERS)]
    logic_um2: Annotated[Mapping[Annotated[str, OneOf(("gate",))], Anchors], Table("um2", "Area of a gate.",
        scaling="logic_area", spread="area", keys=("gate",))]
    sram_um2_per_bit: Annotated[Mapping[str, Anchors], Table("um2_per_bit", "Area of SRAM with its periphery.",
        scaling="sram_area", spread="area", keys=None)]
    rom_um2_per_bit: Annotated[Mapping[Annotated[str, OneOf(("rom",))], Anchors], Table("um2_per_bit", "Area of ROM.",
        scaling="sram_area", spread="area", keys=("rom",))]
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
                    yield f"{place}[{i}].source", f"{anchor.source!r}: expected one of {', '.join(self.sources)}"
                if "joules" in place and anchor.value > MOST_JOULES:
                    yield (
                        f"{place}[{i}].value",
                        f"{anchor.value!r} joules: expected at most {MOST_JOULES:g}; did you mean "
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


def power_law(left: tuple[float, Spread], right: tuple[float, Spread], at: float) -> Spread:
    """A power of `at` through two points, for each of low, nominal and high."""
    (x0, first), (x1, second) = left, right
    t = math.log(at / x0) / math.log(x1 / x0)
    low, nominal, high = (
        a * (b / a) ** t
        for a, b in (
            (first.low, second.low),
            (first.nominal, second.nominal),
            (first.high, second.high),
        )
    )
    return Spread(low, nominal, high)
