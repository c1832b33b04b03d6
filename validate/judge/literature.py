"""Tables of published times, as people collect them: one CSV layout, each row into a `Measurement`.

The layout is that of `data/published_source.csv`, cells as the publications print them. What the row schema has no
column for stays in the note, in words that `validate.judge.inputs` reads back.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nmsim.errors import RowError
from nmsim.rows.measurement import Measurement
from validate.judge import literature_cells as cells
from validate.judge.inputs import note_of_baseline, note_of_products
from validate.judge.kernel_families import sparse_operand, understand
from validate.judge.machine_names import Machines

LITERATURE_COLUMNS = (
    *("gpu", "kernel_library", "pattern", "dtype", "M", "N", "K", "batch_phase", "dense_baseline"),
    *("dense_time_or_tflops", "sparse_time_or_tflops", "speedup", "source_url", "note"),
)
NEVER_EMPTY = ("gpu", "kernel_library", "pattern", "dtype", "M", "N", "K")
SPEEDUP_TOLERANCE = 0.03
"""By how much a stated speedup may differ from the ratio of the times, beyond the rounding of all three."""


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
        A measurement a row, and the columns that are none of the layout's, which nothing reads.

    Raises
    ------
    RowError
        A column is missing, or a cell says nothing that can be judged: the error names the file, the row (1 is the
        first below the header), the column, the value and what was expected.
    """
    table = read_table(path)
    header = table[0] if table else []
    missing = [name for name in LITERATURE_COLUMNS if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"missing {', '.join(missing)}" if missing else "a column twice"
        raise RowError(f"{path}: header: {problem}; expected {','.join(LITERATURE_COLUMNS)}")
    rows = []
    for number, values in enumerate(table[1:], start=1):
        where = f"{path}: row {number}"
        if len(values) != len(header):
            raise RowError(f"{where}: {len(values)} cells, expected {len(header)}")
        row = {name: " ".join(value.split()) for name, value in zip(header, values, strict=True)}
        try:
            rows.append(_Row(row).measurement(machines))
        except RowError as error:
            raise RowError(f"{where}: {error}") from error
    return rows, [name for name in header if name not in LITERATURE_COLUMNS]


def read_table(path: str | Path) -> list[list[str]]:
    """Read the cells of a CSV file, header and all; lines without a cell are left out.

    Raises
    ------
    RowError
        The file cannot be read as CSV in UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RowError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: cannot be read as UTF-8: {error}") from error
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise RowError(f"{path}: no CSV: {error}") from error


class _Row:
    """One row; errors name the column."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        for name in NEVER_EMPTY:
            if not texts[name]:
                raise RowError(f"{name}='': expected a value, not an empty cell")

    def measurement(self, machines: Machines) -> Measurement:
        text = self.texts
        spec = self.cell("gpu", machines.find)
        M, N, K = (self.cell(name, cells.parse_count) for name in ("M", "N", "K"))
        dtype, baseline_dtype = self.cell("dtype", cells.parse_dtype)
        products = cells.parse_products(text["batch_phase"], text["note"])
        dense, sparse, speedup = self.times(2.0 * M * N * K * sum(products))
        self.cell("pattern", lambda words: understand(words, text["kernel_library"], M))
        notes = (
            text["batch_phase"],
            note_of_products(*products),
            note_of_baseline(baseline_dtype) if baseline_dtype != dtype else "",
            text["note"],
        )
        return Measurement(
            machine=spec.id,
            device=text["gpu"],
            kernel=text["kernel_library"],
            M=M,
            N=N,
            K=K,
            phase=cells.parse_phase(text["batch_phase"], M),
            dtype=dtype,
            pattern=text["pattern"],
            sparse_operand=sparse_operand(text["pattern"], text["kernel_library"]),
            baseline=text["dense_baseline"] or "not stated",
            l2_state=cells.parse_l2_state(text["note"]),
            dense_time_s=dense,
            sparse_time_s=sparse,
            speedup_vs_dense=speedup,
            source_url=text["source_url"],
            note="; ".join(note for note in notes if note),
        )

    def times(self, flop: float) -> tuple[float | None, float | None, float]:
        """Dense and sparse seconds and their ratio, which must agree with the stated speedup."""
        names = ("dense_time_or_tflops", "sparse_time_or_tflops")
        dense, sparse = (self.cell(name, lambda text: cells.parse_time(text, flop)) for name in names)
        stated = self.cell("speedup", cells.parse_speedup)
        ratio = float(f"{dense.time_s / sparse.time_s:.6g}") if dense and sparse else None
        if ratio is None and stated is None:
            found = ", ".join(f"{name}={self.texts[name]!r}" for name in (*names, "speedup"))
            raise RowError(f"{found}: expected a speedup, or both times")
        if ratio is not None and stated is not None:
            assert dense
            assert sparse
            rounding = dense.printed_step_s / dense.time_s + sparse.printed_step_s / sparse.time_s
            allowed = SPEEDUP_TOLERANCE + rounding + stated[1] / stated[0]
            if abs(ratio / stated[0] - 1) > allowed:
                raise RowError(
                    f"speedup={self.texts['speedup']!r}: the times {self.texts[names[0]]!r} and "
                    f"{self.texts[names[1]]!r} give {ratio:.4g}; expected the two to agree within {allowed:.1%}"
                )
        best = ratio if ratio is not None else stated[0] if stated is not None else None
        assert best is not None
        return dense.time_s if dense else None, sparse.time_s if sparse else None, best

    def cell(self, name: str, parse: Callable[[str], Any]) -> Any:
        try:
            return parse(self.texts[name])
        except RowError as error:
            raise RowError(f"{name}={error}") from error
