"""Products split over K: how many parts, and their sum by the program that ends last, in the same order every time."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.bits import as_bits, as_float
from nmsim.units import ceil_div

PARTS_AHEAD: tl.constexpr = tl.constexpr(8)
"""Parts of K that are read at a time when they are added up."""
PROGRAMS_PER_PROCESSOR = 4
"""Programs needed per multiprocessor, for enough loads to be under way. A guess: nothing was timed."""
LEAST_COUNTERS = 4096
GRAPH_COUNTERS = 1 << 18
"""Counters for the launches that CUDA graphs record, 1 MB. 64 layers of 7 products of 512 blocks need most of them."""
LEAST_STEPS = 4
"""Steps of K below which a part is not worth its own sum. A guess as well."""


@triton.jit
def is_last(counter: tl.tensor, n_parts: tl.tensor) -> tl.tensor:
    """Count the programs that have stored their part: true for the last one only, which sees all parts.

    The counter is zero before and afterwards. Parts should be read with `.cg`, past the first cache.
    """
    # All threads have stored before one of them counts; that one's release covers what they wrote.
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == n_parts - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def add_parts(
    parts: tl.tensor, place: tl.tensor, stride: tl.tensor, inside: tl.tensor, n_parts: tl.tensor,
    AHEAD: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Add up float32 parts that lie so far apart, the first one first; so many are read at a time."""
    total: tl.tensor = tl.zeros(place.shape, tl.float32)
    for first in range(0, n_parts, AHEAD):
        for i in tl.static_range(AHEAD):
            # A tensor also in the interpreter, where a loop counts in numbers of Python.
            part = tl.full([], 0, tl.int64) + first + i
            at = parts + part * stride + place
            is_part = tl.full(place.shape, 0, tl.int32) + (first + i) < n_parts
            total += tl.load(at, mask=inside & is_part, other=0, cache_modifier=".cg")
    return total


@triton.jit
def store_rounded(
    y: tl.tensor, bias: tl.tensor, total: tl.tensor, place: tl.tensor, output: tl.tensor, inside: tl.tensor,
    KIND: tl.constexpr, BIAS_KIND: tl.constexpr,
) -> None:  # fmt: skip
    """Add the bias of outputs to their float32 sums, and round once."""
    if BIAS_KIND != "none":
        total += as_float(tl.load(bias + output, mask=inside, other=0), BIAS_KIND)
    tl.store(y + place, as_bits(total, KIND), mask=inside)


_zeros: dict[tuple[torch.device, int], Tensor] = {}
_captured: dict[torch.device, list[Tensor]] = {}


def counters(count: int, device: torch.device) -> Tensor:
    """Give counters for `is_last`, which are zero: int32, so many or more.

    Launches of one stream follow each other, so they share theirs. Launches that a CUDA graph records have their own: graphs
    may run beside each other. They are cut from a piece that an earlier launch outside of graphs has made, or else cleared
    by the graph itself.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        left = _captured.get(device, [])
        if not left or len(left[0]) < count:
            return torch.zeros(count, dtype=torch.int32, device=device)
        found, left[0] = left[0][:count], left[0][count:]
        return found
    if len(_zeros.get((device, stream), ())) < count:
        _zeros[device, stream] = torch.zeros(max(count, LEAST_COUNTERS), dtype=torch.int32, device=device)
        _captured.setdefault(device, [torch.zeros(GRAPH_COUNTERS, dtype=torch.int32, device=device)])
    return _zeros[device, stream]


def split(
    length: int, step: int, programs: int, device: torch.device, n_parts: int | None = None
) -> tuple[int, int]:
    """Cut a length into parts of whole steps: -> how many, and how long all are except the last.

    As many as asked for, or fewer. By default, as many as give work to every multiprocessor of a device. Each part has
    `programs` programs.

    Examples
    --------
    >>> split(1000, 64, 32, torch.device("cpu"), n_parts=4), split(1000, 64, 32, torch.device("cpu"))
    ((4, 256), (1, 1024))
    """
    steps = ceil_div(length, step)
    if n_parts is None:
        wanted = ceil_div(PROGRAMS_PER_PROCESSOR * processors(device), programs)
        n_parts = max(1, min(wanted, steps // LEAST_STEPS)) if device.type == "cuda" else 1
    part = ceil_div(steps, n_parts) * step
    return ceil_div(length, part), part


def processors(device: torch.device) -> int:
    """Count the multiprocessors of a device; main memory counts as one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
