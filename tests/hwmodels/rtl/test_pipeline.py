"""The pipeline's control as a netlist against the simulator: every start and every end, on drawn cores."""

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hwmodels.rtl.flow import synthesise
from hwmodels.rtl.pipeline import CLOCKED, Pipeline, run, settings
from hwmodels.tensorcore.record import load_core
from hwmodels.tensorcore.services import STAGES
from hwmodels.tensorcore.simulate import simulate
from nmsim.case import Case, GemmShape
from nmsim.errors import SpecError
from nmsim.format import as_format

SLOW = {
    "dram": {"dram_bytes_per_cycle": (2.5, 3.5, 5.0)},
    "l2": {"l2_bytes_per_cycle": (3, 4, 6)},
    "shared": {"shared_bytes_per_cycle": (4, 6, 8)},
    "decode": {
        "decoder_elements_per_cycle": (4, 8),
        "array_rows": (4,),
        "array_cols": (4,),
        "array_depth": (8,),
    },
    "select": {"operand_b_bytes_per_cycle": (4, 6)},
    "multiply": {"array_rows": (2,), "array_cols": (2,)},
    "accumulate": {"accumulator_bytes_per_cycle": (16, 24, 40)},
}
"""Stage -> the rates that make it the slowest one; all others are drawn from fast ones."""
PRODUCTS, MOST_CYCLES = 245, 420
KEPT = [STAGES.index(stage) for stage in CLOCKED]


def drawn_core(rng, limit):
    def pick(*options):
        return options[int(rng.integers(len(options)))]

    core = replace(
        load_core("edge-npu-8x16"),
        cores=1,
        array_rows=pick(2, 4),
        array_cols=pick(2, 4),
        array_depth=pick(2, 4, 8),
        dram_latency_cycles=pick(0, 1, 3, 8),
        l2_latency_cycles=pick(0, 1, 2, 5),
        decoder_latency_cycles=pick(0, 1, 2, 4),
        accumulator_bytes=4096,
        accumulator_buffers=pick(1, 2),
        accumulator_bytes_per_cycle=pick(256, 512),
        fragment_rows=16,
        fragment_cols=16,
        register_blocks=pick(1, 2, 3),
        shared_blocks=pick(1, 2, 4),
        l2_blocks=pick(1, 2, 4),
        shared_bytes=pick(1000, 1500),
        decoder_elements_per_cycle=pick(96, 128, 256),
        shared_bytes_per_cycle=pick(32, 64),
        l2_bytes_per_cycle=pick(32, 64),
        dram_bytes_per_cycle=pick(24.0, 40.0, 51.2),
        operand_b_bytes_per_cycle=pick(64, 128),
        l2_access_bytes=4,
        dram_access_bytes=4,
        shared_access_bytes=4,
    )
    core = replace(core, **{name: pick(*rates) for name, rates in SLOW[limit].items()})
    shape = GemmShape(pick(3, 8, 11), pick(5, 8, 13), pick(48, 64, 96, 100))
    stored = as_format(pick("2:4", "4:8", "8:16"), encoding=pick("bitmask", "combinatorial"))
    return Case(shape, stored, dtype="int8"), core


@functools.cache
def simulations():
    """Simulations of drawn products, each stage aimed at equally often."""
    rng, found = np.random.default_rng(0), []
    while len(found) < PRODUCTS:
        case, core = drawn_core(rng, CLOCKED[len(found) % len(CLOCKED)])
        seen = simulate(case, core, tile=(8, 8), seed=len(found), trace=True)
        # What takes long here only costs time: all products run until the last one is done.
        if seen.cycles <= MOST_CYCLES:
            found.append(seen)
    return found


@pytest.fixture(scope="module")
def netlist():
    return synthesise(Pipeline(), "delay")


def limit(seen):
    """The busiest stage. The select network takes at least as long as the array; if no longer, the array is the limit."""
    busy = dict(seen.busy_cycles)
    if busy["select"] == busy["multiply"]:
        del busy["select"]
    return max(busy, key=lambda stage: busy[stage])


def reference(product):
    """Starts and ends by the rules of the simulator, written once more: for settings that no core of the file has."""
    blocks, stages = product.took_cycles.shape
    start, end = np.zeros((2, blocks, stages), np.int64)
    written = []
    for block in range(blocks):
        wave, in_wave = divmod(block, product.blocks_per_wave)
        for at, stage in enumerate(product.stages):
            begin = end[block - 1, at] if block else 0
            if at:
                begin = max(begin, end[block, at - 1] + product.latency_cycles[at - 1])
            if at + 1 < stages and block >= product.room_blocks[at]:
                begin = max(begin, end[block - product.room_blocks[at], at + 1])
            if stage == "multiply" and not in_wave and wave >= product.buffers:
                begin = max(begin, written[wave - product.buffers])
            start[block, at], end[block, at] = begin, begin + product.took_cycles[block, at]
        if in_wave == product.blocks_per_wave - 1:
            written.append(max(end[block, -1], written[-1] if written else 0) + product.write_cycles[wave])
    return start, end, written


def changed(product):
    """All settings that differ in one latency, one room or the buffers by one: (what, by how much, settings)."""
    for name, least in (("latency_cycles", 0), ("room_blocks", 1)):
        for at in range(len(product.stages) - 1):
            for by in (-1, 1):
                values = getattr(product, name).copy()
                values[at] += by
                if values[at] >= least:
                    yield f"{name} {product.stages[at]}", by, replace(product, **{name: values})
    for by in (-1, 1):
        if product.buffers + by >= 1:
            yield "buffers", by, replace(product, buffers=product.buffers + by)


def test_the_drawn_products_are_limited_by_each_stage():
    seen = Counter(limit(one) for one in simulations())
    assert len(simulations()) >= 200
    assert {stage: seen[stage] >= 20 for stage in CLOCKED} == dict.fromkeys(CLOCKED, True), seen
    assert max(one.waves for one in simulations()) > 2
    assert len({len(one.trace.start_cycle) for one in simulations()}) > 8


def test_the_netlist_equals_the_simulator_to_the_cycle(netlist):
    seen = simulations()
    runs = run(netlist, [settings(one.trace) for one in seen], most_cycles=MOST_CYCLES + 20)
    assert [one.cycles for one in runs] == [one.cycles for one in seen]
    for found, one in zip(runs, seen, strict=True):
        assert (found.start_cycle == one.trace.start_cycle[:, KEPT, 0]).all()
        assert (found.end_cycle == one.trace.end_cycle[:, KEPT, 0]).all()
        assert (found.write_start_cycle == one.trace.write_start_cycle).all()
        assert (found.write_end_cycle == one.trace.write_end_cycle).all()


def test_one_cycle_of_latency_or_one_block_of_room_more_or_less_is_noticed(netlist):
    """Where the rules say that a change matters, the netlist differs from the simulator, and by just that."""
    products = [settings(one.trace) for one in simulations()]
    faults = [(at, *fault) for at, product in enumerate(products) for fault in changed(product)]
    runs = run(netlist, [fault[-1] for fault in faults], most_cycles=2 * MOST_CYCLES)
    matters, noticed = Counter(), Counter()
    for (at, what, by, product), found in zip(faults, runs, strict=True):
        start, end, written = reference(product)
        assert (found.start_cycle == start).all()
        assert (found.end_cycle == end).all()
        assert (found.write_end_cycle == written).all()
        trace = simulations()[at].trace
        matters[what, by] += (start != trace.start_cycle[:, KEPT, 0]).any()
        noticed[what, by] += (found.start_cycle != trace.start_cycle[:, KEPT, 0]).any()
    assert len(faults) > 4000
    assert noticed == matters
    for (what, by), times in noticed.items():
        could = sum(fault[1:3] == (what, by) for fault in faults)
        # A latency always matters. Room matters only if some stage waits for it.
        assert times == could if what.startswith("latency") else times >= 10, (what, by, times, could)


def test_a_wrong_gate_is_noticed(netlist):
    seen = simulations()[:128]
    products = [settings(one.trace) for one in seen]
    noticed = 0
    for mutant in netlist.mutants(8, seed=3):
        runs = run(mutant, products, most_cycles=MOST_CYCLES + 20)
        noticed += [one.cycles for one in runs] != [one.cycles for one in seen]
    # Gates of latencies that no core of this test has may change unseen.
    assert noticed >= 6


def test_what_no_circuit_can_follow_is_refused():
    core = replace(load_core("edge-npu-8x16"), cores=1, dram_latency_cycles=9, l2_latency_cycles=5)
    case = Case(GemmShape(8, 64, 256), "8:16", dtype="int8")

    def refused(message, case=case, **changes):
        trace = simulate(case, replace(core, **changes), trace=True).trace
        with pytest.raises(SpecError, match=message):
            settings(trace)

    refused("trace of 2 cores: expected one", cores=2)
    refused("latencies of 0 to 16: expected 0 to 15", dram_latency_cycles=16)
    refused("rooms of 2 to 16: expected 1 to 15", l2_blocks=16)
    refused(r"durations of \d+ to \d+: expected 1 to 511", dram_bytes_per_cycle=1.0)
    # Pruned in the core, so the decoder has nothing to do, and a latency lies before it.
    pruned = replace(case, sparse_operand="activations")
    refused("stage decode: takes no time and has a latency", pruned, selector_placement="consumer")
    trace = simulate(case, core, trace=True).trace
    trace.duration_cycles[0, 4] = 0
    if len(trace.duration_cycles) > 1:
        with pytest.raises(SpecError, match="stage decode: no time for some blocks"):
            settings(trace)


def test_stages_that_are_no_pipeline(netlist):
    with pytest.raises(SpecError, match="stages multiply, decode: expected some of dram, l2"):
        Pipeline(("multiply", "decode"))
    with pytest.raises(SpecError, match="multiply among them"):
        Pipeline(("dram", "l2"))
    with pytest.raises(SpecError, match="products of 0 lists of stages"):
        run(netlist, [], most_cycles=1)


def test_stages_without_work_may_be_left_out():
    """Dense operands and plain positions: nothing is decoded or pruned, and the others begin when they did."""
    rng, left_out = np.random.default_rng(5), Counter()
    for place in range(60):
        case, core = drawn_core(rng, CLOCKED[place % len(CLOCKED)])
        stored = as_format("2:4", encoding="index") if place % 2 else None
        seen = simulate(replace(case, format=stored), core, tile=(8, 8), seed=place, trace=True)
        if seen.cycles > MOST_CYCLES:
            continue
        product = settings(seen.trace)
        kept = [STAGES.index(stage) for stage in product.stages]
        left_out.update(set(STAGES) - {"write"} - set(product.stages))
        start, end, written = reference(product)
        assert (start == seen.trace.start_cycle[:, kept, 0]).all()
        assert (end == seen.trace.end_cycle[:, kept, 0]).all()
        assert written == seen.trace.write_end_cycle.tolist()
    assert left_out["prune"] == left_out["decode"] == left_out.total() / 2 > 30
