"""`nmsim quality`: what pruning does to the outputs of real linear layers, beside what it costs and brings."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

import pandas as pd
from typer import Argument, Option

import hwmodels
from nmsim.case import DEFAULT_DTYPE, SparseOperand
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError, brief, brief_names
from nmsim.files.atomic import new_file, work_folder
from nmsim.files.container import save_file
from nmsim.files.output import PICTURES, ROW_FILE, Output
from nmsim.files.selection import CONFIG_NAME, Selection
from nmsim.files.sharded import Checkpoint, HeldTensors
from nmsim.pattern import Pattern
from nmsim.quality import Rounding, Way, cross, parse_rounding
from nmsim.quality.way import NONE, is_reference
from nmsim.support.cells import write_csv
from nmsim.units import ceil_div, percent
from validate.accuracy.beside_cost import LOSS_COLUMNS, asked_qualities, with_losses
from validate.quality.activation_dump import Origin, Recorded, Source, Synthetic, open_dump, some_of
from validate.quality.measure import (
    CHECKPOINT,
    QUALITY_COLUMNS,
    Progress,
    Target,
    counted,
    measure_quality,
    open_dense,
)
from validate.study.example_checkpoint import FILE_NAME, write_example

if TYPE_CHECKING:
    from kernels.language.model import LanguageModel

PATTERNS = ["2:4", "4:8", "8:16", "16:32"]
CRITERIA = {"activations": "magnitude,amber", "weights": "magnitude,channel_vector"}
MITIGATIONS = {"activations": "none,var,dpts_mean,dpts_median", "weights": "none,weight_correction,outliers"}
BOTH = "both"
SYNTHETIC = "llm-like"
SMOLLM2 = "smollm2"
"""The model that comes as a package; `kernels.language.model` loads it."""
GGUF = ".gguf"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Files of a folder of Hugging Face, one of which says that it holds a language model and not only weights."""
TEXT = "news"
CORE = "flexible-16x32"
DPI = 200
LOAD_SHARE, RECORD_SHARE = 0.1, 0.2
"""Of all work, done when a model is loaded, and when its activations are recorded."""
EXAMPLES = {
    "quality": [
        "nmsim quality smollm2 --model llama-3.1-8b -o quality.csv --plot quality.svg",
        "nmsim quality --example -o quality.csv --plot quality.svg",
        "nmsim quality model.safetensors --activations dump.safetensors --operand both -p 8:16",
    ]
}


def quality(
    checkpoint: Annotated[
        Path | None,
        Argument(
            help="Model whose linear layers are measured: smollm2, a folder of a Hugging Face causal language model, or a "
            ".gguf file. Or weights alone: a .safetensors file, an index, or a folder with one.",
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
            "batch x sequence x K. Default: a language model runs on --text, and its activations are recorded.",
        ),
    ] = None,
    synthetic: Annotated[
        str | None,
        Option(
            help="Kind of synthetic activations instead: gaussian, laplace or llm-like. Default for weights alone: "
            f"{SYNTHETIC}."
        ),
    ] = None,
    text: Annotated[
        str | None,
        Option(
            "--text",
            metavar="TEXT",
            help="Text that the model runs on: news, python-topics, or a text file in UTF-8. Calibration takes its first "
            f"windows, evaluation those after them. Default {TEXT}.",
        ),
    ] = None,
    window_tokens: Annotated[
        int, Option(min=2, help="Tokens of a window of text, which the model sees by itself.")
    ] = 256,
    save_activations: Annotated[
        Path | None,
        Option(
            "--save-activations",
            metavar="FILE",
            help="Safetensors file to write what was recorded into, as --activations reads it.",
        ),
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
            help=f"What is kept, names of nmsim mitigations. Default {CRITERIA['activations']}; of weights "
            f"{CRITERIA['weights']} (Wanda).",
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
    values: Annotated[
        list[str] | None,
        Option(
            "--values",
            metavar="NAMES",
            help="How values are rounded: none, or intB/G/before or intB/G/after pruning, to B bits with a scale per G of "
            "them, such as int8/64/before. Default none.",
        ),
    ] = None,
    encoding: options.Encodings = None,
    packing: options.Packings = options.BITSTREAM,
    dtype: options.Dtype = DEFAULT_DTYPE,
    core: Annotated[
        str | None,
        Option(
            "--core",
            "-c",
            help="Core that speedups are counted on, a name or a TOML file; '' for none. Default: --hardware if it is a core "
            f"design, else {CORE}.",
        ),
    ] = None,
    hardware: Annotated[
        str,
        Option(
            "--hardware",
            "-H",
            help="Machine or core design that speedups are predicted on, or a TOML file; '' for none.",
        ),
    ] = "h200",
    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            help="Model whose layers all speedups are of, as of nmsim predict. The errors stay those of the checkpoint. "
            "Default: the checkpoint's own layers.",
        ),
    ] = None,
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
    columns: Annotated[
        list[str] | None,
        Option("--columns", metavar="NAMES", help="Columns of the CSV file, joined by commas. Default: all."),
    ] = None,
    digits: Annotated[
        int | None,
        Option(
            "--digits", min=3, max=17, help="Significant digits of its numbers. Default: all that are known."
        ),
    ] = None,
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
    records = activations is None and synthetic is None and _is_language_model(checkpoint)
    for option, value in (("--text", text), ("--save-activations", save_activations)):
        if value is not None and not records:
            raise NmsimError(
                f"{option}: nothing is recorded here, expected {SMOLLM2}, a folder with {CONFIG_NAME} and a tokenizer, or a "
                f"{GGUF} file, without --activations and --synthetic"
            )
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
    roundings = _roundings(values)
    ways = [way._replace(values=rounding) for way in ways for rounding in roundings]
    if plot is not None:
        _refuse_figure(ways)
    sources = [
        path for path in (checkpoint, activations, Path(losses) if losses else None) if path is not None
    ]
    qualities = asked_qualities(losses, losses_of or (), patterns=patterns)
    # A table that cannot stand beside this one is refused before the measurement.
    with_losses(pd.DataFrame(columns=list(QUALITY_COLUMNS)), qualities)
    chosen_columns = _chosen_columns(columns)
    table = Output(output, suffixes=ROW_FILE)
    others = [Output(plot, suffixes=PICTURES, strict=True)] if plot is not None else []
    if save_activations is not None:
        others.append(Output(save_activations, suffixes=(".safetensors",), strict=True))
    console.claim(table, *others, force=force)
    chip = hwmodels.load_chip(hardware) if hardware else None
    target = Target(
        chip,
        options.core_of(core, [chip] if chip else [], CORE),
        encoding_name,
        policy,
        dtype,
        tokens_prefill,
        hwmodels.load_model(model) if model is not None else None,
    )
    selection = Selection(
        options.split_names(include) if include else None, options.split_names(exclude) if exclude else None
    )
    counts = (calibration_tokens, eval_tokens)
    asked_text = _Text(text or TEXT, window_tokens)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(console.share_bar())
        if checkpoint is None:
            folder = stack.enter_context(work_folder(table.place))
            checkpoint = write_example(folder / FILE_NAME)
        loaded = _load(checkpoint, progress) if records or _is_packaged(checkpoint) else None
        weights = stack.enter_context(_weights(checkpoint, loaded))
        tokens: Source
        if records:
            assert loaded is not None, "a model is loaded to be recorded"
            tokens = _record(loaded, weights, selection, asked_text, counts, progress)
        else:
            tokens = stack.enter_context(_tokens(activations, synthetic or SYNTHETIC, counts, seed))
        # The module itself is not needed any more; weights of a GGUF file stay.
        before, loaded = LOAD_SHARE if loaded is not None else 0.0, None
        before = RECORD_SHARE if records else before
        run = measure_quality(
            weights,
            tokens,
            ways=ways,
            target=target,
            selection=selection,
            allow_missing=allow_missing,
            progress=lambda name, share: progress(name, before + (1 - before) * share),
        )
        description = tokens.description
        if isinstance(tokens, Recorded) and save_activations is not None:
            save_file(tokens.arrays(), save_activations, metadata=tokens.origin._asdict())
    found = with_losses(run.table, qualities)
    drawn = b"" if plot is None else _figure(run.table, plot.suffix.removeprefix("."))
    if activations is None and not records:
        console.warn(f"activations: {description}, drawn at random, of no model")
    if run.unmatched:
        tensors = "1 tensor is" if len(run.unmatched) == 1 else f"{len(run.unmatched)} tensors are"
        console.warn(
            f"{description}: {tensors} named as no tensor of the checkpoint: {some_of(run.unmatched)}"
        )
    with new_file(output, force=force, sources=sources) as stream:
        write_csv(found[chosen_columns], stream, float_format=f"%.{digits}g" if digits else None)
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
                "No encoding was named: each pattern is stored as the machine reads it. The core has the same if it reads "
                "that, else its first encoding."
            )
        if run.left_out:
            console.say(f"{len(run.left_out)} tensors left out ({counted(run.left_out.values())})")
        for name, why in left_out.items():
            console.say(f"not measured: {name}: {why}")
        written = "".join(f" and {path}" for path in (plot, save_activations) if path is not None)
        console.say(f"{len(run.table):,} rows in {output}{written}")

    return Answer(
        {
            "output": str(output),
            "plot": str(plot) if plot is not None else None,
            "activations": description,
            "save_activations": str(save_activations) if save_activations is not None else None,
            "costs_of": target.costs_of,
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


def _roundings(texts: list[str] | None) -> list[Rounding | None]:
    """Read `--values`."""
    names = options.split_names(texts or [NONE], "rounding")
    return [None if name == NONE else parse_rounding(name) for name in names]


def _refuse_figure(ways: Sequence[Way]) -> None:
    """Refuse what no figure can show, before any work."""
    from hwmodels.plots.fronts import WayMarks, with_values

    def marked(way: Way) -> str:
        return with_values(way.mitigation_text, str(way.values or ""))

    in_groups = [way for way in ways if way.pattern and not is_reference(way.criterion)]
    if not in_groups:
        raise NmsimError(
            "--plot: unstructured criteria are drawn as references only, expected one that chooses within groups"
        )
    try:
        WayMarks.of((str(way.pattern) for way in in_groups), (marked(way) for way in in_groups))
    except NmsimError as error:
        raise NmsimError(f"--plot: {error}") from error


def _chosen_columns(columns: list[str] | None) -> list[str]:
    """Columns of the file, all by default."""
    known = [*QUALITY_COLUMNS, *LOSS_COLUMNS]
    names = known if columns is None else options.split_names(columns, "column")
    if unknown := [name for name in names if name not in known]:
        raise NmsimError(f"--columns {brief_names(unknown)}: expected some of {', '.join(known)}")
    return names


class _Text(NamedTuple):
    """A text by name or path, and the tokens of its windows."""

    where: str
    window_tokens: int


def _is_packaged(checkpoint: Path) -> bool:
    """Whether weights are not read as safetensors: those of the package, and GGUF files."""
    return str(checkpoint) == SMOLLM2 or checkpoint.suffix.lower() == GGUF


def _is_language_model(checkpoint: Path | None) -> bool:
    if checkpoint is None:
        return False
    folder_of_model = (checkpoint / CONFIG_NAME).is_file() and any(
        (checkpoint / name).is_file() for name in TOKENIZERS
    )
    return _is_packaged(checkpoint) or folder_of_model


def _load(checkpoint: Path, progress: Progress) -> "LanguageModel":
    """Load a language model; a package that is missing is named with the command that installs it."""
    from kernels.language.model import load_model

    progress(f"loading {checkpoint}", 0.0)
    return load_model(checkpoint if str(checkpoint) != SMOLLM2 else SMOLLM2)


@contextlib.contextmanager
def _weights(checkpoint: Path, loaded: "LanguageModel | None") -> Iterator[Checkpoint]:
    """Open the weights: those of the loaded module if a file of another format holds them."""
    if not _is_packaged(checkpoint):
        with open_dense(checkpoint) as opened:
            yield opened
        return
    from kernels.measure.activation_dump import weights_of

    assert loaded is not None, "a packaged model is always loaded"
    (path,) = loaded.paths
    yield Checkpoint(checkpoint, (HeldTensors(path, weights_of(loaded.layers)),), None, {})


def _record(
    loaded: "LanguageModel",
    weights: Checkpoint,
    selection: Selection,
    text: _Text,
    counts: tuple[int, int],
    progress: Progress,
) -> Recorded:
    """Run the model on its text, and record the layers that are measured: calibration first, then evaluation."""
    from kernels.language.texts import enough_token_ids, load_text
    from kernels.measure.activation_dump import run_windows

    read, length = load_text(text.where), text.window_tokens
    calibrating, evaluated = (ceil_div(count, length) for count in counts)
    ids = enough_token_ids(
        read, loaded, window_tokens=length, windows=evaluated, calibration_tokens=counts[0]
    )
    windows = ids[: (calibrating + evaluated) * length].reshape(-1, length)
    choice = selection.of(weights)
    taken = {name for name, info in choice.tensors.items() if choice.named(info) is None}
    # If nothing fits, the measurement says so, with the names that there are.
    layers = [name for name in loaded.layers if f"{name}.weight" in taken] or list(loaded.layers)
    found = []
    for place, (part, count) in enumerate(
        zip((windows[:calibrating], windows[calibrating:]), counts, strict=True)
    ):
        progress(
            f"recording {loaded.name} on {read.name}", LOAD_SHARE + place * (RECORD_SHARE - LOAD_SHARE) / 2
        )
        found.append(run_windows(loaded.module, part, tokens=count, layers=layers))
    origin = Origin(loaded.name, loaded.digest, read.name, read.digest)
    return Recorded(found[0], found[1], origin)


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
                row.values or NONE,
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
    machine, core, costs_of = first["hardware"] or "machine", first["core"] or "core", first["costs_of"]
    if costs_of != CHECKPOINT:
        # The heads of the columns say whose layers the speedups are of.
        machine, core = f"{costs_of} on {machine}", f"{costs_of} on {core}"
    # One design may be both: the second time with what criterion and mitigation take.
    core = f"{core}, all" if core == machine else core
    console.print_table(
        f"Quality and cost, {layers} layers together; activations: {description}",
        ["operand", "pattern", "criterion", "mitigation", "values", "energy kept", "output error",
         *(["loss increase"] if has_losses else []), "entropy per element",
         "metadata per element", "stored bits per element", f"{machine} decode", f"{machine} prefill", f"{core} decode",
         f"{core} prefill"],
        lines,
        note="output error: |Y - Y dense|² / |Y dense|², one layer at a time. ≤: a bound, too few groups for an estimate. "
        f"Speedups vs dense, of the pruned layers of {'the checkpoint' if costs_of == CHECKPOINT else costs_of} together; "
        f"{machine} without criterion and mitigation, {core} with them."
        + (" loss increase: nats per token, of a whole model with all of its layers pruned." if has_losses else ""),
        extra=[
            *(name for name in ("operand", "values") if rows[name].nunique() == 1),
            *("entropy per element", "metadata per element", f"{machine} decode", f"{machine} prefill"),
        ],
        spare=[f"{core} prefill", "stored bits per element", "energy kept"],
    )  # fmt: skip


def _number(value: Any, unit: str = "", before: str = "") -> str:
    return "-" if math.isnan(value) else f"{before}{value:.4g}{unit}"


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """A row for JSON: what is not a number is null."""
    return {str(name): None if pd.isna(value) or value == math.inf else value for name, value in row.items()}
