"""`compare_chips`: the same step of a model on two chips, and which section of their files makes the difference.

Between two core designs the second's numbers replace the first's, one section of the file after the other. The step is
predicted after each, so that the differences of all sections add up to that of the chips. What a section brings depends on
those before it; the order is that of the file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hwmodels.chips.load import Chip, load_chips
from hwmodels.models import Model, load_model
from hwmodels.silicon.area import PARTS, area
from hwmodels.silicon.energy import UM2_PER_MM2
from hwmodels.steps.best import best_step
from hwmodels.steps.step import Step
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import DEFAULT_DTYPE
from nmsim.errors import NmsimError
from nmsim.format import DENSE, FormatLike, as_format
from nmsim.support.schema import about, names_of

UNNAMED_SECTION = "chip"
"""Section of numbers that a file has at its top."""
CAUSE_COLUMNS = (
    "section", "changed", "format", "time_s", "time_difference_s", "energy_joules", "energy_difference_joules",
    "area_mm2", "area_difference_mm2",
)  # fmt: skip
"""Columns of `Comparison.causes`: what the chip has after each section was replaced, and what that section adds."""
LAYER_COLUMNS = ("layer", "limit_first", "limit_second", "first_s", "second_s", "difference_s")
AREA_COLUMNS = ("part", "first_mm2", "second_mm2", "difference_mm2")


@dataclass(frozen=True)
class Comparison:
    """The same step on two chips, and where the difference is.

    Attributes
    ----------
    first, second : Step
    causes : DataFrame
        `CAUSE_COLUMNS`: the first chip, then a row per section in which the chips differ. The last row is the second
        chip. Empty if one of them is a machine, whose numbers are not those of a design. Joules and areas are nominal,
        NaN if they are not known.
    layers : DataFrame
        `LAYER_COLUMNS`: seconds of each layer and of attention, all of a kind together.
    areas : DataFrame
        `AREA_COLUMNS`, nominal; empty if one of the chips is a machine or has no known cost.
    """

    first: Step
    second: Step
    causes: pd.DataFrame
    layers: pd.DataFrame
    areas: pd.DataFrame


def compare_chips(
    first: str | Path | Chip,
    second: str | Path | Chip,
    *,
    model: str | Path | Model,
    format: FormatLike | None = None,
    named: bool = True,
    context_tokens: int = 4096,
    **asked: Any,
) -> Comparison:
    """Predict one step of a model on two chips, and find where the difference comes from.

    Parameters
    ----------
    first, second : str, Path, HardwareSpec or SparseTensorCore
        As for `hwmodels.load_chip`.
    model : str, Path or Model
        As for `hwmodels.load_model`.
    format : SparseFormat, Pattern, text, or None
        How the pruned layers are stored; None or `"dense"` for the dense model.
    named : bool
        Whether the encoding of the format stays. If not, each chip has the one that it is fastest with.
    context_tokens : int
        Tokens of each sequence after the step.
    asked
        Further parameters of `hwmodels.step`, such as `batch` and `phase`. A chip may not take the value
        type of the model: `dtype` is then the first of its own that the other takes too.

    Returns
    -------
    Comparison

    Raises
    ------
    SpecError
        Unknown chips or model, or the same chip twice.
    RowError
        A value type or encoding that a chip does not take.

    Examples
    --------
    >>> found = compare_chips("nvidia-like-2x4", "flexible-8x16", model="llama-3.1-8b", format="2:4/index")
    >>> unexplained_s = found.causes["time_difference_s"].sum() - (found.second.time_s - found.first.time_s)
    >>> bool(abs(unexplained_s) < 1e-12)
    True
    """
    one, other = load_chips([first, second])
    loaded, stored = load_model(model), as_format(format)
    asked["dtype"] = asked.get("dtype") or _common_type(one, other, loaded)

    def step_on(chip: Chip) -> Step:
        return best_step(loaded, chip, stored, named=named, context_tokens=context_tokens, **asked)

    before, after = step_on(one), step_on(other)
    causes = pd.DataFrame(columns=list(CAUSE_COLUMNS))
    areas = pd.DataFrame(columns=list(AREA_COLUMNS))
    if isinstance(one, SparseTensorCore) and isinstance(other, SparseTensorCore):
        causes = _causes(one, other, step_on)
        areas = _areas(one, other)
    return Comparison(before, after, causes, _layers(before, after), areas)


def _common_type(one: Chip, other: Chip, model: Model) -> str | None:
    """Value type of both chips if one of them does not take that of the model; None if both do, or have none in common.

    Else a difference of value types would look like one of the chips.
    """
    own = model.dtype or DEFAULT_DTYPE
    taken = [
        chip.dtypes if isinstance(chip, SparseTensorCore) else tuple(chip.dense_peak_flop_per_s)
        for chip in (one, other)
    ]
    if all(own in each for each in taken):
        return None
    lacking, rest = taken if own not in taken[0] else taken[::-1]
    return next((dtype for dtype in lacking if dtype in rest), None)


def _sections() -> dict[str, list[str]]:
    """Fields of a design that a change is made of, by section of the file."""
    found: dict[str, list[str]] = {}
    for name in names_of(SparseTensorCore):
        if name in ("id", "name", "sources"):
            continue
        found.setdefault(about(SparseTensorCore, name).section or UNNAMED_SECTION, []).append(name)
    return found


def _stages(first: SparseTensorCore, second: SparseTensorCore) -> Iterator[tuple[str, str, SparseTensorCore]]:
    """Sections in which two designs differ, what changes, and the design after each.

    A design between the two may be none that exists: then the next section is replaced together with this one.
    """
    current = first
    waiting: dict[str, Any] = {}
    said: list[str] = []
    for section, names in _sections().items():
        changed = {
            name: getattr(second, name) for name in names if getattr(second, name) != getattr(first, name)
        }
        if not changed:
            continue
        waiting |= changed
        said.append(section)
        try:
            # A number keeps its own source: those of both files are known to be complete.
            made = replace(current, **waiting, sources={**first.sources, **second.sources})
        except NmsimError:
            continue
        yield " and ".join(said), _changes(current, waiting), made
        current, waiting, said = made, {}, []
    if waiting:
        yield " and ".join(said), _changes(current, waiting), second


def _changes(before: SparseTensorCore, changed: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {_text(getattr(before, name))} -> {_text(value)}" for name, value in changed.items()
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _causes(first: SparseTensorCore, second: SparseTensorCore, step_on: Any) -> pd.DataFrame:
    rows = [_cause("", "", first, step_on(first))]
    said: list[str] = []
    changes: list[str] = []
    for section, changed, made in _stages(first, second):
        said.append(section)
        changes.append(changed)
        try:
            found = step_on(made)
        except NmsimError:
            # A design between the two does not take the format: the next section joins this one.
            continue
        rows.append(_cause(" and ".join(said), ", ".join(changes), made, found))
        said, changes = [], []
    if said:
        rows.append(_cause(" and ".join(said), ", ".join(changes), second, step_on(second)))
    table = pd.DataFrame(rows)
    for name, unit in (("time", "s"), ("energy", "joules"), ("area", "mm2")):
        table[f"{name}_difference_{unit}"] = table[f"{name}_{unit}"].diff().fillna(0.0)
    return table[list(CAUSE_COLUMNS)]


def _cause(section: str, changed: str, core: SparseTensorCore, found: Step) -> dict[str, Any]:
    return {
        "section": section,
        "changed": changed,
        "format": DENSE if found.format is None else found.format.short,
        "time_s": found.time_s,
        "energy_joules": found.joules.nominal,
        "area_mm2": _total_mm2(core),
    }


def _total_mm2(core: SparseTensorCore) -> float:
    try:
        return area(core).total.nominal / UM2_PER_MM2
    except NmsimError:
        return math.nan


def _areas(first: SparseTensorCore, second: SparseTensorCore) -> pd.DataFrame:
    try:
        one, other = area(first).parts, area(second).parts
    except NmsimError:
        return pd.DataFrame(columns=list(AREA_COLUMNS))
    rows = [
        (part, *(parts[part].nominal / UM2_PER_MM2 for parts in (one, other)))
        for part in PARTS
        if one[part].nominal or other[part].nominal
    ]
    table = pd.DataFrame(rows, columns=list(AREA_COLUMNS[:3]))
    return table.assign(difference_mm2=table["second_mm2"] - table["first_mm2"])


def _layers(before: Step, after: Step) -> pd.DataFrame:
    """Seconds of each row of two steps of one model, which have the same rows in the same order."""
    rows = [
        (one.name, one.limit, other.limit, one.time_s, other.time_s, other.time_s - one.time_s)
        for one, other in zip(before.rows, after.rows, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(LAYER_COLUMNS))
