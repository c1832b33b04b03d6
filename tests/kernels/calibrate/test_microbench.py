"""The loops do what they say, and a calibration of a pretended machine has every figure. No speed is asserted."""

import dataclasses

import numpy as np
import pytest

from kernels.calibrate import cpu as calibration
from kernels.calibrate import cuda as calibration_cuda
from kernels.calibrate import microbench
from kernels.timing import host
from kernels.timing import interleaved as timing

KB = 1 << 10
TINY = host.Host("Test CPU(R) v1 @ 2GHz", 2, 1 << 20, (host.Cache(1, 4 * KB, 2), host.Cache(2, 64 * KB, 1)))


@pytest.mark.parametrize("streams", microbench.STREAMS)
def test_read_reads_all_but_a_tail(streams):
    array = np.arange(5000 * 4, dtype=np.uint32).view(np.uint8)
    assert 0 <= array.nbytes - microbench.read(array, streams) < 64 * microbench.READ_VECTORS * 4


@pytest.mark.parametrize("streams", microbench.STREAMS)
def test_read_adds_up_every_element_it_says_it_reads(streams, monkeypatch):
    lanes, kept = microbench.lanes(), []
    passes = microbench._read_passes
    monkeypatch.setattr(microbench, "_read_passes", lambda *arguments: kept.append(passes(*arguments)))
    values = np.random.default_rng(0).integers(0, 1 << 32, 4096, np.uint32)
    assert microbench.read(values.view(np.uint8), streams) == values.nbytes
    assert kept == [int(values[::lanes].sum(dtype=np.uint32))]


def test_blocks_add_up_every_element_once(monkeypatch):
    lanes, kept = microbench.lanes(), []
    blocks = microbench._read_every_block
    monkeypatch.setattr(microbench, "_read_every_block", lambda *arguments: kept.append(blocks(*arguments)))
    values = np.random.default_rng(0).integers(0, 1 << 32, 2 * 4 * 256, np.uint32)
    assert microbench.read_blocks(values.view(np.uint8), 1024) == 8
    halves = [int(block[::lanes].sum(dtype=np.uint32)) for block in values.reshape(2, -1)]
    assert kept == [halves[0] ^ halves[1]]


def test_copy_copies():
    source, target = np.arange(100, dtype=np.uint8), np.zeros(100, np.uint8)
    microbench.copy(source, target, 2)
    assert (source == target).all()


def test_fma_multiplies_and_adds():
    def chain(value, turns):
        for _ in range(turns * microbench.FMA_STEPS):
            value = value * 0.5 + 1
        return value

    expected = sum(chain(1.0 + c, 3) for c in range(microbench.CHAINS))
    assert microbench.fma(3, np.float32(0.5), np.float32(1)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("term", "bits"), [(0x9E3779B9, 0x7F4A7C15), (0x9E3779B9, 0x7F4A7C14)])
def test_mix_does_each_of_its_instructions(term, bits):
    lanes = microbench.lanes()

    def chain(vector, steps):
        for _ in range(steps):
            vector = [((value + term) % (1 << 32) >> (bits & 1)) ^ bits for value in vector]
            vector = [vector[lane ^ 3] for lane in range(lanes)]
        return vector[0]

    start = [
        [(term + c * lanes + lane) % (1 << 32) for lane in range(lanes)] for c in range(microbench.CHAINS)
    ]
    for turns in (1, 2):
        expected = 0
        for vector in start:
            expected ^= chain(vector, turns * microbench.MIX_STEPS)
        assert expected != 0
        assert microbench.mix(turns, np.uint32(term), np.uint32(bits)) == expected


def test_id_of_a_machine():
    assert TINY.id == "test-v1-2core"
    assert dataclasses.replace(TINY, processor="AMD EPYC 7763 64-Core Processor").id == (
        "amd-epyc-7763-64-core-processor-2core"
    )


def test_bytes_beyond_the_caches():
    assert TINY.beyond_caches_bytes == 128 * KB
    large = dataclasses.replace(TINY, memory_bytes=1 << 36)
    assert large.beyond_caches_bytes == host.LEAST_BEYOND_BYTES
    assert dataclasses.replace(large, caches=()).beyond_caches_bytes == 4 * host.UNKNOWN_CACHE_BYTES
    assert dataclasses.replace(large, caches=(host.Cache(3, 1 << 26, 2),)).beyond_caches_bytes == 1 << 29


def test_caches_as_linux_lists_them(tmp_path):
    for core in (0, 1):
        for index, (level, kind, size, shared) in enumerate(
            [
                ("1", "Data", "32K", str(core)),
                ("1", "Instruction", "64K", str(core)),
                ("3", "Unified", "8M", "0-1"),
            ]
        ):
            folder = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                (folder / name).write_text(text + "\n")
    assert host._caches([0, 1], tmp_path) == (host.Cache(1, 32 * KB, 2), host.Cache(3, 8 << 20, 1))
    assert host._caches([0], tmp_path / "nowhere") == ()


def test_this_machine_says_something():
    found = host.this_machine()
    assert found.cores >= 1
    assert found.memory_bytes > 1 << 20
    assert found.id == found.id.lower()
    assert host.versions(("numpy", "no-such-package-here")) == {
        "numpy": np.__version__,
        "no-such-package-here": "",
    }


def test_levels_go_outwards_and_leave_room():
    names = {level.name: level.footprint_bytes for level in calibration.levels(TINY)}
    assert names == {
        "L1": {1: 2 * KB, 2: 2 * KB},
        "L2": {1: 16 * KB, 2: 8 * KB},
        "DRAM": {1: 128 * KB, 2: 64 * KB},
    }


@pytest.fixture(scope="module")
def found():
    return calibration.calibrate(TINY, repetitions=3, sample_s=1e-5)


def test_a_calibration_has_every_figure(found):
    levels = {(level, cores) for level in ("L1", "L2", "DRAM") for cores in (1, 2)}
    assert set(found.read) == set(found.copy) == levels
    assert set(found.fma) == set(found.mix) == {1, 2}
    for name, figure in found.figures:
        assert 0 < figure.p20 <= figure.p50 <= figure.p80, name
        assert figure.repetitions == 3
    assert found.thread_wake is not None
    assert found.row_start.unit == "s"
    assert "fp32" in found.library
    assert all(figure.unit == "flop_per_s" for figure in found.library.values())


def test_one_core_wakes_nobody():
    alone = dataclasses.replace(TINY, cores=1, caches=(), memory_bytes=1 << 20)
    shares = []
    found = calibration.calibrate(alone, repetitions=2, sample_s=1e-5, progress=shares.append)
    assert found.thread_wake is None
    assert set(found.read) == {("DRAM", 1)}
    assert shares == [0.5, 1.0]


@pytest.mark.parametrize(("together", "doubted"), [(1.9e9, False), (1.6e9, False), (1.02e9, True)])
def test_cores_that_got_in_each_others_way_are_doubted(found, together, doubted):
    fma = {cores: dataclasses.replace(found.fma[1], p50=p50) for cores, p50 in ((1, 1e9), (2, together))}
    doubts = dataclasses.replace(found, fma=fma).doubts
    assert bool(doubts) == doubted
    assert not doubted or doubts[0].startswith(
        "2 cores together multiply only 1.02 times as fast as one alone: "
    )


def test_figures_are_work_by_time():
    bench = calibration._Bench(lambda: None, 100.0, "bytes_per_s", "how")
    figure = calibration._figure(bench, np.array([1.0, 2.0, 4.0]), ("read", "L1", 2, 1))
    assert (figure.p50, figure.cores, figure.repetitions) == (50.0, 2, 3)
    bench = calibration._Bench(lambda: None, 0, "s", "how")
    assert calibration._figure(bench, np.array([1.0, 2.0, 4.0]), ("call", "", 1, 1)).p50 == 2.0


def test_what_a_device_is_asked_runs_in_torch():
    torch = pytest.importorskip("torch")
    shares = []
    figures = calibration_cuda.benchmark(
        torch, "cpu", timing.seconds_per_call,
        buffer_bytes=1 << 12, matrix=8, launches=3, repetitions=2, progress=shares.append,
    )  # fmt: skip
    assert list(figures) == ["read", "copy", "launch", *calibration_cuda.PEAKS]
    assert all(figure.p50 > 0 for figure in figures.values())
    assert (figures["launch"].unit, figures["fp16"].unit, shares) == ("s", "flop_per_s", [0.5, 1.0])
