"""Measured times as rows: what ran, against which dense call, how often, how far it spread, and where.

One row holds one sparse kernel on one case, beside the best dense call of the same run. `nmsim.measurement_file` reads
and appends such rows.
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from nmsim import encodings, packing
from nmsim.errors import NmsimError, RowError
from nmsim.pattern import Pattern
from nmsim.records import VALUE_BITS, Case, GemmShape, Phase, SparseOperand

L2State = Literal["cold", "warm", ""]
Gate = Literal["pass", ""]
Key = tuple[str, str, str, int | None, str]
"""Machine, case_id, kernel, threads and l2_state: what tells one measurement from another."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured, or published, time of a sparse product beside its dense baseline.

    Times are medians in seconds of one product, with their 20th and 80th percentiles; `speedup_vs_dense` is the median
    of the ratios dense / sparse taken repetition by repetition. A cell that does not apply, or that a publication does
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
        `Case.case_id` where `case` is not None; else "" or another 12 hex digits.
    M, N, K : int
        Tokens, out features, in features, in elements.
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
    gate : {"pass", ""}
        "pass" says that the result was compared with a float64 reference first. A red gate makes no row.
    max_rel_err : float or None
        Largest error of that comparison.
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
        for name in COLUMNS:
            problem = _problem(name, getattr(self, name))
            if problem:
                raise RowError(f"{name}={getattr(self, name)!r}: expected {problem}")
        for name in ("sparse_time_s", "dense_time_s", "speedup_vs_dense"):
            _check_order(name, *(getattr(self, f"{name}{suffix}") for suffix in ("_p20", "", "_p80")))
        if self.case is not None and self.case_id != self.case.case_id:
            raise RowError(
                f"case_id={self.case_id!r}: expected {self.case.case_id}, which the other cells give"
            )

    @property
    def case(self) -> Case | None:
        """The case that a prediction can be made for; None where pattern, encoding or packing is not nmsim's."""
        if not (_is_pattern(self.pattern) and self.encoding and self.packing):
            return None
        return Case(
            GemmShape(self.M, self.N, self.K),
            phase=self.phase,
            dtype=self.dtype,
            pattern=Pattern.parse(self.pattern),
            sparse_operand=self.sparse_operand,
            encoding=self.encoding,
            packing=self.packing,
        )

    @property
    def key(self) -> Key:
        """What tells this measurement from others, so that a run can skip what a file holds already."""
        return (self.machine, self.case_id, self.kernel, self.threads, self.l2_state)


_FIELDS = {field.name: field for field in dataclasses.fields(Measurement)}
COLUMNS: tuple[str, ...] = tuple(_FIELDS)
"""The columns of a file, in order."""

_TIMES = tuple(
    f"{name}{suffix}"
    for name in ("sparse_time_s", "dense_time_s", "speedup_vs_dense")
    for suffix in ("", "_p20", "_p80")
)
FLOAT_COLUMNS = (*_TIMES, "max_rel_err")
COUNT_COLUMNS = ("M", "N", "K", "threads", "reps", "warmup")
_NEVER_EMPTY = (
    *("machine", "kernel", "M", "N", "K", "phase", "dtype", "pattern", "sparse_operand", "baseline"),
    "speedup_vs_dense",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "phase": get_args(Phase),
    "dtype": tuple(VALUE_BITS),
    "sparse_operand": get_args(SparseOperand),
    "l2_state": get_args(L2State),
    "gate": get_args(Gate),
}
_SHAPES = {
    "case_id": (r"[0-9a-f]{12}|", "12 hex digits"),
    "commit": (r"[0-9a-f]{7,64}|", "a commit's hex digits"),
    "timestamp_utc": (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|", "a time such as 2026-01-31T12:00:00Z"),
    "source_url": (r"https?://\S+|", "an address that begins with https:// or http://"),
}


def _problem(name: str, value: object) -> str:
    """What was expected of a cell instead of its value; empty when it is as it should be."""
    if name in _NEVER_EMPTY and (value is None or value == ""):
        return "a value, not an empty cell"
    if name in COUNT_COLUMNS:
        return _count_problem(value, 0 if name == "warmup" else 1)
    if name in FLOAT_COLUMNS:
        return _float_problem(value, zero=name == "max_rel_err")
    if name == "dirty":
        return "" if value is None or isinstance(value, bool) else "true, false or nothing"
    if not isinstance(value, str):
        return f"text, not {type(value).__name__}"
    if not value.isprintable() or value != value.strip():
        return "text of one line without blanks around it"
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"one of {', '.join(choice or 'nothing' for choice in _CHOICES[name])}"
    if name in _SHAPES and not re.fullmatch(_SHAPES[name][0], value, re.ASCII):
        return f"{_SHAPES[name][1]}, or nothing" if value else _SHAPES[name][1]
    return _name_problem(name, value)


def _count_problem(value: object, least: int) -> str:
    if value is None:
        return ""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return "" if whole else f"a whole number of at least {least}"


def _float_problem(value: object, zero: bool) -> str:
    if value is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if zero:
        return "" if number and value >= 0 else "a finite number of at least 0"  # type: ignore[operator]
    return "" if number and value > 0 else "a positive, finite number"  # type: ignore[operator]


def _name_problem(name: str, value: str) -> str:
    """Patterns that look like N:M, encodings and packings must be ones that nmsim knows."""
    try:
        if name == "pattern" and _is_pattern(value):
            Pattern.parse(value)
        elif name == "encoding" and value:
            encodings.get(value)
        elif name == "packing" and value:
            packing.parse(value)
    except NmsimError as error:
        return f"another {name}: {error}"
    return ""


def _is_pattern(text: str) -> bool:
    return re.fullmatch(r"\d+:\d+", text, re.ASCII) is not None


def _check_order(name: str, low: float | None, median: float | None, high: float | None) -> None:
    known = [value for value in (low, median, high) if value is not None]
    if known != sorted(known):
        raise RowError(f"{name}: {low!r}, {median!r}, {high!r}: expected p20 <= median <= p80")
    if median is None and known:
        raise RowError(f"{name}=None: expected a median where a percentile is given")
