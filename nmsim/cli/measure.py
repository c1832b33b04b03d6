"""`nmsim measure`: times of real sparse products on this machine, as rows of a CSV file."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nmsim.cli import console
from nmsim.cli.calibrated_spec import machine_id
from nmsim.cli.device import DEVICES, stop_without
from nmsim.cli.progress import share_bar
from nmsim.errors import NmsimError
from nmsim.measurement import Measurement

if TYPE_CHECKING:
    from kernels.measure import Backend, Outcome

WRONG_RESULT = 1


def measure(
    campaign: Annotated[
        str,
        typer.Argument(
            help="What to measure: cpu (under 90 seconds on two cores), cpu-quick (some 20 seconds), cuda (under nine "
            "minutes on one GPU), or the path of a campaign TOML file. Default: that of the device.",
            metavar="CAMPAIGN",
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="CSV file that rows are appended to. What it holds already is not measured again.",
        ),
    ] = Path("rows.csv"),
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine",
            "-m",
            help="Id of the hardware spec that stands for this machine: a name that nmsim predict knows, or the name "
            "of the file that nmsim calibrate wrote, without .toml. Default: the name that nmsim calibrate gives.",
        ),
    ] = None,
    budget_s: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds after which no new round is begun. Default: the campaign's own."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run sparse products on this machine beside the best dense call at hand, check every result, and append rows.

    A kernel and the dense calls are timed interleaved; times are medians with 20th and 80th percentiles. A result that
    is wrong gives no row, and exit code 1. A run that was stopped goes on where it was when it is started again.
    """
    if device not in DEVICES:
        raise NmsimError(f"--device {device!r}: expected one of {', '.join(DEVICES)}")
    from kernels import campaign as campaigns
    from kernels import measure as measuring
    from validate import provenance

    chosen = campaigns.load(campaign or device)
    if device == "cuda":
        from kernels import cuda_device

        if problem := cuda_device.problem():
            stop_without("cuda", problem)
    about = provenance.collect(provenance.command_line(), [])
    with share_bar() as progress:
        backend, name = _backend(device, chosen.seed)
        stamp = measuring.Stamp(machine or name, about.commit, about.dirty)
        outcome = measuring.run(
            chosen,
            backend,
            output,
            stamp,
            budget_s=budget_s,
            progress=progress,
        )
    if as_json:
        found = {name: getattr(outcome, name) for name in ("skipped", "left", "wrong")}
        rows = [asdict(row) for row in outcome.rows]
        console.print_json({"provenance": about.as_dict(), "file": str(output), "rows": rows, **found})
    else:
        _show(outcome, output)
    for problem in outcome.wrong:
        console.err.print(
            f"nmsim: wrong result, no row: {problem}", style="red", highlight=False, markup=False
        )
    if outcome.wrong:
        raise typer.Exit(WRONG_RESULT)


def _backend(device: str, seed: int) -> "tuple[Backend, str]":
    """The device to measure on, and what its machine is called where nobody says."""
    if device == "cuda":
        from kernels import cuda_device
        from kernels.measure_cuda import CudaBackend

        return CudaBackend(seed), machine_id(cuda_device.name())
    from kernels.measure_cpu import CpuBackend

    backend = CpuBackend(seed)
    return backend, backend.host.id


def _show(outcome: "Outcome", output: Path) -> None:
    if outcome.rows:
        first = outcome.rows[0]
        console.print_table(
            f"Measured on {first.machine} ({first.device}); medians, speedup with p20-p80",
            [
                *("M,N,K", "dtype", "pattern", "encoding", "kernel", "threads", "operands"),
                *("time µs", "dense µs", "speedup vs dense", "", "dense call"),
            ],
            map(_cells, outcome.rows),
        )
    said = [f"{len(outcome.rows)} rows appended to {output}"]
    if outcome.skipped:
        said.append(f"{outcome.skipped} were there already")
    if outcome.left:
        said.append(f"{outcome.left} left for want of time: run the same command again")
    console.out.print("; ".join(said), highlight=False, markup=False)


def _cells(row: Measurement) -> tuple[object, ...]:
    assert row.sparse_time_s is not None
    assert row.dense_time_s is not None
    return (
        f"{row.M},{row.N},{row.K}",
        row.dtype,
        row.pattern,
        row.encoding,
        row.kernel,
        row.threads,
        row.l2_state,
        _microseconds(row.sparse_time_s),
        _microseconds(row.dense_time_s),
        f"{row.speedup_vs_dense:.3f}x",
        f"{row.speedup_vs_dense_p20:.2f}-{row.speedup_vs_dense_p80:.2f}",
        row.baseline,
    )


def _microseconds(time_s: float) -> str:
    return f"{time_s * 1e6:.0f}" if time_s >= 1e-3 else f"{time_s * 1e6:.4g}"
