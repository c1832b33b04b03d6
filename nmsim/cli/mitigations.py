"""`nmsim mitigations`: what each criterion and each mitigation costs a token and a layer, in decode and in prefill."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from nmsim.cli import console
from nmsim.cli.predict import read_shape
from nmsim.cli.scaled import short
from nmsim.errors import SpecError
from nmsim.files.atomic import new_file, refuse_target
from nmsim.pattern import Pattern

if TYPE_CHECKING:
    import pandas as pd

    from hwmodels.online.stage_cost import Settings

MODEL, TOKENS = "llama-3.1-8b", 4096
OPERATIONS = {
    "multiplies": "multiplies_per_token",
    "adds": "adds_per_token",
    "compares": "compares_per_token",
    "divisions, roots": "specials_per_token",
    "in the selector": "selector_compares_per_token",
    "side multiply-adds": "macs_per_token",
}
"""Heading -> column of operations per token."""
BYTES = {
    "parameters": ("parameter_bytes",),
    "L2": ("l2_read_bytes", "l2_written_bytes"),
    "shared": ("shared_read_bytes", "shared_written_bytes"),
    "held": ("held_bytes",),
}
"""Heading -> columns of bytes that it adds up."""


def mitigations(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help=f"Model by name, or a Hugging Face config.json. Default {MODEL}."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape", help="One layer instead: M,N,K, prefill tokens, out and in features.", metavar="M,N,K"
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="Layers of the model, such as gate. Default: the sum over all."),
    ] = None,
    pattern: Annotated[str, typer.Option("--pattern", "-p", help="Pattern N:M.")] = "8:16",
    dtype: Annotated[str, typer.Option(help="Value type: fp32, fp16, bf16, fp8, int8 ...")] = "bf16",
    tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Tokens of prefill. Default {TOKENS}; decode has one.")
    ] = None,
    operand: Annotated[str, typer.Option(help="What is pruned: activations or weights.")] = "activations",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of the side path of r_sparse. Default 128.")
    ] = None,
    outliers: Annotated[
        str | None, typer.Option(help="Pattern of the outliers' own matrix. Default 4:256.")
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(min=1, help="Salient columns. Default 128, or all of a layer that has fewer."),
    ] = None,
    selector: Annotated[
        str | None, typer.Option(help="Network of comparators: half, bitonic or all_pairs. Default half.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV file to write the rows into.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tabulate what criteria and mitigations of N:M pruning cost: operations, bytes, and what a choice waits for.

    Counts are exact, of the cheapest exact form of each; docs/reference/mitigations.md has the formulas and why they hold. Of
    a model, JSON and CSV have a row for each layer and their sum, layer "all".
    """
    from hwmodels.online.overheads import mitigation_table
    from hwmodels.workload import load_model

    if output is not None:
        refuse_target(output, force)
    if shape is not None:
        for name, given in (("--model", model), ("--layer", layer), ("--tokens", tokens)):
            if given is not None:
                raise SpecError(f"--shape {shape}: is a layer with its tokens, expected no {name} beside it")
        gemm = read_shape(shape)
        settings = _settings(rank, outliers, _columns(columns, {shape: gemm.K}), selector)
        table = mitigation_table(gemm, pattern, dtype, operand=operand, settings=settings)  # type: ignore[arg-type]
        shown, whose = table, f"N={gemm.N}, K={gemm.K}"
    else:
        name = model or MODEL
        loaded = load_model(name)
        in_features = {each.name: each.K for each in loaded.layers if each.pruned}
        settings = _settings(rank, outliers, _columns(columns, in_features), selector)
        table = _of_model(name, layer, pattern, dtype, tokens or TOKENS, operand, settings)
        shown = table[table["layer"] == "all"] if layer is None else table
        whose = f"{name}, " + (f"all {shown['count'].iloc[0]} pruned layers" if layer is None else "by layer")
    if output is not None:
        with new_file(output, force=force) as stream:
            table.to_csv(stream, index=False)
    if as_json:
        console.print_json(
            [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
        )
        return
    for phase, rows in shown.groupby("phase", sort=False):
        count = int(rows["tokens"].iloc[0])
        _show(rows, f"{phase}, {count} token{'s' * (count > 1)}: {whose}, {pattern} {operand}, {dtype}")
    _tell_formulas(shown)
    if output is not None:
        console.out.print(f"wrote {output}: {len(table)} rows", highlight=False, markup=False)


def _columns(given: int | None, in_features: dict[str, int]) -> int:
    """Salient columns: the given number, or the default, at most the columns of each layer. A smaller number is reported."""
    from hwmodels.online.stage_cost import DEFAULT_SETTINGS

    layer, most = min(in_features.items(), key=lambda each: each[1])
    if given is None and most < DEFAULT_SETTINGS.columns:
        console.err.print(
            f"salient columns: {most} in place of {DEFAULT_SETTINGS.columns}, {layer} has no more in features",
            highlight=False,
            markup=False,
        )
    if given is not None and given > most:
        raise SpecError(f"--columns {given}: expected at most the in features of {layer}, {most}")
    return given or min(most, DEFAULT_SETTINGS.columns)


def _settings(rank: int | None, outliers: str | None, columns: int, selector: str | None) -> "Settings":
    """Take the sizes that are given, and the defaults of the others."""
    from hwmodels.tensorcore.record import SelectorKind

    if selector is not None and selector not in get_args(SelectorKind):
        raise SpecError(f"--selector {selector!r}: expected one of {', '.join(get_args(SelectorKind))}")
    from hwmodels.online.stage_cost import DEFAULT_SETTINGS as default
    from hwmodels.online.stage_cost import Settings

    of_outliers = Pattern(default.outliers, default.window) if outliers is None else Pattern.parse(outliers)
    return Settings(
        rank=default.rank if rank is None else rank,
        outliers=of_outliers.n,
        window=of_outliers.m,
        columns=columns,
        selector_kind=default.selector_kind if selector is None else selector,  # type: ignore[arg-type]
    )


def _of_model(
    model: str, layers: list[str] | None, pattern: str, dtype: str, tokens: int, operand: str, settings: Any
) -> "pd.DataFrame":
    """The rows of a model: those of the layers asked for, or of all and their sum."""
    import pandas as pd

    from hwmodels.online.overheads import model_table, sum_layers

    table = model_table(model, pattern, dtype, tokens=tokens, operand=operand, settings=settings)  # type: ignore[arg-type]
    if layers is None:
        return pd.concat([table, sum_layers(table)], ignore_index=True)
    names = console.split_names(layers, "layer")
    known = list(dict.fromkeys(table["layer"]))
    for name in names:
        if name not in known:
            raise SpecError(
                f"--layer {name}: expected one of {', '.join(known)}, the pruned layers of {model}"
            )
    return pd.concat([table[table["layer"] == name] for name in names], ignore_index=True)


def _show(rows: "pd.DataFrame", title: str) -> None:
    several = "layer" in rows and rows["layer"].nunique() > 1
    cells = {
        "name": rows["name"].tolist(),
        **({"layer": rows["layer"].tolist()} if several else {}),
        "streams": ["yes" if streams else "no" for streams in rows["streams"]],
        "waits for": rows["waits_for"].tolist(),
        "passes": rows["passes"].tolist(),
        **cost_columns(rows),
    }
    console.print_table(
        title,
        list(cells),
        list(zip(*cells.values(), strict=True)),
        note="Operations of one token, bytes of all tokens together, 1 kB = 1000 bytes. Criteria come first.",
    )


def cost_columns(rows: "pd.DataFrame") -> dict[str, list[str]]:
    """Write counts for people: heading -> cells, empty where there is nothing.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of `hwmodels.online.overheads.mitigation_table`, or sums of such.

    Examples
    --------
    >>> from hwmodels.online.overheads import mitigation_table
    >>> from nmsim.case import GemmShape
    >>> table = mitigation_table(GemmShape(1, 4096, 4096), "8:16")
    >>> cost_columns(table[table.name == "r_sparse"])["of the product's"]
    ['12.5%', '12.5%']
    """
    sizes = {heading: rows[list(names)].sum(axis=1) for heading, names in BYTES.items()}
    return {
        **{heading: [_count(value) for value in rows[name]] for heading, name in OPERATIONS.items()},
        "of the product's": [f"{share:.1%}" if share else "" for share in rows["share_of_sparse_macs"]],
        **{f"{heading} kB": [_count(value / 1000) for value in held] for heading, held in sizes.items()},
    }


def _tell_formulas(rows: "pd.DataFrame") -> None:
    """What is computed under each name; in which phase where the two differ."""
    once = rows.drop_duplicates(["name", "formula"])
    for name, phase, formula in once[["name", "phase", "formula"]].itertuples(index=False):
        which = f" ({phase})" if (once["name"] == name).sum() > 1 else ""
        console.out.print(f"{name}{which}: {formula}", highlight=False, markup=False)


def _count(value: float) -> str:
    return short(value) if value else ""
