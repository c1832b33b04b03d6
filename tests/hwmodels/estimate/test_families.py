"""Kernels of others: what each family stores and multiplies, by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate import constants
from hwmodels.estimate.families import FAMILIES, Rows, state_codes
from nmsim.errors import PatternError, RowError


def table(**columns):
    base = {
        "M": 4096,
        "N": 8192,
        "K": 4096,
        "dtype": "bf16",
        "pattern": "2:4",
        "density": 0.5,
        "l2_state": "",
    }
    count = max(np.size(value) for value in columns.values()) if columns else 1
    return pd.DataFrame(base | columns, index=range(count))


def rows(machine="a100", values=None, **columns):
    return Rows(table(**columns), hwmodels.load_machine(machine), values or constants.load())


def time_s(family, machine="a100", **columns):
    return FAMILIES[family](rows(machine, **columns)).time_s.item()


def bound_s(family, machine="a100", **columns):
    return FAMILIES[family](rows(machine, **columns)).bound_s.item()


def test_library_is_what_predict_says_of_2_4_on_the_unit():
    """16 bits x 2 and 2 x 2 bits of index for 4 elements: 1.125 bytes an element, as `index` codes store it."""
    cases = pd.DataFrame({"M": [4096], "N": [8192], "K": [4096], "pattern": ["2:4"], "encoding": ["index"]})
    answer = hwmodels.predict(cases, "a100").iloc[0]
    assert time_s("library") == pytest.approx(answer["predicted_time_s"], rel=1e-12)
    assert rows().dense_s().item() == pytest.approx(answer["predicted_dense_time_s"], rel=1e-12)
    assert bound_s("library") == pytest.approx(answer["bound_time_s"], rel=1e-12)
    assert rows().dense_bound_s().item() == pytest.approx(answer["bound_dense_time_s"], rel=1e-12)


@pytest.mark.parametrize(("pattern", "stretch"), [("2:4", 1), ("4:6", 4 / 3), ("6:8", 1.5), ("14:16", 1.75)])
def test_sliding_windows_stretch_k(pattern, stretch):
    """6:8 is three windows of 2:4 over 8 elements: 12 elements of K for 8."""
    assert time_s("sliding", pattern=pattern, K=12288) == time_s("library", K=int(12288 * stretch))


@pytest.mark.parametrize(
    ("pattern", "kept_columns"), [("2:4", 1), ("2:8", 0.5), ("2:10", 0.4), ("2:20", 0.2)]
)
def test_column_selection_shrinks_k(pattern, kept_columns):
    """V:2:10 of VENOM keeps 4 of 10 columns, and 2:4 among those."""
    assert time_s("column-nm", pattern=pattern, K=10240) == time_s("library", K=int(10240 * kept_columns))


def test_delta_bytes():
    """4096 x 4096 half kept in fp16: 16 + 4 bits each are 20,971,520 bytes, and 8192 in and 8192 out."""
    moved_bytes = 4096 * 4096 * 0.5 * 20 / 8 + 4096 * 2 + 4096 * 2
    assert moved_bytes == 20_971_520 + 16_384
    how = {"M": 1, "N": 4096, "K": 4096, "dtype": "fp16", "density": 0.5}
    assert bound_s("delta-gemv", "rtx4090", **how) == pytest.approx(moved_bytes / 1.008e12)
    values, device = constants.load(), rows("rtx4090").device
    dram_s = moved_bytes / (1.008e12 * values.fused_dram_share)
    cache_s = moved_bytes / (device.cache_bytes_per_s * values.cache_bandwidth_share)
    found = time_s("delta-gemv", "rtx4090", **how)
    assert found == pytest.approx(values.library_launch_s + (dram_s**4 + cache_s**4) ** 0.25, rel=1e-9)


def test_a_flush_is_waited_for_by_hand():
    """The RTX 4090's 75.5 MB of cache, a share of it dirty, drain at 1.008 TB/s before a cold read begins."""
    values = constants.load()
    how = {"M": 1, "N": 4096, "K": 4096, "dtype": "fp16"}
    wait_s = time_s("delta-gemv", "rtx4090", l2_state="cold", **how) - time_s("delta-gemv", "rtx4090", **how)
    drain_s = values.cache_writeback_share * 75497472 / 1.008e12
    assert wait_s == pytest.approx(values.timed_alone_s + drain_s, rel=1e-9)


def test_what_fits_in_the_cache_is_not_read_from_memory_when_called_again():
    """1024 x 1024 in fp16, half kept: 1.3 MB under 75.5 MB. What is left is the cache's own bandwidth."""
    values, device = constants.load(), rows("rtx4090").device
    moved_bytes = 1024 * 1024 * 0.5 * 2.5 + 4096
    cache_s = moved_bytes / (device.cache_bytes_per_s * values.cache_bandwidth_share)
    how = {"M": 1, "N": 1024, "K": 1024, "dtype": "fp16", "l2_state": "warm"}
    found = time_s("delta-gemv", "rtx4090", **how)
    assert found == pytest.approx(values.library_launch_s + cache_s, rel=1e-9)


LIBRARIES = {"NM-SpMM": (1 / 4, 3 / 128), "nmSPARSE": (1 / 2, 1 / 16), "another": (1 / 4, 3 / 128)}
"""Library -> values that a multiplication reads from shared memory and from the last-level cache."""


@pytest.mark.parametrize("library", LIBRARIES)
def test_vector_masks_by_hand(library):
    """An A100: 108 cores x 1.41 GHz x 128 bytes from shared memory, 5.42e12 bytes/s from its cache."""
    values, (words, loads) = constants.load(), LIBRARIES[library]
    how = {"dtype": "fp32", "pattern": "4:16", "density": 0.25, "kernel": library}
    kept_bytes = 4096 * 8192 * 4096 * 0.25 * 4
    shared_s = kept_bytes * words / (108 * 1.41e9 * 128 * values.vector_sparse_share)
    dense_s = (rows("a100-pcie", **how).dense_s().item() - values.library_launch_s) * 0.25
    expected_s = values.library_launch_s + np.hypot(dense_s, shared_s + kept_bytes * loads / 5.42e12)
    assert time_s("vector-nm", "a100-pcie", **how) == pytest.approx(expected_s, rel=1e-9)
    assert bound_s("vector-nm", **how) == pytest.approx(2 * 4096 * 8192 * 4096 * 0.25 / 19.5e12)


def test_shared_memory_not_lanes_limits_vector_masks():
    """Cores of an RTX 3090 have twice the lanes of an A100's and the same shared memory: half the share of the peak."""
    how = {"dtype": "fp32", "pattern": "4:16", "density": 0.25, "kernel": "nmSPARSE"}
    share = {
        name: bound_s("vector-nm", name, **how) / time_s("vector-nm", name, **how)
        for name in ("a100-pcie", "rtx3090")
    }
    assert 0.4 < share["rtx3090"] / share["a100-pcie"] < 0.6


def test_vector_masks_in_16_bits_are_bound_by_the_tensor_cores():
    how = {"dtype": "fp16", "pattern": "4:16", "density": 0.25}
    assert bound_s("vector-nm", **how) == pytest.approx(2 * 4096 * 8192 * 4096 * 0.25 / 312e12)


def test_csr_by_hand():
    """A tenth of 4096 x 8192 x 4096 multiplications, 4 bytes each; 192 KiB of L1 hold 3/16 of 64 x 4096 values."""
    values = constants.load()
    loaded_bytes = 4096 * 8192 * 4096 * 0.1 * 4
    assert bound_s("csr", dtype="fp32", density=0.1) == pytest.approx(loaded_bytes / 2 / 19.5e12)
    core_s = loaded_bytes / (108 * 1.41e9 * 128 * values.csr_share)
    reuse = 1 + values.csr_reuse_ratio * 0.1 * np.sqrt(3 / 16)
    cache_s = loaded_bytes / reuse / 5.42e12
    dram_s = (8192 * 4096 * 0.1 * 6 + 4 * 4096 * 4096 + 4 * 4096 * 8192) / (1.935e12 * values.dram_share)
    expected_s = values.library_launch_s + (core_s**4 + cache_s**4 + dram_s**4) ** 0.25
    assert time_s("csr", "a100-pcie", dtype="fp32", density=0.1) == pytest.approx(expected_s, rel=1e-9)


def test_a_machine_that_tells_nothing_of_its_caches_gets_the_defaults():
    """64 bytes per core and cycle at a fitted share (A21), and 128 KiB of L1."""
    spec = dataclasses.replace(
        hwmodels.load_machine("a100"), core_cache_bytes=None, last_level_cache_read_bandwidth_bytes_per_s=None
    )
    plain = Rows(table(), spec, constants.load())
    assert plain.core_cache_bytes == 131072
    assert plain.cache_bytes_per_s == pytest.approx(
        108 * 1.41e9 * 64 * constants.load().cache_bandwidth_share
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("state", ["", "cold"])
def test_no_kernel_beats_its_bound(family, state):
    sizes = np.array([1, 7, 64, 500, 4096])
    M, N, K = (part.ravel() for part in np.meshgrid(sizes, 16 * sizes, 8 * sizes))
    dtype = "fp32" if family == "csr" else "fp16"
    answer = FAMILIES[family](rows(M=M, N=N, K=K, dtype=dtype, pattern="6:8", l2_state=state))
    assert (answer.time_s >= answer.bound_s).all()


def test_one_token_is_a_long_read_where_that_is_faster():
    how = {"M": [1, 2], "N": 12288, "K": 12288}
    one, two = rows("rtx4090", **how).dense_s()
    moved_bytes = 2 * (12288 * 12288 + 2 * 12288)
    assert one == pytest.approx(
        constants.load().library_launch_s + moved_bytes / (1.008e12 * constants.load().stream_dram_share),
        rel=0.04,
    )
    assert two > one


def test_other_constants_leave_the_rows_alone():
    before = rows()
    after = before.under(constants.prior())
    assert before.dense_s() != after.dense_s()
    assert before.dense_s() == rows().dense_s()


def test_errors():
    with pytest.raises(
        RowError, match=r"dtype 'fp8': a100-sxm has no sparse matrix unit for it; it has fp16"
    ):
        time_s("library", dtype="fp8")
    with pytest.raises(RowError, match=r"dtype 'fp8': a100-sxm has no peak for it; it has fp32"):
        rows(dtype="fp8").dense_s()
    for family in ("sliding", "column-nm"):
        with pytest.raises(
            RowError, match=rf"column pattern: missing; kernel family '{family}' needs an N:M"
        ):
            time_s(family, pattern=None)
    with pytest.raises(PatternError, match=r"pattern '2of4'"):
        rows(pattern="2of4")
    with pytest.raises(RowError, match=r"column l2_state: 'hot': expected cold, warm or nothing"):
        rows(l2_state="hot")


def test_states():
    assert state_codes(pd.Series(["", None, np.nan, "cold", "warm"])).tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("machine", ["a100", "rtx4090", "rtx3090"])
def test_no_family_is_faster_than_its_bytes_and_operations(family, machine):
    sizes = [(1, 16384, 16384), (64, 512, 512), (4096, 4096, 4096)]
    pattern = {"library": "2:4", "sliding": "6:8", "column-nm": "2:10", "vector-nm": "1:32"}.get(family)
    rows = pd.DataFrame(
        {
            "M": [M for M, _, _ in sizes], "N": [N for _, N, _ in sizes], "K": [K for _, _, K in sizes],
            "dtype": "fp32" if family in ("csr", "vector-nm") else "fp16", "pattern": pattern,
            "density": 1 / 32, "l2_state": "cold",
        }
    )  # fmt: skip
    rows["baseline_dtype"] = rows["dtype"]
    spec = hwmodels.load_machine(machine)
    answer = FAMILIES[family](Rows(rows, spec, constants.load()))
    assert (answer.time_s >= answer.bound_s).all()
    assert (answer.time_s >= constants.load().library_launch_s).all()
    output_bytes = rows["M"] * rows["N"] * 2
    assert (answer.bound_s >= output_bytes / spec.dram_bandwidth_bytes_per_s.value).all()


def test_fp4_on_its_unit_by_hand():
    """GB10, 4:8 in pairs. 8 elements have 4 values of 4 bits and half a bit of scale each, and 2 bits per kept pair."""
    how = {"dtype": "fp4", "M": 64, "N": 4096, "K": 4096}
    stored_bytes = 4096 * 4096 / 8 * (4 * 4.5 + 2 * 2) / 8
    dense_bytes = 4096 * 4096 * 4.5 / 8
    around = 64 * 4096 * 4.5 / 8 + 2 * 64 * 4096
    answer = FAMILIES["library"](rows("gb10", **how))
    assert answer.sparse_bytes.item() == pytest.approx(stored_bytes + around)
    assert rows("gb10", **how).dense_bytes().item() == pytest.approx(dense_bytes + around)
    assert answer.bound_s.item() == pytest.approx((stored_bytes + around) / 273e9)
    assert rows("gb10", **how).peak(True).item() == 1e15


@pytest.mark.parametrize("machine", ["h100-sxm", "mi350x", "rtx4090"])
def test_fp4_without_a_unit_for_it_is_refused(machine):
    with pytest.raises(RowError, match="dtype 'fp4': .* has no (sparse matrix unit|peak) for it"):
        time_s("library", machine, dtype="fp4")
