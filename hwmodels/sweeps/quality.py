"""The user's own figure of merit, such as an accuracy, joined to the ways to store of a space."""

import csv
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from hwmodels.sweeps.space import DENSE, Space
from nmsim.errors import RowError

KEYS = ("pattern", "other_pattern", "encoding", "packing", "sparse_operand", "dtype", "model", "layer")
"""Columns that a row may be matched by; each is compared with the text of the column of that name in the answer."""


def read_quality(path: Path, space: Space) -> tuple[float, ...]:
    """Read a CSV file with a column `quality` and one or more of `KEYS`, and match it with a space.

    Parameters
    ----------
    path : Path
    space : Space

    Returns
    -------
    tuple of float
        Of each (work, dtype, way to store), in this order.

    Raises
    ------
    RowError
        An unknown or missing column, a cell that is not a number, or a key that comes twice. A row that matches nothing in
        the space, or a point of the space that no row matches.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise RowError(f"{path}: cannot be read: {error}") from error
    header = lines[0] if lines else []
    for name in header:
        if name != name.strip():
            raise RowError(f"{path}: column {name!r}: expected a name without spaces around it")
    keys = tuple(name for name in header if name != "quality")
    if "quality" not in header or not keys or not set(keys) <= set(KEYS) or len(set(header)) < len(header):
        raise RowError(
            f"{path}: columns {', '.join(header) or 'none'}: expected quality and one or more of {', '.join(KEYS)}, each once"
        )
    rows: dict[tuple[str, ...], float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise RowError(f"{path}: line {number}: {len(line)} cells: expected {len(header)}")
        cells = dict(zip(header, (cell.strip() for cell in line), strict=True))
        key = tuple(cells[name] for name in keys)
        if key in rows:
            raise RowError(f"{path}: line {number}: {', '.join(key)} comes twice, expected one row of each")
        try:
            rows[key] = float(cells["quality"])
        except ValueError:
            rows[key] = math.nan
        if not math.isfinite(rows[key]):
            raise RowError(f"{path}: line {number}: quality={cells['quality']!r}: expected a number")
    found, matched = [], set()
    for point in _texts(space):
        key = tuple(point[name] for name in keys)
        if key not in rows:
            raise RowError(f"{path}: no row for {_named(keys, key)}; every point of the space needs one")
        matched.add(key)
        found.append(rows[key])
    # A row that matches nothing is mostly a misspelt pattern, so it is not ignored.
    for key in rows:
        if key not in matched:
            raise RowError(f"{path}: {_named(keys, key)}: matches no point of the space")
    return tuple(found)


def _texts(space: Space) -> Iterator[dict[str, str]]:
    for work, dtype, way in itertools.product(space.works, space.dtypes, space.stored):
        yield {
            "pattern": str(way.pattern or DENSE),
            "other_pattern": str(way.other or DENSE),
            "encoding": way.encoding,
            "packing": way.packing,
            "sparse_operand": way.sparse_operand,
            "dtype": dtype,
            "model": work.model,
            "layer": work.layer,
        }


def _named(keys: tuple[str, ...], key: tuple[str, ...]) -> str:
    return ", ".join(f"{name}={text}" for name, text in zip(keys, key, strict=True))
