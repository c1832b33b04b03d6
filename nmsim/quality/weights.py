"""Pruned weights of one layer: energy kept, error of the output on real tokens, entropy of the masks; block by block."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import best_of_tokens, named, ria
from nmsim.mask import BoolArray, keep, prune
from nmsim.mitigation import fit
from nmsim.mitigation.outliers import Split, split, split_columns, split_unstructured
from nmsim.mitigation.rounding import round_values
from nmsim.mitigation.weights import choose_equalised, correction_factors
from nmsim.quality.layer import (
    BLOCK_ELEMS,
    Calibration,
    Columns,
    Layer,
    MaskCounter,
    Measured,
    needed,
    row_blocks,
    squares,
    tokens_of,
)
from nmsim.quality.way import SPLITS, Way, is_reference
from nmsim.support import parallel

Floats = NDArray[np.float32]


class _Sums(NamedTuple):
    """What is added up of a way over the blocks."""

    energy_kept: float = 0.0
    output_error: float = 0.0


def measure_weights(
    x_fit: NDArray[Any],
    x: NDArray[Any],
    weight: NDArray[Any],
    ways: Sequence[Way],
    *,
    block_elems: int = BLOCK_ELEMS,
) -> list[Measured]:
    """Prune the weights of one linear layer in several ways, and measure each on tokens.

    A variance correction is of each row, over all that is kept of it, outliers included. Of salient columns the measure is the
    sum of squares of the column.

    Parameters
    ----------
    x_fit, x : array [L, K]
        Calibration tokens and those that are measured.
    weight : array [O, K]
        Any dtype of floats; it is read in blocks of rows.
    ways : sequence of Way
        From `nmsim.quality.cross`.
    block_elems : int
        Weights in memory as float32 at a time.

    Returns
    -------
    list of Measured
        In the order of the ways; energies are those of W.

    Raises
    ------
    PatternError
        Shapes that do not fit together, a number that is not finite, or more salient columns than there are.

    Source
    ------
    Mitigations: `nmsim.mitigation.weights` and `nmsim.mitigation.outliers`. `channel_vector` is Wanda's criterion: |w_oj| times
    the norm of x_j.

    Examples
    --------
    >>> from nmsim.quality.way import cross
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.standard_normal((2, 64, 128)), rng.standard_normal((32, 128)).astype(np.float32)
    >>> ways, _ = cross("weights", ["2:4"], ["magnitude"], ["none", "outliers=16:256"])
    >>> [round(one.energy_kept_share, 2) for one in measure_weights(x[0], x[1], weight, ways)]
    [1.0, 0.92, 0.86, 0.93]
    """
    x_fit, x = tokens_of("x_fit", x_fit, weight), tokens_of("x", x, weight)
    layer = Layer(weight, block_elems=block_elems)
    columns = layer.columns()
    known = Calibration(x_fit)
    counters = [_counter(way, weight.shape) for way in ways]
    sums = [_Sums() for _ in ways]
    together: dict[Way, list[int]] = {}
    for place, way in enumerate(ways):
        together.setdefault(_plain(way), []).append(place)
    energy = output_energy = 0.0
    # One pass over the weights for all ways: a layer may be larger than memory in float32.
    for _, block in layer.blocks():
        dense = x @ block.T
        energy += squares(block)
        output_energy += squares(dense)
        dense_fit = x_fit @ block.T if any(way.find("scale_shift") for way in ways) else None
        for plain, places in together.items():
            pruned = prune_rows(plain, block, columns, known)
            kept = (
                pruned.values if plain.values is None else np.where(pruned.parts.kept, block, np.float32(0))
            )
            energy_kept, product = squares(kept), x @ pruned.values.T
            for place in places:
                if (counter := counters[place]) is not None:
                    counter.add(pruned.parts.nm)
                factors = corrections(ways[place], pruned)
                y = product * factors
                if ways[place].find("scale_shift"):
                    assert dense_fit is not None
                    scale, bias = fit.scale_and_bias((x_fit @ pruned.values.T) * factors, dense_fit)
                    y = y * (1 + scale.astype(np.float32)) + bias.astype(np.float32)
                old = sums[place]
                sums[place] = _Sums(old.energy_kept + energy_kept, old.output_error + squares(y - dense))
    return [
        Measured(
            way=way,
            elems=weight.size,
            energy=energy,
            energy_kept=sums[place].energy_kept,
            output_energy=output_energy,
            output_error=sums[place].output_error,
            entropy=counter.entropy() if (counter := counters[place]) else None,
        )
        for place, way in enumerate(ways)
    ]


def _counter(way: Way, shape: tuple[int, ...]) -> MaskCounter | None:
    if way.pattern is None or is_reference(way.criterion):
        return None
    return MaskCounter(way.pattern, shape[0] * (shape[1] // way.pattern.m))


def _plain(way: Way) -> Way:
    """The way without what leaves the choice and the values as they are."""
    changing = ("smooth_static", *SPLITS)
    return way._replace(mitigation=tuple(one for one in way.mitigation if one.name in changing))


class PrunedRows(NamedTuple):
    """Rows of weights under one way, before factors of rows and what is fitted to outputs."""

    given: Floats
    """From which was chosen: as they were, or rounded."""
    parts: Split
    values: Floats
    """What is kept, zero elsewhere."""


def prune_rows(way: Way, block: Floats, columns: Columns, known: Calibration | None) -> PrunedRows:
    """Choose in a block of rows, and round its values if the way says so.

    Under `smooth_static` W s is what is stored and rounded. It is divided by s here, since X / s meets it.

    Parameters
    ----------
    way : Way
        Of weights. Factors of rows and what is fitted to outputs are left to the caller.
    block : float32 array [rows, K]
    columns : Columns
        Of all rows, before they are rounded.
    known : Calibration or None
        None if neither criterion nor mitigation needs tokens.

    Raises
    ------
    PatternError
        No calibration tokens where they are needed, or as `nmsim.prune`.
    """
    given = _rounded(way, "before", block, columns, known)
    parts = _choose(way, given, columns, known)
    if way.pattern is None:
        return PrunedRows(given, parts, _rounded(way, "after", given, columns, known))
    kept = keep(given, parts.kept)
    return PrunedRows(given, parts, _rounded(way, "after", kept, columns, known))


def corrections(way: Way, pruned: PrunedRows) -> Floats:
    """Factors of the out features [O], 1 without a correction. They are of what is kept before it is rounded."""
    if way.find("weight_correction"):
        return correction_factors(pruned.given, pruned.parts.kept).astype(np.float32)
    return np.ones(len(pruned.given), np.float32)


def _rounded(way: Way, when: str, block: Floats, columns: Columns, known: Calibration | None) -> Floats:
    if way.values is None or way.values.when != when:
        return block
    how = {"bits": way.values.bits, "group": way.values.group}
    if not way.find("smooth_static"):
        return round_values(block, **how)
    factors = needed(way, known).equalisation(columns).astype(np.float32)
    found: Floats = np.divide(round_values(block * factors, **how), factors)
    return found


def _choose(way: Way, block: Floats, columns: Columns, known: Calibration | None) -> Split:
    """Choose in a block of rows, on all cores."""
    threads = os.cpu_count() or 1
    slabs = row_blocks(len(block), block.shape[1], max(1, -(-block.size // threads)))
    parts = parallel.run(lambda rows: _choose_slab(way, block[rows], columns, known), slabs, threads)
    return Split(*(np.concatenate(masks) for masks in zip(*parts, strict=True)))


def _choose_slab(way: Way, block: Floats, columns: Columns, known: Calibration | None) -> Split:
    pattern = way.pattern
    if pattern is None:
        return _alone(np.ones(block.shape, np.bool_))
    scores = _scores(way, block, columns, known)
    if outliers := way.find("outliers"):
        return split(block, pattern, outliers.size, scores=scores)
    if outliers := way.find("outliers_unstructured"):
        return split_unstructured(block, pattern, outliers.size, scores=scores)
    if salient := way.find("salient_columns"):
        return split_columns(block, pattern, salient.number, saliency=columns.squares, scores=scores)
    if named(way.criterion).among == "token":
        ranked = np.abs(block) if scores is None else scores
        return _alone(best_of_tokens(ranked, block.shape[1] * pattern.n // pattern.m))
    if way.criterion == "magnitude" and way.find("smooth_static"):
        return _alone(choose_equalised(block, pattern, needed(way, known).equalisation(columns)))
    return _alone(prune(block, pattern, scores=scores))


def _scores(way: Way, block: Floats, columns: Columns, known: Calibration | None) -> NDArray[Any] | None:
    """By what the weights of a block are ranked; None if by their magnitude."""
    if way.criterion == "ria":
        return ria(block, needed(way, known).norms, column_sums=columns.absolute)
    if named(way.criterion).takes_vector:
        # Equalisation divides x_j, and with it its norm, by what it multiplies w_oj with: Wanda's product stays.
        return np.abs(block) * needed(way, known).norms.astype(np.float32)
    if way.find("smooth_static"):
        return np.abs(block) * needed(way, known).equalisation(columns).astype(np.float32)
    return None


def _alone(mask: BoolArray) -> Split:
    return Split(mask, np.zeros_like(mask))
