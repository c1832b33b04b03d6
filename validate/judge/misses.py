"""Why the speedup of a row is missed, where a reason is known; each rests on the row's own cells or its source."""

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
    rules = {
        "the source says that each call spends time on the host, which no model of the machine knows": row[
            "mark"
        ]
        == "host overhead",
        "one library of 2020, four times slower on the RTX 3090 than on the A100; each is predicted from the other": family
        == "csr",
        "two libraries of very different quality, NM-SpMM and nmSPARSE, share one constant": family
        == "vector-nm",
        "a kernel written by hand, judged as if it were the vendor's, against a dense product of wider values": row[
            "baseline_dtype"
        ]
        != row["dtype"],
        "the source calls large weights on the GB10 anomalous": machine == "gb10"
        and row["mark"] == "anomalous",
        "without this machine, what large weights cost once they leave the cache from wave to wave rests on the GB10, "
        "which pays far more": row["regime"] == "prefill"
        and weight_bytes > 1.5 * cache_bytes
        and row["sparse_time_error"] > MISSED_SHARE
        and machine.startswith("rtx"),
        "the dense 8-bit kernel takes far longer than its bytes and tiles explain: a weak baseline, not marked as one": narrow
        and few
        and row["dense_time_error"] < -MISSED_SHARE,
        "the dense weights are about as large as the last-level cache, and calls ran back to back: how much of them stays "
        "there decides": few
        and row["l2_state"] == "warm"
        and NEAR_CACHE[0] < weight_bytes / cache_bytes < NEAR_CACHE[1],
        "its source says that the speedup is above what bytes allow: operands in the cache, or a weak dense baseline": row[
            "mark"
        ]
        == "above byte bound",
        "the only Hopper board with 16-bit rows of its kind: without it nothing was fitted to its kernels": machine
        in HOPPER
        and not narrow,
        "the time holds the quantisation of the activations too": "torchao" in row["kernel"],
    }
    return next((reason for reason, holds in rules.items() if holds), UNKNOWN)
