"""Products of 5 to 64 tokens in the order of the decode kernel: the reference's numbers, nothing else written."""

from dataclasses import replace
from itertools import combinations

import pytest

from kernels.cpu import KernelError

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from triton_tensors import Room, between_nan, made  # noqa: E402

from kernels.compiled.sass import inspect  # noqa: E402
from kernels.compiled.subjects import mma_subject  # noqa: E402
from kernels.gpu.products import fragments, mma  # noqa: E402
from kernels.gpu.products.plan import Machine, programs_at_once  # noqa: E402
from kernels.ops import compress, decompress  # noqa: E402
from kernels.stored.rows import STEP_ELEMS  # noqa: E402
from kernels.stored.shuffled import PLANES, shuffle  # noqa: E402

ORDERED = sorted(PLANES, key=lambda format: (format.pattern.m, format.encoding.name))
NAMES = [f"{format.pattern} {format.encoding.name}" for format in ORDERED]
HALVES = (torch.float16, torch.bfloat16)
LAYERS = ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (6144, 4096), (28672, 4096))
"""[N, K] of the products of Llama 3 8B, then of its fused ones."""

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="Triton's interpreter has no Gluon")


def whole(*shape, dtype, seed=0):
    """Whole numbers from 1 to 4 with signs: sums of some thousand products of two are exact in any order."""
    return made(*shape, seed=seed).clamp(-4, 4).round().to(dtype)


def product(x, weight, device, *, bias=None, **how):
    """Run the kernel over poison: nothing outside the result is touched or of effect."""
    room = Room((len(x), weight.shape[0]), x.dtype, device)
    ordered = shuffle(weight)
    values = between_nan(ordered.values, device)
    metadata = torch.full((len(ordered.metadata) + 128,), 0xFF, dtype=torch.uint8, device=device)
    metadata[64:-64] = ordered.metadata
    bias = None if bias is None else between_nan(bias, device)
    mma.launch(
        between_nan(x, device), replace(ordered, values=values, metadata=metadata[64:-64]), room.tensor,
        bias=bias, **how,
    )  # fmt: skip
    return room.taken()


def wanted(x, weight, bias=None):
    y = x.float() @ decompress(weight).float().T
    return (y if bias is None else y + bias.float()).to(x.dtype)


@pytest.mark.parametrize("format", ORDERED, ids=NAMES)
def test_whole_numbers_give_the_numbers_of_the_reference(format, triton_device):
    turn = ORDERED.index(format)
    elems = STEP_ELEMS[format.pattern]
    n, tokens = ((33, 5), (70, 9), (7, 16))[turn % 3]
    # Whole steps of four units and some units more, the last one cut.
    k, dtype = (9 * elems + 3, 4 * elems - 1)[turn % 2], HALVES[turn % 2]
    weight = compress(whole(n, k, dtype=dtype), format)
    x = whole(tokens, k, dtype=dtype, seed=1)
    y = product(x, weight, triton_device, warps=2)
    assert torch.equal(y, wanted(x, weight))
    assert y.any(dim=1).all()


@pytest.mark.parametrize("tokens", [64, 1, 8, 17, 33])
def test_each_count_of_tokens_takes_the_tiles_that_it_needs(tokens, triton_device):
    weight = compress(whole(40, 128, dtype=torch.float16), "8:16/bitmask")
    x = whole(tokens, 128, dtype=torch.float16, seed=1)
    bias = made(40, dtype=torch.float16, seed=2)
    assert torch.equal(product(x, weight, triton_device, bias=bias), wanted(x, weight, bias))


@pytest.mark.parametrize("pattern", ["8:16", "16:32", "4:8"])
def test_parts_of_k_add_up_to_the_whole_in_one_launch(pattern, triton_device, compiled_code_runs_here):
    weight = compress(whole(100, 300, dtype=torch.bfloat16), f"{pattern}/bitmask")
    x, bias = whole(9, 300, dtype=torch.bfloat16, seed=1), made(100, dtype=torch.bfloat16, seed=2)
    for n_parts in (2, 99):
        y = product(x, weight, triton_device, bias=bias, n_parts=n_parts, warps=2)
        assert torch.equal(y, wanted(x, weight, bias))


@pytest.mark.parametrize("encoding", ["bitmask", "index"])
def test_all_masks_of_8_of_16_are_expanded(encoding, triton_device):
    """Each of the 12,870 masks stands once, with another value in each place."""
    masks = torch.tensor(list(combinations(range(16), 8)))
    groups = torch.zeros(416 * 31, 16, dtype=torch.float16)
    groups[torch.arange(len(masks))[:, None], masks] = torch.arange(1.0, 9.0).half()
    weight = compress(groups.reshape(416, 31 * 16), f"8:16/{encoding}")
    assert torch.equal(decompress(weight), groups.reshape(416, -1))
    x = whole(8, 31 * 16, dtype=torch.float16, seed=1)
    assert torch.equal(product(x, weight, triton_device), wanted(x, weight))


def test_an_infinity_has_an_effect_where_the_page_says(triton_device):
    weight = compress(whole(33, 70, dtype=torch.float16), "2:4/index")
    x = whole(5, 70, dtype=torch.float16, seed=1)
    x[2, 6] = torch.inf
    y = product(x, weight, triton_device)
    finite = wanted(x.clamp(-4, 4), weight)
    assert torch.equal(y[[0, 1, 3, 4]], finite[[0, 1, 3, 4]])
    kept = decompress(weight)[:, 6] != 0
    assert 0 < kept.sum() < 33
    assert torch.equal(y[2].isinf(), kept)
    assert torch.equal(y[2].isnan(), ~kept)
    weight.values[7, 30] = torch.nan
    y = product(x.clamp(-4, 4), weight, triton_device)
    assert y[:, 7].isnan().all()
    assert not y[:, [*range(7), *range(8, 33)]].isnan().any()


def test_tokens_that_begin_anywhere_are_taken(triton_device):
    weight = compress(whole(32, 64, dtype=torch.float16), "8:16/bitmask")
    room = whole(1, 1 + 5 * 64, dtype=torch.float16, seed=1)[0].to(triton_device)
    x = room[1:].view(5, 64)
    out = torch.empty((5, 32), dtype=torch.float16, device=triton_device)
    ordered = shuffle(weight)
    on_device = {name: getattr(ordered, name).to(triton_device) for name in ("values", "metadata")}
    mma.launch(x, replace(ordered, **on_device), out)
    assert torch.equal(out.cpu(), wanted(x.cpu(), weight))


def test_what_the_kernel_does_not_take_is_refused():
    weight = shuffle(compress(torch.ones(3, 16, dtype=torch.float16), "8:16"))
    for x in (
        torch.ones(65, 16).half(),
        torch.ones(0, 16).half(),
        torch.ones(5, 16),
        torch.ones(5, 16).bfloat16(),
    ):
        with pytest.raises(KernelError, match="expected 1 to 64 tokens of the type of values"):
            mma.launch(x, weight, torch.empty(len(x), 3))


def test_an_expansion_is_few_instructions():
    """Forty-two for 16 elements of 8:16, of the kind that starts every second cycle."""
    counts = {m: fragments.expansion(m, max(16, m), 0).count("\n") - 2 for m in (4, 8, 16, 32)}
    assert counts == {4: 23, 8: 35, 16: 42, 32: 118}


@pytest.mark.parametrize(("tokens", "most_registers"), [(16, 96), (64, 255)])
def test_weights_take_no_trip_through_shared_memory_and_integers_less_time_than_memory(
    tokens, most_registers
):
    code = inspect(mma_subject("8:16/bitmask", tokens), 90)
    assert code.shared_bytes == 0
    assert code.spills == code.local_bytes == 0
    assert code.registers <= most_registers
    units = code.elems / 16
    # An H200 reads the 18 bytes of 16 elements of a warp's threads in 111 cycles of a quarter of a multiprocessor.
    memory = 32 * 18 * 4 / (4.8e12 / 132 / 1.755e9)
    assert max(code.cycles.values()) / units < memory
    assert code.serial_trips <= 1.4


@pytest.mark.parametrize("tokens", [8, 16, 32, 64])
def test_parts_of_k_give_each_multiprocessor_of_an_h200_work(tokens):
    tiles = triton.next_power_of_2(triton.cdiv(tokens, 8))
    held = programs_at_once(mma.REGISTERS[16][tiles], mma.WARPS, Machine()) * mma.WARPS
    for n, k in LAYERS:
        blocks = n // (mma.WARPS * fragments.WARP_TILE_ROWS)
        about = {"elems": 16, "warps": mma.WARPS, "tokens": tokens, "step_bytes": 2304, "machine": Machine()}
        n_parts = mma.plan_parts(blocks, k // 64, **about)
        # Eight warps have 18 KB under way, three quarters of what memory needs. The smallest layer has too few steps.
        warps = blocks * n_parts * mma.WARPS / Machine().processors
        assert warps >= min(held, 6 if n > 1024 else 3)
