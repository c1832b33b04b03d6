"""Products on cores as records: the encoding that a core takes, what is left out, and masks that are simulated."""

import dataclasses

import numpy as np
import pytest

from hwmodels import load_core, predict_core
from hwmodels.silicon.products import best_encoding, compare, next_stage, product_record, simulated_record
from nmsim.case import Case, GemmShape
from nmsim.errors import NmsimError
from nmsim.pattern import Pattern

SHAPE = GemmShape(1, 1024, 1024)


@pytest.mark.parametrize("pattern", ["2:4", "8:16"])
def test_the_best_encoding_takes_the_fewest_cycles_of_those_that_a_core_decodes(pattern):
    core = load_core("flexible-8x16")
    best = predict_core(best_encoding(core, Case(SHAPE, pattern)), core)
    others = [predict_core(Case(SHAPE, f"{pattern}/{name}"), core) for name in core.encodings]
    assert best.cycles == min(each.cycles for each in others)


def test_a_case_that_a_core_does_not_take_comes_back():
    case, dense = Case(SHAPE, "8:16", dtype="int4"), Case(SHAPE)
    assert best_encoding(load_core("nvidia-like-2x4"), case) == case
    assert best_encoding(load_core("flexible-8x16"), dense) == dense


def test_one_sentence_for_all_patterns_that_are_left_out_for_one_reason():
    core = load_core("dense")
    asked = [(core, Case(SHAPE, form)) for form in (None, "2:4/index", "8:16/index")]
    found = compare(asked)
    assert [record["pattern"] for record in found.records] == ["dense"]
    assert found.taken == asked[:1]
    assert found.remarks == ["left out for 2:4, 8:16: encoding 'index': dense decodes bitmask"]
    with pytest.raises(NmsimError, match="dense decodes bitmask"):
        compare(asked[1:2])


def test_energy_that_is_not_known_is_none_and_has_a_reason():
    core = dataclasses.replace(load_core("flexible-8x16"), node_nm=2, decoder_latency_cycles=1)
    record, problem = product_record(core, Case(SHAPE, "8:16"), None)
    assert record["energy_joules"] is record["energy_joules_low"] is None
    assert "3" in problem


def test_the_next_stage_is_the_longest_but_the_limit():
    record, _ = product_record(load_core("flexible-8x16"), Case(SHAPE, "8:16"), None)
    name, share = next_stage(record)
    assert name != record["limit"]
    assert share == record["stage_cycles"][name] / record["cycles"] <= 1


def test_a_simulation_counts_the_mask_it_is_given():
    case = Case(GemmShape(64, 64, 128), "8:16")
    values = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    seen = simulated_record(load_core("flexible-8x16"), case, None, values)
    assert seen["simulated_effectual_macs"] == 64 * 64 * 128 // 2
    with pytest.raises(NmsimError):
        simulated_record(load_core("flexible-8x16"), case, Pattern(2, 4), values)
