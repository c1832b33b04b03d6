"""Pruned weights of one layer: energy kept, error of the output on real tokens, entropy of the masks; block by block."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmsim.criteria import best_of_tokens
from nmsim.mask import BoolArray, prune
from nmsim.mitigation import fit, golden
from nmsim.mitigation.outliers import Split, split, split_columns
from nmsim.mitigation.weights import choose_equalised, correction_factors
from nmsim.quality.layer import (
    BLOCK_ELEMS,
    Columns,
    Layer,
    MaskCounter,
    Measured,
    row_blocks,
    squares,
    tokens_of,
)
from nmsim.quality.way import UNSTRUCTURED, Way
from nmsim.support import parallel

Floats = NDArray[np.float32]


class _Sums(NamedTuple):
    """What is added up of a way over the blocks."""

    energy_kept: float = 0.0
    output_error: float = 0.0


class _Calibration(NamedTuple):
    """What calibration tokens say of the in features, each [K]."""

    norms: NDArray[Any]
    """sqrt(sum_i x_ij^2), Wanda's vector."""
    factors: NDArray[Any]
    """Of equalisation."""


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
    known = _Calibration(
        np.sqrt(np.square(x_fit, dtype=np.float64).sum(axis=0)),
        golden.equalisation(x_fit, columns.largest[None]),
    )
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
            parts = _choose(plain, block, columns, known)
            kept = np.where(parts.kept, block, np.float32(0))
            energy_kept, product = squares(kept), x @ kept.T
            for place in places:
                if (counter := counters[place]) is not None:
                    counter.add(parts.nm)
                factors = _corrections(ways[place], block, parts.kept)
                y = product * factors
                if ways[place].find("scale_shift"):
                    assert dense_fit is not None
                    scale, bias = fit.scale_and_bias((x_fit @ kept.T) * factors, dense_fit)
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
    if way.pattern is None or way.criterion == UNSTRUCTURED:
        return None
    return MaskCounter(way.pattern, shape[0] * (shape[1] // way.pattern.m))


def _plain(way: Way) -> Way:
    """The way without what leaves the choice as it is."""
    changing = ("smooth_static", "outliers", "salient_columns")
    return way._replace(mitigation=tuple(one for one in way.mitigation if one.name in changing))


def _choose(way: Way, block: Floats, columns: Columns, known: _Calibration) -> Split:
    """Choose in a block of rows, on all cores."""
    slabs = row_blocks(len(block), block.shape[1], max(1, block.size // (os.cpu_count() or 1)))
    threads = os.cpu_count() or 1
    parts = parallel.run(lambda rows: _choose_slab(way, block[rows], columns, known), slabs, threads)
    return Split(*(np.concatenate(masks) for masks in zip(*parts, strict=True)))


def _choose_slab(way: Way, block: Floats, columns: Columns, known: _Calibration) -> Split:
    pattern = way.pattern
    if pattern is None:
        return _alone(np.ones(block.shape, np.bool_))
    if way.criterion == UNSTRUCTURED:
        return _alone(best_of_tokens(np.abs(block), block.shape[1] * pattern.n // pattern.m))
    factors = known.factors if way.find("smooth_static") else None
    if way.criterion == "channel_vector":
        # Equalisation divides x_j, and with it its norm, by what it multiplies w_oj with: Wanda's product stays.
        factors = known.norms
    scores = None if factors is None else np.abs(block) * factors.astype(np.float32)
    if outliers := way.find("outliers"):
        return split(block, pattern, outliers.size, scores=scores)
    if salient := way.find("salient_columns"):
        return split_columns(block, pattern, salient.number, saliency=columns.squares, scores=scores)
    if way.criterion == "magnitude" and factors is not None:
        return _alone(choose_equalised(block, pattern, factors))
    return _alone(prune(block, pattern, scores=scores))


def _alone(mask: BoolArray) -> Split:
    return Split(mask, np.zeros_like(mask))


def _corrections(way: Way, block: Floats, mask: BoolArray) -> Floats:
    """Factors of the out features [O], 1 without a correction."""
    if way.find("weight_correction"):
        return correction_factors(block, mask).astype(np.float32)
    return np.ones(len(block), np.float32)
