"""A lane: decode the code of a group, select operand B, multiply N values, add to the sum of a row."""

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value, signed

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import catalogue, select
from hwmodels.rtl.parts import slot_lines
from hwmodels.rtl.select import words
from hwmodels.rtl.unit import Unit
from nmsim import encodings
from nmsim.errors import SpecError, brief

SUM_BITS = 32
"""Of the accumulator, whatever the width of a value. It wraps around: sums are exact modulo 2**32."""
PLAIN = "plain"


def build(spec: UnitSpec) -> Unit:
    """Build a lane of signed integers.

    One group passes per cycle: its `code`, `values` (N kept values of operand A, slot 0 lowest) and `x` (M elements of
    operand B). It is taken if `in_valid` and `in_ready` are 1. `in_last` marks the last group of a row. Then `sum`, of 32
    bits, is given with `out_valid` until `out_ready` is 1; meanwhile the lane stands still. `bad` rises if a code was
    illegal, no later than the sum of its row, and stays until reset. Sums of rows with an illegal code mean nothing.

    The sum is always held in a register. `stages` are further ranks, 0 to 2: after the decoder, after the select network.

    Parameters
    ----------
    spec : UnitSpec
        Of unit `lane`. The variant is that of the decoder; `plain` takes its first. Encoding `index` selects by positions with
        ordered multiplexers, all others by ordered one-hot lines.

    Returns
    -------
    Unit

    Raises
    ------
    SpecError
        Another unit, no bits, an encoding of several groups per code, a decoder that cannot be built, or over 2 stages.

    Examples
    --------
    >>> unit = build(UnitSpec("lane", 2, 4, "index", "plain", 8, 2))
    >>> [(port.name, len(port)) for port in unit.inputs]
    [('in_valid', 1), ('in_last', 1), ('code', 4), ('values', 16), ('x', 32), ('out_ready', 1)]
    """
    if spec.unit != "lane":
        raise SpecError(f"{brief(str(spec))}: expected a lane")
    if spec.width_bits < 1:
        raise SpecError(f"{spec}: expected values of at least 1 bit")
    groups = encodings.get(spec.encoding).groups_per_code(spec.pattern)
    if groups != 1:
        raise SpecError(f"{spec}: {groups} groups per code; expected an encoding of one")
    return _Lane(spec)


class _Lane(Unit):
    def __init__(self, spec: UnitSpec) -> None:
        self.by_position = spec.encoding == "index"
        variant = (
            catalogue.variants_of("decoder", spec.encoding)[0] if spec.variant == PLAIN else spec.variant
        )
        decoder = "position_decoder" if self.by_position else "decoder"
        self.decoder = catalogue.build(UnitSpec(decoder, spec.n, spec.m, spec.encoding, variant))
        # Positions come ready from the code, so multiplexers take them. A mask must be counted, and the count gives lines.
        network = "ordered_mux" if self.by_position else "onehot"
        self.network = select.build(
            UnitSpec("select", spec.n, spec.m, variant=network, width_bits=spec.width_bits)
        )
        self.in_valid, self.in_ready = Signal(name="in_valid"), Signal(name="in_ready")
        self.in_last = Signal(name="in_last")
        self.code = Signal(len(self.decoder.inputs[0]), name="code")
        self.values = Signal(spec.n * spec.width_bits)
        self.x = Signal(spec.m * spec.width_bits)
        self.out_valid, self.out_ready = Signal(name="out_valid"), Signal(name="out_ready")
        self.bad = Signal(name="bad")
        self.sum = Signal(signed(SUM_BITS))
        notes = {
            "in_valid": "a group is offered; it is taken if in_ready is 1 too",
            "in_last": "this group is the last of its row",
            "code": "metadata of the group",
            "values": f"kept values of operand A, {spec.width_bits} bits each, signed, slot 0 lowest",
            "x": f"elements of operand B, {spec.width_bits} bits each, signed, element 0 lowest",
            "out_ready": "the sum is taken if out_valid is 1 too",
            "in_ready": "the lane moves in this cycle",
            "out_valid": "sum is that of a whole row",
            "sum": f"{SUM_BITS} bits, signed; wraps around",
            "bad": "a code was illegal; stays 1 until reset",
        }
        super().__init__(
            spec,
            (self.in_valid, self.in_last, self.code, self.values, self.x, self.out_ready),
            (self.in_ready, self.out_valid, self.sum, self.bad),
            boundaries=2,
            notes=notes,
        )

    def elaborate(self, platform: object) -> Module:
        """Wire the steps; no register changes while a sum waits to be taken."""
        module = Module()
        module.submodules.decoder, module.submodules.network = self.decoder, self.network
        go = Signal(name="go")
        module.d.comb += [go.eq(~self.out_valid | self.out_ready), self.in_ready.eq(go)]

        decoder = {port.name: port for port in self.decoder.ports}
        illegal = Signal(name="illegal")
        module.d.comb += [
            decoder["code"].eq(self.code),
            illegal.eq(~decoder["valid"] if "valid" in decoder else 0),
        ]
        found = Signal(
            len(self.network.inputs[1]) if self.by_position else self.spec.m,
            name="positions" if self.by_position else "mask",
        )
        module.d.comb += found.eq(
            Cat(decoder[f"position_{slot}"] for slot in range(self.spec.n))
            if self.by_position
            else decoder["mask"]
        )
        valid, last, illegal, values, found, x = self._passed(
            module, 0, self.in_valid, self.in_last, illegal, self.values, found, self.x
        )

        elements, control = self.network.inputs
        (selected,) = self.network.outputs
        lines: Value = found
        if not self.by_position:
            lines = Cat(*(Cat(*slot) for slot in slot_lines(module, found, pattern=self.pattern).lines))
        module.d.comb += [elements.eq(x), control.eq(lines)]
        valid, last, illegal, values, selected = self._passed(
            module, 1, valid, last, illegal, values, selected
        )
        self._accumulate(module, valid, last, illegal, self._dot(module, values, selected))
        # Every register waits alike, so nothing is lost and no step needs a buffer of its own.
        moving: Module = EnableInserter(go)(module)
        return moving

    def _passed(self, module: Module, boundary: int, valid: Signal, *values: Signal) -> tuple[Signal, ...]:
        """Pass a boundary. Where it holds a rank, `valid` is the one register that a reset clears."""
        held = self.at_boundary(module, boundary, *values)
        if held[0] is values[0]:
            return valid, *held
        there = Signal(name=f"{('decoded', 'selected')[boundary]}_valid")
        module.d.sync += there.eq(valid)
        return there, *held

    def _dot(self, module: Module, values: Signal, selected: Signal) -> Signal:
        """Sum of the products of N pairs, modulo the accumulator's width."""
        bits = self.spec.width_bits
        terms: list[Signal] = []
        for slot, (a, b) in enumerate(zip(words(values, bits), words(selected, bits), strict=True)):
            product = Signal(signed(2 * bits), name=f"product_{slot}")
            module.d.comb += product.eq(a.as_signed() * b.as_signed())
            terms.append(product)
        while len(terms) > 1:
            # The oldest first, so that the tree is balanced.
            a, b, *terms = terms
            width = min(SUM_BITS, max(len(a), len(b)) + 1)
            total = Signal(signed(width), name=f"{a.name}_and_{b.name.removeprefix('product_')}")
            module.d.comb += total.eq(a + b)
            terms.append(total)
        return terms[0]

    def _accumulate(self, module: Module, valid: Signal, last: Signal, illegal: Signal, dot: Signal) -> None:
        begins = Signal(init=1, name="row_begins")
        module.d.sync += self.out_valid.eq(valid & last)
        with module.If(valid):
            module.d.sync += [
                self.sum.eq(Mux(begins, 0, self.sum) + dot),
                begins.eq(last),
                self.bad.eq(self.bad | illegal),
            ]
