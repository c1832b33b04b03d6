"""`nmsim bits`, `pack`, `unpack`, `inspect` and `check`: what encodings cost, on paper and in safetensors files."""

import itertools
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from nmsim import encodings
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError
from nmsim.files.checking import check_checkpoint
from nmsim.files.checkpoint import CheckpointReport, checkpoint_output, pack_checkpoint, unpack_checkpoint
from nmsim.files.inspection import DEFAULT_PATTERNS, InspectionRow, inspect_checkpoint, left_dense, totals
from nmsim.format import DENSE, SparseFormat
from nmsim.pattern import Pattern
from nmsim.units import ceil_div, format_bytes, percent

SHOWN_PATTERNS = ["1:4", "2:4", "2:8", "4:8", "6:8", "8:16", "16:32"]
SHOWN_TENSORS = 20
EXAMPLES = {
    "bits": ["nmsim bits 2:4 8:16", "nmsim bits 8:16 -e combinatorial,gap:2 --json"],
    "pack": ["nmsim pack model.safetensors -p 8:16/combinatorial -o packed.safetensors"],
    "unpack": ["nmsim unpack packed.safetensors -o pruned.safetensors"],
    "inspect": ["nmsim inspect model.safetensors -p 2:4,8:16 -e bitmask,combinatorial"],
    "check": ["nmsim check model.safetensors -p 2:4", "nmsim check model-folder -p 8:16 --json"],
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
    axis: options.Axis = None,
    exact: Annotated[
        bool,
        Option("--exact", help="Refuse weights of which pruning would drop an element that is not zero."),
    ] = False,
    explain: options.Explain = False,
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
    console.claim(checkpoint_output(weights, output), force=force)
    started = time.perf_counter()
    with console.bytes_bar() as progress:
        report = pack_checkpoint(
            weights,
            output,
            chosen,
            include=_included(include, everything),
            exclude=exclude,
            axis=axis,
            exact=exact,
            threads=options.all_cores(threads),
            progress=progress,
            force=force,
        )
    elapsed_s = time.perf_counter() - started
    return _report(report, weights, "packed", f" as {chosen.short}", elapsed_s, explain=explain)


def unpack(
    packed: options.Weights, output: Target, threads: options.Threads = 0, force: options.Force = False
) -> Answer:
    """Make a packed checkpoint dense again.

    Kept values come back bit for bit, with zeros elsewhere.
    """
    console.claim(checkpoint_output(packed, output), force=force)
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
    axis: options.Axis = None,
    explain: options.Explain = False,
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
    sums, left = totals(rows), left_dense(rows)
    weights_elems = sum({row.tensor: row.weights_elems for row in rows}.values())
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
                    percent(total["total_over_dense_ratio"]),
                )
                for total in sums
            ],
        )
        _show_left(left, weights_elems)
        if explain:
            _show_reasons((row.tensor, row.axis, row.reason) for row in rows)

    return Answer({"source": str(weights), "rows": records, "totals": sums, "left_dense": left}, show)


def check(
    weights: options.Weights,
    pattern: Annotated[str, Option("--pattern", "-p", metavar="N:M", help="Pattern to compare with.")],
    include: options.Include = None,
    exclude: options.Exclude = None,
    everything: options.Everything = False,
    axis: options.Axis = None,
    show_groups: Annotated[
        int, Option("--groups", min=0, help="Violating groups of each tensor to name.")
    ] = 3,
) -> Answer:
    """Say whether the weights of a checkpoint are N:M, and where they are not.

    Each group of M elements along the in features may hold at most N that are not zero; -0.0 is zero. The exit code is 0 for
    yes, 1 for no, and 2 for an error. A position is that of the first element of a group.
    """
    with console.bytes_bar() as progress:
        report = check_checkpoint(
            weights,
            Pattern.parse(pattern),
            include=_included(include, everything),
            exclude=exclude,
            axis=axis,
            shown=show_groups,
            progress=progress,
        )
    records = [
        {
            "tensor": one.name,
            "dtype": one.dtype,
            "shape": list(one.shape),
            "axis": one.axis,
            "fits": one.fit.fits,
            "groups": one.fit.groups,
            "violating_groups": one.fit.violations,
            "first_violations": [list(place) for place in one.fit.first],
            "smallest_pattern": one.fit.smallest,
            "nonzeros_elems": one.fit.nonzeros_elems,
            "elems": one.fit.elems,
        }
        for one in report.tensors
    ]
    # People want the tensors that do not fit; programs get all of them.
    bad = [one for one in report.tensors if not one.fit.fits]
    groups = sum(one.fit.groups for one in report.tensors)
    violating = sum(one.fit.violations for one in report.tensors)
    data = {
        "source": str(weights),
        "pattern": str(report.pattern),
        "fits": report.fits,
        "groups": groups,
        "violating_groups": violating,
        "tensors": records,
        "left_out": list(report.left),
    }

    def show() -> None:
        share = percent(violating / groups if groups else None)
        verdict = "yes" if report.fits else f"no, {violating} of {groups} groups ({share}) hold more than N"
        console.say(f"{report.pattern}: {verdict}; {len(report.tensors)} tensors compared")
        lines = [
            (
                one.name,
                f"{one.fit.violations} of {one.fit.groups}",
                percent(one.fit.violations / one.fit.groups if one.fit.groups else None),
                " ".join(f"[{', '.join(map(str, place))}]" for place in one.fit.first),
                one.fit.smallest,
                percent(1 - one.fit.nonzeros_elems / one.fit.elems if one.fit.elems else None),
            )
            for one in (bad or report.tensors)[:SHOWN_TENSORS]
        ]
        console.print_table(
            "Tensors that do not fit" if bad else "Tensors",
            ["tensor", "violating groups", "share", "first at", "smallest N of this M", "zeros"],
            lines,
            spare=("share", "zeros"),
        )
        more = len(bad or report.tensors) - SHOWN_TENSORS
        if more > 0:
            console.say(f"and {more} more tensors; --json lists all")
        for record in report.left:
            console.say(f"not compared: {record['tensors']} tensors: {record['why']}")

    return Answer(data, show, 0 if report.fits else 1)


def _show_tensors(title: str, rows: list[InspectionRow]) -> None:
    """Print a table in which each tensor is named once."""
    lines: list[tuple[str, ...]] = []
    for name, group in itertools.groupby(rows, key=lambda row: row.tensor):
        tried = list(group)
        cells = [_cells(row) for row in tried]
        # Dtype and shape stand below the name, beside the second format or in a line of their own.
        kind = f"  {tried[0].dtype} {'x'.join(map(str, tried[0].shape)) or 'scalar'}"
        cells += [("",) * len(cells[0])] * (len(cells) < 2)
        names = [name, kind, *[""] * (len(cells) - 2)]
        lines += [(first, *others) for first, others in zip(names, cells, strict=True)]
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
        percent(energy, 3),
        "-" if nonzeros is None else str(nonzeros),
        format_bytes(row.values_bytes),
        format_bytes(row.metadata_bytes),
        format_bytes(ceil_div(row.padding_bits, 8)),
        format_bytes(row.total_bytes),
        percent(_ratio(row.total_bytes, row.dense_bytes)),
    )


def _report(
    report: CheckpointReport, source: Path, done: str, how: str, elapsed_s: float, *, explain: bool = False
) -> Answer:
    share = _ratio(report.total_bytes, report.dense_bytes)
    dense, packed = format_bytes(report.dense_bytes), format_bytes(report.total_bytes)
    # A count of tensors alone would hide how little of the weights a few small tensors are.
    of_weights = f" with {percent(report.packed_weights_share, 1)} of the weights" if how else ""
    text = (
        f"{done} {len(report.packed)} of {len(report.tensors)} tensors{of_weights}{how} into {report.target}: {dense} dense, "
        f"{packed} packed ({percent(share)}), {elapsed_s:.1f} s"
    )
    left = report.left_dense if how else []
    data = {
        "source": str(source),
        "target": str(report.target),
        "dense_bytes": report.dense_bytes,
        "packed_bytes": report.total_bytes,
        "packed_over_dense_ratio": share,
        "elapsed_s": elapsed_s,
        "packed_weights_share": report.packed_weights_share if how else None,
        "left_dense": left,
        "tensors": [asdict(t) | {"total_bytes": t.total_bytes} for t in report.tensors],
    }

    def show() -> None:
        console.say(text)
        _show_left(left, sum(tensor.weights_elems for tensor in report.tensors))
        if explain:
            _show_reasons((t.name, t.axis, t.kept_as_is or t.reason) for t in report.tensors)

    return Answer(data, show)


def _show_left(left: list[dict[str, Any]], weights_elems: int) -> None:
    """Print what was left dense and why, by size."""
    if not left:
        return
    total = sum(record["weights_elems"] for record in left)
    console.print_table(
        f"Left dense: {percent(_ratio(total, weights_elems), 1)} of the weights",
        ["why", "tensors", "weights", "of all weights", "bytes", "example"],
        [
            (
                record["why"],
                str(record["tensors"]),
                str(record["weights_elems"]),
                percent(_ratio(record["weights_elems"], weights_elems), 1),
                format_bytes(record["dense_bytes"]),
                record["example"],
            )
            for record in left
        ],
        spare=("example",),
    )


def _show_reasons(decisions: Iterable[tuple[str, int | None, str]]) -> None:
    """Print each tensor once, with what was decided and why."""
    once = {name: (name, "-" if axis is None else str(axis), reason) for name, axis, reason in decisions}
    console.print_table("Why", ["tensor", "axis", "reason"], list(once.values()))


def _included(include: list[str] | None, everything: bool) -> list[str] | None:
    if everything and include:
        raise NmsimError(f"--all and --include {include}: expected one of the two")
    return ["*"] if everything else include


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
