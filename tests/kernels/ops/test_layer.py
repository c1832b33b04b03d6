"""`NMLinear` in models: saved, loaded, converted, copied, compiled, exported; `sparsify_` and what it leaves."""

import copy
import io
import pickle

import pytest

import nmsim
from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, load_model, save_file, save_model  # noqa: E402
from torch import nn  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import NMLinear, for_decode_, sparsify_  # noqa: E402
from kernels.stored.nm_weight import as_array  # noqa: E402


@pytest.fixture(autouse=True)
def _same_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def close(a, b, bits=20):
    return torch.allclose(a.float(), b.float(), rtol=2.0**-bits, atol=2.0**-bits)


def mlp(dtype=torch.float32):
    return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 20, bias=False)).to(dtype)


class Block(nn.Module):
    """A Transformer block with a residual, a gate and a head."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.feed_forward = nn.ModuleDict(
            {"gate": nn.Linear(32, 2), "up": nn.Linear(32, 64), "down": nn.Linear(64, 32)}
        )
        self.lm_head = nn.Linear(32, 11, bias=False)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        parts = self.feed_forward
        x = x + parts["gate"](x).softmax(-1)[..., :1] * parts["down"](parts["up"](x).relu())
        return self.lm_head(x)


def pruned_twin(model, pattern, names):
    """The dense model with weights pruned by nmsim, not by kernels."""
    twin = copy.deepcopy(model)
    for name in names:
        weight = twin.get_submodule(name).weight
        mask = torch.from_numpy(nmsim.prune(as_array(weight), pattern))
        weight.data = weight.data.where(mask, 0)
    return twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_is_the_pruned_layer(dtype, bias):
    linear = nn.Linear(50, 12, bias=bias).to(dtype).eval()
    before = linear.weight.clone()
    layer = NMLinear.from_linear(linear, "8:16/combinatorial")
    assert torch.equal(linear.weight, before)
    assert layer.bias is linear.bias
    assert not layer.training
    mask = ops.prune(linear.weight, "8:16")
    assert torch.equal(layer.weight, linear.weight.detach().where(mask, 0))
    x = torch.randn(3, 2, 50, dtype=dtype)
    want = nn.functional.linear(
        x.float(), layer.weight.float(), None if bias is False else layer.bias.float()
    )
    assert layer(x).dtype == dtype
    assert close(
        layer(x), want.to(dtype), bits={torch.float32: 20, torch.float16: 9, torch.bfloat16: 6}[dtype]
    )
    assert torch.equal(layer(x), ops.sparse_linear(x, layer.weights, bias=layer.bias))
    assert str(layer) == (
        f"NMLinear(in_features=50, out_features=12, bias={bias}, format=8:16/combinatorial/power_of_two, dtype={dtype})"
    )
    all_kept = NMLinear.from_linear(linear, "2:4", mask=torch.zeros_like(mask))
    assert not all_kept.weight.any()


def test_what_from_linear_and_the_layer_refuse():
    weights = ops.compress(torch.randn(3, 8), "2:4")
    for call, text in (
        (
            lambda: NMLinear.from_linear(nn.Conv1d(1, 1, 1), "2:4"),
            "linear is a Conv1d: expected a torch.nn.Linear",
        ),
        (
            lambda: NMLinear.from_linear(nn.Linear(8, 3).double(), "2:4"),
            "dense_weight has dtype torch.float64",
        ),
        (lambda: NMLinear(torch.randn(3, 8)), "weights are a Tensor: expected an NMWeight"),
        (
            lambda: NMLinear(weights, bias=torch.randn(3)),
            "bias is a Tensor torch.float32 (3,): expected a Parameter [3]",
        ),
        (
            lambda: NMLinear(weights, bias=nn.Parameter(torch.randn(4))),
            "bias is a Parameter torch.float32 (4,): expected",
        ),
        (lambda: NMLinear(weights, bias="no"), "bias is a str : expected a Parameter"),
    ):
        with pytest.raises(KernelError) as caught:
            call()
        assert text in str(caught.value)


def test_only_x_and_the_bias_learn():
    model = mlp()
    sparsify_(model, "2:4")
    assert [name for name, _ in model.named_parameters()] == ["0.bias"]
    values = model[0].values.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 48, requires_grad=True)
    model(x).square().sum().backward()
    bias = model[0].bias.clone()
    optimizer.step()
    assert x.grad.abs().sum() > 0
    assert not torch.equal(model[0].bias, bias)
    assert torch.equal(model[0].values, values)


@pytest.mark.parametrize("encoding", ["index", "bitmask", "combinatorial"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_comes_back_from_a_safetensors_file(tmp_path, encoding, assign):
    model, x = mlp(torch.bfloat16), torch.randn(3, 48, dtype=torch.bfloat16)
    sparsify_(model, f"8:16/{encoding}")
    want, path = model(x), tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    state = load_file(path)
    assert set(state) == {
        "0.bias",
        *(f"{layer}.{part}" for layer in (0, 2) for part in ("values", "metadata", "_extra_state")),
    }
    assert bytes(state["2._extra_state"].tolist()).decode() == f"8:16 {encoding} 20x64"
    fresh = mlp(torch.bfloat16)
    sparsify_(fresh, f"8:16/{encoding}")
    assert not torch.equal(fresh(x), want)
    fresh.load_state_dict(state, assign=assign)
    assert torch.equal(fresh(x), want)
    assert torch.equal(fresh[2].weight, model[2].weight)


def test_whole_models_are_saved_and_loaded_by_safetensors_and_torch(tmp_path):
    model, x = mlp(), torch.randn(3, 48)
    sparsify_(model, "4:8")
    save_model(model, tmp_path / "model.safetensors")
    fresh = mlp()
    sparsify_(fresh, "4:8")
    load_model(fresh, tmp_path / "model.safetensors")
    assert torch.equal(fresh(x), model(x))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = mlp()
    sparsify_(again, "4:8")
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again(x), model(x))


def test_loading_what_does_not_fit_says_so_and_changes_nothing():
    layer = NMLinear.from_linear(nn.Linear(64, 6), "8:16/index")
    state = layer.state_dict()
    before = copy.deepcopy(state)
    others = {
        "2:4/index": "saved weights are '2:4 index 6x64': this layer expects '8:16 index 6x64'",
        "8:16/bitmask": "saved weights are '8:16 bitmask 6x64'",
    }
    wrong = {
        text: NMLinear.from_linear(nn.Linear(64, 6), other).state_dict() for other, text in others.items()
    }
    wrong["saved weights are '8:16 index 6x63'"] = NMLinear.from_linear(nn.Linear(63, 6), "8:16").state_dict()
    wrong["the state dict holds a dense weight: load it into the dense model"] = nn.Linear(64, 6).state_dict()
    wrong["holds values, metadata only: expected values, metadata, _extra_state"] = {
        key: state[key] for key in ("values", "metadata", "bias")
    }
    wrong["code 0 is"] = state | {"metadata": torch.zeros_like(state["metadata"])}
    wrong["values have shape (6, 31): expected [N, 32]"] = state | {
        "values": state["values"][:, :31].contiguous()
    }
    wrong["saved weights are 'text'"] = state | {
        "_extra_state": torch.tensor(list(b"text"), dtype=torch.uint8)
    }
    wrong["saved weights are '8'"] = state | {"_extra_state": 8}
    wrong["values is a list: expected a torch tensor"] = state | {"values": []}
    for text, saved in wrong.items():
        for strict in (True, False):
            with pytest.raises(RuntimeError, match="NMLinear") as caught:
                layer.load_state_dict(saved, strict=strict)
            assert text in str(caught.value)
        assert all(torch.equal(layer.state_dict()[key], before[key]) for key in before)
    assert layer.load_state_dict({"bias": state["bias"]}, strict=False).missing_keys == [
        "values",
        "metadata",
        "_extra_state",
    ]
    nested = nn.Sequential(layer)
    with pytest.raises(RuntimeError, match=r"0: saved weights are '2:4 index 6x64'"):
        nested.load_state_dict({f"0.{key}": part for key, part in next(iter(wrong.values())).items()})


def test_tensors_that_lie_badly_are_moved_when_they_are_taken_over():
    layer = NMLinear.from_linear(nn.Linear(64, 5), "8:16")
    state = layer.state_dict()
    for name in ("values", "metadata"):
        part = state[name]
        raw = torch.zeros(part.nbytes + 64, dtype=torch.uint8).numpy()[1 : 1 + part.nbytes]
        moved = torch.frombuffer(raw, dtype=part.dtype).view(part.shape)
        moved.copy_(part)
        assert moved.data_ptr() % 2
        state[name] = moved
    other = NMLinear.from_linear(nn.Linear(64, 5), "8:16")
    other.load_state_dict(state, assign=True)
    x = torch.randn(2, 64)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversion_rounds_values_and_leaves_positions_alone(dtype):
    layer = NMLinear.from_linear(nn.Linear(64, 5), "8:16")
    dense, metadata = layer.weight, layer.metadata.clone()
    layer.half() if dtype == torch.float16 else layer.bfloat16()
    assert torch.equal(layer.weight, dense.to(dtype))
    assert torch.equal(layer.metadata, metadata)
    assert layer.bias.dtype == dtype
    x = torch.randn(2, 64, dtype=dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer.float().weight, dense.to(dtype).float())
    assert "dtype=torch.float32" in str(layer.to(dtype).to(torch.float32))


def test_a_type_without_kernels_is_refused_before_anything_changes():
    layer = NMLinear.from_linear(nn.Linear(64, 5), "8:16")
    for convert in (
        layer.double,
        lambda: layer.to(torch.float64),
        lambda: layer.to(torch.float8_e5m2),
        lambda: layer.type(torch.float16),
    ):
        with pytest.raises(KernelError, match=r"NMLinear cannot be converted to values of torch\.float"):
            convert()
        assert (layer.values.dtype, layer.metadata.dtype) == (torch.float32, torch.uint8)
        assert layer.bias.dtype == torch.float32
    meta = copy.deepcopy(layer).to("meta")
    assert meta(torch.empty(2, 64, device="meta")).shape == (2, 5)


def test_models_are_copied_and_pickled():
    model, x = mlp(), torch.randn(2, 48)
    sparsify_(model, "16:32/combinatorial")
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(other(x), model(x))
        other[0].values.zero_()
        assert model[0].values.any()
        assert other[0].format.pattern == Pattern(16, 32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_compiles_into_one_graph():
    model, x = mlp(), torch.randn(3, 48, requires_grad=True)
    sparsify_(model, "8:16")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(model(x).sum(), x)[0]
    assert close(compiled(x), model(x))
    assert close(torch.autograd.grad(compiled(x).sum(), x)[0], want)
    exported = torch.export.export(model, (x.detach(),))
    assert torch.equal(exported.module()(x.detach()), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("decodes", [False, True])
def test_one_graph_and_one_program_serve_any_number_of_tokens(tmp_path, decodes):
    model = mlp().to(torch.bfloat16).eval().requires_grad_(False)
    sparsify_(model, "8:16/bitmask")
    if decodes:
        for_decode_(model)
    graphs = []
    compiled = torch.compile(
        model, fullgraph=True, dynamic=True, backend=lambda graph, _: graphs.append(graph) or graph.forward
    )
    tokens = torch.export.Dim("tokens", min=1, max=4096)
    inputs = {count: torch.randn(count, 48, dtype=torch.bfloat16) for count in (2, 5, 33)}
    program = torch.export.export(model, (inputs[5],), dynamic_shapes=({0: tokens},))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    called = {str(node.target) for node in loaded.graph.nodes if "nmsim" in str(node.target)}
    assert called == {f"nmsim.{'decode_or_' if decodes else ''}sparse_linear.default"}
    for x in inputs.values():
        torch._dynamo.mark_dynamic(x, 0)
        want = model(x)
        assert torch.equal(compiled(x), want)
        assert torch.equal(loaded.module()(x), want)
    assert len(graphs) == 1


def test_sparsify_swaps_what_it_names():
    model, x = mlp(), torch.randn(5, 48)
    twin = pruned_twin(model, "8:16", ["0", "2"])
    bias = model[0].bias
    report = sparsify_(model, "8:16/bitmask")
    assert report.swapped == ("0", "2")
    assert report.left == {}
    assert report.dense_bytes == 4 * (48 * 64 + 64 * 20)
    assert report.values_bytes == report.dense_bytes // 2
    assert report.metadata_bytes == (48 * 64 + 64 * 20) // 8
    assert (type(model[0]), model[0].format.short, model[0].bias) == (NMLinear, "8:16/bitmask", bias)
    assert close(model(x), twin(x), bits=16)


def test_sparsify_a_transformer_block():
    model, x = Block(), torch.randn(2, 7, 32)
    names = ("feed_forward.up", "feed_forward.down")
    twin = pruned_twin(model, "4:8", names)
    report = sparsify_(model, "4:8", min_features=4)
    assert report.swapped == names
    assert report.left == {
        "attention.out_proj": "is a NonDynamicallyQuantizableLinear, not nn.Linear itself",
        "feed_forward.gate": "fewer than 4 features",
        "lm_head": "skip='lm_head'",
    }
    assert close(model(x), twin(x), bits=14)


@pytest.mark.parametrize("fast_path", [True, False])
def test_torchs_own_encoder_layer_reads_weights_of_sparse_layers(fast_path):
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    twin, x = pruned_twin(model, "2:4", ["linear1", "linear2"]), torch.randn(2, 5, 32)
    assert sparsify_(model, "2:4").swapped == ("linear1", "linear2")
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        with torch.no_grad():
            assert close(model(x), twin(x), bits=14)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_a_shared_layer_is_made_once_and_stays_shared():
    shared, x = nn.Linear(32, 32), torch.randn(2, 32)
    inner = nn.Sequential(shared, nn.ReLU())
    model = nn.Sequential(shared, inner, inner)
    twin = pruned_twin(model, "2:4", ["0"])
    report = sparsify_(model, "2:4")
    assert report.swapped == ("0", "1.0", "2.0")
    assert report.dense_bytes == 4 * 32 * 32
    assert model[0] is model[1][0] is model[2][0]
    assert close(model(x), twin(x), bits=16)


def test_what_must_stay_a_plain_layer_is_left_and_said():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(40, 16)
            self.out = nn.Linear(16, 40, bias=False)
            self.out.weight = self.embed.weight
            self.hooked = nn.Linear(16, 16)
            self.hooked.register_forward_hook(lambda *_: None)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16)) for _ in range(12))

    model = Tied()
    report = sparsify_(model, "2:4", skip=("layers.1", "layers.?1.0"))
    assert report.left == {
        "out": "its weight is also that of embed",
        "hooked": "has hooks, which a new layer would lose",
        "normed": "is a ParametrizedLinear, not nn.Linear itself",
        "layers.1.0": "skip='layers.1'",
        "layers.11.0": "skip='layers.?1.0'",
    }
    assert report.swapped == tuple(f"layers.{i}.0" for i in range(12) if i not in (1, 11))
    assert sparsify_(model, "2:4").swapped == ("layers.1.0", "layers.11.0")


def test_an_error_leaves_the_model_as_it_was():
    model = nn.ModuleDict({"good": nn.Linear(16, 16), "deep": nn.Sequential(nn.Linear(16, 16).double())})
    before = dict(model.named_modules())
    with pytest.raises(KernelError, match=r"deep\.0: dense_weight has dtype torch\.float64: expected one of"):
        sparsify_(model, "2:4")
    assert dict(model.named_modules()) == before
    for call, text in (
        (
            lambda: sparsify_(nn.Linear(4, 4), "2:4"),
            "model is a Linear: expected a module that holds linear layers",
        ),
        (lambda: sparsify_([], "2:4"), "model is a list"),
        (lambda: sparsify_(model, "2:4", skip="good"), "skip='good': expected an iterable of names"),
        (lambda: sparsify_(mlp().to("meta"), "2:4"), "0: dense_weight is on meta"),
        (lambda: sparsify_(mlp(), "2:4/gap:2"), "encoding 'gap:2'"),
    ):
        with pytest.raises(KernelError) as caught:
            call()
        assert text in str(caught.value)
