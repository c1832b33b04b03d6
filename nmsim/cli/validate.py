"""`nmsim validate`: measured and published times against predictions, with the error of every family."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmsim.cli import console
from nmsim.cli.live import judge_live, write_json
from nmsim.errors import NmsimError

if TYPE_CHECKING:
    from validate.judge.judge import Judgement

METRIC_HEADINGS = ("rows", "speedup", "dense time", "sparse time", "bias", "side of 1", "in interval")
SHOWN_VIOLATIONS = 10


def validate(
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            "--rows",
            "-r",
            help="CSV of measured rows, as nmsim measure writes them, or a literature table in the layout of "
            "validate/data/published_source.csv. Repeat for several. Default: the rows that ship with nmsim.",
        ),
    ] = None,
    hardware: Annotated[
        list[Path] | None,
        typer.Option(
            "--hardware", "-H", help="Hardware TOML files whose machines the rows name. Repeat for several."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--json", metavar="OUT", help="Write all figures as JSON to this file; - prints them."),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="Predict each machine with constants fitted without it and its relatives."
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Calibrate the CPU at hand by micro-benchmarks, predict a campaign from that alone, measure it, and "
            "compare. Two minutes.",
        ),
    ] = False,
    campaign: Annotated[
        str,
        typer.Option(help="With --live: what to measure, as for nmsim measure: cpu, cpu-quick, or a file."),
    ] = "cpu",
    folder: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="With --live: folder for this-machine.toml, rows.csv, verdict.json and measured_on_predicted.svg.",
        ),
    ] = Path("validated"),
) -> None:
    """Join measured or published rows with predictions, and report the error of each family of rows.

    The errors are medians of |predicted / measured - 1|. A row that cannot be judged is an error with its number.
    """
    from validate.judge.judge import judge_files

    if live:
        if rows or hardware or held_out:
            raise NmsimError(
                "--live measures rows of its own: expected no --rows, --hardware or --held-out beside it"
            )
        judge_live(folder, campaign, output)
        return

    if output is not None and str(output) != "-":
        _refuse(output)
    judged = judge_files(rows or (), hardware or (), held_out=held_out)
    for name, columns in judged.unread_columns.items():
        console.err.print(f"{name}: not read: columns {', '.join(columns)}", highlight=False, markup=False)
    verdict = judged.verdict()
    if output is not None and str(output) == "-":
        console.print_json(verdict)
        return
    _show(judged, verdict)
    if output is not None:
        write_json(output, verdict)


def _show(judged: "Judgement", verdict: Mapping[str, Any]) -> None:
    from validate.judge.metrics import FAMILY

    kind = "constants fitted without each machine" if judged.held_out else "constants fitted on all machines"
    everything = [("all", verdict["overall"])]
    everything += [(_name(group, "dtype_class"), group) for group in verdict["dtype_classes"]]
    everything += [(_name(group, "regime"), group) for group in verdict["regimes"]]
    _table(f"Predicted against measured, {kind}", ("rows of",), [((n,), m) for n, m in everything])
    _table("By kernel family", ("kernel family",), _named(verdict["kernel_families"], ("kernel_family",)))
    _table("By machine", ("machine",), _named(verdict["machines"], ("machine",)))
    if len(verdict["marks"]) > 1:
        _table("By what the source says against a row", ("mark",), _named(verdict["marks"], ("mark",)))
    heads = tuple(name.replace("_", " ") for name in FAMILY)
    _table("By family", heads, _named(verdict["families"], FAMILY))
    _show_worst(verdict["worst"])
    _show_violations(verdict["bound_violations"])


def _named(groups: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[tuple[tuple[str, ...], Any]]:
    return [(tuple(_name(group, column) for column in columns), group) for group in groups]


def _name(group: Mapping[str, Any], column: str) -> str:
    return group[column] or "none"


def _table(title: str, heads: Sequence[str], rows: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> None:
    console.print_table(
        title,
        [*heads, *METRIC_HEADINGS],
        [
            (
                *names,
                metrics["n_rows"],
                *(_percent(metrics[f"{kind}_mdape"]) for kind in ("speedup", "dense_time", "sparse_time")),
                _percent(metrics["speedup_bias"], sign=True),
                _percent(metrics["sign_share"]),
                _percent(metrics["interval_coverage"]),
            )
            for names, metrics in rows
        ],
    )


def _percent(share: float | None, sign: bool = False) -> str:
    if share is None:
        return "-"
    return f"{100 * share:+.1f} %" if sign else f"{100 * share:.1f} %"


def _show_worst(worst: Sequence[Mapping[str, Any]]) -> None:
    console.print_table(
        "Worst rows",
        ["row", "machine", "kernel", "pattern", "dtype", "M,N,K", "measured", "predicted", "mark"],
        [
            (
                f"{Path(row['file']).name}:{row['row']}",
                row["machine"],
                row["kernel"],
                row["written_pattern"],
                row["dtype"],
                f"{row['M']},{row['N']},{row['K']}",
                f"{row['measured_speedup_vs_dense']:.2f}x",
                f"{row['predicted_speedup_vs_dense']:.2f}x",
                row["mark"] or "-",
            )
            for row in worst
        ],
        note="Speedups vs dense; row 1 is the first below the header.",
    )


def _show_violations(violations: Sequence[Mapping[str, Any]]) -> None:
    if not violations:
        console.out.print("No row is faster than its machine's bound.", highlight=False, markup=False)
        return
    console.out.print(
        f"{len(violations)} measured times below the bound of their machine:", highlight=False, markup=False
    )
    for row in violations[:SHOWN_VIOLATIONS]:
        console.out.print(
            f"  {Path(row['file']).name}:{row['row']} {row['machine']} {row['kernel']}, {row['product']}: "
            f"{row['measured_time_s'] * 1e6:.4g} us, bound {row['bound_time_s'] * 1e6:.4g} us. {row['explanation']}.",
            highlight=False,
            markup=False,
        )
    if len(violations) > SHOWN_VIOLATIONS:
        console.out.print(
            f"  and {len(violations) - SHOWN_VIOLATIONS} more; --json lists all", highlight=False
        )


def _refuse(path: Path) -> None:
    if not path.parent.is_dir() or path.is_dir():
        raise NmsimError(f"--json {path}: expected a file name in an existing folder, or - to print")
