"""Which layers bear pruning: loss increases of single layers, kinds and blocks, and whether they add up.

The table that an assignment of patterns to layers is made from. `sums_of_singles` says how far it may be trusted.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from nmsim.errors import RowError, brief, brief_names
from nmsim.files.atomic import new_file
from nmsim.quality.configuration import ALL_LAYERS, Configuration
from nmsim.rows.loss import OPERANDS, LossRow
from nmsim.support.sources import csv_rows, read_text
from validate.accuracy.losses import DENSE, LossTable, ends, loss_tables
from validate.accuracy.statistics import FloatArray, Interval, compare, mean_interval, ratio_of_means

Scope = Literal["layer", "kind", "block"]
SCOPES: tuple[Scope, ...] = ("layer", "kind", "block")
BOTH = "both"
WAYS = ("operand", "pattern", "criterion", "mitigation", "values")
"""Columns that say how the layers were pruned. Of both operands, texts of weights and activations with ` and ` between."""
SENSITIVITY_COLUMNS = (
    "model", "text", "window_tokens", "windows", "scope", "layers", "kind", "block", "layers_pruned", *WAYS,
    "loss_increase", "loss_increase_low", "loss_increase_high", "against_dense",
)  # fmt: skip
"""Columns of `sensitivity_table`. `layers` is a name or a glob; `kind` or `block` is empty if the scope has several."""
ENDS_OF_INCREASE = ("loss_increase_low", "loss_increase_high")
SUM_COLUMNS = (
    "model", "text", "scope", "of", *WAYS, "singles", "layers_pruned", "windows",
    "sum", "sum_low", "sum_high", "measured", "measured_low", "measured_high", "ratio", "ratio_low", "ratio_high",
)  # fmt: skip
"""Columns of `sums_of_singles`. Sums and measured increases in nats per token; the ratio is measured over sum."""
_BLOCK = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Place:
    """What a text of layers stands for, if it is one layer, one kind or one block."""

    scope: Scope
    kind: str = ""
    block: int | None = None


def place_of(layers: str) -> Place | None:
    """Tell a layer, a kind and a block apart; None of other choices, such as all but some.

    Examples
    --------
    >>> place_of("model.layers.3.mlp.up_proj")
    Place(scope='layer', kind='up_proj', block=3)
    >>> place_of("*.q_proj").scope, place_of("model.layers.12.*").block, place_of("!*.q_proj")
    ('kind', 12, None)
    """
    if layers == ALL_LAYERS or len(layers.split()) != 1 or layers.startswith("!"):
        return None
    number = _BLOCK.search(layers)
    block = int(number[1]) if number else None
    last = layers.rpartition(".")[2]
    if not any(mark in layers for mark in "*?["):
        return Place("layer", last, block)
    if layers.endswith(".*") and block is not None and layers.count("*") == 1:
        return Place("block", block=block)
    if layers == f"*.{last}" and "*" not in last:
        return Place("kind", last)
    return None


def sensitivity_table(rows: Iterable[LossRow]) -> pd.DataFrame:
    """Loss increase of single layers, kinds and blocks: one row per choice of layers and way to prune them.

    Parameters
    ----------
    rows : iterable of LossRow
        Others than those of single layers, kinds and blocks are passed over, the dense ones apart.

    Returns
    -------
    DataFrame
        `SENSITIVITY_COLUMNS`: nats per token against the dense model, with 95 % intervals, paired by window.

    Raises
    ------
    RowError
        As `loss_tables`, or a setting without a dense row.
    """
    found = []
    for table in loss_tables(rows):
        for configuration, row in table.rows.items():
            place = place_of(configuration.layers)
            if place is None or configuration.is_dense:
                continue
            if not table.has(DENSE):
                raise RowError(f"{table.setting}: no dense row: expected one, which increases are against")
            increase = table.difference(configuration)
            found.append(
                {
                    **_setting(table),
                    "window_tokens": table.setting.window_tokens,
                    "windows": table.windows(configuration, DENSE),
                    "scope": place.scope,
                    "layers": configuration.layers,
                    "kind": place.kind,
                    "block": place.block,
                    "layers_pruned": row.layers_pruned,
                    **way_cells(configuration),
                    **ends("loss_increase", increase),
                    "against_dense": compare(increase),
                }
            )
    return pd.DataFrame(found, columns=list(SENSITIVITY_COLUMNS)).astype({"block": "Int64"})


def write_sensitivity(table: pd.DataFrame, path: str | Path, *, force: bool = False) -> None:
    """Write a table of sensitivities as CSV; the file takes its name when it is complete.

    Raises
    ------
    ContainerError
        The file exists and `force` is off, or it cannot be written.
    """
    with new_file(Path(path), force=force) as stream:
        stream.write(table.to_csv(index=False, lineterminator="\n", float_format="%.9g").encode())


def read_sensitivity(path: str | Path) -> pd.DataFrame:
    """Read a table that `write_sensitivity` wrote.

    Raises
    ------
    RowError
        No readable file, a missing column, or a cell that is no number.
    """
    lines = csv_rows(read_text(path, error=RowError).splitlines(), where=path, error=RowError)
    header = lines[0] if lines else []
    missing = [name for name in SENSITIVITY_COLUMNS if name not in header]
    if missing:
        raise RowError(
            f"{path}: no column {brief_names(missing)}: expected those of a table of sensitivities"
        )
    try:
        table = pd.DataFrame(lines[1:], columns=header)[list(SENSITIVITY_COLUMNS)]
        # An empty cell is the block of a kind, which has several, or an end that is not known.
        for name in (
            "window_tokens",
            "windows",
            "block",
            "layers_pruned",
            "loss_increase",
            *ENDS_OF_INCREASE,
        ):
            table[name] = pd.to_numeric(table[name].replace("", None))
        return table.astype({"block": "Int64"})
    except (ValueError, TypeError) as error:
        raise RowError(f"{path}: a cell or a row: {error}: expected what nmsim wrote") from None


def sums_of_singles(rows: Iterable[LossRow]) -> pd.DataFrame:
    """Compare the sum of the losses of single layers, kinds or blocks with the loss of all of them together.

    Parameters
    ----------
    rows : iterable of LossRow

    Returns
    -------
    DataFrame
        `SUM_COLUMNS`: a row per way to prune, scope, and whole that was measured. `of` is `all`, or the kind or block that
        the single layers make up. A whole without each of its singles has no row.

    Raises
    ------
    RowError
        As `loss_tables`.
    """
    found = [record for table in loss_tables(rows) if table.has(DENSE) for record in _sums(table)]
    return pd.DataFrame(found, columns=list(SUM_COLUMNS))


def _sums(table: LossTable) -> Iterator[dict[str, Any]]:
    places = {one: place_of(one.layers) for one in table.rows if not one.is_dense}
    # Singles by the way in which they are pruned: a table has a thousand of them, and a hundred wholes.
    singles_of: dict[tuple[Configuration, Scope], list[tuple[Configuration, Place]]] = {}
    for one, at in places.items():
        if at is not None:
            singles_of.setdefault((replace(one, layers=ALL_LAYERS), at.scope), []).append((one, at))
    for whole, place in places.items():
        if whole.layers != ALL_LAYERS and (place is None or place.scope == "layer"):
            continue
        for scope in SCOPES if place is None else SCOPES[:1]:
            of_way = singles_of.get((replace(whole, layers=ALL_LAYERS), scope), [])
            singles = [one for one, at in of_way if _is_part(at, place)]
            # Names of all layers are not in the rows; their number is.
            pruned = sum(table.rows[one].layers_pruned for one in singles)
            if singles and pruned == table.rows[whole].layers_pruned:
                yield _sum(table, whole, scope, singles)


def _is_part(single: Place, whole: Place | None) -> bool:
    """Whether a layer lies in a kind or block; all lie in None, which stands for all layers."""
    if whole is None:
        return True
    return single.kind == whole.kind if whole.scope == "kind" else single.block == whole.block


def _sum(
    table: LossTable, whole: Configuration, scope: Scope, singles: list[Configuration]
) -> dict[str, Any]:
    dense, of_whole, *of_singles = table.losses(DENSE, whole, *singles)
    added: FloatArray = np.sum([np.subtract(one, dense) for one in of_singles], axis=0)
    measured: FloatArray = np.subtract(of_whole, dense)
    return {
        **_setting(table),
        "scope": scope,
        "of": whole.layers,
        **way_cells(whole),
        "singles": len(singles),
        "layers_pruned": table.rows[whole].layers_pruned,
        "windows": len(dense),
        **ends("sum", mean_interval(added)),
        **ends("measured", mean_interval(measured)),
        **ends("ratio", ratio_of_means(measured, added)),
    }


def additivity(sums: pd.DataFrame) -> Interval:
    """Range of the ratios of measured to summed losses, all layers together: median, least and greatest.

    Examples
    --------
    >>> additivity(pd.DataFrame({"of": ["all", "all"], "ratio": [1.0, 2.0]}))
    Interval(mean=1.5, low=1.0, high=2.0)
    """
    ratios = sums.loc[(sums["of"] == ALL_LAYERS) & sums["ratio"].notna(), "ratio"]
    if ratios.empty:
        return Interval(*[float("nan")] * 3)
    return Interval(float(ratios.median()), float(ratios.min()), float(ratios.max()))


def way_cells(configuration: Configuration) -> dict[str, str]:
    """Columns that say how layers were pruned, whichever operand it is.

    Examples
    --------
    >>> from validate.accuracy.losses import one_operand
    >>> way_cells(one_operand("weights", "8:16"))["operand"]
    'weights'
    """
    ways = [way for operand in OPERANDS if (way := configuration.way(operand)) is not None]
    if not ways:
        raise RowError(f"configuration {brief(str(configuration))}: expected one that changes an operand")
    cells = {
        "pattern": [str(way.pattern) if way.pattern else "dense" for way in ways],
        "criterion": [way.criterion if way.pattern else "" for way in ways],
        "mitigation": [way.mitigation_text for way in ways],
        "values": [str(way.values) if way.values else "" for way in ways],
    }
    operand = ways[0].operand if len(ways) == 1 else BOTH
    return {
        "operand": operand,
        **{name: " and ".join(dict.fromkeys(filter(None, texts))) for name, texts in cells.items()},
    }


def _setting(table: LossTable) -> dict[str, str]:
    return {"model": table.setting.model, "text": table.setting.text}
