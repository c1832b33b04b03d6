"""The largest dense model that costs no more than a pruned one in a decode step: in bytes, seconds, joules or narrow values."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwmodels.machine.spec import HardwareSpec, load_machine
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
from hwmodels.threshold.products import Seconds, joules, products, seconds
from hwmodels.threshold.search import STEP_ELEMS, Counterpart, largest
from hwmodels.workload import Model
from nmsim.errors import RowError

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
    machine: HardwareSpec | None = None,
    core: SparseTensorCore | None = None,
    tokens: int = 1,
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
    tokens : int

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
    >>> from hwmodels.workload import load_model
    >>> quantised_dense(load_model("llama-3.1-8b"), ModelFormat(group_elems=128, scale_bits=16), 4).bits_per_element
    4.125
    """
    if (
        isinstance(value_bits, bool)
        or not isinstance(value_bits, int)
        or not NARROWEST_BITS <= value_bits < SCALED_BELOW_BITS
    ):
        raise RowError(f"value_bits={value_bits!r}: expected {NARROWEST_BITS} to {SCALED_BELOW_BITS - 1}")
    dtype = DTYPES.get(value_bits)
    dense = how.dense(dtype)
    stored = footprint(model, dense, value_bits)
    time_s = energy_joules = None
    if dtype is not None:
        table = products(stacked(model), dense, tokens)
        time_s = _known(lambda: float(seconds(table, machine).nominal[0])) if machine else None
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
    >>> from hwmodels.workload import load_model
    >>> how = ModelFormat("8:16/combinatorial")
    >>> equal_value_bits(footprint(load_model("llama-3.1-8b"), how), how)
    8.75
    """
    return pruned.bits_per_element - float(how.scale_bits_per_element(NARROWEST_BITS))


Floats = NDArray[np.float64]


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
    best_case : Counterpart or None
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
    best_case: Counterpart | None = None
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
    >>> from hwmodels.workload import load_model
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
    hardware: str | Path | HardwareSpec,
    *,
    tokens: int = 1,
    step_elems: int = STEP_ELEMS,
) -> Threshold:
    """Find the dense model whose decode step takes as long as that of a pruned one.

    Parameters
    ----------
    model : Model
    how : ModelFormat
        Scales take no time, those of dense models neither. Outliers and columns are a product of their own.
    hardware : str, Path or HardwareSpec
        As for `hwmodels.load_machine`.
    tokens : int
        Sequences decoded together.
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
    >>> from hwmodels.workload import load_model
    >>> how = ModelFormat("8:16/combinatorial")
    >>> found = equal_time(load_model("llama-3.1-8b"), how, "h200-8x16", step_elems=64)
    >>> found.low.width < found.equal.width < found.high.width < 1
    True
    """
    spec = load_machine(hardware)

    def seconds_of(layers: Stacked, stored: ModelFormat) -> Seconds:
        return seconds(products(layers, stored, tokens), spec)

    def costs(layers: Stacked) -> list[Floats]:
        found = seconds_of(layers, how.dense())
        return [found.nominal, found.nominal, found.nominal, found.best_case]

    mine, unpruned = (seconds_of(stacked(model), stored) for stored in (how, how.dense()))
    targets = [float(end[0]) for end in (mine.nominal, mine.low, mine.high, mine.best_case)]
    known = bool(np.isfinite(targets[1]) and np.isfinite(targets[2]))
    if not known:
        # The search needs numbers; the ends are dropped again below.
        targets[1:3] = [targets[0], targets[0]]
    equal, (low, high, best) = largest(model, step_elems, costs, targets, "time")
    return Threshold(
        "time",
        targets[0],
        float(unpruned.nominal[0]),
        equal,
        low if known else None,
        high if known else None,
        _step(equal, step_elems),
        best,
        bool(mine.extrapolates[0]),
    )


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
    >>> from hwmodels.workload import load_model
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
