"""The torch calls that prune activations and multiply them: the reference's bytes, the golden model's numbers, clear errors."""

import itertools
import sys

import numpy as np
import pytest

import nmsim
from kernels import cpu
from kernels.cpu import KernelError
from nmsim.errors import EncodingError, PatternError
from nmsim.mitigation import Recipe, golden
from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from triton_tensors import any_bits, made, same_bits  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.ops import (  # noqa: E402
    activations_linear,
    dispatch,
    naive,
    prune_activations,
    row_sums,
)
from kernels.stored.nm_weight import as_array  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32", "3:7")
ENCODINGS = ("bitmask", "index", "combinatorial")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device that torch finds")
    return torch.device(request.param)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_without_a_shift_the_bytes_are_those_of_packed_weights(pattern, encoding, device):
    for dtype, k in zip(DTYPES, (64, 33, 47), strict=True):
        x = any_bits(2, 3, k, dtype=dtype)
        kept = prune_activations(x.to(device), f"{pattern}/{encoding}")
        rows = as_array(x.view(6, k))
        want = cpu.compress(rows, f"{pattern}/{encoding}", mask=nmsim.prune(rows, pattern, bit_order=True))
        assert as_array(kept.values.cpu()).tobytes() == want.values.tobytes()
        assert as_array(kept.metadata.cpu()).tobytes() == want.metadata.tobytes()
        assert (kept.eta, kept.v, kept.shape) == (None, None, (2, 3, k))
        assert kept.values.device.type == device.type


@pytest.mark.parametrize("shift", [None, "mean", "median", 0.37, "vector"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shifts_scores_and_variances_are_those_of_the_reference(dtype, shift, device):
    for (pattern, k), scored in itertools.product((("8:16", 47), ("3:7", 64), ("16:32", 300)), (False, True)):
        x = made(4, k, dtype=dtype, seed=1) + 3
        x[1, 5] = x[1, 4]
        vector = made(k, dtype=dtype, seed=3) if scored else None
        given = made(k, dtype=dtype, seed=2) if shift == "vector" else shift
        kept = prune_activations(
            x.to(device),
            f"{pattern}/index",
            shift=given.to(device) if torch.is_tensor(given) else given,
            vector=None if vector is None else vector.to(device),
            variance=True,
        )
        eta = None if kept.eta is None else kept.eta.cpu()
        if isinstance(shift, str) and shift != "vector":
            want = naive.token_shift(x, shift)
            assert torch.allclose(eta, want, rtol=1e-6 if shift == "mean" else 0, atol=0)
        elif isinstance(shift, float):
            assert torch.equal(eta, torch.full((4,), shift))
        else:
            assert eta is None
        subtracted = given.float() if shift == "vector" else None if eta is None else eta[:, None]
        scores = None if vector is None else vector.float()
        want = naive.compress_tokens(x, f"{pattern}/index", subtracted, scores)
        assert same_bits(kept.values.cpu(), want[0])
        assert torch.equal(kept.metadata.cpu(), want[1])
        difference, mask = naive.prune_tokens(x, Pattern.parse(pattern), subtracted, scores)
        assert torch.allclose(kept.v.cpu(), naive.variance_factor(difference, mask), rtol=2e-6, atol=0)


def test_nan_is_kept_alike_wherever_numbers_are_computed(device):
    x = torch.tensor([[1.0, torch.nan, torch.inf, torch.nan], [-2.0, 2.0, 2.0, -2.0]], device=device)
    for how in ({}, {"shift": 0.0}, {"vector": torch.ones(4, device=device)}):
        kept = prune_activations(x, "2:4/bitmask", **how)
        assert kept.metadata.tolist() == [[0x3A, 0x33], [0x33, 0x33]]
    kept = prune_activations(x, "2:4", shift="median")
    assert kept.eta.isnan().tolist() == [True, False]
    assert kept.eta[1] == -2


def test_all_nan_are_alike_once_numbers_are_computed(device):
    x = torch.tensor([[0x3F800000, 0x7FC00001, 0x7FC00002, 0x40000000]], dtype=torch.int32).view(
        torch.float32
    )
    assert prune_activations(x.to(device), "1:4/bitmask").metadata.tolist() == [[0x14]]  # by stored bits
    for how in ({"shift": 0.0}, {"vector": torch.ones(4, device=device)}):
        assert prune_activations(x.to(device), "1:4/bitmask", **how).metadata.tolist() == [[0x12]]


RECIPES = (
    Recipe(),
    Recipe(shift="mean", variance=True),
    Recipe(shift="median", scale=made(6, seed=8).numpy(), bias=made(6, seed=9).numpy()),
    Recipe(shift=0.75, variance=True),
    Recipe(shift=made(75, seed=10).numpy(), variance=True, scale=made(6, seed=8).numpy()),
)


@pytest.mark.parametrize(("pattern", "recipe"), list(zip(PATTERNS, RECIPES, strict=True)))
def test_layers_are_the_golden_model(pattern, recipe, device):
    x, weight, vector = made(2, 3, 75, seed=5) + 0.5, made(6, 75, seed=6), made(75, seed=7)
    want = golden.linear(
        x.view(6, 75).double().numpy(), weight.double().numpy(), pattern, recipe,
        criterion="channel_vector", vector=vector.double().numpy(),
    )  # fmt: skip
    learned = isinstance(recipe.shift, np.ndarray)
    shift = torch.from_numpy(recipe.shift).to(device) if learned else recipe.shift
    scale, bias = (None if part is None else torch.from_numpy(part) for part in (recipe.scale, recipe.bias))
    if learned:
        bias = (1 + scale) * (weight @ torch.from_numpy(recipe.shift))
    kept = prune_activations(
        x.to(device), f"{pattern}/combinatorial", vector=vector.to(device), variance=recipe.variance,
        shift=None if isinstance(shift, str) and shift == "none" else shift,
    )  # fmt: skip
    on_device = [None if part is None else part.to(device) for part in (weight, bias, scale)]
    y = activations_linear(
        kept, on_device[0], bias=on_device[1], row_sums=row_sums(on_device[0]), scale=on_device[2]
    )
    assert y.shape == (2, 3, 6)
    # Terms are below 20, sums of 75 of them in float32.
    assert np.allclose(y.view(6, 6).double().cpu().numpy(), want, rtol=1e-5, atol=3e-4)
    assert np.abs(want).min() > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_the_reference(dtype, device):
    for leading in ((), (5,), (17, 2)):
        # Whole numbers, whose sums are exact in any order.
        x, weight, bias = (made(*s).round().to(dtype) for s in ((*leading, 40), (9, 40), (9,)))
        kept = prune_activations(x.to(device), "8:16/index")
        y = activations_linear(kept, weight.to(device), bias=bias.to(device))
        want = naive.activations_linear(
            kept.values.cpu(), kept.metadata.cpu(), weight, "8:16/index", bias=bias
        )
        assert torch.equal(y.cpu(), want.reshape(*leading, 9))
        assert torch.equal(y.cpu(), ops.decompress(ops.compress(x.reshape(-1, 40), "8:16")).reshape(*leading, 40).float()
                           .matmul(weight.float().T).add(bias.float()).to(dtype))  # fmt: skip


def test_no_tokens_and_any_memory_order(device):
    kept = prune_activations(torch.empty(2, 0, 20, device=device), "2:4", shift="mean", variance=True)
    assert [tuple(part.shape) for part in kept[:4]] == [(0, 16), (0, 4), (0,), (0,)]
    weight = made(3, 20).to(device)
    assert activations_linear(kept, weight, row_sums=row_sums(weight)).shape == (2, 0, 3)
    x = made(20, 4).to(device)
    turned, straight = (prune_activations(one, "4:8", shift="mean") for one in (x.T, x.T.contiguous()))
    assert torch.equal(turned.metadata, straight.metadata)
    assert torch.equal(turned.values, straight.values)


def test_torch_finds_nothing_wrong_with_the_operators(device):
    op = torch.ops.nmsim
    x, weight = made(3, 50, dtype=torch.float16).to(device), made(6, 50, dtype=torch.float16).to(device)
    vector = made(50).to(device)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    for how in (("none", 0.0, None, None, False), ("vector", 0.0, vector, vector, True)):
        torch.library.opcheck(op.prune_activations.default, (x, "8:16/index", *how), test_utils=tests)
    values, metadata, eta, v = op.prune_activations(x, "8:16/index", "mean", 0.0, None, None, True)
    parts = (values, metadata, weight, "8:16/index")
    made_once = row_sums(weight)
    for epilogue in ((None,) * 5, (v, eta, made_once, made_once, made_once)):
        torch.library.opcheck(op.activations_linear.default, (*parts, *epilogue), test_utils=tests)


def test_compiled_graphs_hold_the_operators_without_a_break():
    weight, vector = made(6, 64), made(64)
    sums = row_sums(weight)

    def block(x):
        kept = prune_activations(x, "8:16/index", shift="mean", vector=vector, variance=True)
        return activations_linear(kept, weight, row_sums=sums).relu()

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for leading in ((2,), (5,), (3, 2)):
        x = made(*leading, 64)
        assert torch.equal(compiled(x), block(x))


def test_shapes_are_known_without_data():
    x, weight = torch.empty(2, 3, 50, device="meta", dtype=torch.float16), torch.empty(6, 50, device="meta")
    kept = prune_activations(x, "8:16/index", shift="mean", variance=True)
    assert (kept.values.shape, kept.values.dtype) == ((6, 32), torch.float16)
    assert (kept.metadata.shape, kept.eta.shape, kept.v.shape) == ((6, 16), (6,), (6,))
    y = activations_linear(kept, weight.half(), row_sums=torch.empty(6, device="meta"))
    assert (y.shape, y.dtype, y.device.type) == ((2, 3, 6), torch.float16, "meta")
    with FakeTensorMode():
        on_gpu = prune_activations(torch.empty(4, 50, device="cuda"), "8:16")
        assert on_gpu.values.device.type == "cuda"


def test_gradients_are_refused_and_not_silently_zero():
    x = made(2, 16).requires_grad_()
    with pytest.raises(RuntimeError, match="autograd"):
        prune_activations(x, "2:4").values.sum().backward()


X, W = made(2, 50), made(3, 50)
GOOD = prune_activations(X, "8:16", shift="mean")
WRONG = {
    "x is a ndarray: expected a torch tensor": lambda: prune_activations(X.numpy(), "2:4"),
    "x has dtype torch.float64: expected one of": lambda: prune_activations(X.double(), "2:4"),
    "x has shape (): expected [..., K] with K at least 1": lambda: prune_activations(X[0, 0], "2:4"),
    "x has shape (2, 0): expected [..., K]": lambda: prune_activations(X[:, :0], "2:4"),
    "pattern 'all': expected 'N:M' with N kept of every M": lambda: prune_activations(X, "all"),
    "pattern 8:64: ": lambda: prune_activations(X, "8:64"),
    "encoding 'gap:2': ": lambda: prune_activations(X, "2:4/gap:2"),
    "shift is 'mode': expected 'mean' or 'median', a number within float32, a tensor [K] or None": lambda: (
        prune_activations(X, "2:4", shift="mode")
    ),
    "shift is 1e+300: expected": lambda: prune_activations(X, "2:4", shift=1e300),
    "shift is 0x1b4ec7f9...00000000 (1329 bits)": lambda: prune_activations(X, "2:4", shift=10**400),
    "shift is nan: expected": lambda: prune_activations(X, "2:4", shift=float("nan")),
    "shift is (2, 50) on cpu: expected [50] on cpu": lambda: prune_activations(X, "2:4", shift=X),
    "vector is (3,) on cpu: expected [50] on cpu": lambda: prune_activations(X, "2:4", vector=made(3)),
    "vector is a list: expected a torch tensor": lambda: prune_activations(X, "2:4", vector=[1.0]),
    "variance of tokens with a single in feature: expected at least two": lambda: prune_activations(
        X[:, :1], "2:4", variance=True
    ),
    "activations are a Tensor: expected NMActivations": lambda: activations_linear(X, W),
    "row_sums is missing: the tokens were shifted": lambda: activations_linear(GOOD, W),
    "row_sums is (2,) on cpu: expected [3] on cpu": lambda: activations_linear(GOOD, W, row_sums=made(2)),
    "weight has shape (3, 49): expected [O, 50], K of the activations": lambda: activations_linear(
        GOOD, W[:, :49], row_sums=row_sums(W)
    ),
    "weight is torch.float16 on cpu: expected torch.float32 on cpu, like the values": lambda: (
        activations_linear(GOOD, W.half(), row_sums=row_sums(W))
    ),
    "weight has strides (1, 3): expected a contiguous tensor": lambda: activations_linear(
        GOOD, W.T.contiguous().T, row_sums=row_sums(W)
    ),
    "weight has shape (50,): expected a matrix [O, K]": lambda: activations_linear(GOOD, W[0], row_sums=X[0]),
    "weight is torch.float32 on meta: expected torch.float32 on cpu": lambda: activations_linear(
        GOOD, W.to("meta"), row_sums=row_sums(W)
    ),
    "bias is (2,) on cpu: expected [3] on cpu": lambda: activations_linear(
        GOOD, W, bias=made(2), row_sums=row_sums(W)
    ),
    "values have shape (2, 31): expected [N, 32] for 8:16/index": lambda: activations_linear(
        GOOD._replace(values=GOOD.values[:, :31]), W, row_sums=row_sums(W)
    ),
    "eta is (1,) on cpu: expected [2] on cpu": lambda: activations_linear(
        GOOD._replace(eta=GOOD.eta[:1]), W, row_sums=row_sums(W)
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_say_what_where_and_what_was_expected(text):
    with pytest.raises((KernelError, PatternError)) as caught:
        WRONG[text]()
    assert text in str(caught.value)


def test_a_code_that_no_mask_has_is_refused_on_the_cpu():
    kept = prune_activations(X, "8:16/combinatorial")
    bad = kept._replace(metadata=torch.full_like(kept.metadata, 63))
    with pytest.raises(EncodingError, match="code"):
        activations_linear(bad, W)


def test_a_missing_triton_is_told_only_where_it_is_needed(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("kernels.gpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    dispatch.module.cache_clear()
    assert prune_activations(X, "2:4").shape == (2, 50)
    with pytest.raises(KernelError, match=r"Triton is not installed.*pip install 'nmsim\[gpu\]'"):
        dispatch.module("movers.prune")
