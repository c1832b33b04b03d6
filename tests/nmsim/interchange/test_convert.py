"""`nmsim convert`: shards, config.json, what N means, memory, and what is refused before any work."""

import json
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest

from nmsim import load_file, save_file
from nmsim.errors import ContainerError, NmsimError, PatternError
from nmsim.interchange import FORMATS, convert_checkpoint
from nmsim.interchange.zeros import group_counts

FP8_CONFIG = {
    "model_type": "llama",
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "version": "0.9.0",
        "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
        "ignore": ["lm_head"],
    },
}


def shards(folder, weights, config=None):
    """A checkpoint in two shards; tensors go to them in turn."""
    folder.mkdir()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    where = {name: files[place % 2] for place, name in enumerate(weights)}
    for file in files:
        save_file({name: weights[name] for name in weights if where[name] == file}, folder / file)
    index = {"metadata": {"total_size": 0, "kind": "test"}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_shards_and_stacked_scales_go_there_and_back(tmp_path, make_weight):
    """FP8 scales stay as they are, and `quantization_config` gets and loses its `sparsity_config`."""
    weights = {
        "model.a.weight": make_weight(16, 64, dtype="F8_E4M3"),
        "model.a.weight_scale": np.full((16, 1), 0.5, ml_dtypes.bfloat16),
        "model.b.weight": make_weight(8, 32, dtype="F8_E4M3", seed=1),
        "model.b.weight_scale": np.full((8, 1), 0.25, ml_dtypes.bfloat16),
        "lm_head.weight": np.ones((8, 8), np.float16),
        "model.norm.weight": np.ones(64, np.float16),
    }
    source = shards(tmp_path / "dense", weights, FP8_CONFIG)
    report = convert_checkpoint(source, tmp_path / "packed", to="sparse-24-bitmask")
    assert sorted(tensor.name for tensor in report.packed) == ["model.a.weight", "model.b.weight"]
    config = json.loads((tmp_path / "packed/config.json").read_text())
    assert config["quantization_config"] == FP8_CONFIG["quantization_config"] | {
        "sparsity_config": {
            "format": "sparse-24-bitmask",
            "targets": ["Linear"],
            "ignore": ["lm_head"],
            "global_sparsity": 0.5,
            "sparsity_structure": "2:4",
            "registry_requires_subclass": False,
        }
    }
    index = json.loads((tmp_path / "packed/model.safetensors.index.json").read_text())
    assert index["metadata"]["kind"] == "test"
    packed = {}
    for shard in set(index["weight_map"].values()):
        packed |= load_file(tmp_path / "packed" / shard)
    assert set(packed) == set(index["weight_map"])
    assert packed["model.a.weight_scale"].tobytes() == weights["model.a.weight_scale"].tobytes()
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in packed.values())
    convert_checkpoint(tmp_path / "packed", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text()) == FP8_CONFIG
    for shard in (source / name for name in index["weight_map"].values()):
        then, now = load_file(shard), load_file(tmp_path / "back" / shard.name)
        assert {n: a.tobytes() for n, a in now.items()} == {n: a.tobytes() for n, a in then.items()}


def test_parts_of_a_tensor_may_lie_in_two_shards(tmp_path):
    parts = {
        "a.bitmask": np.array([[0b10010110]], np.uint8),
        "a.compressed": np.array([[1, 2, 3, 4]], np.int8),
        "b.shape": np.array([1, 8]),
        "a.shape": np.array([1, 8]),
        "b.bitmask": np.array([[0b01010101]], np.uint8),
        "b.compressed": np.array([[5, 6, 7, 8]], np.int8),
    }
    convert_checkpoint(shards(tmp_path / "packed", parts), tmp_path / "dense")
    index = json.loads((tmp_path / "dense/model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == {"a.weight", "b.weight"}
    dense = load_file(tmp_path / "dense" / index["a.weight"])
    assert dense["a.weight"].tolist() == [[0, 1, 2, 0, 3, 0, 0, 4]]
    assert dense["b.weight"].tolist() == [[5, 0, 6, 0, 7, 0, 8, 0]]


@pytest.fixture
def stated(tmp_path):
    """A function that makes a checkpoint whose config.json or recipe states a structure."""

    def make(weight, structure, recipe=False):
        folder = tmp_path / "source"
        folder.mkdir()
        save_file({"a.weight": weight}, folder / "model.safetensors")
        if recipe:
            text = f"stage:\n  SparseGPTModifier: {{sparsity: 0.25, mask_structure: '{structure}'}}\n"
            (folder / "recipe.yaml").write_text(text)
        else:
            sparsity = {"format": "dense", "sparsity_structure": structure}
            compression = {"quant_method": "compressed-tensors", "sparsity_config": sparsity}
            (folder / "config.json").write_text(json.dumps({"quantization_config": compression}))
        return folder

    return make


@pytest.mark.parametrize("recipe", [False, True])
@pytest.mark.parametrize(
    ("kept", "structure"), [(6, "2:8"), (2, "2:8"), (2, "6:8"), (6, "6:8"), (4, "4:8"), (1, "3:4")]
)
def test_the_zeros_say_what_n_means(tmp_path, make_weight, stated, recipe, kept, structure):
    """N:M of a file may count kept or pruned elements; the same text stands for both here."""
    m = int(structure.split(":")[1])
    source = stated(make_weight(32, 64, n=kept, m=m), structure, recipe)
    report = convert_checkpoint(source, tmp_path / "packed", to="nmsim")
    assert report.patterns == {"a.weight": f"{kept}:{m}"}
    packed = load_file(tmp_path / "packed/model.safetensors")["a.weight"]
    assert (packed.pattern.n, packed.pattern.m) == (kept, m)


def test_a_dense_head_beside_a_stated_pattern_stays_dense(tmp_path, make_weight, stated):
    source = stated(make_weight(32, 64, n=2, m=8), "6:8")
    tensors = load_file(source / "model.safetensors") | {"lm_head.weight": np.ones((8, 64), np.float16)}
    save_file(tensors, source / "model.safetensors")
    report = convert_checkpoint(source, tmp_path / "packed", to="nmsim")
    assert report.patterns == {"a.weight": "2:8"}
    assert [tensor.name for tensor in report.tensors if tensor.kept_as_is] == ["lm_head.weight"]


@pytest.mark.parametrize("recipe", [False, True])
def test_dense_weights_with_a_stated_pattern_ask(tmp_path, monkeypatch, stated, recipe):
    # A short path, since a line with a long one is cut in its middle.
    monkeypatch.chdir(tmp_path)
    source = stated(np.ones((8, 64), np.float16), "2:8", recipe).relative_to(tmp_path)
    with pytest.raises(
        PatternError, match="N counts kept elements in some tools and pruned ones in others"
    ) as error:
        convert_checkpoint(source, tmp_path / "packed", to="nmsim")
    assert "-p 2:8" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (8, 16), (16, 32), (6, 8)])
def test_without_a_statement_the_smallest_pattern_that_holds_is_taken(tmp_path, make_weight, n, m):
    weight = make_weight(64, 96, n=n, m=m)
    save_file({"a.weight": weight}, tmp_path / "x.safetensors")
    report = convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y.safetensors", to="nmsim")
    assert report.patterns == {"a.weight": f"{n}:{m}"}
    convert_checkpoint(tmp_path / "y.safetensors", tmp_path / "z.safetensors")
    assert load_file(tmp_path / "z.safetensors")["a.weight"].tobytes() == weight.tobytes()


@pytest.mark.parametrize("m", [2, 4, 5, 8, 16, 32, 64, 100])
def test_groups_are_counted_as_a_plain_loop_counts(m):
    mask = np.random.default_rng(m).random((7, 131)) < 0.5
    expected = [[int(row[at : at + m].sum()) for at in range(0, 131, m)] for row in mask]
    assert group_counts(mask, m).tolist() == expected


def test_what_does_not_follow_the_pattern_is_left_dense_or_refused(tmp_path, make_weight):
    odd = make_weight(8, 32, seed=2)
    odd[5, 8:12] = 1
    save_file({"a.weight": make_weight(8, 32), "odd.weight": odd}, tmp_path / "x.safetensors")
    report = convert_checkpoint(
        tmp_path / "x.safetensors", tmp_path / "y.safetensors", to="sparse-24-bitmask"
    )
    (left,) = [tensor for tensor in report.tensors if tensor.kept_as_is]
    assert left.name == "odd.weight"
    assert "1 groups have more than 2 non-zeros of 4, the first in row 5, group 2" in left.kept_as_is
    assert load_file(tmp_path / "y.safetensors")["odd.weight"].tobytes() == odd.tobytes()
    with pytest.raises(PatternError, match="row 5, group 2"):
        convert_checkpoint(
            tmp_path / "x.safetensors", tmp_path / "z.safetensors", to="sparse-24-bitmask", include=["odd*"]
        )
    save_file({"odd.weight": odd}, tmp_path / "o.safetensors")
    with pytest.raises(PatternError, match="row 5, group 2"):
        convert_checkpoint(tmp_path / "o.safetensors", tmp_path / "z.safetensors", to="sparse-24-bitmask")
    assert not (tmp_path / "z.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"to": "marlin-24"}, "read only"),
        ({"to": "zip"}, "does not exist"),
        ({"to": "dense"}, "dense already"),
        ({"to": "dense", "format": "2:4"}, "expected none"),
        ({"to": "sparse-24-bitmask", "format": "4:8"}, "expected 2:4"),
        ({"to": "nmsim", "source_format": "zip"}, "expected one of dense"),
        ({"to": "nmsim", "source_format": "marlin-24"}, "holds no tensor of marlin-24"),
        ({"to": "maskllm"}, "ends in .npz"),
        ({"to": "nmsim", "target": "there.safetensors"}, "exists already"),
        ({"to": "nmsim", "target": "x.safetensors", "force": True}, "is the input itself"),
        ({"to": "nmsim", "target": "a.gguf"}, "ends in .safetensors"),
        ({"to": "nmsim", "target": "no/a.safetensors"}, "no folder"),
        ({"to": "nmsim", "source": "model.pt"}, "pickle"),
        ({"to": "nmsim", "source": "nothing.safetensors"}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, make_weight, arguments, expected):
    save_file({"a.weight": make_weight(8, 32)}, tmp_path / "x.safetensors")
    save_file({}, tmp_path / "there.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    source = tmp_path / arguments.get("source", "x.safetensors")
    target = tmp_path / arguments.get("target", "y.safetensors")
    others = {key: value for key, value in arguments.items() if key not in ("source", "target")}
    with pytest.raises(NmsimError, match=expected) as error:
        convert_checkpoint(source, target, **others)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_formats_in_one_file_are_asked_about(tmp_path):
    parts = {
        "a.bitmask": np.zeros(1, np.uint8),
        "a.compressed": np.zeros(1),
        "b.packed": np.zeros(1),
        "b.meta": np.zeros(1),
    }
    save_file(parts, tmp_path / "x.safetensors")
    with pytest.raises(ContainerError, match="sparse-24-bitmask and of semi-structured"):
        convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y.safetensors")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"quantization_config": 3}', '{"quantization_config": {"sparsity_config": []}}x']
)
def test_a_damaged_config_is_refused(tmp_path, make_weight, text):
    save_file({"a.weight": make_weight(8, 32)}, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ContainerError, match=r"config\.json"):
        convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y.safetensors", to="nmsim")


def test_another_quantisation_is_not_made_one_of_compressed_tensors(tmp_path, make_weight):
    save_file({"a.weight": make_weight(8, 32)}, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(ContainerError, match="quantised by 'gptq'"):
        convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y", to="sparse-bitmask")


def test_every_pair_of_formats_that_nmsim_writes_keeps_the_weights(tmp_path, make_weight):
    weight = make_weight(24, 64, dtype="BF16")
    save_file({"a.weight": weight, "a.bias": np.ones(3)}, tmp_path / "dense.safetensors")
    names = [name for name, format in FORMATS.items() if format.writes and name not in ("dense", "maskllm")]
    for first in names:
        convert_checkpoint(tmp_path / "dense.safetensors", tmp_path / f"{first}.safetensors", to=first)
        for second in names:
            target = tmp_path / f"{first}-{second}.safetensors"
            convert_checkpoint(tmp_path / f"{first}.safetensors", target, to=second)
            convert_checkpoint(target, tmp_path / "back.safetensors", force=True)
            back = load_file(tmp_path / "back.safetensors")
            assert {name: array.tobytes() for name, array in back.items()} == {
                "a.weight": weight.tobytes(),
                "a.bias": np.ones(3).tobytes(),
            }


def test_the_verb_prints_what_it_did(nmsim, tmp_path, make_weight):
    save_file(
        {"a.weight": make_weight(8, 32), "b.weight": np.ones((4, 4), np.float16)}, tmp_path / "x.safetensors"
    )
    code, out, _ = nmsim(
        "convert", tmp_path / "x.safetensors", "-o", tmp_path / "y", "--to", "sparse-bitmask"
    )
    assert code == 0
    assert "dense -> sparse-bitmask: 2 tensors, 1 of them packed" in out
    assert "left dense: b.weight" in out
    code, out, _ = nmsim("convert", tmp_path / "y", "-o", tmp_path / "z.safetensors", "--json")
    answer = json.loads(out)
    assert (code, answer["source_format"], answer["target_format"]) == (0, "sparse-bitmask", "dense")
    assert {tensor["name"] for tensor in answer["tensors"]} == {"a.weight", "b.weight"}
    code, out, _ = nmsim("convert", "--list", "--json")
    assert [record["name"] for record in json.loads(out)] == list(FORMATS)
    for arguments in ((), (tmp_path / "x.safetensors",)):
        code, _, err = nmsim("convert", *arguments)
        assert code == 2
        assert "given: expected" in err


def test_memory_is_at_most_twice_the_largest_tensor(tmp_path):
    """Peak of a fresh process after conversions of 32 MiB of FP16, less that after the same ones of a small tensor."""
    program = textwrap.dedent(
        """
        import resource, sys
        from nmsim.interchange import convert_checkpoint
        for source in sys.argv[2:]:
            for to in ("sparse-24-bitmask", "sparse-bitmask", "nmsim"):
                convert_checkpoint(source, sys.argv[1], to=to, force=True)
                convert_checkpoint(sys.argv[1], sys.argv[1] + ".safetensors", force=True)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        """
    )
    sources = [tmp_path / "small.safetensors", tmp_path / "large.safetensors"]
    for path, rows in zip(sources, (64, 4096), strict=True):
        weight = np.zeros((rows, 1024, 4), np.float16)
        weight[:, :, 1::2] = np.random.default_rng(0).integers(1, 100, (rows, 1024, 2))
        save_file({"a.weight": weight.reshape(rows, 4096)}, path)
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "out.safetensors", *sources],
        capture_output=True,
        text=True,
        check=True,
    )
    small, large = map(int, answer.stdout.split())
    assert large - small <= 2 * 4096 * 4096 * 2
