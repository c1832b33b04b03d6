"""One measured time as a record: what ran, beside which baseline, how often, how far it spread, and where.

A field is declared once: its name is the column of the CSV files, its type and its `Cell` say what a cell may hold.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from nmsim import encodings, packing
from nmsim.case import VALUE_BITS, Case, GemmShape, Phase, SparseOperand, case_id
from nmsim.errors import NmsimError, RowError, brief
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

L2State = Literal["cold", "warm", ""]
Gate = Literal["pass", ""]
Timing = Literal["graph", "calls", ""]
Mark = Literal["above byte bound", "weak baseline", "anomalous", "host overhead", "pruned beforehand", ""]
Kind: TypeAlias = type[bool] | type[int] | type[float] | type[str]
Key = tuple[str, str, str, int | None, str]
"""Machine, case_id, kernel, threads and l2_state: they distinguish measurements."""

_SPREAD = ("_p20", "", "_p80")


@dataclass(frozen=True)
class Cell:
    """What a cell of a column means, and what it may hold beside what its type says.

    Parameters
    ----------
    meaning : str
    least : int
        Smallest whole number; floats must be above 0, or at least 0 if this is 0.
    texts : tuple of str
        The texts that are taken; any if empty.
    shape : tuple of str
        A regular expression for texts, and the same in words.
    named : callable, optional
        Looks a text up, and raises a `NmsimError` if nmsim does not know it.
    added : bool
        Files of older versions do not have the column.
    """

    meaning: str
    least: int = 1
    texts: tuple[str, ...] = ()
    shape: tuple[str, str] = (".*", "")
    named: Callable[[str], object] | None = None
    added: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its name, the kind of its cells, the cell that stands for nothing, and what a cell may hold."""

    name: str
    kind: Kind
    never_empty: bool
    default: Any
    cell: Cell


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
_PATTERN = Cell("`N:M`, or the words of a publication for what is not N:M", named=_known_pattern)


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
    l2_state: Annotated[L2State, Cell("Whether the operands came from DRAM (cold), or lay in a cache (warm)")]
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
    torch: Annotated[str, Cell("Version of torch")] = ""
    triton: Annotated[str, Cell("Version of Triton")] = ""
    numpy: Annotated[str, Cell("Version of numpy")] = ""
    numba: Annotated[str, Cell("Version of numba")] = ""
    commit: Annotated[str, Cell("Commit of nmsim", shape=(r"[0-9a-f]{7,64}", "a commit's hex digits"))] = ""
    dirty: Annotated[bool | None, Cell("Whether the checkout held changes that are not in `commit`")] = None
    timestamp_utc: Annotated[
        str, Cell("When", shape=(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "a time such as 2026-01-31T12:00:00Z"))
    ] = ""
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
    note: Annotated[str, Cell("What a reader should know; no program reads it")] = ""

    def __post_init__(self) -> None:
        for column in COLUMNS.values():
            value = getattr(self, column.name)
            if problem := _problem(column, value):
                raise RowError(f"{column.name}={brief(value)}: expected {problem}", column=column.name)
            if f"{column.name}_p20" in COLUMNS:
                _check_order(column.name, *(getattr(self, f"{column.name}{suffix}") for suffix in _SPREAD))
        if not self.pattern and not self.is_transfer:
            raise RowError("pattern='': expected a value, not an empty cell", column="pattern")
        if (self.moved_bytes is None) != (self.copy_bytes is None):
            raise RowError(
                f"copy_bytes={brief(self.copy_bytes)}: expected moved_bytes and copy_bytes, or neither",
                column="copy_bytes",
            )
        if self.case is not None and self.case_id != (expected := case_id(self.case, self.phase)):
            message = f"case_id={brief(self.case_id)}: expected {expected}, which the other cells give"
            raise RowError(message, column="case_id")

    @property
    def is_transfer(self) -> bool:
        """Whether the kernel moves a matrix, and multiplies nothing."""
        return self.moved_bytes is not None

    @property
    def format(self) -> SparseFormat | None:
        """How the sparse operand is stored; None if pattern, encoding or packing is not nmsim's, or nothing is sparse."""
        if not (is_pattern(self.pattern) and self.encoding and self.packing):
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
        return (self.machine, self.case_id, self.kernel, self.threads, self.l2_state)


def _column(field: "Field[Any]") -> Column:
    kind_of_cell, cell = get_args(field.type)
    if get_origin(kind_of_cell) is Literal:
        cell = Cell(cell.meaning, texts=get_args(kind_of_cell), added=cell.added)
    members = get_args(kind_of_cell) or (kind_of_cell,)
    kinds: tuple[Kind, ...] = (bool, int, float)
    kind = next((kind for kind in kinds if kind in members), str)
    required = field.default is MISSING
    # A required column whose texts hold "" (`l2_state`) must be stated, but may state nothing.
    never_empty = (
        (required or field.default not in (None, "")) and "" not in cell.texts and field.name != "pattern"
    )
    return Column(field.name, kind, never_empty, None if required else field.default, cell)


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {field.name: _column(field) for field in fields(Measurement)}
)
"""The columns of a file, in order, by name."""


def _problem(column: Column, value: object) -> str:
    """What was expected of a cell instead of its value; empty if the value may stand there."""
    cell = column.cell
    if value == "" if column.kind is str else value is None:
        return "a value, not an empty cell" if column.never_empty else ""
    if column.kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= cell.least
        return "" if whole else f"a whole number of at least {cell.least}"
    if column.kind is float:
        return _float_problem(value, zero=cell.least == 0)
    if column.kind is bool:
        return "" if isinstance(value, bool) else "true, false or nothing"
    if not isinstance(value, str):
        return f"text, not {type(value).__name__}"
    if not value.isprintable() or value != value.strip():
        return "text of one line without blanks around it"
    if cell.texts and value not in cell.texts:
        return f"one of {', '.join(text or 'nothing' for text in cell.texts)}"
    pattern, words = cell.shape
    if not re.fullmatch(pattern, value, re.ASCII | re.DOTALL):
        return f"{words}, or nothing"
    try:
        if cell.named is not None:
            cell.named(value)
    except NmsimError as error:
        return f"another {column.name}: {error}"
    return ""


def _float_problem(value: object, zero: bool) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if zero:
        return "" if number and value >= 0 else "a finite number of at least 0"  # type: ignore[operator]
    return "" if number and value > 0 else "a positive, finite number"  # type: ignore[operator]


def _check_order(name: str, low: float | None, median: float | None, high: float | None) -> None:
    known = [value for value in (low, median, high) if value is not None]
    if known != sorted(known):
        raise RowError(
            f"{name}: {brief(low)}, {brief(median)}, {brief(high)}: expected p20 <= median <= p80",
            column=name,
        )
    if median is None and known:
        raise RowError(f"{name}=None: expected a median if a percentile is given", column=name)
