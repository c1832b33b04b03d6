"""Fits the constants of passes and of a serving engine: `python -m validate.whole_models.fit`.

First the passes, to `data/online_passes.parquet`. Then the engine, to the runs of `data/whole_models.parquet` that are judged.
The constants of the estimate and of passes are there those that were fitted without each machine.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwmodels.estimate import passes
from hwmodels.estimate.fitted import fit_all, fitted_text
from hwmodels.machine.spec import group_of
from hwmodels.steps import serving
from validate.whole_models.online import predicted_times
from validate.whole_models.runs import Runs, left_out
from validate.whole_models.tables import read_online_passes, read_whole_models

HEADER = "Written by `python -m validate.whole_models.fit`; meanings, units and priors are in hwmodels/{}.py."


def fit_passes() -> str:
    """Fit the constants of passes; the text of their file."""
    table = read_online_passes()
    measured = np.log(table[["measured_time_s", "measured_copy_s"]].to_numpy(float))
    groups = np.array([group_of(machine) for machine in table["machine"]])

    def errors(values: Mapping[str, float]) -> NDArray[np.float64]:
        times_s = predicted_times(table, passes.PassConstants(**values))
        return np.asarray(np.log(np.stack(times_s, axis=1)) - measured)

    values, held_out = fit_all(passes.PASS_PRIORS, errors, groups)
    source = (
        f"{len(table)} rows of {table['machine'].nunique()} machines, validate/data/online_passes.parquet"
    )
    return fitted_text(HEADER.format("estimate/passes"), values, held_out, source)


def fit_serving() -> str:
    """Fit the constants of an engine; the text of their file."""
    table = read_whole_models()
    whole = Runs(table, held_out=True)
    judged = table[np.array(left_out(table, whole)) == ""]
    runs = Runs(judged, held_out=True)
    measured = judged[["measured_dense_tokens_per_s", "measured_sparse_tokens_per_s"]].to_numpy(float)

    def errors(values: Mapping[str, float]) -> NDArray[np.float64]:
        dense, sparse = (np.log(each) for each in runs.tokens_per_s(serving.ServingConstants(**values)))
        dense, sparse = dense - np.log(measured[:, 0]), sparse - np.log(measured[:, 1])
        # The speedup is asked for most, so its error counts beside those of both sides.
        return np.stack([dense, sparse, sparse - dense], axis=1)

    values, held_out = fit_all(serving.SERVING_PRIORS, errors, runs.groups)
    source = (
        f"{len(judged)} runs of {judged['machine'].nunique()} machines, validate/data/whole_models.parquet"
    )
    return fitted_text(HEADER.format("steps/serving"), values, held_out, source)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit both sets, and write their files."""
    parser = argparse.ArgumentParser(prog="python -m validate.whole_models.fit", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, default=serving.SERVING_FILE.parent, help="folder of both files"
    )
    folder = parser.parse_args(arguments).output
    (folder / passes.PASSES_FILE.name).write_text(fit_passes(), encoding="utf-8")
    passes.load_passes.cache_clear()
    (folder / serving.SERVING_FILE.name).write_text(fit_serving(), encoding="utf-8")


if __name__ == "__main__":
    main()
