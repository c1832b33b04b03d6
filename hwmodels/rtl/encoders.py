"""Encoders: the mask of a group becomes its code."""

import math
from collections.abc import Callable, Mapping
from typing import Final

from amaranth.hdl import Cat, Module, Signal

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl.combinatorial import left_in, masks_below
from hwmodels.rtl.decoders import MAX_JOINT_BITS, MAX_M, NIBBLE_BITS, NIBBLE_PATTERNS, NIBBLES, PLAIN
from hwmodels.rtl.parts import SlotLines, any_of, gated, looked_up, positions_of, slot_lines
from hwmodels.rtl.unit import Unit
from nmsim import encodings
from nmsim.encodings.gap import Gap
from nmsim.encodings.index import position_bits
from nmsim.errors import SpecError, brief_names
from nmsim.layouts.nibbles import NIBBLE_OF_MASK
from nmsim.pattern import Pattern

TABLE_ELEMENTS: Final[Mapping[str, int]] = {"serial": 1, "pairs": 2}
"""Variant of a combinatorial encoder -> elements of each of its tables."""
SLOTS: Final = "slots"
RANK_VARIANTS: Final = (*TABLE_ELEMENTS, SLOTS)


def build(spec: UnitSpec) -> Unit:
    """Build an encoder: port `mask` to `code` and `legal`, which is 1 if every group has N ones.

    Parameters
    ----------
    spec : UnitSpec
        Of variant `plain`: encodings `bitmask`, `index` and `gap` (without escapes). `index` of variant `nibbles` gives
        NVIDIA's four bits per group of 2:4 or 1:2, and takes masks with fewer ones too.

        A `combinatorial` code is a sum. Variant `serial`: one term per element, from the ones that are left below.
        `pairs`: one term per two elements. `slots`: one term per kept element, whose lines choose it. `joint` takes these
        variants for its digits.

    Returns
    -------
    Unit

    Raises
    ------
    SpecError
        No encoder of this encoding, variant or pattern. The error says which there are.

    Examples
    --------
    >>> unit = build(UnitSpec("encoder", 2, 4, "combinatorial", "pairs"))
    >>> [(port.name, len(port)) for port in unit.ports]
    [('mask', 4), ('code', 3), ('legal', 1)]
    """
    if spec.unit != "encoder":
        raise SpecError(f"{spec}: expected an encoder")
    encoding = encodings.get(spec.encoding)
    kinds: dict[str, tuple[tuple[str, ...], Callable[[UnitSpec], Unit]]] = {
        "bitmask": ((PLAIN,), BitmaskEncoder),
        "index": ((PLAIN, NIBBLES), NibbleEncoder if spec.variant == NIBBLES else PlaceEncoder),
        "gap": ((PLAIN,), PlaceEncoder),
        "combinatorial": (RANK_VARIANTS, RankEncoder),
        "joint": (RANK_VARIANTS, JointEncoder),
    }
    if encoding.spec.name not in kinds:
        raise SpecError(f"{spec}: no encoder of {encoding.name}; expected one of {brief_names(kinds)}")
    if spec.m > MAX_M:
        raise SpecError(f"{spec}: groups of {spec.m} elements; expected at most {MAX_M}")
    if spec.n == spec.m:
        raise SpecError(f"{spec}: all elements are kept and a code has no bits; expected N < M")
    variants, build_one = kinds[encoding.spec.name]
    if spec.variant not in variants:
        raise SpecError(
            f"{spec}: variant {spec.variant or 'not given'}; expected one of {brief_names(variants)}"
        )
    return build_one(spec)


class EncodingUnit(Unit):
    """What all encoders share: their ports."""

    def __init__(
        self,
        spec: UnitSpec,
        code_bits: int,
        *,
        groups: int = 1,
        boundaries: int = 0,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.mask = Signal(groups * spec.m, name="mask")
        self.code = Signal(code_bits, name="code")
        self.legal = Signal(name="legal")
        shared = {
            "mask": "bit p is 1 if element p is kept",
            "code": f"{code_bits} bits of metadata",
            "legal": f"1 if exactly {spec.n} elements are kept of every {spec.m}; if not, the code means nothing",
        }
        super().__init__(
            spec,
            (self.mask,),
            (self.code, self.legal),
            boundaries=boundaries,
            notes=shared | dict(notes or {}),
        )


class BitmaskEncoder(EncodingUnit):
    """The code is the mask; only its ones are counted."""

    def __init__(self, spec: UnitSpec) -> None:
        super().__init__(spec, spec.m)

    def elaborate(self, platform: object) -> Module:
        """Build the logic."""
        module = Module()
        found = slot_lines(module, self.mask, pattern=self.pattern)
        module.d.comb += [self.code.eq(self.mask), self.legal.eq(found.legal)]
        return module


class NibbleEncoder(EncodingUnit):
    """NVIDIA's four bits per group, those of groups with too few ones included.

    Raises
    ------
    SpecError
        A pattern that has no such code.
    """

    def __init__(self, spec: UnitSpec) -> None:
        if spec.pattern not in NIBBLE_PATTERNS:
            raise SpecError(f"{spec}: expected one of {brief_names(map(str, NIBBLE_PATTERNS))}")
        legal = f"1 if at most {spec.n} elements are kept of {spec.m}; if not, the code means nothing"
        super().__init__(spec, NIBBLE_BITS, notes={"legal": legal})

    def elaborate(self, platform: object) -> Module:
        """Build the logic."""
        module, nibble_of = Module(), NIBBLE_OF_MASK[self.spec.m]
        nibble = looked_up(module, self.mask, entries=nibble_of, name="nibble", width_bits=NIBBLE_BITS)
        module.d.comb += [
            self.code.eq(nibble),
            self.legal.eq(any_of(self.mask == mask for mask in nibble_of)),
        ]
        return module


class PlaceEncoder(EncodingUnit):
    """Gives N fields: the positions of the kept elements (`index`), or the dropped ones between them (`gap`).

    Raises
    ------
    SpecError
        Symbols that may need an escape.
    """

    def __init__(self, spec: UnitSpec) -> None:
        encoding = encodings.get(spec.encoding)
        self.field_bits = position_bits(spec.m)
        if isinstance(encoding, Gap):
            if not encoding.is_fixed(spec.pattern):
                raise SpecError(f"{spec}: codes differ in length; expected gap, whose symbols need no escape")
            self.field_bits = encoding.symbol_bits(spec.pattern)
        notes = {
            "position_0": "position_j: the j-th kept element, counted from 0 at the lowest",
            "dropped_0": "dropped_j: dropped elements below the j-th kept one",
        }
        super().__init__(spec, encoding.code_bits(spec.pattern), boundaries=1, notes=notes)

    def elaborate(self, platform: object) -> Module:
        """Build the logic: lines, what they choose, a boundary, then the fields."""
        module, gaps = Module(), self.spec.encoding == "gap"
        found = slot_lines(module, self.mask, pattern=self.pattern)
        if gaps:
            # The lines of a slot are numbered by the dropped elements below it.
            places = [
                gated(module, [(line, i) for i, line in enumerate(own)], name=f"dropped_{slot}")
                for slot, own in enumerate(found.lines)
            ]
        else:
            places = [Signal(self.field_bits, name=f"position_{slot}") for slot in range(self.spec.n)]
            positions_of(module, found.lines, positions=places)
        *held, legal = self.at_boundary(module, 0, *places, found.legal)
        fields = [Signal(self.field_bits, name=f"field_{slot}") for slot in range(self.spec.n)]
        for slot, (field, place) in enumerate(zip(fields, held, strict=True)):
            module.d.comb += field.eq(place - held[slot - 1] if gaps and slot else place)
        module.d.comb += [self.code.eq(Cat(*fields)), self.legal.eq(legal)]
        return module


class RankEncoder(EncodingUnit):
    """Combinatorial: the code is the number of masks below this one, as a sum of terms."""

    def __init__(self, spec: UnitSpec) -> None:
        pattern, size = spec.pattern, TABLE_ELEMENTS.get(spec.variant)
        terms = pattern.n if size is None else -(-pattern.m // size)
        notes = {
            "left_0": "left_p: kept elements below element p",
            "term_0": "term_i: masks below this one that differ from it first at this place",
        }
        code_bits = (pattern.configurations - 1).bit_length()
        super().__init__(spec, code_bits, boundaries=(terms - 1).bit_length(), notes=notes)

    def elaborate(self, platform: object) -> Module:
        """Build the logic: terms, then a tree of sums with a boundary before each of its levels."""
        module = Module()
        size = TABLE_ELEMENTS.get(self.spec.variant)
        if size is None:
            found = slot_lines(module, self.mask, pattern=self.pattern)
            terms, legal = _terms_of_slots(module, found), found.legal
        else:
            terms, legal = _terms_of_elements(module, self.mask, pattern=self.pattern, size=size)
        level = 0
        while len(terms) > 1:
            *terms, legal = self.at_boundary(module, level, *terms, legal)
            # Sums of short terms stay short: add these to each other.
            terms.sort(key=len)
            sums = []
            for number, (low, high) in enumerate(zip(terms[::2], terms[1::2], strict=False)):
                width = min(len(self.code), len(high) + 1)
                total = Signal(width, name=f"sum_{level}_{number}")
                module.d.comb += total.eq(low + high)
                sums.append(total)
            terms, level = [*sums, *terms[2 * len(sums) :]], level + 1
        module.d.comb += [self.code.eq(terms[0]), self.legal.eq(legal)]
        return module


def _terms_of_slots(module: Module, found: SlotLines) -> list[Signal]:
    """C(p_j, j + 1) of each kept element: a constant for each line."""
    return [
        gated(
            module,
            [(line, math.comb(slot + i, slot + 1)) for i, line in enumerate(own)],
            name=f"term_{slot}",
        )
        for slot, own in enumerate(found.lines)
    ]


def _terms_of_elements(
    module: Module, mask: Signal, *, pattern: Pattern, size: int
) -> tuple[list[Signal], Signal]:
    """What each `size` elements add, by a table of their bits and of the ones that are left; and whether the mask is legal."""
    left, terms = Signal(pattern.n.bit_length(), name=f"left_{pattern.m}"), []
    module.d.comb += left.eq(pattern.n)
    for top in range(pattern.m, 0, -size):
        low = max(0, top - size)
        bits = mask[low:top]
        entries = {
            ones << len(bits) | value: masks_below(top, len(bits), ones=ones)[value]
            for ones in left_in(pattern, top)
            for value in range(1 << len(bits))
            if 0 <= ones - value.bit_count() <= low
        }
        width = max(1, *(entry.bit_length() for entry in entries.values()))
        terms.append(
            looked_up(module, Cat(bits, left), entries=entries, name=f"term_{low}", width_bits=width)
        )
        after = Signal(len(left), name=f"left_{low}")
        module.d.comb += after.eq(left - sum(bits[i] for i in range(len(bits))))
        left = after
    legal = Signal(name="exactly_n_ones")
    module.d.comb += legal.eq(sum(mask[element] for element in range(pattern.m)) == pattern.n)
    return terms, legal


class JointEncoder(EncodingUnit):
    """One code for several groups: the number whose digits are their combinatorial codes.

    Raises
    ------
    SpecError
        A code of more bits than the decoder takes.
    """

    def __init__(self, spec: UnitSpec) -> None:
        encoding = encodings.get(spec.encoding)
        bits = encoding.code_bits(spec.pattern)
        if bits > MAX_JOINT_BITS:
            raise SpecError(f"{spec}: codes of {bits} bits; expected at most {MAX_JOINT_BITS}")
        self.groups = encoding.groups_per_code(spec.pattern)
        super().__init__(spec, bits, groups=self.groups, boundaries=self.groups - 1)

    def elaborate(self, platform: object) -> Module:
        """Build the logic: digits, then from the last group back one multiplication by C(M, N) and one sum each."""
        module, m = Module(), self.spec.m
        digits, legal = [], []
        for group in range(self.groups):
            one = RankEncoder(UnitSpec("encoder", self.spec.n, m, "combinatorial", self.spec.variant))
            module.submodules[f"group{group}"] = one
            module.d.comb += one.mask.eq(self.mask[group * m : (group + 1) * m])
            digits.append(one.code)
            legal.append(one.legal)
        all_legal = Signal(name="all_legal")
        module.d.comb += all_legal.eq(Cat(*legal).all())
        number = digits.pop()
        for boundary, count in enumerate(range(2, self.groups + 1)):
            number, all_legal, *digits = self.at_boundary(module, boundary, number, all_legal, *digits)
            largest = self.pattern.configurations**count - 1
            longer = Signal(largest.bit_length(), name=f"number_of_{count}_groups")
            module.d.comb += longer.eq(number * self.pattern.configurations + digits.pop())
            number = longer
        module.d.comb += [self.code.eq(number), self.legal.eq(all_legal)]
        return module
