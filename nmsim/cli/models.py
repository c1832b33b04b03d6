"""`nmsim model`: the linear layers and the attention of a model, and what was assumed about it."""

from dataclasses import asdict
from typing import Annotated, Any

from typer import Argument, Option

import hwmodels
from hwmodels.models import family_names
from nmsim.cli import console
from nmsim.cli.console import Answer
from nmsim.errors import NmsimError, SpecError

EXAMPLES = {
    "model": [
        "nmsim model --list",
        "nmsim model mixtral-8x7b",
        "nmsim model path/to/checkpoint --context 8192 --json",
    ]
}


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
    return _show(hwmodels.load_model(name), context)


def _list_models() -> Answer:
    records = [_totals(hwmodels.load_model(name)) for name in hwmodels.model_names()]

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


def _totals(loaded: hwmodels.Model) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "family": loaded.family,
        "linear_weights": loaded.weight_elems,
        "active_weights": loaded.active_elems,
        "experts": loaded.experts,
        "active_experts": loaded.active,
        "cache_elems_per_token": loaded.kv_elems_per_token,
    }


def _show(loaded: hwmodels.Model, context: int) -> Answer:
    """Print layers, attention and notes; JSON has all fields of the records."""
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
