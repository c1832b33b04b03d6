"""`nmsim bench`: how fast the codecs and the predictor are on this machine."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from nmsim import bench as codec_bench
from nmsim.cli import console
from nmsim.pattern import Pattern

PREDICT_CASES = 1_000_000
SINGLE_CASES = 2_000


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Time every codec against a plain copy of the decoded masks, and the predictor in cases per second.

    Every figure is a median over interleaved repetitions; a busy machine widens the percentiles that --json also shows.
    """
    chosen = [
        Pattern.parse(p) for p in console.split_names(patterns or ["2:4", "4:8", "8:16", "16:32"], "pattern")
    ]
    names = console.split_names(encoding or ["bitmask", "index", "gap", "combinatorial", "joint"], "encoding")
    speeds: list[codec_bench.Speed] = []
    for pattern in chosen:
        codec_bench.refuse_wide(pattern)
    from validate import provenance

    for pattern in track(chosen, description="timing codecs", console=console.err, transient=True):
        speeds += codec_bench.measure(pattern, names, elems=elems, repetitions=repetitions, threads=threads)
    predicted = _predict_speed()
    if as_json:
        about = asdict(provenance.collect(provenance.command_line(), []))
        console.print_json({"provenance": about, "codecs": [asdict(s) for s in speeds], **predicted})
        return
    repeats, distinct, single = (figure["p50"] for figure in predicted.values())
    console.print_table(
        "10⁹ elements per second, median (share of a copy of the masks; times its own speed on one core)",
        ["pattern", "encoding", "cores", "encode", "decode", "write stream", "read stream"],
        _lines(speeds),
        note=f"predict on one core: a table with repeats {repeats / 1e6:.2f} and one without {distinct / 1e6:.2f} "
        f"million cases per second; a single case {single * 1e6:.0f} us",
    )


def _lines(speeds: list[codec_bench.Speed]) -> list[list[str]]:
    table: dict[tuple[str, str, str], list[str]] = {}
    for s in speeds:
        gain = f"; {s.p50_times_one_core:.2f}×" if s.threads > 1 else ""
        cell = f"{s.p50_elems_per_s / 1e9:.2f} ({s.p50_share_of_copy:.3f}{gain})"
        table.setdefault((s.pattern, s.encoding, str(s.threads)), []).append(cell)
    return [[*key, *cells, *[""] * (4 - len(cells))] for key, cells in table.items()]


def _predict_speed() -> dict[str, dict[str, float]]:
    """Speed of `hwmodels.predict`: tables of a million mixed rows that repeat, or of distinct ones, and cases one by one."""
    import pandas as pd

    import hwmodels
    from nmsim.records import Case, GemmShape

    rng = np.random.default_rng(0)
    repeats = pd.DataFrame(
        {dimension: rng.choice([1, 4, 16, 64, 512, 4096, 14336], PREDICT_CASES) for dimension in "MNK"}
    )
    for column, choices in (
        ("pattern", ["2:4", "4:8", "8:16", "16:32"]),
        ("encoding", ["bitmask", "index", "combinatorial", "joint"]),
        ("packing", ["bitstream", "byte"]),
        ("sparse_operand", ["weights", "activations"]),
    ):
        repeats[column] = rng.choice(choices, PREDICT_CASES)
    sizes = {dimension: rng.integers(1, 1 << 14, PREDICT_CASES) for dimension in "MK"}
    distinct = repeats.assign(**sizes, N=rng.permutation(PREDICT_CASES) + 1)
    single = [
        Case(GemmShape(row.M, row.N, row.K), pattern=row.pattern, encoding=row.encoding)  # type: ignore[arg-type]
        for row in distinct.head(SINGLE_CASES).itertuples()
    ]
    per_case_s = [_seconds(hwmodels.predict, case, "h200") for case in single]
    rates = {
        name: [PREDICT_CASES / _seconds(hwmodels.predict, table, "h200") for _ in range(4)]
        for name, table in (("predict_cases_per_s", repeats), ("predict_distinct_cases_per_s", distinct))
    }
    found = {name: taken[1:] for name, taken in rates.items()}
    found["predict_one_case_s"] = per_case_s[SINGLE_CASES // 10 :]
    return {
        name: dict(zip(("p20", "p50", "p80"), np.percentile(taken, [20, 50, 80]).tolist(), strict=True))
        for name, taken in found.items()
    }


def _seconds(action: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - started
