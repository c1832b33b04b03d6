"""`nmsim machine`, `core` and `compare`: machines, one product on core designs, and two chips on one model."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from typer import Argument, Option

import hwmodels
from hwmodels.chips.load import told_apart
from hwmodels.comparison.chips import Comparison, compare_chips
from hwmodels.estimate.table import MAX_DIMENSION
from hwmodels.machine.spec import numbers_of, summary
from hwmodels.silicon.products import (
    ENERGIES,
    SHARES,
    area_records,
    best_encoding,
    next_stage,
    simulated_record,
)
from hwmodels.silicon.products import (
    compare as compare_products,
)
from nmsim.case import Case, GemmShape
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError, SpecError, brief
from nmsim.files import atomic
from nmsim.files.output import PICTURES, ROW_FILE, Output
from nmsim.files.weights import read_matrix
from nmsim.format import DENSE
from nmsim.pattern import Pattern
from nmsim.support.cells import write_csv
from nmsim.support.toml import to_toml
from nmsim.units import joules_unit, percent, short

PATTERNS = ["2:4", "4:8", "8:16"]
CORES = ["flexible-8x16"]
EXAMPLES = {
    "machine": ["nmsim machine --list", "nmsim machine h200", "nmsim machine h200 --write mine.toml"],
    "core": [
        "nmsim core 4096,4096,4096 -c flexible-8x16 -p 2:4,8:16",
        "nmsim core 1,4096,4096 -p 8:16/combinatorial --simulate -w model.safetensors -t model.layers.0.mlp.up_proj.weight",
        "nmsim core -c flexible-8x16 --write mine.toml",
    ],
    "compare": [
        "nmsim compare nvidia-like-2x4 flexible-8x16 -m llama-3.1-8b -p 2:4",
        "nmsim compare mine.toml other.toml -m qwen3-8b -p 8:16 --batch 16 --plot difference.svg",
    ],
}
CONTEXT_TOKENS = 4096
MOST_LAYERS = 8
"""Layers that a table of differences shows, those that differ most."""


def machine(
    name: Annotated[
        str | None,
        Argument(
            help="A machine that ships with nmsim, or the path of a hardware TOML file.", metavar="MACHINE"
        ),
    ] = None,
    write: Annotated[
        Path | None,
        Option(
            "--write", metavar="FILE", help="Write the machine as a .toml file to edit, and do nothing else."
        ),
    ] = None,
    force: options.Force = False,
    names: Annotated[
        bool, Option("--list", help="List the machines that ship with nmsim, and do nothing else.")
    ] = False,
) -> Answer | None:
    """Show a machine with its sources, list machines, or write one as a file.

    Every number says how it is known: from a datasheet, measured, fitted or assumed. A file that was written and edited is
    given to other verbs as --hardware FILE.toml. All problems of a file are named in one run.
    """
    if names and write is not None:
        raise NmsimError("--list and --write are both given, expected one of them")
    if names:
        return _list_machines()
    if name is None:
        raise SpecError("no machine given: expected a name, such as nmsim machine h200, or --list")
    spec = hwmodels.load_machine(name)
    if write is None:
        return _numbers(spec)
    # Another machine must not answer to the names of the one that ships.
    _write(replace(spec, aliases=()), write, force)
    return None


def _list_machines() -> Answer:
    records = [summary(hwmodels.load_machine(name)) for name in hwmodels.machine_names()]

    def show() -> None:
        # Prefixes are for the reader of a table; JSON has the base units of the names.
        console.print_table(
            "Machines",
            ["machine", "cores", "clock GHz", "DRAM GB/s", "DRAM GB", "Tflop/s", "sparse Tflop/s", "sparse units", "name"],
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
        )  # fmt: skip

    return Answer(records, show)


def _numbers(spec: hwmodels.HardwareSpec) -> Answer:
    records: list[dict[str, Any]] = numbers_of(spec)

    def show() -> None:
        console.print_table(
            spec.name,
            ["number", "value", "unit", "known from", "source"],
            [
                (record["key"], f"{record['value']:.6g}", record["unit"], record["kind"], record["source"])
                for record in records
            ],
            extra=["source"],
        )

    return Answer({"id": spec.id, "name": spec.name, "numbers": records}, show)


def core(
    shape: Annotated[str | None, options.SHAPE] = None,
    cores: options.Cores = CORES,
    pattern: options.Patterns = PATTERNS,
    encoding: options.Encodings = None,
    packing: options.Packings = options.BITSTREAM,
    other: Annotated[
        str | None,
        Option("--other", help="Pattern N:M of the other operand, on a dual-sided core, or dense."),
    ] = None,
    dtype: options.DtypeOrNone = None,
    sparse_operand: options.Operand = "weights",
    simulated: Annotated[
        bool, Option("--simulate", help="Simulate too, on masks drawn at random or those of --weights.")
    ] = False,
    weights: Annotated[
        Path | None,
        Option("--weights", "-w", help="Safetensors checkpoint whose weights are pruned for --simulate."),
    ] = None,
    tensor: Annotated[str | None, Option("--tensor", "-t", help="Its tensor [N, K] to take.")] = None,
    write: Annotated[
        Path | None,
        Option(
            "--write", metavar="FILE", help="Write the core as a .toml file to edit, and do nothing else."
        ),
    ] = None,
    force: options.Force = False,
    names: Annotated[
        bool, Option("--list", help="List the cores that ship with nmsim, and do nothing else.")
    ] = False,
) -> Answer | None:
    """Predict the cycles of a product on sparse tensor cores.

    The product is Y[M,N] = X[M,K] W[N,K]^T. Cycles are those of a closed form of the pipeline from DRAM to the sums. They are
    a lower bound of what --simulate sees block by block, except with --other. Energy is a nominal figure with its range.
    These cores are designs that nobody sells. The value type is the first that a core takes, and the encoding the one with
    the fewest cycles, if none is named.
    """
    if names and write is not None:
        raise NmsimError("--list and --write are both given, expected one of them")
    if names:
        return _list_cores()
    core_names = options.split_names(cores, "core")
    machines = told_apart(
        core_names, [hwmodels.load_core(name) for name in core_names], option="--core", what="cores"
    )
    if write is not None:
        if len(machines) != 1:
            raise NmsimError(f"--write: expected one core, got {len(machines)}")
        _write(machines[0], write, force)
        return None
    if shape is None:
        raise SpecError("no shape given: expected M,N,K, such as nmsim core 1,4096,4096")
    if tensor is not None and weights is None:
        raise NmsimError(f"--tensor {tensor}: expected --weights with the checkpoint it is in")
    if weights is not None and not simulated:
        raise NmsimError("--weights: only a simulation looks at masks; expected --simulate as well")
    if weights is not None and sparse_operand != "weights":
        raise NmsimError(f"--weights: expected sparse weights, got sparse {sparse_operand}")
    gemm = GemmShape(*options.read_shape(shape))
    for name, size in asdict(gemm).items():
        if size > MAX_DIMENSION:
            raise SpecError(f"shape {name}={size}: expected at most {MAX_DIMENSION}")
    second = None if other in (None, DENSE) else Pattern.parse(other)
    values = read_matrix(weights, tensor) if weights is not None else None
    if values is not None and values.shape != (gemm.N, gemm.K):
        raise NmsimError(
            f"--tensor {tensor}: shape {list(values.shape)}: expected [N, K] of the product {shape}, {[gemm.N, gemm.K]}"
        )
    asked = options.formats(pattern, encoding, packing)
    products = []
    for machine in machines:
        for one in asked:
            value_type = dtype or machine.dtypes[0]
            case = Case(gemm, one.format, dtype=value_type, sparse_operand=sparse_operand)  # type: ignore[arg-type]
            # If no encoding was named, each core gets its own best, because cores take different encodings.
            products.append((machine, case if one.chosen else best_encoding(machine, case, second)))
    compared = compare_products(products, second)
    for remark in compared.remarks:
        console.warn(remark)
    if not compared.taken:
        raise NmsimError("nothing left to predict: expected a pattern and an encoding that a core takes")
    if simulated:
        with console.share_bar() as progress:
            for place, (machine, case) in enumerate(compared.taken):

                def share_done(
                    share: float, place: int = place, text: str = f"{case.pattern or DENSE} on {machine.id}"
                ) -> None:
                    progress(text, (place + share) / len(compared.taken))

                record = simulated_record(machine, case, second, values, share_done)
                compared.records[place].update(record)
    beside = f", other operand {second}" if second else ""
    title = f"M={gemm.M}, N={gemm.N}, K={gemm.K}, sparse {sparse_operand}{beside}"

    def show() -> None:
        _show(compared.records, title, bound=second is None)
        # Products of one core share its area. With several cores, what each would be for one value type alone is left out.
        used = list(dict.fromkeys(machine for machine, _ in compared.taken))
        _show_areas(
            [record for machine in used for record in area_records(machine)[: 5 if len(used) == 1 else 1]]
        )
        if not all(one.chosen for one in asked):
            console.say(
                "No encoding was named: each row has the one that takes the fewest cycles on its core."
            )

    return Answer(compared.records, show)


def compare(
    first: Annotated[
        str, Argument(help="A machine or core design, or the path of its TOML file.", metavar="FIRST")
    ],
    second: Annotated[str, Argument(help="The chip that it is compared with.", metavar="SECOND")],
    model: options.Model = options.MODEL,
    pattern: Annotated[
        str,
        Option(
            "--pattern",
            "-p",
            metavar="FORMAT",
            help="How the pruned layers are stored: N:M, N:M/ENCODING, or dense. Without an encoding each chip has the one "
            "that it is fastest with.",
        ),
    ] = "8:16",
    batch: Annotated[int, Option("--batch", "-b", min=1, help="Sequences that are processed together.")] = 1,
    context: options.Context = CONTEXT_TOKENS,
    prefill: Annotated[
        int | None,
        Option(
            "--prefill", metavar="TOKENS", min=1, help="Prompts of so many tokens instead of a decode step."
        ),
    ] = None,
    dtype: options.DtypeOfModel = None,
    sparse_operand: options.Operand = "weights",
    kv_dtype: options.KvDtype = None,
    output: options.OutputCsv = None,
    plot: Annotated[
        Path | None,
        Option(
            "--plot",
            metavar="FILE",
            help="Figure of what each section adds, of two core designs: .svg, .png or .pdf.",
        ),
    ] = None,
    force: options.Force = False,
) -> Answer:
    """Compare two chips on one model, and show where the difference comes from.

    Times are of one step with pruned layers, attention included. Of two core designs, numbers of the first file are replaced
    by those of the second, section by section. What each section adds to time, energy and area then adds up to the whole
    difference. A number in bytes per cycle follows the clock.
    """
    # Names of outputs are checked before anything is predicted.
    files = [Output(output, suffixes=ROW_FILE)] if output is not None else []
    files += [Output(plot, suffixes=PICTURES, strict=True)] if plot is not None else []
    if files:
        console.claim(*files, force=force)
    formats = options.formats([pattern])
    if len(formats) != 1:
        raise NmsimError(f"--pattern {brief(pattern)}: expected one format")
    (asked,) = formats
    chips = hwmodels.load_chips([first, second])
    if (output or plot) and not all(isinstance(chip, hwmodels.SparseTensorCore) for chip in chips):
        raise NmsimError(
            "--output, --plot: expected two core designs, whose sections can be replaced one by one"
        )
    found = compare_chips(
        *chips,
        model=model,
        format=asked.format,
        named=asked.chosen,
        phase="decode" if prefill is None else "prefill",
        batch=batch,
        context_tokens=prefill if prefill and context else context,
        new_tokens=prefill,
        dtype=dtype,
        kv_dtype=kv_dtype,
        sparse_operand=sparse_operand,
    )
    sources = [Path(name) for name in (first, second) if name.endswith(".toml")]
    if output is not None:
        with atomic.new_file(output, force=force, sources=sources) as stream:
            write_csv(found.causes, stream)
    if plot is not None:
        from hwmodels import plots

        fig, _ = plots.waterfall(found.causes, first=chips[0].id, second=chips[1].id)
        with atomic.new_file(plot, force=force, sources=sources) as stream:
            stream.write(plots.rendered(fig, plot.suffix.removeprefix(".")))
    data = {
        "first": found.first.record(),
        "second": found.second.record(),
        **{name: _records(getattr(found, name)) for name in ("causes", "layers", "areas")},
    }
    return Answer(data, lambda: _show_comparison(found, [*_expanded(chips, asked, sparse_operand)]))


def _expanded(chips: Sequence[hwmodels.Chip], asked: options.Asked, sparse_operand: str) -> Iterator[str]:
    """Sentences on designs whose arrays do not skip by the pattern."""
    for chip in chips:
        if asked.format is None or isinstance(chip, hwmodels.HardwareSpec):
            continue
        if not chip.takes(asked.format.pattern, sparse_operand):
            yield (
                f"{chip.id} does not skip by {asked.format.pattern} of {sparse_operand}: codes are decoded, and zeros are "
                "multiplied."
            )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table for JSON, which has no number for what is not known."""
    rows = table.to_dict("records")
    return [{str(key): None if cell != cell else cell for key, cell in row.items()} for row in rows]


def _show_comparison(found: Comparison, remarks: Sequence[str]) -> None:
    """Print both chips, what each section adds, and the layers that differ most."""
    # Machines have no sections to replace: of them only times are shown.
    steps = (found.first, found.second)
    tokens = found.first.batch * found.first.new_tokens
    console.print_table(
        f"{found.first.phase.capitalize()} step of {found.first.model}, batch {found.first.batch}, context "
        f"{found.first.context_tokens}",
        ["hardware", "format", "dtype", "time ms", "speedup vs dense", "mJ per token", "bound by"],
        [
            (
                step.hardware,
                options.format_text(step.format),
                "+".join(dict.fromkeys(row.dtype for row in step.linear_rows if row.pruned)),
                f"{step.time_s * 1e3:.4g}",
                f"{step.speedup_vs_dense:.2f}x",
                _known(step.joules.nominal / tokens * 1e3),
                step.limit,
            )
            for step in steps
        ],
        note=f"{found.second.hardware} takes {found.second.time_s / found.first.time_s:.3g} times as long as "
        f"{found.first.hardware}. Joules are nominal, and known of core designs alone.",
    )
    if len(found.causes):
        console.print_table(
            f"From {found.first.hardware} to {found.second.hardware}, section by section",
            ["section", "time ms", "mJ per token", "mm2", "format", "changed"],
            [
                (
                    row.section or found.first.hardware,
                    _added(row.time_s, row.time_difference_s, 1e3, place),
                    _added(row.energy_joules, row.energy_difference_joules, 1e3 / tokens, place),
                    _added(row.area_mm2, row.area_difference_mm2, 1.0, place),
                    row.format,
                    row.changed,
                )
                for place, row in enumerate(_lines(found.causes))
            ],
            note="The first row is the first chip. Each other row is what its section adds after those above.",
            extra=["changed"],
            spare=["format"],
        )
    layers = found.layers.sort_values("difference_s", key=abs, ascending=False, kind="stable").head(
        MOST_LAYERS
    )
    console.print_table(
        "Layers that differ most",
        [
            "layer",
            f"{found.first.hardware} ms",
            f"{found.second.hardware} ms",
            "difference ms",
            "bound by",
            "then by",
        ],
        [
            (
                row.layer,
                f"{row.first_s * 1e3:.4g}",
                f"{row.second_s * 1e3:.4g}",
                _signed(row.difference_s * 1e3),
                row.limit_first,
                row.limit_second,
            )
            for row in _lines(layers)
        ],
        spare=["bound by", "then by"],
    )
    if len(found.areas):
        console.print_table(
            "Area by part",
            ["part", f"{found.first.hardware} mm2", f"{found.second.hardware} mm2", "difference mm2"],
            [
                (row.part, short(row.first_mm2), short(row.second_mm2), _signed(row.difference_mm2))
                for row in _lines(found.areas)
            ],
            note="Nominal; docs/explanation/energy-and-area.md has the ranges.",
        )
    for remark in dict.fromkeys((*remarks, *found.first.notes, *found.second.notes)):
        console.say(remark)


def _lines(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples())


def _known(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{value:+.3g}"


def _added(total: float, difference: float, factor: float, place: int) -> str:
    """The value of the first chip, and what a section adds to it."""
    if total != total:
        return "-"
    return f"{total * factor:.4g}" if place == 0 else _signed(difference * factor)


def _show(records: Sequence[dict[str, Any]], title: str, bound: bool) -> None:
    """Print the table of some records, and the explanation of a single one."""
    unit, per_joule = joules_unit(r["energy_joules"] for r in records if r["energy_joules"] is not None)
    columns = {
        "core": [r["core"] for r in records],
        "format": [
            r["pattern"] if r["pattern"] == DENSE else f"{r['pattern']}/{r['encoding']}" for r in records
        ],
        "cycles": [r["cycles"] for r in records],
        "simulated": [r.get("simulated_cycles") for r in records],
        "time µs": [f"{r['time_s'] * 1e6:.4g}" for r in records],
        "speedup vs dense": [f"{r['predicted_speedup_vs_dense']:.2f}x" for r in records],
        "used": [percent(r["utilisation"], 0, unit="%") for r in records],
        "limited by": [r["limit"] for r in records],
        "next": [f"{name} {percent(share, 0, unit='%')}" for name, share in map(next_stage, records)],
        f"energy {unit}": [_energy(r, per_joule) for r in records],
        "execution": [r["execution"] for r in records],
    }
    # All records are simulated, or none is.
    if "simulated_cycles" not in records[0]:
        del columns["simulated"]
    note = "Against the dense product on the same core. Used: effectual multiply-adds over those that all arrays could do."
    if not bound:
        note += " With a second pattern the cycles are those of pairs that arrive evenly, and no bound."
    console.print_table(
        title,
        list(columns),
        list(zip(*columns.values(), strict=True)),
        note=note,
        extra=["execution", "used"],
        spare=["next", "time µs"],
    )
    if len(records) == 1:
        console.say(f"{records[0]['explanation']}.")


def _show_areas(records: Sequence[dict[str, Any]]) -> None:
    """Print what sparsity adds to cores, per lane and as shares; nothing for dense ones."""
    # Dense cores have nothing to show.
    if not records:
        return
    columns = {
        "core": [r["core"] for r in records],
        "value types": [", ".join(r["dtypes"]) for r in records],
        "lane bits": [r["lane_bits"] for r in records],
        "dense um2 per lane": [short(r["lane_um2"]) for r in records],
        "sparsity um2 per lane": [
            f"{short(r['sparse_lane_um2'])} ({short(r['sparse_lane_um2_low'])}-{short(r['sparse_lane_um2_high'])})"
            for r in records
        ],
        **{
            f"% of {name.removeprefix('overhead_of_')}": [f"{100 * r[name]:.1f}" for r in records]
            for name in SHARES
        },
        "mm2": [short(r["area_um2"] * 1e-6) for r in records],
    }
    console.print_table(
        "Area that sparsity adds",
        list(columns),
        list(zip(*columns.values(), strict=True)),
        note="Shares of the dense arrays (multipliers and adders), of the dense cores (and their registers), and of all "
        "that is modelled. Below a core: the same chip for one value type alone.",
        extra=["mm2"],
        spare=["dense um2 per lane", "lane bits"],
    )


def _energy(record: dict[str, Any], per_joule: float) -> str:
    if record["energy_joules"] is None:
        return "-"
    low, nominal, high = (short(record[end] * per_joule) for end in ENERGIES)
    return f"{nominal} ({low}-{high})"


def _write(spec: hwmodels.HardwareSpec | hwmodels.SparseTensorCore, path: Path, force: bool) -> None:
    console.claim(Output(path, suffixes=(".toml",), strict=True), force=force)
    with atomic.new_file(path, force=force) as file:
        file.write(to_toml(spec).encode())
    console.say(f"wrote {path}")


def _list_cores() -> Answer:
    shipped = [hwmodels.load_core(name) for name in hwmodels.core_names()]

    def show() -> None:
        console.print_table(
            "Tensor cores",
            ["core", "patterns", "encodings", "cores", "multiply-adds per cycle", "name"],
            [
                (
                    core.id,
                    ", ".join(map(str, core.patterns)) or DENSE,
                    ", ".join(core.encodings) if core.patterns else "",
                    core.cores,
                    core.cores * core.array_rows * core.array_cols * core.array_depth,
                    core.name,
                )
                for core in shipped
            ],
            note="Multiply-adds of values as wide as a lane: 16 bits, 8 on the edge chip.",
            extra=["name"],
        )

    return Answer([{"id": core.id, "name": core.name} for core in shipped], show)
