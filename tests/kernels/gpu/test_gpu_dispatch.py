"""What public calls run on a GPU, from the call to the numbers.

They run on a CUDA device, and on the emulator where there is none: there, tensors in main memory are said to be where the GPU
kernels work, and all else is as it is.
"""

from types import SimpleNamespace

import pytest

import nmsim

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from triton_tensors import made, same_bits  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import (  # noqa: E402
    ShuffledWeight,
    activations_linear,
    decode_linear,
    dispatch,
    for_decode,
    naive,
    prune_activations,
    row_sums,
    skip_linear,
)
from kernels.stored.nm_weight import as_array  # noqa: E402
from kernels.stored.rows import kernel_format  # noqa: E402
from nmsim.errors import PatternError  # noqa: E402


def whole(*shape, dtype, seed=0):
    """Whole numbers, whose sums are exact in any order."""
    return made(*shape, seed=seed).round().to(dtype)


def packed(dense, pattern, encoding, device):
    """Pack by nmsim, wherever kernels work."""
    weights = ops.from_packed(nmsim.compress(as_array(dense), f"{pattern}/{encoding}"))
    parts = weights.values.to(device), weights.metadata.to(device)
    return ops.NMWeight(*parts, kernel_format(f"{weights.pattern}/{encoding}"), weights.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_are_packed_multiplied_and_unpacked(gpu_calls, dtype):
    device, asked = gpu_calls
    dense, bias = whole(37, 75, dtype=dtype), whole(37, dtype=dtype)
    weights = ops.compress(dense.to(device).T.contiguous().T, "8:16/bitmask")
    want = naive.compress(dense, "8:16/bitmask")
    assert same_bits(weights.values.cpu(), want[0])
    assert torch.equal(weights.metadata.cpu(), want[1])
    assert same_bits(ops.decompress(weights).cpu(), naive.decompress(*want, "8:16/bitmask", 75))
    for leading in ((), (2, 3), (0,), (130,)):
        x = whole(*leading, 75, dtype=dtype, seed=1)
        y = ops.sparse_linear(x.to(device), weights, bias=bias.to(device))
        assert torch.equal(y.cpu(), naive.sparse_linear(x, *want, "8:16/bitmask", bias))
    assert asked == ["compress", "decompress", "gemm", "gemm", "gemm"]


def test_x_that_learns_and_lies_in_any_order_is_taken(gpu_calls):
    device, _ = gpu_calls
    dense = whole(33, 48, dtype=torch.float32)
    weights = packed(dense, "2:4", "index", device)
    x, bias = whole(48, 5, dtype=torch.float32), whole(66, dtype=torch.float32)
    given, wide = x.to(device).T.requires_grad_(), bias.to(device).requires_grad_()
    y = ops.sparse_linear(given, weights, bias=wide[::2])
    pruned = ops.decompress(weights).cpu()
    assert torch.equal(y.detach().cpu(), x.T @ pruned.T + bias[::2])
    asked = torch.autograd.grad(y.sum(), (given, wide))
    assert torch.equal(asked[0].cpu(), pruned.sum(0).expand(5, -1))
    assert torch.equal(asked[1].cpu()[:4], torch.tensor([5.0, 0, 5, 0]))


@pytest.mark.parametrize(
    ("pattern", "encoding"), [("2:4", "index"), ("8:16", "combinatorial"), ("16:32", "index")]
)
def test_few_tokens_are_decoded(gpu_calls, pattern, encoding):
    device, asked = gpu_calls
    dense, bias = whole(37, 75, dtype=torch.bfloat16), whole(74, dtype=torch.float32)[::2]
    weights = for_decode(packed(dense, pattern, encoding, device))
    for leading in ((), (3,), (2, 2)):
        x = whole(*leading, 75, dtype=torch.float16, seed=2)
        given = x.to(device).requires_grad_()
        y = decode_linear(given, weights, bias=bias.to(device))
        plain = naive.compress(dense, f"{pattern}/{encoding}")
        want = naive.sparse_linear(x, *plain, f"{pattern}/{encoding}", bias)
        assert torch.equal(y.detach().cpu(), want)
    assert asked.count("gemv") == 3


def test_activations_are_pruned_and_multiplied(gpu_calls):
    device, asked = gpu_calls
    x, weight, bias = (whole(*shape, dtype=torch.float32) for shape in ((40, 3), (9, 40), (18,)))
    on_device = weight.to(device).requires_grad_()
    kept = prune_activations(x.to(device).T.requires_grad_(), "4:8/index", shift=2.0)
    y = activations_linear(kept, on_device, bias=bias.to(device)[::2], row_sums=row_sums(on_device))
    want = naive.compress_tokens(x.T, "4:8/index", torch.full((3, 1), 2.0))
    assert same_bits(kept.values.cpu(), want[0])
    assert torch.equal(kept.metadata.cpu(), want[1])
    eta = torch.full((3,), 2.0)
    expected = naive.activations_linear(*want, weight, "4:8/index", eta=eta, row_sums=weight.sum(1))
    assert torch.equal(y.cpu(), expected + bias[::2])
    one = prune_activations(x.to(device)[:, 0], "4:8/index")
    y = skip_linear(one, on_device.detach().T.contiguous(), bias=bias.to(device)[::2])
    want = naive.compress_tokens(x.T[:1], "4:8/index")
    expected = naive.activations_linear(*want, weight, "4:8/index", bias=bias[::2])
    assert torch.equal(y.cpu(), expected[0])
    assert asked == ["prune", "sparse_activations", "prune", "skip_gemv"]


def test_no_tokens_are_no_work(gpu_calls):
    device, asked = gpu_calls
    kept = prune_activations(torch.empty(2, 0, 20, device=device), "2:4")
    assert activations_linear(kept, torch.ones(3, 20, device=device)).shape == (2, 0, 3)
    assert ops.prune(torch.empty(0, 20, device=device), "2:4").shape == (0, 20)
    assert asked == []


def test_what_does_not_fit_on_a_gpu_is_said(gpu_calls):
    device, _ = gpu_calls
    weights = packed(torch.ones(3, 48), "8:16", "index", device)
    x = torch.ones(2, 48, device=device)
    with pytest.raises(
        KernelError, match=r"x has dtype torch.float16, the weights torch.float32: expected one"
    ):
        ops.sparse_linear(x.half(), weights)
    with pytest.raises(KernelError, match=r"bias has dtype torch.float16, the weights torch.float32"):
        ops.sparse_linear(x, weights, bias=torch.ones(3, device=device).half())
    with pytest.raises(
        PatternError, match=r"mask is torch.bool of shape \(2, 47\) on c.*: expected torch.bool"
    ):
        ops.compress(x, "2:4", mask=torch.ones(2, 47, dtype=torch.bool, device=device))


def test_kernels_serve_cuda_tensors_only():
    with FakeTensorMode():
        places = [torch.empty(1, device=device) for device in ("cuda", "cuda:1", "cpu", "meta")]
        assert [dispatch.serves(place) for place in places] == [True, True, False, False]


def test_a_device_is_told_from_its_neighbour():
    def parts(number):
        """Give operands on one of two devices, of shapes that fit."""
        device = torch.device("cuda", number)
        half = {"dtype": torch.float16, "device": device}
        stored = torch.empty(3, 24, **half), torch.empty(3, 12, dtype=torch.uint8, device=device)
        ordered = torch.empty(3, 32, 8, **half), torch.empty(384, dtype=torch.uint8, device=device)
        return SimpleNamespace(
            one=torch.empty(48, **half),
            two=torch.empty(2, 48, **half),
            bias=torch.empty(3, **half),
            stored=stored,
            weights=ops.NMWeight(*stored, kernel_format("8:16/index"), (3, 48)),
            ordered=ShuffledWeight(*ordered, kernel_format("8:16/index"), (3, 48)),
            dense=torch.empty(3, 48, **half),
            turned=torch.empty(48, 3, **half),
        )

    with FakeTensorMode():
        a, b = parts(0), parts(1)
        for parts_of_one in (a, b):
            decode_linear(parts_of_one.two, parts_of_one.ordered, bias=parts_of_one.bias)
        for call, message in (
            (
                lambda: ops.sparse_linear(a.two, b.weights),
                "x is on cuda:0, the weights on cuda:1: expected one",
            ),
            (
                lambda: ops.sparse_linear(b.two, b.weights, bias=a.bias),
                r"bias is \(3,\) on cuda:0: expected \[3\] on cuda:1",
            ),
            (
                lambda: ops.NMWeight(b.stored[0], a.stored[1], kernel_format("8:16/index"), (3, 48)),
                "values are on cuda:1, metadata on cuda:0",
            ),
            (
                lambda: decode_linear(a.two, b.ordered),
                "x is on cuda:0, weights on cuda:1: expected one device",
            ),
            (
                lambda: decode_linear(b.two, b.ordered, bias=a.bias),
                "x is on cuda:1, bias on cuda:0: expected one",
            ),
            (
                lambda: ops.prune(a.two, "2:4", scores=b.two),
                r"scores are \(2, 48\) on cuda:1: expected \(2, 48\) on cuda:0",
            ),
            (
                lambda: activations_linear(prune_activations(a.two, "8:16"), b.dense),
                "weight is torch.float16 on cuda:1: expected torch.float16 on cuda:0",
            ),
            (
                lambda: skip_linear(prune_activations(a.one, "8:16"), b.turned),
                "weight is torch.float16 on cuda:1: expected torch.float16 on cuda:0",
            ),
            (
                lambda: prune_activations(a.two, "2:4", vector=b.one),
                r"vector is \(48,\) on cuda:1: expected \[48\] on cuda:0",
            ),
        ):
            with pytest.raises(KernelError, match=message):
                call()
