"""What each tensor of a checkpoint is, by names and shapes: which are linear weights of the body, and along which axis.

`Facts` collects once what a checkpoint says as a whole: its hidden size, its vocabulary, its experts, its layers. `classify`
then gives every tensor a `Role` with a reason. The rules are on the page `docs/reference/what-is-pruned.md`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from nmsim.errors import brief
from nmsim.files.names import (
    ADAPTER,
    BIAS,
    BODY_OUTSIDE,
    CONVOLUTION,
    DRAFT,
    DRAFT_MARKS,
    DUAL_ENCODER,
    EMBEDDING,
    FUSED_IN,
    FUSED_OUT,
    HEAD,
    HEAD_IN_LAYER,
    KNOWN_LINEAR,
    NORM,
    PATCHES,
    POSITION,
    ROUTER,
    ROUTER_LAST,
    ROUTERS,
    STATE_SPACE,
    TOWER,
    TRANSPOSED,
    TRANSPOSED_MODELS,
    WEIGHT_LEAF,
    WRAPPERS,
    Parts,
    says,
)
from nmsim.files.quantised import Quantisation, recognise
from nmsim.files.safetensors import TensorInfo

LINEAR = "linear"
KINDS = {
    LINEAR: "linear weight of the body",
    "embedding": "embedding",
    "head": "head",
    "router": "router",
    "norm": "norm",
    "bias": "bias",
    "position": "position table",
    "depthwise": "depthwise convolution",
    "draft": "draft head",
    "adapter": "adapter",
    "tower": "vision or audio part",
    "state": "state-space parameter",
    "quantised": "packed quantised weight",
    "scales": "scales of a quantised weight",
    "outside": "outside of the numbered layers",
    "ambiguous": "axis of the in features not known",
    "other": "no weight of a linear layer",
}
"""Kind of a tensor -> its words."""
MAX_KERNEL = 16
"""Elements of the last axis of a convolution of one dimension, at most."""


@dataclass(frozen=True)
class Role:
    """What a tensor is.

    Parameters
    ----------
    kind : str
        A key of `KINDS`. By default only `linear` is pruned.
    reason : str
        The rule that decided, in words.
    axis : int or None
        Axis of the in features, not negative; None if not known.
    period : int
        In features that belong together along the axis, if several matrices are stacked along it; 0 if it is one matrix.
    quantisation : Quantisation or None
        The quantised format that it is part of.
    body : bool
        It is a linear weight of the body, if also packed in a quantised format.
    matrices : int
        Matrices that the tensor holds; 0 of a convolution.
    """

    kind: str
    reason: str
    axis: int | None = None
    period: int = 0
    quantisation: Quantisation | None = None
    body: bool = False
    matrices: int = 1

    @property
    def is_pruned(self) -> bool:
        """By default it is pruned."""
        return self.kind == LINEAR


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says as a whole.

    Parameters
    ----------
    hidden : frozenset of int
        Hidden sizes: of the configuration, else columns of the token embeddings.
    vocabulary : frozenset of int
        Rows of the token embeddings, and the vocabulary of the configuration.
    layers : int or None
        Layers of the configuration; deeper ones are draft heads.
    experts : mapping of str to int
        Path of a layer's mixture of experts -> experts seen there.
    expert_counts : frozenset of int
        All counts of experts, of the tensors and of the configuration.
    draft_layers : frozenset of str
        Paths of layers that are draft heads.
    numbered : bool
        Some weights lie in numbered layers.
    text_beside : bool
        A language model lies beside the vision or audio part.
    transposed : bool or None
        Weights named as in GPT-2 are [in, out]; None if nothing says.
    whole_is_draft : str
        The architecture, if all of the checkpoint is a draft head.
    """

    hidden: frozenset[int] = frozenset()
    vocabulary: frozenset[int] = frozenset()
    layers: int | None = None
    experts: Mapping[str, int] = field(default_factory=dict)
    expert_counts: frozenset[int] = frozenset()
    draft_layers: frozenset[str] = frozenset()
    numbered: bool = False
    text_beside: bool = False
    transposed: bool | None = None
    whole_is_draft: str = ""


def classify(tensors: Iterable[TensorInfo], config: Mapping[str, Any] | None = None) -> dict[str, Role]:
    """Say of every tensor what it is.

    Parameters
    ----------
    tensors : iterable of TensorInfo
        All tensors of a checkpoint: names, dtypes and shapes. No data are read.
    config : mapping, optional
        The model's `config.json`.

    Returns
    -------
    dict of str to Role

    Examples
    --------
    >>> def tensor(name, *shape):
    ...     return TensorInfo(name, "BF16", shape, 0, 0)
    >>> roles = classify([tensor("model.embed_tokens.weight", 512, 64), tensor("unembed.weight", 512, 64),
    ...                   tensor("h.0.attn.c_attn.weight", 64, 192), tensor("h.0.attn.c_attn.bias", 192)])
    >>> [(role.kind, role.axis) for role in roles.values()]
    [('embedding', 1), ('head', 1), ('linear', 0), ('bias', None)]
    """
    by_name = {info.name: info for info in tensors}
    quantised = recognise(by_name, config)
    # A packed weight takes its place under its own name and shape, so that siblings of it are judged right.
    # Scales and the like would be taken for weights by their shapes.
    plain = {
        name: info
        for name, info in by_name.items()
        if name not in quantised or quantised[name].part == "values"
    }
    for found in quantised.values():
        if found.part == "packed":
            # A shape that is not known fits no rule on shapes.
            plain[found.base] = TensorInfo(found.base, "F32", found.shape or (0, 0), 0, 0)
    facts = gather(plain, config)
    judge = _Judge(plain, facts)
    roles = {}
    for name, info in by_name.items():
        found_here = quantised.get(name)
        if found_here is None:
            roles[name] = judge.role(info)
        elif found_here.part == "side":
            roles[name] = Role("scales", "belongs to a quantised weight", None, 0, found_here)
        elif found_here.part == "values":
            role = judge.role(info)
            reason = f"{role.reason}, {found_here.format}"
            roles[name] = replace(role, reason=reason, quantisation=found_here)
        else:
            roles[name] = _packed(judge, found_here, plain[found_here.base])
    return roles


def _packed(judge: "_Judge", found: Quantisation, logical: TensorInfo) -> Role:
    """A tensor whose bytes hold several numbers each: left as it is, but the body is known for reading."""
    role = judge.role(logical)
    reason = f"{found.format}: its bytes are no weights"
    if found.verb:
        reason += f"; {found.verb} reads it"
    # The axis of a packed format is that of its blocks, whatever the sizes are.
    body = role.kind in (LINEAR, "ambiguous")
    axis = len(found.shape) - 1 if found.shape else None
    return Role("quantised", reason, axis, 0, found, body)


def gather(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None = None) -> Facts:
    """Collect what a checkpoint says as a whole.

    Parameters
    ----------
    tensors : mapping of name to TensorInfo
    config : mapping, optional

    Returns
    -------
    Facts
    """
    config = config or {}
    text = next(
        (
            config[key]
            for key in ("text_config", "llm_config", "language_config")
            if isinstance(config.get(key), dict)
        ),
        config,
    )
    # The sizes of the language model are those that tensors are compared with, if the configuration is of several.
    named = {name: split(name) for name in tensors}
    vocabulary, columns = set(), set()
    for name, info in tensors.items():
        if len(info.shape) == 2 and _is_token_table(named[name]):
            vocabulary.add(info.shape[0])
            columns.add(info.shape[1])
    stated = _number(text, *HIDDEN_KEYS)
    hidden = frozenset(columns if stated is None else {stated})
    vocabulary |= {_number(text, "vocab_size"), _number(config, "vocab_size")} - {None}  # type: ignore[arg-type]
    experts = _experts(tensors, named)
    counts = set(experts.values()) | {_number(place, *EXPERT_KEYS) for place in _places(text)}
    architectures = [one for one in config.get("architectures") or () if isinstance(one, str)]
    return Facts(
        hidden=hidden,
        vocabulary=frozenset(vocabulary),
        layers=_number(text, "num_hidden_layers", "n_layer", "n_layers"),
        experts=experts,
        expert_counts=frozenset(one for one in counts if one is not None and one > 1),
        draft_layers=frozenset(
            parts.layer for parts in named.values() if parts.layer and says(DRAFT_MARKS, parts.below)
        ),
        numbered=any(parts.layer for parts in named.values()),
        text_beside=_text_beside(named),
        transposed=_transposed(tensors, named, hidden, config),
        whole_is_draft=next((one for one in architectures if DRAFT_ARCHITECTURE.search(one)), ""),
    )


HIDDEN_KEYS = ("hidden_size", "n_embd", "d_model", "dim", "hidden_dim")
EXPERT_KEYS = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "moe_num_experts_total",
    "n_experts",
)
DRAFT_ARCHITECTURE = re.compile(r"eagle|medusa|speculator|mtp|draft|hydra", re.I)


def _number(place: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = place.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _places(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configuration and the parts of it where experts are counted."""
    return [text, *(value for key, value in text.items() if isinstance(value, dict) and "ffn" in key)]


@lru_cache(maxsize=1 << 17)
def split(name: str) -> Parts:
    """Cut a name into its parts: what lies before, in and below the deepest numbered layer."""
    modules = [part for part in name.split(".") if part not in WRAPPERS]
    leaf = modules.pop() if modules else ""
    first = next((place for place, part in enumerate(modules) if part.isdecimal()), None)
    words = [part.lower() for part in modules if not part.isdecimal()]
    before = ".".join(modules if first is None else modules[:first]).lower()
    layer = "" if first is None else ".".join(modules[: first + 1])
    below = ".".join([*modules[(first + 1 if first is not None else len(modules)) :], leaf]).lower()
    return Parts(
        name=name,
        leaf=leaf,
        modules=tuple(modules),
        last=words[-1] if words else "",
        above=words[-2] if len(words) > 1 else "",
        before=before,
        layer=layer,
        below=below,
        path=".".join([*words, leaf.lower()]),
        number=int(modules[first]) if first is not None and len(modules[first]) < 10 else None,
    )


def _is_token_table(parts: Parts) -> bool:
    return bool(
        parts.leaf == "weight"
        and not parts.layer
        and says(EMBEDDING, parts.last)
        and not says(POSITION, parts.last)
        and not says(PATCHES, parts.before)
        and "type" not in parts.last
    )


def _experts(tensors: Mapping[str, TensorInfo], named: Mapping[str, Parts]) -> dict[str, int]:
    """Path of a mixture of experts -> experts seen: numbered ones, or the first axis of a fused tensor."""
    numbered: dict[str, int] = {}
    for name, parts in named.items():
        for place, part in enumerate(parts.modules[:-1]):
            if "expert" in part.lower() and parts.modules[place + 1].isdecimal():
                path = ".".join(parts.modules[:place])
                number = parts.modules[place + 1]
                numbered[path] = max(numbered.get(path, 0), int(number[:9]) + 1)
                break
        else:
            if is_fused(parts, tensors[name]):
                modules = parts.modules
                place = next(
                    (i for i, part in enumerate(modules) if "expert" in part.lower()), len(modules) - 1
                )
                path = ".".join(modules[: max(place, 0)])
                numbered[path] = max(numbered.get(path, 0), tensors[name].shape[0])
            elif (
                len(tensors[name].shape) == 2
                and not says(WEIGHT_LEAF, parts.leaf)
                and "expert" in parts.below
            ):
                # All experts in one matrix: only the router beside it tells how many there are.
                place = next(i for i, part in enumerate(parts.modules) if "expert" in part.lower())
                path = ".".join(parts.modules[:place])
                routers = (tensors.get(f"{path}.{router}") for router in ROUTERS)
                rows = next((router.shape[0] for router in routers if router is not None and router.shape), 0)
                if rows:
                    numbered[path] = rows
    return numbered


def is_fused(parts: Parts, info: TensorInfo) -> bool:
    """Say whether a tensor holds the matrices of all experts, [experts, rows, columns]."""
    if len(info.shape) != 3 or says(BIAS, parts.leaf) or min(info.shape) < 1:
        return False
    path = parts.path
    if "conv" in path or not ("expert" in path or "_exps" in path or "moe" in path):
        known = parts.leaf if parts.leaf != "weight" else parts.last
        return "conv" not in path and bool(says(FUSED_IN, known) or says(FUSED_OUT, known))
    return True


def _text_beside(named: Mapping[str, Parts]) -> bool:
    """A numbered layer outside of every tower, and no pair of encoders that are trained for each other."""
    if any(says(DUAL_ENCODER, parts.path) for parts in named.values()):
        return False
    return any(parts.layer and not says(TOWER, parts.before) for parts in named.values())


def _transposed(
    tensors: Mapping[str, TensorInfo],
    named: Mapping[str, Parts],
    hidden: frozenset[int],
    config: Mapping[str, Any],
) -> bool | None:
    """Weights named as in GPT-2 are [in, out] or [out, in]: their biases and sizes vote, then the model's type."""
    votes: Counter[bool] = Counter()
    for name, parts in named.items():
        if parts.last in TRANSPOSED and parts.leaf == "weight" and len(tensors[name].shape) == 2:
            found = _by_bias(tensors, name)
            found = _by_hidden(tensors[name], parts.last, hidden) if found is None else found
            if found is not None:
                votes[found] += 1
    if votes:
        return votes[True] >= votes[False]
    model = config.get("model_type")
    return model in TRANSPOSED_MODELS if isinstance(model, str) else None


def _by_bias(tensors: Mapping[str, TensorInfo], name: str) -> bool | None:
    """A bias has the length of the out features: True for [in, out], None if that does not decide."""
    bias = tensors.get(name.removesuffix("weight") + "bias")
    shape = tensors[name].shape
    if bias is None or len(bias.shape) != 1 or shape[0] == shape[1]:
        return None
    return {shape[0]: False, shape[1]: True}.get(bias.shape[0])


def _by_hidden(info: TensorInfo, last: str, hidden: frozenset[int]) -> bool | None:
    rows, columns = info.shape
    if (rows in hidden) == (columns in hidden):
        return None
    reads_hidden = last != "c_proj"
    return (rows in hidden) == reads_hidden


class _Judge:
    """The rules, applied to one tensor after another."""

    def __init__(self, tensors: Mapping[str, TensorInfo], facts: Facts) -> None:
        self.tensors = tensors
        self.facts = facts
        self._layouts: dict[str, bool | None] = {}

    def role(self, info: TensorInfo) -> Role:
        """Find the first rule that fits. The order matters: what is certain by name comes before shapes."""
        parts = split(info.name)
        left = self._left_by_name(parts, info) or self._left_by_place(parts, info)
        if left is not None:
            kind, reason = left
            axis = (
                len(info.shape) - 1
                if len(info.shape) > 1 and kind in ("embedding", "head", "router")
                else None
            )
            return Role(kind, reason, axis if axis is not None else self._any_axis(parts, info))
        return self._weight(parts, info)

    def _any_axis(self, parts: Parts, info: TensorInfo) -> int | None:
        """Axis of the in features of what is left dense, for a user who includes it by name."""
        return self._weight(parts, info).axis if len(info.shape) > 1 else None

    def _left_by_name(self, parts: Parts, info: TensorInfo) -> tuple[str, str] | None:
        # Biases and norms come first: they lie in draft heads and adapters too, and are never pruned anyway.
        path = parts.last if parts.last else parts.leaf
        if says(BIAS, parts.leaf):
            return "bias", f"bias: named {brief(parts.leaf)}"
        if says(STATE_SPACE, parts.leaf) or says(STATE_SPACE, parts.last):
            return (
                "state",
                f"state-space parameter: named {brief(parts.leaf if parts.leaf != 'weight' else path)}",
            )
        if len(info.shape) < 2:
            if says(NORM, parts.last) or says(NORM, parts.leaf):
                return "norm", f"norm: has {len(info.shape)} dimensions"
            return "other", f"has {len(info.shape)} dimensions"
        if self.facts.whole_is_draft:
            return "draft", f"draft head: config.json names {self.facts.whole_is_draft}"
        draft = says(DRAFT, parts.path)
        if draft or parts.layer in self.facts.draft_layers:
            return "draft", "draft head: " + (
                f"named {brief(draft.group().strip('.'))}"
                if draft
                else f"layer {parts.layer} has the parts of one"
            )
        if says(ADAPTER, parts.path):
            return "adapter", "adapter: low-rank factors beside a weight"
        for word in (parts.leaf, parts.last, parts.above):
            if says(POSITION, word):
                return "position", f"position table: named {brief(word)}"
        for word in (parts.leaf, parts.last, parts.above):
            if says(NORM, word):
                return "norm", f"norm: named {brief(word)}"
        if says(PATCHES, parts.path):
            return "embedding", "embedding: of patches"
        if says(EMBEDDING, parts.last) and not (parts.last == "shared" and parts.layer):
            return "embedding", f"embedding: named {brief(parts.last)}"
        return self._router(parts, info)

    def _left_by_place(self, parts: Parts, info: TensorInfo) -> tuple[str, str] | None:
        """Heads, layers beyond the last, towers, and what lies outside of the layers."""
        facts = self.facts
        rows, columns = info.shape[0], info.shape[-1]
        body = says(KNOWN_LINEAR, parts.leaf if parts.leaf != "weight" else parts.last)
        if parts.layer:
            if says(HEAD, parts.before) or says(HEAD_IN_LAYER, parts.last):
                return "head", f"head: named {brief(parts.last)}"
            is_main = not says(TOWER, parts.before) and not re.search(r"encoder|decoder", parts.before)
            if (
                facts.layers is not None
                and is_main
                and parts.number is not None
                and parts.number >= facts.layers
                and parts.before.endswith(("layers", "h", "blocks"))
            ):
                return (
                    "draft",
                    f"draft head: layer {parts.number} of a model of {facts.layers} layers (config.json)",
                )
        elif says(HEAD, parts.before) or parts.last == "output":
            return "head", f"head: named {brief(parts.last)}"
        elif parts.last == "proj_out" and len(parts.modules) == 1:
            return "head", "head: named 'proj_out' outside of the layers"
        # A name that tells a linear layer goes before the shape: small models have equal sizes by chance.
        if len(info.shape) == 2 and not (parts.layer and body):
            fits_head = not parts.layer or not facts.hidden or columns in facts.hidden
            if rows in facts.vocabulary and fits_head and not says(BODY_OUTSIDE, parts.last):
                return "head", f"head: {rows} rows, as many as the vocabulary"
            if columns in facts.vocabulary and rows in facts.hidden and not parts.layer:
                return "head", f"head: {columns} columns, as many as the vocabulary"
        if says(TOWER, parts.path) and facts.text_beside:
            return "tower", "vision or audio part beside a language model"
        outside = facts.numbered and not parts.layer and not says(BODY_OUTSIDE, parts.last)
        outside = outside and bool(says(WEIGHT_LEAF, parts.leaf))
        if outside and not (body and re.search(r"attn|attention|mlp|ffn|feed_forward", parts.before)):
            return "outside", "lies outside of the numbered layers"
        return None

    def _router(self, parts: Parts, info: TensorInfo) -> tuple[str, str] | None:
        """A matrix that chooses experts: by its name, or by as many rows as experts beside it."""
        # A gate within an expert multiplies features; only one beside experts chooses among them.
        modules = parts.modules
        place = next((i for i, part in enumerate(modules) if "expert" in part.lower()), None)
        within = (
            place is not None
            and not re.search(r"gate$", modules[-1])
            and (
                (place + 1 < len(modules) and modules[place + 1].isdecimal())
                or "shared" in modules[place].lower()
            )
        )
        if place is not None and place + 1 < len(modules) and modules[place + 1].isdecimal():
            return None
        if len(info.shape) != 2:
            return None
        word = parts.last if parts.leaf == "weight" else parts.leaf
        named = says(ROUTER, word) or (says(ROUTER, parts.above) and says(ROUTER_LAST, parts.last))
        if named and not within and not self._is_plain_gate(parts, info, word):
            return "router", f"router: named {brief(named.group())}"
        count = self.facts.experts.get(".".join(modules[:-1]), 0)
        if not count and parts.layer:
            beside = [
                number
                for path, number in self.facts.experts.items()
                if path == parts.layer or path.startswith(parts.layer + ".")
            ]
            count = beside[0] if beside and len(set(beside)) == 1 else 0
        if count > 1 and info.shape[0] == count and not says(KNOWN_LINEAR, word):
            return "router", f"router: {count} rows, as many as the experts beside it"
        return None

    def _is_plain_gate(self, parts: Parts, info: TensorInfo, word: str) -> bool:
        """A gate that multiplies features, and chooses no experts."""
        if word != "gate":
            return False
        if parts.above == "shared_experts" or parts.above == "shared_expert" or "attn" in parts.above:
            return True
        stem = ".".join(parts.name.split(".")[:-2])
        for twin in ("up", "up_proj", "w3", "value", "fc"):
            other = self.tensors.get(f"{stem}.{twin}.weight")
            if other is not None and other.shape == info.shape:
                return True
        if stem in self.facts.experts:
            return False
        # A router that is pruned costs more than a gate that stays dense: few rows are never taken for features.
        if re.search(r"moe|expert", parts.above) or info.shape[0] in self.facts.expert_counts:
            return False
        return info.shape[0] * 2 >= info.shape[1]

    def _weight(self, parts: Parts, info: TensorInfo) -> Role:
        """A weight of the body: find the axis of its in features, or say why it is none."""
        rank = len(info.shape)
        if is_fused(parts, info):
            return self._fused(parts, info)
        path = parts.path
        if rank == 2 and "expert" in path and not says(WEIGHT_LEAF, parts.leaf):
            return self._stacked(parts, info)
        if rank >= 3:
            if not says(WEIGHT_LEAF, parts.leaf):
                return Role("other", f"is no weight by its name: {brief(parts.leaf)}")
            return self._convolution(parts, info, path)
        if not says(WEIGHT_LEAF, parts.leaf):
            return Role("other", f"is no weight by its name: {brief(parts.leaf)}")
        if says(CONVOLUTION, parts.last) and info.shape[-1] <= MAX_KERNEL and "depth" in path:
            return Role("depthwise", "depthwise convolution")
        return self._matrix(parts, info)

    def _matrix(self, parts: Parts, info: TensorInfo) -> Role:
        found = _by_bias(self.tensors, info.name)
        if found is None and parts.last in TRANSPOSED and parts.leaf == "weight":
            found = _by_hidden(info, parts.last, self.facts.hidden)
            found = self.facts.transposed if found is None else found
            if found is None and info.shape[0] == info.shape[1]:
                reason = f"{info.shape[0]}x{info.shape[1]}, and nothing says which axis holds the in features"
                return Role("ambiguous", reason)
        if found:
            return Role(LINEAR, "linear weight, [in, out]", 0, body=True)
        return Role(LINEAR, "linear weight, [out, in]", 1, body=True)

    def _convolution(self, parts: Parts, info: TensorInfo, path: str) -> Role:
        """[out, in / groups, kernel...]; a transposed one, [in, out, kernel...], is known by its bias."""
        if info.shape[1] == 1:
            return Role("depthwise", "depthwise convolution: one channel per filter")
        bias = self.tensors.get(info.name.removesuffix("weight") + "bias")
        turned = (
            bias is not None
            and len(bias.shape) == 1
            and bias.shape[0] == info.shape[1]
            and info.shape[0] != info.shape[1]
        )
        if len(info.shape) == 3 and "conv" not in path and info.shape[-1] > MAX_KERNEL:
            return Role(
                LINEAR, "stacked linear weights, [count, out, in]", 2, body=True, matrices=info.shape[0]
            )
        axis = 0 if turned else 1
        return Role(LINEAR, f"convolution, in channels along axis {axis}", axis, body=True, matrices=0)

    def _stacked(self, parts: Parts, info: TensorInfo) -> Role:
        """All experts in one matrix, [experts * inner, hidden], as DBRX stores them."""
        inner = next(
            (
                info.shape[0] // count
                for count in sorted(self.facts.expert_counts, reverse=True)
                if info.shape[0] % count == 0
            ),
            0,
        )
        if not inner:
            return Role("other", f"is no weight by its name: {brief(parts.leaf)}")
        if says(FUSED_OUT, parts.leaf):
            count = info.shape[0] // inner
            return Role(
                LINEAR, "experts in one matrix, [experts * in, out]", 0, inner, body=True, matrices=count
            )
        return Role(LINEAR, "experts in one matrix, [experts * out, in]", 1, body=True)

    def _fused(self, parts: Parts, info: TensorInfo) -> Role:
        """Experts in one tensor: the layout is that of all fused tensors beside it."""
        stem = info.name[: -len(parts.leaf)]
        key = stem.removesuffix(f"{parts.modules[-1]}.") if parts.leaf == "weight" and parts.modules else stem
        if key not in self._layouts:
            self._layouts[key] = self._layout(key)
        layout = self._layouts[key]
        if layout is None:
            shape = "x".join(map(str, info.shape))
            return Role("ambiguous", f"experts of {shape}, and nothing says which axis holds the in features")
        order, axis = ("in, out", 1) if layout else ("out, in", 2)
        reason = f"experts in one tensor, [experts, {order}]"
        return Role(LINEAR, reason, axis, body=True, matrices=info.shape[0])

    def _layout(self, key: str) -> bool | None:
        """Say whether fused experts are [experts, in, out]: by the hidden size, by their biases, by each other."""
        ends = ("", ".weight")
        names = [
            f"{key}{one}{end}"
            for one in FUSED_NAMES
            for end in ends
            if f"{key}{one}{end}" in self.tensors and len(self.tensors[f"{key}{one}{end}"].shape) == 3
        ]
        readers = [
            self.tensors[name]
            for name in names
            if not says(FUSED_OUT, name.removesuffix(".weight").rpartition(".")[2])
        ]
        writers = [
            self.tensors[name]
            for name in names
            if says(FUSED_OUT, name.removesuffix(".weight").rpartition(".")[2])
        ]
        votes: Counter[bool] = Counter()
        for info in (*readers, *writers):
            stem = info.name.removesuffix(".weight")
            bias = self.tensors.get(stem + "_bias") or self.tensors.get(stem + ".bias")
            if bias is not None and len(bias.shape) == 2 and info.shape[1] != info.shape[2]:
                votes[bias.shape[1] == info.shape[2]] += 2
            middle, last = (size in self.facts.hidden for size in info.shape[1:])
            if middle != last:
                votes[middle == (info in readers)] += 1
        if votes[True] != votes[False]:
            return votes[True] > votes[False]
        for reader in readers:
            for writer in writers:
                # Gate and up in one tensor are twice as wide as what the second matrix reads.
                turned = reader.shape[1] == writer.shape[2] and reader.shape[2] == 2 * writer.shape[1]
                plain = reader.shape[2] == writer.shape[1] and reader.shape[1] == 2 * writer.shape[2]
                if turned != plain:
                    return turned
        # Modules with a tensor named "weight" are stacks of torch's linear layers.
        return False if any(name.endswith(".weight") for name in names) else None


FUSED_NAMES = (
    "gate_up_proj", "gate_up", "gate_proj", "up_proj", "down_proj", "input_linear", "output_linear", "w1", "w2", "w3", "w13",
    "w13_weight", "w2_weight", "w1_weight", "w3_weight", "v1", "wi", "wo", "wi_0", "wi_1", "ffn_gate_exps", "ffn_up_exps",
    "ffn_down_exps", "ffn_gate_up_exps", "fc1", "fc2", "linear_1", "linear_2", "gate_and_up_proj", "in_proj", "out_proj",
    "linear", "mlp1_weight", "mlp2_weight",
)  # fmt: skip
"""Names of fused experts; those that write the hidden size fit `FUSED_OUT`."""


def weights_of(info: TensorInfo) -> int:
    """Count the elements of a tensor."""
    return math.prod(info.shape)
