"""The decode GEMV with values of 8 bits: every byte of both types, scales per row and per block, the reference's numbers."""

import contextlib
from dataclasses import replace

import pytest

import nmsim

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernels.gpu.products import gemv  # noqa: E402
from kernels.ops import compress, decode_linear, decompress, from_packed, naive  # noqa: E402
from kernels.ptx import emulated  # noqa: E402
from kernels.stored.shuffled import packed_parts, shuffle, unshuffle  # noqa: E402

NAMES = ("e4m3", "int8")
PATTERNS = ("8:16/bitmask", "2:4/index", "4:8/combinatorial", "16:32/index", "16:32/bitmask")
GUARD = 64


def whole(*shape, dtype=torch.float32, seed=0):
    """Whole numbers from 1 to 4 with signs."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (numbers + numbers.sign()).clamp(-4, 4).round().to(dtype)


def product(x, ordered, device, dtype=torch.float32, *, bias=None, **how):
    """Run the kernel between NaN; what is read beyond the ends of an operand is the emulator's to find."""
    shape = (len(x), ordered.shape[0])
    room = torch.full((shape[0] * shape[1] + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
    out = room[GUARD:-GUARD].view(shape)
    parts = {name: getattr(ordered, name).to(device) for name in ("values", "metadata", "scales")}
    gemv.launch(
        x.to(device), replace(ordered, **parts), out, bias=None if bias is None else bias.to(device), **how
    )
    assert room[:GUARD].isnan().all()
    assert room[-GUARD:].isnan().all()
    assert not out.isnan().any()
    return out.cpu()


def wanted(x, ordered, bias=None):
    """Multiply what is stored, in float64."""
    y = x.double() @ decompress(unshuffle(ordered)).double().T
    return y if bias is None else y + bias.double()


@pytest.mark.parametrize("block", [64, None])
@pytest.mark.parametrize("format", PATTERNS)
@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_reference(name, format, block, triton_device):
    """Turns of the loop and some units more, the last one cut."""
    turn = PATTERNS.index(format) + NAMES.index(name)
    for tokens, n, k in ((1, 33, 18 * 32 + 7), (turn % 3 + 2, 6, 9 * 32 + 3)):
        ordered = shuffle(
            compress(whole(n, k) * torch.logspace(-2, 2, n)[:, None], format), values=name, block=block
        )
        x, bias = whole(tokens, k, dtype=torch.bfloat16, seed=1), whole(n, seed=5)
        y = product(x, ordered, triton_device, bias=bias, warps=4, n_parts=1 + turn % 2)
        want = wanted(x, ordered, bias)
        assert (
            (y - want).abs()
            <= 1e-6 * (x.double().abs() @ decompress(unshuffle(ordered)).double().abs().T + 4)
        ).all()


@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize("name", NAMES)
def test_every_byte_is_read_as_its_type_says(name, capability, triton_device):
    """Each code in each of eight slots, with and without the instruction for it: only NaN and -128 are never stored."""
    ordered = shuffle(compress(torch.ones(256, 32), "2:4/index"), values=name)
    codes = torch.arange(256, dtype=torch.uint8)
    dtype = ordered.values.dtype
    numbers = codes.view(dtype).float()
    codes[numbers.isnan() | (numbers == -128)] = 1
    numbers = codes.view(dtype).float()
    x = torch.zeros(8, 32)
    for slot in range(8):
        x[slot, 4 * (slot // 2) + slot % 2] = 1
    ordered = replace(
        ordered,
        values=codes.view(dtype)[None, :, None].expand(2, 256, 8).contiguous(),
        scales=torch.ones(1, 256),
    )
    with contextlib.ExitStack() as stack:
        if triton_device.type == "cpu" and not triton.knobs.runtime.interpret:
            stack.enter_context(emulated(capability=capability))
        for first in range(0, 8, 2):
            y = product(x[first : first + 2], ordered, triton_device, warps=4)
            assert torch.equal(y, numbers.expand(2, 256))


def test_a_cuda_tensor_meets_the_kernel(gpu_calls):
    device, asked = gpu_calls
    packed = from_packed(nmsim.compress(whole(33, 100).numpy(), "8:16/index"))
    ordered = shuffle(packed, values="e4m3", block=32)
    x = whole(2, 100, dtype=torch.float16)
    plain = naive.decompress(*packed_parts(ordered), "8:16/index", 100)
    want = (x.float() @ plain.T).half()
    parts = {name: getattr(ordered, name).to(device) for name in ("values", "metadata", "scales")}
    y = decode_linear(x.to(device), replace(ordered, **parts))
    torch.testing.assert_close(y.cpu(), want, rtol=2**-10, atol=1e-3)
    assert asked == ["gemv"]
