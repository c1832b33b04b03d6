"""`nmsim bits`, `pack`, `unpack` and `inspect`: what encodings cost, on paper and in safetensors files."""

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from nmsim import encodings
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError
from nmsim.files.checkpoint import CheckpointReport, pack_checkpoint, unpack_checkpoint
from nmsim.files.inspection import DEFAULT_PATTERNS, InspectionRow, inspect_checkpoint, totals
from nmsim.format import DENSE, SparseFormat
from nmsim.pattern import Pattern
from nmsim.units import ceil_div, format_bytes

SHOWN_PATTERNS = ["1:4", "2:4", "2:8", "4:8", "6:8", "8:16", "16:32"]
EXAMPLES = {
    "bits": ["nmsim bits 2:4 8:16", "nmsim bits 8:16 -e combinatorial,gap:2 --json"],
    "pack": ["nmsim pack model.safetensors -p 8:16/combinatorial -o packed.safetensors"],
    "unpack": ["nmsim unpack packed.safetensors -o pruned.safetensors"],
    "inspect": ["nmsim inspect model.safetensors -p 2:4,8:16 -e bitmask,combinatorial"],
}

Target = Annotated[
    Path, Option("--output", "-o", help="File to write; for a checkpoint in shards, a new folder.")
]


def bits(
    patterns: Annotated[
        list[str], Argument(help="Patterns, such as 8:16: 8 elements kept of every 16.", metavar="PATTERNS")
    ] = SHOWN_PATTERNS,
    encoding: options.Encodings = None,
) -> Answer:
    """Show the metadata bits per group and per element of every encoding.

    The entropy bound is shown beside them. Bits are those of the codes. `nmsim inspect` adds the padding of a packing
    policy, measured on a file.
    """
    chosen = [Pattern.parse(text) for text in options.split_names(patterns, "pattern")]
    names = options.split_names(encodings.names() if encoding is None else encoding, "encoding")
    rows = [_bits_row(pattern, name) for pattern in chosen for name in names]

    def show() -> None:
        shown = [encodings.get(name).name for name in names]
        console.print_table(
            "Metadata bits per group (per element)",
            ["pattern", "masks", *shown, "entropy bound"],
            [_bits_line(pattern, [r for r in rows if r["pattern"] == str(pattern)]) for pattern in chosen],
            note="The mean over all masks if codes differ in length. In brackets: groups that share a code.",
            extra=["masks"],
        )

    return Answer(rows, show)


def _bits_row(pattern: Pattern, name: str) -> dict[str, Any]:
    codec = encodings.get(name)
    expected = codec.expected_bits_per_group(pattern)
    return {
        "pattern": str(pattern),
        "encoding": codec.name,
        "groups_per_code": codec.groups_per_code(pattern),
        "code_bits": codec.code_bits(pattern),
        "bits_per_group": float(expected),
        "longest_bits_per_group": float(codec.bits_per_group(pattern)),
        "bits_per_elem": float(expected / pattern.m),
        "entropy_bits_per_group": pattern.entropy_bits,
        "entropy_bits_per_elem": pattern.entropy_bits / pattern.m,
        "configurations": pattern.configurations,
    }


def _bits_line(pattern: Pattern, rows: list[dict[str, Any]]) -> list[str]:
    masks = pattern.configurations
    cells = [str(pattern), str(masks) if masks < 10**12 else f"{float(masks):.4g}"]
    for row in rows:
        shared = f" [{row['groups_per_code']}]" if row["groups_per_code"] > 1 else ""
        cells.append(f"{row['bits_per_group']:.4g} ({row['bits_per_elem']:.4g}){shared}")
    cells.append(f"{pattern.entropy_bits:.4g} ({pattern.entropy_bits / pattern.m:.4g})")
    return cells


def pack(
    weights: options.Weights,
    output: Target,
    pattern: Annotated[
        str,
        Option(
            "--pattern",
            "-p",
            metavar="FORMAT",
            help="N:M (N elements kept of every M along the axis), N:M/ENCODING or N:M/ENCODING/PACKING.",
        ),
    ],
    encoding: options.Encodings = None,
    packing: options.Packings = options.BITSTREAM,
    include: options.Include = None,
    exclude: options.Exclude = None,
    everything: options.Everything = False,
    axis: options.Axis = -1,
    threads: options.Threads = 0,
    force: options.Force = False,
) -> Answer:
    """Prune weights to N:M by magnitude and write them packed.

    The file is ordinary safetensors: NAME.values and NAME.metadata for each packed tensor, all others as they were. It
    appears under its name when it is complete.
    """
    asked = options.formats([pattern], encoding, packing)
    chosen = asked[0].format
    for option, values in (("--pattern", [pattern]), ("--encoding", encoding or []), ("--packing", packing)):
        given = options.split_names(values)
        if len(asked) > 1 and len(given) > 1:
            raise NmsimError(f"{option} {','.join(given)}: expected one for a packed file, got {len(given)}")
    if chosen is None:
        raise NmsimError(f"--pattern {pattern}: prunes nothing, expected a format such as 8:16/index")
    started = time.perf_counter()
    with console.bytes_bar() as progress:
        report = pack_checkpoint(
            weights,
            output,
            chosen,
            include=_included(include, everything),
            exclude=exclude,
            axis=axis,
            threads=options.all_cores(threads),
            progress=progress,
            force=force,
        )
    return _report(report, weights, "packed", f" as {chosen.short}", time.perf_counter() - started)


def unpack(
    packed: options.Weights, output: Target, threads: options.Threads = 0, force: options.Force = False
) -> Answer:
    """Make a packed checkpoint dense again.

    Kept values come back bit for bit, with zeros elsewhere.
    """
    started = time.perf_counter()
    with console.bytes_bar() as progress:
        report = unpack_checkpoint(
            packed, output, threads=options.all_cores(threads), progress=progress, force=force
        )
    return _report(report, packed, "unpacked", "", time.perf_counter() - started)


def _trials(
    patterns: list[str] | None, encodings: list[str] | None, packings: list[str] | None
) -> list[SparseFormat]:
    """The formats to try; none at all leaves the choice to `inspect_checkpoint`."""
    if patterns is None and encodings is None and packings is None:
        return []
    asked = options.formats(patterns or DEFAULT_PATTERNS, encodings, packings or options.BITSTREAM)
    return [each.format for each in asked if each.format is not None]


def inspect(
    weights: options.Weights,
    pattern: options.PatternsOrNone = None,
    encoding: options.Encodings = None,
    packing: options.PackingsOrNone = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    everything: options.Everything = False,
    axis: options.Axis = -1,
    threads: options.Threads = 0,
) -> Answer:
    """Show what each format keeps and costs, tensor by tensor.

    Everything is measured and nothing is written. A packed checkpoint is shown as it is stored.
    """
    with console.bytes_bar() as progress:
        rows = inspect_checkpoint(
            weights,
            _trials(pattern, encoding, packing),
            include=_included(include, everything),
            exclude=exclude,
            axis=axis,
            threads=options.all_cores(threads),
            progress=progress,
        )
    # Rows are per tensor; the decision for a format needs the whole checkpoint.
    sums = totals(rows)
    records = [
        asdict(row)
        | {"total_bytes": row.total_bytes, "total_over_dense_ratio": _ratio(row.total_bytes, row.dense_bytes)}
        for row in rows
    ]

    def show() -> None:
        _show_tensors(str(weights), rows)
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
                for total in sums
            ],
        )

    return Answer({"source": str(weights), "rows": records, "totals": sums}, show)


def _show_tensors(title: str, rows: list[InspectionRow]) -> None:
    """Print a table in which each tensor is named once."""
    lines, before = [], None
    for row in rows:
        name = f"{row.tensor}\n  {row.dtype} {'x'.join(map(str, row.shape)) or 'scalar'}"
        lines.append(("" if row.tensor == before else name, *_cells(row)))
        before = row.tensor
    console.print_table(
        title,
        ("tensor", "pattern", "encoding", "packing", "energy kept", "nonzeros", "values", "metadata", "padding", "total",
         "of dense"),
        lines,
        note="Energy: sum of squares of the kept elements over that of all. Padding is part of values and metadata.",
        extra=("packing", "nonzeros", "values", "metadata"),
    )  # fmt: skip


def _cells(row: InspectionRow) -> tuple[str, ...]:
    energy, nonzeros = row.energy_kept_ratio, row.nonzeros_elems
    return (
        row.pattern or DENSE,
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


def _report(report: CheckpointReport, source: Path, done: str, how: str, elapsed_s: float) -> Answer:
    share = _ratio(report.total_bytes, report.dense_bytes)
    dense, packed = format_bytes(report.dense_bytes), format_bytes(report.total_bytes)
    text = (
        f"{done} {len(report.packed)} of {len(report.tensors)} tensors{how} into {report.target}: {dense} dense, "
        f"{packed} packed ({_percent(share)}), {elapsed_s:.1f} s"
    )
    data = {
        "source": str(source),
        "target": str(report.target),
        "dense_bytes": report.dense_bytes,
        "packed_bytes": report.total_bytes,
        "packed_over_dense_ratio": share,
        "elapsed_s": elapsed_s,
        "tensors": [asdict(t) | {"total_bytes": t.total_bytes} for t in report.tensors],
    }
    left = Counter(tensor.kept_as_is for tensor in report.tensors if tensor.kept_as_is)

    def show() -> None:
        console.say(text)
        for reason, count in left.most_common() if how else ():
            console.say(f"left dense: {count} of {len(report.tensors)}: {reason}")

    return Answer(data, show)


def _included(include: list[str] | None, everything: bool) -> list[str] | None:
    if everything and include:
        raise NmsimError(f"--all and --include {include}: expected one of the two")
    return ["*"] if everything else include


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f} %"
