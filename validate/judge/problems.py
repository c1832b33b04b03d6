"""Rows of tables that cannot be judged: collected, grouped by kind, and listed or raised all at once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nmsim.errors import RowError

FIRST = 3
"""Row numbers that are stated of each kind."""
NUMERIC = (
    *("", "M", "N", "K", "speedup", "dense_time_or_tflops", "sparse_time_or_tflops"),
    *("speedup_vs_dense", "dense_time_s", "sparse_time_s"),
)
"""Columns whose figures do not make another kind of problem; a name that holds a figure, such as that of a machine, does."""
_FIGURE = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be judged: the file, its number there (the first is 1), the column or "", and the problem."""

    file: str
    number: int
    column: str
    problem: str


@dataclass(frozen=True)
class Skipped:
    """Rows of a file with one kind of problem: the problem of the first, how many, and the numbers of the first ones."""

    file: str
    problem: str
    rows: int
    first: tuple[int, ...]

    def __str__(self) -> str:
        first, *others = self.first
        more = ""
        if others:
            left = [*map(str, others), *(["..."] if self.rows > len(self.first) else [])]
            more = f" and {self.rows - 1} more ({', '.join(left)})"
        return f"{self.file}: row {first}{more}: {self.problem}"


def by_kind(bad: Iterable[BadRow]) -> list[Skipped]:
    """Group rows by file and kind of problem, the kind with most rows first.

    Examples
    --------
    >>> rows = [BadRow("a.csv", n, "gpu", "gpu='X1': no machine of that name") for n in (3, 4, 9, 12)]
    >>> print(*by_kind(rows))
    a.csv: row 3 and 3 more (4, 9, ...): gpu='X1': no machine of that name
    """
    kinds: dict[tuple[str, str, str], list[BadRow]] = {}
    for row in bad:
        kind = _FIGURE.sub("#", row.problem) if row.column in NUMERIC else row.problem
        kinds.setdefault((row.file, row.column, kind), []).append(row)
    found = [
        Skipped(rows[0].file, rows[0].problem, len(rows), tuple(row.number for row in rows[:FIRST]))
        for rows in kinds.values()
    ]
    return sorted(found, key=lambda kind: -kind.rows)


def error_of(bad: Sequence[BadRow]) -> RowError:
    """Make one error of all rows that cannot be judged, one line per kind."""
    first = bad[0]
    return RowError.of_all(
        [
            RowError(str(kind), row=first.number, column=first.column, problem=first.problem)
            for kind in by_kind(bad)
        ]
    )
