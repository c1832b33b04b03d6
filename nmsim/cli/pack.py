"""`nmsim pack`, `unpack` and `inspect`: checkpoints in safetensors files."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nmsim.cli import console
from nmsim.cli.progress import progress_bar, tidy_when_terminated
from nmsim.errors import NmsimError
from nmsim.files.checkpoint import CheckpointReport, pack_checkpoint, unpack_checkpoint
from nmsim.files.inspection import InspectionRow, inspect_checkpoint
from nmsim.units import ceil_div, format_bytes

Weights = Annotated[
    Path,
    typer.Argument(help="A .safetensors file, a *.safetensors.index.json, or the folder that holds one."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        "-i",
        help="Tensors to pack, as a shell pattern such as '*.mlp.*'; may be repeated. By default floating "
        "and int8 tensors named *.weight of two or more dimensions that are no embedding, lm_head or norm.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", "-x", help="Tensors to leave as they are; may be repeated."),
]
Everything = Annotated[
    bool, typer.Option("--all", help="Pack every tensor of two or more dimensions, like --include '*'.")
]
Axis = Annotated[
    int,
    typer.Option(
        help="Axis along which groups run; the last is 'in features' of a Hugging Face linear layer."
    ),
]
Threads = Annotated[int, typer.Option(min=0, help="Cores to use; 0 means all.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", "-f", help="Replace an existing file; never the input, nor a folder that is not empty."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

COLUMNS = (
    "pattern",
    "encoding",
    "packing",
    "energy kept",
    "nonzeros",
    "values",
    "metadata",
    "padding",
    "total",
    "of dense",
)


def pack(
    weights: Weights,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; for a checkpoint in shards, a new folder.")
    ],
    pattern: Annotated[
        str, typer.Option("--pattern", "-p", help="N:M, N kept of every M along the axis, such as 8:16.")
    ],
    encoding: Annotated[
        str, typer.Option("--encoding", "-e", help="Metadata encoding; see 'nmsim bits'.")
    ] = "combinatorial",
    packing: Annotated[
        str, typer.Option(help="bitstream, no_straddle[:W], power_of_two or byte.")
    ] = "bitstream",
    include: Include = None,
    exclude: Exclude = None,
    everything: Everything = False,
    axis: Axis = -1,
    threads: Threads = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Prune weights to N:M by magnitude and write them packed: values, metadata, and nothing else.

    The file is ordinary safetensors: NAME.values and NAME.metadata for each packed tensor, all others as they
    were. It appears under its name when it is complete, and not before.
    """
    started = time.perf_counter()
    with tidy_when_terminated(), progress_bar() as progress:
        report = pack_checkpoint(
            weights,
            output,
            pattern,
            encoding=encoding,
            packing=packing,
            include=_included(include, everything),
            exclude=exclude,
            axis=axis,
            threads=_cores(threads),
            progress=progress,
            force=force,
        )
    _print_report(report, weights, "packed", time.perf_counter() - started, as_json)


def unpack(
    packed: Weights,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; for a checkpoint in shards, a new folder.")
    ],
    threads: Threads = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a packed checkpoint dense again: what was kept bit for bit, zeros elsewhere."""
    started = time.perf_counter()
    with tidy_when_terminated(), progress_bar() as progress:
        report = unpack_checkpoint(packed, output, threads=_cores(threads), progress=progress, force=force)
    _print_report(report, packed, "unpacked", time.perf_counter() - started, as_json)


def inspect(
    weights: Weights,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern",
            "--patterns",
            "-p",
            help="Patterns to try, joined by commas or repeated. Default 2:4,4:8,8:16,16:32.",
        ),
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option("--encoding", "--encodings", "-e", help="Encodings to try. Default combinatorial."),
    ] = None,
    packing: Annotated[
        list[str] | None,
        typer.Option("--packing", "--packings", help="Packing policies to try. Default bitstream."),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    everything: Everything = False,
    axis: Axis = -1,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Show tensor by tensor what each pattern and encoding keeps and costs, measured; nothing is written.

    Of a packed checkpoint it shows what is stored.
    """
    with progress_bar() as progress:
        rows = inspect_checkpoint(
            weights,
            console.split_names(pattern or []),
            console.split_names(encoding or []),
            console.split_names(packing or []),
            include=_included(include, everything),
            exclude=exclude,
            axis=axis,
            threads=_cores(threads),
            progress=progress,
        )
    totals = _totals(rows)
    if as_json:
        records = [
            dataclasses.asdict(row)
            | {
                "total_bytes": row.total_bytes,
                "total_over_dense_ratio": _ratio(row.total_bytes, row.dense_bytes),
            }
            for row in rows
        ]
        console.print_json({"source": str(weights), "rows": records, "totals": totals})
        return
    _print_rows(str(weights), rows)
    console.print_table(
        "All tensors, those left dense included",
        ["pattern", "encoding", "packing", "total", "dense", "of dense"],
        [
            (
                total["pattern"] or "as stored",
                total["encoding"] or "-",
                total["packing"] or "-",
                format_bytes(total["total_bytes"]),
                format_bytes(total["dense_bytes"]),
                _percent(total["total_over_dense_ratio"]),
            )
            for total in totals
        ],
    )


def _print_rows(title: str, rows: list[InspectionRow]) -> None:
    """Print a table in which a tensor is named once, as wide as it needs to be."""
    lines, before = [], None
    for row in rows:
        what = f"{row.tensor}\n  {row.dtype} {'x'.join(map(str, row.shape)) or 'scalar'}"
        lines.append(("" if row.tensor == before else what, *_cells(row)))
        before = row.tensor
    console.print_table(
        title,
        ("tensor", *COLUMNS),
        lines,
        note="Energy: sum of squares kept over that of all elements. Padding is part of values and metadata.",
    )


def _cells(row: InspectionRow) -> tuple[str, ...]:
    energy, nonzeros = row.energy_kept_ratio, row.nonzeros_elems
    return (
        row.pattern or "dense",
        row.encoding or "-",
        row.packing or "-",
        "-" if energy is None else f"{100 * energy:.3f} %",
        "-" if nonzeros is None else str(nonzeros),
        format_bytes(row.values_bytes),
        format_bytes(row.metadata_bytes),
        format_bytes(ceil_div(row.padding_bits, 8)),
        format_bytes(row.total_bytes),
        _percent(_ratio(row.total_bytes, row.dense_bytes)),
    )


def _totals(rows: list[InspectionRow]) -> list[dict[str, Any]]:
    """Bytes of the whole checkpoint for every choice tried, or one record of what a packed one stores."""
    dense_bytes = sum({row.tensor: row.dense_bytes for row in rows}.values())
    as_stored = all(row.stored for row in rows)
    by_choice: dict[tuple[str | None, str | None, str | None], list[InspectionRow]] = {}
    for row in rows:
        tried = row.pattern is not None and not row.stored
        if tried or as_stored:
            choice = (row.pattern, row.encoding, row.packing) if tried else (None, None, None)
            by_choice.setdefault(choice, []).append(row)
    out: list[dict[str, Any]] = []
    for (pattern, encoding, packing), chosen in by_choice.items():
        total_bytes = dense_bytes - sum(row.dense_bytes - row.total_bytes for row in chosen)
        out.append(
            {
                "pattern": pattern,
                "encoding": encoding,
                "packing": packing,
                "dense_bytes": dense_bytes,
                "total_bytes": total_bytes,
                "total_over_dense_ratio": _ratio(total_bytes, dense_bytes),
            }
        )
    return out


def _print_report(report: CheckpointReport, source: Path, what: str, elapsed_s: float, as_json: bool) -> None:
    if as_json:
        console.print_json(
            {
                "source": str(source),
                "target": str(report.target),
                "dense_bytes": report.dense_bytes,
                "packed_bytes": report.total_bytes,
                "packed_over_dense_ratio": _ratio(report.total_bytes, report.dense_bytes),
                "elapsed_s": elapsed_s,
                "tensors": [dataclasses.asdict(t) | {"total_bytes": t.total_bytes} for t in report.tensors],
            }
        )
        return
    dense, packed = format_bytes(report.dense_bytes), format_bytes(report.total_bytes)
    share = _percent(_ratio(report.total_bytes, report.dense_bytes))
    console.out.print(
        f"{what} {len(report.packed)} of {len(report.tensors)} tensors into {report.target}: {dense} dense, "
        f"{packed} packed ({share}), {elapsed_s:.1f} s",
        markup=False,
        highlight=False,
    )


def _included(include: list[str] | None, everything: bool) -> list[str] | None:
    if everything and include:
        raise NmsimError(f"--all and --include {include}: expected one of the two")
    return ["*"] if everything else include


def _cores(threads: int) -> int:
    if threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f} %"
