"""How fast the models are: predictor, closed form, sweeps, simulator. What `nmsim bench` times beside the codecs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmsim.case import Case, GemmShape
from nmsim.format import as_format
from nmsim.pattern import Pattern

PREDICT_CASES = 1_000_000
SINGLE_CASES = 2_000
REPETITIONS = 5
COPIES = 300
"""How often the closed form meets each of its points."""
SWEPT: dict[str, Any] = {
    "pattern": ["2:4", "4:8", "8:16"],
    "encoding": ["bitmask", "combinatorial"],
    "tokens": [1, 4, 16, 64, 256, 1024, 4096],
    "array_depth": [8, 16, 32],
    "decoder_elements_per_cycle": [16, 32, 64, 128, 256],
    "operand_b_bytes_per_cycle": [256, 512, 1024],
    "dram_bytes_per_cycle": [656, 1311, 2623, 5246],
    "shared_bytes_per_cycle": [64, 128, 256],
}
"""Axes of the space that is swept: 158,760 points."""
LAYER = GemmShape(M=2048, N=14336, K=4096)
"""The up projection of Llama-3.1-8B for a prompt of 2048 tokens."""


@dataclass(frozen=True)
class Figure:
    """One figure: what it is, the unit it is printed in, and the samples that it is taken from."""

    title: str
    unit: str
    scale: float
    samples: Callable[[], list[float]]

    def measure(self) -> dict[str, float]:
        """Percentiles of the samples, in base units: seconds, or so many a second."""
        return dict(
            zip(("p20", "p50", "p80"), np.percentile(self.samples(), [20, 50, 80]).tolist(), strict=True)
        )

    def line(self, found: dict[str, float]) -> list[str]:
        """A line of a table."""
        low, median, high = (f"{found[p] * self.scale:.3g}" for p in ("p20", "p50", "p80"))
        return [self.title, median, f"{low} to {high}", self.unit]


def _seconds(action: Callable[..., Any], *arguments: Any, **named: Any) -> float:
    started = time.perf_counter()
    action(*arguments, **named)
    return time.perf_counter() - started


def _rates(count: int, action: Callable[..., Any], *arguments: Any) -> list[float]:
    """So many a second, once it is warm."""
    return [count / _seconds(action, *arguments) for _ in range(REPETITIONS)][1:]


def _mixed_table() -> Any:
    """A million cases of a few shapes and ways to store."""
    import pandas as pd

    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {dimension: rng.choice([1, 4, 16, 64, 512, 4096, 14336], PREDICT_CASES) for dimension in "MNK"}
    )
    for column, choices in (
        ("pattern", ["2:4", "4:8", "8:16", "16:32"]),
        ("encoding", ["bitmask", "index", "combinatorial", "joint"]),
        ("packing", ["bitstream", "byte"]),
        ("sparse_operand", ["weights", "activations"]),
    ):
        table[column] = rng.choice(choices, PREDICT_CASES)
    return table


def _distinct_table() -> Any:
    """The same, each row another shape."""
    rng = np.random.default_rng(1)
    sizes = {dimension: rng.integers(1, 1 << 14, PREDICT_CASES) for dimension in "MK"}
    return _mixed_table().assign(**sizes, N=rng.permutation(PREDICT_CASES) + 1)


def _predict(table: Any) -> list[float]:
    import hwmodels

    return _rates(PREDICT_CASES, hwmodels.predict, table, "h200")


def _predict_one() -> list[float]:
    import hwmodels

    cases = [
        Case(GemmShape(row.M, row.N, row.K), as_format(row.pattern, encoding=row.encoding))
        for row in _distinct_table().head(SINGLE_CASES).itertuples()
    ]
    return [_seconds(hwmodels.predict, case, "h200") for case in cases][SINGLE_CASES // 10 :]


def _closed_form() -> list[float]:
    """Layers of Llama-3.1-8B on one core, without anything around them."""
    import itertools

    from hwmodels import load_core, load_model
    from hwmodels.tensorcore.cycles import closed_form
    from hwmodels.tensorcore.point import point

    core = load_core("flexible-8x16")
    points = np.array(
        [
            point(core, Case(GemmShape(tokens, layer.N, layer.K), f"{pattern}/{encoding}"))
            for layer in load_model("llama-3.1-8b").layers
            for tokens, pattern, encoding in itertools.product(
                (1, 4, 16, 64, 256, 1024, 4096), ("2:4", "4:8", "8:16"), ("bitmask", "combinatorial")
            )
        ]
    )
    many = np.tile(points, (COPIES, 1))
    return _rates(len(many), closed_form, many)


def _sweep(costs: bool) -> list[float]:
    from hwmodels.sweeps import load_space
    from hwmodels.sweeps.run import evaluate_chunk

    core, workload = {"base": "flexible-8x16"}, {"model": "llama-3.1-8b"}
    space = load_space({"costs": costs, "core": core, "axes": SWEPT, "workload": workload})
    return _rates(space.points, evaluate_chunk, space, 0, space.points)


def _events() -> list[float]:
    """Of a dense product, which has no mask to count."""
    from hwmodels import load_core, simulate

    core, case = load_core("dense"), Case(GemmShape(8192, LAYER.N, LAYER.K))
    events = simulate(case, core).events
    return _rates(events, simulate, case, core)


def _layer() -> list[float]:
    """Of a layer with its mask: counting it, and the events."""
    from hwmodels import load_core, simulate
    from hwmodels.tensorcore.simulate import random_mask

    core, case = load_core("flexible-8x16"), Case(LAYER, "8:16/combinatorial")
    mask = random_mask(LAYER.N, LAYER.K, Pattern(8, 16))
    return [_seconds(simulate, case, core, mask=mask) for _ in range(REPETITIONS)][1:]


FIGURES = {
    "predict_cases_per_s": Figure(
        "predict, a table with repeats", "10⁶ cases/s", 1e-6, lambda: _predict(_mixed_table())
    ),
    "predict_distinct_cases_per_s": Figure(
        "predict, all cases distinct", "10⁶ cases/s", 1e-6, lambda: _predict(_distinct_table())
    ),
    "predict_one_case_s": Figure("predict, one case", "µs", 1e6, _predict_one),
    "closed_form_points_per_s": Figure("closed form of a core", "10⁶ points/s", 1e-6, _closed_form),
    "sweep_points_per_s": Figure("sweep", "10⁶ points/s", 1e-6, lambda: _sweep(False)),
    "sweep_with_costs_points_per_s": Figure(
        "sweep with energy and area", "10⁶ points/s", 1e-6, lambda: _sweep(True)
    ),
    "simulated_events_per_s": Figure("simulator", "10⁶ events/s", 1e-6, _events),
    "simulated_layer_s": Figure("simulator, a layer of Llama-3.1-8B with its mask", "s", 1.0, _layer),
}
"""What is timed, by its name in `--json`."""
