"""`predict_rows`: predictions for measured rows, each run as its row says, so that the judge can hold them together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate import constants
from hwmodels.estimate.constants import Constants
from hwmodels.estimate.families import FAMILIES, Rows
from hwmodels.estimate.intervals import interval, regime_of, width_of
from hwmodels.estimate.model import predict_table
from hwmodels.machine.dies import group_of
from hwmodels.machine.spec import HardwareSpec, load_machine
from nmsim.case import VALUE_BITS
from nmsim.errors import NmsimError, RowError

AUTO = "auto"
SOFTWARE = "software"
"""As `predict` would run it on the machine without its sparse units: what kernels do that decode by instructions."""
JUDGED_COLUMNS = (
    "predicted_dense_time_s",
    "predicted_sparse_time_s",
    "predicted_speedup_vs_dense",
    "predicted_speedup_low",
    "predicted_speedup_high",
    "bound_dense_time_s",
    "bound_sparse_time_s",
    "extrapolates",
    "family",
)


def predict_rows(
    inputs: pd.DataFrame, hardware: str | Path | HardwareSpec, *, held_out: bool = False
) -> pd.DataFrame:
    """Predict measured rows of one machine.

    Parameters
    ----------
    inputs : DataFrame
        One row per product. Columns: `M`, `N`, `K`, `dtype`, `baseline_dtype` (of the dense baseline), `pattern` (N:M
        or nothing), `kernel_family`, `density` (share of elements kept), `l2_state`. `kernel_family` is a key of
        `families.FAMILIES`, `"auto"` for the choice of `predict`, or `"software"` for the same without a sparse
        unit. These two also take `phase`, `sparse_operand`, `encoding`, `packing` and `threads`, if they differ
        from the defaults of `Case`.
    hardware : str, Path or HardwareSpec
    held_out : bool
        Use the constants that were fitted without this group of machines.

    Returns
    -------
    DataFrame
        `JUDGED_COLUMNS`, index as in `inputs`; seconds of one product.

    Raises
    ------
    RowError
        Naming the place of the first row that cannot be predicted, counted from 0.
    """
    _check(inputs)
    spec = load_machine(hardware)
    values = constants.load(group_of(spec.id)) if held_out else constants.load()
    together = {
        str(name): np.asarray(at) for name, at in inputs.groupby("kernel_family", sort=False).indices.items()
    }
    parts = [
        _family(inputs.iloc[at], at, name, spec, values, group_of(spec.id) if held_out else "")
        for name, at in together.items()
    ]
    if not parts:
        return pd.DataFrame(columns=list(JUDGED_COLUMNS))
    answers = pd.concat(parts)
    order = np.argsort(np.concatenate(list(together.values())))
    return answers.iloc[order].set_axis(inputs.index)


NEEDED = ("M", "N", "K", "dtype", "baseline_dtype", "pattern", "kernel_family", "density", "l2_state")


def _check(inputs: pd.DataFrame) -> None:
    """Refuse what no family's formula would notice."""
    missing = [name for name in NEEDED if name not in inputs.columns]
    if missing:
        raise RowError.at(f"missing; expected {', '.join(NEEDED)}", column=missing[0])
    for name in ("M", "N", "K"):
        numbers = pd.to_numeric(inputs[name], errors="coerce").to_numpy(np.float64)
        _refuse(inputs, name, ~(numbers >= 1), "a positive int")
    for name in ("dtype", "baseline_dtype"):
        _refuse(
            inputs, name, ~inputs[name].isin(list(VALUE_BITS)).to_numpy(), f"one of {', '.join(VALUE_BITS)}"
        )
    names = (AUTO, SOFTWARE, *FAMILIES)
    _refuse(
        inputs, "kernel_family", ~inputs["kernel_family"].isin(names).to_numpy(), f"one of {', '.join(names)}"
    )
    kept = pd.to_numeric(inputs["density"], errors="coerce").to_numpy(np.float64)
    _refuse(inputs, "density", ~((kept > 0) & (kept <= 1)), "a share above 0, at most 1")
    unit = (inputs["kernel_family"] == "library").to_numpy() & (
        inputs["pattern"].astype(str) != "2:4"
    ).to_numpy()
    _refuse(inputs, "pattern", unit, "2:4, which is what the family 'library' runs")


def _refuse(inputs: pd.DataFrame, name: str, wrong: NDArray[Any], expected: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RowError.at(f"{inputs[name].tolist()[row]!r}: expected {expected}", row=row, column=name)


def _family(
    inputs: pd.DataFrame,
    places: NDArray[Any],
    name: str,
    spec: HardwareSpec,
    values: Constants,
    without: str,
) -> pd.DataFrame:
    try:
        if name in (AUTO, SOFTWARE):
            return _auto(inputs, spec if name == AUTO else replace(spec, native=()), values)
        return _foreign(inputs, name, spec, values, without)
    except NmsimError as error:
        row, column, problem = int(places[0]), "", str(error)
        if isinstance(error, RowError):
            column, problem = error.column, error.problem
        raise RowError(f"rows from {row}: {error}", row=row, column=column, problem=problem) from error


def _auto(inputs: pd.DataFrame, spec: HardwareSpec, values: Constants) -> pd.DataFrame:
    fields = (
        "M",
        "N",
        "K",
        "phase",
        "dtype",
        "sparse_operand",
        "pattern",
        "encoding",
        "packing",
        "l2_state",
        "threads",
    )
    cases = inputs[[name for name in fields if name in inputs.columns]]
    answers = predict_table(cases, spec, values)
    known = answers.rename(
        columns={"predicted_time_s": "predicted_sparse_time_s", "bound_time_s": "bound_sparse_time_s"}
    )
    return known.assign(family="cpu" if spec.family == "cpu" else AUTO)[list(JUDGED_COLUMNS)]


def _foreign(
    inputs: pd.DataFrame, name: str, spec: HardwareSpec, values: Constants, without: str
) -> pd.DataFrame:
    answer = FAMILIES[name](Rows(inputs, spec, values))
    baseline = Rows(inputs.assign(dtype=inputs["baseline_dtype"]), spec, values)
    dense_s = baseline.dense_s()
    speedup = dense_s / answer.time_s
    found = [
        interval(name, width_of(dtype), regime_of(tokens), without)
        for dtype, tokens in zip(inputs["dtype"], inputs["M"], strict=True)
    ]
    return pd.DataFrame(
        {
            "predicted_dense_time_s": dense_s,
            "predicted_sparse_time_s": answer.time_s,
            "predicted_speedup_vs_dense": speedup,
            "predicted_speedup_low": speedup * np.array([one.low for one in found]),
            "predicted_speedup_high": speedup * np.array([one.high for one in found]),
            "bound_dense_time_s": baseline.dense_bound_s(),
            "bound_sparse_time_s": answer.bound_s,
            "extrapolates": [one.widened for one in found],
            "family": name,
        },
        index=inputs.index,
    )[list(JUDGED_COLUMNS)]
