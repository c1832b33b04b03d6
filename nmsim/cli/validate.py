"""`nmsim validate` and `nmsim study`: predictions against measured and published times, and the main job with its report."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Option

import hwmodels
from nmsim.cli import console, options
from nmsim.cli.console import Answer, Shares
from nmsim.errors import NmsimError
from nmsim.files.atomic import new_file, updated_folder
from nmsim.files.output import PICTURES, Output
from nmsim.format import DEFAULT_PACKING, DENSE
from nmsim.support.sources import read_text
from nmsim.units import percent
from validate.judge.judge import Judgement, judge_files, judged_columns
from validate.judge.metrics import ABOUT_ONE, COVERAGE, COVERAGE_ROWS, FAMILY
from validate.judge.own_machine import SUMMARIES, OwnMachine, own_rows, verdict
from validate.judge.problems import Skipped
from validate.study import defaults
from validate.study.provenance import command_line

METRIC_HEADINGS = (
    "rows",
    "speedup",
    "dense time",
    "sparse time",
    "bias",
    "side of 1",
    "about 1",
    "in interval",
)
BANDWIDTH_HEADINGS = (
    "GB/s", "predicted GB/s", "of DRAM", "predicted of DRAM", "error", "bias", "above DRAM",
)  # fmt: skip
SIDES = (
    "side of 1: predicted and measured speedup on the same side of 1, or both about 1 (within "
    f"{percent(ABOUT_ONE, 0)}); about 1: the latter alone."
)
SHOWN_VIOLATIONS = 10
SHOWN_KINDS = 20
SHOWN_WARNINGS = 10
FAMILY_ROWS, FAMILY_SHARE = 20, 0.01
"""If there are more than `SHOWN_FAMILIES`, those of fewer rows, or of a smaller share of all rows, are counted, not shown."""
SHOWN_FAMILIES = 60
LIVE_HEADINGS = ("rows", "measured", "predicted", "error", "of byte bound")
FIGURE = "measured_on_predicted.svg"
VERDICT, VERDICT_KEYS = "verdict.json", {"hardware", "rows", "doubts", "wrong", "overall"}
RUN_HEADINGS = {"speedup": "speedup", "dense": "dense tokens/s", "sparse": "sparse tokens/s"}
PASS_HEADINGS = {"time": "quantisation", "copy": "copy"}
WHOLE_TABLES: Mapping[str, tuple[str, ...]] = {
    "machines": ("machine", "phase"),
    "tokens": ("phase", "tokens"),
    "patterns": ("phase", "pattern"),
    "models": ("model", "phase"),
}
MACHINES, PATTERNS = [*defaults.HARDWARE], [*defaults.PATTERNS]
BATCHES, PREFILL = [str(count) for count in defaults.BATCHES], [str(count) for count in defaults.PREFILL]
CAMPAIGN = "cpu-quick"
EXAMPLES = {
    "validate": [
        "nmsim validate --held-out",
        "nmsim validate --stranger",
        "nmsim validate --rows mine.csv --hardware my-machine.toml -o verdict.json",
        "nmsim validate --held-out --plot bandwidth.svg",
        "nmsim validate --whole-models --held-out",
        "nmsim validate --live -o here",
    ],
    "study": [
        "nmsim study --example -o study",
        "nmsim study --weights model.safetensors --model llama-3.1-8b --hardware h200,b200 -o my-study",
    ],
}


def validate(
    rows: Annotated[
        list[Path] | None,
        Option(
            "--rows",
            "-r",
            metavar="FILE",
            help="CSV of measured rows, as nmsim measure writes them, or a literature table in the layout of "
            "validate/data/published_source.csv. Either may be a Parquet file. Repeat for several. Default: the rows "
            "that ship with nmsim.",
        ),
    ] = None,
    hardware: Annotated[
        list[Path] | None,
        Option(
            "--hardware",
            "-H",
            metavar="FILE",
            help="Hardware TOML files whose machines the rows name. Repeat for several.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="PATH",
            help="JSON file to write all figures into. With --live: the folder of this-machine.toml, rows.csv, "
            f"verdict.json and {FIGURE}, by default validated.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        Option(
            "--plot",
            metavar="FILE",
            help="Figure of bandwidths to write, .svg, .png or .pdf: predicted over measured, and their share of the "
            "DRAM's peak. With --whole-models: predicted over measured ratios of tokens per second.",
        ),
    ] = None,
    held_out: Annotated[
        bool,
        Option(
            "--held-out",
            help="Predict each machine with constants fitted without it and its relatives. The properties of vendor "
            "libraries in libraries.toml stay: --stranger leaves those out too.",
        ),
    ] = False,
    stranger: Annotated[
        bool,
        Option(
            "--stranger",
            help="As --held-out, and as if nobody had measured the libraries of the machine's generation: those of the "
            "generation that it is like stand in.",
        ),
    ] = False,
    skip_unknown: Annotated[
        bool,
        Option(
            "--skip-unknown",
            help="Skip rows that cannot be judged, such as those of an unknown machine, and list them by kind. "
            "Without it they are an error.",
        ),
    ] = False,
    live: Annotated[
        bool,
        Option(
            "--live",
            help="Calibrate this CPU by micro-benchmarks, predict a campaign from that alone, measure it, and "
            "compare. Two minutes.",
        ),
    ] = False,
    whole_models: Annotated[
        bool,
        Option(
            "--whole-models",
            help="Judge published runs of whole models, in tokens per second, and published passes over activations.",
        ),
    ] = False,
    campaign: Annotated[
        str | None,
        Option(
            help="With --live: what to measure, as for nmsim measure: cpu, cpu-quick, or a file. Default: cpu."
        ),
    ] = None,
    force: options.Force = False,
) -> Answer:
    """Compare predictions with measured and published rows.

    Rows are joined with predictions, and the error of each family of rows is reported: medians of
    |predicted / measured - 1|. Rows that cannot be judged are an error, which lists them by kind with their numbers.
    """
    if live:
        if rows or hardware or held_out or stranger or skip_unknown or whole_models or plot is not None:
            raise NmsimError(
                "--live measures rows of its own: expected no --rows, --hardware, --held-out, --stranger, "
                "--skip-unknown, --whole-models or --plot beside it"
            )
        return _judge_live(output or Path("validated"), campaign or "cpu", force)
    if campaign is not None:
        raise NmsimError("--campaign: belongs to --live, expected it beside --live alone")
    if whole_models and (rows or hardware or skip_unknown or stranger):
        raise NmsimError(
            "--whole-models judges the published runs that ship with nmsim: expected no --rows, --hardware, "
            "--skip-unknown or --stranger beside it"
        )
    # All outputs are checked before rows are read, which takes seconds.
    files = [Output(output, suffixes=(".json",))] if output is not None else []
    files += [Output(plot, suffixes=PICTURES, strict=True)] if plot is not None else []
    if files:
        console.claim(*files, force=force)
    # Runs of whole models have columns and errors of their own: they are no rows of products.
    if whole_models:
        return _judge_whole_models(output, plot, held_out, force)
    with console.share_bar(late=True) as progress:
        judged = judge_files(
            rows or (),
            hardware=hardware or (),
            held_out=held_out or stranger,
            predictor=functools.partial(hwmodels.predict_rows, stranger=True) if stranger else None,
            skip_unknown=skip_unknown,
            progress=progress,
        )
    for name, columns in judged.unread_columns.items():
        console.warn(f"{name}: not read: columns {', '.join(columns)}")
    for name, reasons in judged.left_out.items():
        for reason, count in reasons.items():
            console.warn(f"{name}: left out: {count} {reason}")
    for name, count in judged.of_no_commit.items():
        console.warn(f"{name}: {count} rows of nmsim's kernels with no known commit, or one with changes")
    if judged.skipped:
        _warn_skipped(judged.skipped)
    figures = judged.verdict() | {"stranger": stranger}
    if output is not None:
        with new_file(output, force=force) as stream:
            stream.write(_json(figures))
    if plot is not None:
        with new_file(plot, force=force, sources=rows or ()) as stream:
            stream.write(_bandwidth_figure(judged, plot.suffix.removeprefix(".")))
    return Answer(figures, lambda: _show(judged, figures))


def _bandwidth_figure(judged: Judgement, kind: str) -> bytes:
    from hwmodels import plots

    fig, _ = plots.bandwidth(judged_columns(judged.table))
    return plots.rendered(fig, kind)


def _warn_skipped(skipped: Sequence[Skipped]) -> None:
    count = sum(kind.rows for kind in skipped)
    console.warn(f"{count} rows skipped, which cannot be judged:", "yellow")
    for kind in skipped[:SHOWN_KINDS]:
        console.warn(f"  {kind}", "yellow")
    if len(skipped) > SHOWN_KINDS:
        console.warn(f"  and {len(skipped) - SHOWN_KINDS} more kinds; --json lists all", "yellow")


def _judge_whole_models(output: Path | None, plot: Path | None, held_out: bool, force: bool) -> Answer:
    """Predict committed runs of whole models and online passes, and compare."""
    from hwmodels import plots
    from validate.whole_models.errors import judge_whole_models

    with console.busy("predicting whole models"):
        judged = judge_whole_models(held_out=held_out)
    figures = judged.verdict()
    if output is not None:
        with new_file(output, force=force) as stream:
            stream.write(_json(figures))
    if plot is not None:
        fig, _ = plots.whole_models(judged.judged)
        with new_file(plot, force=force) as stream:
            stream.write(plots.rendered(fig, plot.suffix.removeprefix(".")))
    return Answer(figures, lambda: _show_whole_models(figures))


def _judge_live(folder: Path, campaign: str, force: bool) -> Answer:
    """Calibrate, measure, predict, compare; write four files into a folder, over those of an earlier run."""
    from hwmodels import plots
    from nmsim.cli.measure import MACHINE, measure_here

    names = (f"{MACHINE}.toml", "rows.csv", VERDICT, FIGURE)
    ours = names if _is_verdict(folder / VERDICT) else ()
    console.claim(Output(folder, "folder", names=names, ours=ours), force=force)
    with updated_folder(folder, names=names, ours=ours, last=VERDICT, force=force) as work:
        with console.share_bar() as progress:
            here = measure_here(work, campaign, progress)
        table = own_rows(here.rows, here.hardware)
        figures = verdict(
            table,
            hardware=folder / here.hardware.name,
            rows=folder / here.rows.name,
            doubts=here.doubts,
            wrong=here.wrong,
        )
        (work / VERDICT).write_bytes(_json(figures))
        fig, _ = plots.measured_on_predicted(table)
        (work / FIGURE).write_bytes(plots.rendered(fig, "svg"))
    return Answer(figures, lambda: _show_live(figures, folder))


def _is_verdict(file: Path) -> bool:
    """Whether an earlier run wrote the file: the others of that run are in its folder."""
    try:
        return bool(json.loads(read_text(file)).keys() >= VERDICT_KEYS)
    except (OSError, ValueError, AttributeError):
        return False


def _json(figures: Mapping[str, Any]) -> bytes:
    return (json.dumps(figures, indent=2, allow_nan=False) + "\n").encode()


def _show_live(figures: Mapping[str, Any], folder: Path) -> None:
    for names in SUMMARIES:
        console.print_table(
            "Predicted from calibration alone against measured, medians",
            [*(name.replace("_", " ") for name in names), *LIVE_HEADINGS],
            [
                (
                    *(row[name] for name in names),
                    row["n_rows"],
                    f"{row['measured_speedup_vs_dense']:.2f}x",
                    f"{row['predicted_speedup_vs_dense']:.2f}x",
                    f"{100 * row['speedup_mdape']:.0f} %",
                    percent(row["share_of_bound"], 0),
                )
                for row in figures["by_" + "_".join(names)]
            ],
        )
    # The rows are sorted by the size of their error.
    worst = figures["worst"][0]
    overall = figures["overall"]
    console.say(
        f"speedup: median error {100 * overall['speedup_mdape']:.1f} % over {overall['n_rows']} rows; worst: "
        f"{worst['pattern']} {worst['encoding']} {worst['dtype']}, M={worst['M']}, {worst['N']}x{worst['K']}, "
        f"{worst['l2_state']}: measured {worst['measured_speedup_vs_dense']:.2f}x, predicted "
        f"{worst['predicted_speedup_vs_dense']:.2f}x"
    )
    for doubt in (*figures["doubts"], *figures["wrong"]):
        console.warn(f"in doubt: {doubt}", "yellow")
    console.say(f"written: {folder}")


def _show(judged: Judgement, figures: Mapping[str, Any]) -> None:
    kind = "constants fitted without each machine" if judged.held_out else "constants fitted on all machines"
    if figures["stranger"]:
        kind += ", libraries of its generation left out"
    everything = [("all", figures["overall"])]
    everything += [(_name(group, "dtype_class"), group) for group in figures["dtype_classes"]]
    everything += [(_name(group, "regime"), group) for group in figures["regimes"]]
    title = f"Predicted against measured, {kind}"
    _table(title, ("rows of",), [((name,), group) for name, group in everything], note=SIDES)
    _table("By kernel family", ("kernel family",), _named(figures["kernel_families"], ("kernel_family",)))
    _table("By machine", ("machine",), _named(figures["machines"], ("machine",)))
    weak = judged.table[judged.table["weak_baseline"]]
    if len(weak):
        pairs = dict.fromkeys(zip(weak["baseline_dtype"], weak["machine"], strict=True))
        kinds = ", ".join(f"{dtype} on {machine}" for dtype, machine in pairs)
        console.say(
            f"{len(weak)} rows have a weak baseline, a dense library far below that of other types: {kinds}"
        )
    if len(figures["marks"]) > 1:
        _table("By what the source says against a row", ("mark",), _named(figures["marks"], ("mark",)))
    _show_families(figures["families"])
    _show_coverage(figures["coverage_warnings"])
    _show_bandwidths(figures)
    _show_windows(figures["windows"])
    _show_worst(figures["worst"])
    _show_violations(figures["bound_violations"])


def _show_families(families: Sequence[Mapping[str, Any]]) -> None:
    """Print families; of a large table only those of enough rows, unless `--wide` asks for all."""
    least = max(FAMILY_ROWS, math.ceil(FAMILY_SHARE * sum(family["n_rows"] for family in families)))
    large = [family for family in families if family["n_rows"] >= least]
    shown = families if console.is_wide() or len(families) <= SHOWN_FAMILIES else large
    heads = tuple(name.replace("_", " ") for name in FAMILY)
    _table("By family", heads, _named(shown, FAMILY))
    if left := len(families) - len(shown):
        console.say(f"{left} families of fewer than {least} rows are not shown; --wide and --json have them.")


def _show_coverage(warnings: Sequence[Mapping[str, Any]]) -> None:
    """Name the families whose intervals hold too few or too many rows."""
    if not warnings:
        return
    least, most = (percent(share, 0) for share in COVERAGE)
    console.say(
        f"{len(warnings)} families of at least {COVERAGE_ROWS} rows have intervals that hold less than {least} or more than "
        f"{most} of them:"
    )
    for family in warnings if console.is_wide() else warnings[:SHOWN_WARNINGS]:
        console.say(
            f"  {' '.join(family[name] for name in FAMILY)}: {percent(family['interval_coverage'], 0)} of "
            f"{family['n_rows']} rows, {family['intervals']}"
        )
    if len(warnings) > SHOWN_WARNINGS and not console.is_wide():
        console.say(f"  and {len(warnings) - SHOWN_WARNINGS} more; --wide and --json list all")


def _named(groups: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[tuple[tuple[str, ...], Any]]:
    return [(tuple(_name(group, column) for column in columns), group) for group in groups]


def _name(group: Mapping[str, Any], column: str) -> str:
    return group[column] or "none"


def _table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    note: str = "",
) -> None:
    console.print_table(
        title,
        [*heads, *METRIC_HEADINGS],
        [
            (
                *names,
                metrics["n_rows"],
                *(_percent(metrics[f"{kind}_mdape"]) for kind in ("speedup", "dense_time", "sparse_time")),
                _percent(metrics["speedup_bias"], sign=True),
                _percent(metrics["side_share"]),
                _percent(metrics["about_one_share"]),
                _percent(metrics["interval_coverage"]),
            )
            for names, metrics in rows
        ],
        note=note,
        spare=["about 1", "bias", "dense time", "side of 1"],
    )


def _percent(share: float | None, sign: bool = False) -> str:
    if share is None:
        return "-"
    return f"{100 * share:+.1f} %" if sign else percent(share, 1)


def _show_bandwidths(figures: Mapping[str, Any]) -> None:
    """Print bandwidths: of all rows by value type, and those of memory-bound calls by family and regime."""
    # The bandwidth of a call that operations limit is its time turned over, so families show memory-bound calls only.
    near = [group for group in figures["bandwidth_families"] if group["limit"] == "memory"]
    for title, heads, groups in (
        ("Effective bandwidth", ("dtype_class", "limit"), figures["bandwidth_dtype_classes"]),
        ("Effective bandwidth of memory-bound calls", ("kernel_family", "regime"), near),
    ):
        console.print_table(
            title,
            [*(name.replace("_", " ") for name in heads), "call", "rows", *BANDWIDTH_HEADINGS],
            [
                (
                    *(group[name] for name in heads),
                    group["product"],
                    group["n_rows"],
                    f"{group['measured_bytes_per_s'] / 1e9:.4g}",
                    f"{group['predicted_bytes_per_s'] / 1e9:.4g}",
                    *(_percent(group[f"{kind}_dram_share"]) for kind in ("measured", "predicted")),
                    _percent(group["bandwidth_mdape"]),
                    _percent(group["bandwidth_bias"], sign=True),
                    _percent(group["above_peak_share"]),
                )
                for group in groups
            ],
            note="Least traffic over time, medians; of DRAM: over the peak of the machine's DRAM. Above it, operands lay in a "
            "cache.",
            spare=["bias", "predicted GB/s", "GB/s"],
        )


def _show_windows(groups: Sequence[Mapping[str, Any]]) -> None:
    """Print what patterns without a unit bring through the 2:4 unit, beside a unit of their own."""
    if not groups:
        return
    console.print_table(
        "Without new hardware: any mask through sliding 2:4 windows, the best there is on units of today",
        ["pattern", "machine", "dtype", "regime", "rows", "measured, 10 to 90 % of rows", "median", "predicted",
         "native at most"],
        [
            (
                f"{group['pattern']} as {group['runs_as']}",
                group["machine"],
                group["dtype"],
                group["regime"],
                group["n_rows"],
                f"{group['measured_low']:.2f}-{group['measured_high']:.2f}x",
                f"{group['measured_median']:.2f}x",
                f"{group['predicted_speedup_vs_dense']:.2f}x",
                "-" if group["native_bound_speedup_vs_dense"] is None else f"{group['native_bound_speedup_vs_dense']:.2f}x",
            )
            for group in groups
        ],
        note="Speedups vs dense, medians of the same rows, without the time to repeat elements of X. Native at most: the ratio "
        "of the bounds if the unit took the pattern itself.",
        spare=["median"],
    )  # fmt: skip


def _show_worst(worst: Sequence[Mapping[str, Any]]) -> None:
    console.print_table(
        "Worst rows",
        ["row", "machine", "kernel", "pattern", "dtype", "M,N,K", "measured", "predicted", "mark"],
        [
            (
                f"{Path(row['file']).name}:{row['row']}",
                row["machine"],
                row["kernel"],
                row["written_pattern"],
                row["dtype"],
                f"{row['M']},{row['N']},{row['K']}",
                f"{row['measured_speedup_vs_dense']:.2f}x",
                f"{row['predicted_speedup_vs_dense']:.2f}x",
                row["mark"] or "-",
            )
            for row in worst
        ],
        note="Speedups vs dense; row 1 is the first below the header.",
        extra=["mark"],
        spare=["dtype", "pattern", "machine"],
    )


def _show_violations(violations: Sequence[Mapping[str, Any]]) -> None:
    if not violations:
        console.say("No row is faster than its machine's bound.")
        return
    console.say(f"{len(violations)} measured times below the bound of their machine:")
    for row in violations[:SHOWN_VIOLATIONS]:
        console.say(
            f"  {Path(row['file']).name}:{row['row']} {row['machine']} {row['kernel']}, {row['product']}: "
            f"{row['measured_time_s'] * 1e6:.4g} us, bound {row['bound_time_s'] * 1e6:.4g} us. {row['explanation']}."
        )
    if len(violations) > SHOWN_VIOLATIONS:
        console.say(f"  and {len(violations) - SHOWN_VIOLATIONS} more; --json lists all")


def _show_whole_models(figures: Mapping[str, Any]) -> None:
    kind = (
        "constants fitted without each machine" if figures["held_out"] else "constants fitted on all machines"
    )
    runs, passes = figures["whole_models"], figures["online_passes"]
    title = f"Tokens per second of whole models, {kind}"
    _groups(title, ("runs of",), [{"runs of": "all"} | runs["overall"]], RUN_HEADINGS)
    for name, columns in WHOLE_TABLES.items():
        _groups(f"By {' and '.join(columns)}", columns, runs[name], RUN_HEADINGS)
    for entry in runs["left_out"]:
        console.say(f"left out: {entry['n_rows']} runs, {entry['reason']}: {entry['rule']}")
    title = f"Passes over activations, {kind}"
    _groups(title, ("passes of",), [{"passes of": "all"} | passes["overall"]], PASS_HEADINGS)
    _groups("By machine", ("machine",), passes["machines"], PASS_HEADINGS)
    _groups("By tokens", ("tokens",), passes["tokens"], PASS_HEADINGS)
    lift = passes["overall"]["lift_mdape"]
    console.say(
        f"time with sliding windows over that of the quantisation alone: median error {_percent(lift)}"
    )


def _groups(
    title: str, columns: Sequence[str], groups: Sequence[Mapping[str, Any]], headings: Mapping[str, str]
) -> None:
    """Print groups with the median error and the bias of each figure."""
    rows = []
    for group in groups:
        figures = [(group[f"{key}_mdape"], group[f"{key}_bias"]) for key in headings]
        cells = [cell for error, bias in figures for cell in (_percent(error), _percent(bias, sign=True))]
        rows.append((*(str(group[name]) for name in columns), group["n_rows"], *cells))
    heads = [head for name in headings.values() for head in (name, "bias")]
    console.print_table(title, [*(name.replace("_", " ") for name in columns), "rows", *heads], rows)


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
    hardware: options.Machines = MACHINES,
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
    # Figures and reports take half a second to import, for which `nmsim validate` has no use.
    from validate.study.study import run_study, study_output

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
