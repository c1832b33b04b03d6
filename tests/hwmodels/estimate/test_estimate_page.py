"""The page on the estimate says what the code computes: its example, its constants, its weaknesses."""

import functools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate import constants
from hwmodels.estimate.constants import PRIORS
from hwmodels.estimate.library import Product, library_time_s
from hwmodels.machine.chip import chip
from hwmodels.machine.libraries import VALUE_TYPES, Library, TypeTraits, properties
from nmsim.support.schema import hints
from validate.judge import metrics
from validate.judge.judge import judge_files

PAGE = Path(hwmodels.__file__).parents[1] / "docs/explanation/estimate.md"
TEXT = PAGE.read_text(encoding="utf-8")
SIZE = 4096


def fourth(*times_s):
    return sum(one**4 for one in times_s) ** 0.25


def by_hand(*, sparse):
    """The example, in its own steps and from the datasheet of the A100: line of the table -> value as printed."""
    prior = constants.prior()
    stored, rate = (1.125, 624e12) if sparse else (2, 312e12)
    share = prior.sparse_matrix_share if sparse else prior.matrix_share
    surface = 64 * ((stored / 2 if sparse else 1) / 128 + 1 / 256)
    fetch = prior.operand_fetch_share * (2 if sparse else 1)
    flop_s = 2 * 128 * 256 * 108 / (rate * share) * (1 + fetch * surface)
    block_bytes = stored * 256 + 2 * 128
    load_s = block_bytes * 108 / (prior.cache_bandwidth_share * 64 * 108 * 1.41e9)
    load_s /= 312e12 / 108 / 1.41e9 / 2048
    blocks = (SIZE // 128) * (SIZE // 256)
    waves = -(-blocks // 108)
    tile_s = SIZE * fourth(flop_s, load_s) + prior.tile_overhead_s
    moved_bytes = stored * SIZE**2 + 2 * SIZE**2 + 2 * SIZE**2
    memory_s = moved_bytes / 2.039e12 / (prior.sparse_dram_share if sparse else prior.dram_share)
    joules = 2 * SIZE**3 * prior.tensor_energy_joules_per_flop * (prior.sparse_energy_ratio if sparse else 1)
    launch_s = prior.sparse_library_launch_s if sparse else prior.library_launch_s
    longest_s = max(waves * tile_s, memory_s, joules / 320)
    power_s = joules / 320 * longest_s / (longest_s + prior.power_window_s)
    time_s = launch_s + fourth(waves * tile_s, memory_s, power_s)
    return time_s, {
        "blocks, waves of 108": f"{blocks}, {waves}",
        "fetch x surface": f"{fetch:.1f} x {surface:.5g} = {100 * fetch * surface:.1f} %",
        "multiplying an element of K": f"{flop_s * 1e9:.2f} ns",
        "loading it from the cache": f"{block_bytes:.0f} bytes per block: {load_s * 1e9:.2f} ns",
        "both": f"{fourth(flop_s, load_s) * 1e9:.2f} ns",
        "a tile of 4096 elements and 1 us": f"{tile_s * 1e6:.2f} us",
        "all waves": f"{waves * tile_s * 1e6:.2f} us",
        "memory": f"{moved_bytes / 1e6:.1f} MB: {memory_s * 1e6:.2f} us",
        "energy over 320 W": f"{joules * 1e3:.1f} mJ: {joules / 320 * 1e6:.2f} us",
        "what the clock feels of it": f"{power_s * 1e6:.2f} us",
        "launch": f"{launch_s * 1e6:.0f} us",
        "**time**": f"**{time_s * 1e6:.2f} us**",
    }


def test_the_worked_example():
    dense_s, dense = by_hand(sparse=False)
    sparse_s, sparse = by_hand(sparse=True)
    for line in dense:
        assert f"| {line} | {dense[line]} | {sparse[line]} |" in TEXT, line
    prior = constants.prior()
    both = Product(
        *(np.array([SIZE, SIZE]) for _ in range(3)),
        np.array([2, 1.125]),
        np.array([2, 2]),
        np.array([2, 2]),
        np.array([312e12, 624e12]),
        np.array([1, prior.sparse_energy_ratio]),
        np.array([False, True]),
        np.array([False, False]),
        np.array([VALUE_TYPES.index("bf16")] * 2),
    )
    device = chip(hwmodels.load_machine("a100-sxm"))._replace(libraries=properties(None))
    found = library_time_s(both, device, prior)
    assert found == pytest.approx([dense_s, sparse_s], rel=1e-9)
    assert f"The estimate says {dense_s / sparse_s:.2f}" in TEXT
    assert f"{2 * SIZE**3 / 312e12 * 1e6:.1f} us and {2 * SIZE**3 / 624e12 * 1e6:.1f} us" in TEXT


def test_every_constant_stands_in_the_table_and_in_the_text():
    """The table is made by `docs/tools/estimate_constants.py`; that it is fresh is checked with the other pages."""
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", TEXT, flags=re.M))
    prose = re.sub(r"<!-- constants.*?end of constants -->", "", TEXT, flags=re.S)
    for name, prior in PRIORS.items():
        assert rows[name].strip().endswith(prior.reason)
        plain = name.removeprefix("sparse_") if name.removeprefix("sparse_") in PRIORS else name
        assert f"`{plain}`" in prose or plain in prose, name
    for name in (*hints(Library), *hints(TypeTraits)):
        assert f"`{name.removeprefix('sparse_')}`" in prose or name in ("source", "types"), name
    source = constants.quantities()["csr_share"].source
    assert f"Fitted to {source}." in TEXT


@pytest.fixture(scope="module")
def judged():
    """Published rows, each predicted with constants that had no part of its die."""
    return judge_files(held_out=True).table


def median(rows, figure):
    assert len(rows) >= 3
    return float(np.log1p(rows[f"{figure}_error"]).median())


def test_what_the_page_says_of_published_rows(judged):
    """Positive: predicted slower than published."""
    wide = judged[judged["dtype_class"] == "16-bit"]
    h100 = wide[wide["machine"].str.startswith("h100")]
    assert median(h100[h100["M"] <= 64], "speedup") > 0.11
    assert 0.05 < median(h100[h100["M"].between(65, 511)], "speedup") < 0.15
    assert abs(median(h100[h100["M"] >= 512], "speedup")) < 0.05
    old = judged[judged["machine"] == "a100-sxm"]
    assert median(old, "sparse_time") < -0.1
    assert abs(median(old, "dense_time")) < 0.1
    for _, csr in judged[judged["kernel_family"] == "csr"].groupby("machine"):
        assert abs(median(csr, "sparse_time")) < 0.2


def test_few_tokens_gain_no_more_than_their_bytes():
    cases = pd.DataFrame({"M": [1, 2, 8], "N": 4096, "K": 4096, "pattern": "8:16"})
    for machine in ("rtx4090", "h200", "a100"):
        assert (hwmodels.predict(cases, machine)["predicted_speedup_vs_dense"] < 16 / 9).all()


def test_a_group_that_is_not_full_costs_a_full_one():
    times = hwmodels.predict(
        pd.DataFrame({"M": 16, "N": 4096, "K": range(1, 400), "pattern": "8:16"}), "a100"
    )["predicted_time_s"].to_numpy()
    change = times[1:] / times[:-1]
    assert change[0] == pytest.approx(0.945, abs=0.01)
    assert change[15:].min() > 0.99


@pytest.fixture(scope="module")
def of_strangers():
    return judge_files(held_out=True, predictor=functools.partial(hwmodels.predict_rows, stranger=True)).table


def test_the_table_of_strangers_says_what_both_commands_print(judged, of_strangers):
    """Medians of absolute errors with the library of the machine's generation, and with that of another one."""
    chosen = {
        "16-bit": judged["dtype_class"] == "16-bit",
        "8-bit": judged["dtype_class"] == "8-bit",
        "B200": judged["machine"] == "b200",
        "up to 64 tokens": judged["regime"] == "decode",
        "from 1024 tokens": judged["regime"] == "prefill",
    }
    known, other = (
        {name: metrics.summarise(table[rows.to_numpy()]) for name, rows in chosen.items()}
        for table in (judged, of_strangers)
    )
    for name in chosen:
        one, two = known[name], other[name]
        figures = [
            (f"{100 * one[key]:.1f}", f"{100 * two[key]:.1f}")
            for key in ("speedup_mdape", "dense_time_mdape", "sparse_time_mdape", "side_share")
        ]
        pairs = [f"{first}, {second} %" for first, second in figures[1:]]
        cells = [name, f"{one['n_rows']:,}", f"{figures[0][0]} %", f"{figures[0][1]} %", *pairs]
        assert f"| {' | '.join(cells)} |" in TEXT
