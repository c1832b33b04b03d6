"""The example checkpoint: the same every time, honest about itself, and shaped like trained weights."""

import numpy as np
import pytest
from safetensors import safe_open

from nmsim import load_file
from nmsim.errors import NmsimError
from validate.study.example_checkpoint import TINY, ExampleShape, linear_weight, write_example


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first = write_example(tmp_path / "a.safetensors", shape=TINY, seed=3).read_bytes()
    assert write_example(tmp_path / "b.safetensors", shape=TINY, seed=3).read_bytes() == first
    assert write_example(tmp_path / "c.safetensors", shape=TINY, seed=4).read_bytes() != first


def test_it_says_that_it_is_synthetic_to_any_reader(tmp_path):
    path = write_example(tmp_path / "a.safetensors", shape=TINY, seed=7)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["synthetic"].startswith("SYNTHETIC example, not a trained model")
    assert metadata["seed"] == "7"


def test_the_default_is_small_and_has_the_layers_of_a_llama(tmp_path):
    path = write_example(tmp_path / "a.safetensors")
    assert path.stat().st_size < 25_000_000
    tensors = load_file(path)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"bfloat16"}
    shape = ExampleShape()
    for layer in range(shape.layers):
        for name, out_features, in_features in shape.linear().values():
            assert tensors[f"model.layers.{layer}.{name}.weight"].shape == (out_features, in_features)


def test_weights_have_heavy_tails_outlier_channels_and_the_usual_spread():
    weight = linear_weight(np.random.default_rng(0), 1024, 1024).astype(np.float64)
    assert np.sqrt(np.mean(weight**2)) == pytest.approx(1 / 32, rel=1e-3)
    kurtosis = np.mean(weight**4) / np.mean(weight**2) ** 2
    assert kurtosis > 5  # a Gaussian has 3
    channels = np.sqrt(np.mean(weight**2, axis=0))
    outliers = channels > 2.5 * np.median(channels)
    assert 3 <= outliers.sum() <= 20  # 0.5 % of 1024 are 5
    rows = np.sqrt(np.mean(weight**2, axis=1))
    assert 0.15 < np.std(np.log(rows)) < 0.4


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_bad_seed_is_refused(seed, tmp_path):
    with pytest.raises(NmsimError, match="expected an int of 0 or more"):
        write_example(tmp_path / "a.safetensors", seed=seed)
    assert list(tmp_path.iterdir()) == []
