"""How far to trust a study: ranges of whole models, and the errors that its page shows."""

import html
import re

import numpy as np
import pandas as pd
import pytest

import hwmodels
from validate.judge.join import UNKNOWN, why_missed
from validate.judge.judge import judge_files
from validate.judge.rows import published_files
from validate.study import trust
from validate.study.answer import reach
from validate.study.whole_model import sum_layers

STEPS = [("decode", 1), ("prefill", 2048)]


def layers(**changes) -> pd.DataFrame:
    """Two pruned layers and a dense head on one machine: 2 s and 1 s instead of 4 s and 2 s, and 1 s."""
    dense = {"pattern": "dense", "low": [1.0, 1.0, 1.0], "high": [1.0, 1.0, 1.0], "time": [4.0, 2.0, 1.0]}
    table = pd.DataFrame(
        {
            "layer": ["up", "down", "head", "up", "down"],
            "pattern": [*[dense["pattern"]] * 3, "2:4", "2:4"],
            "predicted_time_s": [*dense["time"], 2.0, 1.0],
            "predicted_speedup_vs_dense": [1.0, 1.0, 1.0, 2.0, 2.0],
            "predicted_speedup_low": [*dense["low"], 1.6, 1.0],
            "predicted_speedup_high": [*dense["high"], 2.4, 4.0],
            "extrapolates": False,
            "bound_time_s": [2.0, 1.0, 0.5, 1.0, 0.5],
        }
    )
    same = {
        "hardware": "h200",
        "phase": "decode",
        "tokens": 1,
        "count": 1,
        "N": 4096,
        "execution": "native",
        "limit": "memory",
    }
    same |= {"sparse_operand": "weights", "encoding": "index", "packing": "bitstream"}
    return table.assign(**same).assign(**changes)


def test_a_range_is_the_time_weighted_mean_of_the_layers_on_a_log_scale():
    row = sum_layers(layers()).iloc[-1]
    assert row["predicted_speedup_vs_dense"] == pytest.approx(7 / 4)
    down = (2 * np.log(2 / 1.6) + 1 * np.log(2 / 1.0) + 1 * 0) / 4
    up = (2 * np.log(2.4 / 2) + 1 * np.log(4 / 2.0) + 1 * 0) / 4
    assert row["predicted_speedup_low"] == pytest.approx(7 / 4 * np.exp(-down))
    assert row["predicted_speedup_high"] == pytest.approx(7 / 4 * np.exp(up))
    assert not row["extrapolates"]
    assert row["bound_speedup_vs_dense"] == pytest.approx(3.5 / 2.0)
    assert reach(row) == f"{7 / 4 * np.exp(-down):.2f}× to {7 / 4 * np.exp(up):.2f}×"


def test_the_range_of_equal_layers_is_theirs():
    same = sum_layers(
        layers(predicted_speedup_low=lambda t: 0.8 * t["predicted_speedup_vs_dense"]).iloc[[0, 1, 3, 4]]
    )
    assert same["predicted_speedup_low"].iloc[-1] == pytest.approx(0.8 * 2)


def test_a_model_extrapolates_where_a_tenth_of_its_time_does():
    assert sum_layers(layers(extrapolates=[False, False, False, True, False])).iloc[-1]["extrapolates"]
    short = layers(extrapolates=[False, False, False, False, True])
    short.loc[short.index[-1], "predicted_time_s"] = 0.2
    assert not sum_layers(short).iloc[-1]["extrapolates"]
    unknown = sum_layers(layers(predicted_speedup_low=[1.0, 1.0, 1.0, np.nan, 1.0])).iloc[-1]
    assert np.isnan(unknown["predicted_speedup_low"])
    assert reach(unknown) == "extrapolates"


def test_every_speedup_of_the_page_has_its_range_or_says_so(study):
    # A core that nobody sells has a closed form, and no range: its section says what limits it instead.
    page = re.sub(r'<section id="cores">.*?</section>', "", study.page, flags=re.S)
    assert len(page) < len(study.page)
    cells = re.findall(
        r'<td class="heat heat-[-0-9]+"><b>([0-9.]+)×</b><small class="reach">(.*?)</small>', page
    )
    assert len(cells) == page.count('<td class="heat')
    known = [(float(speedup), text) for speedup, text in cells if text != "extrapolates"]
    assert known
    for speedup, text in known:
        low, high = map(float, re.fullmatch(r"([0-9.]+)× to ([0-9.]+)×", html.unescape(text)).groups())
        assert low <= speedup <= high
    real = study.model[(study.model["hardware"] == "h200") & (study.model["pattern"] == "2:4")]
    assert not real["extrapolates"].all()
    hypothetical = study.model[(study.model["hardware"] == "h200-8x16") & (study.model["pattern"] != "dense")]
    assert hypothetical["extrapolates"].all()


def test_the_page_shows_the_errors_of_the_nearest_rows(study):
    section = re.search(r'<section id="trust">(.*?)</section>', study.page, re.S)[1]
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", section)))
    table = judge_files(published_files(), held_out=True).table
    wide = table[table["dtype_class"] == "16-bit"]
    assert f"the median error of the speedups is {100 * wide['speedup_error'].abs().median():.1f} %" in text
    decode = wide[wide["regime"] == "decode"]
    assert f"{100 * decode['speedup_error'].abs().median():.0f} % {len(decode)} rows of all GPUs" in text
    assert section.count("<img") == 3
    assert "8:16 without new hardware." in text
    assert "Of 16-bit calls that bytes limit, its median error is" in text


def test_own_rows_count_where_there_are_enough():
    machines = [hwmodels.load_machine(name) for name in ("a100-pcie", "h200", "epyc-2core")]
    a100, h200, cpu = trust.rows(machines, "bf16", STEPS)
    assert [cell["whose"] for cell in a100["cells"]] == ["of this machine", "of this machine"]
    assert [cell["whose"] for cell in h200["cells"]] == ["of all GPUs", "of all GPUs"]
    assert cpu["cells"] == [None, None]
    assert a100["cells"][1]["n_rows"] < h200["cells"][1]["n_rows"]
    assert trust.regimes(STEPS) == ["decode", "prefill"]
    (a100_sxm,) = trust.rows([hwmodels.load_machine("a100-sxm")], "bf16", [("decode", 1)])
    assert a100_sxm["cells"][0]["whose"] == "of all GPUs"  # it has rows of prefill only


def test_reasons_of_misses_are_those_of_their_rows():
    table = trust.judged()
    table = table[table["file"].str.endswith("published.csv") | (table["machine"] == "rtx4090")]
    reasons = pd.Series([why_missed(row) for _, row in table.iterrows()], index=table.index)
    assert reasons[table["mark"] == "host overhead"].str.contains("host").all()
    assert reasons[table["baseline_dtype"] != table["dtype"]].str.contains("written by hand").all()
    slow = reasons.str.contains("ten times those of 8:10")
    assert 200 < slow.sum() < 500
    assert set(table[slow]["pattern"]) == {"10:12", "12:14", "14:16"}
    assert (reasons == UNKNOWN).any()


def test_8_16_through_windows_is_shown_of_machines_that_need_them():
    machines = [hwmodels.load_machine(name) for name in ("h100-pcie", "h200", "h200-8x16", "epyc-2core")]
    found = trust.windows(machines, "bf16", STEPS)
    assert (found["pattern"], found["runs_as"]) == ("8:16", "14:16")
    assert [row["machine"] for row in found["rows"]] == ["h100-pcie", "h200"]
    measured, none = (row["cells"] for row in found["rows"])
    assert none == [None, None]
    assert [cell["n_rows"] for cell in measured] == [9, 45]
    assert all(0.2 < cell["low"] <= cell["median"] <= cell["high"] < 2 for cell in measured)


def test_bandwidths_of_memory_bound_calls_are_those_of_the_rows():
    table = judge_files(published_files(), held_out=True).table
    own = table[(table["dtype_class"] == "16-bit") & (table["sparse_limit"] == "memory")]
    group = trust.totals()["bandwidths"]["sparse"]
    assert group["n_rows"] == own["measured_sparse_time_s"].notna().sum()
    assert group["bandwidth_mdape"] == pytest.approx(own["sparse_bandwidth_error"].abs().median())
