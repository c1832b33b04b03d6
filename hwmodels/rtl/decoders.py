"""Decoders: a code becomes a mask, or the positions of the kept elements.

`build` knows all encodings but `tiled`. Those of combinatorial codes stand in `hwmodels.rtl.combinatorial`.
"""

import itertools
from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import combinatorial
from hwmodels.rtl.parts import Cut, DecodingUnit, Rule, any_of
from hwmodels.rtl.unit import Unit
from nmsim import encodings
from nmsim.encodings.gap import Gap
from nmsim.encodings.index import position_bits
from nmsim.errors import SpecError, brief_names
from nmsim.layouts.nibbles import MASK_OF_NIBBLE
from nmsim.pattern import Pattern

PLAIN, NIBBLES = "plain", "nibbles"
MAX_M = 64
"""Largest group of the decoders whose size grows with the elements."""
MAX_JOINT_BITS = 64
"""Widest code of several groups that a decoder divides."""
NIBBLE_BITS = 4
NIBBLE_PATTERNS = (Pattern(2, 4), Pattern(1, 2))
"""Patterns of NVIDIA's metadata of four bits per group."""


def build(spec: UnitSpec) -> Unit:
    """Build a decoder or a position decoder.

    Parameters
    ----------
    spec : UnitSpec
        `decoder`: port `code` to `mask` and `valid`. `position_decoder`: port `code` to `position_0` .. and, if some codes are
        illegal, `valid`. A code that no mask has gives `valid` = 0, and the other outputs then mean nothing.

        Of variant `plain`: encodings `bitmask`, `index`, `gap` (without escapes) and `joint`. `index` of variant `nibbles`
        takes NVIDIA's four bits per group of 2:4 or 1:2. Variants of `combinatorial` are those of
        `hwmodels.rtl.combinatorial.VARIANTS`; `joint` takes them too, for its digits.

    Returns
    -------
    Unit

    Raises
    ------
    SpecError
        No decoder of this unit, encoding, variant or pattern. The error says which there are.

    Examples
    --------
    >>> unit = build(UnitSpec("decoder", 2, 4, "index", "plain"))
    >>> [(port.name, len(port)) for port in unit.ports]
    [('code', 4), ('mask', 4), ('valid', 1)]
    """
    if spec.unit not in ("decoder", "position_decoder"):
        raise SpecError(f"{spec}: expected a decoder or a position_decoder")
    encoding = encodings.get(spec.encoding)
    family = encoding.spec.name
    if family == "combinatorial":
        return combinatorial.build(spec)
    if family not in RULES:
        raise SpecError(
            f"{spec}: no decoder of {encoding.name}; expected one of {brief_names([*RULES, 'combinatorial'])}"
        )
    return RULES[family](spec)


def _check_variant(spec: UnitSpec, variants: tuple[str, ...]) -> None:
    if spec.variant not in variants:
        raise SpecError(
            f"{spec}: variant {spec.variant or 'not given'}; expected one of {brief_names(variants)}"
        )
    if spec.m > MAX_M:
        raise SpecError(f"{spec}: groups of {spec.m} elements; expected at most {MAX_M}")


def _bitmask(spec: UnitSpec) -> Unit:
    _check_variant(spec, (PLAIN,))

    def decode(module: Module, code: Signal, cut: Cut) -> tuple[Value, Value]:
        return code, Const(1, 1)

    return DecodingUnit(spec, Rule(spec.m, decode, mask_tells=True))


class PlaceUnit(Unit):
    """Decodes codes of N fields: positions (`index`), or numbers of dropped elements between them (`gap`)."""

    def __init__(self, spec: UnitSpec, field_bits: int) -> None:
        self.code = Signal(spec.n * field_bits, name="code")
        self.mask = Signal(spec.m, name="mask")
        self.valid = Signal(name="valid")
        self.positions = tuple(
            Signal(position_bits(spec.m), name=f"position_{slot}") for slot in range(spec.n)
        )
        self.field_bits = field_bits
        notes = {
            "code": f"{spec.n} fields of {field_bits} bits, that of the lowest kept element in the lowest bits",
            "mask": "bit p is 1 if element p is kept",
            "position_0": "the lowest kept element; the others follow in ascending order",
            "place_0": "place_j: the element that field j stands for; it may lie beyond the group if the code is illegal",
            "valid": "1 if some mask has this code; if not, the other outputs mean nothing",
        }
        found = self.positions if spec.unit == "position_decoder" else (self.mask,)
        super().__init__(spec, (self.code,), (*found, self.valid), boundaries=1, notes=notes)

    def elaborate(self, platform: object) -> Module:
        """Build the logic: places and whether they are legal, a boundary, then positions or the mask."""
        module, (n, m) = Module(), (self.spec.n, self.spec.m)
        fields = [self.code.word_select(slot, self.field_bits) for slot in range(n)]
        sums = self.spec.encoding == "gap"
        places = _summed(module, fields, m) if sums else _as_they_are(module, fields)
        legal = Signal(name="legal")
        # Sums ascend by themselves. Positions that ascend are all in the group if the last one is.
        inside = [place < m for place in (places if sums else places[-1:]) if m < 1 << len(place)]
        ascending = [] if sums else [low < high for low, high in itertools.pairwise(places)]
        module.d.comb += legal.eq(Cat(*inside, *ascending).all())
        *held, held_legal = self.at_boundary(module, 0, *places, legal)
        module.d.comb += self.valid.eq(held_legal)
        if self.spec.unit == "position_decoder":
            module.d.comb += [port.eq(place) for port, place in zip(self.positions, held, strict=True)]
            return module
        for element in range(m):
            slots = range(max(0, element - (m - n)), min(n, element + 1))
            module.d.comb += self.mask[element].eq(
                any_of(held[slot][: position_bits(m)] == element for slot in slots)
            )
        return module


def _as_they_are(module: Module, fields: Sequence[Value]) -> list[Signal]:
    places = [Signal(len(field), name=f"place_{slot}") for slot, field in enumerate(fields)]
    module.d.comb += [place.eq(field) for place, field in zip(places, fields, strict=True)]
    return places


def _summed(module: Module, gaps: Sequence[Value], m: int) -> list[Signal]:
    """Places of kept elements with so many dropped ones before each."""
    # One bit more than a position has: the first place beyond the group shows, and what follows it does not matter.
    width = max(position_bits(m), len(gaps[0])) + 1
    places: list[Signal] = []
    for slot, gap in enumerate(gaps):
        place = Signal(width, name=f"place_{slot}")
        module.d.comb += place.eq(places[-1] + gap + 1 if places else gap)
        places.append(place)
    return places


def _index(spec: UnitSpec) -> Unit:
    _check_variant(spec, (PLAIN, NIBBLES))
    if spec.variant == PLAIN:
        return PlaceUnit(spec, position_bits(spec.m))
    if spec.pattern not in NIBBLE_PATTERNS:
        raise SpecError(f"{spec}: expected one of {brief_names(map(str, NIBBLE_PATTERNS))}")
    mask_of = MASK_OF_NIBBLE[spec.m]

    def decode(module: Module, code: Signal, cut: Cut) -> tuple[Value, Value]:
        bits = [
            any_of(code == nibble for nibble, mask in mask_of.items() if mask >> p & 1) for p in range(spec.m)
        ]
        return Cat(*bits), any_of(code == nibble for nibble in mask_of)

    return DecodingUnit(
        spec, Rule(NIBBLE_BITS, decode, notes={"code": "NVIDIA's four bits of metadata of one group"})
    )


def _gap(spec: UnitSpec) -> Unit:
    _check_variant(spec, (PLAIN,))
    encoding = encodings.get(spec.encoding)
    if not isinstance(encoding, Gap) or not encoding.is_fixed(spec.pattern):
        raise SpecError(f"{spec}: codes differ in length; expected gap, whose symbols need no escape")
    return PlaceUnit(spec, encoding.symbol_bits(spec.pattern))


def _joint(spec: UnitSpec) -> Unit:
    _check_variant(spec, combinatorial.VARIANTS)
    encoding, pattern = encodings.get(spec.encoding), spec.pattern
    groups, bits = encoding.groups_per_code(pattern), encoding.code_bits(pattern)
    if bits > MAX_JOINT_BITS:
        raise SpecError(f"{spec}: codes of {bits} bits; expected at most {MAX_JOINT_BITS}")
    digit_rule = combinatorial.rule(pattern, spec.variant)

    def decode(module: Module, code: Signal, cut: Cut) -> tuple[Value, Value]:
        # The first group is the least significant digit: divide by C(M, N), and the remainder is its code.
        rest, digits = code, list[Signal]()
        for group in range(groups - 1):
            rest, digit = _divided(module, rest, pattern.configurations, f"group{group}")
            rest, *digits = cut(group, rest, *digits, digit)
        # A last digit of C(M, N) or more is illegal, and that of one group alone refuses it.
        last = Signal(digit_rule.code_bits, name=f"group{groups - 1}_code")
        module.d.comb += last.eq(rest)
        legal = rest < pattern.configurations
        masks = []
        for group, digit in enumerate([*digits, last]):
            module.submodules[f"group{group}"] = one = DecodingUnit(
                UnitSpec("decoder", spec.n, spec.m, "combinatorial", spec.variant), digit_rule
            )
            module.d.comb += one.code.eq(digit)
            masks.append(one.mask)
        return Cat(*masks), legal

    refuses = pattern.configurations**groups != 1 << bits
    return DecodingUnit(spec, Rule(bits, decode, refuses=refuses, boundaries=groups - 1, groups=groups))


def _divided(module: Module, number: Signal, divisor: int, name: str) -> tuple[Signal, Signal]:
    """Quotient and remainder of a division by a constant, one bit of the quotient at a time."""
    width = (divisor - 1).bit_length()
    most = (1 << len(number)) - 1
    quotient = Signal((most // divisor).bit_length(), name=f"{name}_quotient")
    # The highest bits are a remainder already: they are fewer than the divisor has.
    at = len(quotient)
    remainder = Signal(width, name=f"{name}_rest_{at}")
    module.d.comb += remainder.eq(number >> at)
    for bit in reversed(range(at)):
        longer = Cat(number[bit], remainder)
        fits = Signal(name=f"{name}_fits_{bit}")
        after = Signal(width, name=f"{name}_rest_{bit}")
        module.d.comb += [
            fits.eq(longer >= divisor),
            quotient[bit].eq(fits),
            after.eq(Mux(fits, longer - divisor, longer)),
        ]
        remainder = after
    return quotient, remainder


RULES = {"bitmask": _bitmask, "index": _index, "gap": _gap, "joint": _joint}
"""Encoding, without its parameter -> how its decoders are built."""
