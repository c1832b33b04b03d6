"""`nmsim fit`: the constants of the estimate, fitted to measured rows and checked on machines that were left out."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmsim.cli import console
from nmsim.cli.progress import share_bar, tidy_when_terminated
from nmsim.errors import NmsimError

if TYPE_CHECKING:
    from hwmodels.estimate.fit import Fitted
    from validate.judge.fit_table import FitTable


def fit(
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            "--rows",
            "-r",
            help="CSV of measured rows, in the row schema or in the layout of literature tables. Repeat for several. "
            "Default: the published rows that ship with nmsim.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for fitted.toml and residuals.csv. Default: hwmodels/data, which predictions read.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print constants and errors as JSON instead of tables.")
    ] = False,
) -> None:
    """Fit the constants of the estimate to measured rows, and again without each group of machines.

    The errors shown are of machines that had no part in the fit. Rows of CPUs, and of kernels that the model chooses
    itself, are not fitted. The same rows give the same constants; a fit of the published rows takes about a minute.
    """
    import pandas as pd

    from hwmodels.estimate import constants
    from hwmodels.estimate import fit as fitting
    from hwmodels.estimate.constants import FITTED_FILE
    from hwmodels.estimate.intervals import RESIDUALS_FILE
    from nmsim.files.atomic import refuse_output_folder, updated_folder
    from validate.judge.fit_table import cpu_residuals, fit_table, held_out_metrics
    from validate.judge.machine_names import Machines
    from validate.judge.rows import PUBLISHED_FILE, committed_hardware, read_rows

    if rows and output is None:
        raise NmsimError(
            "--rows without --output: expected a folder for constants that are not those of the shipped rows"
        )
    folder = output or FITTED_FILE.parent
    refuse_output_folder(folder)
    machines = Machines(committed_hardware())
    read = [row for path in rows or [PUBLISHED_FILE] for row in read_rows(path, machines).rows]
    table = fit_table(read, machines)
    if len(table.rows) < len(constants.PRIORS):
        console.err.print(
            f"{len(table.rows)} rows for {len(constants.PRIORS)} constants: most stay where their reasons put them",
            highlight=False,
            markup=False,
        )
    before = constants.load()._asdict()
    names = [FITTED_FILE.name, RESIDUALS_FILE.name]
    was = {name: _text(folder / name) for name in names}
    with tidy_when_terminated(), updated_folder(folder) as work:
        found = _fit_with_bar(table)
        metrics = held_out_metrics(found, table)
        own = cpu_residuals()
        every = pd.concat([found.residuals, own], ignore_index=True) if len(own) else found.residuals
        fitting.write(replace(found, residuals=every), work)
        changed = [name for name in names if _text(work / name) != was[name]]
    values = found.values._asdict()
    record = {
        "source": found.source,
        "left_out": dict(table.left_out),
        "cpu_residuals": len(own),
        "constants": {
            name: {
                "unit": prior.unit,
                "prior": prior.value,
                "before": before[name],
                "after": float(f"{values[name]:.6g}"),
            }
            for name, prior in constants.PRIORS.items()
        },
        "held_out": metrics,
        "folder": str(folder),
        "changed": changed,
    }
    if as_json:
        console.print_json(record)
    else:
        _show(record)


def _fit_with_bar(table: "FitTable") -> "Fitted":
    """Fit, with a bar that names the group of machines that is left out."""
    from hwmodels.estimate import fit as fitting
    from hwmodels.machine.dies import group_of

    groups = {group_of(machine) for machine in table.rows["machine"]}
    done = itertools.count()
    with share_bar() as progress:
        return fitting.fit(
            table.rows, lambda step: progress(f"fitting {step}", next(done) / (1 + len(groups)))
        )


def _text(path: Path) -> str:
    """What a file holds; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise NmsimError(f"{path}: cannot be read: {error}") from error


def _show(record: Mapping[str, Any]) -> None:
    console.print_table(
        f"Constants fitted to {record['source']}",
        ["constant", "unit", "prior", "before", "after", "change"],
        [
            (
                name,
                entry["unit"],
                *(f"{entry[when]:.4g}" for when in ("prior", "before", "after")),
                f"{100 * (entry['after'] / entry['before'] - 1):+.1f} %",
            )
            for name, entry in record["constants"].items()
        ],
        note="Before: what predictions used until now.",
    )
    console.print_table(
        "Errors on machines that were left out",
        ["rows of", "rows", "speedup", "dense time", "sparse time", "bias", "side of 1"],
        [
            (
                row["rows_of"],
                row["n_rows"],
                *(f"{100 * row[f'{kind}_mdape']:.1f} %" for kind in ("speedup", "dense_time", "sparse_time")),
                f"{100 * row['speedup_bias']:+.1f} %",
                f"{100 * row['sign_share']:.1f} %",
            )
            for row in record["held_out"]
        ],
        note="Medians of |predicted / measured - 1|.",
    )
    for reason, count in record["left_out"].items():
        console.out.print(f"not fitted: {count} rows {reason}", highlight=False, markup=False)
    if record["cpu_residuals"]:
        text = f"{record['cpu_residuals']} rows of our own CPU campaigns, predicted from calibration alone"
        console.out.print(f"residuals added: {text}", highlight=False, markup=False)
    if record["changed"]:
        text = f"{record['folder']}: written: {', '.join(record['changed'])}"
    else:
        text = f"{record['folder']}: nothing changed"
    console.out.print(text, highlight=False, markup=False)
