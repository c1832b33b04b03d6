"""Measured rows: records of checked cells, and the CSV files that hold them.

A `Measurement` is a time of a kernel, a `LossRow` the loss of a pruned language model.

`read` and `append` are for files; `to_frame` and `from_frame` for tables of pandas.
"""

from nmsim.rows.files import (
    append,
    check,
    from_frame,
    is_header,
    missing_columns,
    read,
    read_each,
    to_frame,
    to_texts,
    write,
)
from nmsim.rows.loss import LossRow
from nmsim.rows.measurement import COLUMNS, Measurement
from nmsim.rows.record import Cell, Column, Row, columns_of

__all__ = [
    "COLUMNS",
    "Cell",
    "Column",
    "LossRow",
    "Measurement",
    "Row",
    "append",
    "check",
    "columns_of",
    "from_frame",
    "is_header",
    "missing_columns",
    "read",
    "read_each",
    "to_frame",
    "to_texts",
    "write",
]
