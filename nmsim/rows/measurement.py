"""Measured times as rows: what ran, against which dense call, how often, how far it spread, and where.

One row holds one sparse kernel on one case, beside the best dense call of the same run. `nmsim.rows.measurement_file` reads
and appends such rows.
"""

from dataclasses import dataclass

from nmsim.case import Case, GemmShape, Phase, SparseOperand, case_id
from nmsim.errors import RowError
from nmsim.format import as_format
from nmsim.pattern import Pattern
from nmsim.rows.row import Gate, L2State, Row, columns_of, is_pattern

Key = tuple[str, str, str, int | None, str]
"""Machine, case_id, kernel, threads and l2_state: what tells one measurement from another."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Row):
    """One measured, or published, time of a sparse product beside its dense baseline.

    Times are medians in seconds of one product, with their 20th and 80th percentiles. `speedup_vs_dense` is the median
    of the ratios dense / sparse of each repetition. A cell that does not apply, or that a publication does
    not state, is None (numbers) or "" (texts).

    Parameters
    ----------
    machine : str
        Id of a hardware spec, or the stem of a calibrated file's name.
    device : str
        What the device calls itself.
    kernel : str
        What ran, such as `"cpu.avx2"`.
    case_id : str
        `nmsim.case.case_id` if `case` is not None; else "" or another 12 hex digits.
    M : int
        Tokens.
    N : int
        Out features.
    K : int
        In features.
    phase, dtype, sparse_operand
        As in `Case`.
    pattern : str
        `N:M`, or the words of a publication for what is not N:M.
    encoding, packing : str
        As in `Case`; "" where the kernel's own format is none of nmsim's.
    threads : int or None
        Cores at work; None on a GPU.
    baseline : str
        The dense call that `dense_time_s` is of: the fastest of those tried.
    l2_state : {"cold", "warm", ""}
        Whether the operands had to come from DRAM, or lay in a cache.
    sparse_time_s, dense_time_s : float or None
        Median time of one product, in seconds.
    speedup_vs_dense : float
        Median of the ratios dense / sparse of each repetition.
    reps, warmup : int or None
        Repetitions that count, and those before them that do not.
    gate : {"pass", ""}
        "pass" says that the result was compared with a float64 reference first. If the gate fails, there is no row.
    max_rel_err : float or None
        Largest error of that comparison.
    driver, cuda, torch, triton, numpy, numba : str
        Versions.
    commit : str
        Commit of the checkout that measured.
    dirty : bool or None
        Whether the checkout held changes that are not in `commit`.
    timestamp_utc : str
        Such as 2026-01-31T12:00:00Z.
    source_url : str
        Publication that states the row; "" for measured rows.
    note : str
        Remark.

    Raises
    ------
    RowError
        A field holds what it may not, naming the field, the value and what was expected.
    """

    machine: str
    device: str = ""
    kernel: str
    case_id: str = ""
    M: int
    N: int
    K: int
    phase: Phase
    dtype: str
    pattern: str
    sparse_operand: SparseOperand = "weights"
    encoding: str = ""
    packing: str = ""
    threads: int | None = None
    baseline: str
    l2_state: L2State
    sparse_time_s: float | None = None
    sparse_time_s_p20: float | None = None
    sparse_time_s_p80: float | None = None
    dense_time_s: float | None = None
    dense_time_s_p20: float | None = None
    dense_time_s_p80: float | None = None
    speedup_vs_dense: float
    speedup_vs_dense_p20: float | None = None
    speedup_vs_dense_p80: float | None = None
    reps: int | None = None
    warmup: int | None = None
    gate: Gate = ""
    max_rel_err: float | None = None
    driver: str = ""
    cuda: str = ""
    torch: str = ""
    triton: str = ""
    numpy: str = ""
    numba: str = ""
    commit: str = ""
    dirty: bool | None = None
    timestamp_utc: str = ""
    source_url: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.case is not None and self.case_id != case_id(self.case, self.phase):
            raise RowError(
                f"case_id={self.case_id!r}: expected {case_id(self.case, self.phase)}, which the other cells give"
            )

    @property
    def case(self) -> Case | None:
        """The case that a prediction can be made for; None where pattern, encoding or packing is not nmsim's."""
        if not (is_pattern(self.pattern) and self.encoding and self.packing):
            return None
        return Case(
            GemmShape(self.M, self.N, self.K),
            as_format(Pattern.parse(self.pattern), encoding=self.encoding, packing=self.packing),
            dtype=self.dtype,
            sparse_operand=self.sparse_operand,
        )

    @property
    def key(self) -> Key:
        """What tells this measurement from others, so that a run can skip what a file holds already."""
        return (self.machine, self.case_id, self.kernel, self.threads, self.l2_state)


COLUMNS: tuple[str, ...] = tuple(columns_of(Measurement))
"""The columns of a file, in order."""
