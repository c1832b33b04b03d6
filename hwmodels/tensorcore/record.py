"""What a sparse tensor core is: one frozen record of plain numbers, each with its source beside it, and its TOML files.

A design is a choice, so its numbers are plain ints that a sweep may change. `sources` gives the source of each, or the
reason for its choice.
"""

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from hwmodels.gates.table import table
from nmsim import encodings
from nmsim.case import VALUE_BITS, SparseOperand
from nmsim.errors import SpecError, brief
from nmsim.fields import Dtype, Encoding, PatternText
from nmsim.pattern import Pattern
from nmsim.support.schema import (
    About,
    Flag,
    Id,
    Number,
    Text,
    about,
    hints,
    load_record,
    names_of,
    read_toml,
    record,
)

PRESET_FOLDER = Path(__file__).parent / "presets"
Network = Literal["onehot", "ordered_mux", "mux", "crossbar", "butterfly", "banked"]
Placement = Literal["producer", "consumer"]
SelectorKind = Literal["all_pairs", "bitonic", "half", "planes"]
AdderKind = Literal["aligned_tree", "per_lane"]
GateGoal = Literal["area", "delay", "cycles"]
IN_GROUPS: Mapping[str, str] = {
    f"{unit}_groups_per_cycle": f"{unit}_elements_per_cycle" for unit in ("decoder", "selector")
}
"""Keys of earlier versions, in groups -> their successors, in elements."""
RENAMED: Mapping[str, str] = {
    old: f"{new} counts dense elements, M per group: give groups x M of the widest pattern, such as 16 x 16 = 256 for 8:16"
    for old, new in IN_GROUPS.items()
}
DramKind = Literal["hbm2", "hbm3", "hbm3e", "hbm4", "gddr6", "gddr7", "lpddr5", "lpddr5x", "ddr4"]


# fmt: off
@record
class SparseTensorCore:
    """A chip of equal cores, each with a matrix array that may skip what an N:M pattern leaves out.

    Operand A is the one that may be sparse: W for sparse weights and for dense products, X for sparse activations. Its
    rows meet the columns of the other, operand B, in the array. Rates of the array, decoder, selector, registers and
    shared memory are those of one core; those of L2 and DRAM are of the whole chip.

    `About` and `Number` say what each field means; `docs/reference/files.md` lists them.

    Raises
    ------
    SpecError
        Fields are outside what is said here, or have no source.
    """

    id: Annotated[Id, About("Lower-case name.")]
    name: Annotated[Text, About("Name in full.")]
    cores: Annotated[int, Number("cores", "Cores of the chip.", section="chip", least=1)]
    clock_hz: Annotated[float, Number("hz", "Clock of the cores.", section="chip", most=1e15)]
    node_nm: Annotated[float, Number("nm", "Technology node that energy and area are computed for.", section="chip", least=1)]
    array_rows: Annotated[int, Number("elems", "A core does rows x columns x depth multiply-adds per cycle, on kept values of "
        "`lane_bits` bits.", section="array", least=1)]
    array_cols: Annotated[int, Number("elems", "Columns of the array.", section="array", least=1)]
    array_depth: Annotated[int, Number("macs", "Multiply-adds of one row and column. Narrower values fill the depth in "
        "proportion.", section="array", least=1)]
    lane_bits: Annotated[int, Number("bits", "Bits of the values that `array_depth` counts.", section="array", least=4)]
    dtypes: Annotated[tuple[Dtype, ...], About("Value types that the array multiplies.", section="array")]
    patterns: Annotated[tuple[PatternText, ...], About("Patterns that the array skips by. Any other pattern runs dense, with "
        "zeros written out behind the decoder.", section="array")]
    sparse_operands: Annotated[tuple[SparseOperand, ...], About("Operands that may be sparse.", section="array")]
    accumulator_bits: Annotated[int, Number("bits", "Width of a partial sum.", section="accumulate", least=8)]
    accumulator_bytes: Annotated[int, Number("bytes", "Room for partial sums in one core, all buffers together.",
        section="accumulate", least=1)]
    accumulator_buffers: Annotated[int, Number("tiles", "1: a tile's sums are written back before the next tile begins. "
        "2: meanwhile.", section="accumulate", least=1)]
    accumulator_bytes_per_cycle: Annotated[int, Number("bytes_per_cycle", "Reads and writes of partial sums together.",
        section="accumulate", least=1)]
    accumulate_steps: Annotated[int, Number("steps", "Steps of the array that are summed up before partial sums are touched.",
        section="accumulate", least=1)]
    encodings: Annotated[tuple[Encoding, ...], About("Metadata encodings that the decoder reads.", section="decode")]
    decoder_elements_per_cycle: Annotated[int, Number("elements_per_cycle", "Dense elements, M per group, whose codes one core "
        "turns into selects. `index` of a native pattern passes by.", section="decode", least=1)]
    select_network: Annotated[Network, About("What connects kept values with their elements of operand B. `onehot`: a line per "
        "lane and element that may be meant, M-N+1 per lane, since positions ascend. `ordered_mux`: the same as multiplexers. "
        "`mux`: M inputs per lane. `crossbar`: all lines. `butterfly`: switches that compact. `banked`: banks of one port "
        "each, so that lanes may collide.", section="select")]
    select_banks: Annotated[int, Number("banks", "Banks of one row's operand-B window. Only `banked` uses them.",
        section="select", least=1)]
    operand_b_bytes_per_cycle: Annotated[int, Number("bytes_per_cycle", "Operand B from registers into the select network. "
        "The window of an N:M "
        "pattern is M/N times as wide as the array is deep.", section="select", least=1)]
    dual_sided: Annotated[Flag, About("Whether zeros of operand B are skipped too.", section="select")]
    match_windows: Annotated[int, Number("windows", "Windows over which the lanes of a dual-sided array may run ahead of each "
        "other.", section="select", least=1)]
    selector_elements_per_cycle: Annotated[int, Number("elements_per_cycle", "Dense elements, M per group, that a core prunes "
        "online. 0: there is no selector.", section="prune")]
    selector_kind: Annotated[SelectorKind, About("How the selector finds the largest: comparators of all pairs, a sorting "
        "network, half of one, or bit planes without comparators.", section="prune")]
    selector_placement: Annotated[Placement, About("Prune before activations are written, or when they are loaded.",
        section="prune")]
    fragment_rows: Annotated[int, Number("elems", "Rows of a tile in registers at a time. B is read from shared memory once "
        "per so many rows.", section="registers", least=1)]
    fragment_cols: Annotated[int, Number("elems", "Columns of a tile in registers at a time. A is read once per so many "
        "columns.", section="registers", least=1)]
    register_blocks: Annotated[int, Number("blocks", "Blocks in flight before the array: 1 is a single buffer, 2 a double one.",
        section="registers", least=1)]
    shared_bytes: Annotated[int, Number("bytes", "Shared memory of a core.", section="shared", capacity=True)]
    shared_bytes_per_cycle: Annotated[int, Number("bytes_per_cycle", "Read rate of shared memory.", section="shared", least=1)]
    shared_access_bytes: Annotated[int, Number("bytes", "Smallest access to shared memory.", section="shared", least=1)]
    shared_blocks: Annotated[int, Number("blocks", "Blocks in flight in shared memory.", section="shared", least=1)]
    l2_bytes: Annotated[int, Number("bytes", "Capacity of L2.", section="l2", capacity=True)]
    l2_bytes_per_cycle: Annotated[int, Number("bytes_per_cycle", "Read rate of L2.", section="l2", least=1)]
    l2_access_bytes: Annotated[int, Number("bytes", "Smallest access to L2.", section="l2", least=1)]
    l2_blocks: Annotated[int, Number("blocks", "Blocks in flight from L2.", section="l2", least=1)]
    l2_latency_cycles: Annotated[int, Number("cycles", "Latency of L2.", section="l2")]
    multicast: Annotated[Flag, About("Whether a block that several cores need leaves L2 once.", section="l2")]
    dram_bytes_per_cycle: Annotated[float, Number("bytes_per_cycle", "Bandwidth of DRAM.", section="dram", least=0.001)]
    dram_access_bytes: Annotated[int, Number("bytes", "Smallest access to DRAM.", section="dram", least=1)]
    dram_latency_cycles: Annotated[int, Number("cycles", "Latency of DRAM.", section="dram")]
    dram_kind: Annotated[DramKind, About("Kind of DRAM, for energy.", section="dram")]
    column_skip: Annotated[Flag, About("With sparse activations, whether weight columns that no token of a wave needs are not "
        "fetched.", section="l2")]
    sources: Annotated[Mapping[str, Text], About("A number or a section: where its numbers are from, or why they were "
        "chosen. Every number has a source.")] = field(hash=False, compare=False)
    power_gating: Annotated[Flag, About("Whether arrays are cut from power in cycles in which they do not work. They are "
        "powered all the time if this is left out.", section="chip")] = False
    decoder_goal: Annotated[GateGoal, About("Which structure a decoder has: `area`, the smallest; `delay`, that of the "
        "shortest path; `cycles`, the smallest of those that take the fewest cycles.", section="decode")] = "area"
    decoder_variant: Annotated[Text | None, About("A structure of decoders by its name in the table of synthesis, for the "
        "encodings that have it.", section="decode")] = None
    decoder_latency_cycles: Annotated[int | None, Number("cycles", "Latency of a decoder, whatever it decodes. If left out, "
        "that of the gates of each format, at clock and node.", section="decode")] = None
    selector_goal: Annotated[GateGoal, About("As `decoder_goal`, of the selector.", section="prune")] = "area"
    selector_latency_cycles: Annotated[int | None, Number("cycles", "Latency of a selector. If left out, that of its gates, at "
        "clock and node.", section="prune")] = None
    adder_kind: Annotated[AdderKind, About("How products are summed up, for energy and area: aligned and added in a tree, with "
        "one accumulation per row and column; or with an adder of 32 bits per lane.", section="accumulate")] = "aligned_tree"
    fraction_bits: Annotated[int, Number("bits", "Bits that an aligned product of floats wider than 8 bits keeps behind the "
        "leading bit of the largest product.", section="accumulate", least=1, most=64)] = 25
    narrow_fraction_bits: Annotated[int, Number("bits", "The same of floats of 8 bits and less.", section="accumulate",
        least=1, most=64)] = 13
    # fmt: on
    synonyms = IN_GROUPS
    renamed = RENAMED

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check value types, patterns and sources against the numbers."""
        for dtype in self.dtypes:
            # Narrow values share the lanes of wide ones, so one width has to divide the other.
            narrow, wide = sorted((VALUE_BITS[dtype], self.lane_bits))
            if VALUE_BITS[dtype] > self.lane_bits * self.array_depth or wide % narrow:
                yield (
                    "array.dtypes",
                    f"{brief(dtype)} of {VALUE_BITS[dtype]} bits does not fill whole lanes of {self.lane_bits} bits, "
                    f"{self.array_depth} of them",
                )
            if VALUE_BITS[dtype] > self.accumulator_bits:
                yield (
                    "accumulate.accumulator_bits",
                    f"{self.accumulator_bits} bits, narrower than a value of {dtype}",
                )
        for name in LISTS:
            entries = getattr(self, name)
            for entry in dict.fromkeys(entries):
                if entries.count(entry) > 1:
                    yield (
                        f"{about(SparseTensorCore, name).section}.{name}",
                        f"{entry} is given {entries.count(entry)} times, expected each once",
                    )
        if not self.dtypes:
            yield "array.dtypes", "expected at least one value type"
        if self.patterns and not (self.sparse_operands and self.encodings):
            yield "array.patterns", "a core with patterns needs sparse_operands and encodings as well"
        if self.decoder_variant is not None:
            units = ("decoder", "position_decoder")
            known = dict.fromkeys(row.variant for row in table() if row.unit in units)
            if self.decoder_variant not in known:
                yield (
                    "decode.decoder_variant",
                    f"{brief(self.decoder_variant)}: expected one of {', '.join(known)}",
                )
        if self.dual_sided and not self.patterns:
            yield "select.dual_sided", "true, expected patterns to skip by"
        for key in self.sources:
            if key not in NUMBERS and key not in SECTIONS:
                yield f"sources.{key}", "expected the name of a number or a section"
        for section, numbers in SECTIONS.items():
            bare = [
                name
                for name in numbers
                if section not in self.sources and name not in self.sources and getattr(self, name) is not None
            ]
            if bare:
                yield "sources", f"nothing for {', '.join(bare)}, nor for section {section}"

    def source(self, name: str) -> str:
        """Where a number is from, or why it was chosen."""
        return self.sources.get(name, self.sources.get(about(SparseTensorCore, name).section, ""))

    def depth(self, value_bits: int) -> int:
        """Multiply-adds that a row and a column of the array do in a cycle on values so wide."""
        return max(1, self.array_depth * self.lane_bits // value_bits)

    def macs_per_cycle(self, value_bits: int) -> int:
        """Multiply-adds of the whole chip in a cycle."""
        return self.cores * self.array_rows * self.array_cols * self.depth(value_bits)

    def encodings_of(self, pattern: Pattern) -> tuple[str, ...]:
        """Encodings of the decoder that have codes for a pattern."""
        return tuple(name for name in self.encodings if encodings.get(name).supports(pattern))

    def takes(self, pattern: Pattern, operand: str) -> bool:
        """Say whether the array skips what this pattern of this operand leaves out."""
        return pattern in self.patterns and operand in self.sparse_operands


NUMBERS = names_of(SparseTensorCore, declared=Number)
"""Numbers of a core, by name."""
SECTIONS: Mapping[str, tuple[str, ...]] = {
    section: names_of(SparseTensorCore, section=section, declared=Number)
    for section in dict.fromkeys(about(SparseTensorCore, name).section for name in NUMBERS)
}
"""Sections of the file -> their numbers."""
FLAGS = tuple(name for name, hint in hints(SparseTensorCore).items() if hint.__origin__ is bool)
WORDS: Mapping[str, tuple[str, ...]] = {
    name: get_args(hint.__origin__)
    for name, hint in hints(SparseTensorCore).items()
    if get_origin(hint.__origin__) is Literal
}
"""Fields that are one of a few words -> these words."""
LISTS = ("dtypes", "patterns", "sparse_operands", "encodings")


def core_names() -> list[str]:
    """List the tensor cores that ship with the package.

    Examples
    --------
    >>> "flexible-8x16" in core_names()
    True
    """
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.toml"))


def load_core(core: str | Path | SparseTensorCore) -> SparseTensorCore:
    """Load a tensor core by name, or from a TOML file of the user's own.

    Parameters
    ----------
    core : str, Path or SparseTensorCore
        A name in any case (`core_names()`); or a path that ends in `.toml`; or a core, which comes back as it is.

    Returns
    -------
    SparseTensorCore

    Raises
    ------
    SpecError
        No core of that name, or a file with unknown, missing or malformed keys.

    Examples
    --------
    >>> load_core("flexible-8x16").macs_per_cycle(16)
    270336
    """
    if isinstance(core, SparseTensorCore):
        return core
    if isinstance(core, Path) or (isinstance(core, str) and core.endswith(".toml")):
        return read_core(Path(core))
    known = core_names()
    if not isinstance(core, str):
        raise SpecError(
            f"core {brief(core)} (type {type(core).__name__}): expected a name, a .toml path or a core"
        )
    name = core.strip().lower()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"core {brief(core)}: no tensor core of that name.{hint} Known: {', '.join(known)}; or give the path of a "
            ".toml file"
        )
    return _shipped(name)


@functools.cache
def _shipped(name: str) -> SparseTensorCore:
    return read_core(PRESET_FOLDER / f"{name}.toml")


def read_core(path: Path) -> SparseTensorCore:
    """Read and check one TOML file.

    A number is plain and has its source in `[sources]`, or is a table with its source, as in the file of a machine.

    Raises
    ------
    SpecError
        The file cannot be read, is not TOML, or has unknown, missing or malformed keys.
    """
    return core_from(read_toml(path), where=str(path))


def core_from(document: dict[str, Any], *, where: str) -> SparseTensorCore:
    """Take a parsed TOML file for a core; `where` is what each problem begins with, such as the name of the file."""
    sources: Any = document.get("sources", {})
    for section in document.values():
        for key, value in section.items() if isinstance(section, dict) else ():
            # A core keeps a plain number, so that the kind of knowledge goes into the text of the source.
            if isinstance(value, dict) and set(value) == {"value", "kind", "source"} and isinstance(sources, dict):
                section[key] = value["value"]
                sources[key] = f"{value['kind']}: {value['source']}"
    if sources:
        document["sources"] = sources
    return load_record(SparseTensorCore, document, where=where)
