"""Read a table of cases: check each column first, and parse each distinct text once."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmsim.case import DEFAULT_DTYPE, DEFAULT_OPERAND, DEFAULT_PHASE
from nmsim.errors import NmsimError, RowError, brief
from nmsim.format import DEFAULT_ENCODING, DEFAULT_PACKING, DENSE, SparseFormat
from nmsim.pattern import Pattern

SHAPE_COLUMNS = ("M", "N", "K")
MAX_DIMENSION = 1 << 28
"""Largest dimension of a product; keeps all byte counts within 63 bits."""

Integers = NDArray[np.int64]


def read_shape(cases: pd.DataFrame) -> tuple[Integers, Integers, Integers]:
    """Read M, N and K.

    Raises
    ------
    RowError
        A column is missing, or a row holds no positive whole number up to `MAX_DIMENSION`.
    """
    twice = cases.columns[cases.columns.duplicated()]
    if len(twice):
        raise RowError.at("given twice", column=twice[0])
    for name in SHAPE_COLUMNS:
        if name not in cases.columns:
            raise RowError.at("missing; a table of cases needs M, N and K", column=name)
    M, N, K = (_dimension(cases[name], name) for name in SHAPE_COLUMNS)
    return M, N, K


def _dimension(column: pd.Series, name: str) -> Integers:
    kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
    if kind not in "iuf":
        values = list(column)
        position = next((i for i, value in enumerate(values) if not _is_whole(value)), None)
        if position is not None:
            raise RowError.at(f"{brief(values[position])}: {_EXPECTED}", row=position, column=name)
        column, kind = pd.Series([min(int(value), MAX_DIMENSION + 1) for value in values], dtype="int64"), "i"
    raw = column.to_numpy()
    with np.errstate(invalid="ignore"):
        good = (raw >= 1) & (raw <= MAX_DIMENSION)
        if kind == "f":
            good &= raw == np.floor(raw)
    if not good.all():
        position = int(np.argmin(good))
        raise RowError.at(f"{column.iloc[position]}: {_EXPECTED}", row=position, column=name)
    return raw.astype(np.int64)


_EXPECTED = f"expected a positive int, at most {MAX_DIMENSION}"


def is_number(value: object) -> bool:
    """Say whether a value is a real number, and no truth value.

    Examples
    --------
    >>> is_number(1.5), is_number(np.int64(2)), is_number(True), is_number("2")
    (True, True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def read_choice(
    cases: pd.DataFrame, name: str, parse: Callable[[Any], Any], default: Any
) -> tuple[NDArray[np.intp], list[Any]]:
    """Read a column of few distinct values.

    Parameters
    ----------
    cases : DataFrame
    name : str
        Column; when absent every row holds `default`.
    parse : callable
        Turns a distinct value into what it means; missing cells come as None. Raises `NmsimError` on a bad
        one.
    default : object
        Already parsed.

    Returns
    -------
    tuple of intp array [rows] and list
        Position of each row's value in the list of parsed values.

    Raises
    ------
    RowError
        A value that `parse` rejects, with the first row that holds it.
    """
    if name not in cases.columns:
        return np.zeros(len(cases), np.intp), [default]
    column = cases[name]
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, levels = column.cat.codes.to_numpy().astype(np.intp), list(column.cat.categories)
        used = np.bincount(codes + 1, minlength=len(levels) + 1) > 0
    else:
        try:
            codes, found = pd.factorize(_plain(column))
        except TypeError as error:
            raise RowError.at(f"{error}; expected text or nothing in every row", column=name) from error
        levels = list(found)
        used = np.concatenate([[bool((codes < 0).any())], np.ones(len(levels), bool)])
    if used[0]:
        codes = np.where(codes < 0, len(levels), codes)
    parsed: list[Any] = []
    for place, level in enumerate([*levels, None] if used[0] else levels):
        in_use = used[0] if level is None else used[place + 1]
        try:
            parsed.append(parse(level) if in_use else default)
        except NmsimError as error:
            row = int(np.argmax(codes == place))
            raise RowError.at(str(error), row=row, column=name) from error
    return codes, parsed


def _plain(column: pd.Series) -> Any:
    """Text held as Python strings as an object array, which pandas factorizes in half the time."""
    if isinstance(column.dtype, pd.StringDtype) and column.dtype.storage == "python":
        return column.to_numpy(dtype=object)
    return column


def parse_pattern(value: Any) -> Pattern | None:
    """Read a cell of the pattern column: `"8:16"` or a `Pattern`; `"dense"` or nothing for a dense case.

    Raises
    ------
    PatternError
        Anything else.

    Examples
    --------
    >>> parse_pattern("8:16"), parse_pattern("dense")
    (Pattern(n=8, m=16), None)
    """
    if value is None or (isinstance(value, str) and value.strip() == "dense"):
        return None
    return value if isinstance(value, Pattern) else Pattern.parse(value)


def one_of(allowed: tuple[str, ...]) -> Callable[[Any], str]:
    """Make a parser that takes the listed words only."""

    def parse(value: Any) -> str:
        if value not in allowed:
            raise RowError(f"{brief(value)}: expected one of {', '.join(allowed)}")
        return str(value)

    return parse


def optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let a parser pass over missing cells, which come back as None."""
    return lambda value: None if value is None else parse(value)


DEFAULTS = {
    "phase": DEFAULT_PHASE,
    "dtype": DEFAULT_DTYPE,
    "sparse_operand": DEFAULT_OPERAND,
    "pattern": None,
    "encoding": DEFAULT_ENCODING,
    "packing": DEFAULT_PACKING,
}
"""What a missing column means: a dense product of weights in bf16; a format that names none takes its defaults."""


def format_cells(format: SparseFormat | None) -> tuple[str, str, str]:
    """Write a format in the columns `pattern`, `encoding` and `packing`; a dense one is `"dense"` with both defaults.

    Examples
    --------
    >>> format_cells(None)
    ('dense', 'bitmask', 'bitstream')
    """
    if format is None:
        return DENSE, DEFAULT_ENCODING, DEFAULT_PACKING
    return str(format.pattern), format.encoding.name, str(format.packing)
