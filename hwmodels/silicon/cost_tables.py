"""The tables of `technology.toml`: read, checked, and moved to one technology node."""

import math
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from hwmodels.machine.toml_table import checked_table
from hwmodels.silicon.cells import LOGIC_CELLS
from hwmodels.silicon.cost import CostRange, Spread
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError
from nmsim.support.schema import check_provenance

SCALINGS = ("logic_energy", "logic_area", "sram_area")


class Table(NamedTuple):
    """A table of costs: its unit, how it scales beyond its anchors, the family of its spread, its keys.

    `keys` is None where the keys are capacities in bytes.
    """

    unit: str
    scaling: str | None
    spread: str
    keys: tuple[str, ...] | None


TABLES: Mapping[str, Table] = {
    "multiply_joules": Table("joules", "logic_energy", "energy", tuple(VALUE_BITS)),
    "add_joules": Table("joules", "logic_energy", "energy", ("int32", "fp16", "fp32")),
    "logic_joules": Table("joules", "logic_energy", "energy", ("gate", "flip_flop")),
    "register_joules_per_bit": Table("joules_per_bit", "logic_energy", "energy", ("register_file",)),
    "sram_joules_per_bit": Table("joules_per_bit", "logic_energy", "energy", None),
    "dram_joules_per_bit": Table(
        "joules_per_bit", None, "energy", ("hbm2", "hbm3", "gddr6", "lpddr4", "lpddr5", "ddr4")
    ),
    "wire_joules_per_bit_mm": Table("joules_per_bit_mm", None, "energy", ("wire",)),
    "multiply_um2": Table("um2", "logic_area", "area", tuple(VALUE_BITS)),
    "add_um2": Table("um2", "logic_area", "area", ("int32", "fp16", "fp32")),
    "logic_um2": Table("um2", "logic_area", "area", ("gate",)),
    "sram_um2_per_bit": Table("um2_per_bit", "sram_area", "area", None),
    "rom_um2_per_bit": Table("um2_per_bit", "sram_area", "area", ("rom",)),
    "cell_gates": Table("gates", None, "area", LOGIC_CELLS),
    "shares": Table(
        "ratio",
        None,
        "area",
        (
            "layout_overhead", "static_share", "rom_read_share", "sram_write_share", "gated_share", "l2_distance_share",
        ),
    ),
}  # fmt: skip


def read_costs(document: Mapping[str, Any], node_nm: float) -> Mapping[str, Mapping[str, CostRange]]:
    """Take a parsed file apart into costs at one node, by table and key.

    Raises
    ------
    SpecError
        Naming the entry that is unknown, missing or malformed.
    """
    checked_table(document, "", ("sources", "spread", "scaling", *TABLES))
    reader = _Reader(document)
    scalings = {
        name: reader.anchors(anchors, f"scaling.{name}", "ratio", "energy")
        for name, anchors in checked_table(document["scaling"], "scaling", SCALINGS).items()
    }
    costs = {}
    for name, table in TABLES.items():
        entries = document[name]
        if table.keys is None:
            _check_capacities(entries, name)
        else:
            checked_table(entries, name, table.keys)
        scaling = scalings[table.scaling] if table.scaling else None
        known = {
            key: reader.anchors(anchors, f"{name}.{key}", table.unit, table.spread)
            for key, anchors in entries.items()
        }
        costs[name] = MappingProxyType(
            {key: _at_node(anchors, node_nm, scaling) for key, anchors in known.items()}
        )
    return MappingProxyType(costs)


def _check_capacities(entries: Any, name: str) -> None:
    if (
        not isinstance(entries, dict)
        or len(entries) < 2
        or not all(key.isdecimal() and int(key) for key in entries)
    ):
        raise SpecError(f"{name}: expected a table of two or more capacities in bytes, got {list(entries)}")


class _Reader:
    """Turns anchors into cost ranges; every complaint names the entry."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.sources = checked_table(document["sources"], "sources", (), tuple(document["sources"]))
        self.spreads = checked_table(document["spread"], "spread", ("energy", "area"))
        for name, spread in self.spreads.items():
            checked_table(spread, f"spread.{name}", ("low", "high", "source"))
            check_provenance("assumed", spread["source"])

    def anchors(self, value: Any, where: str, unit: str, spread: str) -> list[CostRange]:
        if not isinstance(value, list) or not value:
            raise SpecError(f"{where}: expected a list of anchors, got {value!r}")
        found = [self._anchor(entry, f"{where}[{i}]", unit, spread) for i, entry in enumerate(value)]
        if len({anchor.node_nm for anchor in found}) < len(found):
            raise SpecError(f"{where}: two anchors at one node")
        return sorted(found, key=lambda anchor: anchor.node_nm)

    def _anchor(self, entry: Any, where: str, unit: str, spread: str) -> CostRange:
        checked_table(entry, where, ("node_nm", "value", "kind", "source"), ("low", "high", "note"))
        if entry["source"] not in self.sources:
            raise SpecError(f"{where}.source: {entry['source']!r}: expected one of {', '.join(self.sources)}")
        if ("low" in entry) != ("high" in entry):
            raise SpecError(f"{where}: low and high: expected both or neither")
        family = self.spreads[spread]
        parts = [self.sources[entry["source"]], entry.get("note", "")]
        if "low" in entry:
            low, high = entry["low"], entry["high"]
        else:
            low, high = entry["value"] * family["low"], entry["value"] * family["high"]
            parts.append(f"range: assumption {family['source']}")
        source = "; ".join(part for part in parts if part)
        try:
            return CostRange(low, entry["value"], high, unit, entry["kind"], source, entry["node_nm"])
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from error


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
