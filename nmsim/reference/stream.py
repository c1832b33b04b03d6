"""Encodings by name, and the whole way of a row's metadata: group masks -> codes -> stream, and back.

The six modules of encodings stand behind one set of calls, with the parameter of `gap:2` filled in.
"""

import re
from dataclasses import dataclass
from typing import Any

from nmsim.errors import EncodingError, brief
from nmsim.pattern import Pattern
from nmsim.reference import bitmask, combinatorial, gap, index, joint, packing, tiled

MODULES: dict[str, Any] = {
    "bitmask": bitmask, "index": index, "gap": gap, "combinatorial": combinatorial, "joint": joint,
    "tiled": tiled,
}  # fmt: skip
"""The modules of the encodings. Functions of `gap` and `joint` take the parameter last, those of the others take none."""


@dataclass(frozen=True)
class ReferenceEncoding:
    """One encoding, with its parameter.

    Parameters
    ----------
    kind : str
        `bitmask`, `index`, `gap`, `combinatorial`, `joint` or `tiled`.
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

    @property
    def _parameters(self) -> tuple[int | None, ...]:
        return (self.parameter,) if self.kind in ("gap", "joint") else ()

    def groups_per_code(self, pattern: Pattern) -> int:
        """Groups that one code covers."""
        return joint.groups_per_code(pattern, self.parameter) if self.kind == "joint" else 1

    def code_bits(self, pattern: Pattern) -> int:
        """Bits of a code, of the longest one if they differ."""
        return int(MODULES[self.kind].code_bits(pattern, *self._parameters))

    def fixed_width(self, pattern: Pattern) -> bool:
        """Say whether all codes of a pattern have the same number of bits."""
        return self.kind != "gap" or gap.fixed_width(pattern, self.parameter)

    def encode(self, masks: list[int], pattern: Pattern) -> list[int]:
        """Turn group masks into codes."""
        codes: list[int] = MODULES[self.kind].encode(masks, pattern, *self._parameters)
        return codes

    def decode(self, codes: list[int], pattern: Pattern, n_groups: int | None = None) -> list[int]:
        """Turn codes into group masks."""
        if self.kind == "joint":
            return joint.decode(codes, pattern, n_groups, self.parameter)
        if n_groups is not None and n_groups != len(codes):
            raise EncodingError(f"{len(codes)} codes for {n_groups} groups: expected one per group")
        masks: list[int] = MODULES[self.kind].decode(codes, pattern, *self._parameters)
        return masks

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
        raise EncodingError(f"encoding {brief(name)}: expected one of {', '.join(ENCODINGS)}")
    if parameter is None:
        return ENCODINGS[kind]
    if kind not in ("gap", "joint"):
        raise EncodingError(f"encoding {brief(name)}: {kind} takes no parameter")
    if kind == "gap" and not 1 <= int(parameter) <= gap.MAX_RUN_BITS:
        raise EncodingError(f"encoding {brief(name)}: expected 1 to {gap.MAX_RUN_BITS} bits a symbol")
    if kind == "joint" and not 1 <= int(parameter) <= joint.MAX_GROUPS:
        raise EncodingError(f"encoding {brief(name)}: expected 1 to {joint.MAX_GROUPS} groups")
    return ReferenceEncoding(kind, int(parameter))


ENCODINGS = {kind: ReferenceEncoding(kind) for kind in MODULES}
"""The encodings without a parameter, by name."""


def write(
    masks: list[int], pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> bytes:
    """Encode group masks and pack the codes.

    Raises
    ------
    EncodingError
        An unknown encoding, or a mask that does not have exactly N ones among its low M bits.
    BitstreamError
        An unknown packing, or one that cannot hold codes that differ in length.

    Examples
    --------
    >>> write([0b0110, 0b1100, 0b0011], Pattern(2, 4)).hex()  # codes 2, 5, 0 of 3 bits
    '2a00'
    """
    chosen = get(encoding)
    codes = chosen.encode(masks, pattern)
    return packing.pack(codes, _lengths(chosen, codes, pattern), policy)


def report(
    masks: list[int], pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> packing.Report:
    """Count what the bits of the stream that `write` makes are spent on.

    Examples
    --------
    >>> report([0b0110, 0b1100, 0b0011], Pattern(2, 4))
    Report(payload_bits=9, padding_bits=0, alignment_bits=7, stream_bytes=2)
    """
    chosen = get(encoding)
    codes = chosen.encode(masks, pattern)
    return packing.report(len(codes), _lengths(chosen, codes, pattern), policy)


def read_codes(
    stream: bytes, n_codes: int, pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> list[int]:
    """Read a stream's codes.

    Raises
    ------
    BitstreamError
        The stream is truncated, too long, or has a bit that is not zero where no code lies.
    EncodingError
        The end of a code cannot be found, since a position reaches M.

    Examples
    --------
    >>> read_codes(bytes.fromhex("2a00"), 3, Pattern(2, 4))
    [2, 5, 0]
    """
    chosen = get(encoding)
    if chosen.fixed_width(pattern):
        return packing.unpack(stream, n_codes, chosen.code_bits(pattern), policy)

    def length_at(bits: list[int], start: int) -> int:
        return gap.length_at(bits, start, pattern, chosen.parameter)

    return packing.unpack(stream, n_codes, length_at, policy)


def read(
    stream: bytes, n_groups: int, pattern: Pattern, encoding: str = "combinatorial", policy: str = "bitstream"
) -> list[int]:
    """Read a stream's group masks.

    Raises
    ------
    BitstreamError
        The stream is truncated, too long, or has a bit that is not zero where no code lies.
    EncodingError
        A code stands for no mask.

    Examples
    --------
    >>> [bin(mask) for mask in read(bytes.fromhex("2a00"), 3, Pattern(2, 4))]
    ['0b110', '0b1100', '0b11']
    """
    if n_groups < 0:
        raise EncodingError(f"n_groups={n_groups}: expected 0 or more")
    chosen = get(encoding)
    n_codes = -(-n_groups // chosen.groups_per_code(pattern))
    return chosen.decode(read_codes(stream, n_codes, pattern, encoding, policy), pattern, n_groups)


def _lengths(chosen: ReferenceEncoding, codes: list[int], pattern: Pattern) -> int | list[int]:
    if chosen.fixed_width(pattern):
        return chosen.code_bits(pattern)
    return chosen.code_lengths(codes, pattern)
