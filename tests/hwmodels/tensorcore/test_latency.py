"""Latency of decoders and selectors by format, and that decoding is billed by what is decoded."""

import dataclasses
import itertools

import numpy as np
import pytest

import hwmodels
from hwmodels.gates.delay import latency_cycles
from hwmodels.gates.table import gates_of
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.latency import (
    decoder_cycles,
    decoder_gates,
    passes_by,
    selector_cycles,
    selector_gates,
)
from hwmodels.tensorcore.point import point
from hwmodels.tensorcore.record import core_names, load_core
from hwmodels.tensorcore.simulate import simulate
from nmsim import encodings
from nmsim.case import Case, GemmShape
from nmsim.errors import NmsimError, SpecError
from nmsim.format import as_format
from nmsim.pattern import Pattern

FLEXIBLE, EDGE = load_core("flexible-8x16"), load_core("edge-npu-8x16")
WIDE = load_core("flexible-16x32")
SHAPE = GemmShape(128, 512, 1024)
PATTERNS = ("2:4", "4:8", "8:16", "16:32")


def evaluate(case, core, other=None):
    return Cycles(*closed_form(np.array([point(core, case, other)]))[0])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_latency_is_that_of_the_gates_at_clock_and_node(pattern):
    for encoding in ("bitmask", "combinatorial"):
        stored = as_format(pattern, encoding=encoding)
        gates = gates_of("position_decoder", stored.pattern, encoding=encoding)
        expected = latency_cycles(gates.fo4, node_nm=5, clock_hz=1.83e9)
        assert decoder_gates(WIDE, stored) == gates
        assert (
            decoder_cycles(WIDE, stored)
            == point(WIDE, Case(SHAPE, stored)).decoder_latency_cycles
            == expected
        )
    assert decoder_cycles(WIDE, as_format(pattern, encoding="index")) == 0
    slow, coarse = dataclasses.replace(WIDE, clock_hz=1e9), dataclasses.replace(WIDE, node_nm=45)
    hard = as_format(pattern, encoding="combinatorial")
    assert decoder_cycles(slow, hard) <= decoder_cycles(WIDE, hard) <= decoder_cycles(coarse, hard)


def test_a_goal_chooses_the_structure():
    stored = as_format("8:16", encoding="combinatorial")
    small, short, fit = (
        decoder_gates(dataclasses.replace(WIDE, decoder_goal=goal), stored)
        for goal in ("area", "delay", "cycles")
    )
    assert small.nand2 < short.nand2
    assert small.fo4 > short.fo4

    def cycles(gates):
        return latency_cycles(gates.fo4, node_nm=5, clock_hz=1.83e9)

    assert cycles(fit) == cycles(short) <= cycles(small)
    assert small.nand2 <= fit.nand2 <= short.nand2
    # At a clock at which all take one cycle, nothing is paid for a short path.
    idle = dataclasses.replace(WIDE, decoder_goal="cycles", clock_hz=1e6)
    assert decoder_gates(idle, stored).nand2 == small.nand2
    named = dataclasses.replace(WIDE, decoder_variant="shallow")
    assert decoder_gates(named, stored) == gates_of(
        "position_decoder", stored.pattern, encoding="combinatorial", variant="shallow"
    )
    # Encodings that have no such structure keep their own.
    assert decoder_gates(named, as_format("8:16")) == decoder_gates(WIDE, as_format("8:16"))


def test_what_the_select_network_wants_is_waited_for():
    pattern, butterfly = Pattern(8, 16), dataclasses.replace(FLEXIBLE, select_network="butterfly")
    assert decoder_gates(butterfly, as_format("8:16", encoding="bitmask")).fo4 == 0
    mask = gates_of("decoder", pattern, encoding="combinatorial")
    assert decoder_gates(butterfly, as_format("8:16", encoding="combinatorial")) == mask
    index = as_format("8:16", encoding="index")
    assert decoder_gates(FLEXIBLE, index, "expanded") == gates_of("decoder", pattern, encoding="index")
    both = decoder_gates(FLEXIBLE, as_format("8:16", encoding="combinatorial"), "dual")
    assert both == mask + gates_of("position_decoder", pattern, encoding="bitmask")


def test_a_latency_of_the_file_is_taken_and_a_missing_one_is_named():
    own = dataclasses.replace(FLEXIBLE, decoder_latency_cycles=7, selector_latency_cycles=9)
    stored = as_format("8:16", encoding="combinatorial")
    assert (decoder_cycles(own, stored), selector_cycles(own, stored.pattern, "bf16")) == (7, 9)
    assert decoder_cycles(own, as_format("8:16", encoding="index")) == 0
    with pytest.raises(
        SpecError, match="flexible-8x16: node_nm=2: .*give the core its own decoder_latency_cycles"
    ):
        decoder_cycles(dataclasses.replace(FLEXIBLE, node_nm=2), stored)


def test_a_selector_waits_for_its_kind():
    found = {}
    for kind in ("all_pairs", "half", "planes"):
        core = dataclasses.replace(FLEXIBLE, selector_kind=kind)
        found[kind] = selector_gates(core, Pattern(8, 16), "int8")
        assert found[kind] == gates_of("selector", Pattern(8, 16), variant=kind, width_bits=8)
        case = Case(SHAPE, "8:16", dtype="int8", sparse_operand="activations")
        assert point(core, case).selector_latency_cycles == selector_cycles(core, Pattern(8, 16), "int8")
    assert found["planes"].nand2 < found["all_pairs"].nand2
    assert found["planes"].fo4 > found["all_pairs"].fo4
    # A producer's core without a selector of its own prunes in software and waits for none.
    assert (
        point(dataclasses.replace(FLEXIBLE, selector_elements_per_cycle=0), case).selector_latency_cycles == 0
    )


@pytest.mark.parametrize("name", core_names())
def test_presets_wait_a_few_cycles(name):
    core = load_core(name)
    for pattern, encoding in itertools.product(core.patterns, core.encodings):
        cycles = decoder_cycles(core, as_format(str(pattern), encoding=encoding))
        assert (cycles == 0) == (encoding == "index")
        assert cycles <= 20


def test_positions_pass_a_native_array_by():
    assert passes_by(encodings.get("index"), "native")
    for core in (FLEXIBLE, EDGE):
        case = Case(SHAPE, as_format("2:4", encoding="index"), dtype="int8")
        found = evaluate(case, core)
        assert (found.decode_cycles, found.decoded_groups) == (0, 0)
        seen = simulate(case, core)
        assert (seen.busy_cycles["decode"], seen.decoded_groups, seen.cycles) == (0, 0, found.cycles)
        slow = dataclasses.replace(core, decoder_elements_per_cycle=1, decoder_latency_cycles=1000)
        assert evaluate(case, slow) == found


def test_positions_of_a_pattern_that_is_expanded_become_a_mask():
    case = Case(SHAPE, as_format("3:8", encoding="index"), dtype="int8")
    found, seen = evaluate(case, EDGE), simulate(case, EDGE)
    assert found.decoded_groups == seen.decoded_groups > 0
    assert found.decode_cycles == seen.busy_cycles["decode"] > 0
    assert point(EDGE, case).decoder_latency_cycles > 0


def test_positions_of_two_operands_are_matched_as_masks():
    core = dataclasses.replace(load_core("dual-sided-8x16"), encodings=("index",))
    found = evaluate(Case(SHAPE, as_format("8:16", encoding="index")), core, Pattern(8, 16))
    assert found.decode_cycles > 0
    assert point(core, Case(SHAPE, as_format("8:16", encoding="index")), Pattern(8, 16)).decoded == 1


@pytest.mark.parametrize("placement", ["weights", "activations"])
def test_no_pattern_pays_more_decode_time_per_element_than_another(placement):
    """At equal rates of elements a narrow pattern took M'/M times as long as a wide one, when groups were billed."""
    core = dataclasses.replace(WIDE, decoder_elements_per_cycle=64, selector_placement="consumer")
    free = dataclasses.replace(core, selector_elements_per_cycle=32)
    times, simulated = [], []
    for pattern in PATTERNS:
        case = Case(GemmShape(512, 512, 1024), as_format(pattern), sparse_operand=placement)
        found, seen = evaluate(case, free), simulate(case, free)
        times.append(found.decode_cycles + found.prune_cycles)
        simulated.append(seen.busy_cycles["decode"] + seen.busy_cycles["prune"])
    assert len(set(times)) == len(set(simulated)) == 1
    assert times == simulated


def test_two_four_on_the_edge_chip_is_not_limited_by_decoding():
    """It was: 0.67 times as fast as dense behind wires, where 8:16 had 1.54."""
    for encoding, pattern in itertools.product(("index", "bitmask"), ("2:4", "8:16")):
        case = Case(GemmShape(2048, 14336, 4096), as_format(pattern, encoding=encoding), dtype="int8")
        answer = hwmodels.predict_core(case, "edge-npu-8x16")
        assert answer.limit != "decode"
        assert answer.predicted_speedup_vs_dense > 1.25


@pytest.mark.parametrize("unit", ["decoder", "selector"])
def test_a_rate_in_groups_is_refused_with_its_factor(unit, tmp_path):
    old, new = f"{unit}_groups_per_cycle", f"{unit}_elements_per_cycle"
    text = (hwmodels.tensorcore.record.PRESET_FOLDER / "flexible-8x16.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(new, old))
    space = {
        "core": {"base": "flexible-8x16"},
        "axes": {"pattern": ["2:4"], old: [16]},
        "workload": {"shapes": [[64, 64]]},
    }
    for attempt in (
        lambda: load_core(path),
        lambda: dataclasses.replace(FLEXIBLE, **{old: 16}),
        lambda: hwmodels.sweep(space),
    ):
        with pytest.raises(
            NmsimError, match=rf"{old}: unknown key \(did you mean {new}\?\).*such as 16 x 16 = 256"
        ) as caught:
            attempt()
        assert "missing" not in str(caught.value)
