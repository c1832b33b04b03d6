"""How often a loop waits for memory in series: the serial round trips of one turn.

A warp issues in order. It stops at the first instruction that reads a register which a load has not filled yet. So loads that
wait for the results of other loads, or stand behind such a wait, pay one latency after the other. What a turn asks for and only
the next turn reads waits once per turn. The count is that of the steady state: turns follow each other.
"""

import re
from collections.abc import Iterable

from kernels.compiled.listing import operation

L1_TRIP = 0.1
"""Of a round trip to DRAM, the time of a load that finds its data in L1: some 40 of 470 cycles. Source: Luo et al., 2024, arXiv
2402.13499, table IV, measured on an A100, an H100 and an RTX 4090."""
TURNS = 8
"""Turns that are followed, of which the later half counts."""
WAIT_BIT, WRITE_BIT, UNSET = 52, 46, 7
"""Of the upper half of an instruction's code: six bits, one per barrier waited for; and the barrier that its result sets."""
NO_RESULT = re.compile(r"ST|RED|BRA|EXIT|BAR|NOP|CCTL|MEMBAR|LDGSTS|LDGDEPBAR|DEPBAR|WARP|YIELD")


def is_streamed(name: str) -> bool:
    """Say whether a load's data comes from DRAM: it is marked to be evicted first, as what is read once is.

    Examples
    --------
    >>> is_streamed("LDG.E.EF.128"), is_streamed("LDG.E.U16")
    (True, False)
    """
    return name.startswith(("LDG.", "LDGSTS.")) and "EF" in name.split(".")


def serial_trips(body: Iterable[str]) -> float:
    """Count the round trips to memory that follow each other in one turn of a loop.

    Parameters
    ----------
    body : iterable of str
        Instructions of the loop in order, as nvdisasm prints them.

    Returns
    -------
    float
        Round trips to DRAM per turn; a load that L1 serves counts as `L1_TRIP`. Loads marked `EF` come from DRAM. If no load
        of the loop is so marked, all do. 0 if nothing is loaded.

    Examples
    --------
    A load whose address another load brought; then the same with the first carried round the loop:

    >>> serial_trips(["LDG.E.EF R1, [R8.64]", "LDG.E.EF R2, [R1.64]", "FADD R3, R3, R2"])
    2.0
    >>> serial_trips(["IADD3 R4, R1, R8, RZ", "LDG.E.EF R1, [R8.64]", "LDG.E.U16 R2, [R4.64]", "FADD R3, R3, R2"])
    1.0
    """
    listed = [(line, operation(line), *_registers(line)) for line in body]
    marked = any(is_streamed(name) for _, name, _, _ in listed)
    ready: dict[int, float] = {}
    now, halfway, batch = 0.0, 0.0, 0.0
    batches: list[float] = []
    for turn in range(TURNS):
        if turn == TURNS // 2:
            halfway = now
        for line, name, written, read in listed:
            # In-order issue: whoever waits holds up all that follow. A register is not overwritten while a load fills it.
            now = max([now, *(ready.get(register, 0.0) for register in (*read, *written))])
            far = is_streamed(name) if marked else name.startswith(("LDG.", "LDGSTS."))
            arrival = now + (1.0 if far else L1_TRIP)
            if name.startswith("LDGSTS"):
                batch = max(batch, arrival)
            elif name.startswith("LDGDEPBAR"):
                batches.append(batch)
                batch = 0.0
            elif name.startswith("DEPBAR") and (left := re.search(r"SB\d, (0x[0-9a-f]+)", line)):
                # Copies to shared memory are waited for here: all but as many batches as the instruction leaves.
                now = max([now, *batches[: len(batches) - int(left[1], 16)]])
            ready |= dict.fromkeys(written, arrival if name.split(".")[0] == "LDG" else now)
    return round((now - halfway) / (TURNS - TURNS // 2), 6)


def barrier_trips(body: Iterable[str], controls: Iterable[int]) -> float:
    """Count the same by what the compiler wrote: which barrier a load sets, and which ones an instruction waits for.

    There are six barriers. Loads that share one are waited for together, so that this count may be above `serial_trips`.

    Parameters
    ----------
    body : iterable of str
        Instructions of the loop.
    controls : iterable of int
        The upper 64 bits of each instruction's code, as `nvdisasm -hex` prints them on a line of their own.

    Returns
    -------
    float
        As `serial_trips`.

    Source
    ------
    Bits of the code: Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking", 2018, section 2.1;
    newer architectures kept them.
    """
    listed = [(operation(line), control) for line, control in zip(body, controls, strict=True)]
    marked = any(is_streamed(name) for name, _ in listed)
    ready = [0.0] * 8
    now, halfway = 0.0, 0.0
    for turn in range(TURNS):
        if turn == TURNS // 2:
            halfway = now
        for name, control in listed:
            waited = control >> WAIT_BIT & 0x3F
            now = max([now, *(ready[barrier] for barrier in range(6) if waited >> barrier & 1)])
            far = is_streamed(name) if marked else name.startswith("LDG.")
            if name.startswith("LDG.") and (barrier := control >> WRITE_BIT & 7) != UNSET:
                ready[barrier] = max(ready[barrier], now + (1.0 if far else L1_TRIP))
    return round((now - halfway) / (TURNS - TURNS // 2), 6)


def _registers(instruction: str) -> tuple[list[int], list[int]]:
    """The registers that an instruction writes, and those that it reads."""
    name = operation(instruction)
    operands = re.sub(r"^@!?U?P\w+\s+", "", instruction)[len(name) :].split(",")
    operands = [part.strip() for part in operands]
    # Predicates that are written stand before the register that is.
    while len(operands) > 1 and re.fullmatch(r"U?P(\d|T)", operands[0]):
        operands = operands[1:]
    written: list[int] = []
    if re.fullmatch(r"R\d+|RZ", operands[0]) and not NO_RESULT.match(name) and "SETP" not in name:
        first = operands.pop(0)
        written = [] if first == "RZ" else list(range(int(first[1:]), int(first[1:]) + _width(name)))
    read: list[int] = []
    for place, part in enumerate(operands):
        for found in re.finditer(r"(?<!U)\bR(\d+)(\.64)?", part):
            span = 2 if found[2] else _operand_width(name, place)
            read += range(int(found[1]), int(found[1]) + span)
    return written, read


def _width(name: str) -> int:
    """How many registers an instruction fills."""
    parts = name.split(".")
    if "128" in parts or parts[0] in ("HMMA", "IMMA", "BMMA", "QMMA"):
        return 4
    if "64" in parts or "WIDE" in parts:
        return 2
    return int(parts[-1]) if parts[0] == "LDSM" and parts[-1] in ("2", "4") else 1


def _operand_width(name: str, place: int) -> int:
    """How many registers an operand spans."""
    if name.startswith(("HMMA", "IMMA", "BMMA", "QMMA")):
        return (4, 2, 4)[min(place, 2)]
    if "WIDE" in name.split(".") and place == 2:
        return 2
    if name.startswith(("STG", "STS", "STL")) and place == 1:
        return _width(name)
    return 1
