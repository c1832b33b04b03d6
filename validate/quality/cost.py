"""Cost of a way of pruning, beside its quality: stored bits, and speedups on a machine and on a core."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

import hwmodels
from hwmodels import threshold
from hwmodels.online.mitigations import DEFAULT_SETTINGS, Settings
from hwmodels.online.pruning import offline_pruning, online_pruning
from nmsim.case import VALUE_BITS, Case, GemmShape, Phase, Prediction, value_type
from nmsim.criteria import CRITERIA
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.quality.way import Way

PHASES: tuple[Phase, ...] = ("decode", "prefill")


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
    hardware : HardwareSpec or None
    core : SparseTensorCore or None
    encoding, packing : str or None
        Of the metadata. If None, as the machine reads a pattern (`hwmodels.best_format`), or else as the core does.
    dtype : str
        Value type.
    tokens_prefill : int
        Decode has one token.

    Raises
    ------
    RowError
        An unknown value type, or a prompt without tokens.
    """

    hardware: hwmodels.HardwareSpec | None
    core: hwmodels.SparseTensorCore | None
    encoding: str | None = None
    packing: str | None = None
    dtype: str = "bf16"
    tokens_prefill: int = 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", value_type(self.dtype))
        GemmShape(self.tokens_prefill, 1, 1)

    def case(self, way: Way, phase: Phase, out_features: int, in_features: int) -> Case:
        """One product."""
        shape = GemmShape(1 if phase == "decode" else self.tokens_prefill, out_features, in_features)
        return Case(shape, self.format(way), dtype=self.dtype, sparse_operand=way.operand)

    def format(self, way: Way) -> SparseFormat | None:
        """How the pruned operand is stored; None for the dense reference."""
        if way.pattern is None:
            return None
        native = sparse_format(way.pattern)
        if self.hardware is not None:
            native = hwmodels.best_format(way.pattern, self.hardware, dtype=self.dtype, operand=way.operand)
        if self.core is not None and native.encoding.spec.name not in self.core.encodings:
            native = sparse_format(way.pattern, encoding=self.core.encodings[0])
        encoding, packing = self.encoding or native.encoding.name, self.packing or str(native.packing)
        return sparse_format(way.pattern, encoding=encoding, packing=packing)

    def check(self, way: Way) -> None:
        """Refuse a way that has no cost on the target, before any work.

        Raises
        ------
        RowError, EncodingError
            As `stored`, `on_machine` and `on_core`.
        """
        side = 8 * 256
        stored(self, way, side, side)
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
    if outliers := way.find("outliers"):
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
    their values, and the list of which they are. Outliers are values and a combinatorial code a window.

    Source
    ------
    `hwmodels.threshold.footprint`.

    Examples
    --------
    >>> from nmsim.quality import parse_mitigation
    >>> way = Way("weights", Pattern(8, 16), mitigation=parse_mitigation("outliers"))
    >>> found = stored(Target(None, None, "combinatorial"), way, 64, 256)
    >>> found.metadata_bits / (64 * 256), found.all_bits / (64 * 256)
    (0.875, 9.234375)
    """
    form = target.format(way)
    if form is None:
        return StoredBits(0, rows * in_features * VALUE_BITS[target.dtype])
    if not has_groups(way):
        return None
    outliers, columns = way.find("outliers"), way.find("salient_columns")
    how = threshold.ModelFormat(
        form,
        dtype=target.dtype,
        group_elems=0,
        outliers=outliers.size if outliers else None,
        columns=columns.number if columns else 0,
    )
    layer = hwmodels.Layer("layer", 1, rows, in_features)
    found = threshold.footprint(hwmodels.Model("layer", (layer,), tied_head=True, source="asked for"), how)
    return StoredBits(8 * found.metadata_bytes, 8 * found.pruned_bytes)


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
def _predicted(case: Case, hardware: hwmodels.HardwareSpec) -> Prediction:
    return hwmodels.predict(case, hardware)


def on_core(target: Target, way: Way, phase: Phase, out_features: int, in_features: int) -> Speed | None:
    """Count the cycles of the product on a core, with what criterion and mitigation cost.

    Source
    ------
    `hwmodels.online.pruning.online_pruning`, `hwmodels.online.pruning.offline_pruning`.
    """
    if target.core is None or (way.pattern is not None and not has_groups(way)):
        return None
    case = target.case(way, phase, out_features, in_features)
    if way.pattern is not None and way.operand == "activations":
        pruned = online_pruning(
            case, target.core, criterion=way.criterion, mitigation=way.names, settings=settings_of(way)
        )
        return Speed(pruned.net_cycles, pruned.dense_cycles)
    pruned_before = offline_pruning(case, target.core, mitigation=way.names, settings=settings_of(way))
    return Speed(pruned_before.net_cycles, pruned_before.dense_cycles)
