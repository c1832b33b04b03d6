"""Rows of measurements in CSV files and in tables: read, checked, appended.

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
from typing import TYPE_CHECKING, Any

from nmsim.errors import NmsimError, RowError
from nmsim.measurement import COLUMNS, COUNT_COLUMNS, FLOAT_COLUMNS, Measurement

if TYPE_CHECKING:
    import pandas as pd

_MEND = "remove the last line (on Unix: sed -i '$d' FILE) and run again, which measures only what is missing"


def read(path: str | Path) -> list[Measurement]:
    """Read every row of a file.

    Raises
    ------
    RowError
        Another header, a broken last line, or a bad cell: the error names the file, the row (1 is the first below the
        header), the column, the value and what was expected.
    """
    rows: list[Measurement] = []
    cells = csv.reader(_lines(Path(path))[1:], strict=True)
    try:
        rows.extend(_from_texts(row, f"{path}: row {number}") for number, row in enumerate(cells, start=1))
    except csv.Error as error:
        raise RowError(f"{path}: row {len(rows) + 1}: no CSV: {error}") from error
    return rows


def append(path: str | Path, row: Measurement) -> None:
    """Add one row at the end of a file, in one write; a new or empty file gets the header first.

    Raises
    ------
    RowError
        The file has another header, ends in half a line, or cannot be written.
    """
    path = Path(path)
    text = _line(to_texts(row))
    if check(path):
        text = _line(COLUMNS) + text
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


def check(path: str | Path) -> bool:
    """Refuse a file that rows cannot be appended to; True when it is new or empty.

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
    _lines(path)
    return False


def to_frame(rows: Iterable[Measurement]) -> "pd.DataFrame":
    """Put rows in a table, a column a field; None is NA in whole numbers and booleans, NaN in times."""
    import pandas as pd

    table = pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=list(COLUMNS))
    kinds = dict.fromkeys(FLOAT_COLUMNS, "float64") | dict.fromkeys(COUNT_COLUMNS, "Int64")
    kinds |= {"dirty": "boolean"}
    return table.astype({name: kinds.get(name, "object") for name in COLUMNS})


def from_frame(table: "pd.DataFrame", what: str = "table") -> list[Measurement]:
    """Take rows out of a table with these columns, in any order. To read a file, use `read`: pandas guesses types.

    Parameters
    ----------
    table : DataFrame
    what : str
        What errors call the table; rows count from 1.

    Raises
    ------
    RowError
        A column is missing or unknown, or a cell is bad.
    """
    _check_columns(list(table.columns), what, ordered=False)
    records: list[dict[Any, Any]] = table[list(COLUMNS)].to_dict("records")
    return [
        _checked({name: _plain(name, value) for name, value in record.items()}, f"{what}: row {number}")
        for number, record in enumerate(records, start=1)
    ]


def to_texts(row: Measurement) -> list[str]:
    """The cells of a row as a file holds them."""
    return [_text(getattr(row, name)) for name in COLUMNS]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RowError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: cannot be read as UTF-8: {error}") from error
    if not text:
        raise RowError(f"{path}: empty, expected a header line of {len(COLUMNS)} columns")
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > 1 or not ",".join(COLUMNS).startswith(text):
        _check_columns(next(csv.reader(lines[:1])), str(path), ordered=True)
    if lines.pop():
        raise RowError(
            f"{path}: row {len(lines)} (the last line) ends in its middle, as a run that was killed leaves it: "
            f"expected a line end; {_MEND}"
        )
    return lines


def _check_columns(found: list[str], what: str, ordered: bool) -> None:
    if (found == list(COLUMNS)) if ordered else (sorted(found) == sorted(COLUMNS)):
        return
    missing = [name for name in COLUMNS if name not in found]
    unknown = [name for name in found if name not in COLUMNS]
    problem = "; ".join(
        f"{word} {', '.join(map(repr, names))}"
        for word, names in (("missing", missing), ("unknown", unknown))
        if names
    )
    raise RowError(
        f"{what}: header: {problem or 'columns repeated or out of order'}; expected {','.join(COLUMNS)}"
    )


def _from_texts(cells: list[str], where: str) -> Measurement:
    if len(cells) != len(COLUMNS):
        raise RowError(f"{where}: {len(cells)} cells, expected {len(COLUMNS)}")
    values = {name: _value(name, text, where) for name, text in zip(COLUMNS, cells, strict=True)}
    return _checked(values, where)


def _checked(values: Mapping[str, Any], where: str) -> Measurement:
    try:
        return Measurement(**values)
    except NmsimError as error:
        raise RowError(f"{where}: {error}") from error


def _value(name: str, text: str, where: str) -> Any:
    if name in COUNT_COLUMNS:
        if text and not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise RowError(f"{where}: {name}={text!r}: expected a whole number")
        return int(text) if text else None
    if name in FLOAT_COLUMNS:
        try:
            return float(text) if text else None
        except ValueError:
            raise RowError(f"{where}: {name}={text!r}: expected a number") from None
    if name == "dirty":
        if text not in ("true", "false", ""):
            raise RowError(f"{where}: {name}={text!r}: expected true, false or nothing")
        return text == "true" if text else None
    return text


def _plain(name: str, value: Any) -> Any:
    """A cell of a DataFrame as a plain Python value; what is missing as None or ''."""
    import pandas as pd

    number = name in COUNT_COLUMNS or name in FLOAT_COLUMNS or name == "dirty"
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None if number else ""
    if name in COUNT_COLUMNS and isinstance(value, float) and value.is_integer():
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
