"""`nmsim sweep`: a design space, point by point, into a table; the best points and the Pareto front of it."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

import hwmodels
from hwmodels.silicon.energy import UM2_PER_MM2
from hwmodels.sweeps import EXAMPLE_FILE, Summary, kept_points, load_space, no_rows
from hwmodels.sweeps.pareto import COMPARABLE, highlights
from hwmodels.sweeps.run import SUFFIXES, finished
from hwmodels.sweeps.space import MeasuredQuality, Space, WayChoice
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import SpecError
from nmsim.files.atomic import new_file
from nmsim.files.output import PICTURES, ROW_FILE, Output
from nmsim.pattern import Pattern
from nmsim.support.cells import write_csv
from nmsim.units import joules_unit, short

if TYPE_CHECKING:
    import pandas as pd

MOST_PANELS = 6
"""Panels beside each other that can still be read."""
DPI = 200
COSTS = "time_s,energy_joules,area_um2"
WITHOUT_COSTS = "time_s,dram_read_bytes"
SPEED_FROM_POINTS = 100_000
"""Fewer say more about the start than about the speed."""
SHOWN = ("time_s", "speedup_vs_dense", "limit")
EXAMPLES = {"sweep": ["nmsim sweep --example", "nmsim sweep space.toml -o out.parquet --front front.csv"]}


def sweep(
    space: Annotated[
        Path, Argument(help="TOML file of the space; --example writes one.", metavar="SPACE")
    ] = Path("space.toml"),
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write, .parquet or .csv. Default: the name of the space with .parquet. A run that was stopped "
            "goes on from there.",
        ),
    ] = None,
    pareto: Annotated[
        list[str] | None,
        Option(
            "--pareto",
            metavar="COLUMNS",
            help=f"Columns to minimise in the Pareto front of each work. Default {COSTS}; {WITHOUT_COSTS} if the "
            "space says costs = false.",
        ),
    ] = None,
    maximise: Annotated[
        list[str] | None,
        Option("--maximise", metavar="COLUMNS", help="Columns to maximise in it. Default quality, if any."),
    ] = None,
    front: Annotated[
        Path | None, Option("--front", metavar="FILE", help="CSV file to write the Pareto front into.")
    ] = None,
    plot: Annotated[
        Path | None,
        Option(
            "--plot",
            metavar="FILE",
            help="Figure of the Pareto front to write, .svg, .png or .pdf: the quality, or else the second column, over the "
            "first one.",
        ),
    ] = None,
    workers: Annotated[
        int, Option("--workers", "--threads", min=1, help="Threads that evaluate points.")
    ] = 1,
    restart: Annotated[
        bool, Option("--restart", help="Remove what an earlier run left unfinished, and begin anew.")
    ] = False,
    force: options.Force = False,
    example: Annotated[
        bool, Option("--example", help="Write a commented example to SPACE, and do nothing else.")
    ] = False,
) -> Answer | None:
    """Evaluate every point of a design space of tensor cores.

    A point is a core with a format, value type, number of tokens and workload. Cycles are those of the closed form of a
    tensor core's pipeline. Points that do not exist are kept and counted, for example an encoding that the core
    does not decode. The column refused has the reason.
    """
    if example:
        console.claim(Output(space, suffixes=(".toml",)), force=force)
        with new_file(space, force=force) as stream:
            stream.write(EXAMPLE_FILE.read_bytes())
        console.say(f"{space}: written. Now: nmsim sweep {space}")
        return None
    if not space.exists():
        raise SpecError(
            f"{space}: cannot be read: no such file; nmsim sweep {space} --example writes one to begin with"
        )
    loaded = load_space(space, read_measured=_measured)
    target = output or space.with_suffix(".parquet")
    quality = loaded.quality
    least = [quality.column] if quality is not None and quality.least else []
    most = [quality.column] if quality is not None and not quality.least else []
    costs = options.split_names(
        pareto or [COSTS if loaded.costs else WITHOUT_COSTS, *least], "column for --pareto"
    )
    gains = options.split_names(maximise or most)
    # An empty table finds a column that does not exist before any point is evaluated.
    hwmodels.pareto_front(no_rows(loaded), minimise=costs, maximise=gains)
    # The points of a run that was stopped after its last one are complete, and no other run has to replace them.
    complete = finished(loaded, target) and not restart
    points = Output(target, suffixes=SUFFIXES, strict=True, complete=complete)
    tables = [Output(front, suffixes=ROW_FILE)] if front is not None else []
    pictures = [Output(plot, suffixes=PICTURES, strict=True)] if plot is not None else []
    console.claim(points, *tables, *pictures, force=force)
    if plot is not None:
        _refuse_figure(loaded, [*costs, *gains])
    with _say_what_is_kept(target), console.share_bar() as progress, _threads(workers) as executor:
        done = hwmodels.sweep(
            loaded,
            output=target,
            executor=executor,
            progress=lambda at, points: progress(f"{at:,} of {points:,} points", at / points),
            resume=not restart,
            force=force,
        )
    best = highlights(target, costs, gains)
    if front is not None:
        with new_file(front, force=force, sources=[space, target]) as stream:
            write_csv(best.front, stream)

    if plot is not None:
        drawn = _figure(
            best.front, costs, gains, quality.column if quality else "", plot.suffix.removeprefix(".")
        )
        with new_file(plot, force=force, sources=[space, target]) as stream:
            stream.write(drawn)

    def show() -> None:
        _show(done, best.best)
        over = f"{', '.join(costs)}" + (f" (least), {', '.join(gains)} (most)" if gains else " (least)")
        written = f", in {front}" if front is not None else ""
        console.say(f"Pareto front over {over}, for each work: {len(best.front):,} points{written}")

    rows = [{str(name): value for name, value in row.items()} for row in best.best.to_dict("records")]
    return Answer(_record(done) | {"best": rows, "pareto_front_points": len(best.front)}, show)


def _refuse_figure(space: Space, columns: Sequence[str]) -> None:
    """Refuse a figure that has too many panels or no second axis, before any work."""
    works = len(space.works) * len(space.tokens)
    if works > MOST_PANELS:
        raise SpecError(
            f'--plot: {works} works, each a panel: expected at most {MOST_PANELS}; per = "model" adds layers up'
        )
    if len(columns) < 2:
        raise SpecError("--plot: one column of the Pareto front: expected at least two")


def _figure(
    front: "pd.DataFrame", costs: Sequence[str], gains: Sequence[str], quality: str, kind: str
) -> bytes:
    """Draw the front by two of its columns. Points that only other columns keep on it are hollow."""
    from hwmodels import plots

    columns = [*costs, *gains]
    x = next(name for name in columns if name != quality)
    y = quality if quality in columns else next(name for name in columns if name != x)
    within = [name for name in COMPARABLE if name in front]
    axes = {
        "minimise": [name for name in (x, y) if name in costs],
        "maximise": [name for name in (x, y) if name in gains],
    }
    own = hwmodels.pareto_front(front, **axes, within=within)
    named = ("core", "pattern", "encoding", "sparse_operand", "dtype")
    fig, _ = plots.pareto(front, x=x, y=y, front=own, within=within, bars=True, label=named)
    return plots.rendered(fig, kind, dpi=DPI)


def _measured(source: str, choice: WayChoice, patterns: Sequence[Pattern]) -> MeasuredQuality:
    """Read measured qualities; the judge is imported for spaces that name some."""
    from validate.accuracy.beside_cost import for_sweep

    return for_sweep(source, choice, patterns)


@contextlib.contextmanager
def _threads(workers: int) -> Iterator[Executor | None]:
    """Threads to evaluate on; none for one worker, which is the calling thread."""
    if workers == 1:
        yield None
        return
    with ThreadPoolExecutor(workers) as pool:
        yield pool


@contextlib.contextmanager
def _say_what_is_kept(target: Path) -> Iterator[None]:
    """Say on standard error what is kept when a signal stops the work."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        kept, points = kept_points(target) or (0, 0)
        what = (
            f"{kept:,} of {points:,} points kept in {target}.parts; the same command goes on"
            if kept
            else "none of the points kept; the same command begins anew"
        )
        console.warn(f"stopped: {what}")
        raise


def _record(done: Summary) -> dict[str, Any]:
    return {
        "output": str(done.output),
        "points": done.points,
        "refused": dict(done.refused),
        "evaluated_points": done.evaluated_points,
        "points_per_s": done.points_per_s,
        "seconds": done.seconds,
    }


def _show(done: Summary, best: "pd.DataFrame") -> None:
    kept = done.points - done.evaluated_points
    earlier = f", {kept:,} of them by an earlier run" if kept else ""
    speed = f" ({done.points_per_s:,.0f} points/s)" if done.evaluated_points >= SPEED_FROM_POINTS else ""
    console.say(f"{done.points:,} points in {done.output}{earlier}; {done.seconds:.1f} s{speed}")
    refused = sum(done.refused.values())
    if refused:
        console.say(f"{refused:,} points do not exist (column refused):")
        for reason, count in sorted(done.refused.items(), key=lambda item: -item[1]):
            console.say(f"  {count:,}: {reason}")
    if best.empty:
        return
    # What all rows share says nothing about them.
    varied = [
        name
        for name in best.columns
        if name not in (*SHOWN, "refused", "count") and (best[name].nunique() > 1 or name == "pattern")
    ]
    columns = dict(_column(name, best[name].tolist()) for name in varied)
    spare = list(reversed(columns))
    columns["time µs"] = [f"{time_s * 1e6:.4g}" for time_s in best["time_s"]]
    columns["speedup vs dense"] = [f"{speedup:.2f}x" for speedup in best["speedup_vs_dense"]]
    columns["bound by"] = best["limit"].tolist()
    console.print_table(
        "Greatest speedups vs dense",
        list(columns),
        list(zip(*columns.values(), strict=True)),
        note="Against the dense product on the same core; columns that all of these share are left out.",
        spare=spare,
    )


def _column(name: str, values: list[Any]) -> tuple[str, list[str]]:
    """Heading and cells of a column, areas and energies in units for people."""
    if "_um2" in name or "_joules" in name:
        unit, per = ("mm²", 1 / UM2_PER_MM2) if "_um2" in name else joules_unit(values)
        heading = f"{name.replace('_um2', '').replace('_joules', '')} {unit}"
        return heading, ["-" if math.isnan(value) else short(value * per) for value in values]
    return name, [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
