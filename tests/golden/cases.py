"""What the golden files hold, and how a file is written from one of the two roads.

Vectors marked `hand` were worked out from the definitions, not by running code. The generator refuses to
write a file when a road does not give exactly what they say.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

from golden.roads import Road

from nmsim.pattern import Pattern

FORMAT_VERSION = 1
FOLDER = Path(__file__).parent / "vectors"
PACKINGS = ("bitstream", "no_straddle:8", "no_straddle:32", "no_straddle:64", "power_of_two", "byte")
WRITTEN = "written by the reference; the fast codec gives the same bytes"


@dataclass(frozen=True)
class Case:
    """Masks to encode; what is known of the result beforehand."""

    name: str
    encoding: str
    pattern: str
    masks: list[int]
    origin: str = WRITTEN
    codes: list[int] | None = None
    code_lengths: list[int] | None = None
    streams: dict[str, str] = field(default_factory=dict)


ALL_2_OF_4 = [0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100]

HAND = [
    Case(
        "the six masks of 2:4 in numeric order",
        "bitmask",
        "2:4",
        ALL_2_OF_4,
        "hand: the codes are the masks; two codes a byte, the first in the low half",
        codes=[0x3, 0x5, 0x6, 0x9, 0xA, 0xC],
        streams={"bitstream": "53 96 ca", "byte": "03 05 06 09 0a 0c"},
    ),
    Case(
        "the six masks of 2:4 in numeric order",
        "index",
        "2:4",
        ALL_2_OF_4,
        "hand: positions (0,1) (0,2) (1,2) (0,3) (1,3) (2,3) as p0 + 4*p1; these are the six legal metadata "
        "nibbles of the PTX ISA for mma.sp, 4 8 9 C D E",
        codes=[0x4, 0x8, 0x9, 0xC, 0xD, 0xE],
        streams={"bitstream": "84 c9 ed", "power_of_two": "84 c9 ed"},
    ),
    Case(
        "the six masks of 2:4 in numeric order",
        "gap",
        "2:4",
        ALL_2_OF_4,
        "hand: R = bit_length(4-2+1) = 2; gaps (0,0) (0,1) (1,0) (0,2) (1,1) (2,0) as g0 + 4*g1",
        codes=[0x0, 0x4, 0x1, 0x8, 0x5, 0x2],
        streams={"bitstream": "40 81 25"},
    ),
    Case(
        "the six masks of 2:4 in numeric order",
        "gap:1",
        "2:4",
        ALL_2_OF_4,
        "hand: ESC = 1, so a gap g is g ones and a zero; 00 010 100 0110 1010 1100, first symbol lowest",
        codes=[0b00, 0b010, 0b001, 0b0110, 0b0101, 0b0011],
        code_lengths=[2, 3, 3, 4, 4, 4],
        streams={"bitstream": "28 56 03", "byte": "00 02 01 06 05 03"},
    ),
    Case(
        "an escape in the middle of a group",
        "gap:2",
        "2:8",
        [0b10000010, 0b11000000],
        "hand: ESC = 3; gaps (1,5) are symbols 1 3 2, gaps (6,0) are symbols 3 3 0 0",
        codes=[0b10_11_01, 0b00_00_11_11],
        code_lengths=[6, 8],
        streams={"bitstream": "ed 03", "power_of_two": "2d 0f", "byte": "2d 0f"},
    ),
    Case(
        "the six masks of 2:4 in numeric order",
        "combinatorial",
        "2:4",
        ALL_2_OF_4,
        "hand: the code is the place in this list; 1*8 + 2*64 + 3*512 + 4*4096 + 5*32768 = 0x2c688",
        codes=[0, 1, 2, 3, 4, 5],
        streams={
            "bitstream": "88 c6 02",
            "no_straddle:8": "08 1a 2c",
            "no_straddle:32": "88 c6 02 00",
            "power_of_two": "10 32 54",
            "byte": "00 01 02 03 04 05",
        },
    ),
    Case(
        "first, last and alternating mask of 8:16",
        "combinatorial",
        "8:16",
        [0x00FF, 0xFF00, 0x5555],
        "hand: C(16,8)-1 = 12869; even positions 0+1+4+15+56+210+792+3003 = 4081",
        codes=[0, 12869, 4081],
        streams={"bitstream": "00 40 91 1c ff 00", "byte": "00 00 45 32 f1 0f"},
    ),
    Case(
        "the six masks of 2:4: one in each half first, then both below, then both above",
        "tiled",
        "2:4",
        ALL_2_OF_4,
        "hand: bit 0 says where in the lower half, bit 1 where in the upper; "
        "4 + 0*8 + 1*64 + 2*512 + 3*4096 + 5*32768 = 0x2b444",
        codes=[4, 0, 1, 2, 3, 5],
        streams={"bitstream": "44 b4 02", "byte": "04 00 01 02 03 05"},
    ),
    Case(
        "masks of all five tiles of 4:8",
        "tiled",
        "4:8",
        [0b01101001, 0b00011110, 0b10000111, 0b01111000, 0b00001111, 0b11110000],
        "hand: halves 1 and 2 dealt, 000110; tile 64 and halves 0, 0; tile 64 and 3, 3 of 1000 and the complement of 0111; "
        "tile 80 and 3, 3; tile 96; tile 97",
        codes=[6, 64, 79, 95, 96, 97],
    ),
    Case(
        "a group size that is no power of two",
        "combinatorial",
        "5:7",
        [0b1101101],
        "hand: positions 0 2 3 5 6: C(0,1)+C(2,2)+C(3,3)+C(5,4)+C(6,5) = 0+1+1+5+6 = 13",
        codes=[13],
        streams={"bitstream": "0d"},
    ),
    Case(
        "a group size that is no power of two",
        "index",
        "5:7",
        [0b1101101],
        "hand: 3 bits a position, 0 + 2*8 + 3*64 + 5*512 + 6*4096 = 27344",
        codes=[27344],
        streams={"bitstream": "d0 6a"},
    ),
    Case(
        "three groups in pairs: the second digit of the last code is missing",
        "joint:2",
        "2:4",
        [0b1100, 0b0101, 0b0110],
        "hand: digits 5 1 2 in base 6: 5 + 1*6 = 11, and 2 + 0*6 = 2; 35 takes 6 bits; 11 + 2*64 = 0x8b",
        codes=[11, 2],
        streams={"bitstream": "8b 00"},
    ),
    Case(
        "ten groups of the last mask",
        "joint:10",
        "2:4",
        [0b1100] * 10,
        "hand: 6**10 - 1 = 60466175 = 0x39aa3ff, 26 bits for 40 elements",
        codes=[0x39AA3FF],
        streams={"bitstream": "ff a3 9a 03"},
    ),
    Case(
        "nothing to choose: no bits",
        "combinatorial",
        "4:4",
        [0b1111] * 3,
        "hand: C(4,4) = 1, so codes have no bits and the stream no bytes",
        codes=[0, 0, 0],
        streams=dict.fromkeys(PACKINGS, ""),
    ),
    Case(
        "nothing to choose: no bits",
        "index",
        "1:1",
        [1, 1, 1],
        "hand: ceil(log2 1) = 0 bits a position",
        codes=[0, 0, 0],
        streams=dict.fromkeys(PACKINGS, ""),
    ),
    Case(
        "no groups",
        "gap:1",
        "2:4",
        [],
        "hand: nothing gives nothing",
        codes=[],
        code_lengths=[],
        streams={"bitstream": "", "byte": ""},
    ),
    Case(
        "no groups",
        "combinatorial",
        "8:16",
        [],
        "hand: nothing gives nothing",
        codes=[],
        streams=dict.fromkeys(PACKINGS, ""),
    ),
]

ENCODINGS = (
    "bitmask",
    "index",
    "gap",
    "gap:1",
    "gap:2",
    "gap:3",
    "combinatorial",
    "joint",
    "joint:2",
    "joint:10",
    "tiled",
)
PATTERNS = (
    *("1:1", "1:2", "1:4", "2:4", "4:4", "2:8", "4:8", "6:8", "5:7", "4:16", "8:16"),
    *("16:32", "8:64", "32:64", "33:65", "4:256", "16:256"),
)

NOT_TILED = ("5:7", "33:65", "4:256", "16:256")
"""Patterns without codes of `tiled`: M is no power of two, or more than 64."""


def masks_apart(pattern: Pattern, count: int) -> list[int]:
    """`count` masks at even distances in numeric order, the first and the last among them, largest first.

    Numeric order is walked here without help from the package: the k-th mask is found by counting those that
    have a zero in the highest bit, then in the next one.
    """
    masks = []
    for i in range(count):
        place = (comb(pattern.m, pattern.n) - 1) * (count - 1 - i) // max(1, count - 1)
        mask, ones = 0, pattern.n
        for bit in range(pattern.m - 1, -1, -1):
            if ones and place >= comb(bit, ones):
                place -= comb(bit, ones)
                mask |= 1 << bit
                ones -= 1
        masks.append(mask)
    return masks


def cases(encoding: str) -> list[Case]:
    """All cases of an encoding: those worked by hand, then one for each pattern."""
    found = [case for case in HAND if case.encoding == encoding]
    for text in PATTERNS:
        pattern = Pattern.parse(text)
        if encoding == "tiled" and text in NOT_TILED:
            continue
        masks = masks_apart(pattern, 7 if pattern.m <= 16 else 3)
        found.append(Case(f"masks of {text} at even distances", encoding, text, masks))
    return found


def file_name(encoding: str) -> str:
    """Name of the golden file of an encoding."""
    return encoding.replace(":", "-") + ".json"


def vector(case: Case, road: Road) -> dict[str, Any]:
    """What a road makes of a case, as it stands in a golden file."""
    pattern = Pattern.parse(case.pattern)
    codes = road.encode(case.encoding, case.masks, pattern)
    lengths = road.lengths(case.encoding, codes, pattern)
    fixed = isinstance(lengths, int)
    streams = {}
    for policy in PACKINGS if fixed else [name for name in PACKINGS if not name.startswith("no_straddle")]:
        report = road.report(len(codes), lengths, policy)
        streams[policy] = {"hex": road.pack(codes, lengths, policy).hex(" "), **report}
    for what, known, found in (
        ("codes", case.codes, codes),
        ("code lengths", case.code_lengths, lengths),
        *((policy, known, streams[policy]["hex"]) for policy, known in case.streams.items()),
    ):
        if known is not None and known != found:
            raise AssertionError(
                f"{case.encoding} {case.pattern}, {case.name}: {what} by hand {known}, "
                f"{road.name} gives {found}"
            )
    return {
        "name": case.name,
        "origin": case.origin,
        "pattern": case.pattern,
        "masks": [write_mask(mask, pattern) for mask in case.masks],
        "groups_per_code": road.groups_per_code(case.encoding, pattern),
        "code_bits": road.code_bits(case.encoding, pattern),
        "code_lengths": None if fixed else lengths,
        "codes": [write_integer(code) for code in codes],
        "streams": streams,
    }


def document(encoding: str, road: Road) -> str:
    """The text of a golden file."""
    content = {
        "format_version": FORMAT_VERSION,
        "encoding": encoding,
        "reading": "a mask of M <= 64 is M binary digits, element 0 rightmost; a longer one, and an integer "
        "that needs more than 53 bits, is hexadecimal text; code_lengths is null where all have code_bits",
        "vectors": [vector(case, road) for case in cases(encoding)],
    }
    return dump(content)


def dump(content: Any) -> str:
    """JSON with one line a list of scalars."""

    def lines(value: Any, indent: int) -> str:
        flat = json.dumps(value, ensure_ascii=False)
        inner = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(value, dict | list) or (
            len(flat) + indent < 100 or not any(isinstance(v, dict | list | str) for v in inner)
        ):
            return flat
        space = " " * (indent + 1)
        if isinstance(value, dict):
            parts = [f"{space}{json.dumps(key)}: {lines(v, indent + 1)}" for key, v in value.items()]
            return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"
        return "[\n" + ",\n".join(space + lines(v, indent + 1) for v in value) + "\n" + " " * indent + "]"

    return lines(content, 0) + "\n"


def write_mask(mask: int, pattern: Pattern) -> str:
    """A mask as text: binary digits where a reader can count them."""
    return f"{mask:0{pattern.m}b}" if pattern.m <= 64 else f"{mask:#x}"


def write_integer(value: int) -> int | str:
    """An integer as every JSON reader takes it without loss."""
    return value if value < 2**53 else f"{value:#x}"


def read_mask(text: str) -> int:
    """The mask that `write_mask` wrote."""
    return int(text, 16) if text.startswith("0x") else int(text, 2)


def read_integer(value: int | str) -> int:
    """The integer that `write_integer` wrote."""
    return int(value, 16) if isinstance(value, str) else value


def compare(path: Path, text: str, road_name: str) -> str | None:
    """Compare a golden file with what a road writes; on a mismatch leave `<name>.new` beside it."""
    old = path.read_text(encoding="utf-8") if path.exists() else None
    if old == text:
        return None
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    return f"{path} differs from what the {road_name} road writes, see {new}"


DOCUMENTS: dict[str, Callable[[Road], str]] = {
    file_name(encoding): (lambda road, encoding=encoding: document(encoding, road)) for encoding in ENCODINGS
}
"""File name -> what writes it."""
