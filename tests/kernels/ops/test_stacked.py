"""Weights stacked on top of each other, and models whose projections are one product: the numbers of the single ones."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import for_decode_, sparsify_, stack, stack_  # noqa: E402

GENERATOR = torch.Generator().manual_seed(3)


def random(*shape):
    return torch.randn(shape, generator=GENERATOR)


@pytest.mark.parametrize("format", ["2:4/index", "8:16/bitmask", "16:32/combinatorial", "3:7/index"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_lie_on_top_of_each_other(format, dtype):
    dense = [random(rows, 75).to(dtype) for rows in (37, 5, 1)]
    found = stack([ops.compress(part, format) for part in dense])
    want = ops.compress(torch.cat(dense), format)
    assert torch.equal(found.values, want.values)
    assert torch.equal(found.metadata, want.metadata)
    assert found.shape == (43, 75)


class Attention(nn.Module):
    def __init__(self, *, bias=True, rows=(32, 16, 16)):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(64, n, bias=bias) for n in rows)
        self.o_proj = nn.Linear(sum(rows), 64, bias=False)

    def forward(self, x):
        return self.o_proj(torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(64, 96, bias=False), nn.Linear(64, 96, bias=False)

    def forward(self, x):
        return self.gate_proj(x).sigmoid() * self.up_proj(x)


def model_of(**how):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(Attention(**how), Gated())
    sparsify_(model, "8:16", include=("*",))
    return model


def counted(model, monkeypatch):
    """Count the products of each layer of a model by the name of its call."""
    calls, forward = [], ops.NMLinear.forward
    monkeypatch.setattr(ops.NMLinear, "forward", lambda self, x: calls.append(self) or forward(self, x))
    return calls


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_gives_the_same_numbers_by_fewer_products(bias, monkeypatch):
    single, model = model_of(bias=bias), model_of(bias=bias)
    report = stack_(model)
    assert report.stacked == {
        "0.qkv_proj": ("0.q_proj", "0.k_proj", "0.v_proj"),
        "1.gate_up_proj": ("1.gate_proj", "1.up_proj"),
    }
    assert report.left == {}
    calls = counted(model, monkeypatch)
    x = random(3, 64)
    y = model(x)
    assert len(calls) == 3
    # Torch's own functions may differ by a bit on a part of a tensor; the products do not.
    torch.testing.assert_close(y, single(x), rtol=1e-6, atol=1e-7)
    for name in ("q_proj", "k_proj", "v_proj"):
        assert torch.equal(getattr(model[0], name)(x), getattr(single[0], name)(x))
    assert torch.equal(model[0].k_proj.weight, single[0].k_proj.weight)
    if bias:
        assert torch.equal(model[0].v_proj.bias, single[0].v_proj.bias)
    assert model[0].q_proj._product.y is None, "no product is kept once all parts took theirs"


def test_parts_that_are_called_otherwise_are_right_too():
    single, model = model_of(), model_of()
    stack_(model)
    part, one = model[0], single[0]
    x, z = random(2, 64), random(2, 64)
    for name, given in (
        ("q_proj", x),
        ("q_proj", x),
        ("k_proj", z),
        ("v_proj", x),
        ("v_proj", z),
        ("q_proj", x),
    ):
        assert torch.equal(getattr(part, name)(given), getattr(one, name)(given))
    assert torch.equal(part.q_proj(x), one.q_proj(x))
    x.mul_(2)  # the same tensor, but other numbers
    assert torch.equal(part.k_proj(x), one.k_proj(x))
    with torch.inference_mode():
        inside = random(2, 64)
        torch.testing.assert_close(model(inside), single(inside), rtol=1e-6, atol=1e-7)


def test_gradients_are_those_of_the_single_layers():
    single, model = model_of(), model_of()
    stack_(model)
    x = random(3, 64)
    gradients = []
    for module in (single, model):
        given = x.clone().requires_grad_()
        module(given).square().sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)
    found = torch.cat([getattr(single[0], name).bias.grad for name in ("q_proj", "k_proj", "v_proj")])
    torch.testing.assert_close(model[0].qkv_proj.bias.grad, found)


def test_a_state_dict_has_the_stacked_layer_once_and_copies_share_it():
    model = model_of()
    stack_(model)
    names = {name.rpartition(".")[0] for name in model.state_dict()}
    assert names == {"0.qkv_proj", "0.o_proj", "1.gate_up_proj"}
    other = model_of()
    stack_(other)
    other[0].qkv_proj.values.zero_()
    other.load_state_dict(model.state_dict())
    x = random(2, 64)
    want = model(x)
    model[0].q_proj(x)  # a product is waiting while copies are made
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for same in (other, copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert torch.equal(same(x), want)
        assert same[0].q_proj._product.layer is same[0].qkv_proj
    halves = copy.deepcopy(model).half()
    assert halves(x.half()).dtype == torch.float16


def test_layers_that_decode_make_one_that_decodes():
    model = model_of().half()
    for_decode_(model)
    stack_(model)
    assert model[0].qkv_proj.decode_bytes > 0
    assert len(for_decode_(model).layers) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "k_proj", nn.Linear(64, 16)), "k_proj is a Linear, not an NMLinear"),
        (lambda m: delattr(m, "k_proj"), "k_proj is a NoneType"),
        (lambda m: m.v_proj.half(), "differ in format, in features, type or device"),
        (lambda m: setattr(m.q_proj, "bias", None), "some have a bias"),
        (lambda m: m.q_proj.register_forward_hook(lambda *_: None), "q_proj has hooks"),
        (lambda m: setattr(m, "twin", m.k_proj), "k_proj is a layer of another module too"),
        (lambda m: setattr(m, "qkv_proj", nn.Identity()), "it has a qkv_proj already"),
    ],
)
def test_what_cannot_be_stacked_stays_and_the_report_says_why(change, reason):
    model = model_of()
    change(model[0])
    before = dict(model[0].named_children())
    report = stack_(model)
    assert reason in report.left["0"]
    assert dict(model[0].named_children()) == before
    assert "1.gate_up_proj" in report.stacked


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stack([]), "weights are empty"),
        (lambda: stack([torch.ones(2, 2)]), "weights are a Tensor: expected an NMWeight"),
        (
            lambda: stack([ops.compress(torch.ones(2, 64), "8:16"), ops.compress(torch.ones(2, 32), "8:16")]),
            "weights 1 are 8:16/index of 32 in features, torch.float32 on cpu: expected 8:16/index of 64 in",
        ),
        (lambda: stack_("model"), "model is a str"),
        (lambda: stack_(model_of(), projections=[("q_proj",)]), "expected two names"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(KernelError, match=message):
        call()


def test_one_graph_holds_the_stacked_model():
    model = model_of()
    stack_(model)
    x = random(2, 64)
    want = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want)
    graph = torch.export.export(model, (x,))
    products = [node for node in graph.graph.nodes if "sparse_linear" in str(node.target)]
    assert len(products) == 3
    torch.testing.assert_close(graph.module()(x), want)


def test_a_llama_of_transformers_gives_the_same_logits():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = transformers.LlamaForCausalLM(config).eval()
    sparsify_(model, "8:16")
    tokens = torch.arange(7)[None]
    with torch.no_grad():
        want = model(tokens).logits
        report = stack_(model)
        assert len(report.stacked) == 4
        assert report.left == {}
        torch.testing.assert_close(model(tokens).logits, want, rtol=1e-5, atol=1e-6)
        written = model.generate(tokens, max_new_tokens=4, do_sample=False)
    assert written.shape == (1, 11)
