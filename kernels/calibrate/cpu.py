"""What this machine's cores, caches and memory do at their best: a few seconds of micro-benchmarks, interleaved.

No product
of ours is timed but the smallest, which is all call. Of the dense libraries a product of 16 tokens is timed, whose weights lie
in a cache. Each figure is the median of repetitions, with its 20th and 80th percentile.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kernels import cpu
from kernels.calibrate import microbench
from kernels.timing import interleaved as timing
from kernels.timing import libraries
from kernels.timing.host import Host, this_machine
from kernels.timing.interleaved import Figure
from nmsim.support import parallel
from nmsim.units import ceil_div

REPETITIONS = 25
SAMPLE_S = 4e-3
OVERHEAD_CALLS = 500
KERNEL_LANES = {"avx512": 16, "avx2": 8, "portable": 4}
SPARSE_CALLS = 100
CALL_ELEMS = 16
"""Elements of a product so small that all of its time is the call."""
WAKE_CALLS = 20
ROW_BYTES = 1 << 14
"""Bytes of a row in the benchmark that reads block by block."""
LIBRARY_TOKENS = 16
LIBRARY_SIDE = 384
"""Rows and columns of the weights that a dense library multiplies with: they lie in the second level of cache."""
LIBRARY_DTYPES = ("fp32", "fp16", "bf16")
PROBE_BYTES = 1 << 20
LEAST_S = 1e-9
SHARE_OF_ALONE = 0.75
"""Cores that together do less than this share of what each does alone are doubted."""
PRIVATE_SHARE, SHARED_SHARE = 0.5, 0.25
"""Part of a private level, and of a shared one, that an array fills: room is left for what else a level holds."""

Bytes = NDArray[np.uint8]
What = Literal["read", "blocks", "copy", "fma", "mix", "clock", "call", "sparse call", "wake", "library"]
Key = tuple[What, str, int, int]
"""What, level ("" if there is none), cores, streams."""


@dataclass(frozen=True)
class Calibration:
    """All figures of a machine.

    `read` and `copy` are in bytes per second, by level ("L1", "L2", "L3", "DRAM") and number of cores. A copy counts the
    bytes that it reads and writes. `fma` is in flop per second and `mix` in lane instructions per second, by number of
    cores, for vectors of `lanes` lanes. `kernels` is the instruction set of the kernels. `row_start` is the time in seconds
    that reading row by row adds per row. `library` is the rate of the fastest dense library at 16 tokens, in flop per second,
    by value type. `thread_wake` is None on a single core.
    """

    host: Host
    lanes: int
    kernels: str
    read: dict[tuple[str, int], Figure]
    copy: dict[tuple[str, int], Figure]
    fma: dict[int, Figure]
    mix: dict[int, Figure]
    clock: Figure
    call_overhead: Figure
    sparse_call_overhead: Figure
    thread_wake: Figure | None
    row_start: Figure
    library: dict[str, Figure]

    @property
    def kernel_lanes(self) -> int:
        """32-bit lanes of the registers that the CPU kernels use here; plain loops count as four."""
        return KERNEL_LANES[self.kernels]

    @property
    def figures(self) -> list[tuple[str, Figure]]:
        """Every figure with its name in words."""
        found = [(f"read {level}", figure) for (level, _), figure in self.read.items()]
        found += [(f"copy {level}", figure) for (level, _), figure in self.copy.items()]
        found += [("fp32 multiply-add", figure) for figure in self.fma.values()]
        found += [("integer instructions", figure) for figure in self.mix.values()]
        found += [("clock", self.clock), ("smallest dense product", self.call_overhead)]
        found += [("smallest sparse product", self.sparse_call_overhead), ("starting a row", self.row_start)]
        found += [(f"dense library, {dtype}", figure) for dtype, figure in self.library.items()]
        return found + ([("waking threads", self.thread_wake)] if self.thread_wake else [])

    @property
    def doubts(self) -> list[str]:
        """What makes these figures doubtful, in words; nothing if nothing does."""
        cores = self.host.cores
        times = self.fma[cores].p50 / self.fma[1].p50
        if times >= SHARE_OF_ALONE * cores:
            return []
        return [
            f"{cores} cores together multiply only {times:.2f} times as fast as one alone: other work kept them busy, they "
            "share units (hyper-threads), or their clock drops; if it was other work, calibrate again when it is done"
        ]


@dataclass(frozen=True)
class _Bench:
    """What is sampled: an action done `calls` times over, and the work of one, in `unit`s (0: the time itself counts)."""

    action: Callable[[], object]
    work: float
    unit: str
    how: str
    calls: int = 1


@dataclass(frozen=True)
class _Level:
    name: str
    footprint_bytes: dict[int, int] = field(default_factory=dict)
    """Number of cores -> bytes that each of them goes through."""


def calibrate(
    host: Host | None = None,
    *,
    repetitions: int = REPETITIONS,
    sample_s: float = SAMPLE_S,
    progress: Callable[[float], None] = lambda share: None,
) -> Calibration:
    """Run every micro-benchmark on this machine.

    Parameters
    ----------
    host : Host, optional
        What the machine is; asked of the system when absent.
    repetitions : int
    sample_s : float
        Least time of one sample; work is repeated to fill it.
    progress : callable
        Called with the share done.

    Returns
    -------
    Calibration
    """
    host = host or this_machine()
    benches = dict(_benches(host, sample_s))
    samples = {key: _sampler(bench) for key, bench in benches.items()}

    def report(done: int) -> bool:
        progress(done / repetitions)
        return False

    # A rate of a library is that of one core.
    with libraries.threads_of_libraries(1, torch=libraries.torch_if_installed()):
        times = timing.interleave(samples, repetitions, report)
    figures = {key: _figure(bench, times[key], key) for key, bench in benches.items()}
    team = sorted({1, host.cores})
    return Calibration(
        host=host,
        lanes=microbench.lanes(),
        kernels=cpu.instruction_sets()[0],
        read=_best_of_streams(figures, "read"),
        copy=_best_of_streams(figures, "copy"),
        fma={cores: figures["fma", "", cores, 1] for cores in team},
        mix={cores: figures["mix", "", cores, 1] for cores in team},
        clock=figures["clock", "", 1, 1],
        call_overhead=figures["call", "", 1, 1],
        sparse_call_overhead=figures["sparse call", "", 1, 1],
        thread_wake=_wake(figures, host.cores) if host.cores > 1 else None,
        row_start=_row_start(figures, host.beyond_caches_bytes // ROW_BYTES),
        library=_best_library(figures),
    )


def levels(host: Host) -> list[_Level]:
    """Name the levels and the bytes that a core reads in each, innermost first, DRAM last."""
    found: list[_Level] = []
    team = sorted({1, host.cores})
    inner = 0
    for cache in host.caches:
        shared = cache.instances < host.cores
        sizes = {
            cores: int(
                SHARED_SHARE * (cache.instance_bytes if cores == 1 else cache.bytes / cores)
                if shared
                else PRIVATE_SHARE * cache.instance_bytes
            )
            for cores in team
        }
        if min(sizes.values()) > inner:
            found.append(_Level(f"L{cache.level}", sizes))
        inner = cache.instance_bytes
    found.append(_Level("DRAM", {cores: host.beyond_caches_bytes // cores for cores in team}))
    return found


def _benches(host: Host, sample_s: float) -> Iterator[tuple[Key, _Bench]]:
    room = np.ones(host.beyond_caches_bytes, np.uint8)
    other = np.ones_like(room)
    team = sorted({1, host.cores})
    for level in levels(host):
        for cores, size in level.footprint_bytes.items():
            size = min(size, room.size // cores) // 64 * 64
            parts = [room[core * size : (core + 1) * size] for core in range(cores)]
            targets = [other[core * size : (core + 1) * size] for core in range(cores)]
            for streams in microbench.STREAMS:
                yield ("read", level.name, cores, streams), _read(parts, streams, sample_s, level.name)
            yield ("copy", level.name, cores, 1), _copy(parts, targets, sample_s)
    for cores in team:
        yield ("fma", "", cores, 1), _fma(cores, sample_s)
        yield ("mix", "", cores, 1), _mix(cores, sample_s)
        yield ("wake", "", cores, 1), _Bench(_team(lambda part: None, range(cores)), 0, "s", "", WAKE_CALLS)
    yield ("clock", "", 1, 1), _clock(sample_s)
    yield ("call", "", 1, 1), _call()
    yield ("sparse call", "", 1, 1), _sparse_call()
    yield ("blocks", "DRAM", 1, 1), _blocks(room)
    for number, (dtype, name, action) in enumerate(_library_products()):
        yield ("library", dtype, 1, number), _library(dtype, name, action, sample_s)


def _read(parts: list[Bytes], streams: int, sample_s: float, level: str) -> _Bench:
    done = microbench.read(parts[0], streams) * len(parts)
    # A product reads DRAM once. The first pass of several cores can be slower than those that follow at once.
    passes = 1
    if level != "DRAM":
        passes = _passes(lambda n: microbench.read(parts[0], streams, n), parts[0], sample_s)
    how = f"sum of {parts[0].nbytes} bytes a core, read at {streams} place{'s' if streams > 1 else ''} side by side"
    return _Bench(
        _team(lambda part: microbench.read(part, streams, passes), parts), done * passes, "bytes_per_s", how
    )


def _blocks(room: Bytes) -> _Bench:
    how = f"blocks of {microbench.ROWS_ABREAST} rows of {ROW_BYTES} bytes, read side by side, one block after the other"
    microbench.read_blocks(room, ROW_BYTES)
    return _Bench(lambda: microbench.read_blocks(room, ROW_BYTES), 0, "s", how)


def _library_products() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Value type, library and call of every dense product of 16 tokens."""
    x = np.ones((LIBRARY_TOKENS, LIBRARY_SIDE), np.float32)
    weights = np.ones((LIBRARY_SIDE, LIBRARY_SIDE), np.float32)
    yield "fp32", "numpy", lambda: x @ weights.T
    torch = libraries.torch_if_installed()
    if torch is None:
        return
    linear = torch.nn.functional.linear
    for dtype in LIBRARY_DTYPES:
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        tokens, w = torch.from_numpy(x).to(kind), torch.from_numpy(weights).to(kind)
        yield dtype, "torch", lambda tokens=tokens, w=w: linear(tokens, w)  # type: ignore[misc]


def _library(dtype: str, name: str, action: Callable[[], object], sample_s: float) -> _Bench:
    action()
    calls = timing.calls_to_fill(action, sample_s)
    how = f"{name}'s product of {LIBRARY_TOKENS} tokens with {LIBRARY_SIDE} x {LIBRARY_SIDE} weights in {dtype}, in a cache"
    return _Bench(action, 2.0 * LIBRARY_TOKENS * LIBRARY_SIDE**2, "flop_per_s", how, calls)


def _copy(parts: list[Bytes], targets: list[Bytes], sample_s: float) -> _Bench:
    microbench.copy(parts[0], targets[0], 1)
    passes = _passes(lambda n: microbench.copy(parts[0], targets[0], n), parts[0], sample_s)
    work = 2 * sum(part.nbytes for part in parts) * passes
    how = f"copy of {parts[0].nbytes} bytes a core, bytes read and bytes written both counted"
    pairs = list(zip(parts, targets, strict=True))
    return _Bench(
        _team(lambda pair: microbench.copy(pair[0], pair[1], passes), pairs), work, "bytes_per_s", how
    )


def _fma(cores: int, sample_s: float) -> _Bench:
    turns = _turns(lambda n: microbench.fma(n, np.float32(0.5), np.float32(1)), sample_s)
    work = turns * microbench.FMA_FLOP * microbench.lanes() * cores
    how = f"{microbench.CHAINS} chains of fp32 multiply-adds of {microbench.lanes()} lanes in registers"
    action = _team(lambda part: microbench.fma(turns, np.float32(0.5), np.float32(1)), range(cores))
    return _Bench(action, work, "flop_per_s", how)


def _mix(cores: int, sample_s: float) -> _Bench:
    turns = _turns(lambda n: microbench.mix(n, np.uint32(5), np.uint32(7)), sample_s)
    work = turns * microbench.MIX_INSTRUCTIONS * microbench.lanes() * cores
    how = f"{microbench.CHAINS} chains of {', '.join(microbench.MIX)} of {microbench.lanes()} 32-bit lanes in registers"
    action = _team(lambda part: microbench.mix(turns, np.uint32(5), np.uint32(7)), range(cores))
    return _Bench(action, work, "lanes_per_s", how)


def _clock(sample_s: float) -> _Bench:
    turns = _turns(lambda n: microbench.clock(n, 5, 7), sample_s)
    how = "additions and exclusive ors that wait for each other, one a clock cycle"
    return _Bench(lambda: microbench.clock(turns, 5, 7), turns * microbench.CLOCK_OPS, "hz", how)


def _call() -> _Bench:
    one, x = np.ones((1, CALL_ELEMS), np.float32), np.ones(CALL_ELEMS, np.float32)
    how = f"numpy's product of {CALL_ELEMS} elements with {CALL_ELEMS} more, called from Python"
    return _Bench(lambda: one @ x, 0, "s", how, OVERHEAD_CALLS)


def _sparse_call() -> _Bench:
    x = np.ones(CALL_ELEMS, np.float32)
    one = cpu.compress(np.ones((1, CALL_ELEMS), np.float32), "8:16/index")
    cpu.matmul(x, one)
    how = f"kernels.cpu.matmul of one 8:16 group of {CALL_ELEMS} elements, called from Python"
    return _Bench(lambda: cpu.matmul(x, one), 0, "s", how, SPARSE_CALLS)


def _team(function: Callable[[Any], object], parts: Any) -> Callable[[], object]:
    """One call of `function` for each part, each on a core of its own."""
    items = list(parts)
    return lambda: parallel.run(function, items, len(items))


def _passes(action: Callable[[int], object], part: Bytes, sample_s: float) -> int:
    """Passes that fill a sample; counted by many at a time, so that the call itself does not count."""
    some = ceil_div(PROBE_BYTES, part.nbytes)
    return some * timing.calls_to_fill(lambda: action(some), sample_s)


def _turns(action: Callable[[int], object], sample_s: float) -> int:
    action(1)
    least = 1000
    return least * timing.calls_to_fill(lambda: action(least), sample_s)


def _sampler(bench: _Bench) -> Callable[[], float]:
    return lambda: timing.seconds_per_call(bench.action, bench.calls)


def _figure(bench: _Bench, times_s: timing.Floats, key: Key) -> Figure:
    spread = timing.Spread.of(bench.work / times_s if bench.work else times_s)
    return Figure(spread.p50, spread.p20, spread.p80, bench.unit, key[2], len(times_s), bench.how)


def _best_of_streams(figures: dict[Key, Figure], wanted: What) -> dict[tuple[str, int], Figure]:
    best: dict[tuple[str, int], Figure] = {}
    for (what, level, cores, _), figure in figures.items():
        if what == wanted and ((level, cores) not in best or figure.p50 > best[level, cores].p50):
            best[level, cores] = figure
    return best


def _wake(figures: dict[Key, Figure], cores: int) -> Figure:
    """Calls on all cores against the same on one."""
    alone, together = figures["wake", "", 1, 1], figures["wake", "", cores, 1]
    how = f"handing nothing to {cores - 1} waiting threads and waiting for them, against doing it alone"
    p50, p20, p80 = (max(value - alone.p50, LEAST_S) for value in (together.p50, together.p20, together.p80))
    return Figure(p50, p20, p80, "s", cores, together.repetitions, how)


def _row_start(figures: dict[Key, Figure], rows: int) -> Figure:
    """Time per row that blocks of rows take on top of as many bytes in long streams."""
    blocks = figures["blocks", "DRAM", 1, 1]
    stream = _best_of_streams(figures, "read")["DRAM", 1]
    long_s = rows * ROW_BYTES / stream.p50
    how = f"{blocks.how}, against long streams of as many bytes, per row"
    p50, p20, p80 = (max((value - long_s) / rows, LEAST_S) for value in (blocks.p50, blocks.p20, blocks.p80))
    return Figure(p50, p20, p80, "s", 1, blocks.repetitions, how)


def _best_library(figures: dict[Key, Figure]) -> dict[str, Figure]:
    best: dict[str, Figure] = {}
    for (what, dtype, _, _), figure in figures.items():
        if what == "library" and (dtype not in best or figure.p50 > best[dtype].p50):
            best[dtype] = figure
    return best
