"""One writer per output: a lock of the kernel on a file beside the output, which says who holds it.

The file is `.NAME.nmsim-lock`. The system frees the lock when its process ends, however it ends. Who holds it removes the file
at the end. After a kill the file stays, and the next writer of that output takes it over.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmsim.errors import BusyError, ContainerError
from nmsim.support.sources import open_regular

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_SUFFIX = ".nmsim-lock"
MARK = '{"lock": "nmsim"'
"""What the text of a lock file begins with; a file of that name with another text is not ours."""
MAX_TEXT_BYTES = 4096
MAX_COMMAND_CHARS = 90
MAX_NAME_BYTES = 150
"""A longer name is shortened in the names of lock files and partial files, which the system allows 255 bytes."""
TRIES, PAUSE_S = 20, 0.01
"""A lock that is held, but has no readable holder, is just changing hands."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, or that held it until it was killed."""

    pid: int
    host: str
    command: str
    since_utc: str

    @classmethod
    def here(cls) -> "Holder":
        """Describe this process."""
        program = Path(sys.argv[0])
        name = program.parent.name if program.name == "__main__.py" else program.name
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return cls(os.getpid(), socket.gethostname(), shlex.join([name, *sys.argv[1:]]), now)

    def __str__(self) -> str:
        command = "".join(char if char.isprintable() else "?" for char in self.command)
        if len(command) > MAX_COMMAND_CHARS:
            command = command[: MAX_COMMAND_CHARS - 1] + "…"
        return f"process {self.pid} on {self.host[:40]} since {self.since_utc} ({command})"


@dataclass(frozen=True)
class Hold:
    """A lock that this thread has. `first` is False if it had it already; `before` was killed with the lock in its hands."""

    first: bool
    before: Holder | None = None


@dataclass
class _Lock:
    """A lock of this process: its thread, and how often that thread has entered it."""

    thread: int
    depth: int = 1


_held: dict[Path, _Lock] = {}
_guard = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's locks.
    os.register_at_fork(after_in_child=_held.clear)


def short_name(name: str) -> str:
    """Give a name that leaves room for what is put around it: the name itself, or a part of it with its digest.

    Examples
    --------
    >>> short_name("rows.csv"), len(short_name("x" * 250))
    ('rows.csv', 117)
    """
    raw = os.fsencode(name)
    if len(raw) <= MAX_NAME_BYTES:
        return name
    return f"{raw[:100].decode(errors='ignore')}-{hashlib.sha256(raw).hexdigest()[:16]}"


def lock_file(place: Path) -> Path:
    """Name the lock file of an output.

    Examples
    --------
    >>> lock_file(Path("out/rows.csv")).name
    '.rows.csv.nmsim-lock'
    """
    return place.with_name(f".{short_name(place.name)}{LOCK_SUFFIX}")


@contextlib.contextmanager
def held(place: Path, called: Path | None = None) -> Iterator[Hold]:
    """Hold the lock of an output; a thread that has it already enters it again.

    Parameters
    ----------
    place : Path
        The output without links on its way, so that all its spellings have one lock.
    called : Path, optional
        What errors call it.

    Raises
    ------
    BusyError
        Another process or thread has it. The error says who, and since when.
    ContainerError
        The folder cannot be written to, or its file system has no locks.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "rows.csv"
    >>> with held(place) as outer, held(place) as inner:
    ...     outer.first, inner.first, lock_file(place).exists()
    (True, False, True)
    >>> lock_file(place).exists()
    False
    """
    thread = threading.get_ident()
    with _guard:
        mine = _held.get(place)
        again = mine is not None and mine.thread == thread
        if again and mine is not None:
            mine.depth += 1
    if again:
        try:
            yield Hold(first=False)
        finally:
            with _guard:
                if place in _held:
                    _held[place].depth -= 1
        return
    lock, identity, before = _acquired(place, called or place)
    process = os.getpid()
    with _guard:
        _held[place] = _Lock(thread)
    try:
        yield Hold(first=True, before=before)
    finally:
        # A forked child that leaves this block must not free the lock of its parent.
        if os.getpid() == process:
            with _guard:
                _held.pop(place, None)
            _released(lock, lock_file(place), identity)


def _acquired(place: Path, called: Path) -> "tuple[BaseFileLock, tuple[int, int], Holder | None]":
    """Take the lock at once or say who has it; and say who was killed with it."""
    from filelock import FileLock, Timeout

    file = lock_file(place)
    found: list[tuple[tuple[int, int], Holder | None]] = []

    def sign(handle: int) -> None:
        status = os.fstat(handle)
        before = _holder(os.pread(handle, MAX_TEXT_BYTES, 0), file)
        text = json.dumps({"lock": "nmsim", **asdict(Holder.here())}).encode()[:MAX_TEXT_BYTES]
        # Written before it is cut to length: the text is never empty, whenever somebody reads it.
        os.pwrite(handle, text, 0)
        os.ftruncate(handle, len(text))
        found.append(((status.st_dev, status.st_ino), before))

    lock = FileLock(file, timeout=0, thread_local=False, fallback_to_soft=False, on_acquired=sign)
    for _ in range(TRIES):
        try:
            lock.acquire()
        except Timeout:
            if (holder := _reader(file)) is not None:
                raise BusyError(
                    f"{called}: is being written by {holder}; expected no other writer: wait for its end, or write elsewhere"
                ) from None
            time.sleep(PAUSE_S)
        except OSError as error:
            raise ContainerError(_refusal(called, file, error)) from error
        else:
            return (lock, *found[-1])
    if file.exists():
        raise BusyError(f"{called}: is being written by another process, expected no other writer")
    raise ContainerError(f"{called}: cannot be written: no file can be made in {place.parent}")


def _released(lock: "BaseFileLock", file: Path, identity: tuple[int, int]) -> None:
    """Remove the file, then free the lock: whoever waits with the removed file open begins anew."""
    with contextlib.suppress(OSError):
        status = os.stat(file)
        if (status.st_dev, status.st_ino) == identity:
            file.unlink()
    lock.release()


def _reader(file: Path) -> Holder | None:
    """Who holds a lock that is not ours; None if that cannot be read now."""
    try:
        with open_regular(file) as stream:
            text = stream.read(MAX_TEXT_BYTES)
    except OSError:
        return None
    except ContainerError as error:
        # It is gone or locked now; a FIFO of that name is an error, and is not waited for.
        if isinstance(error.__cause__, OSError):
            return None
        raise
    return _holder(text, file)


def _holder(text: bytes, file: Path) -> Holder | None:
    """Read the text of a lock file; None if it is empty or incomplete."""
    decoded = text.decode(errors="replace").strip("\0")
    if decoded[: len(MARK)] != MARK[: len(decoded)]:
        raise ContainerError(f"{file}: is no lock file of nmsim, expected that name free: move the file away")
    try:
        about = json.loads(decoded)
        return Holder(int(about["pid"]), *(str(about[name]) for name in ("host", "command", "since_utc")))
    except (ValueError, KeyError, TypeError):
        return None


def _refusal(called: Path, file: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in NO_LOCKS:
        return (
            f"{called}: cannot be locked: the file system of {file.parent} has no locks ({reason}), expected a folder "
            "on one that has, such as a local disk"
        )
    if os.path.lexists(file):
        return f"{called}: cannot be written: its lock file {file.name} cannot be opened ({reason}): remove it if nobody writes"
    return f"{called}: cannot be written: {reason}"
