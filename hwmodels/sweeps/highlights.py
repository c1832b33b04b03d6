"""What to look at first in the file of a sweep: the best points, and the Pareto front. In bounded memory."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hwmodels.sweeps.pareto import pareto_front
from nmsim.errors import ContainerError, RowError

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
            raise RowError(f"{file}: {name!r}: no such column; there are {', '.join(columns)}")
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

    if file.suffix == ".csv":
        return list(pd.read_csv(file, nrows=0).columns)
    return list(parquet.read_schema(file).names)


def _batches(file: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Rows of some columns; texts as plain texts, so that batches can be put together."""
    from pyarrow import parquet

    if file.suffix == ".csv":
        yield from pd.read_csv(
            file, usecols=columns, chunksize=BATCH_ROWS, keep_default_na=False, na_values=["nan"]
        )
        return
    with parquet.ParquetFile(file) as reader:
        for batch in reader.iter_batches(BATCH_ROWS, columns=columns):
            frame: pd.DataFrame = batch.to_pandas()
            texts = frame.select_dtypes("category").columns
            yield frame.astype(dict.fromkeys(texts, str))
