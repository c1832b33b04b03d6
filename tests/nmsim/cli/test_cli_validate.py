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


def test_a_stranger_has_the_library_of_another_generation(nmsim, rows, monkeypatch):
    """Held out as well, with other predictions."""
    monkeypatch.undo()
    found = {}
    for option in ("--held-out", "--stranger"):
        code, text, _ = nmsim("validate", "-r", rows, option, "--json")
        assert code == 0
        found[option] = json.loads(text)
    known, stranger = found.values()
    assert (known["stranger"], stranger["stranger"]) == (False, True)
    assert stranger["held_out"] is True
    assert stranger["overall"]["dense_time_mdape"] != known["overall"]["dense_time_mdape"]
    assert "libraries of its generation left out" in nmsim("validate", "-r", rows, "--stranger")[1]


def test_bandwidths_and_their_figure(nmsim, rows, tmp_path):
    figure = tmp_path / "bandwidth.svg"
    code, text, _ = nmsim("validate", "-r", rows, "--plot", figure)
    assert code == 0
    assert "Effective bandwidth" in text
    assert figure.read_text(encoding="utf-8").startswith("<?xml")
    code, _, err = nmsim("validate", "--live", "--plot", figure)
    assert code == 2
    assert "--live measures rows of its own" in err


def test_windows_are_printed_beside_a_unit_of_the_pattern(nmsim, tmp_path):
    line = literature_line(pattern="14:16 via sliding 2:4 windows", M="4096", batch_phase="prefill")
    code, text, _ = nmsim("validate", "-r", write_literature(tmp_path / "w.csv", line))
    assert code == 0
    assert "8:16 as 14:16" in text
    code, text, _ = nmsim("validate", "-r", write_literature(tmp_path / "w.csv", line), "--json")
    (group,) = json.loads(text)["windows"]
    assert (group["pattern"], group["runs_as"], group["machine"], group["n_rows"]) == (
        "8:16",
        "14:16",
        "rtx4090",
        1,
    )
    assert group["measured_low"] == group["measured_median"] == group["measured_high"] == 1.5
    assert group["predicted_speedup_vs_dense"] == 1.5
    assert group["native_bound_speedup_vs_dense"] == pytest.approx(2.0)


def test_json_alone_on_standard_output(nmsim, rows):
    code, text, err = nmsim("validate", "--rows", rows, "--json")
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


def test_rows_that_cannot_be_judged_are_an_error_or_skipped_and_listed(nmsim, tmp_path):
    lines = [literature_line(), *[literature_line(gpu="RTX 9999")] * 5, literature_line(pattern="cubes")]
    path = write_literature(tmp_path / "rows.csv", *lines)
    code, text, err = nmsim("validate", "--rows", path)
    assert (code, text) == (2, "")
    assert f"{path}: row 2 and 4 more (3, 4, ...): gpu='RTX 9999'" in err
    assert "row 7: pattern='cubes': expected N:M" in err
    code, text, err = nmsim("validate", "--rows", path, "--skip-unknown")
    assert code == 0
    assert "rows.csv:1" in text
    assert err.startswith("6 rows skipped, which cannot be judged:\n")
    assert "row 2 and 4 more (3, 4, ...): gpu='RTX 9999'" in err
    code, text, _ = nmsim("validate", "--rows", path, "--skip-unknown", "--json")
    skipped = json.loads(text)["skipped"]
    assert [(kind["rows"], kind["first"]) for kind in skipped] == [(5, [2, 3, 4]), (1, [7])]
    assert code == 0


def test_families_whose_intervals_hold_too_few_rows_are_named(nmsim, tmp_path):
    lines = [literature_line()] * 19 + [
        literature_line(dtype="INT8", sparse_time_or_tflops="10 us", speedup="3")
    ] * 20
    path = write_literature(tmp_path / "rows.csv", *lines)
    code, text, _ = nmsim("validate", "--rows", path)
    assert code == 0
    assert (
        "1 families of at least 20 rows have intervals that hold less than 70 % or more than 90 % of them:"
        in text
    )
    assert "rtx4090 int8 decode library: 0 % of 20 rows, too narrow" in text


def test_small_families_of_a_large_table_are_counted(nmsim, tmp_path, monkeypatch):
    monkeypatch.setattr("nmsim.cli.validate.SHOWN_FAMILIES", 1)
    path = write_literature(tmp_path / "rows.csv", *[literature_line()] * 20, literature_line(dtype="INT8"))
    code, text, _ = nmsim("validate", "--rows", path)
    assert code == 0
    assert "1 families of fewer than 20 rows are not shown; --wide and --json have them." in text
    _, text, _ = nmsim("validate", "--rows", path, "--wide")
    assert "not shown" not in text


def test_whole_models_in_tokens_per_second(nmsim, tmp_path):
    code, text, _ = nmsim(
        "validate", "--whole-models", "-o", tmp_path / "whole.json", "--plot", tmp_path / "whole.svg"
    )
    assert code == 0
    assert "Tokens per second of whole models, constants fitted on all machines" in text
    assert "Passes over activations" in text
    assert "left out: 20 runs, memory" in text
    found = json.loads((tmp_path / "whole.json").read_text(encoding="utf-8"))
    assert found["held_out"] is False
    assert {row["machine"] for row in found["whole_models"]["machines"]} == {
        "a100-pcie", "b200", "gb10", "h100-pcie", "rtx4090",
    }  # fmt: skip
    runs = sum(row["n_rows"] for row in found["whole_models"]["left_out"])
    assert runs + found["whole_models"]["overall"]["n_rows"] == 2050
    assert (tmp_path / "whole.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_campaign_belongs_to_live(nmsim, rows):
    code, _, err = nmsim("validate", "-r", rows, "--campaign", "cpu")
    assert code == 2
    assert "--campaign: belongs to --live" in err


@pytest.mark.parametrize(
    "option", [["--rows", "rows.csv"], ["--hardware", "mine.toml"], ["--skip-unknown"], ["--stranger"]]
)
def test_whole_models_take_no_rows(nmsim, option):
    code, _, err = nmsim("validate", "--whole-models", *option)
    assert code == 2
    assert (
        "--whole-models judges the published runs that ship with nmsim: expected no --rows, --hardware" in err
    )
