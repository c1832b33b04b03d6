"""Pieces that several units share: tables, gated constants, counts of ones, the lattice that finds kept elements, decoders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Signal, Value

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl.unit import Unit
from nmsim.encodings.index import position_bits
from nmsim.errors import SpecError
from nmsim.pattern import Pattern

Cut = Callable[..., tuple[Signal, ...]]
"""Takes the number of a boundary and the signals that pass it. Gives them back, or registers of them."""


def any_of(lines: Iterable[Value]) -> Value:
    """OR of one-bit values; 0 if there are none.

    Examples
    --------
    >>> any_of([])
    (const 1'd0)
    """
    held = list(lines)
    return Cat(*held).any() if held else Const(0, 1)


def gated(
    module: Module, choices: Sequence[tuple[Value, int]], *, name: str, width_bits: int | None = None
) -> Signal:
    """Give the constant whose line is 1: an OR of constants, each gated by its line.

    Parameters
    ----------
    module : Module
    choices : sequence of (one-bit value, int)
        At most one line is 1 at a time. If none is, the result is 0.
    name : str
    width_bits : int, optional
        Low bits of the constants to keep; all of them if not given.
    """
    width = width_bits or max(1, *(constant.bit_length() for _, constant in choices), 1)
    out = Signal(width, name=name)
    module.d.comb += [
        out[bit].eq(any_of(line for line, constant in choices if constant >> bit & 1)) for bit in range(width)
    ]
    return out


def looked_up(
    module: Module, key: Value, *, entries: Mapping[int, int], name: str, width_bits: int
) -> Signal:
    """Give the entry of a key: a table in logic.

    Parameters
    ----------
    module : Module
    key : Value
    entries : mapping of int to int
        A key that is not listed gives any entry: the synthesis may choose none of its own.
    name : str
    width_bits : int
        Low bits of the entries to keep.
    """
    low = (1 << width_bits) - 1
    out = Signal(width_bits, name=name)
    values = {at: value & low for at, value in entries.items()}
    if len(set(values.values())) == 1:
        module.d.comb += out.eq(next(iter(values.values())))
        return out
    *first, last = sorted(values.items())
    with module.Switch(key):
        for at, value in first:
            with module.Case(at):
                module.d.comb += out.eq(value)
        with module.Default():
            module.d.comb += out.eq(last[1])
    return out


def prefix_counts(module: Module, bits: Sequence[Value], *, most: int, name: str) -> list[Value]:
    """Count the ones below each bit, in as few steps as there are.

    Parameters
    ----------
    module : Module
    bits : sequence of one-bit values
    most : int
        Ones that there can be: sums are no wider than this needs.
    name : str
        Of the sums, which are called `<name>_<first bit>_to_<last bit>`.

    Returns
    -------
    list of Value
        One for each bit, and the sum of all at the end.

    Source
    ------
    The prefix network of J. Sklansky, "Conditional-sum addition logic" (1960).
    """
    sums, first = list(bits), list(range(len(bits)))
    span = 1
    while span < len(bits):
        joined = list(sums)
        for at in range(len(bits)):
            if at & span:
                lower = at // span * span - 1
                held = at - first[lower] + 1
                total = Signal(min(held, most).bit_length(), name=f"{name}_{first[lower]}_to_{at}")
                module.d.comb += total.eq(sums[at] + sums[lower])
                joined[at] = total
        # A bit's sum reaches as far down as that of the bit it was joined with.
        first = [first[at // span * span - 1] if at & span else first[at] for at in range(len(bits))]
        sums, span = joined, 2 * span
    return [Const(0, 1), *sums]


class SlotLines(NamedTuple):
    """Which element each slot takes.

    lines : tuple of tuples of Signal
        At [j][i]: slot j takes element j + i, for i in 0 .. M - N. One of a slot's lines is 1 if the mask is legal.
    legal : Signal
        The mask has exactly N ones.
    """

    lines: tuple[tuple[Signal, ...], ...]
    legal: Signal


def slot_lines(module: Module, mask: Value, *, pattern: Pattern, prefix: str = "") -> SlotLines:
    """Find the kept elements of a mask: slot j takes the j-th of them, counted from 0 at the lowest.

    The number of ones is held as one line per number, not in binary, so a step is two gates. The lower half of the mask is
    counted from below and the upper half from above. A legal mask has N ones in all, so each count tells the other, and the
    path is half as long. Numbers that no legal mask has at an element are left out.

    Parameters
    ----------
    module : Module
    mask : Value
        M bits; bit p is element p.
    pattern : Pattern
    prefix : str
        Of the names of all signals.
    """
    n, m, middle = pattern.n, pattern.m, pattern.m // 2
    lines: dict[tuple[int, int], Signal] = {}

    def count(steps: Sequence[int], side: str) -> dict[int, Value]:
        # One step takes in one element: its line, if it is kept, moves the count up by one.
        counts: dict[int, Value] = {0: Const(1, 1)}
        for seen, element in enumerate(steps):
            taken: dict[int, Signal] = {}
            for ones, line in counts.items():
                if ones < n:
                    slot = ones if side == "below" else n - 1 - ones
                    taken[ones + 1] = Signal(name=f"{prefix}slot{slot}_takes_{element}")
                    module.d.comb += taken[ones + 1].eq(line & mask[element])
                    lines[slot, element] = taken[ones + 1]
            following: dict[int, Value] = {}
            for ones in range(max(0, n - (m - seen - 1)), min(n, seen + 1) + 1):
                edge = element + 1 if side == "below" else element
                after = Signal(name=f"{prefix}{side}_{edge}_are_{ones}")
                stayed = [counts[ones] & ~mask[element]] if ones in counts else []
                module.d.comb += after.eq(any_of([*stayed, *([taken[ones]] if ones in taken else [])]))
                following[ones] = after
            counts = following
        return counts

    below = count(range(middle), "below")
    above = count(range(m - 1, middle - 1, -1), "above")
    legal = Signal(name=f"{prefix}exactly_n_ones")
    module.d.comb += legal.eq(
        any_of(line & above[n - ones] for ones, line in below.items() if n - ones in above)
    )
    slots = tuple(tuple(lines[slot, slot + i] for i in range(m - n + 1)) for slot in range(n))
    return SlotLines(slots, legal)


def positions_of(module: Module, lines: Sequence[Sequence[Value]], *, positions: Sequence[Signal]) -> None:
    """Drive each slot's position, in binary, from its lines.

    Parameters
    ----------
    module : Module
    lines : sequence of sequences of Value
        As `slot_lines` gives them.
    positions : sequence of Signal
        One for each slot.
    """
    for slot, (own, position) in enumerate(zip(lines, positions, strict=True)):
        module.d.comb += [
            position[bit].eq(any_of(line for i, line in enumerate(own) if slot + i >> bit & 1))
            for bit in range(len(position))
        ]


@dataclass(frozen=True)
class Rule:
    """How a code becomes a mask, for `DecodingUnit`.

    Parameters
    ----------
    code_bits : int
    decode : function of a Module, the code and a `Cut`
        Adds the logic to the module. Gives the mask and `valid`, which is 1 if some mask has the code.
    mask_tells : bool
        A code is valid if its mask has N ones in each group. What `decode` gives for `valid` is then not used.
    refuses : bool
        Some codes are those of no mask.
    boundaries : int
        Places for registers, numbered from 0 in the order in which `decode` passes them.
    groups : int
        Groups of a code; the mask has the first of them in its lowest bits.
    notes : mapping of str to str
        As `Unit` takes them.
    """

    code_bits: int
    decode: Callable[[Module, Signal, Cut], tuple[Value, Value]]
    mask_tells: bool = False
    refuses: bool = True
    boundaries: int = 0
    groups: int = 1
    notes: Mapping[str, str] = field(default_factory=dict)


class DecodingUnit(Unit):
    """A `decoder`, or a `position_decoder`: the same, and behind it the lattice of `slot_lines`.

    Raises
    ------
    SpecError
        A pattern that drops nothing, or more stages than there are places for.
    """

    def __init__(self, spec: UnitSpec, rule: Rule) -> None:
        pattern = spec.pattern
        if pattern.n == pattern.m:
            raise SpecError(f"{spec}: all elements are kept and a code has no bits; expected N < M")
        self.rule = rule
        self.code = Signal(rule.code_bits, name="code")
        self.mask = Signal(rule.groups * pattern.m, name="mask")
        self.valid = Signal(name="valid")
        self.gives_positions = spec.unit == "position_decoder"
        self.positions = tuple(
            Signal(position_bits(pattern.m), name=f"position_{slot}")
            for slot in range(rule.groups * pattern.n)
        )
        notes = {
            "code": f"{rule.code_bits} bits of metadata",
            "mask": "bit p is 1 if element p is kept",
            "valid": "1 if some mask has this code; if not, the other outputs mean nothing",
        }
        # A `valid` that is always 1 would be a port for nothing; a decoder keeps it, so that all have the same ports.
        if self.gives_positions:
            outputs = (*self.positions, *((self.valid,) if rule.refuses else ()))
            notes |= {"position_0": "the lowest kept element; the others follow in ascending order"}
        else:
            outputs = (self.mask, self.valid)
        super().__init__(
            spec,
            (self.code,),
            outputs,
            boundaries=rule.boundaries + (self.gives_positions and not rule.mask_tells),
            notes=notes | dict(rule.notes),
        )

    def elaborate(self, platform: object) -> Module:
        """Build the logic."""
        module, pattern = Module(), self.pattern

        def cut(boundary: int, *values: Signal) -> tuple[Signal, ...]:
            return self.at_boundary(module, boundary, *values)

        rule = self.rule
        mask, valid = rule.decode(module, self.code, cut)
        module.d.comb += self.mask.eq(mask)
        if not rule.mask_tells:
            module.d.comb += (legal := Signal(name="legal")).eq(valid)
        if not self.gives_positions and not rule.mask_tells:
            module.d.comb += self.valid.eq(legal)
            return module
        held_mask = self.mask
        if not rule.mask_tells:
            held_mask, legal = cut(rule.boundaries, self.mask, legal)
        # The lattice gives the positions, and whether the mask is legal.
        legal_groups = []
        for group in range(rule.groups):
            found = slot_lines(
                module,
                held_mask[group * pattern.m : (group + 1) * pattern.m],
                pattern=pattern,
                prefix=f"group{group}_" if rule.groups > 1 else "",
            )
            legal_groups.append(found.legal)
            if self.gives_positions:
                own = self.positions[group * pattern.n : (group + 1) * pattern.n]
                positions_of(module, found.lines, positions=own)
        module.d.comb += self.valid.eq(Cat(*legal_groups).all() if rule.mask_tells else legal)
        return module
