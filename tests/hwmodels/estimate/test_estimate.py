"""What must hold for every estimate on a GPU: never under the bound, never slower on a better machine."""

import dataclasses
import functools
import itertools
from math import inf

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwmodels
from hwmodels.estimate import constants
from hwmodels.estimate.estimate import CACHE_STATES, ROADS, VECTOR_TOKENS, energy_ratio, stream_s
from hwmodels.machine.chip import chip
from nmsim.case import Case, GemmShape
from nmsim.format import sparse_format

GPUS = [
    name
    for name in hwmodels.machine_names()
    if hwmodels.load_machine(name).family == "gpu"
    and "bf16" in hwmodels.load_machine(name).dense_peak_flop_per_s
]
DIMENSIONS = st.one_of(st.integers(1, 300), st.integers(1, 20_000))
PATTERNS = st.sampled_from(["dense", "2:4", "4:8", "8:16", "6:8", "1:16", "4:4", "16:32", "3:40"])
ROWS = st.fixed_dictionaries(
    {
        "M": DIMENSIONS,
        "N": DIMENSIONS,
        "K": DIMENSIONS,
        "dtype": st.sampled_from(["fp32", "fp16", "bf16"]),
        "pattern": PATTERNS,
        "encoding": st.sampled_from(["bitmask", "index", "gap", "combinatorial"]),
        "packing": st.sampled_from(["bitstream", "byte"]),
        "sparse_operand": st.sampled_from(["weights", "activations"]),
        "l2_state": st.sampled_from(CACHE_STATES),
    }
).map(lambda row: row | {"packing": "bitstream"} if row["encoding"] == "gap" else row)
TABLES = st.lists(ROWS, min_size=1, max_size=20).map(pd.DataFrame)
MACHINES = st.sampled_from(GPUS)
TIMES = ["predicted_time_s", "predicted_dense_time_s"]
FEW = settings(max_examples=50)
"""Tables hold up to twenty rows, so that this is some five hundred of them."""
FEW_ULPS = 1 + 1e-12
"""Sums in another order, no more than that."""


def better(spec, name, factor):
    """Make the same machine with one number, or one table of peaks, larger."""
    value = getattr(spec, name)
    if not isinstance(value, hwmodels.Quantity):
        raised = {key: dataclasses.replace(one, value=one.value * factor) for key, one in value.items()}
        return dataclasses.replace(spec, **{name: raised})
    return dataclasses.replace(spec, **{name: dataclasses.replace(value, value=value.value * factor)})


def times(cases, spec):
    return hwmodels.predict(cases, spec)[TIMES].to_numpy()


@FEW
@given(TABLES, MACHINES)
def test_no_estimate_is_under_its_bound_unless_the_cache_is_warm(cases, machine):
    """A product that finds its operands in the cache may beat the bound, which takes them from DRAM."""
    cases = cases.assign(l2_state=cases["l2_state"].replace("warm", ""))
    found = hwmodels.predict(cases, machine)
    assert (found["predicted_time_s"] >= found["bound_time_s"]).all()
    assert (found["predicted_dense_time_s"] >= found["bound_dense_time_s"]).all()


@FEW
@given(TABLES, MACHINES)
def test_warm_is_never_slower_and_cold_never_faster(cases, machine):
    spec = hwmodels.load_machine(machine)
    plain, warm, cold = (times(cases.assign(l2_state=state), spec) for state in ("", "warm", "cold"))
    assert (warm <= plain * FEW_ULPS).all()
    assert (cold * FEW_ULPS >= plain).all()


@FEW
@given(TABLES, MACHINES)
def test_a_flush_costs_every_product_the_same(cases, machine):
    """Sparse or dense, library or long read: events, and what has yet to be written back."""
    plain, cold = (times(cases.assign(l2_state=state), machine) for state in ("", "cold"))
    spec, values = hwmodels.load_machine(machine), constants.load()
    drain_s = values.cache_writeback_share * spec.last_level_cache_bytes.value
    wait_s = values.timed_alone_s + drain_s / spec.dram_bandwidth_bytes_per_s.value
    assert cold - plain == pytest.approx(wait_s, rel=1e-6)


@given(
    TABLES,
    MACHINES,
    st.sampled_from(
        ["dram_bandwidth_bytes_per_s", "board_power_watts", "dense_peak_flop_per_s", "vector_peak_flop_per_s"]
    ),
    st.floats(1, 10),
)
def test_a_better_machine_is_never_slower(cases, machine, name, factor):
    """Holds for bandwidth, power and peaks. It does not for cores, whose tiles may fill the last wave worse."""
    spec = hwmodels.load_machine(machine)
    if name == "dense_peak_flop_per_s":
        faster = better(better(spec, "sparse_peak_flop_per_s", factor), name, factor)
    else:
        faster = better(spec, name, factor)
    assert (times(cases, faster) <= times(cases, spec) * FEW_ULPS).all()


@pytest.mark.parametrize("machine", ["a10", "rtx4090", "a100-pcie"])
def test_lanes_beyond_the_issue_slots_never_slow_a_product(machine):
    """Cores with fewer lanes than slots, as many, and more: what they cannot start they need not fetch (A69)."""
    cases = pd.DataFrame(
        [
            {"M": m, "N": n, "K": 4096, "dtype": "fp32", "pattern": "dense"}
            for m in (1, 9, 512)
            for n in (1, 4096)
        ]
    ).assign(encoding="bitmask", packing="bitstream", sparse_operand="weights", l2_state="")
    spec = hwmodels.load_machine(machine)
    peaks = ("sparse_peak_flop_per_s", "dense_peak_flop_per_s")
    found = [
        times(cases, functools.reduce(lambda one, name, by=factor: better(one, name, by), peaks, spec))
        for factor in (1, 1.5, 2, 4)
    ]
    for slower, faster in itertools.pairwise(found):
        assert (faster <= slower * FEW_ULPS).all()
    assert machine != "a100-pcie" or (found[0] > found[-1]).any()


@FEW
@given(TABLES, MACHINES, st.floats(1, 10))
def test_a_larger_cache_is_never_slower_unless_it_was_flushed(cases, machine, factor):
    """A larger cache takes longer to write back what flushed it."""
    cases = cases.assign(l2_state=cases["l2_state"].replace("cold", ""))
    spec = hwmodels.load_machine(machine)
    larger = better(spec, "last_level_cache_bytes", factor)
    assert (times(cases, larger) <= times(cases, spec) * FEW_ULPS).all()


@FEW
@given(TABLES, MACHINES, st.floats(1, 3))
def test_a_faster_clock_never_slows_a_dense_product(cases, machine, factor):
    """With the peaks as they are. Sparse ones may fall below the rate from which cores share what they load (A23)."""
    spec = hwmodels.load_machine(machine)
    faster = better(spec, "clock_hz", factor)
    assert (times(cases, faster)[:, 1] <= times(cases, spec)[:, 1] * FEW_ULPS).all()


def test_more_cores_of_the_same_total_rate_can_be_slower():
    """108 tiles of 256x128 are one wave of 108 cores; on 120 slower ones they are a wave as well."""
    spec = hwmodels.load_machine("a100")
    finer = better(spec, "cores", 120 / 108)
    case = pd.DataFrame({"M": [256 * 12], "N": [128 * 9], "K": [8192], "pattern": ["dense"]})
    assert times(case, finer)[0, 0] > 1.05 * times(case, spec)[0, 0]


@FEW
@given(TABLES, MACHINES)
def test_a_dense_case_is_its_own_baseline(cases, machine):
    found = hwmodels.predict(cases.assign(pattern="dense"), machine)
    for name in ("predicted_speedup_vs_dense", "predicted_speedup_low", "predicted_speedup_high"):
        assert (found[name] == 1).all()
    assert (found["predicted_time_s"] == found["predicted_dense_time_s"]).all()
    assert not found["extrapolates"].any()


@FEW
@given(TABLES, MACHINES)
def test_the_dense_baseline_does_not_depend_on_the_pattern(cases, machine):
    dense = hwmodels.predict(cases.assign(pattern="dense"), machine)
    found = hwmodels.predict(cases, machine)
    assert (found["predicted_dense_time_s"] == dense["predicted_time_s"]).all()


@FEW
@given(TABLES, MACHINES)
def test_rows_do_not_depend_on_each_other(cases, machine):
    together = times(cases, machine)
    for place in range(len(cases)):
        assert (times(cases.iloc[[place]], machine) == together[place]).all()


@FEW
@given(TABLES, MACHINES)
def test_an_interval_holds_its_prediction_in_order(cases, machine):
    found = hwmodels.predict(cases, machine)
    known = found[found["comparable_rows"] > 0]
    assert (known["predicted_speedup_low"] > 0).all()
    assert (known["predicted_speedup_low"] <= known["predicted_speedup_high"]).all()
    unknown = found[(found["comparable_rows"] == 0) & (found["pattern"] != "dense")]
    assert unknown["predicted_speedup_low"].isna().all()
    assert unknown["extrapolates"].all()


def test_a_machine_without_a_power_figure_is_estimated_too():
    spec = hwmodels.load_machine("a100-pcie")
    free = dataclasses.replace(spec, board_power_watts=None, process_energy_scale=None)
    assert chip(free).power_watts == inf
    case = Case(GemmShape(16384, 16384, 16384), "2:4/index")
    limited, unlimited = hwmodels.predict(case, spec), hwmodels.predict(case, free)
    assert unlimited.predicted_time_s < limited.predicted_time_s
    assert unlimited.predicted_time_s > unlimited.bound_time_s


def test_a_stream_by_hand():
    """An H200 reads 100 MB at 4.8 TB/s: 20.8 us over the share it reaches, beside 16.7 TB/s from its cache."""
    values, device = constants.load(), chip(hwmodels.load_machine("h200"))
    no = np.zeros(1, bool)
    for fused, share in ((False, values.stream_dram_share), (True, values.fused_dram_share)):
        memory_s = 1e8 / 4.8e12 / share
        cache_s = 1e8 / (132 * 1.98e9 * 64 * values.cache_bandwidth_share)
        found = stream_s(np.array([1e8]), no, device, values, fused=fused).item()
        expected = values.library_launch_s + (memory_s**4 + cache_s**4) ** 0.25
        assert found == pytest.approx(expected, rel=1e-12)


def test_a_warm_stream_fades_into_a_cold_one():
    """Up to the share of the cache that survives, nothing comes from DRAM; beyond, more and more, and then all."""
    values, device = constants.load(), chip(hwmodels.load_machine("h200"))
    room = values.cache_residency_share * device.cache_bytes
    sizes = room * np.array([0.5, 1.0, 1 + values.cache_overflow_ratio / 2, 1 + values.cache_overflow_ratio])
    yes, no = np.ones(4, bool), np.zeros(4, bool)
    warm = stream_s(sizes, yes, device, values, fused=False)
    cold = stream_s(sizes, no, device, values, fused=False)
    from_cache = values.library_launch_s + sizes / (device.cache_bytes_per_s * values.cache_bandwidth_share)
    assert warm[:2] == pytest.approx(from_cache[:2], rel=1e-12)
    assert from_cache[2] < warm[2] < cold[2]
    assert warm[3] == pytest.approx(cold[3], rel=1e-12)


def test_energy_of_a_flop_by_value_type():
    """16 bits are the yardstick, tf32 takes twice, bytes a share, 4 bits its square; vector lanes have their own figure."""
    values = constants.prior()
    found = energy_ratio(np.array([4, 8, 16, 32, 32]), np.array([False] * 4 + [True]), values)
    lanes = values.vector_energy_joules_per_flop / values.tensor_energy_joules_per_flop
    assert found.tolist() == [0.25, 0.5, 1.0, 2.0, lanes]


def roads(tokens, pattern, encoding, machine, operand="weights"):
    """Name the way the estimate runs a 4096 x 4096 layer."""
    from hwmodels.estimate.bounds import evaluate, plan
    from hwmodels.estimate.estimate import estimate
    from hwmodels.estimate.model import _stack

    spec = hwmodels.load_machine(machine)
    how = _stack([plan(spec, "bf16", operand, sparse_format(pattern, encoding=encoding))])
    shape = tuple(np.array([size]) for size in (tokens, 4096, 4096))
    moved, bound, moved_dense, _ = evaluate(spec, how, *shape)
    found = estimate(spec, constants.load(), how, shape, moved, bound, moved_dense, np.zeros(1, np.int8))
    return ROADS[found.road.item()]


def test_how_a_product_is_run():
    assert roads(4096, "2:4", "index", "a100") == "unit"
    assert roads(1, "2:4", "index", "a100") == "fused"  # nobody decodes 2:4 for one token on the unit
    assert roads(1, "8:16", "bitmask", "h200") == "fused"
    assert roads(8192, "8:16", "bitmask", "h200") == "expanded"
    assert roads(8192, "8:16", "combinatorial", "h200-8x16") == "unit"


@pytest.mark.parametrize("machine", ["a100", "h200", "rtx4090"])
def test_a_large_product_without_a_unit_gains_nothing(machine):
    """Expanding is not free, and the dense library runs as before."""
    case = Case(GemmShape(8192, 8192, 8192), "8:16")
    answer = hwmodels.predict(case, machine)
    assert 0.5 < answer.predicted_speedup_vs_dense < 1


@pytest.mark.parametrize("machine", ["a100", "h100", "rtx4090", "rtx3090", "gb10"])
def test_2_4_gains_less_than_the_bound_says_where_it_gains(machine):
    """Large bf16 products: published speedups lie between 1.1x and 1.95x, the bound says 2x."""
    answer = hwmodels.predict(Case(GemmShape(8192, 8192, 8192), "2:4/index"), machine)
    assert answer.bound_speedup_vs_dense == pytest.approx(2, rel=0.01)
    assert 1 < answer.predicted_speedup_vs_dense < 2


def test_few_tokens_run_on_the_vector_lanes_and_more_do_not():
    sizes = pd.DataFrame({"M": [VECTOR_TOKENS, VECTOR_TOKENS + 1], "N": 4096, "K": 4096, "pattern": "8:16"})
    few, more = hwmodels.predict(sizes, "rtx4090")["predicted_time_s"]
    assert more > 1.05 * few
