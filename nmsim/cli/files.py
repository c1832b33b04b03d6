"""Verbs on files: what encodings cost, on paper and in safetensors files, and files of other tools and simulators."""

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
from nmsim.files.output import Output
from nmsim.format import DENSE, SparseFormat
from nmsim.interchange import FORMATS, ConvertReport, convert_checkpoint
from nmsim.interchange.convert import convert_output
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
    "convert": [
        "nmsim convert pruned.safetensors -o packed --to sparse-bitmask",
        "nmsim convert Sparse-Llama-2of4 -o dense.safetensors",
        "nmsim convert mask_compressed.npz --weights model.safetensors -o masked.safetensors",
        "nmsim convert --list",
    ],
    "export": [
        "nmsim export 512,4096,4096 -p 2:4/index --to scalesim -o scalesim",
        "nmsim export -m llama-3.1-8b -t 8 -p 8:16/combinatorial --to accelforge -o accelforge",
    ],
}
FORMAT_NAMES = ", ".join(FORMATS)
WRITTEN_FORMATS = ", ".join(name for name, format in FORMATS.items() if format.writes)

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
    # An encoding that was asked for by name and has no codes is an error.
    rows = [
        _bits_row(pattern, name)
        for pattern in chosen
        for name in (names if encoding is not None else encodings.names(pattern))
    ]

    def show() -> None:
        shown = [encodings.get(name).name for name in names]
        console.print_table(
            "Metadata bits per group (per element)",
            ["pattern", "masks", *shown, "entropy bound"],
            [
                _bits_line(pattern, shown, {r["encoding"]: r for r in rows if r["pattern"] == str(pattern)})
                for pattern in chosen
            ],
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


def _bits_line(pattern: Pattern, names: list[str], rows: dict[str, dict[str, Any]]) -> list[str]:
    masks = pattern.configurations
    cells = [str(pattern), str(masks) if masks < 10**12 else f"{float(masks):.4g}"]
    for name in names:
        if (row := rows.get(name)) is None:
            cells.append("-")
            continue
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


def convert(
    source: Annotated[
        Path | None,
        Argument(
            help="A .safetensors file, an index or the folder with one, a .gguf or a .npz file.",
            metavar="SOURCE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option("--output", "-o", help="File to write, or a new folder, which gets a config.json too."),
    ] = None,
    source_format: Annotated[
        str | None,
        Option(
            "--from", metavar="FORMAT", help=f"Format of the source; found out if absent: {FORMAT_NAMES}."
        ),
    ] = None,
    to: Annotated[
        str | None,
        Option(
            "--to",
            metavar="FORMAT",
            help=f"Format to write: {WRITTEN_FORMATS}. Default dense; maskllm for a .npz file.",
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        Option(
            "--pattern",
            "-p",
            metavar="FORMAT",
            help="N:M that the zeros follow, N kept of every M; for --to nmsim also N:M/ENCODING/PACKING.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        Option("--weights", "-w", metavar="CHECKPOINT", help="Checkpoint that MaskLLM masks belong to."),
    ] = None,
    include: Annotated[
        list[str] | None,
        Option(
            "--include",
            "-i",
            metavar="GLOB",
            help="Tensors that must be packed, by shell pattern; repeatable.",
        ),
    ] = None,
    force: options.Force = False,
    names: Annotated[bool, Option("--list", help="List the formats, and do nothing else.")] = False,
) -> Answer:
    """Read sparse weights of another tool, or write them for one.

    Nothing is pruned: a tensor is packed if its zeros follow the pattern, else it stays dense and the reason is shown. Tensors
    are read block by block of rows. Files take their names when they are complete.
    """
    if names:
        return _list_formats()
    for name, value in (("SOURCE", source), ("--output", output)):
        if value is None:
            raise NmsimError(
                f"no {name} given: expected nmsim convert SOURCE -o TARGET, or nmsim convert --list"
            )
    assert source is not None
    assert output is not None
    console.claim(convert_output(output, to), force=force)
    started = time.perf_counter()
    with console.bytes_bar() as progress:
        report = convert_checkpoint(
            source,
            output,
            to=to,
            source_format=source_format,
            format=pattern,
            weights=weights,
            include=include,
            progress=progress,
            force=force,
        )
    return _answer(report, time.perf_counter() - started)


def _answer(report: ConvertReport, elapsed_s: float) -> Answer:
    dense = sum(tensor.dense_bytes for tensor in report.tensors)
    stored = sum(tensor.total_bytes for tensor in report.tensors)
    data: dict[str, Any] = {
        "source": str(report.source),
        "target": str(report.target),
        "source_format": report.source_format,
        "target_format": report.target_format,
        "dense_bytes": dense,
        "target_bytes": stored,
        "negative_zeros": report.negative_zeros,
        "config": report.config,
        "elapsed_s": elapsed_s,
        "tensors": [
            asdict(t) | {"total_bytes": t.total_bytes, "pattern": report.patterns.get(t.name)}
            for t in report.tensors
        ],
    }

    def show() -> None:
        console.say(
            f"{report.source_format} -> {report.target_format}: {len(report.tensors)} tensors, {len(report.packed)} of "
            f"them packed, into {report.target}: {format_bytes(dense)} dense, {format_bytes(stored)} written, "
            f"{elapsed_s:.1f} s"
        )
        # The largest tensors first: they decide what the file takes.
        left = sorted((t for t in report.tensors if t.kept_as_is), key=lambda t: -t.dense_bytes)
        if report.target_format != "dense":
            for tensor in left[:5]:
                console.say(
                    f"left dense: {tensor.name}, {format_bytes(tensor.dense_bytes)}: {tensor.kept_as_is}"
                )
            if len(left) > 5:
                console.say(f"left dense: {len(left) - 5} more, smaller; --json names them")
        if report.negative_zeros:
            console.say(f"{report.negative_zeros} zeros with a sign (-0.0) may have become 0")
        if report.config is not None and report.target.suffix:
            console.say("config.json is not written beside a single file; give a new folder to get it")

    return Answer(data, show)


def export(
    shape: Annotated[str | None, options.SHAPE] = None,
    to: Annotated[
        str, Option("--to", metavar="SIMULATOR", help="sparseloop, timeloop, accelforge or scalesim.")
    ] = "scalesim",
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FOLDER", help="Folder to write, new or empty.")
    ] = None,
    pattern: Annotated[
        str,
        Option(
            "--pattern",
            "-p",
            metavar="FORMAT",
            help="How weights are stored: N:M, N:M/ENCODING, N:M/ENCODING/PACKING or dense.",
        ),
    ] = "2:4/index",
    core: Annotated[
        str, Option("--core", "-c", metavar="CORE", help="Core design, of which one core is written.")
    ] = "nvidia-like-2x4",
    model: Annotated[
        str | None, Option("--model", "-m", help="A model instead of a shape; its unpruned layers are dense.")
    ] = None,
    tokens: options.Tokens = 1,
    dtype: options.Dtype = "bf16",
) -> Answer:
    """Write input files for another simulator.

    The folder has the architecture, the workload and the sparse options. Metadata bits are those that nmsim encodes. A
    README.md in it says what the simulator cannot express.
    """
    import hwmodels
    from hwmodels.peers import export_peer
    from nmsim.case import GemmShape

    # Only this verb needs the models of machines, so that a conversion starts without them.
    if (shape is None) == (model is None):
        raise NmsimError("expected a shape M,N,K or --model, one of the two")
    if output is None:
        raise NmsimError("no --output given: expected the name of a new folder")
    console.claim(Output(output, "new folder"))
    if shape is not None:
        products = [("product", GemmShape(*options.read_shape(shape)))]
        dense: list[str] = []
    else:
        assert model is not None
        layers = hwmodels.load_model(model).layers
        products = [(layer.name, GemmShape(tokens, layer.N, layer.K)) for layer in layers]
        dense = [layer.name for layer in layers if not layer.pruned]
    done = export_peer(output, products, peer=to, format=pattern, core=core, dtype=dtype, dense=dense)
    data = {
        "folder": str(done.folder),
        "files": list(done.files),
        "metadata_bits_per_value": {name: float(bits) for name, bits in done.bits_per_value.items()},
        "written_metadata_bits_per_value": {name: float(bits) for name, bits in done.written_bits.items()},
    }

    def show() -> None:
        console.say(f"wrote {len(done.files)} files for {to} into {done.folder}: {', '.join(done.files[:8])}")
        differ = [name for name, bits in done.bits_per_value.items() if bits != done.written_bits[name]]
        if differ:
            name = differ[0]
            console.say(
                f"metadata bits per kept value: {float(done.bits_per_value[name]):g} encoded, "
                f"{float(done.written_bits[name]):g} in the files; README.md says why"
            )

    return Answer(data, show)


def _list_formats() -> Answer:
    records = [asdict(format) | {"reads": True} for format in FORMATS.values()]

    def show() -> None:
        console.print_table(
            "Formats of sparse weights",
            ["format", "read", "written", "patterns", "what it is"],
            [(r["name"], "yes", "yes" if r["writes"] else "no", r["patterns"], r["title"]) for r in records],
        )

    return Answer(records, show)
