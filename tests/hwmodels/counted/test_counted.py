"""Times from counts: laws that hold for any counts, and what the carried counts say of products."""

from dataclasses import replace

import pytest

import hwmodels
from hwmodels.counted.product import counted_product, counted_pruning
from hwmodels.counted.table import CountedKernel, counted_kernels, triton_versions
from hwmodels.counted.time import LIMITS, architecture, counted_time, machine_waves, read_share
from nmsim.case import Case, GemmShape
from nmsim.errors import SpecError
from nmsim.format import SparseFormat

H200 = hwmodels.load_machine("h200")
KERNEL = CountedKernel(
    "9.9.9", "gemv", "8:16", "index", "fp16", 1, 8, 90, 32, 32, 1.25, 40, 6, "issue", 140.0, 1.1, 13.0, 14.0, 1
)  # fmt: skip
INDEX = SparseFormat.parse("8:16/index")


def time(kernel=KERNEL, *, outputs=14336, k=4096, machine=H200, **more):
    return counted_time(kernel, machine, outputs=outputs, k=k, **more)


def test_no_time_is_below_that_of_its_bytes():
    rate = H200.dram_bandwidth_bytes_per_s.value * read_share(H200)
    for outputs, k in ((32, 64), (4096, 4096), (28672, 4096), (100000, 8192)):
        found = time(outputs=outputs, k=k, launch_s=0.0)
        assert found.time_s > outputs * k * KERNEL.bytes_per_elem / rate
        assert found.limit in LIMITS
        assert set(found.parts_s) == set(LIMITS)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        *(("bytes_per_elem", 2), ("issue_cycles", 4), ("serial_trips", 5), ("wavefronts_most", 6)),
        *(("launches", 2), ("programs", 0.34)),
    ],
)
def test_more_of_anything_takes_longer(name, factor):
    worse = replace(KERNEL, **{name: type(getattr(KERNEL, name))(getattr(KERNEL, name) * factor)})
    assert time(worse).time_s > time().time_s


def test_time_rises_with_the_matrix_and_with_every_launch():
    sizes = [time(outputs=outputs).time_s for outputs in (1024, 4096, 14336, 28672)]
    assert sizes == sorted(sizes)
    assert time(launch_s=5e-6).time_s == pytest.approx(time(launch_s=2e-6).time_s + 3e-6)
    assert time(other_bytes=1e6).time_s > time().time_s


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, "DRAM"),
        ({"issue_cycles": 1000.0}, "issue"),
        ({"wavefronts_most": 100.0}, "L1"),
        ({"serial_trips": 20.0}, "latency"),
    ],
)
def test_the_limit_is_named(changes, limit):
    large = time(replace(KERNEL, **changes), outputs=100000, launch_s=0.0)
    assert large.limit == limit
    assert time(replace(KERNEL, **changes), outputs=32, k=256, launch_s=1e-4).limit == "launch"


def test_programs_fill_the_machine_in_waves():
    # 14336 rows are 448 blocks; 6 programs on 132 multiprocessors are 792 places.
    one = time(n_parts=1)
    assert (one.programs, machine_waves(one)) == (448, 1)
    two = time(n_parts=2)
    assert two.programs == 896
    assert machine_waves(two) == 2
    # The best cut is at least as good as any.
    assert time().time_s <= min(one.time_s, two.time_s)


def test_machines_without_counts_have_no_answer():
    assert architecture(H200) == 90
    assert architecture(hwmodels.load_machine("mi300x")) is None
    shape = GemmShape(1, 4096, 4096)
    assert counted_product(shape, hwmodels.load_machine("mi300x"), format=INDEX) is None
    assert counted_product(GemmShape(100000, 4096, 4096), H200, format=INDEX) is None
    assert counted_product(shape, H200, format=SparseFormat.parse("3:7/index")) is None
    assert counted_product(shape, H200, format=INDEX, dtype="fp32") is None
    assert counted_pruning(4096, hwmodels.load_machine("mi300x"), format=INDEX) is None
    with pytest.raises(SpecError, match="triton '0.1': expected one of "):
        counted_product(shape, H200, format=INDEX, triton="0.1")


def test_the_carried_counts_are_whole():
    rows = counted_kernels()
    assert len(set(rows)) == len(rows)
    for version in triton_versions():
        mine = [row for row in rows if row.triton == version]
        found = {row.architecture for row in mine}
        assert found == {80, 89, 90, 100} if version == triton_versions()[-1] else 90 in found
        assert {"gemv", "dense", "prune", "copy"} <= {row.kernel for row in mine}
    for row in rows:
        assert row.elems > 0, row
        assert row.issue_cycles > 0, row
        assert 0 < row.wavefronts_least <= row.wavefronts_most, row
        assert row.kernel in ("prune", "copy") or row.serial_trips <= 5, row


@pytest.mark.parametrize("machine", ["a100-sxm", "rtx4090", "h200", "b200"])
def test_one_token_gains_on_a_large_layer_and_launches_bound_a_small_one(machine):
    spec = hwmodels.load_machine(machine)
    large = counted_product(GemmShape(1, 28672, 4096), spec, format=INDEX)
    small = counted_product(GemmShape(1, 1024, 1024), spec, format=INDEX)
    dense_s = hwmodels.predict(Case(GemmShape(1, 28672, 4096), None, dtype="fp16"), spec)
    assert 1 < dense_s.predicted_dense_time_s / large.time_s < 2
    assert small.limit == "launch"


def test_more_tokens_of_one_kernel_never_take_less():
    times = [
        counted_product(GemmShape(tokens, 14336, 4096), H200, format=INDEX).time_s for tokens in range(1, 5)
    ]
    assert times == sorted(times)


def test_pruning_reads_more_instructions_than_a_copy():
    pruned, copied = counted_pruning(1 << 24, H200, format=INDEX)
    assert pruned.parts_s["issue"] > copied.parts_s["issue"]
    assert copied.limit == "DRAM"
