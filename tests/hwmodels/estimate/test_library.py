"""Library products: one tile shape by hand, waves, split K, restreaming, power, and what may never happen."""

import dataclasses
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwmodels
from hwmodels.estimate import constants
from hwmodels.estimate.library import TILE_ROWS, TILE_TOKENS, Product, library_time_s, norm
from hwmodels.machine.chip import CACHE_BYTES_PER_CORE_CYCLE, IDLE_POWER_SHARE, Chip, chip
from hwmodels.machine.libraries import DRAM, LAUNCH, VALUE_TYPES, properties

CORE_FLOP_PER_S = 2048e9
"""A core of 2048 flop a cycle at 1 GHz: the yardstick of A22, whose operand fetch counts in full."""
ROUND = constants.prior()._replace(
    library_launch_s=3e-6,
    sparse_library_launch_s=6e-6,
    tile_overhead_s=1e-6,
    split_overhead_s=2e-6,
    matrix_share=1.0,
    sparse_matrix_share=1.0,
    operand_fetch_share=0.4,
    element_latency_s=3e-9,
    sparse_element_latency_s=3e-9,
    cache_bandwidth_share=0.5,
    dram_share=0.8,
    sparse_dram_share=0.8,
    cache_restream_ratio=0.5,
    tensor_energy_joules_per_flop=1e-12,
    power_window_s=1e-4,
)
"""Constants that are easy to compute with."""


def small_chip(cores=1, **changes):
    """Make a chip of so many yardstick cores at 1 GHz, with as much memory and power as it takes."""
    plain = Chip(
        cores=float(cores),
        clock_hz=1e9,
        dram_bytes_per_s=1e12,
        cache_bytes=64e6,
        cache_bytes_per_s=cores * 64e9,
        vector_flop_per_s=1e11,
        power_watts=inf,
        process_energy_scale=1.0,
        libraries=properties(None),
    )
    return plain._replace(**changes)


def product(
    tokens, rows, K, *, rate, stored=2.0, values=2.0, output=2.0, energy=1.0, sparse=False, warm=False
):
    kind = VALUE_TYPES.index("int8" if values == 1 else "bf16")
    columns = np.broadcast_arrays(tokens, rows, K, stored, values, output, rate, energy, sparse, warm, kind)
    return Product(*(np.atleast_1d(column) for column in columns))


def time_s(device, values, *sizes, **more):
    return library_time_s(product(*sizes, **more), device, values).item()


def fourth(*times_s):
    return sum(one**4 for one in times_s) ** 0.25


def test_one_tile_by_hand():
    """128 tokens x 256 rows fit the 128x256 tile once; smaller tiles would take longer in all.

    Multiplying one element of K: 2 x 128 x 256 = 65,536 flop at 2048 a ns are 32 ns; the operand fetch adds
    0.4 x 64 (1/128 + 1/256) = 30 %, which makes 41.6 ns. Loading it: 2 (256 + 128) = 768 bytes at half of 64 bytes a
    ns are 24 ns, more than the latency of 3 ns.
    """
    step_s = fourth(41.6e-9, 24e-9)
    tile_s = 4096 * step_s + 1e-6
    memory_s = (2 * 256 * 4096 + 2 * 128 * 4096 + 2 * 128 * 256) / 0.8e12
    found = time_s(small_chip(), ROUND, 128, 256, 4096, rate=CORE_FLOP_PER_S)
    assert found == pytest.approx(3e-6 + fourth(tile_s, memory_s), rel=1e-12)


def test_a_sparse_tile_by_hand():
    """2:4 with 1.125 bytes an element: twice the rate, and the dense operand does not shrink.

    16 ns of multiplying, the fetch doubled: 2 x 0.4 x 64 (0.5625/128 + 1/256) = 42.5 %; 1.125 x 256 + 2 x 128 =
    544 bytes take 17 ns.
    """
    fetch = 2 * 0.4 * 64 * (1.125 / 2 / 128 + 1 / 256)
    assert fetch == pytest.approx(0.425)
    tile_s = 4096 * fourth(16e-9 * (1 + fetch), 17e-9) + 1e-6
    memory_s = (1.125 * 256 * 4096 + 2 * 128 * 4096 + 2 * 128 * 256) / 0.8e12
    found = time_s(small_chip(), ROUND, 128, 256, 4096, rate=2 * CORE_FLOP_PER_S, stored=1.125, sparse=True)
    assert found == pytest.approx(6e-6 + fourth(tile_s, memory_s), rel=1e-12)


def test_split_k_by_hand():
    """16 tokens x 64 rows are one 16x64 tile; 8 cores share its K = 65,536, and add up 8 parts of 4 + 4 bytes.

    Fetch 0.4 x 64 (1/16 + 1/64) = 200 %: 2 x 16 x 64 / 2048 ns = 1 ns become 3 ns, as long as the latency; loading
    2 (64 + 16) = 160 bytes on each of 8 cores at 32 bytes a ns takes 5 ns.
    """
    part_s = 65536 / 8 * fourth(3e-9, 5e-9) + 1e-6
    adding_s = 2e-6 + 8 * 8 * 16 * 64 / 256e9
    memory_s = (2 * 64 + 2 * 16) * 65536 / 0.8e12 + 2 * 16 * 64 / 0.8e12
    found = time_s(small_chip(8), ROUND, 16, 64, 65536, rate=8 * CORE_FLOP_PER_S)
    assert found == pytest.approx(3e-6 + fourth(part_s + adding_s, memory_s), rel=1e-12)


def test_k_is_split_for_dense_products_only():
    """One 16x64 tile that waits 100 ns for each element of K: 8 cores help a dense product, not a sparse one."""
    slow = ROUND._replace(element_latency_s=1e-7, sparse_element_latency_s=1e-7)
    for sparse, fastest in ((False, 1 / 8), (True, 1)):
        one, eight = (
            time_s(small_chip(cores), slow, 16, 64, 65536, rate=cores * CORE_FLOP_PER_S, sparse=sparse)
            for cores in (1, 8)
        )
        assert eight / one == pytest.approx(fastest, rel=0.01)


def test_power_by_hand():
    """65,536 flop an element of K x 4096 at 1 pJ are 268 uJ; a core left with 0.1 W takes 2.68 ms over them.

    So long a product feels 2.68 / (2.68 + 0.1) of the limit.
    """
    limit_s = 2 * 128 * 256 * 4096 * 1e-12 / 0.1
    energy_s = limit_s * limit_s / (limit_s + 1e-4)
    limited = time_s(small_chip(power_watts=0.1), ROUND, 128, 256, 4096, rate=CORE_FLOP_PER_S)
    free_s = time_s(small_chip(), ROUND, 128, 256, 4096, rate=CORE_FLOP_PER_S) - 3e-6
    assert limited == pytest.approx(3e-6 + fourth(free_s, energy_s), rel=1e-12)
    assert energy_s > 10 * free_s


@pytest.mark.parametrize("sparse", [False, True])
def test_one_feature_past_a_wave_costs_a_wave(sparse):
    """A100, 2048 tokens: 8 x 13 tiles of 256x128 fill 104 of 108 cores, 8 x 14 need a second wave.

    N = 1664 is 13 tiles of 128 features. The last 127 features up to it cost nothing but bytes, the next one a wave.
    """
    device, values = chip(hwmodels.load_machine("a100")), constants.load()
    how = (
        {"rate": 624e12, "stored": 1.125, "energy": values.sparse_energy_ratio, "sparse": True}
        if sparse
        else {"rate": 312e12}
    )
    first, last, past = (time_s(device, values, 2048, N, 4096, **how) for N in (1537, 1664, 1665))
    assert last < 1.03 * first
    assert past > 1.1 * last


def test_weights_beyond_the_cache_are_read_again_for_each_wave_by_hand():
    """1.125 x 16384 x 16384 bytes = 302 MB of stored weights, 64 MB of cache of which half keeps weights.

    8192 tokens are 64 passes of 128. 108 cores work on 128-token tiles; 16384 rows are shared by one pass at most:
    108 x 128 / 16384 < 1. So 63 passes come on top, less what 32 MB of cache spare of each.
    """
    device = small_chip(108, dram_bytes_per_s=1e10)
    stored_bytes = 1.125 * 16384 * 16384
    once = stored_bytes + 2 * 8192 * 16384 + 2 * 8192 * 16384
    again = stored_bytes * 63 * (1 - 0.5 * 64e6 / stored_bytes)
    found = time_s(
        device, ROUND, 8192, 16384, 16384, rate=2 * 108 * CORE_FLOP_PER_S, stored=1.125, sparse=True
    )
    assert found == pytest.approx((once + again) / (1e10 * 0.8), rel=1e-4)


@pytest.mark.parametrize(
    ("generation", "sparse", "rows", "again"),
    [
        ("sm_80", True, 16384, True), ("sm_80", False, 16384, False), ("sm_80", True, 1024, False),
        ("sm_90", True, 16384, False), ("sm_100", True, 16384, False), ("sm_120", True, 16384, True),
    ],
)  # fmt: skip
def test_who_reads_weights_again(generation, sparse, rows, again):
    """Sparse libraries of mma.sync, not those of warp groups, with weights that the cache does not hold."""
    libraries = properties(generation)
    libraries[:, :, DRAM] = 1
    device = small_chip(108, dram_bytes_per_s=1e10, libraries=libraries)
    rate = (2 if sparse else 1) * 108 * CORE_FLOP_PER_S
    once_s = (2 * rows + 2 * 8192) * 16384 / 8e9 + 2 * 8192 * rows / 8e9
    found = time_s(device, ROUND, 8192, rows, 16384, rate=rate, sparse=sparse)
    assert (found > 2 * once_s) == again


@pytest.mark.parametrize(
    ("machine", "kind", "limited"),
    [("a100-pcie", "dense", True), ("h100-pcie", "sparse", True), ("rtx4090", "dense", False)],
)
def test_where_power_limits_a_large_product(machine, kind, limited):
    """16384^3 in bf16. The A100 PCIe may draw 300 W for 312 Tflop/s, the RTX 4090 450 W for 165 of a finer process."""
    spec = hwmodels.load_machine(machine)
    values, device = constants.load(), chip(spec)
    peaks = spec.sparse_peak_flop_per_s if kind == "sparse" else spec.dense_peak_flop_per_s
    how = {"rate": peaks["bf16"].value}
    if kind == "sparse":
        how |= {"stored": 1.125, "energy": values.sparse_energy_ratio, "sparse": True}
    sizes = (16384, 16384, 16384)
    slowed = time_s(device, values, *sizes, **how) / time_s(
        device._replace(power_watts=inf), values, *sizes, **how
    )
    assert (slowed > 1.03) == limited


def test_what_a_board_leaves_for_arithmetic():
    spec = hwmodels.load_machine("a100-sxm")
    device = chip(spec)
    assert device.power_watts == pytest.approx(400 * (1 - IDLE_POWER_SHARE))
    assert device.cache_bytes_per_s == 108 * 1.41e9 * CACHE_BYTES_PER_CORE_CYCLE
    assert (device.dram_bytes_per_s, device.cache_bytes) == (2.039e12, 40 * 2**20)


@pytest.mark.parametrize("missing", ["board_power_watts", "process_energy_scale"])
def test_a_spec_without_power_is_not_limited_by_it(missing):
    spec = dataclasses.replace(hwmodels.load_machine("a100-pcie"), **{missing: None})
    assert chip(spec).power_watts == inf
    case = hwmodels.cases("llama-2-7b", formats=["2:4/index"], prefill_lengths=[16384]).tail(1)
    limited, free = (
        hwmodels.predict(case, one)["predicted_dense_time_s"].item() for one in ("a100-pcie", spec)
    )
    assert free < limited


def test_norm():
    assert norm(3.0, 4.0) == pytest.approx((3**4 + 4**4) ** 0.25)
    assert norm(1.0, 1.0) == pytest.approx(2**0.25)
    assert norm(5.0, 0.0) == 5.0


SIZES = st.one_of(st.integers(1, 300), st.integers(1, 20_000))
GPUS = st.sampled_from(
    [name for name in hwmodels.machine_names() if "fp16" in hwmodels.load_machine(name).dense_peak_flop_per_s]
)


@given(SIZES, SIZES, SIZES, GPUS, st.booleans())
def test_a_product_takes_its_launch_its_flop_and_its_bytes(tokens, rows, K, machine, sparse):
    spec = hwmodels.load_machine(machine)
    device, values = chip(spec), constants.load()
    rate = spec.dense_peak_flop_per_s["fp16"].value * (2 if sparse else 1)
    stored = 1.125 if sparse else 2.0
    found = time_s(device, values, tokens, rows, K, rate=rate, stored=stored, sparse=sparse)
    flop_s = 2 * tokens * rows * K / rate
    bytes_s = (stored * rows * K + 2 * tokens * (rows + K)) / device.dram_bytes_per_s
    launch_s = values.sparse_library_launch_s if sparse else values.library_launch_s
    launch_s *= device.libraries[VALUE_TYPES.index("bf16"), int(sparse), LAUNCH]
    assert found >= launch_s + max(flop_s, bytes_s) * (1 - 1e-12)


@given(SIZES, SIZES, SIZES, GPUS, st.sampled_from([0, 1, 2]), st.integers(1, 500), st.booleans())
def test_a_larger_dense_product_never_takes_less_time(tokens, rows, K, machine, grown, growth, warm):
    """A tile shape that a library leaves out for few tokens would not have been the fastest."""
    spec = hwmodels.load_machine(machine)
    larger = [tokens, rows, K]
    larger[grown] += growth
    rate = spec.dense_peak_flop_per_s["fp16"].value
    small, large = (
        time_s(chip(spec), constants.load(), *sizes, rate=rate, warm=warm)
        for sizes in ((tokens, rows, K), larger)
    )
    assert small <= large * (1 + 1e-12)


def test_every_number_of_tokens_has_a_tile():
    tokens = np.arange(1, 2000)
    found = library_time_s(
        product(tokens, 4096, 4096, rate=312e12), chip(hwmodels.load_machine("a100")), constants.load()
    )
    assert np.isfinite(found).all()
    assert (max(TILE_TOKENS), max(TILE_ROWS)) == (256, 256)


@pytest.mark.parametrize("needed", [[True, False], [False, True]])
def test_what_nobody_needs_is_not_looked_at(needed):
    """It comes back as infinite, in a column and alone, and leaves the others as they are."""
    device, values = chip(hwmodels.load_machine("h100")), constants.load()
    column = product([64, 2048], 4096, 4096, rate=989e12)
    full = library_time_s(column, device, values)
    found = library_time_s(column, device, values, np.array(needed))
    assert found.tolist() == np.where(needed, full, inf).tolist()
    numbers = Product(*(entries[0].item() for entries in column))
    assert library_time_s(numbers, device, values, needed[0]) == found[0]


def test_rows_do_not_touch_each_other():
    """The answer of a row is that of the row alone, whatever stands beside it."""
    rng = np.random.default_rng(0)
    tokens, rows, K = rng.integers(1, 9000, (3, 50))
    sparse = rng.random(50) < 0.5
    device, values = chip(hwmodels.load_machine("h100")), constants.load()
    together = library_time_s(product(tokens, rows, K, rate=989e12, sparse=sparse), device, values)
    alone = [
        time_s(device, values, *one[:3], rate=989e12, sparse=one[3])
        for one in zip(tokens, rows, K, sparse, strict=True)
    ]
    assert together.tolist() == alone
