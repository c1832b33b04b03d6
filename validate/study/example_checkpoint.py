"""An example checkpoint: random weights with the statistics of a trained transformer.

**Synthetic.** Nobody has trained it and it computes nothing. It imitates what matters to pruning: tails heavier than
a Gaussian's, rows of different scale, and a few input channels much larger than the others. The spread is about
1/sqrt(fan in). The same seed gives the same bytes with the same numpy.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nmsim.errors import NmsimError, brief
from nmsim.files.container import save_file

FILE_NAME = "example.safetensors"
STATEMENT = (
    "SYNTHETIC example, not a trained model: random weights with heavy tails, outlier input channels and row scales, "
    "made by nmsim validate.example_checkpoint"
)

TAIL_DEGREES = {"q": 4.0, "k": 4.0, "v": 7.0, "o": 6.0, "gate": 7.0, "up": 8.0, "down": 5.0}
"""Degrees of freedom of each layer's Student t distribution: fewer, heavier tails. Chosen, not measured."""


@dataclass(frozen=True)
class ExampleShape:
    """A small stack in Llama's layout. The defaults have 9.9 million parameters, 20 MB in bf16."""

    layers: int = 2
    hidden: int = 640
    intermediate: int = 1728
    kv_width: int = 128
    vocab: int = 2048

    def linear(self) -> dict[str, tuple[str, int, int]]:
        """Short name -> (name in the file, out features, in features)."""
        return {
            "q": ("self_attn.q_proj", self.hidden, self.hidden),
            "k": ("self_attn.k_proj", self.kv_width, self.hidden),
            "v": ("self_attn.v_proj", self.kv_width, self.hidden),
            "o": ("self_attn.o_proj", self.hidden, self.hidden),
            "gate": ("mlp.gate_proj", self.intermediate, self.hidden),
            "up": ("mlp.up_proj", self.intermediate, self.hidden),
            "down": ("mlp.down_proj", self.hidden, self.intermediate),
        }


TINY = ExampleShape(layers=1, hidden=64, intermediate=96, kv_width=32, vocab=64)
"""For tests: 31 thousand parameters."""


def linear_weight(
    rng: np.random.Generator,
    out_features: int,
    in_features: int,
    *,
    tail_degrees: float = 6.0,
    row_spread: float = 0.25,
    channel_spread: float = 0.15,
    outlier_share: float = 0.005,
) -> NDArray[np.float32]:
    """Draw one weight matrix.

    Parameters
    ----------
    rng : Generator
    out_features, in_features : int
    tail_degrees : float, above 2
        Degrees of freedom of the Student t distribution.
    row_spread, channel_spread : float
        Standard deviation of the logarithm of the scale of rows and of input channels.
    outlier_share : float
        Share of input channels (at least one) that are 3 to 8 times larger.

    Returns
    -------
    float32 array [out_features, in_features]
        Root mean square about 1/sqrt(in_features).

    Source
    ------
    Assumed shapes of distributions; the parameters are chosen, not fitted to a model.

    Examples
    --------
    >>> weight = linear_weight(np.random.default_rng(0), 64, 256)
    >>> weight.shape, weight.dtype
    ((64, 256), dtype('float32'))
    """
    shape = (out_features, in_features)
    weight = rng.standard_t(tail_degrees, shape) / math.sqrt(tail_degrees / (tail_degrees - 2))
    channels = np.exp(channel_spread * rng.standard_normal(in_features))
    outliers = rng.choice(in_features, max(1, round(outlier_share * in_features)), replace=False)
    channels[outliers] *= rng.uniform(3, 8, len(outliers))
    weight *= channels
    weight *= np.exp(row_spread * rng.standard_normal((out_features, 1)))
    weight /= math.sqrt(in_features) * np.sqrt(np.mean(np.square(weight)))
    return weight.astype(np.float32)


def write_example(path: str | os.PathLike[str], *, seed: int = 0, shape: ExampleShape | None = None) -> Path:
    """Write the example checkpoint, in bf16, as an ordinary safetensors file that says it is synthetic.

    Parameters
    ----------
    path : path
        Replaced when it exists.
    seed : int, 0 or more
    shape : ExampleShape, optional

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    NmsimError
        A seed that is no such int.
    ContainerError
        The path cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from nmsim import load_file
    >>> path = write_example(Path(tempfile.mkdtemp()) / "tiny.safetensors", shape=TINY)
    >>> load_file(path)["model.layers.0.mlp.up_proj.weight"].shape
    (96, 64)
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise NmsimError(f"seed={brief(seed)} (type {type(seed).__name__}): expected an int of 0 or more")
    size = shape or ExampleShape()
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {
        "model.embed_tokens.weight": _bf16(0.02 * rng.standard_t(6.0, (size.vocab, size.hidden)))
    }
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] = _norm(rng, size.hidden)
        for short, (name, out_features, in_features) in size.linear().items():
            weight = linear_weight(rng, out_features, in_features, tail_degrees=TAIL_DEGREES[short])
            tensors[f"{prefix}.{name}.weight"] = _bf16(weight)
        tensors[f"{prefix}.post_attention_layernorm.weight"] = _norm(rng, size.hidden)
    tensors["model.norm.weight"] = _norm(rng, size.hidden)
    entries = {"format": "pt", "synthetic": STATEMENT, "seed": str(seed)}
    save_file(tensors, path, metadata=entries)
    return Path(path)


def _norm(rng: np.random.Generator, width: int) -> NDArray[Any]:
    return _bf16(np.exp(0.2 * rng.standard_normal(width)))


def _bf16(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32).astype(ml_dtypes.bfloat16)
