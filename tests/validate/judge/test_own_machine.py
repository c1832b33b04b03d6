"""Own rows beside predictions from a hardware file: joined row by row, summarised, drawn."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest

import hwmodels
from hwmodels import plots
from hwmodels.machine.spec import SPEC_FOLDER
from nmsim import rows as row_files
from nmsim.case import Case, GemmShape, case_id
from nmsim.errors import RowError
from nmsim.format import as_format
from nmsim.pattern import Pattern
from nmsim.rows import Measurement
from validate.judge.own_machine import own_rows, summarise
from validate.judge.rows import own_files

CASES = [
    Case(
        GemmShape(1, 4096, 4096),
        as_format(Pattern.parse(pattern), encoding=encoding),
        dtype="fp32",
        sparse_operand="weights",
    )
    for pattern in ("2:4", "8:16")
    for encoding in ("bitmask", "index")
]


@pytest.fixture
def machine(tmp_path) -> Path:
    text = (SPEC_FOLDER / "epyc-2core.toml").read_text(encoding="utf-8")
    text = re.sub(r"^id = .*$", 'id = "mine"', text, flags=re.M)
    text = re.sub(r"^aliases = .*$", "aliases = []", text, flags=re.M)
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def measured(machine: Path, factor: float = 1.0) -> list[Measurement]:
    """Rows as if each sparse product took what is predicted, but for a factor on the dense one."""
    rows = []
    for case in CASES:
        answer = hwmodels.predict(case, machine)
        dense_s, sparse_s = answer.predicted_dense_time_s * factor, answer.predicted_time_s
        rows.append(
            Measurement(
                machine="mine", kernel="cpu.avx2", case_id=case_id(case), M=1, N=4096, K=4096, phase="decode",
                dtype="fp32", pattern=str(case.pattern), encoding=case.format.encoding.name,
                packing=str(case.format.packing), threads=2,
                baseline="numpy @", l2_state="cold", sparse_time_s=sparse_s, dense_time_s=dense_s,
                speedup_vs_dense=dense_s / sparse_s, speedup_vs_dense_p20=0.9 * dense_s / sparse_s,
                speedup_vs_dense_p80=1.1 * dense_s / sparse_s,
            )
        )  # fmt: skip
    return rows


def write(path: Path, rows: list[Measurement]) -> Path:
    for row in rows:
        row_files.append(path, row)
    return path


def test_what_goes_as_predicted_has_no_error(machine, tmp_path):
    table = own_rows(write(tmp_path / "rows.csv", measured(machine)), machine)
    assert table["speedup_error"].abs().max() < 1e-9
    assert table["pattern"].tolist() == ["2:4", "2:4", "8:16", "8:16"]
    assert (table["bound_speedup_vs_dense"] >= table["predicted_speedup_vs_dense"]).all()


def test_a_dense_call_twice_as_slow_halves_the_predicted_gain(machine, tmp_path):
    table = own_rows(write(tmp_path / "rows.csv", measured(machine, 2.0)), machine)
    assert table["speedup_error"].tolist() == pytest.approx([-0.5] * 4)
    (row,) = summarise(table.assign(all="all"), ["all"]).to_dict("records")
    assert (row["n_rows"], row["speedup_mdape"]) == (4, pytest.approx(0.5))


def test_summary_by_pattern_keeps_the_order_of_rows(machine, tmp_path):
    table = own_rows(write(tmp_path / "rows.csv", measured(machine)), machine)
    assert summarise(table, ["pattern"])["pattern"].tolist() == ["2:4", "8:16"]


def test_rows_of_another_machine_are_refused(machine, tmp_path):
    rows = [dataclasses.replace(row, machine="elsewhere") for row in measured(machine)]
    with pytest.raises(RowError, match=r"rows.csv: row 1.*: machine=.*elsewhere"):
        own_rows(write(tmp_path / "rows.csv", rows), machine)


def test_the_figure_has_a_panel_a_round_and_units(machine, tmp_path):
    table = own_rows(write(tmp_path / "rows.csv", measured(machine)), machine)
    twice = table.assign(threads=1)
    fig, grid = plots.measured_on_predicted(pd.concat([table, twice], ignore_index=True))
    shown = [ax for ax in grid.flat if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == [
        "fp32, 4096×4096, 1 token, 2 cores, cold", "fp32, 4096×4096, 1 token, 1 core, cold",
    ]  # fmt: skip
    assert any("[×]" in ax.get_ylabel() for ax in shown) or "[×]" in fig.get_supylabel()


def test_a_figure_is_of_one_machine(machine, tmp_path):
    table = own_rows(write(tmp_path / "rows.csv", measured(machine)), machine)
    both = pd.concat([table.assign(machine="one"), table.assign(machine="other")], ignore_index=True)
    with pytest.raises(RowError, match="one, other: expected one machine per figure"):
        plots.measured_on_predicted(both)


def test_nothing_to_draw_is_an_error(machine, tmp_path):
    table = own_rows(write(tmp_path / "rows.csv", measured(machine)), machine)
    with pytest.raises(RowError, match="no row to draw"):
        plots.measured_on_predicted(table.iloc[:0])


def test_committed_rows_were_measured_by_committed_code():
    rows = [row for file in own_files() for row in row_files.read(file)]
    assert rows
    assert all(row.dirty is False and len(row.commit) == 40 for row in rows)
