"""`sparsify_` prunes the body of a model only, along the in features, and refuses weights that are not finite."""

import pytest

import nmsim
from nmsim.errors import PatternError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from kernels.ops import NMLinear, compress, sparsify_  # noqa: E402
from kernels.stored.errors import KernelError  # noqa: E402
from kernels.stored.nm_weight import as_array  # noqa: E402


class Conv1D(nn.Module):
    """The layer of this name in transformers (pytorch_utils.py): y = x W + b, W [in, out]."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(4, 32, 128))
        self.down_proj = nn.Parameter(torch.randn(4, 64, 32))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.ModuleDict({"c_attn": Conv1D(96, 32), "c_proj": Conv1D(32, 32)})
        self.mlp = nn.ModuleDict({"gate": nn.Linear(32, 4, bias=False), "experts": Experts()})
        self.up_proj = nn.Linear(32, 64)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(100, 32)
        self.layers = nn.ModuleList([Layer()])
        self.to_words = nn.Linear(32, 100, bias=False)
        self.score = nn.Linear(32, 2)


BODY = ("layers.0.attn.c_attn", "layers.0.attn.c_proj", "layers.0.up_proj")


def test_the_body_is_pruned_and_the_rest_is_named():
    model = Model()
    report = sparsify_(model, "2:4")
    assert report.swapped == BODY
    assert report.left == {
        "layers.0.mlp.gate": "router: named 'gate'",
        "layers.0.mlp.experts.gate_up_proj": "experts in one tensor, [experts, in, out]: there is no layer to replace",
        "layers.0.mlp.experts.down_proj": "experts in one tensor, [experts, in, out]: there is no layer to replace",
        "to_words": "head: 100 rows, as many as the vocabulary",
        "score": "head: named 'score'",
    }
    assert report.dense_bytes == 4 * (32 * 96 + 32 * 32 + 32 * 64)
    assert report.values_bytes == report.dense_bytes // 2


@pytest.mark.parametrize("shape", [(32, 96), (32, 32)])
def test_a_layer_of_in_by_out_is_pruned_along_its_in_features(shape):
    torch.manual_seed(0)
    inner = Conv1D(shape[1], shape[0])
    model, x = nn.ModuleDict({"c_proj": inner}), torch.randn(5, shape[0])
    dense = inner.weight.detach().clone()
    sparsify_(model, "2:4")
    layer = model["c_proj"]
    assert isinstance(layer, NMLinear)
    mask = torch.from_numpy(nmsim.prune(as_array(dense), "2:4", axis=0))
    assert torch.equal(layer.weight, dense.where(mask, 0).T)
    assert torch.allclose(layer(x), x @ dense.where(mask, 0) + inner.bias, rtol=1e-5, atol=1e-5)


def test_a_user_names_other_layers():
    model = Model()
    report = sparsify_(model, "2:4", include=("to_words", "layers.*.gate"), skip=())
    assert report.swapped == ("layers.0.mlp.gate", "to_words")
    assert report.left["layers.0.up_proj"] == "not in include"
    with pytest.raises(KernelError, match="include='x': expected an iterable of names"):
        sparsify_(Model(), "2:4", include="x")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_leave_the_model_as_it_was(bad):
    model = Model()
    before = dict(model.named_modules())
    with torch.no_grad():
        model.layers[0].up_proj.weight[3, 5] = bad
    with pytest.raises(
        PatternError, match=r"^layers.0.up_proj: .*\[3, 5\] is (nan|-?inf), the first of 1 of 2048 elements"
    ):
        sparsify_(model, "2:4")
    assert dict(model.named_modules()) == before
    with pytest.raises(PatternError, match=r"\[3, 5\] is (nan|-?inf)"):
        compress(model.layers[0].up_proj.weight.detach(), "2:4")
