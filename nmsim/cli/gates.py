"""`nmsim synth`: what units of hardware take in gates, depth and registers. `nmsim rtl`: units as Verilog."""

import contextlib
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

from typer import Option

from hwmodels.gates.record import GateRow, Goal, UnitSpec
from hwmodels.rtl import catalogue
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError, brief, brief_names
from nmsim.files import atomic
from nmsim.files.output import ROW_FILE, Output
from nmsim.rows import check as check_rows
from nmsim.rows.files import read

FORMATS = ["8:16/combinatorial"]
UNITS = ["decoder"]
FAILED = 1
USUAL_BITS = 8
EXAMPLES = {
    "synth": [
        "nmsim synth -f 8:16/combinatorial --unit decoder,position_decoder",
        "nmsim synth -f 6:16/tiled --goal delay -o mine.csv",
        "nmsim synth --check hwmodels/rtl/synthesis.csv",
    ],
    "rtl": [
        "nmsim rtl -f 8:16/combinatorial --unit decoder -o decoder.v",
        "nmsim rtl -f 8:16/tiled --unit lane --stages 2 -o lane.v",
        "nmsim rtl -f 8:16 --unit select --variant onehot --width-bits 16 -o select.v",
        "nmsim rtl -f 8:16/combinatorial --list",
    ],
}

Formats = Annotated[
    list[str],
    Option(
        "--format",
        "-f",
        metavar="FORMATS",
        help="Patterns and encodings of the codes, joined by commas or repeated: N:M/ENCODING, or N:M for units without codes.",
    ),
]


def synth(
    formats: Formats = FORMATS,
    unit: Annotated[
        list[str],
        Option("--unit", "-u", metavar="UNITS", help=f"Units: {', '.join(catalogue.UNITS)}."),
    ] = UNITS,
    variant: Annotated[
        list[str] | None,
        Option("--variant", metavar="NAMES", help="Structures of the unit. Default: all that it has."),
    ] = None,
    width_bits: Annotated[
        list[str] | None,
        Option("--width-bits", metavar="BITS", help="Bits of a value or a key. Default: those of the table."),
    ] = None,
    stages: Annotated[int, Option(min=0, help="Ranks of registers between inputs and outputs.")] = 0,
    goal: Annotated[
        list[str] | None,
        Option("--goal", metavar="GOALS", help="What the script works for: area, delay. Default: both."),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="CSV file to append rows to; units that it holds are not synthesised again.",
        ),
    ] = None,
    everything: Annotated[bool, Option("--all", help="Synthesise all units of the table.")] = False,
    check: Annotated[
        Path | None,
        Option("--check", metavar="FILE", help="Synthesise some units of a table again, and compare."),
    ] = None,
) -> Answer:
    """Synthesise units of hardware, and show what they take.

    Gates are counted in equivalents of a NAND2 of two inputs, without flip-flops. A delay of 1 FO4 is that of an inverter that
    drives four. Each unit is mapped for few gates, and for a short path. Needs the extra rtl of the
    package.
    With --check, a number that differs by over 2 % gives exit code 1.
    """
    if check is not None:
        return _check(check, output, everything)
    if output is not None:
        console.claim(Output(output, "rows", ROW_FILE))
        check_rows(output, GateRow)
    if everything:
        wanted = catalogue.table_rows()
    else:
        wanted = catalogue.asked(_specs(formats, unit, variant, width_bits, stages), _goals(goal))
    with console.share_bar() as progress:
        rows, skipped = catalogue.fill(wanted, output, progress=progress)
    data = {
        "file": None if output is None else str(output),
        "rows": [asdict(row) for row in rows],
        "appended": 0 if output is None else len(rows) - skipped,
        "skipped": skipped,
    }
    return Answer(data, lambda: _show(rows, output, skipped))


def _goals(texts: list[str] | None) -> list[Goal]:
    goals: list[Goal] = []
    for text in options.split_names(texts, "goal") if texts is not None else catalogue.GOALS:
        if text not in get_args(Goal):
            raise NmsimError(f"--goal {brief(text)}: expected one of {brief_names(get_args(Goal))}")
        goals += [goal for goal in catalogue.GOALS if goal == text]
    return goals


def _specs(
    formats: list[str],
    units: list[str],
    variants: list[str] | None,
    widths_bits: list[str] | None,
    stages: int,
) -> list[UnitSpec]:
    """Every unit of every format, in the order in which they are named."""
    found: list[UnitSpec] = []
    for text, unit in itertools.product(options.formats(formats), options.split_names(units, "unit")):
        if text.format is None:
            raise NmsimError("--format dense: expected N:M/ENCODING, such as 8:16/combinatorial")
        found += catalogue.specs_of(
            unit,
            text.format.pattern,
            encoding=text.format.encoding.name,
            variants=options.split_names(variants or []),
            widths_bits=options.whole_numbers("--width-bits", widths_bits or [], "8,16"),
            stages=stages,
        )
    return found


def _check(file: Path, output: Path | None, everything: bool) -> Answer:
    """Synthesise the units again that stand for all, and compare them with the rows of a file."""
    if output is not None or everything:
        raise NmsimError("--check is given with --output or --all, expected it alone")
    held = {catalogue.Asked(row.spec, row.goal): row for row in read(file, GateRow)}
    wanted = [one for one in catalogue.ci_subset() if one in held]
    if not wanted:
        raise NmsimError(f"{file}: none of the units that are checked, expected rows of nmsim synth --all")
    with console.share_bar() as progress:
        again, _ = catalogue.fill(wanted, progress=progress)
    wrong = {
        str(one): problems
        for one, row in zip(wanted, again, strict=True)
        if (problems := catalogue.differences(held[one], row))
    }

    def show() -> None:
        for name, problems in wrong.items():
            console.say(f"{name}: {'; '.join(problems)}")
        console.say(f"{file}: {len(wanted)} units synthesised again, {len(wrong)} of them differ")

    data = {"file": str(file), "units": len(wanted), "differ": wrong}
    return Answer(data, show, FAILED if wrong else 0)


def _show(rows: list[GateRow], output: Path | None, skipped: int) -> None:
    shown = [(row, [row.unit, row.pattern, row.encoding, row.variant]) for row in rows]
    console.print_table(
        "Units of hardware",
        ["unit", "pattern", "encoding", "variant", "bits", "stages", "goal", "NAND2", "levels", "FO4", "flip-flops", "cut"],
        [
            (*names, *_counts(row))
            for row, names in shown
        ],
        note="NAND2: gates without flip-flops. Cut: flip-flops of one more rank at half of the delay.",
        spare=["stages", "cut"],
    )  # fmt: skip
    if output is not None:
        console.say(f"{output}: {len(rows) - skipped} rows appended, {skipped} were there")


def _counts(row: GateRow) -> tuple[Any, ...]:
    return (
        row.width_bits or "-",
        row.stages,
        row.goal,
        f"{row.nand2:.0f}",
        row.levels,
        f"{row.fo4:.1f}",
        row.flip_flops,
        f"{row.cut_bits:.0f}",
    )


def rtl(
    text: Annotated[
        str,
        Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="Pattern and encoding of the codes: N:M/ENCODING, or N:M for units without codes.",
        ),
    ] = FORMATS[0],
    unit: Annotated[
        str, Option("--unit", "-u", metavar="UNIT", help=f"One of {', '.join(catalogue.UNITS)}.")
    ] = UNITS[0],
    variant: Annotated[
        str | None,
        Option(
            "--variant", metavar="NAME", help="Structure of the unit. Default: the first that --list shows."
        ),
    ] = None,
    width_bits: Annotated[
        int | None,
        Option(
            "--width-bits", min=1, metavar="BITS", help=f"Bits of a value or a key. Default: {USUAL_BITS}."
        ),
    ] = None,
    stages: Annotated[int, Option(min=0, help="Ranks of registers between inputs and outputs.")] = 0,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Verilog file to write. The module has its name.",
        ),
    ] = None,
    bench: Annotated[
        bool, Option("--bench/--no-bench", help="Write a test bench and its vectors beside the file.")
    ] = True,
    force: Annotated[bool, Option("--force", help="Replace existing files.")] = False,
    names: Annotated[
        bool, Option("--list", help="List the units of the format, and do nothing else.")
    ] = False,
) -> Answer:
    """Write a unit of hardware as Verilog, with a test bench that checks itself.

    The bench FILE_tb.v compares the unit with vectors of the encodings, in FILE_tb.hex. It tries all codes or masks, if there
    are at most 65,536, and a sample otherwise. It prints PASS or FAIL. Needs the extra rtl of the package.
    """
    if names:
        return _list_units(text)
    if output is None:
        raise NmsimError("no --output given: expected -o FILE.v, or --list")
    from hwmodels.rtl.verilog.files import files, module_name

    # Names are claimed before the unit is built, so that a file in the way is an error at once.
    name = module_name(output.stem)
    paths = {name: output.with_name(name) for name in _file_names(name, bench)}
    outputs = [Output(path, suffixes=(path.suffix,), strict=True) for path in paths.values()]
    outputs[0] = Output(output, suffixes=(".v",), strict=True)
    console.claim(*outputs, force=force)
    spec = _spec(text, unit, variant, width_bits, stages)
    with console.busy(f"writing {spec}"):
        built = catalogue.build(spec)
        written = files(built, name, with_bench=bench)
    with contextlib.ExitStack() as stack:
        for file, content in written.items():
            stack.enter_context(atomic.new_file(paths[file], force=force)).write(content.encode())
    data = {
        "unit": asdict(spec),
        "ports": [
            {"name": port.name, "bits": len(port), "direction": direction}
            for direction, ports in (("input", built.inputs), ("output", built.outputs))
            for port in ports
        ],
        "files": [str(path) for path in paths.values()],
    }

    def show() -> None:
        console.say(f"{output}: {spec}")
        if bench:
            console.say(f"beside it: {', '.join(path.name for path in list(paths.values())[1:])}")

    return Answer(data, show)


def _file_names(name: str, bench: bool) -> list[str]:
    return [f"{name}.v", *([f"{name}_tb.v", f"{name}_tb.hex"] if bench else [])]


def _spec(text: str, unit: str, variant: str | None, width_bits: int | None, stages: int) -> UnitSpec:
    """The one unit that is asked for; of several structures, the first."""
    width = [] if width_bits is None else [str(width_bits)]
    specs = _specs([text], [unit], None if variant is None else [variant], width, stages)
    if len({spec.pattern for spec in specs}) > 1 or "," in text:
        raise NmsimError(f"--format {brief(text)}: expected one format")
    usual = [spec for spec in specs if spec.width_bits in (0, USUAL_BITS)]
    return (usual or specs)[0]


def _list_units(text: str) -> Answer:
    specs = [spec for unit in catalogue.UNITS for spec in _specs([text], [unit], None, None, 0)]
    records = [
        {
            "unit": spec.unit,
            "pattern": str(spec.pattern),
            "encoding": spec.encoding,
            "variant": spec.variant,
        }
        for spec in specs
        if spec.width_bits in (0, USUAL_BITS)
    ]

    def show() -> None:
        console.print_table(
            "Units of hardware",
            ["unit", "pattern", "encoding", "variant"],
            [tuple(record.values()) for record in records],
            note="The first variant of a unit is what is made if none is named. --width-bits and --stages take other numbers.",
        )

    return Answer(records, show)
