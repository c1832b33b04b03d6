"""Layers that were saved before stay loadable: a committed safetensors file, whose bytes no change of the code may alter."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from kernels import NMLinear, ops  # noqa: E402

FILE = Path(__file__).parents[2] / "golden" / "vectors" / "nm_linear.safetensors"
LAYERS = (
    ("8:16/index", torch.float16),
    ("2:4/bitmask", torch.float32),
    ("3:7/combinatorial", torch.bfloat16),
    ("16:32/combinatorial", torch.float16),
)
ROWS, K = 3, 40


def weight(number, dtype):
    """The dense weight that the file was made of: whole numbers, some of equal magnitude."""
    return (((torch.arange(ROWS * K).reshape(ROWS, K) * 37 + 11 * number) % 101) - 50).to(dtype)


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_a_saved_layer_is_loaded_and_would_be_saved_alike(number):
    format, dtype = LAYERS[number]
    saved = {
        name.removeprefix(f"{number}."): part
        for name, part in load_file(FILE).items()
        if name.startswith(f"{number}.")
    }
    layer = NMLinear(
        ops.compress(weight(number, dtype), format), bias=nn.Parameter(torch.arange(ROWS).to(dtype))
    )
    again = layer.state_dict()
    assert set(again) == set(saved)
    assert all(torch.equal(again[name], part) for name, part in saved.items())
    other = NMLinear(
        ops.compress(torch.zeros(ROWS, K, dtype=dtype), format),
        bias=nn.Parameter(torch.zeros(ROWS, dtype=dtype)),
    )
    other.load_state_dict(saved)
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(other.bias, layer.bias)
