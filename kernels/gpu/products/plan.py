"""How a decode product is cut, and which encoding it should read: from registers, waves, bytes and passes through L1.

A multiprocessor holds as many programs as its registers and warps allow. All programs that fit run at once: a wave. If one
more program than fits is launched, it runs alone in a second wave, which takes as long as the first. A wave of few warps is
limited by latency: each warp has one turn of its loop under way. A wave of many warps is limited by memory. `time_of` adds
this up, and `plan` takes the cut with the least time. Nothing here was timed: the constants are counted or guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from nmsim.units import ceil_div

BYTES_UNDER_WAY = 24 * 1024
"""Bytes that each multiprocessor must have asked for, so that memory is busy.

4.4e12 bytes per second times 700 ns, divided by the 132 multiprocessors of an H200: a guess of both, nothing was timed.
"""
WAVE_LATENCIES = 2.0
"""Latencies that a wave takes besides its turns: its first loads, and the sum over warps. A guess."""
JOIN_LATENCIES = 3.0
"""Latencies that parts of K take at the end: to store a part, to count it, to read all. A guess."""
BUSY_BASE, BUSY_PER_TOKEN = 0.55, 0.14
"""Time of a multiprocessor's own work for a turn, as a share of memory's.

From counted instructions of sm_90 for 16 elements: 70 with one token, 121 with four, 190 with eight. Four are issued per cycle,
and an H200's memory takes 28 cycles."""
LEAST_TURNS = 2
"""Turns of the loop below which a part of K is not worth a program."""
PARTITIONS = 4
WAVEFRONTS = {
    "bitmask": {1: (21.2, 37.4), 2: (29.5, 40.0), 4: (30.0, 46.1), 8: (47.0, 63.2)},
    "index": {1: (13.9, 19.5), 2: (22.1, 27.8), 4: (22.7, 28.3), 8: (39.7, 45.3)},
    "combinatorial": {1: (17.9, 48.8), 2: (26.1, 57.0), 4: (26.6, 57.5), 8: (43.7, 74.6)},
}
"""Encoding of 8:16 -> tokens -> passes through L1 for 32 rows of 16 elements, at least and at most: 32 rows, K = 2048, 8 warps.

Counted from the addresses of the compiled kernel on the emulator, sm_90. A gather of x is one or two passes. A look-up in a
table touches up to eight lines of 128 bytes. How many of them L1 finds in a cycle is not published.
"""
GROUP_BYTES = {"bitmask": 18, "index": 20, "combinatorial": 18}
"""Bytes of eight 16-bit values and their codes, as the kernel reads them."""
REGISTER_STEP = 256
"""A warp gets registers in steps of so many (CUDA Occupancy Calculator)."""


@dataclass(frozen=True)
class Machine:
    """What of a device decides how many programs run at once.

    Parameters
    ----------
    processors : int
        Multiprocessors; those of an H200 by default, as all here.
    registers : int
        Of a multiprocessor.
    warps, programs : int
        That a multiprocessor holds at most.
    """

    processors: int = 132
    registers: int = 65536
    warps: int = 64
    programs: int = 32


@lru_cache
def machine_of(device: torch.device) -> Machine:
    """Read the limits of a device; main memory counts as one multiprocessor of an H200."""
    if device.type != "cuda":
        return Machine(processors=1)
    found = torch.cuda.get_device_properties(device)
    warps = found.max_threads_per_multi_processor // 32
    return Machine(
        found.multi_processor_count, int(getattr(found, "regs_per_multiprocessor", 65536)), warps, warps // 2
    )


def programs_at_once(registers: int, warps: int, machine: Machine) -> int:
    """Count the programs of so many warps, and registers per thread, that a multiprocessor holds; 0 if none fits.

    Examples
    --------
    >>> [programs_at_once(40, warps, Machine()) for warps in (4, 8, 16)], programs_at_once(102, 16, Machine())
    ([12, 6, 3], 1)
    """
    # Each of the four parts of a multiprocessor has a quarter of the registers, and takes whole warps.
    warp_registers = ceil_div(max(1, registers) * 32, REGISTER_STEP) * REGISTER_STEP
    held = machine.registers // PARTITIONS // warp_registers * PARTITIONS
    return min(held // warps, machine.warps // warps, machine.programs)


def time_of(
    blocks: int, turns: int, *, n_parts: int, warps: int, at_once: int, tokens: int, turn_bytes: int, machine: Machine
) -> float:  # fmt: skip
    """Give the time of a product, in turns of one warp at a multiprocessor's share of the memory's rate.

    Parameters
    ----------
    blocks : int
        Programs for each part of K.
    turns : int
        Turns of a program's loop.
    n_parts, warps : int
    at_once : int
        Programs that a multiprocessor holds, not 0.
    tokens : int
    turn_bytes : int
        Bytes of weights that a warp reads in a turn.
    machine : Machine
    """
    latency = BYTES_UNDER_WAY / turn_bytes
    busy = BUSY_BASE + BUSY_PER_TOKEN * tokens
    left, time = blocks * n_parts, 0.0
    full = at_once * machine.processors
    waves, rest = divmod(left, full)
    for programs, count in ((full, waves), (rest, 1 if rest else 0)):
        # Memory serves all warps alike; a multiprocessor's own work is limited by the one that has most programs.
        average = programs * warps / machine.processors
        most = ceil_div(programs, machine.processors) * warps
        time += count * (turns * max(latency, average, busy * most) + WAVE_LATENCIES * latency)
    return time + (JOIN_LATENCIES * latency if n_parts > 1 else 0.0)


@lru_cache(maxsize=4096)
def _plan(
    blocks: int, units: int, unit_turns: int, tokens: int, turn_bytes: int, machine: Machine,
    registers: tuple[tuple[int, int], ...],
) -> tuple[int, int]:  # fmt: skip
    best = None
    for warps, count in registers:
        at_once = programs_at_once(count, warps, machine)
        whole = ceil_div(units, warps * unit_turns)
        if at_once == 0:
            continue
        for n_parts in range(1, max(1, whole // LEAST_TURNS) + 1):
            turns = ceil_div(whole, n_parts)
            if ceil_div(whole, turns) != n_parts:
                continue  # Fewer programs do the same turns.
            time = time_of(
                blocks, turns, n_parts=n_parts, warps=warps, at_once=at_once, tokens=tokens,
                turn_bytes=turn_bytes, machine=machine,
            )  # fmt: skip
            if best is None or (time, n_parts, warps) < best:
                best = (time, n_parts, warps)
    if best is None:
        return registers[0][0], 1
    return best[2], best[1]


def plan(
    rows: int, units: int, *, tokens: int, registers: Mapping[int, int], turn_bytes: int, turn_units: int = 2,
    machine: Machine | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Choose warps of a program and parts of K.

    Parameters
    ----------
    rows : int
        Of the weight; a block of 32 makes a program for each part.
    units : int
        Units of K, each one thread's.
    tokens : int
    registers : mapping of int to int
        Warps that a program may have -> registers of a thread of a kernel compiled for them.
    turn_bytes : int
        Bytes of weights that a warp reads in a turn of its loop.
    turn_units : int
        Units that a thread takes in a turn.
    machine : Machine, optional
        An H200 when absent.

    Returns
    -------
    tuple of int
        Warps, parts of K.

    Examples
    --------
    >>> plan(14336, 256, tokens=1, registers={4: 40, 8: 40, 16: 40}, turn_bytes=1280)
    (8, 1)
    """
    blocks = ceil_div(rows, 32)
    return _plan(
        blocks, units, turn_units, tokens, turn_bytes, machine or Machine(), tuple(sorted(registers.items()))
    )


def cheapest_encoding(*, bytes_per_s: float, clock_hz: float, processors: int, tokens: int = 4) -> str:
    """Name the encoding of 8:16 with which decoding takes least, in the worst case of what is not known of L1.

    `index` has more bytes and needs no table. So it wins if memory is fast beside L1: there the look-ups of `bitmask` and
    `combinatorial` may take longer than the bytes that they save.

    Parameters
    ----------
    bytes_per_s : float
        Bandwidth of DRAM that a long read reaches.
    clock_hz : float
        Of the multiprocessors: a pass through L1 takes a cycle.
    processors : int
    tokens : int
        1 to 8. Weights are stored once for all counts of tokens, so a middle one is the default.

    Returns
    -------
    str
        "bitmask", "index" or "combinatorial". Of equals the first one.

    Examples
    --------
    An H200, and an RTX 4090:

    >>> cheapest_encoding(bytes_per_s=4.4e12, clock_hz=1.98e9, processors=132)
    'index'
    >>> cheapest_encoding(bytes_per_s=0.93e12, clock_hz=2.52e9, processors=128)
    'bitmask'
    """
    cycle_bytes = bytes_per_s / clock_hz / processors
    counted = min(count for count in WAVEFRONTS["index"] if count >= tokens)
    cycles = {
        encoding: max(32 * GROUP_BYTES[encoding] / cycle_bytes, by_tokens[counted][1])
        for encoding, by_tokens in WAVEFRONTS.items()
    }
    return min(cycles, key=cycles.__getitem__)
