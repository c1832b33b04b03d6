"""Fields of records in the reference of the packages: their meaning stands in `Annotated`, and not in the docstring.

A record says of each field `name: Annotated[type, About("meaning")]` (`nmsim.support.schema`). This extension of griffe, which
reads the sources for mkdocstrings, adds them to the docstring of the record as a section of numpydoc.
"""

import ast
from typing import Any

from griffe import Class, Docstring, Extension

MARKS = {"About", "Number", "Table"}


class Fields(Extension):
    """Adds a section `Attributes` to records whose fields are declared with their meaning."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Read the declarations of a class when its members are known."""
        entries = [
            entry
            for name, attribute in cls.attributes.items()
            if (entry := _entry(name, attribute.annotation))
        ]
        if not entries:
            return
        text = cls.docstring.value if cls.docstring else ""
        cls.docstring = Docstring(
            "\n".join([text.rstrip(), "", "Attributes", "----------", *entries]),
            lineno=cls.lineno,
            parent=cls,
        )


def _entry(name: str, annotation: Any) -> str | None:
    """Name, type, meaning and unit of a field as lines of numpydoc; None if its declaration has no meaning."""
    tree = ast.parse(str(annotation or "None"), mode="eval").body
    if not (isinstance(tree, ast.Subscript) and ast.unparse(tree.value) == "Annotated"):
        return None
    assert isinstance(tree.slice, ast.Tuple)
    kind, *marks = tree.slice.elts
    for mark in marks:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) in MARKS:
            # griffe takes a text that could be a type, such as "cores", for a name.
            texts = [
                ast.unparse(a) if isinstance(a, ast.Name) else getattr(a, "value", "") for a in mark.args
            ]
            unit = f" Unit: {texts.pop(0)}." if ast.unparse(mark.func) == "Number" else ""
            return f"{name} : {ast.unparse(kind)}\n    {''.join(texts[:1])}{unit}"
    return None
