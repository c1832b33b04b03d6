"""Patterns on a unit that takes 2:4: any mask through sliding windows, and the same unit as if it took the pattern itself.

A group of M elements is covered by M/2 - 1 windows of 4 elements, 2 apart. Each window is a 2:4 group, so it holds 2 kept
elements. Together they hold any mask of at most M - 2 kept elements (SlideSparse, arXiv 2603.05232), so any 8:16 mask costs
what 14:16 costs. That is 7 windows, or 28 elements of K instead of 16. Six of these windows do not hold every 8:16 mask:
8 neighbours at one end are then more than the windows around them hold.
"""

from dataclasses import replace

import pandas as pd

from hwmodels.estimate.families import predict_rows
from hwmodels.estimate.intervals import UNIT_PATTERN
from hwmodels.machine.spec import HardwareSpec
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

UNIT_FORMAT = SparseFormat.parse(f"{UNIT_PATTERN}/index")
NATIVE_ENCODING = "combinatorial"
"""Codes of the unit that `with_unit` assumes; no code of fixed length is shorter."""


def through_windows(pattern: Pattern) -> Pattern | None:
    """Find the pattern (M-2):M as which sliding 2:4 windows run any mask of a pattern.

    Parameters
    ----------
    pattern : Pattern

    Returns
    -------
    Pattern or None
        None if M is odd or less than 6, or if more than M - 2 elements are kept.

    Examples
    --------
    >>> print(through_windows(Pattern(8, 16)), through_windows(Pattern(2, 4)))
    14:16 None
    """
    fits = pattern.m >= 6 and pattern.m % 2 == 0 and pattern.n <= pattern.m - 2
    return Pattern(pattern.m - 2, pattern.m) if fits else None


def runs_windows(hardware: HardwareSpec, dtype: str, operand: str = "weights") -> bool:
    """Say whether a machine has a 2:4 unit for a value type, so that windows run on it."""
    return hardware.native_unit(UNIT_FORMAT, operand=operand, dtype=dtype) is not None


def with_unit(hardware: HardwareSpec, pattern: Pattern) -> HardwareSpec:
    """Make a machine whose sparse unit takes a pattern as it takes 2:4, at the same peak.

    Parameters
    ----------
    hardware : HardwareSpec
        With a 2:4 unit.
    pattern : Pattern

    Returns
    -------
    HardwareSpec
        Hypothetical, with one unit more. The unit reads combinatorial codes at the rate of its peak.

    Source
    ------
    Assumption A60.
    """
    unit = next(unit for unit in hardware.native if unit.pattern == UNIT_PATTERN)
    added = replace(
        unit,
        pattern=pattern,
        encodings=(NATIVE_ENCODING,),
        decoder_elements_per_s=None,
        source="assumption A60",
    )
    return replace(hardware, hypothetical=True, native=(*hardware.native, added))


def predict_windows(cases: pd.DataFrame, hardware: HardwareSpec, *, pattern: Pattern) -> pd.DataFrame:
    """Predict products whose pattern runs through sliding windows, from DRAM.

    Parameters
    ----------
    cases : DataFrame
        `M`, `N`, `K` and `dtype`.
    hardware : HardwareSpec
        With a 2:4 unit.
    pattern : Pattern
        One that `through_windows` knows.

    Returns
    -------
    DataFrame
        As from `predict_rows`. The time to repeat elements of X for the windows is not in it.
    """
    runs_as = through_windows(pattern)
    inputs = cases[["M", "N", "K", "dtype"]].assign(
        baseline_dtype=cases["dtype"], pattern=str(runs_as), kernel_family="sliding", l2_state="",
        density=float(runs_as.density) if runs_as else None,
    )  # fmt: skip
    return predict_rows(inputs, hardware)
