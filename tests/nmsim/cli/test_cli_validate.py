"""The verb validate, as a user types it."""

import json

import pytest
from judge_fakes import literature_line, model_of, write_literature

import hwmodels


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """A model that does not depend on what is fitted today."""
    monkeypatch.setattr(hwmodels, "predict_rows", model_of(30e-6, 20e-6), raising=False)


@pytest.fixture
def rows(tmp_path):
    lines = [literature_line(), literature_line(M="4096", batch_phase="prefill-like M=4096", dtype="INT8")]
    return write_literature(tmp_path / "rows.csv", *lines)


def test_the_tables(nmsim, rows):
    code, text, err = nmsim("validate", "--rows", rows)
    assert (code, err) == (0, "")
    assert "constants fitted on all machines" in text
    assert "By family" in text
    assert "rtx4090" in text
    assert "rows.csv:1" in text
    assert "No row is faster than its machine's bound." in text


def test_json_to_a_file_beside_the_tables(nmsim, rows, tmp_path):
    out = tmp_path / "verdict.json"
    code, text, _ = nmsim("validate", "-r", rows, "-o", out, "--held-out")
    assert code == 0
    assert "constants fitted without each machine" in text
    verdict = json.loads(out.read_text(encoding="utf-8"))
    assert verdict["overall"]["n_rows"] == 2
    assert verdict["held_out"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "verdict.json"]


def test_json_alone_on_standard_output(nmsim, rows):
    code, text, err = nmsim("validate", "--rows", rows, "--rows", rows, "--json")
    assert (code, err) == (0, "")
    verdict = json.loads(text)
    assert [family["n_rows"] for family in verdict["families"]] == [1, 1]
    assert verdict["overall"]["speedup_mdape"] == pytest.approx(0)


def test_the_committed_rows_are_the_default(nmsim):
    code, text, _ = nmsim("validate", "--json")
    assert code == 0
    assert json.loads(text)["overall"]["n_rows"] >= 416


def test_hardware_of_ones_own(nmsim, tmp_path):
    source = (hwmodels.machine.spec.SPEC_FOLDER / "rtx4090.toml").read_text(encoding="utf-8")
    own = tmp_path / "lab.toml"
    own.write_text(
        source.replace('id = "rtx4090"', 'id = "lab"').replace("GeForce RTX 4090 24GB", "lab card")
    )
    rows = write_literature(tmp_path / "rows.csv", literature_line(gpu="Lab"))
    code, text, _ = nmsim("validate", "--rows", rows, "--hardware", own, "--json")
    assert code == 0
    assert [group["machine"] for group in json.loads(text)["machines"]] == ["lab"]


def test_columns_that_nothing_reads_are_said(nmsim, tmp_path):
    head = write_literature(tmp_path / "rows.csv").read_text().strip()
    rows = write_literature(tmp_path / "rows.csv", literature_line() + ",test", header=f"{head},split")
    code, _, err = nmsim("validate", "--rows", rows)
    assert (code, err) == (0, f"{rows}: not read: columns split\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (literature_line(gpu="RTX 9999"), "rows.csv: row 1: gpu='RTX 9999': no machine of that name"),
        (literature_line(pattern="cubes"), "rows.csv: row 1: pattern='cubes': expected N:M"),
        (literature_line(sparse_time_or_tflops="10 us"), "rows.csv: row 1: speedup='1.5': the times"),
    ],
)
def test_a_bad_row_is_one_line_and_code_2(nmsim, tmp_path, line, message):
    path = write_literature(tmp_path / "rows.csv", line)
    code, text, err = nmsim("validate", "--rows", path, "-o", tmp_path / "out.json")
    assert (code, text) == (2, "")
    assert err.startswith(f"nmsim: {tmp_path}/{message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_bad_files_are_refused(nmsim, rows, tmp_path):
    code, _, err = nmsim("validate", "--rows", rows, "-o", tmp_path / "no" / "out.json")
    assert (code, f"there is no folder {tmp_path / 'no'}, expected an existing one" in err) == (2, True)
    code, _, err = nmsim("validate", "--rows", tmp_path / "none.csv")
    assert (code, "none.csv: cannot be read" in err) == (2, True)
