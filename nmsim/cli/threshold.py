"""`nmsim threshold`: the dense models that are as small, as fast and as frugal as a pruned one, which has to beat them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmsim.cli import console
from nmsim.cli.progress import share_bar
from nmsim.cli.threshold_rows import NONE, Row, beside, label, show
from nmsim.errors import NmsimError, RowError
from nmsim.files.atomic import new_file, refuse_target

if TYPE_CHECKING:
    from hwmodels.threshold import QuantisedDense, Stored, Threshold

MODEL = "llama-3.1-8b"
PATTERNS = "2:4,8:16"
ENCODINGS = "combinatorial"
QUANTISED = "8,4,3"


def threshold(
    model: Annotated[
        str, typer.Argument(help="A shipped model, a Hugging Face config.json, or its folder.")
    ] = MODEL,
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", "--patterns", "-p", help=f"Patterns N:M, N kept. Default {PATTERNS}."),
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option("--encoding", "--encodings", "-e", help=f"Encodings. Default {ENCODINGS}."),
    ] = None,
    packing: Annotated[
        str, typer.Option(help="bitstream, no_straddle[:W], power_of_two or byte.")
    ] = "bitstream",
    outliers: Annotated[
        list[str] | None,
        typer.Option(
            "--outliers",
            "-x",
            help="What is kept beside the N:M part: none, n:m (n of m elements, such as 8:256), or columns:C (whole columns "
            "along K). Default none.",
        ),
    ] = None,
    outlier_encoding: Annotated[
        str, typer.Option("--outlier-encoding", help="Encoding of n:m outliers.")
    ] = "combinatorial",
    dtype: Annotated[
        str, typer.Option(help="Value type of the pruned layers: bf16, fp16, fp8, int8, int4 ...")
    ] = "bf16",
    side_dtype: Annotated[
        str | None, typer.Option("--side-dtype", help="Value type of outliers and columns. Default --dtype.")
    ] = None,
    rest_dtype: Annotated[
        str, typer.Option("--rest-dtype", help="Value type of output head and embedding.")
    ] = "bf16",
    group: Annotated[
        int,
        typer.Option(
            min=0,
            help="Elements along K that share a scale, where values have fewer than 16 bits; 0: no scales.",
        ),
    ] = 128,
    scale_bits: Annotated[int, typer.Option("--scale-bits", min=0, help="Bits of a scale.")] = 16,
    quantised: Annotated[
        list[str] | None,
        typer.Option(
            "--quantised",
            "-q",
            help=f"Bits of the values of dense models to compare with. Default {QUANTISED}.",
        ),
    ] = None,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            "--hardware", "-H", help="Machines by name, or hardware TOML files; '' for none. Default h200."
        ),
    ] = None,
    core: Annotated[
        str,
        typer.Option(
            "--core", "-c", help="Core design whose energy counts: a name or a .toml file; '' for none."
        ),
    ] = "flexible-8x16",
    tokens: Annotated[int, typer.Option("--tokens", "-t", min=1, help="Sequences decoded together.")] = 1,
    step: Annotated[
        int, typer.Option(min=1, help="Widths of dense models are multiples of so many elements.")
    ] = 16,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="CSV file to write: a row per machine and format."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find the dense models that are as small, as fast and as frugal as a pruned one: the Performance Threshold.

    A pruned model is worth having where it is more accurate than these. Bytes are counted exactly, norms and biases left
    out. Time (predicted, with its range) and energy (nominal, with that of low and high costs) are of the linear layers in
    one decode step. Dense models have the same depth, vocabulary and value types, and all widths in proportion.
    """
    import hwmodels
    from hwmodels.threshold import Stored, quantised_dense
    from hwmodels.threshold.footprint import stacked
    from hwmodels.threshold.widths import hidden_of

    if output is not None:
        refuse_target(output, force)
    loaded = hwmodels.load_model(model)
    hidden = hidden_of(stacked(loaded))
    if step > hidden:
        raise RowError(f"--step {step}: expected at most the hidden size of {loaded.name}, {hidden}")
    names = console.split_names(["h200"] if hardware is None else hardware)
    machines: list[Any] = [hwmodels.load_machine(name) for name in names]
    design = hwmodels.load_core(core) if core else None
    common: dict[str, Any] = {
        "packing": packing, "dtype": dtype, "side_dtype": side_dtype, "rest_dtype": rest_dtype, "group_elems": group,
        "scale_bits": scale_bits, "outlier_encoding": outlier_encoding,
    }  # fmt: skip
    ways = [
        Stored(pattern=text, encoding=name, **beside(kept), **common)  # type: ignore[arg-type]
        for text in console.split_names(pattern or [PATTERNS], "pattern")
        for name in console.split_names(encoding or [ENCODINGS], "encoding")
        for kept in console.split_names(outliers or [NONE], "outliers")
    ]
    for how in ways:
        _check_columns(loaded, how)
    bits = [_bits(word) for word in console.split_names(quantised or [QUANTISED])]
    rows: list[Row] = []
    narrow: dict[str | None, list[QuantisedDense]] = {}
    with share_bar() as tell:
        asked = [(machine, how) for machine in machines or [None] for how in ways]
        for place, (machine, how) in enumerate(asked):
            name = machine.id if machine else None
            if name not in narrow:
                narrow[name] = [
                    quantised_dense(loaded, ways[0], each, machine, design, tokens) for each in bits
                ]
            tell(label(how), place / len(asked))
            rows.append(_row(loaded, how, machine, design, tokens, step, narrow[name]))
    for problem in _problems(rows):
        console.err.print(problem, highlight=False, markup=False)
    records = [row.record() for row in rows]
    if output is not None:
        import pandas as pd

        with new_file(output, force=force) as stream:
            pd.DataFrame(records).to_csv(stream, index=False)
    if as_json:
        told = [
            {"hardware": name, "core": design.id if design else None, **asdict(each)}
            for name, all_ in narrow.items()
            for each in all_
        ]
        console.print_json({"pruned": records, "quantised": told})
        return
    show(rows, narrow)


def _row(
    model: Any,
    how: "Stored",
    machine: Any,
    design: Any,
    tokens: int,
    step: int,
    narrow: list["QuantisedDense"],
) -> Row:
    """All three thresholds of one pruned model, and the reason for each that is missing."""
    from hwmodels.threshold import equal_energy, equal_memory, equal_time, footprint

    memory = equal_memory(model, how, step_elems=step)
    told: dict[str, Threshold] = {}
    missing: list[tuple[str, str, str]] = []
    for sense, find, where in (("time", equal_time, machine), ("energy", equal_energy, design)):
        if where is None:
            continue
        try:
            told[sense] = find(model, how, where, tokens=tokens, step_elems=step)
        except NmsimError as error:
            missing.append((sense, where.id, str(error)))
    return Row(
        model.name, how, footprint(model, how), footprint(model, how.dense()), machine.id if machine else None,
        design.id if design else None, tokens, memory, told.get("time"), told.get("energy"), tuple(narrow), tuple(missing),
    )  # fmt: skip


def _check_columns(model: Any, how: "Stored") -> None:
    for layer in model.layers:
        if layer.pruned and how.columns > layer.K:
            raise RowError(
                f"--outliers {how.beside}: expected at most the in features of {layer.name}, {layer.K}"
            )


def _problems(rows: list[Row]) -> list[str]:
    """A line for each reason of a missing threshold, with its formats unless it holds for all."""
    about: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        for problem in row.missing:
            about.setdefault(problem, {})[label(row.how)] = None
    ways = {label(row.how) for row in rows}
    return [
        f"no {sense} on {where}{'' if of.keys() == ways else ' of ' + ', '.join(of)}: {reason}"
        for (sense, where, reason), of in about.items()
    ]


def _bits(word: str) -> int:
    from hwmodels.threshold.quantised import NARROWEST_BITS
    from hwmodels.threshold.stored import SCALED_BELOW_BITS

    most = SCALED_BELOW_BITS - 1
    if not (word.isascii() and word.isdigit() and NARROWEST_BITS <= int(word) <= most):
        raise RowError(
            f"--quantised {word!r}: expected bits of a value, {NARROWEST_BITS} to {most}, such as {QUANTISED}"
        )
    return int(word)
