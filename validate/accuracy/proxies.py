"""How well cheap figures of `nmsim quality` tell the loss: rank correlations, and errors of what is predicted from them.

`nmsim quality` prunes one layer at a time and runs no model. Energy and output error are its figures. They are joined with
measured losses here, over configurations and over layers.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nmsim.errors import RowError, brief_names
from nmsim.format import DENSE as DENSE_PATTERN
from nmsim.pattern import Pattern
from nmsim.quality.configuration import ALL_LAYERS
from nmsim.quality.way import is_reference
from nmsim.rows.loss import LossRow
from validate.accuracy.losses import DENSE, ends, loss_tables, lowest_terms
from validate.accuracy.sensitivity import sensitivity_table, way_cells
from validate.accuracy.statistics import FloatArray, kendall, spearman

PROXIES = ("energy_lost_share", "relative_output_error")
"""Figures of `nmsim quality`, both greater if more is lost."""
WAY = ("operand", "pattern", "criterion", "mitigation")
NEEDED = ("layer", *WAY, "energy_kept_share", "relative_output_error")
FEWEST_POINTS = 5
"""Fewer points give no correlation."""
OVER = ("configurations", "layers")
JOINED_COLUMNS = (
    "model",
    "text",
    "over",
    "layer",
    *WAY,
    *PROXIES,
    "loss_increase",
    "loss_increase_low",
    "loss_increase_high",
)
PROXY_COLUMNS = (
    "model", "text", "over", "of", "proxy", "points", "spearman", "spearman_low", "spearman_high",
    "kendall", "kendall_low", "kendall_high",
    "fit", "fitted_points", "factor_median", "factor_p90", "factor_without", "error_median",
)  # fmt: skip
"""Columns of `proxy_table`.

`factor_median` and `factor_p90`: half and nine tenths of the predictions lie within this factor of the measured increase.
`factor_without` is that of the geometric mean of the others, which knows no proxy. `error_median` is in nats per token.
"""
TINY = 1e-12


class Fit(NamedTuple):
    """A way to predict an increase from a proxy: takes known proxies and increases, and new proxies."""

    name: str
    predict: Callable[[FloatArray, FloatArray, FloatArray], FloatArray]


def beside_quality(rows: Iterable[LossRow], quality: pd.DataFrame) -> pd.DataFrame:
    """Put figures of `nmsim quality` beside measured loss increases.

    Parameters
    ----------
    rows : iterable of LossRow
    quality : DataFrame
        The CSV that `nmsim quality` writes: `layer`, `operand`, `pattern`, `criterion`, `mitigation`,
        `energy_kept_share`, `relative_output_error`. Layer `all` is for configurations.

    Returns
    -------
    DataFrame
        `JOINED_COLUMNS`. `over` is `configurations`, all layers pruned, or `layers`, one of them.

    Raises
    ------
    RowError
        A column is missing, a way comes twice for a layer, or as `loss_tables`.
    """
    missing = [name for name in NEEDED if name not in quality.columns]
    if missing:
        raise RowError(f"quality: no column {brief_names(missing)}: expected the table of nmsim quality")
    figures = _figures(quality)
    twice = figures.duplicated(["layer", *WAY])
    if twice.any():
        first = figures[twice].iloc[0]
        raise RowError(
            f"quality: {first['layer']}, {first['pattern']} comes twice: expected one row per layer and way"
        )
    measured = pd.DataFrame([*_configurations(rows := list(rows)), *_layers(rows)])
    if measured.empty:
        return pd.DataFrame(columns=list(JOINED_COLUMNS))
    both = measured.merge(figures, on=["layer", *WAY], how="inner", validate="many_to_one")
    return both.dropna(subset=list(PROXIES))[list(JOINED_COLUMNS)].reset_index(drop=True)


def proxy_table(points: pd.DataFrame) -> pd.DataFrame:
    """Correlate each proxy with the loss, and predict each point from the others.

    Over configurations, an operand's points are its patterns, criteria and mitigations. Over layers, they are the layers
    pruned in one way.

    Parameters
    ----------
    points : DataFrame
        From `beside_quality`.

    Returns
    -------
    DataFrame
        `PROXY_COLUMNS`: a row per model, text, group of points, proxy and fit. Correlations have 95 % intervals, for which
        points are drawn. Increases that are not above zero have no factor and are left out of the fit.

    Source
    ------
    `scipy.optimize.isotonic_regression`, `validate.accuracy.statistics`.
    """
    found = [
        record
        for (model, text, over), group in points.groupby(["model", "text", "over"], sort=False)
        for of, own in _groups(str(over), group)
        if len(own) >= FEWEST_POINTS
        for proxy in PROXIES
        for record in _records(
            {"model": str(model), "text": str(text), "over": str(over), "of": of}, own, proxy
        )
    ]
    return pd.DataFrame(found, columns=list(PROXY_COLUMNS))


def _groups(over: str, points: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    if over == "configurations":
        yield "both operands", points
        yield from ((str(operand), own) for operand, own in points.groupby("operand", sort=False))
        return
    for way, own in points.groupby(list(WAY), sort=False):
        yield " ".join(str(word) for word in way if word != "none"), own


def _records(names: dict[str, str], points: pd.DataFrame, proxy: str) -> Iterator[dict[str, Any]]:
    pairs = points[[proxy, "loss_increase"]].to_numpy(float)
    correlations = {**ends("spearman", spearman(*pairs.T)), **ends("kendall", kendall(*pairs.T))}
    # Logarithms: increases of configurations span two orders of magnitude, and a factor is what a designer asks for.
    usable = pairs[(pairs > TINY).all(axis=1)]
    for fit in FITS:
        errors = leave_one_out(usable, fit) if len(usable) >= FEWEST_POINTS else {}
        yield {
            **names,
            "proxy": proxy,
            "points": len(pairs),
            **correlations,
            "fit": fit.name,
            "fitted_points": len(usable),
            **{name: errors.get(name, float("nan")) for name in PROXY_COLUMNS[-4:]},
        }


def leave_one_out(pairs: FloatArray, fit: Fit) -> dict[str, float]:
    """Predict the increase of each point from a fit to all others.

    Parameters
    ----------
    pairs : array [points, 2]
        Proxy and increase, both above zero.
    fit : Fit

    Returns
    -------
    dict
        `factor_median`, `factor_p90`, `factor_without` and `error_median`, as in `PROXY_COLUMNS`.

    Examples
    --------
    >>> exact = np.array([[1.0, 2.0], [2.0, 4.0], [4.0, 8.0], [8.0, 16.0], [16.0, 32.0]])
    >>> round(leave_one_out(exact, FITS[0])["factor_p90"], 6)
    1.0
    """
    x, y = np.log(pairs).T
    others = [np.arange(len(x)) != place for place in range(len(x))]
    predicted = np.array([fit.predict(x[keep], y[keep], x[[place]])[0] for place, keep in enumerate(others)])
    plain = np.array([y[keep].mean() for keep in others])
    factors, without = np.exp(np.abs(predicted - y)), np.exp(np.abs(plain - y))
    return {
        "factor_median": float(np.median(factors)),
        "factor_p90": float(np.quantile(factors, 0.9)),
        "factor_without": float(np.median(without)),
        "error_median": float(np.median(np.abs(np.exp(predicted) - np.exp(y)))),
    }


def _power(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """A line through the logarithms; without spread of the proxy, its mean."""
    if np.ptp(x) < TINY:
        return np.full(len(at), y.mean())
    slope, start = np.polyfit(x, y, 1)
    return np.asarray(start + slope * at, float)


def _monotone(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """Steps that never fall, joined by lines; beyond the ends it is constant."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(x, kind="stable")
    return np.asarray(np.interp(at, x[order], isotonic_regression(y[order]).x), float)


FITS = (Fit("power law", _power), Fit("monotone", _monotone))


def _figures(quality: pd.DataFrame) -> pd.DataFrame:
    """Figures of pruned layers, named as rows of losses name them. Criteria without groups go by their density."""
    pruned = quality[quality["pattern"] != DENSE_PATTERN]
    if "values" in pruned:
        # Rounded values are another way; the measured losses here are of values as they are.
        pruned = pruned[pruned["values"].fillna("") == ""]
    loose = [is_reference(name) for name in pruned["criterion"]]
    patterns = [
        lowest_terms(Pattern.parse(text)) if free else text
        for text, free in zip(pruned["pattern"], loose, strict=True)
    ]
    figures = pruned.assign(
        layer=[_module(name) for name in pruned["layer"]],
        pattern=[str(pattern) for pattern in patterns],
        energy_lost_share=1 - pruned["energy_kept_share"],
    )[["layer", *WAY, *PROXIES]]
    # Patterns of one density are one way without groups, and their figures are the same.
    same = figures.duplicated(["layer", *WAY]) & pd.Series(loose, index=figures.index, dtype=bool)
    return figures[~same]


def _module(name: str) -> str:
    """The name of a layer as a model has it: without the name of the tensor in it."""
    return name.removesuffix(".weight")


def _configurations(rows: list[LossRow]) -> Iterator[dict[str, Any]]:
    """Configurations that prune one operand of all layers, with values as they are."""
    for table in loss_tables(rows):
        for operand in ("weights", "activations") if table.has(DENSE) else ():
            for configuration in table.ways(operand).values():
                cells, increase = way_cells(configuration), table.difference(configuration)
                yield {
                    "model": table.setting.model,
                    "text": table.setting.text,
                    "over": "configurations",
                    "layer": ALL_LAYERS,
                    **{name: cells[name] for name in WAY},
                    **ends("loss_increase", increase),
                }


def _layers(rows: list[LossRow]) -> list[dict[str, Any]]:
    table = sensitivity_table(rows)
    single = table[(table["scope"] == "layer") & (table["values"] == "")]
    kept = ["model", "text", *WAY, "loss_increase", "loss_increase_low", "loss_increase_high"]
    found = single[kept].assign(over="layers", layer=single["layers"])
    return [{str(name): cell for name, cell in record.items()} for record in found.to_dict("records")]
