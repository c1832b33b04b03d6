"""Dense models of the same depth and another width: the hidden size on a grid, all other widths in proportion."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.estimate.table import MAX_DIMENSION
from hwmodels.threshold.footprint import Stacked, stacked
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
    """In features of the head, or of the first layer where there is no head."""
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
