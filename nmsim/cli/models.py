"""`nmsim model` and `nmsim mitigations`: the layers of a model, and what criteria and mitigations cost in them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, get_args

from typer import Argument, Option

from hwmodels.models import Model, family_names, load_model, model_names
from hwmodels.online.mitigations import DEFAULT_SETTINGS, Settings
from hwmodels.online.overheads import chosen_layers, mitigation_table, model_table, salient_columns
from hwmodels.tensorcore.record import SelectorKind
from nmsim.case import DEFAULT_DTYPE, GemmShape
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError, SpecError, brief
from nmsim.files.atomic import new_file
from nmsim.files.output import ROW_FILE, Output
from nmsim.pattern import Pattern
from nmsim.support.cells import write_csv
from nmsim.units import percent, short

if TYPE_CHECKING:
    import pandas as pd

TOKENS = 4096
EXAMPLES = {
    "model": [
        "nmsim model --list",
        "nmsim model mixtral-8x7b",
        "nmsim model path/to/checkpoint --context 8192 --json",
    ],
    "mitigations": [
        "nmsim mitigations --model llama-3.1-8b",
        "nmsim mitigations --shape 4096,14336,4096 -p 8:16 --dtype fp8 --json",
    ],
}
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


def model(
    name: Annotated[
        str | None,
        Argument(help="Model by name, a Hugging Face config.json, or its folder.", metavar="MODEL"),
    ] = None,
    context: Annotated[
        int, Option("--context", min=1, help="Tokens of a sequence whose cache is counted.")
    ] = 4096,
    names: Annotated[
        bool, Option("--list", help="List the models that ship with nmsim, and do nothing else.")
    ] = False,
    families: Annotated[
        bool, Option("--families", help="List the values of model_type that are known, and do nothing else.")
    ] = False,
) -> Answer:
    """Show the linear layers and the attention of a model, and what was assumed about it.

    Matrices of all experts are counted; active weights are those that one token is multiplied with. Keys that a config.json
    leaves out are taken from the defaults of its class, and the notes say which. A cache is counted in elements.
    """
    if names and families:
        raise NmsimError("--list and --families are both given, expected one of them")
    if families:
        known = family_names()
        return Answer(known, lambda: print("\n".join(known)))
    if names:
        return _list_models()
    if name is None:
        raise SpecError("no model given: expected a name, such as nmsim model llama-3.1-8b, or --list")
    return _show_model(load_model(name), context)


def _list_models() -> Answer:
    records = [_totals(load_model(name)) for name in model_names()]

    def show() -> None:
        console.print_table(
            "Models",
            ["model", "family", "linear weights", "active", "experts", "per token", "cache elems/token"],
            [
                (
                    record["name"],
                    record["family"],
                    f"{record['linear_weights']:,}",
                    f"{record['active_weights']:,}",
                    record["experts"] or "-",
                    record["active_experts"] or "-",
                    f"{record['cache_elems_per_token']:,}",
                )
                for record in records
            ],
        )

    return Answer(records, show)


def _totals(loaded: Model) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "family": loaded.family,
        "linear_weights": loaded.weight_elems,
        "active_weights": loaded.active_elems,
        "experts": loaded.experts,
        "active_experts": loaded.active,
        "cache_elems_per_token": loaded.kv_elems_per_token,
    }


def _show_model(loaded: Model, context: int) -> Answer:
    """Print layers, attention and notes; JSON has all fields of the records."""
    # JSON repeats the totals of --list, so that one reader serves both.
    kept = loaded.kept_elems(context)
    record = {
        **_totals(loaded),
        "embedding_elems": loaded.embedding_elems,
        "total_elems": loaded.total_elems,
        "tied_head": loaded.tied_head,
        "dtype": loaded.dtype,
        "context_tokens": context,
        "cache_elems": kept,
        "source": loaded.source,
        "notes": list(loaded.notes),
        "layers": [{**asdict(layer), "weight_elems": layer.weight_elems} for layer in loaded.layers],
        "attention": [
            {**asdict(each), "kv_elems_per_token": each.kv_elems_per_token} for each in loaded.attention
        ],
    }

    def show() -> None:
        # Weights in millions: the digits of a whole model do not fit a table.
        console.print_table(
            loaded.name,
            ["layer", "role", "matrices", "N", "K", "experts", "weights 10^6", "active 10^6", "default"],
            [
                (
                    layer.name,
                    layer.role,
                    layer.count,
                    layer.N,
                    layer.K,
                    f"{layer.active_experts} of {layer.experts}" if layer.experts else "-",
                    f"{layer.weight_elems / 1e6:,.1f}",
                    f"{layer.active_count * layer.N * layer.K / 1e6:,.1f}",
                    "pruned" if layer.pruned else "dense",
                )
                for layer in loaded.layers
            ],
            extra=["active 10^6"],
            note=f"{loaded.weight_elems:,} linear weights, {loaded.active_elems:,} active per token; "
            f"{loaded.total_elems:,} with embeddings.",
        )
        console.print_table(
            "Attention",
            ["layers", "attends to", "heads", "cached heads", "head", "cache elems/token", "state elems"],
            [
                (
                    each.count,
                    f"{each.kind} {each.window_tokens or ''}".strip(),
                    each.query_heads or "-",
                    each.kv_heads or "-",
                    each.head_dim or "-",
                    each.kv_elems_per_token,
                    each.state_elems or "-",
                )
                for each in loaded.attention
            ],
            note=f"One sequence of {context:,} tokens keeps {kept:,} elements.",
        )
        for note in loaded.notes:
            print(f"Note: {note}.")

    return Answer(record, show)


def mitigations(
    model: Annotated[
        str | None,
        Option(
            "--model", "-m", help=f"Model by name, or a Hugging Face config.json. Default {options.MODEL}."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        Option("--shape", help="One layer instead: prefill tokens, out and in features.", metavar="M,N,K"),
    ] = None,
    layer: Annotated[
        list[str] | None,
        Option("--layer", "-l", help="Layers of the model, such as gate. Default: the sum over all."),
    ] = None,
    pattern: Annotated[str, Option("--pattern", "-p", help="Pattern N:M.")] = "8:16",
    dtype: options.Dtype = DEFAULT_DTYPE,
    tokens: Annotated[
        int | None,
        Option("--tokens", "-t", min=1, help=f"Tokens of prefill. Default {TOKENS}; decode has one."),
    ] = None,
    operand: options.Operand = "activations",
    rank: Annotated[int, Option(min=1, help="Rank of the side path of r_sparse.")] = DEFAULT_SETTINGS.rank,
    outliers: Annotated[str, Option(help="Pattern of the outliers' own matrix.")] = (
        f"{DEFAULT_SETTINGS.outliers}:{DEFAULT_SETTINGS.window}"
    ),
    columns: Annotated[
        int | None, Option(min=1, help="Salient columns. Default 128, or all of a layer that has fewer.")
    ] = None,
    selector: Annotated[
        str, Option(help="Selector: half, bitonic, all_pairs or planes.")
    ] = DEFAULT_SETTINGS.selector_kind,
    output: options.OutputCsv = None,
    force: options.Force = False,
) -> Answer:
    """Count what criteria and mitigations of pruning cost.

    Operations, bytes and waits are exact counts of the cheapest exact form of each.
    docs/reference/mitigations.md has the formulas and why they hold. For a model, JSON and CSV have a row for each layer and
    for their sum, layer "all".
    """
    if output is not None:
        console.claim(Output(output, suffixes=ROW_FILE), force=force)
    if shape is not None:
        for name, given in (("--model", model), ("--layer", layer), ("--tokens", tokens)):
            if given is not None:
                raise SpecError(f"--shape {shape}: is a layer with its tokens, expected no {name} beside it")
        gemm = GemmShape(*options.read_shape(shape))
        in_features = {shape: gemm.K}
    else:
        name = model or options.MODEL
        in_features = {each.name: each.K for each in load_model(name).layers if each.pruned}
    if selector not in get_args(SelectorKind):
        raise SpecError(f"--selector {brief(selector)}: expected one of {', '.join(get_args(SelectorKind))}")
    # The number of columns is limited by the narrowest layer, so the layers are read first.
    kept_columns, remark = salient_columns(columns, in_features)
    if remark:
        console.warn(remark)
    of_outliers = Pattern.parse(outliers)
    settings = Settings(
        rank=rank,
        outliers=of_outliers.n,
        window=of_outliers.m,
        columns=kept_columns,
        selector_kind=selector,  # type: ignore[arg-type]
    )
    if shape is not None:
        table = mitigation_table(gemm, pattern, dtype=dtype, operand=operand, settings=settings)  # type: ignore[arg-type]
        shown, subject = table, f"N={gemm.N}, K={gemm.K}"
    else:
        every = model_table(
            name,
            pattern,
            dtype=dtype,
            tokens=tokens or TOKENS,
            operand=operand,  # type: ignore[arg-type]
            settings=settings,
        )
        table = chosen_layers(every, None if layer is None else options.split_names(layer, "layer"), name)
        shown = table[table["layer"] == "all"] if layer is None else table
        subject = f"{name}, " + (
            f"all {shown['count'].iloc[0]} pruned layers" if layer is None else "by layer"
        )
    if output is not None:
        with new_file(output, force=force) as stream:
            write_csv(table, stream)

    def show() -> None:
        for phase, rows in shown.groupby("phase", sort=False):
            count = int(rows["tokens"].iloc[0])
            _show(rows, f"{phase}, {count} token{'s' * (count > 1)}: {subject}, {pattern} {operand}, {dtype}")
        _say_formulas(shown)
        if output is not None:
            console.say(f"wrote {output}: {len(table)} rows")

    records = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    return Answer(records, show)


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
        note="Operations per token, bytes of all tokens together, 1 kB = 1000 bytes. Criteria come first.",
        extra=["streams", "divisions, roots", "in the selector", "parameters kB", "shared kB", "held kB"],
        spare=["passes", "L2 kB", "of the product's", "waits for"],
    )


def cost_columns(rows: "pd.DataFrame") -> dict[str, list[str]]:
    """Write counts for people: heading -> cells, empty if there is nothing.

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
        "of the product's": [
            percent(share, 1, unit="%") if share else "" for share in rows["share_of_sparse_macs"]
        ],
        **{f"{heading} kB": [_count(value / 1000) for value in held] for heading, held in sizes.items()},
    }


def _say_formulas(rows: "pd.DataFrame") -> None:
    """Print what is computed under each name, with the phase if the two differ."""
    once = rows.drop_duplicates(["name", "formula"])
    for name, phase, formula in once[["name", "phase", "formula"]].itertuples(index=False):
        which = f" ({phase})" if (once["name"] == name).sum() > 1 else ""
        console.say(f"{name}{which}: {formula}")


def _count(value: float) -> str:
    return short(value) if value else ""
