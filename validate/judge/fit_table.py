"""Measured rows as the table that constants are fitted to, and what is added to the residuals of a fit.

Fitted are rows of GPUs whose kernel family is named and whose two times are known. Rows of our own CPU campaigns are
predicted from the calibration of their machine alone; only their residuals join those of the fit.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hwmodels
from hwmodels.estimate import constants, fit
from hwmodels.estimate.constants import FITTED_FILE
from hwmodels.estimate.intervals import CPU_FAMILY, REGIMES, RESIDUALS_FILE, WIDTHS, width_of
from hwmodels.estimate.library_fit import fit_libraries, libraries_text, values_of
from hwmodels.machine.libraries import LIBRARIES_FILE
from hwmodels.machine.spec import HardwareSpec, group_of
from nmsim.errors import NmsimError, RowError, brief
from nmsim.files.atomic import updated_folder
from nmsim.files.output import Output, check
from nmsim.support.sources import read_text
from validate.judge.join import family_of, join, model_inputs
from validate.judge.names import Machines
from validate.judge.rows import MORE_FILE, PUBLISHED_FILE, JudgedRow, committed_hardware, own_files, read_rows

RESIDUAL_COLUMNS = (
    *("family", "width", "regime", "machine", "row"),
    *("log_speedup_error", "log_dense_time_error", "log_sparse_time_error"),
)
ON_UNIT = ("library", "sliding", "column-nm")
"""Families that run on the sparse matrix unit."""
CHOSEN = ("auto", "software")
"""Families whose way of running the model chooses."""


@dataclass(frozen=True)
class FitTable:
    """Rows to fit, with `fit.FIT_COLUMNS`, `row` and `measured_speedup_vs_dense`; and why others are left out.

    `left_out` counts rows by reason.
    """

    rows: pd.DataFrame
    left_out: Mapping[str, int]


def fit_table(rows: Sequence[JudgedRow], machines: Machines) -> FitTable:
    """Choose the rows that constants are fitted to.

    Parameters
    ----------
    rows : sequence of JudgedRow
    machines : Machines

    Raises
    ------
    RowError
        An unknown machine, or one of a hardware file, because constants are fitted on shipped machines. An unknown word
        for a pattern, or no row that can be fitted.
    """
    left_out: dict[str, int] = {}
    kept: list[JudgedRow] = []
    ids: list[str] = []
    shipped = set(hwmodels.machine_names())
    for row in rows:
        try:
            spec = machines.find(row.measurement.machine)
            reason = _reason(row, spec)
        except RowError as error:
            raise RowError(f"{row.where}: {error}") from error
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        # The fitted constants ship with nmsim, so every user must be able to repeat the fit.
        elif spec.id not in shipped:
            raise RowError(f"{row.where}: machine={brief(spec.id)}: expected a machine that ships with nmsim")
        else:
            kept.append(row)
            ids.append(spec.id)
    if not kept:
        found = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"
        raise RowError(
            f"no row to fit to: expected GPU rows of a named kernel with both times; found {found}"
        )
    measured = [row.measurement for row in kept]
    times = pd.DataFrame(
        {
            f"measured_{name}": [getattr(row, name) for row in measured]
            for name in ("dense_time_s", "sparse_time_s", "speedup_vs_dense")
        },
        dtype="float64",
    )
    numbers = pd.DataFrame({"row": [row.number for row in kept]})
    inputs = model_inputs(zip(measured, ids, strict=True))
    return FitTable(pd.concat([inputs, times, numbers], axis=1), left_out)


def _reason(row: JudgedRow, spec: HardwareSpec) -> str:
    """Why a row is not fitted; nothing if it is."""
    if spec.family == "cpu":
        return "of CPUs"
    family = family_of(row.measurement).name
    if family in CHOSEN:
        return "of kernels that the model chooses"
    if family in ON_UNIT and row.measurement.dtype not in spec.sparse_peak_flop_per_s:
        return "of value types without a sparse peak"
    if row.measurement.dense_time_s is None or row.measurement.sparse_time_s is None:
        return "without both times"
    return ""


def cpu_residuals() -> pd.DataFrame:
    """Judge the rows of our own CPU campaigns, each machine known by its calibration alone.

    Returns
    -------
    DataFrame
        `RESIDUAL_COLUMNS`; empty if no campaign has been committed.
    """
    machines = Machines(committed_hardware())
    rows = [row for path in own_files() for row in read_rows(path, machines).rows]
    rows = [row for row in rows if machines.find(row.measurement.machine).family == "cpu"]
    if not rows:
        return pd.DataFrame(columns=list(RESIDUAL_COLUMNS))
    table = join(rows, machines, hwmodels.predict_rows)
    errors = {
        f"log_{name}_error": np.log1p(table[f"{name}_error"]).round(4)
        for name in ("speedup", "dense_time", "sparse_time")
    }
    width = [width_of(dtype) for dtype in table["dtype"]]
    labels = table[["regime", "machine", "row"]].assign(family=CPU_FAMILY, width=width)
    return labels.assign(**errors)[list(RESIDUAL_COLUMNS)]


def held_out_metrics(found: fit.Fitted, table: FitTable) -> list[dict[str, Any]]:
    """Reduce the residuals of machines that were left out: of all rows, of each value width, family and regime.

    Returns
    -------
    list of dict
        `rows_of`, `n_rows`, `speedup_mdape`, `dense_time_mdape`, `sparse_time_mdape`, `speedup_bias` and
        `sign_share`, as `validate.judge.metrics.summarise` defines them.
    """
    errors = found.residuals
    sets: dict[str, Any] = {"all": errors["row"].notna()}
    sets |= {width: errors["width"] == width for width in WIDTHS}
    sets |= {name: errors["regime"] == name for name in REGIMES}
    sets |= {name: errors["family"] == name for name in dict.fromkeys(errors["family"])}
    measured = np.log(table.rows["measured_speedup_vs_dense"].to_numpy(np.float64))
    out = []
    for name, chosen in sets.items():
        rows = errors[chosen]
        if rows.empty:
            continue
        # Residuals are logarithms of predicted over measured, so the prediction is their sum.
        own = measured[chosen.to_numpy()]
        predicted = own + rows["log_speedup_error"].to_numpy()
        share = {
            f"{kind}_mdape": float(np.expm1(rows[f"log_{kind}_error"]).abs().median())
            for kind in ("speedup", "dense_time", "sparse_time")
        }
        out.append(
            {"rows_of": name, "n_rows": len(rows)}
            | share
            | {
                "speedup_bias": float(np.expm1(rows["log_speedup_error"]).median()),
                "sign_share": float(((own > 0) == (predicted > 0)).mean()),
            }
        )
    return out


def fit_output(folder: Path, *, of_libraries: bool = False) -> Output:
    """Say what a fit writes into a folder, and that files of an earlier fit there may be replaced.

    Parameters
    ----------
    folder : Path
    of_libraries : bool
        As `fit_library_file` writes it, and not `fit_files`.
    """
    if of_libraries:
        file = folder / LIBRARIES_FILE.name
        # The file begins with a remark that every fit keeps.
        own = file.exists() and _text(file).startswith(_text(LIBRARIES_FILE).split("\n", 1)[0])
        return Output(folder, "folder", names=(file.name,), ours=(file.name,) if own else ())
    names = (RESIDUALS_FILE.name, FITTED_FILE.name)
    try:
        ours = names if read_text(folder / FITTED_FILE.name).startswith(fit.HEADER) else ()
    except NmsimError:
        ours = ()
    return Output(folder, "folder", names=names, ours=ours)


def fit_files(
    files: Sequence[Path],
    folder: Path | None,
    progress: Callable[[str, float], None] | None = None,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Fit the constants of the estimate to files of rows, and write constants and residuals.

    Parameters
    ----------
    files : sequence of Path
        Tables of rows; empty for the published rows that ship with nmsim.
    folder : Path or None
        Where `fitted.toml` and `residuals.csv` are replaced together; None for the data that predictions read.
    progress : callable, optional
        Receives the group of machines that is left out, and the share done.
    force : bool
        Replace files that no fit wrote.

    Returns
    -------
    dict
        `source`, `left_out` (rows by reason), `cpu_residuals` (rows), and `constants` with `unit`, `prior`, `before` and
        `after`. Also `held_out` as `held_out_metrics`, `folder`, `changed` (names of files), and `few_rows`, a remark or
        empty.

    Raises
    ------
    RowError
        As `fit_table` and `read_rows`.
    NmsimError
        A folder that cannot be written.
    """
    target = folder or FITTED_FILE.parent
    written = fit_output(target)
    check([written], force=force, sources=files)
    table = _table_of(files)
    before = constants.load()._asdict()
    names = [FITTED_FILE.name, RESIDUALS_FILE.name]
    texts_before = {name: _text(target / name) for name in names}
    groups = {group_of(machine) for machine in table.rows["machine"]}
    steps = itertools.count()

    def one_more(step: str) -> None:
        if progress is not None:
            progress(f"fitting {step}", next(steps) / (1 + len(groups)))

    last = FITTED_FILE.name
    with updated_folder(
        target, names=written.names, ours=written.ours, last=last, force=force, sources=files
    ) as work:
        fitted = fit.fit(table.rows, one_more)
        metrics = held_out_metrics(fitted, table)
        own = cpu_residuals()
        # Residuals of our own CPU rows stand beside those of the fit, though no constant is fitted to them.
        residuals = pd.concat([fitted.residuals, own], ignore_index=True) if len(own) else fitted.residuals
        fit.write(replace(fitted, residuals=residuals), work)
        changed = [name for name in names if _text(work / name) != texts_before[name]]
    few = len(table.rows) < len(constants.PRIORS)
    values = fitted.values._asdict()
    return {
        "source": fitted.source,
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
        "folder": str(target),
        "changed": changed,
        "few_rows": f"{len(table.rows)} rows for {len(constants.PRIORS)} constants: most stay where their reasons put them"
        if few
        else "",
    }


def fit_library_file(
    files: Sequence[Path],
    folder: Path | None,
    progress: Callable[[str, float], None] | None = None,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Read the properties of vendor libraries off rows, and write `libraries.toml` with these values.

    Sources, remarks, and what a generation is like stay as in the shipped file. So do values of generations without rows.

    Parameters
    ----------
    files, folder, progress, force
        As for `fit_files`; the folder is where `libraries.toml` is replaced.

    Returns
    -------
    dict
        `rows` (their number), `folder`, `changed` (names of files), and `properties`: each with `section`, `name`, `before`
        and `after`.

    Raises
    ------
    RowError, NmsimError
        As `fit_files`.
    """
    target = folder or LIBRARIES_FILE.parent
    written = fit_output(target, of_libraries=True)
    check([written], force=force, sources=files)
    table, old = _table_of(files), _text(LIBRARIES_FILE)
    before = _text(target / LIBRARIES_FILE.name)
    text = libraries_text(fit_libraries(table.rows, progress or (lambda step, share: None)))
    last = LIBRARIES_FILE.name
    with updated_folder(
        target, names=written.names, ours=written.ours, last=last, force=force, sources=files
    ) as work:
        (work / last).write_text(text, encoding="utf-8")
    was = values_of(old)
    properties = [
        {"section": section, "name": name, "before": was[section, name], "after": value}
        for (section, name), value in values_of(text).items()
    ]
    changed = [last] if text != before else []
    return {"rows": len(table.rows), "properties": properties, "folder": str(target), "changed": changed}


def _table_of(files: Sequence[Path]) -> FitTable:
    """Rows of files, or the published ones."""
    machines = Machines(committed_hardware())
    rows = [row for path in files or [PUBLISHED_FILE, MORE_FILE] for row in read_rows(path, machines).rows]
    return fit_table(rows, machines)


def _text(path: Path) -> str:
    """What a file holds; nothing if there is none."""
    return read_text(path, error=NmsimError) if path.exists() else ""
