"""A step in a serving engine: passes, gaps and the host, counted by hand."""

import numpy as np
import pytest

from hwmodels.estimate.passes import (
    PassConstants,
    load_passes,
    quantise_bytes,
    quantise_s,
    timed_copy_s,
    timed_quantise_s,
    window_ratio,
)
from hwmodels.machine.spec import load_machine
from hwmodels.steps.serving import Served, ServingConstants, Steps, run_s
from nmsim.errors import RowError, SpecError

H100 = load_machine("h100-pcie")
ENGINE = ServingConstants(1e-3, 1e-5, 5e-5, 2e-6, 2e-6)


@pytest.mark.parametrize(
    ("pattern", "ratio"), [("2:4", 1.0), ("4:6", 4 / 3), ("6:8", 1.5), ("8:10", 1.6), ("14:16", 1.75)]
)
def test_windows_lengthen_K(pattern, ratio):
    assert window_ratio(pattern) == pytest.approx(ratio)


@pytest.mark.parametrize("pattern", ["8:16", "1:4", "3:5"])
def test_other_patterns_have_no_windows(pattern):
    with pytest.raises(RowError, match=r"expected \(2L-2\):2L"):
        window_ratio(pattern)


def test_bytes_of_a_quantisation():
    """Ten rows of 64 elements: 2 bytes read, 1 zeroed, 1 written; with windows of 6:8, 1.5 zeroed and written."""
    assert quantise_bytes(10, 64) == 10 * 64 * 4
    assert quantise_bytes(10, 64, window_ratio("6:8")) == 10 * 64 * 5


def test_a_pass_is_limited_by_memory_or_by_instructions():
    memory = PassConstants(0.0, 0.0, 1.0, 1e-9)
    assert quantise_s(1e5, 2560, H100, memory) == pytest.approx(1e5 * 2560 * 4 / 2e12, rel=1e-6)
    work = PassConstants(0.0, 0.0, 1e9, 10.0)
    assert quantise_s(1e5, 2560, H100, work) == pytest.approx(
        1e5 * 2560 * 2 * 10 / (114 * 1.755e9 * 128), rel=1e-6
    )
    values = load_passes()
    assert (
        timed_quantise_s(16, 2560, H100, values)
        > timed_copy_s(16, 2560, H100, values)
        > values.timed_launch_s
    )


def test_passes_of_a_model_by_hand():
    """Llama-3.2-1B, int8: 16 layers, K of 2048, 2048, 2048 and 8192, N of 3072, 2048, 16384 and 2048."""
    tokens, memory = 1e6, PassConstants(0.0, 0.0, 1.0, 1e-9)
    for pattern, windows, sums in ((None, 1.0, 4), ("2:4", 1.0, 2), ("6:8", 1.5, 2)):
        served = Served("llama-3.2-1b", H100, dtype="int8", pattern=pattern)
        served.passes = memory
        read = 16 * (3 * 2048 + 8192) * (2 + 2 * windows)
        scaled = 16 * (3072 + 2048 + 16384 + 2048) * (sums + 2 + (sums - 2))
        other = 2 * 16 * (8 * 2048 + 2 * (32 + 8) * 64 + 3 * 8192)
        assert served.passes_s(tokens) == pytest.approx(tokens * (read + scaled + other) / 2e12, rel=1e-5)
        assert served.kernels == 16 * (4 * 2 + 5)
        assert served.operators == 16 * (4 * 3 + 5)


def test_bytes_of_weights():
    """Of an element 8 bits, or half of them and 2 bits of position for each kept value, in 1.5 as many windows."""
    linear, rest = 16 * (3072 + 2048) * 2048 + 16 * 3 * 8192 * 2048, 128256 * 2048 * 2
    for pattern, share in ((None, 1.0), ("2:4", 0.625), ("6:8", 0.9375)):
        served = Served("llama-3.2-1b", H100, dtype="fp8", pattern=pattern)
        assert served.weight_bytes == round(linear * share) + rest


def steps(captured):
    return Steps(np.array([4, 0]), np.array([0, 2]), np.array([3, 1]), np.array([captured, captured]), 16, 20)


def test_a_run_by_hand():
    device_s = np.array([4e-3, 6e-3])
    known = {"kernels": 100, "operators": 150, "request_prompts": 32}
    each = [4e-3 + 2e-4 + 1e-3 + 4e-5, 6e-3 + 2e-4 + 1e-3 + 2e-5]
    assert run_s(device_s, steps(True), values=ENGINE, **known) == pytest.approx(
        3 * each[0] + each[1], rel=1e-6
    )
    # 150 launches from the host take 7.5 ms, more than the device.
    host = [7.5e-3 + 1e-3 + 4e-5, 7.5e-3 + 1e-3 + 2e-5]
    slow = run_s(device_s, steps(False), values=ENGINE, **known)
    assert 3 * host[0] + host[1] < slow < 1.12 * (3 * host[0] + host[1])
    # Prompts that take a second to read in hide all of it.
    assert run_s(device_s, steps(True), values=ENGINE, **known | {"request_prompts": 5e5}) == pytest.approx(
        1.0, rel=1e-3
    )


def test_the_host_moves_a_speedup_towards_one():
    dense, sparse = (Served("llama-3.2-3b", H100, dtype="fp8", pattern=each) for each in (None, "2:4"))
    few = Steps(np.array([0]), np.array([1]), np.array([1]), np.array([False]), 512, 512)
    found = [
        run_s(
            each.device_s(few),
            few,
            kernels=each.kernels,
            operators=each.operators,
            request_prompts=512,
            values=ENGINE,
        )
        for each in (dense, sparse)
    ]
    linear = float(dense.linear_s(512) / sparse.linear_s(512))
    assert linear > 1.2
    assert 1 < found[0] / found[1] < 1.05


@pytest.mark.parametrize(("machine", "weak"), [("b200", True), ("h100-pcie", False), ("rtx4090", False)])
def test_a_weak_dense_library_is_charged_as_its_twin(machine, weak):
    """Dense int8 takes the time of fp8 at many tokens where its library is weak and slower, and its own at few."""
    int8, fp8 = (Served("qwen2.5-7b", machine, dtype=dtype, pattern=None) for dtype in ("int8", "fp8"))
    assert (int8.linear_s(8192) == fp8.linear_s(8192)) == weak
    assert int8.linear_s(64) != fp8.linear_s(64)
    sparse = Served("qwen2.5-7b", machine, dtype="int8", pattern="2:4")
    assert int8.linear_s(8192) < 2.6 * sparse.linear_s(8192)


def test_what_is_refused():
    with pytest.raises(SpecError, match="expected a GPU"):
        Served("llama-3.2-1b", "epyc-9654", dtype="int8", pattern=None)
    with pytest.raises(RowError, match="expected"):
        Served("llama-3.2-1b", H100, dtype="int8", pattern="8:16")
    with pytest.raises(RowError, match="fp8"):
        Served("llama-3.2-1b", "a100-pcie", dtype="fp8", pattern="2:4")
