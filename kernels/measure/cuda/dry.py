"""A rehearsal without a GPU: compiled kernels on the emulator, at small shapes, with times that nobody measured.

What it writes is of the machine `dry-run`, so that no one takes it for a measurement.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kernels.measure.cuda.backend import CudaBackend
from kernels.measure.cuda.clock import Timed
from kernels.measure.round import Campaign, Round, combined
from nmsim.case import GemmShape
from nmsim.rows.measurement import L2State

MACHINE = "dry-run"
PRETENDED_S = 1e-6
SHAPE = (32, 64)
"""Out features and in features: one program of each kernel, which the emulator runs in some seconds."""


class DryClock:
    """Runs the work when its results are asked for, and says that every call took a microsecond."""

    def copies(self, operand_bytes: int, l2_state: L2State) -> int:
        """One: results of several copies need as many runs on the emulator."""
        del operand_bytes, l2_state
        return 1

    def synchronize(self) -> None:
        """Nothing is under way: the emulator has finished when a launch returns."""

    def timed(self, actions: Sequence[Callable[[], Any]], l2_state: L2State) -> Timed:
        """As `kernels.measure.cuda.clock.Clock.timed`, without a clock."""
        del l2_state
        return Timed(lambda: [action() for action in actions], lambda: PRETENDED_S, "calls")


def backend(seed: int) -> CudaBackend:
    """The backend of the rehearsal, on tensors in main memory."""
    return CudaBackend(seed, device="cpu", clock=DryClock())


def campaign() -> Campaign:
    """A few small rounds in the order of the real campaign: one token, a rival, several tokens, a transfer."""
    n, k = SHAPE
    stored = {
        "patterns": ["8:16"],
        "encodings": ["bitmask", "index"],
        "dtypes": ["bf16"],
        "l2_state": ["cold"],
    }
    dense = {"patterns": ["dense"], "dtypes": ["bf16"], "l2_state": ["cold"]}
    tables: list[dict[str, Any]] = [
        {"shapes": [GemmShape(1, n, k)], **stored},
        {"shapes": [GemmShape(1, n, k)], "kernels": ["torch.fp8"], **dense},
        {"shapes": [GemmShape(2, n, k)], **stored, "encodings": ["bitmask"]},
        {"shapes": [GemmShape(1, n, k)], "kernels": ["gpu.read"], **dense},
    ]
    rounds: list[Round] = [each for table in tables for each in combined(**table)]
    return Campaign("dry-run", 0, 1, 0, 60.0, tuple(rounds))


@contextlib.contextmanager
def emulated_device() -> Iterator[None]:
    """Send launches to the emulator while the context lasts."""
    from kernels.ptx import emulated

    with emulated():
        yield
