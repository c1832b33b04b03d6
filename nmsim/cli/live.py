"""`nmsim validate --live`: this machine's own rows against what is predicted from its calibration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmsim.cli import console
from nmsim.cli.here import Here, measure_here
from nmsim.cli.progress import share_bar
from nmsim.files.atomic import new_file

if TYPE_CHECKING:
    import pandas as pd

FIGURE = "measured_on_predicted.svg"
SUMMARIES = (("pattern", "encoding"), ("dtype", "M", "N", "K", "threads", "l2_state"))
WORST_ROWS = 5


def judge_live(folder: Path, campaign: str, output: Path | None) -> None:
    """Calibrate, measure, predict, compare; write four files into a folder and print what came out.

    Parameters
    ----------
    folder : Path
        Made where it is missing; files of these names are replaced.
    campaign : str
    output : Path or None
        `-` prints the verdict as JSON instead of tables; another path gets a copy of it.
    """
    from validate.judge.own_machine import own_rows

    with share_bar() as progress:
        here = measure_here(folder, campaign, progress)
    table = own_rows(here.rows, here.hardware)
    found = verdict(table, here)
    write_json(folder / "verdict.json", found)
    _draw(table, folder / FIGURE)
    if output is not None and str(output) != "-":
        write_json(output, found)
    if str(output) == "-":
        console.print_json(found)
        return
    _show(found, folder)


def verdict(table: "pd.DataFrame", here: Here) -> dict[str, Any]:
    """All figures as plain data."""
    from validate.judge.metrics import records
    from validate.judge.own_machine import summarise

    worst = table.reindex(table["speedup_error"].abs().sort_values(ascending=False).index).head(WORST_ROWS)
    return {
        "hardware": str(here.hardware),
        "rows": str(here.rows),
        "doubts": here.doubts,
        "wrong": here.wrong,
        "overall": records(summarise(table.assign(all="all"), ["all"]))[0],
        **{"by_" + "_".join(names): records(summarise(table, names)) for names in SUMMARIES},
        "worst": records(worst),
    }


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Write JSON to a file, whole or not at all; over one of that name."""
    with new_file(path, force=True) as stream:
        stream.write((json.dumps(found, indent=2, allow_nan=False) + "\n").encode())


def _draw(table: "pd.DataFrame", path: Path) -> None:
    from hwmodels import plots

    fig, _ = plots.measured_on_predicted(table)
    with new_file(path, force=True) as stream:
        stream.write(plots.rendered(fig, "svg"))


def _show(found: Mapping[str, Any], folder: Path) -> None:
    for names in SUMMARIES:
        console.print_table(
            "Predicted from calibration alone against measured, medians",
            [
                *(name.replace("_", " ") for name in names),
                "rows",
                "measured",
                "predicted",
                "error",
                "of byte bound",
            ],
            [
                (
                    *(row[name] for name in names),
                    row["n_rows"],
                    f"{row['measured_speedup_vs_dense']:.2f}x",
                    f"{row['predicted_speedup_vs_dense']:.2f}x",
                    f"{100 * row['speedup_mdape']:.0f} %",
                    f"{100 * row['share_of_bound']:.0f} %",
                )
                for row in found["by_" + "_".join(names)]
            ],
        )
    worst = found["worst"][0]
    overall = found["overall"]
    console.out.print(
        f"speedup: median error {100 * overall['speedup_mdape']:.1f} % over {overall['n_rows']} rows; worst: "
        f"{worst['pattern']} {worst['encoding']} {worst['dtype']}, M={worst['M']}, {worst['N']}x{worst['K']}, "
        f"{worst['l2_state']}: measured {worst['measured_speedup_vs_dense']:.2f}x, predicted "
        f"{worst['predicted_speedup_vs_dense']:.2f}x",
        highlight=False,
        markup=False,
    )
    for doubt in (*found["doubts"], *found["wrong"]):
        console.err.print(f"in doubt: {doubt}", style="yellow", highlight=False, markup=False)
    console.out.print(f"written: {folder}", highlight=False, markup=False)
