"""What was measured on a machine, as its hardware spec.

The model may not import what measures, so that it takes any object with these attributes. A figure has `p50`, `p20` and
`p80` in a `unit`, the `cores` that it was measured on, `repetitions`, and `how` it was measured.
"""

import re
from typing import Any

from hwmodels.machine.spec import CacheLevel, Feature, HardwareSpec
from nmsim.errors import NmsimError, brief
from nmsim.support.schema import ID_PATTERN, ID_WORDS, WHOLE_UNITS, Quantity

DIGITS = 5
UNKNOWN_CACHE_BYTES = 32 << 20
LANES_OF_A_GPU_CORE, LANES_OF_A_64_LANE_CORE = 128, 64
CAPABILITIES_OF_64_LANES = ((6, 0), (7, 0), (7, 2), (7, 5), (8, 0))
CPU_SKIP = (
    "rows of K-major weights are plain memory: what is not read costs nothing but the unused part of a cache line; "
    "assumption A8"
)
GPU_SKIP = "rows of K-major weights are plain memory, read in whole sectors; assumption A8"


class _Source:
    """Quantities whose source names the benchmark, the machine and the date."""

    def __init__(self, where: str) -> None:
        self.where = where

    def measured(
        self, figure: Any, unit: str = "", value: float | None = None, how: str = "", on: str = ""
    ) -> Quantity:
        """A figure, or a `value` that follows from it as `how` says."""
        unit = unit or figure.unit
        number = float(f"{figure.p50 if value is None else value:.{DIGITS}g}")
        spread = f"median of {figure.repetitions}, p20-p80 {figure.p20:.4g}-{figure.p80:.4g} {figure.unit}"
        source = f"nmsim calibrate: {how or figure.how}{on}; {spread}; {self.where}"
        return Quantity(max(1, round(number)) if unit in WHOLE_UNITS else number, unit, "measured", source)

    def told(self, value: float, unit: str, what: str) -> Quantity:
        """A number that the system reports."""
        return Quantity(value, unit, "measured", f"nmsim calibrate: {what}; {self.where}")


def cpu_spec(found: Any, machine_id: str, date: str) -> HardwareSpec:
    """Make a spec of what was measured on a CPU.

    Parameters
    ----------
    found : Calibration
        Figures of the micro-benchmarks, as `kernels.calibrate.cpu` gives them.
    machine_id : str
    date : str
        Of the measurement, in UTC, such as 2026-01-31.

    Raises
    ------
    NmsimError
        An id that is not in lower case or holds blanks.
    """
    host, cores = found.host, found.host.cores
    about = _Source(f"{host.processor}, {cores} cores, {date} (UTC)")

    def of_cores(figure: Any) -> Quantity:
        return about.measured(
            figure, on=", on one core" if figure.cores == 1 else f", on {figure.cores} cores"
        )

    def level(name: str) -> CacheLevel:
        cache = next(cache for cache in host.caches if f"L{cache.level}" == name)
        shared = cache.instances < cores
        size = cache.bytes if shared else cache.instance_bytes
        told = f"the system tells of {cache.instances} times {cache.instance_bytes} bytes"
        reads = (of_cores(found.read[name, 1]), of_cores(found.read[name, cores]))
        return CacheLevel(name, shared, about.told(size, "bytes", told), *reads)

    # One core's instructions per second over its clock, in lanes of the registers that the kernels use.
    issue = found.mix[1]
    lanes = issue.p50 / found.clock.p50 * found.kernel_lanes / found.lanes
    lanes_how = f"{issue.how}; {lanes:.4g} of the kernels' lanes a measured clock cycle, rounded"
    peak = of_cores(found.fma[cores])
    free = Quantity(
        peak.value, "flop_per_s", "assumed", "assumption A9: 16-bit values are converted to fp32 at no cost"
    )
    last_bytes = host.last_level_cache_bytes
    return HardwareSpec(
        id=checked_id(machine_id),
        name=f"{host.processor}, {cores} cores, as measured on {date}",
        family="cpu",
        hypothetical=False,
        aliases=(),
        cores=about.told(cores, "cores", "cores that the process may use"),
        clock_hz=of_cores(found.clock),
        issue_lanes_per_core_per_cycle=about.measured(issue, "lanes_per_core_per_cycle", lanes, lanes_how),
        vector_peak_flop_per_s=peak,
        dram_bandwidth_bytes_per_s=of_cores(found.read["DRAM", cores]),
        dram_capacity_bytes=about.told(host.memory_bytes, "bytes", "memory that the system tells of"),
        last_level_cache_bytes=about.told(last_bytes, "bytes", "outermost cache that the system tells of")
        if last_bytes
        else Quantity(UNKNOWN_CACHE_BYTES, "bytes", "assumed", "the system does not tell; a common size"),
        dense_peak_flop_per_s={"fp32": peak, "fp16": free, "bf16": free},
        sparse_peak_flop_per_s={},
        library_flop_per_s={dtype: of_cores(figure) for dtype, figure in found.library.items()},
        native=(),
        weight_column_skip=Feature(True, "assumed", CPU_SKIP),
        core_read_bandwidth_bytes_per_s=of_cores(found.read["DRAM", 1]),
        call_overhead_s=of_cores(found.call_overhead),
        sparse_call_overhead_s=of_cores(found.sparse_call_overhead),
        thread_wake_s=of_cores(found.thread_wake) if found.thread_wake else None,
        row_start_s=of_cores(found.row_start),
        vector_lanes=about.told(
            found.kernel_lanes, "lanes", f"32-bit lanes of the registers of the {found.kernels} kernels"
        ),
        cache=tuple(level(name) for name, count in found.read if count == 1 and name != "DRAM"),
    )


def cuda_spec(found: Any, machine_id: str, date: str) -> HardwareSpec:
    """Make a spec of what was measured on a CUDA device: dense peaks only, no sparse unit.

    Raises
    ------
    NmsimError
        An id that is not in lower case or holds blanks.
    """
    about = _Source(f"{found.device}, {date} (UTC)")
    few = found.capability in CAPABILITIES_OF_64_LANES
    # No driver call gives the lanes of a multiprocessor; they follow from its compute capability.
    lanes = LANES_OF_A_64_LANE_CORE if few else LANES_OF_A_GPU_CORE
    lanes_source = f"lanes of a multiprocessor of capability {'.'.join(map(str, found.capability))}"
    peaks = {dtype: about.measured(figure) for dtype, figure in found.peaks.items()}
    return HardwareSpec(
        id=checked_id(machine_id),
        name=f"{found.device}, as measured on {date}",
        family="gpu",
        hypothetical=False,
        aliases=(),
        cores=about.told(found.multiprocessors, "cores", "streaming multiprocessors, as the driver reports"),
        clock_hz=about.told(found.clock_hz, "hz", "greatest clock, as the driver reports"),
        issue_lanes_per_core_per_cycle=Quantity(lanes, "lanes_per_core_per_cycle", "assumed", lanes_source),
        vector_peak_flop_per_s=peaks["fp32"],
        dram_bandwidth_bytes_per_s=about.measured(found.read),
        dram_capacity_bytes=about.told(found.memory_bytes, "bytes", "memory, as the driver reports"),
        last_level_cache_bytes=about.told(found.l2_bytes, "bytes", "L2, as the driver reports"),
        dense_peak_flop_per_s=peaks,
        sparse_peak_flop_per_s={},
        native=(),
        weight_column_skip=Feature(True, "assumed", GPU_SKIP),
        call_overhead_s=about.measured(found.launch),
    )


def checked_id(name: str) -> str:
    """Refuse an id that is not in lower case or breaks the grammar of ids.

    Raises
    ------
    NmsimError
        Such an id.
    """
    if name != name.lower() or not re.fullmatch(ID_PATTERN, name):
        raise NmsimError(
            f"machine id {brief(name)}, the name of the file: expected lower case, and {ID_WORDS}"
        )
    return name
