"""What a study rests on: errors of the estimate on machines that it had not seen, sourced numbers, and assumptions."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import hwmodels
from hwmodels import HardwareSpec, Quantity
from hwmodels.estimate.intervals import FEWEST_ROWS, INTERVAL_SHARE, REGIMES, regime_of, width_of
from hwmodels.estimate.windows import runs_windows, through_windows
from hwmodels.machine import software
from hwmodels.plots.labels import Step
from nmsim.pattern import Pattern
from nmsim.support.sources import read_text
from validate.judge import metrics
from validate.judge.bandwidth import bandwidths_by
from validate.judge.break_even import published_windows
from validate.judge.judge import judge_files
from validate.judge.rows import published_files

LARGEST_SOURCE = "https://github.com/bcacdwk/vllmbench/"
"""Most published rows are of this benchmark."""
WHOSE = {"own": "of this machine", "all": "of all GPUs"}
ASSUMPTIONS_PAGE = Path(hwmodels.__file__).parent.parent / "docs" / "explanation" / "assumptions.md"

SCALES = {"bytes_per_s": (1e12, "TB/s"), "flop_per_s": (1e12, "Tflop/s"), "hz": (1e9, "GHz"),
          "elements_per_s": (1e12, "T elements/s")}  # fmt: skip
"""Unit -> what to divide by for printing, and the name of the result."""

STUDY_ASSUMPTIONS = (
    "A model is its linear layers alone. Attention scores, the KV cache, norms, embeddings and sampling take no time "
    "here, so a real model gains less.",
    "The output head stays dense. In prefill it runs for the last token only, as serving engines do.",
    "Every linear layer except the head is pruned to the same pattern. One product follows the other without a gap.",
    "If all codes have one width, their bits follow from shapes alone, so the bits of the checkpoint hold for the model. "
    "Codes of different lengths enter a prediction with their mean over uniform masks (A15).",
    "Energy kept is the share of the weights' sum of squares that pruning by magnitude keeps. It is no accuracy.",
)
"""What a study assumes in addition to the assumptions of the model."""


def study_assumptions(context_tokens: int) -> tuple[str, ...]:
    """What a study assumes, without attention or with that of a context.

    Examples
    --------
    >>> study_assumptions(4096)[0]
    'Attention with its cache (4096 tokens in decode) stays dense. Norms, embeddings and sampling take no time (A55 to A57).'
    """
    if not context_tokens:
        return STUDY_ASSUMPTIONS
    first = (
        f"Attention with its cache ({context_tokens} tokens in decode) stays dense. Norms, embeddings and sampling take no "
        "time (A55 to A57)."
    )
    return (first, *STUDY_ASSUMPTIONS[1:])


@dataclass(frozen=True)
class SourcedNumber:
    """A number as it is printed, the kind of knowledge behind it and the place of its source in the list."""

    text: str
    kind: str
    source: int


@dataclass(frozen=True)
class NumberTable:
    """Numbers of several machines: a row per quantity, a cell per machine (None if it has no such number)."""

    machines: tuple[str, ...]
    rows: tuple[tuple[str, tuple[SourcedNumber | None, ...]], ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Assumption:
    """A line of the assumptions page."""

    number: str
    text: str
    used_by: str
    flatters: str


def machine_numbers(machines: Sequence[HardwareSpec], dtype: str) -> NumberTable:
    """Collect every number of the machines that a prediction in one value type uses, with kind and source.

    Examples
    --------
    >>> table = machine_numbers([hwmodels.load_machine("h200")], "bf16")
    >>> dict(table.rows)["DRAM bandwidth"][0].text
    '4.8 TB/s'
    """
    # Machines share sources, so that a cell holds the place of its source in one list.
    sources: list[str] = []

    def cell(quantity: Quantity | None) -> SourcedNumber | None:
        if quantity is None:
            return None
        if quantity.source not in sources:
            sources.append(quantity.source)
        return SourcedNumber(quantity_text(quantity), quantity.kind, sources.index(quantity.source) + 1)

    found: list[tuple[str, list[Quantity | None]]] = [
        ("cores", [spec.cores for spec in machines]),
        ("clock", [spec.clock_hz for spec in machines]),
        ("issue lanes a core and cycle", [spec.issue_lanes_per_core_per_cycle for spec in machines]),
        ("vector peak, fp32, dense", [spec.vector_peak_flop_per_s for spec in machines]),
        ("DRAM bandwidth", [spec.dram_bandwidth_bytes_per_s for spec in machines]),
        (f"matrix peak, {dtype}, dense", [spec.dense_peak_flop_per_s.get(dtype) for spec in machines]),
        (
            f"matrix peak, {dtype}, with sparsity (in operations of the dense product)",
            [spec.sparse_peak_flop_per_s.get(dtype) for spec in machines],
        ),
    ]
    patterns = dict.fromkeys(unit.takes_pattern for spec in machines for unit in spec.native)
    for pattern in patterns:
        units = [next((u for u in spec.native if u.takes_pattern == pattern), None) for spec in machines]
        for rate in ("decoder", "selector"):
            rates = [None if unit is None else getattr(unit, f"{rate}_elements_per_s") for unit in units]
            if any(rates):
                found.append((f"{rate} of the {pattern} unit", rates))
    rows = tuple((name, tuple(cell(quantity) for quantity in cells)) for name, cells in found)
    return NumberTable(tuple(spec.id for spec in machines), rows, tuple(sources))


def native_units(machines: Sequence[HardwareSpec]) -> list[tuple[str, str, str, str, str]]:
    """List what the sparse units take: machine, pattern, encodings, value types, source."""
    return [
        (spec.id, unit.takes_pattern, ", ".join(unit.encodings), ", ".join(unit.dtypes), unit.source)
        for spec in machines
        for unit in spec.native
    ]


def software_numbers() -> list[tuple[str, str, str, str]]:
    """List the instruction counts of decoding and pruning in software: name, number, kind, source."""
    found = ((name, getattr(software, name)) for name in dir(software) if name.isupper())
    return [
        (name.lower().replace("_", " "), quantity_text(value), value.kind, value.source)
        for name, value in found
        if isinstance(value, Quantity)
    ]


def quantity_text(quantity: Quantity) -> str:
    """Print a quantity with a unit a reader knows.

    Examples
    --------
    >>> quantity_text(Quantity(989.4e12, "flop_per_s", "datasheet", "somewhere"))
    '989.4 Tflop/s'
    """
    if quantity.unit in SCALES:
        scale, unit = SCALES[quantity.unit]
        return f"{quantity.value / scale:.4g} {unit}"
    return f"{quantity.value:.6g} {quantity.unit.replace('_per_', '/').replace('_', ' ')}"


def numbered_assumptions(page: Path = ASSUMPTIONS_PAGE) -> list[Assumption]:
    """Read the numbered assumptions from their page; none if nmsim is installed without its docs."""
    if not page.is_file():
        return []
    rows = re.findall(r"^\| (A\d+) \| (.*?) \| (.*?) \| (.*?) \|$", read_text(page), re.MULTILINE)
    return [Assumption(*(cell.replace("`", "").strip() for cell in row)) for row in rows]


@functools.cache
def judged() -> pd.DataFrame:
    """The published rows, each predicted with constants that were fitted without its machine."""
    return judge_files(published_files(), held_out=True).table


def totals() -> dict[str, Any]:
    """What is said of all rows: how many, of how many machines, and the errors of their 16-bit and 8-bit types.

    `bandwidths` has those of 16-bit calls that bytes limit, by product.
    """
    table = judged()
    bandwidths = {
        group["product"]: group
        for group in bandwidths_by(table, ["dtype_class"])
        if (group["dtype_class"], group["limit"]) == ("16-bit", "memory")
    }
    return {
        "n_rows": len(table),
        "n_machines": table["machine"].nunique(),
        "n_largest_source": int(table["source_url"].str.startswith(LARGEST_SOURCE).sum()),
        "about_one": metrics.ABOUT_ONE,
        "wide": metrics.summarise(table[table["dtype_class"] == "16-bit"]),
        "narrow": metrics.summarise(table[table["dtype_class"] == "8-bit"]),
        "bandwidths": bandwidths,
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
        One per machine: `machine`, `name`, and `cells`, one for each of `regimes`. A cell has the metrics of the rows of this
        width and regime. `whose` says if they are rows of the machine itself, which needs `FEWEST_ROWS` of them, or of all
        GPUs. A cell is None for a CPU, and if nothing comparable has been published.
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


WINDOWED = Pattern(8, 16)
"""The pattern that many papers ask for and no unit takes."""


def windows(machines: Sequence[HardwareSpec], dtype: str, steps: Sequence[Step]) -> dict[str, Any]:
    """Find what was measured of 8:16 through the sliding windows of a 2:4 unit, which needs no new hardware.

    Parameters
    ----------
    machines : sequence of HardwareSpec
    dtype : str
    steps : sequence of (phase, tokens)

    Returns
    -------
    dict
        `pattern`, `runs_as`, and `rows`, one per machine whose unit takes 2:4 and not 8:16. A row has `machine`, `name` and
        `cells`, one for each of `regimes`. A cell is that of `published_windows`, or None.
    """
    step_of = {regime_of(tokens): tokens for _, tokens in steps}
    found = [
        {
            "machine": spec.id,
            "name": spec.name,
            "cells": [
                published_windows(WINDOWED, machine=spec.id, dtype=dtype, tokens=step_of[regime])
                for regime in regimes(steps)
            ],
        }
        for spec in machines
        if runs_windows(spec, dtype) and all(unit.pattern != WINDOWED for unit in spec.native)
    ]
    return {"pattern": str(WINDOWED), "runs_as": str(through_windows(WINDOWED)), "rows": found}


def _cell(near: pd.DataFrame, spec: HardwareSpec) -> dict[str, Any] | None:
    own = near[near["machine"] == spec.id]
    kind = "own" if len(own) >= FEWEST_ROWS else "all"
    used = own if kind == "own" else near
    if spec.family != "gpu" or used.empty:
        return None
    return metrics.summarise(used) | {"whose": WHOSE[kind]}
