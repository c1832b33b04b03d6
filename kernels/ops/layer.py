"""`NMLinear`, a linear layer with N:M weights, and models of such layers.

A layer holds its weights in the order of the decode kernel if it is asked to. `sparsify_` puts `NMLinear` in place of
`nn.Linear`, and `for_decode_` has all of them decode.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from kernels.ops.checks import checked_weight, realigned
from kernels.ops.weights import check_weight, compress
from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import DTYPES, NMWeight
from kernels.stored.rows import kernel_format, row_lengths
from kernels.stored.shuffled import ShuffledWeight, check_order, has_order, packed_parts, shuffle, unshuffle
from nmsim.errors import NmsimError, brief
from nmsim.files.roles import Role, classify
from nmsim.files.safetensors import TensorInfo
from nmsim.format import FormatLike, SparseFormat

EXTRA_STATE = "_extra_state"
"""Torch's name, in a state dict, for what `get_extra_state` returns."""


class NMLinear(nn.Module):
    """A linear layer whose weights are stored N in M: y = x W^T + b, x [..., K], y [..., N].

    Weights are frozen: gradients reach x and the bias. In a state dict, the weights are three entries: `values`,
    `metadata`, and `_extra_state`, uint8 text such as `8:16 index 4096x14336`, which loading compares with the layer.
    All three are tensors, and so go through safetensors files.

    `half()`, `bfloat16()`, `float()` and `to(dtype)` round the stored values and keep the positions. Any other type is
    refused, as is another type of the metadata (`type()`).

    After `for_decode_()` the layer holds `values` and `metadata` in the order of the decode kernel, and no other copy. On a
    CUDA device it takes that kernel for one to four tokens, and matrix units for 5 to 64. For more, it makes a dense matrix for
    the time of the product. The CPU puts the weights back into rows for each product, which is slow. A state dict holds packed
    rows all the same: saving makes them, and loading puts them in order. While the values are float32, which has no such order,
    they are packed rows.

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
    NMLinear(in_features=64, out_features=32, bias=True, format=8:16/index, dtype=torch.float32)
    """

    values: Tensor
    metadata: Tensor
    bias: nn.Parameter | None

    def __init__(self, weights: NMWeight, *, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = checked_weight(weights).shape
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
        # Text, since it is copied and pickled with the layer.
        self._format_text = weights.format_text
        self.register_buffer("values", weights.values)
        self.register_buffer("metadata", weights.metadata)
        self.bias = bias
        # What was asked for, and what is held: float32 has no order for decoding.
        self._is_for_decode = self._is_shuffled = False

    @classmethod
    def from_linear(cls, linear: nn.Linear, format: FormatLike, *, mask: Tensor | None = None) -> Self:
        """Prune and pack the weight of a linear layer, which stays as it is. The bias parameter is shared with it.

        Parameters
        ----------
        linear : nn.Linear, or a Conv1D of transformers
            On the CPU.
        format, mask
            As for `ops.compress`.

        Raises
        ------
        KernelError, PatternError
            As `ops.compress`; or not a linear layer.
        """
        if _is_conv1d(linear):
            weight, bias = linear.weight.detach().T.contiguous(), linear.bias
        elif isinstance(linear, nn.Linear):
            weight, bias = linear.weight.detach(), linear.bias
        else:
            raise KernelError(f"linear is a {type(linear).__name__}: expected a torch.nn.Linear")
        layer = cls(compress(weight, format, mask=mask), bias=bias)
        return layer.train(linear.training)

    @property
    def format(self) -> SparseFormat:
        """How the weights are stored."""
        return kernel_format(self._format_text)

    @property
    def weights(self) -> NMWeight:
        """The packed weights: on the memory of this layer, or new ones after `for_decode_()`. Making it checks every code."""
        if self._is_shuffled:
            return unshuffle(self._shuffled())
        return NMWeight(self.values, self.metadata, self.format, (self.out_features, self.in_features))

    @property
    def weight(self) -> Tensor:
        """The pruned weight [N, K], decompressed anew each time it is asked for: for code that reads `linear.weight`."""
        dense: Tensor
        if self._is_shuffled:
            dense = torch.ops.nmsim.unpack_shuffled(
                self.values, self.metadata, self._format_text, self.out_features, self.in_features
            )
        else:
            dense = torch.ops.nmsim.unpack(self.values, self.metadata, self._format_text, self.in_features)
        return dense

    @property
    def decode_bytes(self) -> int:
        """Bytes of the weights if they are held in the order of the decode kernel, else 0."""
        return self.values.nbytes + self.metadata.nbytes if self._is_shuffled else 0

    def for_decode_(self) -> Self:
        """Hold the weights in the order of the decode kernel, in place of packed rows, and decode with it on CUDA devices.

        Raises
        ------
        KernelError
            A format or type that has no such order, as `ops.for_decode`.

        Examples
        --------
        >>> NMLinear.from_linear(nn.Linear(64, 32).half(), "8:16").for_decode_().decode_bytes
        2560
        """
        check_order(self.format, self.values.dtype)
        self._is_for_decode = True
        self._shuffle()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: x [..., K] -> [..., N], as `ops.sparse_linear`."""
        operands = x, self.values, self.metadata, self.bias, self._format_text
        y: Tensor
        if self._is_shuffled:
            y = torch.ops.nmsim.decode_or_sparse_linear(*operands, self.out_features, self.in_features)
        else:
            y = torch.ops.nmsim.sparse_linear(*operands, self.in_features)
        return y

    def extra_repr(self) -> str:
        """Say what a printed model shows of this layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={self.format.short}, dtype={self.values.dtype}"
            + (f", decode_bytes={self.decode_bytes}" if self._is_for_decode else "")
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
            raise KernelError(
                f"saved weights are {brief(found)}: this layer expects {brief(self._description())}"
            )

    def _description(self) -> str:
        return f"{self.format.pattern} {self.format.encoding.name} {self.out_features}x{self.in_features}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert or move, unless that makes tensors that no kernel reads."""
        values, metadata = (fn(torch.empty(0, dtype=part.dtype)) for part in (self.values, self.metadata))
        if values.dtype not in DTYPES or metadata.dtype != torch.uint8:
            raise KernelError(
                f"NMLinear cannot be converted to values of {values.dtype} and metadata of {metadata.dtype}: expected "
                f"values of one of {', '.join(map(str, DTYPES))}, metadata of torch.uint8"
            )
        if not has_order(self.format, values.dtype):
            self._pack()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._shuffle()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save packed rows, whatever the order in memory."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._is_shuffled:
            packed = packed_parts(self._shuffled())
            destination[prefix + "values"], destination[prefix + "metadata"] = packed

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Load, after all that is to be loaded is known to be sound."""
        try:
            self._check_saved(state_dict, prefix)
        except NmsimError as error:
            error_msgs.append(f"{prefix.rstrip('.') or 'NMLinear'}: {error}")
            return
        if prefix + "values" not in state_dict:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
            return
        # Torch loads into packed rows, or takes others over. Of these the order is made anew.
        held = (self.values, self.metadata) if self._is_shuffled else None
        self._pack()
        packed = self.values
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # With assign=True, tensors lie as they lay in a file.
        self.values, self.metadata = realigned(self.values), realigned(self.metadata)
        self._shuffle(into=held if self.values is packed else None)

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
        NMWeight(values, metadata, self.format, shape)

    def _shuffled(self) -> ShuffledWeight:
        return ShuffledWeight(self.values, self.metadata, self.format, (self.out_features, self.in_features))

    def _pack(self) -> None:
        """Hold packed rows."""
        if self._is_shuffled:
            with torch.inference_mode(False):  # what is made inside it could not be written to later, outside
                self.values, self.metadata = packed_parts(self._shuffled())
            self._is_shuffled = False

    def _shuffle(self, *, into: tuple[Tensor, Tensor] | None = None) -> None:
        """Hold the order of the decode kernel, if that was asked for and there is one."""
        if not self._is_for_decode or self._is_shuffled or not has_order(self.format, self.values.dtype):
            return
        with torch.inference_mode(False):
            shuffled = shuffle(self.weights)
        parts = shuffled.values, shuffled.metadata
        if into is not None:
            # A captured CUDA graph reads the weights where they lie.
            for part, place in zip(parts, into, strict=True):
                place.copy_(part)
            parts = into
        (self.values, self.metadata), self._is_shuffled = parts, True


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
    format: FormatLike,
    *,
    skip: Iterable[str] = ("lm_head",),
    include: Iterable[str] | None = None,
    min_features: int = 1,
    progress: Callable[[str, float], None] = lambda name, share: None,
) -> SparsifyReport:
    """Put an `NMLinear` in place of each linear layer of a model's body, pruned by magnitude, layer by layer.

    Linear layers are `nn.Linear` and the `Conv1D` of transformers, whose weight is [in, out]. Routers, heads, draft heads,
    vision parts beside a language model and what else `nmsim.files.roles` names stay dense. Experts that are one
    parameter have no layer to replace: `left` names them.

    All weights are checked before the first layer is packed, so a weight that cannot be packed leaves the model as it was.
    Then each layer is packed and put in place, and its dense weight is freed. Memory holds at most the dense model and one
    packed layer, unless something else holds the dense layers, such as an optimizer. Bias parameters stay the same objects.
    An optimizer should be made anew, without the weights.

    Besides these layers and those that `skip` and `min_features` name, three kinds stay. Subclasses of `nn.Linear`, such as
    the output projection of `nn.MultiheadAttention`, whose weight is read by its owner. Layers with hooks. Layers whose
    weight another module holds too, such as a head that is tied to the embedding.

    Parameters
    ----------
    model : nn.Module
        On the CPU or a CUDA device. Not itself a linear layer: that one is for `NMLinear.from_linear`.
    format : SparseFormat, Pattern or str
        As for `ops.compress`.
    skip : iterable of str
        Globs such as `"lm_head"`, `"layers.0"` or `"*.gate"`. A glob leaves out a layer if it fits one part
        of its dotted name, or the beginning of the name up to a dot.
    include : iterable of str, optional
        Globs as in `skip`. They replace the rules on what the body is: only these layers are pruned.
    min_features : int
        Leave out layers with fewer in or out features.
    progress : callable
        Called with the name of the layer that is packed next, and the share of all weights that is packed.

    Returns
    -------
    SparsifyReport

    Raises
    ------
    KernelError, PatternError
        A layer that cannot be compressed or holds a NaN or an infinity, named; or arguments of another type.
    MemoryError
        Named in the same way. Layers before it are packed already: call again to continue.

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
    for what, names in (("skip", skip), ("include", include)):
        if isinstance(names, str):
            raise KernelError(
                f"{what}={brief(names)}: expected an iterable of names, such as ({brief(names)},)"
            )
    wanted = None if include is None else tuple(include)
    places, left = _places(model, tuple(skip), wanted, min_features)
    stored = kernel_format(format)
    _refuse_unfit(model, places)
    sizes = [cast(Tensor, model.get_submodule(names[0]).weight).numel() for names in places]
    dense_bytes = values_bytes = metadata_bytes = done = 0
    for names, size in zip(places, sizes, strict=True):
        progress(names[0], done / sum(sizes))
        layer = _packed(model, names[0], stored)
        # No name here holds the dense layer, so that its weight is freed as soon as it is out of the model.
        for name in names:
            parent, _, child = name.rpartition(".")
            model.get_submodule(parent)._modules[child] = layer
        done += size
        dense_bytes += size * layer.values.itemsize
        values_bytes += layer.values.nbytes
        metadata_bytes += layer.metadata.nbytes
    swapped = {name for names in places for name in names}
    return SparsifyReport(
        # In the order of the model, in which the names of a shared layer lie apart.
        tuple(name for name, _ in model.named_modules(remove_duplicate=False) if name in swapped),
        left, dense_bytes, values_bytes, metadata_bytes,
    )  # fmt: skip


def _places(
    model: nn.Module, skip: tuple[str, ...], wanted: tuple[str, ...] | None, min_features: int
) -> tuple[list[list[str]], dict[str, str]]:
    """All names of each linear layer that is to be packed, and why others are left. A shared layer has several names."""
    roles, holders = _roles(model), _holders(model)
    places: dict[int, list[str]] = {}
    left: dict[str, str] = {}
    for name, linear in model.named_modules(remove_duplicate=False):
        if not (isinstance(linear, nn.Linear) or _is_conv1d(linear)):
            left |= _unreplaced(name, linear, roles)
            continue
        reason = _reason_to_leave(name, linear, skip, min_features, holders)
        reason = reason or _left_by_role(name, wanted, roles)
        if reason:
            left[name] = reason
        else:
            places.setdefault(id(linear), []).append(name)
    return list(places.values()), left


def _refuse_unfit(model: nn.Module, places: Iterable[list[str]]) -> None:
    """Refuse what `compress` would refuse, before a layer is changed."""
    for names in places:
        try:
            check_weight(cast(Tensor, model.get_submodule(names[0]).weight))
        except NmsimError as error:
            raise error.within(names[0]) from error


def _packed(model: nn.Module, name: str, format: SparseFormat) -> NMLinear:
    """Pack a layer of a model."""
    try:
        return NMLinear.from_linear(cast(nn.Linear, model.get_submodule(name)), format)
    except NmsimError as error:
        raise error.within(name) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise MemoryError(f"{name}: no memory to pack it; layers before it are packed: {error}") from error


@dataclass(frozen=True)
class DecodeReport:
    """What `for_decode_` did.

    Parameters
    ----------
    layers : tuple of str
        Names of the layers that decode now, in the order of the model; a layer under two names stands under both.
    packed_bytes : int
        Values and metadata of these layers as packed rows; a layer under two names counts once.
    decode_bytes : int
        The same in the order that they hold now, in place of packed rows.
    """

    layers: tuple[str, ...]
    packed_bytes: int
    decode_bytes: int


def for_decode_(model: nn.Module) -> DecodeReport:
    """Have every `NMLinear` of a model decode with the kernel made for it: `NMLinear.for_decode_`, everything or nothing.

    Formats and types are checked before the first layer changes. Then one layer after the other is put in order, where its
    weights are: besides the model, the weights of one layer are in memory.

    Parameters
    ----------
    model : nn.Module
        With `NMLinear` in it, or one itself.

    Returns
    -------
    DecodeReport

    Raises
    ------
    KernelError
        A layer whose format or type has no such order, named; no `NMLinear` at all; or not a module.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 128), nn.ReLU()).half()
    >>> _ = sparsify_(model, "8:16")
    >>> for_decode_(model)
    DecodeReport(layers=('0',), packed_bytes=10240, decode_bytes=10240)
    """
    if not isinstance(model, nn.Module):
        raise KernelError(f"model is a {type(model).__name__}: expected a module that holds NMLinear layers")
    names = packed_layers(model)
    for name, layer in names:
        try:
            check_order(layer.format, layer.values.dtype)
        except NmsimError as error:
            raise error.within(name or "NMLinear") from error
    layers = {layer.for_decode_() for _, layer in names}
    return DecodeReport(
        layers=tuple(name for name, _ in names),
        packed_bytes=sum(
            layer.out_features * (values * layer.values.itemsize + metadata)
            for layer in layers
            for values, metadata in [row_lengths(layer.format, layer.in_features)]
        ),
        decode_bytes=sum(layer.decode_bytes for layer in layers),
    )


def packed_layers(model: nn.Module) -> list[tuple[str, NMLinear]]:
    """List every `NMLinear` of a model by its names: under two names it stands twice.

    Raises
    ------
    KernelError
        There is none.
    """
    names = [
        (name, layer)
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, NMLinear)
    ]
    if not names:
        raise KernelError(
            "the model holds no NMLinear: expected one at least, as sparsify_ puts them in place, and none that quantize_ "
            "has replaced"
        )
    return names


def _is_conv1d(module: nn.Module) -> bool:
    """Say whether a module is the Conv1D of transformers: y = x W + b with W [in, out]."""
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__ == "Conv1D"
        and isinstance(weight, Tensor)
        and weight.ndim == 2
        and getattr(module, "nf", None) == weight.shape[1]
    )


def _roles(model: nn.Module) -> dict[str, Role]:
    """What each parameter is by the rules of checkpoints, with the configuration that a transformers model has."""
    infos = [
        TensorInfo(name, "F32", tuple(parameter.shape), 0, 0)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    ]
    config = getattr(model, "config", None)
    to_dict = getattr(config, "to_dict", None)
    as_dict = to_dict() if callable(to_dict) else None
    return classify(infos, as_dict if isinstance(as_dict, dict) else None)


def _unreplaced(name: str, module: nn.Module, roles: Mapping[str, Role]) -> dict[str, str]:
    """Weights of the body that are parameters of another kind of layer: experts in one tensor."""
    prefix = f"{name}." if name else ""
    found = {}
    for own, parameter in module.named_parameters(recurse=False):
        role = roles[prefix + own]
        if parameter.ndim == 3 and role.is_pruned and role.matrices:
            found[prefix + own] = f"{role.reason}: there is no layer to replace"
    return found


def _left_by_role(name: str, wanted: tuple[str, ...] | None, roles: Mapping[str, Role]) -> str:
    """Say why a layer is no part of the body, or nothing; names of the user come before the rules."""
    if wanted is not None:
        return "" if _fits(name, wanted) else "not in include"
    role = roles.get(f"{name}.weight")
    # The type of the layer tells the axis that a name and a square shape leave open.
    return "" if role is None or role.kind in ("linear", "ambiguous") else role.reason


def _fits(name: str, globs: tuple[str, ...]) -> str:
    """Give the glob that fits one part of a name or its beginning up to a dot, or nothing."""
    parts = name.split(".")
    names = {*parts, *(".".join(parts[: end + 1]) for end in range(len(parts)))}
    return next((glob for glob in globs if any(fnmatchcase(candidate, glob) for candidate in names)), "")


def _reason_to_leave(
    name: str, linear: nn.Module, globs: tuple[str, ...], min_features: int, holders: Mapping[int, set[str]]
) -> str:
    """Say why a linear layer stays, or nothing."""
    # First, so that of a tied head is said that it is tied.
    others = holders.get(id(linear.weight), set()) - holders[id(linear)]
    if others:
        return f"its weight is also that of {', '.join(other or 'the model' for other in sorted(others))}"
    glob = _fits(name, globs)
    if glob:
        return f"skip={brief(glob)}"
    if type(linear) is not nn.Linear and not _is_conv1d(linear):
        return f"is a {type(linear).__name__}, not nn.Linear itself"
    weight = linear.weight
    assert isinstance(weight, Tensor), "linear layers have one"
    if min(weight.shape) < min_features:
        return f"fewer than {min_features} features"
    if any(getattr(linear, kind) for kind in _HOOKS):
        return "has hooks, which a new layer would lose"
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
