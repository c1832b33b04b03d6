"""Accuracies that the authors of the activation paper logged, row by row, and means of them that compare like with like.

The rows are from development logs in their repository. They are not the paper's table, and no dense run is among them: a
mean says how two ways of pruning compare, not what is lost against the dense model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from hwmodels.online.criteria import CRITERIA
from hwmodels.online.mitigations import MITIGATIONS
from hwmodels.workload import load_model, model_names
from nmsim.errors import NmsimError, RowError
from nmsim.pattern import Pattern
from validate.judge.literature import read_table
from validate.judge.rows import DATA_FOLDER

AUTHORS_LOGS_FILE = DATA_FOLDER / "authors_logs.csv"
RUN = ("model", "criterion", "mitigation", "pattern", "sparsity", "among", "layers")
"""Columns that tell one way of pruning from another."""
COLUMNS = (
    "model", "model_source", "sparse_operand", "criterion", "mitigation", "pattern", "sparsity", "among", "layers", "task",
    "metric", "value", "standard_error", "label_holds", "source", "tag", "note",
)  # fmt: skip
ACCURACY, PERPLEXITY = "accuracy", "perplexity"
METRIC_OF = MappingProxyType(
    dict.fromkeys(("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "winogrande"), ACCURACY)
    | {"wikitext2": PERPLEXITY}
)
"""Task -> what is measured: the share of right answers without an example (`acc,none` of lm_eval), or the perplexity of
WikiText-2 in sequences of 512 tokens."""
AMONG = ("group", "token", "all")
"""What an element competes with: its group of M, its token, or all elements of all tokens."""
READ_IN_LOGS = "C"
"""The one tag: read in the authors' code or logs, not in the paper's text."""


def read_authors_logs(path: str | Path = AUTHORS_LOGS_FILE) -> pd.DataFrame:
    """Read the logged rows, all of them checked.

    Parameters
    ----------
    path : str or Path
        CSV with exactly `COLUMNS`.

    Returns
    -------
    pandas.DataFrame
        `sparse_operand` "activations"; `pattern` empty and `among` "token" or "all" where pruning has no groups; `sparsity`
        share dropped; `layers` the pruned ones; `value` of `metric`; `standard_error` NaN where none was logged;
        `label_holds` False where the log's own name is not what its code ran, see `note`; `tag` "C", read in the authors'
        code or logs.

    Raises
    ------
    RowError
        Another header, a name nothing here knows, a number out of its range, or a row twice: the error names file, row
        and column.

    Source
    ------
    https://github.com/On-Point-RND/Structured-Sparse-Activations-Inference, act_prune/artifacts/logs; the log of each row
    is in its `source`.

    Examples
    --------
    >>> rows = read_authors_logs()
    >>> sorted(rows.pattern.unique()), int(rows.label_holds.sum()), len(rows)
    (['', '2:4', '8:16'], 71, 77)
    """
    header, *lines = read_table(path) or [[]]
    if tuple(header) != COLUMNS:
        raise RowError(f"{path}: header {','.join(header)!r}: expected {','.join(COLUMNS)}")
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}: row {number}"
        if len(line) != len(COLUMNS):
            raise RowError(f"{where}: {len(line)} cells, expected {len(COLUMNS)}")
        row = dict(zip(COLUMNS, line, strict=True))
        for name, check in CHECKS.items():
            try:
                problem = check(row)
            except (ValueError, NmsimError) as error:
                problem = str(error)
            if problem:
                raise RowError(f"{where}: {name}={row[name]!r}: {problem}")
        key = tuple(row[name] for name in (*RUN, "task"))
        if key in seen:
            raise RowError(f"{where}: the same run and task as row {seen[key]}, expected one value of each")
        seen[key] = number
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    for name in ("sparsity", "value", "standard_error"):
        table[name] = pd.to_numeric(table[name])
    table["label_holds"] = table["label_holds"] == "yes"
    return table


def mean_accuracy(rows: pd.DataFrame, run: Sequence[str] = RUN) -> pd.DataFrame:
    """Average the accuracy of each run over the tasks that all runs among the rows have in common.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of `read_authors_logs`: those that are to be compared. Perplexities are left out.
    run : sequence of str
        Columns that tell the runs apart.

    Returns
    -------
    pandas.DataFrame
        A row a run in the order of the rows: `run`, `accuracy` (mean), `standard_error` (of the mean, tasks taken as
        independent), `tasks` (joined by commas).

    Raises
    ------
    RowError
        No accuracy among the rows, no task in common, or a run with several values of one task.

    Examples
    --------
    >>> rows = read_authors_logs()
    >>> mean_accuracy(rows.query("model == 'gemma-3-4b'"))[["pattern", "accuracy"]].round(3).to_numpy().tolist()
    [['2:4', 0.596], ['8:16', 0.648]]
    """
    some = rows[rows["metric"] == ACCURACY]
    if some.empty:
        raise RowError("no accuracy among the rows: expected some to average")
    keys = list(run)
    twice = some.duplicated([*keys, "task"])
    if twice.any():
        one = some[twice].iloc[0]
        raise RowError(
            f"{one['task']} of {', '.join(str(one[name]) for name in keys)}: several values, expected one; "
            "name more columns in run"
        )
    by_run = [set(group["task"]) for _, group in some.groupby(keys, sort=False)]
    shared = [task for task in METRIC_OF if task in set.intersection(*by_run)]
    if not shared:
        raise RowError(
            f"{len(by_run)} runs have no task in common: expected at least one, to compare like with like"
        )
    found = some[some["task"].isin(shared)].groupby(keys, sort=False)
    means = found.agg(
        accuracy=("value", "mean"),
        standard_error=("standard_error", lambda errors: math.hypot(*errors) / len(errors)),
    ).reset_index()
    return means.assign(tasks=",".join(shared))


def _one_of(name: str, known: Sequence[str]) -> Callable[[Mapping[str, str]], str]:
    return lambda row: "" if row[name] in known else f"expected one of {', '.join(map(repr, known))}"


def _pattern(row: Mapping[str, str]) -> str:
    if (row["pattern"] == "") != (row["among"] != "group"):
        return f"among {row['among']!r}: expected a pattern where the choice is among a group, and none elsewhere"
    if row["pattern"] and str(Pattern.parse(row["pattern"])) != row["pattern"]:
        return f"expected it written {Pattern.parse(row['pattern'])}"
    return ""


def _sparsity(row: Mapping[str, str]) -> str:
    sparsity = float(row["sparsity"])
    if row["pattern"]:
        of_pattern = float(Pattern.parse(row["pattern"]).sparsity)
        return "" if sparsity == of_pattern else f"expected that of {row['pattern']}, {of_pattern}"
    return "" if 0 < sparsity < 1 else "expected more than 0 and less than 1"


def _layers(row: Mapping[str, str]) -> str:
    known = [layer.name for layer in load_model(row["model"]).layers if layer.pruned]
    names = row["layers"].split(",")
    in_order = [name for name in known if name in names]
    return "" if names == in_order else f"expected some of {', '.join(known)}, in this order"


def _metric(row: Mapping[str, str]) -> str:
    expected = METRIC_OF[row["task"]]
    return "" if row["metric"] == expected else f"expected {expected} of task {row['task']}"


def _value(row: Mapping[str, str]) -> str:
    value = float(row["value"])
    if row["metric"] == ACCURACY:
        return "" if 0 <= value <= 1 else "expected a share from 0 to 1"
    return "" if 1 <= value < math.inf else "expected a finite perplexity of 1 and more"


def _standard_error(row: Mapping[str, str]) -> str:
    if row["metric"] == PERPLEXITY:
        return "" if row["standard_error"] == "" else "expected nothing beside a perplexity"
    return "" if 0 < float(row["standard_error"]) < 0.5 else "expected more than 0 and less than 0.5"


def _source(row: Mapping[str, str]) -> str:
    return "" if row["source"].startswith("https://") else "expected the address of a log"


CHECKS: Mapping[str, Callable[[Mapping[str, str]], str]] = MappingProxyType(
    {
        "model": lambda row: _one_of("model", model_names())(row),
        "model_source": lambda row: "" if row["model_source"] else "expected the log's name of the model",
        "sparse_operand": _one_of("sparse_operand", ("activations",)),
        "criterion": _one_of("criterion", [name for name in CRITERIA if not name.startswith("unstructured")]),
        "mitigation": _one_of("mitigation", ("none", *MITIGATIONS)),
        "among": _one_of("among", AMONG),
        "pattern": _pattern,
        "sparsity": _sparsity,
        "layers": _layers,
        "task": _one_of("task", tuple(METRIC_OF)),
        "metric": _metric,
        "value": _value,
        "standard_error": _standard_error,
        "label_holds": _one_of("label_holds", ("yes", "no")),
        "source": _source,
        "tag": _one_of("tag", (READ_IN_LOGS,)),
        "note": lambda row: "" if row["note"] else "expected what is to be known of the row",
    }
)
"""Column -> what is wrong with it in a row, or nothing; each may rely on those before it."""
