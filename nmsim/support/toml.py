"""Records as the text of TOML files: what `nmsim.support.schema` reads, written."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nmsim.support.schema import Quantity, about, hints, is_record


def toml_value(value: object) -> str:
    """Write a number, yes or no, text, or list or table of them as TOML.

    Examples
    --------
    >>> toml_value(("fp16", "bf16")), toml_value(True)
    ('["fp16", "bf16"]', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Quantity):
        parts = (f"{name} = {toml_value(getattr(value, name))}" for name in ("value", "kind", "source"))
        return f"{{ {', '.join(parts)} }}"
    # JSON's strings are TOML's, except for DEL, which TOML escapes.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def to_toml(record: object, *, comment: str = "") -> str:
    """Write a record as the text of a TOML file that `read_record` takes.

    Parameters
    ----------
    record : object
        An instance of a `record`.
    comment : str
        What the file begins with, line by line.

    Returns
    -------
    str
    """
    lines = [*(f"# {line}".rstrip() for line in comment.splitlines()), ""] if comment else []
    return "\n".join([*lines, *_written(record)]) + "\n"


def _written(record: Any) -> Iterator[str]:
    """Lines of a record: keys, then sections, then tables and arrays of tables."""
    kind = type(record)
    values = {name: getattr(record, name) for name in hints(kind)}
    values = {name: value for name, value in values.items() if value is not None}
    sections = {name: about(kind, name).section for name in values}
    tables = {name: value for name, value in values.items() if not sections[name] and _is_table(value)}
    for section in dict.fromkeys(("", *sections.values())):
        yield from ("", f"[{section}]") if section else ()
        yield from _keys_of({n: v for n, v in values.items() if sections[n] == section and n not in tables})
    for name, value in tables.items():
        for entry in value if isinstance(value, tuple) else [value] if value else []:
            yield from ("", f"[[{name}]]" if isinstance(value, tuple) else f"[{name}]")
            yield from _keys_of(entry) if isinstance(entry, Mapping) else _written(entry)


def _keys_of(values: Mapping[str, object]) -> Iterator[str]:
    return (f"{name} = {toml_value(value)}" for name, value in values.items())


def _is_table(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and _is_table(value[0])
    return isinstance(value, Mapping) or is_record(type(value))
