"""The verb fit, as a user types it, on few rows and with few steps."""

import json
import tomllib

import pandas as pd
import pytest
from judge_fakes import literature_line, write_literature

from hwmodels.estimate import constants, fit
from hwmodels.estimate.constants import FITTED_FILE
from hwmodels.estimate.intervals import RESIDUALS_FILE
from hwmodels.machine.libraries import LIBRARIES_FILE
from validate.judge import fit_table

FEW = f"3 rows for {len(constants.PRIORS)} constants: most stay where their reasons put them\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fit, "EVALUATIONS", 2)


@pytest.fixture
def rows(tmp_path):
    lines = [literature_line(), literature_line(gpu="A100 80GB PCIe"), literature_line(gpu="H200", M="4096")]
    return write_literature(tmp_path / "rows.csv", *lines)


def test_constants_and_residuals_are_written(nmsim, rows, tmp_path):
    out = tmp_path / "data"
    code, text, err = nmsim("fit", "--rows", rows, "-o", out)
    assert (code, err) == (0, FEW)
    assert "Constants fitted to 3 rows of 3 machines, digest" in text
    assert "library_launch_s" in text
    assert "Errors on machines that were left out" in text
    assert f"{out}: written: fitted.toml, residuals.csv" in text
    document = tomllib.loads((out / FITTED_FILE.name).read_text(encoding="utf-8"))
    assert set(document["held_out"]) == {"rtx4090", "a100", "h100"}
    assert set(document["constants"]) == set(constants.PRIORS)
    residuals = pd.read_csv(out / RESIDUALS_FILE.name)
    own = residuals[residuals["family"] != "cpu"]
    assert set(own["group"]) == {"rtx4090", "a100", "h100"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "rows.csv"]


def test_the_same_rows_change_nothing(nmsim, rows, tmp_path):
    out = tmp_path / "data"
    nmsim("fit", "--rows", rows, "-o", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, text, _ = nmsim("fit", "--rows", rows, "-o", out)
    assert code == 0
    assert f"{out}: nothing changed" in text
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_json_is_all_there_is(nmsim, rows, tmp_path):
    code, text, err = nmsim("fit", "--rows", rows, "-o", tmp_path / "data", "--json")
    assert (code, err) == (0, FEW)
    record = json.loads(text)
    assert record["changed"] == ["fitted.toml", "residuals.csv"]
    entry = record["constants"]["library_launch_s"]
    assert entry["unit"] == "s"
    assert entry["prior"] == constants.PRIORS["library_launch_s"].value
    assert entry["before"] == constants.load().library_launch_s
    assert record["held_out"][0]["rows_of"] == "all"
    assert record["held_out"][0]["n_rows"] == 3


def test_bad_input_leaves_everything_as_it_was(nmsim, rows, tmp_path):
    bad = write_literature(tmp_path / "bad.csv", literature_line(gpu="RTX 9999"))
    code, text, err = nmsim("fit", "--rows", rows, "--rows", bad, "-o", tmp_path / "data")
    assert (code, text) == (2, "")
    assert "bad.csv: row 1: gpu='RTX 9999': no machine of that name" in err
    assert not (tmp_path / "data").exists()
    code, _, err = nmsim("fit", "--rows", rows, "-o", tmp_path / "no" / "data")
    assert (code, "there is no folder" in err) == (2, True)
    code, _, err = nmsim("fit", "--rows", rows, "-o", rows)
    assert (code, "is a file" in err) == (2, True)


def test_rows_of_ones_own_do_not_replace_the_shipped_constants(nmsim, rows):
    before = FITTED_FILE.read_bytes()
    code, _, err = nmsim("fit", "--rows", rows)
    assert code != 0
    assert "--rows without --output: expected a folder" in err
    assert FITTED_FILE.read_bytes() == before


def test_properties_of_libraries_are_written(nmsim, rows, tmp_path, monkeypatch):
    """Values that were read off are put in; a second run replaces the file without force and changes nothing."""
    found = {("generation.sm_80", "launch_ratio"): 0.5}
    monkeypatch.setattr(fit_table, "fit_libraries", lambda inputs, progress: found)
    out = tmp_path / "data"
    code, text, err = nmsim("fit", "--libraries", "--rows", rows, "-o", out, "--json")
    assert (code, err) == (0, "")
    record = json.loads(text)
    assert (record["rows"], record["changed"]) == (3, ["libraries.toml"])
    code, text, _ = nmsim("fit", "--libraries", "--rows", rows, "-o", out)
    assert code == 0
    assert "Properties of vendor libraries, read off 3 rows" in text
    assert f"{out}: nothing changed" in text
    document = tomllib.loads((out / LIBRARIES_FILE.name).read_text(encoding="utf-8"))["generation"]
    shipped = tomllib.loads(LIBRARIES_FILE.read_text(encoding="utf-8"))["generation"]
    assert document["sm_80"].pop("launch_ratio")["value"] == 0.5
    assert document["sm_90"] == shipped["sm_90"]
    (out / LIBRARIES_FILE.name).write_text("mine", encoding="utf-8")
    assert nmsim("fit", "--libraries", "--rows", rows, "-o", out)[0] == 2
