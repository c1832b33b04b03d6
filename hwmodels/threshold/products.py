"""The products of one decode step of a model, or of many dense models at once, and what they take: seconds and joules.

What lies beside the N:M part is a product of its own, after the first. Only linear layers are counted.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate.model import predict
from hwmodels.estimate.table import format_cells
from hwmodels.machine.spec import HardwareSpec
from hwmodels.silicon.energy import Design, design, energy_columns
from hwmodels.tensorcore.cycles import closed_form
from hwmodels.tensorcore.mapping import mapping
from hwmodels.tensorcore.point import Point, point
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.threshold.footprint import ModelFormat, Stacked
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError
from nmsim.format import as_format

WAY = ("dtype", "pattern", "encoding", "packing")
SHAPE_FIELDS = tuple(Point._fields.index(name) for name in ("a_rows", "b_cols", "K"))

Floats = NDArray[np.float64]


class Seconds(NamedTuple):
    """Time of a decode step of each model: low, predicted and high end (NaN if nothing is known), and best case."""

    low: Floats
    nominal: Floats
    high: Floats
    best_case: Floats
    extrapolates: NDArray[np.bool_]


class Joules(NamedTuple):
    """Energy of a decode step of each model, in the low, nominal and high scenario of technology."""

    low: Floats
    nominal: Floats
    high: Floats


def products(layers: Stacked, how: ModelFormat, tokens: int) -> pd.DataFrame:
    """List the products of a decode step: columns of cases, `count`, and `place` of the model among all.

    Parameters
    ----------
    layers : Stacked
        Of one model, or of many.
    how : ModelFormat
    tokens : int
        Sequences decoded together.

    Raises
    ------
    RowError
        `tokens` is no positive int.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise RowError(f"tokens={tokens!r}: expected a positive int")
    rest, columns = ((dtype, *format_cells(None)) for dtype in (how.rest_dtype, how.side_dtype))
    main, outliers = (how.dtype, *format_cells(how.format)), (how.side_dtype, *format_cells(how.outliers))
    tables = []
    for count, pruned, _, N, K in zip(*layers[:5], strict=True):
        ways: list[tuple[Any, Any]] = [(main if pruned else rest, K)]
        if pruned and how.outliers is not None:
            ways.append((outliers, K))
        if pruned and how.columns:
            ways.append((columns, how.columns))
        for way, inside in ways:
            out, deep = np.broadcast_arrays(np.atleast_1d(N), inside)
            shape = {"place": np.arange(len(out)), "M": tokens, "N": out, "K": deep}
            tables.append(pd.DataFrame({**shape, **dict(zip(WAY, way, strict=True)), "count": count}))
    return pd.concat(tables, ignore_index=True)


def seconds(table: pd.DataFrame, machine: HardwareSpec) -> Seconds:
    """Add up the time of the products of each model.

    All layers err alike: the low end of a step is that of all its products.

    Raises
    ------
    RowError
        As `hwmodels.predict`.
    """
    try:
        found = predict(table, machine)
    except RowError as error:
        # The table is made here: the caller does not know its rows.
        raise RowError(error.problem) from error
    time_s = found["predicted_time_s"].to_numpy()
    speedup = found["predicted_speedup_vs_dense"]
    return Seconds(
        low=_total(table, time_s * (speedup / found["predicted_speedup_high"]).to_numpy()),
        nominal=_total(table, time_s),
        high=_total(table, time_s * (speedup / found["predicted_speedup_low"]).to_numpy()),
        best_case=_total(table, found["bound_time_s"].to_numpy()),
        extrapolates=_total(table, found["extrapolates"].to_numpy().astype(float)) > 0,
    )


def joules(table: pd.DataFrame, core: SparseTensorCore) -> Joules:
    """Add up the energy of the products of each model on a core design.

    Raises
    ------
    RowError
        A value type or encoding that the core does not take, or a product that fits into no tile.
    SpecError, EncodingError
        As `hwmodels.silicon.energy.unit_costs`.
    """
    kinds: NDArray[np.int64] = table.groupby(list(WAY), sort=False).ngroup().to_numpy().astype(np.int64)
    bases: list[Point] = []
    designs: list[Design] = []
    for way in table.drop_duplicates(list(WAY))[list(WAY)].itertuples(index=False):
        dtype, pattern, encoding, packing = (str(cell) for cell in way)
        case = Case(GemmShape(1, 1, 1), as_format(pattern, encoding=encoding, packing=packing), dtype=dtype)
        bases.append(point(core, case))
        designs.append(design(core, case))
    points = np.array(bases, np.float64)[kinds]
    points[:, SHAPE_FIELDS] = table[["N", "M", "K"]].to_numpy(np.float64)
    found = energy_columns(designs, kinds, points, closed_form(points))
    bad = np.flatnonzero(np.isnan(found["energy_joules"]))
    if len(bad):
        mapping(Point(*points[bad[0]].tolist()))
    names = ("energy_joules_low", "energy_joules", "energy_joules_high")
    return Joules(*(_total(table, found[name]) for name in names))


def _total(table: pd.DataFrame, each: Floats) -> Floats:
    """Sums over the products of each model [models]."""
    weights = table["count"].to_numpy() * each
    return np.bincount(table["place"].to_numpy(), weights=weights).astype(np.float64)
