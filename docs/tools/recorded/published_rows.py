"""The page on published rows: their sources, how many there are of each kind, and the layout of their files."""

import functools

import pandas as pd

from nmsim.rows import COLUMNS
from validate.judge.names import Machines
from validate.judge.row_table import NEEDED, RowSource, read_sources
from validate.judge.rows import MORE_FILE, PUBLISHED_FILE, read_rows

HEAD = """# Published rows

Two files hold the {all} published times that the estimate is fitted to and judged by. No GPU of ours measured one of them.

| file | rows | made from |
|---|---|---|
| [published.csv](../../validate/data/published.csv) | {first} | the [table](../../validate/data/published_source.csv) as collected, by `python -m validate.judge.published` |
| [published_more.parquet](../../validate/data/published_more.parquet) | {more} | a table of the same layout, by `python -m validate.judge.published TABLE -o validate/data/published_more.parquet` |

`make docs` counts the rows of this page anew. A test compares the counts with the file.

## Sources of the large file

They stand in [published_more.toml](../../validate/data/published_more.toml), each with its address and a note about all its
rows. The figures are facts that the sources state. `not stated` means that the repository names no licence.

"""
CACHES = """## Words for caches

| `l2_state` | rows | meaning |
|---|---|---|
| `cold` | {cold} | Caches were flushed before each call. |
| `warm` | {warm} | Calls ran back to back, and the last-level cache holds the dense weights. |
| `beyond cache` | {beyond} | Calls ran back to back, and the dense weights are larger than the last-level cache. They come from DRAM in every call, at least in part. Sparse weights may fit. |
| empty | {empty} | The source does not say. |

The size of the cache is that of the machine's spec. The model gets `warm` for both kinds of calls back to back. It derives from
the sizes what the cache still holds.

## Faults that were corrected

- Rows with weights larger than the cache were `warm`. They are `beyond cache`.
- The 14 rows of VENOM in `published.csv` had V = 32. That is the block of its metadata. Columns are chosen for 128 rows, so
  they are V = 128.

"""
LAYOUT = """## Layout of the Parquet file

The file is compressed by zstd. Texts are dictionary-encoded, times are seconds in float64. Columns are those of the
[row schema](../how-to/measure.md) in which a row states anything. An absent column holds its default. Three things differ, so
that nothing is stored twice:

- `speedup_vs_dense` is absent or empty if both times are known. It is their ratio, to 6 digits.
- `source` names an entry of the TOML file that has the same name as the Parquet file. `source_file` is a path below its
  `url`. Together they are the `source_url` of a row.
- `note` holds what is of one row alone. The note of its source follows it.

`nmsim validate --rows FILE.parquet` reads any file of this layout. It needs the columns {needed}.

| column | meaning |
|---|---|
"""
LINE_PATTERNS = 10
"""Most patterns in a line of the table."""
SOURCE_COLUMNS = {
    "source": "Id of an entry of the TOML file.",
    "source_file": "Path of the row's own source below the address of that entry.",
}


@functools.cache
def table_of(name: str) -> pd.DataFrame:
    """Rows of a file, with the columns that this page counts."""
    rows = [row.measurement for row in read_rows(name, Machines()).rows]
    names = ("machine", "dtype", "kernel", "pattern", "kernel_family", "l2_state", "source_url")
    return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in names})


def page() -> str:
    """The whole page as Markdown."""
    more = table_of(str(MORE_FILE))
    first = len(table_of(str(PUBLISHED_FILE)))
    states = more["l2_state"].value_counts()
    return "\n".join(
        [
            HEAD.format(all=_count(len(more) + first), first=_count(first), more=_count(len(more)))
            + _sources(more),
            "## Rows by machine, type and kernel\n\nOf the large file. The number after a pattern counts its rows.\n\n"
            + _kinds(more),
            CACHES.format(
                cold=_count(states["cold"]),
                warm=_count(states["warm"]),
                beyond=_count(states["beyond cache"]),
                empty=_count(states[""]),
            )
            + LAYOUT.format(needed=", ".join(f"`{name}`" for name in NEEDED))
            + _columns(),
        ]
    )


def _sources(table: pd.DataFrame) -> str:
    lines = ["| source | rows | machines | what | licence | baseline | caches |", f"|{'---|' * 7}"]
    for source in read_sources(MORE_FILE).values():
        own = table[table["source_url"].map(lambda url, source=source: _is_of(url, source))]
        machines = ", ".join(sorted(own["machine"].unique()))
        cells = (f"[{source.id}]({source.url})", _count(len(own)), machines, source.what)
        lines.append(f"| {' | '.join((*cells, source.licence, source.baseline, source.caches))} |")
    return "\n".join(lines) + "\n"


def _is_of(url: str, source: RowSource) -> bool:
    return f"{url}/".startswith(f"{source.url}/")


def _kinds(table: pd.DataFrame) -> str:
    lines = ["| machine | type | kernel | rows | patterns |", f"|{'---|' * 5}"]
    for (machine, dtype, kernel), rows in table.groupby(["machine", "dtype", "kernel"]):
        counts = rows["pattern"].value_counts().sort_index()
        for first in range(0, len(counts), LINE_PATTERNS):
            line = counts.iloc[first : first + LINE_PATTERNS]
            patterns = ", ".join(f"`{_short(str(name))}` {count}" for name, count in line.items())
            lines.append(f"| {machine} | {dtype} | {kernel} | {line.sum()} | {patterns} |")
    return "\n".join(lines) + "\n"


def _short(pattern: str) -> str:
    """A pattern without the words that its kernel says as well."""
    return pattern.removesuffix(" via sliding 2:4 windows").removesuffix(" vector-wise")


def _columns() -> str:
    stored = [name for name in (*COLUMNS, *SOURCE_COLUMNS) if name in _stored()]
    meanings = {name: f"{column.cell.meaning}." for name, column in COLUMNS.items()} | SOURCE_COLUMNS
    return "\n".join(f"| `{name}` | {meanings[name]} |" for name in stored) + "\n"


def _stored() -> list[str]:
    from pyarrow import parquet

    return list(parquet.read_schema(MORE_FILE).names)


def _count(rows: int) -> str:
    return f"{rows:,}"
