"""Measured rows: one record of checked cells, and the CSV files that hold it.

`read` and `append` are for files; `to_frame` and `from_frame` for tables of pandas.
"""

from nmsim.rows.files import (
    append,
    check,
    from_frame,
    is_header,
    missing_columns,
    read,
    to_frame,
    to_texts,
    write,
)
from nmsim.rows.measurement import COLUMNS, Cell, Column, Measurement

__all__ = [
    "COLUMNS",
    "Cell",
    "Column",
    "Measurement",
    "append",
    "check",
    "from_frame",
    "is_header",
    "missing_columns",
    "read",
    "to_frame",
    "to_texts",
    "write",
]
