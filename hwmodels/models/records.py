"""What a model is made of: linear layers by shape and role, and attention by what it keeps per token."""

from dataclasses import dataclass
from typing import Literal, get_args

from nmsim.errors import SpecError, brief

Role = Literal[
    "attention", "mixer", "feed_forward", "expert", "shared_expert", "router", "side", "head", "draft"
]
ROLES: tuple[Role, ...] = get_args(Role)
"""Roles of a linear layer.

- attention: projections of softmax attention.
- mixer: projections of state-space, linear-attention or convolution layers.
- feed_forward: the dense part of a layer.
- expert: one of many, of which a token passes few.
- shared_expert: passed by each token beside the experts.
- router: chooses the experts.
- side: a projection beside the layers, such as of per-layer embeddings.
- head: outputs over the vocabulary or over labels.
- draft: what only a draft head has.
"""

AttentionKind = Literal["full", "window", "chunk", "state", "none"]
ATTENTION_KINDS: tuple[AttentionKind, ...] = get_args(AttentionKind)
"""What a token attends to.

- full: all tokens before it.
- window: the last `window_tokens`.
- chunk: its own chunk of `window_tokens`.
- state: a state of fixed size, as in linear attention, state-space layers and short convolutions.
- none: the layer has no such part.
"""


@dataclass(frozen=True)
class Layer:
    """Linear layers of one shape: Y[M, N] = X[M, K] W[N, K]^T, `count` of them in the model.

    Attributes
    ----------
    name : str
        Unique in its model: "q", "expert_down", ...
    count : int
        Matrices in the model, those of all experts included.
    N, K : int
        Out features and in features of one matrix, in elements.
    pruned : bool
        False for what pruning papers leave dense: heads, routers, draft heads.
    role : str
        One of `ROLES`.
    experts : int
        Experts of one model layer among which a token chooses; 0 if every token passes each matrix.
    active_experts : int
        Experts of one model layer that a token passes; 0 if `experts` is 0.
    dtype : str or None
        Value type of the stored weights if `quantization_config` says one for this layer, else None.
    reads : int
        Times that one token passes each matrix: more than 1 only if model layers share weights, as in Zamba2.

    Raises
    ------
    SpecError
        A role that does not exist, or counts that contradict each other.

    Examples
    --------
    >>> layer = Layer("expert_up", 256, 14336, 4096, role="expert", experts=8, active_experts=2)
    >>> layer.places, layer.active_count
    (32, 64)
    """

    name: str
    count: int
    N: int
    K: int
    pruned: bool = True
    role: Role = "feed_forward"
    experts: int = 0
    active_experts: int = 0
    dtype: str | None = None
    reads: int = 1

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise SpecError(f"layer {self.name}: role={brief(self.role)}: expected one of {', '.join(ROLES)}")
        if self.experts and (self.count % self.experts or not 0 < self.active_experts <= self.experts):
            raise SpecError(
                f"layer {self.name}: {self.count} matrices, {self.active_experts} of {self.experts} experts: "
                "expected a multiple of the experts, and 1 to all of them active"
            )
        if self.active_experts and not self.experts:
            raise SpecError(
                f"layer {self.name}: active_experts={self.active_experts}, expected experts as well"
            )

    @property
    def places(self) -> int:
        """Model layers that hold such a matrix, or such a set of experts."""
        return self.count // self.experts if self.experts else self.count

    @property
    def active_count(self) -> int:
        """Matrices that one token passes, each as often as it is passed."""
        return self.reads * self.places * (self.active_experts or 1)

    @property
    def weight_elems(self) -> int:
        """Weights of all matrices."""
        return self.count * self.N * self.K


@dataclass(frozen=True)
class Attention:
    """Layers of a model with the same attention, and what they keep of each token.

    Attributes
    ----------
    count : int
        Model layers of this kind.
    query_heads, kv_heads : int
        Heads of the queries; heads of the keys and values that are kept. Both 0 for a state.
    head_dim, value_head_dim : int
        Elements of a query or key head, and of a value head. For MLA those of the full heads, from which products of
        the prompt are made.
    kind : str
        One of `ATTENTION_KINDS`.
    window_tokens : int or None
        Tokens of the window or chunk; None if all are kept.
    latent_elems : int or None
        For MLA: elements that are kept per token and layer, the compressed latent and the rotary part.
    state_elems : int
        Elements that are kept per sequence and layer and do not grow: states of linear attention and of convolutions.
    extra_elems : int
        Elements that are kept per token and layer beside keys and values, such as keys of an index.
    shares_cache : bool
        True if the layers read keys and values that another layer keeps: they keep nothing.
    read_tokens : int or None
        Tokens of the cache that a query reads at most although all are kept (sparse attention with an index).
    rotary_elems : int
        For MLA: elements of `latent_elems` that are the rotary part of the keys. Values have no such part.

    Examples
    --------
    >>> Attention(32, 32, 8, 128).kv_elems_per_token
    2048
    >>> Attention(61, 128, 128, 192, 128, latent_elems=576).kv_elems_per_token
    576
    """

    count: int
    query_heads: int
    kv_heads: int
    head_dim: int
    value_head_dim: int = 0
    kind: AttentionKind = "full"
    window_tokens: int | None = None
    latent_elems: int | None = None
    state_elems: int = 0
    extra_elems: int = 0
    shares_cache: bool = False
    read_tokens: int | None = None
    rotary_elems: int = 0

    def __post_init__(self) -> None:
        if not self.value_head_dim:
            object.__setattr__(self, "value_head_dim", self.head_dim)
        if self.kind not in ATTENTION_KINDS:
            raise SpecError(
                f"attention: kind={brief(self.kind)}: expected one of {', '.join(ATTENTION_KINDS)}"
            )
        if (self.window_tokens is not None) != (self.kind in ("window", "chunk")):
            raise SpecError(
                f"attention: kind={self.kind}, window_tokens={self.window_tokens}: expected both or none"
            )

    @property
    def kv_elems_per_token(self) -> int:
        """Elements of one layer's cache that one more token adds, before a window cuts it."""
        if self.shares_cache or self.kind in ("state", "none"):
            return 0
        kept = self.kv_heads * (self.head_dim + self.value_head_dim)
        return (kept if self.latent_elems is None else self.latent_elems) + self.extra_elems

    def kept_tokens(self, context_tokens: int) -> int:
        """Tokens that the cache of one layer holds after a context."""
        if self.shares_cache or self.kind in ("state", "none"):
            return 0
        return min(context_tokens, self.window_tokens or context_tokens)

    def kept_elems(self, context_tokens: int) -> int:
        """Elements that all `count` layers keep for one sequence after a context, states included."""
        return self.count * (self.kept_tokens(context_tokens) * self.kv_elems_per_token + self.state_elems)


@dataclass(frozen=True)
class Model:
    """A decoder-only transformer, as the linear layers that one token passes through.

    Attributes
    ----------
    name : str
    layers : tuple of Layer
    tied_head : bool
        Whether the output head shares the weights of the embedding.
    source : str
        Where the configuration is from.
    attention : tuple of Attention
        Their counts sum up to the model layers that mix tokens.
    embedding_elems : int or None
        Weights of the embedding tables that are looked up; None if not known.
    experts, active : int
        Experts per model layer, and how many of them a token passes; 0 if dense. The most of any layer.
    dtype : str or None
        Value type of the weights that `quantization_config` says, else None.
    family : str
        `model_type` of the text part.
    notes : tuple of str
        What was assumed, taken from defaults or left out. Meant for the user.
    """

    name: str
    layers: tuple[Layer, ...]
    tied_head: bool
    source: str
    attention: tuple[Attention, ...] = ()
    embedding_elems: int | None = None
    experts: int = 0
    active: int = 0
    dtype: str | None = None
    family: str = ""
    notes: tuple[str, ...] = ()

    @property
    def weight_elems(self) -> int:
        """Weights of all layers, all experts and the output head included."""
        return sum(layer.weight_elems for layer in self.layers)

    @property
    def active_elems(self) -> int:
        """Weights of all layers that one token is multiplied with, the output head included."""
        return sum(layer.active_count * layer.N * layer.K for layer in self.layers)

    @property
    def total_elems(self) -> int:
        """Weights of layers and embeddings; a head that shares the embedding is counted once. No norms and biases."""
        shared = (
            sum(layer.weight_elems for layer in self.layers if layer.role == "head") if self.tied_head else 0
        )
        return self.weight_elems + (self.embedding_elems or 0) - shared

    @property
    def kv_elems_per_token(self) -> int:
        """Elements that one more token adds to the caches of all layers, before windows cut them."""
        return sum(each.count * each.kv_elems_per_token for each in self.attention)

    def kept_elems(self, context_tokens: int) -> int:
        """Elements that one sequence keeps after a context: caches cut by their windows, and states."""
        return sum(each.kept_elems(context_tokens) for each in self.attention)
