"""`nmsim bench`: how fast the codecs and the models are on this machine."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import track

from nmsim import bench as codec_bench
from nmsim.cli import console, model_bench
from nmsim.pattern import Pattern


def bench(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Patterns N:M. Default 2:4 4:8 8:16 16:32.")
    ] = None,
    encoding: Annotated[
        list[str] | None, typer.Option("--encoding", "--encodings", "-e", help="Encodings.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores to use for each operation.")] = 1,
    elems: Annotated[
        int, typer.Option(min=1024, help="Elements of the dense tensor behind the masks.")
    ] = codec_bench.DEFAULT_ELEMS,
    repetitions: Annotated[int, typer.Option(min=3, help="Interleaved repetitions.")] = (
        codec_bench.DEFAULT_REPETITIONS
    ),
    models: Annotated[
        bool, typer.Option("--models", help="Time the models instead: a minute or two.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Time every codec against a plain copy of the decoded masks; with --models the predictor, tensor cores and sweeps.

    Every figure is a median over interleaved repetitions; a busy machine widens the percentiles that --json also shows.
    """
    if models:
        _bench_models(as_json)
        return
    chosen = [
        Pattern.parse(p) for p in console.split_names(patterns or ["2:4", "4:8", "8:16", "16:32"], "pattern")
    ]
    names = console.split_names(encoding or ["bitmask", "index", "gap", "combinatorial", "joint"], "encoding")
    speeds: list[codec_bench.Speed] = []
    for pattern in chosen:
        codec_bench.refuse_wide(pattern)
    from validate.study import provenance

    for pattern in track(chosen, description="timing codecs", console=console.err, transient=True):
        speeds += codec_bench.measure(pattern, names, elems=elems, repetitions=repetitions, threads=threads)
    if as_json:
        about = asdict(provenance.collect(provenance.command_line(), []))
        console.print_json({"provenance": about, "codecs": [asdict(s) for s in speeds]})
        return
    console.print_table(
        "10⁹ elements per second, median (share of a copy of the masks; times its own speed on one core)",
        ["pattern", "encoding", "cores", "encode", "decode", "write stream", "read stream"],
        _lines(speeds),
    )


def _bench_models(as_json: bool) -> None:
    from validate.study import provenance

    figures = model_bench.FIGURES.items()
    found = {
        name: figure.measure()
        for name, figure in track(figures, "timing models", len(figures), console=console.err, transient=True)
    }
    if as_json:
        console.print_json({"provenance": asdict(provenance.collect(provenance.command_line(), [])), **found})
        return
    console.print_table(
        "Models, on one core",
        ["what", "median", "20 % to 80 %", "unit"],
        [model_bench.FIGURES[name].line(percentiles) for name, percentiles in found.items()],
    )


def _lines(speeds: list[codec_bench.Speed]) -> list[list[str]]:
    table: dict[tuple[str, str, str], list[str]] = {}
    for s in speeds:
        gain = f"; {s.p50_times_one_core:.2f}×" if s.threads > 1 else ""
        cell = f"{s.p50_elems_per_s / 1e9:.2f} ({s.p50_share_of_copy:.3f}{gain})"
        table.setdefault((s.pattern, s.encoding, str(s.threads)), []).append(cell)
    return [[*key, *cells, *[""] * (4 - len(cells))] for key, cells in table.items()]
