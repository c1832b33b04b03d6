"""From names to numbers: what a mitigation of activations needs of a layer and of calibration tokens."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import matrix
from nmsim.errors import PatternError
from nmsim.mitigation import fit, golden, rewrite
from nmsim.mitigation.recipe import Recipe
from nmsim.quality.layer import Columns, Layer
from nmsim.quality.way import Way

Array = NDArray[Any]


def folded_recipe(way: Way, x_fit: NDArray[np.float32], columns: Columns) -> Recipe:
    """Make what is folded into weights and into the operation before: rotation, and equalisation.

    Parameters
    ----------
    way : Way
    x_fit : float32 array [L, K]
        Calibration tokens.
    columns : Columns
        Of the weights as they are.
    """
    rotation = eigenvectors(x_fit) if way.find("rotation") else None
    if way.find("smooth_static"):
        return Recipe(equalise=golden.equalisation(x_fit, columns.largest[None]))
    return Recipe(rotation=rotation, equalise="dynamic" if way.find("smooth_dynamic") else "none")


def eigenvectors(x: NDArray[Any]) -> NDArray[np.float64]:
    """Rotation of La RoSA: eigenvectors of X^T X, columns of Q [K, K], greatest eigenvalue first.

    Fewer tokens than in features leave the last of them free: any basis of what no token reaches.

    Source
    ------
    La RoSA as the code of arXiv 2509.22166 has it, with 8192 samples there.

    Examples
    --------
    >>> np.abs(eigenvectors(np.array([[0.0, 3.0], [1.0, 0.0]]))).round(6).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    x = matrix("x", x)
    found: NDArray[np.float64] = np.linalg.eigh(x.T @ x)[1][:, ::-1]
    return found


def token_recipe(way: Way, x_fit: NDArray[np.float32]) -> Recipe:
    """Make what `select` depends on beside the fold: the shift, and the variance.

    Parameters
    ----------
    way : Way
    x_fit : float32 array [L, K]
        Calibration tokens, as the folded weights meet them; one call of S-PTS.
    """
    shift: Any = "none"
    if way.find("dpts_mean"):
        shift = "mean"
    elif way.find("dpts_median"):
        shift = "median"
    elif way.find("spts"):
        shift = fit.static_shift([x_fit])
    elif way.find("lpts"):
        shift = fit.channel_shift(x_fit)
    dynamic = "dynamic" if way.find("smooth_dynamic") else "none"
    return Recipe(shift=shift, variance=bool(way.find("var")), equalise=dynamic)


def with_side_terms(
    way: Way, recipe: Recipe, chosen: rewrite.Selected, x_fit: NDArray[np.float32], layer: Layer, columns: Columns
) -> Recipe:  # fmt: skip
    """Fit bias1, bias2 and the low rank to calibration tokens.

    The mean of the outputs of a token is the output of a layer with one out feature: the mean of the rows of W. So the two
    biases need only that row of the weights.

    Parameters
    ----------
    way : Way
    recipe : Recipe
        From `token_recipe`.
    chosen : Selected
        Of the calibration tokens under that recipe.
    x_fit : float32 array [L, K]
        As for `token_recipe`.
    layer : Layer
    columns : Columns
        Of the folded weights.
    """
    names = [name for name in ("bias1", "bias2") if way.find(name)]
    low_rank = way.find("r_sparse")
    if not names and not low_rank:
        return recipe
    dropped = np.where(chosen.mask, np.float32(0), shifted(x_fit, chosen, recipe))
    biases: dict[str, Any] = {}
    if names:
        mean_row = columns.mean[None].astype(np.float32)
        ours = rewrite.finish(chosen.values @ mean_row.T, chosen, rewrite.prepare(mean_row, recipe))
        parts = {"bias1": chosen.values, "bias2": dropped}
        found = fit.token_bias(np.hstack([parts[name] for name in names]), x_fit @ mean_row.T - ours)
        fields = ("kept_bias" if name == "bias1" else "dropped_bias" for name in names)
        biases = dict(zip(fields, np.split(found, len(names)), strict=True))
    pair = None
    if low_rank:
        if low_rank.number >= len(x_fit):
            raise PatternError(f"{low_rank}: {len(x_fit)} calibration tokens, expected more than the rank")
        pair = fit.low_rank(dropped, layer.whole(), low_rank.number)
    return dataclasses.replace(recipe, low_rank=pair, **biases)


def shifted(x: NDArray[np.float32], chosen: rewrite.Selected, recipe: Recipe) -> NDArray[np.float32]:
    """X - eta, from which a choice was made."""
    if chosen.eta is not None:
        return x - chosen.eta[:, None]
    if isinstance(recipe.shift, str):
        return x
    return x - np.asarray(recipe.shift, x.dtype)


def of_rows(recipe: Recipe, rows: slice) -> Recipe:
    """The part of a recipe that some out features need."""
    if recipe.low_rank is None:
        return recipe
    return dataclasses.replace(recipe, low_rank=(recipe.low_rank[0][rows], recipe.low_rank[1]))
