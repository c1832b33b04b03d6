"""The table of families: `families.toml` with inheritance resolved, and the defaults of `class_defaults.toml`."""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwmodels.models.records import Role
from nmsim.errors import SpecError, brief
from nmsim.support.schema import read_toml

FOLDER = Path(__file__).parent
MERGED = ("keys", "defaults", "derived")
"""Tables of a family that a family like it extends; every other entry is replaced."""


@dataclass(frozen=True)
class Block:
    """Linear layers of one part of a model layer, as expressions.

    Attributes
    ----------
    role : str
    layers : mapping of str to tuple of str
        Name -> expressions of N, K and the number of such matrices.
    pruned : bool
    experts, active : str
        Expressions; empty if every token passes each matrix.
    cache : mapping of str to str
        What attention keeps; empty if the part keeps nothing.
    """

    role: Role
    layers: Mapping[str, tuple[str, str, str]]
    pruned: bool
    experts: str
    active: str
    cache: Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """A family of models, as expressions over the keys of `config.json`.

    Attributes
    ----------
    name : str
    mixer, feed, once : str
        Blocks of a model layer, and of the model beside its layers.
    head : str
        "N x K" of the output head.
    embedding : str
        Elements of the tables that are looked up.
    layer_type, sparse : str
        Of a model layer if the file has no list.
    keys : mapping of str to tuple of str
        Our key -> its names in the file, the first one that is there counts.
    defaults : mapping
        Values or expressions for keys that a file leaves out.
    derived : mapping of str to str
        Keys that follow from others.
    headed : tuple of str
        Architectures that end in "Model" and have an output head nevertheless.
    """

    name: str
    mixer: str
    feed: str
    once: str
    head: str
    embedding: str
    layer_type: str
    sparse: str
    keys: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, Any]
    derived: Mapping[str, str]
    headed: tuple[str, ...]


@functools.cache
def table() -> dict[str, Any]:
    """The whole of `families.toml`."""
    return read_toml(FOLDER / "families.toml")


@functools.cache
def blocks() -> dict[str, Block]:
    """All blocks by name."""
    return {name: _block(entry) for name, entry in table()["blocks"].items()}


def _block(entry: Mapping[str, Any]) -> Block:
    layers = {}
    for name, shape in entry.get("layers", {}).items():
        parts = [*shape.split(" x "), "1"]
        layers[name] = (parts[0], parts[1], parts[2])
    return Block(
        entry["role"],
        layers,
        entry.get("pruned", True),
        entry.get("experts", ""),
        entry.get("active", ""),
        entry.get("cache", {}),
    )


@functools.cache
def _names() -> dict[str, str]:
    """Every value of `model_type` that has a family -> the name of the family."""
    families = table()["families"]
    return {other: name for name, entry in families.items() for other in (name, *entry.get("also", ()))}


def family_names() -> list[str]:
    """List the values of `model_type` whose layers are known, sorted.

    Examples
    --------
    >>> "qwen3_moe" in family_names()
    True
    """
    return sorted({*_names(), *wrappers()})


def wrappers() -> dict[str, str]:
    """Values of `model_type` of models with a text part -> the family of the text part if it says none."""
    wrapped: dict[str, str] = table()["wrappers"]
    return wrapped


@functools.cache
def _class_defaults() -> dict[str, dict[str, Any]]:
    return read_toml(FOLDER / "class_defaults.toml")


@functools.cache
def _entry(name: str) -> dict[str, Any]:
    """One family with what it takes from the family that it is like; its own entries come last."""
    own = table()["families"][name]
    base = _entry(own["like"]) if "like" in own else {}
    merged = {**base, **own}
    for each in MERGED:
        merged[each] = {**base.get(each, {}), **own.get(each, {})}
    return merged


@functools.cache
def find_family(model_type: str) -> Family | None:
    """The family of a `model_type`, or None if there is none."""
    if model_type not in _names():
        return None
    name = _names()[model_type]
    entry = _entry(name)
    # Defaults of a class are those of this very model_type, never of a family that it is like.
    defaults = {**entry["defaults"], **_class_defaults().get(model_type, {})}
    return Family(
        name,
        entry["mixer"],
        entry["feed"],
        entry.get("once", "nothing"),
        entry["head"],
        entry["embedding"],
        entry["layer_type"],
        entry["sparse"],
        {key: tuple(names) for key, names in entry["keys"].items()},
        defaults,
        entry["derived"],
        tuple(entry.get("headed", ())),
    )


def refusal(model_type: str) -> SpecError:
    """Make the error for a `model_type` without a family: why it is refused, or which names are near."""
    for reason, names in table()["refused"].items():
        if model_type in names:
            return SpecError(
                f"model_type={brief(model_type)}: {reason}, so its layers are not counted; expected a decoder-only model"
            )
    near = difflib.get_close_matches(model_type, family_names(), n=3)
    hint = f" such as {', '.join(near)}" if near else ""
    return SpecError(
        f"model_type={brief(model_type)}: unknown; expected one of the {len(family_names())} of "
        f"`nmsim model --families`{hint}; a family is added in hwmodels/models/families.toml"
    )
