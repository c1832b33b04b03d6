"""Which part of a file is the model: text parts, heads, draft heads, quantised types; contradictions are refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.models import Model, family_names
from hwmodels.models.build import build
from hwmodels.models.families import blocks, find_family, table
from hwmodels.models.keys import KINDS
from nmsim.errors import SpecError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
MOE = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
BODY = 4 * (2 * 64 * 64 + 2 * 16 * 64 + 3 * 64 * 128)


def load(**changes):
    config = {key: value for key, value in {**LLAMA, **changes}.items() if value is not ...}
    return build("small", config, source="here", where="config.json")


def head(model):
    return [
        (layer.name, layer.N, layer.K, layer.pruned)
        for layer in model.layers
        if layer.role in ("head", "draft")
    ]


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        (None, {}, [("lm_head", 1000, 64, False)]),
        ("LlamaForCausalLM", {}, [("lm_head", 1000, 64, False)]),
        ("LlamaModel", {}, []),
        ("LlamaForSequenceClassification", {}, [("score", 2, 64, False)]),
        ("LlamaForSequenceClassification", {"num_labels": 1}, [("score", 1, 64, False)]),
        ("LlamaForTokenClassification", {"id2label": {"0": "a", "1": "b", "2": "c"}}, [("score", 3, 64, False)]),
        ("LlamaForRewardModel", {"num_labels": 1}, [("score", 1, 64, False)]),
        ("LlamaForRewardModel", {}, [("score", 1, 64, False)]),
        ("LlamaForCausalLMEagle3", {"draft_vocab_size": 90}, [("fc", 64, 192, False), ("lm_head", 90, 64, False)]),
        ("LlamaForCausalLM", {"draft_vocab_size": 90}, [("fc", 64, 192, False), ("lm_head", 90, 64, False)]),
        ("LlamaForCausalLMEagle", {}, [("fc", 64, 128, False)]),
    ],
)  # fmt: skip
def test_architectures_decide_what_a_model_ends_in(architecture, keys, expected):
    model = load(**({"architectures": [architecture]} if architecture else {}), **keys)
    assert head(model) == expected
    plain = architecture in (None, "LlamaForCausalLM") and not keys
    assert bool(model.notes) is not plain or "head_dim" in model.notes[-1]


def test_a_reward_model_of_qwen2_scores_in_two_layers():
    model = load(model_type="qwen2", architectures=["Qwen2ForRewardModel"])
    assert head(model) == [("score_hidden", 64, 64, False), ("score", 1, 64, False)]


def test_a_speculator_has_the_type_of_its_layer():
    layer = {**LLAMA, "num_hidden_layers": 1}
    config = {
        "architectures": ["Eagle3DraftModel"],
        "draft_vocab_size": 90,
        "transformer_layer_config": layer,
    }
    model = build("small", config, source="here", where="config.json")
    assert head(model) == [("fc", 64, 192, False), ("lm_head", 90, 64, False)]
    with pytest.raises(SpecError, match=r"medusa_num_heads: Medusa heads are not modelled"):
        build("small", {"medusa_num_heads": 4}, source="here", where="config.json")


def test_lists_of_experts_and_layer_patterns():
    moe = {**LLAMA, "model_type": "hunyuan_v1_moe", "head_dim": 8, "num_experts": 8, "moe_topk": [2] * 4,
           "num_shared_expert": [1] * 4, "moe_intermediate_size": [32] * 4}  # fmt: skip
    model = build("small", moe, source="here", where="config.json")
    assert {layer.name: layer.count for layer in model.layers if "expert" in layer.role} == {
        "expert_gate": 32, "expert_up": 32, "expert_down": 32, "shared_gate": 4, "shared_up": 4, "shared_down": 4,
    }  # fmt: skip
    mimo = {**moe, "model_type": "mimo_v2_flash", "v_head_dim": 4, "hybrid_layer_pattern": [0, 1, 1, 0],
            "moe_layer_freq": [0, 1, 1, 1], "num_experts_per_tok": 2, "sliding_window": 16}  # fmt: skip
    assert [(each.kind, each.count, each.kv_heads) for each in build("m", mimo, source="", where="").attention] == [
        ("full", 2, 2), ("window", 2, 4),
    ]  # fmt: skip


def test_a_draft_head_stays_dense_and_reads_two_states():
    model = load(architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=90)
    assert not any(layer.pruned for layer in model.layers)
    assert {layer.name: layer.K for layer in model.layers if layer.name in "qkvo"} == {
        "q": 128,
        "k": 128,
        "v": 128,
        "o": 64,
    }


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config"])
@pytest.mark.parametrize("whole", ["llava", "internvl_chat", "qwen2_vl", "somebody_elses_vl"])
def test_the_text_part_is_counted_and_the_rest_is_named(key, whole):
    config = {"model_type": whole, key: LLAMA, "vision_config": {"hidden_size": 32}}
    model = build("small", config, source="here", where="config.json")
    assert model.weight_elems == BODY + 64 * 1000
    assert any("vision" in note and "left out" in note for note in model.notes)


def test_the_text_part_may_be_two_levels_down():
    config = {
        "model_type": "qwen2_5_omni",
        "thinker_config": {"audio_config": {"d": 1}, "text_config": LLAMA},
    }
    model = build("small", config, source="here", where="config.json")
    assert model.weight_elems == BODY + 64 * 1000
    assert any("audio" in note for note in model.notes)


def test_defaults_of_the_class_are_reported():
    model = load(hidden_size=..., intermediate_size=..., num_key_value_heads=..., tie_word_embeddings=...)
    assert "hidden_size=4096" in model.notes[-1]
    assert "intermediate_size=11008" in model.notes[-1]
    assert "num_key_value_heads=8" in model.notes[-1]
    assert "tie_word_embeddings=false" in model.notes[-1]


@pytest.mark.parametrize(
    ("said", "dtype", "note"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "int4", "4 bits"),
        ({"quant_method": "gptq", "bits": 8}, "int8", "8 bits"),
        ({"quant_method": "gptq", "bits": 3}, None, "no value type"),
        ({"quant_method": "awq", "bits": 4}, "int4", "4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "fp4", "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", "8 bits"),
        ({"quant_method": "mxfp4"}, "fp4", "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4", "NVFP4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", "FP8"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized",
          "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}, "fp8", "float-quantized"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized",
          "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}, "int4", "pack-quantized"),
        ({"quant_method": "aqlm"}, None, "codebooks"),
        ({"quant_method": "of_tomorrow"}, None, "does not know"),
    ],
)  # fmt: skip
def test_the_value_type_follows_from_quantization_config(said, dtype, note):
    model = load(quantization_config=said)
    assert model.dtype == dtype
    assert any(note in each for each in model.notes)
    types = {layer.role: layer.dtype for layer in model.layers}
    assert types == {"attention": dtype, "feed_forward": dtype, "head": None}


def test_parts_that_are_not_converted_keep_their_type():
    said = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    config = {**MOE, "quantization_config": said}
    model = build("small", config, source="here", where="config.json")
    assert {layer.role: layer.dtype for layer in model.layers} == {
        "attention": None, "router": None, "expert": "fp4", "head": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_word_embeddings": "false"}, r"tie_word_embeddings='false': expected true or false"),
        ({"tie_word_embeddings": 0}, r"tie_word_embeddings=0: expected true or false"),
        ({"hidden_size": 64.0}, r"hidden_size=64.0: expected a whole number"),
        ({"hidden_size": -64}, r"hidden_size=-64: expected a whole number from 1"),
        ({"hidden_size": True}, r"hidden_size=True: expected a whole number"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers=1000000000: expected at most 10000"),
        ({"num_attention_heads": [8, 8]}, r"num_attention_heads: 2 entries, expected 4, one per model layer"),
        ({"num_key_value_heads": [2, 2, 2, 3]}, r"num_key_value_heads: 3, expected a divisor of .*=8"),
        ({"layer_types": ["full_attention"]}, r"layer_types: 1 entries, expected 4"),
        ({"layer_types": ["full_attention", "of_tomorrow"] * 2}, r"layer_types\[1\]='of_tomorrow': unknown"),
        ({"layer_types": ["sliding_attention"] * 4}, r"sliding_window: missing or 0, but model layer 0 attends to a window"),
        ({"num_local_experts": 8}, r"num_local_experts=8: a model of type llama has no experts"),
        ({"architectures": ["MixtralForCausalLM"]}, r"architectures says MixtralForCausalLM, model_type says llama"),
        ({"architectures": "LlamaForCausalLM"}, r"architectures='LlamaForCausalLM': expected a list"),
        ({"architectures": ["LlamaForCausalLMMedusa"]}, r"a draft head of this kind is not modelled"),
        ({"architectures": ["LlamaForSequenceClassification"], "num_labels": 2, "id2label": {"0": "a"}},
         r"num_labels=2, but id2label has 1"),
        ({"is_encoder_decoder": True}, r"an encoder with a decoder"),
        ({"quantization_config": "fp8"}, r"quantization_config: expected an object"),
        ({"quantization_config": {"quant_method": "gptq", "bits": "4"}}, r"bits='4': expected a whole number"),
        ({"model_type": "zamba2"}, r"model_type='zamba2': its model layers share weights"),
        ({"model_type": "t5"}, r"model_type='t5': an encoder with a decoder"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, r"num_experts_per_tok=9: expected 1 to 8"),
        ({"model_type": "mixtral", "num_local_experts": 8, "num_experts": 4}, r"are one key: expected equal values"),
        ({"model_type": "deepseek_v3", "first_k_dense_replace": 5}, r"first_k_dense_replace=5: expected at most .*=4"),
        ({"model_type": "internlm2", "intermediate_size": ...}, r"intermediate_size: missing.* required"),
        ({"model_type": "llava", "num_hidden_layers": ...}, r"model_type='llava' needs text_config"),
    ],
)  # fmt: skip
def test_contradictions_and_wrong_types_are_refused(changes, message):
    with pytest.raises(SpecError, match=message) as refusal:
        load(**changes)
    assert len(str(refusal.value)) <= 300
    assert "\n" not in str(refusal.value)


def test_lists_per_layer_are_honoured():
    model = load(num_key_value_heads=[1, 2, 4, 8], intermediate_size=[128, 128, 256, 256])
    assert [(layer.name, layer.count, layer.N) for layer in model.layers if layer.name[:2] in ("k", "k_", "up")] == [
        ("k", 1, 8), ("up", 2, 128), ("k_2", 1, 16), ("k_3", 1, 32), ("up_2", 2, 256), ("k_4", 1, 64),
    ]  # fmt: skip
    assert [each.kv_heads for each in model.attention] == [1, 2, 4, 8]
    mixed = build(
        "small", {**MOE, "model_type": "qwen3_moe", "num_experts": 8, "num_local_experts": 8, "moe_intermediate_size": 32,
                  "mlp_only_layers": [1], "head_dim": 8}, source="here", where="config.json",
    )  # fmt: skip
    counts = {layer.name: layer.count for layer in mixed.layers}
    assert (counts["gate"], counts["expert_gate"]) == (1, 24)


def test_windows_of_each_layer():
    local, whole = "sliding_attention", "full_attention"
    model = load(layer_types=[local, local, local, whole], sliding_window=100)
    assert [(each.kind, each.count, each.window_tokens) for each in model.attention] == [
        ("window", 3, 100),
        ("full", 1, None),
    ]
    qwen = load(model_type="qwen2", use_sliding_window=True, sliding_window=100, max_window_layers=3)
    assert [(each.kind, each.count) for each in qwen.attention] == [("full", 3), ("window", 1)]


def test_every_name_of_the_table_of_families_is_known():
    kinds = table()["keys"]
    assert set(kinds.values()) <= KINDS.keys()
    for name in family_names():
        family = find_family(table()["wrappers"].get(name, name))
        assert family is not None, name
        assert {*family.keys, *family.defaults, *family.derived} <= kinds.keys(), name
    refused = [name for names in table()["refused"].values() for name in names]
    assert len(set(refused)) == len(refused)
    assert not {*refused} & {*family_names()}
    assert all(block.role for block in blocks().values())


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(0, 9), max_size=5),
)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([name for name in family_names() if name not in table()["wrappers"]]),
    changes=st.dictionaries(st.sampled_from(sorted(table()["keys"])), VALUES, max_size=4),
)
def test_any_values_give_a_model_or_one_clear_error(kind, changes):
    config = {"model_type": kind, "num_hidden_layers": 5, **changes}
    try:
        model = build("any", config, source="here", where="config.json")
    except SpecError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert isinstance(model, Model)
        assert all(layer.N > 0 < layer.K for layer in model.layers)
        json.dumps(model.notes)
    assert refusal == "" or (refusal.startswith("config.json: ") and len(refusal) <= 300)
