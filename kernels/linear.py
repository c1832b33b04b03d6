"""`NMLinear`, a linear layer with N:M weights, and `sparsify_`, which puts it in place of every `nn.Linear` of a model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
from torch import Tensor, nn

from kernels import ops
from kernels.cpu import KernelError
from kernels.nm_weight import METADATA_ALIGNMENT_BYTES, NMWeight
from kernels.tensors import DTYPES
from nmsim.errors import NmsimError
from nmsim.pattern import Pattern

EXTRA_STATE = "_extra_state"
"""Torch's name, in a state dict, for what `get_extra_state` returns."""


class NMLinear(nn.Module):
    """A linear layer whose weights are stored N in M: y = x W^T + b, x [..., K], y [..., N].

    Weights are frozen: gradients reach x and the bias. In a state dict, the weights are three entries: `values`,
    `metadata`, and `_extra_state`, uint8 text such as `8:16 index 4096x14336`, which loading compares with the layer.
    All three are tensors, and so go through safetensors files.

    `half()`, `bfloat16()`, `float()` and `to(dtype)` round the stored values and leave the positions alone; any other
    type is refused, as is one for the metadata (`type()`).

    Parameters
    ----------
    weights : NMWeight
        Taken over, not copied.
    bias : Parameter [N], optional
        Taken over, not copied.

    Raises
    ------
    KernelError
        Weights or a bias of another type or shape.

    Examples
    --------
    >>> NMLinear.from_linear(nn.Linear(64, 32), "8:16")
    NMLinear(in_features=64, out_features=32, bias=True, pattern=8:16, encoding=index, dtype=torch.float32)
    """

    values: Tensor
    metadata: Tensor
    bias: nn.Parameter | None

    def __init__(self, weights: NMWeight, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        if not isinstance(weights, NMWeight):
            raise KernelError(
                f"weights are a {type(weights).__name__}: expected an NMWeight, as ops.pack makes it"
            )
        self.out_features, self.in_features = weights.shape
        if bias is not None and (
            not isinstance(bias, nn.Parameter)
            or bias.shape != (self.out_features,)
            or bias.dtype not in DTYPES
        ):
            found = f"{bias.dtype} {tuple(bias.shape)}" if isinstance(bias, Tensor) else ""
            raise KernelError(
                f"bias is a {type(bias).__name__} {found}: expected a Parameter [{self.out_features}] of one of "
                f"{', '.join(map(str, DTYPES))}"
            )
        self.pattern, self.encoding = weights.pattern, weights.encoding
        self._pattern_text = weights.pattern_text
        self.register_buffer("values", weights.values)
        self.register_buffer("metadata", weights.metadata)
        self.bias = bias

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        pattern: Pattern | str,
        encoding: str = "index",
        mask: Tensor | None = None,
    ) -> Self:
        """Prune and pack the weight of a linear layer, which stays as it is. The bias parameter is shared with it.

        Parameters
        ----------
        linear : nn.Linear
            On the CPU.
        pattern, encoding, mask
            As for `ops.pack`.

        Raises
        ------
        KernelError, PatternError
            As `ops.pack`; or not a linear layer.
        """
        if not isinstance(linear, nn.Linear):
            raise KernelError(f"linear is a {type(linear).__name__}: expected a torch.nn.Linear")
        layer = cls(ops.pack(linear.weight.detach(), pattern, encoding, mask), linear.bias)
        return layer.train(linear.training)

    @property
    def weights(self) -> NMWeight:
        """The packed weights, on the memory of this layer. Making it checks every code."""
        return NMWeight(
            self.values, self.metadata, self.pattern, self.encoding, (self.out_features, self.in_features)
        )

    @property
    def weight(self) -> Tensor:
        """The pruned weight [N, K], unpacked anew each time it is asked for: for code that reads `linear.weight`."""
        dense: Tensor = torch.ops.nmsim.unpack(
            self.values, self.metadata, self._pattern_text, self.encoding, self.in_features
        )
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: x [..., K] -> [..., N], as `ops.sparse_linear`."""
        y: Tensor = torch.ops.nmsim.sparse_linear(
            x,
            self.values,
            self.metadata,
            self.bias,
            self._pattern_text,
            self.encoding,
            self.in_features,
        )
        return y

    def extra_repr(self) -> str:
        """Say what a printed model shows of this layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"pattern={self.pattern}, encoding={self.encoding}, dtype={self.values.dtype}"
        )

    def get_extra_state(self) -> Tensor:
        """What `values` and `metadata` are, as uint8 text."""
        return torch.tensor(list(self._description().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Compare a saved description with this layer.

        Raises
        ------
        KernelError
            It describes other weights.
        """
        found = repr(state)
        if isinstance(state, Tensor) and state.dtype == torch.uint8 and state.ndim == 1:
            found = bytes(state.tolist()).decode(errors="replace")
        if found != self._description():
            raise KernelError(f"saved weights are {found!r}: this layer expects {self._description()!r}")

    def _description(self) -> str:
        return f"{self.pattern} {self.encoding} {self.out_features}x{self.in_features}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert or move, unless that makes tensors that no kernel reads."""
        values, metadata = (fn(torch.empty(0, dtype=part.dtype)) for part in (self.values, self.metadata))
        if values.dtype not in DTYPES or metadata.dtype != torch.uint8:
            raise KernelError(
                f"NMLinear cannot be converted to values of {values.dtype} and metadata of {metadata.dtype}: expected "
                f"values of one of {', '.join(map(str, DTYPES))}, metadata of torch.uint8"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load, after all that is to be loaded is known to be sound."""
        try:
            self._check_saved(state_dict, prefix)
        except NmsimError as error:
            error_msgs.append(f"{prefix.rstrip('.') or 'NMLinear'}: {error}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # With assign=True, tensors lie as they lay in a file.
        self.values = _well_aligned(self.values, self.values.element_size())
        self.metadata = _well_aligned(self.metadata, METADATA_ALIGNMENT_BYTES)

    def _check_saved(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        parts = ("values", "metadata", EXTRA_STATE)
        there = [part for part in parts if prefix + part in state_dict]
        if not there:
            if prefix + "weight" in state_dict:
                raise KernelError(
                    "the state dict holds a dense weight: load it into the dense model, then call sparsify_"
                )
            return
        if len(there) < len(parts):
            raise KernelError(f"the state dict holds {', '.join(there)} only: expected {', '.join(parts)}")
        self.set_extra_state(state_dict[prefix + EXTRA_STATE])
        values, metadata = (state_dict[prefix + part] for part in parts[:2])
        shape = (self.out_features, self.in_features)
        NMWeight(values, metadata, self.pattern, self.encoding, shape)


@dataclass(frozen=True)
class SparsifyReport:
    """What `sparsify_` did.

    Parameters
    ----------
    swapped : tuple of str
        Names of the layers put in place, in the order of the model; a layer under two names stands under both.
    left : dict of str to str
        Name of each linear layer that stays, and why.
    dense_bytes, values_bytes, metadata_bytes : int
        Weights of the swapped layers before, and what is stored of them now; a layer under two names counts once.
    """

    swapped: tuple[str, ...]
    left: dict[str, str]
    dense_bytes: int
    values_bytes: int
    metadata_bytes: int


def sparsify_(
    model: nn.Module,
    pattern: Pattern | str,
    encoding: str = "index",
    *,
    skip: Iterable[str] = ("lm_head",),
    min_features: int = 1,
) -> SparsifyReport:
    """Put an `NMLinear` in place of every `nn.Linear` of a model, pruned by magnitude. Everything or nothing.

    All layers are packed before the first is swapped, so an error leaves the model as it was; both sets of weights are
    in memory until then. Bias parameters stay the same objects; an optimizer should be made anew, without the weights.

    Left alone are, besides those that `skip` and `min_features` name: subclasses of `nn.Linear` (such as the output
    projection of `nn.MultiheadAttention`, whose weight is read by its owner), layers with hooks, and layers whose
    weight another module holds too.

    Parameters
    ----------
    model : nn.Module
        On the CPU. Not itself a linear layer: that one is for `NMLinear.from_linear`.
    pattern, encoding
        As for `ops.pack`.
    skip : iterable of str
        Globs such as `"lm_head"`, `"layers.0"` or `"*.gate"`. One leaves out a layer when it fits one part of its
        dotted name, or the name from its beginning to the end of a part.
    min_features : int
        Leave out layers with fewer in or out features.

    Returns
    -------
    SparsifyReport

    Raises
    ------
    KernelError, PatternError
        A layer that cannot be packed, named; or arguments of another type.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    >>> sparsify_(model, "8:16", min_features=16)
    SparsifyReport(swapped=('0',), left={'2': 'fewer than 16 features'}, dense_bytes=32768, values_bytes=16384, \
metadata_bytes=2048)
    """
    if not isinstance(model, nn.Module) or isinstance(model, nn.Linear):
        raise KernelError(
            f"model is a {type(model).__name__}: expected a module that holds linear layers (one layer by itself is "
            "for NMLinear.from_linear)"
        )
    if isinstance(skip, str):
        raise KernelError(f"skip={skip!r}: expected an iterable of names, such as ({skip!r},)")
    globs = tuple(skip)
    holders = _holders(model)
    made: dict[nn.Linear, NMLinear] = {}
    places: list[tuple[nn.Module, str, nn.Linear]] = []
    swapped: list[str] = []
    left: dict[str, str] = {}
    for name, linear in model.named_modules(remove_duplicate=False):
        if not isinstance(linear, nn.Linear):
            continue
        reason = _reason_to_leave(name, linear, globs, min_features, holders)
        if reason:
            left[name] = reason
            continue
        parent, _, child = name.rpartition(".")
        places.append((model.get_submodule(parent), child, linear))
        swapped.append(name)
        if linear not in made:
            try:
                made[linear] = NMLinear.from_linear(linear, pattern, encoding)
            except NmsimError as error:
                raise type(error)(f"{name}: {error}") from error
    for parent_module, child, linear in places:
        parent_module._modules[child] = made[linear]
    layers = made.values()
    return SparsifyReport(
        swapped=tuple(swapped),
        left=left,
        dense_bytes=sum(linear.weight.nbytes for linear in made),
        values_bytes=sum(layer.values.nbytes for layer in layers),
        metadata_bytes=sum(layer.metadata.nbytes for layer in layers),
    )


def _reason_to_leave(
    name: str, linear: nn.Linear, globs: tuple[str, ...], min_features: int, holders: Mapping[int, set[str]]
) -> str:
    """Say why a linear layer stays, or nothing."""
    parts = name.split(".")
    names = {*parts, *(".".join(parts[: end + 1]) for end in range(len(parts)))}
    for glob in globs:
        if any(fnmatchcase(candidate, glob) for candidate in names):
            return f"skip={glob!r}"
    if type(linear) is not nn.Linear:
        return f"is a {type(linear).__name__}, not nn.Linear itself"
    if min(linear.in_features, linear.out_features) < min_features:
        return f"fewer than {min_features} features"
    if any(getattr(linear, kind) for kind in _HOOKS):
        return "has hooks, which a new layer would lose"
    others = holders[id(linear.weight)] - holders[id(linear)]
    if others:
        return f"its weight is also that of {', '.join(other or 'the model' for other in sorted(others))}"
    return ""


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks",
          "_state_dict_hooks", "_load_state_dict_pre_hooks")  # fmt: skip


def _holders(model: nn.Module) -> dict[int, set[str]]:
    """Id of each module and of each parameter -> all names under which a module is, or holds it."""
    found: dict[int, set[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for thing in (module, *module.parameters(recurse=False)):
            found.setdefault(id(thing), set()).add(name)
    return found


def _well_aligned(tensor: Tensor, needed_bytes: int) -> Tensor:
    if tensor.device.type != "cpu" or tensor.data_ptr() % needed_bytes == 0:
        return tensor
    return tensor.clone()
