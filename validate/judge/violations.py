"""Measured times below what the machine's bound allows, each with the reason that the row itself gives."""

from typing import Any

import pandas as pd

from nmsim.case import VALUE_BITS

TOLERANCE = 0.005
"""A time this much below its bound is rounding of the published figures."""


def bound_violations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Find them.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.join.join`.

    Returns
    -------
    list of dict
        `file`, `row`, `machine`, `product` ("dense" or "sparse"), `measured_time_s`, `bound_time_s`, `share` of the
        bound that was measured, and an `explanation` in words; the farthest below first.
    """
    found = []
    for product in ("dense", "sparse"):
        measured, bound = table[f"measured_{product}_time_s"], table[f"bound_{product}_time_s"]
        below = table[measured < bound * (1 - TOLERANCE)]
        for _, row in below.iterrows():
            time_s, bound_s = float(row[f"measured_{product}_time_s"]), float(row[f"bound_{product}_time_s"])
            found.append(
                {
                    "file": row["file"],
                    "row": int(row["row"]),
                    "machine": row["machine"],
                    "kernel": row["kernel"],
                    "product": product,
                    "measured_time_s": time_s,
                    "bound_time_s": bound_s,
                    "share": time_s / bound_s,
                    "explanation": _explain(row, time_s, bound_s),
                }
            )
    return sorted(found, key=lambda violation: float(violation["share"]))


def _explain(row: "pd.Series[Any]", time_s: float, bound_s: float) -> str:
    # NaN, for a publication that cuts no digits, makes this false.
    if time_s + row["time_step_s"] >= bound_s:
        step_s = row["time_step_s"]
        step = "whole microseconds" if step_s == 1e-6 else f"steps of {step_s:g} s"
        return f"within the last digit: the publication cuts times to {step}"
    weight_mib = row["N"] * row["K"] * VALUE_BITS[row["dtype"]] / 8 / 2**20
    if row["l2_state"] == "warm":
        return (
            f"timed back to back without an L2 flush: some of the operands (dense weights: {weight_mib:.4g} MiB) was "
            "still in L2. The bound takes all of it from DRAM"
        )
    if row["l2_state"] == "":
        return (
            "the publication does not say whether L2 was flushed. Some of the operands (dense weights: "
            f"{weight_mib:.4g} MiB) may have been in L2. The bound takes all of it from DRAM"
        )
    return (
        "the operands came from DRAM, so the machine ran faster than its datasheet says (a higher clock or memory rate), "
        "was another machine than taken, or the row is wrong"
    )
