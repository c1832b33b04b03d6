"""The command line: verbs, JSON, exit codes. Run in this process; `tests/repo` starts real ones."""

import json
import re

import pytest

from hwmodels import bench as model_bench
from nmsim import __version__
from nmsim.case import GemmShape


def test_bits_as_json(nmsim):
    code, out, _ = nmsim("bits", "2:4", "8:16", "--json")
    rows = {(row["pattern"], row["encoding"]): row for row in json.loads(out)}
    assert code == 0
    assert rows["8:16", "combinatorial"]["bits_per_group"] == 14
    assert rows["8:16", "combinatorial"]["bits_per_elem"] == 0.875
    assert rows["2:4", "combinatorial"]["bits_per_elem"] == 0.75
    assert rows["2:4", "joint"]["groups_per_code"] == 17
    assert rows["2:4", "joint"]["code_bits"] == 44
    assert rows["8:16", "bitmask"]["entropy_bits_per_group"] == pytest.approx(13.652, abs=5e-4)


def test_bits_as_a_table_is_not_cut(nmsim):
    _, out, _ = nmsim("bits", "16:32", "--wide")
    assert re.search(r"16:32 +601080390 +32 \(1\) +80 \(2.5\)", out)
    assert "…" not in out


def test_a_variable_encoding_shows_its_mean(nmsim):
    _, out, _ = nmsim("bits", "8:16", "--encoding", "gap:2", "--json")
    (row,) = json.loads(out)
    assert row["bits_per_group"] < row["longest_bits_per_group"] == row["code_bits"] == 20


def test_predict_as_json(nmsim):
    code, out, _ = nmsim(
        "predict", "1,4096,4096", "-p", "8:16", "-e", "combinatorial", "-H", "h200", "--json"
    )
    (row,) = json.loads(out)
    assert code == 0
    # 16,777,216 bytes of values, 1,835,008 of codes, 8192 each of input and output, at 4.8 TB/s.
    assert row["bound_time_s"] == pytest.approx(18_628_608 / 4.8e12)
    assert row["limit"] == "memory"
    assert row["predicted_time_s"] > row["bound_time_s"]
    assert row["predicted_speedup_low"] < row["predicted_speedup_vs_dense"]
    assert row["extrapolates"] is True  # borrowed from the nearest kernels that were measured
    assert (row["M"], row["N"], row["K"], row["pattern"]) == (1, 4096, 4096, "8:16")


def test_predict_as_a_table_explains_a_single_answer(nmsim):
    _, out, _ = nmsim("predict", "1x4096x4096", "-p", "2:4", "-e", "index", "-H", "h200")
    assert "range" in out
    assert "memory: " in out
    assert re.search(r"~\d\.\d\d-\d\.\d\dx", out)  # the error bar, borrowed


def test_predict_says_the_bytes_of_both_calls_and_their_rate(nmsim):
    """4096 x 4096 in bf16, 4 tokens: half the values and 2 bits per kept one, X and Y; dense all of it."""
    _, out, _ = nmsim("predict", "4,4096,4096", "-p", "2:4/index", "-H", "h200", "--json")
    (row,) = json.loads(out)
    sparse_bytes, both = 4096 * 4096 * 18 // 16, 2 * 4 * 4096 * 2
    assert row["traffic_bytes"] == sparse_bytes + both
    assert row["dense_traffic_bytes"] == 2 * 4096 * 4096 + both
    assert row["predicted_bytes_per_s"] == pytest.approx(row["traffic_bytes"] / row["predicted_time_s"])
    assert row["predicted_dense_bytes_per_s"] == pytest.approx(
        row["dense_traffic_bytes"] / row["predicted_dense_time_s"]
    )
    assert row["through_windows"] is None


def test_predict_says_what_our_kernels_take_as_compiled(nmsim):
    _, out, _ = nmsim("predict", "1,14336,4096", "-p", "8:16/index,3:7/index", "-H", "h200,mi300x", "--json")
    ours, uncounted, *elsewhere = (row["as_compiled"] for row in json.loads(out))
    assert uncounted is None
    assert elsewhere == [None, None]
    assert ours["kernel"] == "gemv"
    assert ours["limit"] in ours["parts_s"]
    assert ours["predicted_time_s"] > 14336 * 4096 * 1.25 / 4.8e12
    assert 1 < ours["predicted_speedup_vs_dense"] < 2 / 1.25
    _, out, _ = nmsim("predict", "1,14336,4096", "-p", "8:16/index", "-H", "h200")
    assert "predicted, not measured" in out
    _, out, _ = nmsim("predict", "2048,14336,4096", "-p", "8:16/index", "-H", "h200")
    assert "predicted, not measured" not in out


def test_predict_says_what_8_16_brings_without_new_hardware(nmsim):
    """On machines with a 2:4 unit, through its windows: predicted and measured; not if the unit takes 8:16."""
    _, out, _ = nmsim("predict", "4096,4096,4096", "-p", "8:16", "-H", "h100-pcie,h200,h200-8x16", "--json")
    measured, predicted, native = (row["through_windows"] for row in json.loads(out))
    assert native is None
    assert measured["runs_as"] == predicted["runs_as"] == "14:16"
    assert predicted["measured"] is None
    low, median, high = (measured["measured"][name] for name in ("low", "median", "high"))
    assert 0.3 < low < median < high < 2
    assert measured["measured"]["n_rows"] >= 45
    _, text, _ = nmsim("predict", "4096,4096,4096", "-p", "8:16", "-H", "h100-pcie")
    assert "Without new hardware: any mask through sliding 2:4 windows" in text
    assert "8:16 as 14:16" in text
    assert f"{low:.2f}-{high:.2f}x" in text
    _, text, _ = nmsim("predict", "4096,4096,4096", "-p", "2:4", "-H", "h100-pcie")
    assert "windows" not in text
    _, text, _ = nmsim("predict", "4096,4096,4096", "-p", "8:16", "-H", "rtx2080s", "--dtype", "fp16")
    assert "windows" not in text


def test_wide_patterns_have_a_line_too(nmsim):
    code, out, _ = nmsim("bits", "32:64", "64:128", "--wide")
    assert code == 0
    assert "1.833e+18" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bits", ""], "no pattern given"),
        (["predict", "1,1,1", "-p", ","], "no pattern given"),
        (["bench", "32:128"], "M of at most 64"),
        (["bits", "8-16"], "pattern '8-16': expected 'N:M'"),
        (["bits", "--encoding", "zip"], "encoding 'zip': expected one of"),
        (["predict", "1,2"], "shape '1,2': expected M,N,K"),
        (["predict", "0,2,2"], "GEMM dimension M=0"),
        (["predict", "1,64,64", "-H", "h201"], "h201"),
        (["predict", "1,64,64", "--dtype", "fp12"], "dtype='fp12'"),
        (["predict", "1,64,64", "--operand", "bias"], "sparse_operand='bias'"),
        (["inspect", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(nmsim, arguments, message):
    code, out, err = nmsim(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("nmsim: ")
    assert message in err
    assert "Traceback" not in err


def test_unknown_verbs_and_options_exit_with_two(nmsim):
    assert nmsim("bitz")[0] == 2
    assert nmsim("bits", "--jsn")[0] == 2


def test_help_is_that_of_the_verb(nmsim):
    _, ours, _ = nmsim("help", "bits")
    _, its_own, _ = nmsim("bits", "--help")
    assert ours == its_own
    assert "entropy bound" in ours
    assert nmsim("help", "nothing")[0] == 2


def test_version(nmsim):
    assert nmsim("--version")[1].strip() == __version__


def test_bench_measures_what_it_says(nmsim):
    _, out, _ = nmsim("bench", "2:4", "-e", "bitmask", "--elems", "4096", "--repetitions", "3", "--json")
    found = json.loads(out)
    operations = [(row["encoding"], row["operation"]) for row in found["codecs"]]
    assert operations[0] == ("copy of masks", "copy")
    assert {operation for _, operation in operations[1:]} == {
        "encode",
        "decode",
        "write_stream",
        "read_stream",
    }
    assert all(
        row["p20_elems_per_s"] <= row["p50_elems_per_s"] <= row["p80_elems_per_s"] for row in found["codecs"]
    )


def test_bench_of_the_models(nmsim, monkeypatch):
    monkeypatch.setattr(model_bench, "PREDICT_CASES", 2000)
    monkeypatch.setattr(model_bench, "SINGLE_CASES", 20)
    monkeypatch.setattr(model_bench, "LAYER", GemmShape(64, 512, 512))
    monkeypatch.setattr(model_bench, "COPIES", 2)
    monkeypatch.setattr(model_bench, "SWEPT", {"pattern": ["8:16"], "tokens": [1, 64]})
    _, out, _ = nmsim("bench", "--models", "--json")
    found = json.loads(out)
    assert set(found) == {"provenance", *model_bench.FIGURES}
    for name in model_bench.FIGURES:
        assert 0 < found[name]["p20"] <= found[name]["p50"] <= found[name]["p80"]
    _, out, _ = nmsim("bench", "--models")
    assert re.search(r"closed form of a core +[\d.e+-]+ ", out)
