"""What the pages on validation are made from, judged once: committed rows, and the map of 2:4 speedups."""

import functools

import pandas as pd
from matplotlib.figure import Figure

from hwmodels import plots
from hwmodels.plots.style import AxesGrid
from validate.judge import break_even
from validate.judge.judge import Judgement, judge_files, judged_columns, thinned
from validate.judge.own_machine import own_rows
from validate.judge.rows import committed_hardware, own_files, published_files


@functools.cache
def published(held_out: bool = True) -> Judgement:
    """The published rows; `held_out` with constants that were fitted without each machine."""
    return judge_files(published_files(), held_out=held_out)


@functools.cache
def windows() -> pd.DataFrame:
    """Speedups of 14:16 through sliding windows, by GPU, value type and tokens: what an arbitrary 8:16 brings today."""
    found = pd.DataFrame(break_even.windows_by(published().table, ("machine", "dtype", "M")))
    return found[found["pattern"] == "8:16"].reset_index(drop=True)


@functools.cache
def measured() -> Judgement | None:
    """The rows of our own campaigns; None if none has been committed."""
    files = own_files()
    return judge_files(files, hardware=committed_hardware(), held_out=True) if files else None


@functools.cache
def own() -> pd.DataFrame:
    """Our own rows of all campaigns, with their spread, their machine and what was predicted from calibration."""
    tables = [own_rows(rows, rows.with_suffix(".toml")).assign(machine=rows.stem) for rows in own_files()]
    return pd.concat(tables, ignore_index=True)


def drawn_of(table: pd.DataFrame, machine: str) -> tuple[Figure, AxesGrid]:
    """Draw our own rows of one machine."""
    return plots.measured_on_predicted(table[table["machine"] == machine])


def judged() -> pd.DataFrame:
    """The table of the figures: the published rows, held out, of each family every n-th in the order of its errors."""
    return judged_columns(thinned(published().table))


@functools.cache
def mapped() -> pd.DataFrame:
    """Predicted 2:4 speedups of every GPU that has a sparse unit."""
    return break_even.speedup_map(break_even.gpus_with_unit())


def points() -> pd.DataFrame:
    """The published 2:4 rows of 16-bit types."""
    return break_even.published_points(published().table)


def with_points() -> list[str]:
    """GPUs of the map that have published rows."""
    return [name for name in mapped()["machine"].unique() if (points()["machine"] == name).any()]


def without_points() -> list[str]:
    """GPUs of the map that have none."""
    return [name for name in mapped()["machine"].unique() if name not in with_points()]
