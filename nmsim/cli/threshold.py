"""`nmsim threshold`: the dense models that are as small, as fast and as frugal as a pruned one, which has to beat them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from typer import Argument, Option

import hwmodels
from hwmodels.threshold import ModelFormat, QuantisedDense, Threshold, equal_value_bits
from hwmodels.threshold.compare import (
    ENDS,
    Comparison,
    beside,
    compare,
    in_unit,
    label,
    narrow_bits,
    params_unit,
    problems,
    span,
)
from hwmodels.threshold.footprint import NONE
from nmsim.case import DEFAULT_DTYPE
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.files.atomic import new_file
from nmsim.files.output import ROW_FILE, Output
from nmsim.support.cells import write_csv
from nmsim.units import joules_unit, percent, short
from validate.accuracy.beside_cost import LOSS_INCREASE, Qualities, asked_qualities

UNKNOWN = "-"
PATTERNS = ["2:4", "8:16"]
MACHINES = ["h200"]
CORE = "flexible-8x16"
NO_OUTLIERS = [NONE]
QUANTISED = ["8", "4", "3"]
EXAMPLES = {
    "threshold": [
        "nmsim threshold llama-3.1-8b -p 8:16/combinatorial -H h200",
        "nmsim threshold -p 8:16 -x none,4:256,columns:128 -H h200,h200-8x16 -o threshold.csv",
        "nmsim threshold llama-3.1-8b -p 8:16/bitmask -H flexible-8x16",
    ]
}


def threshold(
    model: Annotated[
        str, Argument(help="Model that ships with nmsim, a Hugging Face config.json, or its folder.")
    ] = options.MODEL,
    pattern: options.Patterns = PATTERNS,
    encoding: options.Encodings = None,
    packing: options.Packings = options.BITSTREAM,
    outliers: Annotated[
        list[str],
        Option(
            "--outliers",
            "-x",
            help="What is kept beside the N:M part: none, n:m (n of m elements, such as 8:256), or columns:C (whole columns "
            "along K).",
        ),
    ] = NO_OUTLIERS,
    outlier_encoding: Annotated[
        str, Option("--outlier-encoding", help="Encoding of n:m outliers.")
    ] = "combinatorial",
    dtype: options.DtypeOfModel = None,
    side_dtype: Annotated[
        str | None, Option("--side-dtype", help="Value type of outliers and columns. Default --dtype.")
    ] = None,
    rest_dtype: Annotated[
        str | None,
        Option(
            "--rest-dtype",
            help=f"Value type of output head and embedding. Default {DEFAULT_DTYPE}, or --dtype if a core design lacks that.",
        ),
    ] = None,
    group: Annotated[
        int,
        Option(
            min=0, help="Elements along K that share a scale if values have fewer than 16 bits; 0: no scales."
        ),
    ] = 128,
    scale_bits: Annotated[int, Option("--scale-bits", min=0, help="Bits per scale.")] = 16,
    quantised: Annotated[
        list[str], Option("--quantised", "-q", help="Bits of the values of dense models to compare with.")
    ] = QUANTISED,
    hardware: options.Hardware = MACHINES,
    core: Annotated[
        str | None,
        Option(
            "--core",
            "-c",
            help="Core design whose energy counts: a name or a .toml file; '' for none. Default: the design among --hardware, "
            f"else {CORE}.",
        ),
    ] = None,
    tokens: options.Tokens = 1,
    context: options.Context = 0,
    kv_dtype: options.KvDtype = None,
    step: Annotated[
        int, Option(min=1, help="Widths of dense models are multiples of so many elements.")
    ] = 16,
    losses: options.Losses = None,
    losses_of: options.LossesOf = None,
    output: options.OutputCsv = None,
    force: options.Force = False,
) -> Answer:
    """Find the dense models that cost as little as a pruned one.

    This is the Performance Threshold: a pruned model is worth having if it is more accurate than these. Bytes are counted
    exactly, without norms and biases. Time (predicted, with its range) and energy (nominal, with that of low and high costs)
    are of the linear layers in one decode step. With --context, time is of attention and its cache as well. Dense models have
    the same depth, vocabulary and value types, and all widths in proportion.
    """
    if output is not None:
        console.claim(Output(output, suffixes=ROW_FILE), force=force)
    loaded = hwmodels.load_model(model)
    if dtype is None and loaded.dtype is not None:
        console.warn(
            f"value type of the pruned layers: {loaded.dtype}, as the model says; --dtype sets another"
        )
    kind = dtype or loaded.dtype or DEFAULT_DTYPE
    machines = hwmodels.load_chips(options.split_names(hardware))
    design = options.core_of(core, machines, CORE)
    designs = [chip for chip in machines if isinstance(chip, hwmodels.SparseTensorCore)]
    lacks = any(DEFAULT_DTYPE not in chip.dtypes for chip in designs)
    rest = rest_dtype or (kind if lacks else DEFAULT_DTYPE)
    common: dict[str, Any] = {
        "dtype": kind, "side_dtype": side_dtype, "rest_dtype": rest, "group_elems": group, "scale_bits": scale_bits,
    }  # fmt: skip
    ways = [
        ModelFormat(one.format, **beside(kept, outlier_encoding), **common)
        for one in options.formats(pattern, encoding, packing)
        for kept in options.split_names(outliers, "outliers")
    ]
    qualities = asked_qualities(
        losses, losses_of or (), patterns=[how.pattern for how in ways if how.pattern]
    )
    with console.share_bar() as progress:
        rows, narrow = compare(
            loaded,
            ways,
            machines,
            design,
            tokens=tokens,
            context_tokens=context,
            kv_dtype=kv_dtype,
            step_elems=step,
            narrow_bits=narrow_bits(options.split_names(quantised)),
            progress=progress,
        )
    # A missing threshold is a remark and not an error: the others are still valid.
    for problem in problems(rows):
        console.warn(problem)
    records = [row.record() | _loss_cells(row, qualities) for row in rows]
    if output is not None:
        import pandas as pd

        with new_file(output, force=force) as stream:
            write_csv(pd.DataFrame(records), stream)
    of_narrow = [
        {"hardware": name, "core": design.id if design else None, **asdict(each)}
        for name, models in narrow.items()
        for each in models
    ]
    data = {"pruned": records, "quantised": of_narrow, **_losses(rows, qualities)}
    return Answer(data, lambda: _show(rows, narrow, qualities))


def _loss_cells(row: Comparison, qualities: Qualities | None) -> dict[str, Any]:
    """Columns of the best measured way of a format; none without losses."""
    if qualities is None:
        return {}
    best = next(iter(qualities.of_format(row.how)), None)
    _, _, criterion, mitigation = best.key if best else ("", "", None, None)
    # JSON has no number for what is not known.
    cells = {name: None if value != value else value for name, value in qualities.cells(best).items()}
    column = qualities.quantity.column
    return {**cells, f"{column}_criterion": criterion, f"{column}_mitigation": mitigation}


def _losses(rows: Sequence[Comparison], qualities: Qualities | None) -> dict[str, Any]:
    """All measured ways of the formats, and what they are of, for JSON."""
    if qualities is None:
        return {}
    ways = {one.key: one for row in rows for one in qualities.of_format(row.how)}
    keys = ("operand", "pattern", "criterion", "mitigation")
    cells = [dict(zip(keys, key, strict=True)) | qualities.cells(one) for key, one in ways.items()]
    found = [{name: None if value != value else value for name, value in each.items()} for each in cells]
    said = [qualities.description, qualities.caveat(rows[0].model)]
    return {"losses": {"model": qualities.model, "text": qualities.text, "says": said, "ways": found}}


def _show(
    rows: Sequence[Comparison],
    narrow: Mapping[str | None, list[QuantisedDense]],
    qualities: Qualities | None,
) -> None:
    """Print the tables of some rows, and a sentence or two for each."""
    first = rows[0]
    stored = [row for row in rows if row.hardware == first.hardware]
    console.print_table(
        f"Bits per element of the pruned layers of {first.model}, {first.how.dtype}",
        ["format", "beside", "values", "metadata", "scales", "beside it", "in all", "of dense", "as dense values of"],
        [[*_way(row), *_bits(row)] for row in stored],
        note="Packing included. The last column: bits of dense values with which a model with scales is as small.",
    )  # fmt: skip
    # One unit for all rows of the table, chosen by the largest figure.
    costs = [getattr(row, sense) for row in rows for sense in ("memory", "time", "energy")]
    ends = [getattr(cost, end) for cost in costs if cost for end in ENDS]
    unit_elems = params_unit([first.dense.params_elems, *(end.params_elems for end in ends if end)])
    unit, per_joule = joules_unit([row.energy.pruned_cost for row in rows if row.energy])
    lines = []
    for row in stored:
        lines.append([*_way(row), *_costs(row.memory, "", "GB", 1e-9, unit_elems)])
        lines += [
            [*_way(row), *_costs(other.time, other.hardware, "ms", 1e3, unit_elems)]
            for other in rows
            if other.how == row.how and other.time
        ]
        if row.energy:
            lines.append([*_way(row), *_costs(row.energy, row.core, unit, per_joule, unit_elems)])
    console.print_table(
        f"Dense models that cost no more, {first.tokens} token{'s' if first.tokens > 1 else ''} per step"
        + (f", context {first.context_tokens}" if first.context_tokens else ""),
        ["format", "beside", "equal", "on", "pruned", "dense", "share", "width", f"parameters {unit_elems}",
         f"range {unit_elems}", f"of bounds {unit_elems}"],
        lines,
        note="Width: hidden size over that of the unpruned model of "
        f"{in_unit(first.dense.params_elems, unit_elems)} {unit_elems}, in steps of {first.memory.step_width:.2g}. "
        "A ~ marks times without measured rows of that pattern.",
        extra=["dense", f"of bounds {unit_elems}"] + (["beside"] if all(r.how.beside == NONE for r in rows) else []),
        spare=["width", "share"],
    )  # fmt: skip
    if any(narrow.values()):
        _show_narrow(narrow, first.core)
    if qualities is not None:
        _show_losses(stored, qualities)
    for row in stored:
        others = [other for other in rows if other.how == row.how and other is not row]
        best = next(iter(qualities.of_format(row.how)), None) if qualities else None
        measured = f" {qualities.sentence(best)}" if qualities and best else ""
        console.say(f"{label(row.how)}: {row.statement(others)}{measured}", gap=True)
    if qualities is not None:
        console.say(f"{qualities.description} {qualities.caveat(first.model)}", gap=True)


def _show_losses(stored: Sequence[Comparison], qualities: Qualities) -> None:
    """Print the best measured way of each format, and the choice by magnitude alone beside it."""
    # Formats that differ in their encoding only have the same losses: keys of a dict leave such lines out.
    lines: dict[tuple[str, ...], None] = {}
    for row in stored:
        ways = qualities.of_format(row.how)
        names = str(row.how.pattern), row.how.beside
        shown = [*ways[:1], *(one for one in ways[1:] if one.way.criterion == "magnitude")][:2]
        for one in shown:
            _, _, criterion, mitigation = one.key
            ends = UNKNOWN if one.low != one.low else f"{one.low:.3f}-{one.high:.3f}"
            ratio = f"{one.ratio.mean:.3g}x" if qualities.quantity is LOSS_INCREASE else UNKNOWN
            lines[*names, criterion, mitigation, f"{one.value:.3f}", ends, ratio] = None
        if not shown:
            lines[*names, *[UNKNOWN] * 5] = None
    console.print_table(
        f"Measured on {qualities.model_name} with pruned weights, not on {stored[0].model}",
        [
            "pattern",
            "beside",
            "criterion",
            "mitigation",
            qualities.quantity.label,
            "95 % interval",
            "perplexity vs dense",
        ],
        list(lines),
        note="The best measured way, and the choice by magnitude. - if nothing was measured.",
        extra=["beside"] if all(row.how.beside == NONE for row in stored) else [],
    )


def _show_narrow(narrow: Mapping[str | None, list[QuantisedDense]], core: str | None) -> None:
    """Print the table of dense models of narrow values."""
    models = next(iter(narrow.values()))
    unit, per_joule = joules_unit(each.energy_joules for each in models if each.energy_joules)
    machines = [name for name in narrow if name]
    headings = [*(f"{name} ms" for name in machines), *([f"{core} {unit}"] if core else [])]
    console.print_table(
        "Dense models of narrow values",
        ["bits per value", "bits per element", "GB", *headings],
        [
            [
                each.value_bits,
                f"{each.bits_per_element:.4g}",
                f"{each.total_bytes * 1e-9:.4g}",
                *(_scaled(narrow[name][place].time_s, 1e3) for name in machines),
                *([_scaled(each.energy_joules, per_joule)] if core else []),
            ]
            for place, each in enumerate(models)
        ],
        note="Products of two operands of that type; - if the machine or core has none." if headings else "",
    )


def _scaled(value: float | None, factor: float) -> str:
    return UNKNOWN if value is None else short(value * factor)


def _way(row: Comparison) -> list[str]:
    stored = row.how.row()
    return [f"{stored['pattern']}/{stored['encoding']}", row.how.beside]


def _bits(row: Comparison) -> list[str]:
    stored, elems = row.stored, row.stored.pruned_elems
    side_bytes = stored.side_values_bytes + stored.side_metadata_bytes
    parts = (stored.values_bytes, stored.metadata_bytes, stored.scales_bytes, side_bytes, stored.pruned_bytes)
    return [
        *(f"{8 * part / elems:.4g}" for part in parts),
        percent(row.linear_share, 1, unit="%"),
        f"{equal_value_bits(stored, row.how):.4g} bits",
    ]


def _costs(threshold: Threshold, where: str | None, unit: str, per: float, unit_elems: str) -> list[str]:
    bounds = threshold.of_bounds
    mark = "~" if threshold.extrapolates else ""
    return [
        threshold.sense,
        where or UNKNOWN,
        f"{short(threshold.pruned_cost * per)} {unit}",
        f"{short(threshold.dense_cost * per)} {unit}",
        percent(threshold.share, 1, unit="%"),
        f"{threshold.equal.width:.3f}",
        f"{mark}{in_unit(threshold.equal.params_elems, unit_elems)}",
        span(threshold, unit_elems, "-", "up to ") or UNKNOWN,
        in_unit(bounds.params_elems, unit_elems) if bounds else UNKNOWN,
    ]
