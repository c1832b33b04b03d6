import dataclasses
import itertools

import numpy as np
import pytest
from core_cases import designs
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.tensorcore.answer import predict_core
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.point import TILE_COLS, TILE_ROWS, as_record, point, with_waves
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from nmsim.case import VALUE_BITS, Case, GemmShape
from nmsim.errors import RowError
from nmsim.format import as_format

FASTER = (
    "dram_bytes_per_cycle", "l2_bytes_per_cycle", "shared_bytes_per_cycle", "decoder_elements_per_cycle",
    "operand_b_bytes_per_cycle", "selector_elements_per_cycle", "accumulator_bytes_per_cycle",
    "register_blocks", "l2_blocks",
)  # fmt: skip
SLOWER = ("dram_latency_cycles", "l2_latency_cycles", "decoder_latency_cycles", "selector_latency_cycles")
SHAPES = [GemmShape(1, 4096, 4096), GemmShape(64, 14336, 4096), GemmShape(4096, 4096, 4096)]


def evaluate(core: SparseTensorCore, case: Case) -> Cycles:
    return Cycles(*closed_form(np.array([point(core, case)]))[0])


def wide_open(core: SparseTensorCore) -> SparseTensorCore:
    """The core with nothing but its array in the way."""
    fast = dict.fromkeys((name for name in FASTER if name.endswith("_per_cycle")), 10**8)
    return dataclasses.replace(core, **fast | dict.fromkeys(SLOWER, 0))


def test_a_dense_product_by_hand():
    """4096 cubed on 132 cores of 2048 multiply-adds: 64 x 16 tiles of 64 x 256 in 8 waves of 64 x 2, 64 blocks each."""
    found = evaluate(load_core("dense"), Case(GemmShape(4096, 4096, 4096)))
    assert (found.tile_rows, found.tile_cols, found.tile_k, found.waves) == (64, 256, 64, 8)
    block_cycles = (64 // 16) * (256 // 8) * (64 // 16)
    assert found.multiply_cycles == 8 * 64 * block_cycles
    a_bytes, b_bytes = 64 * 64 * 2, 256 * 64 * 2
    assert found.shared_cycles == 8 * 64 * (a_bytes + b_bytes) / 128
    assert found.l2_read_bytes == 8 * 64 * (64 * a_bytes + 2 * b_bytes)
    assert found.dram_read_bytes == 2 * 4096 * 4096 * 2
    assert found.macs == found.effectual_macs == 4096**3
    assert 0 < found.cycles - found.multiply_cycles < 5000


def test_the_rule_is_near_the_best_tile():
    """The best of all tiles is what a search would find; the rule may lose a little, and seldom more."""
    ratios = []
    for name, tokens, shape in itertools.product(
        ("dense", "flexible-8x16"),
        (1, 16, 128, 144, 320, 1000, 4096),
        ((4096, 4096), (1024, 4096), (14336, 4096)),
    ):
        core = load_core(name)
        pattern = "8:16" if core.patterns else None
        for operand in ("weights", "activations") if pattern else ("weights",):
            case = Case(GemmShape(tokens, *shape), pattern, sparse_operand=operand)
            p = point(core, case)
            record = as_record(p)
            cuts = [
                with_waves(record, rows, cols)
                for rows in TILE_ROWS
                for cols in TILE_COLS
                if rows * cols <= 16384
            ]
            rows = np.array([p] * len(cuts))
            best = closed_form(rows, np.array(cuts))[:, 0].min()
            ratios.append(closed_form(np.array([p]))[0, 0] / best)
    assert np.mean(ratios) < 1.05
    assert max(ratios) < 1.5


def test_more_tokens_do_not_fall_off_a_cliff():
    """Waves that fit the cores exactly, but read everything again for each, are not worth it."""
    core = load_core("dense")
    for fewer, more in ((16500, 17000), (300, 320), (33000, 33792)):
        one, other = (evaluate(core, Case(GemmShape(tokens, 4096, 4096))).cycles for tokens in (fewer, more))
        assert one < 1.1 * other


def test_metadata_cost_time_at_every_level():
    """Not free: the same values behind longer codes take longer to come, from DRAM, from L2 and from shared memory."""
    core = load_core("flexible-8x16")
    short, long = (
        evaluate(core, Case(SHAPES[0], as_format("8:16", encoding=encoding)))
        for encoding in ("combinatorial", "index")
    )
    for stage in ("dram", "l2", "shared"):
        assert getattr(short, f"{stage}_cycles") < getattr(long, f"{stage}_cycles")
    assert short.cycles < long.cycles


@pytest.mark.parametrize("seed", range(4))
def test_no_array_is_used_beyond_its_peak(seed):
    """A utilisation of 291 % cannot come out."""
    for case, core in designs(seed, 50, regular=False):
        found = evaluate(core, case)
        rate = core.macs_per_cycle(VALUE_BITS[case.dtype])
        assert found.effectual_macs <= found.macs <= found.cycles * rate


def test_a_sparser_pattern_gains_nothing_where_operand_b_does_not_shrink():
    """2:8 halves the multiplications of 2:4 again, but not the window of operand B, nor what is read of it."""
    core = load_core("flexible-8x16")
    patterns = (*core.patterns, dataclasses.replace(core.patterns[0], m=8))
    core = dataclasses.replace(core, patterns=patterns)
    shape = GemmShape(4096, 4096, 4096)
    two_four, two_eight = (
        predict_core(Case(shape, as_format(pattern, encoding="bitmask")), core) for pattern in ("2:4", "2:8")
    )
    assert two_eight.stage_cycles["multiply"] == two_four.stage_cycles["multiply"] / 2
    assert two_eight.stage_cycles["select"] == two_four.stage_cycles["select"]
    assert two_eight.predicted_speedup_vs_dense < 2.0
    free = dataclasses.replace(wide_open(core), shared_bytes_per_cycle=10**8)
    assert predict_core(Case(shape, "2:8/bitmask"), free).predicted_speedup_vs_dense == pytest.approx(
        4, rel=0.02
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_density_1_is_the_dense_core(shape):
    dense, flexible = (
        dataclasses.replace(load_core(name), operand_b_bytes_per_cycle=512)
        for name in ("dense", "flexible-16x32")
    )
    assert evaluate(dense, Case(shape)) == evaluate(flexible, Case(shape))
    whole = dataclasses.replace(flexible, patterns=(dataclasses.replace(flexible.patterns[0], n=4, m=4),))
    without_codes = Case(shape, "4:4/combinatorial")
    kept = dataclasses.replace(whole, decoder_elements_per_cycle=10**9, decoder_latency_cycles=0)
    stages = ("dram", "l2", "shared", "select", "multiply", "accumulate", "write")
    one, other = evaluate(dense, Case(shape)), evaluate(kept, without_codes)
    assert [getattr(one, f"{s}_cycles") for s in stages] == [getattr(other, f"{s}_cycles") for s in stages]


@given(seed=st.integers(0, 2**31), name=st.sampled_from((*FASTER, *SLOWER)))
def test_more_bandwidth_or_faster_decoders_never_cost_cycles(seed, name):
    ((case, core),) = designs(seed, 1, regular=False)
    value = getattr(core, name)
    better = dataclasses.replace(core, **{name: 2 * value if name in FASTER else value // 2})
    assert evaluate(better, case).cycles <= evaluate(core, case).cycles


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16", "16:32"])
def test_an_array_with_nothing_in_its_way_does_twice_the_work_at_half_density(pattern):
    core = wide_open(load_core("flexible-16x32"))
    shape = GemmShape(4096, 4096, 4096)
    answer = predict_core(Case(shape, as_format(pattern, encoding="bitmask")), core)
    assert answer.limit == "multiply"
    assert answer.predicted_speedup_vs_dense == pytest.approx(2.0, rel=0.001)
    assert answer.utilisation == pytest.approx(predict_core(Case(shape), core).utilisation, rel=0.001)


def test_pruning_on_loading_reads_dense_activations_and_prunes_again_for_every_tile():
    producer = load_core("flexible-8x16")
    consumer = dataclasses.replace(producer, selector_placement="consumer")
    case = Case(GemmShape(2048, 4096, 4096), "8:16", sparse_operand="activations")
    before, after = evaluate(producer, case), evaluate(consumer, case)
    assert before.pruned_groups == before.prune_cycles == 0
    assert after.pruned_groups == 2048 * 256 * (4096 / after.tile_cols)
    assert after.dram_read_bytes > before.dram_read_bytes
    assert after.decoded_groups == 0


def test_a_column_that_no_token_needs_stays_in_dram():
    core = dataclasses.replace(load_core("flexible-8x16"), column_skip=True)
    case = Case(GemmShape(1, 4096, 4096), "8:16", sparse_operand="activations")
    skipping = evaluate(core, case)
    fetching = evaluate(dataclasses.replace(core, column_skip=False), case)
    weights = 4096 * 4096 * 2
    assert fetching.dram_read_bytes - skipping.dram_read_bytes == weights / 2


def test_the_answer_names_what_limits_it_and_what_comes_next():
    answer = predict_core(Case(GemmShape(1, 4096, 4096), "8:16/combinatorial"), "flexible-8x16")
    assert answer.limit == "dram"
    assert answer.explanation.startswith(
        f"DRAM to L2 works {answer.stage_cycles['dram']} of {answer.cycles} cycles"
    )
    assert "next is L2 to shared memory with" in answer.explanation


@pytest.mark.parametrize(
    ("case", "other", "problem"),
    [
        (Case(SHAPES[0], dtype="fp32"), None, "dtype 'fp32': flexible-8x16 takes fp16, bf16, fp8, int8"),
        (Case(SHAPES[0], "8:16/gap"), None, "encoding 'gap': flexible-8x16 decodes"),
        (
            Case(SHAPES[0], "8:16"),
            "8:16",
            "second pattern 8:16: flexible-8x16 does not skip zeros of both",
        ),
    ],
)
def test_what_a_core_does_not_take(case, other, problem):
    with pytest.raises(RowError, match=problem):
        predict_core(case, "flexible-8x16", other=other)


def test_tiles_that_do_not_fit():
    with pytest.raises(RowError, match=r"tile 512x512: fits neither into 131072 bytes of partial sums"):
        predict_core(Case(SHAPES[2]), "dense", tile=(512, 512))
    tiny = dataclasses.replace(load_core("dense"), shared_bytes=1000, shared_blocks=64)
    with pytest.raises(RowError, match="no tile: fits neither"):
        predict_core(Case(SHAPES[2]), tiny)
