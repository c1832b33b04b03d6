"""Predicted tokens per second of measured runs, and the runs that are left out."""

from dataclasses import dataclass
from math import inf
from typing import Any, cast

import numpy as np
import pandas as pd

from hwmodels.estimate.passes import WIDE_BYTES, PassConstants, prior_passes
from hwmodels.machine.spec import group_of, load_machine
from hwmodels.steps.attention import kv_cache_bytes
from hwmodels.steps.serving import (
    SUM_BYTES,
    Served,
    ServingConstants,
    Steps,
    load_serving,
    prior_serving,
    run_s,
)
from nmsim.pattern import Pattern
from validate.whole_models.schedule import steps_of

RUN = ("machine", "model", "dtype", "phase", "tokens")
"""What all patterns of a dense run have in common."""
PROTOCOL = ("requests", "sequences", "prompt_tokens", "output_tokens", "step_tokens", "eager")
MEMORY_SHARE = 0.8
"""Share of the memory that the engine was allowed (`--gpu-memory-utilization` of the source)."""
STALLED_SHARE = 0.7
"""A run that reaches less than this share of the tokens per second of a run with fewer tokens per step has stalled."""
ABOVE_KERNEL = 1.5
"""A speedup above M/N times this is above that of any kernel: the dense run has stalled."""
BELOW_KERNEL = 0.7
"""A speedup below this is below that of any kernel: 8:10 stores 0.94 and multiplies 0.8 of what the dense layer does."""
REASONS = {
    "memory": "weights, cache and activations need more than the engine's share of the memory",
    "stalled": "fewer tokens per second than the same model with fewer tokens per step",
    "above any kernel": "a speedup above what the pattern leaves out of all work",
    "below any kernel": "a speedup below what the larger inputs of sliding windows explain",
}


@dataclass(frozen=True)
class Run:
    """The device's part of a run, which constants of the engine do not change."""

    device_s: Any
    steps: Steps
    kernels: int
    operators: int
    request_prompts: int

    def seconds(self, values: ServingConstants) -> float:
        """Seconds of the run under constants of the engine."""
        return run_s(
            self.device_s, self.steps, kernels=self.kernels, operators=self.operators,
            request_prompts=self.request_prompts, values=values,
        )  # fmt: skip


class Runs:
    """The dense and the sparse run of each row, as `validate.whole_models.tables.WHOLE_COLUMNS` says them."""

    def __init__(self, table: pd.DataFrame, *, held_out: bool, passes: PassConstants | None = None) -> None:
        self.table, self.held_out, self.passes = table.reset_index(drop=True), held_out, passes
        self._served: dict[tuple[str, ...], Served] = {}
        self._runs: dict[tuple[Any, ...], Run] = {}
        self.dense = [self._run(row, None) for row in self.table.itertuples()]
        self.sparse = [self._run(row, str(row.pattern)) for row in self.table.itertuples()]
        self.groups = np.array([group_of(machine) for machine in self.table["machine"]])
        asked = self.table["prompt_tokens"] + self.table["output_tokens"]
        self.tokens = (self.table["requests"] * asked).to_numpy(float)

    def _run(self, row: Any, pattern: str | None) -> Run:
        # Half of all runs are dense runs that four rows share.
        key = (pattern, *(getattr(row, name) for name in (*RUN, *PROTOCOL)))
        if key not in self._runs:
            served = self.served(row, pattern)
            steps = steps_of(**{name: getattr(row, name) for name in PROTOCOL})
            self._runs[key] = Run(
                served.device_s(steps),
                steps,
                served.kernels,
                served.operators,
                row.requests * row.prompt_tokens,
            )
        return self._runs[key]

    def served(self, row: Any, pattern: str | None) -> Served:
        """The model of a row in an engine."""
        key = (row.model, row.machine, row.dtype, pattern or "")
        if key not in self._served:
            self._served[key] = Served(
                row.model, row.machine, dtype=row.dtype, pattern=pattern, held_out=self.held_out
            )
            if self.passes is not None:
                self._served[key].passes = self.passes
        return self._served[key]

    def tokens_per_s(self, values: dict[str, ServingConstants] | ServingConstants) -> tuple[Any, Any]:
        """Tokens per second of all dense and all sparse runs; constants of the engine may differ by group of machines."""
        own = [values if isinstance(values, ServingConstants) else values[group] for group in self.groups]
        found = []
        for runs in (self.dense, self.sparse):
            times: dict[tuple[int, int], float] = {}
            seconds = []
            for run, each in zip(runs, own, strict=True):
                key = (id(run), id(each))
                if key not in times:
                    times[key] = run.seconds(each)
                seconds.append(times[key])
            found.append(self.tokens / np.array(seconds))
        return found[0], found[1]


def predict_runs(table: pd.DataFrame, *, held_out: bool = True) -> pd.DataFrame:
    """Predict the tokens per second of measured runs.

    Parameters
    ----------
    table : DataFrame
        `validate.whole_models.tables.WHOLE_COLUMNS`.
    held_out : bool
        Predict each machine with constants of the estimate, the passes and the engine that were fitted without it.

    Returns
    -------
    DataFrame
        The table with `predicted_` and `measured_` `dense_tokens_per_s`, `sparse_tokens_per_s` and `speedup_vs_dense`, and
        `left_out`: the reason why a row is not judged, or nothing.
    """
    runs = Runs(table, held_out=held_out)
    values = {group: load_serving(group if held_out else None) for group in dict.fromkeys(runs.groups)}
    dense, sparse = runs.tokens_per_s(values)
    found = runs.table.assign(predicted_dense_tokens_per_s=dense, predicted_sparse_tokens_per_s=sparse)
    for kind in ("predicted", "measured"):
        found[f"{kind}_speedup_vs_dense"] = (
            found[f"{kind}_sparse_tokens_per_s"] / found[f"{kind}_dense_tokens_per_s"]
        )
    return found.assign(left_out=left_out(found, runs))


NO_PASSES = PassConstants(0.0, 0.0, inf, 0.0)
NO_ENGINE = ServingConstants(0.0, 0.0, 0.0, 0.0, 0.0)
PARTS = {
    "linear layers, head and attention": (NO_PASSES, NO_ENGINE),
    "and passes, from prior constants": (prior_passes(), NO_ENGINE),
    "and the engine, from prior constants": (prior_passes(), prior_serving()),
    "and both sets of constants fitted": (None, None),
}
"""What is counted -> constants of passes and of the engine; None for the fitted ones, each machine left out."""


def predict_parts(judged: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Predict runs by more and more of what they consist of: what each part brings.

    Parameters
    ----------
    judged : DataFrame
        Rows of `predict_runs` that nothing leaves out, each machine held out.

    Returns
    -------
    dict of str to DataFrame
        A key of `PARTS` -> the rows with its predictions.
    """
    found = {}
    for name, (passes, engine) in PARTS.items():
        if passes is None or engine is None:
            found[name] = judged
            continue
        dense, sparse = Runs(judged, held_out=True, passes=passes).tokens_per_s(engine)
        found[name] = judged.assign(
            predicted_dense_tokens_per_s=dense,
            predicted_sparse_tokens_per_s=sparse,
            predicted_speedup_vs_dense=sparse / dense,
        )
    return found


def left_out(table: pd.DataFrame, runs: Runs) -> list[str]:
    """Say which rows are not judged, by rules that no prediction enters: a key of `REASONS`, or nothing."""
    speedup = table["measured_sparse_tokens_per_s"] / table["measured_dense_tokens_per_s"]
    most = np.array(
        [ABOVE_KERNEL * pattern.m / pattern.n for pattern in map(Pattern.parse, table["pattern"])]
    )
    full = [
        max(_needed_bytes(runs.served(row, pattern), row) for pattern in (None, str(row.pattern)))
        > MEMORY_SHARE * float(cast(Any, load_machine(str(row.machine)).dram_capacity_bytes).value)
        for row in table.itertuples()
    ]
    rules = {
        "memory": np.array(full),
        "stalled": _stalled(table, "dense", [*RUN[:-1]]) | _stalled(table, "sparse", [*RUN[:-1], "pattern"]),
        "above any kernel": (speedup > most).to_numpy(),
        "below any kernel": (speedup < BELOW_KERNEL).to_numpy(),
    }
    return [next((name for name, holds in rules.items() if holds[place]), "") for place in range(len(table))]


def _needed_bytes(served: Served, row: Any) -> float:
    """Bytes of weights, of the cache of all sequences, and of the widest activations of a step."""
    cache = kv_cache_bytes(
        served.model, context_tokens=row.prompt_tokens + row.output_tokens, batch=row.sequences
    )
    widest = max(
        launch.layer.N * (WIDE_BYTES + SUM_BYTES.get((row.dtype, served.pattern is None), 0))
        for launch in served.launches
    )
    return float(served.weight_bytes + cache + row.step_tokens * widest)


def _stalled(table: pd.DataFrame, side: str, series: list[str]) -> Any:
    name = f"measured_{side}_tokens_per_s"
    ordered = table.sort_values("tokens")
    before = ordered.groupby(series)[name].cummax()
    return (ordered[name] < STALLED_SHARE * before).reindex(table.index).to_numpy()
