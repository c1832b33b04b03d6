"""What the model is asked about a measured row: shape, types, family of kernels, density, products.

All of it follows from the row's own cells; what the row schema has no column for, from the words of its note.
"""

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from hwmodels.estimate.table import default_of
from nmsim.case import VALUE_BITS
from nmsim.rows.measurement import Measurement
from validate.judge.kernel_families import KernelFamily, understand

INPUT_COLUMNS = (
    *(
        "machine",
        "M",
        "N",
        "K",
        "phase",
        "dtype",
        "baseline_dtype",
        "sparse_operand",
        "pattern",
        "kernel_family",
    ),
    *(
        "density",
        "l2_state",
        "encoding",
        "packing",
        "kernel",
        "threads",
        "sparse_products",
        "dense_products_beside",
    ),
)
"""Columns of the table that a model gets; `machine` is the id of a spec."""

MARKS = {
    "above byte bound": re.compile(r"above (?:the )?byte bound"),
    "weak baseline": re.compile(r"\bweak\b"),
    "anomalous": re.compile(r"\banomal"),
    "host overhead": re.compile(r"\bhost (?:setup|overhead)"),
    "pruned beforehand": re.compile(r"\bpruned and packed beforehand, not in this time\b"),
}
"""What a note may say against a row -> how it is recognised; the first that fits is the row's mark."""
OWN_FAMILIES = {"torch.cu": "library", "gpu.": "software"}
"""How the kernel of one of our own rows begins -> its family."""
TIMED_IN_GRAPH = re.compile(r"\bgraph of \d+ copies\b")
"""In the notes of our own rows of a GPU: calls on copies of their operands, one after the other, in a CUDA graph."""


def note_of_products(sparse: int, dense: int) -> str:
    """Say in a note what the times are of; nothing for one sparse product."""
    return "" if (sparse, dense) == (1, 0) else f"times are of {sparse} sparse and {dense} dense products"


def note_of_baseline(dtype: str) -> str:
    """Say in a note that the dense product has another value type."""
    return f"dense product in {dtype}"


def products_of(note: str) -> tuple[int, int]:
    """Sparse products that a row's sparse time is of, and dense ones that both of its times hold.

    Examples
    --------
    >>> products_of(note_of_products(4, 2)), products_of("")
    ((4, 2), (1, 0))
    """
    match = re.search(r"\btimes are of (\d+) sparse and (\d+) dense products\b", note)
    return (int(match[1]), int(match[2])) if match else (1, 0)


def baseline_dtype_of(note: str, dtype: str) -> str:
    """Value type of the dense product.

    Examples
    --------
    >>> baseline_dtype_of(note_of_baseline("fp16"), "int8"), baseline_dtype_of("", "int8")
    ('fp16', 'int8')
    """
    match = re.search(rf"\bdense product in ({'|'.join(VALUE_BITS)})\b", note)
    return match[1] if match else dtype


def mark_of(note: str) -> str:
    """What the note says against the row: a key of `MARKS`, or nothing.

    Examples
    --------
    >>> mark_of("speedup above byte bound -> L2-residency or weak dense baseline artefact")
    'above byte bound'
    """
    words = note.lower()
    return next((mark for mark, sign in MARKS.items() if sign.search(words)), "")


def family_of(row: Measurement) -> KernelFamily:
    """The family of kernels of a row. Our own rows, which say how their operand is encoded, say by their kernel who ran it.

    `torch.cutlass` and `torch.cusparselt` are libraries on the sparse unit, `gpu.…` decode by instructions; of others the model
    decides.

    Raises
    ------
    RowError
        Words that mean no pattern.
    """
    case = row.case
    if case is None or case.pattern is None:
        return understand(row.pattern, row.kernel, row.M)
    own = (name for sign, name in OWN_FAMILIES.items() if row.kernel.startswith(sign))
    return KernelFamily(next(own, "auto"), case.pattern, case.pattern.n / case.pattern.m)


def state_of(row: Measurement) -> str:
    """What the model is told of the cache: nothing, which is DRAM, for a row timed in a graph, which waited for no flush.

    The model's "cold" is a call by itself after a flush that wrote: its time holds launches and lines written back.
    """
    return "" if row.l2_state == "cold" and TIMED_IN_GRAPH.search(row.note) else row.l2_state


def model_inputs(rows: Iterable[tuple[Measurement, str]]) -> pd.DataFrame:
    """Make the table that a model gets.

    Parameters
    ----------
    rows : iterable of Measurement and str
        With the id of each row's machine.

    Returns
    -------
    DataFrame
        `INPUT_COLUMNS`; `pattern` and `threads` are None where there is none. Where the model decides how a row runs
        and the row names no encoding or packing, those of `Case` stand in.
    """
    records = []
    for row, machine in rows:
        family = family_of(row)
        sparse, dense = products_of(row.note)
        record: dict[str, Any] = {name: getattr(row, name) for name in INPUT_COLUMNS if hasattr(row, name)}
        record |= {
            "machine": machine,
            "l2_state": state_of(row),
            "baseline_dtype": baseline_dtype_of(row.note, row.dtype),
            "pattern": str(family.pattern) if family.pattern else None,
            "kernel_family": family.name,
            "density": family.density,
            "sparse_products": sparse,
            "dense_products_beside": dense,
        }
        if family.name in ("auto", "software"):
            record |= {name: record[name] or default_of(name) for name in ("encoding", "packing")}
        records.append(record)
    table = pd.DataFrame(records, columns=list(INPUT_COLUMNS))
    return table.astype({"pattern": "object", "threads": "object"})
