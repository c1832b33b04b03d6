"""Columns of a sweep as Arrow tables, and these as one file."""

import itertools
import json
import os
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.sweeps.evaluate import Columns
from hwmodels.sweeps.space import Space
from nmsim.files.atomic import new_file

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".parquet", ".csv")
VERSIONED = ("nmsim", "numpy", "numba", "pyarrow")


def to_table(columns: Columns) -> "pyarrow.Table":
    """Turn columns into an Arrow table without copying them; texts become dictionaries."""
    import pyarrow as pa

    return pa.table(
        {
            name: pa.array(column)
            if isinstance(column, np.ndarray)
            else pa.DictionaryArray.from_arrays(pa.array(column.codes), pa.array(column.texts, pa.string()))
            for name, column in columns.items()
        }
    )


def write_file(
    tables: Iterable["pyarrow.Table"],
    target: Path,
    space: Space,
    force: bool,
    written: Callable[[os.stat_result], None],
) -> None:
    """Write tables, one after another, into one file that appears when it is complete.

    Parameters
    ----------
    tables : iterable of pyarrow.Table
        All with the columns of the first.
    target : Path
        Ends in one of `SUFFIXES`.
    space : Space
        Its digest, and the versions that computed, go into the metadata of a Parquet file.
    force : bool
        Replace a file of that name.
    written : callable
        Told the status of the complete file just before it takes its name.

    Raises
    ------
    ContainerError
        The target exists, or cannot be written.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    rest = iter(tables)
    first = next(rest)
    texts = [field.name for field in first.schema if pa.types.is_dictionary(field.type)]
    if target.suffix == ".csv":
        kinds = ((field.name, pa.string() if field.name in texts else field.type) for field in first.schema)
        schema = pa.schema(kinds)
    else:
        about = {"nmsim": json.dumps({"space": space.digest, "versions": versions()})}
        schema = first.schema.with_metadata(about)
    with new_file(target, force=force) as stream:
        writer: Any
        if target.suffix == ".csv":
            writer = csv.CSVWriter(stream, schema)
        else:
            writer = parquet.ParquetWriter(
                stream, schema, compression="snappy", use_dictionary=texts, write_statistics=texts
            )
        with writer:
            for table in itertools.chain((first,), rest):
                writer.write_table(table.cast(schema))
        stream.flush()
        written(os.fstat(stream.fileno()))


def versions() -> dict[str, str]:
    """Versions of what computes a sweep."""
    return {name: version(name) for name in VERSIONED}
