"""What a CUDA device does at its best, through torch: copy, read, matrix products, launches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernels.timing import cuda_device
from kernels.timing import interleaved as timing
from kernels.timing.interleaved import Figure
from nmsim.errors import SpecError, brief

REPETITIONS = 15
BUFFER_BYTES = 2 << 30
MATRIX = 8192
LAUNCHES = 2000
PEAKS = ("fp32", "tf32", "fp16", "bf16")

Timer = Callable[[Callable[[], Any]], float]
"""Runs an action on the device and gives back the seconds it took there."""


@dataclass(frozen=True)
class CudaCalibration:
    """All figures of a device. `read` and `copy` are in bytes per second (a copy counts both ways)."""

    device: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int
    l2_bytes: int
    clock_hz: float
    read: Figure
    copy: Figure
    peaks: dict[str, Figure]
    launch: Figure

    @property
    def figures(self) -> list[tuple[str, Figure]]:
        """Every figure with its name in words."""
        peaks = [(f"{dtype} matrix product", figure) for dtype, figure in self.peaks.items()]
        return [("read DRAM", self.read), ("copy DRAM", self.copy), *peaks, ("one launch", self.launch)]


def calibrate(progress: Callable[[float], None] = lambda share: None) -> CudaCalibration:
    """Run every benchmark on CUDA device 0, which must exist (`kernels.timing.cuda_device.problem`).

    Raises
    ------
    SpecError
        The clock is not reported; it is checked before anything is timed.
    """
    import torch

    about = torch.cuda.get_device_properties(0)
    clock_hz = _clock_hz(about)
    figures = benchmark(torch, "cuda", _event_timer(torch), progress=progress)
    return CudaCalibration(
        device=about.name,
        capability=(about.major, about.minor),
        multiprocessors=about.multi_processor_count,
        memory_bytes=about.total_memory,
        l2_bytes=about.L2_cache_size,
        clock_hz=clock_hz,
        read=figures.pop("read"),
        copy=figures.pop("copy"),
        launch=figures.pop("launch"),
        peaks=figures,
    )


def benchmark(
    torch: Any,
    device: str,
    timer: Timer,
    *,
    buffer_bytes: int = BUFFER_BYTES,
    matrix: int = MATRIX,
    launches: int = LAUNCHES,
    repetitions: int = REPETITIONS,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Figure]:
    """Time copies, reads, matrix products and launches, interleaved.

    Parameters
    ----------
    torch : module
    device : str
        Where tensors are made.
    timer : callable
    buffer_bytes, matrix, launches, repetitions : int
        Bytes of a buffer far beyond L2; rows of a square matrix; launches in a row.
    progress : callable
        Called with the share done.

    Returns
    -------
    dict of str to Figure
        `read`, `copy`, `launch`, and the peaks by value type.
    """
    source = torch.ones(buffer_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    one = torch.zeros(1, device=device)
    work: dict[str, tuple[Callable[[], Any], float, str, str]] = {
        "read": (source.sum, buffer_bytes, "bytes_per_s", f"torch sum of {buffer_bytes} bytes"),
        "copy": (
            lambda: target.copy_(source),
            2 * buffer_bytes,
            "bytes_per_s",
            f"torch copy of {buffer_bytes} bytes, read and written both counted",
        ),
        "launch": (
            lambda: [one.add_(1) for _ in range(launches)],
            0,
            "s",
            f"one of {launches} launches in a row of an addition to one element",
        ),
    }
    for dtype in PEAKS:
        action = _product(torch, device, dtype, matrix)
        how = f"torch product of square {dtype} matrices of {matrix} rows"
        work[dtype] = (action, 2.0 * matrix**3, "flop_per_s", how)
    # A first call that is not timed loads the kernels and fills the caches of torch.
    for action, *_ in work.values():
        action()

    def report(done: int) -> bool:
        progress(done / repetitions)
        return False

    samples = {name: lambda action=action: timer(action) for name, (action, *_) in work.items()}
    times = timing.interleave(samples, repetitions, report)
    figures = {}
    for name, (_, amount, unit, how) in work.items():
        spread = timing.Spread.of(amount / times[name] if amount else times[name] / launches)
        figures[name] = Figure(spread.p50, spread.p20, spread.p80, unit, 1, repetitions, how)
    return figures


def _product(torch: Any, device: str, dtype: str, matrix: int) -> Callable[[], Any]:
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
    a = torch.randn(matrix, matrix, device=device).to(kind)
    b = torch.randn(matrix, matrix, device=device).to(kind)
    out = torch.empty_like(a)

    def multiply() -> Any:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        try:
            return torch.mm(a, b, out=out)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return multiply


def _event_timer(torch: Any) -> Timer:
    def timer(action: Callable[[], Any]) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        action()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return timer


def _clock_hz(about: Any) -> float:
    """Greatest clock of the multiprocessors, as the driver reports.

    Raises
    ------
    SpecError
        It does not.
    """
    told_khz = getattr(about, "clock_rate", 0)
    if told_khz:
        return float(told_khz) * 1e3
    told_mhz = cuda_device.told("clocks.max.sm")
    try:
        return float(told_mhz) * 1e6
    except ValueError:
        raise SpecError(
            f"clock of {about.name}: torch does not report it and nvidia-smi says {brief(told_mhz)}, expected MHz"
        ) from None
