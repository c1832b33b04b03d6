"""Files that appear together, and only when all of them are complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nmsim.errors import NmsimError
from nmsim.files.atomic import partial_name


@contextlib.contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write into; on success its files move to `folder`.

    A new `folder` takes its name in one step. In one that exists, each file replaces the one of its name; others
    stay as they are. An error or interrupt in the block leaves `folder` untouched and removes the temporary one,
    which lies beside it.

    Parameters
    ----------
    folder : Path
        Its parent must exist.

    Raises
    ------
    NmsimError
        `folder` is a file, a file of it is taken by a folder, or something cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "study"
    >>> with published(folder) as work:
    ...     written = (work / "report.html").write_text("all of it")
    >>> (folder / "report.html").read_text()
    'all of it'
    """
    refuse_output(folder)
    target = folder.resolve()
    work = partial_name(target)
    try:
        work.mkdir()
        yield work
        for path in work.iterdir():
            if (target / path.name).is_dir():
                raise NmsimError(
                    f"{folder / path.name}: is a folder, expected a file or nothing of that name"
                )
        if target.is_dir():
            for path in sorted(work.iterdir()):
                os.replace(path, target / path.name)
        else:
            os.rename(work, target)
    except OSError as error:
        raise NmsimError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def refuse_output(folder: Path) -> None:
    """Refuse an output folder that is a file, or whose parent does not exist.

    Raises
    ------
    NmsimError
    """
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise NmsimError(f"{folder}: is a file, expected the name of a folder to write")
    if not target.parent.is_dir():
        raise NmsimError(f"{folder}: there is no folder {target.parent}, expected an existing one")
