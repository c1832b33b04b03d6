"""A study says what of a checkpoint it did not prune, and why."""

import json

import numpy as np
import pytest

from nmsim import save_file
from nmsim.pattern import Pattern
from validate import run_study
from validate.study.bits import left_dense, open_weights

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 256,
}


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (256, 64),
        "model.layers.0.mlp.up_proj.weight": (128, 64),
        "model.layers.0.mlp.gate.weight": (8, 64),
        "model.norm.weight": (64,),
    }
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_reasons_and_shares_are_those_of_the_tensors(weights):
    with open_weights(weights, []) as checkpoint:
        found = left_dense(checkpoint, Pattern(2, 4))
    counted = {record["why"]: (record["tensors"], record["weights_elems"]) for record in found}
    assert counted == {"embedding": (1, 16384), "router": (1, 512), "norm": (1, 64)}
    assert sum(record["share"] for record in found) == pytest.approx(1 - 128 * 64 / (16384 + 8192 + 512 + 64))
    assert [record["dense_bytes"] for record in found] == [65536, 2048, 256]


@pytest.mark.usefixtures("blank_figures")
def test_it_stands_in_the_report_and_in_the_summary(weights, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    run_study(
        weights, tmp_path / "config.json", hardware=["h200"], formats=["2:4/index"], batches=[1], prefill=[64],
        out_dir=tmp_path / "study",
    )  # fmt: skip
    summary = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [record["why"] for record in summary["left_dense"]] == ["embedding", "router", "norm"]
    page = (tmp_path / "study" / "report.html").read_text()
    assert "left dense" in page
    assert "router: named" in page
