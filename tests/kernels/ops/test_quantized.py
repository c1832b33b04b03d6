"""Layers with values of 8 bits: what they multiply with, their life as modules, and which kernel a CUDA tensor meets."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from safetensors.torch import load, save  # noqa: E402
from torch import nn  # noqa: E402

from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import (  # noqa: E402
    QuantizedLinear,
    compress,
    for_decode,
    for_decode_,
    quantize_,
    sparsify_,
    stack_,
)
from kernels.stored.shuffled import MOST_TOKENS  # noqa: E402

GENERATOR = torch.Generator().manual_seed(6)
CASES = [("e4m3", None), ("e4m3", 32), ("int8", 16)]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(64, 40), nn.Linear(64, 40)
        self.down_proj = nn.Linear(40, 64, bias=False)

    def forward(self, x):
        return self.down_proj(self.gate_proj(x).sigmoid() * self.up_proj(x))


def model_of(format="8:16/bitmask", dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(Gated(), nn.ReLU(), nn.Linear(64, 33)).to(dtype)
    sparsify_(model, format, include=("*",))
    return model


def dense_twin(model):
    """The same model with ordinary layers that hold the weights which the layers multiply with."""
    twin = nn.Sequential(Gated(), nn.ReLU(), nn.Linear(64, 33))
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            other = twin.get_submodule(name)
            other.weight = nn.Parameter(layer.weight)
            if layer.bias is not None:
                other.bias = nn.Parameter(layer.bias.detach().float())
    return twin


@pytest.mark.parametrize(("values", "block"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_multiplies_with_what_it_stores(values, block, dtype):
    model = model_of(dtype=dtype)
    before = model[2].weight.float()
    report = quantize_(model, values=values, block=block)
    assert report.layers == ("0.gate_proj", "0.up_proj", "0.down_proj", "2")
    assert (
        report.after_bytes < report.before_bytes or dtype == torch.bfloat16
    )  # rows are filled up to whole warps
    assert (model[2].weight - before).abs().max() <= before.abs().max() / 16
    x = torch.randn(2, 5, 64, generator=GENERATOR).to(dtype)
    want = dense_twin(model)(x.float())
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    y = model(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), want, rtol=tolerance, atol=tolerance)
    assert f"values={values}, block={block}" in repr(model[2])


def test_gradients_reach_x_and_the_bias():
    model = model_of()
    quantize_(model)
    twin = dense_twin(model)
    x = torch.randn(3, 64, generator=GENERATOR)
    found = []
    for module in (model, twin):
        given = x.clone().requires_grad_()
        module(given).square().sum().backward()
        found.append((given.grad, module[2].bias.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_stacked_layers_are_replaced_and_their_parts_follow():
    model = model_of()
    stack_(model)
    quantize_(model, block=32)
    assert isinstance(model[0].gate_up_proj, QuantizedLinear)
    x = torch.randn(3, 64, generator=GENERATOR)
    single = model_of()
    quantize_(single, block=32)
    assert torch.equal(model[0].up_proj(x), single[0].up_proj(x))
    torch.testing.assert_close(model(x), single(x), rtol=1e-6, atol=1e-7)
    assert torch.equal(model[0].up_proj.weight, single[0].up_proj.weight)


def test_a_layer_lives_as_modules_do():
    model = model_of()
    for_decode_(model.half())
    quantize_(model, values="e4m3", block=32)
    x = torch.randn(3, 64, generator=GENERATOR)
    want = model(x)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    fresh = model_of().half()
    quantize_(fresh, values="e4m3", block=32)
    fresh[2].values.view(torch.uint8).zero_()
    fresh.load_state_dict(load(save(model.state_dict())))
    for same in (copy.deepcopy(model), torch.load(stream, weights_only=False), fresh):
        assert torch.equal(same(x), want)
    changed = copy.deepcopy(model).bfloat16().float()
    assert changed[2].values.dtype == torch.float8_e4m3fn
    assert torch.equal(changed[2].scales, model[2].scales)
    assert changed[2].bias.dtype == torch.float32
    assert model.to("meta")[2].values.is_meta


def test_weights_of_another_kind_are_not_loaded():
    model, other = model_of(), model_of()
    quantize_(model, values="e4m3", block=32)
    quantize_(other, values="int8", block=32)
    before = other[2].values.clone()
    with pytest.raises(
        RuntimeError, match=r"saved weights are '8:16/bitmask 33x64 e4m3 block=32': this layer expects"
    ):
        other.load_state_dict(model.state_dict())
    assert torch.equal(other[2].values, before)


def test_one_graph_holds_it():
    model = model_of()
    quantize_(model)
    x = torch.randn(2, 64, generator=GENERATOR)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
    # Torch itself cannot compare e4m3 with what it was before the call.
    layer = model[2]
    parts = x, layer.values, layer.metadata, layer.scales, layer.bias, "8:16/bitmask", 33, 64, None
    torch.library.opcheck(torch.ops.nmsim.quantized_linear.default, parts, test_utils=("test_faketensor",))


def test_few_tokens_are_decoded_on_a_gpu(gpu_calls):
    device, asked = gpu_calls
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = nn.Sequential(nn.Linear(64, 33, bias=False))
    layer[0].weight.data = layer[0].weight.data.half()
    sparsify_(layer.to(device), "8:16/bitmask", include=("*",))
    quantize_(layer, values="int8")
    weight = layer[0].weight.cpu()
    asked.clear()
    for tokens in (1, MOST_TOKENS + 1):
        x = torch.randn(tokens, 64, generator=GENERATOR).half()
        y = layer(x.to(device)).cpu()
        torch.testing.assert_close(y.float(), x.float() @ weight.T, rtol=2**-8, atol=2e-3)
    assert asked == ["gemv", "gemm"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize_(nn.Sequential(nn.Linear(4, 4))), "the model holds no NMLinear"),
        (lambda: quantize_(model_of()[2]), "model is a NMLinear: expected a module that holds"),
        (lambda: quantize_(model_of(), values="fp8"), "values of type 'fp8': expected one of e4m3, int8"),
        (lambda: quantize_(model_of(), block=8), "0.gate_proj: block is 8: expected a multiple of 16"),
        (lambda: quantize_(model_of("3:7")), "0.gate_proj: weights are 3:7/index of"),
        (
            lambda: QuantizedLinear(for_decode(compress(torch.ones(5, 64).half(), "8:16"))),
            "expected a ShuffledWeight with scales",
        ),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(KernelError, match=message):
        call()


def test_an_error_leaves_the_model_as_it_was():
    model = model_of()
    model[2].values[0, 0] = torch.inf
    before = list(model.modules())
    with pytest.raises(KernelError, match="2: values row 0 holds a NaN or an infinity"):
        quantize_(model)
    assert list(model.modules()) == before
