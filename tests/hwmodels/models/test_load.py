"""Models load by name and from files; shipped ones add up to the published counts; a bad config.json is refused."""

import json

import pytest

import hwmodels
from nmsim.errors import SpecError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 1000,
}


def write(folder, **changes):
    config = {key: value for key, value in {**LLAMA, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def shapes(model):
    return {layer.name: (layer.count, layer.N, layer.K) for layer in model.layers}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        # Weights of the linear layers: the published total less the input embedding, biases and norms.
        ("llama-2-7b", 6_738_415_616 - 32000 * 4096 - 65 * 4096),
        ("llama-3.1-8b", 8_030_261_248 - 128256 * 4096 - 65 * 4096),
        ("qwen2.5-7b", 7_615_616_512 - 152064 * 3584 - 57 * 3584 - 28 * (3584 + 2 * 512)),
        ("gemma-3-4b", 34 * (2 * 2560 * 2048 + 2 * 2560 * 1024 + 3 * 2560 * 10240) + 262208 * 2560),
    ],
)
def test_shipped_models_add_up(name, weights):
    model = hwmodels.load_model(name)
    assert model.weight_elems == weights
    assert model.source.startswith("https://huggingface.co/")


def test_grouped_query_attention():
    layers = shapes(hwmodels.load_model("llama-3.1-8b"))
    assert layers["q"] == layers["o"] == (32, 4096, 4096)
    assert layers["k"] == layers["v"] == (32, 1024, 4096)
    assert layers["gate"] == layers["up"] == (32, 14336, 4096)
    assert layers["down"] == (32, 4096, 14336)
    assert layers["lm_head"] == (1, 128256, 4096)


def test_head_size_that_does_not_follow_from_the_hidden_size():
    layers = shapes(hwmodels.load_model("gemma-3-4b"))
    assert (layers["q"], layers["k"], layers["o"]) == ((34, 2048, 2560), (34, 1024, 2560), (34, 2560, 2048))


def test_only_heads_and_routers_stay_dense():
    for name in hwmodels.model_names():
        layers = hwmodels.load_model(name).layers
        assert {layer.role for layer in layers if not layer.pruned} <= {"head", "router"}
        assert {layer.role for layer in layers if layer.pruned}.isdisjoint({"head", "router"})


def test_reads_file_and_directory(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    write(folder)
    model = hwmodels.load_model(folder)
    assert model == hwmodels.load_model(str(folder / "config.json"))
    assert model.name == "tiny"
    assert not model.tied_head
    assert shapes(model)["k"] == (3, 64, 64)


def test_reads_the_published_gemma_config_which_leaves_heads_out(tmp_path):
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
    }
    write(tmp_path, model_type="gemma3", text_config=text)
    model = hwmodels.load_model(tmp_path)
    assert shapes(model) == shapes(hwmodels.load_model("gemma-3-4b"))
    assert model.tied_head


def test_explicit_null_means_absent(tmp_path):
    model = hwmodels.load_model(write(tmp_path, head_dim=None, num_key_value_heads=None))
    assert shapes(model)["k"] == (3, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "lama"},
            r"config.json: model_type='lama': unknown; expected one of .* such as llama",
        ),
        (
            {"model_type": "bert"},
            r"model_type='bert': an encoder without a decoder.* expected a decoder-only",
        ),
        ({"model_type": 7}, r"model_type=7: expected text"),
        ({"model_type": ...}, r"model_type: missing; this key is required"),
        ({"hidden_size": "64"}, r"hidden_size='64': expected a whole number from 1"),
        (
            {"hidden_size": None},
            r"hidden_size=null: expected a whole number from 1; leave the key out for .* 4096",
        ),
        ({"num_hidden_layers": 0}, r"num_hidden_layers=0: expected a whole number from 1"),
        (
            {"num_attention_heads": 7},
            r"head_dim: missing, and hidden_size=64 is no multiple of num_attention_heads=7",
        ),
        ({"num_key_value_heads": 3}, r"num_key_value_heads: 3, expected a divisor of num_attention_heads=8"),
        ({"text_config": [1]}, r"text_config: expected an object, got \[1\]"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        hwmodels.load_model(write(tmp_path, **changes))


def test_refuses_what_is_no_json_or_no_file(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(SpecError, match=r"config.json: cannot be read as JSON"):
        hwmodels.load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(SpecError, match=r"expected a JSON object, got list"):
        hwmodels.load_model(tmp_path)
    with pytest.raises(SpecError, match=r"model 'llama-3-8b': .* Did you mean llama-3.1-8b\?"):
        hwmodels.load_model("llama-3-8b")


def test_a_misspelt_key_is_named_if_a_default_stands_for_it(tmp_path):
    config = {
        "model_type": "llama",
        "hidden": 4096,
        "intermediatesize": 14336,
        "num_layers": 32,
        "rope_theta": 1e4,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    notes = [note for note in hwmodels.load_model(tmp_path).notes if "misspelt" in note]
    assert [note.split()[0] for note in notes] == ["'hidden'", "'intermediatesize'", "'num_layers'"]
    assert "intermediate_size is missing" in notes[1]
