"""Units of a core as gates, from the table of synthesis: decoders, encoders, selectors and the select network of one cell.

A core runs one pattern in one encoding at a time. So a unit that serves several is as large as the largest need (A53).
"""

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, get_args

from hwmodels.gates.shared import serving
from hwmodels.gates.table import Gates, gates_of
from hwmodels.machine.comparators import network
from hwmodels.silicon.structures import Cells, index_bits
from hwmodels.silicon.technology import load
from hwmodels.tensorcore import latency
from hwmodels.tensorcore.latency import decoder_cycles, selector_cycles
from hwmodels.tensorcore.record import Network, SelectorKind, SparseTensorCore
from nmsim import encodings
from nmsim.case import VALUE_BITS
from nmsim.errors import EncodingError, SpecError, brief
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.units import ceil_div

COUNTED_ERROR = 0.5
"""Share by which gates may be wrong that are counted cell by cell and not synthesised, such as a divider of joint codes."""
WIDTH_ERROR = 0.2
"""Of a selector of keys wider than any in the table."""
FED_BY_LINES = ("onehot", "crossbar", "banked")
"""Networks that take a line per output and input; positions have to be put on them."""


def comparators(pattern: Pattern, kind: SelectorKind) -> int:
    """Count the comparators of a selector.

    Parameters
    ----------
    pattern : Pattern
    kind : {"all_pairs", "bitonic", "half", "planes"}
        `"all_pairs"` compares each of M(M-1)/2 pairs at once and counts the wins of every element. `"planes"` counts ones of
        a bit of all keys at a time and compares none.

    Raises
    ------
    SpecError
        Another kind.

    Examples
    --------
    >>> [comparators(Pattern(8, 16), kind) for kind in ("all_pairs", "half", "planes")]
    [120, 56, 0]
    """
    _check_kind(kind)
    if pattern.n == pattern.m or kind == "planes":
        return 0
    return pattern.m * (pattern.m - 1) // 2 if kind == "all_pairs" else network(pattern, kind).comparators


def key_bits(dtype: str) -> int:
    """Bits by which magnitudes of a value type are compared.

    All bits except the sign of a float (18 of TF32); all bits of an integer, whose magnitude is taken first.

    Raises
    ------
    SpecError
        No such value type.

    Examples
    --------
    >>> key_bits("fp16"), key_bits("int8"), key_bits("tf32")
    (15, 8, 18)
    """
    if dtype not in VALUE_BITS:
        raise SpecError(f"dtype={brief(dtype)}: expected one of {', '.join(VALUE_BITS)}")
    if dtype == "tf32":
        return 18
    return VALUE_BITS[dtype] - (not dtype.startswith("int"))


def _check_kind(kind: str) -> None:
    if kind not in get_args(SelectorKind):
        raise SpecError(f"selector kind {brief(kind)}: expected one of {', '.join(get_args(SelectorKind))}")


def counted(cells: Cells, flip_flops: float = 0.0) -> Gates:
    """Turn cells that are counted into gates, with `COUNTED_ERROR`.

    Examples
    --------
    >>> round(counted(Cells(mux2=10)).nand2, 1)
    23.3
    """
    # Gates of a cell are ratios of one library, the same at each node.
    return Gates(
        load(45).gates(cells).nominal,
        flip_flops,
        origin="fitted",
        error=COUNTED_ERROR if cells != Cells() else 0.0,
    )


def registered(gates: Gates, ranks: int) -> Gates:
    """A unit with so many ranks of registers on its way.

    Examples
    --------
    >>> registered(Gates(nand2=10.0, cut_bits=4.0), 2).flip_flops
    8.0
    """
    return Gates(
        gates.nand2,
        gates.flip_flops + ranks * gates.cut_bits,
        gates.fo4,
        gates.cut_bits,
        gates.origin,
        gates.error,
    )


def selector(core: SparseTensorCore, pattern: Pattern, dtype: str) -> Gates:
    """Look up what turns a group of M values into its mask, with a core's ranks of registers.

    Parameters
    ----------
    core : SparseTensorCore
        Its kind, goal and latency of a selector.
    pattern : Pattern
    dtype : str
        Type of the values.

    Returns
    -------
    Gates
        First come magnitudes of integers, which are counted: a half adder per bit. Keys are 8 or 16 bits wide; wider ones take
        gates in proportion.

    Raises
    ------
    SpecError
        An unknown value type, or no such selector in the table.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> core = load_core("flexible-8x16")
    >>> selector(core, Pattern(2, 4), "bf16").nand2 < selector(core, Pattern(8, 16), "bf16").nand2
    True
    """
    bits = key_bits(dtype)
    if pattern.n == pattern.m:
        return Gates()
    found = latency.selector_gates(core, pattern, dtype)
    widest = latency.KEY_BITS[-1]
    if bits > widest:
        found = replace(found.times(bits / widest), origin="fitted", error=found.error + WIDTH_ERROR)
    chosen = registered(found, selector_cycles(core, pattern, dtype))
    return counted(Cells(half_adder=pattern.m * bits)) + chosen if dtype.startswith("int") else chosen


def decoder(core: SparseTensorCore, format: SparseFormat, execution: str = "native") -> Gates:
    """Look up what turns codes into what a core's select network takes, one group at a time, with its ranks of registers.

    Parameters
    ----------
    core : SparseTensorCore
    format : SparseFormat
    execution : {"native", "expanded", "dual"}

    Returns
    -------
    Gates
        The row that latency is taken from. Lines arise on the way of a position decoder, so that they cost no more than
        positions. `index` of a native pattern is positions already: nothing, or what puts them on lines, as its decoder to
        masks does. `joint`: before that a division by C(M, N), which is counted.

    Raises
    ------
    EncodingError
        `gap` with escapes, whose codes have no fixed place.
    SpecError
        No such unit in the table.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from hwmodels.tensorcore.record import load_core
    >>> core, index = load_core("nvidia-like-2x4"), SparseFormat.parse("2:4/index")
    >>> decoder(replace(core, select_network="mux"), index) == Gates(), decoder(core, index).nand2 > 0
    (True, True)
    """
    pattern, family = format.pattern, _family(format)
    if pattern.n == pattern.m:
        return Gates()
    if latency.passes_by(format.encoding, execution):
        return (
            gates_of("decoder", pattern, encoding=family) if core.select_network in FED_BY_LINES else Gates()
        )
    found = registered(
        latency.decoder_gates(core, format, execution), decoder_cycles(core, format, execution)
    )
    return _digit_divider(format) + found if family == "joint" else found


@functools.lru_cache(maxsize=1024)
def encoder(format: SparseFormat) -> Gates:
    """Look up what turns masks into codes, one group at a time, as activations need that are pruned online.

    Parameters
    ----------
    format : SparseFormat

    Returns
    -------
    Gates
        `bitmask`: none. `joint`: as `combinatorial`, and a multiplication by C(M, N) and an addition, counted.

    Raises
    ------
    EncodingError, SpecError
        As `decoder`.

    Examples
    --------
    >>> encoder(SparseFormat.parse("8:16/bitmask")) == Gates()
    True
    """
    pattern, family = format.pattern, _family(format)
    if family == "bitmask" or pattern.n == pattern.m:
        return Gates()
    if family != "joint":
        return gates_of("encoder", pattern, encoding=family)
    whole = format.code_bits
    multiplied = counted(Cells(full_adder=whole * (index_bits(pattern.configurations) + 1)), whole)
    return encoder(sparse_format(pattern, encoding="combinatorial")) + multiplied


def _digit_divider(format: SparseFormat) -> Gates:
    """One restoring division of a joint code by C(M, N), used once for each group; the quotient goes round."""
    whole = format.code_bits
    digit = index_bits(format.pattern.configurations)
    steps = max(0, whole - digit)
    return counted(Cells(full_adder=steps * (digit + 1), mux2=steps * (digit + 1)), whole if steps else 0)


def _family(format: SparseFormat) -> str:
    pattern, known = format.pattern, format.encoding
    family = known.spec.name
    if family == "gap" and known.expected_bits_per_group(pattern) != known.bits_per_group(pattern):
        raise EncodingError(
            f"encoding {brief(known.name)} of {pattern}: no hardware is modelled for symbols with escapes; expected `gap`"
        )
    return family


@functools.lru_cache(maxsize=1024)
def select_one(pattern: Pattern, value_bits: int, lanes: int, network: Network, dual_sided: bool) -> Gates:
    """Look up what feeds the lanes of one cell of the array with elements of operand B, for one pattern.

    A lane takes its part of the network of a group, which has N outputs. Banks have a crossbar before them. If zeros of both
    operands are skipped, both are selected, by the ones that two masks share. What lets lanes run ahead of each other is not
    counted (assumption A54).

    Raises
    ------
    SpecError
        No such network in the table, or no positive number of bits or lanes.
    """
    for name, value in (("value_bits", value_bits), ("lanes", lanes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"{name}={brief(value)}: expected a positive whole number")
    if network not in get_args(Network):
        raise SpecError(f"select network {brief(network)}: expected one of {', '.join(get_args(Network))}")
    if pattern.n == pattern.m:
        return Gates()
    groups = lanes / pattern.n
    variant = "crossbar" if network == "banked" else network
    selected = gates_of("select", pattern, variant=variant, width_bits=value_bits)
    if not dual_sided:
        return selected.times(groups)
    # The masks of a row and a column meet in their cell, and so their positions arise there.
    shared = gates_of("position_decoder", pattern, encoding="bitmask") + counted(Cells(and2=pattern.m))
    return (selected.times(2) + shared).times(groups)


def network_of(core: SparseTensorCore) -> Pattern:
    """Name the pattern whose select network serves all native patterns of a core; 1:1 without any.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> str(network_of(load_core("flexible-8x16"))), str(network_of(load_core("dense")))
    ('8:16', '1:1')
    """
    return serving(core.patterns) if core.patterns else Pattern(1, 1)


def select_gates(core: SparseTensorCore) -> Gates:
    """Look up what feeds one cell of the array, `array_depth` multiply-adds, whatever native pattern runs.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> select_gates(load_core("dense")) == Gates()
    True
    """
    return select_one(
        network_of(core), core.lane_bits, core.array_depth, core.select_network, core.dual_sided
    )


def passed_share(core: SparseTensorCore) -> float:
    """Say which part of a lane's network an element passes if nothing is selected: log2 M stages in a tree of M - 1.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> round(passed_share(load_core("flexible-8x16")), 3), passed_share(load_core("dense"))
    (0.267, 0.0)
    """
    m = network_of(core).m
    return index_bits(m) / max(1, m - 1)


class PerGroup(NamedTuple):
    """Units of a core by the length of a group: M, and the largest decoder, selector and encoder of groups of M elements."""

    m: tuple[int, ...]
    decoders: tuple[Gates, ...]
    selectors: tuple[Gates, ...]
    encoders: tuple[Gates, ...]


def per_group(core: SparseTensorCore) -> PerGroup:
    """Look up one decoder, one selector and one encoder for each length of a native group, of any encoding and value type.

    A core serves one pattern in one encoding at a time. At E elements per cycle it has E / M units of a pattern N:M, rounded
    up. So its units are as large as those of the pattern that needs most; units for different patterns share no logic here.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> per_group(load_core("flexible-8x16")).m
    (4, 8, 16)
    """
    lengths = tuple(dict.fromkeys(pattern.m for pattern in core.patterns))
    executions = ("native", "dual") if core.dual_sided else ("native",)
    found = []
    for length in lengths:
        patterns = [pattern for pattern in core.patterns if pattern.m == length]
        # Units of one length take the same number of elements, so the largest of them decides.
        formats = [
            sparse_format(pattern, encoding=name)
            for pattern in patterns
            for name in core.encodings_of(pattern)
        ]
        found.append(
            (
                _any_of(decoder(core, each, execution) for each in formats for execution in executions),
                _any_of(
                    selector(core, pattern, dtype)
                    for pattern in patterns
                    for dtype in (core.dtypes if core.selector_elements_per_cycle else ())
                ),
                _any_of(
                    encoder(sparse_format(pattern, encoding=name))
                    for pattern in patterns
                    for name in written(core)
                    if encodings.get(name).supports(pattern)
                ),
            )
        )
    return (
        PerGroup(lengths, *(tuple(units) for units in zip(*found, strict=True)))
        if found
        else PerGroup((), (), (), ())
    )


def units_for(elements_per_cycle: int, m: int) -> int:
    """Units for groups of M elements that take so many elements in a cycle: at least one, if any.

    Examples
    --------
    >>> units_for(64, 16), units_for(24, 16), units_for(8, 16), units_for(0, 16)
    (4, 2, 1, 0)
    """
    return ceil_div(elements_per_cycle, m)


def written(core: SparseTensorCore) -> tuple[str, ...]:
    """Encodings that encoders behind a core's selectors write: codes in the producer, positions in the consumer.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> written(load_core("nvidia-like-2x4"))
    ()
    """
    if not core.selector_elements_per_cycle:
        return ()
    return core.encodings if core.selector_placement == "producer" else (encodings.get("index").spec.name,)


def _any_of(needs: Iterable[Gates]) -> Gates:
    return functools.reduce(Gates.or_else, needs, Gates())
