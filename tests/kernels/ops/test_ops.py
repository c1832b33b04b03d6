"""The torch front: the same bytes as kernels.cpu, the same products as float64 and as the plain reference."""

import copy
import ctypes
import itertools
import mmap
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import nmsim
from kernels import cpu
from kernels.cpu import KernelError
from nmsim.errors import EncodingError, PatternError
from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from triton_tensors import any_bits, made, same_bits  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.ops import (  # noqa: E402
    naive,
)
from kernels.ops import weights as weights_room  # noqa: E402
from kernels.stored.nm_weight import as_array, as_tensor  # noqa: E402
from kernels.stored.rows import kernel_format  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32")
ENCODINGS = ("bitmask", "index", "combinatorial")
DTYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def gate(y, x, dense, bias=None):
    """Refuse a result further from the exact one than float32 sums of K terms, and one rounding, can be."""
    x64, w64 = x.detach().double(), dense.double()
    exact, most = x64 @ w64.T, x64.abs() @ w64.abs().T
    if bias is not None:
        exact, most = exact + bias.detach().double(), most + bias.detach().double().abs()
    bound = (x.shape[-1] + 1) * ROUNDOFF[torch.float32] * most + ROUNDOFF[y.dtype] * exact.abs() * 1.01 + 1e-7
    error = (y.detach().double() - exact).abs()
    assert y.dtype == x.dtype
    assert y.shape == exact.shape
    assert (error <= bound).all(), f"largest error is {(error / bound).max():.3g} of the bound"


@pytest.mark.parametrize("pattern", [*PATTERNS, "1:1", "3:7", "1:32"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_packing_gives_the_bytes_of_kernels_cpu_and_of_the_reference(pattern, encoding):
    for dtype, k in zip(DTYPES, (64, 33, 47), strict=True):
        any_at_all = any_bits(3, k, dtype=dtype)
        ranked = torch.from_numpy(nmsim.prune(as_array(any_at_all), pattern, bit_order=True))
        # Without a mask, weights that are NaN or infinite are refused. With one, any bits are stored as they are.
        for dense, mask in ((any_at_all.nan_to_num(), None), (any_at_all, ranked)):
            before = dense.clone()
            weights = ops.compress(dense, f"{pattern}/{encoding}", mask=mask)
            assert same_bits(dense, before)
            keep = None if mask is None else mask.numpy()
            by_cpu = cpu.compress(as_array(dense), f"{pattern}/{encoding}", mask=keep)
            assert as_array(weights.values).tobytes() == by_cpu.values.tobytes()
            assert as_array(weights.metadata).tobytes() == by_cpu.metadata.tobytes()
            values, metadata = naive.compress(dense, f"{pattern}/{encoding}")
            assert same_bits(weights.values, values)
            assert torch.equal(weights.metadata, metadata)
        unpacked = ops.decompress(weights)
        assert same_bits(unpacked, naive.decompress(values, metadata, f"{pattern}/{encoding}", k))
        assert as_array(unpacked).tobytes() == cpu.decompress(by_cpu).tobytes()
        assert (weights.shape, weights.dtype, weights.device.type) == ((3, k), dtype, "cpu")
        assert (weights.values_bytes, weights.metadata_bytes) == (by_cpu.values_bytes, by_cpu.metadata_bytes)


def test_a_mask_and_a_packed_tensor_are_taken_as_they_are():
    dense = made(4, 48, dtype=torch.bfloat16)
    mask = naive.prune(dense, Pattern(4, 16))  # fewer than 8 per group
    weights = ops.compress(dense, "8:16/bitmask", mask=mask)
    assert same_bits(ops.decompress(weights), dense.where(mask, 0))
    values, metadata = naive.compress(dense, "8:16/bitmask", mask=mask)
    assert same_bits(weights.values, values)
    assert torch.equal(weights.metadata, metadata)
    packed = nmsim.compress(as_array(dense), "8:16/bitmask", mask=mask.numpy())
    again = ops.from_packed(packed)
    assert same_bits(again.values, values)
    assert torch.equal(again.metadata, metadata)
    assert same_bits(
        ops.decompress(ops.compress(dense.T, "2:4")),
        ops.decompress(ops.compress(dense.T.contiguous(), "2:4")),
    )
    assert str(weights) == "NMWeight(8:16/bitmask, [4, 48], torch.bfloat16, cpu)"


def test_tensors_and_arrays_share_memory():
    for dtype, numpys in DTYPES.items():
        tensor = made(3, 4, dtype=dtype)
        array = as_array(tensor)
        assert array.dtype == numpys
        assert array.ctypes.data == tensor.data_ptr() == as_tensor(array).data_ptr()
        assert same_bits(as_tensor(array), tensor)


def test_weights_are_copied_and_pickled_whole():
    weights = ops.compress(made(5, 40), "4:8/combinatorial")
    for other in (copy.deepcopy(weights), pickle.loads(pickle.dumps(weights))):
        assert other.values.data_ptr() != weights.values.data_ptr()
        assert same_bits(ops.decompress(other), ops.decompress(weights))
        assert (other.pattern, other.encoding, other.shape) == (Pattern(4, 8), "combinatorial", (5, 40))


TOKENS = ((), (1,), (2, 2), (17,), (3, 1, 5), (0,))


@pytest.mark.parametrize(("pattern", "encoding"), list(itertools.product(PATTERNS, ENCODINGS)))
def test_products_are_as_exact_as_float32_sums(pattern, encoding):
    types = itertools.cycle(itertools.product(DTYPES, DTYPES))
    for leading, (stored, used), (rows, k) in zip(
        TOKENS, types, itertools.cycle([(7, 100), (66, 64)]), strict=False
    ):
        weights = ops.compress(made(rows, k, dtype=stored), f"{pattern}/{encoding}")
        x, bias = made(*leading, k, dtype=used, seed=1), made(rows, dtype=stored, seed=2)
        before = x.clone()
        dense = ops.decompress(weights)
        gate(ops.sparse_linear(x, weights), x, dense)
        gate(ops.sparse_linear(x, weights, bias=bias), x, dense, bias)
        assert same_bits(x, before)


@pytest.mark.parametrize("pattern", ["2:4", "8:16", "1:1", "3:7"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_products_are_those_of_the_reference(pattern, encoding):
    for dtype in DTYPES:
        # Small whole numbers, whose sums are exact in any order.
        dense, x = (made(*shape).round().to(dtype) for shape in ((5, 35), (2, 3, 35)))
        bias = made(5).round().to(dtype)
        weights = ops.compress(dense, f"{pattern}/{encoding}")
        want = naive.sparse_linear(x, weights.values, weights.metadata, f"{weights.pattern}/{encoding}", bias)
        assert torch.equal(ops.sparse_linear(x, weights, bias=bias), want)


@pytest.mark.parametrize(
    ("pattern", "tokens"), [("8:16", weights_room.MANY_TOKENS), ("3:7", weights_room.MANY_TOKENS_PORTABLE)]
)
def test_many_tokens_are_multiplied_by_torch_with_the_unpacked_weight(pattern, tokens, monkeypatch):
    if tokens == weights_room.MANY_TOKENS and cpu.instruction_sets() == ("portable",):
        pytest.skip("this CPU has plain loops only, which leave many tokens to torch sooner")
    calls = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *a: calls.append(len(a[0])) or linear(*a))
    weights = ops.compress(made(6, 50, dtype=torch.float16), pattern)
    bias = made(6)
    for count in (tokens, tokens - 1):
        x = made(count, 50, dtype=torch.bfloat16)
        gate(ops.sparse_linear(x, weights, bias=bias), x, ops.decompress(weights), bias)
    assert calls == [tokens]


def test_plain_loops_leave_many_tokens_to_torch_sooner(monkeypatch):
    monkeypatch.setenv("NMSIM_CPU_ISA", "portable")
    calls = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *a: calls.append(len(a[0])) or linear(*a))
    weights = ops.compress(made(6, 64), "8:16")
    for count in (weights_room.MANY_TOKENS_PORTABLE - 1, weights_room.MANY_TOKENS_PORTABLE):
        x = made(count, 64)
        gate(ops.sparse_linear(x, weights), x, ops.decompress(weights))
    assert calls == [weights_room.MANY_TOKENS_PORTABLE]


def test_memory_order_of_x_does_not_matter():
    weights = ops.compress(made(6, 64), "8:16")
    x = made(5, 64)
    want = ops.sparse_linear(x, weights)
    wide = x.repeat_interleave(2, dim=1)[:, ::2]
    assert not wide.is_contiguous()
    assert torch.equal(ops.sparse_linear(wide, weights), want)
    assert torch.equal(ops.sparse_linear(x.T.contiguous().T, weights), want)
    shifted = torch.zeros(x.nbytes + 4, dtype=torch.uint8).numpy()[1:-3]
    odd = torch.frombuffer(shifted, dtype=torch.float32).view(5, 64)
    odd.copy_(x)
    assert odd.data_ptr() % 4
    assert torch.equal(ops.sparse_linear(odd, weights), want)


def test_threads_follow_torch_and_do_not_change_a_bit(monkeypatch):
    seen = []
    matmul = cpu.matmul
    # The last rows are multiplied apart, by one thread, if their memory ends with a page.
    monkeypatch.setattr(
        cpu, "matmul", lambda *a, threads=1: seen.append(threads) or matmul(*a, threads=threads)
    )
    weights, x = ops.compress(made(700, 512), "8:16"), made(3, 512)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(ops.sparse_linear(x, weights))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
    assert {1, 3} == set(seen)


def test_an_infinity_that_meets_a_dropped_weight_has_no_effect():
    dense = made(4, 64)
    dense[:] = dense[0]  # one mask for all rows
    weights = ops.compress(dense, "8:16")
    dropped = ~ops.prune(dense, "8:16")[0]
    x = made(2, 64)
    odd = x.clone()
    odd[:, dropped] = torch.inf
    assert torch.equal(ops.sparse_linear(odd, weights), ops.sparse_linear(x, weights))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for memory that cannot be read")
@pytest.mark.parametrize(
    ("pattern", "encoding"), [("2:4", "index"), ("8:16", "bitmask"), ("16:32", "combinatorial")]
)
def test_nothing_is_read_behind_the_end_of_a_tensor_that_ends_with_a_page(pattern, encoding):
    weights = ops.compress(made(9, 96, dtype=torch.bfloat16), f"{pattern}/{encoding}")
    page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
    maps, parts = [], []
    for part in (weights.values, weights.metadata):
        room = mmap.mmap(-1, 2 * page)
        whole = torch.frombuffer(room, dtype=torch.uint8)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        assert libc.mprotect(whole.data_ptr() + page, page, 0) == 0
        moved = whole[page - part.nbytes : page].view(part.dtype).view(part.shape)
        moved.copy_(part)
        maps.append((room, whole))
        parts.append(moved)
    at_the_edge = ops.NMWeight(*parts, weights.format, weights.shape)
    for tokens in (1, 3, 16):
        x = made(tokens, 96)
        assert torch.equal(ops.sparse_linear(x, at_the_edge), ops.sparse_linear(x, weights))


def test_prune_is_the_reference_and_nmsim():
    for dtype, shape, pattern in zip(
        itertools.cycle(DTYPES), ((3, 64), (2, 3, 37), (5,), (4, 100)), PATTERNS, strict=False
    ):
        x = any_bits(*shape, dtype=dtype)
        scores = made(*shape, dtype=dtype).round()  # many are equal
        scores.view(-1)[::3] = -torch.inf
        for given in (None, scores):
            mask = ops.prune(x, pattern, scores=given)
            assert mask.dtype == torch.bool
            assert torch.equal(mask, naive.prune(x, Pattern.parse(pattern), given))
            ranked = None if given is None else as_array(given)
            assert np.array_equal(
                mask.numpy(), nmsim.prune(as_array(x), pattern, scores=ranked, bit_order=True)
            )
    ties = torch.tensor([[-0.0, 0.0, 2.0, -2.0]])
    assert ops.prune(ties, Pattern(1, 4)).tolist() == [[False, False, True, False]]
    assert torch.equal(ops.prune(made(6, 8).T, "2:4"), naive.prune(made(6, 8).T, Pattern(2, 4)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_x_and_bias_are_those_of_the_dense_product(dtype):
    weights = ops.compress(made(9, 50, dtype=dtype), "8:16/combinatorial")
    dense = ops.decompress(weights).float()
    for leading in ((), (4,), (2, 3)):
        x, bias = made(*leading, 50, dtype=dtype).requires_grad_(), made(9, dtype=dtype).requires_grad_()
        grad = made(*leading, 9, dtype=dtype, seed=3)
        y = ops.sparse_linear(x, weights, bias=bias)
        found = torch.autograd.grad(y, (x, bias), grad)
        gate(found[0], grad, dense.T)
        assert found[1].dtype == dtype
        assert torch.allclose(found[1].float(), grad.float().reshape(-1, 9).sum(0), rtol=2 * ROUNDOFF[dtype])
    x = made(3, 50).requires_grad_()
    slope = torch.autograd.grad(ops.sparse_linear(x, weights).square().sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(slope.sum(), x)[0]
    assert torch.allclose(second, 2 * (dense.T @ dense).sum(0).expand(3, -1), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Input #. requires gradient and is not a double")
def test_gradients_agree_with_differences():
    weights = ops.compress(made(3, 12), "2:4")
    x, bias = made(2, 12).requires_grad_(), made(3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, bias: ops.sparse_linear(x, weights, bias=bias), (x, bias), eps=0.25, atol=1e-3, rtol=1e-3
    )  # linear, so that a wide step has no error of its own


def test_pruned_activations_let_gradients_through_to_what_is_kept():
    x = made(3, 40).requires_grad_()
    mask = ops.prune(x, "2:4")
    assert not mask.requires_grad
    x.where(mask, 0).sum().backward()
    assert torch.equal(x.grad, mask.float())


def test_torch_finds_nothing_wrong_with_the_operators():
    weights = ops.compress(made(6, 50, dtype=torch.bfloat16), "8:16")
    about = ("8:16/index", 50)
    parts = (weights.values, weights.metadata)
    op = torch.ops.nmsim
    torch.library.opcheck(
        op.sparse_linear.default, (made(2, 3, 50).requires_grad_(), *parts, made(6).requires_grad_(), *about)
    )
    torch.library.opcheck(op.sparse_linear.default, (made(50), *parts, None, *about))
    torch.library.opcheck(op.unpack.default, (*parts, *about))
    torch.library.opcheck(op.prune.default, (made(3, 50).requires_grad_(), "8:16", None))
    torch.library.opcheck(op.prune.default, (made(3, 50).T, "8:16", made(50, 3)))


def test_compiled_graphs_hold_the_operators_without_a_break():
    weights = ops.compress(made(6, 64), "8:16")

    def block(x, bias, weights):
        kept = x.where(ops.prune(x, "2:4"), 0)
        return (ops.sparse_linear(kept, weights, bias=bias) @ ops.decompress(weights)).relu()

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for leading in ((2,), (5,), (3, 2)):
        x, bias = made(*leading, 64).requires_grad_(), made(6).requires_grad_()
        want = block(x, bias, weights)
        y = compiled(x, bias, weights)
        assert torch.allclose(y, want)
        for a, b in zip(
            torch.autograd.grad(y.sum(), (x, bias)), torch.autograd.grad(want.sum(), (x, bias)), strict=True
        ):
            assert torch.allclose(a, b)


def test_shapes_are_known_without_data():
    meta = ops.NMWeight(
        torch.empty(6, 32, device="meta"),
        torch.empty(6, 16, device="meta", dtype=torch.uint8),
        kernel_format("8:16/index"),
        (6, 64),
    )
    x = torch.empty(2, 3, 64, device="meta", dtype=torch.float16)
    y = ops.sparse_linear(x, meta)
    assert (y.shape, y.dtype, y.device.type) == ((2, 3, 6), torch.float16, "meta")
    assert ops.decompress(meta).shape == (6, 64)
    assert ops.prune(x, "2:4").dtype == torch.bool


def weights_of(**changes):
    good = ops.compress(made(3, 50), "8:16")
    fields = {name: getattr(good, name) for name in ("values", "metadata", "format", "shape")}
    return ops.NMWeight(**(fields | changes))


GOOD = weights_of()
X = made(2, 50)
WRONG = {
    "x is a ndarray: expected a torch tensor": lambda: ops.prune(X.numpy(), "2:4"),
    "x has dtype torch.float64: expected one of torch.float32, torch.float16, torch.bfloat16": lambda: (
        ops.sparse_linear(X.double(), GOOD)
    ),
    "x has shape (2, 49): expected [..., 50], K of the weights": lambda: ops.sparse_linear(X[:, :49], GOOD),
    "x has shape (): expected [..., 50]": lambda: ops.sparse_linear(X[0, 0], GOOD),
    "x has layout torch.sparse_coo: expected an ordinary": lambda: ops.sparse_linear(X.to_sparse(), GOOD),
    "x is on meta, the weights on cpu: expected one device": lambda: ops.sparse_linear(X.to("meta"), GOOD),
    "weights are a Tensor: expected an NMWeight, as ops.compress makes it": lambda: ops.sparse_linear(
        X, made(3, 50)
    ),
    "weights are a Parameter: expected an NMWeight": lambda: ops.decompress(torch.nn.Parameter(made(3, 50))),
    "bias is (2,) on cpu: expected [3] on cpu": lambda: ops.sparse_linear(X, GOOD, bias=made(2)),
    "bias has dtype torch.int64: expected one of": lambda: ops.sparse_linear(
        X, GOOD, bias=torch.ones(3).long()
    ),
    "dense_weight has dtype torch.int8: expected one of": lambda: ops.compress(
        torch.ones(3, 4).to(torch.int8), "2:4"
    ),
    "dense_weight is on meta: expected a tensor with data, on the CPU": lambda: ops.compress(
        X.to("meta"), "2:4"
    ),
    "weights have shape (50,): expected a matrix [N, K] that is not empty": lambda: ops.compress(X[0], "2:4"),
    "encoding 'gap:2': kernels read one of bitmask, index, combinatorial": lambda: ops.compress(
        X, "2:4/gap:2"
    ),
    "pattern 8:64: kernels take M up to 32": lambda: ops.compress(X, "8:64"),
    "mask is a list: expected a torch tensor": lambda: ops.compress(X, "2:4", mask=[True]),
    "mask is float32 (2, 50): expected bool (2, 50)": lambda: ops.compress(X, "2:4", mask=X),
    "mask row 0, group 0 (elements 0 to 3) keeps 4: expected at most 2 of every 4": lambda: ops.compress(
        X, "2:4", mask=X.bool()
    ),
    "pattern 'all': expected": lambda: ops.prune(X, "all"),
    "scores are (2, 49) on cpu: expected (2, 50) on cpu, like x": lambda: ops.prune(
        X, "2:4", scores=X[:, :49]
    ),
    "scores[0, 0] is NaN: expected numbers that have an order": lambda: ops.prune(
        X, "2:4", scores=X * torch.nan
    ),
    "a scalar has no axis to prune along": lambda: ops.prune(X[0, 0], "2:4"),
    "format is a str: expected a SparseFormat": lambda: weights_of(format="8:16"),
    "values require a gradient, but packed weights are frozen": lambda: weights_of(
        values=GOOD.values.clone().requires_grad_()
    ),
    "values have shape (3, 31): expected [N, 32] for 8:16/index and 50 in features": lambda: weights_of(
        values=GOOD.values[:, :31]
    ),
    "values have 3 rows: expected 4, for shape (4, 50)": lambda: weights_of(shape=(4, 50)),
    "values have 2 rows, metadata 3: expected as many": lambda: weights_of(values=GOOD.values[:2]),
    "values have strides (1, 3): expected a contiguous tensor": lambda: weights_of(
        values=GOOD.values.T.contiguous().T
    ),
    "metadata has dtype torch.int8: expected torch.uint8": lambda: weights_of(
        metadata=GOOD.metadata.view(torch.int8)
    ),
    "metadata is a list: expected a torch tensor": lambda: weights_of(metadata=[]),
    "metadata have shape (3, 16): expected [N, 8] for 8:16/bitmask": lambda: weights_of(
        format=kernel_format("8:16/bitmask")
    ),
    "values are on cpu, metadata on meta: expected one device": lambda: weights_of(
        metadata=GOOD.metadata.to("meta")
    ),
    "values row 0: a value that is not zero is stored beyond the row's 50 elements, expected 0": lambda: (
        weights_of(values=torch.ones_like(GOOD.values))
    ),
    "packed is a Tensor: expected a nmsim.PackedTensor": lambda: ops.from_packed(X),
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_say_what_where_and_what_was_expected(text):
    with pytest.raises((KernelError, PatternError)) as caught:
        WRONG[text]()
    assert text in str(caught.value)


def test_a_code_that_no_mask_has_is_refused_before_a_kernel_meets_it():
    good = ops.compress(made(2, 32), "8:16/combinatorial")
    with pytest.raises(EncodingError, match="code"):
        ops.NMWeight(good.values, torch.full_like(good.metadata, 63), good.format, good.shape)


def test_memory_that_is_out_of_step_is_refused():
    raw = torch.zeros(GOOD.metadata.nbytes + 1, dtype=torch.uint8)[1:].view(GOOD.metadata.shape)
    raw.copy_(GOOD.metadata)
    with pytest.raises(
        KernelError, match=r"memory of metadata begins at address 0x.*, 1 modulo 4: expected a"
    ):
        ops.sparse_linear(X, weights_of(metadata=raw))


def test_what_is_on_a_gpu_stays_there_or_is_told_why_not():
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, bias = torch.empty(2, 50, device="cuda"), torch.empty(3, device="cuda")
        for call, message in (
            (lambda: ops.sparse_linear(x, GOOD), "x is on cuda:0, the weights on cpu: expected one device"),
            (lambda: ops.sparse_linear(X, GOOD, bias=bias), r"on cuda:0: expected \[3\] on cpu"),
            (
                lambda: ops.compress(X, "2:4", mask=x > 0),
                "mask is on cuda:0: expected a tensor with data, on the CPU",
            ),
        ):
            with pytest.raises(KernelError, match=message):
                call()


def test_torch_is_loaded_and_operators_are_registered_by_ops_alone():
    code = (
        "import sys, kernels, kernels.cpu; assert 'torch' not in sys.modules\n"
        "import torch; assert not hasattr(torch.ops.nmsim, 'sparse_linear')\n"
        "from kernels import ops; assert torch.ops.nmsim.sparse_linear and torch.ops.nmsim.prune"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, answer.stderr
