"""The Performance Threshold: bytes against closed forms, and laws of the dense models that cost no more."""

import dataclasses
import math
import re

import numpy as np
import pytest

import hwmodels
from hwmodels.models import Layer, Model
from hwmodels.online.mitigations import Settings
from hwmodels.online.overheads import stage_costs
from hwmodels.silicon.energy import energy
from hwmodels.threshold import (
    ModelFormat,
    equal_energy,
    equal_memory,
    equal_time,
    equal_value_bits,
    footprint,
    quantised_dense,
)
from hwmodels.threshold.compare import statement
from hwmodels.threshold.equal import largest, widths
from nmsim.case import Case, GemmShape
from nmsim.errors import EncodingError, PatternError, RowError

LLAMA = hwmodels.load_model("llama-3.1-8b")
PRUNED_ELEMS = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
HEAD_ELEMS = 128256 * 4096
COMBINATORIAL = ModelFormat("8:16/combinatorial")
SMALL = Model("small", (Layer("a", 2, 128, 256), Layer("lm_head", 1, 512, 256, pruned=False)), False, "here")
TINY = Model(
    "tiny", (Layer("a", 16, 512, 512), Layer("b", 12, 1376, 512), Layer("lm_head", 1, 1000, 512, pruned=False)), True, "here"
)  # fmt: skip


def code_bits(n, m):
    return math.ceil(math.log2(math.comb(m, n)))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (8, 16), (16, 32)])
@pytest.mark.parametrize(("dtype", "bits"), [("fp16", 16), ("int8", 8), ("int4", 4)])
def test_bytes_are_those_of_the_closed_form(n, m, dtype, bits):
    how = ModelFormat(f"{n}:{m}/combinatorial", dtype=dtype, group_elems=0)
    found = footprint(LLAMA, how)
    assert found.bits_per_element == (n * bits + code_bits(n, m)) / m
    assert found.total_bytes == PRUNED_ELEMS * found.bits_per_element / 8 + 2 * HEAD_ELEMS * 2
    assert found.params_elems == PRUNED_ELEMS + 2 * HEAD_ELEMS


def test_the_rule_of_the_paper():
    found = footprint(LLAMA, dataclasses.replace(COMBINATORIAL, dtype="fp16"))
    assert found.pruned_bytes / footprint(LLAMA, ModelFormat(dtype="fp16")).pruned_bytes == 8.875 / 16
    assert 8 * found.metadata_bytes / found.pruned_elems == 0.875
    two = footprint(LLAMA, ModelFormat("2:4/combinatorial"))
    assert 8 * two.metadata_bytes / two.pruned_elems == 0.75


@pytest.mark.parametrize(("outliers", "more_bits"), [("4:256", 0.359), ("8:256", 0.691), ("16:256", 1.328)])
def test_outliers_add_values_and_codes(outliers, more_bits):
    with_them = dataclasses.replace(COMBINATORIAL, outliers=outliers)
    added = footprint(LLAMA, with_them).bits_per_element - 8.875
    kept = int(outliers.split(":")[0])
    assert added == pytest.approx((kept * 16 + code_bits(kept, 256)) / 256, rel=1e-12)
    assert added == pytest.approx(more_bits, abs=5e-4)


@pytest.mark.parametrize("K", [4096, 4100, 300])
@pytest.mark.parametrize(
    ("mitigation", "beside"), [("outliers", {"outliers": "8:256"}), ("salient_columns", {"columns": 96})]
)
def test_what_lies_beside_is_as_large_as_online_pruning_has_it(K, mitigation, beside):
    layer = Layer("a", 3, 136, K)
    found = footprint(Model("one", (layer,), True, "here"), dataclasses.replace(COMBINATORIAL, **beside))
    stages = stage_costs(
        GemmShape(1, layer.N, K), "8:16", mitigation=mitigation, operand="weights",
        settings=Settings(outliers=8, window=256, columns=96),
    )  # fmt: skip
    here = found.side_values_bytes + found.side_metadata_bytes
    assert here == 3 * sum(stage.parameter_bytes for stage in stages)


def test_a_tail_takes_a_whole_group():
    def one(K):
        return Model("one", (Layer("a", 1, 8, K),), True, "here")

    tail, whole = footprint(one(36), COMBINATORIAL), footprint(one(48), COMBINATORIAL)
    assert (tail.values_bytes, tail.metadata_bytes) == (8 * 3 * 8 * 2, 8 * 3 * 14 // 8)
    assert (tail.values_bytes, tail.metadata_bytes) == (whole.values_bytes, whole.metadata_bytes)
    scaled = footprint(one(130), ModelFormat(dtype="int4", group_elems=128, scale_bits=16))
    assert scaled.scales_bytes == 8 * 2 * 2


@pytest.mark.parametrize(
    ("encoding", "packing", "bits"),
    [
        ("bitmask", "bitstream", 1.0), ("index", "bitstream", 2.0), ("combinatorial", "byte", 1.0),
        ("combinatorial", "power_of_two", 1.0), ("combinatorial", "no_straddle:64", 1.0),
    ],
)  # fmt: skip
def test_padding_counts(encoding, packing, bits):
    found = footprint(LLAMA, ModelFormat(f"8:16/{encoding}/{packing}"))
    assert found.bits_per_element == 8 + bits


def test_head_and_embedding_have_a_value_type_of_their_own():
    how = ModelFormat("8:16", dtype="int8", rest_dtype="int8", group_elems=0)
    found = footprint(SMALL, how)
    assert (found.rest_bytes, found.embedding_bytes) == (512 * 256, 512 * 256)
    assert footprint(SMALL, how.dense()).total_bytes == 2 * 128 * 256 + 2 * 512 * 256


def test_the_last_bits_of_a_sum_do_not_matter():
    def costs(layers):
        return [layers.K[0] / 256 * (1 + 1e-15)]

    assert largest(SMALL, 64, costs, [1.0], "time")[0].width == 1.0


def test_a_low_end_that_no_dense_model_reaches_leaves_the_rest():
    found = equal_time(TINY, COMBINATORIAL, "a100")
    assert found.low is None
    assert found.equal.cost <= found.pruned_cost < found.high.cost
    assert re.search(r"as fast on a100 \(up to [\d.]+ M\)", statement([(found, "a100")]))


def test_a_smaller_step_is_advised_only_where_one_helps():
    def costs(layers):
        return [1.0 + layers.K[0] / 256]

    with pytest.raises(RowError, match=r"hidden size of 64 it takes 1\.25, expected a smaller step than 64"):
        largest(SMALL, 64, costs, [1.1], "time")
    for step in (1, 64):
        with pytest.raises(RowError, match=r"those of all other widths take 1\.004 s or more") as caught:
            largest(SMALL, step, costs, [1.0], "time")
        assert "step" not in str(caught.value)


def test_a_tied_head_is_stored_once():
    untied, tied = SMALL, dataclasses.replace(SMALL, tied_head=True)
    assert (
        footprint(untied, ModelFormat()).embedding_bytes
        == footprint(untied, ModelFormat()).rest_bytes
        == 512 * 256 * 2
    )
    assert footprint(tied, ModelFormat()).embedding_bytes == 0
    assert (
        footprint(untied, ModelFormat()).params_elems
        == footprint(tied, ModelFormat()).params_elems + 512 * 256
    )


def test_more_outliers_are_never_smaller_and_sparser_never_larger():
    def total(pattern, **how):
        return footprint(LLAMA, ModelFormat(f"{pattern}/combinatorial", **how)).total_bytes

    for pattern in ("2:4", "8:16"):
        sizes = [total(pattern, outliers=f"{n}:256" if n else None) for n in (0, 1, 2, 4, 8, 16, 32)]
        sizes += [total(pattern, outliers="32:256", columns=c) for c in (1, 128)]
        assert sizes == sorted(set(sizes))
    falling = [total(f"{n}:16") for n in range(16, 0, -1)]
    assert falling == sorted(falling, reverse=True)


def test_equal_memory_solves_the_quadratic_of_the_widths():
    found = equal_memory(LLAMA, COMBINATORIAL)
    linear, vocabulary, target = 2 * PRUNED_ELEMS, 4 * HEAD_ELEMS, footprint(LLAMA, COMBINATORIAL).total_bytes
    exact = (-vocabulary + math.sqrt(vocabulary**2 + 4 * linear * target)) / (2 * linear)
    assert found.equal.width <= exact < found.equal.width + found.step_width
    assert found.step_width == 16 / 4096
    assert found.equal.cost <= found.pruned_cost
    assert found.equal.params_elems == pytest.approx(
        PRUNED_ELEMS * found.equal.width**2 + 2 * HEAD_ELEMS * found.equal.width, rel=0.005
    )


@pytest.mark.parametrize("step", [16, 64])
def test_the_dense_model_found_is_the_widest_that_costs_no_more(step):
    memory = equal_memory(LLAMA, COMBINATORIAL, step_elems=step)
    time = equal_time(LLAMA, COMBINATORIAL, "h200-8x16", step_elems=step)
    for found, cost_of in ((memory, _bytes), (time, _seconds)):
        assert cost_of(found.equal.hidden_elems, step) == pytest.approx(found.equal.cost, rel=1e-9)
        assert found.equal.cost <= found.pruned_cost < cost_of(found.equal.hidden_elems + step, step)


def _layers(hidden, step):
    def resized(elems):
        return math.floor(elems * hidden / 4096 / step + 0.5) * step

    yield 1, 128256, hidden
    for layer in LLAMA.layers[:-1]:
        yield layer.count, resized(layer.N), resized(layer.K)


def _bytes(hidden, step):
    return 2 * 128256 * hidden + 2 * sum(count * N * K for count, N, K in _layers(hidden, step))


def _seconds(hidden, step):
    return sum(
        count * hwmodels.predict(Case(GemmShape(1, N, K)), "h200-8x16").predicted_time_s
        for count, N, K in _layers(hidden, step)
    )


def test_time_and_its_range_are_sums_over_the_layers():
    def end(of):
        total = 0.0
        for layer in LLAMA.layers:
            kept = "8:16/combinatorial" if layer.pruned else None
            answer = hwmodels.predict(Case(GemmShape(4, layer.N, layer.K), kept), "h200")
            total += layer.count * of(answer)
        return total

    found = equal_time(LLAMA, COMBINATORIAL, "h200", tokens=4)
    assert found.pruned_cost == pytest.approx(end(lambda a: a.predicted_time_s), rel=1e-9)
    assert found.dense_cost == pytest.approx(end(lambda a: a.predicted_dense_time_s), rel=1e-9)
    slow = end(lambda a: a.predicted_dense_time_s / a.predicted_speedup_low)
    fast = end(lambda a: a.predicted_dense_time_s / a.predicted_speedup_high)
    assert found.low.cost <= fast < found.pruned_cost < slow
    assert found.high.cost == pytest.approx(slow, rel=0.02)
    assert found.low.cost == pytest.approx(fast, rel=0.02)


def test_one_end_compares_bounds():
    found = equal_time(LLAMA, COMBINATORIAL, "h200", tokens=4)
    mine = dense = 0.0
    for layer in LLAMA.layers:
        kept = "8:16/combinatorial" if layer.pruned else None
        mine += (
            layer.count * hwmodels.predict(Case(GemmShape(4, layer.N, layer.K), kept), "h200").bound_time_s
        )
    for count, N, K in _layers(found.of_bounds.hidden_elems, 16):
        dense += count * hwmodels.predict(Case(GemmShape(4, N, K)), "h200").bound_time_s
    assert found.of_bounds.cost == pytest.approx(dense, rel=1e-9)
    assert 0.99 * mine < dense <= mine


def test_energy_is_a_sum_over_the_layers_and_compares_one_scenario():
    found = equal_energy(LLAMA, COMBINATORIAL, "flexible-8x16", tokens=2)
    total = {"low": 0.0, "nominal": 0.0, "high": 0.0}
    for layer in LLAMA.layers:
        kept = "8:16/combinatorial" if layer.pruned else None
        report = energy(Case(GemmShape(2, layer.N, layer.K), kept), "flexible-8x16")
        for name in total:
            total[name] += layer.count * getattr(report.total, name)
    assert found.pruned_cost == pytest.approx(total["nominal"], rel=1e-9)
    costs = {each.cost for each in (found.low, found.equal, found.high)}
    assert any(cost == pytest.approx(total["high"], rel=0.02) for cost in costs)
    assert found.low.width <= found.equal.width <= found.high.width < 1


def test_outliers_are_a_product_of_their_own():
    beside = dataclasses.replace(COMBINATORIAL, outliers="8:256/index", columns=64)
    plain, more = (equal_time(LLAMA, how, "h200") for how in (COMBINATORIAL, beside))
    added = 0.0
    for layer in LLAMA.layers:
        if layer.pruned:
            for case in (
                Case(GemmShape(1, layer.N, layer.K), "8:256/index"),
                Case(GemmShape(1, layer.N, 64)),
            ):
                added += layer.count * hwmodels.predict(case, "h200").predicted_time_s
    assert more.pruned_cost - plain.pruned_cost == pytest.approx(added, rel=1e-9)
    assert more.equal.width > plain.equal.width


@pytest.mark.parametrize("sense", ["memory", "time", "energy"])
def test_a_dense_model_is_its_own_counterpart(sense):
    found = {
        "memory": lambda: equal_memory(LLAMA, ModelFormat()),
        "time": lambda: equal_time(LLAMA, ModelFormat(), "h200", tokens=3),
        "energy": lambda: equal_energy(LLAMA, ModelFormat(), "flexible-8x16"),
    }[sense]()
    assert (found.equal.width, found.share) == (1.0, 1.0)
    assert found.equal.params_elems == footprint(LLAMA, ModelFormat()).params_elems


@pytest.mark.parametrize(
    "name", [name for name in hwmodels.model_names() if not hwmodels.load_model(name).experts]
)
def test_pruning_alone_never_costs_more_than_dense_on_a_core_with_the_unit(name):
    model = hwmodels.load_model(name)
    asked = [equal_memory(model, COMBINATORIAL), equal_energy(model, COMBINATORIAL, "flexible-8x16")]
    # A layer of the smallest model is shorter than a launch: there are no bytes to wait for.
    if name != "smollm2-135m":
        asked.append(equal_time(model, COMBINATORIAL, "h200-8x16"))
    for found in asked:
        assert 0 < found.equal.width < 1
        assert 0.5 < found.share < 1


def test_a_pruned_model_that_is_slower_asks_for_a_wider_dense_one():
    how = ModelFormat("8:16/index", outliers="8:256")
    found = equal_time(LLAMA, how, "h200", tokens=16)
    assert found.equal.width > 1
    share = f"{found.dense_cost / found.pruned_cost:.1%}"
    assert statement([(found, "h200")]) == f"The unpruned model is faster on h200 ({share} of the time)."
    same = dataclasses.replace(found, pruned_cost=found.dense_cost)
    assert statement([(same, "h200")]) == "The unpruned model is as fast on h200."


def test_what_was_not_found_is_said_with_its_reason():
    text = statement([(equal_memory(LLAMA, COMBINATORIAL), "")], [], [("time", "h200", "no peak")])
    assert text.endswith("has to beat it. No dense model was found that is as fast on h200: no peak.")


def test_fewer_parameters_than_a_billion_are_millions():
    found = equal_memory(TINY, COMBINATORIAL)
    assert f"A dense model of {found.equal.params_elems / 1e6:.3g} M parameters" in statement([(found, "")])
    assert " B " not in statement([(found, "")])


def test_no_range_where_nobody_measured():
    found = equal_time(SMALL, COMBINATORIAL, "epyc-2core")
    widths_known = (found.low is None, found.high is None)
    interval = hwmodels.predict(Case(GemmShape(1, 128, 256), "8:16"), "epyc-2core")
    assert widths_known == ((interval.comparable_rows == 0),) * 2


def test_quantised_dense_models():
    def of(bits, **how):
        return quantised_dense(LLAMA, ModelFormat(**how), bits)

    assert of(4).bits_per_element == 4 + 16 / 128
    assert of(3, group_elems=64).bits_per_element == 3 + 16 / 64
    assert of(8, group_elems=0).total_bytes == PRUNED_ELEMS + 4 * HEAD_ELEMS
    pruned = footprint(LLAMA, COMBINATORIAL)
    assert equal_value_bits(pruned, COMBINATORIAL) == 8.875 - 0.125
    on = quantised_dense(
        LLAMA, ModelFormat(), 8, hwmodels.load_machine("h200"), hwmodels.load_core("flexible-8x16")
    )
    assert on.time_s < equal_time(LLAMA, COMBINATORIAL, "h200").pruned_cost
    assert on.energy_joules < equal_energy(LLAMA, COMBINATORIAL, "flexible-8x16").pruned_cost
    none = quantised_dense(
        LLAMA, ModelFormat(), 4, hwmodels.load_machine("h200"), hwmodels.load_core("flexible-8x16")
    )
    assert (none.time_s, none.energy_joules) == (None, None)


def test_widths_keep_depth_and_vocabulary():
    found = widths(LLAMA, 1.5, 64)
    assert found.hidden_elems[-1] == 1.5 * 4096
    assert set(np.asarray(found.layers.N[-1]).tolist()) == {128256}
    for sizes in (*found.layers.N[:-1], *found.layers.K):
        assert (np.diff(sizes) >= 0).all()
        assert (sizes % 64 == 0).all()


@pytest.mark.parametrize(
    ("error", "text", "ask"),
    [
        (RowError, "dtype='fp7': expected one of fp32", lambda: ModelFormat(dtype="fp7")),
        (RowError, "rest_dtype='x'", lambda: ModelFormat(rest_dtype="x")),
        (RowError, "group_elems=-1: expected a whole number, 0 or more", lambda: ModelFormat(group_elems=-1)),
        (RowError, "columns=True", lambda: ModelFormat("2:4", columns=True)),
        (RowError, "8:256 beside a dense model: expected a pattern N:M", lambda: ModelFormat(outliers="8:256")),
        (PatternError, "pattern '8-16'", lambda: ModelFormat("8-16")),
        (PatternError, "outliers=3: expected a SparseFormat", lambda: ModelFormat("2:4", outliers=3)),
        (EncodingError, "'morse'", lambda: ModelFormat("2:4/morse")),
        (
            RowError,
            "columns=300: expected at most those of a, 256",
            lambda: footprint(SMALL, ModelFormat("2:4", columns=300)),
        ),
        (
            RowError,
            "model 'small': no layer that is pruned",
            lambda: footprint(dataclasses.replace(SMALL, layers=SMALL.layers[1:]), ModelFormat()),
        ),
        (
            RowError,
            "step_elems=512: expected 1 to the hidden size of small, 256",
            lambda: equal_memory(SMALL, COMBINATORIAL, step_elems=512),
        ),
        (
            RowError,
            "with a hidden size of 256 it takes 7.864e+05, expected a smaller step than 256",
            lambda: equal_memory(SMALL, COMBINATORIAL, step_elems=256),
        ),
        (
            RowError,
            "dtype 'int4': h200 has no peak for it",
            lambda: equal_time(SMALL, ModelFormat("2:4", dtype="int4"), "h200"),
        ),
        (RowError, "tokens=0: expected a positive int", lambda: equal_time(SMALL, COMBINATORIAL, "h200", tokens=0)),
        (RowError, "value_bits=16: expected 1 to 15", lambda: quantised_dense(SMALL, ModelFormat(), 16)),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(error, text, ask):
    with pytest.raises(error) as caught:
        ask()
    assert text in str(caught.value)
    assert "row 0" not in str(caught.value)
