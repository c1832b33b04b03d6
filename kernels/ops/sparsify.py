"""Models with N:M weights: `sparsify_` puts `NMLinear` in place of `nn.Linear`, `for_decode_` has all of them decode."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from kernels.ops.layer import NMLinear
from kernels.stored.errors import KernelError
from nmsim.errors import NmsimError
from nmsim.format import FormatLike

__all__ = ["DecodeReport", "NMLinear", "SparsifyReport", "for_decode_", "sparsify_"]


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
    model: nn.Module, format: FormatLike, *, skip: Iterable[str] = ("lm_head",), min_features: int = 1
) -> SparsifyReport:
    """Put an `NMLinear` in place of every `nn.Linear` of a model, pruned by magnitude. Everything or nothing.

    All layers are compressed before the first is swapped, so an error leaves the model as it was. Both sets of weights are in
    memory until then. Bias parameters stay the same objects. An optimizer should be made anew, without the weights.

    Besides the layers that `skip` and `min_features` name, three kinds stay. Subclasses of `nn.Linear`, such as the output
    projection of `nn.MultiheadAttention`, whose weight is read by its owner. Layers with hooks. Layers whose weight another
    module holds too.

    Parameters
    ----------
    model : nn.Module
        On the CPU. Not itself a linear layer: that one is for `NMLinear.from_linear`.
    format : SparseFormat, Pattern or str
        As for `ops.compress`.
    skip : iterable of str
        Globs such as `"lm_head"`, `"layers.0"` or `"*.gate"`. A glob leaves out a layer if it fits one part
        of its dotted name, or the beginning of the name up to a dot.
    min_features : int
        Leave out layers with fewer in or out features.

    Returns
    -------
    SparsifyReport

    Raises
    ------
    KernelError, PatternError
        A layer that cannot be compressed, named; or arguments of another type.

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
    # A layer under two names is compressed once and swapped in both places.
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
                made[linear] = NMLinear.from_linear(linear, format)
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


@dataclass(frozen=True)
class DecodeReport:
    """What `for_decode_` did.

    Parameters
    ----------
    layers : tuple of str
        Names of the layers that decode now, in the order of the model; a layer under two names stands under both.
    packed_bytes : int
        Values and metadata of these layers as they are packed; a layer under two names counts once.
    decode_bytes : int
        Of the copies that they hold on top of those.
    """

    layers: tuple[str, ...]
    packed_bytes: int
    decode_bytes: int


def for_decode_(model: nn.Module) -> DecodeReport:
    """Have every `NMLinear` of a model decode with the kernel made for it: `NMLinear.for_decode_`, everything or nothing.

    All copies are made, where the weights are, before the first layer takes one.

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
    names = [
        (name, layer)
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, NMLinear)
    ]
    if not names:
        raise KernelError(
            "the model holds no NMLinear: expected one at least, as sparsify_ puts them in place"
        )
    made: dict[NMLinear, tuple[Tensor, Tensor]] = {}
    for name, layer in names:
        if layer not in made:
            try:
                made[layer] = layer.made_for_decode()
            except NmsimError as error:
                raise type(error)(f"{name or 'NMLinear'}: {error}") from error
    for layer, copy in made.items():
        layer.hold(*copy)
    return DecodeReport(
        layers=tuple(name for name, _ in names),
        packed_bytes=sum(layer.values.nbytes + layer.metadata.nbytes for layer in made),
        decode_bytes=sum(layer.decode_bytes for layer in made),
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
