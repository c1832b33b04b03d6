"""The table that constants are fitted to, and the residuals of our own CPU rows; committed constants are not stale."""

import math

import numpy as np
import pandas as pd
import pytest
from judge_fakes import measurement

import hwmodels
from hwmodels.estimate import constants, fit, intervals
from hwmodels.estimate.intervals import CPU_FAMILY, RESIDUALS_FILE
from hwmodels.estimate.library_fit import _Generation, values_of
from hwmodels.machine.libraries import LIBRARIES_FILE, libraries, measured, properties
from nmsim.case import Case, GemmShape, case_id
from nmsim.errors import RowError
from nmsim.rows import write as write_rows
from nmsim.support.sources import read_text
from validate.judge import rows as row_files
from validate.judge.fit_table import RESIDUAL_COLUMNS, cpu_residuals, fit_table, held_out_metrics
from validate.judge.judge import judge_files
from validate.judge.names import Machines
from validate.judge.rows import MORE_FILE, PUBLISHED_FILE, as_rows, read_rows


@pytest.fixture(scope="module")
def machines():
    return Machines()


def own_row(**changes):
    """A row of a CPU campaign."""
    case = Case(GemmShape(1, 512, 512), "2:4/index", dtype="fp32")
    fields = {
        "machine": "lab",
        "kernel": "cpu.avx2",
        "M": 1,
        "N": 512,
        "K": 512,
        "dtype": "fp32",
        "pattern": "2:4",
    }
    fields |= {
        "encoding": "index",
        "packing": "bitstream",
        "case_id": case_id(case),
        "threads": 1,
        "l2_state": "cold",
    }
    return measurement(**(fields | changes))


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """Two own rows beside the hardware file of their machine, as a committed campaign."""
    source = (hwmodels.machine.spec.SPEC_FOLDER / "epyc-2core.toml").read_text(encoding="utf-8")
    (tmp_path / "lab.toml").write_text(source.replace('id = "epyc-2core"', 'id = "lab"'), encoding="utf-8")
    write_rows(tmp_path / "lab.csv", [own_row(), own_row(threads=2)])
    monkeypatch.setattr(row_files, "MEASURED_FOLDER", tmp_path)
    return tmp_path


def test_committed_constants_are_those_of_the_committed_rows(machines):
    published = [row for path in (PUBLISHED_FILE, MORE_FILE) for row in read_rows(path, machines).rows]
    table = fit_table(published, machines)
    (source,) = {found.source for found in constants.quantities().values()}
    assert source.endswith(f"digest {fit.digest(table.rows)}"), "the rows have changed: run nmsim fit"
    assert source.startswith(f"{len(table.rows)} rows of {table.rows['machine'].nunique()} machines")


def stale(now, family):
    """Lines of the committed errors of CPUs, or of all others, that differ from those of residuals now."""
    was = pd.read_csv(RESIDUALS_FILE)
    was = was[(was["family"] == CPU_FAMILY) == (family == CPU_FAMILY)].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        intervals.spread(now), was, check_dtype=False, atol=5e-3, obj="residuals.csv (run nmsim fit)"
    )


def test_committed_residuals_are_those_of_the_committed_constants():
    """A change of the model, of a machine or of a row that no fit has followed shows here."""
    judged = judge_files([PUBLISHED_FILE, MORE_FILE], held_out=True).table
    residuals = pd.DataFrame(
        {
            "family": judged["kernel_family"],
            "width": judged["dtype"].map(intervals.width_of),
            "regime": judged["regime"],
            "machine": judged["machine"],
            **{
                f"log_{name}_error": np.log1p(judged[f"{name}_error"])
                for name in ("dense_time", "sparse_time")
            },
        }
    )
    # Not the published speedup, which is rounded more than the two times.
    speedup = residuals["log_dense_time_error"] - residuals["log_sparse_time_error"]
    stale(residuals.assign(log_speedup_error=speedup), "library")
    assert {fit.group_of(name) for name in judged["machine"]} == set(constants.groups())


def test_committed_cpu_residuals_are_those_of_the_committed_campaigns():
    stale(cpu_residuals(), CPU_FAMILY)


def test_the_digest_sees_a_row_and_not_its_number(machines):
    rows = fit_table(as_rows([measurement()]), machines).rows
    digest = fit.digest(rows)
    assert fit.digest(rows.assign(row=7)) == digest
    assert fit.digest(rows.assign(measured_dense_time_s=1e-3)) != digest


def test_what_cannot_be_fitted_is_counted(machines):
    kept = measurement(machine="NVIDIA H200")
    chosen = measurement(pattern="8:16", kernel="own")
    cpu = own_row(machine="epyc-2core")
    table = fit_table(as_rows([chosen, kept, cpu, measurement(dense_time_s=None)]), machines)
    assert table.left_out == {"of kernels that the model chooses": 1, "of CPUs": 1, "without both times": 1}
    assert table.rows[["machine", "row", "kernel_family"]].to_numpy().tolist() == [["h200", 2, "library"]]
    assert table.rows["measured_speedup_vs_dense"].tolist() == [2.0]
    assert set(fit.FIT_COLUMNS) <= set(table.rows.columns)


def test_bad_rows_are_named(machines, tmp_path):
    with pytest.raises(RowError, match="measurements: row 2: 'nobody': no machine of that name"):
        fit_table(as_rows([measurement(), measurement(machine="nobody")]), machines)
    with pytest.raises(RowError, match="no row to fit to.*found 1 of CPUs"):
        fit_table(as_rows([own_row(machine="epyc-2core")]), machines)
    source = (hwmodels.machine.spec.SPEC_FOLDER / "h200.toml").read_text(encoding="utf-8")
    (tmp_path / "lab.toml").write_text(source.replace('id = "h200"', 'id = "lab"'), encoding="utf-8")
    with pytest.raises(RowError, match="row 1: machine='lab': expected a machine that ships with nmsim"):
        fit_table(as_rows([measurement(machine="lab")]), Machines([tmp_path / "lab.toml"]))


def test_own_cpu_rows_are_judged_by_their_calibration(campaign):
    found = cpu_residuals()
    assert tuple(found.columns) == RESIDUAL_COLUMNS
    assert found[["family", "width", "regime", "machine", "row"]].to_numpy().tolist() == [
        ["cpu", "other", "decode", "lab", 1],
        ["cpu", "other", "decode", "lab", 2],
    ]
    inputs = pd.DataFrame([{"M": 1, "N": 512, "K": 512, "dtype": "fp32", "pattern": "2:4", "encoding": "index", "threads": 1,
                            "l2_state": "cold"}])  # fmt: skip
    alone = hwmodels.predict(inputs, campaign / "lab.toml").iloc[0]
    assert found["log_sparse_time_error"].iloc[0] == pytest.approx(
        math.log(alone["predicted_time_s"] / 50e-6), abs=1e-4
    )
    assert found["log_speedup_error"].iloc[0] == pytest.approx(
        found["log_dense_time_error"].iloc[0] - found["log_sparse_time_error"].iloc[0], abs=2e-4
    )


def test_without_a_campaign_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MEASURED_FOLDER", tmp_path)
    assert cpu_residuals().empty


def test_metrics_of_residuals_are_those_of_the_rows(machines):
    table = fit_table(
        as_rows([measurement(), measurement(M=2048, phase="prefill", speedup_vs_dense=0.9)]), machines
    )
    errors = {
        "log_speedup_error": [0.1, 0.2],
        "log_dense_time_error": [0.0, -0.1],
        "log_sparse_time_error": [-0.1, -0.3],
    }
    labels = {
        "family": "library",
        "width": "16-bit",
        "regime": ["decode", "prefill"],
        "machine": "h200",
        "row": [1, 2],
    }
    found = fit.Fitted(constants.prior(), {}, pd.DataFrame(labels | errors), "two rows")
    metrics = {group["rows_of"]: group for group in held_out_metrics(found, table)}
    assert list(metrics) == ["all", "16-bit", "decode", "prefill", "library"]
    assert metrics["decode"]["speedup_mdape"] == pytest.approx(math.exp(0.1) - 1)
    assert metrics["prefill"]["dense_time_mdape"] == pytest.approx(1 - math.exp(-0.1))
    assert metrics["all"]["sign_share"] == 0.5  # 0.9 is predicted as 1.1


def test_committed_rates_of_libraries_are_those_of_the_rows(machines):
    """A search that begins at the file ends near it, on a few rows of each generation; the whole is in `test_refit`."""
    rows = [row for row in read_rows(MORE_FILE, machines).rows if row.number % 4 == 0]
    table = fit_table(rows, machines).rows
    generations = table["machine"].map(lambda machine: hwmodels.load_machine(machine).generation)
    committed = values_of(read_text(LIBRARIES_FILE))
    moved = []
    for name in filter(measured, libraries()):
        one = _Generation(name, table[generations == name], properties(name))
        one.steps = np.log([committed[key] for key in one.cells])
        one.solve(constants.load(), 4)
        for key, step in zip(one.cells, one.steps, strict=True):
            if key[1] == "rate_share" and not key[0].endswith("fp4"):
                moved.append(step - math.log(committed[key]))
    assert len(moved) >= 12
    assert np.abs(moved).max() < 0.1
