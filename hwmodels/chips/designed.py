"""Products on a core design, in the columns of `predict`: times of the closed form, and joules.

A design has no measured rows, so its times have no range. They are a lower bound of what the simulator sees.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate.bounds import stream, traffic
from hwmodels.estimate.model import PREDICTED_COLUMNS
from hwmodels.estimate.table import Kind, read_kinds, read_shape
from hwmodels.silicon.energy import Design, design, energy_columns
from hwmodels.tensorcore.answer import limit_in_words, predict_core
from hwmodels.tensorcore.cycles import LIMITS, Cycles, closed_form
from hwmodels.tensorcore.point import Point, execution, mapping, point
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import VALUE_BITS, Case, GemmShape, Prediction
from nmsim.errors import NmsimError, RowError

ENERGY_COLUMNS = ("energy_joules_low", "energy_joules", "energy_joules_high")
DENSE_ENERGY_COLUMNS = tuple(f"dense_{name}" for name in ENERGY_COLUMNS)
BOUND_STAGES = {"memory": "dram", "decode": "decode", "select": "select", "matrix": "multiply"}
"""Stage of the bound of a machine -> the stage of a design's pipeline that does the same."""
Floats = NDArray[np.float64]


class Asked(NamedTuple):
    """Products on a design: a point each, and the design of its energy by place; None if no cost is known."""

    points: Floats
    designs: tuple[Design | None, ...]
    places: NDArray[np.int64]


def predict_designed(cases: pd.DataFrame, core: SparseTensorCore) -> pd.DataFrame:
    """Predict a table of products on a core design.

    Parameters
    ----------
    cases : DataFrame
        As for `hwmodels.predict`. `input_copies` products of one launch run one after the other.
    core : SparseTensorCore

    Returns
    -------
    DataFrame
        The columns of the table, `PREDICTED_COLUMNS`, `ENERGY_COLUMNS` and `DENSE_ENERGY_COLUMNS`. Ranges are NaN, since no
        row of a design is measured. `limit` is a stage in words. Joules are NaN if no cost is known.

    Raises
    ------
    RowError
        A column is missing or already there, a cell is wrong, or the core does not take a product.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> table = pd.DataFrame({"M": [1], "N": [4096], "K": [4096], "pattern": ["8:16"]})
    >>> predict_designed(table, load_core("flexible-8x16"))["limit"].tolist()
    ['DRAM to L2']
    """
    added_columns = (*PREDICTED_COLUMNS, *ENERGY_COLUMNS, *DENSE_ENERGY_COLUMNS)
    for name in added_columns:
        if name in cases.columns:
            raise RowError.at("already in the table; predict adds it and overwrites nothing", column=name)
    M, N, K = read_shape(cases)
    kind_of_row, kinds = read_kinds(cases)
    copies = np.array([kind.input_copies or 1.0 for kind in kinds])[kind_of_row]
    # Rows of one launch lie below each other in N: each product has its own tokens, and so its own pass.
    rows_of_one = np.maximum(np.rint(N / copies), 1.0)
    shapes = np.column_stack([M, rows_of_one, K]).astype(np.int64)
    mine, dense = (_asked(core, kinds, kind_of_row, shapes, dense=which) for which in (False, True))
    found, least = closed_form(mine.points), closed_form(dense.points)
    _check_tiles(found, least, mine.points)
    answers, baseline = Cycles(*found.T), Cycles(*least.T)
    added = _times(core, answers, baseline, copies)
    added |= _bytes(kinds, kind_of_row, shapes, mine.points, answers, baseline, copies)
    for names, asked, table in ((ENERGY_COLUMNS, mine, found), (DENSE_ENERGY_COLUMNS, dense, least)):
        added |= dict(zip(names, _joules(asked, table) * copies, strict=True))
    added["hardware"] = core.id
    added["execution"] = np.array([execution(core, _case(kind, (1, 1, 1))) for kind in kinds])[kind_of_row]
    added["limit"] = np.array([limit_in_words(name) for name in LIMITS])[answers.limit.astype(int)]
    columns = pd.DataFrame({name: added[name] for name in added_columns}, index=cases.index)
    return pd.concat([cases, columns], axis=1)


def _case(kind: Kind, shape: tuple[int, int, int], *, dense: bool = False) -> Case:
    stored = None if dense else kind.format
    return Case(GemmShape(*shape), stored, dtype=kind.dtype, sparse_operand=kind.sparse_operand)


def _asked(
    core: SparseTensorCore,
    kinds: list[Kind],
    kind_of_row: NDArray[np.intp],
    shapes: NDArray[np.int64],
    *,
    dense: bool,
) -> Asked:
    """Put kinds and shapes together: one point of each kind is worked out, and its shape replaced row by row."""
    rows, designs = [], []
    for place, kind in enumerate(kinds):
        try:
            rows.append(point(core, _case(kind, (2, 3, 1), dense=dense)))
        except NmsimError as error:
            row = int(np.argmax(kind_of_row == place))
            raise RowError.at(str(error), row=row) from error
        if kind.output_bits is not None:
            rows[-1] = rows[-1]._replace(output_bits=float(kind.output_bits))
        designs.append(_priced(core, kind._replace(format=None) if dense else kind))
    points = np.array(rows)[kind_of_row]
    at = Point._fields.index
    # The sparse operand is A: tokens if they are pruned, else weights.
    of_tokens = points[:, at("a_rows")] == 2
    points[:, at("a_rows")] = np.where(of_tokens, shapes[:, 0], shapes[:, 1])
    points[:, at("b_cols")] = np.where(of_tokens, shapes[:, 1], shapes[:, 0])
    points[:, at("K")] = shapes[:, 2]
    return Asked(points, tuple(designs), kind_of_row.astype(np.int64))


@functools.lru_cache(maxsize=4096)
def _priced(core: SparseTensorCore, kind: Kind) -> Design | None:
    """What energy wants of a design; None if no cost is known of it: of its node, or of codes of many lengths."""
    try:
        return design(core, _case(kind, (1, 1, 1)))
    except NmsimError:
        return None


def _check_tiles(found: Floats, least: Floats, points: Floats) -> None:
    """Refuse the first product of which no tile fits, as `mapping` says it."""
    bad = np.isnan(found[:, 0]) | np.isnan(least[:, 0])
    if bad.any():
        row = int(np.argmax(bad))
        try:
            mapping(Point(*points[row].tolist()))
        except RowError as error:
            raise RowError.at(error.problem, row=row) from error
        raise RowError.at("no tile of the dense product fits into the memories of a core", row=row)


def _times(core: SparseTensorCore, answers: Cycles, baseline: Cycles, copies: Floats) -> dict[str, Any]:
    time_s, dense_s = (copies * each.cycles / core.clock_hz for each in (answers, baseline))
    nothing = np.full(len(time_s), np.nan)
    return {
        "predicted_time_s": time_s,
        "predicted_dense_time_s": dense_s,
        "predicted_speedup_vs_dense": dense_s / time_s,
        "predicted_speedup_low": nothing,
        "predicted_speedup_high": nothing,
        "comparable_rows": np.zeros(len(time_s), np.int64),
        "extrapolates": np.ones(len(time_s), bool),
        # The closed form is the least time of the pipeline itself.
        "bound_time_s": time_s,
        **{
            f"bound_{name}_s": copies * getattr(answers, f"{stage}_cycles") / core.clock_hz
            for name, stage in BOUND_STAGES.items()
        },
        "bound_dense_time_s": dense_s,
        "bound_speedup_vs_dense": dense_s / time_s,
    }


def _bytes(
    kinds: list[Kind],
    kind_of_row: NDArray[np.intp],
    shapes: NDArray[np.int64],
    points: Floats,
    answers: Cycles,
    baseline: Cycles,
    copies: Floats,
) -> dict[str, Any]:
    """Bytes to and from DRAM: values and metadata once, and what else is read as the dense operand."""
    p = Point(*points.T)
    values, metadata = np.empty(len(points)), np.empty(len(points))
    for place, kind in enumerate(kinds):
        own = kind_of_row == place
        # Tokens that are pruned in the core arrive dense.
        stored = None if p.consumer[own].any() else kind.format
        online = kind.format is not None and kind.sparse_operand == "activations"
        M, N, K = shapes[own].T
        moved = traffic(M, N, K, VALUE_BITS[kind.dtype], stream(stored), online, False)
        values[own], metadata[own] = moved.values_bytes, moved.metadata_bytes
    rest = np.maximum(answers.dram_read_bytes - values - metadata, 0.0)
    found = {
        "values_bytes": values,
        "metadata_bytes": metadata,
        "dense_operand_bytes": rest,
        "output_bytes": answers.dram_write_bytes,
        "dense_traffic_bytes": baseline.dram_read_bytes + baseline.dram_write_bytes,
    }
    return {name: np.rint(column * copies).astype(np.int64) for name, column in found.items()}


def _joules(asked: Asked, answers: Floats) -> Floats:
    """Joules of each row [3, rows]: low, nominal, high; NaN if no cost is known."""
    found = np.full((len(ENERGY_COLUMNS), len(answers)), np.nan)
    known = np.array([each is not None for each in asked.designs])
    rows = known[asked.places]
    if rows.any():
        priced = [each for each in asked.designs if each is not None]
        place = (np.cumsum(known) - 1)[asked.places[rows]]
        found[:, rows] = list(energy_columns(priced, place, asked.points[rows], answers[rows]).values())
    return found


def predict_designed_case(
    case: Case, core: SparseTensorCore, *, output_bits: int | None = None
) -> Prediction:
    """Predict one product on a core design: `predict_designed` in one row, explained by the stages of the pipeline."""
    names = {"dtype": case.dtype, "sparse_operand": case.sparse_operand, "output_bits": output_bits}
    fields = (
        {"pattern": None}
        if case.format is None
        else {
            "pattern": case.format.pattern,
            "encoding": case.format.encoding.name,
            "packing": str(case.format.packing),
        }
    )
    shape = {"M": case.shape.M, "N": case.shape.N, "K": case.shape.K}
    try:
        row = predict_designed(pd.DataFrame([shape | names | fields]), core).iloc[0]
    except RowError as error:
        raise RowError(f"case: {error.problem}") from error
    values = {name: row[name] for name in PREDICTED_COLUMNS}
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return Prediction(case=case, explanation=predict_core(case, core).explanation, **plain)
