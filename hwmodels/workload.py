"""Workloads: the linear layers of a decoder-only transformer, and the table of cases they make."""

import difflib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args

import pandas as pd

from hwmodels.estimate.table import format_cells
from hwmodels.models import Attention, Layer, Model, Role
from hwmodels.steps.experts import grouped
from nmsim.case import DEFAULT_DTYPE, SparseOperand, value_type
from nmsim.errors import SpecError, brief
from nmsim.format import FormatLike, as_format
from nmsim.support.schema import About, Number, OneOf, hints, load_record, read_json, record

WORKLOAD_FOLDER = Path(__file__).parent / "workloads"
MODEL_TYPES = (
    "gemma", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "qwen2", "qwen3",
)  # fmt: skip
"""Values of `model_type` whose layers are q, k, v, o, gate, up and down, each a plain linear layer."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gemma": {"head_dim": 256, "tie_word_embeddings": True},
        "gemma2": {"head_dim": 256, "tie_word_embeddings": True},
        "gemma3_text": {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
            "tie_word_embeddings": True,
        },
        "qwen3": {"head_dim": 128},
    }
)
"""What transformers' configuration classes fill in if a published config.json is silent."""


# fmt: off
@record
class Config:
    """Keys of a Hugging Face `config.json` that the layers of a model depend on; it may have any others."""

    model_type: Annotated[str, OneOf(MODEL_TYPES), About("Family of the model.")]
    hidden_size: Annotated[int, Number("elems", "Width of the residual stream.", least=1)]
    intermediate_size: Annotated[int, Number("elems", "Width inside the feed-forward part.", least=1)]
    num_hidden_layers: Annotated[int, Number("layers", "Layers of the decoder.", least=1)]
    num_attention_heads: Annotated[int, Number("heads", "Query heads.", least=1)]
    vocab_size: Annotated[int, Number("tokens", "Rows of the output head.", least=1)]
    num_key_value_heads: Annotated[int | None, Number("heads", "Key and value heads; as many as query heads if left out.",
        least=1)] = None
    head_dim: Annotated[int | None, Number("elems", "Width of a head; hidden_size / num_attention_heads if left out.",
        least=1)] = None
    tie_word_embeddings: Annotated[bool, About("Whether the output head shares the weights of the embedding.")] = False
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check heads against each other and against the width."""
        heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            yield (
                "head_dim",
                f"missing, and hidden_size={self.hidden_size} is no multiple of num_attention_heads={heads}",
            )
        if heads % (self.num_key_value_heads or heads):
            yield (
                "num_key_value_heads",
                f"{self.num_key_value_heads}, expected a divisor of num_attention_heads={heads}",
            )


def model_names() -> list[str]:
    """List the models that ship with the package.

    Examples
    --------
    >>> model_names()
    ['gemma-3-4b', 'llama-2-7b', 'llama-3.1-8b', 'qwen2.5-7b']
    """
    return sorted(path.stem for path in WORKLOAD_FOLDER.glob("*.json"))


def load_model(model: str | Path | Model) -> Model:
    """Load the layers of a model by name, or from a Hugging Face `config.json`.

    Parameters
    ----------
    model : str, Path or Model
        A shipped name in any case (`model_names()`), a `config.json`, a directory that holds one, or a
        `Model`, which comes back as it is.

    Returns
    -------
    Model

    Raises
    ------
    SpecError
        No such model or file, a `model_type` whose layers are not known, or a key that is missing or
        malformed.

    Examples
    --------
    >>> [layer.name for layer in load_model("llama-3.1-8b").layers]
    ['q', 'k', 'v', 'o', 'gate', 'up', 'down', 'lm_head']
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str) and model.strip().lower() in model_names():
        path = WORKLOAD_FOLDER / f"{model.strip().lower()}.json"
        shipped = read_json(path)
        return _model(shipped["name"], shipped["config"], shipped["source"], str(path))
    path = Path(model)
    if path.is_dir():
        path /= "config.json"
    # A FIFO or a device is there too; the reader says what is wrong with it.
    if not os.path.exists(path):
        near = difflib.get_close_matches(str(model).lower(), model_names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"model {brief(str(model))}: neither a shipped model nor a file.{hint} Known: "
            f"{', '.join(model_names())}; or give a Hugging Face config.json or its directory"
        )
    name = path.parent.name if path.name == "config.json" else path.stem
    return _model(name or path.stem, read_json(path), str(path), str(path))


def _model(name: str, config: Any, source: str, file: str) -> Model:
    """Take the layers out of a Hugging Face configuration. Keys that no layer depends on are ignored."""
    if not isinstance(config, dict):
        raise SpecError(f"{file}: expected a JSON object, got {type(config).__name__}")
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise SpecError(f"{file}: text_config: expected an object, got {brief(text)}")
    kind = config.get("model_type")
    inner = f"{kind}_text" if text is not config and f"{kind}_text" in DEFAULTS else kind
    filled = {**DEFAULTS.get(str(text.get("model_type", inner)), {}), **text, "model_type": kind}
    filled.setdefault("tie_word_embeddings", config.get("tie_word_embeddings", False))
    # An explicit null means that the key is absent.
    known = {key: filled[key] for key in hints(Config) if filled.get(key) is not None}
    sizes = load_record(Config, known, where=file)
    hidden, inside, depth = sizes.hidden_size, sizes.intermediate_size, sizes.num_hidden_layers
    heads = sizes.num_attention_heads
    kv_heads, head = sizes.num_key_value_heads or heads, sizes.head_dim or hidden // heads
    feed: Role = "feed_forward"
    layers = (
        Layer("q", depth, heads * head, hidden, role="attention"),
        Layer("k", depth, kv_heads * head, hidden, role="attention"),
        Layer("v", depth, kv_heads * head, hidden, role="attention"),
        Layer("o", depth, hidden, heads * head, role="attention"),
        Layer("gate", depth, inside, hidden, role=feed),
        Layer("up", depth, inside, hidden, role=feed),
        Layer("down", depth, hidden, inside, role=feed),
        Layer("lm_head", 1, sizes.vocab_size, hidden, pruned=False, role="head"),
    )
    attention = (Attention(depth, heads, kv_heads, head),)
    return Model(
        name,
        layers,
        sizes.tie_word_embeddings,
        source,
        attention=attention,
        embedding_elems=sizes.vocab_size * hidden,
        family=sizes.model_type,
    )


CASE_COLUMNS = (
    "model", "layer", "count", "M", "N", "K",
    "phase", "dtype", "sparse_operand", "pattern", "encoding", "packing",
)  # fmt: skip

EXPERT_COLUMNS = ("experts", "tokens")
"""Further columns of a model with experts."""

CASE_FORMATS = tuple(
    f"{pattern}/{encoding}"
    for pattern in ("2:4", "4:8", "8:16", "16:32")
    for encoding in ("bitmask", "index", "combinatorial")
)


def cases(
    model: str | Path | Model,
    *,
    dtype: str = DEFAULT_DTYPE,
    formats: Iterable[FormatLike | None] = CASE_FORMATS,
    sparse_operand: SparseOperand = "weights",
    decode_batches: Iterable[int] = (1,),
    prefill_lengths: Iterable[int] = (),
    prefill_batch: int = 1,
    unpruned: bool = False,
) -> pd.DataFrame:
    """Make the table of cases of a model: each layer in each phase with each format.

    Parameters
    ----------
    model : str, Path or Model
        As for `load_model`.
    dtype : str
        Value type of both operands.
    formats : iterable of SparseFormat, Pattern, str or None
        How the sparse operand is stored; None or `"dense"` for a dense row.
    sparse_operand : {"weights", "activations"}
    decode_batches : iterable of int
        Sequences decoded together; M = batch tokens.
    prefill_lengths : iterable of int
        Tokens of a prompt; M = `prefill_batch` * length.
    prefill_batch : int
        Prompts processed together.
    unpruned : bool
        Add a dense row (pattern `"dense"`) for layers that are not pruned (`lm_head`), once per phase.

    Returns
    -------
    DataFrame
        Columns `CASE_COLUMNS`; `count` says how many layers of the model a row stands for. A model with experts has
        `EXPERT_COLUMNS` as well. `experts`: so many products of the row's shape, with other weights and tokens, run in
        one launch of a layer. `tokens`: those of the step, while M are those of one expert. `count` may be a part of the
        layers (`docs/explanation/whole-model.md`).

    Raises
    ------
    RowError
        An unknown value type.
    SpecError
        As `load_model`; an unknown operand; a batch or length that is no positive int.
    PatternError, EncodingError, BitstreamError
        A format that does not exist.

    Examples
    --------
    >>> table = cases("llama-3.1-8b", formats=["8:16/bitmask"])
    >>> len(table), table["layer"].tolist()
    (7, ['q', 'k', 'v', 'o', 'gate', 'up', 'down'])
    """
    loaded = load_model(model)
    dtype = value_type(dtype)
    if sparse_operand not in get_args(SparseOperand):
        raise SpecError(
            f"sparse_operand={brief(sparse_operand)}: expected one of {', '.join(get_args(SparseOperand))}"
        )
    positive = {"prefill_batch": [prefill_batch], "decode_batches": list(decode_batches)}
    positive["prefill_lengths"] = list(prefill_lengths)
    for name, values in positive.items():
        for value in values:
            # True is an int in Python, but no number of tokens.
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpecError(f"{name}: {brief(value)}: expected a positive int")
    phases = [("decode", batch) for batch in positive["decode_batches"]]
    phases += [("prefill", prefill_batch * length) for length in positive["prefill_lengths"]]
    dense, stored = format_cells(None), [format_cells(as_format(format)) for format in formats]
    rows = []
    for (phase, tokens), layer in itertools.product(phases, loaded.layers):
        if not (layer.pruned or unpruned):
            continue
        count = layer.places * layer.reads
        group = grouped(layer.experts, layer.active_experts, tokens=tokens)
        # Experts may have one token more than others: then a row stands for a part of the model layers.
        rows += [
            (
                loaded.name, layer.name, count if weight == 1 else count * weight, each, layer.N, layer.K, phase,
                dtype, sparse_operand, *cells, group.products, tokens,
            )
            for each, weight in group.parts
            for cells in (stored if layer.pruned else [dense])
        ]  # fmt: skip
    table = pd.DataFrame(rows, columns=[*CASE_COLUMNS, *EXPERT_COLUMNS])
    return table if any(layer.experts for layer in loaded.layers) else table[list(CASE_COLUMNS)]
