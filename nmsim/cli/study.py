"""`nmsim study`: the main job, from a checkpoint to a report."""

from pathlib import Path
from typing import Annotated

from typer import Option

import hwmodels
from nmsim.cli import console, options
from nmsim.cli.console import Answer, Shares
from nmsim.errors import NmsimError
from nmsim.format import DEFAULT_PACKING, DENSE
from validate.judge.own_machine import OwnMachine
from validate.study import defaults
from validate.study.provenance import command_line
from validate.study.study import run_study, study_output

MACHINES, PATTERNS = [*defaults.HARDWARE], [*defaults.PATTERNS]
BATCHES, PREFILL = [str(count) for count in defaults.BATCHES], [str(count) for count in defaults.PREFILL]
CAMPAIGN = "cpu-quick"
EXAMPLES = {
    "study": [
        "nmsim study --example -o study",
        "nmsim study --weights model.safetensors --model llama-3.1-8b --hardware h200,b200 -o my-study",
    ]
}


def study(
    weights: Annotated[
        Path | None,
        Option(
            "--weights",
            "-w",
            metavar="CHECKPOINT",
            help="Checkpoint whose linear layers are pruned and encoded: a .safetensors file, an index, or a folder "
            "with one. The synthetic example if absent.",
        ),
    ] = None,
    example: Annotated[
        bool,
        Option("--example", help="Use the synthetic example checkpoint, and write it beside the report."),
    ] = False,
    model: options.Model = defaults.MODEL,
    hardware: options.Hardware = MACHINES,
    pattern: options.Patterns = PATTERNS,
    encoding: Annotated[
        list[str] | None,
        Option(
            "--encoding",
            "--encodings",
            "-e",
            metavar="ENCODINGS",
            help=f"Metadata encodings. Default {','.join(defaults.ENCODINGS)}; without gap:2, whose codes differ in "
            "length, if the packing is not bitstream.",
        ),
    ] = None,
    packing: Annotated[
        str, Option(help="Packing: bitstream, no_straddle[:W], power_of_two or byte.")
    ] = "bitstream",
    batch: Annotated[list[str], Option("--batch", "-b", help="Decode batches; '' for no decode.")] = BATCHES,
    prefill: Annotated[list[str], Option(help="Prompt lengths in tokens; '' for no prefill.")] = PREFILL,
    dtype: options.DtypeOfModel = None,
    context: options.Context = 0,
    kv_dtype: options.KvDtype = None,
    activations: Annotated[bool, Option(help="Predict pruned activations as well as pruned weights.")] = True,
    measure: Annotated[
        bool,
        Option(
            help="Calibrate this CPU and time sparse products on it against their predictions: half a minute, on "
            "a machine that does nothing else."
        ),
    ] = False,
    losses: options.Losses = None,
    losses_of: options.LossesOf = None,
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for report, tables and figures. Files of an earlier study in it are replaced, others stay as they "
            "are.",
        ),
    ] = Path("study"),
    force: options.Force = False,
) -> Answer:
    """Encode a checkpoint, predict a model, and write a report.

    The report says what to build, and what it brings. Every speedup is an estimate vs the dense model on the same machine,
    with the range of comparable measurements, or says that it extrapolates.
    """
    if example and weights is not None:
        raise NmsimError("--example and --weights are both given, expected one of them")
    console.claim(study_output(output, own_machine=measure, example=weights is None), force=force)
    if weights is None:
        console.warn("weights: the synthetic example checkpoint, no trained model")
    loaded = hwmodels.load_model(model)
    if dtype is None and loaded.dtype is not None:
        console.warn(
            f"value types: what the model says of its layers ({loaded.dtype}); --dtype sets another for all"
        )
    every = defaults.ENCODINGS if packing == DEFAULT_PACKING else defaults.ENCODINGS_OF_ONE_WIDTH
    formats = options.formats(pattern, encoding or every, [packing])

    # The study gets this function, because `validate` never imports the kernels that it runs.
    def own(folder: Path, progress: Shares) -> OwnMachine:
        from nmsim.cli.measure import measure_here

        here = measure_here(folder, CAMPAIGN, progress)
        return OwnMachine(here.rows, here.hardware, (*here.doubts, *here.wrong))

    with console.share_bar() as progress:
        result = run_study(
            weights,
            loaded,
            hardware=options.split_names(hardware),
            formats=[asked.format or DENSE for asked in formats],
            batches=options.whole_numbers("--batch", batch, ",".join(BATCHES)),
            prefill=options.whole_numbers("--prefill", prefill, ",".join(PREFILL)),
            out_dir=output,
            dtype=dtype,
            context_tokens=context,
            kv_dtype=kv_dtype,
            activations=activations,
            measure_own=own if measure else None,
            losses=losses,
            losses_of=losses_of or (),
            command=command_line(),
            progress=progress,
            force=force,
        )

    def show() -> None:
        for paragraph in result.answer.paragraphs:
            console.say(paragraph, gap=True)
        for sentence in result.summary.get("losses", {}).get("says", ()):
            console.say(sentence)
        console.say(f"report: {result.report}")

    return Answer(result.summary, show)
