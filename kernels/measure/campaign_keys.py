"""Checks of what a campaign file says: every error names the file, the table and the key."""

import difflib
import itertools
from typing import Any

from nmsim import encodings
from nmsim.errors import NmsimError, SpecError
from nmsim.pattern import Pattern


def check_keys(
    table: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...], where: str
) -> None:
    """Refuse a table with an unknown or a missing key."""
    for name in table:
        if name not in required + optional:
            near = difflib.get_close_matches(name, required + optional, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SpecError(f"{where}: {name}: unknown key{hint}; expected {', '.join(required + optional)}")
    for name in required:
        if name not in table:
            raise SpecError(f"{where}: {name}: missing; this key is required")


def check_lists(table: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    """Refuse what is no list, or a list of nothing."""
    for name in names:
        if not isinstance(table[name], list) or not table[name]:
            raise SpecError(f"{where}.{name}: {table[name]!r}, expected a list of at least one")


def check_choice(value: Any, allowed: tuple[str, ...], where: str) -> None:
    """Refuse what is none of some texts."""
    if value not in allowed:
        raise SpecError(f"{where}: {value!r}, expected one of {', '.join(allowed)}")


def check_kernels(names: list[Any], where: str, hint: str = "") -> None:
    """Refuse names of kernels that are no texts."""
    for kernel in names:
        if not isinstance(kernel, str):
            raise SpecError(f"{where}.kernels: {kernel!r}, expected the name of a kernel{hint}")


def check_variants(patterns: list[Any], names: list[Any], where: str) -> tuple[tuple[Pattern, str], ...]:
    """Every pattern with every encoding; refuse what is no pattern or encoding of nmsim."""
    try:
        parsed = [Pattern.parse(text) for text in patterns]
        known = [encodings.get(name).name for name in names]
    except (NmsimError, TypeError) as error:
        raise SpecError(f"{where}: {error}") from error
    return tuple(itertools.product(parsed, known))
