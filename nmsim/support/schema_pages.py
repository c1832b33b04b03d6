"""What declared formats look like in an editor, as JSON Schema, and on a page, as a table of fields."""

import dataclasses
from collections.abc import Iterator
from typing import Any, cast, get_args, get_origin

from nmsim.support.schema import (
    About,
    Number,
    Parsed,
    Quantity,
    about,
    adapter,
    allowed_names,
    declaration,
    default_of,
    hints,
    is_record,
    plain_type,
)
from nmsim.support.toml import toml_value


def json_schema(kind: type, *, title: str) -> dict[str, Any]:
    """JSON Schema of a file format, for editors.

    Parameters
    ----------
    kind : type
        A `record`.
    title : str

    Returns
    -------
    dict
    """
    flat: dict[str, Any] = adapter(cast("Any", kind)).json_schema()
    properties, required = flat.pop("properties"), flat.pop("required", [])
    tables: dict[str, Any] = {"": {"properties": {}, "required": []}}
    for name, schema in properties.items():
        section = about(kind, name).section
        table = tables.setdefault(section, {"properties": {}, "required": []})
        table["properties"][name] = schema
        table["required"] += [name] if name in required else []
    top = tables.pop("")
    for section, table in tables.items():
        top["properties"][section] = {"type": "object", **table, "additionalProperties": False}
        top["required"] += [section] if table["required"] else []
    schema_uri = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": schema_uri, **flat, "title": title, **top, "additionalProperties": False}


def field_table(kind: type) -> str:
    """Markdown table of all fields of a file format, with those of the tables in it.

    Parameters
    ----------
    kind : type
        A `record`.
    """
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *_rows(kind, "")])


def _rows(kind: type, prefix: str) -> Iterator[str]:
    sections = [about(kind, name).section or name for name in hints(kind)]
    # Fields of a section stand together, in the place of its first field.
    for name in sorted(hints(kind), key=lambda name: sections.index(about(kind, name).section or name)):
        hint = hints(kind)[name]
        said, default = declaration(hint), default_of(kind, name)
        key = f"{prefix}{said.section}{'.' if said.section else ''}{name}"
        shown = "required" if default is dataclasses.MISSING else ""
        if not shown and default not in (None, (), {}):
            shown = f"`{toml_value(default)}`"
        value, inner = _described(hint, said)
        yield f"| `{key}` | {value} | {shown} | {said.meaning} |"
        if inner:
            yield from _rows(inner, f"{key}[]." if get_origin(plain_type(hint)) is tuple else f"{key}.")


def _described(hint: Any, said: About) -> tuple[str, type | None]:
    """A type in words, and the record whose fields follow."""
    fits = plain_type(hint)
    names = allowed_names(fits) or allowed_names(hint)
    words = next((part.words for part in getattr(hint, "__metadata__", ()) if isinstance(part, Parsed)), "")
    if isinstance(said, Number):
        text = f"{said.unit}, {said.range}"
        return (f"number with source: {text}" if fits is Quantity else text), None
    if names:
        return "one of " + ", ".join(f"`{name}`" for name in names), None
    if words:
        return words, None
    if get_origin(fits) is tuple:
        text, inner = _described(get_args(fits)[0], declaration(get_args(fits)[0]))
        return ("array of tables" if inner else f"list: {text}"), inner
    if is_record(fits):
        return "table", fits
    if isinstance(fits, type) and issubclass(fits, bool):
        return "`true` or `false`", None
    if get_origin(fits) is not None:
        entry = get_args(fits)[1]
        return f"table of {_described(entry, declaration(entry))[0]}", None
    return "text", None
