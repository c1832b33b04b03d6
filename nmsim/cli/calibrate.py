"""`nmsim calibrate`: what this machine can do, measured, as a hardware file that predictions take."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nmsim.cli import calibrated_spec, console
from nmsim.cli.device import DEVICES, stop_without
from nmsim.cli.progress import share_bar
from nmsim.errors import NmsimError
from nmsim.files import atomic

if TYPE_CHECKING:
    from hwmodels import HardwareSpec
    from kernels.timing.figure import Figure

Progressing = Callable[[float], None]
Figures = list[tuple[str, "Figure"]]
SpecOf = Callable[[str, str], "HardwareSpec"]
Run = Callable[[Progressing], tuple[Figures, list[str], SpecOf]]

UNITS = {
    "bytes_per_s": ("GB/s", 1e-9),
    "flop_per_s": ("Gflop/s", 1e-9),
    "lanes_per_s": ("10⁹ lanes/s", 1e-9),
    "hz": ("GHz", 1e-9),
    "s": ("µs", 1e6),
}


def calibrate(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="TOML file to write; its name without .toml is the machine's id. Default: the processor's name and "
            "number of cores.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file of that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what this machine reads, copies, multiplies and issues at best, and write it as a hardware TOML file.

    Micro-benchmarks only, some ten seconds of them: no product is timed. `nmsim predict --hardware FILE.toml` takes the
    file. Every figure is a median with its 20th and 80th percentile; a busy machine gives lower ones.
    """
    if device not in DEVICES:
        raise NmsimError(f"--device {device!r}: expected one of {', '.join(DEVICES)}")
    if output is not None and output.suffix != ".toml":
        raise NmsimError(f"--output {str(output)!r}: expected a name that ends in .toml")
    if device == "cuda":
        from kernels.measure.cuda import device as cuda_device

        missing = cuda_device.problem()
        if missing:
            stop_without("cuda", missing)
    from nmsim.support.schema import to_toml
    from validate.study import provenance

    about = provenance.collect(provenance.command_line(), [])
    name, run = _cpu() if device == "cpu" else _cuda()
    target = output or Path(f"{name}.toml")
    calibrated_spec.checked_id(target.stem)
    atomic.refuse_target(target, force)
    with share_bar() as progress:
        figures, doubts, spec_of = run(lambda share: progress("measuring this machine", share))
    spec = spec_of(target.stem, about.timestamp_utc[:10])
    with atomic.new_file(target, force=force) as stream:
        comment = [
            f"Written by {about.command} on {about.timestamp_utc}.",
            *(f"In doubt: {d}." for d in doubts),
        ]
        stream.write(to_toml(spec, comment="\n".join(comment)).encode())
    for doubt in doubts:
        console.err.print(f"in doubt: {doubt}", style="yellow", highlight=False, markup=False)
    if as_json:
        records = [{"name": name, **asdict(figure)} for name, figure in figures]
        console.print_json(
            {
                "provenance": about.as_dict(),
                "file": str(target),
                "id": spec.id,
                "doubts": doubts,
                "figures": records,
            }
        )
        return
    console.print_table(
        spec.name,
        ["measured", "cores", "median", "p20", "p80", "unit"],
        (_cells(name, figure) for name, figure in figures),
        note="Bytes copied are counted twice, read and written.",
    )
    console.out.print(f"written: {target}; use it as --hardware {target}", highlight=False, markup=False)


def _cpu() -> tuple[str, Run]:
    """The name of this machine, and how it is measured."""
    from kernels.calibrate import cpu as calibration
    from kernels.timing.host import this_machine

    host = this_machine()

    def run(progress: Progressing) -> tuple[Figures, list[str], SpecOf]:
        found = calibration.calibrate(host, progress=progress)
        return found.figures, found.doubts, lambda name, date: calibrated_spec.cpu_spec(found, name, date)

    return host.id, run


def _cuda() -> tuple[str, Run]:
    """The name of the CUDA device, and how it is measured."""
    import kernels.measure.cuda.device
    from kernels.calibrate import cuda as calibration_cuda

    def run(progress: Progressing) -> tuple[Figures, list[str], SpecOf]:
        found = calibration_cuda.calibrate(progress)
        return found.figures, [], lambda name, date: calibrated_spec.cuda_spec(found, name, date)

    return calibrated_spec.machine_id(kernels.measure.cuda.device.name()), run


def _cells(name: str, figure: "Figure") -> tuple[object, ...]:
    unit, scale = UNITS[figure.unit]
    return (name, figure.cores, *(f"{v * scale:.4g}" for v in (figure.p50, figure.p20, figure.p80)), unit)
