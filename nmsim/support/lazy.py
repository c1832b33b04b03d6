"""Exports of a package that are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from nmsim.errors import brief


def explained(error: ModuleNotFoundError, package: str, extras: Mapping[str, str]) -> ModuleNotFoundError:
    """Say what to install for a module that is not there.

    Parameters
    ----------
    error : ModuleNotFoundError
        Of an import.
    package : str
        What needs the module.
    extras : mapping
        Name of a module that need not be installed -> what to install with pip to get it.

    Returns
    -------
    ModuleNotFoundError
        The error itself if its module is none of these.

    Examples
    --------
    >>> explained(ModuleNotFoundError(name="torch"), "kernels.ops", {"torch": "nmsim[gpu]"})
    ModuleNotFoundError("kernels.ops needs torch, which is not installed: pip install 'nmsim[gpu]'")
    """
    if error.name is None or error.name not in extras:
        return error
    return ModuleNotFoundError(
        f"{package} needs {error.name}, which is not installed: pip install '{extras[error.name]}'",
        name=error.name,
    )


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
            # An error that is explained already, by the module that it comes from, stays as it is.
            explanation = (
                error if " needs " in str(error) else explained(error, f"{package}.{name}", extras or {})
            )
            if explanation is error:
                raise
            raise explanation from error

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
