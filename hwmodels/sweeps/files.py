"""A sweep in parts that survive an interruption, and its columns as Arrow tables in one file."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
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


if TYPE_CHECKING:
    import pyarrow

MANIFEST = "manifest.json"
MERGED = "merged.json"


class Parts:
    """The chunks of a sweep that are done, a file each, in a folder beside the output that goes when all are.

    Parameters
    ----------
    output : Path
    space : Space
    chunk_points : int
    """

    def __init__(self, output: Path, space: Space, chunk_points: int) -> None:
        self.output, self.folder = output, _folder(output)
        manifest = {"space": space.digest, "points": space.points, "chunk_points": chunk_points}
        self._text = json.dumps(manifest | {"versions": versions()}, indent=1) + "\n"

    def open(self, resume: bool) -> None:
        """Make the folder.

        Parameters
        ----------
        resume : bool
            Go on with parts of an earlier run; otherwise remove them.

        Raises
        ------
        ContainerError
            There are parts of another space, or cut otherwise, or by another version of what computes them; or the folder
            cannot be made.
        """
        file = self.folder / MANIFEST
        if not resume:
            self.remove()
        if file.exists():
            if (found := file.read_text(encoding="utf-8")) != self._text:
                raise ContainerError(
                    f"{self.folder}: holds parts of another sweep ({_difference(found, self._text)}): expected the same "
                    "space, chunks and versions; finish that sweep, or start this one anew (resume=False, --restart)"
                )
            return
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ContainerError(
                f"{self.output}: cannot be written: no folder {self.folder} can be made ({error.strerror or error})"
            ) from error
        with new_file(file, force=True) as stream:
            stream.write(self._text.encode())

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

    def mark_merged(self, refused: Mapping[str, int], status: os.stat_result) -> None:
        """Note which file the parts have become, and its refusals, so that it is known whatever happens to them."""
        about = {"of": self._text, "output": _identity(status), "refused": dict(refused)}
        with new_file(self.folder / MERGED, force=True) as stream:
            stream.write(json.dumps(about).encode())

    def merged(self) -> dict[str, int] | None:
        """Refusals of the output, if it is what parts of this very sweep have become, and nobody has written since."""
        try:
            about = json.loads((self.folder / MERGED).read_text(encoding="utf-8"))
            if about["of"] != self._text or about["output"] != _identity(self.output.stat()):
                return None
            refused: dict[str, int] = about["refused"]
            return refused
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self) -> None:
        """Remove all parts, then the manifest, then the mark: what is left after an interruption is still known."""
        for part in self.folder.glob("part-*.arrow"):
            part.unlink()
        (self.folder / MANIFEST).unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)


def kept_points(output: Path) -> tuple[int, int] | None:
    """Count the points that a run which was stopped has kept, and all points of its space; None if there are none.

    Parameters
    ----------
    output : Path
        What the run was to write.

    Returns
    -------
    tuple of two int, or None

    Examples
    --------
    >>> kept_points(Path("never-begun.parquet")) is None
    True
    """
    folder = _folder(output)
    try:
        merged = (folder / MERGED).exists()
        about = json.loads((folder / (MERGED if merged else MANIFEST)).read_text(encoding="utf-8"))
        about = json.loads(about["of"]) if merged else about
        points, chunk_points = about["points"], about["chunk_points"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if merged:
        return points, points
    chunks = (int(file.stem.removeprefix("part-")) for file in folder.glob("part-*.arrow"))
    return sum(min(chunk_points, points - chunk * chunk_points) for chunk in chunks), points


def _folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def _identity(status: os.stat_result) -> list[int]:
    """Fields that distinguish a file from one that was written later."""
    return [status.st_size, status.st_mtime_ns]


def _difference(found: str, expected: str) -> str:
    try:
        old, new = json.loads(found), json.loads(expected)
        names = [name for name in new if old.get(name) != new[name]]
        return ", ".join(f"{name} {old.get(name)!r}, now {new[name]!r}" for name in names)
    except (json.JSONDecodeError, AttributeError):
        return f"{MANIFEST} is damaged"
