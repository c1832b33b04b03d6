"""Hardware specs: one TOML file per machine, read and checked into a frozen `HardwareSpec`, and what is read off it."""

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from nmsim.case import SparseOperand
from nmsim.errors import SpecError, brief
from nmsim.fields import Dtype, Encoding, PackingPolicy, PatternText
from nmsim.format import SparseFormat
from nmsim.support.schema import (
    About,
    Flag,
    Id,
    Kind,
    Number,
    Quantity,
    Text,
    about,
    hints,
    read_record,
    record,
)  # fmt: skip

SPEC_FOLDER = Path(__file__).parent / "specs"
Peaks = Mapping[Dtype, Annotated[Quantity, Number("flop_per_s")]]


RENAMED: Mapping[str, str] = MappingProxyType(
    {
        f"{unit}_groups_per_s": f"{unit}_elements_per_s counts dense elements, M per group: give groups x M"
        for unit in ("decoder", "selector")
    }
)
"""Keys of earlier versions -> how their values become those of their successors."""


# fmt: off
@record
class Feature:
    """A yes or no about a machine, with the kind of knowledge behind it and its source."""

    supported: Annotated[Flag, About("Whether the machine has it.")]
    kind: Annotated[Kind, About("How that is known.")]
    source: Annotated[Text, About("Source of that.")]


@record
class CacheLevel:
    """One level of cache, as it was measured."""

    level: Annotated[Text, About("Name, such as `L1`.")]
    shared: Annotated[Flag, About("Whether cores share it.")]
    bytes: Annotated[Quantity, Number("bytes", "What one core has alone; all of it if cores share the level.", capacity=True)]
    core_read_bandwidth_bytes_per_s: Annotated[Quantity, Number("bytes_per_s", "Read by one core alone.")]
    read_bandwidth_bytes_per_s: Annotated[Quantity, Number("bytes_per_s", "Read by all cores together.")]


@record
class NativeUnit:
    """A sparse matrix unit, and what it takes without software that touches the codes."""

    pattern: Annotated[PatternText, About("Pattern N:M that the unit takes.")]
    encodings: Annotated[tuple[Encoding, ...], About("Metadata encodings that it reads.")]
    packings: Annotated[tuple[PackingPolicy, ...], About("Packings that it reads, without a word width.")]
    operands: Annotated[tuple[SparseOperand, ...], About("Operands that may be sparse.")]
    dtypes: Annotated[tuple[Dtype, ...], About("Value types.")]
    source: Annotated[Text, About("Source of this.")]
    decoder_elements_per_s: Annotated[Quantity | None, Number("elements_per_s", "Dense elements, M per group, whose codes "
        "the whole chip turns into positions. Left out if the maker's sparse peak holds with codes as input "
        "(assumption A11).")] = None
    selector_elements_per_s: Annotated[Quantity | None, Number("elements_per_s", "Dense elements that it prunes online. "
        "Left out if software must.")] = None
    pairs: Annotated[Flag, About("Whether it keeps or drops neighbours along K in pairs. No format keeps pairs, so `predict` "
        "does not use such a unit; `predict_rows` does.")] = False

    renamed = RENAMED

    @property
    def takes_pattern(self) -> str:
        """The pattern in words, such as `2:4` or `4:8 in pairs`."""
        return f"{self.pattern} in pairs" if self.pairs else str(self.pattern)

    def takes(self, format: SparseFormat, *, operand: str, dtype: str) -> bool:
        """Say whether this unit multiplies a sparse operand that is stored so."""
        return (
            not self.pairs
            and format.pattern == self.pattern
            and format.encoding.name in self.encodings
            and format.packing.name in self.packings
            and operand in self.operands
            and dtype in self.dtypes
        )


@record
class HardwareSpec:
    """A machine, as far as the bound needs it. Every number is a `Quantity` with its source.

    `About` and `Number` say what each field means; `docs/reference/files.md` lists them.
    """

    id: Annotated[Id, About("Lower-case name.")]
    name: Annotated[Text, About("Name in full.")]
    family: Annotated[Literal["gpu", "cpu"], About("Kind of machine.")]
    hypothetical: Annotated[Flag, About("Whether nobody sells this machine.")]
    aliases: Annotated[tuple[Text, ...], About("Further names of the machine.")]
    cores: Annotated[Quantity, Number("cores", "Streaming multiprocessors of a GPU, cores of a CPU.", section="chip")]
    clock_hz: Annotated[Quantity, Number("hz", "Clock of ordinary instructions, best case.", section="chip")]
    issue_lanes_per_core_per_cycle: Annotated[Quantity, Number("lanes_per_core_per_cycle",
        "32-bit lanes that instructions can be issued to per core and clock cycle.", section="chip")]
    vector_peak_flop_per_s: Annotated[Quantity, Number("flop_per_s",
        "fp32 peak of the vector lanes (CUDA cores of a GPU), dense.", section="chip")]
    dram_bandwidth_bytes_per_s: Annotated[Quantity, Number("bytes_per_s",
        "Bandwidth of DRAM, for all cores together.", section="memory")]
    dram_capacity_bytes: Annotated[Quantity, Number("bytes", "Capacity of DRAM.", section="memory", capacity=True)]
    last_level_cache_bytes: Annotated[Quantity, Number("bytes", "L2 of a GPU, L3 of a CPU.", section="memory", capacity=True)]
    dense_peak_flop_per_s: Annotated[Peaks, About("Peak of the matrix unit on dense operands, by value type.")] = field(
        hash=False
    )
    weight_column_skip: Annotated[Feature, About("With sparse activations, a weight column that no token needs costs no "
        "DRAM traffic (assumption A8).")]
    sparse_peak_flop_per_s: Annotated[Peaks, About("Peak of the sparse matrix unit by value type, in operations of the "
        "**dense** product: multiplications with dropped elements count as done. Never quote it as a dense peak.")] = field(
        hash=False, default_factory=dict
    )
    library_flop_per_s: Annotated[Peaks, About("Rate of the dense library on one CPU core, at 16 tokens and with weights in a "
        "cache, by value type. Left out: the dense product is that of `kernels.cpu` alone.")] = field(
        hash=False, default_factory=dict
    )
    native: Annotated[tuple[NativeUnit, ...], About("Sparse matrix units.")] = ()
    core_read_bandwidth_bytes_per_s: Annotated[Quantity | None, Number("bytes_per_s",
        "Bandwidth of DRAM, for one core alone.", section="chip")] = None
    call_overhead_s: Annotated[Quantity | None, Number("s", "Time of the smallest dense product on one core, which is all "
        "call.", section="chip")] = None
    sparse_call_overhead_s: Annotated[Quantity | None, Number("s", "Time of the smallest sparse product.",
        section="chip")] = None
    thread_wake_s: Annotated[Quantity | None, Number("s", "Time to hand work to all other cores and to wait for them, on top "
        "of the call.", section="chip")] = None
    vector_lanes: Annotated[Quantity | None, Number("lanes", "32-bit lanes of a CPU's vector registers: 8 with AVX2, 16 with "
        "AVX-512.", section="chip")] = None
    row_start_s: Annotated[Quantity | None, Number("s", "Time that one core loses per row of a matrix in DRAM if it reads "
        "rows in blocks, not in long streams. Left out: none.", section="chip")] = None
    board_power_watts: Annotated[Quantity | None, Number("watts", "What the board may draw. If left out, power limits "
        "nothing.", section="chip")] = None
    process_energy_scale: Annotated[Quantity | None, Number("ratio", "Energy of a tensor operation relative to TSMC 7 nm "
        "(assumption A18). If left out, power limits nothing.", section="chip")] = None
    core_cache_bytes: Annotated[Quantity | None, Number("bytes", "L1 cache and shared memory of one core of a GPU, "
        "together.", section="chip", capacity=True)] = None
    last_level_cache_read_bandwidth_bytes_per_s: Annotated[Quantity | None, Number("bytes_per_s", "What all cores of a GPU "
        "read from the last-level cache together. If left out, assumption A21 holds.", section="memory")] = None
    generation: Annotated[Text | None, About("Generation of the matrix units of a GPU, such as `sm_90`: what its libraries "
        "reach is in `hwmodels/data/libraries.toml`. If left out, nothing is known of them.")] = None
    cache: Annotated[tuple[CacheLevel, ...], About("Levels of cache, innermost first.")] = ()
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check peaks and units against each other."""
        for dtype, sparse in self.sparse_peak_flop_per_s.items():
            key, dense = f"sparse_peak_flop_per_s.{dtype}", self.dense_peak_flop_per_s.get(dtype)
            if dense is None:
                yield key, "expected a dense peak of that type as well"
            elif sparse.value < dense.value:
                yield key, f"value={brief(sparse.value)}: expected at least the dense peak, {brief(dense.value)}"
        for i, unit in enumerate(self.native):
            for dtype in unit.dtypes:
                if dtype not in self.sparse_peak_flop_per_s:
                    yield f"native[{i}].dtypes", f"{brief(dtype)} has no entry in sparse_peak_flop_per_s"

    @property
    def issue_lanes_per_s(self) -> float:
        """Lane instructions the whole chip can issue in a second, best case (assumption A6)."""
        lanes_per_cycle = self.cores.value * self.issue_lanes_per_core_per_cycle.value
        return float(lanes_per_cycle * self.clock_hz.value)

    def native_unit(self, format: SparseFormat, *, operand: str, dtype: str) -> NativeUnit | None:
        """Find the sparse unit that takes an operand stored so, or None."""
        if dtype not in self.sparse_peak_flop_per_s:
            return None
        takers = (unit for unit in self.native if unit.takes(format, operand=operand, dtype=dtype))
        return next(takers, None)


@functools.cache
def _shipped() -> Mapping[str, HardwareSpec]:
    specs = (read_record(HardwareSpec, path) for path in sorted(SPEC_FOLDER.glob("*.toml")))
    return MappingProxyType({spec.id: spec for spec in specs})


@functools.cache
def _by_name() -> Mapping[str, HardwareSpec]:
    return {name: spec for spec in _shipped().values() for name in (spec.id, *spec.aliases)}


def machine_names() -> list[str]:
    """List the machines that ship with the package, without their aliases.

    Examples
    --------
    >>> "h200" in machine_names()
    True
    """
    return list(_shipped())


def find_machine(name: str) -> HardwareSpec | None:
    """Find a machine that ships with nmsim by a name or alias in any case; None if there is none."""
    return _by_name().get(name.strip().lower())


def load_machine(hardware: str | Path | HardwareSpec) -> HardwareSpec:
    """Load a machine by name, or from a TOML file of the user's own.

    Parameters
    ----------
    hardware : str, Path or HardwareSpec
        A name or alias in any case, such as `"h200"`; or a path that ends in `.toml`. A spec is returned as
        it is.

    Returns
    -------
    HardwareSpec

    Raises
    ------
    SpecError
        No machine of that name, or a file with unknown, missing or malformed keys.

    Examples
    --------
    >>> load_machine("H200").dram_bandwidth_bytes_per_s.value
    4800000000000.0
    """
    if isinstance(hardware, HardwareSpec):
        return hardware
    if isinstance(hardware, Path) or (isinstance(hardware, str) and hardware.endswith(".toml")):
        return read_record(HardwareSpec, Path(hardware))
    if not isinstance(hardware, str):
        raise SpecError(
            f"hardware {brief(hardware)} (type {type(hardware).__name__}): expected a name, a .toml path or a "
            "HardwareSpec"
        )
    spec = find_machine(hardware)
    if spec is None:
        near = difflib.get_close_matches(hardware.strip().lower(), _by_name(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"hardware {brief(hardware)}: no machine of that name.{hint} Known: {', '.join(machine_names())}; "
            "or give the path of a .toml file"
        )
    return spec


SHOWN_DTYPES = ("bf16", "fp16")
"""Value types whose peak a summary shows; the first that the machine has."""


def summary(spec: HardwareSpec) -> dict[str, Any]:
    """Take the key numbers of a machine.

    Parameters
    ----------
    spec : HardwareSpec

    Returns
    -------
    dict
        `id`, `name`, `family`, `hypothetical`, and numbers in the units of their names. Peaks are of 16-bit values, None if
        the machine has none. The patterns are those of its sparse units.

    Examples
    --------
    >>> import hwmodels
    >>> summary(hwmodels.load_machine("h200"))["native_patterns"]
    ['2:4']
    """
    numbers = ("cores", "clock_hz", "dram_bandwidth_bytes_per_s", "dram_capacity_bytes")
    return {
        **{name: getattr(spec, name) for name in ("id", "name", "family", "hypothetical")},
        **{name: getattr(spec, name).value for name in numbers},
        **{name: _peak(getattr(spec, name)) for name in ("dense_peak_flop_per_s", "sparse_peak_flop_per_s")},
        "native_patterns": list(dict.fromkeys(unit.takes_pattern for unit in spec.native)),
    }


def _peak(peaks: Mapping[str, Quantity]) -> float | None:
    return next((float(peaks[dtype].value) for dtype in SHOWN_DTYPES if dtype in peaks), None)


def numbers_of(spec: HardwareSpec) -> list[dict[str, Any]]:
    """List all numbers of a machine: dotted key, value, unit, kind of knowledge, source.

    Parameters
    ----------
    spec : HardwareSpec

    Returns
    -------
    list of dict
        `key`, `value`, `unit`, `kind`, `source`; keys as in the file of the machine.
    """
    return [
        {"key": key, **{name: getattr(number, name) for name in ("value", "unit", "kind", "source")}}
        for key, number in _numbers(spec, "")
    ]


def _numbers(part: Any, prefix: str) -> Iterator[tuple[str, Quantity]]:
    """Numbers of a record and of the tables in it."""
    for name in hints(type(part)):
        section, value = about(type(part), name).section, getattr(part, name)
        key = f"{prefix}{section}{'.' if section else ''}{name}"
        if isinstance(value, Quantity):
            yield key, value
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{entry}", number) for entry, number in value.items())
        elif isinstance(value, tuple) and value and not isinstance(value[0], str):
            for place, entry in enumerate(value):
                yield from _numbers(entry, f"{key}[{place}].")


GROUPS: Mapping[str, tuple[str, ...]] = {
    "a100": ("a100-pcie", "a100-sxm", "a800-pcie", "a800-sxm", "a30"),
    "h100": (
        *("h100-pcie", "h100-sxm", "h100-nvl", "h800-pcie", "h800-sxm", "h20"),
        *("h200", "h200-8x16", "h200-16x32"),
    ),
    "b200": ("b200", "gb200"),
    "l4": ("l4", "rtx4070-super"),
    "rtx3090": ("rtx3090", "rtx3090-ti", "rtx3080", "a40", "a10", "rtx-a6000"),
    "rtx4090": ("rtx4090", "l40s", "l20", "rtx6000-ada"),
    "rtx5090": ("rtx5090", "rtx-pro-6000-blackwell"),
}
"""Machines left out together because they carry the same die; every other machine is a group of its own."""


def group_of(machine: str) -> str:
    """Name the group of machines that is left out together with this one.

    Examples
    --------
    >>> group_of("h200"), group_of("rtx4090")
    ('h100', 'rtx4090')
    """
    return next((group for group, members in GROUPS.items() if machine in members), machine)
