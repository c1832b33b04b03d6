"""Why a speedup is missed, and why a time is below its bound, if a reason is known.

Each reason rests on the cells of the row, or on its source.
"""

from typing import Any

import pandas as pd

import hwmodels
from hwmodels.machine.chip import chip
from nmsim.case import VALUE_BITS

UNKNOWN = "none known"
MISSED_SHARE = 0.2
"""A time that is off by less has not to be explained."""
HOPPER = ("h100-pcie", "h100-sxm", "h200")
NEAR_CACHE = (0.6, 1.5)
"""Dense weights between these multiples of the last-level cache may stay in it from call to call, or not."""
WEIGHTS = "{weights}"
"""Place in a reason for the size of the weights."""
TOLERANCE = 0.005
"""A time this much below its bound is rounding of the published figures."""


def why_missed(row: "pd.Series[Any]") -> str:
    """Say why, or `UNKNOWN`.

    Parameters
    ----------
    row : Series
        Of the table from `validate.judge.join.join`.
    """
    family, machine = row["kernel_family"], row["machine"]
    weight_bytes = row["N"] * row["K"] * VALUE_BITS[row["dtype"]] / 8
    cache_bytes = chip(hwmodels.load_machine(machine)).cache_bytes
    narrow, few = VALUE_BITS[row["dtype"]] == 8, row["regime"] == "decode"
    # The first rule that holds names the reason: what a source says itself comes before what is inferred.
    rules = (
        (
            row["mark"] == "host overhead",
            "the source says that each call spends time on the host, which no model of the machine knows",
        ),
        (
            family == "csr",
            "one library of 2020, four times slower on the RTX 3090 than on the A100; each is predicted from the other",
        ),
        (
            family == "vector-nm",
            "two libraries of very different quality, NM-SpMM and nmSPARSE, share one constant",
        ),
        (
            row["baseline_dtype"] != row["dtype"],
            "a kernel written by hand, judged as if it were the vendor's, against a dense product of wider values",
        ),
        (
            machine == "gb10" and row["mark"] == "anomalous",
            "the source calls large weights on the GB10 anomalous",
        ),
        (
            row["regime"] == "prefill"
            and weight_bytes > 1.5 * cache_bytes
            and row["sparse_time_error"] > MISSED_SHARE
            and machine.startswith("rtx"),
            "without this machine, what large weights cost once they leave the cache from wave to wave rests on the GB10, "
            "which pays far more",
        ),
        (
            narrow and few and row["dense_time_error"] < -MISSED_SHARE,
            "the dense 8-bit kernel takes far longer than its bytes and tiles explain: a weak baseline, not marked as one",
        ),
        (
            few and row["l2_state"] == "warm" and NEAR_CACHE[0] < weight_bytes / cache_bytes < NEAR_CACHE[1],
            "the dense weights are about as large as the last-level cache, and calls ran back to back: how much of them stays "
            "there decides",
        ),
        (
            row["mark"] == "above byte bound",
            "its source says that the speedup is above what bytes allow: operands in the cache, or a weak dense baseline",
        ),
        (
            machine in HOPPER and not narrow,
            "the only Hopper board with 16-bit rows of its kind: without it nothing was fitted to its kernels",
        ),
        ("torchao" in row["kernel"], "the time holds the quantisation of the activations too"),
    )
    return next((reason for holds, reason in rules if holds), UNKNOWN)


def bound_violations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List measured times below the bound of their machine, each with a reason that the row itself gives.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.join.join`.

    Returns
    -------
    list of dict
        `file`, `row`, `machine`, `product` ("dense" or "sparse"), `measured_time_s` and `bound_time_s`. `share` is the
        measured share of the bound. `reason` is in words. `explanation` is the reason with the size of the weights. The
        row farthest below the bound comes first.
    """
    found = []
    for product in ("dense", "sparse"):
        measured, bound = table[f"measured_{product}_time_s"], table[f"bound_{product}_time_s"]
        below = table[measured < bound * (1 - TOLERANCE)]
        for _, row in below.iterrows():
            time_s, bound_s = float(row[f"measured_{product}_time_s"]), float(row[f"bound_{product}_time_s"])
            reason = _reason(row, time_s, bound_s)
            mebibytes = row["N"] * row["K"] * VALUE_BITS[row["dtype"]] / 8 / 2**20
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
                    # Reasons group rows, so the size of the weights of one row is no part of them.
                    "reason": reason.replace(WEIGHTS, ""),
                    "explanation": reason.replace(WEIGHTS, f" (dense weights: {mebibytes:.4g} MiB)"),
                }
            )
    return sorted(found, key=lambda violation: float(violation["share"]))


def _reason(row: "pd.Series[Any]", time_s: float, bound_s: float) -> str:
    # The step is NaN for a publication that cuts no digits, and NaN makes this false.
    if time_s + row["time_step_s"] >= bound_s:
        step_s = row["time_step_s"]
        step = "whole microseconds" if step_s == 1e-6 else f"steps of {step_s:g} s"
        return f"within the last digit: the publication cuts times to {step}"
    if row["l2_state"] == "warm":
        return (
            f"timed back to back without an L2 flush: some of the operands{WEIGHTS} was still in L2. The bound takes all of it "
            "from DRAM"
        )
    if row["l2_state"] == "":
        return (
            f"the publication does not say whether L2 was flushed. Some of the operands{WEIGHTS} may have been in L2. The "
            "bound takes all of it from DRAM"
        )
    return (
        "the operands came from DRAM, so the machine ran faster than its datasheet says (a higher clock or memory rate), "
        "was another machine than taken, or the row is wrong"
    )
