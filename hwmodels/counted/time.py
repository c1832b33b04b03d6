"""Seconds of a compiled kernel, from counts of its machine code and a machine's datasheet: predicted, not measured.

A program's warps go through turns of a loop. A turn takes as long as the slowest of four, or a little longer. These are bytes
from DRAM at the bandwidth that a long read reaches, and instructions at the rate of the busiest pipe. The others are wavefronts
of L1, and round trips to memory that follow each other. Programs fill the machine in waves. The last wave may leave
multiprocessors idle, and takes its full time.
"""

import math
from dataclasses import dataclass

from hwmodels.counted.table import CountedKernel
from hwmodels.estimate import constants
from hwmodels.estimate.library import norm
from hwmodels.machine.chip import chip
from hwmodels.machine.libraries import DRAM, LAUNCH, VALUE_TYPES
from hwmodels.machine.spec import HardwareSpec
from nmsim.support.schema import Quantity

HALF_KIND, DENSE_SIDE = VALUE_TYPES.index("fp16"), 0
PARTITIONS = 4
WARP_THREADS = 32
GROUP_ELEMS = 16
_LATENCY = "Luo et al., 2024, arXiv 2402.13499, table IV: latency of global memory, clock cycles"
LATENCY_CYCLES = {
    80: Quantity(466.3, "cycles", "measured", f"{_LATENCY}, A100 PCIe"),
    89: Quantity(541.5, "cycles", "measured", f"{_LATENCY}, RTX 4090"),
    90: Quantity(478.8, "cycles", "measured", f"{_LATENCY}, H100 PCIe"),
    100: Quantity(478.8, "cycles", "assumed", "A71: as an H100, whose memory hierarchy it keeps"),
}
"""Compute capability times ten -> a round trip to DRAM without load."""
JOIN_TRIPS = 3.0
"""Round trips that joining the parts of K adds: a part is written, the last program is found, parts are read (A72)."""
FILL_TRIPS = 1.0
"""Round trips before the first turn has its data (A72)."""
GRAPH_LAUNCH = Quantity(
    1.7e-6,
    "s",
    "assumed",
    "A73: 0.5 us between kernels of a CUDA graph, as NVIDIA's `Getting Started with CUDA Graphs` measured, and 1.2 us to start "
    "and end programs",
)
"""A kernel in a CUDA graph, beside its turns."""
LIMITS = ("DRAM", "issue", "L1", "latency", "launch")


@dataclass(frozen=True)
class CountedTime:
    """Predicted time of one launch.

    Parameters
    ----------
    kernel : CountedKernel
    time_s : float
        Seconds.
    limit : str
        What takes longest, one of `LIMITS`.
    parts_s : dict of str to float
        Seconds of each limit if it were alone.
    n_parts : int
        Parts that K is cut into.
    programs : int
    waves : float
        Programs over those that the machine holds at a time.
    """

    kernel: CountedKernel
    time_s: float
    limit: str
    parts_s: dict[str, float]
    n_parts: int
    programs: int
    waves: float


def architecture(machine: HardwareSpec) -> int | None:
    """Compute capability times ten, if latencies of that generation are known.

    Examples
    --------
    >>> import hwmodels
    >>> architecture(hwmodels.load_machine("h200"))
    90
    """
    generation = machine.generation or ""
    number = int(generation[3:]) if generation.startswith("sm_") and generation[3:].isdigit() else 0
    return number if number in LATENCY_CYCLES else None


def read_share(machine: HardwareSpec) -> float:
    """Say which share of the datasheet's bandwidth a long read reaches.

    Source: fitted to published products. The larger of what kernels for few tokens reach on all machines, and what libraries of
    the machine's generation do.
    """
    rates, traits = constants.load(), chip(machine).libraries[HALF_KIND, DENSE_SIDE]
    return float(max(rates.stream_dram_share, rates.dram_share * traits[DRAM]))


def library_launch_s(machine: HardwareSpec) -> float:
    """Seconds that the estimate takes for the launch of a dense library product of 16 bits. Source: fitted."""
    return float(constants.load().library_launch_s * chip(machine).libraries[HALF_KIND, DENSE_SIDE][LAUNCH])


def read_s(n_bytes: float, machine: HardwareSpec, *, launch_s: float) -> float:
    """Predict a kernel that reads so many bytes and does nothing else worth time: the dense rival of few tokens.

    Parameters
    ----------
    n_bytes : float
    machine : HardwareSpec
        One of a known `architecture`.
    launch_s : float
        Seconds of its launch.

    Returns
    -------
    float
        Seconds.

    Source
    ------
    Assumption A72; bandwidth: `read_share`.
    """
    trip_s = LATENCY_CYCLES[architecture(machine) or 0].value / float(machine.clock_hz.value)
    bytes_per_s = float(machine.dram_bandwidth_bytes_per_s.value) * read_share(machine)
    return launch_s + FILL_TRIPS * trip_s + n_bytes / bytes_per_s


def counted_time(
    kernel: CountedKernel, machine: HardwareSpec, *, outputs: int, k: int, other_bytes: float = 0.0,
    launch_s: float | None = None, n_parts: int | None = None,
) -> CountedTime:  # fmt: skip
    """Predict one launch.

    Parameters
    ----------
    kernel : CountedKernel
        Compiled for the machine's architecture.
    machine : HardwareSpec
    outputs : int
        Rows N of the dense matrix; 1 if all its elements are one row.
    k : int
        Elements of a row.
    other_bytes : float
        Bytes from and to memory beside those of the matrix.
    launch_s : float, optional
        Seconds of a launch; that of a dense library in the estimate when absent. `GRAPH_LAUNCH` is that of a CUDA graph.
    n_parts : int, optional
        Parts that K is cut into; the best number when absent.

    Returns
    -------
    CountedTime

    Source
    ------
    Assumptions A71 to A73. Bandwidth: `read_share`.

    Examples
    --------
    >>> import hwmodels
    >>> from hwmodels.counted.table import counted_kernels
    >>> kernel = next(row for row in counted_kernels() if row.architecture == 90 and row.encoding == "index")
    >>> found = counted_time(kernel, hwmodels.load_machine("h200"), outputs=28672, k=4096, launch_s=0.0)
    >>> found.time_s > 28672 * 4096 * kernel.bytes_per_elem / 4.8e12
    True
    """
    launch = library_launch_s(machine) if launch_s is None else launch_s
    turn_elems = kernel.elems * WARP_THREADS * kernel.warps
    blocks = -(-outputs // kernel.program_rows)
    turns = -(-k // max(1, turn_elems // kernel.program_rows))
    candidates = [n_parts] if n_parts is not None else _cuts(blocks, turns, kernel, machine)
    found = [
        _time(kernel, machine, blocks=blocks, turns=turns, cut=cut, launch_s=launch, other_bytes=other_bytes)
        for cut in candidates
    ]
    return min(found, key=lambda one: one.time_s)


def _cuts(blocks: int, turns: int, kernel: CountedKernel, machine: HardwareSpec) -> list[int]:
    """Numbers of parts of K that may be best: up to four programs for each place, and all turns apart if there are few rows."""
    slots = max(1, kernel.programs) * int(machine.cores.value)
    most = min(turns, max(1, 4 * slots // blocks)) if blocks > 1 else turns
    return sorted({most, *range(1, min(most, 64) + 1)}) if blocks > 1 else [most]


def _time(
    kernel: CountedKernel, machine: HardwareSpec, *, blocks: int, turns: int, cut: int, launch_s: float,
    other_bytes: float,
) -> CountedTime:  # fmt: skip
    # Full waves are alike; only the last one differs, as it leaves places free.
    cores, clock_hz = int(machine.cores.value), float(machine.clock_hz.value)
    bytes_per_s = float(machine.dram_bandwidth_bytes_per_s.value) * read_share(machine)
    trip_s = LATENCY_CYCLES[kernel.architecture].value / clock_hz
    per_program = -(-turns // cut)
    programs = blocks * -(-turns // per_program)
    slots = max(1, kernel.programs) * cores
    turn_elems = kernel.elems * WARP_THREADS * kernel.warps
    total = dict.fromkeys(LIMITS, 0.0)
    seconds = 0.0
    for active, times in ((slots, programs // slots), (programs % slots, 1)):
        if not active or not times:
            continue
        warps = -(-active // cores) * kernel.warps
        turn_s = {
            "DRAM": active * turn_elems * kernel.bytes_per_elem / bytes_per_s,
            "issue": -(-warps // PARTITIONS) * kernel.issue_cycles / clock_hz,
            "L1": warps * kernel.wavefronts_most * kernel.elems / GROUP_ELEMS / clock_hz,
            "latency": kernel.serial_trips * trip_s,
        }
        seconds += times * per_program * float(norm(*turn_s.values()))
        for name, value in turn_s.items():
            total[name] += times * per_program * value
    ends_s = (FILL_TRIPS + JOIN_TRIPS * (programs > blocks and blocks > 1)) * trip_s
    total["launch"] = launch_s + ends_s + (kernel.launches - 1) * GRAPH_LAUNCH.value
    total["DRAM"] += other_bytes / bytes_per_s
    seconds += total["launch"] + other_bytes / bytes_per_s
    limit = max(total, key=total.__getitem__)
    return CountedTime(kernel, seconds, limit, total, cut, programs, programs / slots)


def machine_waves(found: CountedTime) -> int:
    """Whole waves of a launch, the last one counted in full."""
    return math.ceil(found.waves)
