"""Costs of elementary actions and structures at a technology node, from the anchors of `technology.toml`."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from hwmodels.silicon.cells import LOGIC_CELLS, Cells
from hwmodels.silicon.cost import CostRange, Spread
from hwmodels.silicon.cost_tables import TABLES, TechnologyFile, power_law
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError
from nmsim.support.schema import read_record

TECHNOLOGY_FILE = Path(__file__).parent / "technology.toml"
NODES_NM = (5.0, 45.0)
"""Finest and coarsest node with costs."""


@dataclass(frozen=True)
class Technology:
    """Costs at one technology node. `load` makes one.

    Parameters
    ----------
    node_nm : float
    costs : mapping of str to mapping of str to CostRange
        By table and key, see `hwmodels.silicon.cost_tables.TABLES`.

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

    def multiply_add_joules(self, dtype: str, accumulator_bits: int = 32) -> Spread:
        """Energy of one multiplication and one addition to the accumulator, in joules.

        Parameters
        ----------
        dtype : str
            Type of the values, a key of `nmsim.case.VALUE_BITS`.
        accumulator_bits : int
            32; or 16 with floating-point values.

        Raises
        ------
        SpecError
            A type or width that no cost is known for.

        Examples
        --------
        >>> round(load(7).multiply_add_joules("int8").nominal * 1e12, 3)
        0.1
        """
        adder = self.cost("add_joules", _adder(dtype, accumulator_bits))
        return self.cost("multiply_joules", dtype).spread + adder.spread

    def multiply_add_um2(self, dtype: str, accumulator_bits: int = 32) -> Spread:
        """Area of one multiplier and one adder, wiring included, in um2. Arguments as `multiply_add_joules`."""
        adder = self.cost("add_um2", _adder(dtype, accumulator_bits))
        return self._laid_out(self.cost("multiply_um2", dtype).spread + adder.spread)

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

    def rom_read_joules_per_bit(self, capacity_bits: int) -> Spread:
        """Energy of reading a bit from a ROM of a capacity."""
        return self.sram_read_joules_per_bit(capacity_bits / 8).times(self.share("rom_read_share"))

    def sram_um2_per_bit(self, capacity_bytes: float) -> Spread:
        """Area per bit of SRAM with its part of the periphery; as at 1 KB below that, as at 1 MB above that."""
        return _at_capacity(self.costs["sram_um2_per_bit"], capacity_bytes, extend=False)

    def share(self, name: str) -> Spread:
        """A ratio of the `shares` table."""
        return self.cost("shares", name).spread

    def gates(self, cells: Cells) -> Spread:
        """Two-input NAND equivalents of a structure, flip-flops included and ROM left out.

        Examples
        --------
        >>> round(load(45).gates(Cells(full_adder=3)).nominal, 2)
        15.99
        """
        parts = (self.cost("cell_gates", name).times(getattr(cells, name)) for name in LOGIC_CELLS)
        return functools.reduce(Spread.__add__, parts)

    def um2(self, cells: Cells) -> Spread:
        """Area of a structure, wiring included."""
        logic = self.gates(cells).times(self.cost("logic_um2", "gate").spread)
        return self._laid_out(logic) + self.cost("rom_um2_per_bit", "rom").times(cells.rom_bits)

    def joules(self, cells: Cells) -> Spread:
        """Energy of using a structure once, without its ROM: each gate as one of an int8 multiplier at work (A39)."""
        logic = self.gates(replace(cells, flip_flop=0)).times(self.cost("logic_joules", "gate").spread)
        return logic + self.cost("logic_joules", "flip_flop").times(cells.flip_flop)

    def _laid_out(self, cells_um2: Spread) -> Spread:
        return cells_um2.times(self.share("layout_overhead"))


def _adder(dtype: str, accumulator_bits: int) -> str:
    kind = "int" if dtype.startswith("int") else "fp"
    name = f"{kind}{accumulator_bits}"
    known = TABLES["add_joules"].keys or ()
    if dtype not in VALUE_BITS or name not in known:
        raise SpecError(
            f"dtype={dtype!r}, accumulator_bits={accumulator_bits!r}: expected one of {', '.join(VALUE_BITS)} "
            f"with an adder among {', '.join(known)}"
        )
    return name


def _at_capacity(points: Mapping[str, CostRange], capacity_bytes: float, extend: bool) -> Spread:
    if isinstance(capacity_bytes, bool) or not capacity_bytes > 0:
        raise SpecError(f"capacity_bytes={capacity_bytes!r}: expected a positive number")
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
        5 to 45, in nanometres.
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
            f"node_nm={node_nm!r}: expected a technology node of {NODES_NM[0]:g} to {NODES_NM[1]:g} nm"
        )
    return Technology(float(node_nm), _file(path).costs(float(node_nm)))


@functools.cache
def _file(path: Path) -> TechnologyFile:
    return read_record(TechnologyFile, path)
