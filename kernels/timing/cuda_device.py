"""Whether there is a CUDA device, and why not; what it says about itself; how work is refused there."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator

from kernels.timing.gate import RefusedError
from kernels.timing.rounds import DeviceLostError
from nmsim.errors import NmsimError

ANSWER_S = 10.0
"""An nvidia-smi that takes longer hangs."""


def problem() -> str:
    """Say why no CUDA device can be used; empty when one can."""
    try:
        import torch
    except ImportError:
        return "no CUDA device can be reached: torch is not installed (pip install 'nmsim[gpu]')"
    if not torch.cuda.is_available():
        return f"no CUDA device found (torch {torch.__version__}); nothing was measured, nothing written"
    return ""


def name() -> str:
    """What the first CUDA device calls itself; there must be one."""
    import torch

    return torch.cuda.get_device_name(0)


def told(query: str) -> str:
    """Ask nvidia-smi something about the first device; "" if it is missing, fails or hangs."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True, timeout=ANSWER_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return answer.stdout.strip()


def faults() -> tuple[type[Exception], ...]:
    """Errors of torch, of a library that it calls, or of Triton."""
    try:
        from triton import TritonError
    except ImportError:
        return (RuntimeError,)
    return (RuntimeError, TritonError)


def refusals() -> tuple[type[Exception], ...]:
    """Errors by which torch, a library, Triton's compiler or a kernel of ours refuses a device or a case."""
    return (*faults(), NmsimError)


@contextlib.contextmanager
def guarded(
    what: str, synchronize: Callable[[], object], kinds: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Turn what refuses some work into one line, and see whether the device still works.

    The error itself is not kept: by the frames it went through it would keep alive all tensors of a round.

    Parameters
    ----------
    what : str
        The work, by name.
    synchronize : callable
        Waits for the device.
    kinds : tuple of type
        `refusals` where work is begun; `faults` where its result is looked at, of which our own errors say that it is wrong.

    Raises
    ------
    RefusedError
        The kind of the error and its first line.
    DeviceLostError
        The device does not work any more: an error on it stays until the process ends.
    """
    try:
        yield
    except kinds as problem:
        said = in_a_line(problem)
        try:
            synchronize()
        except RuntimeError as lost:
            left = in_a_line(lost)
            # A line of an error has room for one text of the driver, and most often both are the same.
            why = "" if left == said else f" ({left})"
            reason = f"the CUDA context of this process is lost{why}"
            raise DeviceLostError(f"{what}: {said}; {reason}", label=what) from None
        raise RefusedError(said) from None


def in_a_line(problem: Exception) -> str:
    """Name the kind of an error, and its first line."""
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else 'no more was said'}"
