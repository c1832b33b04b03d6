"""Records of checked cells: what the columns of a CSV file are, declared once by the fields of a frozen dataclass.

A field is declared once: its name is the column of the CSV files, its type and its `Cell` say what a cell may hold.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, get_args, get_origin

from nmsim.errors import NmsimError, RowError, brief

Kind: TypeAlias = type[bool] | type[int] | type[float] | type[str]
MOST_TAKEN = 4096
"""Most texts of a column that are remembered as taken, so that notes of millions of rows fill no memory."""


@dataclass(frozen=True)
class Cell:
    """What a cell of a column means, and what it may hold beside what its type says.

    Parameters
    ----------
    meaning : str
    least : int
        Smallest whole number; floats must be above 0, or at least 0 if this is 0.
    texts : tuple of str
        The texts that are taken; any if empty.
    shape : tuple of str
        A regular expression for texts, and the same in words.
    named : callable, optional
        Looks a text up, and raises a `NmsimError` if nmsim does not know it.
    added : bool
        Files of older versions do not have the column.
    may_be_empty : bool
        The column must be stated, but may state nothing.
    """

    meaning: str
    least: int = 1
    texts: tuple[str, ...] = ()
    shape: tuple[str, str] = (".*", "")
    named: Callable[[str], object] | None = None
    added: bool = False
    may_be_empty: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its name, the kind of its cells, the cell that stands for nothing, and what a cell may hold."""

    name: str
    kind: Kind
    never_empty: bool
    default: Any
    cell: Cell

    @property
    def empty_number(self) -> bool:
        """Whether None may stand here: texts are empty as ""."""
        return self.kind is not str and not self.never_empty


class Row(Protocol):
    """A record that is a line of a CSV file: a frozen dataclass, each of whose fields has its `Cell`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    OLDER: ClassVar[str]
    """Command that gives a file of an older version all columns; empty if there is none."""

    @property
    def key(self) -> tuple[object, ...]:
        """What distinguishes rows, so that a run can skip what a file holds already."""


# What every measured row says of its origin.
Commit = Annotated[str, Cell("Commit of nmsim", shape=(r"[0-9a-f]{7,64}", "a commit's hex digits"))]
Dirty = Annotated[bool | None, Cell("Whether the checkout held changes that are not in `commit`")]
TimeUtc = Annotated[
    str, Cell("When", shape=(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "a time such as 2026-01-31T12:00:00Z"))
]
Note = Annotated[str, Cell("What a reader should know; no program reads it")]
TorchVersion = Annotated[str, Cell("Version of torch")]
NumpyVersion = Annotated[str, Cell("Version of numpy")]


@functools.cache
def columns_of(record: type[Row]) -> Mapping[str, Column]:
    """The columns of the files of a record, in order, by name."""
    return MappingProxyType({field.name: _column(field) for field in fields(record)})


def check_cells(row: Row) -> None:
    """Refuse a record with a cell that its column does not take.

    Raises
    ------
    RowError
        The first of them: the field, the value and what was expected.
    """
    for column, taken in _checked_columns(type(row)):
        value = getattr(row, column.name)
        # Tables repeat their texts in thousands of rows, and most of their other cells are empty.
        if value in taken if type(value) is str else value is None and column.empty_number:
            continue
        if problem := _problem(column, value):
            raise RowError(f"{column.name}={brief(value)}: expected {problem}", column=column.name)
        if type(value) is str and len(taken) < MOST_TAKEN:
            taken.add(value)


@functools.cache
def _checked_columns(record: type[Row]) -> list[tuple[Column, set[str]]]:
    """The columns of a record, each with texts that it took before."""
    return [(column, set()) for column in columns_of(record).values()]


def _column(field: "Field[Any]") -> Column:
    kind_of_cell, cell = get_args(field.type)
    if get_origin(kind_of_cell) is Literal:
        cell = Cell(cell.meaning, texts=get_args(kind_of_cell), added=cell.added)
    members = get_args(kind_of_cell) or (kind_of_cell,)
    kinds: tuple[Kind, ...] = (bool, int, float)
    kind = next((kind for kind in kinds if kind in members), str)
    required = field.default is MISSING
    # A required column whose texts hold "" (`l2_state`) must be stated, but may state nothing.
    never_empty = (
        (required or field.default not in (None, "")) and "" not in cell.texts and not cell.may_be_empty
    )
    return Column(field.name, kind, never_empty, None if required else field.default, cell)


def _problem(column: Column, value: object) -> str:
    """What was expected of a cell instead of its value; empty if the value may stand there."""
    cell = column.cell
    if value == "" if column.kind is str else value is None:
        return "a value, not an empty cell" if column.never_empty else ""
    if column.kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= cell.least
        return "" if whole else f"a whole number of at least {cell.least}"
    if column.kind is float:
        return _float_problem(value, zero=cell.least == 0)
    if column.kind is bool:
        return "" if isinstance(value, bool) else "true, false or nothing"
    if not isinstance(value, str):
        return f"text, not {type(value).__name__}"
    if not value.isprintable() or value != value.strip():
        return "text of one line without blanks around it"
    if cell.texts and value not in cell.texts:
        return f"one of {', '.join(text or 'nothing' for text in cell.texts)}"
    pattern, words = cell.shape
    if not re.fullmatch(pattern, value, re.ASCII | re.DOTALL):
        return f"{words}, or nothing"
    try:
        if cell.named is not None:
            cell.named(value)
    except NmsimError as error:
        return f"another {column.name}: {error}"
    return ""


def _float_problem(value: object, zero: bool) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if zero:
        return "" if number and value >= 0 else "a finite number of at least 0"  # type: ignore[operator]
    return "" if number and value > 0 else "a positive, finite number"  # type: ignore[operator]
