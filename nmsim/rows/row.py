"""What rows of files are: frozen records of plain cells, and what a cell of a column may hold, by the column's name and type.

A record is a dataclass on top of `Row`; its fields are the columns. `measurement_file` reads and appends any of them.
"""

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args, get_origin

from nmsim import encodings, packing
from nmsim.case import VALUE_BITS
from nmsim.errors import NmsimError, RowError
from nmsim.pattern import Pattern

L2State = Literal["cold", "warm", ""]
Gate = Literal["pass", ""]
Kind: TypeAlias = type[bool] | type[int] | type[float] | type[str]
_MAY_BE_ZERO = ("warmup", "max_rel_err")
_SPREAD = ("_p20", "", "_p80")
_SHAPES = {
    "case_id": (r"[0-9a-f]{12}|", "12 hex digits"),
    "commit": (r"[0-9a-f]{7,64}|", "a commit's hex digits"),
    "timestamp_utc": (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|", "a time such as 2026-01-31T12:00:00Z"),
    "source_url": (r"https?://\S+|", "an address that begins with https:// or http://"),
}


@dataclass(frozen=True)
class Column:
    """A column of a record: kind of its cells, whether one may be empty, and the texts it takes, if not any."""

    name: str
    kind: Kind
    never_empty: bool
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Row(ABC):
    """Base of records whose cells are checked when they are made.

    A cell that does not apply is None (numbers, booleans) or "" (texts), which a field without a default refuses. A field
    `x` with fields `x_p20` and `x_p80` lies between them.

    Raises
    ------
    RowError
        A field holds what it may not, naming the field, the value and what was expected.
    """

    def __post_init__(self) -> None:
        columns = columns_of(type(self))
        for column in columns.values():
            value = getattr(self, column.name)
            if problem := _problem(column, value):
                raise RowError(f"{column.name}={value!r}: expected {problem}")
        for name in columns:
            if f"{name}_p20" in columns:
                _check_order(name, *(getattr(self, f"{name}{suffix}") for suffix in _SPREAD))

    @property
    @abstractmethod
    def key(self) -> tuple[object, ...]:
        """What tells a row from others, so that a run can skip what a file holds already."""


def columns_of(record: type[Row]) -> Mapping[str, Column]:
    """Name the columns of a record, in order, each with what its cells may be."""
    return _columns(dataclasses.fields(record))


def is_pattern(text: str) -> bool:
    """Whether a text looks like N:M.

    Examples
    --------
    >>> is_pattern("8:16"), is_pattern("unstructured 50%")
    (True, False)
    """
    return re.fullmatch(r"\d+:\d+", text, re.ASCII) is not None


@cache
def _columns(fields: "tuple[dataclasses.Field[Any], ...]") -> Mapping[str, Column]:
    return MappingProxyType({field.name: _column(field) for field in fields})


def _column(field: "dataclasses.Field[Any]") -> Column:
    literal = get_origin(field.type) is Literal
    choices = get_args(field.type) if literal else tuple(VALUE_BITS) if field.name == "dtype" else ()
    members = () if literal else get_args(field.type) or (field.type,)
    kinds: tuple[Kind, ...] = (bool, int, float)
    kind = next((kind for kind in kinds if kind in members), str)
    return Column(field.name, kind, field.default is dataclasses.MISSING and "" not in choices, choices)


def _problem(column: Column, value: object) -> str:
    """What was expected of a cell instead of its value; empty when it is as it should be."""
    name = column.name
    if column.never_empty and (value is None or value == ""):
        return "a value, not an empty cell"
    if column.kind is int:
        return _count_problem(value, 0 if name in _MAY_BE_ZERO else 1)
    if column.kind is float:
        return _float_problem(value, zero=name in _MAY_BE_ZERO)
    if column.kind is bool:
        return "" if value is None or isinstance(value, bool) else "true, false or nothing"
    if not isinstance(value, str):
        return f"text, not {type(value).__name__}"
    if not value.isprintable() or value != value.strip():
        return "text of one line without blanks around it"
    if column.choices and value not in column.choices:
        return f"one of {', '.join(choice or 'nothing' for choice in column.choices)}"
    if name in _SHAPES and not re.fullmatch(_SHAPES[name][0], value, re.ASCII):
        return f"{_SHAPES[name][1]}, or nothing" if value else _SHAPES[name][1]
    return _name_problem(name, value)


def _count_problem(value: object, least: int) -> str:
    if value is None:
        return ""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return "" if whole else f"a whole number of at least {least}"


def _float_problem(value: object, zero: bool) -> str:
    if value is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if zero:
        return "" if number and value >= 0 else "a finite number of at least 0"  # type: ignore[operator]
    return "" if number and value > 0 else "a positive, finite number"  # type: ignore[operator]


def _name_problem(name: str, value: str) -> str:
    """Patterns that look like N:M, encodings and packings must be ones that nmsim knows."""
    try:
        if name == "pattern" and is_pattern(value):
            Pattern.parse(value)
        elif name == "encoding" and value:
            encodings.get(value)
        elif name == "packing" and value:
            packing.parse(value)
    except NmsimError as error:
        return f"another {name}: {error}"
    return ""


def _check_order(name: str, low: float | None, median: float | None, high: float | None) -> None:
    known = [value for value in (low, median, high) if value is not None]
    if known != sorted(known):
        raise RowError(f"{name}: {low!r}, {median!r}, {high!r}: expected p20 <= median <= p80")
    if median is None and known:
        raise RowError(f"{name}=None: expected a median where a percentile is given")
