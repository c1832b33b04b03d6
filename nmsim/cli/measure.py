"""`nmsim measure`: times of real sparse products and of transfers on this machine, as rows of CSV files."""

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmsim.cli import console
from nmsim.cli.calibrated_spec import machine_id
from nmsim.cli.device import DEVICES, stop_without
from nmsim.cli.measured import show_products, show_transfers
from nmsim.cli.progress import share_bar
from nmsim.errors import NmsimError
from nmsim.rows.transfer import SUFFIX

if TYPE_CHECKING:
    from kernels.measure.campaign import Campaign
    from kernels.measure.products import Backend
    from kernels.measure.transfers import TransferBackend
    from kernels.timing.rounds import Outcome

WRONG_RESULT = 1


def measure(
    campaign: Annotated[
        str,
        typer.Argument(
            help="What to measure: a campaign by name, or the path of a campaign TOML file. The campaign cpu takes under 90 "
            "seconds on two cores, cpu-quick some 20 seconds, cuda under nine minutes on one GPU. The campaign cuda-tuning "
            "runs its kernels with other numbers than they choose. Default: that of the device.",
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
    transfers: Annotated[
        Path | None,
        typer.Option(
            "--transfers",
            help="CSV file for kernels that move data (prune, pack, unpack, read), where the campaign has some: no products, "
            f"rows of their own. Default: beside --output, its name with {SUFFIX} for .csv.",
            metavar="FILE",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine",
            "-m",
            help="Id of the hardware spec of this machine. It is a name that nmsim predict knows, or the name of the file that "
            "nmsim calibrate wrote, without its suffix. Default: the name that nmsim calibrate gives.",
        ),
    ] = None,
    budget_s: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds after which no new round is begun. Default: the campaign's own."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            help="Glob of what to leave out, such as 'gpu.gemv 16:32 *': kernel, pattern and encoding. May be repeated.",
            metavar="GLOB",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run sparse products on this machine beside the best dense call at hand, check every result, and append rows.

    A kernel and the dense calls are timed interleaved; times are medians with 20th and 80th percentiles. Kernels that only
    move data are timed beside copies of as many bytes, after the products, in a quarter of the time. A result that is wrong
    gives no row, and exit code 1. What the device or a library does not run gives no row and is named. A run that was stopped
    goes on where it was when it is started again.
    """
    if device not in DEVICES:
        raise NmsimError(f"--device {device!r}: expected one of {', '.join(DEVICES)}")
    from kernels.measure import campaign as campaigns
    from kernels.measure import run as campaign_run
    from kernels.timing.rounds import Stamp
    from validate.study import provenance

    files = campaign_run.Files(output, transfers or output.with_name(output.stem + SUFFIX))
    if files.products.absolute() == files.transfers.absolute():
        raise NmsimError(f"--transfers {files.transfers}: expected another file than that of --output")
    chosen = replace(campaigns.load(campaign or device), skip=tuple(skip or ()))
    if device != "cuda":
        campaigns.without_transfers(chosen, f"--device {device}")
    else:
        from kernels.measure.cuda import device as cuda_device

        if problem := cuda_device.problem():
            _check_without_a_device(chosen)
            stop_without("cuda", problem)
    about = provenance.collect(provenance.command_line(), [])
    try:
        with share_bar() as progress:
            backend, mover, name = _backends(device, chosen.seed)
            multiplied, moved = campaign_run.run(
                chosen,
                backend,
                mover,
                files,
                Stamp(machine or name, about.commit, about.dirty),
                budget_s=budget_s,
                progress=progress,
            )
    except KeyboardInterrupt:
        console.err.print(
            f"nmsim: stopped; rows of finished rounds are in {output}: run the same command again for the rest",
            highlight=False,
            markup=False,
        )
        raise
    if as_json:
        of_products = _as_dict(multiplied, files.products)
        of_transfers = _as_dict(moved, files.transfers) if chosen.transfers else None
        console.print_json({"provenance": about.as_dict(), **of_products, "transfers": of_transfers})
    else:
        if chosen.rounds:
            show_products(multiplied, files.products)
        if chosen.transfers:
            show_transfers(moved, files.transfers)
    wrong = [*multiplied.wrong, *moved.wrong]
    _tell("refused, no row", [*multiplied.refused, *moved.refused], "yellow")
    _tell("wrong result, no row", wrong, "red")
    _tell("note", [*multiplied.notes, *moved.notes], "yellow")
    if wrong:
        raise typer.Exit(WRONG_RESULT)


def _check_without_a_device(campaign: "Campaign") -> None:
    """Refuse a campaign that no CUDA device would take, so that it is found out before there is one; torch is needed."""
    if importlib.util.find_spec("torch") is None:
        return
    from kernels.measure import run as campaign_run
    from kernels.measure.cuda.backend import CudaBackend
    from kernels.measure.cuda.transfers import CudaTransfers

    campaign_run.check(campaign, CudaBackend(campaign.seed), CudaTransfers(campaign.seed, {}))


def _backends(device: str, seed: int) -> "tuple[Backend, TransferBackend | None, str]":
    """The device to measure on, for products and for transfers, and what its machine is called where nobody says."""
    if device == "cuda":
        from kernels.measure.cuda import device as cuda_device
        from kernels.measure.cuda.backend import CudaBackend
        from kernels.measure.cuda.transfers import CudaTransfers

        backend = CudaBackend(seed)
        return backend, CudaTransfers(seed, backend.about), machine_id(cuda_device.name())
    from kernels.measure.cpu import CpuBackend

    on_cpu = CpuBackend(seed)
    return on_cpu, None, on_cpu.host.id


def _tell(what: str, lines: list[str], style: str) -> None:
    for line in lines:
        console.err.print(f"nmsim: {what}: {line}", style=style, highlight=False, markup=False)


def _as_dict(outcome: "Outcome[Any]", file: Path) -> dict[str, object]:
    found = {name: getattr(outcome, name) for name in ("skipped", "left", "wrong", "refused", "notes")}
    return {"file": str(file), "rows": [asdict(row) for row in outcome.rows], **found}
