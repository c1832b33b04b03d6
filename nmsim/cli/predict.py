"""`nmsim predict`: one product, or a step of a model, on one or more chips, with the stage that limits it named."""

import math
from dataclasses import asdict
from typing import Annotated, Any

import pandas as pd
from typer import Option

import hwmodels
from hwmodels.chips.load import answered_by
from hwmodels.counted.product import counted_product
from hwmodels.estimate.windows import predict_windows, runs_windows, through_windows
from hwmodels.machine.libraries import weak_baseline
from hwmodels.steps.best import best_step, choices
from hwmodels.steps.step import NEGLECTED, taken_type
from nmsim.case import DEFAULT_DTYPE, Case, GemmShape, Prediction
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError
from nmsim.format import DEFAULT_ENCODING, DENSE
from nmsim.pattern import Pattern
from nmsim.units import percent

PATTERNS = ["2:4", "4:8", "8:16", "16:32"]
MACHINES = ["h200"]
CONTEXT_TOKENS = 4096
"""Tokens of a sequence in a decode step of a model if nobody says otherwise."""
UNNAMED = (
    f"No encoding was named: each row has the one that its machine's sparse unit reads, or else {DEFAULT_ENCODING}; a core "
    "design has the one that takes the least time, then the fewest bytes."
)
EXAMPLES = {
    "predict": [
        "nmsim predict 1,4096,4096 -p 8:16/combinatorial -H h200",
        "nmsim predict 2048,4096,4096 -p 2:4,8:16 -e index,bitmask -H h200,h200-8x16",
        "nmsim predict --model llama-3.1-8b --batch 16 --context 8192 -p 2:4,8:16 -H h200-8x16",
        "nmsim predict --model qwen3-8b --context 4096 -p 2:4,8:16 -H edge-npu-8x16",
    ]
}


def predict(
    shape: options.ShapeOrNone = None,
    model: Annotated[
        str | None,
        Option(
            "--model", "-m", help="Predict a step of this model: one that ships with nmsim, or a config.json."
        ),
    ] = None,
    pattern: options.Patterns = PATTERNS,
    encoding: options.Encodings = None,
    packing: options.Packings = options.BITSTREAM,
    hardware: options.Hardware = MACHINES,
    dtype: options.DtypeOfModel = None,
    sparse_operand: options.Operand = "weights",
    output_dtype: options.OutputDtype = None,
    batch: Annotated[
        int | None,
        Option("--batch", "-b", min=1, help="Of a model: sequences that are processed together. Default 1."),
    ] = None,
    context: Annotated[
        int | None,
        Option(
            "--context",
            metavar="TOKENS",
            min=0,
            help="Of a model: tokens of each sequence that a decode step attends to. 0: attention is not counted, also in "
            f"prefill. Default {CONTEXT_TOKENS}.",
        ),
    ] = None,
    prefill: Annotated[
        int | None,
        Option(
            "--prefill",
            metavar="TOKENS",
            min=1,
            help="Of a model: prompts of so many tokens instead of a decode step.",
        ),
    ] = None,
    kv_dtype: options.KvDtype = None,
    fuse: options.Fuse = None,
    expert_loads: options.ExpertLoads = None,
) -> Answer:
    """Predict the time of a product, or of a step of a model, sparse and dense, with its range.

    The product is Y[M,N] = X[M,K] W[N,K]^T. Times are those of kernels like the ones measured so far. The range held 80 % of
    comparable measurements. A ~ says that those are of another pattern or kind of kernel, a ? that there are none. At most:
    if the pruned product took only what memory, decode, select and matrix rates need. A core design is answered by the closed
    form of its pipeline, without a range. If no encoding is named, a machine takes the one that its sparse unit reads, and a
    core design the fastest one that it decodes. With --model, all linear layers and attention of a step are added up, and what
    stays dense is named.
    """
    if (shape is None) == (model is None):
        raise NmsimError("expected either a shape M,N,K or --model, one of the two")
    chips = hwmodels.load_chips(options.split_names(hardware, "hardware"))
    asked = options.formats(pattern, encoding, packing)
    unnamed = not all(one.chosen for one in asked)
    pairs = [(chip, one) for chip in chips for one in asked]
    if model is not None:
        loaded = hwmodels.load_model(model)
        loads = None if expert_loads is None else hwmodels.load_expert_shares(expert_loads)
        context_tokens = CONTEXT_TOKENS if context is None else context
        steps = [
            best_step(
                loaded,
                chip,
                one.format,
                named=one.chosen,
                phase="decode" if prefill is None else "prefill",
                batch=batch or 1,
                # A prompt attends to itself, unless attention is left out.
                context_tokens=prefill if prefill and context_tokens else context_tokens,
                new_tokens=prefill,
                dtype=dtype,
                kv_dtype=kv_dtype,
                sparse_operand=sparse_operand,
                output_dtype=output_dtype,
                fuse=options.split_names(fuse or []),
                expert_shares=loads,
            )
            for chip, one in pairs
        ]
        return Answer([found.record() for found in steps], lambda: _show_steps(steps, unnamed))
    # An option that a product does not have would otherwise be lost in silence.
    of_model = {
        "--batch": batch,
        "--context": context,
        "--prefill": prefill,
        "--kv-dtype": kv_dtype,
        "--fuse": fuse,
    }
    for name, value in (of_model | {"--expert-loads": expert_loads}).items():
        if value is not None:
            raise NmsimError(f"{name}: belongs to --model, expected it without a shape")
    gemm = GemmShape(*options.read_shape(shape or ""))
    answers: list[Prediction] = []
    for chip, one in pairs:
        kind = dtype or taken_type(chip, DEFAULT_DTYPE)
        about: dict[str, Any] = {"dtype": dtype or DEFAULT_DTYPE, "operand": sparse_operand}
        tried = [
            hwmodels.predict(
                Case(gemm, form, dtype=kind, sparse_operand=sparse_operand),  # type: ignore[arg-type]
                chip,
                output_dtype=output_dtype,
            )
            for form in (
                choices(one.format, chip, **about) if one.format and not one.chosen else [one.format]
            )
        ]
        answers.append(min(tried, key=lambda answer: (answer.predicted_time_s, answer.traffic_bytes)))
    # Without an encoding a pattern is asked once per machine, and with several its windows are the same.
    bought = [
        (chip, answer)
        for (chip, _), answer in zip(pairs, answers, strict=True)
        if isinstance(chip, hwmodels.HardwareSpec)
    ]
    asked_of = dict.fromkeys((machine, answer.case.pattern) for machine, answer in bought)
    windows = [
        found
        for machine, one in asked_of
        if one is not None and (found := _windows(gemm, machine, one, answers[0].case)) is not None
    ]
    compiled = [
        _compiled(chip, answer) if isinstance(chip, hwmodels.HardwareSpec) else None
        for (chip, _), answer in zip(pairs, answers, strict=True)
    ]
    of_type = answers[0].case.dtype
    weak = list(
        dict.fromkeys(machine.id for machine, _ in bought if weak_baseline(machine.generation, of_type))
    )

    in_pairs = dict.fromkeys(
        machine.id
        for machine, answer in bought
        if answer.execution != "native"
        and answer.case.pattern is not None
        and any(unit.pairs and of_type in unit.dtypes for unit in machine.native)
    )

    def show() -> None:
        _show(
            answers,
            f"Predicted time for M={gemm.M}, N={gemm.N}, K={gemm.K}, {_types(answers)}, sparse {sparse_operand}",
        )
        _show_compiled(compiled)
        _show_windows(windows)
        if weak:
            console.say(
                f"Weak baseline: the dense {of_type} library of {', '.join(weak)} is far below that of other types."
            )
        if unnamed:
            console.say(UNNAMED)
        _say_designs(chips)
        if len(answers) == 1:
            console.say(answers[0].explanation)
        elif in_pairs:
            # The explanation of a single answer says so of its machine.
            console.say(
                f"The sparse {of_type} unit of {', '.join(in_pairs)} keeps elements in pairs alone, so codes of these "
                "formats are decoded in software."
            )

    return Answer(
        [
            _record(answer, windows, weak=chip.id in weak)
            | {"answered_by": answered_by(chip), "as_compiled": found}
            for (chip, _), answer, found in zip(pairs, answers, compiled, strict=True)
        ],
        show,
    )


def _compiled(machine: hwmodels.HardwareSpec, answer: Prediction) -> dict[str, Any] | None:
    """What a product takes by the best of our kernels as compiled; None if no such kernel was counted."""
    case = answer.case
    if case.format is None or case.sparse_operand != "weights":
        return None
    found = counted_product(case.shape, machine, format=case.format, dtype=case.dtype)
    if found is None:
        return None
    return {
        "hardware": machine.id,
        "format": options.format_text(case.format),
        "kernel": found.kernel.kernel,
        "triton": found.kernel.triton,
        "warps": found.kernel.warps,
        "n_parts": found.n_parts,
        "programs": found.programs,
        "waves": found.waves,
        "serial_trips": found.kernel.serial_trips,
        "predicted_time_s": found.time_s,
        "predicted_speedup_vs_dense": answer.predicted_dense_time_s / found.time_s,
        "limit": found.limit,
        "parts_s": found.parts_s,
    }


def _show_compiled(rows: list[dict[str, Any] | None]) -> None:
    """Print what the kernels of this project are predicted to take, by counts of their machine code."""
    # Few machines, formats and value types have kernels that were counted.
    found = [row for row in rows if row is not None]
    if not found:
        return
    console.print_table(
        "Our kernels as compiled: predicted, not measured",
        [
            "hardware",
            "format",
            "kernel",
            "time µs",
            "speedup vs dense",
            "bound by",
            "waves",
            "warps",
            "parts of K",
        ],
        [
            (
                row["hardware"],
                row["format"],
                row["kernel"],
                f"{row['predicted_time_s'] * 1e6:.4g}",
                f"{row['predicted_speedup_vs_dense']:.2f}x",
                row["limit"],
                f"{row['waves']:.2f}",
                row["warps"],
                row["n_parts"],
            )
            for row in found
        ],
        note=f"Counted in machine code of Triton {found[0]['triton']}: instructions, wavefronts, round trips, registers.",
        spare=["waves", "warps", "parts of K"],
    )


def _windows(
    shape: GemmShape, machine: hwmodels.HardwareSpec, pattern: Pattern, case: Case
) -> dict[str, Any] | None:
    """What a pattern brings through sliding 2:4 windows; None if the unit takes it as it is, or no windows hold it."""
    runs_as = through_windows(pattern)
    native = any(unit.pattern == pattern for unit in machine.native)
    if runs_as is None or native or case.sparse_operand != "weights" or not runs_windows(machine, case.dtype):
        return None
    from validate.judge.break_even import published_windows

    asked = pd.DataFrame([asdict(shape) | {"dtype": case.dtype}])
    found = predict_windows(asked, machine, pattern=pattern).iloc[0]
    names = ("predicted_speedup_vs_dense", "predicted_speedup_low", "predicted_speedup_high")
    measured = published_windows(pattern, machine=machine.id, dtype=case.dtype, tokens=shape.M)
    return {
        "hardware": machine.id,
        "pattern": str(pattern),
        "runs_as": str(runs_as),
        **{name: float(found[name]) if found[name] == found[name] else None for name in names},
        "measured": measured,
    }


def _show_windows(windows: list[dict[str, Any]]) -> None:
    """Print the best that units of today do with patterns that they do not take."""
    if not windows:
        return
    console.print_table(
        "Without new hardware: any mask through sliding 2:4 windows",
        ["hardware", "pattern", "predicted", "range", "measured", "rows"],
        [
            (
                row["hardware"],
                f"{row['pattern']} as {row['runs_as']}",
                f"{row['predicted_speedup_vs_dense']:.2f}x",
                "?" if row["predicted_speedup_low"] is None
                else f"{row['predicted_speedup_low']:.2f}-{row['predicted_speedup_high']:.2f}x",
                "-" if row["measured"] is None else f"{row['measured']['low']:.2f}-{row['measured']['high']:.2f}x",
                0 if row["measured"] is None else row["measured"]["n_rows"],
            )
            for row in windows
        ],
        note="Speedups vs dense, without the time to repeat elements of X. Measured: 10 to 90 % of the published rows of the "
        "same machine, value type and regime.",
        spare=["range"],
    )  # fmt: skip


def _say_designs(chips: list[hwmodels.Chip]) -> None:
    designs = [chip.id for chip in chips if not isinstance(chip, hwmodels.HardwareSpec)]
    if designs:
        console.say(
            f"Designs, answered by the closed form of their pipeline, which nobody has measured: {', '.join(designs)}."
        )


def _show_steps(steps: list[hwmodels.Step], unnamed: bool) -> None:
    """Print steps of a model, then the layers of a single one, and what was assumed."""
    # The speedup of the linear layers stands beside that of all: alone it would promise too much.
    first = steps[0]
    what = f"batch {first.batch}" if first.phase == "decode" else f"{first.batch} x {first.new_tokens} tokens"
    console.print_table(
        f"Predicted {first.phase} step of {first.model}, {what}, context {first.context_tokens}, sparse {first.sparse_operand}",
        ["hardware", "format", "time ms", "dense ms", "speedup vs dense", "range", "linear layers alone", "at most",
         "stays dense", "bound by"],
        [
            (
                found.hardware,
                options.format_text(found.format),
                f"{found.time_s * 1e3:.4g}",
                f"{found.dense_time_s * 1e3:.4g}",
                f"{found.speedup_vs_dense:.2f}x",
                _range_of(found),
                f"{found.linear_speedup_vs_dense:.2f}x",
                f"{found.ceiling_speedup_vs_dense:.2f}x",
                percent(found.remainder_share, 1, unit="%"),
                found.limit,
            )
            for found in steps
        ],
        note="Speedup vs dense: of all that is counted. At most: if the pruned layers took no time.",
        spare=["dense ms", "at most", "bound by"],
    )  # fmt: skip
    for found in steps:
        parts = ", ".join(f"{part.name} {percent(part.share, 1, unit='%')}" for part in found.remainder)
        where = f"{found.hardware}, {options.format_text(found.format)}: " if len(steps) > 1 else ""
        console.say(f"{where}stays dense: {parts or 'nothing'}")
    if len(steps) == 1:
        _show_layers(first)
    if unnamed:
        console.say(UNNAMED)
    _show_energy(steps)
    cache = f"KV cache of {first.kv_dtype}: {first.cache_bytes / 1e9:.4g} GB. " if first.cache_bytes else ""
    console.say(f"{cache}Not counted: {NEGLECTED}.")
    for note in dict.fromkeys(note for found in steps for note in found.notes):
        console.say(note)


def _show_energy(steps: list[hwmodels.Step]) -> None:
    """Print joules of the steps of which they are known: those on core designs."""
    known = [found for found in steps if not math.isnan(found.joules.nominal)]
    if not known:
        return
    tokens = {id(found): found.batch * found.new_tokens for found in known}
    console.print_table(
        "Energy per token",
        ["hardware", "format", "mJ per token", "range", "dense mJ per token", "dense over sparse"],
        [
            (
                found.hardware,
                options.format_text(found.format),
                f"{found.joules.nominal / tokens[id(found)] * 1e3:.4g}",
                "-".join(
                    f"{end / tokens[id(found)] * 1e3:.4g}" for end in (found.joules.low, found.joules.high)
                ),
                f"{found.dense_joules.nominal / tokens[id(found)] * 1e3:.4g}",
                f"{found.dense_joules.nominal / found.joules.nominal:.2f}x",
            )
            for found in known
        ],
        note="Of core designs: a nominal figure and its range, as docs/explanation/energy-and-area.md derives it.",
    )


def _show_layers(found: hwmodels.Step) -> None:
    # Most models have no experts, so their column is shown only if it says something.
    console.print_table(
        "Its layers",
        [
            "layer",
            "count",
            "experts",
            "tokens",
            "N",
            "K",
            "dtype",
            "time ms",
            "share",
            "speedup vs dense",
            "MB",
            "bound by",
        ],
        [
            (
                row.name,
                row.count,
                f"{row.experts:.4g}",
                f"{row.tokens:.4g}",
                row.N or "",
                row.K or "",
                row.dtype,
                f"{row.time_s * 1e3:.4g}",
                percent(row.time_s / found.time_s, 1, unit="%"),
                f"{row.speedup_vs_dense:.2f}x" if row.pruned else "",
                f"{row.moved_bytes / 1e6:.4g}",
                row.limit,
            )
            for row in found.rows
        ],
        note="Times and MB are of all layers of a row. Experts: those of one layer that the batch reaches, in the mean.",
        extra=[] if any(row.experts != 1 for row in found.rows) else ["experts"],
        spare=["bound by", "dtype"],
    )


def _show(answers: list[Prediction], title: str) -> None:
    console.print_table(
        title,
        ["hardware", "format", "time µs", "dense µs", "speedup vs dense", "range", "at most", "bound by",
         "execution", "MB", "GB/s", "dense MB", "dense GB/s"],
        [
            (
                a.hardware,
                options.format_text(a.case.format),
                f"{a.predicted_time_s * 1e6:.4g}",
                f"{a.predicted_dense_time_s * 1e6:.4g}",
                f"{a.predicted_speedup_vs_dense:.2f}x",
                _range(a),
                f"{a.speedup_at_most:.2f}x",
                a.limit,
                a.execution,
                f"{a.traffic_bytes / 1e6:.4g}",
                f"{a.predicted_bytes_per_s / 1e9:.4g}",
                f"{a.dense_traffic_bytes / 1e6:.4g}",
                f"{a.predicted_dense_bytes_per_s / 1e9:.4g}",
            )
            for a in answers
        ],
        note="The dense time is that of the dense product on the same machine. At most: if the pruned product took its bound.",
        # A terminal of 100 columns leaves these out; `--wide` prints all.
        extra=["execution", "MB", "GB/s", "dense MB", "dense GB/s"],
        spare=["at most", "dense µs"],
    )  # fmt: skip


def _types(answers: list[Prediction]) -> str:
    """The value type of products; with several, that of each chip."""
    kinds = dict.fromkeys((answer.case.dtype, answer.hardware) for answer in answers)
    if len({dtype for dtype, _ in kinds}) == 1:
        return answers[0].case.dtype
    return ", ".join(f"{dtype} on {chip}" for dtype, chip in kinds)


def _range(answer: Prediction) -> str:
    """The error bar, and how well founded it is."""
    if not answer.comparable_rows:
        return "?"
    mark = "~" if answer.extrapolates else ""
    return f"{mark}{answer.predicted_speedup_low:.2f}-{answer.predicted_speedup_high:.2f}x"


def _range_of(found: hwmodels.Step) -> str:
    """The same of a step; it extrapolates if layers that do so take much of its time."""
    low, high = found.speedup_low, found.speedup_high
    return "?" if math.isnan(low + high) else f"{'~' if found.extrapolates else ''}{low:.2f}-{high:.2f}x"


def _record(answer: Prediction, windows: list[dict[str, Any]], *, weak: bool) -> dict[str, Any]:
    fields, case = asdict(answer), answer.case
    del fields["case"]
    for name in ("traffic_bytes", "predicted_bytes_per_s", "predicted_dense_bytes_per_s"):
        fields[name] = getattr(answer, name)
    # NaN, of a range without comparable rows, is no JSON.
    fields = {name: None if value != value else value for name, value in fields.items()}
    own = (answer.hardware, str(case.pattern))
    fields["weak_baseline"] = weak
    fields["through_windows"] = next(
        (row for row in windows if (row["hardware"], row["pattern"]) == own), None
    )
    cells: dict[str, Any] = asdict(case.shape) | {"dtype": case.dtype, "pattern": str(case.pattern or DENSE)}
    if case.format is not None:
        cells |= {"sparse_operand": case.sparse_operand, "encoding": case.format.encoding.name}
        cells["packing"] = str(case.format.packing)
    return cells | fields
