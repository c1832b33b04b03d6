"""`nmsim calibrate` and `nmsim measure`: what this machine can do, and how long sparse products take on it."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from nmsim.cli import console, options
from nmsim.cli.console import Answer, Shares
from nmsim.errors import NmsimError, brief
from nmsim.files import atomic
from nmsim.files.output import ROW_FILE, Output
from nmsim.rows import Measurement
from nmsim.support.names import machine_id
from nmsim.support.toml import to_toml
from validate.study import provenance

if TYPE_CHECKING:
    from hwmodels import HardwareSpec
    from kernels.measure.campaign import Campaign
    from kernels.measure.run import Backend
    from kernels.timing.interleaved import Figure
    from kernels.timing.rounds import Outcome

Progressing = Callable[[float], None]
Figures = list[tuple[str, "Figure"]]
SpecOf = Callable[[str, str], "HardwareSpec"]
Run = Callable[[Progressing], tuple[Figures, list[str], SpecOf]]

DEVICES = ("cpu", "cuda")
WRONG_RESULT = 1
MACHINE = "this-machine"
CALIBRATION_SHARE = 0.25
"""Of the time that calibration and campaign take together, roughly."""
UNITS = {
    "bytes_per_s": ("GB/s", 1e-9),
    "flop_per_s": ("Gflop/s", 1e-9),
    "lanes_per_s": ("10⁹ lanes/s", 1e-9),
    "hz": ("GHz", 1e-9),
    "s": ("µs", 1e6),
}
HEAD = (
    *("M,N,K", "dtype", "format", "kernel", "threads", "operands"),
    *("time µs", "baseline µs", "speedup", "p20-p80", "baseline"),
)
EXAMPLES = {
    "calibrate": ["nmsim calibrate -o my-machine.toml"],
    "measure": ["nmsim measure cpu-quick -o rows.csv", "nmsim measure mine.toml -o mine.csv --budget-s 600"],
}


def calibrate(
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            help="TOML file to write; its name without .toml is the machine's id. Default: the processor's name and "
            "number of cores.",
        ),
    ] = None,
    device: options.Device = "cpu",
    force: options.Force = False,
) -> Answer:
    """Measure what this machine can do, and write it as a hardware file.

    Micro-benchmarks of reads, copies, multiplications and instructions take some ten seconds; no product is timed.
    `nmsim predict --hardware FILE.toml` takes the file. Every figure is a median with its 20th and 80th percentile. A busy
    machine gives lower ones.
    """
    _check_device(device)
    if output is not None:
        _claim_machine(output, force)
    if device == "cuda":
        from kernels.timing import cuda_device

        missing = cuda_device.problem()
        if missing:
            console.stop_without("cuda", missing)
    # Name and target are checked before the measurement, which takes ten seconds.
    about = provenance.collect(provenance.command_line(), [])
    name, run = _cpu() if device == "cpu" else _cuda()
    target = output or Path(f"{name}.toml")
    if output is None:
        _claim_machine(target, force)
    with console.share_bar() as progress:
        figures, doubts, spec_of = run(lambda share: progress("measuring this machine", share))
    spec = spec_of(target.stem, about.timestamp_utc[:10])
    with atomic.new_file(target, force=force) as stream:
        comment = [
            f"Written by {about.command} on {about.timestamp_utc}.",
            *(f"In doubt: {d}." for d in doubts),
        ]
        stream.write(to_toml(spec, comment="\n".join(comment)).encode())
    for doubt in doubts:
        console.warn(f"in doubt: {doubt}", "yellow")

    def show() -> None:
        console.print_table(
            spec.name,
            ["measured", "cores", "median", "p20", "p80", "unit"],
            (_figure_cells(name, figure) for name, figure in figures),
            note="Bytes copied are counted twice, read and written.",
        )
        console.say(f"written: {target}; use it as --hardware {target}")

    return Answer(
        {
            "provenance": about.as_dict(),
            "file": str(target),
            "id": spec.id,
            "doubts": doubts,
            "figures": [{"name": name, **asdict(figure)} for name, figure in figures],
        },
        show,
    )


def _claim_machine(target: Path, force: bool) -> None:
    """Check name and target of a machine that is about to be measured."""
    from hwmodels.machine import calibrated

    console.claim(Output(target, suffixes=(".toml",), strict=True), force=force)
    calibrated.checked_id(target.stem)


def _cpu() -> tuple[str, Run]:
    """The name of this machine, and a function that measures it."""
    from hwmodels.machine import calibrated
    from kernels.calibrate import cpu as calibration
    from kernels.timing.host import this_machine

    host = this_machine()

    def run(progress: Progressing) -> tuple[Figures, list[str], SpecOf]:
        measured = calibration.calibrate(host, progress=progress)
        return (
            measured.figures,
            measured.doubts,
            lambda name, date: calibrated.cpu_spec(measured, name, date),
        )

    return host.id, run


def _cuda() -> tuple[str, Run]:
    """The name of the CUDA device, and a function that measures it."""
    import kernels.timing.cuda_device
    from hwmodels.machine import calibrated
    from kernels.calibrate import cuda as calibration_cuda

    def run(progress: Progressing) -> tuple[Figures, list[str], SpecOf]:
        measured = calibration_cuda.calibrate(progress)
        return measured.figures, [], lambda name, date: calibrated.cuda_spec(measured, name, date)

    return machine_id(kernels.timing.cuda_device.name()), run


def _figure_cells(name: str, figure: "Figure") -> tuple[object, ...]:
    unit, scale = UNITS[figure.unit]
    return (name, figure.cores, *(f"{v * scale:.4g}" for v in (figure.p50, figure.p20, figure.p80)), unit)


def measure(
    campaign: Annotated[
        str,
        Argument(
            help="What to measure: a campaign by name, or the path of a campaign TOML file. The campaign cpu takes under 90 "
            "seconds on two cores, cpu-quick some 20 seconds, cuda under nine minutes on one GPU. The campaign cuda-tuning "
            "runs its kernels with other numbers than they choose. Default: that of the device.",
            metavar="CAMPAIGN",
        ),
    ] = "",
    device: options.Device = "cpu",
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            help="CSV file that rows are appended to. What it holds already is not measured again.",
        ),
    ] = Path("rows.csv"),
    machine: Annotated[
        str | None,
        Option(
            "--machine",
            "-m",
            help="Id of the hardware spec of this machine. It is a name that nmsim predict knows, or the name of the file that "
            "nmsim calibrate wrote, without its suffix. Default: the name that nmsim calibrate gives.",
        ),
    ] = None,
    budget_s: Annotated[
        float | None,
        Option(min=0, help="Seconds after which no new round is begun. Default: the campaign's own."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        Option(
            "--skip",
            help="Glob of what to leave out, such as 'gpu.gemv 16:32/*': kernel and format. May be repeated.",
            metavar="GLOB",
        ),
    ] = None,
) -> Answer:
    """Time sparse products on this machine, and append rows to a file.

    Each product runs beside the best available dense call, and every result is checked. A kernel and the dense calls are timed
    interleaved; times are medians with 20th and 80th percentiles. Kernels that only move a matrix are timed beside copies of
    as many bytes, in place of the dense calls. A wrong result gives no row, and exit code 1. What the device
    or a library does not run gives no row and is named. A run that was stopped continues when it is started again.
    """
    _check_device(device)
    console.claim(Output(output, "rows", ROW_FILE))
    from kernels.measure import campaign as campaigns
    from kernels.measure import run as campaign_run
    from kernels.timing.rounds import Stamp

    chosen = replace(campaigns.load(campaign or device), skip=tuple(skip or ()))
    if device == "cuda":
        from kernels.timing import cuda_device

        if problem := cuda_device.problem():
            # A mistake in the campaign is found even on a machine that cannot run it.
            _check_without_a_device(chosen)
            console.stop_without("cuda", problem)
    about = provenance.collect(provenance.command_line(), [])
    try:
        with console.share_bar() as progress:
            backend, name = _backend(device, chosen.seed)
            outcome = campaign_run.run(
                chosen,
                backend,
                output,
                Stamp(machine or name, about.commit, about.dirty),
                budget_s=budget_s,
                progress=progress,
            )
    except KeyboardInterrupt:
        console.warn(
            f"nmsim: stopped; rows of finished rounds are in {output}: run the same command again for the rest"
        )
        raise
    _warn_of("refused, no row", outcome.refused, "yellow")
    _warn_of("wrong result, no row", outcome.wrong, "red")
    _warn_of("note", outcome.notes, "yellow")
    data = {"provenance": about.as_dict(), **_as_dict(outcome, output)}
    return Answer(data, lambda: _show_rows(outcome, output), WRONG_RESULT if outcome.wrong else 0)


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise NmsimError(f"--device {brief(device)}: expected one of {', '.join(DEVICES)}")


def _check_without_a_device(campaign: "Campaign") -> None:
    """Refuse a campaign that no CUDA device would take, so that it is found out before there is one; torch is needed."""
    if importlib.util.find_spec("torch") is None:
        return
    from kernels.measure import run as campaign_run
    from kernels.measure.cuda.backend import CudaBackend

    campaign_run.check(campaign, CudaBackend(campaign.seed))


def _backend(device: str, seed: int) -> "tuple[Backend, str]":
    """The device to measure on, and what its machine is called if nobody says."""
    if device == "cuda":
        from kernels.measure.cuda.backend import CudaBackend
        from kernels.timing import cuda_device

        return CudaBackend(seed), machine_id(cuda_device.name())
    from kernels.measure.cpu import CpuBackend

    on_cpu = CpuBackend(seed)
    return on_cpu, on_cpu.host.id


def _warn_of(what: str, lines: list[str], style: str) -> None:
    for line in lines:
        console.warn(f"nmsim: {what}: {line}", style)


def _as_dict(outcome: "Outcome", file: Path) -> dict[str, object]:
    found = {name: getattr(outcome, name) for name in ("skipped", "left", "wrong", "refused", "notes")}
    return {"file": str(file), "rows": [asdict(row) for row in outcome.rows], **found}


def _show_rows(outcome: "Outcome", file: Path) -> None:
    """Print the rows of a run, and how many were there already or are left. Transfers say how fast they moved bytes."""
    rows = outcome.rows
    if rows:
        head = [*HEAD, "GB/s"] if any(row.is_transfer for row in rows) else [*HEAD]
        console.print_table(
            f"Measured on {rows[0].machine} ({rows[0].device}); medians, speedup with p20-p80",
            head,
            [_cells(row)[: len(head)] for row in rows],
            extra=["dtype", "threads", "operands", "baseline", "baseline µs"],
            spare=["kernel", "time µs", "GB/s"],
        )
    console.say_appended(len(rows), file, skipped=outcome.skipped, left=outcome.left)


def _cells(row: Measurement) -> tuple[object, ...]:
    assert row.sparse_time_s is not None
    assert row.dense_time_s is not None
    return (
        f"{row.M},{row.N},{row.K}",
        row.dtype,
        f"{row.pattern}/{row.encoding}" if row.encoding else "dense",
        row.kernel,
        row.threads,
        row.l2_state,
        _microseconds(row.sparse_time_s),
        _microseconds(row.dense_time_s),
        f"{row.speedup_vs_dense:.3f}x",
        f"{row.speedup_vs_dense_p20:.2f}-{row.speedup_vs_dense_p80:.2f}",
        row.baseline,
        "" if row.moved_bytes is None else f"{row.moved_bytes / row.sparse_time_s / 1e9:.4g}",
    )


def _microseconds(time_s: float) -> str:
    return f"{time_s * 1e6:.0f}" if time_s >= 1e-3 else f"{time_s * 1e6:.4g}"


@dataclass(frozen=True)
class Here:
    """The files of one run, and the doubts about them."""

    hardware: Path
    rows: Path
    doubts: list[str]
    wrong: list[str]


def measure_here(folder: Path, campaign: str, progress: Shares) -> Here:
    """Calibrate, then run a campaign on this CPU.

    Parameters
    ----------
    folder : Path
        A folder of ours, without rows. It gets `this-machine.toml` and `rows.csv`.
    campaign : str
        As for `nmsim measure`.
    progress : callable
        Called with the present step and the share that is done.

    Raises
    ------
    NmsimError
        No case gave a row: every result was wrong, or the campaign has none.
    """
    from hwmodels.machine.calibrated import cpu_spec
    from kernels.calibrate import cpu as calibration
    from kernels.measure import campaign as campaigns
    from kernels.measure import run as measuring
    from kernels.measure.cpu import CpuBackend
    from kernels.timing.host import this_machine
    from kernels.timing.rounds import Stamp

    chosen = campaigns.load(campaign)
    about = provenance.collect(provenance.command_line(), [])
    hardware, target = folder / f"{MACHINE}.toml", folder / "rows.csv"
    # The machine first: its figures are those of a processor that has not been heated by a campaign.
    found = calibration.calibrate(
        this_machine(), progress=lambda share: progress("calibrating this machine", CALIBRATION_SHARE * share)
    )
    outcome = measuring.run(
        chosen,
        CpuBackend(chosen.seed),
        target,
        Stamp(MACHINE, about.commit, about.dirty),
        progress=lambda text, share: progress(text, CALIBRATION_SHARE + (1 - CALIBRATION_SHARE) * share),
    )
    if not outcome.rows:
        raise NmsimError(f"campaign {campaign}: no row; {'; '.join(outcome.wrong) or 'it has no case'}")
    with atomic.new_file(hardware) as stream:
        spec = cpu_spec(found, MACHINE, about.timestamp_utc[:10])
        stream.write(to_toml(spec, comment=f"Written by {about.command} on {about.timestamp_utc}.").encode())
    return Here(hardware, target, found.doubts, list(outcome.wrong))
