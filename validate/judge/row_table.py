"""Rows in a Parquet file, and their sources in a TOML file beside it: the layout of tables of many thousand rows.

The file has the columns of the row schema in which a row states anything. Columns that are not there hold what `Measurement`
takes as their default. Times are seconds in float64. Three things are stored once instead of in every row:

- `speedup_vs_dense` is empty if both times are known: it is their ratio, to 6 digits.
- `source` is the id of an entry of the TOML file, whose name is that of the Parquet file with the suffix `.toml`. The entry
  states address, licence, baseline, cache state, and a note about all its rows. `source_file` is a path below the address.
- `note` holds what is of this row alone. A reader gets it before the note of the source.

Rows of no such source have a `source_url` instead.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nmsim.errors import NmsimError, RowError, SpecError, brief, brief_names
from nmsim.files.atomic import new_file
from nmsim.rows import COLUMNS, Measurement
from nmsim.support.schema import About, Id, Text, read_record, record
from nmsim.support.sources import read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
SOURCE_COLUMNS = ("source", "source_file")
TABLE_COLUMNS = (*COLUMNS, *SOURCE_COLUMNS)
"""Columns that a file may have, in this order."""
NEEDED = ("machine", "kernel", "M", "N", "K", "phase", "dtype", "pattern", "baseline", "l2_state")
"""Columns that a file must have."""
DIGITS = 6
"""Digits of a speedup that is derived from two times."""
_WEIGHTS_BESIDE_CACHE = re.compile(r"\bdense weight [\d.]+ MiB (?:<=|>) L2 \(\d+ MB\): ")
"""Words of a note that shape, value type and `l2_state` say as well."""


# fmt: off
@record
class RowSource:
    """A publication of measured rows, and what holds for all rows of it."""

    id: Annotated[Id, About("Name of the source; rows name it in the column `source`.")]
    url: Annotated[Text, About("Address; `source_file` of a row is a path below it.")]
    what: Annotated[Text, About("What was measured.")]
    licence: Annotated[Text, About("Licence of the publication, or `not stated`.")]
    baseline: Annotated[Text, About("The dense call.")]
    caches: Annotated[Text, About("How calls were timed with respect to caches.")]
    note: Annotated[Text | None, About("What a reader should know about all rows of it.")] = None


@record
class RowSources:
    """The sources of the rows of a Parquet file."""

    source: Annotated[tuple[RowSource, ...], About("Sources.")]
# fmt: on


def sources_file(path: Path) -> Path:
    """The file of the sources of a Parquet file of rows."""
    return path.with_suffix(".toml")


def read_sources(path: Path) -> Mapping[str, RowSource]:
    """Read the sources beside a Parquet file of rows, by id.

    Raises
    ------
    SpecError
        The file beside it cannot be read.
    """
    sources = sources_file(path)
    if not sources.exists():
        raise SpecError(
            f"{sources}: no such file; expected the sources of {path} beside it, because its column 'source' names them"
        )
    return {source.id: source for source in read_record(RowSources, sources).source}


def write_row_table(path: Path, rows: Sequence[Measurement], *, force: bool = True) -> None:
    """Write rows as a Parquet file, compressed by zstd. The sources must stand beside it.

    Raises
    ------
    RowError
        A row whose note lacks what its source says of all its rows.
    SpecError, ContainerError
        The sources cannot be read, or the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    sources = read_sources(path)
    records = [
        _stored(row, list(sources.values()), f"{path}: row {number}")
        for number, row in enumerate(rows, start=1)
    ]
    columns = {}
    for name in TABLE_COLUMNS:
        cells = [record.get(name) for record in records]
        if name in NEEDED or any(cell not in (None, "", _default(name)) for cell in cells):
            columns[name] = pa.array(cells, _arrow_type(name))
    table = pa.table(columns)
    texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    with new_file(path, force=force) as stream:
        # Times differ from row to row: their bytes compress better when they are split by place.
        split = {
            field.name: "BYTE_STREAM_SPLIT" for field in table.schema if pa.types.is_floating(field.type)
        }
        parquet.write_table(
            table,
            stream,
            compression="zstd",
            compression_level=19,
            use_dictionary=texts,
            column_encoding=split,
            # Times are stored as they are: without checksums a damaged byte would be read as another time.
            write_page_checksum=True,
        )


def open_row_table(path: str | Path) -> "pa.Table":
    """Open a Parquet file.

    Raises
    ------
    RowError
        It cannot be read, or is no Parquet file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    data = read_bytes(path, error=RowError, expected="a Parquet file")
    try:
        return parquet.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise RowError(
            f"{path}: cannot be read as Parquet: {error}; expected a complete file of rows"
        ) from error


def row_table_problem(header: Sequence[str]) -> str:
    """What the columns of a Parquet file lack or have too many; empty if it is a file of rows."""
    missing = [name for name in NEEDED if name not in header]
    unknown = [name for name in header if name not in TABLE_COLUMNS]
    twice = [name for name in dict.fromkeys(header) if list(header).count(name) > 1]
    return "; ".join(
        f"{word} {brief_names(map(repr, names))}"
        for word, names in (("missing", missing), ("unknown", unknown), ("twice", twice))
        if names
    )


def rows_of_table(table: "pa.Table", path: str | Path) -> list[Measurement | RowError]:
    """Take the rows out of an open file; in place of a bad row its error, which names row, column, value and expectation.

    Raises
    ------
    RowError
        Other columns, or no source file though a column names sources.
    """
    if problem := row_table_problem(table.column_names):
        raise RowError(
            f"{path}: columns: {problem}; expected {', '.join(NEEDED)} and others of the row schema"
        )
    cells = {name: _cells(name, table.column(name).to_pylist()) for name in table.column_names}
    sources = read_sources(Path(path)) if "source" in cells else {}
    out: list[Measurement | RowError] = []
    for number, values in enumerate(zip(*cells.values(), strict=True), start=1):
        try:
            out.append(Measurement(**_complete(dict(zip(cells, values, strict=True)), sources)))
        except NmsimError as error:
            column = error.column if isinstance(error, RowError) else ""
            message = f"{path}: row {number}: {error}"
            out.append(RowError(message, row=number, column=column, problem=str(error)))
    return out


def _stored(row: Measurement, sources: Sequence[RowSource], where: str) -> dict[str, Any]:
    """The cells of a row as the file holds them."""
    cells = asdict(row)
    if (
        row.dense_time_s
        and row.sparse_time_s
        and row.speedup_vs_dense == _ratio(row.dense_time_s, row.sparse_time_s)
    ):
        cells["speedup_vs_dense"] = None
    found = [source for source in sources if f"{row.source_url}/".startswith(f"{source.url}/")]
    if not found:
        return cells
    source = max(found, key=lambda source: len(source.url))
    parts = [part for part in _WEIGHTS_BESIDE_CACHE.sub("", row.note).split("; ") if part]
    common = source.note.split("; ") if source.note else []
    if missing := [part for part in common if part not in parts]:
        raise RowError(
            f"{where}: note={brief(row.note)}: expected {brief(missing[0])}, which source {source.id} says of all its rows"
        )
    return cells | {
        "source": source.id,
        "source_file": row.source_url[len(source.url) + 1 :],
        "source_url": "",
        "note": "; ".join(part for part in parts if part not in common),
    }


def _complete(cells: dict[str, Any], sources: Mapping[str, RowSource]) -> dict[str, Any]:
    """The cells of a row as `Measurement` takes them."""
    if cells.get("speedup_vs_dense") is None:
        dense_s, sparse_s = cells.get("dense_time_s"), cells.get("sparse_time_s")
        if not dense_s or not sparse_s:
            raise RowError(
                "speedup_vs_dense=None: expected a speedup, or both times", column="speedup_vs_dense"
            )
        cells["speedup_vs_dense"] = _ratio(dense_s, sparse_s)
    name, file = cells.pop("source", ""), cells.pop("source_file", "")
    if name:
        if name not in sources:
            raise RowError(f"source={brief(name)}: expected one of {brief_names(sources)}", column="source")
        source = sources[name]
        cells["source_url"] = f"{source.url}/{file}" if file else source.url
        cells["note"] = "; ".join(part for part in (cells.get("note"), source.note) if part)
    return cells


def _ratio(dense_s: float, sparse_s: float) -> float:
    return float(f"{dense_s / sparse_s:.{DIGITS}g}")


def _default(name: str) -> Any:
    return COLUMNS[name].default if name in COLUMNS else None


def _kind(name: str) -> type:
    return COLUMNS[name].kind if name in COLUMNS else str


def _arrow_type(name: str) -> "pa.DataType":
    import pyarrow as pa

    if _kind(name) is str:
        return pa.dictionary(pa.int32(), pa.string())
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[_kind(name)]


def _cells(name: str, values: list[Any]) -> list[Any]:
    """The cells of a column as a row holds them: nothing is "" or the default, and whole floats are whole numbers."""
    kind, nothing = _kind(name), _default(name)
    if kind is str:
        return ["" if value is None else value for value in values]
    values = [nothing if value is None or value != value else value for value in values]
    if kind is int:
        return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    return values
