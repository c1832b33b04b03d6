"""The page on file formats and the JSON Schemas, made of the declarations that the readers use."""

import json
from typing import Any, NamedTuple

from hwmodels.estimate.constants import FittedFile
from hwmodels.machine.libraries import LibrariesFile
from hwmodels.machine.spec import HardwareSpec
from hwmodels.silicon.technology import TechnologyFile
from hwmodels.sweeps.space import SpaceFile
from hwmodels.tensorcore.record import SparseTensorCore
from kernels.language.campaign import LossCampaignFile
from kernels.measure.campaign import CampaignFile
from nmsim.rows import LossRow, Measurement, Row, columns_of
from nmsim.support.schema_pages import field_table, json_schema
from validate.judge.budget import Budget
from validate.judge.names import MachineNames
from validate.judge.row_table import RowSources


class Format(NamedTuple):
    """A file format: its title, the record that declares it, and what it is for."""

    title: str
    record: type
    text: str


FORMATS = {
    "machine": Format(
        "Machine",
        HardwareSpec,
        "A machine, real or hypothetical: `nmsim machine h200 --write mine.toml` writes one to start from, and `--hardware "
        "mine.toml` takes it. Each number is a table with its source. The files that ship are in `hwmodels/machine/specs/`.",
    ),
    "core": Format(
        "Tensor core",
        SparseTensorCore,
        "A design of a sparse tensor core: `nmsim core -c flexible-8x16 --write mine.toml` writes one to start from. "
        "A number is plain, with its source in `[sources]` under its key or its section, or a table with its source. The "
        "files that ship are in `hwmodels/tensorcore/presets/`.",
    ),
    "space": Format(
        "Design space",
        SpaceFile,
        "What `nmsim sweep` evaluates. Each axis is a list of values. `hwmodels/data/example-space.toml` is an example.",
    ),
    "technology": Format(
        "Technology",
        TechnologyFile,
        "What elementary actions and structures cost, at the nodes where somebody published it: "
        "`hwmodels/silicon/technology.toml`. Each entry of a table is a list of anchors.",
    ),
    "row-sources": Format(
        "Sources of rows",
        RowSources,
        "The sources of a Parquet file of rows, beside it under the same name with the suffix `.toml`. What a source says of "
        "all its rows stands here once ([published rows](published-rows.md)).",
    ),
    "campaign": Format(
        "Campaign",
        CampaignFile,
        "What `nmsim measure` times. The campaigns that ship are in `kernels/measure/campaigns/`.",
    ),
    "loss-campaign": Format(
        "Campaign of losses",
        LossCampaignFile,
        "In which configurations `nmsim perplexity` evaluates a language model. The dense model always comes first. The files "
        "that ship are in `kernels/language/campaigns/`.",
    ),
    "budget": Format(
        "Budget",
        Budget,
        "The error that committed rows may have: `validate/judge/budget.toml`.",
    ),
    "fitted": Format(
        "Fitted constants",
        FittedFile,
        "What `nmsim fit` writes: `hwmodels/data/fitted.toml`.",
    ),
    "libraries": Format(
        "Libraries",
        LibrariesFile,
        "What the matrix libraries of vendors reach per generation of units: `hwmodels/data/libraries.toml`.",
    ),
    "machine-names": Format(
        "Names of machines",
        MachineNames,
        "Names as publications and drivers write them: `validate/data/machine_names.toml`.",
    ),
}
INTRO = """# File formats

Written by `make docs` from the declarations that the readers use. A reader names all problems of a file in one run: the
key, the value, and what was expected.

A number with its source is a table: `clock_hz = { value = 1.98e9, kind = "datasheet", source = "whitepaper, page 12" }`.
`kind` says how the number is known: `datasheet`, `measured`, `fitted` or `assumed`. Units are part of the keys. They are base
units: bytes, seconds, hertz.

An editor with a language server for TOML or JSON checks a file against its JSON Schema. In a TOML file, a first line
`#:schema path/to/machine.json` names it.
"""
ROWS = """
## Measured rows

CSV files that `nmsim measure` appends to and `nmsim validate` reads. A line holds one kernel on one case, beside the fastest
baseline of the same run. The baseline is a dense call, or a copy if the kernel only moves a matrix. Times are medians in
seconds, with their 20th and 80th percentiles. An older file that lacks columns is read too.

| column | value | may be empty | meaning |
|---|---|---|---|
"""

LOSSES = """
## Rows of losses

CSV files that `nmsim perplexity` appends to. A line holds one model, pruned in one configuration, on one text. A loss is the
mean negative log-likelihood in nats per predicted token. The perplexity is exp(loss). Window i is the same tokens in every row
of the same model, text, `window_tokens` and `first_window_token`, so differences are taken window by window. The cells of an
operand that is neither pruned nor rounded are empty.

| column | value | may be empty | meaning |
|---|---|---|---|
"""


def page() -> str:
    """Write the table of fields of each format."""
    sections = [
        f"\n## {entry.title}\n\n{entry.text}\n\nJSON Schema: [{name}.json](schemas/{name}.json).\n\n"
        f"{field_table(entry.record)}\n"
        for name, entry in FORMATS.items()
    ]
    rows = f"{ROWS}{_column_table(Measurement)}{LOSSES}{_column_table(LossRow)}"
    return INTRO + "".join(sections) + rows


def schemas() -> dict[str, Any]:
    """Pages of JSON Schemas, each with the function that writes it."""
    return {f"docs/reference/schemas/{name}.json": _writer(entry) for name, entry in FORMATS.items()}


def _writer(entry: Format) -> Any:
    return lambda: json.dumps(json_schema(entry.record, title=f"nmsim: {entry.title}"), indent=1) + "\n"


def _column_table(record: type[Row]) -> str:
    """Columns of measured rows, from the declarations of the record."""
    percentiles = {"_p20": "20th", "_p80": "80th"}
    lines = []
    for name, column in columns_of(record).items():
        value = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}[column.kind]
        if column.cell.texts:
            value = "one of " + ", ".join(f"`{text}`" for text in column.cell.texts if text)
        stem, percentile = name[:-4], percentiles.get(name[-4:])
        meaning = f"{percentile} percentile of `{stem}`" if percentile else column.cell.meaning
        lines.append(f"| `{name}` | {value} | {'no' if column.never_empty else 'yes'} | {meaning}. |")
    return "\n".join(lines) + "\n"
