"""Files and folders that appear under their name only when they are complete.

What is being written lies beside its target under a name of its own, `.NAME.PID-RANDOM.nmsim-partial`. An
exception or an interrupt removes it. A process that is killed outright leaves it behind, harmless: no later
run reads it, and it may be deleted.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from nmsim.errors import ContainerError, brief

PARTIAL_SUFFIX = ".nmsim-partial"


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
    refuse_target(target, force, sources)
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
def new_folder(target: Path) -> Iterator[Path]:
    """Make a folder that takes its name on success. A folder that is not empty is never replaced.

    Raises
    ------
    ContainerError
        The target exists and is not an empty folder, or cannot be written.
    """
    refuse_folder(target)
    partial = partial_name(target)
    with _explained(target):
        try:
            partial.mkdir()
            yield partial
            _sync_folder(partial)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync_folder(target.parent)


@contextlib.contextmanager
def updated_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to write into; on success its files move to `target`.

    A new target takes its name in one step. In a folder that exists, each file replaces the one of its name, and others
    stay. An error or an interrupt in the block leaves the target as it was.

    Parameters
    ----------
    target : Path
        Its parent must exist.

    Raises
    ------
    ContainerError
        The target is a file, a file of it is taken by a folder, or something cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "study"
    >>> with updated_folder(target) as work:
    ...     written = (work / "report.html").write_text("all of it")
    >>> (target / "report.html").read_text()
    'all of it'
    """
    refuse_output_folder(target)
    final = target.resolve()
    work = partial_name(final)
    try:
        with _explained(target):
            work.mkdir()
            yield work
            for path in work.iterdir():
                if (final / path.name).is_dir():
                    raise ContainerError(
                        f"{target / path.name}: is a folder, expected a file or nothing of that name"
                    )
            if final.is_dir():
                for path in sorted(work.iterdir()):
                    os.replace(path, final / path.name)
            else:
                os.rename(work, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def refuse_target(target: Path, force: bool, sources: Iterable[Path] = ()) -> None:
    """Refuse a target file that exists (unless `force`), is one of the sources, or lies in no folder."""
    _refuse_orphan(target)
    if target.is_dir():
        raise ContainerError(f"{target}: is a folder, expected the name of a file to write")
    if not os.path.lexists(target):
        return
    for source in sources:
        if target.exists() and source.exists() and os.path.samefile(target, source):
            raise ContainerError(f"{target}: is the input itself, expected another file to write")
    if not force:
        raise ContainerError(
            f"{target}: exists already, expected a new name (or force, `--force` on the command line, to replace it)"
        )


def refuse_folder(target: Path) -> None:
    """Refuse a target folder that exists and is not empty, or lies in no folder."""
    _refuse_orphan(target)
    if target.is_dir():
        if any(target.iterdir()):
            raise ContainerError(f"{target}: is a folder that is not empty, expected a new or an empty one")
    elif os.path.lexists(target):
        raise ContainerError(f"{target}: is a file, expected the name of a folder to write")


def refuse_output_folder(target: Path) -> None:
    """Refuse an output folder that is a file, or that lies in no folder."""
    final = target.resolve()
    if final.exists() and not final.is_dir():
        raise ContainerError(f"{target}: is a file, expected the name of a folder to write")
    if not final.parent.is_dir():
        raise ContainerError(f"{target}: there is no folder {final.parent}, expected an existing one")


def _refuse_orphan(target: Path) -> None:
    if not target.name:
        raise ContainerError(f"{brief(str(target))}: expected a name to write")
    if not target.parent.is_dir():
        raise ContainerError(f"{target}: there is no folder {target.parent}, expected an existing one")


def partial_name(target: Path) -> Path:
    """A name beside the target, never taken, for what is not complete yet."""
    return target.with_name(f".{target.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


def _take_name(partial: Path, target: Path, force: bool) -> None:
    """Rename; without `force`, not over a file that came to be meanwhile (where hard links exist)."""
    if force:
        os.replace(partial, target)
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise ContainerError(f"{target}: has come to exist meanwhile, expected a new name") from None
    except OSError:
        os.replace(partial, target)
    else:
        partial.unlink()


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
