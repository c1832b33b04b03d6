"""`nmsim study`: the main job, from a checkpoint to a report."""

from pathlib import Path
from typing import Annotated

import typer

from nmsim.cli import console
from nmsim.cli.here import measure_here
from nmsim.cli.progress import Shares, share_bar
from nmsim.errors import NmsimError

MODEL = "llama-3.1-8b"
HARDWARE = "h200,b200,a100-sxm,rtx4090,h200-8x16,h200-16x32"
PATTERNS = "2:4,4:8,8:16,16:32"
ENCODINGS = "bitmask,index,gap:2,combinatorial,joint"
ENCODINGS_OF_ONE_WIDTH = "bitmask,index,combinatorial,joint"
BATCHES = "1,2,4,8,16,64"
PREFILL = "512,2048,8192"
CAMPAIGN = "cpu-quick"


def study(
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            "-w",
            help="Checkpoint whose linear layers are pruned and encoded: a .safetensors file, an index, or a folder "
            "with one. The synthetic example when absent.",
        ),
    ] = None,
    example: Annotated[
        bool,
        typer.Option(
            "--example", help="Use the synthetic example checkpoint, and write it beside the report."
        ),
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Model whose layer shapes are predicted: a name, or a Hugging Face config.json.",
        ),
    ] = MODEL,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            "--hardware", "-H", help=f"Machines by name, or paths of hardware TOML files. Default {HARDWARE}."
        ),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern", "--patterns", "-p", help=f"Patterns N:M, N kept of every M. Default {PATTERNS}."
        ),
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option(
            "--encoding",
            "--encodings",
            "-e",
            help=f"Metadata encodings. Default {ENCODINGS}; without gap:2, whose codes differ in length, where the "
            "packing is not bitstream.",
        ),
    ] = None,
    packing: Annotated[
        str, typer.Option(help="bitstream, no_straddle[:W], power_of_two or byte.")
    ] = "bitstream",
    batch: Annotated[
        list[str] | None,
        typer.Option("--batch", "-b", help=f"Decode batches; '' for no decode. Default {BATCHES}."),
    ] = None,
    prefill: Annotated[
        list[str] | None,
        typer.Option(help=f"Prompt lengths in tokens; '' for no prefill. Default {PREFILL}."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Value type of the predictions: bf16, fp16, fp8, int8 ...")
    ] = "bf16",
    activations: Annotated[
        bool, typer.Option(help="Predict pruned activations as well as pruned weights.")
    ] = True,
    measure: Annotated[
        bool,
        typer.Option(
            help="Calibrate the CPU at hand and time sparse products on it against their predictions: half a minute, on "
            "a machine that does nothing else."
        ),
    ] = False,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for report, tables and figures. Other files in it stay as they are.",
        ),
    ] = Path("study"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON instead of text.")
    ] = False,
) -> None:
    """Encode a checkpoint, predict a model on machines, and write a report: what to build, and what it brings.

    Lists are joined by commas, or given by repeating an option. Every speedup is an estimate vs the dense model on the
    same machine, with the range of comparable measurements, or says that it extrapolates.
    """
    from validate.judge.own_machine import OwnMachine
    from validate.study.provenance import command_line
    from validate.study.study import run_study

    if example and weights is not None:
        raise NmsimError("--example and --weights are both given, expected one of them")
    if weights is None:
        console.err.print("weights: the synthetic example checkpoint, no trained model")
    every = ENCODINGS if packing == "bitstream" else ENCODINGS_OF_ONE_WIDTH

    def own(folder: Path, progress: Shares) -> OwnMachine:
        here = measure_here(folder, CAMPAIGN, progress)
        return OwnMachine(here.rows, here.hardware, (*here.doubts, *here.wrong))

    with share_bar() as progress:
        found = run_study(
            weights,
            model,
            console.split_names(hardware or [HARDWARE]),
            console.split_names(pattern or [PATTERNS]),
            console.split_names(encoding or [every]),
            packing,
            _numbers("--batch", batch or [BATCHES]),
            _numbers("--prefill", prefill or [PREFILL]),
            output,
            dtype=dtype,
            activations=activations,
            measure_own=own if measure else None,
            command=command_line(),
            progress=progress,
        )
    if as_json:
        console.print_json(found.summary)
        return
    for paragraph in found.answer.paragraphs:
        console.out.print(f"{paragraph}\n", highlight=False, markup=False)
    console.out.print(f"report: {found.report}", highlight=False, markup=False)


def _numbers(option: str, texts: list[str]) -> list[int]:
    """Whole numbers given one by one or joined by commas."""
    words = console.split_names(texts)
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise NmsimError(f"{option} {word!r}: expected positive whole numbers, such as {BATCHES}")
    return [int(word) for word in words]
