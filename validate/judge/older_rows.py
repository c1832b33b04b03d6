"""Rows of files that lack columns: what later columns say was once in the words of other cells.

Rows of older files are completed when they are read. `python -m validate.judge.published --older FILE` writes a file anew with
all columns; every other cell stays as it is.
"""

import re
from dataclasses import replace
from typing import Any

from nmsim.case import VALUE_BITS
from nmsim.rows import Measurement
from validate.judge.kernel_families import understand
from validate.judge.literature import parse_mark, parse_time_step

_PRODUCTS = re.compile(r"\btimes are of (\d+) sparse and (\d+) dense products\b")
_BASELINE_DTYPE = re.compile(rf"\bdense product in ({'|'.join(VALUE_BITS)})\b")
_PRUNED_BEFOREHAND = re.compile(r"\bpruned and packed beforehand, not in this time\b")
_COUNTS = {
    "weights_bytes": re.compile(r"(?:\breads|\bweights take) (\d+) bytes\b"),
    "tokens_bytes": re.compile(r"\btokens\b.*?, into (\d+) bytes\b"),
    "operand_copies": re.compile(r"\bgraph of (\d+) copies\b"),
    "sparse_outliers": re.compile(r"\boutliers: (\d+) sparse, \d+ dense\b"),
    "dense_outliers": re.compile(r"\boutliers: \d+ sparse, (\d+) dense\b"),
}
_OTHER_BASELINES = re.compile(r"\bother dense calls: (.*)$")


def completed(row: Measurement) -> Measurement:
    """Fill the family of kernels of a row that says its pattern in words only.

    Raises
    ------
    RowError
        Words that mean no pattern.
    """
    if row.kernel_family or row.case is not None:
        return row
    return replace(row, **understand(row.pattern, row.kernel, row.M).cells())


def with_facts_of_note(row: Measurement) -> Measurement:
    """Fill the columns that files of older versions lack from the note, which then said the same.

    Raises
    ------
    RowError
        As `completed`.
    """
    facts: dict[str, Any] = {
        name: int(match[1]) for name, sign in _COUNTS.items() if (match := sign.search(row.note))
    }
    if match := _PRODUCTS.search(row.note):
        facts |= {"sparse_products": int(match[1]), "dense_products_beside": int(match[2])}
    if match := _BASELINE_DTYPE.search(row.note):
        facts["baseline_dtype"] = match[1]
    if match := _OTHER_BASELINES.search(row.note):
        facts["other_baselines"] = match[1]
    if "operand_copies" in facts:
        facts["timing"] = "graph"
    elif row.kernel.startswith("cpu."):
        facts["timing"] = "calls"
    beforehand = "pruned beforehand" if _PRUNED_BEFOREHAND.search(row.note) else ""
    facts |= {"mark": parse_mark(row.note) or beforehand, "time_step_s": parse_time_step(row.note)}
    return completed(replace(row, **facts))
