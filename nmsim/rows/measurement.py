"""One measured time as a record: what ran, beside which baseline, how often, how far it spread, and where."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from nmsim import encodings, packing
from nmsim.case import VALUE_BITS, Case, GemmShape, Phase, SparseOperand, case_id
from nmsim.errors import RowError, brief
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.rows.record import (
    Cell,
    Column,
    Commit,
    Dirty,
    Note,
    NumpyVersion,
    TimeUtc,
    TorchVersion,
    check_cells,
    columns_of,
)

L2State = Literal["cold", "warm", "beyond cache", ""]
Gate = Literal["pass", ""]
Timing = Literal["graph", "calls", ""]
Mark = Literal[
    "above byte bound",
    "weak baseline",
    "anomalous",
    "host overhead",
    "pruned beforehand",
    "slow dense call",
    "",
]
SLOW_DENSE_CALL: Mark = "slow dense call"
"""Mark of a row whose dense call read its weights far slower than a copy of as many bytes runs on the same device."""
Key = tuple[object, ...]
"""What distinguishes measurements: the columns `CASE_KEY`, then `SOFTWARE`."""
CASE_KEY = ("machine", "case_id", "kernel", "threads", "l2_state")
SOFTWARE = ("kernel_sources", "driver", "cuda", "torch", "triton", "numpy", "numba")
"""Columns that say what ran. A row of other software is another measurement, so that a changed kernel is measured again."""

_SPREAD = ("_p20", "", "_p80")


def is_pattern(text: str) -> bool:
    """Whether a text looks like N:M.

    Examples
    --------
    >>> is_pattern("8:16"), is_pattern("unstructured 50%")
    (True, False)
    """
    return re.fullmatch(r"\d+:\d+", text, re.ASCII) is not None


def _known_pattern(text: str) -> None:
    if is_pattern(text):
        Pattern.parse(text)


# Names that fields of the record have as well.
_known_encoding, _known_packing = encodings.get, packing.parse
_PATTERN = Cell(
    "`N:M`, or the words of a publication for what is not N:M", named=_known_pattern, may_be_empty=True
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured, or published, time of a kernel beside its baseline.

    Times are medians in seconds of one product, with their 20th and 80th percentiles. `speedup_vs_dense` is the median of
    the ratios dense / sparse, taken repetition by repetition. A cell that does not apply, or that a publication does not
    state, is None (numbers) or "" (texts). The annotation of each field says what it holds.

    A transfer is a kernel that prunes, compresses, expands or reads one matrix and multiplies nothing. Its `moved_bytes` is
    not None, and its baseline is a copy of as many bytes: `dense_time_s` is the time of the copy. The matrix is [N, K] of
    weights, with M = 1, or [M, K] of activations, with N = 1. Nothing predicts or judges a transfer.

    Raises
    ------
    RowError
        A field holds what it may not. The error names the field, the value and what was expected.
    """

    machine: Annotated[str, Cell("Id of a hardware spec, or the stem of a calibrated file's name")]
    device: Annotated[str, Cell("What the device calls itself")] = ""
    kernel: Annotated[str, Cell("What ran, such as `cpu.avx2`")]
    case_id: Annotated[
        str,
        Cell(
            "Key of the case and the phase; any other for a publication",
            shape=(r"[0-9a-f]{12}", "12 hex digits"),
        ),
    ] = ""
    M: Annotated[int, Cell("Tokens, in elements")]
    N: Annotated[int, Cell("Out features, in elements")]
    K: Annotated[int, Cell("In features, in elements")]
    phase: Annotated[Phase, Cell("Phase of inference")]
    dtype: Annotated[str, Cell("Value type of both operands", texts=tuple(VALUE_BITS))]
    pattern: Annotated[str, _PATTERN]
    sparse_operand: Annotated[SparseOperand, Cell("Which operand is pruned")] = "weights"
    encoding: Annotated[str, Cell("Metadata encoding, if it is one of nmsim's", named=_known_encoding)] = ""
    packing: Annotated[str, Cell("Packing policy, if it is one of nmsim's", named=_known_packing)] = ""
    threads: Annotated[int | None, Cell("Cores at work; nothing on a GPU")] = None
    baseline: Annotated[str, Cell("The dense call that `dense_time_s` is of: the fastest of those tried")]
    l2_state: Annotated[
        L2State,
        Cell(
            "Whether caches were flushed first (cold), or calls ran back to back (warm). It is beyond cache if they did "
            "with dense weights larger than the last-level cache"
        ),
    ]
    sparse_time_s: Annotated[float | None, Cell("Median of the kernel")] = None
    sparse_time_s_p20: Annotated[float | None, Cell("20th percentile")] = None
    sparse_time_s_p80: Annotated[float | None, Cell("80th percentile")] = None
    dense_time_s: Annotated[float | None, Cell("Median of the baseline")] = None
    dense_time_s_p20: Annotated[float | None, Cell("20th percentile")] = None
    dense_time_s_p80: Annotated[float | None, Cell("80th percentile")] = None
    speedup_vs_dense: Annotated[float, Cell("Median of the ratios")]
    speedup_vs_dense_p20: Annotated[float | None, Cell("20th percentile")] = None
    speedup_vs_dense_p80: Annotated[float | None, Cell("80th percentile")] = None
    reps: Annotated[int | None, Cell("Repetitions")] = None
    warmup: Annotated[int | None, Cell("Calls before them that were not timed", least=0)] = None
    gate: Annotated[Gate, Cell("Whether the result was compared with a reference first")] = ""
    max_rel_err: Annotated[float | None, Cell("Largest error of that comparison", least=0)] = None
    driver: Annotated[str, Cell("Version of the device's driver")] = ""
    cuda: Annotated[str, Cell("Version of CUDA")] = ""
    torch: TorchVersion = ""
    triton: Annotated[str, Cell("Version of Triton")] = ""
    numpy: NumpyVersion = ""
    numba: Annotated[str, Cell("Version of numba")] = ""
    commit: Commit = ""
    dirty: Dirty = None
    timestamp_utc: TimeUtc = ""
    kernel_family: Annotated[
        str, Cell("How the kernel runs the pattern, as the judge names it", added=True)
    ] = ""
    nm_pattern: Annotated[
        str, Cell("N:M, if `pattern` says it in words", named=Pattern.parse, added=True)
    ] = ""
    density: Annotated[float | None, Cell("Share of elements kept, if `pattern` is in words", added=True)] = (
        None
    )
    sparse_products: Annotated[int, Cell("Sparse products that the times are of", added=True)] = 1
    dense_products_beside: Annotated[
        int, Cell("Dense products that both times hold as well", least=0, added=True)
    ] = 0
    baseline_dtype: Annotated[
        str, Cell("Value type of the dense product, if it has another", texts=("", *VALUE_BITS), added=True)
    ] = ""
    mark: Annotated[Mark, Cell("The doubt about the row", added=True)] = ""
    time_step_s: Annotated[float | None, Cell("Step to which the publication cuts its times", added=True)] = (
        None
    )
    timing: Annotated[Timing, Cell("Timed in one CUDA graph, or call by call", added=True)] = ""
    operand_copies: Annotated[
        int | None, Cell("Copies of the operands that a sample goes through", added=True)
    ] = None
    weights_bytes: Annotated[int | None, Cell("Bytes of weights that the kernel reads", added=True)] = None
    tokens_bytes: Annotated[int | None, Cell("Bytes that compressed tokens take", added=True)] = None
    moved_bytes: Annotated[
        int | None, Cell("Of a transfer: bytes read and written, each once", added=True)
    ] = None
    copy_bytes: Annotated[
        int | None, Cell("Of a transfer: bytes that its copy reads and writes", added=True)
    ] = None
    copy_time_s: Annotated[
        float | None,
        Cell("Median of a copy that reads and writes as many bytes as the dense weights take", added=True),
    ] = None
    kernel_sources: Annotated[
        str,
        Cell(
            "Digest of the sources of the kernel, and of all that they import from nmsim",
            shape=(r"[0-9a-f]{12}", "12 hex digits"),
            added=True,
        ),
    ] = ""
    sparse_outliers: Annotated[
        int | None, Cell("Repetitions of the kernel far from its median", least=0, added=True)
    ] = None
    dense_outliers: Annotated[
        int | None, Cell("Repetitions of the baseline far from its median", least=0, added=True)
    ] = None
    other_baselines: Annotated[
        str, Cell("The other dense calls that were tried, with their medians", added=True)
    ] = ""
    source_url: Annotated[
        str,
        Cell(
            "Address of the publication, or the Python package that states the figures, as `package:NAME`",
            shape=(
                r"https?://\S+|package:[\w.-]+",
                "an address that begins with https:// or http://, or package:NAME",
            ),
        ),
    ] = ""
    note: Note = ""
    OLDER: ClassVar[str] = "python -m validate.judge.published --older"

    def __post_init__(self) -> None:
        check_cells(self)
        for name in MEDIANS:
            _check_order(name, *(getattr(self, f"{name}{suffix}") for suffix in _SPREAD))
        if not self.pattern and not self.is_transfer:
            raise RowError("pattern='': expected a value, not an empty cell", column="pattern")
        if (self.moved_bytes is None) != (self.copy_bytes is None):
            raise RowError(
                f"copy_bytes={brief(self.copy_bytes)}: expected moved_bytes and copy_bytes, or neither",
                column="copy_bytes",
            )
        case = self.case
        if case is not None and self.case_id != (expected := case_id(case, self.phase)):
            message = f"case_id={brief(self.case_id)}: expected {expected}, which the other cells give"
            raise RowError(message, column="case_id")

    @property
    def is_transfer(self) -> bool:
        """Whether the kernel moves a matrix, and multiplies nothing."""
        return self.moved_bytes is not None

    @property
    def format(self) -> SparseFormat | None:
        """How the sparse operand is stored; None if pattern, encoding or packing is not nmsim's, or nothing is sparse."""
        if not (self.encoding and self.packing and is_pattern(self.pattern)):
            return None
        return SparseFormat.parse(self.pattern, encoding=self.encoding, packing=self.packing)

    @property
    def case(self) -> Case | None:
        """The case of the row; None if its cells name no format. Only a transfer may have a dense case."""
        stored = self.format
        if stored is None and not (self.is_transfer and not (self.pattern or self.encoding or self.packing)):
            return None
        shape = GemmShape(self.M, self.N, self.K)
        return Case(shape, stored, dtype=self.dtype, sparse_operand=self.sparse_operand)

    @property
    def key(self) -> Key:
        """The key of this measurement, so that a run can skip what a file holds already."""
        return tuple(getattr(self, name) for name in (*CASE_KEY, *SOFTWARE))


COLUMNS: Mapping[str, Column] = columns_of(Measurement)
"""The columns of a file, in order, by name."""
MEDIANS = tuple(name for name in COLUMNS if f"{name}_p20" in COLUMNS)
"""Columns that hold medians, with percentiles beside them."""


def _check_order(name: str, low: float | None, median: float | None, high: float | None) -> None:
    if low is None and high is None:
        return
    known = [value for value in (low, median, high) if value is not None]
    if known != sorted(known):
        raise RowError(
            f"{name}: {brief(low)}, {brief(median)}, {brief(high)}: expected p20 <= median <= p80",
            column=name,
        )
    if median is None and known:
        raise RowError(f"{name}=None: expected a median if a percentile is given", column=name)
