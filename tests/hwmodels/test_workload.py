"""Layers of the shipped models add up to the published parameter counts; a bad config.json is refused."""

import json

import pytest

import hwmodels
from nmsim.errors import RowError, SpecError
from nmsim.pattern import Pattern

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


def test_only_the_head_stays_dense():
    for name in hwmodels.model_names():
        assert [layer.name for layer in hwmodels.load_model(name).layers if not layer.pruned] == ["lm_head"]


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
        ({"model_type": "mamba"}, r"config.json: model_type='mamba': expected one of gemma, .*llama"),
        ({"model_type": ...}, r"model_type: missing; this key is required"),
        ({"hidden_size": ...}, r"hidden_size: missing; this key is required"),
        ({"hidden_size": "64"}, r"hidden_size='64': expected a whole number of elems"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers=0: expected at least 1 layers"),
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
    with pytest.raises(
        SpecError, match=r"model 'llama-3-8b': .* Did you mean llama-3.1-8b\? Known: gemma-3-4b"
    ):
        hwmodels.load_model("llama-3-8b")


def test_cases_count_tokens_by_phase():
    table = hwmodels.cases(
        "llama-2-7b",
        dtype="fp8",
        formats=["2:4/index", "2:4/index/byte", Pattern(8, 16), None],
        sparse_operand="activations",
        decode_batches=[1, 16],
        prefill_lengths=[512],
        prefill_batch=2,
    )
    assert len(table) == 3 * 7 * 2 * 2
    assert list(table.columns) == [
        "model", "layer", "count", "M", "N", "K",
        "phase", "dtype", "sparse_operand", "pattern", "encoding", "packing",
    ]  # fmt: skip
    assert table.groupby("phase")["M"].unique().map(list).to_dict() == {"decode": [1, 16], "prefill": [1024]}
    assert table["pattern"].head(4).tolist() == ["2:4", "2:4", "8:16", "dense"]
    assert table["packing"].head(3).tolist() == ["bitstream", "byte", "bitstream"]
    assert set(table["sparse_operand"]) == {"activations"}


def test_cases_list_the_head_as_dense_on_request():
    table = hwmodels.cases("llama-2-7b", decode_batches=[1, 2], prefill_lengths=[8], unpruned=True)
    head = table[table["layer"] == "lm_head"]
    assert head["pattern"].tolist() == ["dense"] * 3
    assert (hwmodels.predict(head, "h200")["execution"] == "dense").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "fp12"}, r"dtype='fp12': expected one of fp32"),
        ({"sparse_operand": "both"}, r"sparse_operand='both': expected one of weights, activations"),
        ({"decode_batches": [0]}, r"decode_batches: 0: expected a positive int"),
        ({"prefill_lengths": [1.5]}, r"prefill_lengths: 1.5: expected a positive int"),
        ({"prefill_batch": -1}, r"prefill_batch: -1: expected a positive int"),
    ],
)
def test_cases_refuse_bad_arguments(arguments, message):
    with pytest.raises(RowError if "dtype" in arguments else SpecError, match=message):
        hwmodels.cases("llama-2-7b", **arguments)
