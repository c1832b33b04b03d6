"""Attention and its cache in one step of a model: tokens that are attended to, bytes, multiplications and time.

Attention is dense, whatever pattern the weights have. Its kernel keeps scores on the chip: queries, the cache and the result
are moved once (assumption A56). New keys and values are outputs of linear layers, and are counted there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from hwmodels.chips.designed import ENERGY_COLUMNS
from hwmodels.chips.load import Chip
from hwmodels.chips.predict import predict
from hwmodels.estimate import constants
from hwmodels.estimate.cpu import DENSE_OVERLAP, bandwidth_bytes_per_s
from hwmodels.estimate.estimate import energy_ratio, stream_s
from hwmodels.estimate.library import norm
from hwmodels.machine.chip import chip
from hwmodels.machine.spec import HardwareSpec
from hwmodels.models import Attention, Model, load_model
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import DEFAULT_DTYPE, VALUE_BITS, value_type
from nmsim.errors import SpecError, brief
from nmsim.units import bits_to_bytes, ceil_div

WIDE_BITS = 16
"""Bits from which attention multiplies in the value type of the step. Narrower values are widened to 16 bits (A57)."""
DEPTH_PER_TOKEN = 64
"""Elements of a row per token if attention is a product on a core design: one output for 64 elements read."""
FLOP_PER_STATE_ELEM = 4
"""An element of a state is multiplied and added to twice for each token: when it is updated, and when it is read."""


def attended_pairs(attention: Attention, *, new_tokens: int, context_tokens: int) -> int:
    """Count pairs of a new token and a token that it attends to, for one sequence and one layer.

    Parameters
    ----------
    attention : Attention
    new_tokens : int
        Tokens of the sequence that the step processes, the last ones of its context.
    context_tokens : int
        Tokens of the sequence after the step; 0 counts nothing.

    Returns
    -------
    int

    Source
    ------
    The token at place p = 1, 2, ... of the sequence attends to p tokens. In a window of W tokens it attends to min(p, W),
    in chunks of W tokens to (p - 1) mod W + 1. If an index picks R tokens, it attends to min(p, R).

    Examples
    --------
    >>> attended_pairs(Attention(1, 8, 8, 64), new_tokens=3, context_tokens=5)
    12
    >>> attended_pairs(Attention(1, 8, 8, 64, kind="window", window_tokens=4), new_tokens=3, context_tokens=5)
    11
    """
    return _pairs_up_to(attention, context_tokens) - _pairs_up_to(
        attention, max(context_tokens - new_tokens, 0)
    )


def _pairs_up_to(attention: Attention, tokens: int) -> int:
    """Pairs of the first tokens of a sequence."""
    if attention.kind in ("state", "none"):
        return 0
    if attention.kind == "chunk":
        chunks, rest = divmod(tokens, attention.window_tokens or 1)
        return chunks * _triangle(attention.window_tokens or 1) + _triangle(rest)
    most = min(attention.window_tokens or tokens, attention.read_tokens or tokens, tokens)
    return _triangle(most) + (tokens - most) * most


def _triangle(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


def read_tokens(attention: Attention, *, new_tokens: int, context_tokens: int) -> int:
    """Count tokens of the cache that at least one new token attends to, for one sequence and one layer.

    Examples
    --------
    >>> window = Attention(1, 8, 8, 64, kind="window", window_tokens=4)
    >>> [read_tokens(window, new_tokens=new, context_tokens=100) for new in (1, 3, 100)]
    [4, 6, 100]
    """
    before = max(context_tokens - new_tokens, 0)
    if attention.kind in ("state", "none"):
        return 0
    if attention.kind == "chunk":
        size = attention.window_tokens or 1
        # The first new token attends from the beginning of its own chunk.
        return context_tokens - before // size * size
    found = context_tokens
    if attention.window_tokens is not None:
        found = min(found, context_tokens - before + attention.window_tokens - 1)
    if attention.read_tokens is not None:
        found = min(found, max(context_tokens - before, 1) * attention.read_tokens)
    return found


def kv_cache_bytes(
    model: str | Model, *, context_tokens: int, batch: int = 1, kv_dtype: str = DEFAULT_DTYPE
) -> int:
    """Count the bytes that a model keeps of its sequences: keys and values, latents, and states.

    Parameters
    ----------
    model : str, Path or Model
        As for `hwmodels.load_model`.
    context_tokens : int
        Tokens of each sequence.
    batch : int
        Sequences.
    kv_dtype : str
        Value type of keys, values and latents. States have 16 bits at least.

    Returns
    -------
    int

    Raises
    ------
    SpecError
        No such model, or a number that is no whole number from 0.
    RowError
        An unknown value type.

    Examples
    --------
    >>> kv_cache_bytes("llama-3.1-8b", context_tokens=1), kv_cache_bytes("llama-3.1-8b", context_tokens=1, kv_dtype="fp8")
    (131072, 65536)
    """
    for name, value in (("context_tokens", context_tokens), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SpecError(f"{name}={brief(value)}: expected a whole number, 0 or more")
    bits = VALUE_BITS[value_type(kv_dtype, "kv_dtype")]
    total = 0
    for each in load_model(model).attention:
        kept_bits = each.kept_tokens(context_tokens) * each.kv_elems_per_token * bits
        total += each.count * bits_to_bytes(kept_bits + each.state_elems * max(bits, WIDE_BITS))
    return batch * total


class Work(NamedTuple):
    """What attention of one layer moves and multiplies for a batch."""

    cache_bytes: int
    other_bytes: int
    flop: int

    @property
    def total_bytes(self) -> int:
        """All bytes moved."""
        return self.cache_bytes + self.other_bytes


@dataclass(frozen=True)
class Sequences:
    """Sequences that a step processes together, all alike.

    `new_tokens` are those of each sequence that the step processes, `context_tokens` all of it after the step.
    `absorbed`: MLA multiplies queries with the kept latents, and expands none of them (decode).
    """

    batch: int
    new_tokens: int
    context_tokens: int
    absorbed: bool


def work(attention: Attention, sequences: Sequences, *, kv_bits: int, value_bits: int) -> Work:
    """Count bytes and multiplications of the attention of one layer.

    Parameters
    ----------
    attention : Attention
    sequences : Sequences
    kv_bits : int
        Bits of a value of the cache.
    value_bits : int
        Bits of a value of queries, results and states, 16 or more.

    Returns
    -------
    Work
        Nothing if the context is 0.

    Source
    ------
    `docs/explanation/whole-model.md`. Absorbed MLA: DeepSeek-V2, arXiv 2405.04434, section 2.1: scores are products of
    queries and latents with their rotary part, results are sums of latents.
    """
    if not sequences.context_tokens or attention.kind == "none":
        return Work(0, 0, 0)
    spans = {"new_tokens": sequences.new_tokens, "context_tokens": sequences.context_tokens}
    pairs, read = attended_pairs(attention, **spans), read_tokens(attention, **spans)
    key_elems, result_elems = attention.head_dim, attention.value_head_dim
    token_elems, token_bits = attention.kv_heads * (key_elems + result_elems), kv_bits
    if attention.latent_elems is not None:
        if sequences.absorbed:
            key_elems = token_elems = attention.latent_elems
            result_elems = attention.latent_elems - attention.rotary_elems
        else:
            # Keys and values of all heads were written out by the layer that expands latents.
            token_bits = value_bits
    # An index looks at its keys of every token, also of those that it does not pick.
    indexed_bits = sequences.context_tokens * attention.extra_elems * kv_bits
    moves_of_state = 2 if sequences.context_tokens > sequences.new_tokens else 1
    state_bits = moves_of_state * attention.state_elems * value_bits
    queries = sequences.new_tokens * attention.query_heads
    cache_bytes = bits_to_bytes(read * token_elems * token_bits + indexed_bits + state_bits)
    other_bytes = bits_to_bytes(queries * (key_elems + result_elems) * value_bits)
    flop = 2 * attention.query_heads * (key_elems + result_elems) * pairs
    flop += FLOP_PER_STATE_ELEM * attention.state_elems * sequences.new_tokens
    return Work(sequences.batch * cache_bytes, sequences.batch * other_bytes, sequences.batch * flop)


def attention_name(attention: Attention) -> str:
    """Name a kind of attention in a table.

    Examples
    --------
    >>> attention_name(Attention(1, 8, 8, 64)), attention_name(Attention(1, 8, 8, 64, kind="window", window_tokens=128))
    ('attention', 'attention, window 128')
    """
    if attention.kind == "full":
        return "attention"
    size = "" if attention.window_tokens is None else f" {attention.window_tokens}"
    return f"attention, {attention.kind}{size}"


def attention_dtype(chip: Chip, dtype: str) -> str:
    """Choose the value type that attention multiplies in: that of the step, or a 16-bit one if the step has a narrower.

    Examples
    --------
    >>> from hwmodels.machine.spec import load_machine
    >>> attention_dtype(load_machine("h200"), "fp8"), attention_dtype(load_machine("h200"), "fp16")
    ('bf16', 'fp16')
    """
    if VALUE_BITS[dtype] >= WIDE_BITS:
        return dtype
    taken = chip.dense_peak_flop_per_s if isinstance(chip, HardwareSpec) else chip.dtypes
    return next((wide for wide in ("bf16", "fp16") if wide in taken), dtype)


class Seconds(NamedTuple):
    """Time of a dense kernel that reads its operands once, and the least times of its bytes and its multiplications."""

    time_s: float
    memory_s: float
    matrix_s: float

    @property
    def bound_time_s(self) -> float:
        """Least time."""
        return max(self.memory_s, self.matrix_s)

    @property
    def limit(self) -> str:
        """Stage that takes longest."""
        return "memory" if self.memory_s >= self.matrix_s else "matrix"


def attention_s(amount: Work, spec: HardwareSpec, dtype: str, *, threads: int = 0) -> Seconds:
    """Estimate the attention of one layer.

    Parameters
    ----------
    amount : Work
    spec : HardwareSpec
    dtype : str
        Value type that it multiplies in; the machine has a peak for it.
    threads : int
        Cores of a CPU that work; 0 for all.

    Returns
    -------
    Seconds
        Zero if there is nothing to do.

    Source
    ------
    Assumption A57. A GPU reaches the share of its bandwidth that a matrix-vector product reaches. It reaches the share of
    its peak that a dense library reaches. A CPU reads from DRAM and multiplies on its vector lanes.
    """
    if not amount.total_bytes and not amount.flop:
        return Seconds(0.0, 0.0, 0.0)
    bandwidth = float(spec.dram_bandwidth_bytes_per_s.value)
    peak = float(spec.dense_peak_flop_per_s[dtype].value)
    read_s, multiplied_s = amount.total_bytes / bandwidth, amount.flop / peak
    if spec.family == "gpu":
        values, device = constants.load(), chip(spec)
        launch_s = values.library_launch_s
        streamed_s = stream_s(amount.total_bytes, False, device, values, fused=False) - launch_s
        joules = amount.flop * float(energy_ratio(VALUE_BITS[dtype], dtype == "fp32", values))
        joules *= values.tensor_energy_joules_per_flop * device.process_energy_scale
        worked_s = multiplied_s / values.matrix_share
        return Seconds(
            launch_s + float(norm(streamed_s, worked_s, joules / device.power_watts)), read_s, multiplied_s
        )
    cores = int(spec.cores.value)
    used = min(threads or cores, cores)
    rate = float(bandwidth_bytes_per_s(spec, amount.total_bytes, used, False))
    worked_s = amount.flop / float(spec.vector_peak_flop_per_s.value) * cores / used
    overheads = (spec.sparse_call_overhead_s, spec.thread_wake_s if used > 1 else None)
    called_s = sum(float(known.value) for known in overheads if known)
    both_s = ((amount.total_bytes / rate) ** DENSE_OVERLAP + worked_s**DENSE_OVERLAP) ** (1 / DENSE_OVERLAP)
    return Seconds(called_s + float(both_s), read_s, multiplied_s)


class Energetic(NamedTuple):
    """Attention of one layer: its time, and joules, low, nominal, high; NaN if they are not known."""

    seconds: Seconds
    joules: tuple[float, float, float]


def attention_on_design(amounts: Sequence[Work], core: SparseTensorCore, dtype: str) -> list[Energetic]:
    """Predict attention of some layers on a core design.

    Each is taken for a dense product (assumption A70). What is kept of the sequences is its weights, and as many tokens meet
    them as make the multiplications of attention. Weights are cut into rows of `DEPTH_PER_TOKEN` elements per token, or
    square ones if that is less. So what the product reads and writes beside its weights stays small, as scores stay on the
    chip, and there are rows for all cores.

    Parameters
    ----------
    amounts : sequence of Work
    core : SparseTensorCore
    dtype : str
        Value type that it multiplies in, which the core takes.

    Returns
    -------
    list of Energetic
        Zeros if there is nothing to do.
    """
    lines = []
    for amount in amounts:
        elems = max(1, 8 * amount.cache_bytes // VALUE_BITS[dtype])
        tokens = max(1, round(amount.flop / (2 * elems)))
        depth = max(1, min(math.isqrt(elems), DEPTH_PER_TOKEN * tokens))
        lines.append((tokens, ceil_div(elems, depth), depth))
    asked = pd.DataFrame(lines, columns=["M", "N", "K"]).assign(dtype=dtype, pattern=None)
    found = predict(asked, core)
    times = found[["predicted_time_s", "bound_memory_s", "bound_matrix_s"]].to_numpy().tolist()
    joules = found[list(ENERGY_COLUMNS)].to_numpy().tolist()
    nothing = Energetic(Seconds(0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    return [
        Energetic(Seconds(*of_time), (low, nominal, high)) if amount.total_bytes or amount.flop else nothing
        for amount, of_time, (low, nominal, high) in zip(amounts, times, joules, strict=True)
    ]


def attention_on(amounts: Sequence[Work], chip: Chip, dtype: str, *, threads: int = 0) -> list[Energetic]:
    """Predict attention of some layers on any chip: by `attention_s` or `attention_on_design`."""
    if isinstance(chip, HardwareSpec):
        unknown = (math.nan, math.nan, math.nan)
        return [Energetic(attention_s(each, chip, dtype, threads=threads), unknown) for each in amounts]
    return attention_on_design(amounts, chip, dtype)
