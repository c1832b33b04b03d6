"""Activations pruned online: hand numbers, the laws that costs and gains obey, and break-even against trying one by one."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.estimate.bounds import DENSE_STREAM, stream, traffic
from hwmodels.online.break_even import (
    RATE_STEP,
    batch_table,
    break_even_batch,
    break_even_selector,
    selector_table,
)
from hwmodels.online.mitigations import Settings, StageCost
from hwmodels.online.overheads import mitigation_table
from hwmodels.online.pruning import (
    Arrival,
    PruningSetup,
    exposed_epilogue,
    lane_cycles,
    online_pruning,
    online_prunings,
)
from hwmodels.silicon.energy import energy
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.latency import selector_cycles
from hwmodels.tensorcore.point import point
from hwmodels.tensorcore.record import load_core
from hwmodels.tensorcore.simulate import random_mask, simulate
from nmsim import compress
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError
from nmsim.format import as_format
from nmsim.pattern import Pattern

FLEXIBLE = load_core("flexible-8x16")
EDGE = load_core("edge-npu-8x16")
PLACES = ("producer", "consumer")


def case_of(tokens, N=14336, K=4096, pattern="8:16", dtype="bf16", encoding="combinatorial"):
    return Case(
        GemmShape(tokens, N, K),
        as_format(pattern, encoding=encoding),
        dtype=dtype,
        sparse_operand="activations",
    )


def cycles_of(core, case):
    return Cycles(*closed_form(np.array([point(core, case)]))[0])


tokens_of = st.sampled_from([1, 2, 3, 7, 16, 33, 64, 200, 513, 2048])
sizes = st.sampled_from([128, 1000, 4096, 14336])
rates = st.floats(0.02, 64)


@pytest.mark.parametrize("core", [FLEXIBLE, EDGE], ids=lambda core: core.id)
@pytest.mark.parametrize("tokens", [1, 16, 300, 4096])
def test_a_selector_that_takes_no_time_leaves_the_sparse_product(core, tokens):
    case = case_of(tokens, dtype="int8")
    found = online_pruning(case, core, selector_elements_per_cycle=math.inf, placement="producer")
    assert found.net_cycles == found.product_cycles == cycles_of(core, case).cycles
    assert found.dense_cycles == cycles_of(core, Case(case.shape, dtype="int8")).cycles
    weights = dataclasses.replace(case, sparse_operand="weights")
    assert found.weights_cycles == cycles_of(core, weights).cycles


@pytest.mark.parametrize("core", [FLEXIBLE, EDGE], ids=lambda core: core.id)
def test_a_selector_in_the_pipeline_is_the_closed_form(core):
    placed = dataclasses.replace(core, selector_placement="consumer")
    case = case_of(600, dtype="int8")
    alone = cycles_of(placed, case)
    found = online_pruning(case, core, placement="consumer")
    assert found.net_cycles == alone.cycles
    assert (found.selected_groups, found.selector_cycles) == (alone.pruned_groups, alone.prune_cycles)
    # In decode X runs ahead of W, by one latency of DRAM, L2 and selector.
    found = online_pruning(case_of(1, dtype="int8"), core, placement="consumer")
    ahead = core.dram_latency_cycles + core.l2_latency_cycles + selector_cycles(core, case.pattern, "int8")
    assert found.net_cycles == cycles_of(placed, case_of(1, dtype="int8")).cycles + ahead


@given(tokens_of, sizes, sizes, st.sampled_from(["2:4", "4:8", "8:16"]))
def test_a_consumer_never_selects_less_than_a_producer(tokens, N, K, pattern):
    producer, consumer = (
        online_pruning(case_of(tokens, N, K, pattern), FLEXIBLE, placement=place) for place in PLACES
    )
    assert (
        consumer.selected_groups
        >= producer.selected_groups
        == tokens * math.ceil(K / Pattern.parse(pattern).m)
    )
    assert consumer.selector_comparisons >= producer.selector_comparisons
    assert consumer.encoded_groups == consumer.encoded_bits == consumer.written_bytes_saved == 0
    assert consumer.activation_bytes_saved == {"dram": 0, "l2": 0, "shared": 0}


@given(tokens_of, sizes, sizes, rates, rates, st.sampled_from(PLACES), st.sampled_from([FLEXIBLE, EDGE]))
def test_a_faster_selector_never_takes_longer(tokens, N, K, one, other, place, core):
    case = case_of(tokens, N, K, dtype="int8")
    slow, fast = (
        online_pruning(case, core, placement=place, selector_elements_per_cycle=rate)
        for rate in sorted((one, other))
    )
    free = online_pruning(case, core, placement=place, selector_elements_per_cycle=math.inf)
    assert slow.net_cycles >= fast.net_cycles >= free.net_cycles


@pytest.mark.parametrize("pattern", ["2:4", "8:16", "1:4"])
@pytest.mark.parametrize("tokens", [1, 2, 4, 9])
def test_the_union_over_tokens_is_that_of_random_masks(tokens, pattern):
    K, draws, parsed = 4096, 40, Pattern.parse(pattern)
    needed = [random_mask(tokens, K, parsed, seed).any(axis=0).sum() for seed in range(draws)]
    found = online_pruning(case_of(tokens, 512, K, pattern, encoding="bitmask"), FLEXIBLE)
    assert found.weight_columns == pytest.approx(np.mean(needed), rel=0.01)
    still = dataclasses.replace(FLEXIBLE, column_skip=False)
    found = online_pruning(case_of(tokens, 512, K, pattern, encoding="bitmask"), still)
    assert found.weight_columns == K
    assert found.weight_bytes_saved == {"dram": 0, "l2": 0, "shared": 0}


def test_selection_and_encoding_by_hand():
    found = online_pruning(case_of(3, 64, 4096), FLEXIBLE)
    assert (found.selected_groups, found.encoded_groups) == (3 * 256, 3 * 256)
    assert (found.selector_comparisons, found.comparison_bits) == (3 * 256 * 120, 15)
    assert found.encoded_bits == 3 * 256 * 14
    assert found.macs_saved == 3 * 64 * 2048
    found = online_pruning(case_of(3, 64, 4096), FLEXIBLE, selector_kind="half")
    assert (found.selector_comparisons, found.comparison_bits) == (3 * 256 * 56, 15 + 4)
    found = online_pruning(case_of(3, 64, 4096, "2:4", "int8", "bitmask"), FLEXIBLE)
    assert (found.selector_comparisons, found.comparison_bits) == (3 * 1024 * 6, 8)


def test_bytes_that_are_written_are_those_of_packed_tensors():
    X = np.random.default_rng(0).normal(size=(5, 1000)).astype(np.float16)
    packed = compress(X, "8:16/combinatorial")
    found = online_pruning(case_of(5, 64, 1000, dtype="fp16"), FLEXIBLE)
    assert found.written_bytes_saved == X.nbytes - packed.values.nbytes - packed.metadata.nbytes
    assert math.ceil(found.encoded_bits / 8) == packed.metadata.nbytes


@pytest.mark.parametrize(
    ("tokens", "saved"), [(1, 0), (3, 64 * (384 - 192 - 64)), (64, 64 * (8192 - 4096 - 448))]
)
def test_bytes_from_dram_by_hand(tokens, saved):
    # 64 blocks of 128 bytes a token, kept 64 bytes and 4 codes of 14 bits; each in bursts of 64 bytes.
    case = case_of(tokens, 4096, 4096)
    found = online_pruning(case, FLEXIBLE)
    assert found.activation_bytes_saved["dram"] == saved
    dense = traffic(tokens, 4096, 4096, 16, DENSE_STREAM, True, True)
    sparse = traffic(tokens, 4096, 4096, 16, stream(case.format), True, True)
    assert saved <= dense.values_bytes - sparse.values_bytes - sparse.metadata_bytes
    # Rows of W are long enough for whole bursts: what the bound says, where every byte crosses once.
    of_w = 4096 * 4096 * 2 - sparse.dense_operand_bytes
    assert found.weight_bytes_saved["dram"] == pytest.approx(of_w, rel=0.001, abs=1)


def test_a_selector_slower_than_its_producer_by_hand():
    # 4096 x 256 groups on 132 cores: 7944 a core. X leaves at 4224 bytes a cycle: 7944 cycles.
    case, core = case_of(4096, 512, 4096), dataclasses.replace(FLEXIBLE, selector_latency_cycles=8)
    assert online_pruning(case, core, selector_elements_per_cycle=16).exposed_selector_cycles == 8
    found = online_pruning(case, core, selector_elements_per_cycle=4)
    assert found.selector_cycles == 4 * 7944
    assert found.exposed_selector_cycles == 8 + 3 * 7944
    assert found.net_cycles == found.product_cycles + 8 + 3 * 7944


def test_waiting_by_hand():
    arrival = Arrival(cycles=100, again_cycles=70, tokens=10)
    assert arrival.exposed_choice(30, 20, 40, "group") == 0
    assert arrival.exposed_choice(90, 20, 40, "group") == 10
    assert arrival.exposed_choice(30, 20, 140, "group") == 40
    # The last of ten tokens waits: a tenth of 30 + 40 cycles; beyond what arrival hides, all does.
    assert arrival.exposed_choice(30, 20, 40, "token") == 7
    assert arrival.exposed_choice(90, 20, 40, "token") == 30
    # A sequence is read again, unless choosing takes longer.
    assert arrival.exposed_choice(30, 20, 40, "sequence") == 70
    assert arrival.exposed_choice(120, 20, 90, "sequence") == 20 + 90
    assert [arrival.exposed_statistics(30, wait) for wait in ("group", "token", "sequence")] == [0, 3, 0]
    assert arrival.exposed_statistics(130, "token") == 30


def test_lanes_by_hand():
    def stage(part, **counts):
        return StageCost(name="x", part=part, formula="", why="", **counts)

    stages = [
        stage("epilogue", multiplies=5, adds=4, compares=3, specials=2, lane_macs=1),
        stage("producer", adds=100),
    ]
    assert lane_cycles(stages, ("epilogue",), 10) == math.ceil((5 + 4 + 3 + 8 * 2 + 1) / 10)
    assert lane_cycles(stages, ("epilogue", "producer"), 0.5) == 2 * 129
    assert lane_cycles(stages, ("selector",), 10) == 0


def test_an_epilogue_beside_the_product_by_hand():
    product = Cycles(*[0.0] * len(Cycles._fields))._replace(cycles=1000.0, waves=4.0)
    assert exposed_epilogue(200, product, buffers=1) == 200
    assert exposed_epilogue(200, product, buffers=2) == 50
    assert exposed_epilogue(1800, product, buffers=2) == 800
    assert exposed_epilogue(0, product, buffers=2) == 0


def test_actions_of_mitigations_by_hand():
    tokens, N, K = 8, 512, 1024
    found = online_pruning(case_of(tokens, N, K), FLEXIBLE, mitigation="var+r_sparse")
    assert found.vector_multiplies == tokens * (K + 4 + N)
    assert found.vector_specials == 2 * tokens
    assert found.side_macs == tokens * 128 * (N + K)
    sides = [GemmShape(tokens, 128, K), GemmShape(tokens, N, 128)]
    assert found.side_cycles == sum(cycles_of(FLEXIBLE, Case(shape)).cycles for shape in sides)
    found = online_pruning(case_of(tokens, N, K), FLEXIBLE, criterion="amber", vector_ops_per_cycle=1.0)
    assert found.parameter_cycles == math.ceil(2 * K / FLEXIBLE.dram_bytes_per_cycle)
    # One operation a cycle on each of 132 cores, while X leaves at 4224 bytes a cycle.
    busy = math.ceil(tokens * K / 132)
    assert found.exposed_selector_cycles == selector_cycles(
        FLEXIBLE, Pattern(8, 16), "bf16"
    ) + busy - math.ceil(2 * tokens * K / 4224)


def test_the_net_is_what_is_not_hidden():
    # One lane operation a cycle and core: nothing fits beside the product.
    for mitigation in ("lpts", "var+r_sparse", "outliers"):
        found = online_pruning(
            case_of(64, 512, 512), FLEXIBLE, mitigation=mitigation, vector_ops_per_cycle=1.0
        )
        parts = (
            found.exposed_selector_cycles, found.exposed_epilogue_cycles, found.parameter_cycles, found.side_cycles,
        )  # fmt: skip
        assert found.net_cycles == found.product_cycles + sum(parts)
        assert found.exposed_epilogue_cycles > 0
        assert (found.side_cycles > 0) == ("r_sparse" in mitigation)
        # The weights of side products are read by these products.
        assert (found.parameter_cycles > 0) == (mitigation == "lpts")


def test_a_consumer_scores_again_for_each_tile_of_columns():
    case = case_of(300, 4096, 1024)
    alone = cycles_of(dataclasses.replace(FLEXIBLE, selector_placement="consumer"), case)
    tiles = math.ceil(4096 / alone.tile_cols)
    producer, consumer = (online_pruning(case, FLEXIBLE, placement=p, criterion="amber") for p in PLACES)
    assert tiles > 1
    assert consumer.vector_multiplies == tiles * producer.vector_multiplies == tiles * 300 * 1024
    assert consumer.parameter_cycles == producer.parameter_cycles
    assert (producer.epilogue_cycles, consumer.epilogue_cycles) == (
        0,
        math.ceil(tiles * 300 * 1024 / (132 * 128)),
    )


def test_what_waits_costs_a_producer_most():
    case = case_of(4096, 4096, 4096)
    plain, mean, median, clact = (
        online_pruning(case, FLEXIBLE, placement="producer", **changes)
        for changes in (
            {},
            {"mitigation": "dpts_mean"},
            {"mitigation": "dpts_median"},
            {"criterion": "clact"},
        )
    )
    assert [one.waits_for for one in (plain, mean, median, clact)] == ["group", "token", "token", "sequence"]
    assert [one.streams for one in (plain, mean, median, clact)] == [True, False, False, False]
    assert plain.exposed_selector_cycles < mean.exposed_selector_cycles < median.exposed_selector_cycles
    # X is read again at the rate of L2.
    assert clact.exposed_selector_cycles >= 2 * 4096 * 4096 // FLEXIBLE.l2_bytes_per_cycle
    # A consumer reads X again anyway.
    consumer = online_pruning(case, FLEXIBLE, placement="consumer", criterion="clact")
    bare = online_pruning(case, FLEXIBLE, placement="consumer")
    assert consumer.exposed_selector_cycles == bare.exposed_selector_cycles
    large = online_pruning(
        case, dataclasses.replace(FLEXIBLE, l2_bytes=1 << 20), placement="producer", criterion="clact"
    )
    assert large.exposed_selector_cycles > clact.exposed_selector_cycles


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("r_sparse", "rank", (16, 128, 512)),
        ("outliers", "outliers", (1, 8, 64)),
        ("salient_columns", "columns", (8, 512)),
    ],
)
@pytest.mark.parametrize("tokens", [1, 2048])
def test_more_of_a_mitigation_never_takes_less(name, field, values, tokens):
    found = [
        online_pruning(
            case_of(tokens, 4096, 4096), FLEXIBLE, mitigation=name, settings=Settings(**{field: value})
        )
        for value in values
    ]
    plain = online_pruning(case_of(tokens, 4096, 4096), FLEXIBLE)
    cycles = [plain.net_cycles, *(one.net_cycles for one in found)]
    assert cycles == sorted(cycles)
    macs = [one.side_macs + one.lane_macs for one in found]
    assert macs == sorted(set(macs))


def test_many_cases_are_answered_as_one_by_one():
    cases = [case_of(tokens, 1000, 520) for tokens in (1, 40, 7)]
    setup = PruningSetup(mitigation="r_sparse+var")
    assert online_prunings(cases, FLEXIBLE, setup) == [
        online_pruning(case, FLEXIBLE, setup=setup) for case in cases
    ]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("at_least", [1.02, 1.25, 1.9, 3.0])
def test_break_even_of_tokens_is_that_of_trying_each(place, at_least):
    case, most = case_of(1, 4096, 2048), 300
    speedup = [
        online_pruning(case_of(tokens, 4096, 2048), FLEXIBLE, placement=place).speedup_vs_dense
        for tokens in range(1, most + 1)
    ]
    found = break_even_batch(case, FLEXIBLE, at_least=at_least, most_tokens=most, placement=place)
    gains = [one >= at_least for one in speedup]
    decode = next((tokens for tokens in range(most) if not gains[tokens]), most)
    prefill = next((tokens for tokens in range(1, most + 1) if all(gains[tokens - 1 :])), None)
    assert (found.decode_tokens, found.prefill_tokens, found.most_tokens) == (decode, prefill, most)


def test_break_even_of_tokens_moves_with_what_is_asked():
    found = [
        break_even_batch(case_of(1), FLEXIBLE, at_least=x, most_tokens=400)
        for x in (0.01, 1.05, 1.3, 1.9, 9.0)
    ]
    decode = [one.decode_tokens for one in found]
    assert decode == sorted(decode, reverse=True)
    assert found[0] == (400, 1, 400)
    assert found[-1] == (0, None, 400)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("core", [FLEXIBLE, EDGE], ids=lambda core: core.id)
@pytest.mark.parametrize("tokens", [1, 64, 512, 4096])
def test_break_even_of_the_selector_is_the_slowest_that_will_do(core, tokens, place):
    case = case_of(tokens, 4096, 4096, dtype="int8")
    found = break_even_selector(case, core, placement=place)
    free = online_pruning(case, core, placement=place, selector_elements_per_cycle=math.inf)
    for rate, cycles in (
        (found.as_fast_as_dense, free.dense_cycles),
        (found.near_free, 1.01 * free.net_cycles),
    ):
        if math.isinf(rate):
            assert free.net_cycles > cycles or place == "consumer"
            continue

        def at(rate):
            return online_pruning(case, core, placement=place, selector_elements_per_cycle=rate).net_cycles

        assert at(rate) <= cycles
        step = 1 / RATE_STEP
        assert rate == step or at(rate - step) > cycles


def test_no_selector_is_fast_enough_for_what_loses_without_one():
    # A side path of rank 4096 outweighs the product.
    found = break_even_selector(
        case_of(64, 512, 512), FLEXIBLE, mitigation="r_sparse", settings=Settings(rank=4096)
    )
    assert math.isinf(found.as_fast_as_dense)
    assert found.near_free < 16


def test_tables():
    table = batch_table(case_of(1, 4096, 2048), FLEXIBLE, [1, 64])
    one = online_pruning(case_of(64, 4096, 2048), FLEXIBLE)
    row = table[table.tokens == 64].iloc[0]
    assert (row.net_cycles, row.speedup_vs_dense) == (one.net_cycles, one.speedup_vs_dense)
    assert row.speedup_vs_sparse_weights == one.weights_cycles / one.net_cycles
    table = selector_table(case_of(1, 4096, 2048), FLEXIBLE, [1, 64])
    assert table.placement.tolist() == ["producer", "consumer"] * 2
    found = break_even_selector(case_of(64, 4096, 2048), FLEXIBLE, placement="consumer")
    assert tuple(table.iloc[3][["as_fast_as_dense", "near_free"]]) == found


@settings(max_examples=30)
@given(
    tokens_of, st.sampled_from(["dpts_mean", "dpts_median", "var", "lpts", "bias2", "outliers", "r_sparse"])
)
def test_a_mitigation_never_speeds_up(tokens, name):
    case = case_of(tokens, 2048, 2048)
    for place in PLACES:
        plain, mitigated = (online_pruning(case, FLEXIBLE, placement=place, mitigation=m) for m in ((), name))
        assert mitigated.net_cycles >= plain.net_cycles
        assert mitigated.product_cycles == plain.product_cycles


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: online_pruning(Case(GemmShape(1, 8, 16)), FLEXIBLE), "expected a pattern of activations"),
        (
            lambda: online_pruning(Case(GemmShape(1, 8, 16), "8:16"), FLEXIBLE),
            "pattern 8:16 of weights: expected a pattern of activations",
        ),
        (
            lambda: online_pruning(case_of(1, encoding="bitmask"), load_core("dense")),
            "dense has no selector; expected selector_elements_per_cycle",
        ),
        (
            lambda: PruningSetup(placement="between"),
            "placement='between': expected one of producer, consumer",
        ),
        (lambda: PruningSetup(criterion="unstructured"), "leaves no N:M pattern"),
        (
            lambda: PruningSetup(criterion="unstructured_global"),
            "criterion='unstructured_global': leaves no N:M pattern",
        ),
        (
            lambda: PruningSetup(selector_elements_per_cycle=0),
            "selector_elements_per_cycle=0: expected a positive number",
        ),
        (lambda: PruningSetup(selector_elements_per_cycle=math.nan), "expected a positive number"),
        (
            lambda: PruningSetup(vector_ops_per_cycle=-1),
            "vector_ops_per_cycle=-1: expected a positive number",
        ),
        (lambda: PruningSetup(mitigation="pray"), "mitigation='pray'"),
        (lambda: online_pruning(case_of(1), FLEXIBLE, criterion="guess"), "criterion='guess'"),
        (lambda: online_pruning(case_of(1), FLEXIBLE, selector_kind="bubble"), "selector_kind='bubble'"),
        (
            lambda: break_even_batch(case_of(1), FLEXIBLE, at_least=0),
            "at_least=0: expected a positive speedup",
        ),
        (lambda: break_even_batch(case_of(1), FLEXIBLE, most_tokens=0), "most_tokens=0: expected a positive"),
    ],
)
def test_bad_questions_are_refused(call, message):
    with pytest.raises(RowError, match=message):
        call()


PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "online-pruning.md"


def page_table(header):
    """Rows of the page's table whose header line begins so, as lists of cells."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n| {header}")
    lines = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()[2:])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows, header
    return rows


def test_the_page_shows_what_is_computed():
    for tokens, place, *cells in page_table("tokens | selector at the"):
        found = online_pruning(case_of(int(tokens)), FLEXIBLE, placement=place)
        assert cells == [
            str(found.dense_cycles), str(found.weights_cycles), str(found.net_cycles), f"{found.speedup_vs_dense:.3f}",
            f"{found.speedup_vs_sparse_weights:.3f}", str(found.selected_groups), str(found.exposed_selector_cycles),
        ]  # fmt: skip
    for tokens, share, *speedups in page_table("tokens | weight columns"):
        found = online_pruning(case_of(int(tokens)), FLEXIBLE)
        assert share == f"{100 * found.weight_columns / 4096:.0f} %"
        assert speedups == [f"{found.speedup_vs_dense:.3f}", f"{found.speedup_vs_sparse_weights:.3f}"]
    for gain, *tokens in page_table("gain asked for"):
        at_least = 1 + int(gain.split()[0]) / 100
        found = break_even_batch(case_of(1), FLEXIBLE, at_least=at_least)
        assert tokens == [f"{found.decode_tokens} tokens", f"{found.prefill_tokens} tokens"]
    for pattern, *groups in page_table("4096 tokens | producer"):
        case, core = case_of(4096, pattern=pattern), load_core("flexible-16x32")
        expected = [rate for place in PLACES for rate in break_even_selector(case, core, placement=place)]
        assert [float(one) for one in groups] == expected


def test_the_page_says_how_many_comparisons_and_what_a_small_machine_needs():
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    core, per_group, near_free = load_core("flexible-16x32"), {}, {}
    for pattern in ("2:4", "8:16", "16:32"):
        case = case_of(4096, pattern=pattern)
        found = online_pruning(case, core, placement="producer")
        rate = break_even_selector(case, core, placement="producer").near_free
        per_group[pattern] = found.selector_comparisons // found.selected_groups
        near_free[pattern] = round(per_group[pattern] * rate / case.pattern.m)
        slow = online_pruning(case, core, placement="consumer", selector_elements_per_cycle=8)
        assert slow.net_cycles > slow.dense_cycles
    for numbers, words in (
        (per_group, "{} comparisons for"),
        (near_free, "{} comparisons per cycle and core for"),
    ):
        first, second, third = numbers.values()
        assert f"{words.format(first)} 2:4, {second} for 8:16 and {third} for 16:32" in page
    case = Case(GemmShape(4096, 14336, 4096), "8:16", dtype="int8", sparse_operand="activations")
    producer, consumer = (online_pruning(case, EDGE, placement=place) for place in PLACES)
    least = break_even_selector(case, EDGE, placement="consumer").as_fast_as_dense
    assert f"is {producer.speedup_vs_dense:.2f} times as fast as dense at the producer" in page
    assert f"takes {1 / consumer.speedup_vs_dense:.2f} times as long as dense" in page
    assert f"With {least:g} elements per cycle it would be as fast as dense" in page


def test_the_page_says_what_lies_between_decode_and_prefill():
    found = online_prunings([case_of(tokens) for tokens in range(1, 1025)], FLEXIBLE, PruningSetup())
    dense = np.array([one.speedup_vs_dense for one in found])
    weights = np.array([one.speedup_vs_sparse_weights for one in found])
    gap, middle, prefill = slice(4, 128), slice(128, 256), slice(256, 1024)
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    sayings = (
        f"bring at most {100 * dense[gap].max() - 100:.0f} %, while sparse weights are at least 1.7 times as fast",
        f"gain {100 * dense[middle].min() - 100:.0f} to {100 * dense[middle].max() - 100:.0f} %, and reach "
        f"{weights[middle].min():.2f} to {weights[middle].max():.2f} of the speed",
        f"are {weights[prefill].min():.2f} to {weights[prefill].max():.2f} times as fast",
    )
    assert [saying for saying in sayings if saying not in page] == []
    assert 1.7 <= (dense[gap] / weights[gap]).min() < 1.8


def test_the_page_says_what_better_tiles_would_leave_of_a_gain():
    sparse = case_of(160)
    ways = {
        "dense product": Case(sparse.shape),
        "sparse weights": dataclasses.replace(sparse, sparse_operand="weights"),
    }
    wider = {name: simulate(case, FLEXIBLE, tile=(64, 256)).cycles for name, case in ways.items()}
    off = {name: 100 - 100 * wider[name] / simulate(case, FLEXIBLE).cycles for name, case in ways.items()}
    ahead = 100 * wider["dense product"] / simulate(sparse, FLEXIBLE).cycles - 100
    said = (
        f"The dense product would take {off['dense product']:.0f} % less time and that of sparse weights "
        f"{off['sparse weights']:.0f} % less. Sparse activations would"
    )
    assert said in " ".join(PAGE.read_text(encoding="utf-8").split())
    gain = 100 * online_pruning(sparse, FLEXIBLE).speedup_vs_dense - 100
    assert ahead < min(gain / 2, 5)


NAMES = {
    "magnitude alone": {}, "Amber": {"criterion": "amber"}, "CLACT": {"criterion": "clact"},
    "L-PTS": {"mitigation": "lpts"}, "VAR": {"mitigation": "var"}, "D-PTS, mean": {"mitigation": "dpts_mean"},
    "D-PTS, median": {"mitigation": "dpts_median"}, "outliers 4:256": {"mitigation": "outliers"},
    "128 salient columns": {"mitigation": "salient_columns"}, "R-Sparse, rank 128": {"mitigation": "r_sparse"},
}  # fmt: skip


def test_the_page_shows_what_mitigations_take():
    for name, *cells in page_table("| 1 token, cycles"):
        found = [online_pruning(case_of(tokens), FLEXIBLE, **NAMES[name]) for tokens in (1, 4096)]
        assert cells == [
            cell for one in found for cell in (str(one.net_cycles), f"{one.speedup_vs_dense:.3f}")
        ]


def test_the_page_shows_what_mitigations_count():
    names = {
        "magnitude": "magnitude", "Amber": "amber", "CLACT": "clact", "unstructured": "unstructured",
        "D-PTS, mean": "dpts_mean", "D-PTS, median": "dpts_median", "S-PTS": "lpts", "VAR": "var",
        "learnable": "scale_shift", "bias1": "bias1", "R-Sparse": "r_sparse", "SmoothQuant": "smooth_dynamic",
        "outliers": "outliers", "128": "salient_columns", "rotation": "rotation",
    }  # fmt: skip
    table = (
        mitigation_table(GemmShape(4096, 14336, 4096), "8:16").query("phase == 'prefill'").set_index("name")
    )
    for label, *cells in page_table("| waits for"):
        row = table.loc[next(name for start, name in names.items() if label.startswith(start))]
        counts = [row[f"{what}_per_token"] for what in ("multiplies", "adds", "compares", "macs")]
        share = f"{100 * row.share_of_sparse_macs:.1f} %" if row.macs_per_token else ""
        assert cells == [row.waits_for, str(row.passes), *(f"{count:.0f}" for count in counts), share]


def test_the_page_says_what_selecting_takes_in_joules():
    core = load_core("flexible-8x16")
    page = PAGE.read_text(encoding="utf-8")
    for tokens in (1, 4096):
        shape = GemmShape(tokens, 14336, 4096)
        dense = energy(Case(shape), core).total.nominal
        for placement in ("producer", "consumer"):
            placed = dataclasses.replace(core, selector_placement=placement)
            case = Case(shape, "8:16/combinatorial", sparse_operand="activations")
            used = energy(case, placed)
            share = used.parts["prune"].nominal / used.total.nominal
            line = f"| {tokens} | {placement} | {used.total.nominal / dense:.2f} | {100 * share:.2f} % |"
            assert line in page
            assert (used.parts["encode"].nominal == 0) == (placement == "consumer")
