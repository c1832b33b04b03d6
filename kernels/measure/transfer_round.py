"""Rounds of a campaign that time kernels which move data: `[[transfer]]` tables of its file.

A round is one kernel on one matrix, value type and cache state, for every pattern and encoding, beside copies of as many bytes.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from kernels.measure.campaign_keys import check_choice, check_kernels, check_keys, check_lists, check_variants
from nmsim.case import VALUE_BITS
from nmsim.errors import SpecError
from nmsim.pattern import Pattern
from nmsim.rows.transfer import L2State

REQUIRED = ("shapes", "kernels", "dtypes", "l2_state")
OF_PATTERNS = ("patterns", "encodings")


@dataclass(frozen=True)
class TransferRound:
    """What is timed interleaved: a kernel that a backend knows, on a matrix. No variants for one that knows no patterns."""

    kernel: str
    rows: int
    columns: int
    dtype: str
    l2_state: L2State
    variants: tuple[tuple[Pattern, str], ...]

    def __str__(self) -> str:
        return f"{self.kernel} {self.rows}x{self.columns} {self.dtype} {self.l2_state}"


def transfer_rounds(table: dict[str, Any], where: str) -> Iterator[TransferRound]:
    """Read a `[[transfer]]` table: every combination of its lists.

    Raises
    ------
    SpecError
        A key that is unknown, missing or malformed.
    """
    given = [name for name in OF_PATTERNS if name in table]
    check_keys(table, (*REQUIRED, *(OF_PATTERNS if given else ())), OF_PATTERNS, where)
    check_lists(table, (*REQUIRED, *given), where)
    shapes = [_shape(shape, where) for shape in table["shapes"]]
    variants = check_variants(table.get("patterns", []), table.get("encodings", []), where)
    for name, allowed in (("dtypes", tuple(VALUE_BITS)), ("l2_state", get_args(L2State))):
        for value in table[name]:
            check_choice(value, allowed, f"{where}.{name}")
    check_kernels(table["kernels"], where)
    lists = (table["kernels"], shapes, table["dtypes"], table["l2_state"])
    for kernel, (rows, columns), dtype, state in itertools.product(*lists):
        yield TransferRound(kernel, rows, columns, dtype, state, variants)


def _shape(shape: Any, where: str) -> tuple[int, int]:
    whole = isinstance(shape, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in shape
    )
    if not whole or len(shape) != 2:
        raise SpecError(
            f"{where}.shapes: {shape!r}, expected [rows, columns], whole numbers of at least 1, in elements"
        )
    return shape[0], shape[1]
