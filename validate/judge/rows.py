"""Rows to be judged, from files in either layout, each with where it stands so that complaints can name it.

Tables of published times have one CSV layout. It is that of `data/published_source.csv`, cells as the publications print them:
times and rates, value types, shapes. What their words say about a row becomes columns here, once; the words stay in the note
for a reader.

Files of rows that lack columns say the same in words, too. Their rows are completed when they are read. `python -m
validate.judge.published --older FILE` writes a file anew with all columns; every other cell stays as it is.
"""

import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwmodels import HardwareSpec
from hwmodels.machine.chip import chip
from nmsim import rows
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError, brief
from nmsim.format import DENSE
from nmsim.rows import COLUMNS, Measurement
from nmsim.rows.measurement import SLOW_DENSE_CALL, L2State, Mark
from nmsim.support.sources import csv_rows, read_text
from nmsim.units import percent
from validate.judge.names import Machines, sparse_operand, understand
from validate.judge.problems import BadRow, error_of
from validate.judge.row_table import NEEDED, SUFFIX, open_row_table, rows_of_table

if TYPE_CHECKING:
    import pyarrow as pa

LITERATURE_COLUMNS = (
    *("gpu", "kernel_library", "pattern", "dtype", "M", "N", "K", "batch_phase", "dense_baseline"),
    *("dense_time_or_tflops", "sparse_time_or_tflops", "speedup", "source_url", "note"),
)
NEVER_EMPTY = ("gpu", "kernel_library", "pattern", "dtype", "M", "N", "K")
SPEEDUP_TOLERANCE = 0.03
"""By how much a stated speedup may differ from the ratio of the times, beyond the rounding of all three."""
LARGEST_SPEEDUP = 300.0
"""Two times farther apart than this are taken for a slip of units, which is a factor of 1000. Published rows lie between
0.03 and 38."""
SECONDS = {
    name: Decimal(f"1e{exponent}")
    for name, exponent in (("ns", -9), ("us", -6), ("µs", -6), ("μs", -6), ("ms", -3), ("s", 0))
}
FLOP_PER_S = {
    f"{prefix}{unit}": Decimal(f"1e{exponent}")
    for prefix, exponent in (("g", 9), ("t", 12), ("p", 15))
    for unit in ("flops", "flop/s", "flops/s", "ops", "op/s", "ops/s")
}
"""Operations of the **dense** product a second, whatever the kernel skips."""

MAX_COUNT = 10**9
REMEMBERED = 4096
"""Words whose meaning is remembered: tables repeat theirs in thousands of rows."""

DTYPES = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", "float32": "fp32",
    "fp32": "fp32", "tf32": "tf32", "e4m3": "fp8", "e5m2": "fp8", "float8": "fp8", "fp8": "fp8", "int8": "int8",
    "w8a8": "int8", "nvfp4": "fp4", "mxfp4": "fp4", "e2m1": "fp4", "fp4": "fp4", "int4": "int4",
}  # fmt: skip
"""Words for a value type -> as nmsim writes it."""

LEAST_TIME_S, MOST_TIME_S = 1e-9, 1e6
"""What a product may take: less than a clock cycle or more than a week is a slip."""
_NUMBER = r"\d[\d,]*(?:\.\d*)?(?:e[+-]?\d{1,3})?"
_QUANTITY = re.compile(rf"~?\s*({_NUMBER})\s*([a-zµμ/]+)(?:\s*\(?dense-equivalent\)?)?", re.I)
_RESULT_TYPE = re.compile(r"(?:in )?\(?\b[a-z]+\d+\b\)? (?:out(?:put)?|accum\w*|acc|compute)\b", re.I)
_TYPE = re.compile(rf"\b({'|'.join(DTYPES)})\b", re.I)

MARKS: dict[Mark, re.Pattern[str]] = {
    "above byte bound": re.compile(r"above (?:the )?byte bound"),
    "weak baseline": re.compile(r"\bweak\b"),
    "anomalous": re.compile(r"\banomal"),
    "host overhead": re.compile(r"\bhost (?:setup|overhead)"),
}
"""What the words of a publication may say against a row -> how it is recognised; the first that fits is the row's mark."""
_WHOLE_MICROSECONDS = re.compile(r"truncated to (?:an )?int")
_PRODUCTS_OF_NOTE = re.compile(r"\btimes are of (\d+) sparse and (\d+) dense products\b")
_BASELINE_DTYPE = re.compile(rf"\bdense product in ({'|'.join(VALUE_BITS)})\b")
_PRUNED_BEFOREHAND = re.compile(r"\bpruned and packed beforehand, not in this time\b")
_COUNTS = {
    "weights_bytes": re.compile(r"(?:\breads|\bweights take) (\d+) bytes\b"),
    "tokens_bytes": re.compile(r"\btokens\b.*?, into (\d+) bytes\b"),
    "operand_copies": re.compile(r"\bgraph of (\d+) copies\b"),
    "sparse_outliers": re.compile(r"\boutliers: (\d+) sparse, \d+ dense\b"),
    "dense_outliers": re.compile(r"\boutliers: \d+ sparse, (\d+) dense\b"),
}
_OTHER_BASELINES = re.compile(r"\bother dense calls: (.*)$")


def read_literature(path: str | Path, machines: Machines) -> tuple[list[Measurement], list[str]]:
    """Read a table.

    Parameters
    ----------
    path : str or Path
        CSV with `LITERATURE_COLUMNS` in any order.
    machines : Machines

    Returns
    -------
    tuple of list of Measurement, and list of str
        One measurement per row, and the unknown columns, which are not read.

    Raises
    ------
    RowError
        A column is missing, or a cell cannot be judged. The error names the file, the row (1 is the first below the
        header), the column, the value and what was expected.
    """
    table = read_table(path)
    rows = _literature(path, table, machines)
    if problems := [row for row in rows if isinstance(row, RowError)]:
        raise RowError.of_all(problems)
    return [row for row in rows if isinstance(row, Measurement)], _unread(table)


def _unread(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns of a literature table that nothing reads."""
    return [name for name in table[0] if name not in LITERATURE_COLUMNS]


def _literature(
    path: str | Path, table: Sequence[Sequence[str]], machines: Machines
) -> list[Measurement | RowError]:
    """The rows of a literature table; in place of a bad row its error."""
    header = table[0] if table else []
    missing = [name for name in LITERATURE_COLUMNS if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"missing {', '.join(missing)}" if missing else "a column twice"
        raise RowError(f"{path}: header: {problem}; expected {','.join(LITERATURE_COLUMNS)}")
    rows: list[Measurement | RowError] = []
    for number, values in enumerate(table[1:], start=1):
        try:
            if len(values) != len(header):
                raise RowError(f"{len(values)} cells, expected {len(header)}")
            row = {name: " ".join(value.split()) for name, value in zip(header, values, strict=True)}
            rows.append(_Row(row).measurement(machines))
        except RowError as error:
            message = f"{path}: row {number}: {error}"
            rows.append(RowError(message, row=number, column=error.column, problem=str(error)))
    return rows


def read_table(path: str | Path) -> list[list[str]]:
    """Read the cells of a table, header and all: of a CSV file, without lines that have no cell, or of a Parquet file.

    Raises
    ------
    RowError
        The file cannot be read as CSV in UTF-8, or as Parquet.
    """
    if Path(path).suffix == SUFFIX:
        return _texts_of(open_row_table(path))
    text = read_text(path, error=RowError, encoding="utf-8-sig")
    return [row for row in csv_rows(io.StringIO(text, newline=""), where=path, error=RowError) if row]


def _texts_of(table: "pa.Table") -> list[list[str]]:
    columns = [
        ["" if cell is None or cell != cell else str(cell) for cell in column.to_pylist()]
        for column in table.columns
    ]
    return [list(table.column_names), *(list(row) for row in zip(*columns, strict=True))]


class _Row:
    """One row; errors name the column."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        for name in NEVER_EMPTY:
            if not texts[name]:
                raise RowError(f"{name}='': expected a value, not an empty cell", column=name)

    def measurement(self, machines: Machines) -> Measurement:
        text = self.texts
        spec = self.cell("gpu", machines.find)
        M, N, K = (self.cell(name, parse_count) for name in ("M", "N", "K"))
        dtype, baseline_dtype = self.cell("dtype", parse_dtype)
        products = parse_products(text["batch_phase"], text["note"])
        dense, sparse, speedup = self.times(2.0 * M * N * K * sum(products))
        family = self.cell("pattern", lambda words: understand(words, text["kernel_library"], M))
        one = products == (1, 0)
        notes = (
            text["batch_phase"],
            # The product is named if the times are of several, because the figures then differ from the publication's.
            "" if one else f"times are of {products[0]} sparse and {products[1]} dense products",
            "" if baseline_dtype == dtype else f"dense product in {baseline_dtype}",
            text["note"],
        )
        note = "; ".join(part for part in notes if part)
        return Measurement(
            machine=spec.id,
            device=text["gpu"],
            kernel=text["kernel_library"],
            M=M,
            N=N,
            K=K,
            phase=parse_phase(text["batch_phase"], M),
            dtype=dtype,
            pattern=text["pattern"],
            sparse_operand=sparse_operand(text["pattern"], text["kernel_library"]),
            baseline=text["dense_baseline"] or "not stated",
            l2_state=cache_state(parse_l2_state(text["note"]), N * K * VALUE_BITS[dtype] / 8, spec),
            dense_time_s=dense,
            sparse_time_s=sparse,
            speedup_vs_dense=speedup,
            **family.cells(),
            sparse_products=products[0],
            dense_products_beside=products[1],
            baseline_dtype="" if baseline_dtype == dtype else baseline_dtype,
            mark=parse_mark(note),
            time_step_s=parse_time_step(note),
            source_url=text["source_url"],
            note=note,
        )

    def times(self, flop: float) -> tuple[float | None, float | None, float]:
        """Dense and sparse seconds and their ratio, which must agree with the stated speedup."""
        names = ("dense_time_or_tflops", "sparse_time_or_tflops")
        dense, sparse = (self.cell(name, lambda text: parse_time(text, flop)) for name in names)
        stated = self.cell("speedup", parse_speedup)
        ratio = float(f"{dense.time_s / sparse.time_s:.6g}") if dense and sparse else None
        if ratio is None and stated is None:
            found = ", ".join(f"{name}={brief(self.texts[name])}" for name in (*names, "speedup"))
            raise RowError(f"{found}: expected a speedup, or both times", column="speedup")
        if ratio is not None and stated is not None:
            assert dense
            assert sparse
            rounding = dense.printed_step_s / dense.time_s + sparse.printed_step_s / sparse.time_s
            allowed = SPEEDUP_TOLERANCE + rounding + stated[1] / stated[0]
            if abs(ratio / stated[0] - 1) > allowed:
                raise RowError(
                    f"speedup={brief(self.texts['speedup'])}: the times {brief(self.texts[names[0]])} and "
                    f"{brief(self.texts[names[1]])} give {ratio:.4g}; expected the two to agree "
                    f"within {percent(allowed, 1, unit='%')}",
                    column="speedup",
                )
        best = ratio if ratio is not None else stated[0] if stated is not None else None
        assert best is not None
        # A table without stated speedups has nothing else that a wrong unit would contradict.
        if not 1 / LARGEST_SPEEDUP <= best <= LARGEST_SPEEDUP:
            found = ", ".join(f"{name}={brief(self.texts[name])}" for name in (*names, "speedup"))
            raise RowError(
                f"{found}: a speedup of {best:.4g}; expected {1 / LARGEST_SPEEDUP:.2g} to {LARGEST_SPEEDUP:g}. Are both units "
                "right?",
                column="speedup",
            )
        return dense.time_s if dense else None, sparse.time_s if sparse else None, best

    def cell(self, name: str, parse: Callable[[str], Any]) -> Any:
        try:
            return parse(self.texts[name])
        except RowError as error:
            raise RowError(f"{name}={error}", column=name) from error


@dataclass(frozen=True)
class Time:
    """A time in seconds, and how far it may be off as printed: one unit of its last digit."""

    time_s: float
    printed_step_s: float


def parse_time(text: str, flop: float) -> Time | None:
    """Read a time, or a rate of a product of `flop` operations; None if the cell is empty.

    Examples
    --------
    >>> parse_time("0.49 ms", 1e9).time_s, round(parse_time("250 TFLOPS dense-equivalent", 1e9).time_s, 9)
    (0.00049, 4e-06)
    """
    if not text:
        return None
    match = _QUANTITY.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or (unit not in SECONDS and unit not in FLOP_PER_S):
        raise RowError(
            f"{brief(text)}: expected a time in ns, us, ms or s, a rate in GFLOPS, TFLOPS or TOPS of the dense product, "
            "or nothing"
        )
    value, step = _number(match[1]), _last_digit(match[1])
    if value <= 0:
        raise RowError(f"{brief(text)}: expected more than 0")
    time_s = float(value * SECONDS[unit]) if unit in SECONDS else flop / float(value * FLOP_PER_S[unit])
    if not LEAST_TIME_S <= time_s <= MOST_TIME_S:
        raise RowError(f"{brief(text)}: is {time_s:g} s, expected {LEAST_TIME_S:g} to {MOST_TIME_S:g} s")
    if unit in SECONDS:
        return Time(time_s, float(step * SECONDS[unit]))
    return Time(time_s, time_s * float(step / value))


@functools.lru_cache(maxsize=REMEMBERED)
def parse_speedup(text: str) -> tuple[float, float] | None:
    """Read a speedup and one unit of its last digit; None if the cell is empty.

    Examples
    --------
    >>> parse_speedup("1.52x")
    (1.52, 0.01)
    """
    if not text:
        return None
    match = re.fullmatch(rf"({_NUMBER})\s*[x×]?", text, re.I)
    if match is None or not _number(match[1]) > 0:
        raise RowError(f"{brief(text)}: expected one positive number, such as 1.52, or nothing")
    return float(_number(match[1])), float(_last_digit(match[1]))


@functools.lru_cache(maxsize=REMEMBERED)
def parse_count(text: str) -> int:
    """Read a dimension, which tables of floats write as 4096.0.

    Examples
    --------
    >>> parse_count("4096.0")
    4096
    """
    if not re.fullmatch(_NUMBER, text, re.I) or not 1 <= _number(text) < MAX_COUNT or _number(text) % 1:
        raise RowError(f"{brief(text)}: expected a whole number of at least 1")
    return int(_number(text))


@functools.lru_cache(maxsize=REMEMBERED)
def parse_dtype(text: str) -> tuple[str, str]:
    """Read the value type of the sparse product and that of the dense one.

    Examples
    --------
    >>> parse_dtype("FP32 (CUDA cores)"), parse_dtype("INT8 w+a vs FP16 dense")
    (('fp32', 'fp32'), ('int8', 'fp16'))
    """
    halves = re.split(r"\b(?:vs\.?|against)\s", text, maxsplit=1, flags=re.I)
    found = [
        sorted({DTYPES[word.lower()] for word in _TYPE.findall(_RESULT_TYPE.sub(" ", half))})
        for half in halves
    ]
    if any(len(types) != 1 for types in found):
        raise RowError(
            f"{brief(text)}: expected one value type for both operands ({', '.join(dict.fromkeys(DTYPES.values()))}), or "
            "'A vs B' if the dense product has another"
        )
    return found[0][0], found[-1][0]


@functools.lru_cache(maxsize=REMEMBERED)
def parse_phase(batch_phase: str, M: int) -> Literal["decode", "prefill"]:
    """Distinguish decode from prefill by the words, or by M if they say neither.

    Examples
    --------
    >>> parse_phase("decode/small-batch M=64", 64), parse_phase("square", 1024)
    ('decode', 'prefill')
    """
    words = batch_phase.lower()
    if "decode" in words:
        return "decode"
    return "decode" if M <= 64 and "prefill" not in words else "prefill"


@functools.lru_cache(maxsize=REMEMBERED)
def parse_l2_state(note: str) -> Literal["cold", "warm", ""]:
    """Read whether the operands had to come from DRAM.

    Examples
    --------
    >>> parse_l2_state("back-to-back timing, NO L2 flush"), parse_l2_state("L2 flushed each rep"), parse_l2_state("")
    ('warm', 'cold', '')
    """
    words = note.lower()
    if re.search(
        r"\bno l2 flush|without l2 flush|l2 not flushed|back-to-back|warm l2|\bl2 warm|hot l2", words
    ):
        return "warm"
    return "cold" if re.search(r"\bl2 (?:is )?flush|flush\w* (?:the )?l2|cold l2|\bl2 cold", words) else ""


def cache_state(state: L2State, weights_bytes: float, hardware: HardwareSpec) -> L2State:
    """Tell calls back to back whose dense weights the last-level cache holds from those whose weights are larger.

    The weights of a larger product come from DRAM in every call, at least in part, though nothing was flushed. Its sparse
    weights may still fit.

    Parameters
    ----------
    state : str
        As `parse_l2_state` reads it.
    weights_bytes : float
        Bytes of the dense weights.
    hardware : HardwareSpec

    Examples
    --------
    >>> import hwmodels
    >>> cache_state("warm", 48e6, hwmodels.load_machine("a100-pcie"))
    'beyond cache'
    """
    return "beyond cache" if state == "warm" and weights_bytes > chip(hardware).cache_bytes else state


@functools.lru_cache(maxsize=REMEMBERED)
def parse_products(batch_phase: str, note: str) -> tuple[int, int]:
    """Count the products that the times are of: sparse ones, and dense ones that both sides run.

    Training runs three products a linear, of which that of the weights' gradient stays dense. An FFN or MLP has two
    linears.

    Examples
    --------
    >>> parse_products("training MLP fwd+bwd", ""), parse_products("FFN 8192->8192->8192", ""), parse_products("", "")
    ((4, 2), (2, 0), (1, 0))
    """
    words = f"{batch_phase}; {note}".lower()
    linears = 2 if re.search(r"\b(?:ffn|mlp) (?:of two linears|fwd|\d+ ?->)", words) else 1
    training = re.search(r"fwd ?\+ ?bwd|forward ?(?:\+|and) ?backward", words) is not None
    return (2 * linears, linears) if training else (linears, 0)


@functools.lru_cache(maxsize=REMEMBERED)
def parse_mark(note: str) -> Mark:
    """Read what a note says against its row; "" if it says nothing.

    Examples
    --------
    >>> parse_mark("speedup above byte bound -> L2-residency or weak dense baseline artefact")
    'above byte bound'
    """
    words = note.lower()
    return next((mark for mark, sign in MARKS.items() if sign.search(words)), "")


@functools.lru_cache(maxsize=REMEMBERED)
def parse_time_step(note: str) -> float | None:
    """Read to which step a publication cuts its times, in seconds; None if it does not.

    Examples
    --------
    >>> parse_time_step("mean us truncated to int"), parse_time_step("")
    (1e-06, None)
    """
    return 1e-6 if _WHOLE_MICROSECONDS.search(note) else None


def _number(digits: str) -> Decimal:
    """Read digits; a comma parts thousands, never a fraction."""
    if "," in digits and not re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?", digits):
        raise RowError(f"{brief(digits)}: expected a decimal point, and commas between thousands alone")
    return Decimal(digits.replace(",", ""))


def _last_digit(digits: str) -> Decimal:
    return Decimal(1).scaleb(int(_number(digits).as_tuple().exponent))


def completed(row: Measurement) -> Measurement:
    """Fill the family of kernels of a row that says its pattern in words only.

    Raises
    ------
    RowError
        Words that mean no pattern.
    """
    if row.kernel_family or row.case is not None:
        return row
    return replace(row, **understand(row.pattern, row.kernel, row.M).cells())


def with_facts_of_note(row: Measurement) -> Measurement:
    """Fill the columns that files of older versions lack from the note, which then said the same.

    Raises
    ------
    RowError
        As `completed`.
    """
    facts: dict[str, Any] = {
        name: int(match[1]) for name, sign in _COUNTS.items() if (match := sign.search(row.note))
    }
    if match := _PRODUCTS_OF_NOTE.search(row.note):
        facts |= {"sparse_products": int(match[1]), "dense_products_beside": int(match[2])}
    if match := _BASELINE_DTYPE.search(row.note):
        facts["baseline_dtype"] = match[1]
    if match := _OTHER_BASELINES.search(row.note):
        facts["other_baselines"] = match[1]
    if "operand_copies" in facts:
        facts["timing"] = "graph"
    elif row.kernel.startswith("cpu."):
        facts["timing"] = "calls"
    beforehand = "pruned beforehand" if _PRUNED_BEFOREHAND.search(row.note) else ""
    facts |= {"mark": parse_mark(row.note) or beforehand, "time_step_s": parse_time_step(row.note)}
    return completed(replace(row, **facts))


DATA_FOLDER = Path(__file__).parents[1] / "data"
PUBLISHED_FILE = DATA_FOLDER / "published.csv"
MORE_FILE = DATA_FOLDER / "published_more.parquet"
MEASURED_FOLDER = DATA_FOLDER / "measured"


@dataclass(frozen=True)
class JudgedRow:
    """A measurement, the name of the file or table it is from, and its number there, the first being 1."""

    measurement: Measurement
    file: str
    number: int

    @property
    def where(self) -> str:
        """How errors name the row."""
        return f"{self.file}: row {self.number}"


@dataclass(frozen=True)
class RowFile:
    """The rows of a file, the columns of it that nothing reads, and how many rows are left out, by reason."""

    rows: tuple[JudgedRow, ...]
    unread_columns: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def of_no_commit(self) -> int:
        """Count the rows of our own kernels whose sources nobody can find again: no commit is known, or it had changes."""
        own = (row.measurement for row in self.rows if row.measurement.kernel.startswith(OWN_KERNELS))
        return sum(not row.commit or row.dirty is not False for row in own if not row.source_url)


TRANSFER = "transfers, for which no prediction is made"
DENSE_RIVAL = "dense products timed as rivals, for which no speedup is predicted"
VOID = f"rows marked {SLOW_DENSE_CALL}: their speedup is not owed to sparsity"
OWN_KERNELS = ("cpu.", "gpu.", "torch.")


def reason_to_leave_out(row: Measurement) -> str:
    """Say why a row is not judged; "" if it is."""
    if row.is_transfer:
        return TRANSFER
    if row.pattern == DENSE:
        return DENSE_RIVAL
    return VOID if row.mark == SLOW_DENSE_CALL else ""


def published_files() -> list[Path]:
    """The published rows that ship with nmsim."""
    return [PUBLISHED_FILE, MORE_FILE]


def committed_files() -> list[Path]:
    """The rows that ship with nmsim: published ones, and those of our own campaigns."""
    return [*published_files(), *own_files()]


def own_files() -> list[Path]:
    """The rows of our own campaigns that ship with nmsim."""
    return sorted(MEASURED_FOLDER.glob("*.csv"))


def committed_hardware() -> list[Path]:
    """The calibrated machines that our own campaigns ran on, beside their rows."""
    return sorted(MEASURED_FOLDER.glob("*.toml"))


def as_rows(measurements: Iterable[Measurement], name: str = "measurements") -> list[JudgedRow]:
    """Number measurements that are in memory, and leave out what is not judged (`reason_to_leave_out`).

    Raises
    ------
    RowError
        A pattern in words that mean nothing.
    """
    judged, bad = _judged(measurements, name)
    if bad:
        raise error_of(bad)
    return judged


def _judged(rows: Iterable[Measurement | RowError], file: str) -> tuple[list[JudgedRow], list[BadRow]]:
    """Number rows, part good from bad ones, and leave out what is not judged."""
    judged: list[JudgedRow] = []
    bad: list[BadRow] = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, RowError):
            bad.append(BadRow(file, number, row.column, row.problem))
        elif not reason_to_leave_out(row):
            try:
                judged.append(JudgedRow(completed(row), file, number))
            except RowError as error:
                bad.append(BadRow(file, number, "pattern", f"pattern={error}"))
    return judged, bad


def read_rows(path: str | Path, machines: Machines, *, bad: list[BadRow] | None = None) -> RowFile:
    """Read a file in the row schema, as CSV or Parquet, or in the layout of literature tables; the header says which.

    Parameters
    ----------
    path : str or Path
    machines : Machines
        For the names in literature tables.
    bad : list of BadRow, optional
        Receives the rows that cannot be read, and the others are returned. If absent, such rows are an error.

    Raises
    ------
    RowError
        No such file or header, or bad rows: the error names file, row, column, value and what was expected.
    """
    unread: list[str] = []
    found: list[Measurement | RowError]
    opened = open_row_table(path) if Path(path).suffix == SUFFIX else None
    # A table collected from papers that lacks a column is still one: its header is compared with that layout.
    if opened is not None and _shared_columns(opened, NEEDED) >= _shared_columns(opened, LITERATURE_COLUMNS):
        found = rows_of_table(opened, path)
    else:
        table = read_table(path)
        header = table[0] if table else []
        if rows.is_header(header):
            found = rows.read_each(path)
            if rows.missing_columns(header):
                found = [_with_facts(row) for row in found]
        elif set(header) >= set(LITERATURE_COLUMNS):
            found, unread = _literature(path, table, machines), _unread(table)
        else:
            raise RowError(f"{path}: header: {_difference(header)}")
    judged, problems = _judged(found, str(path))
    if problems and bad is None:
        raise error_of(problems)
    if bad is not None:
        bad += problems
    reasons = (reason_to_leave_out(row) for row in found if isinstance(row, Measurement))
    return RowFile(tuple(judged), tuple(unread), Counter(reason for reason in reasons if reason))


def _shared_columns(table: "pa.Table", names: Sequence[str]) -> int:
    """How many of these columns a table has."""
    return len(set(table.column_names) & set(names))


def _with_facts(row: Measurement | RowError) -> Measurement | RowError:
    try:
        return row if isinstance(row, RowError) else with_facts_of_note(row)
    except RowError as error:
        return RowError(f"pattern={error}", column="pattern")


def _difference(header: Sequence[str]) -> str:
    """The differences between a header and the nearer of the two layouts."""
    layouts = {"the row schema of nmsim measure": tuple(COLUMNS), "literature tables": LITERATURE_COLUMNS}
    name = max(layouts, key=lambda name: len(set(layouts[name]) & set(header)) / len(layouts[name]))
    added = (
        [] if name == "literature tables" else [column for column in COLUMNS if COLUMNS[column].cell.added]
    )
    missing = [column for column in layouts[name] if column not in header and column not in added]
    unknown = [column for column in header if column not in layouts[name]]
    found = "; ".join(
        f"{word} {', '.join(map(repr, columns))}"
        for word, columns in (("missing", missing), ("unknown", unknown))
        if columns
    )
    problem = (
        f"nearest to {name}, but {found}" if set(header) & set(layouts[name]) else f"found {brief(header)}"
    )
    # A long list of the columns of the other layout would cut the names that are missing.
    expected = [name] if set(header) & set(layouts[name]) else layouts
    return f"{problem}; expected {' or '.join(','.join(layouts[one]) for one in expected)}"
