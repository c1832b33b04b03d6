"""When each stage of the pipeline worked on each block: what `simulate(..., trace=True)` gives besides its totals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.tensorcore.services import IN_BLOCKS
from nmsim.errors import RowError

Integers = NDArray[np.int64]
MOST_ENTRIES = 1 << 25
"""Numbers of a trace that are held at most: 256 MiB."""
ABSENT = -1
"""Start and duration on a core that has no tile in the wave of a block."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The times of a simulation, and the limits that produced them.

    Blocks are numbered through all waves: block b belongs to wave b // `blocks_per_wave`. Stages are the first `IN_BLOCKS` of
    `STAGES`. DRAM and L2 serve all cores at once, so each core has the same times there. At the other stages, a core
    without a tile in a wave has `ABSENT`.

    Parameters
    ----------
    start_cycle, duration_cycles : int64 array [blocks, IN_BLOCKS, cores]
        When a stage began to work on a block, and for how long it worked.
    write_start_cycle, write_cycles : int64 array [waves]
        The same of the last stage, which writes the sums of a wave.
    blocks_per_wave : int
    latency_cycles : int64 array [IN_BLOCKS]
        From the end of a stage's work on a block until the next stage has the block.
    room_blocks : int64 array [IN_BLOCKS]
        Blocks that a stage may have begun before the next stage has finished the first of them. The last entry limits nothing.
    accumulator_buffers : int
        Waves whose sums a core holds. The array begins a wave only after the sums so many waves before it are written.

    Examples
    --------
    >>> from hwmodels.tensorcore.simulate import simulate
    >>> from nmsim.case import Case, GemmShape
    >>> seen = simulate(Case(GemmShape(64, 256, 512), "8:16"), "flexible-8x16", trace=True)
    >>> int(seen.trace.write_end_cycle[-1]) == seen.cycles
    True
    """

    start_cycle: Integers
    duration_cycles: Integers
    write_start_cycle: Integers
    write_cycles: Integers
    blocks_per_wave: int
    latency_cycles: Integers
    room_blocks: Integers
    accumulator_buffers: int

    @property
    def end_cycle(self) -> Integers:
        """First cycle after the work of a stage on a block: int64 [blocks, IN_BLOCKS, cores], `ABSENT` as in the others."""
        return np.where(self.start_cycle == ABSENT, ABSENT, self.start_cycle + self.duration_cycles)

    @property
    def write_end_cycle(self) -> Integers:
        """First cycle after the sums of a wave are written: int64 [waves]."""
        return self.write_start_cycle + self.write_cycles


def empty_trace(
    waves: int, blocks_per_wave: int, *, cores: int, latency: Integers, room: Integers, buffers: int
) -> Trace:
    """Make room for the times of a simulation, `ABSENT` everywhere.

    Parameters
    ----------
    waves, blocks_per_wave, cores : int
    latency, room : int64 array [IN_BLOCKS]
    buffers : int
        Accumulator buffers.

    Returns
    -------
    Trace

    Raises
    ------
    RowError
        It would hold more than `MOST_ENTRIES` numbers.
    """
    shape = (waves * blocks_per_wave, IN_BLOCKS, cores)
    entries = 2 * (shape[0] * IN_BLOCKS * cores + waves)
    if entries > MOST_ENTRIES:
        raise RowError(
            f"trace of {shape[0]} blocks on {cores} cores: {entries} numbers, expected at most {MOST_ENTRIES}; "
            "trace a smaller product"
        )
    start, duration = np.full((2, *shape), ABSENT, np.int64)
    write_start, write = np.full((2, waves), ABSENT, np.int64)
    return Trace(start, duration, write_start, write, blocks_per_wave, latency, room, buffers)
