"""Cycles in which a decoder and a selector of a core are done, by format: from their gates, the node and the clock."""

import functools
import os
from typing import Literal

from hwmodels.gates.delay import latency_cycles
from hwmodels.gates.table import ADDED_FILE_VARIABLE, Gates, gates_of, table
from hwmodels.tensorcore.record import GateGoal, Network, SparseTensorCore
from nmsim.case import VALUE_BITS
from nmsim.encodings import Encoding
from nmsim.errors import SpecError
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

KEY_BITS = (8, 16)
"""Widths of keys that selectors are synthesised for."""
BITMASK = "bitmask"


def passes_by(encoding: Encoding, execution: str) -> bool:
    """Say whether codes go to the select network as they are.

    Positions are wires of an array that skips by them. To write zeros out, or to match two operands, they become a mask.

    Examples
    --------
    >>> from nmsim import encodings
    >>> [passes_by(encodings.get("index"), how) for how in ("native", "expanded", "dual")]
    [True, False, False]
    """
    return execution == "native" and encoding.spec.name == "index"


def decoder_gates(core: SparseTensorCore, format: SparseFormat, execution: str = "native") -> Gates:
    """Look up the gates of one decoder of a core for one format.

    Parameters
    ----------
    core : SparseTensorCore
        Its `decoder_goal` and `decoder_variant` choose the structure, its `select_network` what the decoder has to give.
    format : SparseFormat
    execution : {"native", "expanded", "dual"}

    Returns
    -------
    Gates
        All zero if codes pass by.

    Raises
    ------
    SpecError
        The table of synthesis has no such decoder.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.format import as_format
    >>> decoder_gates(load_core("flexible-8x16"), as_format("8:16", encoding="index")).nand2
    0.0
    """
    clock = (core.node_nm, core.clock_hz) if core.decoder_goal == "cycles" else (0.0, 0.0)
    return _decoder(
        format.encoding, format.pattern, execution, core.select_network, core.decoder_goal, core.decoder_variant or "",
        *clock, os.environ.get(ADDED_FILE_VARIABLE, ""),
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _decoder(
    encoding: Encoding, pattern: Pattern, execution: str, network: Network, goal: GateGoal, variant: str,
    node_nm: float, clock_hz: float, file: str,
) -> Gates:  # fmt: skip
    """What decodes, as a key of plain values. `file` is in it since the table grows by a file of the user."""

    def find(unit: str, name: str) -> Gates:
        return _structure(unit, pattern, goal, variant, (node_nm, clock_hz), encoding=name)

    if pattern.n == pattern.m or passes_by(encoding, execution):
        return Gates()
    name = _known_name(encoding)
    # A compacting network and masks that are matched want the mask; so do positions whose zeros are written out.
    wants_mask = execution == "dual" or name == "index" or (execution == "native" and network == "butterfly")
    if not wants_mask:
        return find("position_decoder", name)
    mask = Gates() if name == BITMASK else find("decoder", name)
    # What two masks share is put into positions behind them.
    return mask + find("position_decoder", BITMASK) if execution == "dual" else mask


def _known_name(encoding: Encoding) -> str:
    """The encoding under which the table has it: symbols of any width are `gap`, split joint codes `combinatorial` (A59)."""
    if any(row.encoding == encoding.name for row in table()):
        return encoding.name
    return "combinatorial" if encoding.spec.name == "joint" else encoding.spec.name


def selector_gates(core: SparseTensorCore, pattern: Pattern, dtype: str) -> Gates:
    """Look up the gates of one selector of a core, as `decoder_gates`. Keys are 8 or 16 bits wide."""
    width = next((bits for bits in KEY_BITS if bits >= VALUE_BITS[dtype]), KEY_BITS[-1])
    clock = (core.node_nm, core.clock_hz) if core.selector_goal == "cycles" else (0.0, 0.0)
    return _selector(
        pattern,
        core.selector_kind,
        core.selector_goal,
        width,
        *clock,
        os.environ.get(ADDED_FILE_VARIABLE, ""),
    )


@functools.lru_cache(maxsize=4096)
def _selector(
    pattern: Pattern, kind: str, goal: GateGoal, width_bits: int, node_nm: float, clock_hz: float, file: str
) -> Gates:
    if pattern.n == pattern.m:
        return Gates()
    return _structure("selector", pattern, goal, kind, (node_nm, clock_hz), width_bits=width_bits)


def _structure(
    unit: str, pattern: Pattern, goal: GateGoal, variant: str, clock: tuple[float, float], *,
    encoding: str = "", width_bits: int = 0,
) -> Gates:  # fmt: skip
    """The structure that a goal chooses. A variant that an encoding does not have leaves all of its structures open."""
    known = [
        row.variant
        for row in table()
        if (row.unit, row.encoding, row.width_bits, row.stages) == (unit, encoding, width_bits, 0)
        and row.pattern == str(pattern)
    ]
    named = variant if variant in known or unit == "selector" else ""

    def find(of: str, by: Literal["area", "delay"]) -> Gates:
        return gates_of(unit, pattern, encoding=encoding, variant=of, width_bits=width_bits, goal=by)

    if goal != "cycles":
        return find(named, goal)
    variants = [named] if named else ["", *dict.fromkeys(known)]
    found = [find(each, by) for each in variants for by in ("area", "delay")]
    node_nm, clock_hz = clock
    return min(found, key=lambda g: (latency_cycles(g.fo4, node_nm=node_nm, clock_hz=clock_hz), g.nand2))


def decoder_cycles(core: SparseTensorCore, format: SparseFormat, execution: str = "native") -> int:
    """Work out the latency of the decoder for a format: none if codes pass by, else the core's own number, or its gates'.

    Parameters
    ----------
    core : SparseTensorCore
    format : SparseFormat
    execution : {"native", "expanded", "dual"}

    Returns
    -------
    int
        Clock cycles.

    Raises
    ------
    SpecError
        A decoder that the table does not have, or a node whose delays are not known, on a core that states no latency.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from nmsim.format import as_format
    >>> core = load_core("flexible-8x16")
    >>> [decoder_cycles(core, as_format("8:16", encoding=name)) for name in ("index", "bitmask")]
    [0, 1]
    """
    if format.pattern.n == format.pattern.m or passes_by(format.encoding, execution):
        return 0
    if core.decoder_latency_cycles is not None:
        return core.decoder_latency_cycles
    return _cycles(core, decoder_gates, "decoder_latency_cycles", core, format, execution)


def selector_cycles(core: SparseTensorCore, pattern: Pattern, dtype: str) -> int:
    """Work out the latency of the selector for a pattern and a value type, as `decoder_cycles`."""
    if core.selector_latency_cycles is not None:
        return core.selector_latency_cycles
    return _cycles(core, selector_gates, "selector_latency_cycles", core, pattern, dtype)


def _cycles(core: SparseTensorCore, gates: object, key: str, *of: object) -> int:
    try:
        found: Gates = gates(*of)  # type: ignore[operator]
        return latency_cycles(found.fo4, node_nm=core.node_nm, clock_hz=core.clock_hz)
    except SpecError as error:
        raise SpecError(f"{core.id}: {error}; or give the core its own {key}") from error
