"""Selectors: which N of M keys are the greatest, as a mask. Of equal keys, the lower index is kept, as `nmsim.prune` does."""

from collections.abc import Iterable

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hwmodels.gates.record import UnitSpec
from hwmodels.machine.comparators import network
from hwmodels.rtl.parts import any_of
from hwmodels.rtl.select import words
from hwmodels.rtl.unit import Unit
from nmsim.errors import SpecError, brief

VARIANTS = ("all_pairs", "half", "bitonic", "planes")


class Selector(Unit):
    """A unit with input `keys`, key p from bit `p * width_bits`, and output `mask`, with exactly N ones.

    Parameters
    ----------
    spec : UnitSpec
    comparators : int
        Pairs of keys that are compared side by side or one after the other.
    boundaries : int
        Places between steps that may hold registers.
    """

    def __init__(self, spec: UnitSpec, *, comparators: int, boundaries: int) -> None:
        self.keys = Signal(spec.m * spec.width_bits)
        self.mask = Signal(spec.m)
        self.comparators = comparators
        notes = {
            "keys": f"unsigned keys of {spec.width_bits} bits, such as magnitudes, key 0 lowest",
            "mask": f"a one for each of the {spec.n} greatest keys; of equal keys, the lower index",
        }
        super().__init__(spec, (self.keys,), (self.mask,), boundaries=boundaries, notes=notes)


def build(spec: UnitSpec) -> Selector:
    """Build a selector of the N greatest of M unsigned keys.

    - `all_pairs`: each pair of keys is compared once. A key is kept if fewer than N others are before it.
      Stages: after comparing, after counting.
    - `half`, `bitonic`: the networks of comparators that `hwmodels.machine.comparators.network` lists. Each key carries its
      index. Stages: after each stage of the network.
    - `planes`: no comparators. Bit by bit, the highest first, all keys are counted that have a one, and those that the count
      decides leave. Last, as many of the equal keys as there is room for are kept. Stages: after each bit.

    Parameters
    ----------
    spec : UnitSpec
        Of unit `selector`, with one of the variants above and the bits of a key.

    Returns
    -------
    Selector

    Raises
    ------
    SpecError
        Another unit or variant, no bits, N = M (nothing is to be selected), or more stages than the structure has
        boundaries.

    Source
    ------
    Bit by bit: radix selection, Knuth, The Art of Computer Programming, volume 3, 5.2.2 and 5.2.5. Here a decided key counts
    with the same bit in every later plane, so the count is always compared with N.

    Examples
    --------
    >>> [build(UnitSpec("selector", 8, 16, "", kind, 8)).comparators for kind in VARIANTS]
    [120, 56, 80, 0]
    """
    if spec.unit != "selector" or spec.variant not in VARIANTS:
        raise SpecError(f"{brief(str(spec))}: expected a selector of variant {', '.join(VARIANTS)}")
    if spec.width_bits < 1 or spec.n >= spec.m:
        raise SpecError(f"{spec}: expected keys of at least 1 bit, and N below M")
    if spec.variant == "all_pairs":
        return _AllPairs(spec)
    return _BitPlanes(spec) if spec.variant == "planes" else _ComparatorNetwork(spec)


class _AllPairs(Selector):
    def __init__(self, spec: UnitSpec) -> None:
        super().__init__(spec, comparators=spec.m * (spec.m - 1) // 2, boundaries=2)

    def elaborate(self, platform: object) -> Module:
        module = Module()
        m = self.spec.m
        keys = words(self.keys, self.spec.width_bits)
        # A row for each key: which others are before it. The lower index is before an equal key.
        before = [Signal(m, name=f"before_{key}") for key in range(m)]
        for low in range(m):
            for high in range(low + 1, m):
                module.d.comb += [
                    before[high][low].eq(keys[low] >= keys[high]),
                    before[low][high].eq(~before[high][low]),
                ]
        # One comparison is stored once, whatever number of keys it is counted for.
        decided = Signal(m * (m - 1) // 2, name="comparisons")
        module.d.comb += decided.eq(Cat(before[high][:high] for high in range(m)))
        (decided,) = self.at_boundary(module, 0, decided)
        starts = [high * (high - 1) // 2 for high in range(m)]
        counts = []
        for key in range(m):
            lower = decided[starts[key] : starts[key] + key]
            higher = [~decided[starts[other] + key] for other in range(key + 1, m)]
            counts.append(ones(module, [*lower, *higher], name=f"before_{key}"))
        counts = list(self.at_boundary(module, 1, *counts))
        module.d.comb += self.mask.eq(Cat(count < self.spec.n for count in counts))
        return module


class _ComparatorNetwork(Selector):
    """Keys with their indices through a network of comparators; the indices that end up kept make the mask."""

    def __init__(self, spec: UnitSpec) -> None:
        self.network = network(spec.pattern, spec.variant)
        super().__init__(spec, comparators=self.network.comparators, boundaries=len(self.network.stages))

    def elaborate(self, platform: object) -> Module:
        module = Module()
        m, bits = self.spec.m, self.spec.width_bits
        wires = 1 << (m - 1).bit_length()
        # Behind the key stands the complement of its index, so no two are equal and the lower index is greater.
        # Wires beyond M carry a key of 0 with a complement below all others.
        tag_bits = (wires - 1).bit_length()
        keys = [*words(self.keys, bits), *(Const(0, bits) for _ in range(wires - m))]
        tagged = [Signal(tag_bits + bits, name=f"wire{wire}") for wire in range(wires)]
        module.d.comb += [
            wire.eq(Cat(Const(wires - 1 - index, tag_bits), key))
            for index, (wire, key) in enumerate(zip(tagged, keys, strict=True))
        ]
        for step, stage in enumerate(self.network.stages):
            following = list(tagged)
            for high, low in stage:
                where = f"stage{step}_{high}_{low}"
                swap = Signal(name=f"{where}_swap")
                following[high] = Signal(tag_bits + bits, name=f"{where}_greater")
                following[low] = Signal(tag_bits + bits, name=f"{where}_lesser")
                module.d.comb += [
                    swap.eq(tagged[low] > tagged[high]),
                    following[high].eq(Mux(swap, tagged[low], tagged[high])),
                    following[low].eq(Mux(swap, tagged[high], tagged[low])),
                ]
            tagged = list(self.at_boundary(module, step, *following))
        kept = [tagged[wire][:tag_bits] for wire in self.network.kept]
        module.d.comb += self.mask.eq(
            Cat(any_of(tag == wires - 1 - index for tag in kept) for index in range(m))
        )
        return module


class _BitPlanes(Selector):
    """Radix selection over the bits of all keys side by side.

    `decided` marks the keys that are known to be kept or not, and `kept` says which for these. A decided key counts with what
    was decided in every later plane. So no plane subtracts. It asks if at least N keys count.
    """

    def __init__(self, spec: UnitSpec) -> None:
        super().__init__(spec, comparators=0, boundaries=spec.width_bits)

    def elaborate(self, platform: object) -> Module:
        module = Module()
        n, m, bits = self.spec.n, self.spec.m, self.spec.width_bits
        planes = []
        for bit in range(bits):
            plane = Signal(m, name=f"plane{bit}")
            module.d.comb += plane.eq(Cat(key[bit] for key in words(self.keys, bits)))
            planes.append(plane)
        decided = Signal(m, name="decided")
        kept = Signal(m, name="kept")
        for step in range(bits):
            plane = planes.pop()
            counted = Signal(m, name=f"counted{step}")
            enough = Signal(name=f"enough{step}")
            known = Signal(m, name=f"decided{step}")
            module.d.comb += counted.eq((decided & kept) | (~decided & plane))
            count = ones(module, counted, name=f"count{step}")
            module.d.comb += [
                enough.eq(count >= n),
                # If there are enough ones, keys with a zero are out. If not, keys with a one are in.
                known.eq(decided | (counted ^ enough.replicate(m))),
            ]
            decided, kept, *planes = self.at_boundary(module, step, known, counted, *planes)
        module.d.comb += self.mask.eq(self._with_equal_keys(module, decided, kept))
        return module

    def _with_equal_keys(self, module: Module, decided: Signal, kept: Signal) -> Value:
        """Keep the lowest of the keys that are still equal until there are N."""
        n, m = self.spec.n, self.spec.m
        sure = Signal(m, name="surely_kept")
        module.d.comb += sure.eq(decided & kept)
        taken: Value = ones(module, sure, name="surely")
        mask = []
        for index in range(m):
            fits = Signal(name=f"fits{index}")
            module.d.comb += fits.eq(~decided[index] & (taken != n))
            mask.append(sure[index] | fits)
            following = Signal(n.bit_length(), name=f"taken{index}")
            module.d.comb += following.eq(taken + fits)
            taken = following
        return Cat(*mask)


def ones(module: Module, bits: Iterable[Value], *, name: str) -> Signal:
    """Count ones by full and half adders: of each weight, three become a sum and a carry until one is left.

    Parameters
    ----------
    module : Module
    bits : iterable of one-bit values
    name : str
        Of the count, and before the names of its adders.
    """
    column: list[Value] = list(bits)
    count = Signal(len(column).bit_length(), name=name)
    for weight in range(len(count)):
        carries: list[Value] = []
        while len(column) > 1:
            # The oldest first, so that the tree is balanced.
            added, column = column[:3], column[3:]
            where = f"{name}_weight{weight}_adder{len(carries)}"
            total, carry = Signal(name=f"{where}_sum"), Signal(name=f"{where}_carry")
            first, second, third = (*added, Const(0, 1))[:3]
            module.d.comb += [
                total.eq(first ^ second ^ third),
                carry.eq((first & second) | (third & (first ^ second))),
            ]
            column.append(total)
            carries.append(carry)
        module.d.comb += count[weight].eq(column[0] if column else 0)
        column = carries
    return count
