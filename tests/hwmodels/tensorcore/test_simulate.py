import dataclasses

import numpy as np
import pytest
from core_cases import designs

from hwmodels.tensorcore import blocks
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.point import point
from hwmodels.tensorcore.record import load_core
from hwmodels.tensorcore.services import STAGES
from hwmodels.tensorcore.simulate import random_mask, simulate
from hwmodels.tensorcore.trace import ABSENT
from nmsim.case import Case, GemmShape
from nmsim.errors import PatternError, RowError
from nmsim.format import as_format
from nmsim.pattern import Pattern

SAME = (
    "dram_read_bytes", "l2_read_bytes", "shared_read_bytes", "operand_b_bytes", "macs", "effectual_macs",
    "decoded_groups", "pruned_groups", "accumulator_accesses", "waves",
)  # fmt: skip
"""What closed form and simulator count on separate roads."""


def both(case, core, **how):
    found = Cycles(*closed_form(np.array([point(core, case)]))[0])
    return found, simulate(case, core, **how)


def ratios(seed, count, *, regular):
    found = []
    for place, (case, core) in enumerate(designs(seed, count, regular=regular)):
        closed, seen = both(case, core, seed=place)
        for name in SAME:
            assert getattr(seen, name) == getattr(closed, name), (name, case, core)
        found.append(seen.cycles / closed.cycles)
    return np.array(found)


def test_closed_form_and_simulator_agree_within_1_percent_on_500_regular_designs():
    found = ratios(0, 500, regular=True)
    assert found.min() >= 1.0
    assert found.max() <= 1.01
    assert (found == 1.0).mean() > 0.9


def test_the_simulator_is_never_below_the_closed_form_on_any_design():
    """Single buffers, few blocks, ragged edges: the bound holds, and is looser."""
    found = ratios(7, 150, regular=False)
    assert found.min() >= 1.0
    assert np.quantile(found, 0.9) < 1.05


@pytest.mark.parametrize(
    ("name", "dtype", "pattern", "shape"),
    [
        ("dense", "bf16", None, (4096, 4096, 4096)),
        ("nvidia-like-2x4", "bf16", "2:4", (4096, 4096, 4096)),
        ("flexible-8x16", "bf16", "8:16", (1, 4096, 4096)),
        ("flexible-16x32", "bf16", "16:32", (2048, 2048, 4096)),
        ("edge-npu-8x16", "int8", "8:16", (256, 2048, 2048)),
    ],
)
def test_ideal_designs_are_equal_to_the_cycle(name, dtype, pattern, shape):
    core = load_core(name)
    case = Case(GemmShape(*shape), as_format(pattern, encoding=core.encodings[-1]), dtype=dtype)
    closed, seen = both(case, core)
    assert seen.cycles == closed.cycles
    assert list(seen.busy_cycles.values()) == [
        getattr(closed, f"{stage}_cycles") for stage in seen.busy_cycles
    ]


def test_a_mask_that_keeps_everything_is_a_dense_product():
    core = load_core("dense")
    case = Case(GemmShape(256, 512, 1024))
    free = dataclasses.replace(
        core, patterns=(Pattern(4, 4),), sparse_operands=("weights",), encodings=("combinatorial",)
    )
    kept = dataclasses.replace(free, decoder_latency_cycles=0)
    whole = simulate(Case(case.shape, "4:4/combinatorial"), kept, mask=np.ones((512, 1024), bool))
    dense = simulate(case, core)
    assert (whole.macs, whole.dram_read_bytes, whole.effectual_macs) == (
        dense.macs, dense.dram_read_bytes, dense.effectual_macs,
    )  # fmt: skip
    assert whole.busy_cycles | {"decode": 0} == dense.busy_cycles


def test_rows_that_keep_more_hold_up_the_others():
    """Unstructured sparsity of the same density does not reach what N:M reaches: rows of a strip wait for the fullest."""
    core = dataclasses.replace(load_core("flexible-8x16"), shared_bytes_per_cycle=4096)
    shape = GemmShape(512, 1024, 2048)
    regular = simulate(Case(shape, "8:16"), core)
    rng = np.random.default_rng(0)
    scattered = simulate(Case(shape), core, mask=rng.random((1024, 2048)) < 0.5)
    assert scattered.effectual_macs == pytest.approx(regular.effectual_macs, rel=0.01)
    assert scattered.busy_cycles["multiply"] > 1.3 * regular.busy_cycles["multiply"]
    assert scattered.cycles > regular.cycles


def test_a_mask_that_crowds_one_bank_stalls_the_select_network():
    core = dataclasses.replace(load_core("flexible-8x16"), select_network="banked", select_banks=8)
    case = Case(GemmShape(256, 512, 1024), "8:16")
    apart = np.zeros((512, 1024), bool)
    apart[:, np.arange(1024) % 16 < 8] = True
    crowded = np.zeros((512, 1024), bool)
    crowded[:, np.arange(1024) % 2 == 0] = True
    one, other = simulate(case, core, mask=apart), simulate(case, core, mask=crowded)
    assert one.busy_cycles["select"] < other.busy_cycles["select"]
    muxed = simulate(case, load_core("flexible-8x16"), mask=crowded)
    assert muxed.busy_cycles["select"] < other.busy_cycles["select"]


def test_codes_of_different_length_are_counted_one_by_one():
    core = dataclasses.replace(load_core("flexible-8x16"), encodings=("gap",))
    case = Case(GemmShape(64, 256, 1024), "8:16/gap:1")
    clustered = np.zeros((256, 1024), bool)
    clustered[:, np.arange(1024) % 16 < 8] = True
    short = simulate(case, core, mask=clustered)
    mixed = simulate(case, core, mask=random_mask(256, 1024, Pattern(8, 16)))
    assert short.dram_read_bytes < mixed.dram_read_bytes
    expected = Cycles(*closed_form(np.array([point(core, case)]))[0])
    assert mixed.dram_read_bytes == pytest.approx(expected.dram_read_bytes, rel=0.01)


def test_pairs_of_a_dual_sided_core_arrive_unevenly():
    """Half of the half is a quarter of the products, but the lanes wait for the one with the most pairs."""
    core = load_core("dual-sided-8x16")
    case = Case(GemmShape(128, 256, 2048), "8:16")
    seen = simulate(case, core, other=Pattern(8, 16))
    even = Cycles(*closed_form(np.array([point(core, case, Pattern(8, 16))]))[0])
    assert seen.effectual_macs == pytest.approx(128 * 256 * 2048 / 4, rel=0.01)
    assert seen.busy_cycles["multiply"] > 1.05 * even.multiply_cycles
    ahead = simulate(case, dataclasses.replace(core, match_windows=1), other=Pattern(8, 16))
    assert ahead.busy_cycles["multiply"] > seen.busy_cycles["multiply"]


def test_pairs_are_counted_as_a_plain_product_of_masks_counts_them():
    rng = np.random.default_rng(3)
    a, b = rng.random((20, 130)) < 0.5, rng.random((9, 130)) < 0.4
    cut, other = blocks.Cut(20, 130, 8, 50), blocks.Cut(9, 130, 4, 50)
    steps, pairs = blocks.matched_steps(a, b, cut, other, (4, 2), 30, 3)
    assert pairs == (a.astype(int) @ b.astype(int).T).sum()
    expected = 0
    for rows in (slice(8, 12), slice(12, 16)):
        for cols in (slice(4, 6), slice(6, 8)):
            for ks in (slice(50, 80), slice(80, 100)):
                most = (a[rows, ks].astype(int) @ b[cols, ks].astype(int).T).max()
                expected += max(1, -(-most // 3))
    assert steps[1, 1, 1] == expected


def test_the_columns_that_tokens_need_are_those_of_their_masks():
    core = dataclasses.replace(load_core("flexible-8x16"), column_skip=True)
    mask = random_mask(4, 2048, Pattern(8, 16), seed=5)
    case = Case(GemmShape(4, 1024, 2048), "8:16", sparse_operand="activations")
    seen = simulate(case, core, mask=mask)
    none = simulate(case, dataclasses.replace(core, column_skip=False), mask=mask)
    assert seen.cycles < none.cycles
    unused = 2048 - int(mask.any(axis=0).sum())
    assert none.dram_read_bytes - seen.dram_read_bytes == unused * 1024 * 2


@pytest.mark.parametrize(
    "name", ["dram_bytes_per_cycle", "decoder_elements_per_cycle", "shared_bytes_per_cycle", "l2_blocks"]
)
def test_more_of_anything_never_costs_cycles(name):
    for case, core in designs(11, 20, regular=False):
        better = dataclasses.replace(core, **{name: 2 * getattr(core, name)})
        assert simulate(case, better).cycles <= simulate(case, core).cycles


def test_columns_that_are_kept_are_those_that_any_token_will_need():
    core = dataclasses.replace(
        load_core("flexible-8x16"), column_skip=True, patterns=(Pattern(1, 32),), cores=4
    )
    mask = np.zeros((128, 1024), bool)
    mask[:64, ::32] = True
    mask[64:, 1::32] = True
    case = Case(GemmShape(128, 64, 1024), "1:32", sparse_operand="activations")
    seen = simulate(case, core, mask=mask, tile=(16, 64))
    assert seen.waves > 1
    whole = simulate(case, dataclasses.replace(core, column_skip=False), mask=mask, tile=(16, 64))
    assert whole.dram_read_bytes - seen.dram_read_bytes == (1024 - 64) * 64 * 2


def test_a_core_that_skips_nothing_refuses_a_mask_without_a_pattern():
    with pytest.raises(RowError, match="dense skips nothing"):
        simulate(Case(GemmShape(8, 64, 128)), "dense", mask=np.ones((64, 128), bool))


def test_patterns_that_keep_all_are_not_decoded():
    core = dataclasses.replace(
        load_core("flexible-8x16"), patterns=(Pattern(1, 1),), decoder_elements_per_cycle=16
    )
    closed, seen = both(Case(GemmShape(64, 256, 512), "1:1"), core)
    assert seen.cycles >= closed.cycles
    assert seen.decoded_groups == closed.decoded_groups == 0


def test_names_and_texts_do_as_well():
    case = Case(GemmShape(16, 64, 256), "8:16")
    assert simulate(case, "dual-sided-8x16", other="8:16") == simulate(
        case, load_core("dual-sided-8x16"), other=Pattern(8, 16)
    )


def test_progress_reaches_the_end():
    shares = []
    simulate(Case(GemmShape(512, 512, 512)), load_core("dense"), progress=shares.append)
    assert shares[-1] == 1.0


def test_bad_masks():
    core, case = load_core("flexible-8x16"), Case(GemmShape(8, 64, 128), "8:16")
    with pytest.raises(RowError, match=r"mask of type bool and shape \[8, 128\]: expected bool \[64, 128\]"):
        simulate(case, core, mask=np.ones((8, 128), bool))
    with pytest.raises(RowError, match="mask of type float64"):
        simulate(case, core, mask=np.ones((64, 128)))
    with pytest.raises(PatternError, match="keeps 16: expected at most 8 of every 16"):
        simulate(case, core, mask=np.ones((64, 128), bool))
    with pytest.raises(RowError, match="other_mask: expected a second pattern"):
        simulate(case, core, other_mask=np.ones((8, 128), bool))


def test_a_trace_adds_up_to_what_the_simulator_counts():
    for place, (case, core) in enumerate(designs(23, 25, regular=False)):
        plain, seen = simulate(case, core, seed=place), simulate(case, core, seed=place, trace=True)
        assert plain == seen
        assert plain.trace is None
        trace = seen.trace
        assert trace.write_end_cycle[-1] == seen.cycles
        assert len(trace.write_cycles) == seen.waves
        assert len(trace.start_cycle) == seen.waves * trace.blocks_per_wave
        there = trace.start_cycle != ABSENT
        assert ((trace.duration_cycles == ABSENT) == ~there).all()
        assert there[..., 0].all()
        worked = np.where(there, trace.duration_cycles, 0).sum(axis=0).max(axis=1)
        assert [*worked, trace.write_cycles.sum()] == list(seen.busy_cycles.values())


def test_no_stage_of_a_trace_begins_before_it_may():
    """The rules, once more and by hand: one block at a time, latencies, room, buffers of sums; and something always binds."""
    bound = dict.fromkeys(("stage", "block", "room", "buffer"), 0)
    for place, (case, core) in enumerate(designs(29, 25, regular=False)):
        trace = simulate(case, dataclasses.replace(core, cores=1), seed=place, trace=True).trace
        start, end = trace.start_cycle[..., 0], trace.end_cycle[..., 0]
        for block, stage in np.ndindex(start.shape):
            wave, in_wave = divmod(block, trace.blocks_per_wave)
            room = int(trace.room_blocks[stage])
            free = {"stage": end[block - 1, stage] if block else 0}
            if stage:
                free["block"] = end[block, stage - 1] + trace.latency_cycles[stage - 1]
            if stage + 1 < start.shape[1] and block >= room:
                free["room"] = end[block - room, stage + 1]
            if STAGES[stage] == "multiply" and in_wave == 0 and wave >= trace.accumulator_buffers:
                free["buffer"] = trace.write_end_cycle[wave - trace.accumulator_buffers]
            assert start[block, stage] == max(free.values())
            for name, at in free.items():
                bound[name] += at == start[block, stage]
    assert all(bound.values())


def test_cores_without_a_tile_are_absent_from_the_trace():
    core = dataclasses.replace(load_core("flexible-8x16"), cores=4)
    trace = simulate(Case(GemmShape(80, 16, 128), "8:16"), core, tile=(16, 16), trace=True).trace
    assert (trace.start_cycle[-1, 2:, 1:] == ABSENT).all()
    assert (trace.start_cycle[:, :2] != ABSENT).all()
    assert (trace.start_cycle[0] != ABSENT).all()
    assert ((trace.end_cycle == ABSENT) == (trace.start_cycle == ABSENT)).all()


def test_a_trace_that_would_fill_the_memory_is_refused():
    with pytest.raises(
        RowError, match=r"trace of \d+ blocks on 132 cores: \d+ numbers, expected at most 33554432"
    ):
        simulate(Case(GemmShape(1 << 14, 1 << 14, 1 << 14)), "dense", tile=(16, 16), trace=True)
