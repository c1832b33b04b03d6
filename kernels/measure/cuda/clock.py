"""Seconds that work takes on a CUDA device: graph replays between two events, with the L2 cache flushed before.

A sample runs the same work on several copies of its operands, one after the other. Cold, the copies together are several
times as large as L2, and a buffer as large was read before: each copy comes from DRAM. The buffer is read and not written.
Lines that were written stay in L2 until others replace them. They would be written back, to the same DRAM, while the work
is timed. The launch costs of the host are hidden, because the device is still flushing when the graph is launched.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kernels.timing import cuda_device
from nmsim.errors import NmsimError
from nmsim.rows.measurement import L2State, Timing
from nmsim.units import ceil_div

L2_TIMES = 4
"""Cold copies take so many times the bytes of L2 together, and as much is read before each sample."""
MOST_COPIES = 16
WARM_CALLS = 20
WARMING = 3
"""Calls before a graph is captured: Triton compiles, libraries choose."""
WORD_BYTES = 8

Action = Callable[[], Any]


class CaptureError(NmsimError):
    """Work that cannot be captured as a CUDA graph, and so is not timed."""


@dataclass(frozen=True)
class Timed:
    """Work that is ready to be timed.

    Parameters
    ----------
    replay : callable
        Runs it once, as a sample does, and gives what each action gave; the next run overwrites it.
    sample : callable
        Gives the seconds of one action, the mean over all.
    how : {"graph", "calls"}
        How it is timed.
    """

    replay: Callable[[], list[Any]]
    sample: Callable[[], float]
    how: Timing


class Clock(Protocol):
    """A way to time work where it runs."""

    def copies(self, operand_bytes: int, l2_state: L2State) -> int:
        """Copies of operands of so many bytes that a sample goes through."""

    def synchronize(self) -> None:
        """Wait for all work; a RuntimeError says that the device works no more."""

    def timed(self, actions: Sequence[Action], l2_state: L2State) -> Timed:
        """Make actions ready, each on operands of its own.

        Raises
        ------
        CaptureError
            They cannot be timed.
        """


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

    def copies(self, operand_bytes: int, l2_state: L2State) -> int:
        """As `Clock.copies`."""
        return cold_copies(operand_bytes, self._l2_bytes) if l2_state == "cold" else 1

    def synchronize(self) -> None:
        """As `Clock.synchronize`."""
        self._torch.cuda.synchronize()

    def timed(self, actions: Sequence[Action], l2_state: L2State) -> Timed:
        """As `Clock.timed`."""
        event = functools.partial(self._torch.cuda.Event, enable_timing=True)
        calls = len(actions) * (WARM_CALLS if l2_state == "warm" else 1)
        graph, results = self._captured(actions, calls)
        begin, end = event(), event()

        def replay() -> list[Any]:
            graph.replay()
            return results

        def sample() -> float:
            if l2_state == "cold":
                self._beyond_l2.sum()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3 / calls

        return Timed(replay, sample, "graph")

    @functools.cached_property
    def _beyond_l2(self) -> Any:
        """A buffer several times as large as L2, written once and only read from then on: int64 Tensor."""
        torch = self._torch
        return torch.ones(L2_TIMES * self._l2_bytes // WORD_BYTES, dtype=torch.int64, device="cuda")

    def _captured(self, actions: Sequence[Action], calls: int) -> tuple[Any, list[Any]]:
        """A graph of so many calls that go through the actions in turn, and what each action gave.

        What the actions gave is kept: a library's results would else share memory, where our kernels write to their own.
        """
        torch = self._torch
        for action in actions:
            for _ in range(WARMING):
                action()
        torch.cuda.synchronize()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        before, results = torch.cuda.current_stream(), []
        try:
            with torch.cuda.graph(graph, pool=pool):
                for call in range(calls):
                    result = actions[call % len(actions)]()
                    if call < len(actions):
                        results.append(result)
        except cuda_device.refusals() as problem:
            self._after_failed_capture(before, pool)
            raise CaptureError(
                f"cannot be captured as a CUDA graph: {cuda_device.in_a_line(problem)}"
            ) from None
        return graph, results

    def _after_failed_capture(self, before: Any, pool: Any) -> None:
        """Undo what torch leaves where it fails to end a capture.

        The stream of the capture stays the current one. Up to torch 2.11 the allocator behaves as if the capture
        continued, and refuses every later capture (https://github.com/pytorch/pytorch/pull/180395). Later versions report that
        there is none.
        """
        torch = self._torch
        torch.cuda.set_stream(before)
        with contextlib.suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
