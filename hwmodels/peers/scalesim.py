"""SCALE-Sim 3.0.0, weight stationary: the closed form that all of its runs equal, and what it counts beside time."""

from dataclasses import dataclass

from nmsim.case import GemmShape
from nmsim.errors import RowError, SpecError, brief
from nmsim.pattern import Pattern
from nmsim.units import ceil_div

WORD_BITS = 32
"""Bits of its words. Metadata are counted in them whatever the width of a value."""
STORAGES = ("ellpack_block", "csr")


@dataclass(frozen=True)
class ScalesimCycles:
    """What SCALE-Sim reports of one product, and what to compare it with.

    Parameters
    ----------
    cycles : int
        Total cycles. Metadata have no part in them.
    effective_K_elems : int
        Rows of weights it keeps of every filter; all filters share one mask, the first N of each M.
    values_words, metadata_words : int or float
        Words of the compressed weights. Both 0 for a dense run, which it stores as it is.
    activation_elems : int
        Distinct elements of the dense operand it reads: those of the rows it keeps, as if the others were never needed.
    reported_utilisation : float
        Its "overall utilisation": MACs of the dense product over what the array can do in `cycles`.
    effectual_utilisation : float
        MACs with a kept weight over what the array can do in `cycles`; never above 1.
    """

    cycles: int
    effective_K_elems: int
    values_words: int
    metadata_words: float
    activation_elems: int
    reported_utilisation: float
    effectual_utilisation: float


def scalesim_cycles(
    shape: GemmShape,
    pattern: Pattern | str | None = None,
    *,
    row_wise_block: int | None = None,
    storage: str = "ellpack_block",
    array_rows: int = 128,
    array_columns: int = 128,
) -> ScalesimCycles:
    """Give the cycles that SCALE-Sim 3.0.0 reports of one product on a weight-stationary array.

    Weights lie still, K along the rows of the array and N along its columns, and M tokens stream through each fold:
    cycles = (2 rows + columns + M - 2) ceil(K_eff / rows) ceil(N / columns) - 1.

    Parameters
    ----------
    shape : GemmShape
    pattern : Pattern or its text, optional
        Layer-wise sparsity of the weights: K_eff = K N / M of the pattern, rounded up. None for dense weights.
    row_wise_block : int, optional
        Row-wise sparsity in blocks of so many elements instead of a pattern: K_eff = K / 2, whatever it draws.
    storage : {"ellpack_block", "csr"}
        Format of the compressed weights. Without effect on the cycles.
    array_rows, array_columns : int
        MACs of the array.

    Returns
    -------
    ScalesimCycles

    Raises
    ------
    SpecError
        A pattern and a row-wise block, an array or a block of no positive int, or another storage.
    RowError
        `shape` is no `GemmShape`.
    PatternError
        Neither a pattern nor the text of one.

    Source
    ------
    SCALE-Sim 3.0.0 (PyPI) run by us on GEMMs of 256, 1024 and 2048 cubed, `hwmodels/data/scalesim_ws.csv`. Words of
    `csr` are known from square weights only: one column index a kept weight and N + 1 row pointers.

    Examples
    --------
    >>> sparse = scalesim_cycles(GemmShape(M=1024, N=1024, K=1024), "2:4")
    >>> sparse.cycles, sparse.metadata_words, round(sparse.reported_utilisation, 3)
    (44991, 32768.0, 1.457)
    """
    if not isinstance(shape, GemmShape):
        raise RowError(f"shape={brief(shape)} (type {type(shape).__name__}): expected a GemmShape")
    if pattern is not None and row_wise_block is not None:
        raise SpecError(
            f"pattern={pattern} and row_wise_block={row_wise_block}: expected one of the two, or none"
        )
    if storage not in STORAGES:
        raise SpecError(f"storage={brief(storage)}: expected one of {', '.join(STORAGES)}")
    for name, value in (("array_rows", array_rows), ("array_columns", array_columns)):
        _refuse_unless_positive(name, value)
    kept, block = shape.K, 0
    if pattern is not None:
        pattern = pattern if isinstance(pattern, Pattern) else Pattern.parse(pattern)
        kept, block = ceil_div(shape.K * pattern.n, pattern.m), pattern.m
    elif row_wise_block is not None:
        _refuse_unless_positive("row_wise_block", row_wise_block)
        kept, block = ceil_div(shape.K, 2), row_wise_block

    # Each fold fills the array, streams the tokens and drains, without overlap between folds.
    fold_cycles = 2 * array_rows + array_columns + shape.M - 2
    cycles = fold_cycles * ceil_div(kept, array_rows) * ceil_div(shape.N, array_columns) - 1
    values, metadata = (kept * shape.N, 0.0) if block else (0, 0.0)
    if block:
        index_bits = (block - 1).bit_length()
        metadata = (
            values * index_bits / WORD_BITS if storage == "ellpack_block" else float(values + shape.N + 1)
        )
    array_macs = cycles * array_rows * array_columns
    return ScalesimCycles(
        cycles=cycles,
        effective_K_elems=kept,
        values_words=values,
        metadata_words=metadata,
        activation_elems=shape.M * kept,
        reported_utilisation=shape.M * shape.N * shape.K / array_macs,
        effectual_utilisation=shape.M * shape.N * kept / array_macs,
    )


def _refuse_unless_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"{name}={brief(value)} (type {type(value).__name__}): expected a positive int")
