"""`nmsim sweep`: a design space, point by point, into a table; the best points and the Pareto front of it."""

import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmsim.cli import console
from nmsim.cli.progress import share_bar
from nmsim.cli.scaled import UM2_PER_MM2, joules_unit, short
from nmsim.errors import ContainerError, SpecError
from nmsim.files.atomic import new_file, refuse_target

if TYPE_CHECKING:
    import pandas as pd

    from hwmodels.sweeps import Summary

COSTS = "time_s,energy_joules,area_um2"
WITHOUT_COSTS = "time_s,dram_read_bytes"
SPEED_FROM_POINTS = 100_000
"""Fewer say more about the start than about the speed."""
SHOWN = ("time_s", "speedup_vs_dense", "limit")


def sweep(
    space: Annotated[
        Path, typer.Argument(help="TOML file of the space; --example writes one.", metavar="SPACE")
    ] = Path("space.toml"),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, .parquet or .csv. Default: the name of the space with .parquet. A run that was stopped "
            "goes on where it was.",
        ),
    ] = None,
    pareto: Annotated[
        list[str] | None,
        typer.Option(
            "--pareto",
            help=f"Columns to minimise in the Pareto front of each work. Default {COSTS}; {WITHOUT_COSTS} where the "
            "space says costs = false.",
        ),
    ] = None,
    maximise: Annotated[
        list[str] | None,
        typer.Option("--maximise", help="Columns to maximise in it. Default quality, if any."),
    ] = None,
    front: Annotated[
        Path | None, typer.Option("--front", help="CSV file to write the Pareto front into.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that evaluate points.")] = 1,
    restart: Annotated[
        bool, typer.Option("--restart", help="Remove what an earlier run left unfinished, and begin anew.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace existing files.")] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Write a commented example to SPACE, and do nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Evaluate every point of a design space: cores, patterns, encodings, packings, value types, tokens and workloads.

    Cycles are those of the closed form of a tensor core's pipeline. Points that do not exist are kept
    and counted, for example an encoding that the core does not decode. The column refused has the reason.
    """
    if example:
        _write_example(space, force)
        return
    import hwmodels
    from hwmodels.sweeps import load_space, no_rows
    from hwmodels.sweeps.highlights import highlights

    if not space.exists():
        raise SpecError(
            f"{space}: cannot be read: no such file; nmsim sweep {space} --example writes one to begin with"
        )
    loaded = load_space(space)
    target = output or space.with_suffix(".parquet")
    costs = console.split_names(pareto or [COSTS if loaded.costs else WITHOUT_COSTS], "column for --pareto")
    gains = console.split_names(maximise or (["quality"] if loaded.quality is not None else []))
    hwmodels.pareto_front(no_rows(loaded), costs, gains)
    if front is not None:
        if front.resolve() == target.resolve():
            raise ContainerError(f"--front {front}: is the file of all points, expected another name")
        refuse_target(front, force, sources=[space])
    with _told_when_stopped(target), share_bar() as told, _threads(workers) as executor:
        done = hwmodels.sweep(
            loaded,
            output=target,
            executor=executor,
            progress=lambda at, points: told(f"{at:,} of {points:,} points", at / points),
            resume=not restart,
            force=force,
        )
    found = highlights(target, costs, gains)
    if front is not None:
        with new_file(front, force=force, sources=[space, target]) as stream:
            found.front.to_csv(stream, index=False)
    if as_json:
        console.print_json(
            _record(done) | {"best": _rows(found.best), "pareto_front_points": len(found.front)}
        )
        return
    _show(done, found.best)
    over = f"{', '.join(costs)}" + (f" (least), {', '.join(gains)} (most)" if gains else " (least)")
    written = f", in {front}" if front is not None else ""
    _say(f"Pareto front over {over}, for each work: {len(found.front):,} points{written}")


def _write_example(target: Path, force: bool) -> None:
    import hwmodels.sweeps

    with new_file(target, force=force) as stream:
        stream.write(hwmodels.sweeps.EXAMPLE_FILE.read_bytes())
    _say(f"{target}: written. Now: nmsim sweep {target}")


@contextlib.contextmanager
def _threads(workers: int) -> Iterator[Executor | None]:
    """Threads to evaluate on; none for one worker, which is the calling thread."""
    if workers == 1:
        yield None
        return
    with ThreadPoolExecutor(workers) as pool:
        yield pool


@contextlib.contextmanager
def _told_when_stopped(target: Path) -> Iterator[None]:
    """Say on standard error what is kept when a signal stops the work."""
    from hwmodels.sweeps import kept_points

    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        kept, points = kept_points(target) or (0, 0)
        what = (
            f"{kept:,} of {points:,} points kept in {target}.parts; the same command goes on"
            if kept
            else "none of the points kept; the same command begins anew"
        )
        console.err.print(f"stopped: {what}", highlight=False, markup=False)
        raise


def _record(done: "Summary") -> dict[str, Any]:
    return {
        "output": str(done.output),
        "points": done.points,
        "refused": dict(done.refused),
        "evaluated_points": done.evaluated_points,
        "points_per_s": done.points_per_s,
        "seconds": done.seconds,
    }


def _rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _show(done: "Summary", best: "pd.DataFrame") -> None:
    kept = done.points - done.evaluated_points
    earlier = f", {kept:,} of them by an earlier run" if kept else ""
    speed = f" ({done.points_per_s:,.0f} points/s)" if done.evaluated_points >= SPEED_FROM_POINTS else ""
    _say(f"{done.points:,} points in {done.output}{earlier}; {done.seconds:.1f} s{speed}")
    refused = sum(done.refused.values())
    if refused:
        _say(f"{refused:,} points do not exist (column refused):")
        for reason, count in sorted(done.refused.items(), key=lambda item: -item[1]):
            _say(f"  {count:,}: {reason}")
    if best.empty:
        return
    # What all rows share says nothing about them.
    told = [
        name
        for name in best.columns
        if name not in (*SHOWN, "refused", "count") and (best[name].nunique() > 1 or name == "pattern")
    ]
    columns = dict(_column(name, best[name].tolist()) for name in told)
    columns["time µs"] = [f"{time_s * 1e6:.4g}" for time_s in best["time_s"]]
    columns["speedup vs dense"] = [f"{speedup:.2f}x" for speedup in best["speedup_vs_dense"]]
    columns["bound by"] = best["limit"].tolist()
    console.print_table(
        "Greatest speedups vs dense",
        list(columns),
        list(zip(*columns.values(), strict=True)),
        note="Against the dense product on the same core; columns that all of these share are left out.",
    )


def _column(name: str, values: list[Any]) -> tuple[str, list[str]]:
    """Heading and cells of a column, areas and energies in units for people."""
    if "_um2" in name or "_joules" in name:
        unit, per = ("mm²", 1 / UM2_PER_MM2) if "_um2" in name else joules_unit(values)
        heading = f"{name.replace('_um2', '').replace('_joules', '')} {unit}"
        return heading, ["-" if math.isnan(value) else short(value * per) for value in values]
    return name, [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]


def _say(text: str) -> None:
    console.out.print(text, highlight=False, markup=False)
