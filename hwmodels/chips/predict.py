"""`predict` for any chip: the estimate of a machine, or the closed form of a core design."""

from pathlib import Path
from typing import overload

import pandas as pd

from hwmodels.chips import designed
from hwmodels.chips.load import Chip, load_chip
from hwmodels.estimate import model
from hwmodels.machine.spec import HardwareSpec
from nmsim.case import VALUE_BITS, Case, Prediction, value_type
from nmsim.errors import RowError


@overload
def predict(cases: Case, hardware: str | Path | Chip, *, output_dtype: str | None = None) -> Prediction: ...
@overload
def predict(
    cases: pd.DataFrame, hardware: str | Path | Chip, *, output_dtype: str | None = None
) -> pd.DataFrame: ...


def predict(
    cases: Case | pd.DataFrame, hardware: str | Path | Chip, *, output_dtype: str | None = None
) -> Prediction | pd.DataFrame:
    """Predict what each case takes on a chip, with an error bar, and the least it can take.

    On a machine this is an estimate, fitted to measured rows. On a core design it is the closed form of its pipeline. Nobody
    has measured a design: predicted times and bounds are then the same, and there is no error bar.

    Parameters
    ----------
    cases : Case or DataFrame
        One case, or a table of them with a row each. A table needs the columns M, N and K (positive ints);
        `phase`, `dtype`, `sparse_operand`, `pattern`, `encoding` and `packing` default to those of `Case`. A
        missing pattern or `"dense"` is a dense case. `l2_state` may say where the operands lie: nothing for DRAM,
        `"cold"` for DRAM after a flush, `"warm"` for the cache as repeated calls leave it. `threads` is the number
        of working cores of a CPU, all if it is empty. `output_bits` is the width of an element of Y. `input_copies`
        is the number of products in one launch, each with M tokens of its own; N counts the out features of all.
        Further columns are carried along.
    hardware : str, Path, HardwareSpec or SparseTensorCore
        As for `hwmodels.load_chip`: a machine, or a core design.
    output_dtype : str, optional
        Value type of Y, for outputs that are requantised. By default 16 bits, and 32 bits for 32-bit values. A table
        says it in its own column.

    Returns
    -------
    Prediction or DataFrame
        For a table: a new one, its columns followed by `PREDICTED_COLUMNS`; times in seconds of one product,
        bytes to or from DRAM. On a machine the text columns added are categorical. On a design there are joules too, as
        `hwmodels.chips.designed.predict_designed` says.

    Raises
    ------
    RowError
        A column is missing or already there, or a cell is wrong; row numbers count from 0.
    SpecError
        Unknown hardware.

    Source
    ------
    Bound: DECA, arXiv 2505.19349, `docs/explanation/cost-model.md`. Estimate: `docs/explanation/estimate.md`, its
    constants fitted to published rows. Interval: `hwmodels.estimate.intervals`. Closed form: `docs/explanation/tensor-core.md`.

    Examples
    --------
    >>> from nmsim.case import Case, GemmShape
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16/combinatorial")
    >>> answer = predict(case, "h200-8x16")
    >>> answer.execution, answer.limit, round(answer.bound_speedup_vs_dense, 3)
    ('native', 'memory', 1.802)
    >>> answer.extrapolates  # nobody has measured an 8:16 unit
    True
    >>> print(answer.explanation)
    memory: 18.63 MB at 4.8 TB/s takes 3.881 us; the next stage, decode, takes 0.5015 us (13 %)
    """
    chip = load_chip(hardware)
    bits = None if output_dtype is None else VALUE_BITS[value_type(output_dtype, "output_dtype")]
    if isinstance(cases, Case):
        if isinstance(chip, HardwareSpec):
            return model.predict_case(cases, chip, bits)
        return designed.predict_designed_case(cases, chip, output_bits=bits)
    if not isinstance(cases, pd.DataFrame):
        raise RowError(f"cases of type {type(cases).__name__}: expected a Case or a pandas DataFrame")
    if bits is not None and "output_bits" in cases.columns:
        raise RowError.at("already in the table; expected no output_dtype as well", column="output_bits")
    asked = cases if bits is None else cases.assign(output_bits=bits)
    if isinstance(chip, HardwareSpec):
        found = model.predict_table(asked, chip)
    else:
        found = designed.predict_designed(asked, chip)
    return found if bits is None else found.drop(columns="output_bits")
