"""The authors' logged accuracies: the committed rows, means over common tasks, and the text of every complaint."""

import csv

import pytest

from nmsim.errors import RowError
from validate.quality.authors_logs import (
    AUTHORS_LOGS_FILE,
    COLUMNS,
    RUN,
    mean_accuracy,
    read_authors_logs,
)


@pytest.fixture(scope="module")
def rows():
    return read_authors_logs()


def mean_of(rows, *queries):
    """Means of runs that are compared with each other, each found by a query."""
    means = mean_accuracy(rows.query(" or ".join(f"({query})" for query in queries)))
    return [means.query(query).accuracy.item() for query in queries], means


def test_known_means_of_six_tasks(rows):
    (small, large, free), means = mean_of(
        rows[rows.model == "llama-3.1-8b"],
        "criterion == 'clact' and pattern == '2:4'",
        "criterion == 'clact' and pattern == '8:16'",
        "criterion == 'magnitude' and sparsity == 0.5 and among == 'token'",
    )
    assert (round(small, 3), round(large, 3), round(free, 3)) == (0.566, 0.640, 0.678)
    assert set(means.tasks) == {"arc_challenge,arc_easy,boolq,hellaswag,piqa,winogrande"}
    (small, large), _ = mean_of(rows[rows.model == "gemma-3-4b"], "pattern == '2:4'", "pattern == '8:16'")
    assert (round(small, 3), round(large, 3)) == (0.596, 0.648)


def test_a_mean_takes_common_tasks_only(rows):
    """The run with D-PTS has four tasks: beside it the others are averaged over these four."""
    llama = rows[(rows.model == "llama-3.1-8b") & (rows.pattern == "2:4")]
    means = mean_accuracy(llama).set_index("criterion")
    assert set(means.tasks) == {"arc_easy,boolq,piqa,winogrande"}
    assert means.accuracy["clact"] == pytest.approx((0.6524 + 0.7125 + 0.6877 + 0.5896) / 4, abs=1e-4)
    assert means.accuracy["magnitude"] == pytest.approx((0.6877 + 0.7291 + 0.7225 + 0.6085) / 4, abs=1e-4)
    alone = mean_accuracy(llama[llama.criterion == "clact"])
    assert alone.accuracy.item() != pytest.approx(means.accuracy["clact"], abs=0.05)


def test_the_error_of_a_mean(rows):
    run = rows[(rows.model == "qwen2.5-7b") & (rows.criterion == "clact")]
    expected = sum(error**2 for error in run.standard_error) ** 0.5 / 6
    assert mean_accuracy(run).standard_error.item() == pytest.approx(expected, rel=1e-12)


def test_committed_rows(rows):
    """74 accuracies of 14 runs and three perplexities; what is doubtful says so."""
    assert (rows.metric == "accuracy").sum() == 74
    assert len(rows[rows.metric == "accuracy"].drop_duplicates(list(RUN))) == 14
    perplexities = rows[rows.metric == "perplexity"].set_index(["model", "pattern"]).value.round(2)
    assert perplexities.to_dict() == {
        ("qwen2.5-7b", "2:4"): 13.96,
        ("qwen2.5-7b", "8:16"): 11.91,
        ("gemma-3-4b", "2:4"): 166.41,
    }
    doubtful = rows[~rows.label_holds]
    assert set(doubtful.model) == {"qwen2.5-7b"}
    assert doubtful.note.str.contains("the log says shift").all()
    assert rows.note.str.startswith("development log, not the published table; no dense run").all()
    assert set(rows[rows.model == "qwen2.5-7b"].layers) == {"o,gate,up,down"}
    assert set(rows[(rows.among == "all")].criterion) == {"clact", "amber"}


def test_what_cannot_be_compared(rows):
    with pytest.raises(RowError, match="no accuracy among the rows"):
        mean_accuracy(rows[rows.metric == "perplexity"])
    apart = rows[
        (rows.task == "boolq") & (rows.pattern == "2:4") | (rows.task == "piqa") & (rows.pattern == "8:16")
    ]
    with pytest.raises(RowError, match="runs have no task in common"):
        mean_accuracy(apart)
    with pytest.raises(RowError, match="several values, expected one"):
        mean_accuracy(rows, run=["model", "criterion"])


def doctored(path, **cells):
    """The committed rows with cells of the first one changed."""
    with AUTHORS_LOGS_FILE.open(newline="") as file:
        lines = list(csv.reader(file))
    for name, value in cells.items():
        lines[1][COLUMNS.index(name)] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        ({"model": "llama-4"}, "model='llama-4': expected one of"),
        ({"model_source": ""}, "expected the log's name of the model"),
        ({"sparse_operand": "weights"}, "sparse_operand='weights': expected one of 'activations'"),
        ({"criterion": "L_pruner"}, "criterion='L_pruner': expected one of 'magnitude', 'clact'"),
        ({"criterion": "unstructured"}, "criterion='unstructured': expected one of"),
        ({"mitigation": "variance"}, "mitigation='variance': expected one of 'none', 'dpts_mean'"),
        ({"among": "sequence"}, "among='sequence': expected one of 'group', 'token', 'all'"),
        ({"pattern": ""}, "expected a pattern where the choice is among a group"),
        ({"among": "token"}, "expected a pattern where the choice is among a group"),
        ({"pattern": "2-4"}, "expected 'N:M'"),
        ({"pattern": "02:4"}, "expected it written 2:4"),
        ({"sparsity": "0.7"}, "expected that of 2:4, 0.5"),
        ({"sparsity": "half"}, "could not convert"),
        ({"pattern": "", "among": "all", "sparsity": "1"}, "expected more than 0 and less than 1"),
        ({"layers": "q,k,v,o,gate,up,head"}, "expected some of q, k, v, o, gate, up, down, in this order"),
        ({"layers": "k,q"}, "in this order"),
        ({"task": "mbpp"}, "task='mbpp': expected one of"),
        ({"metric": "perplexity"}, "expected accuracy of task arc_challenge"),
        ({"value": "32.7"}, "expected a share from 0 to 1"),
        ({"value": "nan"}, "expected a share from 0 to 1"),
        ({"task": "wikitext2", "metric": "perplexity", "value": "0.5"}, "expected a finite perplexity"),
        ({"task": "wikitext2", "metric": "perplexity", "value": "9"}, "expected nothing beside a perplexity"),
        ({"standard_error": "0"}, "expected more than 0 and less than 0.5"),
        ({"label_holds": "maybe"}, "expected one of 'yes', 'no'"),
        ({"source": "a log"}, "expected the address of a log"),
        ({"tag": "P"}, "expected one of 'C'"),
        ({"note": ""}, "expected what is to be known of the row"),
        ({"task": "arc_easy"}, "row 2: the same run and task as row 1"),
    ],
)
def test_a_doctored_row_is_refused(tmp_path, cells, complaint):
    path = doctored(tmp_path / "logs.csv", **cells)
    with pytest.raises(RowError) as refused:
        read_authors_logs(path)
    assert complaint in str(refused.value)
    assert f"{path}: row " in str(refused.value)


def test_another_layout_is_refused(tmp_path):
    path = tmp_path / "logs.csv"
    path.write_text("model,value\nllama-3.1-8b,0.5\n")
    with pytest.raises(RowError, match="header 'model,value': expected model,model_source"):
        read_authors_logs(path)
    path.write_text(",".join(COLUMNS) + "\nllama-3.1-8b\n")
    with pytest.raises(RowError, match="row 1: 1 cells, expected 17"):
        read_authors_logs(path)
