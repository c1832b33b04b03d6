"""Committed constants and properties are what `nmsim fit` gives. Minutes of work, so it runs on request only.

`NMSIM_REFIT=1 python -m pytest tests/validate/judge/test_refit.py`
"""

import os

import pandas as pd
import pytest

from hwmodels.estimate.constants import FITTED_FILE
from hwmodels.estimate.intervals import RESIDUALS_FILE
from hwmodels.estimate.library_fit import values_of
from hwmodels.machine.libraries import LIBRARIES_FILE
from nmsim.support.schema import read_toml
from nmsim.support.sources import read_text

on_request = pytest.mark.skipif(
    not os.environ.get("NMSIM_REFIT"), reason="minutes of fitting: set NMSIM_REFIT=1 to run it"
)


@on_request
def test_a_fit_gives_the_committed_constants(nmsim, tmp_path):
    code, _, err = nmsim("fit", "-o", tmp_path / "data")
    assert (code, err) == (0, "")
    was, now = (read_toml(folder / FITTED_FILE.name) for folder in (FITTED_FILE.parent, tmp_path / "data"))
    for name, entry in was["constants"].items():
        assert now["constants"][name]["value"] == pytest.approx(entry["value"], rel=1e-3), name
        assert now["constants"][name]["source"] == entry["source"]
    before, after = (
        pd.read_csv(folder / RESIDUALS_FILE.name) for folder in (RESIDUALS_FILE.parent, tmp_path / "data")
    )
    pd.testing.assert_frame_equal(after, before, atol=2e-3)


@on_request
def test_rows_give_the_committed_properties_of_libraries(nmsim, tmp_path):
    code, _, err = nmsim("fit", "--libraries", "-o", tmp_path / "data")
    assert (code, err) == (0, "")
    was, now = (
        values_of(read_text(folder / LIBRARIES_FILE.name))
        for folder in (LIBRARIES_FILE.parent, tmp_path / "data")
    )
    assert now.keys() == was.keys()
    for key, value in was.items():
        assert now[key] == pytest.approx(value, rel=5e-3), key
