"""Rows in CSV files and in tables: read, checked, appended. A row is a `Measurement`, or another record of checked cells.

Files are append-only and a row is one line, so that a run that was killed leaves at most one broken line at the end.
That line is reported, never corrected without a message. A file of an older version lacks the columns that were added
since. It is read, and each missing cell holds the default of its column.
"""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from nmsim.errors import NmsimError, RowError, brief, brief_names
from nmsim.files.atomic import new_file
from nmsim.rows.measurement import Measurement
from nmsim.rows.record import Column, Row, columns_of
from nmsim.support.cells import guarded, unguarded
from nmsim.support.lock import held
from nmsim.support.sources import csv_rows, read_text

if TYPE_CHECKING:
    import pandas as pd

OfRow = TypeVar("OfRow", bound=Row)

_MEND = "remove the last line (on Unix: sed -i '$d' FILE) and run again, which measures only what is missing"
_TABLE_TYPES = {float: "float64", int: "Int64", bool: "boolean", str: "object"}


@overload
def read(path: str | Path) -> list[Measurement]: ...


@overload
def read(path: str | Path, record: type[OfRow]) -> list[OfRow]: ...


def read(path: str | Path, record: type[Row] = Measurement) -> list[Any]:
    """Read every row of a file.

    Parameters
    ----------
    path : str or Path
    record : type
        What a row is.

    Raises
    ------
    RowError
        Another header, an incomplete last line, or a bad cell. The error names the file, the row (1 is the first below
        the header), the column, the value and what was expected.
    """
    rows = read_each(path, record)
    if problems := [row for row in rows if isinstance(row, RowError)]:
        raise RowError.of_all(problems)
    return rows


def read_each(path: str | Path, record: type[Row] = Measurement) -> list[Any]:
    """Read every row of a file; in place of a bad row its error, so that a reader may go on without it.

    Parameters
    ----------
    path : str or Path
    record : type
        What a row is.

    Returns
    -------
    list
        A `record` or a `RowError` per line below the header.

    Raises
    ------
    RowError
        Another header, or an incomplete last line.
    """
    header, *lines = _lines(Path(path), record)
    columns = _header_columns(header, str(path), record)
    rows: list[Any] = []
    try:
        for number, cells in enumerate(csv.reader(lines, strict=True), start=1):
            try:
                rows.append(_from_texts(cells, columns, record, str(path), number))
            except RowError as error:
                rows.append(error)
    except csv.Error as error:
        # If the quotes of a row are wrong, the rows after it cannot be found.
        problem, row = f"no CSV: {error}", len(rows) + 1
        rows.append(RowError(f"{path}: row {row}: {problem}", row=row, problem=problem))
    return rows


def append(path: str | Path, row: Row) -> None:
    """Add one row at the end of a file, in one write; a new or empty file gets the header first.

    Raises
    ------
    RowError
        As `check`, or the file cannot be written.
    BusyError
        Another process appends rows to it.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise RowError(f"{path}: there is no folder {path.parent}, expected an existing one")
    # Two writers that both find the file empty would both write the header.
    with held(path.resolve(), path):
        text = _line(to_texts(row))
        if check(path, type(row)):
            text = _line(columns_of(type(row))) + text
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                data = text.encode()
                if os.write(handle, data) != len(data):
                    raise RowError(f"{path}: the row was written in part only (disk full?); {_MEND}")
            finally:
                os.close(handle)
        except OSError as error:
            raise RowError(f"{path}: cannot be written: {error.strerror or error}") from error


def write(path: str | Path, rows: Iterable[Row], *, record: type[Row] = Measurement) -> None:
    """Write a file anew; it takes its name when it is complete. All rows are of one record, whose columns are its header.

    Raises
    ------
    RowError
        A row of another record, which the header would not fit.
    BusyError
        Another process writes it.
    ContainerError
        It cannot be written.
    """
    with new_file(Path(path), force=True) as stream:
        stream.write(_line(columns_of(record)).encode())
        for number, row in enumerate(rows, start=1):
            if type(row) is not record:
                raise RowError(
                    f"{path}: row {number} is a {type(row).__name__}, expected a {record.__name__}",
                    row=number,
                )
            stream.write(_line(to_texts(row)).encode())


def check(path: str | Path, record: type[Row] = Measurement) -> bool:
    """Refuse a file that rows of a record cannot be appended to; True if it is new or empty.

    Raises
    ------
    RowError
        The file has another header or the header of an older version, its last line is incomplete, or its folder does
        not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise RowError(f"{path}: there is no folder {path.parent}, expected an existing one")
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return True
    if missing := missing_columns(_cells(_lines(path, record)[0], str(path)), record):
        mend = f"; to add them: {record.OLDER} {path.name}" if record.OLDER else ""
        raise RowError(
            f"{path}: header: written by an older version, without {brief_names(missing, most=2)}; "
            f"expected another file{mend}"
        )
    return False


def missing_columns(header: Sequence[str], record: type[Row] = Measurement) -> list[str]:
    """Name the columns that were added since a file of an older version was written; empty for a file of this version."""
    return [name for name in columns_of(record) if name not in header]


def is_header(header: Sequence[str], record: type[Row] = Measurement) -> bool:
    """Whether a header has all columns, in any order, or all but columns that were added later."""
    columns = columns_of(record)
    return sorted(header) == sorted(name for name in columns if name in header) and all(
        columns[name].cell.added for name in missing_columns(header, record)
    )


def to_frame(rows: Iterable[Row], *, record: type[Row] = Measurement) -> "pd.DataFrame":
    """Put rows in a table, one column per field; None is NA in whole numbers and booleans, NaN in other numbers."""
    import pandas as pd

    columns = columns_of(record)
    # Every field of a row is a plain value: its own name is enough.
    cells = [{name: getattr(row, name) for name in columns} for row in rows]
    table = pd.DataFrame(cells, columns=list(columns))
    return table.astype({name: _TABLE_TYPES[column.kind] for name, column in columns.items()})


@overload
def from_frame(table: "pd.DataFrame", name: str = "table") -> list[Measurement]: ...


@overload
def from_frame(table: "pd.DataFrame", name: str = "table", *, record: type[OfRow]) -> list[OfRow]: ...


def from_frame(table: "pd.DataFrame", name: str = "table", *, record: type[Row] = Measurement) -> list[Any]:
    """Take measurements out of a table with these columns, in any order. To read a file, use `read`: pandas guesses types.

    Parameters
    ----------
    table : DataFrame
        Columns that were added later may be missing.
    name : str
        What errors call the table; rows count from 1.
    record : type
        What a row is.

    Raises
    ------
    RowError
        A column is missing or unknown, or a cell is bad.
    """
    header, columns = list(table.columns), columns_of(record)
    if not is_header(header, record):
        raise RowError(f"{name}: header: {_difference(header, record)}")
    return [
        _checked(
            {str(column): _plain(columns[str(column)], value) for column, value in cells.items()},
            record,
            name,
            number,
        )
        for number, cells in enumerate(table.to_dict("records"), start=1)
    ]


def to_texts(row: Row) -> list[str]:
    """Format the cells of a row as a file holds them."""
    return [_text(getattr(row, name)) for name in columns_of(type(row))]


def _lines(path: Path, record: type[Row]) -> list[str]:
    """Lines of a file, the header first."""
    text, columns = read_text(path, error=RowError), columns_of(record)
    if not text:
        raise RowError(f"{path}: empty, expected a header line of {len(columns)} columns")
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > 1 or not ",".join(columns).startswith(text):
        _header_columns(lines[0], str(path), record)
    if lines.pop():
        row = len(lines)
        raise RowError(
            f"{path}: row {row} (the last line) ends in its middle, as a run that was killed leaves it: "
            f"expected a line end; {_MEND}",
            row=row,
        )
    return lines


def _header_columns(line: str, path: str, record: type[Row]) -> list[Column]:
    header, columns = _cells(line, path), columns_of(record)
    if header != [name for name in columns if name in header] or not is_header(header, record):
        raise RowError(f"{path}: header: {_difference(header, record)}")
    return [columns[name] for name in header]


def _cells(line: str, path: str) -> list[str]:
    (cells,) = csv_rows([line], where=f"{path}: header", error=RowError)
    return cells


def _difference(header: Sequence[str], record: type[Row]) -> str:
    columns = columns_of(record)
    missing = [name for name, column in columns.items() if name not in header and not column.cell.added]
    unknown = [name for name in header if name not in columns]
    problem = "; ".join(
        f"{word} {brief_names(map(brief, names))}"
        for word, names in (("missing", missing), ("unknown", unknown))
        if names
    )
    return f"{problem or 'columns repeated or out of order'}; expected the {len(columns)} columns {brief_names(columns)}"


def _from_texts(cells: list[str], columns: Sequence[Column], record: type[Row], path: str, row: int) -> Row:
    if len(cells) != len(columns):
        problem = f"{len(cells)} cells, expected {len(columns)}"
        raise RowError(f"{path}: row {row}: {problem}", row=row, problem=problem)
    values = {}
    for column, text in zip(columns, cells, strict=True):
        try:
            values[column.name] = _value(column, text)
        except ValueError as error:
            problem = f"{column.name}={brief(text)}: expected {error}"
            message = f"{path}: row {row}: {problem}"
            raise RowError(message, row=row, column=column.name, problem=problem) from None
    return _checked(values, record, path, row)


def _checked(values: Mapping[str, Any], record: type[Row], path: str, row: int) -> Row:
    try:
        return record(**values)
    except NmsimError as error:
        column = error.column if isinstance(error, RowError) else ""
        raise RowError(f"{path}: row {row}: {error}", row=row, column=column, problem=str(error)) from error


def _value(column: Column, text: str) -> Any:
    """The value of a cell; a ValueError says what was expected."""
    if column.kind is str or not text:
        return unguarded(text) if column.kind is str else None
    if column.kind is int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise ValueError("a whole number")
        return int(text)
    if column.kind is bool:
        if text not in ("true", "false"):
            raise ValueError("true, false or nothing")
        return text == "true"
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number") from None


def _plain(column: Column, value: Any) -> Any:
    """A cell of a DataFrame as a plain Python value; what is missing as None or ''."""
    import pandas as pd

    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "" if column.kind is str else None
    if column.kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value.item() if hasattr(value, "item") else value


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else guarded(str(value))


def _line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
