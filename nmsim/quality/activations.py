"""Pruned activations of one layer: energy kept, error of the output by the rewritten form, entropy of the masks.

Ways of pruning that differ only in the epilogue share the product of the kept elements with the weights."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import criteria
from nmsim.criteria import matrix
from nmsim.errors import PatternError
from nmsim.mask import BoolArray
from nmsim.mitigation import fit, golden, rewrite
from nmsim.mitigation.outliers import Split, split, split_columns
from nmsim.mitigation.recipe import Recipe
from nmsim.pattern import Pattern
from nmsim.quality.layer import BLOCK_ELEMS, Columns, Layer, Measured, entropy_of, squares, tokens_of
from nmsim.quality.way import Way, is_reference

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


Floats = NDArray[np.float32]


class _Tokens(NamedTuple):
    """Tokens as the weights of a fold meet them, and their dense output; of calibration and of evaluation."""

    fit: Floats
    fit_output: Floats | None
    x: Floats
    output: Floats
    counted: Floats
    """Of what energies are: the tokens as they were given, or rotated."""


class _Chosen(NamedTuple):
    """A way with all that its epilogue needs but the product, and what is already known of it."""

    place: int
    way: Way
    recipe: Recipe
    chosen: rewrite.Selected
    fit_chosen: rewrite.Selected | None
    energy_kept: float
    nm_mask: BoolArray


def measure_activations(
    x_fit: NDArray[Any],
    x: NDArray[Any],
    weight: NDArray[Any],
    ways: Sequence[Way],
    *,
    block_elems: int = BLOCK_ELEMS,
) -> list[Measured]:
    """Prune the tokens of one linear layer in several ways, and measure each.

    Parameters
    ----------
    x_fit : array [L, K]
        Calibration tokens, from which parameters are fitted; not measured.
    x : array [L, K]
        Tokens that are measured, one call together.
    weight : array [O, K]
        Any dtype of floats; it is read in blocks of rows.
    ways : sequence of Way
        From `nmsim.quality.cross`.
    block_elems : int
        Weights in memory as float32 at a time. Criteria made of weights and the low rank need all of them, in float64.

    Returns
    -------
    list of Measured
        In the order of the ways. Products in float32, sums in float64.

    Raises
    ------
    PatternError
        Shapes that do not fit together, a number that is not finite, or as `nmsim.mitigation.rewrite`.

    Source
    ------
    `nmsim.mitigation.rewrite`; fitted parameters, `nmsim.mitigation.fit`.

    Examples
    --------
    >>> from nmsim.quality.way import cross
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.standard_normal((2, 64, 128)), rng.standard_normal((32, 128)).astype(np.float32)
    >>> ways, _ = cross("activations", ["2:4", "8:16"], ["magnitude"], ["none"])
    >>> [round(one.energy_kept_share, 2) for one in measure_activations(x[0], x[1], weight, ways)]
    [1.0, 0.92, 0.86, 0.91]
    """
    x_fit, x = tokens_of("x_fit", x_fit, weight), tokens_of("x", x, weight)
    columns = Layer(weight, block_elems=block_elems).columns()
    found: dict[int, Measured] = {}
    folds = {way: tuple(name for name in way.names if name in ("rotation", "smooth_static")) for way in ways}
    for fold in dict.fromkeys(folds.values()):
        mine = [(place, way) for place, way in enumerate(ways) if folds[way] == fold]
        layer = Layer(weight, folded_recipe(mine[0][1], x_fit, columns), block_elems)
        found |= dict(_measure_fold(x_fit, x, layer, mine))
    return [found[place] for place in range(len(ways))]


def _measure_fold(
    x_fit: Floats, x: Floats, layer: Layer, ways: Sequence[tuple[int, Way]]
) -> Iterator[tuple[int, Measured]]:
    """Measure the ways that share weights, pattern by pattern: values of one pattern are in memory at a time."""
    columns = layer.columns()
    calibrated = any(way.find("scale_shift") for _, way in ways)
    given, rotated = x, any(way.find("rotation") for _, way in ways)
    x_fit, x = layer.produced(x_fit), layer.produced(x)
    fit_output = layer.output(x_fit) if calibrated else None
    tokens = _Tokens(x_fit, fit_output, x, layer.output(x), x if rotated else given)
    energy, output_energy = squares(tokens.counted), squares(tokens.output)
    vectors = {
        criterion: criteria.vector_of(criterion, weight=layer.whole())
        for criterion in dict.fromkeys(way.criterion for _, way in ways)
    }
    # One pattern after the other: the pruned tokens of all patterns would not fit into memory.
    for _, of_pattern in itertools.groupby(sorted(ways, key=_by_pattern), key=_by_pattern):
        chosen = [_choose(place, way, tokens, layer, columns, vectors) for place, way in of_pattern]
        errors = _errors(chosen, tokens, layer)
        for one in chosen:
            groups = one.way.pattern is not None and not is_reference(one.way.criterion)
            yield (
                one.place,
                Measured(
                    way=one.way,
                    elems=x.size,
                    energy=energy,
                    energy_kept=one.energy_kept,
                    output_energy=output_energy,
                    output_error=errors[one.place],
                    entropy=entropy_of(one.nm_mask, one.way.pattern) if groups and one.way.pattern else None,
                ),
            )


def _by_pattern(one: tuple[int, Way]) -> str:
    return str(one[1].pattern)


def _shares_product(way: Way) -> tuple[str, ...]:
    """What the values of a way depend on, within a pattern and a fold."""
    names = ("dpts_mean", "dpts_median", "spts", "lpts", "smooth_dynamic", "outliers", "salient_columns")
    return (way.criterion, *(str(one) for one in way.mitigation if one.name in names))


def _choose(
    place: int,
    way: Way,
    tokens: _Tokens,
    layer: Layer,
    columns: Columns,
    vectors: dict[str, criteria.FloatArray | None],
) -> _Chosen:
    if way.pattern is None:
        every = np.ones(tokens.x.shape, np.bool_)
        whole = rewrite.Selected(tokens.x, every, None, None, None, None)
        return _Chosen(place, way, Recipe(), whole, None, squares(tokens.counted), every)
    vector = vectors[way.criterion]
    if way.find("outliers") or way.find("salient_columns"):
        parts = _split(way, way.pattern, tokens, vector)
        values = np.where(parts.kept, tokens.x, np.float32(0))
        beside = rewrite.Selected(values, parts.nm, None, None, None, None)
        kept = squares(np.where(parts.kept, tokens.counted, np.float32(0)))
        return _Chosen(place, way, Recipe(), beside, None, kept, parts.nm)
    recipe = token_recipe(way, tokens.fit)
    # The choice sees the weights as one row: the largest of each column is all that it may need of them.
    stand_in = columns.largest[None]

    def select(x: Floats, recipe: Recipe) -> rewrite.Selected:
        of_criterion = ("channel_vector", vector) if vector is not None else (way.criterion, None)
        one_row = of_rows(recipe, slice(0, 1))
        prepared = rewrite.prepare(stand_in, one_row, criterion=of_criterion[0], vector=of_criterion[1])
        return rewrite.select(x, str(way.pattern), prepared)

    fit_chosen = None
    if {"bias1", "bias2", "r_sparse", "scale_shift"} & set(way.names):
        fit_chosen = select(tokens.fit, recipe)
        recipe = with_side_terms(way, recipe, fit_chosen, tokens.fit, layer, columns)
        fit_chosen = select(tokens.fit, recipe) if way.find("scale_shift") else None
    chosen = select(tokens.x, recipe)
    kept = squares(np.where(chosen.mask, tokens.counted, np.float32(0)))
    return _Chosen(place, way, recipe, chosen, fit_chosen, kept, chosen.mask)


def _split(way: Way, pattern: Pattern, tokens: _Tokens, vector: criteria.FloatArray | None) -> Split:
    """Outliers or salient columns beside N:M; which columns, calibration tokens say."""
    scores: NDArray[Any] | None = None
    if vector is not None:
        scores = criteria.channel_vector(tokens.x, vector)
    elif way.criterion == "clact":
        scores = criteria.clact(tokens.x)
    if outliers := way.find("outliers"):
        return split(tokens.x, pattern, outliers.size, scores=scores)
    salient = way.find("salient_columns")
    assert salient is not None
    saliency = np.square(tokens.fit).sum(axis=0)
    return split_columns(tokens.x, pattern, salient.number, saliency=saliency, scores=scores)


def _errors(chosen: Sequence[_Chosen], tokens: _Tokens, layer: Layer) -> dict[int, float]:
    """Go through the weights once: one product for all ways that share it, an epilogue for each."""
    shared: dict[tuple[str, ...], list[_Chosen]] = {}
    for one in chosen:
        shared.setdefault(_shares_product(one.way), []).append(one)
    for first, *others in shared.values():
        for one in others:
            assert np.array_equal(one.chosen.values, first.chosen.values), (
                "what shares a product keeps the same"
            )
    errors = dict.fromkeys((one.place for one in chosen), 0.0)
    # Blocks of weights outside, ways inside: a block is converted to float32 once for all ways.
    for rows, block in layer.blocks():
        for together in shared.values():
            values = together[0].chosen.values
            product = values @ block.T
            calibrating = [one.fit_chosen for one in together if one.fit_chosen is not None]
            fit_values = calibrating[0].values if calibrating else values[:0]
            fit_product = fit_values @ block.T
            for one in together:
                recipe = of_rows(one.recipe, rows)
                if one.fit_chosen is not None:
                    assert tokens.fit_output is not None
                    y_fit = rewrite.finish(fit_product, one.fit_chosen, rewrite.prepare(block, recipe))
                    scale, bias = fit.scale_and_bias(y_fit, tokens.fit_output[:, rows])
                    recipe = dataclasses.replace(recipe, scale=scale, bias=bias)
                y = rewrite.finish(product, one.chosen, rewrite.prepare(block, recipe))
                errors[one.place] += squares(y - tokens.output[:, rows])
    for one in chosen:
        if not np.isfinite(errors[one.place]):
            raise PatternError(
                f"{one.way.mitigation_text}: the output is not finite, expected tokens that it can be fitted to"
            )
    return errors
