"""Quality beside cost in a study: measured losses of ways to prune, with the bits, speedups, energy and area of their formats.

Losses are of the model that they were measured on, which is not the studied one. Costs are of the format alone, in the
fastest encoding of each step. What a mitigation costs at run time is not among them, so figures show only ways without.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hwmodels.plots.labels import OPERANDS, SPEEDUP, SPEEDUP_LABEL, Step, choose_steps, pattern_order
from validate.accuracy.beside_cost import LOSS_INCREASE, Qualities, WayQuality
from validate.study.cores import AREA, ENERGY, OVERHEAD, STEP, WITH_UNIT, chosen
from validate.study.whole_model import fastest

FIGURES = ("loss_beside_speedup", "loss_beside_bits")
"""Figures of the section: speedups of the whole model on each machine; bits, and energy and area of the tensor core."""
PHASES = ("decode", "prefill")
BEST_KEYS = ("hardware", *STEP, "sparse_operand", "pattern")
COSTS_NOTHING_MORE = "costs_nothing_more"
MACHINES_SHOWN = 6


def shown_steps(table: pd.DataFrame) -> list[Step]:
    """The steps of the section: the smallest decode batch and the longest prompt.

    Examples
    --------
    >>> shown_steps(pd.DataFrame({"phase": ["decode", "decode", "prefill"], "tokens": [1, 64, 512]}))
    [('decode', 1), ('prefill', 512)]
    """
    steps = choose_steps(table)
    decode, prefill = ([step for step in steps if step[0] == phase] for phase in PHASES)
    return [*decode[:1], *prefill[-1:]]


def loss_table(
    model: pd.DataFrame, bits: pd.DataFrame, cores: pd.DataFrame, qualities: Qualities
) -> pd.DataFrame:
    """Put each measured way beside the costs of its pattern.

    Parameters
    ----------
    model : DataFrame
        From `validate.study.whole_model.sum_layers`.
    bits : DataFrame
        From `validate.study.bits.bits_per_element`.
    cores : DataFrame
        From `validate.study.cores.core_table`; may be empty.
    qualities : Qualities

    Returns
    -------
    DataFrame
        A row per machine and way, of patterns that the study has. Columns: the way, the quality with its interval, and what
        it is of. Then the fewest metadata bits of the pattern, the speedup of both steps with its range, and energy and area
        of the tensor core. Costs that are not known are NaN; those of the core are of pruned weights.
    """
    steps = shown_steps(model)
    best = fastest(model, BEST_KEYS).set_index(list(BEST_KEYS))
    few = bits.sort_values("measured_metadata_bits_per_elem", kind="stable").drop_duplicates("pattern")
    few = few.set_index("pattern")
    of_core = _core_costs(cores, steps)
    rows: list[dict[str, Any]] = []
    operands = [name for name in OPERANDS if (model["sparse_operand"] == name).any()]
    for machine in model["hardware"].unique():
        for operand in operands:
            for pattern in pattern_order(model["pattern"]):
                costs: dict[str, Any] = {"hardware": machine} | _bits(few.loc[[pattern]].iloc[0])
                for step in steps:
                    costs |= _speedup(best.loc[[(machine, *step, operand, pattern)]].iloc[0], step)
                costs |= of_core.get(pattern, {}) if operand == "weights" else {}
                rows += [_way(one, qualities) | costs for one in qualities.of(operand, pattern)]
    return pd.DataFrame(rows)


def _way(one: WayQuality, qualities: Qualities) -> dict[str, Any]:
    operand, pattern, criterion, mitigation = one.key
    cells: dict[str, Any] = {
        "operand": operand,
        "pattern": pattern,
        "criterion": criterion,
        "mitigation": mitigation,
    }
    cells |= {COSTS_NOTHING_MORE: one.is_free} | qualities.cells(one)
    if qualities.quantity is LOSS_INCREASE:
        ratio = one.ratio
        cells |= {
            "perplexity_ratio": ratio.mean,
            "perplexity_ratio_low": ratio.low,
            "perplexity_ratio_high": ratio.high,
        }
    return cells


def _bits(row: "pd.Series[Any]") -> dict[str, Any]:
    metadata = float(row["measured_metadata_bits_per_elem"])
    return {
        "encoding_of_bits": row["encoding"],
        "metadata_bits_per_elem": metadata,
        "stored_bits_per_elem": float(row["measured_values_bits_per_elem"]) + metadata,
    }


def _speedup(row: "pd.Series[Any]", step: Step) -> dict[str, Any]:
    phase, tokens = step
    return {
        f"{phase}_tokens": tokens,
        f"{phase}_encoding": row["encoding"],
        f"{phase}_speedup_vs_dense": row[SPEEDUP],
        f"{phase}_speedup_vs_dense_low": row["predicted_speedup_low"],
        f"{phase}_speedup_vs_dense_high": row["predicted_speedup_high"],
        f"{phase}_extrapolates": bool(row["extrapolates"]),
    }


def _core_costs(cores: pd.DataFrame, steps: Sequence[Step]) -> dict[str, dict[str, Any]]:
    """Pattern -> energy against the dense chip at each step, and area that a native unit adds, with their ends."""
    if not len(cores):
        return {}
    own = chosen(cores)
    found: dict[str, dict[str, Any]] = {}
    for _, row in own[(own["core"] == WITH_UNIT) & (own["refused"] == "")].iterrows():
        costs = found.setdefault(row["pattern"], {"core_encoding": row["encoding"]})
        if (row["phase"], row["tokens"]) in steps:
            # Both chips have the low costs, or both the high ones.
            ratios = [row[name] / row[f"dense_{name}"] for name in ENERGY]
            costs |= _ends(f"core_{row['phase']}_energy_vs_dense", (min(ratios), ratios[1], max(ratios)))
        costs |= _ends("core_added_area", tuple(row[name] for name in OVERHEAD))
        costs |= _ends("core_area_um2", tuple(row[name] for name in AREA))
    return found


def _ends(name: str, values: Sequence[float]) -> dict[str, float]:
    low, nominal, high = values
    return {name: nominal, f"{name}_low": low, f"{name}_high": high}


def best_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the best way of each machine, operand and pattern among those that cost no more than their format.

    The rows of a pattern stand in the order of `Qualities.of`, the best first.
    """
    free = table[table[COSTS_NOTHING_MORE].astype(bool)]
    return free.drop_duplicates(["hardware", "operand", "pattern"]).reset_index(drop=True)


def figures(table: pd.DataFrame, qualities: Qualities) -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
    """Give the rows and options that each figure of the section is drawn with, by its name; none if nothing is known."""
    # A study that draws nothing needs no matplotlib.
    from hwmodels.plots import CostPanel

    if table.empty:
        return {}
    best = best_rows(table)
    if best.empty:
        return {}
    least = qualities.quantity.least
    common = {"quality": qualities.quantity.column, "least": least, "dense_quality": 0.0 if least else 1.0}
    common["label"] = qualities.quantity.label.replace(" [", "\n[")
    found: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {}
    phases = [phase for phase in PHASES if f"{phase}_tokens" in best]
    speedups = [
        CostPanel(
            f"{phase}_speedup_vs_dense",
            SPEEDUP_LABEL,
            f"{machine}, {phase}, {_tokens(best, phase)}",
            most=True,
            where={"hardware": machine},
            dense=1.0,
        )
        for machine in list(best["hardware"].unique())[:MACHINES_SHOWN]
        for phase in phases
    ]
    found["loss_beside_speedup"] = best, {"panels": speedups, **common}
    once = best.drop_duplicates(["operand", "pattern"])
    costs = [
        CostPanel(
            "metadata_bits_per_elem", "metadata of the operand [bits/element]", "fewest bits of the pattern"
        )
    ]
    for phase in phases:
        if f"core_{phase}_energy_vs_dense" in once:
            title = f"tensor core, {phase}, {_tokens(best, phase)}"
            costs.append(CostPanel(f"core_{phase}_energy_vs_dense", "energy vs dense [×]", title, dense=1.0))
    if "core_added_area" in once:
        costs.append(
            CostPanel("core_added_area", "area added, of the dense cores [1]", "tensor core with the unit")
        )
    found["loss_beside_bits"] = once, {"panels": costs, **common}
    return found


def _tokens(table: pd.DataFrame, phase: str) -> str:
    tokens = int(table[f"{phase}_tokens"].iloc[0])
    return f"batch {tokens}" if phase == "decode" else f"{tokens} tokens"


def section_context(
    table: pd.DataFrame, qualities: Qualities, studied: str, patterns: Sequence[str]
) -> dict[str, Any]:
    """What the template of the section shows."""
    missing = [name for name in pattern_order(patterns) if table.empty or name not in set(table["pattern"])]
    context: dict[str, Any] = {
        "description": qualities.description,
        "caveat": qualities.caveat(studied),
        "missing": missing,
        "least": "least loss" if qualities.quantity is LOSS_INCREASE else "best value",
        "label": qualities.quantity.label,
        "is_loss": qualities.quantity is LOSS_INCREASE,
        "rows": [],
        "ways": [],
        "machines": [],
        "left_out": dict(qualities.left_out),
        "dense_loss": qualities.dense_loss,
        "dense_perplexity": math.exp(qualities.dense_loss),
    }
    if table.empty:
        return context
    best = best_rows(table)
    column = qualities.quantity.column
    # More machines would make the table wider than a page.
    machines = list(table["hardware"].unique())[:MACHINES_SHOWN]
    phases = [phase for phase in PHASES if f"{phase}_tokens" in table]
    context["machines"] = machines
    context["steps"] = [(phase, str(table[f"{phase}_tokens"].iloc[0])) for phase in phases]
    for (operand, pattern), rows in best.groupby(["operand", "pattern"], sort=False):
        first = rows.iloc[0]
        own = rows.set_index("hardware")
        context["rows"].append(
            {
                "operand": operand,
                "pattern": pattern,
                "way": f"{first['criterion']}, {first['mitigation']}",
                "quality": ranged(first, column),
                "metadata": f"{first['metadata_bits_per_elem']:.4g}",
                "cells": [
                    [ranged(own.loc[machine], f"{phase}_speedup_vs_dense", "{:.2f}", "×") for phase in phases]
                    for machine in machines
                ],
                "energy": [ranged(first, f"core_{phase}_energy_vs_dense", "{:.2f}", "×") for phase in phases],
                "area": ranged(first, "core_added_area", "{:.3f}"),
            }
        )
    ways = table[table["hardware"] == machines[0]]
    context["ways"] = [
        {
            "operand": row["operand"],
            "pattern": row["pattern"],
            "criterion": row["criterion"],
            "mitigation": row["mitigation"],
            "quality": ranged(row, column),
            "ratio": ranged(row, "perplexity_ratio", "{:.4g}", "×"),
            "free": bool(row[COSTS_NOTHING_MORE]),
        }
        for _, row in ways.iterrows()
    ]
    return context


def ranged(row: "pd.Series[Any]", name: str, form: str = "{:.3f}", unit: str = "") -> dict[str, str]:
    """A number and its ends as texts; empty if it is not known.

    Examples
    --------
    >>> ranged(pd.Series({"a": 1.5, "a_low": 1.0, "a_high": 2.0}), "a", "{:.1f}", "×")
    {'text': '1.5×', 'range': '1.0 to 2.0'}
    """
    value = row.get(name, np.nan)
    if pd.isna(value):
        return {"text": "", "range": ""}
    low, high = row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan)
    ends = "" if pd.isna(low) or pd.isna(high) else f"{form.format(low)} to {form.format(high)}"
    return {"text": form.format(value) + unit, "range": ends}
