"""What is pruned: names and shapes of published models, and what decides where names say nothing."""

import numpy as np
import pytest
from model_names import FAMILIES, F, H, L, V, dense

from nmsim import save_file
from nmsim.errors import ContainerError
from nmsim.files.checkpoint import pack_checkpoint
from nmsim.files.roles import KINDS, classify
from nmsim.files.safetensors import TensorInfo
from nmsim.files.selection import Selection
from nmsim.pattern import Pattern


def infos(tensors, dtype="BF16"):
    return [TensorInfo(name, dtype, tuple(shape), 0, 0) for name, shape in tensors.items()]


def found(role):
    return role.axis if role.is_pruned else role.kind


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_published_model_is_what_it_is(family):
    tensors = FAMILIES[family]
    roles = classify(infos({name: shape for name, (shape, _) in tensors.items()}))
    assert {name: found(role) for name, role in roles.items()} == {
        name: e for name, (_, e) in tensors.items()
    }
    assert all(role.reason and role.kind in KINDS for role in roles.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_the_tensors_does_not_matter(family):
    listed = infos({name: shape for name, (shape, _) in FAMILIES[family].items()})
    assert classify(listed[::-1]) == classify(listed)


ONE = {L + "mlp.experts.down_proj": (8, H, H)}
SQUARE = {"h.0.attn.c_proj.weight": (H, H)}
DEEP = {f"model.layers.{n}.mlp.up_proj.weight": (F, H) for n in (0, 1, 2)}


@pytest.mark.parametrize(
    ("tensors", "config", "expected"),
    [
        (SQUARE, None, ["ambiguous"]),
        (SQUARE, {"model_type": "gpt2"}, [0]),
        (SQUARE, {"model_type": "gpt_bigcode"}, [1]),
        (DEEP, None, [1, 1, 1]),
        (DEEP, {"num_hidden_layers": 2}, [1, 1, "draft"]),
        (DEEP, {"text_config": {"num_hidden_layers": 1}}, [1, "draft", "draft"]),
        (DEEP, {"architectures": ["LlamaForCausalLMEagle3"]}, ["draft"] * 3),
        ({"to_words.weight": (V, H)} | DEEP, {"vocab_size": V}, ["head", 1, 1, 1]),
        (
            {L + "mlp.experts.gate_up_proj": (8, 32, F), L + "mlp.experts.down_proj": (8, F, 32)},
            {"hidden_size": 32},
            [1, 1],
        ),
        (
            {L + "mlp.experts.gate_up_proj": (8, 32, F), L + "mlp.experts.down_proj": (8, F, 32)},
            {"hidden_size": F},
            [2, 2],
        ),
        ({L + "ffn.experts.mlp.w1": (4 * F, H)}, {"ffn_config": {"moe_num_experts": 4}}, [1]),
        ({L + "ffn.experts.mlp.w2": (4 * F, H)}, {"ffn_config": {"moe_num_experts": 4}}, [0]),
    ],
)
def test_the_configuration_decides_what_names_and_shapes_leave_open(tensors, config, expected):
    assert [found(role) for role in classify(infos(tensors), config).values()] == expected


@pytest.mark.parametrize("rows", [1, 2, 7, 250])
def test_a_router_of_any_size_beside_experts_is_none_of_the_weights(rows):
    """The rows need not be as many as the experts in the file: a shard holds some of them."""
    tensors = {L + "mlp.gate.weight": (rows, H), L + "mlp.experts.0.gate.weight": (F, H)}
    assert [found(role) for role in classify(infos(tensors)).values()] == ["router", 1]


def test_an_axis_that_nothing_tells_is_asked_for(tmp_path):
    path, packed = tmp_path / "x.safetensors", tmp_path / "packed.safetensors"
    tensors = {
        name: np.ones(shape, np.float32) for name, shape in (ONE | {L + "mlp.up_proj.weight": (8, 8)}).items()
    }
    save_file(tensors, path)
    report = pack_checkpoint(path, packed, "2:4")
    assert [tensor.group for tensor in report.tensors] == [KINDS["ambiguous"], ""]
    packed.unlink()
    with pytest.raises(ContainerError, match=r"nothing says which axis .*; expected --axis with --include"):
        pack_checkpoint(path, packed, "2:4", include=["*"])
    report = pack_checkpoint(path, packed, "2:4", include=["*experts*"], axis=1)
    assert [tensor.axis for tensor in report.packed] == [1]


def test_groups_never_cross_experts_that_one_matrix_stacks():
    tensors = {L + "ffn.experts.mlp.w2": (4 * 6, H), L + "ffn.router.layer.weight": (4, H)}
    listed = infos(tensors)
    choice = Selection().among(listed)
    assert choice.why_not(listed[0], Pattern(1, 2)) is None
    assert "stacks matrices of 6" in choice.why_not(listed[0], Pattern(2, 4)).reason


def test_rules_bow_to_a_user_but_for_bytes_that_are_no_weights():
    listed = infos(dense(L) | {"lm_head.weight": (V, H)} | {}, "BF16")
    listed = infos({"lm_head.weight": (V, H), L + "mlp.up_proj.weight": (F, H)})
    pattern = Pattern(2, 4)
    chosen = [[c.why_not(i, pattern) is None for i in listed] for c in (
        Selection().among(listed),
        Selection(include=["lm_head*"]).among(listed),
        Selection(exclude=["*up_proj*"]).among(listed),
    )]  # fmt: skip
    assert chosen == [[False, True], [True, False], [False, False]]


def test_the_configuration_beside_a_checkpoint_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({name: np.ones((8, 8), np.float32) for name in DEEP}, path)
    config = tmp_path / "config.json"
    # Published configurations hold Infinity.
    config.write_text('{"num_hidden_layers": 2, "time_step_limit": [0.0, Infinity]}')
    report = pack_checkpoint(path, tmp_path / "packed.safetensors", "2:4")
    assert [tensor.kept_as_is for tensor in report.tensors if tensor.kept_as_is] == [
        "draft head: layer 2 of a model of 2 layers (config.json)"
    ]
    for text, problem in (
        ("{", "is no JSON"),
        ("[1]", "is a list, expected an object"),
        ("\xff", "is no JSON"),
    ):
        config.write_bytes(text.encode("latin1"))
        with pytest.raises(ContainerError, match=rf"^{config}: {problem}"):
            pack_checkpoint(path, tmp_path / "other.safetensors", "2:4")


def test_a_summary_counts_weights_and_not_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(
        {
            "model.embed_tokens.weight": np.ones((920, 8), np.float16),
            L + "mlp.up_proj.weight": np.ones((80, 8), np.float16),
        },
        path,
    )
    report = pack_checkpoint(path, tmp_path / "packed.safetensors", "2:4")
    assert report.packed_weights_share == 0.08
    assert report.left_dense == [
        {
            "why": "embedding",
            "tensors": 1,
            "weights_elems": 7360,
            "dense_bytes": 14720,
            "example": "embedding: named 'embed_tokens'",
        }
    ]


def test_a_router_beside_other_experts_is_one_too():
    shapes = {
        "model.layers.0.block_sparse_moe.gate.weight": (8, 64),
        "model.layers.0.mlp.experts.gate_up_proj": (16, 64, 256),
        "model.layers.0.mlp.experts.down_proj": (16, 128, 64),
        "model.layers.1.feed_forward.gate.weight": (4, 64),
    }
    roles = classify(
        [TensorInfo(name, "BF16", shape, 0, 2 * np.prod(shape)) for name, shape in shapes.items()]
    )
    assert {roles[name].kind for name in shapes if "gate.weight" in name} == {"router"}
