"""Several weights of one input as one: their rows on top of each other, and the layers of a model that share an input.

Engines run the projections of a layer fused: query, key and value as one product, gate and up as one. One large product takes
one launch, and fills a GPU better than several small ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kernels.ops.checks import checked_weight
from kernels.ops.layer import NMLinear
from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import NMWeight
from nmsim.errors import brief

PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that have the same input, as models such as Llama, Mistral, Qwen and SmolLM2 name them."""


def stack(weights: Sequence[NMWeight]) -> NMWeight:
    """Put the rows of several packed weights on top of each other: [N_1, K], [N_2, K] ... -> [N_1 + N_2 + ..., K].

    Parameters
    ----------
    weights : sequence of NMWeight
        Of one K, format, type and device. They are copied.

    Returns
    -------
    NMWeight

    Raises
    ------
    KernelError
        No weight, or weights that differ in more than their rows.

    Examples
    --------
    >>> from kernels.ops import compress
    >>> stack([compress(torch.ones(rows, 64), "8:16") for rows in (32, 8, 8)])
    NMWeight(8:16/index, [48, 64], torch.float32, cpu)
    """
    if not weights:
        raise KernelError("weights are empty: expected one NMWeight at least")
    first, *others = (checked_weight(weight) for weight in weights)
    for number, weight in enumerate(others, 1):
        if _kind(weight) != _kind(first):
            raise KernelError(
                f"weights {number} are {_kind(weight)}: expected {_kind(first)} to stack them on weights 0"
            )
    values, metadata = (
        torch.cat([getattr(weight, part) for weight in weights]) for part in ("values", "metadata")
    )
    return NMWeight(values, metadata, first.format, (len(values), first.shape[1]))


def _kind(weight: NMWeight) -> str:
    return f"{weight.format.short} of {weight.shape[1]} in features, {weight.dtype} on {weight.device}"


class StackedPart(nn.Module):
    """One of the layers that `stack_` made one: y = its rows of the one product. It holds no weights itself.

    The first of the layers that is called with an input multiplies. The others take their outputs from the same product,
    if they are called with the same tensor. With another tensor each multiplies by all rows again. A change of the tensor
    in place is seen as well, but not in compiled graphs and not in inference mode.
    """

    def __init__(self, product: "_Product", name: str, first: int, last: int) -> None:
        super().__init__()
        self.name = name
        self.in_features, self.out_features = product.layer.in_features, last - first
        self._first = first
        self._product = product

    @property
    def weight(self) -> Tensor:
        """The pruned weight [N, K] of this layer, decompressed anew each time it is asked for."""
        whole: Tensor = self._product.layer.weight
        return whole[self._first : self._first + self.out_features]

    @property
    def bias(self) -> Tensor | None:
        """The bias [N] of this layer: a part of that of the stacked layer."""
        bias = self._product.layer.bias
        return None if bias is None else bias[self._first : self._first + self.out_features]

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: x [..., K] -> [..., N]."""
        return self._product.of(x, self.name).narrow(-1, self._first, self.out_features)

    def follow(self, replaced: Mapping[nn.Module, nn.Module]) -> None:
        """Use another layer from now on, if that of this part was replaced by one with the same outputs."""
        self._product.layer = replaced.get(self._product.layer, self._product.layer)

    def extra_repr(self) -> str:
        """Say what a printed model shows of this layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class _Product:
    """The last product of a stacked layer, kept until every part has taken its outputs."""

    layer: Any

    def __init__(self, layer: NMLinear, names: Sequence[str]) -> None:
        # A plain object holds the layer: as a module of each part it would be in a state dict several times.
        self.layer = layer
        self.names = frozenset(names)
        self.waiting: frozenset[str] = frozenset()
        self.x: Tensor | None = None
        self.state = (0, False)
        self.y: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"waiting": frozenset(), "x": None, "y": None}

    def of(self, x: Tensor, name: str) -> Tensor:
        """Give the product, from the call of another part if it was made of this very tensor."""
        y = self.y
        # Tensors made in inference mode have no version, and a graph that is being traced cannot compare any.
        has_version = not torch.compiler.is_compiling() and not x.is_inference()
        state = (x._version if has_version else 0, torch.is_grad_enabled())
        if y is None or self.x is not x or state != self.state or name not in self.waiting:
            y = self.layer(x)
            self.x, self.state, self.y, self.waiting = x, state, y, self.names
        self.waiting = self.waiting - {name}
        if not self.waiting:
            self.x = self.y = None
        return y


@dataclass(frozen=True)
class StackReport:
    """What `stack_` did.

    Parameters
    ----------
    stacked : dict of str to tuple of str
        Name of each new layer -> the names of the layers that are parts of it, in the order of their rows.
    left : dict of str to str
        Name of each module that has such layers and keeps them -> why.
    """

    stacked: dict[str, tuple[str, ...]]
    left: dict[str, str]


def stack_(model: nn.Module, *, projections: Iterable[Sequence[str]] = PROJECTIONS) -> StackReport:
    """Make one layer of those layers of a model that have the same input, such as query, key and value.

    `self_attn.q_proj`, `k_proj` and `v_proj` become parts of `self_attn.qkv_proj`, a `NMLinear` of all their rows. The code of
    the model stays as it is: it calls the parts. The state dict has the new layer instead of the old ones. A layer that decodes
    (`for_decode_`) makes a stacked one that decodes. Outputs of layers are those of the single ones: the same sums in the same
    order on a CPU. On a GPU the order may differ, since a larger product is cut into other parts of K.

    Parameters
    ----------
    model : nn.Module
        After `sparsify_`. A model that calls the projections of one module with different tensors stays right, but is slower.
    projections : iterable of sequences of str
        Names of layers of one module with the same input; those of Llama-like models if absent.

    Returns
    -------
    StackReport

    Raises
    ------
    KernelError
        Not a module, or a sequence of names with fewer than two.

    Examples
    --------
    >>> from kernels.ops import sparsify_
    >>> mlp = nn.ModuleDict({name: nn.Linear(64, 128, bias=False) for name in ("gate_proj", "up_proj")})
    >>> model = nn.ModuleDict({"mlp": mlp})
    >>> _ = sparsify_(model, "8:16", include=("*",))
    >>> stack_(model).stacked
    {'mlp.gate_up_proj': ('mlp.gate_proj', 'mlp.up_proj')}
    """
    if not isinstance(model, nn.Module):
        raise KernelError(f"model is a {type(model).__name__}: expected a module that holds NMLinear layers")
    groups = [tuple(names) for names in projections]
    for names in groups:
        if len(set(names)) < 2:
            raise KernelError(f"projections hold {brief(names)}: expected two names of layers at least")
    held: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        held[id(module)] = held.get(id(module), 0) + 1
    stacked: dict[str, tuple[str, ...]] = {}
    left: dict[str, str] = {}
    for parent_name, parent in list(model.named_modules()):
        for names in groups:
            layers = [getattr(parent, name, None) for name in names]
            if not any(isinstance(layer, NMLinear) for layer in layers):
                continue
            prefix = f"{parent_name}." if parent_name else ""
            reason = _reason_to_leave(parent, names, layers, held)
            if reason:
                left[parent_name] = reason
                continue
            new = _stacked_name(names)
            _replace(parent, names, [layer for layer in layers if isinstance(layer, NMLinear)], new)
            stacked[prefix + new] = tuple(prefix + name for name in names)
    return StackReport(stacked, left)


def _stacked_name(names: Sequence[str]) -> str:
    """Name the layer of several: q_proj, k_proj, v_proj -> qkv_proj; gate_proj, up_proj -> gate_up_proj."""
    ends = {name.rpartition("_")[2] for name in names}
    heads = [name.rpartition("_")[0] for name in names]
    if len(ends) > 1 or not all(heads):
        return "_".join(names)
    return ("" if max(map(len, heads)) == 1 else "_").join(heads) + "_" + ends.pop()


def _reason_to_leave(
    parent: nn.Module, names: Sequence[str], layers: Sequence[object], held: dict[int, int]
) -> str:
    """Say why the layers of a module stay, or nothing."""
    for name, layer in zip(names, layers, strict=True):
        if type(layer) is not NMLinear:
            return f"{name} is a {type(layer).__name__}, not an NMLinear"
        if held[id(layer)] > held[id(parent)]:
            return f"{name} is a layer of another module too"
        if layer._forward_hooks or layer._forward_pre_hooks:
            return f"{name} has hooks, which a new layer would lose"
    found = [layer for layer in layers if isinstance(layer, NMLinear)]
    if len({_kind(layer.weights) for layer in found}) > 1:
        return f"{', '.join(names)} differ in format, in features, type or device"
    if len({layer.bias is None for layer in found}) > 1:
        return f"of {', '.join(names)} some have a bias"
    if len({layer.decode_bytes > 0 for layer in found}) > 1:
        return f"of {', '.join(names)} some decode"
    if hasattr(parent, _stacked_name(names)):
        return f"it has a {_stacked_name(names)} already"
    return ""


def _replace(parent: nn.Module, names: Sequence[str], layers: Sequence[NMLinear], new: str) -> None:
    """Put one layer and its parts in place of several."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    bias = None
    if biases:
        wanted = any(part.requires_grad for part in biases)
        bias = nn.Parameter(torch.cat([part.detach() for part in biases]), requires_grad=wanted)
    layer = NMLinear(stack([part.weights for part in layers]), bias=bias).train(layers[0].training)
    if layers[0].decode_bytes:
        layer.for_decode_()
    product = _Product(layer, names)
    first = 0
    for name, part in zip(names, layers, strict=True):
        last = first + part.out_features
        parent._modules[name] = StackedPart(product, name, first, last)
        first = last
    parent._modules[new] = layer
