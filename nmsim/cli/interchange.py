"""`nmsim convert` and `nmsim export`: sparse weights in the files of other tools, and input files of other simulators."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError
from nmsim.files.output import Output
from nmsim.interchange import FORMATS, ConvertReport, convert_checkpoint
from nmsim.interchange.convert import convert_output
from nmsim.units import format_bytes

EXAMPLES = {
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
NAMES = ", ".join(FORMATS)
WRITTEN = ", ".join(name for name, format in FORMATS.items() if format.writes)


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
        Option("--from", metavar="FORMAT", help=f"Format of the source; found out if absent: {NAMES}."),
    ] = None,
    to: Annotated[
        str | None,
        Option(
            "--to",
            metavar="FORMAT",
            help=f"Format to write: {WRITTEN}. Default dense; maskllm for a .npz file.",
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
