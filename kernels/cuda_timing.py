"""Seconds that work takes on a CUDA device: graph replays between two events, with the L2 cache flushed before.

A sample runs the same work on several copies of its operands, one after the other. Cold, the copies together are several
times as large as L2, and L2 was written over before: each copy comes from DRAM. What a launch costs the host is hidden, since
the device is still flushing when the graph is handed to it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nmsim.measurement import L2State
from nmsim.units import ceil_div

L2_TIMES = 4
"""Cold copies take so many times the bytes of L2 together, and as much is written before each sample."""
MOST_COPIES = 16
WARM_CALLS = 20
WARMING = 3
"""Calls before a graph is captured: Triton compiles, libraries choose."""

Action = Callable[[], Any]


class Clock(Protocol):
    """A way to time work where it runs."""

    def copies(self, operand_bytes: int, l2_state: L2State) -> int:
        """Copies of operands of so many bytes that a sample goes through."""

    def sampler(self, actions: Sequence[Action], l2_state: L2State) -> tuple[Callable[[], float], str]:
        """A function that gives the seconds of one action, the mean over all, and what is to be said of how it is timed."""


def cold_copies(operand_bytes: int, l2_bytes: int) -> int:
    """Count the copies that are several times as large as L2 together, at least two.

    Examples
    --------
    >>> cold_copies(32 << 20, 50 << 20), cold_copies(1 << 30, 50 << 20), cold_copies(1000, 50 << 20)
    (7, 2, 16)
    """
    return min(MOST_COPIES, max(2, ceil_div(L2_TIMES * l2_bytes, operand_bytes)))


class CudaClock:
    """Times work on the current CUDA device.

    Parameters
    ----------
    torch : module
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._l2_bytes = int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)
        self._flushed = torch.empty(L2_TIMES * self._l2_bytes, dtype=torch.uint8, device="cuda")

    def copies(self, operand_bytes: int, l2_state: L2State) -> int:
        """As `Clock.copies`."""
        return cold_copies(operand_bytes, self._l2_bytes) if l2_state == "cold" else 1

    def sampler(self, actions: Sequence[Action], l2_state: L2State) -> tuple[Callable[[], float], str]:
        """As `Clock.sampler`."""
        torch = self._torch
        work = list(actions) * (WARM_CALLS if l2_state == "warm" else 1)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        replay, how = self._captured(work)

        def sample() -> float:
            if l2_state == "cold":
                self._flushed.zero_()
            begin.record()
            replay()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3 / len(work)

        return sample, how

    def _captured(self, work: list[Action]) -> tuple[Action, str]:
        """All of the work as a graph, or as launches where a call cannot be captured."""
        torch = self._torch
        for action in work[: len(set(work))]:
            for _ in range(WARMING):
                action()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for action in work:
                    action()
        except RuntimeError:
            torch.cuda.synchronize()

            def launch() -> None:
                for action in work:
                    action()

            return launch, "launched, not captured as a graph"
        return graph.replay, "graph"
