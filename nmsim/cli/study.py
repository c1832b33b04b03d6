"""`nmsim study`: the main job, from a checkpoint to a report."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nmsim.errors import NmsimError

MODEL = "llama-3.1-8b"
HARDWARE = "h200,b200,a100-sxm,rtx4090,h200-8x16,h200-16x32"
PATTERNS = "2:4,4:8,8:16,16:32"
ENCODINGS = "bitmask,index,gap:2,combinatorial,joint"
ENCODINGS_OF_ONE_WIDTH = "bitmask,index,combinatorial,joint"
BATCHES = "1,2,4,8,16,64"
PREFILL = "512,2048,8192"


def study(
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint whose linear layers are pruned and encoded: a .safetensors file, an index, or a folder "
            "with one. Without it the synthetic example is used."
        ),
    ] = None,
    example: Annotated[
        bool,
        typer.Option("--example", help="Make and use the synthetic example checkpoint; it is written too."),
    ] = False,
    model: Annotated[
        str,
        typer.Option(help="Model whose layer shapes are predicted: a name, or a Hugging Face config.json."),
    ] = MODEL,
    hardware: Annotated[
        str, typer.Option(help="Machines, by name or .toml file, separated by commas.")
    ] = HARDWARE,
    patterns: Annotated[
        str, typer.Option(help="N:M patterns, N kept of every M, separated by commas.")
    ] = PATTERNS,
    encodings: Annotated[
        str | None,
        typer.Option(
            help="Metadata encodings, separated by commas.",
            show_default=f"{ENCODINGS}; without gap:2, whose codes differ in length, under other packings than "
            "bitstream",
        ),
    ] = None,
    packing: Annotated[
        str,
        typer.Option(help="How codes are laid into bits: bitstream, no_straddle[:W], power_of_two or byte."),
    ] = "bitstream",
    batch: Annotated[
        str, typer.Option(help="Decode batches, separated by commas; empty for no decode.")
    ] = BATCHES,
    prefill: Annotated[
        str, typer.Option(help="Prompt lengths in tokens, separated by commas; empty for no prefill.")
    ] = PREFILL,
    dtype: Annotated[
        str, typer.Option(help="Value type of the predictions: bf16, fp16, fp8, int8, ...")
    ] = "bf16",
    activations: Annotated[
        bool, typer.Option(help="Predict pruned activations as well as pruned weights.")
    ] = True,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the report, tables and figures.")
    ] = Path("study"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON instead of text.")
    ] = False,
) -> None:
    """Prune and encode a checkpoint, predict a model on machines, and write a report that answers what to build.

    Every speedup is an upper bound vs the dense model on the same machine.
    """
    from validate.provenance import command_line
    from validate.study import run_study

    if example and weights is not None:
        raise NmsimError("--example and --weights are both given: expected one of them")
    if encodings is None:
        encodings = ENCODINGS if packing == "bitstream" else ENCODINGS_OF_ONE_WIDTH
    notes = Console(stderr=True)
    if weights is None:
        notes.print("weights: the synthetic example checkpoint (not a trained model)", highlight=False)
    bar = Progress(
        TextColumn("{task.description:<58.58}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=1.0)
        found = run_study(
            weights,
            model,
            _words("--hardware", hardware),
            _words("--patterns", patterns),
            _words("--encodings", encodings),
            packing,
            _numbers("--batch", batch),
            _numbers("--prefill", prefill),
            output,
            dtype=dtype,
            activations=activations,
            command=command_line(),
            progress=lambda text, share: bar.update(task, description=text, completed=share),
        )
    if as_json:
        sys.stdout.write(json.dumps(found.summary, indent=2, ensure_ascii=False) + "\n")
        return
    out = Console(highlight=False)
    for sentence in found.answer.sentences:
        out.print(sentence, "\n", sep="", markup=False)
    typer.echo(f"report: {found.report}")


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise NmsimError(
            f"{option} {text!r}: expected at least one entry and none empty, separated by commas"
        )
    return words


def _numbers(option: str, text: str) -> list[int]:
    if not text.strip():
        return []
    words = _words(option, text)
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise NmsimError(f"{option} {text!r}: {word!r} is no positive whole number")
    return [int(word) for word in words]
