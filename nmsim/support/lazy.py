"""Exports of a package that are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from nmsim.errors import brief


def lazy_exports(
    package: str, names: Mapping[str, str], extras: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package, so that importing it imports none of its modules.

    The package imports the same names below `if TYPE_CHECKING`, for type checkers, and lists them in `__all__`.

    Parameters
    ----------
    package : str
        Its full name.
    names : mapping
        Full name of a module -> names that it exports, separated by blanks. A module that is exported itself has none.
    extras : mapping, optional
        Name of a package that need not be installed -> what to install with pip to get it.

    Returns
    -------
    tuple of two functions
        `__getattr__` and `__dir__`.

    Examples
    --------
    >>> get, names = lazy_exports("nmsim", {"nmsim.units": "ceil_div"})
    >>> get("ceil_div")(7, 2)
    4
    """
    modules = {name: module for module, text in names.items() for name in text.split()}
    submodules = {module.rpartition(".")[2]: module for module, text in names.items() if not text}

    def imported(name: str, module: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name not in (extras or {}):
                raise
            raise ModuleNotFoundError(
                f"{package}.{name} needs {error.name}, which is not installed: pip install '{(extras or {})[error.name]}'",
                name=error.name,
            ) from error

    def __getattr__(name: str) -> Any:
        if name in submodules:
            return imported(name, submodules[name])
        if name not in modules:
            raise AttributeError(f"module {brief(package)} has no attribute {brief(name)}")
        value = getattr(imported(name, modules[name]), name)
        # The next access finds it without this function.
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *submodules})

    return __getattr__, __dir__
