"""`validate --live` and `study --measure`: the machine at hand calibrated, measured, predicted and compared, in small."""

import json

import pytest

import hwmodels
from kernels.calibrate import cpu as calibration
from kernels.timing import host, libraries
from nmsim import rows as row_files
from validate import write_example
from validate.study.example_checkpoint import TINY
from validate.study.report import OWN_FIGURE

SMALL = """
seed = 0
repetitions = 5
warmup = 1
budget_s = 100

[[round]]
shapes = [[1, 32, 64]]
patterns = ["2:4", "8:16"]
encodings = ["bitmask", "index"]
dtypes = ["fp32"]
l2_state = ["cold"]
"""
HOST = host.Host("Pretended CPU", 2, 1 << 26, (host.Cache(1, 1 << 12, 2), host.Cache(2, 1 << 16, 1)))


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """A campaign and a calibration too small to mean anything, on a machine with small caches, without torch."""
    monkeypatch.setattr(host, "LEAST_BEYOND_BYTES", 1 << 16)
    monkeypatch.setattr(host, "this_machine", lambda: HOST)
    monkeypatch.setattr(libraries, "torch_if_installed", lambda: None)
    whole = calibration.calibrate
    monkeypatch.setattr(calibration.Calibration, "doubts", ["somebody else was at work"])
    monkeypatch.setattr(
        calibration, "calibrate", lambda machine, progress: whole(machine, repetitions=2, sample_s=1e-5)
    )
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


def test_live_writes_four_files_and_says_how_wrong_it_was(nmsim, campaign, tmp_path):
    folder = tmp_path / "here"
    code, text, err = nmsim("validate", "--live", "--campaign", campaign, "-o", folder)
    assert code == 0
    assert {path.name for path in folder.iterdir()} == {
        "this-machine.toml", "rows.csv", "verdict.json", "measured_on_predicted.svg",
    }  # fmt: skip
    assert err == "in doubt: somebody else was at work\n"
    assert "Predicted from calibration alone against measured" in text
    assert "speedup: median error" in text
    found = json.loads((folder / "verdict.json").read_text())
    assert found["overall"]["n_rows"] == 4
    assert [(row["pattern"], row["encoding"]) for row in found["by_pattern_encoding"]] == [
        ("2:4", "bitmask"), ("2:4", "index"), ("8:16", "bitmask"), ("8:16", "index"),
    ]  # fmt: skip
    rows = row_files.read(folder / "rows.csv")
    spec = hwmodels.load_machine(folder / "this-machine.toml")
    assert {row.machine for row in rows} == {spec.id} == {"this-machine"}


def test_live_again_replaces_its_files(nmsim, campaign, tmp_path):
    for _ in range(2):
        code, _, _ = nmsim("validate", "--live", "--campaign", campaign, "-o", tmp_path / "here")
        assert code == 0
    assert len(row_files.read(tmp_path / "here" / "rows.csv")) == 4


def test_live_json_goes_to_standard_output(nmsim, campaign, tmp_path):
    code, text, _ = nmsim("validate", "--live", "--campaign", campaign, "-o", tmp_path / "here", "--json")
    assert code == 0
    assert json.loads(text) == json.loads((tmp_path / "here" / "verdict.json").read_text())


def test_live_takes_no_rows_of_others(nmsim):
    code, _, err = nmsim("validate", "--live", "--held-out")
    assert code != 0
    assert "--live measures rows of its own: expected no --rows, --hardware, --held-out" in err


def test_a_bad_campaign_leaves_nothing_behind(nmsim, tmp_path):
    folder = tmp_path / "here"
    code, _, err = nmsim("validate", "--live", "--campaign", tmp_path / "none.toml", "-o", folder)
    assert code != 0
    assert "none.toml" in err
    assert not folder.exists()


def test_a_study_may_measure_its_machine(nmsim, campaign, tmp_path, monkeypatch, blank_figures):
    blank_figures.add(OWN_FIGURE)
    monkeypatch.setattr("nmsim.cli.validate.CAMPAIGN", str(campaign))
    weights = write_example(tmp_path / "tiny.safetensors", shape=TINY)
    out = tmp_path / "out"
    code, _, _ = nmsim(
        "study", "--weights", weights, "--hardware", "h200", "--patterns", "8:16", "--encodings", "bitmask",
        "--batch", "1", "--prefill", "512", "--measure", "-o", out,
    )  # fmt: skip
    assert code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Measured on the machine that made this page" in page
    assert "somebody else was at work" in page
    assert len(row_files.read(out / "rows.csv")) == 4
    assert (out / "measured_on_predicted.png").stat().st_size > 1000
    assert {"rows.csv", "this-machine.toml"} <= set(json.loads((out / "study.json").read_text())["files"])
