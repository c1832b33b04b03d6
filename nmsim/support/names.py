"""The name that a misspelt one was meant to be, for the end of an error."""

import difflib
from collections.abc import Iterable

from nmsim.errors import brief


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Ask for the nearest known name, whatever the case of letters; empty if none is near.

    Examples
    --------
    >>> did_you_mean("INDEX", ["bitmask", "index"]), did_you_mean("x", ["index"])
    ("; did you mean 'index'?", '')
    """
    near = difflib.get_close_matches(str(name).strip().lower(), list(known), n=1)
    return f"; did you mean {brief(near[0])}?" if near else ""
