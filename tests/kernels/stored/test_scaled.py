"""Values of 8 bits with scales: rounding as ml_dtypes rounds, nothing overflows, what is stored comes back."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from kernels.cpu import KernelError

torch = pytest.importorskip("torch")

from kernels import ops  # noqa: E402
from kernels.ops import decode_linear, for_decode  # noqa: E402
from kernels.stored.scaled import GREATEST, VALUES, quantize  # noqa: E402
from kernels.stored.shuffled import unshuffle  # noqa: E402

GENERATOR = torch.Generator().manual_seed(8)
MOST = torch.finfo(torch.float32).max
CASES = [(name, block) for name in VALUES for block in (None, 64)]


def by_numpy(dense, name, block):
    """Quantise a pruned matrix block by block of K, in plain numpy: -> float64 [N, K]."""
    found = np.zeros(dense.shape)
    width = dense.shape[1] if block is None else block
    for first in range(0, dense.shape[1], width):
        part = dense[:, first : first + width]
        most = np.float32(448 if name == "e4m3" else 127)
        scale = np.abs(part).max(axis=1, keepdims=True) / most
        scale = np.maximum(scale, np.float32(2**-126))
        if name == "e4m3":
            rounded = (part / scale).astype(ml_dtypes.float8_e4m3fn)
        else:
            rounded = np.rint(part / scale).astype(np.int8)
        found[:, first : first + width] = rounded.astype(np.float32) * scale
    return found


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16", "16:32"])
@pytest.mark.parametrize(("name", "block"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_stored_is_the_rounded_weight(pattern, name, block, dtype):
    dense = (torch.randn(37, 200, generator=GENERATOR) * torch.logspace(-3, 3, 37)[:, None]).to(dtype)
    packed = ops.compress(dense, f"{pattern}/bitmask")
    weights = for_decode(packed, values=name, block=block)
    assert weights.values.dtype == VALUES[name]
    assert weights.scales.shape == (1 if block is None else 4, 64)
    assert weights.values.nbytes == weights.values.numel()
    found = ops.decompress(unshuffle(weights))
    kept = ops.decompress(packed).float()
    expected = by_numpy(kept.numpy(), name, block)
    np.testing.assert_array_equal(found.numpy().astype(np.float64), expected)
    step = 2**-4 if name == "e4m3" else 0.501 / 127  # half a step of the greatest value, in a row
    assert ((found - kept).abs() <= kept.abs().amax(dim=1, keepdim=True) * step).all()
    assert torch.equal(unshuffle(weights).metadata, packed.metadata)


@pytest.mark.parametrize("name", VALUES)
def test_every_stored_byte_comes_back(name):
    """All codes of a type but those never stored: NaN of e4m3, -128 of int8."""
    codes = torch.arange(256, dtype=torch.uint8).view(VALUES[name])
    numbers = codes.float()
    numbers = numbers[numbers.isfinite() & (numbers.abs() <= GREATEST[VALUES[name]])]
    assert len(numbers) == {"e4m3": 254, "int8": 255}[name]
    stored, scales = quantize(numbers[None] * 8, type_name=name)
    assert scales.tolist() == [[8.0]]
    assert torch.equal(stored[0].float(), numbers)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("value", [MOST, 65504.0, 1.0, 2.0**-126, 1e-45, 0.0])
def test_nothing_overflows_and_nothing_becomes_nan(name, value):
    numbers = torch.tensor([[value, -value, value / 3, 0.0]])
    stored, scales = quantize(numbers, type_name=name)
    back = stored.float() * scales
    assert scales.isfinite().all()
    assert (scales > 0).all()
    assert back.isfinite().all()
    assert stored.float().abs().max() <= GREATEST[VALUES[name]]
    assert (back - numbers).abs().max() <= max(value / 16, 2.0**-126)


def test_a_block_has_a_scale_of_its_own():
    dense = torch.ones(1, 64)
    dense[:, 32:] = 1024
    weights = for_decode(ops.compress(dense, "8:16"), values="int8", block=32)
    assert weights.scales[:, 0].tolist() == (torch.tensor([1.0, 1024]) / 127).tolist()
    assert (weights.values[:, 0] == 127).all()
    assert (weights.scales[:, 1:] == 0).all()
    assert repr(weights) == "ShuffledWeight(8:16/index, [1, 64], torch.int8, cpu, block=32)"
    assert weights.scales_bytes == 2 * 32 * 4


@pytest.mark.parametrize(("name", "block"), CASES)
def test_the_operator_multiplies_what_is_stored(name, block):
    packed = ops.compress(torch.randn(37, 100, generator=GENERATOR), "8:16/bitmask")
    weights = for_decode(packed, values=name, block=block)
    x, bias = torch.randn(3, 100, generator=GENERATOR), torch.randn(37, generator=GENERATOR)
    expected = x.double() @ ops.decompress(unshuffle(weights)).double().T + bias
    torch.testing.assert_close(decode_linear(x, weights, bias=bias), expected.float(), rtol=1e-5, atol=1e-5)
    parts = x, weights.values, weights.metadata, bias, str(weights.format), 37, 100, weights.scales, block
    # Torch itself cannot compare e4m3 with what it was before the call.
    checks = ("test_faketensor", *["test_schema"] * (name == "int8"))
    torch.library.opcheck(torch.ops.nmsim.decode_linear.default, parts, test_utils=checks)


PACKED = ops.compress(torch.randn(5, 64, generator=GENERATOR), "8:16/index")
SCALED = for_decode(PACKED, values="int8", block=32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: for_decode(PACKED, values="e5m2"), "values of type 'e5m2': expected one of e4m3, int8"),
        (lambda: for_decode(PACKED, values="int8", block=24), "block is 24: expected a multiple of 16 elements for 8:16"),
        (lambda: for_decode(PACKED, values="int8", block=0), "block is 0: expected a multiple of 16"),
        (
            lambda: for_decode(ops.compress(torch.ones(5, 64).half(), "8:16"), block=32),
            "block=32, but values stay as they are: expected values='e4m3' or 'int8'",
        ),
        (
            lambda: for_decode(ops.compress(torch.ones(5, 64), "3:7"), values="int8"),
            "weights are 3:7/index of torch.float16: expected 2:4",
        ),
        (
            lambda: for_decode(
                ops.compress(
                    torch.tensor([[1.0, 2, 3, 4], [1, torch.inf, 2, 3]]),
                    "2:4",
                    mask=torch.tensor([[True, True, False, False]] * 2),
                ),
                values="e4m3",
            ),
            "values row 1 holds a NaN or an infinity: expected finite values to store as e4m3",
        ),
        (
            lambda: decode_linear(torch.ones(64), replace(SCALED, scales=None)),
            "weights are 8:16/index of torch.int8 without scales: no order",
        ),
        (
            lambda: decode_linear(torch.ones(64), replace(SCALED, scales=SCALED.scales[:1])),
            r"scales are torch.float32 \[1, 32\] .*: expected a contiguous torch.float32 \[2, 32\]",
        ),
        (
            lambda: decode_linear(torch.ones(64), replace(SCALED, block=8)),
            "block is 8: expected a multiple of 16",
        ),
        (
            lambda: decode_linear(torch.ones(64), replace(SCALED, scales=SCALED.scales.double())),
            "scales are torch.float64",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_and_what_was_expected(call, message):
    with pytest.raises(KernelError, match=message):
        call()
