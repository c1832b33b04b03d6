"""Names: the one that a misspelt one was meant to be, and ids of machines."""

import difflib
from collections.abc import Iterable

from nmsim.errors import brief

LONGEST_CHARS = 64
"""Most characters of a text that may be a misspelt name."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Ask for the nearest known name, whatever the case of letters; empty if none is near.

    Examples
    --------
    >>> did_you_mean("INDEX", ["bitmask", "index"]), did_you_mean("x", ["index"])
    ("; did you mean 'index'?", '')
    """
    text = str(name).strip().lower()
    # A long text is no slip, and the search for near names takes memory of many times its length.
    near = difflib.get_close_matches(text, list(known), n=1) if len(text) <= LONGEST_CHARS else []
    return f"; did you mean {brief(near[0])}?" if near else ""


def machine_id(name: str) -> str:
    """A device's name as an id, such as `"nvidia-h200"`.

    Examples
    --------
    >>> machine_id("NVIDIA H200")
    'nvidia-h200'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
