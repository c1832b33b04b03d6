"""Select networks: from the M elements of a group of operand B, the N that the kept values of operand A meet."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl.parts import prefix_counts
from hwmodels.rtl.unit import Unit
from nmsim.errors import SpecError, brief

VARIANTS = ("mux", "ordered_mux", "onehot", "crossbar", "butterfly")


def build(spec: UnitSpec) -> Unit:
    """Build a select network.

    Input `x` holds the M elements, element p from bit `p * width_bits`; output `y` the N selected ones, slot j from bit
    `j * width_bits`. Positions ascend: slot j takes an element of j to j + M - N. `mux` alone takes any.

    - `mux`: `positions`, ceil(log2 M) bits per slot; a multiplexer of M inputs per slot.
    - `ordered_mux`: the same `positions`; the M - N + 1 inputs that a slot can take.
    - `onehot`: `lines`, M - N + 1 per slot: line i of slot j takes element j + i. At most one line per slot is set.
    - `crossbar`: `lines`, M per slot: line p of slot j takes element p. At most one line per slot is set.
    - `butterfly`: `mask`, with exactly N ones. Kept elements move down in ceil(log2(M - N + 1)) steps.

    Parameters
    ----------
    spec : UnitSpec
        Of unit `select`, with one of the variants above and the bits of an element.

    Returns
    -------
    Unit
        Combinational. Without stages: there is no boundary between steps.

    Raises
    ------
    SpecError
        Another unit or variant, no bits, N = M (nothing is to be selected), or stages.

    Source
    ------
    Compaction by the bits of the distance, lowest first: G. Steele, in H. Warren, Hacker's Delight, 7-4.

    Examples
    --------
    >>> unit = build(UnitSpec("select", 2, 4, variant="onehot", width_bits=8))
    >>> [(port.name, len(port)) for port in unit.ports]
    [('x', 32), ('lines', 6), ('y', 16)]
    """
    if spec.unit != "select" or spec.variant not in VARIANTS:
        raise SpecError(f"{brief(str(spec))}: expected a select of variant {', '.join(VARIANTS)}")
    if spec.width_bits < 1 or spec.n >= spec.m:
        raise SpecError(f"{spec}: expected elements of at least 1 bit, and N below M")
    return _MaskSelect(spec) if spec.variant == "butterfly" else _SlotSelect(spec)


class _SlotSelect(Unit):
    """One tree of gates per slot."""

    def __init__(self, spec: UnitSpec) -> None:
        n, m = spec.n, spec.m
        by_position = spec.variant in ("mux", "ordered_mux")
        per_slot = {"onehot": m - n + 1, "crossbar": m}.get(spec.variant, (m - 1).bit_length())
        self.x = Signal(m * spec.width_bits)
        self.control = Signal(n * per_slot, name="positions" if by_position else "lines")
        self.y = Signal(n * spec.width_bits)
        notes = {
            "x": f"elements of operand B, {spec.width_bits} bits each, element 0 lowest",
            "positions": f"element that each slot takes, {per_slot} bits each, slot 0 lowest",
            "lines": f"{per_slot} lines per slot, slot 0 lowest; a line that is set lets its element through",
            "y": "selected elements, slot 0 lowest",
        }
        super().__init__(spec, (self.x, self.control), (self.y,), notes=notes)

    def elaborate(self, platform: object) -> Module:
        module = Module()
        spec = self.spec
        elements = words(self.x, spec.width_bits)
        reach = spec.m - spec.n + 1
        for slot, control in enumerate(words(self.control, len(self.control) // spec.n)):
            ordered = spec.variant in ("ordered_mux", "onehot")
            reachable = range(slot, slot + reach) if ordered else range(spec.m)
            if spec.variant in ("mux", "ordered_mux"):
                chosen = self._by_position(module, slot, control, {p: elements[p] for p in reachable})
            else:
                let_through = [
                    elements[p] & line.replicate(spec.width_bits)
                    for p, line in zip(reachable, control, strict=True)
                ]
                chosen = balanced_or(let_through)
            module.d.comb += words(self.y, spec.width_bits)[slot].eq(chosen)
        return module

    def _by_position(self, module: Module, slot: int, position: Value, inputs: dict[int, Value]) -> Value:
        """Halve the inputs bit by bit of the position, lowest first; an input without a partner needs no gate."""
        for bit in range(len(position)):
            halved: dict[int, Value] = {}
            for pair in sorted({p >> 1 for p in inputs}):
                low, high = inputs.get(2 * pair), inputs.get(2 * pair + 1)
                if low is None or high is None:
                    halved[pair] = inputs.get(2 * pair, inputs.get(2 * pair + 1))
                    continue
                either = Signal(self.spec.width_bits, name=f"slot{slot}_bit{bit}_pair{pair}")
                module.d.comb += either.eq(Mux(position[bit], high, low))
                halved[pair] = either
            inputs = halved
        return inputs[0]


class _MaskSelect(Unit):
    """Elements move down by the number of dropped ones below them, a power of two at a time, the lowest first.

    In this order no two kept elements meet in one place.
    """

    def __init__(self, spec: UnitSpec) -> None:
        self.x = Signal(spec.m * spec.width_bits)
        self.mask = Signal(spec.m)
        self.y = Signal(spec.n * spec.width_bits)
        notes = {
            "x": f"elements of operand B, {spec.width_bits} bits each, element 0 lowest",
            "mask": "a one for each kept element",
            "y": "kept elements, the lowest first",
        }
        super().__init__(spec, (self.x, self.mask), (self.y,), notes=notes)

    def elaborate(self, platform: object) -> Module:
        module = Module()
        n, m = self.spec.n, self.spec.m
        dropped = prefix_counts(module, [~kept for kept in self.mask], most=m - n, name="dropped")
        # What each place holds: an element's value, how far it has still to move, and if there is a kept element at all.
        values: dict[int, Value] = dict(enumerate(words(self.x, self.spec.width_bits)))
        distances: dict[int, Value] = dict(enumerate(dropped[:m]))
        kept: dict[int, Value] = dict(enumerate(self.mask))
        for step in range((m - n).bit_length()):
            moves = {
                place: kept[place] & distances[place][step] if step < len(distances[place]) else Const(0, 1)
                for place in range(m)
            }
            before = values, distances, kept
            values, distances, kept = {}, {}, {}
            for place in range(m):
                stays = before[2][place] & ~moves[place]
                source = place + (1 << step)
                if source >= m:
                    values[place], distances[place], kept[place] = before[0][place], before[1][place], stays
                    continue
                width = max(len(before[1][place]), len(before[1][source]))
                arrives = Signal(name=f"arrives{step}_{place}")
                values[place] = Signal(self.spec.width_bits, name=f"value{step}_{place}")
                distances[place] = Signal(width, name=f"distance{step}_{place}")
                kept[place] = Signal(name=f"kept{step}_{place}")
                module.d.comb += [
                    arrives.eq(moves[source]),
                    values[place].eq(Mux(arrives, before[0][source], before[0][place])),
                    distances[place].eq(Mux(arrives, before[1][source], before[1][place])),
                    kept[place].eq(arrives | stays),
                ]
        module.d.comb += self.y.eq(Cat(*(values[slot] for slot in range(n))))
        return module


def balanced_or(values: Sequence[Value]) -> Value:
    """OR of values of one width, in as few steps as there are."""
    held = list(values)
    while len(held) > 1:
        # Neighbours, so that the Verilog lists elements in their order.
        pairs = [low | high for low, high in zip(held[::2], held[1::2], strict=False)]
        held = pairs + held[2 * len(pairs) :]
    return held[0]


def words(value: Value, bits: int) -> list[Value]:
    """Cut a value into words of so many bits, the lowest first."""
    return [value[start : start + bits] for start in range(0, len(value), bits)]
