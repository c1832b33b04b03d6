"""From the keys of a configuration to the layers and the attention of a model."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hwmodels.models.families import Block, blocks, table
from hwmodels.models.keys import MISSING, Keys
from hwmodels.models.parts import Parts, take_apart
from hwmodels.models.quantization import Quantisation, quantisation
from hwmodels.models.records import Attention, AttentionKind, Layer, Model
from nmsim.errors import SpecError, brief

EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
KINDS_OF_TYPES: Mapping[str, AttentionKind] = {"sliding_attention": "window", "chunked_attention": "chunk"}
DRAFT_BLOCKS = {"eagle3": ("draft_gqa", "eagle3"), "eagle": ("gqa", "eagle")}
"""Kind of draft head -> its attention, and the block that it has beside its layers."""


class _Layers:
    """Layers that are added up by name and shape, in the order in which they come."""

    def __init__(self, keys: Keys, types: Quantisation, *, draft: bool) -> None:
        self.keys = keys
        self.types = types
        self.draft = draft
        self.found: dict[tuple[Any, ...], Layer] = {}

    def add(self, names: tuple[str, ...], i: int = 0) -> None:
        """Add the layers of some blocks of model layer `i`."""
        for name in names:
            block = blocks()[name]
            experts = self.number(block.experts, i) if block.experts else 0
            active = self.number(block.active, i) if block.active else 0
            if active > experts or (experts and not active):
                spelled = self.keys.named("num_experts_per_tok")
                raise self.keys.error(f"{spelled}={active}: expected 1 to {experts}, the number of experts")
            for layer, shape in block.layers.items():
                N, K, matrices = (self.number(text, i) for text in shape)
                if N < 0 or K < 0 or matrices < 0:
                    raise self.keys.error(
                        f"layer {layer}: N={N}, K={K}: keys contradict each other; expected positive numbers"
                    )
                # A shape with a 0 says that the model has no such layer.
                if N and K and matrices:
                    self.put(layer, block, N, K, matrices * max(experts, 1), experts, active)

    def put(self, name: str, block: Block, N: int, K: int, count: int, experts: int, active: int) -> None:
        """Add matrices of one shape."""
        key = (name, N, K, block.role, experts, active)
        if key in self.found:
            before = self.found[key]
            self.found[key] = replace(before, count=before.count + count)
            return
        pruned = block.pruned and not self.draft
        self.found[key] = Layer(
            name, count, N, K, pruned, block.role, experts, active, self.types.of(block.role)
        )

    def number(self, text: str, i: int) -> int:
        """The value of an expression, which is a whole number."""
        return int(self.keys.evaluate(text, i))

    def named(self) -> Iterator[Layer]:
        """All layers with names of their own: a second shape of one name gets a number."""
        seen: dict[str, int] = {}
        for layer in self.found.values():
            seen[layer.name] = seen.get(layer.name, 0) + 1
            yield layer if seen[layer.name] == 1 else replace(layer, name=f"{layer.name}_{seen[layer.name]}")


def build(name: str, config: Any, *, source: str, where: str) -> Model:
    """Make a model of a Hugging Face configuration. Keys that no layer depends on are ignored.

    Parameters
    ----------
    name : str
    config : mapping
        Content of a `config.json`.
    source : str
        Its origin, for `Model.source`.
    where : str
        What each error begins with.

    Returns
    -------
    Model

    Raises
    ------
    SpecError
        A model whose layers are not known, a key of a wrong type, or keys that contradict each other.
    """
    if not isinstance(config, dict):
        raise SpecError(f"{where}: expected a JSON object, got {type(config).__name__}")
    parts = take_apart(config, where=where)
    keys = Keys(parts.text, parts.family, where=where)
    types = quantisation(
        {**config, **{key: parts.text[key] for key in parts.text if key.startswith("quantization")}},
        where=where,
    )
    # Contradictions are found before layers are made, so that an error names keys and not shapes.
    _check(keys, parts)
    layers = _Layers(keys, types, draft=bool(parts.draft))
    attention: dict[Attention, int] = {}
    family = parts.family
    for i in range(keys.depth):
        mixer = keys.evaluate(family.mixer, i)
        if parts.draft:
            mixer = (DRAFT_BLOCKS[parts.draft][0],)
        layers.add(mixer, i)
        for each in _attention(keys, mixer, i):
            attention[each] = attention.get(each, 0) + 1
        layers.add(keys.evaluate(family.feed, i), i)
    layers.add(keys.evaluate(family.once))
    if parts.draft:
        layers.add((DRAFT_BLOCKS[parts.draft][1],))
    tied = bool(keys("tie_word_embeddings")) and parts.end == "lm_head" and not parts.draft
    heads = _head(keys, parts)
    found = (*layers.named(), *heads)
    experts = max((layer.experts for layer in found), default=0)
    return Model(
        name,
        found,
        tied,
        source,
        attention=tuple(replace(each, count=count) for each, count in attention.items()),
        embedding_elems=0 if parts.draft == "eagle" else int(keys.evaluate(family.embedding)),
        experts=experts,
        active=max((layer.active_experts for layer in found), default=0),
        dtype=types.dtype,
        family=str(parts.text.get("model_type", family.name)),
        notes=(*parts.notes, *types.notes, *_told(keys)),
    )


def _head(keys: Keys, parts: Parts) -> tuple[Layer, ...]:
    """The layer that the model ends in; heads stay dense."""
    if parts.end == "none" or parts.draft == "eagle":
        return ()
    rows, width = (int(keys.evaluate(text)) for text in parts.family.head.split(" x "))
    if parts.end == "labels":
        score = Layer("score", 1, parts.labels, width, False, "head")
        return (
            (Layer("score_hidden", 1, width, width, False, "head"), score) if parts.two_scores else (score,)
        )
    if parts.draft == "eagle3":
        drafted = keys.raw("draft_vocab_size")
        rows = rows if drafted is MISSING else drafted
    return (Layer("lm_head", 1, rows, width, False, "head"),)


def _attention(keys: Keys, names: tuple[str, ...], i: int) -> Iterator[Attention]:
    """What the mixer of model layer `i` keeps, with a count of 1."""
    for name in names:
        cache = blocks()[name].cache
        if not cache:
            continue
        # A state does not grow, so it has no heads and no tokens.
        value = {key: int(keys.evaluate(text, i)) for key, text in cache.items()}
        if "state" in value:
            yield Attention(1, 0, 0, 0, kind="state", state_elems=value["state"])
            continue
        kind = KINDS_OF_TYPES.get(keys("layer_type", i), "full")
        window = None
        if kind != "full":
            key = "sliding_window" if kind == "window" else "attention_chunk_size"
            window = keys(key, i)
            if not window:
                raise keys.error(
                    f"{keys.named(key)}: missing or 0, but model layer {i} attends to a {kind}; expected its tokens"
                )
        yield Attention(
            1,
            value["heads"],
            value["kv_heads"],
            value["head_dim"],
            value["value_head_dim"],
            kind,
            window,
            latent_elems=value.get("latent"),
            extra_elems=value.get("extra", 0),
            shares_cache=bool(value.get("shares")),
            read_tokens=value.get("read_tokens"),
            rotary_elems=value.get("rotary", 0),
        )


def _check(keys: Keys, parts: Parts) -> None:
    """Refuse keys that contradict each other, before any layer is made of them."""
    if "experts" not in parts.family.feed:
        for name in EXPERT_KEYS:
            value = parts.text.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 1:
                raise keys.error(
                    f"{name}={value}: a model of type {parts.family.name} has no experts; expected another model_type"
                )
    for i in range(keys.depth):
        _check_heads(keys, i)
    replaced = keys.raw("first_k_dense_replace")
    if replaced is not MISSING and replaced > keys.depth:
        raise keys.error(f"first_k_dense_replace={replaced}: expected at most num_hidden_layers={keys.depth}")


def _check_heads(keys: Keys, i: int) -> None:
    """Check heads against each other and against the width, if the family has attention with heads of one width."""
    mixer = " ".join(keys.evaluate(keys.family.mixer, i))
    if not any(name in mixer for name in ("gqa", "shared_kv", "cross", "lightning")):
        return
    heads = keys("num_attention_heads", i)
    if "head_dim" not in keys.family.derived and keys.raw("head_dim") is MISSING:
        hidden = keys("hidden_size")
        default = keys.family.defaults.get("head_dim")
        if isinstance(default, str) and hidden % heads:
            spelled, width = keys.named("num_attention_heads"), keys.named("hidden_size")
            raise keys.error(f"head_dim: missing, and {width}={hidden} is no multiple of {spelled}={heads}")
    kv_heads = keys("num_key_value_heads", i)
    if heads % kv_heads:
        name = keys.named("num_key_value_heads")
        raise keys.error(
            f"{name}: {kv_heads}, expected a divisor of {keys.named('num_attention_heads')}={heads}"
        )


def _told(keys: Keys) -> tuple[str, ...]:
    """Tell the defaults that were taken; empty ones change no layer."""
    used = {
        name: value
        for name, value in sorted(keys.defaults_used.items())
        if value is not None and value != 0 and name != "value_head_dim"
    }
    if "tie_word_embeddings" in keys.defaults_used:
        used["tie_word_embeddings"] = keys.defaults_used["tie_word_embeddings"]
    if not used:
        return ()
    listed = ", ".join(
        f"{keys.named(name)}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in sorted(used.items())
    )
    return (f"not in the file, so taken from the defaults of its class: {listed}", *_misspelt(keys, used))


def _misspelt(keys: Keys, used: Mapping[str, Any]) -> Iterator[str]:
    """Name keys of the file that no class knows, and that are close to one whose default was taken."""
    known = {spelling for names in keys.family.keys.values() for spelling in names} | set(table()["keys"])
    plain = {key.replace("_", ""): key for key in keys.config if isinstance(key, str) and key not in known}
    for name in sorted(used):
        for close in difflib.get_close_matches(name.replace("_", ""), plain, n=1, cutoff=0.72):
            yield f"{brief(plain[close])} in the file is no key of its class, and {name} is missing; it may be misspelt"
