"""The logged accuracies: the committed rows say what they are, and the section of the docs shows their means."""

import sys
from pathlib import Path

import pandas as pd
import pytest

import validate
from hwmodels.models import load_model
from hwmodels.online.mitigations import CRITERIA, MITIGATIONS
from nmsim.pattern import Pattern

TOOLS = Path(__file__).resolve().parents[3] / "docs" / "tools"
LOGS = Path(validate.__file__).parent / "data" / "authors_logs.csv"
RUN = ["model", "criterion", "mitigation", "pattern", "sparsity", "among", "layers"]
ACCURACY_TASKS = {"arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "winogrande"}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.read_csv(LOGS, keep_default_na=False)


@pytest.fixture(scope="module")
def section():
    sys.path.insert(0, str(TOOLS))
    try:
        import logged_accuracies

        yield logged_accuracies
    finally:
        sys.path.remove(str(TOOLS))


def test_committed_rows(rows):
    """74 accuracies of 14 runs and three perplexities; what is doubtful says so."""
    accuracies = rows[rows.metric == "accuracy"]
    assert (len(accuracies), len(accuracies.drop_duplicates(RUN))) == (74, 14)
    assert not rows.duplicated([*RUN, "task"]).any()
    assert set(accuracies.task) == ACCURACY_TASKS
    assert accuracies.value.between(0, 1).all()
    assert accuracies.standard_error.astype(float).between(0, 0.5, inclusive="neither").all()
    perplexities = rows[rows.metric == "perplexity"]
    assert (perplexities.standard_error == "").all()
    assert perplexities.set_index(["model", "pattern"]).value.round(2).to_dict() == {
        ("qwen2.5-7b", "2:4"): 13.96,
        ("qwen2.5-7b", "8:16"): 11.91,
        ("gemma-3-4b", "2:4"): 166.41,
    }
    doubtful = rows[rows.label_holds == "no"]
    assert len(doubtful) == 6
    assert set(doubtful.model) == {"qwen2.5-7b"}
    assert doubtful.note.str.contains("the log says shift").all()
    assert set(rows.label_holds) == {"yes", "no"}
    assert rows.note.str.startswith("development log, not the published table; no dense run").all()
    assert rows.source.str.startswith("https://").all()
    assert set(rows.tag) == {"C"}


def test_names_are_those_of_the_project(rows):
    assert set(rows.sparse_operand) == {"activations"}
    assert set(rows.criterion) <= set(CRITERIA)
    assert set(rows.mitigation) <= {"none", *MITIGATIONS}
    assert ((rows.pattern == "") == (rows.among != "group")).all()
    for row in rows.itertuples():
        known = [layer.name for layer in load_model(row.model).layers if layer.pruned]
        assert [name for name in known if name in row.layers.split(",")] == row.layers.split(",")
        if row.pattern:
            assert str(Pattern.parse(row.pattern)) == row.pattern
            assert float(Pattern.parse(row.pattern).sparsity) == row.sparsity


def test_means_compare_the_same_tasks(section):
    """The run with D-PTS has four tasks: beside it the others are averaged over these four."""
    means, tasks = section.logged()
    assert tasks == ["arc_easy", "boolq", "piqa", "winogrande"]
    llama = means[(means.model == "llama-3.1-8b") & (means.pattern == "2:4")].set_index("criterion")
    assert llama.accuracy["clact"] == pytest.approx((0.6524 + 0.7125 + 0.6877 + 0.5896) / 4, abs=1e-4)
    assert llama.accuracy["magnitude"] == pytest.approx((0.6877 + 0.7291 + 0.7225 + 0.6085) / 4, abs=1e-4)
    assert set(zip(means.model, means.criterion, strict=True)) == {
        ("llama-3.1-8b", "clact"), ("llama-3.1-8b", "magnitude"), ("llama-3.1-8b", "unstructured"),
        ("llama-2-7b", "magnitude"), ("qwen2.5-7b", "magnitude"), ("gemma-3-4b", "magnitude"),
    }  # fmt: skip


def test_errors_stand_beside_each_accuracy(section):
    text = section.section()
    lines = [line for line in text.splitlines() if line.startswith("| ") and "logged accuracy" not in line]
    assert len(lines) == 10
    assert not any("nan" in line for line in lines)
    errors = section.measured().set_index(["criterion", "mitigation", "pattern"]).relative_output_error
    assert (
        errors["unstructured", "none", "1:2"]
        < errors["magnitude", "none", "8:16"]
        < errors["magnitude", "none", "2:4"]
    )
