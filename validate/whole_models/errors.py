"""Errors of predicted whole models and online passes in a few numbers, and their comparison with the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from validate.judge.budget import Budget, Excess
from validate.whole_models.online import predict_passes
from validate.whole_models.runs import REASONS, predict_runs
from validate.whole_models.tables import read_online_passes, read_whole_models

WHOLE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "machines": ("machine", "phase"),
    "dtypes": ("machine", "phase", "dtype"),
    "tokens": ("phase", "tokens"),
    "patterns": ("phase", "pattern"),
    "models": ("model", "phase"),
}
"""Name in a verdict -> columns whose values make its groups of runs."""
PASS_GROUPS: Mapping[str, tuple[str, ...]] = {
    "machines": ("machine",),
    "tokens": ("tokens",),
    "patterns": ("pattern",),
}
WHOLE_ERRORS = {
    "speedup": "speedup_vs_dense",
    "dense": "dense_tokens_per_s",
    "sparse": "sparse_tokens_per_s",
}
PASS_ERRORS = {"time": "time_s", "copy": "copy_s"}
LIFT_ERRORS = {"lift": "lift_ratio"}


def summarise(table: pd.DataFrame, errors: Mapping[str, str]) -> dict[str, Any]:
    """Reduce rows to medians of absolute errors `_mdape`, and of errors `_bias`; errors are predicted / measured - 1.

    Examples
    --------
    >>> rows = pd.DataFrame({"predicted_time_s": [1.1, 2.0], "measured_time_s": [1.0, 2.5]})
    >>> {name: round(value, 3) for name, value in summarise(rows, {"time": "time_s"}).items()}
    {'n_rows': 2, 'time_mdape': 0.15, 'time_bias': -0.05}
    """
    found: dict[str, Any] = {"n_rows": len(table)}
    for name, column in errors.items():
        error = table[f"predicted_{column}"] / table[f"measured_{column}"] - 1
        found |= {f"{name}_mdape": float(error.abs().median()), f"{name}_bias": float(error.median())}
    return found


def _grouped(
    table: pd.DataFrame, groups: Mapping[str, Sequence[str]], errors: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for name, columns in groups.items():
        found[name] = []
        for key, rows in table.groupby(list(columns), sort=True):
            values = [
                value if isinstance(value, str) else int(cast(int, value))
                for value in cast(tuple[Any, ...], key)
            ]
            found[name].append(dict(zip(columns, values, strict=True)) | summarise(rows, errors))
    return found


@dataclass(frozen=True)
class WholeModels:
    """Predictions beside measurements: runs of whole models, and online passes.

    Attributes
    ----------
    runs, passes : DataFrame
        From `predict_runs` and `predict_passes`. `runs.left_out` says which runs no figure counts.
    held_out : bool
        Whether each machine was predicted with constants that were fitted without it.
    """

    runs: pd.DataFrame
    passes: pd.DataFrame
    held_out: bool

    @property
    def judged(self) -> pd.DataFrame:
        """Runs that the figures count."""
        return self.runs[self.runs["left_out"] == ""]

    @property
    def lifted(self) -> pd.DataFrame:
        """Passes that repeat activations, which a quantisation alone does not."""
        return self.passes[self.passes["pattern"] != "2:4"]

    def verdict(self) -> dict[str, Any]:
        """All figures as plain values for JSON."""
        counts = self.runs["left_out"].value_counts()
        left_out = [
            {"reason": name, "n_rows": int(counts.get(name, 0)), "rule": rule}
            for name, rule in REASONS.items()
        ]
        judged, lifted = self.judged, self.lifted
        medians = judged.groupby(["machine", "phase", "pattern"])[
            ["measured_speedup_vs_dense", "predicted_speedup_vs_dense"]
        ].median()
        return {
            "held_out": self.held_out,
            "whole_models": {
                "overall": summarise(judged, WHOLE_ERRORS),
                **_grouped(judged, WHOLE_GROUPS, WHOLE_ERRORS),
                "median_speedups": medians.reset_index().to_dict("records"),
                "left_out": left_out,
            },
            "online_passes": {
                "overall": summarise(self.passes, PASS_ERRORS) | _lift(lifted),
                **_grouped(self.passes, PASS_GROUPS, PASS_ERRORS),
                "lifting": _grouped(lifted, PASS_GROUPS, LIFT_ERRORS),
            },
        }


def _lift(lifted: pd.DataFrame) -> dict[str, Any]:
    return {name: value for name, value in summarise(lifted, LIFT_ERRORS).items() if name != "n_rows"}


def judge_whole_models(*, held_out: bool = True) -> WholeModels:
    """Predict the committed runs of whole models and the committed online passes.

    Parameters
    ----------
    held_out : bool
        Predict each machine with constants that were fitted without it and its relatives.

    Returns
    -------
    WholeModels

    Examples
    --------
    >>> found = judge_whole_models()
    >>> found.verdict()["whole_models"]["overall"]["speedup_mdape"] < 0.08
    True
    """
    runs = predict_runs(read_whole_models(), held_out=held_out)
    return WholeModels(runs, predict_passes(read_online_passes(), held_out=held_out), held_out)


def check_whole(found: WholeModels, budget: Budget) -> list[Excess]:
    """Compare figures with the entries `[[whole]]` of a budget.

    Returns
    -------
    list of Excess
        Empty if every figure is within its limit, and every entry is about a row.
    """
    said = []
    for entry in budget.whole:
        runs = found.judged if entry.table == "whole_models" else found.passes
        chosen, name = runs, entry.table
        for column in ("machine", "phase"):
            value = getattr(entry, column)
            if value is not None:
                chosen, name = chosen[chosen[column] == value], f"{name} {column}={value}"
        if chosen.empty:
            said.append(Excess(name, "this entry of the budget fits no row; expected one to remove"))
            continue
        errors = WHOLE_ERRORS if entry.table == "whole_models" else PASS_ERRORS
        figures = summarise(chosen, errors)
        if entry.table == "online_passes":
            figures |= _lift(chosen[chosen["pattern"] != "2:4"])
        else:
            figures["left_out_share"] = float((found.runs["left_out"] != "").mean())
        for figure, value in figures.items():
            limit = getattr(entry, figure, None)
            if limit is not None and value > limit:
                said.append(Excess(name, f"{figure} {value:.4f}; allowed at most {limit:g} ({entry.reason})"))
    return said
