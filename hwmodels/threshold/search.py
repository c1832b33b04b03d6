"""Dense models of the same depth and another width, and the search for the widest one that costs no more than so much."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.estimate.table import MAX_DIMENSION
from hwmodels.threshold.footprint import ModelFormat, Stacked, bytes_of, stacked
from hwmodels.workload import Model
from nmsim.errors import RowError

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
    >>> from hwmodels.workload import load_model
    >>> found = widths(load_model("llama-3.1-8b"), 1.0)
    >>> len(found.hidden_elems), found.hidden_elems[-1], found.layers.N[4][-1]
    (256, np.int64(4096), np.int64(14336))
    """
    own = stacked(model)
    hidden = hidden_of(own)
    if isinstance(step_elems, bool) or not isinstance(step_elems, int) or not 1 <= step_elems <= hidden:
        raise RowError(f"step_elems={step_elems!r}: expected 1 to the hidden size of {model.name}, {hidden}")
    widest = max(*own.N, *own.K)
    most = min(int(most_width * hidden), MAX_DIMENSION // widest * hidden)
    sizes = step_elems * np.arange(1, most // step_elems + 1, dtype=np.int64)

    def resized(elems: int) -> NDArray[np.int64]:
        steps = (2 * elems * sizes + hidden * step_elems) // (2 * hidden * step_elems)
        found: NDArray[np.int64] = np.maximum(steps, 1) * step_elems
        return found

    N = tuple(
        np.full_like(sizes, out) if head else resized(out) for out, head in zip(own.N, own.head, strict=True)
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
