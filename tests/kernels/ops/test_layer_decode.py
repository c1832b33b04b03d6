"""`NMLinear` that holds its weights in the order of the decode kernel, for any number of tokens, and saves packed rows."""

import copy
import io
import pickle
import sys

import pytest

import nmsim

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from safetensors.torch import load_model, save_model  # noqa: E402
from torch import nn  # noqa: E402
from triton_tensors import made, same_bits  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import (  # noqa: E402
    NMLinear,
    dispatch,
    for_decode,
    for_decode_,
    naive,
    sparsify_,
)
from kernels.ops.decode import LEAST_MATRIX_TOKENS  # noqa: E402
from kernels.stored.nm_weight import as_array  # noqa: E402
from kernels.stored.shuffled import MOST_MATRIX_TOKENS, MOST_TOKENS  # noqa: E402

HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _same_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def layer_of(dtype=torch.float16, *, bias=True, pattern="8:16", encoding="index", k=75, n=37):
    """Make a layer of whole numbers, whose products are exact in any order; packed by nmsim, wherever kernels work."""
    dense = as_array(made(n, k).round().to(dtype))
    weights = ops.from_packed(nmsim.compress(dense, f"{pattern}/{encoding}"))
    return NMLinear(weights, bias=nn.Parameter(made(n).round().to(dtype)) if bias else None)


def holds(layer, packed):
    """Refuse a layer that does not hold these packed weights, once and in order, or that saves others."""
    want = for_decode(packed)
    assert same_bits(layer.values, want.values)
    assert torch.equal(layer.metadata, want.metadata)
    assert [id(part) for part in layer.buffers()] == [id(layer.values), id(layer.metadata)]
    saved = layer.state_dict()
    assert same_bits(saved["values"], packed.values)
    assert torch.equal(saved["metadata"], packed.metadata)


def packed_of(layer):
    """Give a layer's weights as they are now, whatever becomes of the layer."""
    return copy.deepcopy(layer).weights


def modules_of(tokens):
    """Name the modules of kernels that are asked for: Triton's interpreter has none for matrix units."""
    on_matrix_units = LEAST_MATRIX_TOKENS <= tokens <= MOST_MATRIX_TOKENS
    interpreted = sys.modules["triton"].knobs.runtime.interpret
    other = "gemv" if tokens <= MOST_TOKENS else "unshuffle"
    return ["mma", other] if on_matrix_units and interpreted else ["mma" if on_matrix_units else other]


def reference(layer, x):
    values, metadata = layer.weights.values.cpu(), layer.weights.metadata.cpu()
    bias = None if layer.bias is None else layer.bias.detach().cpu()
    return naive.sparse_linear(x.detach().cpu(), values, metadata, str(layer.format), bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("pattern", "encoding"), [("2:4", "bitmask"), ("8:16", "index"), ("16:32", "index")])
def test_few_tokens_are_decoded_and_others_take_a_dense_product(gpu_calls, pattern, encoding, bias):
    device, asked = gpu_calls
    layer = layer_of(bias=bias, pattern=pattern, encoding=encoding).to(device).for_decode_()
    for leading in ((), (1,), (2, 2), (5,), (MOST_MATRIX_TOKENS + 1,), (0,), (2, 0)):
        x = made(*leading, 75, seed=1).round().half()
        given = x.to(device).requires_grad_(bias)
        assert torch.equal(layer(given).detach().cpu(), reference(layer, x))
    assert asked == ["gemv", "gemv", "gemv", *modules_of(5), "unshuffle"]


def test_bfloat16_is_decoded(gpu_calls):
    device, asked = gpu_calls
    layer = layer_of(torch.bfloat16).to(device).for_decode_()
    x = made(3, 75).round().bfloat16()
    assert torch.equal(layer(x.to(device)).detach().cpu(), reference(layer, x))
    assert asked == ["gemv"]


def test_gradients_are_those_of_the_dense_product_on_either_side_of_the_threshold(gpu_calls):
    device, asked = gpu_calls
    layer = layer_of().to(device).for_decode_()
    dense = layer.weight.float()
    for tokens in (1, MOST_TOKENS, MOST_MATRIX_TOKENS + 1):
        x = made(tokens, 75, seed=2).round().half().to(device).requires_grad_()
        grad = made(tokens, 37, seed=3).round().half().to(device)
        asked.clear()
        y = layer(x)
        assert asked == modules_of(tokens)
        of_x, of_bias = torch.autograd.grad(y, (x, layer.bias), grad)
        assert torch.equal(of_x, (grad.float() @ dense).half())
        assert torch.equal(of_bias, grad.float().sum(0).half())
        with torch.no_grad():
            assert torch.equal(layer(x), y)
    assert not layer.values.requires_grad


def test_a_type_that_the_packed_rows_do_not_take_is_refused_for_few_tokens_too(gpu_calls):
    device, _ = gpu_calls
    layer = layer_of().to(device).for_decode_()
    for tokens in (1, MOST_TOKENS + 1):
        with pytest.raises(
            KernelError, match=r"x has dtype torch.float32, the weights torch.float16: expected one"
        ):
            layer(torch.ones(tokens, 75, device=device))
    layer.bias.data = layer.bias.data.float()
    with pytest.raises(KernelError, match=r"bias has dtype torch.float32, the weights torch.float16"):
        layer(torch.ones(1, 75, device=device).half())


@pytest.mark.parametrize("dtype", HALVES)
def test_on_the_cpu_nothing_changes(dtype, monkeypatch):
    monkeypatch.setattr(dispatch, "module", lambda name: pytest.fail(name))
    plain = layer_of(dtype)
    layer = copy.deepcopy(plain).for_decode_()
    for leading in ((), (4,), (5,)):
        for used in (torch.float32, *HALVES):
            x = torch.randn(*leading, 75).to(used)
            assert same_bits(layer(x), plain(x))
    assert layer(torch.empty(2, 0, 75)).shape == (2, 0, 37)


def test_conversions_keep_the_order_and_float32_is_packed():
    layer = layer_of(torch.bfloat16)
    packed = layer.weights
    layer.for_decode_()
    holds(layer.half(), NMLinear(packed).half().weights)
    holds(layer.to(torch.bfloat16), packed)
    assert same_bits(layer.float().values, packed.values.float())
    assert torch.equal(layer.metadata, packed.metadata)
    assert layer.decode_bytes == 0
    assert str(layer).endswith("dtype=torch.float32, decode_bytes=0)")
    x = torch.randn(2, 75)
    assert torch.equal(layer(x), ops.sparse_linear(x, layer.weights, bias=layer.bias))
    holds(layer.bfloat16(), packed)
    assert layer_of().float().half().decode_bytes == 0  # never asked for
    with pytest.raises(KernelError, match="cannot be converted"):
        layer.double()
    holds(layer, packed)
    assert same_bits(layer.weight, ops.decompress(packed))


def test_weights_in_order_move_with_the_layer():
    layer = layer_of()
    packed = packed_of(layer)
    state = layer.for_decode_().state_dict()
    meta = copy.deepcopy(layer).to("meta")
    assert {part.device.type for part in meta.buffers()} == {"meta"}
    assert len(list(meta.buffers())) == 2
    assert meta(torch.empty(2, 75, device="meta", dtype=torch.float16)).shape == (2, 37)
    assert meta.weight.shape == (37, 75)
    empty = meta.to_empty(device="cpu")
    empty.load_state_dict(state)
    holds(empty, packed)
    again = copy.deepcopy(layer).to("meta")
    again.load_state_dict(state, assign=True)
    holds(again, packed)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_packed_rows_are_saved_and_loaded_into_order(assign, dtype):
    layer, other = layer_of().for_decode_(), layer_of(dtype, encoding="index")
    other.values.neg_()
    assert list(layer.state_dict()) == list(other.state_dict())
    address = layer.values.data_ptr()
    layer.load_state_dict(other.state_dict(), assign=assign)
    want = other.weights if assign else other.half().weights
    holds(layer, want)
    assert assign or layer.values.data_ptr() == address
    plain = layer_of(want.dtype)
    plain.load_state_dict(layer.state_dict())
    assert plain.decode_bytes == 0
    assert same_bits(plain.values, want.values)
    layer.load_state_dict({"bias": made(37).half()}, strict=False)
    holds(layer, want)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({"bias": made(37).half()})


def test_what_was_assigned_before_is_not_written_to():
    layer = layer_of(k=16, n=64).for_decode_()  # one unit: both orders are one
    first = layer.state_dict()
    kept = first["values"].clone()
    second = layer_of(k=16, n=64)
    second.values.neg_()
    layer.load_state_dict(second.state_dict(), assign=True)
    holds(layer, second.weights)
    assert torch.equal(first["values"], kept)


def test_float32_that_is_assigned_is_packed_and_a_bad_state_changes_nothing():
    layer = layer_of()
    packed = packed_of(layer)
    layer.for_decode_()
    with pytest.raises(RuntimeError, match="saved weights are '8:16 bitmask 37x75'"):
        layer.load_state_dict(layer_of(encoding="bitmask").state_dict())
    holds(layer, packed)
    layer.load_state_dict(layer_of(torch.float32).state_dict(), assign=True)
    assert layer.decode_bytes == 0
    layer.load_state_dict(layer_of().state_dict(), assign=True)
    holds(layer, packed)


def test_an_order_made_in_inference_mode_is_loaded_into_outside_of_it():
    layer = layer_of()
    with torch.inference_mode():
        layer.for_decode_()
    layer.load_state_dict(layer_of().state_dict())
    holds(layer, layer_of().weights)


def test_models_are_copied_pickled_and_saved(tmp_path):
    model = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 20)).half()
    sparsify_(model, "4:8/bitmask")
    first, last = model[0].weights, model[2].weights
    for_decode_(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        holds(other[0], first)
        other[2].values.zero_()
        holds(model[2], last)
    save_model(model, tmp_path / "model.safetensors")
    model[0].values.neg_()
    load_model(model, tmp_path / "model.safetensors")
    holds(model[0], first)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_graph_holds_for_any_number_of_tokens(gpu_calls):
    device, asked = gpu_calls
    layer = layer_of().to(device).for_decode_()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    trained = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (3, MOST_MATRIX_TOKENS + 1, MOST_TOKENS + 1):
        x = made(tokens, 75, seed=tokens).round().half().to(device)
        asked.clear()
        assert torch.equal(compiled(x).detach().cpu(), reference(layer, x))
        assert asked == modules_of(tokens)
        given = x.clone().requires_grad_()
        want = torch.autograd.grad(layer(given).sum(), given)[0]
        assert torch.equal(torch.autograd.grad(trained(given).sum(), given)[0], want)
    assert len(graphs) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_finds_nothing_wrong_with_the_operator(gpu_calls):
    device, _ = gpu_calls
    layer = layer_of().to(device).for_decode_()
    stored = layer.values, layer.metadata
    about = ("8:16/index", 37, 75)
    for x in (made(3, 75).half(), made(5, 75).half().requires_grad_()):
        given = x.detach().to(device).requires_grad_(x.requires_grad)
        torch.library.opcheck(
            torch.ops.nmsim.decode_or_sparse_linear.default,
            (given, *stored, layer.bias, *about),
        )
    torch.library.opcheck(torch.ops.nmsim.unpack_shuffled.default, (*stored, *about))
    tokens = torch.export.Dim("tokens", min=1, max=64)
    example = made(6, 75).half().to(device)
    exported = torch.export.export(layer, (example,), dynamic_shapes=({0: tokens},))
    for count in (2, 9):
        x = made(count, 75).round().half().to(device)
        assert torch.equal(exported.module()(x), layer(x))


def test_memory_is_that_of_one_copy_and_is_told():
    model = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 40)).half()
    sparsify_(model, "8:16")
    packed = sum(part.nbytes for part in model.buffers())
    last = model[2]
    # Of 40 rows, 64 are stored: whole warps.
    more = 24 * (last.values[0].nbytes + last.metadata[0].nbytes)
    report = for_decode_(model)
    assert (report.layers, report.packed_bytes) == (("0", "2"), packed)
    assert report.decode_bytes == packed + more == sum(part.nbytes for part in model.buffers())
    assert str(last).endswith(f", decode_bytes={last.decode_bytes})")
    assert for_decode_(model) == report  # nothing is left to do
    assert sum(part.nbytes for part in model.buffers()) == packed + more
    assert "decode_bytes" not in str(layer_of())


def test_over_a_tree_it_is_everything_or_nothing():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.good = layer_of()
            self.inner = nn.Sequential(layer_of(pattern="3:7"))

    model = Two()
    for spoiled, message in (
        (layer_of(pattern="3:7"), r"inner\.0: weights are 3:7/index of torch.float16: expected 2:4, 4:8"),
        (layer_of(torch.float32), r"inner\.0: weights are 8:16/index of torch.float32"),
        (layer_of(pattern="16:32", encoding="combinatorial"), r"inner\.0: weights are 16:32/combinatorial"),
    ):
        model.inner[0] = spoiled
        with pytest.raises(KernelError, match=message):
            for_decode_(model)
        assert model.good.decode_bytes == 0
        assert "decode_bytes" not in str(model)
        model.half().float()
        assert model.good.decode_bytes == 0
        model.good.half()
    with pytest.raises(KernelError, match=r"NMLinear: weights are 3:7/index"):
        for_decode_(layer_of(pattern="3:7"))
    with pytest.raises(KernelError, match=r"the model holds no NMLinear: expected one at least"):
        for_decode_(nn.Linear(4, 4))
    with pytest.raises(KernelError, match="model is a list: expected a module"):
        for_decode_([])


def test_a_shared_layer_counts_once():
    shared = layer_of(k=64, n=64)
    report = for_decode_(nn.Sequential(shared, nn.ReLU(), shared))
    assert report.layers == ("0", "2")
    assert report.packed_bytes == report.decode_bytes == shared.decode_bytes


def test_parts_on_two_devices_are_refused_without_data_too():
    layer = layer_of().for_decode_()
    about = str(layer.format), layer.out_features, layer.in_features
    stored = layer.values.to("meta"), layer.metadata
    with pytest.raises(KernelError, match="x is on cpu, weights on meta: expected one device"):
        torch.ops.nmsim.decode_or_sparse_linear(made(2, 75).half(), *stored, layer.bias, *about)
    with pytest.raises(KernelError, match="values are on meta, metadata on cpu: expected one device"):
        torch.ops.nmsim.unpack_shuffled(*stored, *about)
