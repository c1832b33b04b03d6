"""The search for the widest dense model on a grid of widths that costs no more than so much."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.threshold.footprint import Stacked, bytes_of
from hwmodels.threshold.stored import Stored
from hwmodels.threshold.widths import Widths, widths
from hwmodels.workload import Model
from nmsim.errors import RowError

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


def largest(
    model: Model,
    step_elems: int,
    costs: Callable[[Stacked], list[Floats]],
    targets: list[float],
    sense: str,
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
    >>> from hwmodels.workload import load_model
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
        most_width *= 2
    params = bytes_of(grid.layers, Stored())["params_elems"]
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
