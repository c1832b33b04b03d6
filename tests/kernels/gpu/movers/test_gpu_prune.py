"""The Triton kernel that prunes and packs tokens: the bytes of the plain reference, and the golden model's choice."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import nmsim
from nmsim import criteria
from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton_tensors import any_bits, made, same_bits  # noqa: E402

from kernels import cpu  # noqa: E402
from kernels.gpu.movers import prune, units  # noqa: E402
from kernels.ops import naive  # noqa: E402
from kernels.stored.nm_weight import as_array  # noqa: E402
from kernels.stored.rows import kernel_format, row_lengths  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32", "3:7", "1:1", "31:32")
ENCODINGS = ("bitmask", "index", "combinatorial")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHIFTS = ("none", "mean", "median", "constant", "vector")
GUARD = 64


def poisoned(shape, dtype, device):
    """Room between guards, all bytes of it 0xFF: NaN where numbers belong, and codes that no test here expects."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    whole = torch.full((n_bytes + 2 * GUARD,), 0xFF, dtype=torch.uint8, device=device)
    return whole, whole[GUARD : GUARD + n_bytes].view(dtype).view(shape)


def pruned(x, pattern, encoding, device, **how):
    """Run the kernel over poison: values, metadata, eta, v; nothing outside them is touched."""
    pattern = Pattern.parse(pattern)
    tokens, k = x.shape
    values_columns, metadata_columns = row_lengths(kernel_format(f"{pattern}/{encoding}"), k)
    rooms = [
        poisoned(shape, dtype, device)
        for shape, dtype in (
            ((tokens, values_columns), x.dtype),
            ((tokens, metadata_columns), torch.uint8),
            ((tokens,), torch.float32),
            ((tokens,), torch.float32),
        )
    ]
    moved = {name: part.to(device) if torch.is_tensor(part) else part for name, part in how.items()}
    prune.launch(
        x.to(device), kernel_format(f"{pattern}/{encoding}"), tuple(out for _, out in rooms), **moved
    )
    for whole, _ in rooms:
        assert (whole[:GUARD] == 0xFF).all()
        assert (whole[-GUARD:] == 0xFF).all()
    return [out.cpu() for _, out in rooms]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bytes_are_those_of_the_reference_and_of_nmsim(pattern, triton_device):
    turn = PATTERNS.index(pattern)
    for encoding, dtype, k in zip(ENCODINGS, (DTYPES * 2)[turn % 3 :], (64, 33, 47), strict=False):
        x = any_bits(2, k, dtype=dtype)
        x[1] = made(k, dtype=dtype).sign()  # ties
        values, metadata, eta, v = pruned(x, pattern, encoding, triton_device, shift="none")
        want = naive.compress(x, f"{pattern}/{encoding}")
        assert same_bits(values, want[0])
        assert torch.equal(metadata, want[1])
        kept = nmsim.prune(as_array(x), pattern, bit_order=True)
        by_cpu = cpu.compress(as_array(x), f"{pattern}/{encoding}", mask=kept)
        assert as_array(values).tobytes() == by_cpu.values.tobytes()
        assert metadata.numpy().tobytes() == by_cpu.metadata.tobytes()
        assert eta.tolist() == [0, 0]
        assert v.tolist() == [1, 1]


def test_rows_longer_than_a_tile_and_shorter_than_a_group(triton_device):
    long = 2 * units.TILE_ELEMS + 37
    for pattern, encoding, k in (
        ("8:16", "index", long),
        ("3:7", "combinatorial", long),
        ("16:32", "index", long),
        ("4:8", "index", 2048),
        ("16:32", "bitmask", 5),
        ("2:4", "index", 1),
    ):
        x = made(2, k, dtype=torch.float16)
        values, metadata, *_ = pruned(x, pattern, encoding, triton_device, shift="none")
        want = cpu.compress(as_array(x), f"{pattern}/{encoding}")
        assert as_array(values).tobytes() == want.values.tobytes()
        assert metadata.numpy().tobytes() == want.metadata.tobytes()


def sorted_badly(m):
    """Groups whose quarters hold any numbers of ones: a network that sorts all of them sorts everything. And two ramps."""
    quarter = m // 4
    counts = [
        c for c in itertools.product(range(quarter + 1), repeat=4) if sum(c) in (m // 2, m // 2 + (m < 32))
    ]
    generator = torch.Generator().manual_seed(m)
    ones = [
        torch.cat([(torch.randperm(quarter, generator=generator) < ones).float() for ones in of_quarters])
        for of_quarters in counts
    ]
    return torch.stack([*ones, torch.arange(m) / m, 1 - torch.arange(m) / m])


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16", "16:32"])
def test_any_order_of_ranks_is_sorted(pattern, triton_device):
    """The zero-one principle; small parts beside the ones tell equals apart."""
    groups = sorted_badly(Pattern.parse(pattern).m)
    generator = torch.Generator().manual_seed(1)
    for x in (groups, groups + 0.4 * torch.rand(groups.shape, generator=generator)):
        row = (x.reshape(1, -1) + 1).half()
        for how in ({"shift": "none"}, {"shift": "constant", "constant": 0.0}):
            _, metadata, *_ = pruned(row, pattern, "bitmask", triton_device, **how)
            assert (
                metadata.numpy().tobytes()
                == cpu.compress(as_array(row), f"{pattern}/bitmask").metadata.tobytes()
            )


def first_of_the_greatest(magnitudes, n):
    """Choose by sorting what is there, a stable sort: bool, like magnitudes [groups, M]."""
    order = np.argsort(-magnitudes.astype(np.int64), axis=1, kind="stable")
    kept = np.zeros(magnitudes.shape, bool)
    np.put_along_axis(kept, order[:, :n], True, axis=1)
    return kept


@pytest.mark.parametrize("pattern", ["8:16", "2:4", "4:8", "16:32"])
def test_every_group_of_few_values_is_pruned_as_a_stable_sort_does(pattern, triton_device):
    """All groups of two neighbouring magnitudes: what sorting must tell apart, and each way to be equal too often.

    2:4 has all groups of eight magnitudes, 4:8 of four. Of 16:32 there are too many: halves of 16, beside random ones.
    """
    n, m = map(int, pattern.split(":"))
    base = {4: 8, 8: 4, 16: 2, 32: 2}[m]
    width = min(m, 16)
    digits = np.arange(base**width)[:, None] // base ** np.arange(width) % base
    rng = np.random.default_rng(m)
    if m == 32:
        other = rng.integers(0, 2, digits.shape)
        digits = rng.permuted(np.concatenate([digits, other], axis=1)[::8], axis=1)
    # Around the magnitudes where a half of a word would borrow of the other, or is greatest; signs must not count.
    for lowest in (0, 0x3C00, 0x7FFF - base + 1)[: 1 if m >= 16 else 3]:
        magnitudes = (digits + lowest).astype(np.uint16)
        raw = magnitudes | (rng.integers(0, 2, digits.shape).astype(np.uint16) << 15)
        x = torch.from_numpy(raw.reshape(16, -1).view(np.int16)).view(torch.float16)
        values, metadata, *_ = pruned(x, pattern, "bitmask", triton_device, shift="none")
        kept = first_of_the_greatest(magnitudes, n)
        assert np.packbits(kept, bitorder="little").tobytes() == metadata.numpy().tobytes()
        assert raw[kept].tobytes() == as_array(values).tobytes()


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16", "16:32"])
def test_a_single_equal_too_many_is_dropped(pattern, triton_device):
    m = Pattern.parse(pattern).m
    row = torch.arange(1.0, 1 + 8 * max(m, 16))  # whole units in a whole tile, so that nothing else is equal
    row[-m // 2 - 1] = row[-m // 2]
    row = row[None].half()
    _, metadata, *_ = pruned(row, pattern, "bitmask", triton_device, shift="constant", constant=0.0)
    assert metadata.numpy().tobytes() == cpu.compress(as_array(row), f"{pattern}/bitmask").metadata.tobytes()


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16", "16:32"])
def test_equal_scores_of_16_bits_are_kept_from_the_first_on(pattern, triton_device):
    """Five values only, so that most groups have more equal ones at the border than there is room for."""
    generator = torch.Generator().manual_seed(len(pattern))
    x = torch.randint(-2, 3, (2, 600), generator=generator).half()
    for how in ({"shift": "constant", "constant": 0.5}, {"shift": "none", "vector": torch.ones(600)}):
        values, metadata, *_ = pruned(x, pattern, "bitmask", triton_device, **how)
        shifted = x - 0.5 if "constant" in how else x
        want = cpu.compress(as_array(shifted), f"{pattern}/bitmask")
        assert as_array(values).tobytes() == want.values.tobytes()
        assert metadata.numpy().tobytes() == want.metadata.tobytes()


def test_ties_go_to_the_lower_index_and_nan_is_above_infinity(triton_device):
    nan, inf = torch.nan, torch.inf
    x = torch.tensor(
        [[-2.0, 2.0, 2.0, -2.0], [-0.0, 0.0, 0.0, 0.0], [inf, nan, -inf, 5.0], [1.0, nan, inf, nan]]
    )
    for how in (
        {"shift": "none"},
        {"shift": "constant", "constant": 0.0},
        {"shift": "none", "vector": torch.ones(4)},
    ):
        _, metadata, *_ = pruned(x, "2:4", "bitmask", triton_device, **how)
        # By hand; the four groups behind the first of a step keep their lowest two.
        assert metadata.tolist() == [[0x33, 0x33], [0x33, 0x33], [0x33, 0x33], [0x3A, 0x33]]
        _, metadata, *_ = pruned(x, "1:4", "bitmask", triton_device, **how)
        assert metadata.tolist() == [[0x11], [0x11], [0x12], [0x12]]


def test_all_nan_are_alike_once_numbers_are_computed(triton_device):
    x = torch.tensor([[0x3F800000, 0x7FC00001, 0x7FC00002, 0x40000000]], dtype=torch.int32).view(
        torch.float32
    )
    _, metadata, *_ = pruned(x, "1:4", "bitmask", triton_device, shift="none")
    assert metadata.tolist() == [[0x14]]  # by stored bits
    for how in ({"shift": "constant", "constant": 0.0}, {"shift": "none", "vector": torch.ones(4)}):
        _, metadata, *_ = pruned(x, "1:4", "bitmask", triton_device, **how)
        assert metadata.tolist() == [[0x12]]


CASES = (
    ("2:4", 64, False),
    ("8:16", 47, True),
    ("3:7", 1100, False),
    ("16:32", 20, True),
    ("4:8", 33, False),
)


@pytest.mark.parametrize("shift", SHIFTS)
def test_shifted_values_are_those_of_the_reference(shift, triton_device):
    first = SHIFTS.index(shift)
    for dtype, (pattern, k, scored) in zip(DTYPES, (CASES * 2)[first:], strict=False):
        x = made(2, k, dtype=dtype, seed=1) + 3
        vector = made(k, seed=3) if scored else None
        channels = made(k, seed=2) if shift == "vector" else None
        values, metadata, eta, v = pruned(
            x, pattern, "index", triton_device,
            shift=shift, constant=0.37, channels=channels, vector=vector, variance=True,
        )  # fmt: skip
        if shift in ("mean", "median"):
            want = naive.token_shift(x, shift)
            # A sum of K float32 numbers, halved ever so often, then divided.
            assert torch.allclose(eta, want, rtol=1e-6 if shift == "mean" else 0, atol=0)
        else:
            assert eta.tolist() == [pytest.approx(0.37 if shift == "constant" else 0.0, rel=1e-7)] * 2
        subtracted = {"none": None, "vector": channels}.get(shift, eta[:, None])
        want = naive.compress_tokens(x, f"{pattern}/index", subtracted, vector)
        assert same_bits(values, want[0])
        assert torch.equal(metadata, want[1])
        difference, mask = naive.prune_tokens(x, Pattern.parse(pattern), subtracted, vector)
        assert torch.allclose(v, naive.variance_factor(difference, mask), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_median_is_the_lower_one_of_any_numbers(dtype, triton_device):
    x = any_bits(3, 37, dtype=dtype, seed=3).nan_to_num()
    x[1, :30], x[2, :18] = x[1, 0], -x[2].abs()[:18]
    for k in (37, 2):
        _, _, eta, _ = pruned(x[:, :k].contiguous(), "2:4", "bitmask", triton_device, shift="median")
        assert torch.equal(eta, naive.token_shift(x[:, :k], "median"))
        assert torch.equal(eta, x[:, :k].float().median(dim=1).values)


def test_a_token_with_a_nan_has_no_statistic(triton_device):
    x = made(2, 20)
    x[1, 7] = torch.nan
    for shift in ("mean", "median"):
        values, metadata, eta, v = pruned(x, "2:4", "bitmask", triton_device, shift=shift, variance=True)
        assert eta.isnan().tolist() == v.isnan().tolist() == [False, True]
        assert values[1, :10].isnan().all()  # five groups of two; behind them the filling of the last step
        assert metadata[1].tolist() == [0x33] * 4


def test_a_variance_far_from_zero_is_not_lost_in_large_sums(triton_device):
    x = made(2, 3000) + 1000
    _, _, _, v = pruned(x, "8:16", "index", triton_device, shift="constant", constant=1.0, variance=True)
    difference, mask = naive.prune_tokens(x, Pattern(8, 16), torch.ones(2, 1))
    # Single float32 sums of squares, 3e9 each, would be off by a hundredth.
    assert torch.allclose(v, naive.variance_factor(difference, mask), rtol=2e-6, atol=0)


def test_what_is_kept_of_nearly_nothing_counts_as_the_least_variance(triton_device):
    x = torch.full((1, 64), 2.0**-20)
    x[0, 5] = 2.0**-19
    _, _, _, v = pruned(x, "8:16", "index", triton_device, shift="none", variance=True)
    difference, mask = naive.prune_tokens(x, Pattern(8, 16))
    assert float(difference.where(mask, 0).var()) < 1e-9
    assert v.item() == pytest.approx(float((difference.double().var() / 1e-9).sqrt()), rel=1e-6)


@pytest.mark.parametrize(("pattern", "shift"), list(zip(PATTERNS, SHIFTS, strict=False)))
def test_the_choice_is_that_of_the_golden_model(pattern, shift, triton_device):
    """Metadata byte for byte that of the float64 choice, packed by nmsim: no two scores here are nearly equal."""
    k = 75
    x, vector, channels = made(2, k, seed=5), made(k, seed=6), made(k, seed=7)
    x64 = x.double().numpy()
    eta = {
        "none": np.zeros((1, 1)),
        "mean": x64.mean(axis=1, keepdims=True),
        "median": np.sort(x64, axis=1)[:, [(k - 1) // 2]],
        "constant": np.float64(0.25),
        "vector": channels.double().numpy(),
    }[shift]
    for encoding, criterion, given in (("bitmask", "magnitude", None), ("index", "channel_vector", vector)):
        given64 = None if given is None else given.double().numpy()
        mask = criteria.choose(x64 - eta, pattern, criterion, vector=given64)
        want = cpu.compress(as_array(x), f"{pattern}/{encoding}", mask=mask)
        _, metadata, *_ = pruned(
            x, pattern, encoding, triton_device, shift=shift, constant=0.25, channels=channels, vector=given
        )
        assert metadata.numpy().tobytes() == want.metadata.tobytes()


def test_bfloat16_is_rounded_as_everybody_does(triton_device):
    x = torch.linspace(-4, 4, 64).bfloat16()[None]
    values, *_ = pruned(x, "4:4", "bitmask", triton_device, shift="constant", constant=1.0 / 3)
    # 0.0 and the like of 1 / 3 are no bfloat16; ml_dtypes rounds to the nearest and to even.
    want = (as_array(x).astype(np.float32) - np.float32(1 / 3)).astype(ml_dtypes.bfloat16)
    assert as_array(values).tobytes() == want.tobytes()
