"""The estimate on a CPU by hand, and what each of its terms changes."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate import cpu
from nmsim.format import SparseFormat
from validate.judge.rows import MEASURED_FOLDER

GENOA = hwmodels.load_machine(Path(MEASURED_FOLDER) / "epyc-genoa-2core.toml")
MILAN = hwmodels.load_machine(Path(MEASURED_FOLDER) / "epyc-milan-2core.toml")


def times(machine, M=1, N=8192, K=8192, dtype="bf16", format="2:4/index", threads=1, state="cold"):
    """Sparse and dense seconds of a product."""
    pattern, encoding = format.split("/")
    cells = {"M": M, "N": N, "K": K, "dtype": dtype, "pattern": pattern, "encoding": encoding}
    table = pd.DataFrame([{**cells, "threads": threads, "l2_state": state}])
    row = hwmodels.predict(table, machine).iloc[0]
    return row["predicted_time_s"], row["predicted_dense_time_s"]


def changed(machine, **values):
    """The machine with other numbers; None takes a field away."""
    fields = {
        name: value and dataclasses.replace(getattr(machine, name), value=value)
        for name, value in values.items()
    }
    return dataclasses.replace(machine, **fields)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_dense_product_by_hand(threads):
    elements = 8192 * 8192 / threads
    all_bytes = 2 * 8192 * 8192 + 2 * 8192 + 4 * 8192
    core_bytes_per_s = GENOA.core_read_bandwidth_bytes_per_s.value
    # The rows are asked for ahead: nothing but their bytes takes time beside the work.
    read_s = all_bytes / threads / core_bytes_per_s
    # 13 instructions on 16 lanes, and on none 4 and two requests of each of 4 rows, for 16 elements of 4 rows.
    lanes = (13 * 16 + (4 + 2 * 4) * 8) / 64
    issued_per_s = GENOA.issue_lanes_per_core_per_cycle.value * GENOA.clock_hz.value
    core_s = ((elements * lanes / issued_per_s) ** 4 + read_s**4) ** 0.25
    expected_s = GENOA.sparse_call_overhead_s.value + core_s
    if threads == 2:
        shared_s = all_bytes / max(core_bytes_per_s, GENOA.dram_bandwidth_bytes_per_s.value)
        expected_s += GENOA.thread_wake_s.value - core_s + (core_s**4 + shared_s**4) ** 0.25
    assert times(GENOA, threads=threads)[1] == pytest.approx(expected_s, rel=5e-3)


def test_the_library_multiplies_many_tokens_if_it_is_faster():
    few, many = cpu.FEW_TOKENS, 16
    without = dataclasses.replace(GENOA, library_flop_per_s={})
    assert times(GENOA, few) == times(without, few)
    with_s, own_s = times(GENOA, many)[1], times(without, many)[1]
    assert with_s < 0.9 * own_s
    flop_s = 2 * many * 8192 * 8192 / GENOA.library_flop_per_s["bf16"].value
    read_s = (2 * 8192 * 8192 + many * 8192 * 2 * 3) / GENOA.core_read_bandwidth_bytes_per_s.value
    assert with_s == pytest.approx(flop_s + read_s, rel=1e-2)
    # The library's fp16 product is slow here: our own kernel stays the baseline.
    slow = times(GENOA, many, dtype="fp16")[1]
    assert slow == times(without, many, dtype="fp16")[1]


def test_files_without_the_new_figures_lose_their_terms():
    many = 2 * cpu.FEW_TOKENS
    assert MILAN.row_start_s is None
    assert not MILAN.library_flop_per_s
    without = changed(GENOA, row_start_s=None)
    lost_s = times(GENOA, many, format="8:16/bitmask")[0] - times(without, many, format="8:16/bitmask")[0]
    assert 0 < lost_s <= 8192 * GENOA.row_start_s.value
    # The rows of few tokens are read as streams, in which no row starts anew.
    assert times(GENOA, cpu.FEW_TOKENS) == times(without, cpu.FEW_TOKENS)
    # What lies in a cache starts no row in DRAM.
    small = {"N": 256, "K": 256, "state": "warm"}
    assert times(GENOA, **small) == times(without, **small)


@pytest.mark.parametrize("machine", [MILAN, GENOA], ids=["milan", "genoa"])
def test_cores_share_dram(machine):
    """Two cores are never faster than what DRAM gives to both, and gain where it gives more."""
    total_bytes = 4 * 8192 * 8192
    together = max(machine.core_read_bandwidth_bytes_per_s.value, machine.dram_bandwidth_bytes_per_s.value)
    _, dense_s = times(machine, dtype="fp32", threads=2)
    assert dense_s > total_bytes / together
    faster = changed(machine, dram_bandwidth_bytes_per_s=2 * together)
    assert times(faster, dtype="fp32", threads=2)[1] < dense_s
    assert times(faster, dtype="fp32", threads=1) == times(machine, dtype="fp32", threads=1)


def test_narrow_instructions_count_half_of_wide_ones():
    # Four rows of 2:4 index, 16 elements each: a load of x and four permutations are 16 lanes wide, 32 instructions are not.
    lanes, x_bytes = cpu.counted(16, "fp32", SparseFormat.parse("2:4/index"), 1)
    assert lanes == pytest.approx((5 * 16 + 32 * 8) / 64, rel=0.15)
    assert x_bytes == 1
