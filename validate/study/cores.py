"""A tensor core that takes the pattern: one chip in three versions, dense, with a decoder, and with a native unit as well.

The chip is the preset `BASE` with one pattern and one encoding at a time, for pruned weights. Times are the closed form of its
pipeline, without software costs: lower bounds of the pruned layers alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import hwmodels
from hwmodels import Model
from hwmodels.plots.labels import Step, at_step, choose_steps, pattern_order
from hwmodels.silicon.area import area
from hwmodels.steps.fusion import fused
from hwmodels.sweeps.products import Work, products_of
from hwmodels.sweeps.space import Space, SweptFormat
from hwmodels.tensorcore.answer import limit_in_words
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from hwmodels.tensorcore.services import STAGES
from nmsim.case import DEFAULT_DTYPE
from nmsim.errors import NmsimError
from nmsim.format import DENSE, SparseFormat
from validate.study.answer import heat, in_words, span, times
from validate.study.whole_model import TIE

BASE, DENSE_BASE = "flexible-16x32", "dense"
DENSE_CORE, WITH_DECODER, WITH_UNIT = "dense core", "with decoder", "with native unit"
"""What the column `core` says. `WITH_DECODER` reads compressed weights and multiplies their zeros."""
STEP = ["phase", "tokens"]
ENERGY = ("energy_joules_low", "energy_joules", "energy_joules_high")
AREA = ("area_um2_low", "area_um2", "area_um2_high")
OVERHEAD = ("overhead_of_cores_low", "overhead_of_cores", "overhead_of_cores_high")
ADDED = ("sparse_lane_um2", "overhead_of_arrays", "overhead_of_cores", "overhead_of_chip")
"""What sparsity adds: um2 per lane, and shares of the arrays, of the cores and of the chip."""
ADDED_COLUMNS = tuple(f"{name}{end}" for name in ADDED for end in ("_low", "", "_high"))
FIGURES = ("core_speedup_vs_pattern", "core_time_by_stage")
SPEEDUP = "speedup_vs_dense"
CORES_COLUMNS = (
    "core", *STEP, "dtype", "pattern", "encoding", "packing", "sparse_operand", "execution", "refused", "limit",
    "cycles", "time_s", "dense_cycles", "speedup_vs_dense", "speedup_vs_no_unit", "utilisation",
    "metadata_bits_per_elem", *(f"{stage}_cycles" for stage in STAGES), "dram_read_bytes", "dram_write_bytes",
    *ENERGY, *(f"dense_{name}" for name in ENERGY), *AREA, *(f"dense_{name}" for name in AREA),
    *ADDED_COLUMNS,
)  # fmt: skip
"""Columns of `cores.csv`. `speedup_vs_no_unit` compares a native unit with the faster of the two other versions of the chip.
`sparse_lane_um2` is the area that sparsity adds per multiply-add of 16 bits. `overhead_of_*` is that area over dense areas: of
multipliers and adders, of cores with their registers, of the chip with its memories. `dense_*` belongs to the dense chip."""


def core_table(
    model: Model,
    formats: Sequence[SparseFormat],
    *,
    batches: Sequence[int],
    prefill: Sequence[int],
    dtype: str = DEFAULT_DTYPE,
) -> pd.DataFrame:
    """Evaluate the pruned layers of a model on the chip, dense and for each format.

    Returns
    -------
    DataFrame
        Columns `CORES_COLUMNS`: dense rows first, then by format, core and step. No row if the chip does not take the
        value type. Areas of `WITH_DECODER` are NaN: decoders are counted for native patterns only. Energies and areas
        are NaN if codes differ in length, since no cost of a decoder for them is known.

    Examples
    --------
    >>> from nmsim.format import sparse_format
    >>> found = core_table(hwmodels.load_model("llama-3.1-8b"), [sparse_format("8:16")], batches=[1], prefill=[])
    >>> found["core"].tolist()
    ['dense core', 'with native unit', 'with decoder']
    """
    base = load_core(BASE)
    if dtype not in base.dtypes:
        return pd.DataFrame(columns=list(CORES_COLUMNS))
    steps = pd.DataFrame(
        [*(("decode", batch) for batch in batches), *(("prefill", length) for length in prefill)],
        columns=STEP,
    )
    work = Work(model.name, "", 1, products_of(fused([layer for layer in model.layers if layer.pruned])))
    dense = _swept([_named(load_core(DENSE_BASE), DENSE_CORE)], SweptFormat(), work, steps, dtype)
    tables = [dense]
    for fmt in formats:
        chips = _chips(base, fmt)
        tables.append(_swept(chips, SweptFormat(fmt), work, steps, dtype).assign(**_overhead(chips[0])))
    found = pd.concat(tables, ignore_index=True)
    found.loc[found["core"] == WITH_DECODER, list(AREA)] = np.nan
    found.loc[found["area_um2"].isna(), list(ADDED_COLUMNS)] = np.nan
    of_step = dense.set_index(STEP).loc[pd.MultiIndex.from_frame(found[STEP])]
    for name in (*ENERGY, *AREA):
        found[f"dense_{name}"] = of_step[name].to_numpy()
    found["speedup_vs_no_unit"] = _unit_adds(found)
    return found.reindex(columns=list(CORES_COLUMNS))


def _named(core: SparseTensorCore, name: str, **changes: Any) -> SparseTensorCore:
    return dataclasses.replace(core, id=name.replace(" ", "-"), name=name, **changes)


def _chips(base: SparseTensorCore, fmt: SparseFormat) -> list[SparseTensorCore]:
    """The chip with a native unit, and with a decoder alone, both without a selector: weights are pruned beforehand."""
    common: dict[str, Any] = {"encodings": (fmt.encoding.spec.name,), "selector_elements_per_cycle": 0}
    unit = _named(base, WITH_UNIT, patterns=(fmt.pattern,), sparse_operands=("weights",), **common)
    return [unit, _named(base, WITH_DECODER, patterns=(), sparse_operands=(), **common)]


def _swept(
    chips: Sequence[SparseTensorCore], stored: SweptFormat, work: Work, steps: pd.DataFrame, dtype: str
) -> pd.DataFrame:
    """Rows of the chips at each step; two steps of as many tokens have the same numbers."""
    tokens = tuple(int(count) for count in sorted(set(steps["tokens"])))
    space = Space(
        cores=tuple(chips), axes=(), dtypes=(dtype,), tokens=tokens, works=(work,), stored=(stored,)
    )
    found = hwmodels.sweep(space)
    texts = found.select_dtypes("category").columns
    found[texts] = found[texts].astype(object)
    order = {chip.id: place for place, chip in enumerate(chips)}
    rows = found.merge(steps.assign(at=range(len(steps))), on="tokens")
    rows["of"] = rows["core"].map(order)
    # People read the names; ids hold no blanks.
    rows["core"] = rows["core"].map({chip.id: chip.name for chip in chips})
    return rows.sort_values(["of", "at"], kind="stable", ignore_index=True)


def _overhead(chip: SparseTensorCore) -> dict[str, float]:
    """Area that sparsity adds per lane and as shares, by `ADDED_COLUMNS`; NaN if no cost is known."""
    try:
        report = area(chip)
    except NmsimError:
        return dict.fromkeys(ADDED_COLUMNS, np.nan)
    found = (getattr(report, name) for name in ADDED)
    numbers = (end for spread in found for end in (spread.low, spread.nominal, spread.high))
    return dict(zip(ADDED_COLUMNS, numbers, strict=True))


def _unit_adds(found: pd.DataFrame) -> "pd.Series[float]":
    """Speedup of native rows over the faster of the dense product and of the decoder alone; NaN in other rows."""
    keys = [*STEP, "pattern", "encoding"]
    decoder = found[found["core"] == WITH_DECODER].set_index(keys)["speedup_vs_dense"]
    without = decoder.reindex(pd.MultiIndex.from_frame(found[keys])).clip(lower=1.0).to_numpy()
    adds: pd.Series[float] = found["speedup_vs_dense"] / without
    return adds.where(found["core"] == WITH_UNIT)


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Keep one encoding per pattern: the one with the least time of a native unit over all steps.

    Within `TIE` of the least, the first one counts. A chip decodes one encoding, so it is the same at each step.

    Returns
    -------
    DataFrame
        Dense rows, and the rows of both chips in the encoding chosen.
    """
    live = table[(table["refused"] == "") & (table["core"] == WITH_UNIT)]
    gains = live.assign(gain=np.log(live["speedup_vs_dense"]))
    mean = gains.groupby(["pattern", "encoding"], sort=False)["gain"].mean().reset_index()
    near = mean[mean["gain"] >= mean.groupby("pattern")["gain"].transform("max") - TIE]
    ways = set(near.drop_duplicates("pattern")[["pattern", "encoding"]].itertuples(index=False, name=None))
    pairs = zip(table["pattern"], table["encoding"], strict=True)
    return table[[pair in ways or pair[0] == DENSE for pair in pairs]].reset_index(drop=True)


def figure_tables(table: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, list[Step]]]:
    """Give the rows and steps that each figure of the section is drawn from, by the name of its function."""
    ends = choose_steps(table)
    own, dense = chosen(table), table[table["core"] == DENSE_CORE]
    rows = pd.concat([dense.assign(core=WITH_UNIT), own[own["core"] == WITH_UNIT]])
    return {
        "core_speedup_vs_pattern": (table[table["core"] != DENSE_CORE], ends),
        "core_time_by_stage": (rows, list(dict.fromkeys((ends[0], ends[-1])))),
    }


def sentences(table: pd.DataFrame) -> list[str]:
    """Say what a native unit adds at the first and at the last step, over all patterns with their chosen encodings."""
    rows = chosen(table)
    units, decoders = rows[rows["core"] == WITH_UNIT], rows[rows["core"] == WITH_DECODER]
    ends = choose_steps(table)
    said = []
    for step in dict.fromkeys((ends[0], ends[-1])):
        unit, decoder = at_step(units, step), at_step(decoders, step)
        said.append(
            f"In {in_words(step)} the chip with a native unit brings {span(unit[SPEEDUP])} vs dense, with a decoder "
            f"alone {span(decoder[SPEEDUP])} vs dense: the unit itself brings {span(unit['speedup_vs_no_unit'])} vs no unit."
        )
    return said


def section_rows(table: pd.DataFrame, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Rows of the table on the page: one row per pattern, one cell per step."""
    found = chosen(table)
    units = found[found["core"] == WITH_UNIT]
    return [
        {
            "pattern": pattern,
            "encoding": own["encoding"].iloc[0],
            "cells": [_cell(at_step(own, step).iloc[0]) for step in steps],
            "area": _percent(own.iloc[0], OVERHEAD) | {"beside": _beside(own.iloc[0])},
        }
        for pattern in pattern_order(units["pattern"])
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


def _beside(row: "pd.Series[Any]") -> str:
    """The same area per lane, and over the other two areas; empty if it is not known."""
    lane_um2, of_arrays, _, of_chip = (row[name] for name in ADDED)
    if lane_um2 != lane_um2:
        return ""
    return f"{lane_um2:.3g} um² per lane, {100 * of_arrays:.1f} % of the arrays, {100 * of_chip:.1f} % of the chip"


def _percent(row: "pd.Series[Any]", names: Sequence[str]) -> dict[str, str]:
    """A share and its range; empty if it is not known."""
    low, nominal, high = (row[name] for name in names)
    if nominal != nominal:
        return {"text": "", "range": ""}
    return {"text": f"{100 * nominal:.1f} %", "range": f"{100 * low:.1f} to {100 * high:.1f} %"}
