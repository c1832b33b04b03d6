"""Which units there are: every one that can be built, those that the table of synthesis holds, and how a row of it is made."""

import importlib
from collections.abc import Callable, Iterable
from itertools import product, starmap
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from hwmodels.gates.record import CODED_UNITS, WIDE_UNITS, GateRow, Goal, UnitSpec
from hwmodels.gates.record import Unit as UnitName
from hwmodels.rtl.flow import missing, script_name, synthesise, tool_version
from nmsim.errors import SpecError, brief, brief_names
from nmsim.pattern import Pattern
from nmsim.rows.files import append, read
from nmsim.units import percent

if TYPE_CHECKING:
    from hwmodels.rtl.unit import Unit

ROOM: Final = "hwmodels.rtl"
FILES: Final = {
    ("decoder", "combinatorial"): "combinatorial",
    ("position_decoder", "combinatorial"): "combinatorial",
    ("decoder", "tiled"): "tiled",
    ("position_decoder", "tiled"): "tiled",
    ("encoder", "tiled"): "tiled",
    ("decoder", ""): "decoders",
    ("position_decoder", ""): "decoders",
    ("encoder", ""): "encoders",
    ("select", ""): "select",
    ("selector", ""): "selectors",
    ("lane", ""): "lane",
}
"""Unit and encoding -> file with its `build`. An empty encoding stands for all others."""
UNITS: Final = tuple(dict.fromkeys(unit for unit, _ in FILES))
ENCODINGS: Final = ("bitmask", "index", "gap", "combinatorial", "tiled")
PATTERNS: Final = ((2, 4), (4, 8), (8, 16), (1, 4), (2, 8), (4, 16), (16, 32))
VARIANTS: Final = {
    ("decoder", "combinatorial"): ("serial", "digits", "shallow"),
    ("position_decoder", "combinatorial"): ("serial", "shallow", "columns"),
    ("encoder", "combinatorial"): ("pairs", "slots"),
    ("decoder", "joint"): ("serial", "digits", "shallow"),
    ("position_decoder", "joint"): ("serial", "digits", "shallow"),
    ("encoder", "joint"): ("pairs", "slots"),
    ("lane", "joint"): (),
    ("select", ""): ("onehot", "ordered_mux", "butterfly", "crossbar", "mux"),
    ("selector", ""): ("all_pairs", "half", "bitonic", "planes"),
}
"""Unit and encoding -> structures. All others are `plain`."""
PLAIN: Final = ("plain",)
NIBBLES: Final = ((1, 2), (2, 4))
"""Patterns that NVIDIA's four bits per group have, a second structure of `index`."""
WIDTH_BITS = 8
"""The width that all units with one have."""
SELECT_BITS, KEY_BITS, LANE_BITS = (WIDTH_BITS, 16), (WIDTH_BITS, 16), (WIDTH_BITS,)
MOST_M: Final = {
    "bitonic": 8,
    "half": 16,
    "digits": 16,
    "shallow": 16,
    "columns": 16,
    "slots": 16,
    "mux": 16,
    "crossbar": 16,
}
"""Structures whose synthesis takes minutes at a larger M, where others are smaller and shallower too."""
MOST_M_WIDE: Final = {"all_pairs": 16, "planes": 16, "half": 8, "bitonic": 0}
"""The same of selectors with keys of 16 bits."""
MOST_M_OF_DELAY = 16
"""Larger units are mapped for few gates only, except those that are shallow by their structure."""
SHALLOW: Final = (("decoder", "tiled"), ("position_decoder", "bitmask"))
FURTHER: Final = (
    *(UnitSpec("decoder", 8, 16, "combinatorial", "serial", stages=stages) for stages in (1, 2, 4)),
    UnitSpec("decoder", 8, 16, "tiled", "plain", stages=1),
    *(UnitSpec("lane", 2, 4, "index", "plain", 8, stages) for stages in (0, 2)),
    *(UnitSpec("lane", 4, 8, "tiled", "plain", 8, stages) for stages in (0, 2)),
)
"""Pipelined units and whole lanes, mapped for few gates."""
CHECKED, CHECKED_SELECTOR = Pattern(4, 8), Pattern(2, 4)
CHECKED_DELAY: Final = (("tiled", Pattern(8, 16)), ("combinatorial", Pattern(2, 4)))
"""Decoders whose short paths are synthesised again too."""
GOALS: Final[tuple[Goal, ...]] = ("area", "delay")
TOLERANCE = 0.02
"""Largest share by which a number may differ from the table's when a unit is synthesised again."""


class Asked(NamedTuple):
    """A unit, and what its script is to work for."""

    spec: UnitSpec
    goal: Goal

    def __str__(self) -> str:
        return f"{self.spec}, {self.goal}"


def build(spec: UnitSpec) -> "Unit":
    """Build a unit.

    Parameters
    ----------
    spec : UnitSpec

    Raises
    ------
    SpecError
        No such unit, or one that its file does not know; or the extra `rtl` is not installed.
    """
    file = FILES.get((spec.unit, spec.encoding)) or FILES.get((spec.unit, ""))
    if file is None:
        raise SpecError(f"unit {brief(spec.unit)}: expected one of {brief_names(UNITS)}")
    try:
        unit: Unit = importlib.import_module(f"{ROOM}.{file}").build(spec)
    except ModuleNotFoundError as error:
        # A file of this room that is missing is a fault of ours, and no extra would help.
        if error.name is None or error.name.split(".")[0] != "amaranth":
            raise
        raise missing("amaranth") from None
    return unit


def variants_of(unit: str, encoding: str = "") -> tuple[str, ...]:
    """Structures of a unit, the usual one first; none if the unit does not exist for the encoding."""
    return VARIANTS.get((unit, encoding.partition(":")[0]), PLAIN)


def widths_of(unit: str) -> tuple[int, ...]:
    """Bits of values or keys that the catalogue has of a unit; 0 if it has no width."""
    return {"select": SELECT_BITS, "selector": KEY_BITS, "lane": LANE_BITS}.get(unit, (0,))


def row_of(spec: UnitSpec, goal: Goal = "area") -> GateRow:
    """Synthesise a unit and say what it takes.

    Raises
    ------
    SpecError
        As `build` and `synthesise`.
    """
    unit = build(spec)
    netlist = synthesise(unit, goal)
    return GateRow(
        unit=cast(UnitName, spec.unit),
        pattern=str(spec.pattern),
        encoding=spec.encoding,
        variant=spec.variant,
        width_bits=spec.width_bits,
        stages=spec.stages,
        goal=goal,
        nand2=round(netlist.nand2, 2),
        levels=netlist.levels,
        fo4=round(netlist.fo4, 2),
        flip_flops=netlist.flip_flops,
        cut_bits=netlist.cut_bits,
        comparators=unit.comparators,
        synthesis_s=round(netlist.seconds, 2),
        tool=tool_version(),
        script=script_name(goal),
    )


def fill(
    wanted: Iterable[Asked], path: Path | None = None, *, progress: Callable[[str, float], None] | None = None
) -> tuple[list[GateRow], int]:
    """Synthesise units that a file lacks, and append a row of each as soon as it is there.

    Parameters
    ----------
    wanted : iterable of Asked
    path : Path, optional
    progress : callable, optional
        Called with what is under way and the share done.

    Returns
    -------
    list of GateRow
        All that was asked for, in its order.
    int
        How many of them the file held already.

    Raises
    ------
    SpecError, RowError
        A unit that cannot be made, or a file that cannot be read.
    """
    wanted = list(dict.fromkeys(wanted))
    kept = {}
    if path is not None and path.exists() and path.stat().st_size:
        kept = {Asked(row.spec, row.goal): row for row in read(path, GateRow)}
    found = {one: kept[one] for one in wanted if one in kept}
    skipped = len(found)
    for number, one in enumerate(wanted):
        if progress is not None:
            progress(str(one), number / len(wanted))
        if one not in found:
            found[one] = row_of(*one)
            if path is not None:
                append(path, found[one])
    return [found[one] for one in wanted], skipped


def differences(row: GateRow, again: GateRow) -> list[str]:
    """Say where a unit that was synthesised again differs from its row: gates, levels and delay by over 2 %, others at all.

    Examples
    --------
    >>> from dataclasses import replace
    >>> numbers = {"nand2": 10, "levels": 4, "fo4": 2, "flip_flops": 0}
    >>> row = GateRow(unit="encoder", pattern="2:4", encoding="index", variant="plain", goal="area", **numbers)
    >>> differences(row, row), differences(row, replace(row, nand2=11))
    ([], ['nand2 11, expected 10 within 2 %'])
    """
    wrong = []
    for name in ("nand2", "levels", "fo4"):
        before, now = getattr(row, name), getattr(again, name)
        if abs(now - before) > TOLERANCE * before:
            wrong.append(f"{name} {now:g}, expected {before:g} within {percent(TOLERANCE, 0)}")
    for name in ("flip_flops", "comparators", "cut_bits"):
        before, now = getattr(row, name), getattr(again, name)
        if before != now:
            wrong.append(f"{name} {now:g}, expected {before:g}")
    return wrong


def specs_of(
    unit: str,
    pattern: Pattern,
    *,
    encoding: str = "",
    variants: Iterable[str] = (),
    widths_bits: Iterable[int] = (),
    stages: int = 0,
) -> tuple[UnitSpec, ...]:
    """Structures and widths of a unit for one pattern: those named, or all that the catalogue has.

    Parameters
    ----------
    unit : str
    pattern : Pattern
    encoding : str
        Ignored by units without codes.
    variants : iterable of str
    widths_bits : iterable of int
        Ignored by units without widths.
    stages : int

    Raises
    ------
    SpecError
        No such unit.

    Examples
    --------
    >>> [spec.variant for spec in specs_of("decoder", Pattern(8, 16), encoding="combinatorial")]
    ['serial', 'digits', 'shallow']
    """
    if unit not in UNITS:
        raise SpecError(f"unit {brief(unit)}: expected one of {brief_names(UNITS)}")
    coded = encoding if unit in CODED_UNITS else ""
    widths = (tuple(widths_bits) or widths_of(unit)) if unit in WIDE_UNITS else (0,)
    return tuple(
        UnitSpec(unit, pattern.n, pattern.m, coded, variant, width, stages)
        for variant, width in product(tuple(variants) or variants_of(unit, coded), widths)
    )


def catalogue() -> tuple[UnitSpec, ...]:
    """All units of the table of synthesis, the most common patterns first."""
    found: list[UnitSpec] = []
    for pattern in starmap(Pattern, PATTERNS):
        for unit, encoding in product(("decoder", "position_decoder", "encoder"), ENCODINGS):
            found += specs_of(unit, pattern, encoding=encoding)
            if encoding == "index" and (pattern.n, pattern.m) in NIBBLES:
                found += specs_of(unit, pattern, encoding=encoding, variants=("nibbles",))
        for unit in ("select", "selector"):
            found += specs_of(unit, pattern)
    return (*(spec for spec in found if not _slow(spec)), *FURTHER)


def _slow(spec: UnitSpec) -> bool:
    """Whether a synthesis takes minutes, and says nothing that another one does not."""
    wide = spec.unit == "selector" and spec.width_bits > WIDTH_BITS
    return spec.m > (MOST_M_WIDE if wide else MOST_M).get(spec.variant, spec.m)


def asked(specs: Iterable[UnitSpec], goals: Iterable[Goal] = GOALS) -> tuple[Asked, ...]:
    """Each unit with each goal."""
    return tuple(Asked(spec, goal) for spec, goal in product(specs, goals))


def table_rows() -> tuple[Asked, ...]:
    """All rows of the table of synthesis: units of `catalogue` with both goals, but large ones with few gates only."""
    return tuple(
        one
        for one in asked(catalogue())
        if one.goal == "area"
        or (one.spec.m <= MOST_M_OF_DELAY and one.spec not in FURTHER)
        or (one.spec.unit, one.spec.encoding) in SHALLOW
    )


def ci_subset() -> tuple[Asked, ...]:
    """Units that are synthesised again wherever the tests run: every structure for area, and some for delay.

    Structures are checked at 4:8, selectors at 2:4: at 4:8 their four structures take as long as all other units together.
    """
    return tuple(
        one
        for one in table_rows()
        if (
            one.goal == "area"
            and one.spec.pattern == (CHECKED_SELECTOR if one.spec.unit == "selector" else CHECKED)
            and one.spec.width_bits in (0, WIDTH_BITS)
            and one.spec.unit != "lane"
        )
        or (
            one.goal == "delay"
            and one.spec.unit == "decoder"
            and (one.spec.encoding, one.spec.pattern) in CHECKED_DELAY
        )
    )
