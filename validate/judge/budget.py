"""Limits of the errors of committed rows: `budget.toml`, and its comparison with the errors found.

A `[[family]]` entry limits every family (machine x dtype x regime x kernel family) that its selectors fit. If several entries
fit, the one with most selectors counts. A `[[total]]` entry limits all rows together that its selectors fit. Each entry has a
reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from nmsim.support.schema import About, Flag, Number, Text, read_record, record
from validate.judge import metrics

BUDGET_FILE = Path(__file__).parent / "budget.toml"
AT_MOST = (
    "speedup_mdape", "dense_time_mdape", "sparse_time_mdape", "dense_bandwidth_mdape", "sparse_bandwidth_mdape",
    "speedup_worst_factor",
)  # fmt: skip
AT_LEAST = ("sign_share", "side_share", "interval_coverage")
SELECTORS = (*metrics.FAMILY, "dtype_class", "mark", "dense_limit", "sparse_limit")


# fmt: off
@record
class Allowance:
    """One entry: which rows it is about, the limits of their errors, and why."""

    speedup_mdape: Annotated[float, Number("ratio", "Greatest median error of the speedup.")]
    reason: Annotated[Text, About("Why this much error is allowed.")]
    machine: Annotated[Text | None, About("Only rows of this machine.")] = None
    dtype: Annotated[Text | None, About("Only rows of this value type.")] = None
    regime: Annotated[Text | None, About("Only rows of this regime.")] = None
    kernel_family: Annotated[Text | None, About("Only rows of this family of kernels.")] = None
    dense_time_mdape: Annotated[float | None, Number("ratio", "Greatest median error of the dense time.")] = None
    sparse_time_mdape: Annotated[float | None, Number("ratio", "Greatest median error of the sparse time.")] = None
    dense_bandwidth_mdape: Annotated[float | None, Number("ratio", "Greatest median error of the dense bandwidth.")] = None
    sparse_bandwidth_mdape: Annotated[float | None, Number("ratio", "Greatest median error of the sparse bandwidth.")] = None
    speedup_worst_factor: Annotated[float | None, Number("ratio", "Greatest factor by which one speedup is wrong.")] = None
    sign_share: Annotated[float | None, Number("share", "Least share of rows on the right side of 1.")] = None
    side_share: Annotated[float | None, Number("share", "The same, and rows whose speedups are both about 1.")] = None
    interval_coverage: Annotated[float | None, Number("share", "Least share of rows within their interval.")] = None

    @property
    def selectors(self) -> dict[str, str]:
        """Columns and the values that rows must have in them."""
        return {name: value for name in SELECTORS if (value := getattr(self, name, None)) is not None}

    @property
    def limits(self) -> dict[str, float]:
        """Figures and their limits."""
        named = ((name, getattr(self, name)) for name in (*AT_MOST, *AT_LEAST))
        return {name: float(limit) for name, limit in named if limit is not None}

    def fits(self, names: Mapping[str, str]) -> bool:
        """Say whether all selectors are among these names."""
        return all(names.get(name) == value for name, value in self.selectors.items())


@record
class TotalAllowance(Allowance):
    """An entry for all rows that its selectors fit, taken together."""

    dtype_class: Annotated[Text | None, About("Only rows of this class of value types, such as `16-bit`.")] = None
    mark: Annotated[Text | None, About("Only rows with this mark.")] = None
    dense_limit: Annotated[Text | None, About("Only rows whose dense bound rests on this: `memory` or `work`.")] = None
    sparse_limit: Annotated[Text | None, About("The same of the sparse bound.")] = None


@record
class WholeAllowance:
    """One entry for whole models or online passes, which `validate.whole_models.errors` compares."""

    table: Annotated[Text, About("`whole_models` or `online_passes`.")]
    reason: Annotated[Text, About("Why this much error is allowed.")]
    machine: Annotated[Text | None, About("Only rows of this machine.")] = None
    phase: Annotated[Text | None, About("Only runs of this phase.")] = None
    speedup_mdape: Annotated[float | None, Number("ratio", "Greatest median error of the ratio of tokens per second.")] = None
    dense_mdape: Annotated[float | None, Number("ratio", "Greatest median error of dense tokens per second.")] = None
    sparse_mdape: Annotated[float | None, Number("ratio", "Greatest median error of sparse tokens per second.")] = None
    time_mdape: Annotated[float | None, Number("ratio", "Greatest median error of the time of a pass.")] = None
    copy_mdape: Annotated[float | None, Number("ratio", "Greatest median error of the time of a copy.")] = None
    lift_mdape: Annotated[float | None, Number("ratio", "Greatest median error of a time over that without windows.")] = None
    left_out_share: Annotated[float | None, Number("share", "Greatest share of runs that are left out.")] = None


@record
class Budget:
    """The entries of `budget.toml`."""

    held_out: Annotated[Flag, About("Whether constants are fitted without each row's machine.")]
    family: Annotated[tuple[Allowance, ...], About("Limits of each family of rows; the entry with most selectors "
        "counts.")] = ()
    total: Annotated[tuple[TotalAllowance, ...], About("Limits of all rows together.")] = ()
    whole: Annotated[tuple[WholeAllowance, ...], About("Limits of whole models and online passes.")] = ()
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse two entries for the same rows."""
        for kind in ("family", "total"):
            asked = [entry.selectors for entry in getattr(self, kind)]
            for place, names in enumerate(asked):
                if names in asked[:place]:
                    yield kind, f"two entries for {names}; expected one"


@dataclass(frozen=True)
class Excess:
    """A figure outside its limit, a family without an entry, or an entry that fits nothing."""

    what: str
    problem: str

    def __str__(self) -> str:
        return f"{self.what}: {self.problem}"


def read_budget(path: Path = BUDGET_FILE) -> Budget:
    """Read and check a budget.

    Raises
    ------
    SpecError
        An entry with an unknown key, no limit or no reason, or two that fit the same rows equally well.
    """
    return read_record(Budget, path)


def check(table: pd.DataFrame, budget: Budget) -> list[Excess]:
    """Compare joined rows with a budget.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.join.join`, with the budget's `held_out`.
    budget : Budget

    Returns
    -------
    list of Excess
        Empty if every figure is within its limit, every family has an entry, and every entry fits a family or a row.
    """
    # All findings are collected: a budget is corrected in one go.
    found: list[Excess] = []
    used: set[int] = set()
    for family in metrics.families(table):
        what = " ".join(family[name] for name in metrics.FAMILY)
        fitting = [place for place, entry in enumerate(budget.family) if entry.fits(family)]
        if not fitting:
            found.append(Excess(what, "no entry of the budget fits this family; expected one, with a reason"))
            continue
        most = max(len(budget.family[place].selectors) for place in fitting)
        best = [place for place in fitting if len(budget.family[place].selectors) == most]
        if len(best) > 1:
            reasons = " and ".join(repr(budget.family[place].reason) for place in best)
            found.append(Excess(what, f"several entries fit equally well: {reasons}; expected one"))
            continue
        used.add(best[0])
        found += _outside(what, family, budget.family[best[0]])
    found += [
        Excess(_named(entry), "this entry of the budget fits no family; expected one to remove")
        for place, entry in enumerate(budget.family)
        if place not in used
    ]
    for entry in budget.total:
        rows = table
        for name, value in entry.selectors.items():
            rows = rows[rows[name] == value]
        if rows.empty:
            found.append(
                Excess(_named(entry), "this total of the budget fits no row; expected one to remove")
            )
        else:
            found += _outside(f"total {_named(entry)}", metrics.summarise(rows), entry)
    return found


def _outside(what: str, found: Mapping[str, Any], entry: Allowance) -> list[Excess]:
    out = []
    for name, limit in entry.limits.items():
        value = found[name]
        if value is None:
            continue
        if (value > limit) if name in AT_MOST else (value < limit):
            word = "at most" if name in AT_MOST else "at least"
            out.append(
                Excess(
                    what,
                    f"{name} {value:.4f} of {found['n_rows']} rows; allowed {word} {limit:g} ({entry.reason})",
                )
            )
    return out


def _named(entry: Allowance) -> str:
    return " ".join(f"{name}={value}" for name, value in entry.selectors.items()) or "of all rows"
