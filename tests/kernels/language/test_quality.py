"""`nmsim quality` on a language model: what its layers are given on a text is what is measured."""

import json

import numpy as np
import pandas as pd
import pytest

from kernels.language import model as language
from kernels.language.texts import load_text, token_ids
from nmsim import load_file
from nmsim.energy import energy
from nmsim.mask import prune

QUICK = ("--criterion", "magnitude", "--mitigation", "none", "-p", "2:4", "--window-tokens", "16")
COUNTS = ("--calibration-tokens", "24", "--eval-tokens", "40")
LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture
def folder(tiny_model, tmp_path, monkeypatch):
    """A folder to work in, with the tiny model and a text of 800 letters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_model)
    (tmp_path / "text.txt").write_text("A sentence of some words, number {}. " * 22, encoding="utf-8")
    return tmp_path


def all_of(name, **columns):
    table = pd.read_csv(name, keep_default_na=False)
    for column, value in columns.items():
        table = table[table[column] == value]
    return table


def given(model, layer, ids):
    """What a layer is given on tokens, by a hook of our own."""
    torch = pytest.importorskip("torch")
    taken = []
    hook = model.layers[layer].register_forward_hook(lambda _, inputs, __: taken.append(inputs[0][0].numpy()))
    with torch.inference_mode():
        model.module(input_ids=torch.as_tensor(ids)[None])
    hook.remove()
    return taken[0]


def test_a_folder_is_run_on_a_text(nmsim, folder, tiny):
    code, text, err = nmsim(
        "quality", "tiny", "--text", "text.txt", *QUICK, *COUNTS, "--core", "", "--hardware", ""
    )
    assert (code, err) == (0, "")
    assert "Quality and cost, 14 layers together; activations: tiny-llama on text.txt" in text
    rows = all_of("quality.csv", layer=LAYER, criterion="magnitude")
    (row,) = rows.to_dict("records")
    assert (row["calibration_tokens"], row["tokens"]) == (24, 40)
    read = load_text("text.txt")
    assert (row["model"], row["text"]) == ("tiny-llama", "text.txt")
    assert (row["model_digest"], row["text_digest"]) == (tiny.digest, read.digest)
    # 24 tokens of calibration are in 2 windows of 16. Evaluation takes 2 windows, and 8 of the 16 tokens of a third.
    ids = token_ids(read, tiny)
    windows = [given(tiny, LAYER, ids[start : start + 16]) for start in (32, 48, 64)]
    x = np.concatenate([windows[0], windows[1], windows[2][::2]])
    kept = prune(x, "2:4")
    assert row["energy"] == pytest.approx(np.square(x.astype(float)).sum())
    assert row["energy_kept_share"] == pytest.approx(energy(x, kept).share_kept)
    weight = load_file(folder / "tiny" / "model.safetensors")[f"{LAYER}.weight"].astype(float)
    dense = x @ weight.T
    error = np.square(np.where(kept, x, 0) @ weight.T - dense).sum() / np.square(dense).sum()
    assert row["relative_output_error"] == pytest.approx(error, rel=1e-4)


def test_what_was_recorded_is_written_and_read_again(nmsim, folder):
    options = (
        *QUICK,
        *COUNTS,
        "--operand",
        "both",
        "--criterion",
        "magnitude,channel_vector",
        "--include",
        "*up_proj*",
    )
    code, text, _ = nmsim(
        "quality", "tiny", "--text", "text.txt", *options, "--save-activations", "d.safetensors"
    )
    assert code == 0
    assert text.endswith("rows in quality.csv and d.safetensors\n")
    assert {name: x.shape for name, x in load_file("d.safetensors").items()} == {
        f"model.layers.{block}.mlp.up_proj.weight": (64, 64) for block in (0, 1)
    }
    code, text, err = nmsim(
        "quality", "tiny", "--activations", "d.safetensors", *options, "-o", "again.csv", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(text)["activations"] == "dump d.safetensors"
    one, other = (all_of(name).drop(columns="activations") for name in ("quality.csv", "again.csv"))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    code, _, err = nmsim("quality", "tiny", "--text", "text.txt", *options, "--save-activations", "d.safetensors", "-f",
                         "-o", "d.safetensors")  # fmt: skip
    assert code == 2
    assert "d.safetensors" in err


def test_synthetic_tokens_need_no_model(nmsim, folder, monkeypatch):
    monkeypatch.setattr(language, "load_model", None)
    code, text, err = nmsim("quality", "tiny", "--synthetic", "laplace", *QUICK, *COUNTS)
    assert (code, err) == (0, "activations: synthetic laplace, drawn at random, of no model\n")
    assert "14 layers together; activations: synthetic laplace" in text
    assert set(all_of("quality.csv")["model"]) == {""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["tiny", "--text", "none.txt"],
            "text 'none.txt': does not exist, expected news, python-topics, or a text file",
        ),
        (
            ["tiny", "--text", "text.txt", "--eval-tokens", "800"],
            "text 'text.txt': has 814 tokens of tiny-llama, expected at least 832",
        ),
        (
            ["tiny", "--text", "text.txt", "--window-tokens", "256"],
            "window_tokens=256: expected at most 128, the context",
        ),
        (
            ["tiny", "--synthetic", "laplace", "--text", "text.txt"],
            "--text: nothing is recorded here, expected smollm2, a",
        ),
        (
            ["tiny/model.safetensors", "--save-activations", "d.safetensors"],
            "--save-activations: nothing is recorded here",
        ),
        (
            ["tiny", "--text", "text.txt", "--save-activations", "d.csv"],
            "d.csv: expected a name that ends in .safetensors",
        ),
        (["tiny", "--text", "text.txt", "--include", "nothing*"], "none of its 21 tensors is measured"),
        (["none.gguf"], "none.gguf"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(nmsim, folder, arguments, message):
    before = sorted(folder.iterdir())
    code, text, err = nmsim("quality", *QUICK, *COUNTS, *arguments)
    assert (code, text) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_the_real_model_on_the_news(nmsim, smollm2, tmp_path, monkeypatch):
    """Weights of 4 bits, as transformers makes them; half of the elements hold most of the energy, and 8:16 beats 2:4."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(language, "load_model", lambda where: smollm2 if where == "smollm2" else None)
    layer = "model.layers.3.self_attn.q_proj"
    code, text, err = nmsim(
        "quality", "smollm2", "--operand", "both", "-p", "2:4,8:16", "--criterion", "magnitude,channel_vector",
        "--mitigation", "none", "--include", f"{layer}*", "--window-tokens", "64", "--calibration-tokens", "64",
        "--eval-tokens", "64", "--core", "", "--hardware", "",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "1 layers together; activations: smollm2 on news" in text
    weight = smollm2.layers[layer].weight.detach().numpy()
    rows = all_of("quality.csv", layer=layer)
    for pattern in ("2:4", "8:16"):
        (row,) = rows.query(
            f"operand == 'weights' and criterion == 'magnitude' and pattern == '{pattern}'"
        ).to_dict("records")
        assert row["energy_kept_share"] == pytest.approx(energy(weight, prune(weight, pattern)).share_kept)
    error = rows.set_index(["operand", "criterion", "pattern"])["relative_output_error"]
    for way in (("activations", "magnitude"), ("weights", "magnitude"), ("weights", "channel_vector")):
        assert 0 < error[(*way, "8:16")] < error[(*way, "2:4")] < 0.5
    assert error["weights", "channel_vector", "8:16"] < error["weights", "magnitude", "8:16"]
