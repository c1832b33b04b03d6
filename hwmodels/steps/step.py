"""One step of a whole model on a chip: its linear layers, its attention, and what stays dense of it.

A step is one token of each sequence (decode) or the prompts themselves (prefill). Times of linear layers are those of
`hwmodels.predict`. Embedding look-ups, norms, activation functions, softmax, residual sums and sampling are not counted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from hwmodels.chips.designed import DENSE_ENERGY_COLUMNS, ENERGY_COLUMNS
from hwmodels.chips.load import Chip, load_chip
from hwmodels.chips.predict import predict
from hwmodels.estimate.bounds import STAGES, output_bits_of
from hwmodels.estimate.table import MAX_DIMENSION, format_cells
from hwmodels.machine.spec import HardwareSpec
from hwmodels.models import Attention, Model, load_model
from hwmodels.steps.attention import (
    WIDE_BITS,
    Sequences,
    attention_dtype,
    attention_name,
    attention_on,
    kv_cache_bytes,
    work,
)
from hwmodels.steps.experts import grouped
from hwmodels.steps.fusion import Launch, fused
from nmsim.case import DEFAULT_DTYPE, DEFAULT_PHASE, VALUE_BITS, Phase, SparseOperand, value_type
from nmsim.errors import RowError, SpecError, brief
from nmsim.format import FormatLike, SparseFormat, as_format

EXTRAPOLATED_SHARE = 0.1
"""A model extrapolates if layers that do so take more than this share of its time."""
NEGLECTED = "embedding look-ups, norms, activation functions, softmax, residual sums and sampling"
"""What takes no time here."""
ATTENTION_ROLE = "attention_cache"
"""Role of a row of attention; those of linear layers are `hwmodels.models.ROLES`."""
REMAINDERS = {
    ATTENTION_ROLE: "attention and KV cache",
    "head": "output head",
    "router": "routers",
}
"""Role of a row that stays dense, and the name of its part of the remainder; `OTHER` for the rest."""
OTHER = "other dense layers"


class Joules(NamedTuple):
    """Energy with its range; NaN if it is not known, as on a machine."""

    low: float
    nominal: float
    high: float


UNKNOWN = Joules(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class StepRow:
    """A linear layer or the attention of a step, all of its kind together.

    Times in seconds, joules and bytes are those of all of them. `count`: model layers. `experts`: products of each, the experts
    that the batch reaches. `tokens`: rows of X of one product, in the mean. N and K are 0 for attention. `low` and
    `high` are the ends of the speedup of one product, as in `hwmodels.Prediction`; 1 for what stays dense.
    """

    name: str
    role: str
    pruned: bool
    count: int
    experts: float
    tokens: float
    N: int
    K: int
    dtype: str
    time_s: float
    dense_time_s: float
    speedup_low: float
    speedup_high: float
    extrapolates: bool
    bound_time_s: float
    bound_dense_time_s: float
    moved_bytes: int
    dense_moved_bytes: int
    limit: str
    joules: Joules
    dense_joules: Joules

    @property
    def speedup_vs_dense(self) -> float:
        """Speedup of this row alone; 1 if it takes no time."""
        return self.dense_time_s / self.time_s if self.time_s else 1.0


@dataclass(frozen=True)
class Remainder:
    """A part of a step that stays dense: its time in seconds, and its share of the time of the pruned step."""

    name: str
    time_s: float
    share: float


@dataclass(frozen=True)
class Step:
    """A step of a whole model on a machine.

    Attributes
    ----------
    model, hardware : str
    format : SparseFormat or None
        Of the pruned layers.
    phase : {"decode", "prefill"}
    batch, new_tokens, context_tokens : int
        Sequences; tokens of each that the step processes; tokens of each after the step.
    kv_dtype, attention_dtype : str
        Value types of the cache, and of the products of attention.
    cache_bytes : int
        What the model keeps of all sequences after the step.
    rows : tuple of StepRow
        Linear layers in the order of the model, then attention.
    notes : tuple of str
        What was taken from the model or assumed. Meant for the user.
    """

    model: str
    hardware: str
    format: SparseFormat | None
    sparse_operand: SparseOperand
    phase: Phase
    batch: int
    new_tokens: int
    context_tokens: int
    kv_dtype: str
    attention_dtype: str
    cache_bytes: int
    rows: tuple[StepRow, ...]
    notes: tuple[str, ...]

    def _sum(self, field: str, rows: Sequence[StepRow] | None = None) -> Any:
        values = [getattr(row, field) for row in (self.rows if rows is None else rows)]
        return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)

    @property
    def linear_rows(self) -> tuple[StepRow, ...]:
        """Rows of linear layers, pruned or not."""
        return tuple(row for row in self.rows if row.role != ATTENTION_ROLE)

    @property
    def attention_rows(self) -> tuple[StepRow, ...]:
        """Rows of attention, one for each kind of it."""
        return tuple(row for row in self.rows if row.role == ATTENTION_ROLE)

    @property
    def time_s(self) -> float:
        """Time of the step with pruned layers."""
        return float(self._sum("time_s"))

    @property
    def dense_time_s(self) -> float:
        """Time of the step of the dense model."""
        return float(self._sum("dense_time_s"))

    @property
    def speedup_vs_dense(self) -> float:
        """Speedup of the whole model."""
        return self.dense_time_s / self.time_s

    @property
    def linear_time_s(self) -> float:
        """Time of all linear layers, pruned or not."""
        return float(self._sum("time_s", self.linear_rows))

    @property
    def linear_dense_time_s(self) -> float:
        """The same in the dense model."""
        return float(self._sum("dense_time_s", self.linear_rows))

    @property
    def linear_speedup_vs_dense(self) -> float:
        """Speedup of the linear layers alone, the output head among them."""
        return self.linear_dense_time_s / self.linear_time_s

    @property
    def attention_time_s(self) -> float:
        """Time of attention, the same in both models."""
        return float(self._sum("time_s", self.attention_rows))

    @property
    def speedup_low(self) -> float:
        """Low end of the range of `speedup_vs_dense`: all layers err alike, attention does not. NaN if not known."""
        return self._end("speedup_low")

    @property
    def speedup_high(self) -> float:
        """High end of that range."""
        return self._end("speedup_high")

    def _end(self, field: str) -> float:
        # As for a study: the mean of the layers' half-widths on a logarithmic scale, weighted by time.
        widths = [
            row.time_s * math.log(getattr(row, field) / row.speedup_vs_dense) for row in self.linear_rows
        ]
        return self.speedup_vs_dense * math.exp(math.fsum(widths) / self.time_s)

    @property
    def extrapolates(self) -> bool:
        """Whether layers without comparable measurements take more than `EXTRAPOLATED_SHARE` of the time."""
        times = [row.time_s for row in self.rows if row.extrapolates]
        return math.fsum(times) > EXTRAPOLATED_SHARE * self.time_s

    @property
    def bound_time_s(self) -> float:
        """Least time of the step with pruned layers, as the machine's numbers allow."""
        return float(self._sum("bound_time_s"))

    @property
    def bound_dense_time_s(self) -> float:
        """Least time of the dense step."""
        return float(self._sum("bound_dense_time_s"))

    @property
    def bound_speedup_vs_dense(self) -> float:
        """Quotient of both: a ratio of two bounds, and no bound of the speedup."""
        return self.bound_dense_time_s / self.bound_time_s

    @property
    def moved_bytes(self) -> int:
        """Bytes from and to DRAM of the step with pruned layers."""
        return int(self._sum("moved_bytes"))

    @property
    def dense_moved_bytes(self) -> int:
        """Bytes from and to DRAM of the dense step."""
        return int(self._sum("dense_moved_bytes"))

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all sequences that the step processes, per second."""
        return self.batch * self.new_tokens / self.time_s

    @property
    def limit(self) -> str:
        """Stage that limits the rows with the most time, as `hwmodels.Prediction` names it."""
        stages = list(dict.fromkeys((*STAGES, *(row.limit for row in self.rows))))
        times = {stage: math.fsum(row.time_s for row in self.rows if row.limit == stage) for stage in stages}
        return max(stages, key=lambda stage: times[stage])

    @property
    def joules(self) -> Joules:
        """Energy of the step with pruned layers; its range is the widest, as if all rows erred together."""
        return self._joules("joules")

    @property
    def dense_joules(self) -> Joules:
        """Energy of the dense step."""
        return self._joules("dense_joules")

    def _joules(self, field: str) -> Joules:
        return Joules(
            *(math.fsum(ends) for ends in zip(*(getattr(row, field) for row in self.rows), strict=True))
        )

    @property
    def remainder(self) -> tuple[Remainder, ...]:
        """What stays dense, largest first, with its share of the time of the pruned step."""
        times: dict[str, float] = {}
        for row in self.rows:
            if not row.pruned and row.time_s:
                name = REMAINDERS.get(row.role, OTHER)
                times[name] = times.get(name, 0.0) + row.time_s
        parts = sorted(times.items(), key=lambda part: -part[1])
        return tuple(Remainder(name, time_s, time_s / self.time_s) for name, time_s in parts)

    @property
    def remainder_share(self) -> float:
        """Share of the time of the pruned step that stays dense."""
        return math.fsum(part.share for part in self.remainder)

    @property
    def ceiling_speedup_vs_dense(self) -> float:
        """Speedup if the pruned layers took no time at all; infinite if nothing stays dense."""
        dense_s = math.fsum(part.time_s for part in self.remainder)
        return self.dense_time_s / dense_s if dense_s else math.inf

    def table(self) -> pd.DataFrame:
        """The rows as a table, with the columns of `StepRow` and `speedup_vs_dense`."""
        return pd.DataFrame([_cells(row) | {"speedup_vs_dense": row.speedup_vs_dense} for row in self.rows])

    def record(self) -> dict[str, Any]:
        """All of it as plain values for JSON; a number that is not known, or not finite, is None."""
        names = (
            "model", "hardware", "sparse_operand", "phase", "batch", "new_tokens", "context_tokens", "kv_dtype",
            "attention_dtype", "cache_bytes", "time_s", "dense_time_s", "speedup_vs_dense", "speedup_low",
            "speedup_high", "linear_time_s", "linear_dense_time_s", "linear_speedup_vs_dense", "attention_time_s",
            "bound_time_s", "bound_dense_time_s", "bound_speedup_vs_dense", "ceiling_speedup_vs_dense", "moved_bytes",
            "dense_moved_bytes", "tokens_per_s", "limit", "remainder_share", "extrapolates",
        )  # fmt: skip
        found: dict[str, Any] = {name: _plain(getattr(self, name)) for name in names}
        found["format"] = str(self.format) if self.format else "dense"
        found["remainder"] = [asdict(part) for part in self.remainder]
        for name in ("joules", "dense_joules"):
            found |= {key: _plain(cell) for key, cell in _ends(name, getattr(self, name)).items()}
        found["rows"] = [{name: _plain(cell) for name, cell in _cells(row).items()} for row in self.rows]
        return found | {"neglected": NEGLECTED, "notes": list(self.notes)}


def _cells(row: StepRow) -> dict[str, Any]:
    """A row as plain values."""
    found = asdict(row)
    for name in ("joules", "dense_joules"):
        found |= _ends(name, found.pop(name))
    return found


def _ends(name: str, joules: Joules) -> dict[str, float]:
    return {
        name.replace("joules", f"energy_joules{end}"): value
        for end, value in zip(("_low", "", "_high"), joules, strict=True)
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def step(
    model: str | Path | Model,
    hardware: str | Path | Chip,
    *,
    format: FormatLike | None = None,
    phase: Phase = DEFAULT_PHASE,
    batch: int = 1,
    context_tokens: int,
    new_tokens: int | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    sparse_operand: SparseOperand = "weights",
    output_dtype: str | None = None,
    fuse: Iterable[str] = (),
    expert_shares: Sequence[float] | None = None,
    threads: int = 0,
) -> Step:
    """Predict a step of a whole model: linear layers, experts, attention and KV cache.

    Parameters
    ----------
    model : str, Path or Model
        As for `hwmodels.load_model`.
    hardware : str, Path, HardwareSpec or SparseTensorCore
        As for `hwmodels.load_chip`.
    format : SparseFormat, Pattern, text, or None
        How the pruned layers are stored; None or `"dense"` for the dense model.
    phase : {"decode", "prefill"}
    batch : int
        Sequences that are processed together.
    context_tokens : int
        Tokens of each sequence after the step, those that a last token attends to. 0: attention is not counted.
    new_tokens : int, optional
        Tokens of each sequence that the step processes. By default 1 in decode, and the whole context in prefill.
    dtype : str, optional
        Value type of all linear layers. By default each layer has the type that the model says, else bf16. On a core design
        that does not take that type it is the first that it takes, and a note says so.
    kv_dtype : str, optional
        Value type of the cache. By default that of the products of attention, which has 16 bits or more.
    sparse_operand : {"weights", "activations"}
    output_dtype : str, optional
        Value type of the outputs of linear layers, if they are requantised; those of head and routers stay. By default
        16 bits, or 32 for 32-bit values.
    fuse : iterable of str
        Layers that run as one product: `"qkv"`, `"gate_up"`.
    expert_shares : sequence of float, optional
        Measured load of each expert, as `load_expert_shares` reads it; equal loads if absent.
    threads : int
        Cores of a CPU that work; 0 for all.

    Returns
    -------
    Step

    Raises
    ------
    SpecError
        No such model or machine, or a number that is not positive or contradicts another one.
    RowError
        A value type that the machine has no peak for.
    PatternError, EncodingError, BitstreamError
        A format that does not exist.

    Source
    ------
    `docs/explanation/whole-model.md`.

    Examples
    --------
    >>> found = step("llama-3.1-8b", "h200-8x16", format="8:16", batch=8, context_tokens=8192)
    >>> found.linear_speedup_vs_dense > found.speedup_vs_dense > 1
    True
    >>> [part.name for part in found.remainder]
    ['attention and KV cache', 'output head']
    """
    loaded, chip = load_model(model), load_chip(hardware)
    sequences = _sequences(phase, batch, context_tokens, new_tokens)
    if sparse_operand not in get_args(SparseOperand):
        raise SpecError(
            f"sparse_operand={brief(sparse_operand)}: expected one of {', '.join(get_args(SparseOperand))}"
        )
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise SpecError(f"threads={brief(threads)}: expected a number of cores, or 0 for all")
    stored = as_format(format)
    asked = None if dtype is None else value_type(dtype)
    wide = attention_dtype(chip, asked or taken_type(chip, DEFAULT_DTYPE))
    kept = wide if kv_dtype is None else value_type(kv_dtype, "kv_dtype")
    if expert_shares is not None and not any(layer.experts for layer in loaded.layers):
        raise SpecError(f"expert shares: model {loaded.name} has no experts: expected a model with some")
    launches = fused(loaded.layers, fuse)
    types = [asked or taken_type(chip, _own_type(each)) for each in launches]
    out = None if output_dtype is None else VALUE_BITS[value_type(output_dtype, "output_dtype")]
    # All products of the step are rows of one table, so that a model with many kinds of layers is one prediction.
    parts = _parts(launches, types, sequences, phase, out, expert_shares)
    rows = _linear_rows(launches, types, parts, stored, sparse_operand, chip, threads)
    rows += [
        _attention_row(each, sequences, chip, kv_bits=VALUE_BITS[kept], dtype=wide, threads=threads)
        for each in loaded.attention
    ]
    cache = (
        kv_cache_bytes(loaded, context_tokens=context_tokens, batch=batch, kv_dtype=kept)
        if context_tokens
        else 0
    )
    return Step(
        loaded.name,
        chip.id,
        stored,
        sparse_operand,
        phase,
        batch,
        sequences.new_tokens,
        context_tokens,
        kept,
        wide,
        cache,
        tuple(rows),
        (
            *_notes(loaded, asked, types, launches, sequences, parts),
            *_notes_of(chip, asked, types, launches, wide),
        ),
    )


def _sequences(phase: Phase, batch: int, context_tokens: int, new_tokens: int | None) -> Sequences:
    """Check the numbers of a step against each other, and fill in what is left out."""
    if phase not in get_args(Phase):
        raise SpecError(f"phase={brief(phase)}: expected one of {', '.join(get_args(Phase))}")
    default = 1 if phase == "decode" else context_tokens
    new = default if new_tokens is None else new_tokens
    numbers = {"batch": (batch, 1), "context_tokens": (context_tokens, 0), "new_tokens": (new, 1)}
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_DIMENSION:
            hint = ", or new_tokens for linear layers alone" if name == "new_tokens" and not new else ""
            raise SpecError(
                f"{name}={brief(value)}: expected a whole number from {least} to {MAX_DIMENSION}{hint}"
            )
    if batch * new > MAX_DIMENSION:
        raise SpecError(f"batch={batch}, new_tokens={new}: expected at most {MAX_DIMENSION} tokens in all")
    if context_tokens and context_tokens < new:
        raise SpecError(
            f"context_tokens={context_tokens}: expected 0 (attention is not counted), or at least new_tokens={new}"
        )
    return Sequences(batch, new, context_tokens, absorbed=phase == "decode")


def _own_type(launch: Launch) -> str:
    """Value type of a layer as the model says it."""
    return DEFAULT_DTYPE if launch.layer.dtype is None else value_type(launch.layer.dtype)


@dataclass(frozen=True)
class _Part:
    """A product of whole tokens: a row of the table of cases. `weight` is its share of the time of the layer."""

    place: int
    tokens: int
    weight: float
    products: float
    output_bits: int


def _parts(
    launches: Sequence[Launch],
    types: Sequence[str],
    sequences: Sequences,
    phase: Phase,
    output_bits: int | None,
    expert_shares: Sequence[float] | None,
) -> list[_Part]:
    found = []
    for place, (launch, dtype) in enumerate(zip(launches, types, strict=True)):
        layer = launch.layer
        is_head = layer.role == "head"
        # Only the last token of a prompt is asked for the next one.
        tokens = sequences.batch * (1 if is_head and phase == "prefill" else sequences.new_tokens)
        own_bits = output_bits_of(VALUE_BITS[dtype])
        bits = own_bits if output_bits is None or is_head or layer.role == "router" else output_bits
        written = max(1, math.ceil(bits * launch.written_share))
        group = grouped(layer.experts, layer.active_experts, tokens=tokens, shares=expert_shares)
        found += [_Part(place, each, weight, group.products, written) for each, weight in group.parts]
    return found


def _linear_rows(
    launches: Sequence[Launch],
    types: Sequence[str],
    parts: Sequence[_Part],
    stored: SparseFormat | None,
    sparse_operand: SparseOperand,
    chip: Chip,
    threads: int,
) -> list[StepRow]:
    """Predict all products in one table, and put the parts of each layer together."""
    lines = []
    for part in parts:
        layer = launches[part.place].layer
        # Experts that a batch reaches run in one launch, one below the other: N counts the rows of all.
        rows = round(part.products * layer.N)
        if rows > MAX_DIMENSION:
            raise SpecError(
                f"layer {layer.name}: {rows} out features in one launch: expected at most {MAX_DIMENSION}"
            )
        cells = format_cells(stored if layer.pruned else None)
        lines.append(
            (
                part.tokens,
                rows,
                layer.K,
                types[part.place],
                sparse_operand,
                *cells,
                part.output_bits,
                part.products,
            )
        )
    columns = [
        "M",
        "N",
        "K",
        "dtype",
        "sparse_operand",
        "pattern",
        "encoding",
        "packing",
        "output_bits",
        "input_copies",
    ]
    try:
        table = pd.DataFrame(lines, columns=columns)
        answers = predict(table.assign(threads=threads) if threads else table, chip)
    except RowError as error:
        # The table is made here: the caller does not know its rows.
        hint = "; dtype chooses another value type than the model's" if "dtype" in error.problem else ""
        raise RowError(f"{error.problem}{hint}") from error
    sums = ["predicted_time_s", "predicted_dense_time_s", "bound_time_s", "bound_dense_time_s"]
    moved = answers[["values_bytes", "metadata_bytes", "dense_operand_bytes", "output_bytes"]].sum(axis=1)
    found = []
    for place, launch in enumerate(launches):
        layer = launch.layer
        own = [at for at, part in enumerate(parts) if part.place == place]
        weights = np.array([parts[at].weight for at in own])
        count = layer.places * layer.reads
        mine = answers.iloc[own]
        time_s, dense_s, bound_s, bound_dense_s = (
            float(count * (mine[name] * weights).sum()) for name in sums
        )
        longest = mine.iloc[int(np.argmax(mine["predicted_time_s"].to_numpy() * weights))]
        ends = (
            longest[f"predicted_speedup_{end}"] / longest["predicted_speedup_vs_dense"]
            for end in ("low", "high")
        )
        low, high = (dense_s / time_s * float(ratio) for ratio in ends)
        found.append(
            StepRow(
                layer.name,
                layer.role,
                layer.pruned,
                count,
                parts[own[0]].products,
                math.fsum(parts[at].tokens * parts[at].weight for at in own),
                layer.N,
                layer.K,
                types[place],
                time_s,
                dense_s,
                low,
                high,
                bool(mine["extrapolates"].any()),
                bound_s,
                bound_dense_s,
                round(count * float((moved.iloc[own] * weights).sum())),
                round(count * float((mine["dense_traffic_bytes"] * weights).sum())),
                str(longest["limit"]),
                *(_weighed(mine, names, count * weights) for names in (ENERGY_COLUMNS, DENSE_ENERGY_COLUMNS)),
            )
        )
    return found


def _weighed(answers: pd.DataFrame, names: Sequence[str], weights: Any) -> Joules:
    """Joules of products, each so many times; a machine has no such columns."""
    if names[0] not in answers:
        return UNKNOWN
    return Joules(*(float((answers[name] * weights).sum(skipna=False)) for name in names))


def _attention_row(
    attention: Attention, sequences: Sequences, chip: Chip, *, kv_bits: int, dtype: str, threads: int
) -> StepRow:
    """Attention of all layers of one kind, the same in the dense and in the pruned model."""
    amount = work(attention, sequences, kv_bits=kv_bits, value_bits=VALUE_BITS[dtype])
    ((found, of_one),) = attention_on([amount], chip, dtype, threads=threads)
    known = not math.isnan(of_one[1])
    joules = Joules(*(attention.count * each for each in of_one)) if known else UNKNOWN
    count = attention.count
    # One row stands for both models: no pattern of the weights changes what attention does.
    return StepRow(
        attention_name(attention),
        ATTENTION_ROLE,
        False,
        count,
        1.0,
        float(sequences.batch * sequences.new_tokens),
        0,
        0,
        dtype,
        count * found.time_s,
        count * found.time_s,
        1.0,
        1.0,
        False,
        count * found.bound_time_s,
        count * found.bound_time_s,
        count * amount.total_bytes,
        count * amount.total_bytes,
        found.limit,
        joules,
        joules,
    )


def taken_type(chip: Chip, dtype: str) -> str:
    """Choose the value type of a layer: its own, or the first that a core design takes if it does not take that one.

    Examples
    --------
    >>> taken_type(load_chip("edge-npu-8x16"), "bf16"), taken_type(load_chip("h200"), "bf16")
    ('int8', 'bf16')
    """
    if isinstance(chip, HardwareSpec) or dtype in chip.dtypes:
        return dtype
    return chip.dtypes[0]


def _notes_of(
    chip: Chip, asked: str | None, types: Sequence[str], launches: Sequence[Launch], wide: str
) -> tuple[str, ...]:
    """Say what a core design changes of a step."""
    if isinstance(chip, HardwareSpec):
        return ()
    said = [f"{chip.id} is a design: its times are those of a closed form, and nobody has measured them."]
    own = dict.fromkeys(_own_type(each) for each in launches)
    changed = [name for name in own if asked is None and name not in chip.dtypes]
    if changed:
        said.append(
            f"{chip.id} does not take {', '.join(changed)}: its first value type, {chip.dtypes[0]}, is taken."
        )
    if VALUE_BITS[wide] < WIDE_BITS:
        said.append(f"Attention multiplies in {wide}, since {chip.id} takes no type of {WIDE_BITS} bits.")
    return tuple(said)


def _notes(
    model: Model,
    asked: str | None,
    types: Sequence[str],
    launches: Sequence[Launch],
    sequences: Sequences,
    parts: Sequence[_Part],
) -> tuple[str, ...]:
    """Say what was taken from the model, and what is assumed of this step."""
    said = list(model.notes)
    if asked is None:
        kinds: dict[str, list[str]] = {}
        for launch, dtype in zip(launches, types, strict=True):
            kinds.setdefault(dtype, []).append(launch.layer.name)
        if any(launch.layer.dtype for launch in launches):
            each = [f"{dtype} ({', '.join(names)})" for dtype, names in kinds.items()]
            said.append(f"Value types are those of the model: {'; '.join(each)}.")
    if not sequences.context_tokens:
        said.append("Attention is not counted, since the context is 0.")
    elif not model.attention:
        said.append("Attention is not counted, since nothing is known of that of this model.")
    if any(part.tokens and part.weight < 1 for part in parts):
        said.append(
            "Tokens per expert are no whole number: some experts take one token more than the others."
        )
    return tuple(said)
