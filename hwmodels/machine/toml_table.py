"""What every hardware file in TOML needs: tables with known keys, and values written back."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

from nmsim.errors import SpecError


def checked_table(table: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Any:
    """Return a table as it is, if it has the keys that are required and no unknown ones.

    Parameters
    ----------
    table : object
    where : str
        Dotted place of the table in its file; empty for the file itself.
    required, optional : tuple of str

    Returns
    -------
    dict

    Raises
    ------
    SpecError
        Naming the key, and a near one for an unknown key.

    Examples
    --------
    >>> checked_table({"rows": 16}, "array", ("rows",))
    {'rows': 16}
    """
    if not isinstance(table, dict):
        raise SpecError(f"{where}: expected a table, got {table!r}")
    prefix = f"{where}." if where else ""
    for name in table:
        if name not in required + optional:
            near = difflib.get_close_matches(name, required + optional, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SpecError(
                f"{prefix}{name}: unknown key{hint}; expected {', '.join(required + optional) or 'none'}"
            )
    for name in required:
        if name not in table:
            raise SpecError(f"{prefix}{name}: missing; this key is required")
    return table


def toml_value(value: object) -> str:
    """Write a number, yes or no, text or tuple of them as TOML.

    Examples
    --------
    >>> toml_value(("fp16", "bf16")), toml_value(True)
    ('["fp16", "bf16"]', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_head(record: object, keys: Iterable[str], comment: str = "") -> list[str]:
    """Write what a file begins with: lines of comment and an empty one, then keys that stand in no table.

    Examples
    --------
    >>> toml_head(range(2, 9), ["start"], "Made by hand.")
    ['# Made by hand.', '', 'start = 2']
    """
    lines = [*(f"# {line}".rstrip() for line in comment.splitlines()), ""] if comment else []
    return lines + [f"{key} = {toml_value(getattr(record, key))}" for key in keys]
