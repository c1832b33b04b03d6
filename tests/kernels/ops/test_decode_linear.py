"""The decode product as an operator: its result on the CPU, the errors, and which kernel a CUDA tensor meets."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from kernels import ops  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import (  # noqa: E402
    decode_linear,
    for_decode,
    naive,
)

GENERATOR = torch.Generator().manual_seed(5)
W = torch.randn(37, 100, generator=GENERATOR).half()
BIAS = torch.randn(37, generator=GENERATOR)
WEIGHTS = for_decode(ops.compress(W, "8:16/index"))


@pytest.mark.parametrize("encoding", ["bitmask", "index", "combinatorial"])
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_it_is_the_product_of_the_packed_weights(pattern, encoding, tokens):
    packed = ops.compress(W, f"{pattern}/{encoding}")
    x = torch.randn(tokens, 100, generator=GENERATOR).to(torch.bfloat16)
    found = decode_linear(x, for_decode(packed), bias=BIAS)
    plain = naive.compress(W, f"{pattern}/{encoding}")
    expected = naive.sparse_linear(x, *plain, f"{pattern}/{encoding}", BIAS)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-2)


def test_the_operator_is_one_that_torch_can_trace():
    x = torch.randn(2, 100)
    parts = x, WEIGHTS.values, WEIGHTS.metadata, BIAS, "8:16/index", 37, 100
    torch.library.opcheck(
        torch.ops.nmsim.decode_linear.default, parts, test_utils=("test_schema", "test_faketensor")
    )
    assert decode_linear(torch.randn(2, 2, 100), WEIGHTS).shape == (2, 2, 37)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: for_decode(W), "weights are a Tensor: expected an NMWeight"),
        (
            lambda: for_decode(ops.compress(W, "3:7")),
            "weights are 3:7/index of torch.float16: expected 2:4, 4:8",
        ),
        (lambda: for_decode(ops.compress(W.float(), "2:4")), "of torch.float32"),
        (
            lambda: decode_linear(torch.ones(2, 100), ops.compress(W, "2:4")),
            "a NMWeight: expected a ShuffledWeight",
        ),
        (
            lambda: decode_linear(torch.ones(2, 100), replace(WEIGHTS, values=WEIGHTS.values[:, :32])),
            r"values are torch.float16 \[7, 32, 8\] .*: expected a contiguous torch.float16 \[7, 64, 8\], as for_decode",
        ),
        (
            lambda: decode_linear(
                torch.ones(2, 100), replace(WEIGHTS, values=WEIGHTS.values.mT.contiguous().mT)
            ),
            r"values are .* with strides \(512, 1, 64\): expected a contiguous",
        ),
        (
            lambda: decode_linear(torch.ones(2, 100), replace(WEIGHTS, metadata=WEIGHTS.metadata[1:])),
            r"metadata are torch.uint8 \[1791\] .*: expected a contiguous torch.uint8 \[1792\]",
        ),
        (
            lambda: decode_linear(
                torch.ones(2, 100), replace(WEIGHTS, metadata=WEIGHTS.metadata.view(torch.int8))
            ),
            r"metadata are torch.int8 \[1792\]",
        ),
        (
            lambda: decode_linear(torch.ones(2, 100), replace(WEIGHTS, values=WEIGHTS.values.float())),
            "weights are 8:16/index of torch.float32: no order for the decode kernel",
        ),
        (lambda: decode_linear(torch.ones(9, 100), WEIGHTS), "x has 9 tokens: expected 1 to 8"),
        (lambda: decode_linear(torch.ones(0, 100), WEIGHTS), "x has 0 tokens"),
        (lambda: decode_linear(torch.ones(2, 99), WEIGHTS), r"x has shape \(2, 99\): expected \[..., 100\]"),
        (lambda: decode_linear(torch.ones(2, 100, dtype=torch.int8), WEIGHTS), "x has dtype torch.int8"),
        (
            lambda: decode_linear(torch.ones(2, 100), WEIGHTS, bias=BIAS[:5]),
            r"bias is \(5,\) on cpu: expected \[37\] on cpu",
        ),
    ],
)
def test_errors_say_what_and_what_was_expected(call, message):
    with pytest.raises(KernelError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device that torch finds")
def test_on_a_gpu_it_is_what_it_is_on_the_cpu(dtype):
    weight, x = W.to(dtype), torch.randn(3, 100, generator=GENERATOR).to(dtype)
    expected = decode_linear(x, for_decode(ops.compress(weight, "8:16")))
    found = decode_linear(x.cuda(), for_decode(ops.compress(weight.cuda(), "8:16")))
    torch.testing.assert_close(found.cpu(), expected, rtol=2**-6, atol=1e-2)
