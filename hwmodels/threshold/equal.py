"""The largest dense model that costs no more than a pruned one: in bytes, in seconds and in joules of a decode step."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwmodels.machine.spec import HardwareSpec, load_machine
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from hwmodels.threshold.footprint import Stacked, bytes_of, footprint, stacked
from hwmodels.threshold.products import Seconds, joules, products, seconds
from hwmodels.threshold.search import Counterpart, largest
from hwmodels.threshold.stored import Stored
from hwmodels.threshold.widths import STEP_ELEMS
from hwmodels.workload import Model

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
        At the ends of what is known of `pruned_cost`. Both None where nothing is known; `low` alone is None where no dense
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


def equal_memory(model: Model, how: Stored, *, step_elems: int = STEP_ELEMS) -> Threshold:
    """Find the dense model that is as small as a pruned one: the Performance Threshold, by equal bytes.

    Parameters
    ----------
    model : Model
    how : Stored
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
    >>> found = equal_memory(load_model("llama-3.1-8b"), Stored(pattern="8:16", encoding="combinatorial"))
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
    how: Stored,
    hardware: str | Path | HardwareSpec,
    *,
    tokens: int = 1,
    step_elems: int = STEP_ELEMS,
) -> Threshold:
    """Find the dense model whose decode step takes as long as that of a pruned one.

    Parameters
    ----------
    model : Model
    how : Stored
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
    >>> how = Stored(pattern="8:16", encoding="combinatorial")
    >>> found = equal_time(load_model("llama-3.1-8b"), how, "h200-8x16", step_elems=64)
    >>> found.low.width < found.equal.width < found.high.width < 1
    True
    """
    spec = load_machine(hardware)

    def seconds_of(layers: Stacked, stored: Stored) -> Seconds:
        return seconds(products(layers, stored, tokens), spec)

    def costs(layers: Stacked) -> list[Floats]:
        found = seconds_of(layers, how.dense())
        return [found.nominal, found.nominal, found.nominal, found.best_case]

    mine, unpruned = (seconds_of(stacked(model), stored) for stored in (how, how.dense()))
    targets = [float(end[0]) for end in (mine.nominal, mine.low, mine.high, mine.best_case)]
    known = bool(np.isfinite(targets[1]) and np.isfinite(targets[2]))
    if not known:
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
    how: Stored,
    core: str | Path | SparseTensorCore,
    *,
    tokens: int = 1,
    step_elems: int = STEP_ELEMS,
) -> Threshold:
    """Find the dense model whose decode step takes as much energy as that of a pruned one, on a core design.

    Parameters
    ----------
    model : Model
    how : Stored
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
    >>> how = Stored(pattern="8:16", encoding="combinatorial")
    >>> found = equal_energy(load_model("llama-3.1-8b"), how, "flexible-8x16", step_elems=64)
    >>> found.low.width <= found.equal.width <= found.high.width < 1
    True
    """
    machine = load_core(core)

    def costs(layers: Stacked, stored: Stored | None = None) -> list[Floats]:
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
