"""Quality beside cost: linear layers of a checkpoint pruned in many ways, measured on tokens, with bits and speedups.

One layer at a time: errors of one layer do not reach the next, and nothing here is an accuracy.

Cost of a way of pruning, beside its quality: stored bits, and speedups on a machine and on a core.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import hwmodels
from hwmodels import threshold
from hwmodels.online.mitigations import DEFAULT_SETTINGS, Settings
from hwmodels.online.pruning import offline_pruning, online_pruning
from hwmodels.silicon.structures import index_bits
from hwmodels.steps.experts import grouped
from nmsim.case import (
    DEFAULT_DTYPE,
    VALUE_BITS,
    Case,
    GemmShape,
    Phase,
    Prediction,
    SparseOperand,
    value_type,
)
from nmsim.criteria import CRITERIA
from nmsim.errors import ContainerError, NmsimError
from nmsim.files.container import FORMAT_KEY
from nmsim.files.safetensors import TensorInfo
from nmsim.files.selection import Choice, Selection
from nmsim.files.sharded import Checkpoint, open_checkpoint
from nmsim.files.weights import matrix_of, matrix_shape, read_weight
from nmsim.format import DEFAULT_ENCODING, SparseFormat, sparse_format
from nmsim.mask import checked_axis
from nmsim.pattern import Pattern
from nmsim.quality import Measured, Way, measure_activations, measure_weights
from nmsim.units import bits_to_bytes
from validate.quality.activation_dump import Origin, Source, Tokens, module_name, refuse_missing, some_of

PHASES: tuple[Phase, ...] = ("decode", "prefill")
CHECKPOINT = "checkpoint"
"""In `costs_of`: times and cycles are those of the checkpoint's own layers."""


class StoredBits(NamedTuple):
    """Bits of the pruned operand as stored. `metadata` are those of the N:M part; `all` adds values, outliers, columns."""

    metadata_bits: int
    all_bits: int


class Speed(NamedTuple):
    """Time of one product and of the dense one on the same machine, seconds or cycles, and the range of the speedup."""

    time: float
    dense_time: float
    low: float = np.nan
    high: float = np.nan

    @property
    def speedup(self) -> float:
        """Against dense."""
        return self.dense_time / self.time


@dataclasses.dataclass(frozen=True)
class Target:
    """The machine, the core and the storage that costs are computed for.

    Parameters
    ----------
    hardware : HardwareSpec, SparseTensorCore or None
    core : SparseTensorCore or None
    encoding, packing : str or None
        Of the metadata. If None, machine and core each get what they read. The machine has `hwmodels.best_format`. The core has
        the same if its decoder reads it, else its first encoding.
    dtype : str
        Value type.
    tokens_prefill : int
        Decode has one token.
    model : Model or None
        Whose linear layers times and cycles are of, all together. None: the layers of the checkpoint, each by itself.

    Raises
    ------
    RowError
        An unknown value type, or a prompt without tokens.
    """

    hardware: hwmodels.Chip | None
    core: hwmodels.SparseTensorCore | None
    encoding: str | None = None
    packing: str | None = None
    dtype: str = DEFAULT_DTYPE
    tokens_prefill: int = 4096
    model: hwmodels.Model | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", value_type(self.dtype))
        GemmShape(self.tokens_prefill, 1, 1)

    def case(self, way: Way, phase: Phase, out_features: int, in_features: int) -> Case:
        """One product on the machine."""
        shape = GemmShape(self.tokens(phase), out_features, in_features)
        return Case(shape, self.format(way), dtype=self.dtype, sparse_operand=way.operand)

    def tokens(self, phase: Phase) -> int:
        """Tokens of a product."""
        return 1 if phase == "decode" else self.tokens_prefill

    def format(self, way: Way) -> SparseFormat | None:
        """How the pruned operand is stored: as the machine takes it, as the core does without a machine. None if dense."""
        if way.pattern is None:
            return None
        if self.hardware is None:
            return self.core_format(way)
        native = hwmodels.best_format(way.pattern, self.hardware, dtype=self.dtype, operand=way.operand)
        return self._as_asked(native)

    def core_format(self, way: Way) -> SparseFormat | None:
        """How the core takes the pruned operand; None if dense."""
        if way.pattern is None:
            return None
        native = sparse_format(way.pattern) if self.hardware is None else self.format(way)
        assert native is not None, "the way has a pattern"
        if self.core is not None and native.encoding.spec.name not in self.core.encodings:
            native = sparse_format(
                way.pattern, encoding=(self.core.encodings_of(way.pattern) or (DEFAULT_ENCODING,))[0]
            )
        return self._as_asked(native)

    def _as_asked(self, native: SparseFormat) -> SparseFormat:
        encoding, packing = self.encoding or native.encoding.name, self.packing or str(native.packing)
        return sparse_format(native.pattern, encoding=encoding, packing=packing)

    @property
    def costs_of(self) -> str:
        """Whose layers times and cycles are of."""
        return CHECKPOINT if self.model is None else self.model.name

    def check(self, way: Way) -> None:
        """Refuse a way that has no cost on the target, before any work.

        Raises
        ------
        RowError, EncodingError
            As `stored`, `on_machine` and `on_core`.
        """
        side = 8 * 256
        stored(self, way, side, side)
        if self.model is not None:
            costs_of_model(way, self)
            return
        for phase in PHASES:
            on_machine(self, way, phase, side, side)
            on_core(self, way, phase, side, side)


def has_groups(way: Way) -> bool:
    """Whether a way leaves N:M groups, which can be encoded and skipped."""
    return way.pattern is not None and CRITERIA[way.criterion].among == "group"


def settings_of(way: Way) -> Settings:
    """Sizes of the mitigations, for the cost tables.

    Examples
    --------
    >>> from nmsim.quality import parse_mitigation
    >>> settings_of(Way("weights", Pattern(2, 4), mitigation=parse_mitigation("outliers=8:256"))).outliers
    8
    """
    sizes: dict[str, Any] = {}
    if outliers := way.find("outliers") or way.find("outliers_unstructured"):
        pattern = Pattern.parse(outliers.size)
        sizes = {"outliers": pattern.n, "window": pattern.m}
    if low_rank := way.find("r_sparse"):
        sizes["rank"] = low_rank.number
    if salient := way.find("salient_columns"):
        sizes["columns"] = salient.number
    return dataclasses.replace(DEFAULT_SETTINGS, **sizes)


def stored(target: Target, way: Way, rows: int, in_features: int) -> StoredBits | None:
    """Count the bits of the pruned operand [rows, K], packing included; None without groups to encode.

    Each stream is rounded up to whole bytes. Salient columns stay in their groups, which keep N of the others; beside them lie
    their values, and the list of which they are. Outliers are values and a combinatorial code per window. Unstructured outliers
    are values, each with its index in the row. Rounded values have their bits, and a scale of 16 bits per group of elements,
    kept or not.

    Source
    ------
    `hwmodels.threshold.footprint`.

    Examples
    --------
    >>> from nmsim.quality import parse_mitigation, parse_rounding
    >>> way = Way("weights", Pattern(8, 16), mitigation=parse_mitigation("outliers"))
    >>> found = stored(Target(None, None, "combinatorial"), way, 64, 256)
    >>> found.metadata_bits / (64 * 256), found.all_bits / (64 * 256)
    (0.875, 9.234375)
    >>> way = Way("weights", Pattern(8, 16), values=parse_rounding("int4/64"))
    >>> stored(Target(None, None, "combinatorial"), way, 64, 256).all_bits / (64 * 256)
    3.125
    """
    form, values = target.format(way), way.values
    if form is None and values is None:
        return StoredBits(0, rows * in_features * VALUE_BITS[target.dtype])
    if form is not None and not has_groups(way):
        return None
    outliers, columns = way.find("outliers"), way.find("salient_columns")
    rounded = f"int{values.bits}" if values else target.dtype
    how = threshold.ModelFormat(
        form,
        dtype=target.dtype,
        group_elems=values.group if values else 0,
        outliers=outliers.size if outliers else None,
        columns=columns.number if columns else 0,
        side_dtype=rounded if rounded in VALUE_BITS else target.dtype,
    )
    layer = hwmodels.Layer("layer", 1, rows, in_features)
    model = hwmodels.Model("layer", (layer,), tied_head=True, source="asked for")
    found = threshold.footprint(model, how, values.bits if values else None)
    beside_bytes = 0
    if unstructured := way.find("outliers_unstructured"):
        share = Pattern.parse(unstructured.size)
        elems = rows * (in_features * share.n // share.m)
        beside_bits = (elems * VALUE_BITS[how.side_dtype], elems * index_bits(in_features))
        beside_bytes = sum(map(bits_to_bytes, beside_bits))
    return StoredBits(8 * found.metadata_bytes, 8 * (found.pruned_bytes + beside_bytes))


def on_machine(target: Target, way: Way, phase: Phase, out_features: int, in_features: int) -> Speed | None:
    """Estimate the time of the product on a machine; the time of mitigations is not included.

    Source
    ------
    `hwmodels.predict`.
    """
    if target.hardware is None or (way.pattern is not None and not has_groups(way)):
        return None
    found = _predicted(target.case(way, phase, out_features, in_features), target.hardware)
    if way.pattern is None:
        return Speed(found.predicted_time_s, found.predicted_dense_time_s, 1.0, 1.0)
    return Speed(
        found.predicted_time_s,
        found.predicted_dense_time_s,
        found.predicted_speedup_low,
        found.predicted_speedup_high,
    )


@functools.lru_cache(maxsize=4096)
def _predicted(case: Case, hardware: hwmodels.Chip) -> Prediction:
    return hwmodels.predict(case, hardware)


def on_core(
    target: Target, way: Way, phase: Phase, out_features: int, in_features: int, *, tokens: int | None = None
) -> Speed | None:
    """Count the cycles of the product on a core, with what criterion and mitigation cost.

    Parameters
    ----------
    target : Target
    way : Way
    phase : {"decode", "prefill"}
    out_features, in_features : int
    tokens : int, optional
        Of the product, by default those of the phase.

    Source
    ------
    `hwmodels.online.pruning.online_pruning`, `hwmodels.online.pruning.offline_pruning`.
    """
    if target.core is None or (way.pattern is not None and not has_groups(way)):
        return None
    shape = GemmShape(tokens or target.tokens(phase), out_features, in_features)
    case = Case(shape, target.core_format(way), dtype=target.dtype, sparse_operand=way.operand)
    if way.pattern is not None and way.operand == "activations":
        pruned = online_pruning(
            case, target.core, criterion=way.criterion, mitigation=way.names, settings=settings_of(way)
        )
        return Speed(pruned.net_cycles, pruned.dense_cycles)
    pruned_before = offline_pruning(case, target.core, mitigation=way.names, settings=settings_of(way))
    return Speed(pruned_before.net_cycles, pruned_before.dense_cycles)


def model_on_machine(target: Target, way: Way, phase: Phase) -> Speed | None:
    """Estimate the time of all pruned layers of the target's model on the machine, in one step.

    The range is that of `sum_layers`: the dense time over the sum of the times at each end.

    Source
    ------
    `hwmodels.step`.

    Examples
    --------
    >>> target = Target(hwmodels.load_machine("h200-8x16"), None, model=hwmodels.load_model("llama-3.1-8b"))
    >>> found = model_on_machine(target, Way("weights", Pattern(8, 16)), "decode")
    >>> found.low < found.speedup < found.high
    True
    """
    if target.hardware is None or (way.pattern is not None and not has_groups(way)):
        return None
    assert target.model is not None, "the caller asks for a model"
    step = _step(
        target.model,
        target.hardware,
        target.format(way),
        phase,
        target.tokens(phase),
        target.dtype,
        way.operand,
    )
    rows = [row for row in step.rows if row.pruned]
    time_s, dense_s = (math.fsum(getattr(row, name) for row in rows) for name in ("time_s", "dense_time_s"))
    if way.pattern is None:
        return Speed(dense_s, dense_s, 1.0, 1.0)
    low, high = (
        dense_s / math.fsum(row.dense_time_s / getattr(row, name) for row in rows)
        for name in ("speedup_low", "speedup_high")
    )
    return Speed(time_s, dense_s, low, high)


@functools.lru_cache(maxsize=512)
def _step(
    model: hwmodels.Model, hardware: hwmodels.Chip, form: SparseFormat | None, phase: Phase, tokens: int,
    dtype: str, operand: SparseOperand,
) -> hwmodels.Step:  # fmt: skip
    return hwmodels.step(
        model, hardware, format=form, phase=phase, context_tokens=0, new_tokens=tokens, dtype=dtype,
        sparse_operand=operand,
    )  # fmt: skip


def model_on_core(target: Target, way: Way, phase: Phase) -> Speed | None:
    """Count the cycles of all pruned layers of the target's model on the core, one product after the other.

    Experts have the tokens that a batch sends to them (`hwmodels.steps.experts.grouped`).
    """
    if target.core is None or (way.pattern is not None and not has_groups(way)):
        return None
    assert target.model is not None, "the caller asks for a model"
    cycles, dense_cycles = [], []
    for layer in target.model.layers:
        if not layer.pruned:
            continue
        group = grouped(layer.experts, layer.active_experts, tokens=target.tokens(phase))
        for tokens, share in group.parts:
            one = on_core(target, way, phase, layer.N, layer.K, tokens=tokens)
            assert one is not None, "there is a core"
            count = layer.places * layer.reads * group.products * share
            cycles.append(count * one.time)
            dense_cycles.append(count * one.dense_time)
    return Speed(math.fsum(cycles), math.fsum(dense_cycles))


Progress = Callable[[str, float], None]
"""Called with the name of the next layer and the share of all work that is done."""

ALL = "all"
MIXED = "mixed"
DENSE = "dense"
SHOWN_REASONS = 5
KEYS = ("operand", "pattern", "criterion", "mitigation", "values")
"""Columns that name a way; the texts are those of rows of losses."""
SUMS = (
    "elems", "energy", "energy_kept", "output_energy", "output_error", "mask_entropy_bits", "mask_elems",
    "metadata_bits", "stored_bits", "predicted_decode_time_s", "predicted_decode_dense_time_s",
    "predicted_prefill_time_s", "predicted_prefill_dense_time_s", "core_decode_cycles", "core_decode_dense_cycles",
    "core_prefill_cycles", "core_prefill_dense_cycles",
)  # fmt: skip
"""Columns that are added up over the layers; a sum without a term is NaN."""
ORIGIN = Origin._fields
"""Model and text that recorded tokens are of."""
LIMITS = tuple(f"predicted_{phase}_speedup_{end}" for phase in PHASES for end in ("low", "high"))
QUALITY_COLUMNS = (
    "layer", *KEYS, "fitted", "activations", *ORIGIN, "out_features", "in_features", "calibration_tokens", "tokens",
    "elems", "energy", "energy_kept", "energy_kept_share", "output_energy", "output_error", "relative_output_error",
    "mask_entropy_bits", "mask_elems", "mask_entropy_bits_per_elem", "mask_entropy_kind",
    "encoding", "packing", "dtype", "metadata_bits", "metadata_bits_per_elem", "stored_bits", "stored_bits_per_elem",
    "costs_of", "tokens_prefill", "hardware",
    "predicted_decode_time_s", "predicted_decode_dense_time_s", "predicted_decode_speedup_vs_dense",
    "predicted_decode_speedup_low", "predicted_decode_speedup_high",
    "predicted_prefill_time_s", "predicted_prefill_dense_time_s", "predicted_prefill_speedup_vs_dense",
    "predicted_prefill_speedup_low", "predicted_prefill_speedup_high",
    "core", "core_encoding", "core_decode_cycles", "core_decode_dense_cycles", "core_decode_speedup_vs_dense",
    "core_prefill_cycles", "core_prefill_dense_cycles", "core_prefill_speedup_vs_dense",
)  # fmt: skip
"""Columns of `quality.csv`; `docs/how-to/measure-quality.md` says what each is. NaN if a way has no such figure."""


@dataclasses.dataclass(frozen=True)
class QualityRun:
    """The table of a run, layers left out (name -> reason), and recorded tensors that fit no layer."""

    table: pd.DataFrame
    left_out: dict[str, str]
    unmatched: list[str]


@contextlib.contextmanager
def open_dense(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Open a checkpoint that nmsim has not packed.

    Raises
    ------
    ContainerError
        No readable checkpoint, or a packed one.
    """
    with open_checkpoint(path) as checkpoint:
        if any(FORMAT_KEY in file.metadata for file in checkpoint.files):
            raise ContainerError(
                f"{path}: is packed already, expected a dense checkpoint (nmsim unpack it first)"
            )
        yield checkpoint


def measure_quality(
    checkpoint: Checkpoint,
    source: Source,
    *,
    ways: Sequence[Way],
    target: Target,
    selection: Selection | None = None,
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> QualityRun:
    """Measure the linear layers of a checkpoint, one at a time.

    Parameters
    ----------
    checkpoint : Checkpoint
        From `open_dense`.
    source : Source
        Where tokens come from.
    ways : sequence of Way
        From `nmsim.quality.cross`, of either operand.
    target : Target
        Machine, core and storage of bits and speedups.
    selection : Selection, optional
        Which tensors are layers. A tensor of several experts is as many layers, NAME[0], NAME[1], and so on, which all read
        the tokens of the tensor.
    allow_missing : bool
        Leave layers without tokens out.
    progress : function, optional

    Returns
    -------
    QualityRun
        `table` has the columns `QUALITY_COLUMNS`: a row per layer and way, then a row per way for all layers together.

    Raises
    ------
    ContainerError
        No layer is chosen, or one has no tokens.
    NmsimError
        A way that has no cost on the target, or numbers that cannot be measured; the error names the layer.
    """
    # All that can be refused is refused before the first layer is read.
    for way in ways:
        target.check(way)
    choice = (selection or Selection()).of(checkpoint)
    layers, left_out = _layers(checkpoint, ways, choice)
    unmatched = source.unmatched(checkpoint.names)
    if allow_missing:
        without = [name for name, layer in layers.items() if not source.has(layer.info.name)]
        left_out |= dict.fromkeys(without, "no activations")
        layers = {name: found for name, found in layers.items() if name not in without}
        if not layers:
            raise ContainerError(
                f"{checkpoint.path}: no layer has activations, expected at least one; {source.description} has "
                f"{some_of(unmatched)}"
            )
    refuse_missing(source, list(dict.fromkeys(layer.info.name for layer in layers.values())), unmatched)
    total = sum(math.prod(layer.shape) for layer in layers.values())
    rows, done = [], 0
    # Experts of one tensor follow each other: it is read once, and only one is held.
    held: tuple[str, NDArray[Any]] | None = None
    costs: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for name, layer in layers.items():
        if progress is not None:
            progress(name, done / total)
        shape = layer.shape
        try:
            if shape not in costs:
                costs[shape] = [_cost(way, target, *shape) for way in ways]
            if held is None or held[0] != layer.info.name:
                held = None
                held = layer.info.name, read_weight(checkpoint, choice, layer.info).real()
            role = choice.roles[layer.info.name]
            weight = matrix_of(held[1], role, layer.axis, layer.number)
            measured = _measure(weight, source.tokens(layer.info.name, shape[1]), ways)
            del weight
        except ContainerError:
            raise
        except NmsimError as error:
            where = checkpoint.file_of[layer.info.name].where(layer.info.name)
            if where in str(error):
                raise
            raise error.within(where) from error
        tokens = measured[0][0]
        for (_, one), cost in zip(measured, costs[shape], strict=True):
            bits = stored(target, one.way, shape[0] if one.way.operand == "weights" else tokens, shape[1])
            row = _row(module_name(name), one, source, tokens, shape, target)
            rows.append(row | cost | _bits(bits))
        done += shape[0] * shape[1]
    table = pd.DataFrame(rows)
    together = sum_layers(table)
    if target.model is not None:
        # Nothing was added up here: the costs of a layer are left out if they are those of another model.
        together = together.assign(**_columns([costs_of_model(way, target) for way in ways]))
    table = pd.concat([table, together], ignore_index=True)
    return QualityRun(_with_shares(table)[list(QUALITY_COLUMNS)], left_out, unmatched)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A matrix [out, in] of a checkpoint: the tensor, the axis of its in features, and which of its matrices it is."""

    info: TensorInfo
    axis: int
    number: int
    shape: tuple[int, int]


def _layers(
    checkpoint: Checkpoint, ways: Sequence[Way], choice: Choice
) -> tuple[dict[str, _Layer], dict[str, str]]:
    # A layer is measured in all ways or in none, so that the sums over layers compare the same weights.
    patterns = list(dict.fromkeys(way.pattern for way in ways if way.pattern is not None))
    found: dict[str, _Layer] = {}
    left_out: dict[str, str] = {}
    for file in checkpoint.files:
        for info in file.in_data_order():
            role = choice.roles[info.name]
            reasons = [why.reason for pattern in patterns if (why := choice.why_not(info, pattern))]
            if not reasons and (len(info.shape) > 3 or (len(info.shape) == 3 and role.matrices < 1)):
                reasons = [f"has {len(info.shape)} dimensions, is no linear layer"]
            if reasons:
                left_out[info.name] = reasons[0]
                continue
            axis = checked_axis(info.shape, choice.axis(info))
            if len(info.shape) == 3 and axis == 0:
                left_out[info.name] = "groups run along its experts, is no linear layer"
                continue
            count = (
                info.shape[0]
                if len(info.shape) == 3
                else info.shape[0] // (role.period or info.shape[0] or 1)
            )
            shape = matrix_shape(role, info, axis)
            for number in range(count):
                name = info.name if count == 1 else f"{info.name}[{number}]"
                found[name] = _Layer(info, axis, number, shape)
    if not found:
        shown = counted(sorted(left_out.values(), key=lambda why: "fewer than M" not in why))
        raise ContainerError(
            f"{checkpoint.path}: none of its {len(left_out)} tensors is measured ({shown}), expected a matrix that nmsim pack "
            "takes; --include takes others by name"
        )
    return found, left_out


def counted(reasons: Iterable[str]) -> str:
    """Print each reason once with its count; at most `SHOWN_REASONS`.

    Examples
    --------
    >>> counted(["has 1 dimensions", "no activations", "has 1 dimensions"])
    '2: has 1 dimensions; 1: no activations'
    """
    counts = collections.Counter(reasons)
    return "; ".join(f"{count}: {why}" for why, count in list(counts.items())[:SHOWN_REASONS])


def _measure(weight: NDArray[Any], tokens: Tokens, ways: Sequence[Way]) -> list[tuple[int, Measured]]:
    """Measure one layer in all ways, in their order, beside the number of tokens."""
    found: list[tuple[int, Measured]] = []
    for operand, group in itertools.groupby(ways, key=_operand):
        function = measure_activations if operand == "activations" else measure_weights
        found += [(len(tokens.x), one) for one in function(tokens.fit, tokens.x, weight, list(group))]
    return found


def _operand(way: Way) -> SparseOperand:
    return way.operand


def _row(
    name: str, one: Measured, source: Source, tokens: int, shape: tuple[int, int], target: Target
) -> dict[str, Any]:
    # What belongs to a shape, its costs and bits, is added by the caller.
    way, entropy, stored = one.way, one.entropy, target.format(one.way)
    on_core = target.core_format(one.way) if target.core else None
    return {
        "layer": name,
        "operand": way.operand,
        "pattern": str(way.pattern) if way.pattern else DENSE,
        "criterion": way.criterion if way.pattern else DENSE,
        "mitigation": way.mitigation_text,
        "values": str(way.values) if way.values else "",
        "fitted": "+".join(way.fitted),
        "activations": source.description,
        **source.origin._asdict(),
        "calibration_tokens": source.counts[0],
        "out_features": shape[0],
        "in_features": shape[1],
        "tokens": tokens,
        "elems": one.elems,
        "energy": one.energy,
        "energy_kept": one.energy_kept,
        "output_energy": one.output_energy,
        "output_error": one.output_error,
        # Ways without groups have no entropy; NaN keeps the column numeric.
        "mask_entropy_bits": entropy.bits if entropy else math.nan,
        "mask_elems": entropy.elems if entropy else math.nan,
        "mask_entropy_kind": entropy.kind if entropy else "",
        "encoding": stored.encoding.name if stored else "",
        "packing": str(stored.packing) if stored else "",
        "dtype": target.dtype,
        "costs_of": target.costs_of,
        "tokens_prefill": target.tokens_prefill,
        "hardware": target.hardware.id if target.hardware else "",
        "core": target.core.id if target.core else "",
        "core_encoding": on_core.encoding.name if on_core else "",
    }


def _cost(way: Way, target: Target, out_features: int, in_features: int) -> dict[str, Any]:
    """Costs of one product; NaN if those of another model are asked for."""
    found: dict[str, Any] = {}
    for phase in PHASES:
        own = target.model is None
        machine = on_machine(target, way, phase, out_features, in_features) if own else None
        core = on_core(target, way, phase, out_features, in_features) if own else None
        found |= _cells(phase, machine, core)
    return found


def costs_of_model(way: Way, target: Target) -> dict[str, Any]:
    """Costs of all pruned layers of the target's model together, by column.

    Raises
    ------
    NmsimError
        As `model_on_machine` and `model_on_core`.
    """
    found: dict[str, Any] = {}
    for phase in PHASES:
        found |= _cells(phase, model_on_machine(target, way, phase), model_on_core(target, way, phase))
    return found


def _cells(phase: Phase, machine: Speed | None, core: Speed | None) -> dict[str, float]:
    machine, core = machine or Speed(math.nan, math.nan), core or Speed(math.nan, math.nan)
    return {
        f"predicted_{phase}_time_s": machine.time,
        f"predicted_{phase}_dense_time_s": machine.dense_time,
        f"predicted_{phase}_speedup_low": machine.low,
        f"predicted_{phase}_speedup_high": machine.high,
        f"core_{phase}_cycles": core.time,
        f"core_{phase}_dense_cycles": core.dense_time,
    }


def _columns(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [record[name] for record in records] for name in records[0]}


def _bits(found: StoredBits | None) -> dict[str, float]:
    """Bits of the operand: of W, or of X for the tokens that were measured."""
    if found is None:
        return {"metadata_bits": math.nan, "stored_bits": math.nan}
    return {"metadata_bits": found.metadata_bits, "stored_bits": found.all_bits}


def sum_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Add the layers up: energies, errors, bits and times, but not their shares.

    A speedup's range is that of the sum of the dense times over the sum of the times at each end. `mask_entropy_kind` is
    "mixed" if some layers have an estimate and others a bound.

    Parameters
    ----------
    table : DataFrame
        A row per layer and way, with `SUMS`.

    Returns
    -------
    DataFrame
        A row per way, `layer` "all".
    """
    work = table.copy()
    for name in LIMITS:
        phase = name.split("_")[1]
        work[name] = work[f"predicted_{phase}_dense_time_s"] / work[name]
    grouped = work.groupby(list(KEYS), sort=False, dropna=False)
    sums = grouped[[*SUMS, *LIMITS]].sum(min_count=1)
    unknown = work[list(LIMITS)].isna().groupby([work[key] for key in KEYS], sort=False).any()
    constant = [
        "fitted", "activations", *ORIGIN, "calibration_tokens", "tokens", "encoding", "packing", "dtype", "costs_of",
        "tokens_prefill", "hardware", "core", "core_encoding",
    ]  # fmt: skip
    out = sums.join(grouped[constant].first())
    kinds = grouped["mask_entropy_kind"]
    out["mask_entropy_kind"] = kinds.first().where(kinds.nunique() == 1, MIXED)
    for name in LIMITS:
        phase = name.split("_")[1]
        out[name] = (out[f"predicted_{phase}_dense_time_s"] / out[name]).mask(unknown[name])
    return out.reset_index().assign(layer=ALL, out_features=math.nan, in_features=math.nan)


def _with_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Add the quotients of sums."""
    shares = {
        "energy_kept_share": ("energy_kept", "energy"),
        "relative_output_error": ("output_error", "output_energy"),
        "mask_entropy_bits_per_elem": ("mask_entropy_bits", "mask_elems"),
        "metadata_bits_per_elem": ("metadata_bits", "elems"),
        "stored_bits_per_elem": ("stored_bits", "elems"),
        "predicted_decode_speedup_vs_dense": ("predicted_decode_dense_time_s", "predicted_decode_time_s"),
        "predicted_prefill_speedup_vs_dense": ("predicted_prefill_dense_time_s", "predicted_prefill_time_s"),
        "core_decode_speedup_vs_dense": ("core_decode_dense_cycles", "core_decode_cycles"),
        "core_prefill_speedup_vs_dense": ("core_prefill_dense_cycles", "core_prefill_cycles"),
    }
    quotients = {name: table[part] / table[whole] for name, (part, whole) in shares.items()}
    whole_numbers = {name: table[name].astype("Int64") for name in ("out_features", "in_features")}
    return table.assign(**quotients, **whole_numbers)
