"""The lane: sums of rows are integer products, whatever waits for what; illegal codes are reported."""

import functools
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from numpy.typing import NDArray
from proofs.bit_sliced import quickly, sliced

from hwmodels.gates.record import UnitSpec
from hwmodels.rtl import lane
from hwmodels.rtl.netlist import Netlist, Words, bit_slices, integers
from nmsim import encodings
from nmsim.errors import SpecError

STREAMS, GROUPS = 64, 24
SPECS = (
    UnitSpec("lane", 2, 4, "combinatorial", "plain", 4, 2),
    UnitSpec("lane", 4, 8, "bitmask", "plain", 2, 1),
    UnitSpec("lane", 4, 8, "index", "plain", 2, 0),
    UnitSpec("lane", 3, 8, "combinatorial", "plain", 2, 1),
    UnitSpec("lane", 4, 8, "tiled", "plain", 2, 2),
    UnitSpec("lane", 8, 16, "combinatorial", "plain", 2, 2),
)
"""Units of few bits are synthesised sooner; the simulator of Amaranth has wider ones."""


@dataclass(frozen=True)
class Feed:
    """Groups of many streams: arrays [streams, groups], and [streams, groups, values].

    `sums` and `bad` are what follows each group: the sum of its row so far, and whether a code was illegal up to here.
    """

    codes: NDArray[Any]
    last: NDArray[np.bool_]
    values: NDArray[Any]
    x: NDArray[Any]
    sums: NDArray[Any]
    bad: NDArray[np.bool_]


@functools.cache
def code_of_mask(spec: UnitSpec) -> dict[int, int]:
    """Mask -> code, by the package's codec."""
    masks = [mask for mask in range(1 << spec.m) if mask.bit_count() == spec.n]
    codes = encodings.get(spec.encoding).encode(np.array(masks, np.uint64), spec.pattern)
    return dict(zip(masks, codes.tolist(), strict=True))


def feed_of(spec: UnitSpec, *, streams: int = STREAMS, groups: int = GROUPS) -> Feed:
    """Draw groups. Every other stream has one illegal code."""
    rng = np.random.default_rng([spec.n, spec.m, spec.width_bits])
    shape, low = (streams, groups), -(1 << (spec.width_bits - 1))
    code_of = code_of_mask(spec)
    masks = rng.choice(list(code_of), shape)
    codes = np.vectorize(code_of.__getitem__)(masks)
    values = rng.integers(low, -low, (*shape, spec.n))
    x = rng.integers(low, -low, (*shape, spec.m))
    # Extreme values in each tenth group: the greatest products and sums.
    values[rng.random(shape) < 0.1], x[rng.random(shape) < 0.1] = low, low
    dense = np.zeros_like(x)
    dense[(masks[..., None] >> np.arange(spec.m) & 1).astype(bool)] = values.reshape(-1)
    last = rng.random(shape) < 0.3
    last[:, -1] = True
    total, sums = np.zeros(streams, np.int64), np.zeros(shape, np.int64)
    for group in range(groups):
        total += (dense[:, group] * x[:, group]).sum(axis=1)
        sums[:, group] = (total + (1 << 31)) % (1 << 32) - (1 << 31)
        total[last[:, group]] = 0
    illegal = sorted(set(range(1 << code_bits(spec))) - set(code_of.values()))
    where = np.arange(0, streams, 2), rng.integers(0, groups, len(range(0, streams, 2)))
    codes[where] = rng.choice(illegal, len(where[0]))
    bad = np.zeros(shape, bool)
    bad[where] = True
    return Feed(codes, last, values, x, sums, np.logical_or.accumulate(bad, axis=1))


def code_bits(spec: UnitSpec) -> int:
    return encodings.get(spec.encoding).code_bits(spec.pattern)


@functools.cache
def netlist() -> Netlist:
    """All lanes as one."""
    return quickly([lane.build(spec) for spec in SPECS])


feeds = functools.cache(lambda: [feed_of(spec) for spec in SPECS])


def bits_of(flags: NDArray[Any]) -> Words:
    return bit_slices(flags.astype(np.uint64), 1)


class Streams:
    """Many streams of groups through one lane of the netlist, one per bit of a word, each at its own pace."""

    def __init__(self, number: int, feed: Feed, *, seed: int = 11) -> None:
        self.number, self.spec, self.feed = number, SPECS[number], feed
        self.rng = np.random.default_rng([seed, number])
        self.taken = np.zeros(STREAMS, np.int64)
        self.given: list[list[tuple[int, bool]]] = [[] for _ in range(STREAMS)]
        self.waiting: NDArray[Any] = np.zeros(STREAMS, bool)
        self.before: NDArray[Any] = np.zeros(STREAMS, np.int64)

    def offer(self) -> dict[str, Words]:
        """Inputs of a cycle. What stands at the ports of a stream that offers nothing is another group with a drawn code."""
        feed, bits = self.feed, self.spec.width_bits
        # Some streams wait for groups, some for whoever takes the sums, some for neither.
        pace = np.arange(STREAMS) % 4
        self.offered = (self.rng.random(STREAMS) < np.array([1, 0.5, 1, 0.7])[pace]) & (self.taken < GROUPS)
        self.ready = self.rng.random(STREAMS) < np.array([1, 1, 0.3, 0.6])[pace]
        at = np.where(self.offered, self.taken, self.rng.integers(0, GROUPS, STREAMS))
        stream = np.arange(STREAMS)
        code = np.where(
            self.offered, feed.codes[stream, at], self.rng.integers(0, 1 << code_bits(self.spec), STREAMS)
        )
        low = (1 << bits) - 1
        return {
            "in_valid": bits_of(self.offered),
            "in_last": bits_of(feed.last[stream, at]),
            "code": bit_slices(code, code_bits(self.spec)),
            "values": sliced(feed.values[stream, at] & low, bits),
            "x": sliced(feed.x[stream, at] & low, bits),
            "out_ready": bits_of(self.ready),
        }

    def see(self, outputs: dict[str, Words]) -> None:
        """Note what a cycle took and gave. A sum that waits must not change."""
        named = {name: outputs[f"{name}_{self.number}"] for name in ("in_ready", "out_valid", "sum", "bad")}
        valid = integers(named["out_valid"], STREAMS).astype(bool)
        found = integers(named["sum"], STREAMS).astype(np.uint32).view(np.int32).astype(np.int64)
        bad = integers(named["bad"], STREAMS).astype(bool)
        assert valid[self.waiting].all()
        assert (found == self.before)[self.waiting].all()
        self.taken += self.offered & integers(named["in_ready"], STREAMS).astype(bool)
        for stream in np.flatnonzero(valid & self.ready):
            self.given[stream].append((int(found[stream]), bool(bad[stream])))
        self.waiting, self.before = valid & ~self.ready, found

    @property
    def finished(self) -> bool:
        """No sum is awaited any more."""
        return sum(map(len, self.given)) >= int(self.feed.last.sum())

    def check(self) -> None:
        """Rows before the first illegal code have their sums, and `bad` is 1 from the row on that has it."""
        for stream, given in enumerate(self.given):
            rows = np.flatnonzero(self.feed.last[stream])
            assert len(given) == len(rows)
            bad = self.feed.bad[stream][rows]
            assert [flag for _, flag in given] == bad.tolist()
            sound = int((~bad).sum())
            assert [total for total, _ in given[:sound]] == self.feed.sums[stream][rows][:sound].tolist()


def drive(found: Netlist, count: int = len(SPECS)) -> None:
    """Run all streams of the first lanes to their end, and check them."""
    lanes = [Streams(number, feed) for number, feed in enumerate(feeds()[:count])]
    state = found.empty_state(STREAMS // 64)
    ones = np.full((1, STREAMS // 64), ~np.uint64(0))
    found.evaluate(ports(lanes) | {"rst": ones}, state=state)
    for one in lanes:
        one.waiting[:] = False
    for _ in range(6 * GROUPS):
        if all(one.finished for one in lanes):
            break
        outputs = found.evaluate(ports(lanes) | {"rst": ~ones}, state=state)
        for one in lanes:
            one.see(outputs)
    for one in lanes:
        one.check()


def ports(lanes: list[Streams]) -> dict[str, Words]:
    return {f"{name}_{one.number}": words for one in lanes for name, words in one.offer().items()}


def test_rows_of_the_netlist_are_integer_products_under_random_stalls() -> None:
    drive(netlist())


def test_another_gate_is_noticed() -> None:
    noticed = 0
    for mutant in netlist().mutants(6, seed=2):
        try:
            drive(mutant)
        except AssertionError:
            noticed += 1
    assert noticed >= 4


def test_a_lane_that_moves_while_a_sum_waits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "EnableInserter", lambda go: lambda module: module)
    with pytest.raises(AssertionError):
        drive(quickly([lane.build(SPECS[0])]), 1)


@pytest.mark.parametrize(
    ("spec", "groups"),
    [
        (UnitSpec("lane", 2, 4, "combinatorial", "plain", 16, 2), 60),
        (UnitSpec("lane", 4, 8, "combinatorial", "plain", 8, 2), 40),
        (UnitSpec("lane", 8, 16, "combinatorial", "plain", 8, 2), 16),
    ],
    ids=str,
)
def test_rows_in_the_simulator_of_amaranth(spec: UnitSpec, groups: int) -> None:
    # The netlist went through Yosys; this is the description itself. 16-bit products overflow the sum, which wraps around.
    feed = feed_of(spec, streams=2, groups=groups)
    dut, draw, given = lane.build(spec), random.Random(3), list[tuple[int, bool]]()
    ports = {port.name: port for port in dut.ports}

    def packed(numbers: NDArray[Any]) -> int:
        low, bits = (1 << spec.width_bits) - 1, spec.width_bits
        return sum((int(number) & low) << bits * place for place, number in enumerate(numbers))

    async def offer(context: Any) -> None:
        for group in range(groups):
            while draw.random() < 0.3:
                await context.tick()
            context.set(ports["in_valid"], 1)
            context.set(ports["in_last"], int(feed.last[1, group]))
            context.set(ports["code"], int(feed.codes[1, group]))
            context.set(ports["values"], packed(feed.values[1, group]))
            context.set(ports["x"], packed(feed.x[1, group]))
            await context.tick().until(ports["in_ready"])
            context.set(ports["in_valid"], 0)

    async def take(context: Any) -> None:
        while len(given) < feed.last[1].sum():
            ready = int(draw.random() < 0.6)
            context.set(ports["out_ready"], ready)
            *_, valid, total, bad = await context.tick().sample(
                ports["out_valid"], ports["sum"], ports["bad"]
            )
            if valid and ready:
                given.append((total, bool(bad)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(offer)
    simulator.add_testbench(take)
    simulator.run()
    assert given == [(int(total), False) for total in feed.sums[1][feed.last[1]]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"unit": "decoder"}, "expected a lane"),
        ({"width_bits": 0}, "at least 1 bit"),
        ({"encoding": "joint:64"}, "groups per code; expected an encoding of one"),
        ({"variant": "fastest"}, "expected one of"),
        ({"stages": 3}, "3 stages; expected at most 2"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        lane.build(replace(SPECS[0], **change))
