"""A model that transformers loads computes the same with packed weights as with pruned dense ones."""

import copy

import pytest

torch = pytest.importorskip("torch")

from kernels.ops import NMLinear, sparsify_, stack_  # noqa: E402

PROMPT = "The capital of France is the city of"


def pruned_dense(model, packed):
    """The model with the weights that `sparsify_` kept, in its own layers."""
    twin = copy.deepcopy(model.module)
    for name in model.layers:
        twin.get_submodule(name).weight.data = packed.get_submodule(name).weight
    return twin


def generated(module, ids, tokens):
    """The tokens that follow, the likeliest each, and the logits before each of them."""
    with torch.inference_mode():
        found = module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False, use_cache=True, output_logits=True, return_dict_in_generate=True, pad_token_id=0,
        )  # fmt: skip
    return found.sequences, torch.stack(found.logits)


def check_same(model, ids, tokens):
    """Generate with both, and compare; the report of `sparsify_`, and the packed model."""
    packed = copy.deepcopy(model.module)
    report = sparsify_(packed, "8:16")
    assert report.swapped == tuple(model.layers)
    want = generated(pruned_dense(model, packed), ids, tokens)
    check_close(generated(packed, ids, tokens), want)
    return report, packed, want


def check_close(found, want):
    """The same tokens, and logits within rounding: sums have another order, through all blocks."""
    assert torch.equal(found[0], want[0])
    assert (found[1] - want[1]).abs().max() <= 2**-14 * want[1].abs().max()


def test_smollm2_generates_the_same_tokens_with_packed_weights(smollm2):
    ids = smollm2.tokenizer(PROMPT, return_tensors="pt").input_ids
    report, _, _ = check_same(smollm2, ids, tokens=5)
    assert len(report.swapped) == 210
    assert report.left == {"lm_head": "its weight is also that of model.embed_tokens"}
    assert report.values_bytes == report.dense_bytes // 2
    assert report.metadata_bytes == report.dense_bytes // 16


def test_a_tiny_llama_generates_the_same_tokens_with_packed_weights(tiny):
    ids = torch.arange(7)[None]
    report, packed, want = check_same(tiny, ids, tokens=6)
    stack_(packed)
    check_close(generated(packed, ids, 6), want)
    assert report.left == {"lm_head": "skip='lm_head'"}


def test_a_packed_model_is_saved_and_its_state_loads(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    packed, fresh = copy.deepcopy(tiny.module), copy.deepcopy(tiny.module)
    sparsify_(packed, "8:16")
    save_file(packed.state_dict(), tmp_path / "packed.safetensors")
    sparsify_(fresh, "8:16")
    with torch.no_grad():
        for layer in fresh.modules():
            if isinstance(layer, NMLinear):
                layer.values.zero_()
    fresh.load_state_dict(load_file(tmp_path / "packed.safetensors"))
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.equal(fresh(ids).logits, packed(ids).logits)
