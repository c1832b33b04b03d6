"""The largest dense model that costs no more than a pruned one in a decode step: in bytes, seconds, joules or narrow values.

The search goes through dense models of the same depth and another width. What lies beside the N:M part is a product of its
own, after the first. Only linear layers are counted.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.chips.load import Chip, load_chip
from hwmodels.chips.predict import predict
from hwmodels.estimate.table import MAX_DIMENSION, format_cells
from hwmodels.models import Model
from hwmodels.silicon.energy import Design, design, energy_columns
from hwmodels.steps.attention import Sequences, Work, attention_dtype, attention_on, work
from hwmodels.steps.experts import grouped
from hwmodels.tensorcore.cycles import closed_form
from hwmodels.tensorcore.point import Point, mapping, point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from hwmodels.threshold.footprint import (
    SCALED_BELOW_BITS,
    Footprint,
    ModelFormat,
    Stacked,
    bytes_of,
    footprint,
    stacked,
)
from nmsim.case import VALUE_BITS, Case, GemmShape, value_type
from nmsim.errors import RowError, brief
from nmsim.format import as_format

STEP_ELEMS = 16
"""Widths are multiples of this: those of the tiles of matrix units, and of the widest common group but 32."""


class Widths(NamedTuple):
    """Dense models side by side: their hidden sizes, relative to that of the model they are of, and their layers."""

    hidden_elems: NDArray[np.int64]
    width: NDArray[np.float64]
    layers: Stacked


def hidden_of(layers: Stacked) -> int:
    """In features of the head, or of the first layer if there is no head."""
    place = layers.head.index(True) if True in layers.head else 0
    return int(layers.K[place])


def widths(model: Model, most_width: float, step_elems: int = STEP_ELEMS) -> Widths:
    """List the dense models of every hidden size on the grid, up to `most_width` times that of the model.

    Parameters
    ----------
    model : Model
    most_width : float
    step_elems : int
        Hidden sizes, and all other widths, are multiples of it. Depth and vocabulary stay.

    Returns
    -------
    Widths

    Raises
    ------
    RowError
        A step that is no positive int or wider than the model.

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> found = widths(load_model("llama-3.1-8b"), 1.0)
    >>> len(found.hidden_elems), found.hidden_elems[-1], found.layers.N[4][-1]
    (256, np.int64(4096), np.int64(14336))
    """
    own = stacked(model)
    hidden = hidden_of(own)
    if isinstance(step_elems, bool) or not isinstance(step_elems, int) or not 1 <= step_elems <= hidden:
        raise RowError(
            f"step_elems={brief(step_elems)}: expected 1 to the hidden size of {model.name}, {hidden}"
        )
    widest = max(*own.N, *own.K)
    most = min(int(most_width * hidden), MAX_DIMENSION // widest * hidden)
    sizes = step_elems * np.arange(1, most // step_elems + 1, dtype=np.int64)

    def resized(elems: int) -> NDArray[np.int64]:
        steps = (2 * elems * sizes + hidden * step_elems) // (2 * hidden * step_elems)
        found: NDArray[np.int64] = np.maximum(steps, 1) * step_elems
        return found

    # The vocabulary and the number of experts stay.
    N = tuple(
        np.full_like(sizes, out) if head or layer.role == "router" else resized(out)
        for out, head, layer in zip(own.N, own.head, own.of, strict=True)
    )
    K = tuple(resized(inside) for inside in own.K)
    return Widths(sizes, sizes / hidden, own._replace(N=N, K=K))


MOST_WIDTH = 64.0
"""Where the search for a wider dense model ends."""
SAME = 1 + 1e-12
"""Sums of the same costs in another order count as equal."""

SENSES = {"memory": ("small", "bytes"), "time": ("fast", "s"), "energy": ("frugal", "joules")}
"""Sense -> what a counterpart is as much as the pruned model, and the unit of its cost."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counterpart:
    """A dense model of the same depth: the widest on the grid that costs no more than so much.

    Parameters
    ----------
    width : float
        Its hidden size over that of the unpruned model; above 1 if pruning costs more than it saves.
    hidden_elems, params_elems : int
        Its hidden size; its parameters with head and embedding.
    cost : float
        In the unit of its threshold.
    """

    width: float
    hidden_elems: int
    params_elems: int
    cost: float


def largest(
    model: Model, step_elems: int, costs: Callable[[Stacked], list[Floats]], targets: list[float], sense: str
) -> tuple[Counterpart, list[Counterpart | None]]:
    """Find the widest model on the grid whose cost is within the first target, and those within the others, if any.

    Parameters
    ----------
    model : Model
    step_elems : int
        As `widths`.
    costs : callable
        Costs of many dense models, an array [models] for each target.
    targets : list of float
        In the unit of `sense`.
    sense : {"memory", "time", "energy"}

    Raises
    ------
    RowError
        No model on the grid is within the first target, or the widest that are searched are within one.

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> llama = load_model("llama-3.1-8b")
    >>> found, _ = largest(llama, 64, lambda layers: [layers.K[0] * 1.0], [2100.0], "time")
    >>> found.hidden_elems
    2048
    """
    as_what, unit = SENSES[sense]
    most_width = 1.0
    while True:
        grid = widths(model, most_width, step_elems)
        found = costs(grid.layers)
        if all(cost[-1] > target * SAME for cost, target in zip(found, targets, strict=True)):
            break
        if most_width >= MOST_WIDTH:
            raise RowError(
                f"dense models up to {MOST_WIDTH:.0f} times as wide are as {as_what} as the pruned one"
            )
        # The pruned model costs more than all models of this grid, so wider ones are tried.
        most_width *= 2
    params = bytes_of(grid.layers, ModelFormat())["params_elems"]
    first, *others = (
        _widest_within(grid, params, cost, target) for cost, target in zip(found, targets, strict=True)
    )
    if first is not None:
        return first, others
    cheapest = costs(widths(model, 1.0, 1).layers)[0].min()
    helps = f"expected a smaller step than {step_elems}"
    if cheapest > targets[0] * SAME:
        helps = f"those of all other widths take {cheapest:.4g} {unit} or more"
    raise RowError(
        f"no dense model is as {as_what} as the pruned one, {targets[0]:.4g} {unit}: with a hidden size of "
        f"{grid.hidden_elems[0]} it takes {found[0][0]:.4g}, {helps}"
    )


def _widest_within(
    grid: Widths, params_elems: NDArray[np.int64], cost: Floats, target: float
) -> Counterpart | None:
    within = np.flatnonzero(cost <= target * SAME)
    if not len(within):
        return None
    place = int(within[-1])
    return Counterpart(
        float(grid.width[place]), int(grid.hidden_elems[place]), int(params_elems[place]), float(cost[place])
    )


WAY = ("dtype", "pattern", "encoding", "packing")
SHAPE_FIELDS = tuple(Point._fields.index(name) for name in ("a_rows", "b_cols", "K"))


class Seconds(NamedTuple):
    """Time of a decode step of each model: low, predicted and high end (NaN if nothing is known), and bound."""

    low: Floats
    nominal: Floats
    high: Floats
    of_bounds: Floats
    extrapolates: NDArray[np.bool_]


class Joules(NamedTuple):
    """Energy of a decode step of each model, in the low, nominal and high scenario of technology."""

    low: Floats
    nominal: Floats
    high: Floats


def products(layers: Stacked, how: ModelFormat, tokens: int) -> pd.DataFrame:
    """List the products of a decode step: columns of cases, `count`, and `place` of the model among all.

    A model with experts has the column `experts` as well: products of a row's shape in one launch, those that the
    batch reaches.

    Parameters
    ----------
    layers : Stacked
        Of one model, or of many.
    how : ModelFormat
    tokens : int
        Sequences decoded together.

    Raises
    ------
    RowError
        `tokens` is no positive int.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise RowError(f"tokens={brief(tokens)}: expected a positive int")
    rest, columns = ((dtype, *format_cells(None)) for dtype in (how.rest_dtype, how.side_dtype))
    main, outliers = (how.dtype, *format_cells(how.format)), (how.side_dtype, *format_cells(how.outliers))
    tables = []
    for layer, pruned, N, K in zip(layers.of, layers.pruned, layers.N, layers.K, strict=True):
        group = grouped(layer.experts, layer.active_experts, tokens=tokens)
        count = layer.places * layer.reads
        ways: list[tuple[Any, Any]] = [(main if pruned else rest, K)]
        if pruned and how.outliers is not None:
            ways.append((outliers, K))
        if pruned and how.columns:
            ways.append((columns, how.columns))
        for (way, inside), (each, weight) in itertools.product(ways, group.parts):
            out, deep = np.broadcast_arrays(np.atleast_1d(N), inside)
            shape = {"place": np.arange(len(out)), "M": each, "N": out, "K": deep}
            cells = {**dict(zip(WAY, way, strict=True)), "count": count if weight == 1 else count * weight}
            tables.append(pd.DataFrame({**shape, **cells, "experts": group.products}))
    table = pd.concat(tables, ignore_index=True)
    return table if any(layer.experts for layer in layers.of) else table.drop(columns="experts")


def seconds(table: pd.DataFrame, machine: Chip) -> Seconds:
    """Add up the time of the products of each model.

    All layers err alike: the low end of a step is that of all its products.

    Raises
    ------
    RowError
        As `hwmodels.predict`.
    """
    asked = table
    if "experts" in table:
        # Experts of a layer run in one launch: N counts the out features of all, each reads tokens of its own.
        rows = (table["N"] * table["experts"]).round().astype("int64")
        asked = table.assign(N=rows, input_copies=table["experts"])
    try:
        found = predict(asked, machine)
    except RowError as error:
        # The table is made here: the caller does not know its rows.
        raise RowError(error.problem) from error
    time_s = found["predicted_time_s"].to_numpy()
    speedup = found["predicted_speedup_vs_dense"]
    return Seconds(
        low=_total(table, time_s * (speedup / found["predicted_speedup_high"]).to_numpy()),
        nominal=_total(table, time_s),
        high=_total(table, time_s * (speedup / found["predicted_speedup_low"]).to_numpy()),
        of_bounds=_total(table, found["bound_time_s"].to_numpy()),
        extrapolates=_total(table, found["extrapolates"].to_numpy().astype(float)) > 0,
    )


@dataclass(frozen=True)
class DecodeStep:
    """What a decode step of a threshold counts: sequences of one token each, and the context that they attend to.

    Without a context attention is not counted. `kv_dtype` is that of the cache, None for that of attention.
    """

    tokens: int = 1
    context_tokens: int = 0
    kv_dtype: str | None = None

    def attention(self, model: Model, width: Floats, machine: Chip, dtype: str) -> tuple[Floats, Floats]:
        """Predict attention of models of other widths, whose heads and latents are so many times as many.

        Returns
        -------
        tuple of two float64 arrays [models]
            Predicted and least seconds.
        """
        kind = attention_dtype(machine, dtype)
        kv_bits = VALUE_BITS[kind if self.kv_dtype is None else value_type(self.kv_dtype, "kv_dtype")]
        sequences = Sequences(self.tokens, 1, self.context_tokens, absorbed=True)
        time_s, least_s = np.zeros(len(width)), np.zeros(len(width))
        for each in model.attention if self.context_tokens else ():
            amount = work(each, sequences, kv_bits=kv_bits, value_bits=VALUE_BITS[kind])
            scaled = [Work(*(round(part * share) for part in amount)) for share in width.tolist()]
            found = [one.seconds for one in attention_on(scaled, machine, kind)]
            time_s += [each.count * one.time_s for one in found]
            least_s += [each.count * one.bound_time_s for one in found]
        return time_s, least_s


def joules(table: pd.DataFrame, core: SparseTensorCore) -> Joules:
    """Add up the energy of the products of each model on a core design.

    Raises
    ------
    RowError
        A value type or encoding that the core does not take, or a product that fits into no tile.
    SpecError, EncodingError
        As `hwmodels.silicon.energy.unit_costs`.
    """
    kinds: NDArray[np.int64] = table.groupby(list(WAY), sort=False).ngroup().to_numpy().astype(np.int64)
    bases: list[Point] = []
    designs: list[Design] = []
    for way in table.drop_duplicates(list(WAY))[list(WAY)].itertuples(index=False):
        dtype, pattern, encoding, packing = (str(cell) for cell in way)
        case = Case(GemmShape(1, 1, 1), as_format(pattern, encoding=encoding, packing=packing), dtype=dtype)
        bases.append(point(core, case))
        designs.append(design(core, case))
    points = np.array(bases, np.float64)[kinds]
    points[:, SHAPE_FIELDS] = table[["N", "M", "K"]].to_numpy(np.float64)
    found = energy_columns(designs, kinds, points, closed_form(points))
    bad = np.flatnonzero(np.isnan(found["energy_joules"]))
    if len(bad):
        mapping(Point(*points[bad[0]].tolist()))
    names = ("energy_joules_low", "energy_joules", "energy_joules_high")
    times = table["experts"].to_numpy() if "experts" in table else 1.0
    return Joules(*(_total(table, found[name] * times) for name in names))


def _total(table: pd.DataFrame, each: Floats) -> Floats:
    """Sums over the products of each model [models]."""
    weights = table["count"].to_numpy() * each
    return np.bincount(table["place"].to_numpy(), weights=weights).astype(np.float64)


DTYPES = {8: "int8", 4: "int4"}
"""Bits of a value -> the value type whose products are predicted. Other widths are known by their bytes alone."""

NARROWEST_BITS = 1


@dataclass(frozen=True)
class QuantisedDense:
    """A dense model whose pruned layers would have values of so many bits, and a scale a group.

    `time_s` and `energy_joules` are of a decode step; None if machine or core does not take such values. Products are
    those of two operands of that type, and scales take no time.
    """

    value_bits: int
    bits_per_element: float
    total_bytes: int
    time_s: float | None
    energy_joules: float | None


def quantised_dense(
    model: Model,
    how: ModelFormat,
    value_bits: int,
    machine: Chip | None = None,
    core: SparseTensorCore | None = None,
    tokens: int = 1,
    context_tokens: int = 0,
    kv_dtype: str | None = None,
) -> QuantisedDense:
    """Say what a dense model of narrow values costs.

    Parameters
    ----------
    model : Model
    how : ModelFormat
        Its groups, scales and rest; pattern and dtype are not read.
    value_bits : int
        Bits of a value, 1 to 15.
    machine, core : optional
        Where time and energy are predicted.
    tokens, context_tokens, kv_dtype
        As `equal_time`.

    Returns
    -------
    QuantisedDense

    Raises
    ------
    RowError
        `value_bits` out of range; otherwise as `footprint`.

    Source
    ------
    Bytes: `footprint`. Time and energy: `hwmodels.predict`, `hwmodels.silicon.energy`.

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> quantised_dense(load_model("llama-3.1-8b"), ModelFormat(group_elems=128, scale_bits=16), 4).bits_per_element
    4.125
    """
    if (
        isinstance(value_bits, bool)
        or not isinstance(value_bits, int)
        or not NARROWEST_BITS <= value_bits < SCALED_BELOW_BITS
    ):
        raise RowError(
            f"value_bits={brief(value_bits)}: expected {NARROWEST_BITS} to {SCALED_BELOW_BITS - 1}"
        )
    dtype = DTYPES.get(value_bits)
    dense = how.dense(dtype)
    stored = footprint(model, dense, value_bits)
    time_s = energy_joules = None
    if dtype is not None:
        table = products(stacked(model), dense, tokens)
        time_s = _known(lambda: float(seconds(table, machine).nominal[0])) if machine else None
        if machine and time_s is not None and context_tokens:
            step = DecodeStep(tokens, context_tokens, kv_dtype)
            time_s += float(step.attention(model, np.ones(1), machine, dense.dtype)[0][0])
        energy_joules = _known(lambda: float(joules(table, core).nominal[0])) if core else None
    return QuantisedDense(value_bits, stored.bits_per_element, stored.total_bytes, time_s, energy_joules)


def _known(cost: Callable[[], float]) -> float | None:
    """A cost, or None if values of this type are refused."""
    try:
        return cost()
    except RowError:
        return None


def equal_value_bits(pruned: Footprint, how: ModelFormat) -> float:
    """Bits of a value with which a dense model with scales is as small as a pruned one.

    Parameters
    ----------
    pruned : Footprint
        Of the pruned model.
    how : ModelFormat
        Its groups and scales.

    Returns
    -------
    float

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> how = ModelFormat("8:16/combinatorial")
    >>> equal_value_bits(footprint(load_model("llama-3.1-8b"), how), how)
    8.75
    """
    return pruned.bits_per_element - float(how.scale_bits_per_element(NARROWEST_BITS))


@dataclass(frozen=True)
class Threshold:
    """The dense model that a pruned one is compared with, in one sense.

    Parameters
    ----------
    sense : {"memory", "time", "energy"}
        In bytes, seconds or joules.
    pruned_cost, dense_cost : float
        Of the pruned model, and of the unpruned one.
    equal : Counterpart
    low, high : Counterpart or None
        At the ends of what is known of `pruned_cost`. Both None if nothing is known; `low` alone is None if no dense
        model on the grid costs so little. In memory nothing is unknown.
    step_width : float
        Resolution of all widths.
    of_bounds : Counterpart or None
        In time: by the bound of both models, in place of the estimate. None if no dense model on the grid is so fast.
    extrapolates : bool
        In time: some product has no measured rows of its own pattern.
    """

    sense: str
    pruned_cost: float
    dense_cost: float
    equal: Counterpart
    low: Counterpart | None
    high: Counterpart | None
    step_width: float
    of_bounds: Counterpart | None = None
    extrapolates: bool = False

    @property
    def share(self) -> float:
        """Cost of the pruned model over that of the unpruned one."""
        return self.pruned_cost / self.dense_cost


def equal_memory(model: Model, how: ModelFormat, *, step_elems: int = STEP_ELEMS) -> Threshold:
    """Find the dense model that is as small as a pruned one: the Performance Threshold, by equal bytes.

    Parameters
    ----------
    model : Model
    how : ModelFormat
        How the pruned model is stored. Dense models are stored in the same value types.
    step_elems : int
        As `widths`.

    Returns
    -------
    Threshold
        In bytes.

    Raises
    ------
    RowError
        As `footprint` and `widths`; no dense model on the grid is as small, or all are.

    Source
    ------
    Equal memory: arXiv 2507.03052. Widths in proportion, on a grid: `docs/explanation/performance-threshold.md`.

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> found = equal_memory(load_model("llama-3.1-8b"), ModelFormat("8:16/combinatorial"))
    >>> found.equal.hidden_elems, round(found.share, 3)
    (3136, 0.613)
    """

    def costs(layers: Stacked) -> list[Floats]:
        counted = bytes_of(layers, how.dense())
        return [np.asarray(sum(counted[name] for name in counted if name.endswith("_bytes")), np.float64)]

    mine, unpruned = footprint(model, how).total_bytes, footprint(model, how.dense()).total_bytes
    equal, _ = largest(model, step_elems, costs, [float(mine)], "memory")
    return Threshold("memory", mine, unpruned, equal, equal, equal, _step(equal, step_elems))


def equal_time(
    model: Model,
    how: ModelFormat,
    hardware: str | Path | Chip,
    *,
    tokens: int = 1,
    context_tokens: int = 0,
    kv_dtype: str | None = None,
    step_elems: int = STEP_ELEMS,
) -> Threshold:
    """Find the dense model whose decode step takes as long as that of a pruned one.

    Parameters
    ----------
    model : Model
    how : ModelFormat
        Scales take no time, those of dense models neither. Outliers and columns are a product of their own.
    hardware : str, Path, HardwareSpec or SparseTensorCore
        As for `hwmodels.load_chip`.
    tokens : int
        Sequences decoded together.
    context_tokens : int
        Tokens that each sequence attends to; 0: attention is not counted. A narrower model has fewer heads, and keeps
        less in its cache.
    kv_dtype : str, optional
        Value type of the cache; that of attention, 16 bits or more, by default.
    step_elems : int
        As `widths`.

    Returns
    -------
    Threshold
        In seconds. Its range is that of the predicted speedups, all layers erring alike.

    Raises
    ------
    RowError
        As `hwmodels.predict`; otherwise as `equal_memory`.
    SpecError
        Unknown hardware.

    Source
    ------
    `hwmodels.predict`.

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> how = ModelFormat("8:16/combinatorial")
    >>> found = equal_time(load_model("llama-3.1-8b"), how, "h200-8x16", step_elems=64)
    >>> found.low.width < found.equal.width < found.high.width < 1
    True
    """
    spec = load_chip(hardware)

    step, hidden = DecodeStep(tokens, context_tokens, kv_dtype), hidden_of(stacked(model))

    def seconds_of(layers: Stacked, stored: ModelFormat) -> Seconds:
        linear = seconds(products(layers, stored, tokens), spec)
        if not context_tokens:
            return linear
        own = layers.K[layers.head.index(True) if True in layers.head else 0]
        time_s, least_s = step.attention(model, np.atleast_1d(own) / hidden, spec, stored.dtype)
        low, nominal, high = (cost + time_s for cost in linear[:3])
        return linear._replace(low=low, nominal=nominal, high=high, of_bounds=linear.of_bounds + least_s)

    def costs(layers: Stacked) -> list[Floats]:
        found = seconds_of(layers, how.dense())
        return [found.nominal, found.nominal, found.nominal, found.of_bounds]

    mine, unpruned = (seconds_of(stacked(model), stored) for stored in (how, how.dense()))
    targets = [float(end[0]) for end in (mine.nominal, mine.low, mine.high, mine.of_bounds)]
    known = bool(np.isfinite(targets[1]) and np.isfinite(targets[2]))
    if not known:
        # The search needs numbers; the ends are dropped again below.
        targets[1:3] = [targets[0], targets[0]]
    equal, (low, high, best) = largest(model, step_elems, costs, targets, "time")
    ends = (low, high) if known else (None, None)
    cost, dense_cost, resolution = targets[0], float(unpruned.nominal[0]), _step(equal, step_elems)
    return Threshold("time", cost, dense_cost, equal, *ends, resolution, best, bool(mine.extrapolates[0]))


def equal_energy(
    model: Model,
    how: ModelFormat,
    core: str | Path | SparseTensorCore,
    *,
    tokens: int = 1,
    step_elems: int = STEP_ELEMS,
) -> Threshold:
    """Find the dense model whose decode step takes as much energy as that of a pruned one, on a core design.

    Parameters
    ----------
    model : Model
    how : ModelFormat
        As `equal_time`.
    core : str, Path or SparseTensorCore
        As for `hwmodels.load_core`.
    tokens, step_elems : int
        As `equal_time`.

    Returns
    -------
    Threshold
        In joules. Its range is over the low, nominal and high scenario of technology, the same one on both sides.

    Raises
    ------
    RowError, SpecError, EncodingError
        As `hwmodels.silicon.energy.energy`; otherwise as `equal_memory`.

    Source
    ------
    `hwmodels.silicon.energy`.

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> how = ModelFormat("8:16/combinatorial")
    >>> found = equal_energy(load_model("llama-3.1-8b"), how, "flexible-8x16", step_elems=64)
    >>> found.low.width <= found.equal.width <= found.high.width < 1
    True
    """
    machine = load_core(core)

    def costs(layers: Stacked, stored: ModelFormat | None = None) -> list[Floats]:
        found = joules(products(layers, stored or how.dense(), tokens), machine)
        return [found.nominal, found.low, found.high]

    targets = [float(end[0]) for end in costs(stacked(model), how)]
    of_dense = float(costs(stacked(model))[0][0])
    equal, ends = largest(model, step_elems, costs, targets, "energy")
    low, _, high = sorted((equal, *ends), key=lambda each: each.width if each else 0.0)
    return Threshold("energy", targets[0], of_dense, equal, low, high, _step(equal, step_elems))


def _step(found: Counterpart, step_elems: int) -> float:
    """Resolution of widths."""
    return found.width / found.hidden_elems * step_elems
