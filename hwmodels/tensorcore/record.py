"""What a sparse tensor core is: one frozen record of plain numbers, each with its source beside it.

A design is a choice, so its numbers are plain ints that a sweep may change, and `sources` says of every one of them where
it is from, or why it was chosen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

from nmsim import encodings
from nmsim.case import VALUE_BITS, SparseOperand
from nmsim.errors import NmsimError, SpecError
from nmsim.pattern import Pattern

Network = Literal["mux", "crossbar", "banked"]
Placement = Literal["producer", "consumer"]
SelectorKind = Literal["all_pairs", "bitonic", "half"]
DramKind = Literal["hbm2", "hbm3", "gddr6", "lpddr5", "ddr4"]


class Number(NamedTuple):
    """A number of a core: its unit, the section of the TOML file it stands in, and the least it may be."""

    unit: str
    section: str
    least: float
    whole: bool = True


NUMBERS: Mapping[str, Number] = {
    "cores": Number("cores", "chip", 1),
    "clock_hz": Number("hz", "chip", 1e6, whole=False),
    "node_nm": Number("nm", "chip", 1, whole=False),
    "array_rows": Number("elems", "array", 1),
    "array_cols": Number("elems", "array", 1),
    "array_depth": Number("macs", "array", 1),
    "lane_bits": Number("bits", "array", 4),
    "accumulator_bits": Number("bits", "accumulate", 8),
    "accumulator_bytes": Number("bytes", "accumulate", 1),
    "accumulator_buffers": Number("tiles", "accumulate", 1),
    "accumulator_bytes_per_cycle": Number("bytes_per_cycle", "accumulate", 1),
    "accumulate_steps": Number("steps", "accumulate", 1),
    "decoder_groups_per_cycle": Number("groups_per_cycle", "decode", 1),
    "decoder_latency_cycles": Number("cycles", "decode", 0),
    "operand_b_bytes_per_cycle": Number("bytes_per_cycle", "select", 1),
    "select_banks": Number("banks", "select", 1),
    "match_windows": Number("windows", "select", 1),
    "selector_groups_per_cycle": Number("groups_per_cycle", "prune", 0),
    "selector_latency_cycles": Number("cycles", "prune", 0),
    "fragment_rows": Number("elems", "registers", 1),
    "fragment_cols": Number("elems", "registers", 1),
    "register_blocks": Number("blocks", "registers", 1),
    "shared_bytes": Number("bytes", "shared", 1),
    "shared_bytes_per_cycle": Number("bytes_per_cycle", "shared", 1),
    "shared_access_bytes": Number("bytes", "shared", 1),
    "shared_blocks": Number("blocks", "shared", 1),
    "l2_bytes": Number("bytes", "l2", 1),
    "l2_bytes_per_cycle": Number("bytes_per_cycle", "l2", 1),
    "l2_access_bytes": Number("bytes", "l2", 1),
    "l2_blocks": Number("blocks", "l2", 1),
    "l2_latency_cycles": Number("cycles", "l2", 0),
    "dram_bytes_per_cycle": Number("bytes_per_cycle", "dram", 0.001, whole=False),
    "dram_access_bytes": Number("bytes", "dram", 1),
    "dram_latency_cycles": Number("cycles", "dram", 0),
}  # fmt: skip
"""Numbers of a core by name. Rates of the array, decoder, selector, registers and shared memory are those of one core;
those of L2 and DRAM are of the whole chip."""
MOST = 1e15
"""More of anything is a slip."""
FLAGS: Mapping[str, str] = {"dual_sided": "select", "column_skip": "l2", "multicast": "l2"}
WORDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "select_network": ("select", get_args(Network)),
    "selector_kind": ("prune", get_args(SelectorKind)),
    "selector_placement": ("prune", get_args(Placement)),
    "dram_kind": ("dram", get_args(DramKind)),
}
LISTS: Mapping[str, str] = {
    "dtypes": "array",
    "patterns": "array",
    "sparse_operands": "array",
    "encodings": "decode",
}


@dataclass(frozen=True, kw_only=True)
class SparseTensorCore:
    """A chip of equal cores, each with a matrix array that may skip what an N:M pattern leaves out.

    Operand A is the one that may be sparse: W for sparse weights and for dense products, X for sparse activations. Its
    rows meet the columns of the other, operand B, in the array.

    Parameters
    ----------
    id, name : str
        `id` is lower case, what `load_core` knows.
    cores, clock_hz, node_nm : number
        Node: of the technology that energy and area are told for, in nanometres.
    array_rows, array_cols, array_depth : int
        A core does array_rows x array_cols x array_depth multiply-adds a cycle, on kept values of `lane_bits` bits;
        narrower values fill the depth in proportion.
    lane_bits : int
        Bits of the values that `array_depth` is counted in.
    dtypes, patterns, sparse_operands, encodings : tuple
        What the sparse road takes. Any other pattern runs dense, with zeros written out behind the decoder.
    accumulator_bits, accumulator_bytes : int
        Width of a partial sum; room for them in one core, all its buffers together.
    accumulator_buffers : int
        1: a tile's sums are written back before the next tile begins. 2: meanwhile.
    accumulator_bytes_per_cycle : int
        Reads and writes of partial sums together.
    accumulate_steps : int
        Steps of the array that are summed up before partial sums are touched.
    decoder_groups_per_cycle, decoder_latency_cycles : int
        Codes to positions.
    select_network : {"mux", "crossbar", "banked"}
        How kept values meet their elements of operand B: a multiplexer for each lane, a full crossbar, or banks of one
        port each, in which lanes may collide.
    select_banks : int
        Banks of one row's operand-B window; without effect but for `"banked"`.
    operand_b_bytes_per_cycle : int
        Operand B from registers into the select network. An N:M window is M/N times as wide as the array is deep.
    dual_sided : bool
        Zeros of operand B are skipped too.
    match_windows : int
        Windows over which the lanes of a dual-sided array may run ahead of each other.
    selector_groups_per_cycle, selector_latency_cycles : int
        Online pruning of activations; 0 groups: there is no selector.
    selector_kind : {"all_pairs", "bitonic", "half"}
        The network of comparators, for energy and area.
    selector_placement : {"producer", "consumer"}
        Before activations are written, or when they are loaded.
    fragment_rows, fragment_cols : int
        What registers hold of a tile at a time: A is read from shared memory once for each `fragment_cols` columns of
        the tile, B once for each `fragment_rows` rows.
    register_blocks, shared_blocks, l2_blocks : int
        Blocks in flight between two stages: 1 is a single buffer, 2 a double one.
    shared_bytes, shared_bytes_per_cycle, shared_access_bytes : int
    l2_bytes, l2_bytes_per_cycle, l2_access_bytes, l2_latency_cycles : int
    multicast : bool
        A block that several cores need leaves L2 once.
    dram_bytes_per_cycle, dram_access_bytes, dram_latency_cycles, dram_kind
    column_skip : bool
        With sparse activations, weight columns that no token of a wave needs are not fetched.
    sources : mapping of str to str
        A key or a section -> where its numbers are from. Every number has one.

    Raises
    ------
    SpecError
        A field is outside what is said here, or has no source.
    """

    id: str
    name: str
    cores: int
    clock_hz: float
    node_nm: float
    array_rows: int
    array_cols: int
    array_depth: int
    lane_bits: int
    dtypes: tuple[str, ...]
    patterns: tuple[Pattern, ...]
    sparse_operands: tuple[SparseOperand, ...]
    accumulator_bits: int
    accumulator_bytes: int
    accumulator_buffers: int
    accumulator_bytes_per_cycle: int
    accumulate_steps: int
    encodings: tuple[str, ...]
    decoder_groups_per_cycle: int
    decoder_latency_cycles: int
    select_network: Network
    select_banks: int
    operand_b_bytes_per_cycle: int
    dual_sided: bool
    match_windows: int
    selector_groups_per_cycle: int
    selector_latency_cycles: int
    selector_kind: SelectorKind
    selector_placement: Placement
    fragment_rows: int
    fragment_cols: int
    register_blocks: int
    shared_bytes: int
    shared_bytes_per_cycle: int
    shared_access_bytes: int
    shared_blocks: int
    l2_bytes: int
    l2_bytes_per_cycle: int
    l2_access_bytes: int
    l2_blocks: int
    l2_latency_cycles: int
    multicast: bool
    dram_bytes_per_cycle: float
    dram_access_bytes: int
    dram_latency_cycles: int
    dram_kind: DramKind
    column_skip: bool
    sources: Mapping[str, str] = field(hash=False, compare=False)

    def __post_init__(self) -> None:
        for name, number in NUMBERS.items():
            _check_number(name, getattr(self, name), number)
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise SpecError(f"{name}={getattr(self, name)!r}: expected true or false")
        for name, (_, allowed) in WORDS.items():
            _check_word(name, getattr(self, name), allowed)
        for dtype in self.dtypes:
            _check_word("dtypes", dtype, tuple(VALUE_BITS))
            bits = VALUE_BITS[dtype]
            if bits > self.lane_bits * self.array_depth or max(bits, self.lane_bits) % min(
                bits, self.lane_bits
            ):
                raise SpecError(
                    f"dtypes: {dtype!r} of {bits} bits does not fill whole lanes of {self.lane_bits} bits, "
                    f"{self.array_depth} of them"
                )
            if bits > self.accumulator_bits:
                raise SpecError(f"accumulator_bits={self.accumulator_bits}: narrower than a value of {dtype}")
        for name in LISTS:
            entries = getattr(self, name)
            for entry in entries:
                if entries.count(entry) > 1:
                    raise SpecError(
                        f"{name}: {entry} is given {entries.count(entry)} times, expected each once"
                    )
        if not self.dtypes:
            raise SpecError("dtypes=(): expected at least one value type")
        for operand in self.sparse_operands:
            _check_word("sparse_operands", operand, get_args(SparseOperand))
        for encoding in self.encodings:
            try:
                encodings.get(encoding)
            except NmsimError as error:
                raise SpecError(f"encodings: {error}") from error
        for pattern in self.patterns:
            if not isinstance(pattern, Pattern):
                raise SpecError(f"patterns: {pattern!r}: expected a Pattern")
        if self.patterns and not (self.sparse_operands and self.encodings):
            raise SpecError("patterns: a core with patterns needs sparse_operands and encodings as well")
        if self.dual_sided and not self.patterns:
            raise SpecError("dual_sided=True: expected patterns to skip by")
        sections = {number.section for number in NUMBERS.values()}
        for key, source in self.sources.items():
            if key not in NUMBERS and key not in sections:
                raise SpecError(f"sources.{key}: expected the name of a number or a section")
            if not isinstance(source, str) or not source.strip():
                raise SpecError(f"sources.{key}={source!r}: expected text")
        for name, number in NUMBERS.items():
            if name not in self.sources and number.section not in self.sources:
                raise SpecError(f"sources: nothing for {name}, nor for its section {number.section}")

    def source(self, name: str) -> str:
        """Where a number is from, or why it was chosen."""
        return self.sources.get(name, self.sources.get(NUMBERS[name].section, ""))

    def depth(self, value_bits: int) -> int:
        """Multiply-adds that a row and a column of the array do in a cycle on values so wide."""
        return max(1, self.array_depth * self.lane_bits // value_bits)

    def macs_per_cycle(self, value_bits: int) -> int:
        """Multiply-adds of the whole chip in a cycle."""
        return self.cores * self.array_rows * self.array_cols * self.depth(value_bits)

    def takes(self, pattern: Pattern, operand: str) -> bool:
        """Say whether the array skips what this pattern of this operand leaves out."""
        return pattern in self.patterns and operand in self.sparse_operands


FIELDS = tuple(part.name for part in fields(SparseTensorCore))


def _check_number(name: str, value: Any, number: Number) -> None:
    kind = int if number.whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        what = "a whole number" if number.whole else "a number"
        raise SpecError(f"{name}={value!r} (type {type(value).__name__}): expected {what} of {number.unit}")
    if value > MOST:
        raise SpecError(f"{name}={value!r}: expected at most {MOST:g} {number.unit}")
    if value < number.least:
        raise SpecError(f"{name}={value!r}: expected at least {number.least:g} {number.unit}")


def _check_word(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError(f"{name}: {value!r}: expected one of {', '.join(allowed)}")
