"""How far to trust a study: errors of the estimate on machines that it had not seen, for the machines of the study."""

import functools
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hwmodels import HardwareSpec
from hwmodels.estimate.intervals import FEWEST_ROWS, INTERVAL_SHARE, REGIMES, regime_of, width_of
from hwmodels.plots.predicted import Step, Theme
from validate.judge import metrics
from validate.judge.judge import judge_files
from validate.judge.rows import PUBLISHED_FILE
from validate.plots import judge as judge_plots

FIGURES = ("speedup_scatter", "residuals_by_tokens")
WHOSE = {"own": "of this machine", "all": "of all GPUs"}


@functools.cache
def judged() -> pd.DataFrame:
    """The published rows, each predicted with constants that were fitted without its machine."""
    return judge_files([PUBLISHED_FILE], held_out=True).table


def figure(name: str, theme: Theme) -> Figure:
    """Draw one of `FIGURES`."""
    draw = {
        "speedup_scatter": judge_plots.speedup_scatter,
        "residuals_by_tokens": judge_plots.residuals_by_tokens,
    }
    return draw[name](judge_plots.judged_columns(judged()), theme=theme)[0]


def totals() -> dict[str, Any]:
    """What is said of all rows: how many, of how many machines, and the errors of their 16-bit types."""
    table = judged()
    narrow = metrics.summarise(table[table["dtype_class"] == "16-bit"])
    return {
        "n_rows": len(table),
        "n_machines": table["machine"].nunique(),
        "wide": narrow,
        "interval_share": INTERVAL_SHARE,
    }


def regimes(steps: Sequence[Step]) -> list[str]:
    """The regimes of the steps of a study, in order."""
    used = {regime_of(tokens) for _, tokens in steps}
    return [name for name in REGIMES if name in used]


def rows(machines: Sequence[HardwareSpec], dtype: str, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Find the published rows nearest to each machine of a study.

    Parameters
    ----------
    machines : sequence of HardwareSpec
    dtype : str
        Value type of the study.
    steps : sequence of (phase, tokens)

    Returns
    -------
    list of dict
        A machine each: `machine`, `name`, and `cells`, one for each of `regimes`: the metrics of the rows of this
        width and regime, `whose` they are: the machine's own where it has at least `FEWEST_ROWS`, otherwise those of
        all GPUs. A cell is None where nothing comparable has been published, and for a CPU.
    """
    table = judged()
    near = table[[width_of(name) == width_of(dtype) for name in table["dtype"]]]
    return [
        {
            "machine": spec.id,
            "name": spec.name,
            "cells": [_cell(near[near["regime"] == regime], spec) for regime in regimes(steps)],
        }
        for spec in machines
    ]


def _cell(near: pd.DataFrame, spec: HardwareSpec) -> dict[str, Any] | None:
    own = near[near["machine"] == spec.id]
    kind = "own" if len(own) >= FEWEST_ROWS else "all"
    used = own if kind == "own" else near
    if spec.family != "gpu" or used.empty:
        return None
    return metrics.summarise(used) | {"whose": WHOSE[kind]}
