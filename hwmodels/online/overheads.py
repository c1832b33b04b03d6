"""What each criterion and each mitigation costs, a token and a layer, in decode and in prefill: tables."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from hwmodels.models import Model, load_model
from hwmodels.online.mitigations import (
    CRITERIA,
    DEFAULT_SETTINGS,
    MITIGATIONS,
    OF_WEIGHTS,
    WAITS,
    PrunedProduct,
    Settings,
    StageCost,
    kept,
)
from nmsim.case import DEFAULT_DTYPE, GemmShape, SparseOperand, value_type
from nmsim.errors import RowError, SpecError, brief
from nmsim.pattern import Pattern

PER_TOKEN = ("multiplies", "adds", "compares", "specials", "selector_compares", "macs")
BYTES = (
    "parameter_bytes", "l2_read_bytes", "l2_written_bytes", "shared_read_bytes", "shared_written_bytes", "held_bytes",
)  # fmt: skip


def stage_costs(
    shape: GemmShape,
    pattern: Pattern | str,
    *,
    dtype: str = DEFAULT_DTYPE,
    criterion: str | None = "magnitude",
    mitigation: str | Sequence[str] = (),
    operand: SparseOperand = "activations",
    settings: Settings = DEFAULT_SETTINGS,
) -> tuple[StageCost, ...]:
    """List the stages that a criterion and its mitigations add to one product, with exact counts.

    Parameters
    ----------
    shape : GemmShape
        M tokens, which are one sequence, N out features, K in features.
    pattern : Pattern or str
    dtype : str
        Value type, a key of `nmsim.case.VALUE_BITS`.
    criterion : str or None
        A key of `hwmodels.online.mitigations.CRITERIA`; None to leave the choice out. Without effect for weights, which
        are pruned offline.
    mitigation : str or sequence of str
        Keys of `hwmodels.online.mitigations.MITIGATIONS`, `+` between several.
    operand : {"activations", "weights"}
    settings : Settings

    Returns
    -------
    tuple of StageCost

    Raises
    ------
    RowError
        An unknown name, operand or value type, or a mitigation of activations for sparse weights.

    Source
    ------
    Formula, the docstring of each function in `hwmodels.online.mitigations`.

    Examples
    --------
    >>> stages = stage_costs(GemmShape(1, 4096, 4096), "8:16", mitigation="var")
    >>> [(stage.name, stage.streams) for stage in stages]
    [('select', True), ('var moments', True), ('var scale', True)]
    """
    parsed = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
    dtype = value_type(dtype)
    if operand not in get_args(SparseOperand):
        raise RowError(f"operand={brief(operand)}: expected one of {', '.join(get_args(SparseOperand))}")
    product = PrunedProduct(shape, parsed, dtype, operand, settings)
    found: list[StageCost] = []
    if criterion is not None and operand == "activations":
        if criterion not in CRITERIA:
            raise RowError(f"criterion={brief(criterion)}: expected one of {', '.join(CRITERIA)}")
        found.extend(CRITERIA[criterion](product))
    for name in mitigation_names(mitigation):
        if operand == "weights" and name not in OF_WEIGHTS:
            raise RowError(
                f"mitigation={brief(name)}: of activations; with sparse weights: {', '.join(OF_WEIGHTS)}"
            )
        found.extend(MITIGATIONS[name](product))
    return tuple(found)


def mitigation_names(mitigation: str | Sequence[str]) -> tuple[str, ...]:
    """Split and check names of mitigations.

    Examples
    --------
    >>> mitigation_names("var+scale_shift")
    ('var', 'scale_shift')
    """
    names = tuple(mitigation.split("+")) if isinstance(mitigation, str) else tuple(mitigation)
    names = tuple(name for name in names if name not in ("", "none"))
    for name in names:
        if name not in MITIGATIONS:
            raise RowError(f"mitigation={brief(name)}: expected some of {', '.join(MITIGATIONS)}")
    if len(set(names)) < len(names):
        raise RowError(f"mitigation={brief('+'.join(names))}: a name twice")
    return names


def strongest_wait(stages: Iterable[StageCost]) -> str:
    """Name what a choice waits for when all stages are there: `"group"`, `"token"` or `"sequence"`."""
    return max((stage.waits_for for stage in stages), key=WAITS.index, default="group")


def mitigation_table(
    shape: GemmShape,
    pattern: Pattern | str,
    *,
    dtype: str = DEFAULT_DTYPE,
    operand: SparseOperand = "activations",
    settings: Settings = DEFAULT_SETTINGS,
) -> pd.DataFrame:
    """Tabulate what each criterion and each mitigation costs on one layer, in decode and in prefill.

    Parameters
    ----------
    shape : GemmShape
        The layer, and as M the tokens of prefill. Decode has one token.
    pattern : Pattern or str
    dtype : str
    operand : {"activations", "weights"}
    settings : Settings

    Returns
    -------
    pandas.DataFrame
        One row for each phase and name. `*_per_token`: operations; `macs_per_token`: multiply-adds beside the product,
        `share_of_sparse_macs` those relative to its effectual ones, `sparse_macs_per_token`. `*_bytes`: of the whole layer
        and phase. `waits_for`, `passes`, `streams`, `parts`, `formula`.

    Raises
    ------
    RowError, PatternError
        As `stage_costs`.

    Examples
    --------
    >>> table = mitigation_table(GemmShape(4096, 4096, 4096), "8:16")
    >>> table.query("name == 'r_sparse' and phase == 'decode'").share_of_sparse_macs.item()
    0.125
    """
    online = operand == "activations"
    names = [(name, "criterion") for name in CRITERIA if online]
    names += [(name, "mitigation") for name in MITIGATIONS if online or name in OF_WEIGHTS]
    rows = []
    for (phase, tokens), (name, kind) in itertools.product((("decode", 1), ("prefill", shape.M)), names):
        one = GemmShape(tokens, shape.N, shape.K)
        criterion, mitigation = (name, "") if kind == "criterion" else (None, name)
        stages = stage_costs(
            one, pattern, dtype=dtype, criterion=criterion, mitigation=mitigation, operand=operand, settings=settings,
        )  # fmt: skip
        head = {"name": name, "kind": kind, "phase": phase, "tokens": tokens}
        rows.append(head | _row(stages, one, pattern))
    return pd.DataFrame(rows)


def _row(stages: Sequence[StageCost], shape: GemmShape, pattern: Pattern | str) -> dict[str, Any]:
    parsed = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
    sparse_macs = shape.N * kept(shape.K, parsed)
    totals = {name: sum(getattr(stage, name) for stage in stages) for name in (*PER_TOKEN, *BYTES)}
    per_token = {f"{name}_per_token": totals[name] / shape.M for name in PER_TOKEN}
    return {
        "parts": ", ".join(dict.fromkeys(stage.part for stage in stages)),
        "waits_for": strongest_wait(stages),
        "streams": all(stage.streams for stage in stages),
        "passes": max(1, *(stage.passes for stage in stages)),
        **per_token,
        "sparse_macs_per_token": sparse_macs,
        "share_of_sparse_macs": per_token["macs_per_token"] / sparse_macs,
        **{name: totals[name] for name in BYTES},
        "formula": "; ".join(stage.formula for stage in stages),
    }


def model_table(
    model: str | Model,
    pattern: Pattern | str,
    *,
    dtype: str = DEFAULT_DTYPE,
    tokens: int = 4096,
    operand: SparseOperand = "activations",
    settings: Settings = DEFAULT_SETTINGS,
) -> pd.DataFrame:
    """Tabulate `mitigation_table` for all pruned layers of a model, with `layer` and `count` in front.

    Parameters
    ----------
    model : str or Model
        As `hwmodels.models.load_model`.
    pattern, dtype, operand, settings
        As `mitigation_table`.
    tokens : int
        Of prefill.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    SpecError, RowError, PatternError

    Examples
    --------
    >>> table = model_table("llama-3.1-8b", "8:16")
    >>> list(table.layer.unique())
    ['q', 'k', 'v', 'o', 'gate', 'up', 'down']
    """
    tables = []
    for layer in load_model(model).layers:
        if layer.pruned:
            shape = GemmShape(tokens, layer.N, layer.K)
            table = mitigation_table(shape, pattern, dtype=dtype, operand=operand, settings=settings)
            table.insert(0, "count", layer.count)
            table.insert(0, "layer", layer.name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def chosen_layers(table: pd.DataFrame, layers: Sequence[str] | None, model: str) -> pd.DataFrame:
    """Take some layers of a `model_table`, in their order; all layers and their sum if `layers` is None.

    Raises
    ------
    SpecError
        A layer that the table does not have.
    """
    if layers is None:
        return pd.concat([table, sum_layers(table)], ignore_index=True)
    known = list(dict.fromkeys(table["layer"]))
    for name in layers:
        if name not in known:
            raise SpecError(
                f"--layer {name}: expected one of {', '.join(known)}, the pruned layers of {model}"
            )
    return pd.concat([table[table["layer"] == name] for name in layers], ignore_index=True)


def salient_columns(columns: int | None, in_features: Mapping[str, int]) -> tuple[int, str]:
    """Choose the number of salient columns: as many as asked for, or the default if every layer has so many.

    Parameters
    ----------
    columns : int or None
        None for the default.
    in_features : mapping of str to int
        Layer -> K, in elements.

    Returns
    -------
    tuple of int and str
        The number, and a remark if it is below the default.

    Raises
    ------
    SpecError
        More columns than a layer has.
    """
    layer, most = min(in_features.items(), key=lambda each: each[1])
    default = DEFAULT_SETTINGS.columns
    if columns is not None and columns > most:
        raise SpecError(f"--columns {columns}: expected at most the in features of {layer}, {most}")
    if columns is None and most < default:
        return most, f"salient columns: {most} in place of {default}, {layer} has no more in features"
    return columns or default, ""


def sum_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Add up the layers of a `model_table`: operations of a token through all of them, bytes of one pass.

    Each layer makes its own choice here, though layers with the same X (q, k and v; gate and up) could share one.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `model_table`.

    Returns
    -------
    pandas.DataFrame
        A row for each phase and name, `layer` "all" and `count` the number of layers. `held_bytes` is that of the layer that
        holds most, since layers follow one another; `share_of_sparse_macs` is of all sums.

    Examples
    --------
    >>> total = sum_layers(model_table("llama-3.1-8b", "8:16"))
    >>> row = total.query("name == 'bias1' and phase == 'decode'")
    >>> int(row["count"].item()), int(row.macs_per_token.item()), int(row.multiplies_per_token.item())
    (224, 0, 622592)
    """
    keys = ["name", "kind", "phase", "tokens"]
    columns = [str(name) for name in table.columns]
    summed = [name for name in columns if name.endswith(("_per_token", "_bytes")) and name != "held_bytes"]
    weighted = table.assign(**{name: table[name] * table["count"] for name in summed})
    how = dict.fromkeys(columns, "first") | dict.fromkeys([*summed, "count"], "sum") | {"held_bytes": "max"}
    found = weighted.groupby(keys, sort=False, as_index=False).agg(
        {name: rule for name, rule in how.items() if name not in keys}
    )
    found["layer"] = "all"
    found["share_of_sparse_macs"] = found["macs_per_token"] / found["sparse_macs_per_token"]
    return found[columns]
