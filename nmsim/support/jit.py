"""Numba's `njit`, with a cache that notices a change in any source a compiled function may be made of.

Numba keeps compiled code beside its module and makes it anew when that module changes. It looks at no other file, though the
code holds the functions that it calls and the constants that it takes from other modules. Here it is made anew when any module
of these packages changes that its module imports, directly or through others.

Numba reads its files with `pickle`, and a damaged one ends this run and every later one. Here no state of these files ends a
run, and the code is compiled anew. A folder that others may write is not used. A folder below the user's cache
folder takes its place (mode 0700). If there is none, nothing is kept, and one warning says so.
"""

import contextlib
import functools
import glob
import hashlib
import importlib
import os
import pickle
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, cast

numba: Any
try:
    numba = importlib.import_module("numba")
except ImportError:  # A machine with a GPU may have torch, Triton and numpy alone: only calls of compiled functions need numba.
    numba = None

IMPORT = re.compile(r"\n(?:from (\w[\w.]*) import (\([^)]*\)|.*)|import (\w[\w.]*))")
"""An absolute import at the top level of a module."""
MARK = b"nmsim code 1\n"
"""First bytes of a file that is kept."""
OTHERS_MAY_WRITE = 0o022
"""Bits of a mode that let the group or all users write."""
LEFT_OVER_S = 3600.0
"""Age from which an unfinished file is taken for one of a process that was killed."""


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function as `numba.njit` does; `cache` keeps the code for as long as no source of it changes.

    Parameters
    ----------
    cache : bool
    **options
        Of `numba.njit`.

    Returns
    -------
    callable
        The compiled function. Where numba cannot be imported, one that raises a `MissingPackageError`.

    Examples
    --------
    >>> @njit(nogil=True)
    ... def twice(x):
    ...     return 2 * x
    >>> twice(21)
    42
    """

    def compiled(function: Callable[..., Any]) -> Any:
        if numba is None:
            return _without_numba(function)
        dispatcher = numba.njit(**options)(function)
        if cache:
            # Compiled code saves time and nothing else: whatever goes wrong with it must not end a run.
            try:
                dispatcher._cache = _SourcesCache(function)
            except Exception as problem:
                _tell_not_kept(f"{problem}")
        return dispatcher

    return compiled


def _without_numba(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refuse(*given: object, **named: object) -> Any:
        from nmsim.errors import MissingPackageError

        raise MissingPackageError(
            f"{function.__module__}.{function.__name__}: needs numba, which is not here"
        )

    return refuse


class _SourcesCache:
    """The cache of one function: numba's, with other files, stamped with all sources instead of the one of its module.

    Where sources are no files, as in a zip archive, numba's own stamp stays.

    Raises
    ------
    OSError
        No folder that only this user may write.
    RuntimeError
        Numba finds no folder.
    AttributeError, ImportError
        Numba keeps code in another way than the versions that this was written for.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        from numba.core.caching import FunctionCache

        self._inner = cast(Any, FunctionCache(function))  # type: ignore[no-untyped-call]
        stamp = self._inner._cache_file._source_stamp
        with contextlib.suppress(OSError):
            stamp = digest(function.__module__, function.__code__.co_filename)
        self.cache_path: str = self._inner.cache_path
        if not _only_we_write(self.cache_path):
            self.cache_path = _private_folder(function.__code__.co_filename)
        self._inner._cache_file = _CodeFiles(self.cache_path, self._inner._impl.filename_base, stamp)
        self.enable, self.disable, self.flush = self._inner.enable, self._inner.disable, self._inner.flush

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load what was kept for a signature; None if that fails, and numba compiles it."""
        try:
            return self._inner.load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for a signature; a warning if that fails, since this run needs it no more."""
        try:
            self._inner.save_overload(sig, data)
        except Exception as problem:
            _tell_not_kept(f"{self.cache_path}: {problem}")


class _CodeFiles:
    """The files of one function: an index from signatures to files of code (`.nbi`), and these (`.nbc`).

    Each begins with a digest of its content. A file that is damaged, of another version or of another user counts as
    missing. The code is then compiled anew, and the file is replaced in one step.
    """

    def __init__(self, folder: str, base: str, stamp: Any) -> None:
        self._folder, self._base = folder, base
        self._state = f"{base} {numba.__version__} {stamp!r}"
        self._index_path = os.path.join(folder, f"{base}.nbi")

    def save(self, key: Any, data: Any) -> None:
        """Write the code, then the index.

        The name of a file of code follows from what it holds. So two processes that compile at once never give one name to
        two codes. At worst one of them drops the other's line of the index, and that code is compiled once more.
        """
        label = f"{self._state} {key!r}"
        name = f"{self._base}.{hashlib.sha256(label.encode()).hexdigest()[:16]}.nbc"
        self._write(os.path.join(self._folder, name), (label, data))
        names = self._index() | {key: name}
        self._write(self._index_path, (self._state, names))
        self._remove_others(set(names.values()))

    def load(self, key: Any) -> Any:
        """Read the code of a signature; None if there is none that can be trusted."""
        name = self._index().get(key)
        path = os.path.join(self._folder, name or "")
        return None if name is None else _read_sealed(path, f"{self._state} {key!r}")

    def flush(self) -> None:
        """Forget all code of the function."""
        self._write(self._index_path, (self._state, {}))

    def _index(self) -> dict[Any, str]:
        found = _read_sealed(self._index_path, self._state)
        return found if isinstance(found, dict) else {}

    def _write(self, path: str, content: Any) -> None:
        from numba.core.serialize import dumps

        raw = dumps(content)  # type: ignore[no-untyped-call]
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f"{os.path.basename(path)}.tmp.", dir=self._folder)
        try:
            with open(handle, "wb") as stream:
                stream.write(MARK + hashlib.sha256(raw).digest() + raw)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    def _remove_others(self, named: set[str]) -> None:
        """Remove files of code that the index does not name, and files that a killed process left unfinished."""
        start = glob.escape(os.path.join(self._folder, self._base))
        others = [path for path in glob.glob(f"{start}.*.nbc") if os.path.basename(path) not in named]
        for path in glob.glob(f"{start}.*tmp.*"):
            with contextlib.suppress(OSError):
                others += [path] if time.time() - os.stat(path).st_mtime > LEFT_OVER_S else []
        for path in others:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _read_sealed(path: str, label: str) -> Any:
    """What a file holds under a label, if it is whole and belongs to this user; None otherwise."""
    try:
        with open(path, "rb") as stream:
            if not _is_ours(os.fstat(stream.fileno())):
                return None
            text = stream.read()
        start = len(MARK) + hashlib.sha256().digest_size
        raw = text[start:]
        if text[:start] != MARK + hashlib.sha256(raw).digest():
            return None
        # A whole file may still name a module or a class that is gone.
        found, content = pickle.loads(raw)
        return content if found == label else None
    except Exception:
        return None


@functools.cache
def _only_we_write(folder: str) -> bool:
    """Say whether a folder belongs to this user and no other may write it: reading a file of it runs the file's code."""
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return _is_ours(status) and (os.name == "nt" or not status.st_mode & OTHERS_MAY_WRITE)


@functools.cache
def _private_folder(source: str) -> str:
    """Make a folder for the code of a source file that only this user may use, below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    below = hashlib.sha256(os.path.dirname(os.path.abspath(source)).encode()).hexdigest()[:16]
    folder = os.path.join(base, "nmsim", "code", below)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if not _only_we_write(folder):
        raise OSError(f"{folder}: others may write it")
    return folder


def _is_ours(status: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


@functools.cache
def _told() -> list[str]:
    """What was said of code that is not kept; one line per process is enough."""
    return []


def _tell_not_kept(problem: str) -> None:
    if not _told():
        _told().append(problem)
        warnings.warn(
            f"compiled functions are not kept, so each run compiles them anew: {problem[:200]}; set NUMBA_CACHE_DIR to a "
            "folder that only this user may write",
            RuntimeWarning,
            stacklevel=3,
        )


@functools.cache
def digest(module: str, file: str) -> str:
    """Digest the sources of a module and of all modules of its package and of nmsim that it imports, or they in turn.

    Parameters
    ----------
    module : str
        Its full name.
    file : str
        Its file.

    Examples
    --------
    >>> digest(__name__, __file__) == digest("nmsim.support.parallel", __file__.replace("jit", "parallel"))
    False
    """
    path = os.path.abspath(file)
    names = module.split(".")
    root = path
    for _ in range(len(names) + (os.path.basename(path) == "__init__.py")):
        root = os.path.dirname(root)
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        source = waiting.pop()
        if source not in found:
            found[source], imported = _read(source, root, names[0])
            waiting.extend(imported)
    listed = "".join(f"{source[len(root) :]} {found[source]}\n" for source in sorted(found))
    return hashlib.sha256(listed.encode()).hexdigest()


@functools.cache
def _read(source: str, root: str, package: str) -> tuple[str, list[str]]:
    """Digest of a file, and the files of the modules that it imports at its top level, from its package or nmsim."""
    with open(source, "rb") as file:
        text = file.read()
    imported = []
    for origin, names, module in IMPORT.findall("\n" + text.decode()):
        start = origin or module
        if start.split(".", 1)[0] not in (package, "nmsim"):
            continue
        modules = [_file(root, f"{start}.{name}") for name in re.findall(r"\w+", names)]
        if None in modules or not modules:
            modules.append(_file(root, start))
        imported += [path for path in modules if path is not None]
    return hashlib.sha256(text).hexdigest(), imported


@functools.cache
def _file(root: str, module: str) -> str | None:
    """Where a module is, if it is one."""
    place = os.path.join(root, *module.split("."))
    return next(
        (path for path in (f"{place}.py", os.path.join(place, "__init__.py")) if os.path.exists(path)), None
    )
