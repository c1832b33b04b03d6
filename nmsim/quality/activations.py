"""Pruned activations of one layer: energy kept, error of the output by the rewritten form, entropy of the masks.

Ways of pruning that differ only in the epilogue share the product of the kept elements with the weights."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim import criteria
from nmsim.criteria import named
from nmsim.errors import PatternError
from nmsim.mask import BoolArray, keep
from nmsim.mitigation import fit, rewrite
from nmsim.mitigation.outliers import Split, split, split_columns, split_unstructured
from nmsim.mitigation.recipe import Recipe
from nmsim.mitigation.rounding import round_values
from nmsim.pattern import Pattern
from nmsim.quality.layer import (
    BLOCK_ELEMS,
    Calibration,
    Columns,
    Layer,
    Measured,
    entropy_of,
    needed,
    squares,
    tokens_of,
)
from nmsim.quality.way import SPLITS, Way, is_reference

Array = NDArray[Any]
Floats = NDArray[np.float32]


def folded_recipe(way: Way, known: Calibration | None, columns: Columns) -> Recipe:
    """Make what is folded into weights and into the operation before: rotation, and equalisation.

    Parameters
    ----------
    way : Way
    known : Calibration or None
        None if nothing of the way needs tokens.
    columns : Columns
        Of the weights as they are.

    Raises
    ------
    PatternError
        No calibration tokens where they are needed.
    """
    rotation = needed(way, known).eigenvectors if way.find("rotation") else None
    if way.find("smooth_static"):
        return Recipe(equalise=needed(way, known).equalisation(columns))
    return Recipe(rotation=rotation, equalise="dynamic" if way.find("smooth_dynamic") else "none")


def token_recipe(way: Way, x_fit: NDArray[np.float32] | None) -> Recipe:
    """Make what `select` depends on beside the fold: the shift, and the variance.

    Parameters
    ----------
    way : Way
    x_fit : float32 array [L, K] or None
        Calibration tokens, as the folded weights meet them; one call of S-PTS. None if nothing of the way needs them.
    """
    shift: Any = "none"
    if way.find("dpts_mean"):
        shift = "mean"
    elif way.find("dpts_median"):
        shift = "median"
    elif x_fit is not None and way.find("spts"):
        shift = fit.static_shift([x_fit])
    elif x_fit is not None and way.find("lpts"):
        shift = fit.channel_shift(x_fit)
    dynamic = "dynamic" if way.find("smooth_dynamic") else "none"
    return Recipe(shift=shift, variance=bool(way.find("var")), equalise=dynamic)


class FitTokens(NamedTuple):
    """Calibration tokens as the folded weights meet them."""

    given: Floats
    """Of which the dense output is the aim."""
    taken: Floats
    """From which is chosen: the same, or rounded."""


def with_side_terms(
    way: Way, recipe: Recipe, chosen: rewrite.Selected, tokens: FitTokens, layer: Layer, columns: Columns
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
    tokens : FitTokens
    layer : Layer
    columns : Columns
        Of the folded weights.
    """
    names = [name for name in ("bias1", "bias2") if way.find(name)]
    low_rank = way.find("r_sparse")
    if not names and not low_rank:
        return recipe
    dropped = np.where(chosen.mask, np.float32(0), shifted(tokens.taken, chosen, recipe))
    biases: dict[str, Any] = {}
    if names:
        mean_row = columns.mean[None].astype(np.float32)
        ours = rewrite.finish(chosen.values @ mean_row.T, chosen, rewrite.prepare(mean_row, recipe))
        parts = {"bias1": chosen.values, "bias2": dropped}
        found = fit.token_bias(np.hstack([parts[name] for name in names]), tokens.given @ mean_row.T - ours)
        fields = ("kept_bias" if name == "bias1" else "dropped_bias" for name in names)
        biases = dict(zip(fields, np.split(found, len(names)), strict=True))
    pair = None
    if low_rank:
        if low_rank.number >= len(dropped):
            raise PatternError(f"{low_rank}: {len(dropped)} calibration tokens, expected more than the rank")
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


class TokenChoice:
    """The choice of one way in the tokens of one layer, parameters fitted.

    Parameters
    ----------
    way : Way
        Of activations.
    recipe : Recipe
        From `token_recipe`, or from `with_side_terms`.
    column_max : float32 array [K]
        max_o |w_oj| of the folded weights: all that a choice may need of them beside the vector.
    vector : array [K] or None
        Of the criterion.
    saliency : array [K] or None
        By which salient columns are chosen.
    """

    def __init__(
        self,
        way: Way,
        recipe: Recipe,
        *,
        column_max: Floats,
        vector: Array | None = None,
        saliency: Array | None = None,
    ) -> None:
        self.way = way
        self.recipe = recipe
        self.column_max = column_max
        self.vector = vector
        self.saliency = saliency
        criterion = "channel_vector" if vector is not None and named(way.criterion).vector else way.criterion
        # The choice sees the weights as one row.
        one_row = of_rows(recipe, slice(0, 1))
        self.prepared = rewrite.prepare(column_max[None], one_row, criterion=criterion, vector=vector)

    def replaced(self, recipe: Recipe) -> "TokenChoice":
        """The same with another recipe."""
        return TokenChoice(
            self.way, recipe, column_max=self.column_max, vector=self.vector, saliency=self.saliency
        )

    def taken(self, x: Floats) -> Floats:
        """Tokens [L, K] from `rewrite.produced` as the choice sees them: rounded, if the way rounds before it."""
        return self._rounded(x, "before")

    def select(self, x: Floats) -> tuple[rewrite.Selected, BoolArray]:
        """Choose among tokens [L, K] from `rewrite.produced`.

        Returns
        -------
        Selected
            Its values are those of the product, rounded if the way says so. What else it holds is of values before a rounding
            after the choice. Its mask is all that is kept.
        bool array [L, K]
            The N:M mask: what is kept without outliers and salient columns.
        """
        x, way = self.taken(x), self.way
        if way.pattern is None:
            every = np.ones(x.shape, np.bool_)
            return self._finished(rewrite.Selected(x, every, None, None, None, None)), every
        if set(SPLITS) & set(way.names):
            parts = self._split(x, way.pattern)
            values = keep(x, parts.kept)
            return self._finished(rewrite.Selected(values, parts.kept, None, None, None, None)), parts.nm
        selected = rewrite.select(x, way.pattern, self.prepared)
        return self._finished(selected), selected.mask

    def _finished(self, selected: rewrite.Selected) -> rewrite.Selected:
        if self.way.values is None or self.way.values.when == "before":
            return selected
        return selected._replace(values=self._rounded(selected.values, "after"))

    def _rounded(self, x: Floats, when: str) -> Floats:
        how = self.way.values
        return x if how is None or how.when != when else round_values(x, bits=how.bits, group=how.group)

    def _split(self, x: Floats, pattern: Pattern) -> Split:
        """Outliers or salient columns beside N:M; which columns, calibration tokens say."""
        scores: Array | None = None
        if self.vector is not None:
            scores = criteria.channel_vector(x, self.vector)
        elif self.way.criterion == "clact":
            scores = criteria.clact(x)
        if outliers := self.way.find("outliers"):
            return split(x, pattern, outliers.size, scores=scores)
        if outliers := self.way.find("outliers_unstructured"):
            return split_unstructured(x, pattern, outliers.size, scores=scores)
        salient = self.way.find("salient_columns")
        assert salient is not None
        return split_columns(x, pattern, salient.number, saliency=self.saliency, scores=scores)


def looks_across_tokens(way: Way) -> bool:
    """Whether a choice in a token depends on the other tokens of the call.

    Examples
    --------
    >>> [looks_across_tokens(Way("activations", Pattern(2, 4), name)) for name in ("magnitude", "clact")]
    [False, True]
    """
    if way.pattern is None:
        return False
    return way.criterion == "clact" or named(way.criterion).among == "all" or bool(way.find("smooth_dynamic"))


def fitted_choice(
    way: Way,
    x_fit: Floats | None,
    layer: Layer,
    *,
    columns: Columns,
    vector: Array | None,
) -> tuple[TokenChoice, rewrite.Selected | None]:
    """Fit all that goes beside the product but scale and bias.

    Parameters
    ----------
    way : Way
    x_fit : float32 array [L, K] or None
        Calibration tokens as the folded weights meet them. None if nothing of the way needs them.
    layer : Layer
        Folded.
    columns : Columns
        Of the folded weights.
    vector : array [K] or None
        Of the criterion.

    Returns
    -------
    TokenChoice
    Selected or None
        Of the calibration tokens, if scale and bias are still to be fitted.
    """
    saliency = np.square(x_fit).sum(axis=0) if x_fit is not None and way.find("salient_columns") else None
    plain = TokenChoice(way, Recipe(), column_max=columns.largest, vector=vector, saliency=saliency)
    if way.pattern is None:
        return plain, None
    taken = None if x_fit is None else plain.taken(x_fit)
    choice = plain.replaced(token_recipe(way, taken))
    if x_fit is None or taken is None or not {"bias1", "bias2", "r_sparse", "scale_shift"} & set(way.names):
        return choice, None
    chosen, _ = choice.select(x_fit)
    recipe = with_side_terms(way, choice.recipe, chosen, FitTokens(x_fit, taken), layer, columns)
    if recipe is not choice.recipe:
        choice = choice.replaced(recipe)
        chosen, _ = choice.select(x_fit) if way.find("scale_shift") else (chosen, None)
    return choice, chosen if way.find("scale_shift") else None


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
    known, x = Calibration(tokens_of("x_fit", x_fit, weight)), tokens_of("x", x, weight)
    columns = Layer(weight, block_elems=block_elems).columns()
    found: dict[int, Measured] = {}
    folds = {way: tuple(name for name in way.names if name in ("rotation", "smooth_static")) for way in ways}
    for fold in dict.fromkeys(folds.values()):
        mine = [(place, way) for place, way in enumerate(ways) if folds[way] == fold]
        layer = Layer(weight, folded_recipe(mine[0][1], known, columns), block_elems)
        found |= dict(_measure_fold(known.tokens, x, layer, mine))
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
        for criterion in dict.fromkeys(way.criterion for _, way in ways if way.pattern)
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
    names = ("dpts_mean", "dpts_median", "spts", "lpts", "smooth_dynamic", *SPLITS)
    return (way.criterion, str(way.values), *(str(one) for one in way.mitigation if one.name in names))


def _choose(
    place: int,
    way: Way,
    tokens: _Tokens,
    layer: Layer,
    columns: Columns,
    vectors: dict[str, criteria.FloatArray | None],
) -> _Chosen:
    vector = vectors[way.criterion] if way.pattern else None
    choice, fit_chosen = fitted_choice(way, tokens.fit, layer, columns=columns, vector=vector)
    chosen, nm_mask = choice.select(tokens.x)
    kept = squares(np.where(chosen.mask, tokens.counted, np.float32(0)))
    return _Chosen(place, way, choice.recipe, chosen, fit_chosen, kept, nm_mask)


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
