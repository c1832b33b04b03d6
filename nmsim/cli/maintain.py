"""`nmsim fit` and `nmsim bench`, for maintainers: constants of the estimate, and the speed of codecs and models."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from rich.progress import track
from typer import Argument, Option

from hwmodels import bench as model_bench
from nmsim import bench as codec_bench
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError
from nmsim.pattern import Pattern
from nmsim.units import percent
from validate.judge.fit_table import fit_files, fit_library_file, fit_output
from validate.study import provenance

PATTERNS = ["2:4", "4:8", "8:16", "16:32"]
CODECS = ["bitmask", "index", "gap", "combinatorial", "joint"]
EXAMPLES = {
    "fit": ["nmsim fit", "nmsim fit --libraries", "nmsim fit --rows mine.csv -o constants"],
    "bench": ["nmsim bench 8:16 -e combinatorial", "nmsim bench --models --json"],
}


def fit(
    rows: Annotated[
        list[Path] | None,
        Option(
            "--rows",
            "-r",
            metavar="FILE",
            help="CSV of measured rows, in the row schema or in the layout of literature tables. Repeat for several. "
            "Default: the published rows that ship with nmsim.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for fitted.toml and residuals.csv, or libraries.toml. Default: hwmodels/data, which predictions read.",
        ),
    ] = None,
    libraries: Annotated[
        bool,
        Option(
            "--libraries",
            help="Read the properties of vendor libraries off the rows instead, and write libraries.toml. Three minutes. "
            "Fit the constants again after it.",
        ),
    ] = False,
    force: options.Force = False,
) -> Answer:
    """Fit the constants of the estimate to measured rows.

    The fit is repeated without each group of machines, and the errors shown are of machines that had no part in it. Rows of
    CPUs, and of kernels that the model chooses itself, are not fitted. The same rows give the same constants. A fit of the
    published rows takes about a minute.
    """
    if rows and output is None:
        raise NmsimError(
            "--rows without --output: expected a folder for constants that are not those of the shipped rows"
        )
    if output is not None:
        console.claim(fit_output(output, of_libraries=libraries), force=force)
    if libraries:
        with console.share_bar() as progress:
            found = fit_library_file(rows or (), output, progress, force=force)
        return Answer(found, lambda: _show_libraries(found))
    with console.share_bar() as progress:
        fitted = fit_files(rows or (), output, progress, force=force)
    if fitted["few_rows"]:
        console.warn(fitted.pop("few_rows"))
    else:
        del fitted["few_rows"]
    return Answer(fitted, lambda: _show_fit(fitted))


def _show_libraries(record: Mapping[str, Any]) -> None:
    console.print_table(
        f"Properties of vendor libraries, read off {record['rows']} rows",
        ["of", "property", "before", "after"],
        [
            (
                row["section"].removeprefix("generation."),
                row["name"],
                f"{row['before']:g}",
                f"{row['after']:g}",
            )
            for row in record["properties"]
        ],
        note="Before: what predictions used until now.",
    )
    _say_changed(record)


def _say_changed(record: Mapping[str, Any]) -> None:
    what = f"written: {', '.join(record['changed'])}" if record["changed"] else "nothing changed"
    console.say(f"{record['folder']}: {what}")


def _show_fit(record: Mapping[str, Any]) -> None:
    console.print_table(
        f"Constants fitted to {record['source']}",
        ["constant", "unit", "prior", "before", "after", "change"],
        [
            (
                name,
                entry["unit"],
                *(f"{entry[when]:.4g}" for when in ("prior", "before", "after")),
                # Relative, because the constants have different units.
                f"{100 * (entry['after'] / entry['before'] - 1):+.1f} %",
            )
            for name, entry in record["constants"].items()
        ],
        note="Before: what predictions used until now.",
    )
    console.print_table(
        "Errors on machines that were left out",
        ["rows of", "rows", "speedup", "dense time", "sparse time", "bias", "side of 1"],
        [
            (
                row["rows_of"],
                row["n_rows"],
                *(f"{100 * row[f'{kind}_mdape']:.1f} %" for kind in ("speedup", "dense_time", "sparse_time")),
                f"{100 * row['speedup_bias']:+.1f} %",
                percent(row["sign_share"], 1),
            )
            for row in record["held_out"]
        ],
        note="Medians of |predicted / measured - 1|.",
    )
    for reason, count in record["left_out"].items():
        console.say(f"not fitted: {count} rows {reason}")
    if record["cpu_residuals"]:
        text = f"{record['cpu_residuals']} rows of our own CPU campaigns, predicted from calibration alone"
        console.say(f"residuals added: {text}")
    _say_changed(record)


def bench(
    patterns: Annotated[list[str], Argument(help="Patterns N:M.", metavar="PATTERNS")] = PATTERNS,
    encoding: options.Encodings = CODECS,
    threads: Annotated[int, Option(min=1, help="CPU cores to use for each operation.")] = 1,
    elems: Annotated[
        int, Option(min=1024, help="Elements of the dense tensor behind the masks.")
    ] = codec_bench.DEFAULT_ELEMS,
    repetitions: Annotated[int, Option(min=3, help="Interleaved repetitions.")] = (
        codec_bench.DEFAULT_REPETITIONS
    ),
    models: Annotated[bool, Option("--models", help="Time the models instead: a minute or two.")] = False,
) -> Answer:
    """Time the codecs and the models on this machine.

    Each codec is timed beside a plain copy of the decoded masks; --models times the predictor, tensor cores and sweeps. Every
    figure is a median over interleaved repetitions. A busy machine widens the percentiles that --json also shows.
    """
    if models:
        return _bench_models()
    chosen = [Pattern.parse(text) for text in options.split_names(patterns, "pattern")]
    names = options.split_names(encoding or [], "encoding")
    speeds: list[codec_bench.Speed] = []
    for pattern in chosen:
        codec_bench.refuse_wide(pattern)
    for pattern in track(chosen, description="timing codecs", console=console.err, transient=True):
        speeds += codec_bench.measure(pattern, names, elems=elems, repetitions=repetitions, threads=threads)
    about = asdict(provenance.collect(provenance.command_line(), []))
    return Answer(
        {"provenance": about, "codecs": [asdict(s) for s in speeds]},
        lambda: console.print_table(
            "10⁹ elements per second, median (share of a copy of the masks; times its own speed on one core)",
            ["pattern", "encoding", "cores", "encode", "decode", "write stream", "read stream"],
            _lines(speeds),
        ),
    )


def _bench_models() -> Answer:
    figures = model_bench.FIGURES.items()
    measured = {
        name: figure.measure()
        for name, figure in track(figures, "timing models", len(figures), console=console.err, transient=True)
    }
    about = asdict(provenance.collect(provenance.command_line(), []))
    return Answer(
        {"provenance": about, **measured},
        lambda: console.print_table(
            "Models, on one core",
            ["what", "median", "20 % to 80 %", "unit"],
            [model_bench.FIGURES[name].line(percentiles) for name, percentiles in measured.items()],
        ),
    )


def _lines(speeds: list[codec_bench.Speed]) -> list[list[str]]:
    table: dict[tuple[str, str, str], list[str]] = {}
    for s in speeds:
        gain = f"; {s.p50_times_one_core:.2f}×" if s.threads > 1 else ""
        cell = f"{s.p50_elems_per_s / 1e9:.2f} ({s.p50_share_of_copy:.3f}{gain})"
        table.setdefault((s.pattern, s.encoding, str(s.threads)), []).append(cell)
    return [[*key, *cells, *[""] * (4 - len(cells))] for key, cells in table.items()]
