"""Encodings by name: the five modules behind one set of calls, the parameter of `gap:2` filled in."""

import re
from dataclasses import dataclass
from typing import Protocol

from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.reference import bitmask, combinatorial, gap, index, joint


class PlainModule(Protocol):
    """The functions of an encoding without a parameter."""

    def code_bits(self, pattern: Pattern) -> int:
        """Bits of a code."""
        ...

    def encode(self, masks: list[int], pattern: Pattern) -> list[int]:
        """Turn group masks into codes."""
        ...

    def decode(self, codes: list[int], pattern: Pattern) -> list[int]:
        """Turn codes into group masks."""
        ...


PLAIN: dict[str, PlainModule] = {"bitmask": bitmask, "index": index, "combinatorial": combinatorial}


@dataclass(frozen=True)
class ReferenceEncoding:
    """One encoding, with its parameter.

    Parameters
    ----------
    kind : str
        `bitmask`, `index`, `gap`, `combinatorial` or `joint`.
    parameter : int, optional
        R of `gap:R`, G of `joint:G`; what `gap` and `joint` choose themselves if not given.

    Examples
    --------
    >>> get("gap:1").encode([0b1100], Pattern(2, 4))
    [3]
    """

    kind: str
    parameter: int | None = None

    @property
    def name(self) -> str:
        """The name that `get` turns into this encoding."""
        return self.kind if self.parameter is None else f"{self.kind}:{self.parameter}"

    def groups_per_code(self, pattern: Pattern) -> int:
        """Groups that one code covers."""
        return joint.groups_per_code(pattern, self.parameter) if self.kind == "joint" else 1

    def code_bits(self, pattern: Pattern) -> int:
        """Bits of a code, of the longest one if they differ."""
        if self.kind == "gap":
            return gap.code_bits(pattern, self.parameter)
        if self.kind == "joint":
            return joint.code_bits(pattern, self.parameter)
        return PLAIN[self.kind].code_bits(pattern)

    def fixed_width(self, pattern: Pattern) -> bool:
        """Say whether all codes of a pattern have the same number of bits."""
        return self.kind != "gap" or gap.fixed_width(pattern, self.parameter)

    def encode(self, masks: list[int], pattern: Pattern) -> list[int]:
        """Turn group masks into codes."""
        if self.kind == "gap":
            return gap.encode(masks, pattern, self.parameter)
        if self.kind == "joint":
            return joint.encode(masks, pattern, self.parameter)
        return PLAIN[self.kind].encode(masks, pattern)

    def decode(self, codes: list[int], pattern: Pattern, n_groups: int | None = None) -> list[int]:
        """Turn codes into group masks."""
        if self.kind == "joint":
            return joint.decode(codes, pattern, n_groups, self.parameter)
        if n_groups is not None and n_groups != len(codes):
            raise EncodingError(f"{len(codes)} codes for {n_groups} groups: expected one per group")
        if self.kind == "gap":
            return gap.decode(codes, pattern, self.parameter)
        return PLAIN[self.kind].decode(codes, pattern)

    def code_lengths(self, codes: list[int], pattern: Pattern) -> list[int]:
        """Bits of each code."""
        if self.kind == "gap":
            return gap.code_lengths(codes, pattern, self.parameter)
        return [self.code_bits(pattern)] * len(codes)


def get(name: str) -> ReferenceEncoding:
    """Look an encoding up by its name.

    Raises
    ------
    EncodingError
        No encoding of that name, or a parameter it does not take.

    Examples
    --------
    >>> get("joint:10").code_bits(Pattern(2, 4))
    26
    """
    match = re.fullmatch(r"([a-z_]+)(?::(0|[1-9][0-9]{0,3}))?", name, flags=re.ASCII)
    kind, parameter = (match[1], match[2]) if match else (name, None)
    if kind not in ENCODINGS:
        raise EncodingError(f"encoding {name!r}: expected one of {', '.join(ENCODINGS)}")
    if parameter is None:
        return ENCODINGS[kind]
    if kind in PLAIN:
        raise EncodingError(f"encoding {name!r}: {kind} takes no parameter")
    if kind == "gap" and not 1 <= int(parameter) <= gap.MAX_RUN_BITS:
        raise EncodingError(f"encoding {name!r}: expected 1 to {gap.MAX_RUN_BITS} bits a symbol")
    if kind == "joint" and not 1 <= int(parameter) <= joint.MAX_GROUPS:
        raise EncodingError(f"encoding {name!r}: expected 1 to {joint.MAX_GROUPS} groups")
    return ReferenceEncoding(kind, int(parameter))


ENCODINGS = {kind: ReferenceEncoding(kind) for kind in ("bitmask", "index", "gap", "combinatorial", "joint")}
"""The encodings without a parameter, by name."""
