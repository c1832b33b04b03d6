"""Files and folders that appear under their name only when they are complete.

What is being written lies beside its target under a name of its own, `.NAME.PID-RANDOM.nmsim-partial`. An exception or an
interrupt removes it. A process that is killed outright leaves it behind, and the next run of the same output removes it.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from nmsim.errors import ContainerError
from nmsim.files.output import PARTIAL_SUFFIX, WORK_MARK, Output, claimed
from nmsim.support.lock import held, short_name


@contextlib.contextmanager
def new_file(target: Path, *, force: bool = False, sources: Iterable[Path] = ()) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name on success.

    Parameters
    ----------
    target : Path
    force : bool
        Replace a file of that name; refused otherwise.
    sources : paths
        Files that must not be replaced, `force` or not.

    Raises
    ------
    BusyError
        Another process writes it.
    ContainerError
        The target exists, is a source, cannot be written, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "data"
    >>> with new_file(target) as stream:
    ...     written = stream.write(b"all of it")
    >>> target.read_bytes()
    b'all of it'
    """
    with claimed(Output(target), force=force, sources=sources), _appearing(target, force) as stream:
        yield stream


@contextlib.contextmanager
def part_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name on success, in a folder of ours: the caller holds the lock of the whole.

    Parameters
    ----------
    path : Path
        Replaced if it exists.

    Raises
    ------
    ContainerError
        It cannot be written.
    """
    with _appearing(path, force=True) as stream:
        yield stream


@contextlib.contextmanager
def _appearing(target: Path, force: bool) -> Iterator[BinaryIO]:
    partial = partial_name(target)
    with _explained(target):
        try:
            with open(partial, "x+b") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            _take_name(partial, target, force)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


@contextlib.contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside an output for what is needed until it is complete. The caller holds the lock of the output.

    Parameters
    ----------
    target : Path
        The output, without links on its way.
    """
    root = partial_name(target)
    with _explained(target):
        root.mkdir()
        try:
            # The mark comes first: a folder without it is never removed, because it could be somebody else's.
            (root / WORK_MARK).touch()
            content = root / "content"
            content.mkdir()
            yield content
        finally:
            shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Make a folder that takes its name on success. A folder that is not empty is never replaced.

    Parameters
    ----------
    target : Path

    Raises
    ------
    BusyError
        Another process writes it.
    ContainerError
        The target exists and is not an empty folder, or cannot be written.
    """
    output = Output(target, "new folder")
    with claimed(output), work_folder(output.place) as work:
        yield work
        with _explained(target):
            _sync_folder(work)
            os.rename(work, target)
        _sync_folder(target.parent)


@contextlib.contextmanager
def updated_folder(
    target: Path,
    *,
    names: Collection[str] = (),
    ours: Collection[str] = (),
    last: str = "",
    force: bool = False,
    sources: Iterable[Path] = (),
) -> Iterator[Path]:
    """Give a temporary folder to write into; on success its files move to `target`.

    A new target takes its name in one step. In a folder that exists, each file replaces the one of its name, and others
    stay. An error or an interrupt in the block leaves the target as it was.

    Parameters
    ----------
    target : Path
        Its parent must exist.
    names : collection of str
        Files that will be written, to be checked before the work.
    ours : collection of str
        Files in the target that an earlier run wrote. They are replaced without force.
    last : str
        The file that moves last, because it says that all others are there.
    force : bool
        Replace files that no earlier run wrote.
    sources : paths
        Files that must not be replaced, `force` or not.

    Raises
    ------
    BusyError
        Another process writes it.
    ContainerError
        The target is a file, a file of it is taken by a folder or is not ours, or something cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "study"
    >>> with updated_folder(target) as work:
    ...     written = (work / "report.html").write_text("all of it")
    >>> (target / "report.html").read_text()
    'all of it'
    """
    output = Output(target, "folder", names=names, ours=ours)
    final = output.place
    with claimed(output, force=force, sources=sources), work_folder(final) as work:
        yield work
        files = sorted(work.iterdir(), key=lambda path: (path.name == last, path.name))
        for path in files:
            if (final / path.name).is_dir():
                raise ContainerError(
                    f"{target / path.name}: is a folder, expected a file or nothing of that name"
                )
        with _explained(target), contextlib.ExitStack() as stack:
            for path in files:
                _sync_file(path)
            _sync_folder(work)
            if final.is_dir():
                # Somebody may be appending rows to a file of the folder, and has the lock of that file only.
                for path in files:
                    stack.enter_context(held(final / path.name, target / path.name))
                for path in files:
                    os.replace(path, final / path.name)
                _sync_folder(final)
            else:
                os.rename(work, final)
                _sync_folder(final.parent)


def partial_name(target: Path) -> Path:
    """A name beside the target, never taken, for what is not complete yet."""
    return target.with_name(
        f".{short_name(target.name)}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    )


def _take_name(partial: Path, target: Path, force: bool) -> None:
    """Rename; without `force`, not over a file that came to be meanwhile (where hard links exist)."""
    if force:
        os.replace(partial, target)
        return
    meanwhile = f"{target}: has come to exist meanwhile, expected a new name"
    try:
        os.link(partial, target)
    except FileExistsError:
        raise ContainerError(meanwhile) from None
    except OSError:
        if os.path.lexists(target):
            raise ContainerError(meanwhile) from None
        os.replace(partial, target)
    else:
        partial.unlink()


def _sync_file(path: Path) -> None:
    """Make a file last through a power cut before it takes its name."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, if the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn what the system refuses into an error that names the target."""
    try:
        yield
    except OSError as error:
        raise ContainerError(f"{target}: cannot be written: {error.strerror or error}") from error
