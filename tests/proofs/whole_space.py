"""A decoder on all codes of up to 2^40 there are, against masks counted up one after the other."""

import numpy as np

from hwmodels.rtl.netlist import Netlist, run
from nmsim.pattern import Pattern
from nmsim.support.jit import njit

MASK_BITS = 32
LANES = 64
WORDS = 64
"""Words of 64 codes that are computed at once."""
LANE_BITS = (
    0xAAAAAAAAAAAAAAAA, 0xCCCCCCCCCCCCCCCC, 0xF0F0F0F0F0F0F0F0,
    0xFF00FF00FF00FF00, 0xFFFF0000FFFF0000, 0xFFFFFFFF00000000,
)  # fmt: skip
"""Bits 0 to 5 of the codes of a word: each lane counts one up."""


def wrong_codes(netlist: Netlist, pattern: Pattern, first: int, count: int) -> int:
    """Count codes of a combinatorial decoder that give a wrong mask, or a wrong `valid`.

    Parameters
    ----------
    netlist : Netlist
        Of ports `code`, `mask` and `valid`; M of 32 at most.
    pattern : Pattern
    first, count : int
        Multiples of 4096.
    """
    program = netlist.program
    memory = program.memory(WORDS)
    code, mask = program.inputs["code"], program.outputs["mask"]
    for bit in range(min(6, len(code))):
        memory[code[bit]] = np.uint64(LANE_BITS[bit])
    for bit in range(6, min(12, len(code))):
        memory[code[bit]] = [np.uint64(-(word >> (bit - 6) & 1) % (1 << 64)) for word in range(WORDS)]
    legal = pattern.configurations
    return int(
        _count_wrong(
            program.steps, memory, code, mask, program.outputs["valid"][0],
            np.array([first, count, legal, mask_of_rank(pattern, first)], np.int64),
        )
    )  # fmt: skip


def mask_of_rank(pattern: Pattern, rank: int) -> int:
    """Mask with so many smaller ones, found from the top; 0 if there is none."""
    from math import comb

    mask, ones = 0, pattern.n
    if rank >= pattern.configurations:
        return 0
    for element in reversed(range(pattern.m)):
        below = comb(element, ones)
        if ones and rank >= below:
            mask, rank, ones = mask | 1 << element, rank - below, ones - 1
    return mask


@njit(cache=True, nogil=True)
def _count_wrong(steps, memory, code, mask_places, valid_place, numbers):  # type: ignore[no-untyped-def]
    """Blocks of 4096 codes: compute, then compare each word with 64 masks turned into bit slices."""
    first, count, legal, start = numbers
    mask = np.uint64(start)
    rows = np.zeros(MASK_BITS, np.uint64)
    bad = 0
    for base in range(first, first + count, LANES * WORDS):
        for bit in range(12, code.size):
            memory[code[bit]] = ~np.uint64(0) if base >> bit & 1 else np.uint64(0)
        run(steps, memory)
        for word in range(WORDS):
            begin = base + LANES * word
            lanes = min(max(legal - begin, 0), LANES)
            keep = ~np.uint64(0) if lanes == LANES else (np.uint64(1) << np.uint64(lanes)) - np.uint64(1)
            differ = memory[valid_place, word] ^ keep
            if lanes:
                for lane in range(MASK_BITS):
                    rows[lane] = np.uint64(0)
                for lane in range(lanes):
                    rows[lane & 31] |= mask << np.uint64(lane & 32)
                    # Gosper: the next larger integer with as many ones.
                    low = mask & (~mask + np.uint64(1))
                    ripple = mask + low
                    mask = ripple | (((mask ^ ripple) >> np.uint64(2)) // low)
                _transpose(rows)
                for bit in range(mask_places.size):
                    differ |= (memory[mask_places[bit], word] ^ rows[bit]) & keep
            while differ:
                bad += 1
                differ &= differ - np.uint64(1)
    return bad


@njit(cache=True, nogil=True)
def _transpose(rows):  # type: ignore[no-untyped-def]
    """Two squares of 32 by 32 bits side by side, in place: row i, bit j becomes row j, bit i."""
    half, low = 16, np.uint64(0x0000FFFF0000FFFF)
    while half:
        shift = np.uint64(half)
        at = 0
        while at < 32:
            moved = ((rows[at] >> shift) ^ rows[at + half]) & low
            rows[at] ^= moved << shift
            rows[at + half] ^= moved
            at = (at + half + 1) & ~half
        half >>= 1
        low ^= low << np.uint64(half)
