"""Accuracies that somebody measured, beside the errors of the same way of pruning: the authors' logs, or a file of one's own.

The accuracies are of whole models, the errors of the linear layers of a checkpoint, one at a time. That they go together is
what the figure is to show, not what is taken for granted.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pandas as pd

from nmsim.criteria import CRITERIA
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.quality import parse_mitigation
from nmsim.quality.way import UNSTRUCTURED, is_reference
from validate.judge.literature import read_table
from validate.quality.authors_logs import mean_accuracy, read_authors_logs
from validate.quality.measure import ALL, DENSE

KEYS = ("pattern", "criterion", "mitigation")
OWN_COLUMNS = ("model", *KEYS, "accuracy")
ACCURACY_COLUMNS = (*OWN_COLUMNS, "tasks")
QUALITIES = ("relative_output_error", "energy_lost_share")


def logged_accuracy() -> pd.DataFrame:
    """Average the accuracies that the authors of the activation paper logged, over the tasks that all of their runs share.

    Returns
    -------
    DataFrame
        Columns `ACCURACY_COLUMNS`, `tasks` joined by commas. Runs whose log is named otherwise than its code ran are left out.
        Unstructured runs of a token have the criterion "unstructured" and, for pattern, their density in lowest terms, such as
        1:2.

    Source
    ------
    `validate.quality.authors_logs`.

    Examples
    --------
    >>> found = logged_accuracy()
    >>> found[found.model == "gemma-3-4b"][["pattern", "mitigation", "accuracy"]].round(3).to_numpy().tolist()
    [['2:4', 'var', 0.687], ['8:16', 'var', 0.736]]
    >>> set(found.tasks)
    {'arc_easy,boolq,piqa,winogrande'}
    """
    rows = read_authors_logs()
    rows = rows[
        rows["label_holds"] & (rows["metric"] == "accuracy") & rows["among"].isin(["group", "token"])
    ].copy()
    token = rows["among"] == "token"
    rows = rows[~token | (rows["criterion"] == "magnitude")]
    token = rows["among"] == "token"
    rows.loc[token, "pattern"] = [_as_pattern(1 - sparsity) for sparsity in rows.loc[token, "sparsity"]]
    rows.loc[token, "criterion"] = UNSTRUCTURED
    return mean_accuracy(rows, ("model", *KEYS, "layers"))[list(ACCURACY_COLUMNS)]


def read_accuracy(path: str | Path) -> pd.DataFrame:
    """Read accuracies of one's own: a CSV file with `pattern,criterion,mitigation,accuracy`, and `model` if there are several.

    Returns
    -------
    DataFrame
        Columns `ACCURACY_COLUMNS`, `tasks` empty: of which tasks they are, the file does not say.

    Raises
    ------
    RowError
        Other columns, a cell that is no pattern, mitigation or share from 0 to 1, or a way twice; names the line.
    """
    header, *lines = read_table(path) or [[]]
    if not {*KEYS, "accuracy"} <= set(header) <= set(OWN_COLUMNS) or len(set(header)) < len(header):
        raise RowError(
            f"{path}: columns {', '.join(header) or 'none'}: expected {', '.join(KEYS)}, accuracy and, if need be, model"
        )
    rows = []
    for number, line in enumerate(lines, start=2):
        where = f"{path}: line {number}"
        if len(line) != len(header):
            raise RowError(f"{where}: {len(line)} cells, expected {len(header)}")
        rows.append(
            _checked(
                {"model": "own"} | dict(zip(header, (cell.strip() for cell in line), strict=True)), where
            )
        )
    found = pd.DataFrame(rows, columns=list(OWN_COLUMNS)).assign(tasks="")
    twice = found.duplicated(["model", *KEYS])
    if found.empty or twice.any():
        what = f"{', '.join(found.loc[twice, list(KEYS)].iloc[0])} comes twice" if twice.any() else "no row"
        raise RowError(f"{path}: {what}, expected one row of each way")
    return found


def _checked(cells: Mapping[str, str], where: str) -> dict[str, object]:
    try:
        pattern = str(Pattern.parse(cells["pattern"]))
        mitigation = "+".join(map(str, parse_mitigation(cells["mitigation"]))) or "none"
        accuracy = float(cells["accuracy"])
    except ValueError as error:
        raise RowError(f"{where}: {error}") from None
    if not 0 <= accuracy <= 1:
        raise RowError(f"{where}: accuracy={cells['accuracy']!r}: expected a share from 0 to 1")
    return {**cells, "pattern": pattern, "mitigation": mitigation, "accuracy": accuracy}


def beside_quality(table: pd.DataFrame, accuracies: pd.DataFrame) -> pd.DataFrame:
    """Put the errors of all layers together beside the accuracies of the same way of pruning activations.

    A criterion without groups is matched by its density.

    Parameters
    ----------
    table : DataFrame
        From `validate.quality.measure.measure_quality`.
    accuracies : DataFrame
        Columns `ACCURACY_COLUMNS`.

    Returns
    -------
    DataFrame
        `ACCURACY_COLUMNS` and `QUALITIES`; accuracies that nothing was measured for are left out.
    """
    rows = table[(table["layer"] == ALL) & (table["operand"] == "activations") & (table["pattern"] != DENSE)]
    rows = rows.assign(energy_lost_share=1 - rows["energy_kept_share"])[[*KEYS, *QUALITIES]]
    # Patterns of one density are one way without groups.
    rows = _in_lowest_terms(rows).drop_duplicates(list(KEYS))
    return _in_lowest_terms(accuracies).merge(rows, on=list(KEYS), how="inner")


def _in_lowest_terms(rows: pd.DataFrame) -> pd.DataFrame:
    """Write the patterns of criteria without groups as their density."""
    rows = rows.copy()
    loose = [criterion in CRITERIA and is_reference(criterion) for criterion in rows["criterion"]]
    rows.loc[loose, "pattern"] = [
        _as_pattern(float(Pattern.parse(text).density)) for text in rows.loc[loose, "pattern"]
    ]
    return rows


def _as_pattern(density: float) -> str:
    """A density as N:M in lowest terms."""
    share = Fraction(density).limit_denominator(256)
    return f"{share.numerator}:{share.denominator}"
