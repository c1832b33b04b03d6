"""What the estimate reads off a datasheet: a hardware spec as plain numbers."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.machine.libraries import properties
from hwmodels.machine.spec import HardwareSpec

IDLE_POWER_SHARE = 0.2
"""Share of the board's power that does no arithmetic: leakage, memory at rest, fans (assumption A20)."""
CACHE_BYTES_PER_CORE_CYCLE = 64
"""Bytes that the last-level cache delivers in a clock cycle for each core of the chip (assumption A21)."""
REFERENCE_FLOP_PER_CORE_CYCLE = 2048
"""Dense 16-bit rate of an A100 core, whose operand fetch is the yardstick (assumption A22)."""


class Chip(NamedTuple):
    """A machine in numbers; `power_watts` is what is left for arithmetic, infinite if nothing is known.

    `libraries` is `hwmodels.machine.libraries.properties` of its generation.
    """

    cores: float
    clock_hz: float
    dram_bytes_per_s: float
    cache_bytes: float
    cache_bytes_per_s: float
    vector_flop_per_s: float
    power_watts: float
    process_energy_scale: float
    libraries: NDArray[np.float64]


@functools.lru_cache(maxsize=256)
def chip(hardware: HardwareSpec) -> Chip:
    """Take the numbers of the estimate out of a spec."""
    power, scale = hardware.board_power_watts, hardware.process_energy_scale
    limited = power is not None and scale is not None
    cores, clock_hz = float(hardware.cores.value), float(hardware.clock_hz.value)
    return Chip(
        cores=cores,
        clock_hz=clock_hz,
        dram_bytes_per_s=float(hardware.dram_bandwidth_bytes_per_s.value),
        cache_bytes=float(hardware.last_level_cache_bytes.value),
        cache_bytes_per_s=cores * clock_hz * CACHE_BYTES_PER_CORE_CYCLE,
        vector_flop_per_s=float(hardware.vector_peak_flop_per_s.value),
        power_watts=float(power.value) * (1 - IDLE_POWER_SHARE) if limited and power else float("inf"),
        process_energy_scale=float(scale.value) if limited and scale else 1.0,
        libraries=properties(hardware.generation),
    )
