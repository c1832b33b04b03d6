"""What a verb is about to write: checked before any work, held by one writer, cleared of what a killed run left."""

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nmsim.errors import ContainerError, brief
from nmsim.support.lock import Holder, held, short_name
from nmsim.support.sources import kind_of
from nmsim.units import format_bytes

PARTIAL_SUFFIX = ".nmsim-partial"
WORK_MARK = "made-by-nmsim"
"""A file in each folder of partial results: a folder without it is not ours, and is never removed."""
FORCE = "(or force, `--force` on the command line, to replace it)"
ROW_FILE, PICTURES = (".csv",), (".svg", ".png", ".pdf")
SUFFIXES = {".csv", ".json", ".toml", ".parquet", ".safetensors", ".html", *PICTURES}
"""Suffixes that promise a kind of file: another kind is not written under such a name."""


@dataclass(frozen=True)
class Output:
    """One file or folder that is to be written.

    Parameters
    ----------
    path : Path
    kind : str
        `file`: a file that is written anew. `rows`: a file that rows are appended to. `new folder`: a folder that must be
        new or empty. `folder`: a folder, new or not, in which files of some names are replaced.
    suffixes : tuple of str
        What its name ends in. Without `strict`, it may also end in what promises no kind of file.
    strict : bool
    names : collection of str
        Of a `folder`: the files that will be written into it.
    ours : collection of str
        Of a `folder`: the files in it that an earlier run wrote. They are replaced without force.
    complete : bool
        A `file` that exists is the result of this very work, which only has to be tidied up after a kill.
    """

    path: Path
    kind: Literal["file", "rows", "new folder", "folder"] = "file"
    suffixes: tuple[str, ...] = ()
    strict: bool = False
    names: Collection[str] = ()
    ours: Collection[str] = ()
    complete: bool = False

    @property
    def place(self) -> Path:
        """Where it will lie, without links: a file or a new folder replaces a link, the others follow it."""
        try:
            if self.kind in ("rows", "folder"):
                return self.path.resolve()
            return self.path.parent.resolve() / self.path.name
        except (OSError, RuntimeError, ValueError) as error:
            raise ContainerError(f"{brief(str(self.path))}: cannot be written: {error}") from None


@dataclass(frozen=True)
class Leftover:
    """What a run that was killed has left beside its output. `why_kept` is empty if it is removed now."""

    path: Path
    stored_bytes: int
    why_kept: str = ""

    def __str__(self) -> str:
        if self.why_kept:
            return f"left in place: {self.path}: {self.why_kept}"
        return f"removed what a stopped run left: {self.path} ({format_bytes(self.stored_bytes)})"


@dataclass(frozen=True)
class Claim:
    """What was found when outputs were claimed: runs that were killed while they wrote, and what they left."""

    killed: tuple[Holder, ...]
    leftovers: tuple[Leftover, ...]


def check(outputs: Sequence[Output], *, force: bool = False, sources: Iterable[Path] = ()) -> None:
    """Refuse outputs that cannot be written, as far as that can be known before any work.

    Parameters
    ----------
    outputs : sequence of Output
    force : bool
        Replace files that exist.
    sources : iterable of Path
        Files that are read. They are never replaced, `force` or not.

    Raises
    ------
    ContainerError
        A name that is empty, has the suffix of another kind of file, is given twice, or lies in no folder. A link to a
        folder, a device, a source. A file that exists, without `force`. A file or folder without permission to write.

    Examples
    --------
    >>> check([Output(Path("rows.toml"), "rows", ROW_FILE)])
    Traceback (most recent call last):
    nmsim.errors.ContainerError: rows.toml: expected a name that ends in .csv, got .toml
    """
    inputs = [path for path in sources if os.path.isfile(path)]
    places: set[Path] = set()
    for output in outputs:
        if output.place in places:
            raise ContainerError(f"{output.path}: is named for two outputs, expected another name for one")
        places.add(output.place)
    for output in outputs:
        _check_one(output, force, inputs)


def _check_one(output: Output, force: bool, inputs: Sequence[Path]) -> None:
    path, place = output.path, output.place
    if not place.name or (not path.name and output.kind in ("file", "new folder")):
        raise ContainerError(f"{brief(str(path))}: expected a name to write")
    if not os.path.isdir(place.parent):
        raise ContainerError(f"{path}: there is no folder {path.parent}, expected an existing one")
    if output.kind in ("new folder", "folder"):
        _check_folder(output, force, inputs)
        return
    if os.path.isdir(path):
        raise ContainerError(f"{path}: is a folder, expected the name of a file to write")
    try:
        os.lstat(path)
    except FileNotFoundError:
        _check_suffix(output)
        return
    except (OSError, ValueError) as error:
        raise ContainerError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from None
    _refuse_input(path, path, inputs)
    _check_suffix(output)
    # Renaming over a device or a pipe would remove it.
    if path.exists() and not path.is_file():
        raise ContainerError(
            f"{path}: is {kind_of(os.stat(path).st_mode)}, expected the name of a file to write"
        )
    if output.kind == "rows":
        if path.exists() and not os.access(path, os.W_OK):
            raise ContainerError(f"{path}: cannot be written: Permission denied")
        if not path.exists() and not place.parent.is_dir():
            raise ContainerError(f"{path}: is a link to a file in no folder, expected an existing one")
    elif not (force or output.complete):
        raise ContainerError(f"{path}: exists already, expected a new name {FORCE}")


def _check_suffix(output: Output) -> None:
    suffix = output.path.suffix
    promises = output.strict or suffix.lower() in SUFFIXES
    if output.kind in ("file", "rows") and output.suffixes and promises and suffix not in output.suffixes:
        raise ContainerError(
            f"{output.path}: expected a name that ends in {' or '.join(output.suffixes)}, got {suffix or 'no suffix'}"
        )


def _check_folder(output: Output, force: bool, inputs: Sequence[Path]) -> None:
    path, place = output.path, output.place
    if os.path.lexists(place) and not place.is_dir():
        raise ContainerError(f"{path}: is a file, expected the name of a folder to write")
    if not place.is_dir():
        return
    if output.kind == "new folder":
        if path.is_symlink():
            raise ContainerError(f"{path}: is a link, expected a new or an empty folder")
        if any(place.iterdir()):
            raise ContainerError(f"{path}: is a folder that is not empty, expected a new or an empty one")
        return
    if not os.access(place, os.W_OK | os.X_OK):
        raise ContainerError(f"{path}: cannot be written: Permission denied")
    for name in sorted(output.names):
        file = place / name
        if file.is_dir():
            raise ContainerError(f"{path / name}: is a folder, expected a file or nothing of that name")
        if not os.path.lexists(file):
            continue
        _refuse_input(file, path / name, inputs)
        if name not in output.ours and not force:
            raise ContainerError(
                f"{path / name}: exists, and no earlier run here wrote it; expected a new folder {FORCE}"
            )


def _refuse_input(file: Path, called: Path, inputs: Sequence[Path]) -> None:
    for source in inputs:
        if file.exists() and source.exists() and os.path.samefile(file, source):
            raise ContainerError(f"{called}: is the input itself, expected another file to write")


def refuse_full_disk(path: Path, needed_bytes: int) -> None:
    """Refuse an output that its disk has no room for.

    Parameters
    ----------
    path : Path
        The output; its folder exists.
    needed_bytes : int
        The least that it takes, with what is kept beside it until its end.

    Raises
    ------
    ContainerError
        Less is free.

    Examples
    --------
    >>> refuse_full_disk(Path("rows.csv"), 1)
    """
    free = shutil.disk_usage(path.parent.resolve()).free
    if needed_bytes > free:
        raise ContainerError(
            f"{path}: takes at least {format_bytes(needed_bytes)}, and its disk has {format_bytes(free)} left: expected "
            "more room"
        )


@contextlib.contextmanager
def claimed(*outputs: Output, force: bool = False, sources: Iterable[Path] = ()) -> Iterator[Claim]:
    """Check outputs, hold their locks, and remove what killed runs of them left.

    Parameters
    ----------
    *outputs : Output
    force : bool
        Replace files that exist.
    sources : iterable of Path
        Files that are read.

    Raises
    ------
    BusyError
        Another process or thread writes one of them.
    ContainerError
        As `check`.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "rows.csv"
    >>> left = target.with_name(".rows.csv.123-0123abcd.nmsim-partial")
    >>> left.touch()
    >>> with claimed(Output(target)) as claim:
    ...     [leftover.path.name for leftover in claim.leftovers], left.exists()
    (['.rows.csv.123-0123abcd.nmsim-partial'], False)
    """
    inputs = list(sources)
    check(outputs, force=force, sources=inputs)
    killed: list[Holder] = []
    found: list[Leftover] = []
    with contextlib.ExitStack() as stack:
        for output in outputs:
            hold = stack.enter_context(held(output.place, output.path))
            # A lock that this thread had already may guard partial files that are alive.
            if hold.first:
                killed += [hold.before] if hold.before is not None else []
                found += _cleared(output.place)
        # Another writer may have finished between the check and the lock.
        check(outputs, force=force, sources=inputs)
        yield Claim(tuple(killed), tuple(found))


def partial_pattern(name: str) -> re.Pattern[str]:
    """Match the names of partial files of an output, and of no other one.

    Examples
    --------
    >>> bool(partial_pattern("a").fullmatch(".a.12-0123abcd.nmsim-partial"))
    True
    >>> bool(partial_pattern("a").fullmatch(".a.b.12-0123abcd.nmsim-partial"))
    False
    """
    return re.compile(rf"\.{re.escape(short_name(name))}\.\d+-[0-9a-f]{{8}}{re.escape(PARTIAL_SUFFIX)}")


def _cleared(place: Path) -> list[Leftover]:
    """Remove the partial files of an output whose lock we hold: no process that is alive has one."""
    pattern = partial_pattern(place.name)
    names = sorted(entry.name for entry in os.scandir(place.parent) if pattern.fullmatch(entry.name))
    return [_removed(place.parent / name) for name in names]


def _removed(path: Path) -> Leftover:
    stored_bytes = 0
    try:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            return Leftover(path, 0, "is neither a file nor a folder; remove it by hand")
        if path.is_file():
            stored_bytes = path.stat().st_size
            path.unlink()
            return Leftover(path, stored_bytes)
        if not (path / WORK_MARK).is_file() and any(path.iterdir()):
            return Leftover(
                path, 0, f"holds no file {WORK_MARK}; remove it by hand if it is of an older version"
            )
        stored_bytes = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path)
    except OSError as error:
        return Leftover(path, stored_bytes, f"cannot be removed: {error.strerror or error}")
    return Leftover(path, stored_bytes)
