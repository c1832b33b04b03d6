"""The section of a study on a tensor core that takes the pattern: its table, its sentences and its figures."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hwmodels.plots import predicted as plots
from hwmodels.plots.cores import speedup_vs_pattern, time_by_stage
from hwmodels.plots.predicted import Step, Theme
from validate.study.answer import at_step, heat, in_words, span, times
from validate.study.cores import DENSE_CORE, ENERGY, OVERHEAD, WITH_DECODER, WITH_UNIT, chosen, limit_in_words

FIGURES = ("core_speedup_vs_pattern", "core_time_by_stage")
SPEEDUP = "speedup_vs_dense"


def figure(table: pd.DataFrame, name: str, theme: Theme) -> Figure:
    """Draw one of `FIGURES` from the table of `validate.study.cores.core_table`."""
    ends = plots.choose_steps(table)
    if name == FIGURES[0]:
        return speedup_vs_pattern(table[table["core"] != DENSE_CORE], steps=ends, theme=theme)[0]
    own, dense = chosen(table), table[table["core"] == DENSE_CORE]
    rows = pd.concat([dense.assign(core=WITH_UNIT), own[own["core"] == WITH_UNIT]])
    first_and_last = list(dict.fromkeys((ends[0], ends[-1])))
    return time_by_stage(rows, steps=first_and_last, theme=theme)[0]


def sentences(table: pd.DataFrame) -> list[str]:
    """Say what a native unit adds at the first and at the last step, over all patterns in the encodings chosen."""
    rows = chosen(table)
    units, decoders = rows[rows["core"] == WITH_UNIT], rows[rows["core"] == WITH_DECODER]
    ends = plots.choose_steps(table)
    said = []
    for step in dict.fromkeys((ends[0], ends[-1])):
        unit, decoder = at_step(units, step), at_step(decoders, step)
        said.append(
            f"In {in_words(step)} the chip with a native unit brings {span(unit[SPEEDUP])} vs dense, with a decoder "
            f"alone {span(decoder[SPEEDUP])} vs dense: the unit itself brings {span(unit['speedup_vs_no_unit'])} vs no unit."
        )
    return said


def rows(table: pd.DataFrame, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Rows of the table on the page: one a pattern, a cell a step."""
    found = chosen(table)
    units = found[found["core"] == WITH_UNIT]
    return [
        {
            "pattern": pattern,
            "encoding": own["encoding"].iloc[0],
            "cells": [_cell(at_step(own, step).iloc[0]) for step in steps],
            "area": _percent(own.iloc[0], OVERHEAD),
        }
        for pattern in plots.pattern_order(units["pattern"])
        for own in [units[units["pattern"] == pattern]]
    ]


def _cell(row: "pd.Series[Any]") -> dict[str, Any]:
    ratios = sorted(row[name] / row[f"dense_{name}"] for name in ENERGY)
    nominal = row["energy_joules"] / row["dense_energy_joules"]
    return {
        "text": times(row[SPEEDUP]),
        "heat": heat(row[SPEEDUP]),
        "adds": times(row["speedup_vs_no_unit"]),
        "limit": limit_in_words(row["limit"]),
        "energy": ""
        if nominal != nominal
        else f"{100 * nominal:.0f} % ({100 * ratios[0]:.0f} to {100 * ratios[-1]:.0f} %)",
    }


def _percent(row: "pd.Series[Any]", names: Sequence[str]) -> dict[str, str]:
    """A share and its range; empty where it is not known."""
    low, nominal, high = (row[name] for name in names)
    if nominal != nominal:
        return {"text": "", "range": ""}
    return {"text": f"{100 * nominal:.1f} %", "range": f"{100 * low:.1f} to {100 * high:.1f} %"}
