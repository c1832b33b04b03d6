"""Answers as columns: the estimate and the bound of a block of products, and the error bars of rows."""

import functools
from typing import Any, NamedTuple

from hwmodels.estimate.bounds import Bound, Plan, evaluate
from hwmodels.estimate.constants import Constants
from hwmodels.estimate.cpu import estimate_cpu, instructions_per_element, vector_lanes
from hwmodels.estimate.estimate import ROADS, estimate
from hwmodels.estimate.families import UNIT_PATTERN
from hwmodels.estimate.intervals import CPU_FAMILY, ROAD_FAMILIES, Interval, interval, width_of
from hwmodels.estimate.traffic import Traffic
from hwmodels.machine.spec import HardwareSpec
from nmsim.format import SparseFormat
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
    "hardware", "execution", *TIME_COLUMNS, "comparable_rows", "extrapolates", *BYTE_COLUMNS, "limit",
)  # fmt: skip
"""Columns that `predict` adds to a table, in this order."""


class Known(NamedTuple):
    """What is known of the error of a prediction."""

    interval: Interval
    extrapolates: bool


@functools.lru_cache(maxsize=4096)
def interval_of(spec: HardwareSpec, pattern: Pattern | None, dtype: str, regime: str, road: int) -> Known:
    """Find the measured rows that a prediction compares with, and whether they are of its pattern.

    Parameters
    ----------
    spec : HardwareSpec
    pattern : Pattern or None
        None for a dense product, whose speedup is 1 by definition.
    dtype : str
    regime : str
        As `hwmodels.estimate.intervals.regime_of`.
    road : int
        Place in `hwmodels.estimate.estimate.ROADS`.
    """
    if pattern is None:
        return Known(Interval(1.0, 1.0, 0), False)
    if spec.family == "cpu":
        found = interval(CPU_FAMILY, width_of(dtype), regime)
        return Known(found, found.widened)
    name = ROADS[road]
    found = interval(ROAD_FAMILIES[name], width_of(dtype), regime)
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
    """How products are run, beyond what the product is: place in `CACHE_STATES`, cores (0: all), and instructions.

    `instructions` are those of an element of the dense matrix in the sparse and in the dense product, on a CPU. Numbers,
    or arrays of one entry a case.
    """

    state: Any
    threads: Any
    instructions: tuple[Any, Any]


class Way(NamedTuple):
    """A combination of choices that occurs in a table."""

    dtype: str
    format: SparseFormat | None

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of the format; None for a dense product."""
        return self.format.pattern if self.format else None


def instructions_of(spec: HardwareSpec, way: Way, tokens: int) -> tuple[float, float]:
    """Instructions per element of a product, sparse and dense; zeros on a GPU, whose estimate has none."""
    if spec.family != "cpu":
        return 0.0, 0.0
    lanes = vector_lanes(spec)
    dense = instructions_per_element(lanes, way.dtype, None, tokens)
    return instructions_per_element(lanes, way.dtype, way.format, tokens), dense


class Answer(NamedTuple):
    """What is said of products: the columns that are numbers, places in `STAGES` and `ROADS`, and what is behind them."""

    numbers: dict[str, Any]
    stage: Any
    road: Any
    bound: Bound
    moved: Traffic


def answer(
    spec: HardwareSpec, values: Constants, how: Plan, shape: tuple[Any, Any, Any], asked: Asked
) -> Answer:
    """Estimate and bound products, numbers or arrays of one entry a case; the interval is left to the caller."""
    moved, bound, moved_dense, bound_dense = evaluate(spec, how, *shape)
    time_s, dense_s = bound.time_s, bound_dense.time_s
    if spec.family == "gpu":
        expected = estimate(spec, values, how, shape, moved, bound, moved_dense, asked.state)
    else:
        expected = estimate_cpu(spec, how, shape, moved, bound, moved_dense, *asked)
    numbers = {
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
    return Answer(numbers, bound.stage, expected.road, bound, moved)
