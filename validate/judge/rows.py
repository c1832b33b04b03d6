"""Rows to be judged, from files in either layout, each with where it stands so that complaints can name it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmsim import rows
from nmsim.errors import RowError
from nmsim.rows import COLUMNS, Measurement
from validate.judge.literature import (
    LITERATURE_COLUMNS,
    completed,
    read_literature,
    read_table,
    with_facts_of_note,
)
from validate.judge.machine_names import Machines

DATA_FOLDER = Path(__file__).parents[1] / "data"
PUBLISHED_FILE = DATA_FOLDER / "published.csv"
MEASURED_FOLDER = DATA_FOLDER / "measured"


@dataclass(frozen=True)
class JudgedRow:
    """A measurement, the name of the file or table it is from, and its number there, the first being 1."""

    measurement: Measurement
    file: str
    number: int

    @property
    def where(self) -> str:
        """How errors name the row."""
        return f"{self.file}: row {self.number}"


@dataclass(frozen=True)
class RowFile:
    """The rows of a file, the columns of it that nothing reads, and how many rows are transfers, which are left out."""

    rows: tuple[JudgedRow, ...]
    unread_columns: tuple[str, ...] = ()
    transfers: int = 0


def committed_files() -> list[Path]:
    """The rows that ship with nmsim: published ones, and those of our own campaigns."""
    return [PUBLISHED_FILE, *own_files()]


def own_files() -> list[Path]:
    """The rows of our own campaigns that ship with nmsim."""
    return sorted(MEASURED_FOLDER.glob("*.csv"))


def committed_hardware() -> list[Path]:
    """The calibrated machines that our own campaigns ran on, beside their rows."""
    return sorted(MEASURED_FOLDER.glob("*.toml"))


def as_rows(measurements: Iterable[Measurement], name: str = "measurements") -> list[JudgedRow]:
    """Number measurements that are in memory, and leave transfers out: no prediction is made for them.

    Raises
    ------
    RowError
        A pattern in words that mean nothing.
    """
    judged = []
    for number, row in enumerate(measurements, start=1):
        if row.is_transfer:
            continue
        try:
            judged.append(JudgedRow(completed(row), name, number))
        except RowError as error:
            message = f"{name}: row {number}: pattern={error}"
            raise RowError(message, row=number, column="pattern", problem=error.problem) from error
    return judged


def read_rows(path: str | Path, machines: Machines) -> RowFile:
    """Read a file in the row schema, or in the layout of literature tables; the header says which.

    Parameters
    ----------
    path : str or Path
    machines : Machines
        For the names in literature tables.

    Raises
    ------
    RowError
        Neither header, or a bad row: the error names file, row, column, value and what was expected.
    """
    table = read_table(path)
    header = table[0] if table else []
    if rows.is_header(header):
        measured = rows.read(path)
        if rows.missing_columns(header):
            measured = [with_facts_of_note(row) for row in measured]
        judged = as_rows(measured, str(path))
        return RowFile(tuple(judged), transfers=len(measured) - len(judged))
    if set(header) >= set(LITERATURE_COLUMNS):
        measurements, unread = read_literature(path, machines)
        return RowFile(tuple(as_rows(measurements, str(path))), tuple(unread))
    raise RowError(f"{path}: header: {_difference(header)}")


def _difference(header: Sequence[str]) -> str:
    """The differences between a header and the nearer of the two layouts."""
    layouts = {"the row schema of nmsim measure": tuple(COLUMNS), "literature tables": LITERATURE_COLUMNS}
    name = max(layouts, key=lambda name: len(set(layouts[name]) & set(header)) / len(layouts[name]))
    added = (
        [] if name == "literature tables" else [column for column in COLUMNS if COLUMNS[column].cell.added]
    )
    missing = [column for column in layouts[name] if column not in header and column not in added]
    unknown = [column for column in header if column not in layouts[name]]
    found = "; ".join(
        f"{word} {', '.join(map(repr, columns))}"
        for word, columns in (("missing", missing), ("unknown", unknown))
        if columns
    )
    problem = f"nearest to {name}, but {found}" if set(header) & set(layouts[name]) else f"found {header!r}"
    return f"{problem}; expected {','.join(COLUMNS)} or {','.join(LITERATURE_COLUMNS)}"
