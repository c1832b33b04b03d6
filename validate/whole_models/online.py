"""Predicted times of measured online passes."""

from typing import Any

import numpy as np
import pandas as pd

from hwmodels.estimate.passes import PassConstants, load_passes, timed_copy_s, timed_quantise_s, window_ratio
from hwmodels.machine.spec import group_of, load_machine


def predicted_times(table: pd.DataFrame, values: PassConstants | dict[str, PassConstants]) -> tuple[Any, Any]:
    """Seconds of each row's quantisation and of its copy; constants may differ by group of machines."""
    passes_s, copies_s = np.empty(len(table)), np.empty(len(table))
    for machine, places in table.reset_index(drop=True).groupby("machine").indices.items():
        spec, own = load_machine(str(machine)), table.iloc[places]
        known = values if isinstance(values, PassConstants) else values[group_of(spec.id)]
        tokens, K = own["tokens"].to_numpy(float), own["K"].to_numpy(float)
        windows = np.array([window_ratio(pattern) for pattern in own["pattern"]])
        passes_s[places] = timed_quantise_s(tokens, K, spec, known, windows=windows)
        copies_s[places] = timed_copy_s(tokens, K, spec, known)
    return passes_s, copies_s


def predict_passes(table: pd.DataFrame, *, held_out: bool = True) -> pd.DataFrame:
    """Predict measured online passes.

    Parameters
    ----------
    table : DataFrame
        `validate.whole_models.tables.ONLINE_COLUMNS`.
    held_out : bool
        Predict each machine with constants that were fitted without it.

    Returns
    -------
    DataFrame
        The table with `predicted_time_s`, `predicted_copy_s`, and `predicted_lift_ratio` beside `measured_lift_ratio`: the
        time with windows of the pattern over that of the quantisation alone.
    """
    groups = {group_of(machine) for machine in table["machine"]}
    values = {group: load_passes(group if held_out else None) for group in groups}
    times, copies = predicted_times(table, values)
    found = table.assign(predicted_time_s=times, predicted_copy_s=copies)
    alone = found[found["pattern"] == "2:4"].set_index(["machine", "dtype", "tokens"])
    keys = pd.MultiIndex.from_frame(found[["machine", "dtype", "tokens"]])
    for kind in ("predicted", "measured"):
        own = alone[f"{kind}_time_s"].reindex(keys).to_numpy()
        found[f"{kind}_lift_ratio"] = found[f"{kind}_time_s"].to_numpy() / own
    return found
