"""A device that is not there: said in one line, exit code 3, nothing written."""

from typing import NoReturn

import typer

from nmsim.cli import console

NO_DEVICE = 3
DEVICES = ("cpu", "cuda")


def stop_without(device: str, problem: str) -> NoReturn:
    """End the run, since it cannot have the device it was asked to use."""
    console.err.print(f"nmsim: --device {device}: {problem}", style="red", highlight=False, markup=False)
    raise typer.Exit(NO_DEVICE)
