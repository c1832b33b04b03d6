"""Join rows with predictions, and write the errors as plain data."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import hwmodels
from nmsim.errors import RowError
from validate.judge import metrics
from validate.judge.bandwidth import bandwidths_by
from validate.judge.break_even import windows_by
from validate.judge.join import Predictor, Progress, bound_violations, join
from validate.judge.names import Machines
from validate.judge.problems import BadRow, Skipped, by_kind, error_of
from validate.judge.rows import JudgedRow, RowFile, committed_files, committed_hardware, read_rows

READING_SHARE = 0.6
"""Of the time to judge a table, what reading it takes."""
GALLERY_ROWS = 700
"""Rows that the figures and the table of the gallery show about."""
WORST_COLUMNS = (
    "file", "row", "machine", "device", "kernel", "written_pattern", "dtype", "regime", "M", "N", "K", "mark",
    "measured_speedup_vs_dense", "predicted_speedup_vs_dense", "predicted_speedup_low", "predicted_speedup_high",
    "speedup_error", "dense_time_error", "sparse_time_error", "extrapolates", "source_url",
)  # fmt: skip
BREAKDOWNS = {
    "families": metrics.FAMILY,
    "dtype_classes": ("dtype_class",),
    "kernel_families": ("kernel_family",),
    "machines": ("machine",),
    "regimes": ("regime",),
    "marks": ("mark",),
}
"""Parts of a verdict -> the columns whose values make its groups."""
BANDWIDTHS = {
    "bandwidth_dtype_classes": ("dtype_class",),
    "bandwidth_families": ("kernel_family", "regime"),
    "bandwidth_machines": ("machine",),
}
"""The same for bandwidths, which are also apart by product and limit."""
WINDOWS_BY = ("machine", "dtype", "regime")
"""Columns that make the groups of `windows`: patterns that run through sliding windows on units of today."""


@dataclass(frozen=True)
class Judgement:
    """A joined table, the files it is from, their columns that nothing read, and how many rows were left out, by reason.

    `of_no_commit` counts rows of our own kernels by file, if their commit is unknown or had changes. `skipped` counts the rows
    that could not be judged, by kind.
    """

    table: pd.DataFrame
    files: tuple[str, ...]
    held_out: bool
    unread_columns: dict[str, tuple[str, ...]]
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    of_no_commit: dict[str, int] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    def verdict(self) -> dict[str, Any]:
        """All figures as plain data: `overall`, and a list for each of `BREAKDOWNS` and `BANDWIDTHS`.

        `windows` has groups of rows that ran through sliding windows. `bound_violations` and `worst` are single rows.
        `skipped` lists rows that could not be judged, by kind, and `coverage_warnings` families whose intervals are too narrow
        or too wide.
        """
        groups = {name: metrics.grouped(self.table, columns) for name, columns in BREAKDOWNS.items()}
        return {
            "files": list(self.files),
            "held_out": self.held_out,
            "skipped": [asdict(kind) for kind in self.skipped],
            "overall": metrics.summarise(self.table),
            **groups,
            **{name: bandwidths_by(self.table, columns) for name, columns in BANDWIDTHS.items()},
            "windows": windows_by(self.table, WINDOWS_BY),
            "coverage_warnings": metrics.coverage_warnings(groups["families"]),
            "bound_violations": bound_violations(self.table),
            "worst": metrics.records(metrics.worst(self.table)[list(WORST_COLUMNS)]),
        }


KEPT_COLUMNS = (
    *("row", "machine", "kernel", "kernel_family", "written_pattern", "dtype", "dtype_class", "regime"),
    *("M", "N", "K", "l2_state", "mark"),
)
KEPT_FIGURES = (
    *(f"{kind}_{product}_time_s" for kind in ("measured", "predicted", "bound") for product in ("dense", "sparse")),
    *("measured_speedup_vs_dense", "predicted_speedup_vs_dense"),
    *("predicted_speedup_low", "predicted_speedup_high"),
    *("dense_bytes", "sparse_bytes", "dram_bytes_per_s"),
)  # fmt: skip


def judged_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the columns of joined rows that figures and pages need, numbers to 5 digits."""
    rounded = {name: [float(f"{value:.5g}") for value in table[name]] for name in KEPT_FIGURES}
    return table[list(KEPT_COLUMNS)].assign(**rounded)


def thinned(table: pd.DataFrame, most: int = GALLERY_ROWS) -> pd.DataFrame:
    """Choose rows of a large table for a figure: of each family every n-th in the order of its errors.

    The first that is chosen stands in the middle of the first n. So a family keeps its median and, of many rows, its spread.
    n is the number of rows over `most`, rounded up. A family of fewer rows than n keeps the one in its middle.

    Parameters
    ----------
    table : DataFrame
        Joined rows, or what `judged_columns` keeps of them.
    most : int
        Rows that a table may have as it is.

    Returns
    -------
    DataFrame
        Rows in their order.
    """
    step = -(-len(table) // most)
    if step <= 1:
        return table
    ratio = table["predicted_speedup_vs_dense"] / table["measured_speedup_vs_dense"]
    families = table.assign(ratio=ratio.round(6)).reset_index(drop=True).sort_values("ratio", kind="stable")
    groups = families.groupby(list(metrics.FAMILY), sort=False)
    rank, size = groups.cumcount(), groups["ratio"].transform("size")
    first = ((size - 1) // 2).clip(upper=step // 2)
    kept = rank.index[((rank - first) % step == 0) & (rank >= first)]
    return table.iloc[sorted(kept)]


def judge_files(
    files: Sequence[str | Path] = (),
    *,
    hardware: Iterable[str | Path] = (),
    held_out: bool = False,
    predictor: Predictor | None = None,
    skip_unknown: bool = False,
    progress: Progress | None = None,
) -> Judgement:
    """Judge files of rows, or the rows that ship with nmsim.

    Parameters
    ----------
    files : sequence of path
        In the row schema or in the layout of literature tables; none means `validate.judge.rows.committed_files`, with
        the machines of `validate.judge.rows.committed_hardware`.
    hardware : iterable of str or Path
        Hardware files beside the shipped machines.
    held_out : bool
        Predict each machine with constants that were fitted without it.
    predictor : Predictor, optional
        `hwmodels.predict_rows` when absent.
    skip_unknown : bool
        Skip rows that cannot be judged, and count them in `skipped`.
    progress : callable, optional
        Receives what is under way, and the share done.

    Raises
    ------
    NmsimError
        Unknown hardware, rows that cannot be judged (all of them, by kind, with file and number), or no row that can.
    """
    machines = Machines([*hardware] if files else [*committed_hardware(), *hardware])
    bad: list[BadRow] = []
    read: dict[str, RowFile] = {}
    paths = files or committed_files()
    _refuse_twice(paths)
    for number, path in enumerate(paths):
        if progress is not None:
            progress(f"reading {Path(path).name}", READING_SHARE * number / len(paths))
        read[str(path)] = read_rows(path, machines, bad=bad)
    rows = [row for file in read.values() for row in file.rows]
    if bad and not rows:
        raise error_of(bad)
    if not rows:
        raise RowError(f"{', '.join(read)}: no row to judge: expected at least one")
    unread = {name: file.unread_columns for name, file in read.items() if file.unread_columns}
    left_out = {name: dict(file.left_out) for name, file in read.items() if file.left_out}
    of_no_commit = {name: file.of_no_commit for name, file in read.items() if file.of_no_commit}
    table = judge_rows(
        rows, machines, held_out=held_out, predictor=predictor, bad=bad, progress=_after_reading(progress)
    )
    if bad and not skip_unknown:
        raise error_of(bad)
    return Judgement(table, tuple(read), held_out, unread, left_out, of_no_commit, tuple(by_kind(bad)))


def _refuse_twice(paths: Sequence[str | Path]) -> None:
    """Refuse a file that is named twice: its rows would count twice, or once, and nothing would say which."""
    seen: set[Path] = set()
    for path in paths:
        if (real := Path(path).resolve()) in seen:
            raise RowError(f"{path}: is named twice, expected each file once")
        seen.add(real)


def _after_reading(progress: Progress | None) -> Progress | None:
    """Shares of the predictions as shares of all the work."""
    if progress is None:
        return None
    return lambda text, share: progress(text, READING_SHARE + (1 - READING_SHARE) * share)


def judge_rows(
    rows: Sequence[JudgedRow],
    machines: Machines | None = None,
    *,
    held_out: bool = False,
    predictor: Predictor | None = None,
    bad: list[BadRow] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Join rows from `validate.judge.rows.as_rows` with the predictions of the model; the parameters are those of `join`."""
    return join(
        rows,
        machines or Machines(),
        predictor or hwmodels.predict_rows,
        held_out=held_out,
        bad=bad,
        progress=progress,
    )
