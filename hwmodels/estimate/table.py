"""Read a table of cases: check each column first, and parse each distinct text once."""

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmsim import encodings, packing
from nmsim.case import DEFAULT_DTYPE, DEFAULT_OPERAND, DEFAULT_PHASE, Phase, SparseOperand, value_type
from nmsim.errors import NmsimError, RowError, brief
from nmsim.format import DEFAULT_ENCODING, DEFAULT_PACKING, DENSE, SparseFormat, sparse_format
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


MOST_OUTPUT_BITS = 64


class Kind(NamedTuple):
    """The choices of a row: a combination of cells that occurs in a table. None of the last two: nobody says."""

    dtype: str
    sparse_operand: SparseOperand
    format: SparseFormat | None
    output_bits: int | None
    input_copies: float | None


def read_kinds(cases: pd.DataFrame) -> tuple[NDArray[np.intp], list[Kind]]:
    """Read all columns of a table of cases except its shapes.

    Returns
    -------
    tuple of intp array [rows] and list of Kind
        Position of each row's kind in the list.

    Raises
    ------
    RowError
        A cell that is wrong, with its row and column.

    Examples
    --------
    >>> read_kinds(pd.DataFrame({"pattern": ["2:4", "dense", "2:4"]}))[0].tolist()
    [0, 1, 0]
    """
    parsers: dict[str, Any] = {
        "phase": one_of(get_args(Phase)),
        "dtype": lambda value: value_type(value, ""),
        "sparse_operand": optional(one_of(get_args(SparseOperand))),
        "pattern": parse_pattern,
        "encoding": optional(_known_encoding),
        "packing": optional(_known_packing),
        "output_bits": optional(_output_bits),
        "input_copies": optional(_input_copies),
    }
    choices = {name: read_choice(cases, name, parse, DEFAULTS.get(name)) for name, parse in parsers.items()}
    # The phase has no influence on a product; it was only checked.
    del choices["phase"]
    key = np.zeros(len(cases), np.int64)
    for codes, levels in choices.values():
        key = key * len(levels) + codes
    kind_of_row, packed_kinds = pd.factorize(key)
    kinds = []
    for place, packed in enumerate(packed_kinds.tolist()):
        chosen: dict[str, Any] = {}
        for name, (_, levels) in reversed(choices.items()):
            packed, digit = divmod(packed, len(levels))
            chosen[name] = levels[digit]
        try:
            own = _format_of(chosen)
        except RowError as error:
            row = int(np.argmax(kind_of_row == place))
            raise RowError.at(error.problem, row=row, column=error.column) from error
        kinds.append(
            Kind(
                chosen["dtype"],
                chosen["sparse_operand"],
                own,
                chosen["output_bits"],
                chosen["input_copies"],
            )
        )
    return kind_of_row, kinds


def _output_bits(bits: Any) -> int:
    if not is_number(bits) or bits != np.floor(bits) or not 1 <= bits <= MOST_OUTPUT_BITS:
        raise RowError(f"{brief(bits)}: expected a whole number of bits, 1 to {MOST_OUTPUT_BITS}")
    return int(bits)


def _input_copies(copies: Any) -> float:
    if not is_number(copies) or not 1 <= copies <= MAX_DIMENSION:
        raise RowError(f"{brief(copies)}: expected a number of products, 1 to {MAX_DIMENSION}")
    return float(copies)


def _format_of(chosen: dict[str, Any]) -> SparseFormat | None:
    """The format that the cells of a row name; None for a dense row, whose other cells are then without effect."""
    if chosen["pattern"] is None:
        return None
    for name in ("sparse_operand", "encoding", "packing"):
        if chosen[name] is None:
            raise RowError.at("missing; expected one in a row with a pattern", column=name)
    return sparse_format(chosen["pattern"], encoding=chosen["encoding"], packing=chosen["packing"])


def _known_encoding(name: Any) -> str:
    encodings.get(name)
    return str(name)


def _known_packing(name: Any) -> str:
    packing.parse(name)
    return str(name)
