"""Products of tokens with the matrices of their experts: plain loops' numbers, on the emulator and through the operator."""

from dataclasses import replace

import pytest

import nmsim
from kernels.cpu import KernelError

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton_tensors import made  # noqa: E402

from kernels.gpu.products import grouped  # noqa: E402
from kernels.ops import compress, for_decode, for_experts, from_packed, grouped_linear, naive  # noqa: E402
from kernels.stored.shuffled import unshuffle  # noqa: E402

EXPERTS = 3
CHOSEN = torch.tensor([[0, 2], [2, 1], [-1, 2], [EXPERTS, 0]])
"""Two tokens choose one expert; two choices are of none."""


def weights_of(format, *, n=37, k=75, **how):
    """Make experts of whole numbers, whose products are exact in any order: -> what is stored, dense [E, N, K]."""
    dense = [made(n, k, seed=seed).clamp(-4, 4).round().half().numpy() for seed in range(EXPERTS)]
    # Packed by nmsim, wherever kernels work.
    ordered = [for_decode(from_packed(nmsim.compress(one, format)), **how) for one in dense]
    rows = [unshuffle(one) for one in ordered]
    plain = [naive.decompress(one.values, one.metadata, str(one.format), k) for one in rows]
    return for_experts(ordered), torch.stack(plain)


def tokens_of(dtype, k=75, count=4):
    return made(count, k, seed=9).clamp(-4, 4).round().to(dtype)


@pytest.mark.parametrize("experts_type", [torch.int64, torch.int32])
@pytest.mark.parametrize("format", ["8:16/bitmask", "4:8/index", "16:32/index", "2:4/combinatorial"])
def test_each_token_meets_its_experts(format, experts_type, gpu_calls):
    device, asked = gpu_calls
    for k, how in ((75, {}), (300, {"warps": 4, "n_parts": 2})):
        weights, dense = weights_of(format, k=k)
        x, bias = tokens_of(torch.float16, k), made(EXPERTS, 37, seed=4).round()
        out = torch.full((4, 2, 37), torch.nan, device=device)
        on_device = replace(weights, values=weights.values.to(device), metadata=weights.metadata.to(device))
        chosen = CHOSEN.to(experts_type).to(device)
        grouped.launch(x.to(device), on_device, chosen, out, bias=bias.to(device), **how)
        want = naive.grouped_linear(x.float(), dense, CHOSEN, bias)
        assert torch.equal(out.cpu(), want)
    y = grouped_linear(x.to(device), on_device, experts=chosen, bias=bias.to(device))
    assert torch.equal(y.cpu(), want.half())
    assert asked == ["grouped"]


@pytest.mark.parametrize(("values", "block"), [("e4m3", 64), ("int8", None)])
def test_experts_may_have_values_of_8_bits(values, block, gpu_calls):
    device, _ = gpu_calls
    weights, dense = weights_of("8:16/bitmask", values=values, block=block)
    parts = {name: getattr(weights, name).to(device) for name in ("values", "metadata", "scales")}
    x = tokens_of(torch.float32)
    y = grouped_linear(x.to(device), replace(weights, **parts), experts=CHOSEN.to(device))
    torch.testing.assert_close(y.cpu(), naive.grouped_linear(x, dense, CHOSEN), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("format", ["8:16/tiled", "2:4/index"])
def test_the_cpu_gives_the_same(format):
    weights, dense = weights_of(format)
    x, bias = tokens_of(torch.bfloat16), made(EXPERTS, 37, seed=4).round().bfloat16()
    y = grouped_linear(x, weights, experts=CHOSEN, bias=bias)
    assert torch.equal(y, naive.grouped_linear(x, dense, CHOSEN, bias))
    assert grouped_linear(x[:0], weights, experts=CHOSEN[:0]).shape == (0, 2, 37)
    assert torch.equal(
        weights.expert(1).metadata,
        for_decode(from_packed(nmsim.compress(dense[1].half().numpy(), format))).metadata,
    )


def test_the_operator_is_one_that_torch_can_trace():
    weights, _ = weights_of("8:16/index")
    parts = tokens_of(torch.float32), weights.values, weights.metadata, CHOSEN, None, "8:16/index", 37, 75
    torch.library.opcheck(
        torch.ops.nmsim.grouped_linear.default, parts, test_utils=("test_schema", "test_faketensor")
    )


WEIGHTS, _ = weights_of("8:16/index")
ONE = for_decode(compress(torch.ones(5, 32).half(), "8:16"))
X = tokens_of(torch.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: for_experts([]), "weights are empty"),
        (lambda: for_experts([ONE, X]), "weights 1 are a Tensor: expected a ShuffledWeight"),
        (
            lambda: for_experts([ONE, for_decode(compress(torch.ones(6, 32).half(), "8:16"))]),
            r"weights 1 are ShuffledWeight\(8:16/index, \[6, 32\].*: expected ShuffledWeight\(8:16/index, \[5, 32\]",
        ),
        (lambda: grouped_linear(X, ONE, experts=CHOSEN), "a ShuffledWeight: expected a GroupedWeight"),
        (lambda: grouped_linear(X[None], WEIGHTS, experts=CHOSEN), r"expected tokens \[T, 75\]"),
        (lambda: grouped_linear(X, WEIGHTS, experts=CHOSEN[:2]), r"expected int32 or int64 \[4, choices\]"),
        (lambda: grouped_linear(X, WEIGHTS, experts=CHOSEN.float()), "experts are torch.float32"),
        (lambda: grouped_linear(X, WEIGHTS, experts=CHOSEN, bias=torch.ones(37)), r"bias is \[37\]: expected \[3, 37\]"),
        (
            lambda: grouped_linear(X, replace(WEIGHTS, metadata=WEIGHTS.metadata[:2]), experts=CHOSEN),
            r"metadata are \[2, \d+\] .*: expected them contiguous and of 3 experts",
        ),
        (
            lambda: grouped_linear(X, replace(WEIGHTS, values=WEIGHTS.values[:, :3]), experts=CHOSEN),
            r"values are \[3, 3, 64, 8\] with strides",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(KernelError, match=message):
        call()
