"""The error that each family of committed rows may have: `budget.toml`, read and held against what was found.

`[[family]]` entries bound every family (machine x dtype x regime x kernel family) that their selectors fit; where
several fit, the one with most selectors counts. `[[total]]` entries bound all rows that their selectors fit, taken
together. Each has a reason.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nmsim.errors import SpecError
from validate.judge import metrics

BUDGET_FILE = Path(__file__).parent / "budget.toml"
AT_MOST = ("speedup_mdape", "dense_time_mdape", "sparse_time_mdape", "speedup_worst_factor")
AT_LEAST = ("sign_share", "interval_coverage")
FAMILY_SELECTORS = metrics.FAMILY
TOTAL_SELECTORS = (*metrics.FAMILY, "dtype_class", "mark")


@dataclass(frozen=True)
class Allowance:
    """One entry: which rows, which figures may be how large or must be how large, and why."""

    selectors: Mapping[str, str]
    limits: Mapping[str, float]
    reason: str

    def fits(self, names: Mapping[str, str]) -> bool:
        """Say whether all selectors are among these names."""
        return all(names.get(name) == value for name, value in self.selectors.items())


@dataclass(frozen=True)
class Budget:
    """What `budget.toml` says; `held_out` asks for constants fitted without each row's machine."""

    held_out: bool
    families: tuple[Allowance, ...]
    totals: tuple[Allowance, ...]


@dataclass(frozen=True)
class Excess:
    """A figure outside its budget, or a family or an entry that has no counterpart."""

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
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as TOML: {error}") from error
    unknown = sorted(set(document) - {"held_out", "family", "total"})
    if unknown:
        raise SpecError(f"{path}: {unknown[0]}: unknown key; expected held_out, family, total")
    if not isinstance(document.get("held_out"), bool):
        raise SpecError(f"{path}: held_out={document.get('held_out')!r}: expected true or false")
    lists = {}
    for kind, selectors in (("family", FAMILY_SELECTORS), ("total", TOTAL_SELECTORS)):
        entries = document.get(kind, [])
        lists[kind] = tuple(
            _allowance(entry, selectors, f"{path}: {kind}[{place}]") for place, entry in enumerate(entries)
        )
        asked = [tuple(sorted(entry.selectors.items())) for entry in lists[kind]]
        twice = next((names for names in asked if asked.count(names) > 1), None)
        if twice is not None:
            raise SpecError(f"{path}: {kind}: two entries for {dict(twice)}; expected one")
    return Budget(document["held_out"], lists["family"], lists["total"])


def check(table: pd.DataFrame, budget: Budget) -> list[Excess]:
    """Hold joined rows against a budget.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.join.join`, with the budget's `held_out`.
    budget : Budget

    Returns
    -------
    list of Excess
        Empty when every figure is within its budget, every family has one, and every entry is of use.
    """
    found: list[Excess] = []
    used: set[int] = set()
    for family in metrics.families(table):
        what = " ".join(family[name] for name in metrics.FAMILY)
        fitting = [place for place, entry in enumerate(budget.families) if entry.fits(family)]
        if not fitting:
            found.append(Excess(what, "no entry of the budget fits this family; expected one, with a reason"))
            continue
        most = max(len(budget.families[place].selectors) for place in fitting)
        best = [place for place in fitting if len(budget.families[place].selectors) == most]
        if len(best) > 1:
            reasons = " and ".join(repr(budget.families[place].reason) for place in best)
            found.append(Excess(what, f"several entries fit equally well: {reasons}; expected one"))
            continue
        used.add(best[0])
        found += _outside(what, family, budget.families[best[0]])
    found += [
        Excess(_named(entry), "this entry of the budget fits no family; expected one to remove")
        for place, entry in enumerate(budget.families)
        if place not in used
    ]
    for entry in budget.totals:
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


def _allowance(entry: Mapping[str, Any], selectors: Sequence[str], where: str) -> Allowance:
    limits = (*AT_MOST, *AT_LEAST)
    for name, value in entry.items():
        if name not in (*selectors, *limits, "reason"):
            raise SpecError(
                f"{where}.{name}: unknown key; expected {', '.join((*selectors, *limits, 'reason'))}"
            )
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if name in limits and not number:
            raise SpecError(f"{where}.{name}={value!r}: expected a number of at least 0")
        if name not in limits and not (isinstance(value, str) and value.strip()):
            raise SpecError(f"{where}.{name}={value!r}: expected text")
    if "reason" not in entry:
        raise SpecError(f"{where}.reason: missing; expected why this much error is allowed")
    given = {name: float(entry[name]) for name in limits if name in entry}
    if "speedup_mdape" not in given:
        raise SpecError(f"{where}.speedup_mdape: missing; expected the allowed error of the speedup")
    return Allowance({name: entry[name] for name in selectors if name in entry}, given, entry["reason"])


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
