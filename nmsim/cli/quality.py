"""`nmsim quality`: what pruning does to the outputs of real linear layers, beside what it costs and brings."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import pandas as pd
from typer import Argument, Option

import hwmodels
from nmsim.case import DEFAULT_DTYPE, SparseOperand
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError, brief
from nmsim.files.atomic import new_file, work_folder
from nmsim.files.output import PICTURES, ROW_FILE, Output
from nmsim.files.selection import Selection
from nmsim.pattern import Pattern
from nmsim.quality import Way, cross
from nmsim.quality.way import is_reference
from nmsim.support.cells import write_csv
from nmsim.units import percent
from validate.accuracy.beside_cost import LOSS_COLUMNS, asked_qualities, with_losses
from validate.quality.activation_dump import Source, Synthetic, open_dump, some_of
from validate.quality.measure import QUALITY_COLUMNS, Target, counted, measure_quality, open_dense
from validate.study.example_checkpoint import FILE_NAME, write_example

PATTERNS = ["2:4", "4:8", "8:16", "16:32"]
CRITERIA = {"activations": "magnitude,amber", "weights": "magnitude,channel_vector"}
MITIGATIONS = {"activations": "none,var,dpts_mean,dpts_median", "weights": "none,weight_correction,outliers"}
BOTH = "both"
SYNTHETIC = "llm-like"
DPI = 200
EXAMPLES = {
    "quality": [
        "nmsim quality --example -o quality.csv --plot quality.svg",
        "nmsim quality model.safetensors --activations dump.safetensors --operand both -p 8:16",
    ]
}


def quality(
    checkpoint: Annotated[
        Path | None,
        Argument(
            help="Checkpoint whose linear layers are measured: a .safetensors file, an index, or a folder with one.",
            metavar="CHECKPOINT",
        ),
    ] = None,
    example: Annotated[
        bool, Option("--example", help="Use the synthetic example checkpoint, no trained model.")
    ] = False,
    activations: Annotated[
        Path | None,
        Option(
            "--activations",
            "-a",
            metavar="FILE",
            help="Safetensors file of recorded inputs, a tensor per layer with the name of its weight: tokens x K, or "
            "batch x sequence x K. Synthetic ones if absent.",
        ),
    ] = None,
    synthetic: Annotated[
        str | None,
        Option(help=f"Kind of synthetic activations: gaussian, laplace or llm-like. Default {SYNTHETIC}."),
    ] = None,
    seed: options.Seed = 0,
    operand: Annotated[
        str, Option(help="Operand that is pruned: activations, weights or both.")
    ] = "activations",
    pattern: options.Patterns = PATTERNS,
    criterion: Annotated[
        list[str] | None,
        Option(
            "--criterion",
            "--criteria",
            metavar="NAMES",
            help=f"What is kept. Default {CRITERIA['activations']}; of weights {CRITERIA['weights']} (Wanda).",
        ),
    ] = None,
    mitigation: Annotated[
        list[str] | None,
        Option(
            "--mitigation",
            "--mitigations",
            metavar="NAMES",
            help="What is done beside the product, + between several, sizes after =, such as dpts_mean+var or outliers=8:256. "
            f"Default {MITIGATIONS['activations']}; of weights {MITIGATIONS['weights']}.",
        ),
    ] = None,
    encoding: options.Encodings = None,
    packing: options.Packings = options.BITSTREAM,
    dtype: options.Dtype = DEFAULT_DTYPE,
    core: Annotated[
        str,
        Option("--core", "-c", help="Core that speedups are counted on, a name or a TOML file; '' for none."),
    ] = "flexible-16x32",
    hardware: Annotated[
        str,
        Option(
            "--hardware", "-H", help="Machine that speedups are predicted on, or a TOML file; '' for none."
        ),
    ] = "h200",
    tokens_prefill: Annotated[int, Option(min=1, help="Tokens of a prompt; decode has one.")] = 4096,
    eval_tokens: Annotated[int, Option(min=1, help="Tokens per layer that are measured.")] = 128,
    calibration_tokens: Annotated[
        int, Option(min=1, help="Other tokens, from which parameters are fitted.")
    ] = 128,
    include: options.Include = None,
    exclude: options.Exclude = None,
    allow_missing: Annotated[
        bool, Option("--allow-missing", help="Leave out layers that --activations has nothing of.")
    ] = False,
    losses: options.Losses = None,
    losses_of: options.LossesOf = None,
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="CSV file: a row per layer and way, and one for all layers.",
        ),
    ] = Path("quality.csv"),
    plot: Annotated[
        Path | None, Option("--plot", metavar="FILE", help="Figure to write: .svg, .png or .pdf.")
    ] = None,
    force: options.Force = False,
) -> Answer:
    """Measure what pruning does to the outputs of linear layers.

    Each pattern, criterion and mitigation is measured beside its bits and speedups. One layer at a time: errors do not reach
    the next layer, and none is an accuracy. What is learned elsewhere is fitted here to calibration tokens.
    """
    if example == (checkpoint is not None):
        raise NmsimError("expected either a checkpoint or --example")
    if activations is not None and synthetic is not None:
        raise NmsimError("--activations and --synthetic are both given, expected one of them")
    asked = options.formats(pattern, encoding, packing)
    patterns = [one.format.pattern for one in asked if one.format is not None]
    stored = {
        (one.format.encoding.name if one.chosen else None, str(one.format.packing))
        for one in asked
        if one.format is not None
    }
    if len(stored) != 1 or len(patterns) != len(asked):
        raise NmsimError("--pattern: expected patterns N:M of one encoding and one packing")
    # If nobody named an encoding, each pattern is stored as the machine reads it.
    ((encoding_name, policy),) = stored
    # All choices and file names are checked before the measurement, which can take minutes.
    ways, left_out = _ways(operand, patterns, criterion, mitigation)
    if plot is not None:
        _refuse_figure(ways)
    sources = [
        path for path in (checkpoint, activations, Path(losses) if losses else None) if path is not None
    ]
    qualities = asked_qualities(losses, losses_of or (), patterns=patterns)
    # A table that cannot stand beside this one is refused before the measurement.
    with_losses(pd.DataFrame(columns=list(QUALITY_COLUMNS)), qualities)
    table = Output(output, suffixes=ROW_FILE)
    pictures = [Output(plot, suffixes=PICTURES, strict=True)] if plot is not None else []
    console.claim(table, *pictures, force=force)
    target = Target(
        hwmodels.load_machine(hardware) if hardware else None,
        hwmodels.load_core(core) if core else None,
        encoding_name,
        policy,
        dtype,
        tokens_prefill,
    )
    selection = Selection(
        options.split_names(include) if include else None, options.split_names(exclude) if exclude else None
    )
    counts = (calibration_tokens, eval_tokens)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(console.share_bar())
        tokens = stack.enter_context(_tokens(activations, synthetic or SYNTHETIC, counts, seed))
        if checkpoint is None:
            folder = stack.enter_context(work_folder(table.place))
            checkpoint = write_example(folder / FILE_NAME)
        run = measure_quality(
            stack.enter_context(open_dense(checkpoint)),
            tokens,
            ways=ways,
            target=target,
            selection=selection,
            allow_missing=allow_missing,
            progress=progress,
        )
        description = tokens.description
    found = with_losses(run.table, qualities)
    drawn = b"" if plot is None else _figure(run.table, plot.suffix.removeprefix("."))
    if activations is None:
        console.warn(f"activations: {description}, drawn at random, of no model")
    if run.unmatched:
        tensors = "1 tensor is" if len(run.unmatched) == 1 else f"{len(run.unmatched)} tensors are"
        console.warn(
            f"{description}: {tensors} named as no tensor of the checkpoint: {some_of(run.unmatched)}"
        )
    with new_file(output, force=force, sources=sources) as stream:
        write_csv(found, stream)
    if plot is not None:
        with new_file(plot, force=force, sources=[*sources, output]) as stream:
            stream.write(drawn)
    of_all = found[found["layer"] == "all"]
    layers = run.table["layer"].nunique() - 1

    def show() -> None:
        _show(of_all, description, layers)
        if qualities is not None:
            console.say(f"{qualities.description} {qualities.caveat('the checkpoint')}")
        if encoding_name is None:
            console.say(
                "No encoding was named: each pattern is stored as the machine reads it, or else as the core does."
            )
        if run.left_out:
            console.say(f"{len(run.left_out)} tensors left out ({counted(run.left_out.values())})")
        for name, why in left_out.items():
            console.say(f"not measured: {name}: {why}")
        written = f" and {plot}" if plot is not None else ""
        console.say(f"{len(run.table):,} rows in {output}{written}")

    return Answer(
        {
            "output": str(output),
            "plot": str(plot) if plot is not None else None,
            "activations": description,
            "layers": layers,
            "tensors_left_out": run.left_out,
            "activations_unmatched": run.unmatched,
            "ways_left_out": left_out,
            "all_layers": [_plain(row) for row in of_all.to_dict("records")],
        },
        show,
    )


def _ways(
    operand: str, patterns: Sequence[Pattern], criterion: list[str] | None, mitigation: list[str] | None
) -> tuple[list[Way], dict[str, str]]:
    """Combine all choices. A choice that fits no operand is reported. An operand that no choice fits is refused."""
    if operand not in (BOTH, *get_args(SparseOperand)):
        raise NmsimError(f"--operand {brief(operand)}: expected activations, weights or both")
    operands: list[SparseOperand] = ["activations", "weights"]
    if operand != BOTH:
        operands = [one for one in operands if one == operand]
    ways: list[Way] = []
    reasons: list[dict[str, str]] = []
    for one in operands:
        criteria = options.split_names(criterion or [CRITERIA[one]], "criterion")
        mitigations = options.split_names(mitigation or [MITIGATIONS[one]], "mitigation")
        found, left_out = cross(one, patterns, criteria, mitigations)
        if len(left_out) == len(criteria) * len(mitigations):
            raise NmsimError(f"{one}: nothing to measure: {'; '.join(dict.fromkeys(left_out.values()))}")
        ways += found
        reasons.append(left_out)
    everywhere = {name: why for name, why in reasons[0].items() if all(name in other for other in reasons)}
    return ways, everywhere


def _refuse_figure(ways: Sequence[Way]) -> None:
    """Refuse what no figure can show, before any work."""
    from hwmodels.plots.fronts import WayMarks

    in_groups = [way for way in ways if way.pattern and not is_reference(way.criterion)]
    if not in_groups:
        raise NmsimError(
            "--plot: unstructured criteria are drawn as references only, expected one that chooses within groups"
        )
    try:
        WayMarks.of((str(way.pattern) for way in in_groups), (way.mitigation_text for way in in_groups))
    except NmsimError as error:
        raise NmsimError(f"--plot: {error}") from error


@contextlib.contextmanager
def _tokens(dump: Path | None, kind: str, counts: tuple[int, int], seed: int) -> Iterator[Source]:
    if dump is None:
        yield Synthetic(kind, *counts, seed)
        return
    with open_dump(dump, *counts) as opened:
        yield opened


def _figure(table: pd.DataFrame, kind: str) -> bytes:
    from hwmodels import plots

    fig, _ = plots.quality_cost(table)
    return plots.rendered(fig, kind, dpi=DPI)


def _show(rows: pd.DataFrame, description: str, layers: int) -> None:
    lines = []
    has_losses = bool(rows[LOSS_COLUMNS[0]].notna().any())
    for row in rows.itertuples():
        # The mark says that the figure is an upper bound and not an estimate.
        bound = "≤ " if row.mask_entropy_kind in ("upper_bound", "mixed") else ""
        lines.append(
            (
                row.operand,
                row.pattern,
                row.criterion,
                row.mitigation,
                percent(float(row.energy_kept_share)),  # type: ignore[arg-type]
                f"{float(row.relative_output_error):.4g}",  # type: ignore[arg-type]
                *([_number(row.loss_increase)] if has_losses else []),
                _number(row.mask_entropy_bits_per_elem, "", bound),
                _number(row.metadata_bits_per_elem),
                _number(row.stored_bits_per_elem),
                _number(row.predicted_decode_speedup_vs_dense, "x"),
                _number(row.predicted_prefill_speedup_vs_dense, "x"),
                _number(row.core_decode_speedup_vs_dense, "x"),
                _number(row.core_prefill_speedup_vs_dense, "x"),
            )
        )
    first = rows.iloc[0]
    machine, core = first["hardware"] or "machine", first["core"] or "core"
    console.print_table(
        f"Quality and cost, {layers} layers together; activations: {description}",
        ["operand", "pattern", "criterion", "mitigation", "energy kept", "output error",
         *(["loss increase"] if has_losses else []), "entropy per element",
         "metadata per element", "stored bits per element", f"{machine} decode", f"{machine} prefill", f"{core} decode",
         f"{core} prefill"],
        lines,
        note="output error: |Y - Y dense|² / |Y dense|², one layer at a time. ≤: a bound, too few groups for an estimate. "
        f"Speedups vs dense; {machine} without criterion and mitigation, {core} with them.",
        extra=[
            *(["operand"] if rows["operand"].nunique() == 1 else []),
            *("entropy per element", "metadata per element", f"{machine} decode", f"{machine} prefill"),
        ],
        spare=[f"{core} prefill", "stored bits per element", "energy kept"],
    )  # fmt: skip


def _number(value: Any, unit: str = "", before: str = "") -> str:
    return "-" if math.isnan(value) else f"{before}{value:.4g}{unit}"


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """A row for JSON: what is not a number is null."""
    return {str(name): None if pd.isna(value) or value == math.inf else value for name, value in row.items()}
