"""`nmsim machine`: the machines that ship with nmsim, their numbers with sources, and a file to start from."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import hwmodels
from hwmodels.machine.spec import numbers_of, summary
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError, SpecError
from nmsim.files import atomic
from nmsim.support.schema import to_toml
from nmsim.units import short

EXAMPLES = {"machine": ["nmsim machine --list", "nmsim machine h200", "nmsim machine h200 --write mine.toml"]}


def machine(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A machine that ships with nmsim, or the path of a hardware TOML file.", metavar="MACHINE"
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write", metavar="FILE", help="Write the machine as a .toml file to edit, and do nothing else."
        ),
    ] = None,
    force: options.Force = False,
    names: Annotated[
        bool, typer.Option("--list", help="List the machines that ship with nmsim, and do nothing else.")
    ] = False,
) -> Answer | None:
    """Show a machine with its sources, list machines, or write one as a file.

    Every number says how it is known: from a datasheet, measured, fitted or assumed. A file that was written and edited is
    given to other verbs as --hardware FILE.toml. All problems of a file are named in one run.
    """
    if names:
        return _list()
    if name is None:
        raise SpecError("no machine given: expected a name, such as nmsim machine h200, or --list")
    spec = hwmodels.load_machine(name)
    if write is None:
        return _numbers(spec)
    if write.suffix != ".toml":
        raise NmsimError(f"--write {write}: expected a name that ends in .toml")
    # Another machine must not answer to the names of the one that ships.
    with atomic.new_file(write, force=force) as file:
        file.write(to_toml(replace(spec, aliases=())).encode())
    console.say(f"wrote {write}")
    return None


def _list() -> Answer:
    records = [summary(hwmodels.load_machine(name)) for name in hwmodels.machine_names()]

    def show() -> None:
        # Prefixes are for the reader of a table; JSON has the base units of the names.
        console.print_table(
            "Machines",
            [
                "machine",
                "cores",
                "clock GHz",
                "DRAM GB/s",
                "DRAM GB",
                "Tflop/s",
                "sparse Tflop/s",
                "sparse units",
                "name",
            ],
            [
                (
                    record["id"],
                    record["cores"],
                    short(record["clock_hz"] / 1e9),
                    short(record["dram_bandwidth_bytes_per_s"] / 1e9),
                    short(record["dram_capacity_bytes"] / 1e9),
                    *(
                        short(record[peak] / 1e12) if record[peak] else "-"
                        for peak in ("dense_peak_flop_per_s", "sparse_peak_flop_per_s")
                    ),
                    ", ".join(record["native_patterns"]) or "-",
                    record["name"],
                )
                for record in records
            ],
            note="Peaks of 16-bit values. The sparse peak counts the operations of the dense product.",
            extra=["name"],
            spare=["DRAM GB"],
        )

    return Answer(records, show)


def _numbers(spec: hwmodels.HardwareSpec) -> Answer:
    records: list[dict[str, Any]] = numbers_of(spec)

    def show() -> None:
        console.print_table(
            spec.name,
            ["number", "value", "unit", "known from", "source"],
            [
                (
                    record["key"],
                    f"{record['value']:.6g}",
                    *(record[key] for key in ("unit", "kind", "source")),
                )
                for record in records
            ],
            extra=["source"],
        )

    return Answer({"id": spec.id, "name": spec.name, "numbers": records}, show)
