"""Hardware specs: one TOML file a machine, loaded and checked into a frozen `HardwareSpec`."""

import difflib
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from hwmodels.machine.cache import CACHE_NUMBERS, CacheLevel
from hwmodels.machine.native import Feature, NativeUnit
from hwmodels.machine.quantity import Quantity, check_provenance
from hwmodels.machine.toml_table import checked_table
from nmsim import encodings, packing
from nmsim.case import VALUE_BITS
from nmsim.errors import NmsimError, SpecError
from nmsim.pattern import Pattern

SPEC_FOLDER = Path(__file__).parent / "specs"
OPERANDS = ("weights", "activations")


@dataclass(frozen=True)
class HardwareSpec:
    """A machine, as far as the bound needs it. Every number is a `Quantity` with its source.

    Parameters
    ----------
    id : str
        Lower-case name that `load` knows.
    name : str
        Name in full.
    family : {"gpu", "cpu"}
    hypothetical : bool
        Nobody sells this machine.
    aliases : tuple of str
        Further names that `load` knows.
    cores : Quantity [cores]
        Streaming multiprocessors of a GPU, cores of a CPU.
    clock_hz : Quantity [hz]
        Clock at which ordinary instructions are issued, best case.
    issue_lanes_per_core_per_cycle : Quantity [lanes_per_core_per_cycle]
        32-bit lanes that instructions can be issued to per core and clock cycle.
    vector_peak_flop_per_s : Quantity [flop_per_s]
        fp32 peak of the vector lanes (CUDA cores of a GPU), dense.
    dram_bandwidth_bytes_per_s, dram_capacity_bytes, last_level_cache_bytes : Quantity
        The last level of cache is L2 on a GPU, L3 on a CPU.
    dense_peak_flop_per_s : mapping of str to Quantity
        Peak of the matrix unit on dense operands, by value type.
    sparse_peak_flop_per_s : mapping of str to Quantity
        Peak of the sparse matrix unit by value type, in operations of the **dense** product: multiplications
        with dropped elements are counted as if they were done. Never to be quoted as a dense peak.
    native : tuple of NativeUnit
    weight_column_skip : Feature
        With sparse activations, a weight column that no token needs costs no DRAM traffic (assumption A8).
    core_read_bandwidth_bytes_per_s : Quantity or None
        From DRAM, of one core alone.
    call_overhead_s : Quantity or None
        The smallest dense product, which is all call, on one core.
    sparse_call_overhead_s : Quantity or None
        The smallest sparse product.
    thread_wake_s : Quantity or None
        Handing work to all other cores and waiting for them, on top of that.
    vector_lanes : Quantity or None
        32-bit lanes of a CPU's vector registers: 8 with AVX2, 16 with AVX-512.
    board_power_watts : Quantity or None
        What the board may draw; None where power is taken to limit nothing.
    process_energy_scale : Quantity or None
        Energy of a tensor operation relative to TSMC 7 nm (assumption A18); without it power limits nothing.
    cache : tuple of CacheLevel
        Innermost first; empty where nobody measured it.
    """

    id: str
    name: str
    family: Literal["gpu", "cpu"]
    hypothetical: bool
    aliases: tuple[str, ...]
    cores: Quantity
    clock_hz: Quantity
    issue_lanes_per_core_per_cycle: Quantity
    vector_peak_flop_per_s: Quantity
    dram_bandwidth_bytes_per_s: Quantity
    dram_capacity_bytes: Quantity
    last_level_cache_bytes: Quantity
    dense_peak_flop_per_s: Mapping[str, Quantity] = field(hash=False)
    sparse_peak_flop_per_s: Mapping[str, Quantity] = field(hash=False)
    native: tuple[NativeUnit, ...]
    weight_column_skip: Feature
    core_read_bandwidth_bytes_per_s: Quantity | None = None
    call_overhead_s: Quantity | None = None
    sparse_call_overhead_s: Quantity | None = None
    thread_wake_s: Quantity | None = None
    vector_lanes: Quantity | None = None
    board_power_watts: Quantity | None = None
    process_energy_scale: Quantity | None = None
    cache: tuple[CacheLevel, ...] = ()

    @property
    def issue_lanes_per_s(self) -> float:
        """Lane instructions the whole chip can issue in a second, best case (assumption A6)."""
        lanes_per_cycle = self.cores.value * self.issue_lanes_per_core_per_cycle.value
        return float(lanes_per_cycle * self.clock_hz.value)

    def native_unit(
        self, pattern: Pattern, encoding: str, policy: str, operand: str, dtype: str
    ) -> NativeUnit | None:
        """Find the sparse unit that takes an operand stored so, or None."""
        if dtype not in self.sparse_peak_flop_per_s:
            return None
        takers = (unit for unit in self.native if unit.takes(pattern, encoding, policy, operand, dtype))
        return next(takers, None)


NUMBERS = {
    "chip": {
        "cores": "cores",
        "clock_hz": "hz",
        "issue_lanes_per_core_per_cycle": "lanes_per_core_per_cycle",
        "vector_peak_flop_per_s": "flop_per_s",
    },
    "memory": {
        "dram_bandwidth_bytes_per_s": "bytes_per_s",
        "dram_capacity_bytes": "bytes",
        "last_level_cache_bytes": "bytes",
    },
}
OPTIONAL_NUMBERS = {
    "chip": {
        "core_read_bandwidth_bytes_per_s": "bytes_per_s",
        "call_overhead_s": "s",
        "sparse_call_overhead_s": "s",
        "thread_wake_s": "s",
        "vector_lanes": "lanes",
        "board_power_watts": "watts",
        "process_energy_scale": "ratio",
    },
    "memory": {},
}  # fmt: skip
LEAST = {"bytes_per_s": 1e8, "flop_per_s": 1e8, "hz": 1e6, "bytes": 1e3, "groups_per_s": 1e3}
"""Unit -> the least that any machine of interest has of it: a figure below was given in another unit."""
WHOLE_UNITS = ("cores", "lanes", "lanes_per_core_per_cycle", "bytes")
HEADER = {"id": str, "name": str, "family": str, "hypothetical": bool, "aliases": list}
PEAKS = ("dense_peak_flop_per_s", "sparse_peak_flop_per_s")
UNIT_LISTS = ("encodings", "packings", "operands", "dtypes")
UNIT_RATES = ("decoder_groups_per_s", "selector_groups_per_s")


class _Reader:
    """Takes a TOML document apart; every complaint names the file, the key and what was expected."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, key: str, problem: str) -> SpecError:
        return SpecError(f"{self.file}: {key}: {problem}")

    def table(self, value: Any, key: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Any:
        try:
            return checked_table(value, key, required, optional)
        except SpecError as error:
            raise SpecError(f"{self.file}: {error}") from error

    def quantity(self, value: Any, key: str, unit: str) -> Quantity:
        entry = self.table(value, key, ("value", "kind", "source"))
        if unit in WHOLE_UNITS and (isinstance(entry["value"], bool) or not isinstance(entry["value"], int)):
            raise self.fail(key, f"value={entry['value']!r}: expected a whole number of {unit}")
        try:
            number = Quantity(entry["value"], unit, entry["kind"], entry["source"])
        except SpecError as error:
            raise self.fail(key, str(error)) from error
        if number.value < LEAST.get(unit, 0):
            raise self.fail(
                key, f"value={number.value!r} {unit}: expected at least {LEAST[unit]:g}; a prefix left out?"
            )
        return number

    def peaks(self, value: Any, key: str) -> Mapping[str, Quantity]:
        entries = self.table(value, key, (), tuple(VALUE_BITS))
        return MappingProxyType(
            {dtype: self.quantity(entry, f"{key}.{dtype}", "flop_per_s") for dtype, entry in entries.items()}
        )

    def texts(self, value: Any, key: str, allowed: tuple[str, ...] | None = None) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.fail(key, f"expected a list of text, got {value!r}")
        for text in value:
            if allowed is not None and text not in allowed:
                raise self.fail(key, f"{text!r}: expected one of {', '.join(allowed)}")
        return tuple(value)

    def unit(self, value: Any, key: str) -> NativeUnit:
        entry = self.table(value, key, ("pattern", *UNIT_LISTS, "source"), UNIT_RATES)
        rates = {
            name: self.quantity(entry[name], f"{key}.{name}", "groups_per_s")
            for name in UNIT_RATES
            if name in entry
        }
        try:
            pattern = Pattern.parse(entry["pattern"])
            check_provenance("datasheet", entry["source"])
            for policy in entry["packings"]:
                packing.parse(policy)
            for encoding in entry["encodings"]:
                encodings.get(encoding)
        except NmsimError as error:
            raise self.fail(key, str(error)) from error
        return NativeUnit(
            pattern,
            encodings=self.texts(entry["encodings"], f"{key}.encodings"),
            packings=self.texts(entry["packings"], f"{key}.packings", packing.POLICIES),
            operands=self.texts(entry["operands"], f"{key}.operands", OPERANDS),  # type: ignore[arg-type]
            dtypes=self.texts(entry["dtypes"], f"{key}.dtypes", tuple(VALUE_BITS)),
            source=entry["source"],
            **rates,
        )

    def feature(self, value: Any, key: str) -> Feature:
        entry = self.table(value, key, ("supported", "kind", "source"))
        if not isinstance(entry["supported"], bool):
            raise self.fail(key, f"supported={entry['supported']!r}: expected true or false")
        try:
            check_provenance(entry["kind"], entry["source"])
        except SpecError as error:
            raise self.fail(key, str(error)) from error
        return Feature(**entry)

    def caches(self, entries: Any) -> tuple[CacheLevel, ...]:
        if not isinstance(entries, list):
            raise self.fail("cache", "expected an array of tables, [[cache]]")
        levels = []
        for i, value in enumerate(entries):
            entry = self.table(value, f"cache[{i}]", ("level", "shared", *CACHE_NUMBERS))
            for name, kind in (("level", str), ("shared", bool)):
                if not isinstance(entry[name], kind):
                    raise self.fail(f"cache[{i}].{name}", f"expected a {kind.__name__}, got {entry[name]!r}")
            numbers = {
                name: self.quantity(entry[name], f"cache[{i}].{name}", unit)
                for name, unit in CACHE_NUMBERS.items()
            }
            levels.append(CacheLevel(entry["level"], entry["shared"], **numbers))
        return tuple(levels)

    def spec(self, document: Any) -> HardwareSpec:
        required = (*HEADER, *NUMBERS, "dense_peak_flop_per_s", "weight_column_skip")
        self.table(document, "", required, ("sparse_peak_flop_per_s", "native", "cache"))
        for key, kind in HEADER.items():
            if not isinstance(document[key], kind):
                raise self.fail(key, f"expected a {kind.__name__}, got {document[key]!r}")
        if document["family"] not in ("gpu", "cpu"):
            raise self.fail("family", f"{document['family']!r}: expected gpu or cpu")
        numbers: dict[str, Any] = {}
        for part, units in NUMBERS.items():
            table = self.table(document[part], part, tuple(units), tuple(OPTIONAL_NUMBERS[part]))
            numbers |= {
                name: self.quantity(table[name], f"{part}.{name}", unit)
                for name, unit in (units | OPTIONAL_NUMBERS[part]).items()
                if name in table
            }
        peaks: dict[str, Any] = {key: self.peaks(document.get(key, {}), key) for key in PEAKS}
        for dtype in peaks["sparse_peak_flop_per_s"]:
            if dtype not in peaks["dense_peak_flop_per_s"]:
                raise self.fail(
                    f"sparse_peak_flop_per_s.{dtype}", "expected a dense peak of that type as well"
                )
            sparse, dense = (peaks[key][dtype].value for key in reversed(PEAKS))
            if sparse < dense:
                raise self.fail(
                    f"sparse_peak_flop_per_s.{dtype}",
                    f"value={sparse!r}: expected at least the dense peak, {dense!r}",
                )
        native = document.get("native", [])
        if not isinstance(native, list):
            raise self.fail("native", "expected an array of tables, [[native]]")
        natives = tuple(self.unit(entry, f"native[{i}]") for i, entry in enumerate(native))
        for i, unit in enumerate(natives):
            for dtype in unit.dtypes:
                if dtype not in peaks["sparse_peak_flop_per_s"]:
                    raise self.fail(
                        f"native[{i}].dtypes", f"{dtype!r} has no entry in sparse_peak_flop_per_s"
                    )
        return HardwareSpec(
            id=document["id"],
            name=document["name"],
            family=document["family"],
            hypothetical=document["hypothetical"],
            aliases=self.texts(document["aliases"], "aliases"),
            native=natives,
            weight_column_skip=self.feature(document["weight_column_skip"], "weight_column_skip"),
            cache=self.caches(document.get("cache", [])),
            **numbers,
            **peaks,
        )


def read_spec(path: Path) -> HardwareSpec:
    """Read and check one hardware TOML file.

    Raises
    ------
    SpecError
        The file cannot be read, is no TOML, or has an unknown, missing or malformed key.
    """
    reader = _Reader(str(path))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as TOML: {error}") from error
    return reader.spec(document)


@functools.cache
def _shipped() -> Mapping[str, HardwareSpec]:
    specs = (read_spec(path) for path in sorted(SPEC_FOLDER.glob("*.toml")))
    return MappingProxyType({spec.id: spec for spec in specs})


@functools.cache
def _by_name() -> Mapping[str, HardwareSpec]:
    return {name: spec for spec in _shipped().values() for name in (spec.id, *spec.aliases)}


def names() -> list[str]:
    """List the machines that ship with the package, without their aliases.

    Examples
    --------
    >>> "h200" in names()
    True
    """
    return list(_shipped())


def load(hardware: str | Path | HardwareSpec) -> HardwareSpec:
    """Load a machine by name, or from a TOML file of the user's own.

    Parameters
    ----------
    hardware : str, Path or HardwareSpec
        A name or alias in any case, such as `"h200"`; or a path that ends in `.toml`; or a spec, which comes
        back as it is.

    Returns
    -------
    HardwareSpec

    Raises
    ------
    SpecError
        No machine of that name, or a file with an unknown, missing or malformed key.

    Examples
    --------
    >>> load("H200").dram_bandwidth_bytes_per_s.value
    4800000000000.0
    """
    if isinstance(hardware, HardwareSpec):
        return hardware
    if isinstance(hardware, Path) or (isinstance(hardware, str) and hardware.endswith(".toml")):
        return read_spec(Path(hardware))
    if not isinstance(hardware, str):
        raise SpecError(
            f"hardware {hardware!r} (type {type(hardware).__name__}): expected a name, a .toml path or a "
            "HardwareSpec"
        )
    known = _by_name()
    spec = known.get(hardware.strip().lower())
    if spec is None:
        near = difflib.get_close_matches(hardware.strip().lower(), known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"hardware {hardware!r}: no machine of that name.{hint} Known: {', '.join(names())}; "
            "or give the path of a .toml file"
        )
    return spec
