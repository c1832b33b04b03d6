"""The budget: what it allows, what it refuses, and that the committed rows keep within it."""

from dataclasses import replace

import pytest
from judge_fakes import measurement, model_of

from nmsim import rows as row_files
from nmsim.errors import SpecError
from nmsim.rows import write as write_rows
from validate.judge.budget import check, read_budget
from validate.judge.judge import judge_files, judge_rows
from validate.judge.rows import PUBLISHED_FILE, as_rows

ENTRY = '[[family]]\nspeedup_mdape = 0.1\nreason = "as good as it gets"\n'


def budget_of(tmp_path, text, head="held_out = false\n"):
    path = tmp_path / "budget.toml"
    path.write_text(head + text, encoding="utf-8")
    return read_budget(path)


def table_of(*rows, **model):
    return judge_rows(as_rows(rows), predictor=model_of(**model))


def test_within_and_outside(tmp_path):
    budget = budget_of(
        tmp_path, ENTRY + '[[total]]\nspeedup_mdape = 0.1\nsign_share = 0.9\nreason = "goal"\n'
    )
    good = [measurement() for _ in range(9)]
    assert check(table_of(*good), budget) == []
    doctored = [measurement(machine="b200", speedup_vs_dense=1.5)]
    (excess,) = check(table_of(*good, *doctored), budget)
    assert str(excess) == (
        "b200 bf16 decode library: speedup_mdape 0.3333 of 1 rows; allowed at most 0.1 (as good as it gets)"
    )
    losing = [measurement(speedup_vs_dense=0.9)] * 2
    assert "total of all rows: sign_share 0.8182 of 11 rows; allowed at least 0.9 (goal)" in [
        str(excess) for excess in check(table_of(*good, *losing), budget)
    ]


def test_the_narrower_entry_counts(tmp_path):
    narrow = '[[family]]\nmachine = "b200"\nspeedup_mdape = 0.5\nreason = "few rows"\n'
    table = table_of(measurement(), measurement(machine="b200", speedup_vs_dense=1.5))
    assert check(table, budget_of(tmp_path, ENTRY + narrow)) == []


def test_entries_and_families_need_one_another(tmp_path):
    b200 = '[[family]]\nmachine = "b200"\nspeedup_mdape = 0.5\nreason = "few rows"\n'
    total = '[[total]]\nkernel_family = "csr"\nspeedup_mdape = 0.5\nreason = "few rows"\n'
    found = [str(excess) for excess in check(table_of(measurement()), budget_of(tmp_path, b200 + total))]
    assert found == [
        "h200 bf16 decode library: no entry of the budget fits this family; expected one, with a reason",
        "machine=b200: this entry of the budget fits no family; expected one to remove",
        "kernel_family=csr: this total of the budget fits no row; expected one to remove",
    ]
    tie = b200.replace("b200", "h200") + b200.replace('machine = "b200"', 'dtype = "bf16"')
    found = [str(excess) for excess in check(table_of(measurement()), budget_of(tmp_path, tie))]
    assert "h200 bf16 decode library: several entries fit equally well" in found[0]


def test_unknown_times_need_no_allowance(tmp_path):
    entry = ENTRY.replace("reason", "dense_time_mdape = 0.01\nreason")
    assert check(table_of(measurement(dense_time_s=None)), budget_of(tmp_path, entry)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[family]]\nspeedup_mdape = 0.1\n', r"family\[0\].reason: missing; this key is required"),
        ('[[family]]\nreason = "x"\n', r"family\[0\].speedup_mdape: missing"),
        ('[[family]]\nspeedup = 0.1\nreason = "x"\n', r"family\[0\].speedup: unknown key .*speedup_mdape, reason, machine"),
        ('[[family]]\nspeedup_mdape = "low"\nreason = "x"\n', r"speedup_mdape='low': expected a number"),
        ('[[family]]\nspeedup_mdape = 0.1\nreason = " "\n', r"reason=' ': expected text"),
        (ENTRY + ENTRY, "family: two entries for {}; expected one"),
        ("more = 1\n", "more: unknown key; expected held_out, family, total"),
        ("a = [\n", "cannot be read as TOML"),
    ],
)  # fmt: skip
def test_a_bad_budget_is_named(tmp_path, text, message):
    with pytest.raises(SpecError, match=message):
        budget_of(tmp_path, text)


def test_it_says_which_constants(tmp_path):
    with pytest.raises(SpecError, match="held_out: missing; this key is required"):
        budget_of(tmp_path, ENTRY, head="")


@pytest.fixture(scope="module")
def committed():
    budget = read_budget()
    return budget, judge_files(held_out=budget.held_out).table


def test_the_committed_rows_keep_within_the_budget(committed):
    budget, table = committed
    assert [str(excess) for excess in check(table, budget)] == []


@pytest.mark.parametrize(
    ("machine", "dtype", "M"), [("h100-sxm", "fp8", 64), ("a100-pcie", "bf16", 4096), ("rtx4090", "fp16", 1)]
)
def test_a_doctored_row_does_not(tmp_path, committed, machine, dtype, M):
    """One dense time, ten times what was published, fails by name, however many good rows stand beside it."""
    rows = row_files.read(PUBLISHED_FILE)
    place = next(i for i, row in enumerate(rows) if (row.machine, row.dtype, row.M) == (machine, dtype, M))
    row = rows[place]
    rows[place] = replace(row, dense_time_s=10 * row.dense_time_s, speedup_vs_dense=10 * row.speedup_vs_dense)
    write_rows(tmp_path / "doctored.csv", rows)
    budget, table = committed
    doctored = judge_files([tmp_path / "doctored.csv"], held_out=budget.held_out).table
    new = {excess.what for excess in check(doctored, budget)} - {
        excess.what for excess in check(table, budget)
    }
    assert any(what.startswith(f"{machine} {dtype} ") for what in new)
