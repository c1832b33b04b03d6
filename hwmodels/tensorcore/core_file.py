"""Tensor cores as TOML files: those that ship, and the user's own."""

import difflib
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hwmodels.machine.toml_table import checked_table, toml_head, toml_value
from hwmodels.tensorcore.record import FLAGS, LISTS, NUMBERS, WORDS, SparseTensorCore
from nmsim.errors import NmsimError, SpecError
from nmsim.pattern import Pattern

PRESET_FOLDER = Path(__file__).parent / "presets"
SECTION_OF: Mapping[str, str] = MappingProxyType(
    {name: number.section for name, number in NUMBERS.items()}
    | dict(FLAGS)
    | {name: section for name, (section, _) in WORDS.items()}
    | dict(LISTS)
)
"""Key -> the section it stands in."""
SECTIONS = tuple(dict.fromkeys(number.section for number in NUMBERS.values()))
HEADER = ("id", "name")


def core_names() -> list[str]:
    """List the tensor cores that ship with the package.

    Examples
    --------
    >>> "flexible-8x16" in core_names()
    True
    """
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.toml"))


def load_core(core: str | Path | SparseTensorCore) -> SparseTensorCore:
    """Load a tensor core by name, or from a TOML file of the user's own.

    Parameters
    ----------
    core : str, Path or SparseTensorCore
        A name in any case (`core_names()`); or a path that ends in `.toml`; or a core, which comes back as it is.

    Returns
    -------
    SparseTensorCore

    Raises
    ------
    SpecError
        No core of that name, or a file with an unknown, missing or malformed key.

    Examples
    --------
    >>> load_core("flexible-8x16").macs_per_cycle(16)
    270336
    """
    if isinstance(core, SparseTensorCore):
        return core
    if isinstance(core, Path) or (isinstance(core, str) and core.endswith(".toml")):
        return read_core(Path(core))
    known = core_names()
    if not isinstance(core, str):
        raise SpecError(
            f"core {core!r} (type {type(core).__name__}): expected a name, a .toml path or a core"
        )
    name = core.strip().lower()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"core {core!r}: no tensor core of that name.{hint} Known: {', '.join(known)}; or give the path of a "
            ".toml file"
        )
    return _shipped(name)


@functools.cache
def _shipped(name: str) -> SparseTensorCore:
    return read_core(PRESET_FOLDER / f"{name}.toml")


def read_core(path: Path) -> SparseTensorCore:
    """Read and check one TOML file.

    Raises
    ------
    SpecError
        The file cannot be read, is no TOML, or has an unknown, missing or malformed key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        return _core(document)
    except NmsimError as error:
        raise SpecError(f"{path}: {error}") from error


def _core(document: dict[str, Any]) -> SparseTensorCore:
    checked_table(document, "", (*HEADER, *SECTIONS, "sources"))
    values: dict[str, Any] = {}
    for name in HEADER:
        if not isinstance(document[name], str) or not document[name]:
            raise SpecError(f"{name}={document[name]!r}: expected text")
        values[name] = document[name]
    for section in SECTIONS:
        keys = tuple(key for key, where in SECTION_OF.items() if where == section)
        values |= checked_table(document[section], section, keys)
    for name in LISTS:
        entry = values[name]
        if not isinstance(entry, list) or not all(isinstance(text, str) for text in entry):
            raise SpecError(f"{SECTION_OF[name]}.{name}={entry!r}: expected a list of text")
        values[name] = tuple(Pattern.parse(text) if name == "patterns" else text for text in entry)
    if not isinstance(document["sources"], dict):
        raise SpecError(f"sources={document['sources']!r}: expected a table")
    return SparseTensorCore(**values, sources=MappingProxyType(document["sources"]))


def to_toml(core: SparseTensorCore, comment: str = "") -> str:
    """Write a core as the text of a TOML file that `load_core` takes.

    Parameters
    ----------
    core : SparseTensorCore
    comment : str
        What the file begins with, line by line.

    Returns
    -------
    str

    Examples
    --------
    >>> to_toml(load_core("dense")).splitlines()[0]
    'id = "dense"'
    """
    lines = toml_head(core, HEADER, comment)
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        keys = (key for key, where in SECTION_OF.items() if where == section)
        lines += [f"{key} = {toml_value(getattr(core, key))}" for key in keys]
    lines += ["", "[sources]", *(f"{key} = {toml_value(text)}" for key, text in core.sources.items())]
    return "\n".join(lines) + "\n"
