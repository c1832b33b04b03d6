"""How a mask of N in M becomes bits: one file an encoding, found by name.

A name is a word, or a word and a number: `gap`, `gap:2`, `joint:10`.
"""

import functools
import re

from nmsim.encodings.base import Encoding, EncodingSpec
from nmsim.encodings.bitmask import Bitmask
from nmsim.encodings.combinatorial import Combinatorial
from nmsim.encodings.gap import Gap
from nmsim.encodings.index import Index
from nmsim.encodings.joint import Joint
from nmsim.encodings.tiled import Tiled
from nmsim.encodings.unstructured import coo_bits, csr_bits
from nmsim.errors import EncodingError, brief
from nmsim.pattern import Pattern
from nmsim.support.names import did_you_mean

__all__ = ["Encoding", "EncodingSpec", "coo_bits", "csr_bits", "get", "names", "specs"]

CLASSES: dict[str, type[Encoding]] = {
    kind.spec.name: kind for kind in (Bitmask, Index, Gap, Combinatorial, Joint, Tiled)
}


@functools.cache
def get(name: str) -> Encoding:
    """Find an encoding.

    Parameters
    ----------
    name : str
        `bitmask`, `index`, `gap`, `gap:R`, `combinatorial`, `joint`, `joint:G` or `tiled`.

    Raises
    ------
    EncodingError
        No such name, or a number if none belongs or out of its range.

    Examples
    --------
    >>> from nmsim import Pattern
    >>> get("joint:10").code_bits(Pattern(2, 4))
    26
    """
    match = (
        re.fullmatch(r"([a-z_]+)(?::([1-9][0-9]{0,99}|0))?", name, re.ASCII)
        if isinstance(name, str)
        else None
    )
    if match is None or match[1] not in CLASSES:
        word, colon, number = name.partition(":") if isinstance(name, str) else (str(name), "", "")
        if word in CLASSES and colon:
            raise EncodingError(
                f"encoding {brief(name)}: expected a positive whole number after {word}:, got {brief(number)}"
            )
        raise EncodingError(
            f"encoding {brief(name)}: expected one of {', '.join(CLASSES)}{did_you_mean(word, CLASSES)}"
        )
    kind, number = CLASSES[match[1]], match[2]
    if number is None:
        return kind()
    if not kind.spec.parameter:
        raise EncodingError(f"encoding {brief(name)}: {match[1]} takes no number")
    return kind(int(number))  # type: ignore[call-arg]


def names(pattern: Pattern | None = None) -> list[str]:
    """List the encodings' names, without parameters; of a pattern, those that have codes for it.

    Examples
    --------
    >>> set(names()) - set(names(Pattern(3, 7)))
    {'tiled'}
    """
    return [name for name, kind in CLASSES.items() if pattern is None or kind().supports(pattern)]


def specs() -> list[EncodingSpec]:
    """List the records that describe the encodings."""
    return [kind.spec for kind in CLASSES.values()]
