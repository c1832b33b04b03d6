"""How work is timed on a CUDA device, by a pretended torch that notes what it is asked. Nothing is timed."""

import contextlib
import types

import pytest

from kernels.measure.cuda.clock import L2_TIMES, WARM_CALLS, WARMING, CaptureError, CudaClock

L2_BYTES = 50 << 20


class Torch:
    """Notes what it is asked; a capture fails where it is told to, as torch's does."""

    int64 = "int64"

    def __init__(self, fails_at=""):
        self.noted, self.fails_at, self.stream, self.underway = [], fails_at, "the first", []
        self.cuda = types.SimpleNamespace(
            get_device_properties=lambda device: types.SimpleNamespace(L2_cache_size=L2_BYTES),
            current_device=lambda: 0,
            current_stream=lambda: self.stream,
            set_stream=lambda stream: setattr(self, "stream", stream),
            synchronize=lambda: self.noted.append("synchronize"),
            graph_pool_handle=lambda: (0, 7),
            CUDAGraph=lambda: types.SimpleNamespace(replay=lambda: self.noted.append("replay")),
            Event=self.event,
            graph=self.graph,
        )
        self._C = types.SimpleNamespace(_cuda_endAllocateToPool=self.end)

    def event(self, enable_timing):
        assert enable_timing
        return types.SimpleNamespace(
            record=lambda: self.noted.append("record"),
            synchronize=lambda: self.noted.append("wait"),
            elapsed_time=lambda other: 5.0,
        )

    def ones(self, elems, dtype, device):
        self.noted.append(f"{elems} {dtype} on {device}")
        return types.SimpleNamespace(sum=lambda: self.noted.append("read"))

    @contextlib.contextmanager
    def graph(self, graph, pool):
        before, self.stream = self.stream, "of the capture"
        self.underway.append(pool)
        try:
            yield
        finally:
            if self.fails_at == "end":
                raise RuntimeError(
                    "CUDA error: operation failed due to a previous error during capture\nstack"
                )
        self.underway.remove(pool)
        self.stream = before

    def end(self, device, pool):
        if pool not in self.underway:
            raise RuntimeError("not currently recording to mempool_id")
        self.underway.remove(pool)


def noting(torch):
    """Two actions that note themselves."""
    return [lambda name=name: torch.noted.append(name) or f"result {name}" for name in ("a", "b")]


def test_a_cold_sample_reads_beyond_the_cache_before_and_writes_nothing():
    torch = Torch()
    timed = CudaClock(torch).timed(noting(torch), "cold")
    assert torch.noted == ["a"] * WARMING + ["b"] * WARMING + ["synchronize", "a", "b"]
    torch.noted.clear()
    assert timed.sample() == 5e-3 / 2
    assert torch.noted == [
        f"{L2_TIMES * L2_BYTES // 8} int64 on cuda", "read", "record", "replay", "record", "wait",
    ]  # fmt: skip
    torch.noted.clear()
    timed.sample()
    assert torch.noted == ["read", "record", "replay", "record", "wait"]


def test_a_warm_sample_repeats_and_reads_nothing_else():
    torch = Torch()
    timed = CudaClock(torch).timed(noting(torch)[:1], "warm")
    assert torch.noted[WARMING + 1 :] == ["a"] * WARM_CALLS
    torch.noted.clear()
    assert timed.sample() == 5e-3 / WARM_CALLS
    assert torch.noted == ["record", "replay", "record", "wait"]


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_a_replay_gives_what_each_action_gave(state):
    torch = Torch()
    timed = CudaClock(torch).timed(noting(torch), state)
    torch.noted.clear()
    assert timed.replay() == ["result a", "result b"]
    assert torch.noted == ["replay"]


@pytest.mark.parametrize("where", ["end", "action"])
def test_a_capture_that_fails_is_refused_and_leaves_nothing_behind(where):
    torch = Torch(fails_at=where)
    left = [WARMING]

    def action():
        left[0] -= 1
        if where == "action" and left[0] < 0:
            raise RuntimeError("operation not permitted when stream is capturing")

    clock = CudaClock(torch)
    message = (
        "operation failed due to a previous error during capture"
        if where == "end"
        else "operation not permitted"
    )
    with pytest.raises(
        CaptureError, match=f"^cannot be captured as a CUDA graph: RuntimeError: .*{message}[^\n]*$"
    ):
        clock.timed([action], "cold")
    assert (torch.stream, torch.underway) == ("the first", [])
    torch.fails_at, left[0] = "", 1000
    assert clock.timed([action], "cold").how == "graph"


def test_copies_are_those_of_the_state():
    clock = CudaClock(Torch())
    assert (clock.copies(32 << 20, "cold"), clock.copies(32 << 20, "warm")) == (7, 1)
