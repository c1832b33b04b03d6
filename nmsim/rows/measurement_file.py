"""Rows in CSV files and in tables: read, checked, appended. Of any record on top of `nmsim.rows.row.Row`.

Files are append-only and a row is one line, so that a run that was killed leaves at most one broken line at the end.
That line is reported, never mended in silence.
"""

import csv
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from nmsim.errors import NmsimError, RowError
from nmsim.rows.measurement import Measurement
from nmsim.rows.row import Column, Row, columns_of

if TYPE_CHECKING:
    import pandas as pd

_MEND = "remove the last line (on Unix: sed -i '$d' FILE) and run again, which measures only what is missing"
_TABLE_TYPES = {float: "float64", int: "Int64", bool: "boolean", str: "object"}

R = TypeVar("R", bound=Row)


@overload
def read(path: str | Path) -> list[Measurement]: ...


@overload
def read(path: str | Path, record: type[R]) -> list[R]: ...


def read(path: str | Path, record: type[Row] = Measurement) -> list[Any]:
    """Read every row of a file.

    Parameters
    ----------
    path : str or Path
    record : type
        What its rows are.

    Raises
    ------
    RowError
        Another header, an incomplete last line, or a bad cell. The error names the file, the row (1 is the first below
        the header), the column, the value and what was expected.
    """
    rows: list[Row] = []
    cells = csv.reader(_lines(Path(path), record)[1:], strict=True)
    try:
        rows.extend(
            _from_texts(row, record, f"{path}: row {number}") for number, row in enumerate(cells, start=1)
        )
    except csv.Error as error:
        raise RowError(f"{path}: row {len(rows) + 1}: no CSV: {error}") from error
    return rows


def append(path: str | Path, row: Row) -> None:
    """Add one row at the end of a file, in one write; a new or empty file gets the header first.

    Raises
    ------
    RowError
        The file has another header, ends in half a line, or cannot be written.
    """
    path = Path(path)
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


def check(path: str | Path, record: type[Row] = Measurement) -> bool:
    """Refuse a file that rows of a record cannot be appended to; True when it is new or empty.

    Raises
    ------
    RowError
        Another header, half a line at the end, or no folder to write in.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise RowError(f"{path}: there is no folder {path.parent}, expected an existing one")
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return True
    _lines(path, record)
    return False


def to_frame(rows: Iterable[Row], record: type[Row] = Measurement) -> "pd.DataFrame":
    """Put rows of a record in a table, a column a field; None is NA in whole numbers and booleans, NaN in times."""
    import pandas as pd

    columns = columns_of(record)
    table = pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=list(columns))
    return table.astype({name: _TABLE_TYPES[column.kind] for name, column in columns.items()})


@overload
def from_frame(table: "pd.DataFrame", what: str = "table") -> list[Measurement]: ...


@overload
def from_frame(table: "pd.DataFrame", what: str, record: type[R]) -> list[R]: ...


def from_frame(table: "pd.DataFrame", what: str = "table", record: type[Row] = Measurement) -> list[Any]:
    """Take rows out of a table with these columns, in any order. To read a file, use `read`: pandas guesses types.

    Parameters
    ----------
    table : DataFrame
    what : str
        What errors call the table; rows count from 1.
    record : type
        What its rows are.

    Raises
    ------
    RowError
        A column is missing or unknown, or a cell is bad.
    """
    columns = columns_of(record)
    _check_columns(list(table.columns), list(columns), what, ordered=False)
    found: list[dict[Any, Any]] = table[list(columns)].to_dict("records")
    return [
        _checked(
            record,
            {name: _plain(columns[name], value) for name, value in cells.items()},
            f"{what}: row {number}",
        )
        for number, cells in enumerate(found, start=1)
    ]


def to_texts(row: Row) -> list[str]:
    """The cells of a row as a file holds them."""
    return [_text(getattr(row, name)) for name in columns_of(type(row))]


def _lines(path: Path, record: type[Row]) -> list[str]:
    columns = list(columns_of(record))
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RowError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: cannot be read as UTF-8: {error}") from error
    if not text:
        raise RowError(f"{path}: empty, expected a header line of {len(columns)} columns")
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > 1 or not ",".join(columns).startswith(text):
        _check_columns(next(csv.reader(lines[:1])), columns, str(path), ordered=True)
    if lines.pop():
        raise RowError(
            f"{path}: row {len(lines)} (the last line) ends in its middle, as a run that was killed leaves it: "
            f"expected a line end; {_MEND}"
        )
    return lines


def _check_columns(found: list[str], columns: list[str], what: str, ordered: bool) -> None:
    if (found == columns) if ordered else (sorted(found) == sorted(columns)):
        return
    missing = [name for name in columns if name not in found]
    unknown = [name for name in found if name not in columns]
    problem = "; ".join(
        f"{word} {', '.join(map(repr, names))}"
        for word, names in (("missing", missing), ("unknown", unknown))
        if names
    )
    raise RowError(
        f"{what}: header: {problem or 'columns repeated or out of order'}; expected {','.join(columns)}"
    )


def _from_texts(cells: list[str], record: type[Row], where: str) -> Row:
    columns = columns_of(record).values()
    if len(cells) != len(columns):
        raise RowError(f"{where}: {len(cells)} cells, expected {len(columns)}")
    pairs = zip(columns, cells, strict=True)
    return _checked(record, {column.name: _value(column, text, where) for column, text in pairs}, where)


def _checked(record: type[Row], values: Mapping[str, Any], where: str) -> Row:
    try:
        return record(**values)
    except NmsimError as error:
        raise RowError(f"{where}: {error}") from error


def _value(column: Column, text: str, where: str) -> Any:
    name = column.name
    if column.kind is int:
        if text and not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise RowError(f"{where}: {name}={text!r}: expected a whole number")
        return int(text) if text else None
    if column.kind is float:
        try:
            return float(text) if text else None
        except ValueError:
            raise RowError(f"{where}: {name}={text!r}: expected a number") from None
    if column.kind is bool:
        if text not in ("true", "false", ""):
            raise RowError(f"{where}: {name}={text!r}: expected true, false or nothing")
        return text == "true" if text else None
    return text


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
    return repr(value) if isinstance(value, float) else str(value)


def _line(cells: Iterable[str]) -> str:
    rows: list[str] = []
    csv.writer(_Lines(rows), lineterminator="\n").writerow(cells)
    return rows[0]


class _Lines:
    """A file for `csv.writer` that keeps lines apart."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append
