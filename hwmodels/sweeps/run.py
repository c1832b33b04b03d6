"""`sweep`: all points of a space, chunk by chunk, here or on any executor, into a table or a file.

Parts of a sweep survive an interruption. Its columns are Arrow tables in one file.
"""

import functools
import itertools
import json
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd

from hwmodels.sweeps.evaluate import Columns, evaluator, refuse_useless_values
from hwmodels.sweeps.space import Space, load_space
from nmsim.errors import ContainerError, SpecError, brief
from nmsim.files.atomic import new_file, part_file
from nmsim.files.output import PARTIAL_SUFFIX, Output, claimed, partial_pattern, refuse_full_disk
from nmsim.support.cells import guarded
from nmsim.support.parallel import signals_wait
from nmsim.support.sources import open_regular, read_text
from nmsim.units import ceil_div

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


def guarded_texts(table: "pyarrow.Table") -> "pyarrow.Table":
    """Make texts of a table harmless for a spreadsheet; only its dictionaries are rewritten."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            chunks = [
                pa.DictionaryArray.from_arrays(
                    chunk.indices, pa.array(map(guarded, chunk.dictionary.to_pylist()), pa.string())
                )
                for chunk in table.column(place).chunks
            ]
            table = table.set_column(place, field.name, pa.chunked_array(chunks, field.type))
    return table


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
                writer.write_table((guarded_texts(table) if target.suffix == ".csv" else table).cast(schema))
        stream.flush()
        written(os.fstat(stream.fileno()))


def versions() -> dict[str, str]:
    """Versions of what computes a sweep."""
    return {name: version(name) for name in VERSIONED}


MANIFEST = "manifest.json"
MERGED = "merged.json"
PART = re.compile(r"part-\d{6,}\.arrow")
MANIFEST_KEYS = {"space", "points", "chunk_points", "versions"}
"""A folder of parts is ours if its manifest has these keys, or its mark says so; nothing is removed from another one."""


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
        self._points, self._chunk_points = space.points, chunk_points
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
            There are parts of another space, or cut otherwise, or by another version of what computes them. The folder is
            no folder of parts, or cannot be made.
        """
        file = self.folder / MANIFEST
        self._refuse_foreign()
        if not resume:
            self.remove()
        for partial in self.folder.glob(f".*{PARTIAL_SUFFIX}"):
            if _is_part(partial.name, own=False):
                partial.unlink()
        if file.exists():
            if (found := read_text(file)) != self._text:
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
        with part_file(file) as stream:
            stream.write(self._text.encode())

    def points(self, chunk: int) -> int:
        """Count the points of a chunk."""
        return min(self._chunk_points, self._points - chunk * self._chunk_points)

    def file(self, chunk: int) -> Path:
        """Where a chunk is kept."""
        return self.folder / f"part-{chunk:06}.arrow"

    def write(self, chunk: int, table: "pyarrow.Table") -> None:
        """Keep a chunk."""
        import pyarrow as pa

        with (
            part_file(self.file(chunk)) as stream,
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
            with open_regular(self.file(chunk)) as stream, pa.ipc.open_file(stream) as reader:
                return reader.read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise ContainerError(
                f"{self.file(chunk)}: is damaged ({error}): remove it and run again"
            ) from error

    def missing(self, chunks: int) -> Iterator[int]:
        """Chunks that are not done."""
        return (chunk for chunk in range(chunks) if not self.file(chunk).exists())

    def mark_merged(self, refused: Mapping[str, int], status: os.stat_result) -> None:
        """Note which file the parts have become, and its refusals, so that it is known whatever happens to them."""
        about = {"of": self._text, "output": _identity(status), "refused": dict(refused)}
        with part_file(self.folder / MERGED) as stream:
            stream.write(json.dumps(about).encode())

    def merged(self) -> dict[str, int] | None:
        """Refusals of the output, if it is what parts of this very sweep have become, and nobody has written since."""
        try:
            about = json.loads(read_text(self.folder / MERGED))
            if about["of"] != self._text or about["output"] != _identity(self.output.stat()):
                return None
            refused: dict[str, int] = about["refused"]
            return refused
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self) -> None:
        """Remove our files by name: all parts, then the manifest, then the mark. Then the folder goes, if it is empty.

        What is left after an interruption is still known as ours. Files of others stay, and so does the folder then.

        Raises
        ------
        ContainerError
            The folder is not one of parts, or a file of it cannot be removed.
        """
        if not os.path.lexists(self.folder):
            return
        self._refuse_foreign()
        try:
            names = [path.name for path in self.folder.iterdir() if _is_part(path.name)]
            for name in (*sorted(names), MANIFEST, MERGED):
                (self.folder / name).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            raise ContainerError(
                f"{self.folder}: parts cannot be removed: {error.strerror or error}"
            ) from error

    def _refuse_foreign(self) -> None:
        """Refuse a folder that no sweep has made, so that nothing in it is ever replaced or removed."""
        if not os.path.lexists(self.folder):
            return
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise ContainerError(
                f"{self.folder}: is no folder, expected that name free for the parts of a sweep"
            )
        foreign = [path.name for path in sorted(self.folder.iterdir()) if not _is_part(path.name, own=False)]
        # A run that was killed while it wrote the manifest has left a partial manifest only.
        if foreign and not (_is_manifest(self.folder / MANIFEST) or _is_mark(self.folder / MERGED)):
            raise ContainerError(
                f"{self.folder}: holds {brief(foreign[0])} and no {MANIFEST} of a sweep, expected that name free for parts: "
                "move the folder, or name another output"
            )


def _is_part(name: str, own: bool = True) -> bool:
    """Whether a name in the folder is that of a part, or of what a killed run was writing; only the latter without `own`."""
    stem = re.sub(r"\.\d+-[0-9a-f]{8}\.nmsim-partial$", "", name).removeprefix(".")
    if own and PART.fullmatch(name):
        return True
    ours = stem in (MANIFEST, MERGED) or PART.fullmatch(stem) is not None
    return ours and partial_pattern(stem).fullmatch(name) is not None


def _is_manifest(file: Path) -> bool:
    try:
        return bool(json.loads(read_text(file)).keys() >= MANIFEST_KEYS)
    except (OSError, ValueError, AttributeError):
        return False


def _is_mark(file: Path) -> bool:
    try:
        return bool(json.loads(json.loads(read_text(file))["of"]).keys() >= MANIFEST_KEYS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def finished(space: Space, output: Path, chunk_points: int | None = None) -> bool:
    """Whether an output is complete, and the run that wrote it was stopped before it removed its parts.

    Parameters
    ----------
    space : Space
    output : Path
    chunk_points : int, optional
        As for `sweep`.

    Examples
    --------
    >>> space = load_space({"core": {"base": "dense"}, "axes": {"pattern": ["dense"]}, "workload": {"shapes": [[64, 64]]}})
    >>> finished(space, Path("never-begun.parquet"))
    False
    """
    return Parts(output, space, chunk_points or CHUNK_POINTS).merged() is not None


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
        about = json.loads(read_text(folder / (MERGED if merged else MANIFEST)))
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
        return ", ".join(f"{name} {brief(old.get(name))}, now {brief(new[name])}" for name in names)
    except (json.JSONDecodeError, AttributeError):
        return f"{MANIFEST} is damaged"


PIECE_S = 0.2
"""Longest time that a signal is held back while a chunk is waited for."""
CHUNK_POINTS = 1 << 17
Progress = Callable[[int, int], None]
"""Told the points that are done, and all points."""


@dataclass(frozen=True)
class Summary:
    """What a sweep into a file did.

    `refused` counts the points that do not exist by reason. `evaluated_points` are those of this run; the others were
    there from an earlier one. `evaluate_s` ends when all points are known, `seconds` when they are in the file.
    """

    output: Path
    points: int
    refused: Mapping[str, int]
    evaluated_points: int
    evaluate_s: float
    seconds: float

    @property
    def points_per_s(self) -> float:
        """Points of this run over the seconds that it took to evaluate them and to keep them in parts."""
        return self.evaluated_points / self.evaluate_s if self.evaluated_points else 0.0


@overload
def sweep(
    space: str | Path | Mapping[str, Any] | Space,
    *,
    output: None = None,
    executor: Executor | None = None,
    chunk_points: int = CHUNK_POINTS,
    in_flight: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame: ...
@overload
def sweep(
    space: str | Path | Mapping[str, Any] | Space,
    *,
    output: str | Path,
    executor: Executor | None = None,
    chunk_points: int = CHUNK_POINTS,
    in_flight: int | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    force: bool = False,
) -> Summary: ...
def sweep(
    space: str | Path | Mapping[str, Any] | Space,
    *,
    output: str | Path | None = None,
    executor: Executor | None = None,
    chunk_points: int = CHUNK_POINTS,
    in_flight: int | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    force: bool = False,
) -> pd.DataFrame | Summary:
    """Evaluate a design space: cycles, time, bytes and actions of every point, beside the dense product on the same core.

    Parameters
    ----------
    space : str, Path, mapping or Space
        As for `load_space`.
    output : str or Path, optional
        A `.parquet` or `.csv` file to write, chunk by chunk in bounded memory. A run that was stopped
        continues when it is started again. Its finished chunks lie in a folder beside, named `<output>.parts`. If it was
        killed when the output was complete, only the folder is removed.
    executor : concurrent.futures.Executor, optional
        Where chunks are evaluated: threads, processes, or a cluster such as `dask.distributed.Client().get_executor()`.
        In the calling thread when absent. Results come back here, and only here are files written.
    chunk_points : int
        Points that are evaluated, sent and kept together.
    in_flight : int, optional
        Chunks that the executor is given at a time; twice the cores of this machine when absent.
    progress : callable, optional
        Called with the points done and all points.
    resume : bool
        False: remove what an earlier run left, and begin anew.
    force : bool
        Replace the output.

    Returns
    -------
    DataFrame, or Summary when there is an output
        A row a point. Text columns are categories. `refused` says why there is no such point, its numbers being NaN; it
        is empty elsewhere. `speedup_vs_dense` is against the dense product on the same core.

    Raises
    ------
    SpecError
        An invalid space, or one with a value that no point takes.
    ContainerError
        The output exists, cannot be written, has parts of another sweep beside it, or a folder that no sweep made.
    BusyError
        Another process writes the output.

    Examples
    --------
    >>> found = sweep({
    ...     "core": {"base": "flexible-8x16"},
    ...     "axes": {"pattern": ["2:4", "8:16"], "array_depth": [8, 16], "tokens": [1, 2048]},
    ...     "workload": {"shapes": [[4096, 4096]]},
    ... })
    >>> len(found), bool(found["speedup_vs_dense"].max() > 1.5)
    (8, True)
    """
    started = time.perf_counter()
    loaded = load_space(space)
    for name, value in (("chunk_points", chunk_points), ("in_flight", in_flight)):
        if isinstance(value, bool) or not (value is None or (isinstance(value, int) and value > 0)):
            raise SpecError(f"{name}={brief(value)}: expected a positive int")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise SpecError(f"executor={brief(executor)}: expected a concurrent.futures.Executor")
    chunks = ceil_div(loaded.points, chunk_points)
    most = in_flight or 2 * (os.cpu_count() or 1)

    def told(done: int) -> None:
        if progress is not None:
            progress(min(done * chunk_points, loaded.points), loaded.points)

    def tables(wanted: Iterable[int]) -> Iterator[tuple[int, "pyarrow.Table"]]:
        spans = ((chunk, chunk * chunk_points) for chunk in wanted)
        ends = ((chunk, start, min(start + chunk_points, loaded.points)) for chunk, start in spans)
        return _evaluated(loaded, ends, executor, most)

    if output is None:
        refuse_useless_values(evaluator(loaded).designs)
        return _frame(tables(range(chunks)), told)
    if not isinstance(output, str | Path):
        raise SpecError(f"output={brief(output)} (type {type(output).__name__}): expected the name of a file")
    target = Path(output)
    if target.suffix not in SUFFIXES:
        raise SpecError(f"output {brief(str(target))}: expected a name that ends in {' or '.join(SUFFIXES)}")
    parts = Parts(target, loaded, chunk_points)
    # An earlier run was stopped after it wrote the output: only its parts are left to remove.
    complete = resume and not force and parts.merged() is not None
    whole = Output(target, suffixes=SUFFIXES, strict=True, complete=complete)
    sources = [Path(space)] if isinstance(space, str | Path) else []
    with claimed(whole, force=force, sources=sources):
        if complete and (merged := parts.merged()) is not None:
            parts.remove()
            told(chunks)
            seconds = time.perf_counter() - started
            return Summary(target, loaded.points, merged, 0, seconds, seconds)
        refuse_useless_values(evaluator(loaded).designs)
        parts.open(resume)
        missing = list(parts.missing(chunks))
        refuse_full_disk(target, sum(map(parts.points, missing)) * _row_bytes(loaded))
        evaluated = 0
        told(chunks - len(missing))
        for done, (chunk, table) in enumerate(tables(missing), start=chunks - len(missing) + 1):
            parts.write(chunk, table)
            evaluated += len(table)
            told(done)
        evaluate_s = time.perf_counter() - started
        refused: Counter[str] = Counter()
        tables_of_parts = _counted(map(parts.read, range(chunks)), refused)
        write_file(tables_of_parts, target, loaded, force, functools.partial(parts.mark_merged, refused))
        parts.remove()
    seconds = time.perf_counter() - started
    return Summary(target, loaded.points, dict(refused), evaluated, evaluate_s, seconds)


def _row_bytes(space: Space) -> int:
    """Bytes of a point in a part: a number per column, texts as their place in a list."""
    import pyarrow as pa

    schema = to_table(evaluator(space).columns(0, 0)).schema
    kinds = [field.type.index_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return int(sum(kind.bit_width for kind in kinds)) // 8


def no_rows(space: Space) -> pd.DataFrame:
    """The columns of a sweep, without rows: what can be asked of it before it is run."""
    return _frame(iter([(0, to_table(evaluator(space).columns(0, 0)))]), lambda done: None)


def evaluate_chunk(space: Space, start: int, stop: int) -> "pyarrow.Table":
    """Evaluate the points `start` to `stop`: what an executor is asked to do."""
    return to_table(evaluator(space).columns(start, stop))


def _evaluated(
    space: Space, spans: Iterable[tuple[int, int, int]], executor: Executor | None, most: int
) -> Iterator[tuple[int, "pyarrow.Table"]]:
    """Chunks in order, so many under way at a time; those not begun are called off when the caller stops."""
    if executor is None:
        for chunk, start, stop in spans:
            yield chunk, evaluate_chunk(space, start, stop)
        return
    waiting: deque[tuple[int, Any]] = deque()
    try:
        for chunk, start, stop in spans:
            with signals_wait():
                waiting.append((chunk, executor.submit(evaluate_chunk, space, start, stop)))
            if len(waiting) >= most:
                first, future = waiting.popleft()
                yield first, _result(future)
        while waiting:
            first, future = waiting.popleft()
            yield first, _result(future)
    finally:
        for _, future in waiting:
            future.cancel()


def _result(future: "Future[pyarrow.Table]") -> "pyarrow.Table":
    """Wait for a chunk piece by piece: signals are held back within a piece, and take effect between two."""
    while not future.done():
        with signals_wait():
            wait([future], timeout=PIECE_S)
    return future.result()


def _frame(tables: Iterator[tuple[int, "pyarrow.Table"]], told: Callable[[int], None]) -> pd.DataFrame:
    import pyarrow as pa

    found = []
    for done, (_, table) in enumerate(tables, start=1):
        found.append(table)
        told(done)
    frame: pd.DataFrame = pa.concat_tables(found).unify_dictionaries().to_pandas(split_blocks=True)
    return frame


def _counted(tables: Iterable["pyarrow.Table"], refused: Counter[str]) -> Iterator["pyarrow.Table"]:
    """Pass tables on, and count the points that are refused by reason."""
    for table in tables:
        for count in table["refused"].value_counts().to_pylist():
            if count["values"]:
                refused[count["values"]] += count["counts"]
        yield table
