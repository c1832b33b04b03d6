"""Sliding windows hold what they are said to: every mask of 8:16 in seven windows, and not in six."""

import itertools
import random

import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate.windows import predict_windows, runs_windows, through_windows, with_unit
from nmsim.pattern import Pattern

SLOTS = 2


def windows_of(m):
    """The elements of each window: 4 elements, 2 apart."""
    return [range(start, start + 4) for start in range(0, m - 2, 2)]


def assigned(kept, windows):
    """Give each kept element a slot of a window that covers it, with the augmenting paths of a matching; or None.

    It knows nothing of the order of windows, so that it proves the impossible as well.
    """
    slots = [(place, slot) for place in range(len(windows)) for slot in range(SLOTS)]
    holder = {}

    def place(element, seen):
        for slot in slots:
            if element in windows[slot[0]] and slot not in seen:
                seen.add(slot)
                if slot not in holder or place(holder[slot], seen):
                    holder[slot] = element
                    return True
        return False

    return holder if all(place(element, set()) for element in kept) else None


def from_the_left(kept, windows):
    """The rule of a packer: the first window with a free slot that covers the element."""
    free = [SLOTS] * len(windows)
    for element in kept:
        window = next((w for w, covered in enumerate(windows) if element in covered and free[w]), None)
        if window is None:
            return False
        free[window] -= 1
    return True


def test_every_8_16_mask_fits_seven_windows():
    """All 12,870 masks, packed from the left."""
    windows = windows_of(16)
    assert len(windows) == 7
    masks = list(itertools.combinations(range(16), 8))
    assert len(masks) == Pattern(8, 16).configurations
    assert all(from_the_left(mask, windows) for mask in masks)


def test_an_assignment_covers_each_element_once_with_two_a_window():
    random.seed(0)
    windows = windows_of(16)
    for count in (8, 14):
        for _ in range(100):
            kept = sorted(random.sample(range(16), count))
            holder = assigned(kept, windows)
            assert sorted(holder.values()) == kept
            assert all(element in windows[window] for (window, _), element in holder.items())


@pytest.mark.parametrize("m", [6, 8, 10, 16])
def test_windows_hold_any_mask_of_all_but_two(m):
    """Every mask of M-2 of M fits, and none of more does: M/2 - 1 windows of two slots."""
    windows = windows_of(m)
    runs_as = through_windows(Pattern(m // 2, m))
    assert (runs_as.n, runs_as.m) == (m - 2, m) == (SLOTS * len(windows), m)
    assert all(assigned(mask, windows) for mask in itertools.combinations(range(m), m - 2))
    assert assigned(range(m - 1), windows) is None


@pytest.mark.parametrize("dropped", range(7))
def test_six_of_the_seven_windows_do_not_hold_every_8_16_mask(dropped):
    windows = [window for place, window in enumerate(windows_of(16)) if place != dropped]
    crowded = range(8) if dropped <= 3 else range(8, 16)
    assert assigned(crowded, windows) is None


@pytest.mark.parametrize("text", ["2:4", "3:5", "7:8", "16:16", "1:2"])
def test_what_windows_do_not_hold(text):
    assert through_windows(Pattern.parse(text)) is None


def cases(*tokens):
    return pd.DataFrame({"M": tokens, "N": 8192, "K": 8192, "dtype": "bf16"})


def test_8_16_through_windows_is_2_4_on_1_75_times_the_depth():
    spec = hwmodels.load_machine("a100-pcie")
    found = predict_windows(cases(64, 4096), spec, pattern=Pattern(8, 16))
    plain = {
        "baseline_dtype": "bf16",
        "pattern": "2:4",
        "kernel_family": "library",
        "density": 0.5,
        "l2_state": "",
    }
    longer = hwmodels.predict_rows(cases(64, 4096).assign(K=8192 * 7 // 4, **plain), spec)
    assert found["predicted_sparse_time_s"].tolist() == longer["predicted_sparse_time_s"].tolist()
    assert found["sparse_bytes"].tolist() == longer["sparse_bytes"].tolist()


def test_a_unit_for_the_pattern_reads_its_codes_at_the_same_peak():
    """8 of 16 values of 16 bits and 14 bits of code: 142 bits of 256, so 1.803 times for one token; twice for many."""
    spec = hwmodels.load_machine("a100-pcie")
    twin = with_unit(spec, Pattern(8, 16))
    asked = cases(1, 65536).assign(pattern="8:16", encoding="combinatorial")
    few, many = hwmodels.predict(asked, twin)["bound_speedup_vs_dense"]
    assert few == pytest.approx(256 / 142, rel=1e-3)
    assert many == pytest.approx(2.0)
    assert hwmodels.predict(asked, spec)["execution"].tolist() == ["expand", "expand"]
    assert twin.hypothetical
    assert not spec.hypothetical


def test_windows_need_a_2_4_unit_of_the_type():
    assert runs_windows(hwmodels.load_machine("h200"), "bf16")
    assert not runs_windows(hwmodels.load_machine("a100-pcie"), "fp8")
    assert not runs_windows(hwmodels.load_machine("rtx2080s"), "fp16")
