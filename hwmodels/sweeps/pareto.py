"""The Pareto front of a sweep, and the rows of it that are worth showing."""

import difflib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmsim.errors import ContainerError, RowError, brief
from nmsim.support.cells import unguarded
from nmsim.support.jit import njit
from nmsim.support.sources import open_regular

BoolArray = NDArray[np.bool_]


def pareto_front(
    table: pd.DataFrame,
    *,
    minimise: Sequence[str] = (),
    maximise: Sequence[str] = (),
    within: Sequence[str] = (),
) -> BoolArray:
    """Mark the rows that no other row beats: none is as good in every column and better in one.

    Parameters
    ----------
    table : DataFrame
    minimise, maximise : sequences of str
        Numeric columns; at least one in all.
    within : sequence of str
        Columns whose values distinguish rows that cannot be compared, such as the layer and the number of tokens: a front for
        each.

    Returns
    -------
    bool array [rows]
        Rows that are equal in all columns are on the front together. A row with a NaN never is.

    Raises
    ------
    RowError
        No column, an unknown or doubled one, or one that holds no numbers; what is no table, or no list of columns.

    Source
    ------
    Two columns take a sort and a running minimum. With more columns the rows are ordered by the sum of their ranks: no row can
    beat one before it. Each is compared with the front so far. That is fast as long as few rows are on the front.

    Examples
    --------
    >>> table = pd.DataFrame({"time_s": [1.0, 2.0, 2.0, 3.0], "area_um2": [9.0, 5.0, 6.0, 5.0]})
    >>> pareto_front(table, minimise=["time_s", "area_um2"]).tolist()
    [True, True, False, False]
    """
    if not isinstance(table, pd.DataFrame):
        raise RowError(f"Pareto front: table of type {type(table).__name__}: expected a pandas DataFrame")
    for what, given in (("minimise", minimise), ("maximise", maximise), ("within", within)):
        _refuse_no_list(what, given)
    names = [*minimise, *maximise]
    if not names or len(set(names)) < len(names):
        raise RowError(f"Pareto front: columns {names}: expected at least one, each once")
    for name in (*names, *within):
        if name not in table.columns:
            there = list(map(str, table.columns))
            near = difflib.get_close_matches(name, there, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise RowError(f"Pareto front: {brief(name)}: no such column.{hint} There are {', '.join(there)}")
    for name in names:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise RowError(
                f"Pareto front: {brief(name)}: expected a column of numbers, got {table[name].dtype}"
            )
    costs = np.column_stack(
        [table[name].to_numpy(np.float64) * (1.0 if name in minimise else -1.0) for name in names]
    )
    front = np.zeros(len(table), bool)
    # A point without a cost cannot be compared, so it is never on the front.
    known = np.flatnonzero(~np.isnan(costs).any(axis=1))
    if not within:
        front[known] = _front(costs[known])
        return front
    groups = table[list(within)].iloc[known].groupby(list(within), observed=True, dropna=False, sort=False)
    for places in groups.indices.values():
        of_group = known[places]
        front[of_group] = _front(costs[of_group])
    return front


def _refuse_no_list(what: str, given: Any) -> None:
    listed = isinstance(given, Iterable) and not isinstance(given, str)
    if listed and all(isinstance(name, str) for name in given):
        return
    example = given if isinstance(given, str) else "time_s"
    raise RowError(f"Pareto front: {what}={brief(given)}: expected a list of columns, such as {[example]}")


def _front(costs: NDArray[np.float64]) -> BoolArray:
    """Mark the rows that no row beats, all columns being costs."""
    if len(costs) == 0:
        return np.zeros(0, bool)
    if costs.shape[1] == 1:
        least: BoolArray = costs[:, 0] == costs[:, 0].min()
        return least
    if costs.shape[1] == 2:
        return _front_of_two(costs)
    alive = np.flatnonzero(~_beaten_by_few(costs))
    kept = costs[alive]
    # Ranks instead of costs: sums of them are exact, and fair to columns of any unit.
    ranks = np.column_stack([np.unique(column, return_inverse=True)[1] for column in kept.T])
    order = np.argsort(ranks.sum(axis=1), kind="stable")
    marks = np.zeros(len(costs), bool)
    marks[alive[order]] = _filter(np.ascontiguousarray(ranks[order]))
    return marks


def _front_of_two(costs: NDArray[np.float64]) -> BoolArray:
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    first, second = costs[order].T
    best_before = np.append(np.inf, np.minimum.accumulate(second)[:-1])
    starts = np.append(True, first[1:] != first[:-1])
    group = np.cumsum(starts) - 1
    # Rows of one first cost: the least second one counts, if all rows of lower first costs are worse in it.
    least = second[starts][group]
    lower_first = best_before[starts][group]
    marks = np.zeros(len(costs), bool)
    marks[order] = (second == least) & ((second < lower_first) | (np.isposinf(second) & (group == 0)))
    return marks


def _beaten_by_few(costs: NDArray[np.float64], few: int = 64) -> BoolArray:
    """Mark rows that one of a few promising rows beats: quick, and most of a random table."""
    finite = np.isfinite(costs).all(axis=1)
    if not finite.any():
        return np.zeros(len(costs), bool)
    low = costs[finite].min(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = costs[finite].max(axis=0) - low
        spread[~(spread > 0)] = 1.0
        sums = np.where(finite, ((costs - low) / spread).sum(axis=1), np.inf)
    chosen = np.argpartition(sums, min(few, len(costs)) - 1)[:few]
    beaten: BoolArray = _beaten(np.ascontiguousarray(costs), np.ascontiguousarray(costs[chosen]))
    return beaten


@njit(cache=True, nogil=True)
def _beats(one: Any, other: Any) -> bool:
    better = False
    for column in range(len(one)):
        if one[column] > other[column]:
            return False
        if one[column] < other[column]:
            better = True
    return better


@njit(cache=True, nogil=True)
def _beaten(costs: Any, few: Any) -> Any:
    marks = np.zeros(len(costs), np.bool_)
    for row in range(len(costs)):
        for rival in range(len(few)):
            if _beats(few[rival], costs[row]):
                marks[row] = True
                break
    return marks


@njit(cache=True, nogil=True)
def _filter(rows: Any) -> Any:
    """Mark the rows of the front, rows that may beat others coming first."""
    marks = np.zeros(len(rows), np.bool_)
    front = np.empty(len(rows), np.int64)
    count = 0
    for row in range(len(rows)):
        beaten = False
        for place in range(count):
            if _beats(rows[front[place]], rows[row]):
                beaten = True
                # What beats one row is likely to beat the next: look at it earlier.
                front[place], front[place // 2] = front[place // 2], front[place]
                break
        if not beaten:
            front[count] = row
            count += 1
            marks[row] = True
    return marks


COMPARABLE = ("model", "layer", "tokens")
"""Columns that say what work a row is: only rows of the same work compete."""
BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class Highlights:
    """`best`: rows of the greatest `speedup_vs_dense`. `front`: the Pareto front of each work."""

    best: pd.DataFrame
    front: pd.DataFrame


def highlights(file: Path, minimise: Sequence[str], maximise: Sequence[str] = (), top: int = 5) -> Highlights:
    """Find the best points and the Pareto fronts in the file of a sweep.

    Parameters
    ----------
    file : Path
        What `sweep` wrote.
    minimise, maximise : sequences of str
        Columns of the front.
    top : int
        Rows of `best`.

    Returns
    -------
    Highlights
        With the columns that say what a point is, its time and speedup, and those asked for.

    Raises
    ------
    RowError
        An unknown column, or one of no numbers.
    ContainerError
        The file is none that a sweep wrote.
    """
    columns = columns_of(file)
    if "speedup_vs_dense" not in columns or "refused" not in columns:
        raise ContainerError(f"{file}: expected a file that a sweep wrote")
    wanted = [*minimise, *maximise]
    for name in wanted:
        if name not in columns:
            raise RowError(f"{file}: {brief(name)}: no such column; there are {', '.join(columns)}")
    known = [*columns[: columns.index("cycles")], "time_s", "speedup_vs_dense"]
    within = [name for name in COMPARABLE if name in columns]
    best = front = pd.DataFrame()
    on_front = functools.partial(pareto_front, minimise=minimise, maximise=maximise, within=within)
    for batch in _batches(file, list(dict.fromkeys([*known, *wanted]))):
        live = batch[batch["refused"] == ""]
        best = pd.concat([best, live]) if len(best) else live
        best = best.nlargest(top, "speedup_vs_dense")
        front = pd.concat([front, live[on_front(live)]]) if len(front) else live
        front = front[on_front(front)]
    return Highlights(best.reset_index(drop=True), front.reset_index(drop=True))


def columns_of(file: Path) -> list[str]:
    """Names of the columns of a Parquet or CSV file."""
    from pyarrow import parquet

    with open_regular(file, expected="a file that a sweep wrote") as stream:
        if file.suffix == ".csv":
            return list(pd.read_csv(stream, nrows=0).columns)
        return list(parquet.read_schema(stream).names)


def _batches(file: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Rows of some columns; texts as plain texts, so that batches can be put together."""
    from pyarrow import parquet

    with open_regular(file, expected="a file that a sweep wrote") as stream:
        if file.suffix == ".csv":
            for chunk in pd.read_csv(
                stream, usecols=columns, chunksize=BATCH_ROWS, keep_default_na=False, na_values=["nan"]
            ):
                texts = chunk.select_dtypes(["object", "string"]).columns
                yield chunk.assign(**{name: chunk[name].map(unguarded, na_action="ignore") for name in texts})
            return
        reader = parquet.ParquetFile(stream)
        for batch in reader.iter_batches(BATCH_ROWS, columns=columns):
            frame: pd.DataFrame = batch.to_pandas()
            texts = frame.select_dtypes("category").columns
            yield frame.astype(dict.fromkeys(texts, str))
