"""Measured times of kernels that move data: what ran, on which matrix, and how near it came to a copy on the same device.

One row holds one kernel, beside the faster of the copies of as many bytes in the same run. A row of this kind is no product
and has no speedup: nothing predicts or judges it. `nmsim.rows.measurement_file` reads and appends such rows.
"""

from dataclasses import dataclass
from typing import Literal

from nmsim.errors import PatternError, RowError
from nmsim.pattern import Pattern
from nmsim.rows.row import Row, columns_of

L2State = Literal["cold", "warm"]
SUFFIX = ".transfers.csv"
"""How names of files of such rows end, beside files of measurements."""


@dataclass(frozen=True, kw_only=True)
class Transfer(Row):
    """One measured time of a kernel that prunes, packs, unpacks or reads a matrix.

    Times are medians in seconds, with their 20th and 80th percentiles. `share_of_copy` is the median of the ratios
    (moved_bytes / time) / (copy_bytes / copy_time) of each repetition. It may exceed 1: reading alone is faster
    than copying.

    Parameters
    ----------
    machine : str
        Id of a hardware spec, or the stem of a calibrated file's name.
    device : str
        What the device calls itself.
    kernel : str
        What ran, such as `"gpu.prune"`.
    rows, columns : int
        Of the dense matrix, in elements.
    dtype : str
        Of its elements, a key of `nmsim.case.VALUE_BITS`.
    pattern, encoding, packing : str
        As in `nmsim.case.Case`; all "" for a kernel that knows no patterns.
    l2_state : {"cold", "warm"}
        Whether the operands had to come from DRAM, or lay in a cache.
    moved_bytes : int
        Read and written by the kernel, each byte of an operand or a result counted once.
    baseline : str
        The copy that `copy_time_s` is of: the faster of those tried.
    copy_bytes : int
        Read and written by the copy.
    gate : {"pass"}
        The result was compared first with the result of another method. If the gate fails, there is no row.
    dirty : bool or None
        Whether the checkout held changes that are not in `commit`.
    timestamp_utc : str
        Such as 2026-01-31T12:00:00Z.

    Raises
    ------
    RowError
        A field holds what it may not, naming the field, the value and what was expected.
    """

    machine: str
    device: str = ""
    kernel: str
    rows: int
    columns: int
    dtype: str
    pattern: str = ""
    encoding: str = ""
    packing: str = ""
    l2_state: L2State
    moved_bytes: int
    time_s: float
    time_s_p20: float
    time_s_p80: float
    baseline: str
    copy_bytes: int
    copy_time_s: float
    copy_time_s_p20: float
    copy_time_s_p80: float
    share_of_copy: float
    share_of_copy_p20: float
    share_of_copy_p80: float
    reps: int
    warmup: int
    gate: Literal["pass"]
    driver: str = ""
    cuda: str = ""
    torch: str = ""
    triton: str = ""
    numpy: str = ""
    numba: str = ""
    commit: str = ""
    dirty: bool | None = None
    timestamp_utc: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        stored = {name: getattr(self, name) for name in ("pattern", "encoding", "packing")}
        for name, value in stored.items():
            if (value == "") != (self.pattern == ""):
                raise RowError(f"{name}={value!r}: expected all of {', '.join(stored)}, or none")
        if self.pattern:
            try:
                Pattern.parse(self.pattern)
            except PatternError as error:
                raise RowError(f"pattern={self.pattern!r}: expected N:M: {error}") from error

    @property
    def key(self) -> tuple[object, ...]:
        """What tells this row from others, so that a run can skip what a file holds already."""
        return (
            self.machine, self.kernel, self.rows, self.columns, self.dtype, self.pattern, self.encoding, self.l2_state,
        )  # fmt: skip


COLUMNS: tuple[str, ...] = tuple(columns_of(Transfer))
"""The columns of a file, in order."""
