"""What is recorded of a torch model is what its linear layers were given, and the judge reads it."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from kernels.measure.activation_dump import recorded_inputs, run_windows, save_inputs, weights_of  # noqa: E402
from nmsim.errors import NmsimError  # noqa: E402
from validate.quality.activation_dump import open_dump  # noqa: E402


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.unused = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_inputs_of_every_layer_that_was_called(model):
    x = torch.randn(3, 4, 8)
    with recorded_inputs(model, tokens=12, tokens_per_call=12) as inputs:
        model(x)
    assert set(inputs) == {"up.weight", "down.weight"}
    assert torch.equal(inputs["up.weight"], x.reshape(12, 8))
    assert torch.equal(inputs["down.weight"], torch.relu(model.up(x)).reshape(12, 16).detach())


def test_tokens_are_spread_over_a_call_and_over_calls(model):
    x = torch.arange(20.0)[:, None].expand(20, 8)
    with recorded_inputs(model, tokens=7, tokens_per_call=4) as inputs:
        model(x[None])
        model(100 + x[None])
        model(200 + x[None])
    assert inputs["up.weight"][:, 0].tolist() == [0, 5, 10, 15, 100, 106, 113]


def test_the_model_is_left_as_it_was_even_after_an_error(model):
    with pytest.raises(RuntimeError), recorded_inputs(model):
        model(torch.randn(2, 9))
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_sixteen_bit_tokens_stay_so_and_the_judge_reads_them(model, tmp_path):
    model = model.to(torch.bfloat16)
    x = torch.randn(2, 10, 8, dtype=torch.bfloat16)
    with recorded_inputs(model, tokens=20) as inputs:
        model(x)
    save_inputs(inputs, tmp_path / "dump.safetensors")
    with open_dump(tmp_path / "dump.safetensors", 8, 12) as dump:
        tokens = dump.tokens("up.weight", 8)
    assert torch.equal(torch.from_numpy(tokens.x), x.reshape(20, 8)[8:].float())
    assert torch.equal(torch.from_numpy(tokens.fit), x.reshape(20, 8)[:8].float())


def test_a_layer_alone(tmp_path):
    with recorded_inputs(nn.Linear(4, 2)) as inputs:
        pass
    assert inputs == {}
    layer = nn.Linear(4, 2)
    with recorded_inputs(layer) as inputs:
        layer(torch.ones(3, 4))
    assert list(inputs) == ["weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.ReLU(),), "model ReLU: no nn.Linear in it"),
        ((nn.Linear(2, 2), 0), "tokens=0: expected a positive int"),
    ],
)
def test_what_cannot_be_recorded(arguments, message):
    with pytest.raises(NmsimError, match=message), recorded_inputs(*arguments):
        pass


def test_some_layers_only(model):
    with recorded_inputs(model, layers=["down"]) as inputs:
        model(torch.randn(2, 8))
    assert list(inputs) == ["down.weight"]
    with (
        pytest.raises(
            NmsimError, match="Model: sideways: no nn.Linear of that name, expected some of up, down"
        ),
        recorded_inputs(model, layers=["sideways"]),
    ):
        pass


class Language(Model):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)

    def forward(self, input_ids):
        self.lengths = [*getattr(self, "lengths", []), input_ids.shape]
        return super().forward(self.embedding(input_ids))


def test_windows_are_run_one_by_one_and_no_more_than_needed():
    model = Language()
    windows = torch.arange(40).reshape(4, 10)
    found = run_windows(model, windows, tokens=15)
    assert model.lengths == [(1, 10), (1, 10)]
    x = model.embedding.weight.detach().numpy()
    expected = x[[*range(10), 10, 12, 14, 16, 18]]
    assert np.array_equal(found["up.weight"], expected)
    assert found["down.weight"].dtype == np.float32
    assert list(run_windows(model, windows, tokens=3, layers=["up"])) == ["up.weight"]
    with pytest.raises(NmsimError, match="windows: 4 of 10 tokens, expected at least 41 tokens"):
        run_windows(model, windows, tokens=41)


def test_weights_are_those_of_the_layers(model):
    found = weights_of({"down": model.down})
    assert list(found) == ["down.weight"]
    assert np.array_equal(found["down.weight"], model.down.weight.detach().numpy())
    short = weights_of({"down": model.down.to(torch.bfloat16)})["down.weight"]
    assert short.dtype == np.float32
    assert np.array_equal(short, model.down.weight.detach().float().numpy())


def test_nothing_to_save(tmp_path):
    with pytest.raises(NmsimError, match="nothing was recorded"):
        save_inputs({}, tmp_path / "dump.safetensors")


def test_the_page_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "measure-quality.md"
    block, _ = re.findall(r"^```py\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    (claim,) = re.findall(r"^print\(.*\)  # (.+)$", block, re.M)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {})
    assert printed.getvalue() == f"{claim}\n"
    with open_dump(tmp_path / "dump.safetensors", 128, 128) as dump:
        assert dump.tokens("2.weight", 128).x.shape == (128, 128)
