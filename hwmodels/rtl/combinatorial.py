"""Decoders of combinatorial codes, from the smallest to the shallowest.

A code is the rank of its mask among the masks in numeric order. Let k ones be left to place in the elements 0 .. p, and let
`rest` be the rank among the masks of these. C(p, k) of them drop element p. So element p is kept if rest is C(p, k) or more.
"""

import functools
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Final

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl.parts import Cut, DecodingUnit, Rule, any_of, gated, looked_up
from hwmodels.rtl.unit import Unit
from nmsim.encodings.index import position_bits
from nmsim.errors import SpecError, brief_names
from nmsim.pattern import Pattern

SERIAL_HEAD: Final = 2
"""Elements that `serial` decides by comparing with constants before its first step."""
TABLE_ELEMENTS: Final[Mapping[str, int]] = {"digits": 7, "shallow": 10}
"""Elements at the low end whose bits a table gives."""
DIGIT_ELEMENTS: Final[Mapping[str, int]] = {"digits": 5, "shallow": 6}
"""Most elements that one digit decides above the table."""
MAX_M: Final[Mapping[str, int]] = {"serial": 64, "digits": 32, "shallow": 32, "columns": 32}
"""Largest group of each variant; larger ones take minutes of synthesis."""
VARIANTS: Final = ("serial", "digits", "shallow")
"""Of a decoder; a position decoder may also have `columns`."""


def build(spec: UnitSpec) -> Unit:
    """Build a decoder or a position decoder of combinatorial codes.

    Parameters
    ----------
    spec : UnitSpec
        Variants, from the smallest to the shallowest. `serial`: two elements per step, and nothing is ever restored.
        `digits`: several elements at once by comparisons, the lowest ones by a table. `shallow`: larger digits and a
        larger table. `columns`, for positions only: one kept element per step, from the highest.

    Returns
    -------
    Unit

    Raises
    ------
    SpecError
        No such variant, or a group that is too large for it.
    """
    variants = (*VARIANTS, "columns") if spec.unit == "position_decoder" else VARIANTS
    if spec.variant not in variants:
        raise SpecError(
            f"{spec}: variant {spec.variant or 'not given'}; expected one of {brief_names(variants)}"
        )
    if spec.m > MAX_M[spec.variant]:
        raise SpecError(
            f"{spec}: groups of {spec.m} elements; {spec.variant} takes at most {MAX_M[spec.variant]}"
        )
    if spec.variant == "columns":
        return Columns(spec)
    return DecodingUnit(spec, rule(spec.pattern, spec.variant))


def rule(pattern: Pattern, variant: str) -> Rule:
    """How the codes of a pattern become masks.

    Parameters
    ----------
    pattern : Pattern
    variant : str
        One of `VARIANTS`.
    """
    steps = _serial_steps(pattern) if variant == "serial" else _digit_sizes(pattern, variant)
    decode = _serial if variant == "serial" else _digits

    def whole(module: Module, code: Signal, cut: Cut) -> tuple[Value, Value]:
        return decode(module, code, cut, pattern=pattern, steps=steps)

    count = pattern.configurations
    return Rule(
        code_bits=code_bits(pattern),
        decode=whole,
        refuses=count != 1 << code_bits(pattern),
        boundaries=max(0, len(steps) - 1),
        notes=_serial_notes(pattern) if variant == "serial" else _DIGIT_NOTES if len(steps) > 1 else {},
    )


def _serial_notes(pattern: Pattern) -> dict[str, str]:
    notes = {
        "highest_from_1": "highest_from_d: the two highest bits of the mask are d or more",
        "highest_are_1": "highest_are_d: the two highest bits of the mask are d",
    }
    for first in _serial_steps(pattern)[:1]:
        notes[f"left_{first + 1}"] = "left_p: kept elements that are left to place below element p"
        notes[f"difference_{first}"] = (
            "difference_p: rest of the code less the number of masks that drop element p; not negative if p is kept"
        )
        if first >= 1:
            notes[f"step_{first - 1}"] = "step_p: what the element above changes the difference by"
            notes[f"trial_{first - 1}"] = (
                "trial_p: the difference at element p, of which the sign is read only"
            )
        if first >= 2:
            notes[f"both_{first - 2}"] = (
                "both_p: what the two elements above change the difference by together"
            )
    return notes


_DIGIT_NOTES = {
    "left_0": "left_i: kept elements that are left to place after i digits",
    "from_0_1": "from_i_d: digit i is d or more, since the masks with a lower one are too few",
    "digit_0_is_1": "digit_i_is_d: digit i, which is that many bits of the mask, is d",
    "taken_0": "taken_i: masks with a lower digit i",
    "rest_1": "rest_i: what is left of the code after i digits",
}


def code_bits(pattern: Pattern) -> int:
    """Bits of a code: the fewest that number all masks of a pattern."""
    return (pattern.configurations - 1).bit_length()


def left_in(pattern: Pattern, elements: int) -> range:
    """Ones that the lowest `elements` elements of a legal mask can have."""
    return range(max(0, pattern.n - (pattern.m - elements)), min(pattern.n, elements) + 1)


def _masks(elements: int, ones: int) -> int:
    """C(elements, ones), 0 if there are none."""
    return math.comb(elements, ones) if 0 <= ones <= elements else 0


def masks_below(elements: int, digit_bits: int, *, ones: int) -> list[int]:
    """Masks of `elements` elements with so many ones whose highest bits are less than 0, 1, .. 2^digit_bits."""
    lower = elements - digit_bits
    counts = (_masks(lower, ones - digit.bit_count()) for digit in range(1 << digit_bits))
    return list(itertools.accumulate(counts, initial=0))


def _rest_bits(pattern: Pattern, elements: int) -> int:
    """Bits of a rank among the masks of the lowest elements."""
    return max(1, *((_masks(elements, ones) - 1).bit_length() for ones in left_in(pattern, elements)), 1)


def _one_hot(module: Module, reached: Sequence[Value], name: str) -> list[Value]:
    """Lines `at least d`, from d = 0, that are 1 up to the digit -> lines `exactly d`."""
    lines: list[Value] = []
    for digit, line in enumerate(reached):
        exact = Signal(name=f"{name}_{digit}")
        above = reached[digit + 1] if digit + 1 < len(reached) else Const(0, 1)
        module.d.comb += exact.eq(line & ~above)
        lines.append(exact)
    return lines


def _in_range(module: Module, code: Signal, pattern: Pattern) -> Signal:
    """1 if the code is that of a mask."""
    fits = Signal(name="in_range")
    count = pattern.configurations
    module.d.comb += fits.eq(code < count if count < 1 << len(code) else 1)
    return fits


def _serial_steps(pattern: Pattern) -> tuple[int, ...]:
    """Elements at which the steps of `serial` begin, each of two elements."""
    return tuple(range(pattern.m - SERIAL_HEAD - 1, -1, -2))


def _serial(
    module: Module, code: Signal, cut: Cut, *, pattern: Pattern, steps: Sequence[int]
) -> tuple[Value, Value]:
    """Decode two elements per step.

    With k ones left to place in the elements 0 .. p, a step knows d = rest - C(p, k). Element p is kept if d is not negative.
    The rest is then d, and d + C(p, k) if not. By Pascal's rule the next difference is d - C(p-1, k-1) after a kept
    element, and d + C(p-1, k-1) after a dropped one. So nothing is restored, and what is added does not wait for a choice of
    rests. The second element of a step needs the sign of its difference only. One addition then takes both elements.
    """
    n, top = pattern.n, pattern.m - SERIAL_HEAD
    edges = masks_below(pattern.m, SERIAL_HEAD, ones=n)
    reached: list[Value] = [Const(1, 1)]
    for digit in range(1, 1 << SERIAL_HEAD):
        line = Signal(name=f"highest_from_{digit}")
        module.d.comb += line.eq(code >= edges[digit])
        reached.append(line)
    highest = _one_hot(module, reached, "highest_are")
    decided = [
        any_of(line for digit, line in enumerate(highest) if digit >> bit & 1)
        for bit in reversed(range(SERIAL_HEAD))
    ]
    valid = _in_range(module, code, pattern)
    if not steps:
        return Cat(*reversed(decided)), valid
    # The first difference takes the constants of the highest bits and of the next element in one subtraction.
    possible = [
        (line, digit, n - digit.bit_count())
        for digit, line in enumerate(highest)
        if n - digit.bit_count() in left_in(pattern, top)
    ]
    width = _difference_bits(pattern, steps[0])
    first = gated(
        module,
        [(line, edges[digit] + _masks(top - 1, ones)) for line, digit, ones in possible],
        name="highest_and_next",
        width_bits=width,
    )
    difference = Signal(signed(width), name=f"difference_{steps[0]}")
    module.d.comb += difference.eq((code - first)[:width].as_signed())
    left = gated(
        module,
        [(line, ones) for line, _, ones in possible],
        name=f"left_{top}",
        width_bits=n.bit_length(),
    )
    for number, element in enumerate(steps):
        if number:
            passed = Signal(len(decided), name=f"mask_from_{element + 1}")
            module.d.comb += passed.eq(Cat(*reversed(decided)))
            passed, difference, left, valid = cut(number - 1, passed, difference, left, valid)
            decided = [passed[bit] for bit in reversed(range(len(passed)))]
        kept, difference, left = _two_elements(module, pattern, element, difference, left)
        decided += kept
    return Cat(*reversed(decided)), valid


def _difference_bits(pattern: Pattern, element: int) -> int:
    """Bits of the signed difference at an element."""
    counts = left_in(pattern, element + 1)
    least = min(-_masks(element, ones) for ones in counts)
    most = max(_masks(element + 1, ones) - 1 - _masks(element, ones) for ones in counts)
    return max((-least - 1).bit_length() if least < 0 else 0, max(most, 0).bit_length()) + 1


def _two_elements(
    module: Module, pattern: Pattern, element: int, difference: Signal, left: Signal
) -> tuple[list[Signal], Signal, Signal]:
    """One step of `serial`: bits of an element and of the one below, the difference below both, and the ones left there."""
    counts = left_in(pattern, element + 1)
    high = Signal(name=f"kept_{element}")
    module.d.comb += high.eq(~difference[-1])
    if not element:
        return [high], difference, left
    width = _difference_bits(pattern, element - 1)
    step = looked_up(
        module,
        left,
        entries={ones: _masks(element - 1, ones - 1) for ones in counts},
        name=f"step_{element - 1}",
        width_bits=width,
    )
    # Subtract after a kept element: add the complement and one.
    trial = Signal(width, name=f"trial_{element - 1}")
    module.d.comb += trial.eq(difference[:width] + (step ^ high.replicate(width)) + high)
    low = Signal(name=f"kept_{element - 1}")
    module.d.comb += low.eq(~trial[-1])
    if element == 1:
        return [high, low], difference, left
    after = Signal(len(left), name=f"left_{element - 1}")
    module.d.comb += after.eq(left - high - low)
    width = _difference_bits(pattern, element - 2)
    changes = {}
    for ones, first, second in itertools.product(counts, (0, 1), (0, 1)):
        between = ones - first
        if 0 <= between - second <= element - 1 and between >= 0:
            change = _masks(element - 1, ones - 1) * (-1 if first else 1)
            change += _masks(element - 2, between - 1) * (-1 if second else 1)
            changes[ones << 2 | first << 1 | second] = change
    both = looked_up(
        module, Cat(low, high, left), entries=changes, name=f"both_{element - 2}", width_bits=width
    )
    following = Signal(signed(width), name=f"difference_{element - 2}")
    module.d.comb += following.eq((difference[:width] + both)[:width].as_signed())
    return [high, low], following, after


def _digit_sizes(pattern: Pattern, variant: str) -> tuple[int, ...]:
    """Elements that each digit decides, from the highest; the last ones go through a table."""
    table = min(pattern.m, TABLE_ELEMENTS[variant])
    digits = -(-(pattern.m - table) // DIGIT_ELEMENTS[variant])
    shares = [(pattern.m - table + digits - 1 - i) // digits for i in range(digits)]
    return (*shares, table)


def _digits(
    module: Module, code: Signal, cut: Cut, *, pattern: Pattern, steps: Sequence[int]
) -> tuple[Value, Value]:
    """Decode several elements at once: compare what is left of the code with all thresholds of a digit, subtract, go on."""
    elements, rest, left = pattern.m, code, Signal(pattern.n.bit_length(), name="left_0")
    module.d.comb += left.eq(pattern.n)
    valid, decided = _in_range(module, code, pattern), list[Value]()
    for number, size in enumerate(steps[:-1]):
        digit, rest, left = _digit(module, pattern, (number, elements, size), rest, left)
        elements -= size
        decided.insert(0, digit)
        passed = Signal(pattern.m - elements, name=f"mask_from_{elements}")
        module.d.comb += passed.eq(Cat(*decided))
        passed, rest, left, valid = cut(number, passed, rest, left, valid)
        decided = [passed]
    entries: dict[int, int] = {}
    for ones in left_in(pattern, elements):
        masks = (mask for mask in range(1 << elements) if mask.bit_count() == ones)
        entries |= {ones << len(rest) | rank: mask for rank, mask in enumerate(masks)}
    lowest = looked_up(
        module, Cat(rest, left), entries=entries, name=f"mask_below_{elements}", width_bits=elements
    )
    return Cat(lowest, *decided), valid


def _digit(
    module: Module, pattern: Pattern, place: tuple[int, int, int], rest: Signal, left: Signal
) -> tuple[Signal, Signal, Signal]:
    """One digit: its bits of the mask, what is left of the code, and the ones left to place."""
    number, elements, size = place
    counts = left_in(pattern, elements)
    edges = {ones: masks_below(elements, size, ones=ones) for ones in counts}
    reached: list[Value] = [Const(1, 1)]
    thresholds: list[Value] = [Const(0, 1)]
    for value in range(1, 1 << size):
        own = {ones: edges[ones][value] for ones in counts}
        width = max(1, *(edge.bit_length() for edge in own.values()), 1)
        threshold: Value = Const(own[counts[0]], width)
        if len(counts) > 1:
            threshold = looked_up(
                module, left, entries=own, name=f"threshold_{number}_{value}", width_bits=width
            )
        line = Signal(name=f"from_{number}_{value}")
        module.d.comb += line.eq(rest >= threshold)
        thresholds.append(threshold)
        reached.append(line)
    # Thresholds are there before the comparison ends, so the digit's lines choose among them: no second table.
    exact = _one_hot(module, reached, f"digit_{number}_is")
    digit = gated(
        module, [(line, value) for value, line in enumerate(exact)], name=f"digit_{number}", width_bits=size
    )
    width = _rest_bits(pattern, elements - size)
    taken = Signal(width, name=f"taken_{number}")
    module.d.comb += taken.eq(
        functools.reduce(
            operator.or_,
            (line.replicate(width) & threshold for line, threshold in zip(exact, thresholds, strict=True)),
        )
    )
    following = Signal(width, name=f"rest_{number + 1}")
    module.d.comb += following.eq(rest[:width] - taken)
    ones = gated(
        module,
        [(line, value.bit_count()) for value, line in enumerate(exact)],
        name=f"ones_{number}",
        width_bits=min(size, pattern.n).bit_length(),
    )
    after = Signal(len(left), name=f"left_{number + 1}")
    module.d.comb += after.eq(left - ones)
    return digit, following, after


class Columns(Unit):
    """Code to positions, one kept element per step from the highest: its thresholds C(p, j) are constants.

    Raises
    ------
    SpecError
        More stages than steps have places between them.
    """

    def __init__(self, spec: UnitSpec) -> None:
        pattern = spec.pattern
        if pattern.n == pattern.m:
            raise SpecError(f"{spec}: all elements are kept and a code has no bits; expected N < M")
        self.code = Signal(code_bits(pattern), name="code")
        self.positions = tuple(
            Signal(position_bits(pattern.m), name=f"position_{slot}") for slot in range(pattern.n)
        )
        self.valid = Signal(name="valid")
        refuses = pattern.configurations != 1 << len(self.code)
        notes = {
            "code": f"{len(self.code)} bits of metadata",
            "position_0": "the lowest kept element; the others follow in ascending order",
            "valid": "1 if some mask has this code; if not, the other outputs mean nothing",
            f"from_{pattern.n - 1}_{pattern.n}": "from_j_p: the j-th kept element is p or a higher one",
            f"taken_{pattern.n - 1}": "taken_j: masks whose j-th kept element is a lower one",
            f"rest_{pattern.n - 1}": "rest_j: what is left of the code for the kept elements below the j-th",
        }
        outputs = (*self.positions, *((self.valid,) if refuses else ()))
        super().__init__(spec, (self.code,), outputs, boundaries=pattern.n - 1, notes=notes)

    def elaborate(self, platform: object) -> Module:
        """Build the logic."""
        module, (n, m) = Module(), (self.spec.n, self.spec.m)
        rest, valid, found = self.code, _in_range(module, self.code, self.pattern), list[Signal]()
        # From the highest: the ones above a kept element are then known by its slot, so its thresholds are constants.
        for slot in reversed(range(n)):
            places = range(slot, slot + m - n + 1)
            reached: list[Value] = [Const(1, 1)]
            for place in places[1:]:
                line = Signal(name=f"from_{slot}_{place}")
                module.d.comb += line.eq(rest >= math.comb(place, slot + 1))
                reached.append(line)
            exact = _one_hot(module, reached, f"slot_{slot}_takes_lowest_plus")
            position = gated(
                module,
                list(zip(exact, places, strict=True)),
                name=f"found_{slot}",
                width_bits=position_bits(m),
            )
            found.insert(0, position)
            if not slot:
                break
            width = max(1, (math.comb(slot + m - n, slot) - 1).bit_length())
            taken = gated(
                module,
                [(line, math.comb(place, slot + 1)) for line, place in zip(exact, places, strict=True)],
                name=f"taken_{slot}",
                width_bits=width,
            )
            following = Signal(width, name=f"rest_{slot}")
            module.d.comb += following.eq(rest[:width] - taken)
            rest, valid, *found = self.at_boundary(module, n - 1 - slot, following, valid, *found)
        module.d.comb += [port.eq(position) for port, position in zip(self.positions, found, strict=True)]
        module.d.comb += self.valid.eq(valid)
        return module
