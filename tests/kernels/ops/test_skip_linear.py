"""The product of one sparse token with a K-major weight, as an operator."""

import pytest

torch = pytest.importorskip("torch")

from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import (  # noqa: E402
    activations_linear,
    prune_activations,
    skip_linear,
)

GENERATOR = torch.Generator().manual_seed(6)
X, W, BIAS = (torch.randn(*shape, generator=GENERATOR) for shape in ((1, 50), (50, 33), (33,)))
KEPT = prune_activations(X, "8:16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["2:4", "8:16", "3:7"])
@pytest.mark.parametrize("encoding", ["bitmask", "index", "combinatorial"])
def test_it_is_the_product_of_what_is_kept(dtype, pattern, encoding):
    kept, weight = prune_activations(X.to(dtype), f"{pattern}/{encoding}"), W.to(dtype)
    expected = activations_linear(kept, weight.T.contiguous(), bias=BIAS)
    assert torch.equal(skip_linear(kept, weight, bias=BIAS), expected)
    assert (expected != 0).all()


def test_the_operator_is_one_that_torch_can_trace():
    parts = KEPT.values, KEPT.metadata, W, KEPT.format, BIAS
    torch.library.opcheck(
        torch.ops.nmsim.skip_linear.default, parts, test_utils=("test_schema", "test_faketensor")
    )
    assert skip_linear(prune_activations(X[0], "8:16"), W).shape == (33,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: skip_linear(X, W), "activations are a Tensor: expected NMActivations"),
        (lambda: skip_linear(prune_activations(X, "2:4", shift="mean"), W), "shifted or is to be scaled"),
        (lambda: skip_linear(prune_activations(X, "2:4", variance=True), W), "shifted or is to be scaled"),
        (
            lambda: skip_linear(prune_activations(X.repeat(2, 1), "2:4"), W),
            "activations have 2 tokens: expected one",
        ),
        (
            lambda: skip_linear(KEPT, W.T),
            r"weight has shape \(33, 50\): expected \[50, O\], in features first",
        ),
        (lambda: skip_linear(KEPT, W[:, ::2]), "expected a contiguous tensor"),
        (lambda: skip_linear(KEPT, W.half()), "weight is torch.float16 on cpu: expected torch.float32"),
        (lambda: skip_linear(KEPT, W, bias=BIAS[:5]), r"bias is \(5,\) on cpu: expected \[33\] on cpu"),
    ],
)
def test_errors_say_what_and_what_was_expected(call, message):
    with pytest.raises(KernelError, match=message):
        call()
