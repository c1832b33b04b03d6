"""The largest dense model that costs no more than a pruned one: in bytes, in seconds and in joules of a decode step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.spec import HardwareSpec, load
from hwmodels.tensorcore.core_file import load_core
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.threshold.footprint import bytes_of, footprint, stacked
from hwmodels.threshold.products import joules, products, seconds
from hwmodels.threshold.stored import Stored
from hwmodels.threshold.widths import STEP_ELEMS, widths
from hwmodels.workload import Model
from nmsim.errors import RowError

MOST_WIDTH = 64.0
"""Where the search for a wider dense model ends."""
SAME = 1 + 1e-12
"""Sums of the same costs in another order count as equal."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counterpart:
    """A dense model of the same depth: the widest on the grid that costs no more than so much.

    Parameters
    ----------
    width : float
        Its hidden size over that of the unpruned model; above 1 where pruning costs more than it saves.
    hidden_elems, params_elems : int
        Its hidden size; its parameters with head and embedding.
    cost : float
        In the unit of its threshold.
    """

    width: float
    hidden_elems: int
    params_elems: int
    cost: float


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
        At the ends of what is known of `pruned_cost`; None where nothing is known. In memory nothing is unknown.
    step_width : float
        Resolution of all widths.
    best_case : Counterpart or None
        In time: by the bound of both models, in place of the estimate.
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
    dense = how.dense()

    def costs(most_width: float) -> tuple[Any, list[Floats]]:
        grid = widths(model, most_width, step_elems)
        counted = bytes_of(grid.layers, dense)
        total = sum(counted[name] for name in counted if name.endswith("_bytes"))
        return grid, [np.asarray(total, np.float64)]

    mine, unpruned = footprint(model, how).total_bytes, footprint(model, dense).total_bytes
    (equal,) = _largest(costs, [float(mine)], "small")
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
        As for `hwmodels.load`.
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
    spec = load(hardware)

    def costs(most_width: float) -> tuple[Any, list[Floats]]:
        grid = widths(model, most_width, step_elems)
        found = seconds(products(grid.layers, how.dense(), tokens), spec)
        return grid, [found.nominal, found.nominal, found.nominal, found.best_case]

    mine = seconds(products(stacked(model), how, tokens), spec)
    unpruned = seconds(products(stacked(model), how.dense(), tokens), spec)
    targets = [float(end[0]) for end in (mine.nominal, mine.low, mine.high, mine.best_case)]
    known = bool(np.isfinite(targets[1]) and np.isfinite(targets[2]))
    if not known:
        targets[1:3] = [targets[0], targets[0]]
    equal, low, high, best = _largest(costs, targets, "fast")
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

    def costs(most_width: float) -> tuple[Any, list[Floats]]:
        grid = widths(model, most_width, step_elems)
        return grid, list(joules(products(grid.layers, how.dense(), tokens), machine))

    mine = joules(products(stacked(model), how, tokens), machine)
    unpruned = joules(products(stacked(model), how.dense(), tokens), machine)
    found = _largest(costs, [float(end[0]) for end in mine], "frugal")
    low, _, high = sorted(found, key=lambda each: each.width)
    cost, of_dense = float(mine.nominal[0]), float(unpruned.nominal[0])
    return Threshold("energy", cost, of_dense, found[1], low, high, _step(found[1], step_elems))


def _step(found: Counterpart, step_elems: int) -> float:
    """Resolution of widths."""
    return found.width / found.hidden_elems * step_elems


def _largest(
    costs: Callable[[float], tuple[Any, list[Floats]]], targets: list[float], as_what: str
) -> list[Counterpart]:
    """The widest model on the grid whose cost is within each target; the grid grows until its end is beyond all."""
    most_width = 1.0
    while True:
        grid, found = costs(most_width)
        if all(cost[-1] > target * SAME for cost, target in zip(found, targets, strict=True)):
            break
        if most_width >= MOST_WIDTH:
            raise RowError(
                f"dense models up to {MOST_WIDTH:.0f} times as wide are as {as_what} as the pruned one: expected fewer"
            )
        most_width *= 2
    params = bytes_of(grid.layers, Stored())["params_elems"]
    answers = []
    for cost, target in zip(found, targets, strict=True):
        within = np.flatnonzero(cost <= target * SAME)
        if not len(within):
            raise RowError(
                f"no dense model is as {as_what} as the pruned one down to a hidden size of {grid.hidden_elems[0]}: "
                f"expected a smaller step than {grid.hidden_elems[0]}"
            )
        place = int(within[-1])
        answers.append(
            Counterpart(
                float(grid.width[place]),
                int(grid.hidden_elems[place]),
                int(params[place]),
                float(cost[place]),
            )
        )
    return answers
