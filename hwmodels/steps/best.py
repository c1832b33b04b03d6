"""A step of a model in the format that a chip is fastest with, if nobody names one."""

from pathlib import Path
from typing import Any

from hwmodels.chips.formats import best_format, formats_on
from hwmodels.chips.load import Chip
from hwmodels.machine.spec import HardwareSpec
from hwmodels.models import Model
from hwmodels.steps.step import Step, step
from nmsim.case import DEFAULT_DTYPE, SparseOperand
from nmsim.format import SparseFormat


def choices(
    stored: SparseFormat, chip: Chip, *, dtype: str = DEFAULT_DTYPE, operand: SparseOperand = "weights"
) -> list[SparseFormat]:
    """List the formats that a pattern may have on a chip: on a machine one, on a core design all that it decodes.

    Examples
    --------
    >>> from hwmodels.chips.load import load_chip
    >>> from nmsim.format import sparse_format
    >>> [each.short for each in choices(sparse_format("2:4"), load_chip("h200"))]
    ['2:4/index']
    """
    if not isinstance(chip, HardwareSpec):
        return formats_on(chip, stored)
    native = best_format(stored.pattern, chip, dtype=dtype, operand=operand)
    return [SparseFormat(stored.pattern, native.encoding, stored.packing)]


def best_step(
    model: str | Path | Model, chip: Chip, stored: SparseFormat | None, *, named: bool, **asked: Any
) -> Step:
    """Predict a step in the format that takes the least time, then the fewest bytes, of those that a chip may have.

    Parameters
    ----------
    model, chip
        As for `hwmodels.step`.
    stored : SparseFormat or None
        None for the dense model.
    named : bool
        Whether somebody chose the encoding, which then stays.
    asked
        The other parameters of `hwmodels.step`.
    """
    forms: list[SparseFormat | None] = [stored]
    if stored is not None and not named:
        about = {"operand": asked["sparse_operand"]} if "sparse_operand" in asked else {}
        forms = list(choices(stored, chip, dtype=asked.get("dtype") or DEFAULT_DTYPE, **about))
    found = [step(model, chip, format=form, **asked) for form in forms]
    return min(found, key=lambda each: (each.time_s, each.moved_bytes))
