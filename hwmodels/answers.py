"""Answers as columns: the estimate and the bound of a block of products, and the error bars of rows."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels import constants
from hwmodels.bounds import Bound, Plan, evaluate
from hwmodels.constants import Constants
from hwmodels.cpu import estimate_cpu, instructions_per_element, vector_lanes
from hwmodels.estimate import ROADS, estimate
from hwmodels.families import UNIT_PATTERN
from hwmodels.intervals import CPU_FAMILY, ROAD_FAMILIES, Interval, interval, regime_of, width_of
from hwmodels.spec import HardwareSpec
from hwmodels.traffic import Traffic
from nmsim.pattern import Pattern

TIME_COLUMNS = (
    "predicted_time_s",
    "predicted_dense_time_s",
    "predicted_speedup_vs_dense",
    "predicted_speedup_low",
    "predicted_speedup_high",
    "bound_time_s",
    "bound_memory_s",
    "bound_decode_s",
    "bound_select_s",
    "bound_matrix_s",
    "bound_dense_time_s",
    "bound_speedup_vs_dense",
)
BYTE_COLUMNS = (
    "values_bytes",
    "metadata_bytes",
    "dense_operand_bytes",
    "output_bytes",
    "dense_traffic_bytes",
)
PREDICTED_COLUMNS = (
    "hardware", "execution", *TIME_COLUMNS, "comparable_rows", "extrapolates", *BYTE_COLUMNS, "bound",
)  # fmt: skip
"""Columns that `predict` adds to a table, in this order."""


class Known(NamedTuple):
    """What is known of the error of a prediction."""

    interval: Interval
    extrapolates: bool


@functools.lru_cache(maxsize=4096)
def interval_of(spec: HardwareSpec, pattern: Pattern | None, dtype: str, tokens: int, road: int) -> Known:
    """Find the measured rows that a prediction compares with, and whether they are of its pattern.

    Parameters
    ----------
    spec : HardwareSpec
    pattern : Pattern or None
        None for a dense product, whose speedup is 1 by definition.
    dtype : str
    tokens : int
    road : int
        Place in `hwmodels.estimate.ROADS`.
    """
    if pattern is None:
        return Known(Interval(1.0, 1.0, 0), False)
    if spec.family == "cpu":
        found = interval(CPU_FAMILY, width_of(dtype), regime_of(tokens))
        return Known(found, found.widened)
    name = ROADS[road]
    found = interval(ROAD_FAMILIES[name], width_of(dtype), regime_of(tokens))
    measured = name == "unit" and pattern == UNIT_PATTERN and not spec.hypothetical
    return Known(found, not measured or found.widened)


def with_interval(speedup: Any, known: Known) -> dict[str, Any]:
    """Columns of error bars around speedups."""
    return {
        "predicted_speedup_low": speedup * known.interval.low,
        "predicted_speedup_high": speedup * known.interval.high,
        "comparable_rows": known.interval.rows,
        "extrapolates": known.extrapolates,
    }


class Asked(NamedTuple):
    """How rows are run, beyond what the product is: place in `CACHE_STATES`, cores (0: all), and instructions.

    `instructions` are those of an element of the dense matrix in the sparse and in the dense product, on a CPU.
    """

    state: NDArray[np.int8]
    threads: NDArray[np.int64]
    instructions: tuple[NDArray[np.float64], NDArray[np.float64]]


class Way(NamedTuple):
    """A combination of choices that occurs in a table."""

    dtype: str
    pattern: Pattern | None
    encoding: str


def instructions_of(
    spec: HardwareSpec, ways: list[Way], kind: NDArray[np.intp], tokens: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Instructions an element of each row costs, sparse and dense; zeros on a GPU, where the estimate knows none."""
    sparse, dense = np.zeros(len(kind)), np.zeros(len(kind))
    if spec.family != "cpu":
        return sparse, dense
    lanes = vector_lanes(spec)
    for place, way in enumerate(ways):
        for count in np.unique(tokens[kind == place]).tolist():
            rows = (kind == place) & (tokens == count)
            sparse[rows] = instructions_per_element(lanes, way.dtype, way.pattern, way.encoding, count)
            dense[rows] = instructions_per_element(lanes, way.dtype, None, "", count)
    return sparse, dense


class Answers:
    """Columns of answers, filled block by block, under the fitted constants or those given."""

    def __init__(self, rows: int, values: Constants | None = None) -> None:
        self.constants = values or constants.load()
        self.numbers: dict[str, NDArray[Any]] = {name: np.empty(rows) for name in TIME_COLUMNS}
        self.numbers |= {name: np.empty(rows, np.int64) for name in BYTE_COLUMNS}
        self.stage = np.empty(rows, np.int8)
        self.road = np.empty(rows, np.int8)

    def fill(
        self,
        rows: slice,
        spec: HardwareSpec,
        how: Plan,
        shape: tuple[NDArray[np.int64], ...],
        asked: "Asked",
    ) -> tuple[Bound, Traffic]:
        """Compute one block; the interval columns are left to the caller."""
        M, N, K = shape
        moved, bound, moved_dense, bound_dense = evaluate(spec, how, M, N, K)
        time_s, dense_s = bound.time_s, bound_dense.time_s
        if spec.family == "gpu":
            expected = estimate(spec, self.constants, how, (M, N, K), moved, bound, moved_dense, asked.state)
        else:
            expected = estimate_cpu(
                spec,
                how,
                (M, N, K),
                moved,
                bound,
                moved_dense,
                asked.state,
                asked.threads,
                asked.instructions,
            )
        columns = {
            "predicted_time_s": expected.time_s,
            "predicted_dense_time_s": expected.dense_time_s,
            "predicted_speedup_vs_dense": expected.dense_time_s / expected.time_s,
            "bound_time_s": time_s,
            "bound_memory_s": bound.memory_s,
            "bound_decode_s": bound.decode_s,
            "bound_select_s": bound.select_s,
            "bound_matrix_s": bound.matrix_s,
            "bound_dense_time_s": dense_s,
            "bound_speedup_vs_dense": dense_s / time_s,
            "values_bytes": moved.values_bytes,
            "metadata_bytes": moved.metadata_bytes,
            "dense_operand_bytes": moved.dense_operand_bytes,
            "output_bytes": moved.output_bytes,
            "dense_traffic_bytes": moved_dense.total_bytes,
        }
        for name, column in columns.items():
            self.numbers[name][rows] = column
        self.stage[rows] = bound.stage
        self.road[rows] = expected.road
        return bound, moved
