"""Rows in Parquet: what the shipped file holds, that nothing is lost on the way into it, and what a reader refuses."""

import functools
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from judge_fakes import literature_line, measurement, write_literature
from pyarrow import parquet

from hwmodels import load_machine
from hwmodels.machine.chip import chip
from nmsim import rows as row_files
from nmsim.case import VALUE_BITS, Case, GemmShape, case_id
from nmsim.errors import RowError, SpecError
from validate.judge import published
from validate.judge.names import Machines
from validate.judge.row_table import read_sources, write_row_table
from validate.judge.rows import MORE_FILE, PUBLISHED_FILE, read_literature, read_rows

MACHINES = Machines()
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "published-rows.md"
SOURCES = """
[[source]]
id = "bench"
url = "https://example.org/bench"
what = "A benchmark"
licence = "MIT"
baseline = "cuBLASLt"
caches = "back to back"
note = "best algorithm of each; NO L2 flush"
"""


@pytest.fixture(scope="module")
def more():
    return [row.measurement for row in read_rows(MORE_FILE, MACHINES).rows]


def written(tmp_path, *rows, sources=SOURCES):
    (tmp_path / "rows.toml").write_text(sources)
    write_row_table(tmp_path / "rows.parquet", rows)
    return tmp_path / "rows.parquet"


def read(path):
    return [row.measurement for row in read_rows(path, MACHINES).rows]


def test_what_the_shipped_file_holds(more):
    """The counts are those of the table as collected."""
    assert len(more) == 20_511
    assert Counter(row.machine for row in more) == {
        "a100-pcie": 4827, "b200": 3139, "gb10": 3524, "h100-pcie": 2797, "rtx2080s": 269, "rtx3090": 781, "rtx4090": 5174,
    }  # fmt: skip
    assert Counter(row.dtype for row in more) == {
        "bf16": 3698, "fp16": 4099, "fp32": 2738, "fp4": 295, "fp8": 4244, "int8": 5437,
    }  # fmt: skip
    assert Counter(row.kernel_family for row in more) == {
        "library": 2499, "sliding": 14398, "column-nm": 248, "csr": 1266, "delta-gemv": 544, "vector-nm": 1556,
    }  # fmt: skip
    assert Counter(row.kernel for row in more)["cuSPARSELt"] == 16_839
    assert Counter(row.l2_state for row in more) == {
        "warm": 11_466,
        "beyond cache": 5756,
        "cold": 544,
        "": 2745,
    }
    assert len({row.pattern for row in more}) == 42
    assert len({row.source_url for row in more}) == 98


def test_the_page_counts_what_the_file_holds(more):
    """By machine, type, kernel and pattern; the page leaves out words of a pattern that its kernel says as well."""
    text = PAGE.read_text(encoding="utf-8")
    found = {}
    for machine, dtype, kernel, rows, patterns in re.findall(
        r"^\| ([^|]+) \| (\w+) \| ([^|]+) \| (\d+) \| (.+) \|$", text, re.M
    ):
        counts = {name: int(count) for name, count in re.findall(r"`([^`]+)` (\d+)", patterns)}
        assert sum(counts.values()) == int(rows)
        found |= {(machine, dtype, kernel, pattern): count for pattern, count in counts.items()}
    words = (" via sliding 2:4 windows", " vector-wise")
    assert found == Counter(
        (row.machine, row.dtype, row.kernel, functools.reduce(str.removesuffix, words, row.pattern))
        for row in more
    )
    for source in read_sources(MORE_FILE).values():
        count = sum(row.source_url.startswith(source.url) for row in more)
        assert re.search(rf"^\| \[{source.id}\].* \| {count:,} \| .* \| {source.licence} \|", text, re.M)


def test_every_row_has_a_source_with_a_licence(more):
    sources = read_sources(MORE_FILE).values()
    assert {source.licence for source in sources} == {"Apache-2.0", "MIT", "not stated"}
    assert all(any(row.source_url.startswith(source.url) for source in sources) for row in more)
    assert all(row.note for row in more)


def test_no_row_repeats_one_of_the_other_file(more):
    def figures(row):
        return (
            row.machine,
            row.kernel,
            row.pattern,
            row.dtype,
            row.M,
            row.N,
            row.K,
            row.dense_time_s,
            row.sparse_time_s,
        )

    first = {figures(row) for row in row_files.read(PUBLISHED_FILE)}
    assert not any(figures(row) in first for row in more)


def test_rows_with_weights_beyond_the_cache_are_not_called_warm(more):
    for row in [*more, *row_files.read(PUBLISHED_FILE)]:
        beyond = row.N * row.K * VALUE_BITS[row.dtype] / 8 > chip(load_machine(row.machine)).cache_bytes
        assert row.l2_state != ("warm" if beyond else "beyond cache")


def test_the_file_is_small():
    assert MORE_FILE.stat().st_size < 250_000


def test_what_the_command_makes_of_a_collected_table_is_read_as_the_table_itself(tmp_path, capsys):
    lines = [
        literature_line(
            source_url="https://example.org/bench/a.csv", note="a layer; best algorithm of each; NO L2 flush"
        ),
        literature_line(
            source_url="https://example.org/bench", note="NO L2 flush; best algorithm of each", speedup=""
        ),
        literature_line(
            source_url="https://example.org/benchmark", note="another source", pattern="unstructured 50%"
        ),
        literature_line(source_url="", sparse_time_or_tflops="", speedup="1.25"),
    ]
    collected = write_literature(tmp_path / "collected.csv", *lines)
    (tmp_path / "rows.toml").write_text(SOURCES)
    published.main([str(collected), "-o", str(tmp_path / "rows.parquet")])
    assert capsys.readouterr().out.endswith("rows.parquet: 4 rows\n")
    expected, _ = read_literature(collected, MACHINES)
    found = read(tmp_path / "rows.parquet")
    assert [replace(row, note="") for row in found] == [replace(row, note="") for row in expected]
    assert [sorted(row.note.split("; ")) for row in found] == [
        sorted(row.note.split("; ")) for row in expected
    ]
    columns = parquet.read_schema(tmp_path / "rows.parquet").names
    assert {"source", "source_file", "source_url", "speedup_vs_dense"} <= set(columns)
    assert "case_id" not in columns


def test_a_collected_table_in_parquet_is_read_as_in_csv(tmp_path):
    collected = write_literature(
        tmp_path / "a.csv", literature_line(), literature_line(M="128", dtype="INT8")
    )
    table = pd.read_csv(collected).assign(N=[4096, 4096], speedup=[1.5, 1.5])
    table.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == read(collected)


def test_every_column_comes_back(tmp_path):
    stored = {"pattern": "8:16", "encoding": "combinatorial", "packing": "bitstream"}
    case = Case(GemmShape(64, 4096, 4096), "8:16/combinatorial", dtype="bf16")
    row = measurement(
        **stored, case_id=case_id(case, "decode"), reps=3, dirty=True, mark="anomalous", sparse_time_s_p20=1e-6,
        threads=2, sparse_products=2, dense_products_beside=1, baseline_dtype="fp32",
    )  # fmt: skip
    plain = measurement(M=3)
    completed = measurement(M=3, kernel_family="library", nm_pattern="2:4", density=0.5)
    assert read(written(tmp_path, row, plain)) == [row, completed]


def test_a_row_that_does_not_say_what_its_source_says_is_refused(tmp_path):
    row = measurement(source_url="https://example.org/bench/a.csv", note="NO L2 flush")
    with pytest.raises(
        RowError, match=r"row 1: note='NO L2 flush': expected 'best algorithm of each', which source bench"
    ):
        written(tmp_path, row)


def test_a_damaged_file_is_named(tmp_path):
    path = written(tmp_path, measurement())
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[: len(whole) // 2], b"", b"PAR1" + bytes(40) + b"PAR1", b"gpu,M\n"):
        path.write_bytes(damaged)
        with pytest.raises(
            RowError, match=r"rows.parquet: cannot be read as Parquet: .*expected a complete file of rows"
        ):
            read(path)


def test_a_damaged_byte_of_a_time_is_noticed(tmp_path):
    """Times are stored as they are, so only a checksum tells a damaged one from a measured one."""
    for path in (
        written(tmp_path, *(measurement(M=1 + n, dense_time_s=1e-3 + n * 1e-7) for n in range(500))),
        MORE_FILE,
    ):
        chunk = next(
            chunk
            for chunk in map(parquet.ParquetFile(path).metadata.row_group(0).column, range(100))
            if chunk.path_in_schema == "dense_time_s"
        )
        middle = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size // 2
        damaged = bytearray(path.read_bytes())
        damaged[middle] ^= 1
        (tmp_path / "damaged.parquet").write_bytes(damaged)
        with pytest.raises(RowError, match=r"damaged.parquet: cannot be read as Parquet"):
            read(tmp_path / "damaged.parquet")


def test_a_collected_table_that_lacks_a_column_is_compared_with_its_own_layout(tmp_path):
    collected = write_literature(tmp_path / "a.csv", literature_line())
    table = pd.read_csv(collected, dtype=str, keep_default_na=False).drop(columns="N")
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(RowError, match=r"a.parquet: header: nearest to literature tables, but missing 'N';"):
        read(tmp_path / "a.parquet")


def cells(**changes):
    row = asdict(measurement(kernel_family="library", nm_pattern="2:4", density=0.5))
    needed = ("machine", "kernel", "M", "N", "K", "phase", "dtype", "pattern", "baseline", "l2_state")
    return {name: [row[name]] for name in (*needed, "dense_time_s", "sparse_time_s")} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"speed": [2.0]},
            r"rows.parquet: columns: unknown 'speed'; expected machine, kernel, M, N, K, phase",
        ),
        ({"M": ["many"]}, r"rows.parquet: row 1: M='many': expected a whole number of at least 1"),
        ({"M": [None]}, r"rows.parquet: row 1: M=None: expected a value, not an empty cell"),
        ({"dtype": ["fp5"]}, r"rows.parquet: row 1: dtype='fp5': expected one of "),
        ({"pattern": ["cubes"]}, r"rows.parquet: row 1: pattern='cubes': expected N:M"),
        (
            {"dense_time_s": [-1.0]},
            r"rows.parquet: row 1: dense_time_s=-1.0: expected a positive, finite number",
        ),
        ({"dense_time_s": [None]}, r"row 1: speedup_vs_dense=None: expected a speedup, or both times"),
        ({"kernel": [7]}, r"rows.parquet: row 1: kernel=7: expected text, not int"),
        ({"source": ["elsewhere"]}, r"row 1: source='elsewhere': expected one of bench"),
    ],
)
def test_bad_tables_are_named(tmp_path, changes, message):
    (tmp_path / "rows.toml").write_text(SOURCES)
    parquet.write_table(pa.table(cells(**changes)), tmp_path / "rows.parquet")
    with pytest.raises(RowError, match=message):
        read(tmp_path / "rows.parquet")


def test_other_columns_and_absent_sources_are_named(tmp_path):
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(
        RowError, match=r"columns: missing 'machine', 'kernel', .*; unknown 'a'; expected machine"
    ):
        read(tmp_path / "rows.parquet")
    parquet.write_table(pa.table(cells(source=["bench"])), tmp_path / "rows.parquet")
    with pytest.raises(
        (RowError, SpecError), match=r"rows.toml: no such file; expected the sources of .*rows.parquet"
    ):
        read(tmp_path / "rows.parquet")


def test_columns_of_other_types_mean_the_same(tmp_path):
    """pandas writes whole numbers with a hole as floats, and any writer may choose narrower types."""
    table = pa.table(cells(M=[64.0], N=pa.array([4096], pa.int16())))
    parquet.write_table(table, tmp_path / "rows.parquet")
    (row,) = read(tmp_path / "rows.parquet")
    assert (row.M, row.N, row.speedup_vs_dense) == (64, 4096, 2.0)
    assert type(row.M) is int
