"""What nvdisasm prints, read: instructions, labels, loops and widths of loads."""

import re
from collections import Counter

GROUP_LOAD_BYTES = 16
"""What a thread of the GEMV loads to have the values of 16 elements."""
WIDTHS_BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def instructions(listing: str) -> tuple[list[str], dict[str, int]]:
    """Read what nvdisasm prints: instructions in order, and where each label points among them.

    Examples
    --------
    >>> instructions(".L_x_0:\\n  /*0010*/  @!P0 BRA `(.L_x_0) ;\\n")
    (['@!P0 BRA `(.L_x_0)'], {'.L_x_0': 0})
    """
    body: list[str] = []
    targets: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            targets[label[1]] = len(body)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            body.append(found[1])
    return body, targets


def controls(listing: str) -> list[int]:
    """Read the upper 64 bits of each instruction's code, of what `nvdisasm -hex` prints.

    Examples
    --------
    >>> controls("  /*0010*/  NOP ;  /* 0x0000000000007918 */\\n                  /* 0x000fc00000000000 */\\n")
    [4433230883192832]
    """
    return [int(found, 16) for found in re.findall(r"(?m)^\s+/\* (0x[0-9a-f]{16}) \*/\s*$", listing)]


def operation(instruction: str) -> str:
    """Name an instruction's operation, without its predicate.

    Examples
    --------
    >>> operation("@!P0 LDG.E.128 R8, desc[UR6][R16.64]")
    'LDG.E.128'
    """
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def inner_loop(body: list[str], targets: dict[str, int]) -> slice:
    """Find the inner loop with the most unconditional 16-byte loads: an empty slice if none is there.

    Of equals it is the one that loads most bytes unconditionally, then the longest.
    """
    loops = []
    for end, instruction in enumerate(body):
        if operation(instruction).startswith("BRA") and (label := re.search(r"`\((\.L_\w+)\)", instruction)):
            start = targets.get(label[1], len(body))
            if start < end:
                loops.append((start, end + 1))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    found = max(inner, key=lambda a: (*_loads_always(body[slice(*a)]), a[1] - a[0]), default=(0, 0))
    return slice(*found)


def _loads_always(body: list[str]) -> tuple[int, int]:
    """Count the unconditional loads of 16 bytes, and the bytes of all unconditional loads."""
    found = load_widths_bytes([line for line in body if not line.startswith("@")])
    return found[GROUP_LOAD_BYTES], sum(width * count for width, count in found.items())


def load_widths_bytes(body: list[str]) -> Counter[int]:
    """Count loads from global memory, to registers or to shared memory, by the bytes that a thread gets.

    Examples
    --------
    >>> load_widths_bytes(["LDG.E.128 R8, desc[UR6][R16.64]", "LDG.E.EL R2, desc[UR6][R4.64]"])
    Counter({16: 1, 4: 1})
    """
    names = [operation(instruction).split(".") for instruction in body]
    return Counter(
        next((WIDTHS_BYTES[part] for part in name if part in WIDTHS_BYTES), 4)
        for name in names
        if name[0] in ("LDG", "LDGSTS")
    )


def wide_loads(body: list[str]) -> int:
    """Count the unconditional loads of 16 bytes."""
    return _loads_always(body)[0]
