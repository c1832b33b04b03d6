"""What the model is asked about a measured row: shape, types, family of kernels, density, products.

All of it follows from the row's own cells.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from hwmodels.estimate.table import default_of
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.rows import Measurement
from validate.judge.kernel_families import KernelFamily

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

OWN_FAMILIES = {"torch.cu": "library", "gpu.": "software"}
"""How the kernel of one of our own rows begins -> its family."""


def family_of(row: Measurement) -> KernelFamily:
    """The family of kernels of a row. Our own rows, which say how their operand is encoded, say by their kernel who ran it.

    `torch.cutlass` and `torch.cusparselt` are libraries on the sparse unit, `gpu.…` decode by instructions; of others the model
    decides.

    Raises
    ------
    RowError
        A row whose pattern is in words, without a family: `older_rows.completed` fills it.
    """
    case = row.case
    if case is None or case.pattern is None:
        if not row.kernel_family or row.density is None:
            raise RowError(f"kernel_family={row.kernel_family!r}, density={row.density!r}: expected both")
        pattern = Pattern.parse(row.nm_pattern) if row.nm_pattern else None
        return KernelFamily(row.kernel_family, pattern, row.density)
    own = (name for sign, name in OWN_FAMILIES.items() if row.kernel.startswith(sign))
    return KernelFamily(next(own, "auto"), case.pattern, case.pattern.n / case.pattern.m)


def state_of(row: Measurement) -> str:
    """What the model is told of the cache: nothing, which is DRAM, for a row timed in a graph, which waited for no flush.

    The model's "cold" is a call by itself after a flush that wrote: its time holds launches and lines written back.
    """
    return "" if row.l2_state == "cold" and row.timing == "graph" else row.l2_state


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
        record: dict[str, Any] = {name: getattr(row, name) for name in INPUT_COLUMNS if hasattr(row, name)}
        record |= {
            "machine": machine,
            "l2_state": state_of(row),
            "baseline_dtype": row.baseline_dtype or row.dtype,
            "pattern": str(family.pattern) if family.pattern else None,
            "kernel_family": family.name,
            "density": family.density,
        }
        if family.name in ("auto", "software"):
            record |= {name: record[name] or default_of(name) for name in ("encoding", "packing")}
        records.append(record)
    table = pd.DataFrame(records, columns=list(INPUT_COLUMNS))
    return table.astype({"pattern": "object", "threads": "object"})
