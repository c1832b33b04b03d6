"""Columns of a sweep as Arrow tables, and as files: parts of a run that may be stopped, then one file of all."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.sweeps.evaluate import Columns
from hwmodels.sweeps.space import Space
from nmsim.errors import ContainerError
from nmsim.files.atomic import new_file

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".parquet", ".csv")
MANIFEST = "manifest.json"
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


def write_file(tables: Iterable["pyarrow.Table"], target: Path, space: Space, force: bool) -> None:
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
        about = {"nmsim": json.dumps({"space": space.digest, "versions": _versions()})}
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


class Parts:
    """The chunks of a sweep that are done, a file each, in a folder beside the output that goes when all are.

    Parameters
    ----------
    output : Path
    space : Space
    chunk_points : int
    resume : bool
        Go on with parts of an earlier run; otherwise remove them.

    Raises
    ------
    ContainerError
        There are parts of another space, or cut otherwise, or by another version of what computes them.
    """

    def __init__(self, output: Path, space: Space, chunk_points: int, resume: bool) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        manifest = {"space": space.digest, "points": space.points, "chunk_points": chunk_points}
        text = json.dumps(manifest | {"versions": _versions()}, indent=1) + "\n"
        file = self.folder / MANIFEST
        if not resume:
            self.remove()
        if file.exists():
            if (found := file.read_text(encoding="utf-8")) != text:
                raise ContainerError(
                    f"{self.folder}: holds parts of another sweep ({_difference(found, text)}): expected the same space, "
                    "chunks and versions; finish that sweep, or start this one anew (resume=False, --restart)"
                )
            return
        self.folder.mkdir(exist_ok=True)
        with new_file(file, force=True) as stream:
            stream.write(text.encode())

    def file(self, chunk: int) -> Path:
        """Where a chunk is kept."""
        return self.folder / f"part-{chunk:06}.arrow"

    def write(self, chunk: int, table: "pyarrow.Table") -> None:
        """Keep a chunk."""
        import pyarrow as pa

        with (
            new_file(self.file(chunk), force=True) as stream,
            pa.ipc.new_file(stream, table.schema) as writer,
        ):
            writer.write_table(table)

    def read(self, chunk: int) -> "pyarrow.Table":
        """Read a chunk back.

        Raises
        ------
        ContainerError
            It is damaged.
        """
        import pyarrow as pa

        try:
            with pa.memory_map(str(self.file(chunk))) as source, pa.ipc.open_file(source) as reader:
                return reader.read_all()
        except pa.ArrowInvalid as error:
            raise ContainerError(
                f"{self.file(chunk)}: is damaged ({error}): remove it and run again"
            ) from error

    def missing(self, chunks: int) -> Iterator[int]:
        """Chunks that are not done."""
        return (chunk for chunk in range(chunks) if not self.file(chunk).exists())

    def remove(self) -> None:
        """Remove all parts, the manifest last, so that what is left after an interruption is still known."""
        for part in self.folder.glob("part-*.arrow"):
            part.unlink()
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in VERSIONED}


def _difference(found: str, expected: str) -> str:
    try:
        old, new = json.loads(found), json.loads(expected)
        names = [name for name in new if old.get(name) != new[name]]
        return ", ".join(f"{name} {old.get(name)!r}, now {new[name]!r}" for name in names)
    except (json.JSONDecodeError, AttributeError):
        return f"{MANIFEST} is damaged"
