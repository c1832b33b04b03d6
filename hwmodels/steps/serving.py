"""A step of a quantised model in a serving engine: linear layers with their passes, attention, sampling, and the host.

`hwmodels.step` counts linear layers and attention. An engine does more: it quantises activations before each product and
scales its sums after it, normalises, samples, and prepares each step on the host. All of that is the same for a dense and a
pruned model, or nearly so. It therefore moves the speedup of the whole towards 1.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.chips.predict import predict
from hwmodels.estimate.constants import Prior, read_fitted
from hwmodels.estimate.families import predict_rows
from hwmodels.estimate.intervals import PREFILL_TOKENS
from hwmodels.estimate.library import norm
from hwmodels.estimate.passes import (
    WIDE_BYTES,
    load_passes,
    moved_s,
    quantise_s,
    window_ratio,
)
from hwmodels.machine.libraries import weak_baseline
from hwmodels.machine.spec import HardwareSpec, group_of, load_machine
from hwmodels.models import Model, load_model
from hwmodels.steps.attention import Sequences, attention_s, work
from hwmodels.steps.fusion import Launch, fused
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError

SERVING_FILE = Path(__file__).parents[1] / "data" / "serving.toml"
GRID = tuple(sorted([*(2**power for power in range(17)), 48, 96, 192, 384, 768, 1536, 3072]))
"""Tokens that linear layers are predicted for; between them, times are interpolated on logarithmic scales."""
SUM_BYTES = {("int8", True): 4}
"""(Value type, dense) -> bytes of a sum that a product writes, if they are not 2. Of 8-bit integers, cuBLASLt writes sums
of 32 bits only. The source is SlideSparse, https://github.com/bcacdwk/vllmbench.
"""
STANDS_IN = {"int8": "fp8"}
"""Value type whose dense library is weak -> the type of equal width whose library an engine's products are as fast as (A65)."""
SAMPLED_BYTES = 32
"""Bytes moved per sequence and word of the vocabulary: logits become 32 bits, then chances, noise and their greatest (A63)."""
NORM_TENSORS, GATED_TENSORS = 8, 3
"""Tensors of the width of the model that two norms with their sums move. Tensors of the inner width that an activation
function with its gate moves (A63)."""
PASSES_PER_LINEAR, OTHER_KERNELS = 2, 5
"""Kernels beside a product, and of a model layer beside its linear layers: attention, two norms, rotation, activation (A63)."""
CAPTURED_PER_SEQUENCE, MOST_CAPTURED = 2, 512
"""A step of so many tokens is replayed from a CUDA graph: twice the sequences, at most 512 (vLLM 0.13, `CompilationConfig`)."""


class ServingConstants(NamedTuple):
    """Values of the constants of a serving engine, in the base units of `SERVING_PRIORS`."""

    step_s: float
    sequence_s: float
    kernel_launch_s: float
    captured_kernel_s: float
    prompt_token_s: float


SERVING_PRIORS: Mapping[str, Prior] = {
    "step_s": Prior(1e-3, 0.1e-3, 10e-3, "s", "an engine schedules a step, and hands tokens out, in about a millisecond"),
    "sequence_s": Prior(10e-6, 1e-6, 100e-6, "s", "a sequence of a step is a few Python objects on the host"),
    "kernel_launch_s": Prior(50e-6, 5e-6, 400e-6, "s", "an operator of a framework, called from Python, without a CUDA graph"),
    "captured_kernel_s": Prior(2e-6, 0.5e-6, 10e-6, "s", "a kernel of a graph begins when the one before has drained"),
    "prompt_token_s": Prior(2e-6, 0.2e-6, 20e-6, "s", "a prompt is split into words on the host, beside the device"),
}  # fmt: skip
"""Constant -> what was assumed of it, with some of the runs in view."""


@functools.cache
def load_serving(held_out: str | None = None) -> ServingConstants:
    """Load the constants of a serving engine, fitted to all runs or without one group of machines."""
    return ServingConstants(**read_fitted(SERVING_FILE, ServingConstants._fields, held_out))


def prior_serving() -> ServingConstants:
    """What the constants of an engine are before they are fitted."""
    return ServingConstants(**{name: entry.value for name, entry in SERVING_PRIORS.items()})


@dataclass(frozen=True)
class Steps:
    """Steps of a run, an array entry each.

    `decoded`: sequences that get their next token. `admitted`: sequences whose prompts are processed. `count`: how many
    steps are like that. `captured`: replayed from a CUDA graph.
    """

    decoded: NDArray[np.int64]
    admitted: NDArray[np.int64]
    count: NDArray[np.int64]
    captured: NDArray[np.bool_]
    prompt_tokens: int
    context_tokens: int

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Rows of X of each step."""
        return self.decoded + self.admitted * self.prompt_tokens

    @property
    def sequences(self) -> NDArray[np.int64]:
        """Sequences that get a token in each step."""
        return self.decoded + self.admitted


class Served:
    """A quantised model in a serving engine on a machine, with all linear layers but the head pruned alike.

    Parameters
    ----------
    model : str, Path or Model
    hardware : str, Path or HardwareSpec
        A GPU.
    dtype : str
        `int8` or `fp8`, of weights and activations.
    pattern : str or None
        `2:4`, (2L-2):2L for sliding windows of it, or None for the dense model.
    held_out : bool
        Use constants that were fitted without this group of machines.

    Raises
    ------
    SpecError
        No such model or machine, or a machine that is no GPU.
    RowError
        A value type or a pattern that no such kernel takes.

    Examples
    --------
    >>> sparse, dense = (Served("llama-3.2-1b", "h100-pcie", dtype="fp8", pattern=each) for each in ("2:4", None))
    >>> bool(sparse.linear_s(8192) < dense.linear_s(8192))
    True
    """

    def __init__(
        self,
        model: str | Path | Model,
        hardware: str | Path | HardwareSpec,
        *,
        dtype: str,
        pattern: str | None,
        held_out: bool = False,
    ) -> None:
        self.model, self.spec, self.dtype, self.pattern = (
            load_model(model),
            load_machine(hardware),
            dtype,
            pattern,
        )
        if self.spec.family != "gpu":
            raise SpecError(f"machine {self.spec.id}: expected a GPU")
        group = group_of(self.spec.id) if held_out else None
        self.held_out, self.passes = held_out, load_passes(group)
        self.windows, self.sum_bytes = (
            window_ratio(pattern),
            SUM_BYTES.get((dtype, pattern is None), WIDE_BYTES),
        )
        layers = [layer for layer in self.model.layers if layer.role != "head"]
        self.launches = fused(layers, ("qkv", "gate_up"))
        self.head = next(layer for layer in self.model.layers if layer.role == "head")
        self._linear = _linear_table(self, tuple(self.launches))
        self._head = predict(
            pd.DataFrame({"M": GRID, "N": self.head.N, "K": self.head.K, "dtype": "bf16"}), self.spec
        )["predicted_dense_time_s"].to_numpy()

    def linear_s(self, tokens: Any) -> Any:
        """Seconds of the products of all model layers, without the head."""
        return _between(tokens, self._linear)

    def head_s(self, sequences: Any) -> Any:
        """Seconds of the head, dense in 16 bits, for the last token of each sequence."""
        return _between(np.maximum(sequences, 1), self._head)

    def passes_s(self, tokens: Any) -> Any:
        """Seconds of what is done to activations: quantisation, sums scaled to 16 bits, norms, rotation, activation."""
        total_s: Any = 0.0
        for launch in self.launches:
            layer, count = launch.layer, launch.layer.places * launch.layer.reads
            total_s += count * quantise_s(tokens, layer.K, self.spec, self.passes, windows=self.windows)
            # The product itself is predicted with 16-bit outputs: wider sums are written once more and read once.
            scaled = self.sum_bytes + WIDE_BYTES + (self.sum_bytes - WIDE_BYTES)
            total_s += count * moved_s(tokens * layer.N * float(scaled), self.spec, self.passes)
        return total_s + moved_s(tokens * self._other_bytes(), self.spec, self.passes)

    def _other_bytes(self) -> float:
        """Bytes per token of norms, rotation and activation functions of all model layers."""
        total = 0.0
        for attention in self.model.attention:
            rotated = (attention.query_heads + attention.kv_heads) * attention.head_dim
            total += attention.count * (NORM_TENSORS * self.head.K + 2 * rotated)
        inner = sum(
            launch.layer.places * launch.layer.K for launch in self.launches if launch.layer.name == "down"
        )
        return WIDE_BYTES * (total + GATED_TENSORS * inner)

    def sampling_s(self, sequences: Any) -> Any:
        """Seconds of the choice of the next token of each sequence."""
        return moved_s(sequences * float(SAMPLED_BYTES * self.head.N), self.spec, self.passes)

    def attention_s(self, sequences: int, new_tokens: int, context_tokens: int) -> float:
        """Seconds of the attention of all model layers, in 16 bits."""
        if not sequences:
            return 0.0
        asked = Sequences(sequences, new_tokens, context_tokens, absorbed=new_tokens == 1)
        return math.fsum(
            each.count * attention_s(work(each, asked, kv_bits=16, value_bits=16), self.spec, "bf16").time_s
            for each in self.model.attention
        )

    @property
    def kernels(self) -> int:
        """Kernels of a step that are no product: passes, attention, norms."""
        layers = sum(attention.count for attention in self.model.attention)
        linear = sum(launch.layer.places * launch.layer.reads for launch in self.launches)
        return PASSES_PER_LINEAR * linear + OTHER_KERNELS * layers

    @property
    def operators(self) -> int:
        """Operators that the host launches in a step without a CUDA graph: the products as well."""
        return self.kernels + sum(launch.layer.places * launch.layer.reads for launch in self.launches)

    def device_s(self, steps: Steps) -> NDArray[np.float64]:
        """Seconds of the device in each step, without the gaps between kernels."""
        attended = [
            self.attention_s(int(decoded), 1, steps.context_tokens)
            + self.attention_s(int(admitted), steps.prompt_tokens, steps.prompt_tokens)
            for decoded, admitted in zip(steps.decoded, steps.admitted, strict=True)
        ]
        found = self.linear_s(steps.tokens) + self.passes_s(steps.tokens) + np.array(attended)
        return np.asarray(found + self.head_s(steps.sequences) + self.sampling_s(steps.sequences))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights: linear layers as stored, head and embeddings in 16 bits."""
        bits = VALUE_BITS[self.dtype]
        stored_bits = bits if self.pattern is None else (2 * bits + 4) / 4 * self.windows
        linear = sum(launch.layer.places * launch.layer.N * launch.layer.K for launch in self.launches)
        return round(linear * stored_bits / 8) + WIDE_BYTES * (self.model.total_elems - linear)


def _between(tokens: Any, times_s: NDArray[np.float64]) -> Any:
    return np.exp(np.interp(np.log(tokens), np.log(GRID), np.log(times_s)))


def _linear_table(served: Served, launches: tuple[Launch, ...]) -> NDArray[np.float64]:
    """Times of all products for each of `GRID`, as the kernels of others are judged."""
    found = _products_s(served, launches, served.dtype)
    weak = served.pattern is None and weak_baseline(served.spec.generation, served.dtype)
    other = STANDS_IN.get(served.dtype, "")
    # Products alone are slow in a weak type, whole runs are not, as far as the rate counts: at many tokens.
    if weak and other in served.spec.dense_peak_flop_per_s:
        many = np.array(GRID) >= PREFILL_TOKENS
        found = np.where(many, np.minimum(found, _products_s(served, launches, other)), found)
    return found


def _products_s(served: Served, launches: tuple[Launch, ...], baseline_dtype: str) -> NDArray[np.float64]:
    sizes = [(launch.layer.N, launch.layer.K) for launch in launches]
    table = pd.DataFrame([(tokens, n, k) for tokens in GRID for n, k in sizes], columns=["M", "N", "K"])
    # The dense baseline does not depend on the pattern that it is compared with.
    pattern = served.pattern or "2:4"
    kept, of = (int(part) for part in pattern.split(":"))
    asked = table.assign(
        dtype=served.dtype, baseline_dtype=baseline_dtype, pattern=pattern, density=kept / of, l2_state="",
        kernel_family="library" if pattern == "2:4" else "sliding",
    )  # fmt: skip
    side = "dense" if served.pattern is None else "sparse"
    times = predict_rows(asked, served.spec, held_out=served.held_out)[f"predicted_{side}_time_s"].to_numpy()
    counts = np.array([launch.layer.places * launch.layer.reads for launch in launches], float)
    return np.asarray((times.reshape(len(GRID), len(sizes)) * counts).sum(axis=1))


def run_s(
    device_s: Any,
    steps: Steps,
    *,
    kernels: float,
    operators: float,
    request_prompts: float,
    values: ServingConstants,
) -> float:
    """Put the steps of a run together: the device, the host, and prompts that are read in beside both.

    Parameters
    ----------
    device_s : array [steps]
        From `Served.device_s`.
    steps : Steps
    kernels, operators : float
        From `Served`.
    request_prompts : float
        Tokens of the prompts of all requests.
    values : ServingConstants

    Returns
    -------
    float
        Seconds of the run.

    Source
    ------
    Without a CUDA graph the host launches all operators of a step beside the device, and the slower of both counts. Between
    steps the device waits for the host. Prompts are read in by another process.
    """
    busy_s = device_s + kernels * values.captured_kernel_s
    launched_s = np.where(steps.captured, 0.0, operators * values.kernel_launch_s)
    each_s = norm(busy_s, launched_s) + values.step_s + values.sequence_s * steps.sequences
    return float(norm((steps.count * each_s).sum(), request_prompts * values.prompt_token_s))
