"""Opening what a user names as input: every file that is read is opened here, and only a regular file is.

A FIFO, a socket or a device would block for ever, and a folder gives an error without a hint. The kind is looked at
before the file is opened, so that opening it has no effect on a FIFO's writer or on a device. It is looked at again
on the open file, since another file may take the name in between. `O_NONBLOCK` keeps that opening from blocking.

Files are read, never mapped. A mapped file that another process cuts would end this process by SIGBUS. Read,
it is a short read, which is an ordinary error.
"""

import csv
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from nmsim.errors import ContainerError, NmsimError
from nmsim.support.cells import unguarded

MAX_TEXT_BYTES = 1 << 28
"""Most bytes of a file that is read as a whole, such as a configuration, an index or a table."""
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(
    path: str | os.PathLike[str],
    *,
    error: type[NmsimError] = ContainerError,
    expected: str = "a regular file",
) -> io.FileIO:
    """Open a regular file for reading, without a buffer.

    Parameters
    ----------
    path : path
        Links are followed.
    error : type
        Kind of error to raise.
    expected : str
        What the file should be, for errors.

    Returns
    -------
    FileIO
        To be closed by the caller, such as by a `with` block.

    Raises
    ------
    NmsimError
        Of the kind `error`: no such file, one that may not be read, or something else than a regular file.

    Examples
    --------
    >>> open_regular("/dev/null")
    Traceback (most recent call last):
    nmsim.errors.ContainerError: /dev/null: is a device, expected a regular file; copy its content to a file first
    """
    try:
        _refuse_other_kinds(path, os.stat(path), error, expected)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            _refuse_other_kinds(path, os.fstat(handle), error, expected)
            return io.FileIO(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror or problem}") from problem
    except UnicodeError:
        raise error(f"{path}: cannot be read: no file can have this name") from None
    except ValueError as problem:
        # Python's own refusal of a name with a NUL; the errors of this package are a ValueError too.
        if isinstance(problem, NmsimError):
            raise
        raise error(f"{path}: cannot be read: no file can have this name") from None


def read_bytes(
    path: str | os.PathLike[str],
    *,
    error: type[NmsimError] = ContainerError,
    expected: str = "a regular file",
    most_bytes: int = MAX_TEXT_BYTES,
) -> bytes:
    """Read a whole regular file.

    Parameters
    ----------
    path, error, expected
        As for `open_regular`.
    most_bytes : int
        A longer file is refused before it is read.

    Raises
    ------
    NmsimError
        As for `open_regular`, or the file is too long, or it cannot be read to its end.
    """
    with open_regular(path, error=error, expected=expected) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most_bytes:
            raise error(f"{path}: has {size} bytes, expected {expected} of at most {most_bytes} bytes")
        try:
            # One byte more than allowed: a file of the system states a size of 0, and a file can grow.
            with io.BufferedReader(stream) as whole:
                data = whole.read(most_bytes + 1)
        except OSError as problem:
            raise error(f"{path}: cannot be read: {problem.strerror or problem}") from problem
    if len(data) > most_bytes:
        raise error(f"{path}: grows while it is read, expected {expected} of at most {most_bytes} bytes")
    return data


def read_text(
    path: str | os.PathLike[str], *, error: type[NmsimError] = ContainerError, encoding: str = "utf-8"
) -> str:
    """Read a whole text file; `encoding` is `utf-8`, or `utf-8-sig` for tables that may begin with a mark.

    Raises
    ------
    NmsimError
        As for `read_bytes`, or the file is not UTF-8.
    """
    try:
        return read_bytes(path, error=error).decode(encoding)
    except UnicodeDecodeError as problem:
        raise error(f"{path}: cannot be read as UTF-8: byte {problem.start}: {problem.reason}") from None


def csv_rows(
    lines: Iterable[str], *, where: object, error: type[NmsimError] = ContainerError
) -> list[list[str]]:
    """Split lines of CSV into cells, whose guards against formulas are taken off; `where` begins the error.

    Raises
    ------
    NmsimError
        A quote that is not closed, or a cell of more than 131,072 characters.
    """
    try:
        return [[unguarded(cell) for cell in row] for row in csv.reader(lines, strict=True)]
    except csv.Error as problem:
        raise error(f"{where}: no CSV: {problem}") from None


class Pieces:
    """An open file whose pieces are read by their place, and which must not change meanwhile.

    Parameters
    ----------
    path, error, expected
        As for `open_regular`.

    Attributes
    ----------
    size_bytes : int
        Length of the file when it was opened.

    Raises
    ------
    NmsimError
        As for `open_regular`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        error: type[NmsimError] = ContainerError,
        expected: str = "a regular file",
    ) -> None:
        self._path, self._error = Path(path), error
        self._stream = open_regular(path, error=error, expected=expected)
        status = os.fstat(self._stream.fileno())
        self.size_bytes = status.st_size
        self._version = (status.st_size, status.st_mtime_ns)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def read_into(self, view: memoryview, begin: int) -> None:
        """Fill a buffer with the bytes of the file from a place on.

        Parameters
        ----------
        view : memoryview
            Of bytes.
        begin : int
            Place of the first byte in the file.

        Raises
        ------
        NmsimError
            The file ends before, cannot be read, or was written since it was opened.
        """
        done = 0
        try:
            # Several threads may read, so that each read says its place. One read gives at most 2 GiB.
            while done < len(view):
                count = os.preadv(self._stream.fileno(), [view[done:]], begin + done)
                if not count:
                    break
                done += count
            status = os.fstat(self._stream.fileno())
        except OSError as problem:
            raise self._error(f"{self._path}: cannot be read: {problem.strerror or problem}") from problem
        if done < len(view) or (status.st_size, status.st_mtime_ns) != self._version:
            found = f"{self.size_bytes} bytes then, {status.st_size} now"
            raise self._error(
                f"{self._path}: was changed while it was read ({found}), expected a file that nobody writes; run again"
            )


def kind_of(mode: int) -> str:
    """Name what stands under a path that is no regular file, for errors.

    Parameters
    ----------
    mode : int
        `st_mode` of `os.stat`.

    Examples
    --------
    >>> kind_of(os.stat("/dev/null").st_mode)
    'a device'
    """
    return next((name for is_kind, name in KINDS if is_kind(mode)), "no regular file")


def _refuse_other_kinds(
    path: str | os.PathLike[str], status: os.stat_result, error: type[NmsimError], expected: str
) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = kind_of(status.st_mode)
    hint = "" if stat.S_ISDIR(status.st_mode) else "; copy its content to a file first"
    raise error(f"{path}: is {kind}, expected {expected}{hint}")
