"""Numba's `njit`, with a cache that notices a change in any source a compiled function may be made of.

Numba keeps compiled code beside its module and makes it anew when that module changes. It looks at no other file, though the
code holds the functions that it calls and the constants that it takes from other modules. Here it is made anew when any module
of these packages changes that its module imports, directly or through others.
"""

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

IMPORT = re.compile(r"\n(?:from (\w[\w.]*) import (\([^)]*\)|.*)|import (\w[\w.]*))")
"""An absolute import at the top level of a module."""


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function as `numba.njit` does; `cache` keeps the code for as long as no source of it changes.

    Parameters
    ----------
    cache : bool
    **options
        Of `numba.njit`.

    Examples
    --------
    >>> @njit(nogil=True)
    ... def twice(x):
    ...     return 2 * x
    >>> twice(21)
    42
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)  # noqa: TID251
        if cache:
            dispatcher._cache = _SourcesCache(function)
        return dispatcher

    return compiled


class _SourcesCache(FunctionCache):
    """The cache of one function, stamped with all sources instead of the one of its module.

    Where sources are no files, as in a zip archive, numba's own stamp stays.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        with contextlib.suppress(OSError):
            stamp = digest(function.__module__, function.__code__.co_filename)
            self._cache_file = IndexDataCacheFile(self.cache_path, self._impl.filename_base, stamp)  # type: ignore[no-untyped-call]


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
