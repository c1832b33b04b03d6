"""Linear layers of a model as a serving engine runs them: fused with their neighbours, and with outputs of another width."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from hwmodels.models import Layer
from nmsim.errors import SpecError, brief, brief_names

FUSIONS = ("qkv", "gate_up")
"""What may be fused. `qkv`: q, k and v are one product. `gate_up`: gate and up are one product, which multiplies both halves
of its output before it writes one of their size."""
QKV, GATE, UP, GATE_UP = ("q", "k", "v"), "gate", "up", "gate_up"


@dataclass(frozen=True)
class Launch:
    """A product that is launched: its layer, the share of its outputs that is written, and the layers that it stands for."""

    layer: Layer
    written_share: Fraction = Fraction(1)
    of: tuple[str, ...] = ()


def fused(layers: Sequence[Layer], fuse: Iterable[str] = ()) -> list[Launch]:
    """Join layers that read the same input into one product.

    Parameters
    ----------
    layers : sequence of Layer
    fuse : iterable of str
        Some of `FUSIONS`. Layers are joined if they have one count, input width, format and value type. A layer that the
        model itself stores fused (`gate_up`) writes half of its outputs with `gate_up`.

    Returns
    -------
    list of Launch
        In the order of the layers. A joined layer stands where its first one stood.

    Raises
    ------
    SpecError
        Another word, or one that changes nothing in this model.

    Examples
    --------
    >>> layers = [Layer("gate", 32, 14336, 4096), Layer("up", 32, 14336, 4096), Layer("down", 32, 4096, 14336)]
    >>> [(each.layer.name, each.layer.N, str(each.written_share)) for each in fused(layers, ["gate_up"])]
    [('gate_up', 28672, '1/2'), ('down', 4096, '1')]
    """
    found = [Launch(layer, of=(layer.name,)) for layer in layers]
    for word in fuse:
        if word not in FUSIONS:
            raise SpecError(f"fuse={brief(word)}: expected one or more of {', '.join(FUSIONS)}")
        joined = _joined_qkv(found) if word == "qkv" else _joined_gate_up(found)
        if joined == found and not (word == "qkv" and any("qkv" in each.layer.name for each in found)):
            names = brief_names(layer.name for layer in layers)
            raise SpecError(
                f"fuse={brief(word)}: no layers that it joins among {names}: expected a model with them"
            )
        found = joined
    return found


def _joined_qkv(found: list[Launch]) -> list[Launch]:
    places = {each.layer.name: place for place, each in enumerate(found)}
    if not all(name in places for name in QKV):
        return found
    return _join(found, [places[name] for name in QKV], "qkv", Fraction(1))


def _joined_gate_up(found: list[Launch]) -> list[Launch]:
    # Names of experts and shared experts have a prefix, which both layers of a pair share.
    for each in list(found):
        name = each.layer.name
        if name.endswith(GATE_UP):
            found = [replace(one, written_share=Fraction(1, 2)) if one is each else one for one in found]
        elif name.endswith(GATE):
            places = {one.layer.name: place for place, one in enumerate(found)}
            partner = name.removesuffix(GATE) + UP
            if partner in places:
                prefix = name.removesuffix(GATE)
                found = _join(found, [places[name], places[partner]], prefix + GATE_UP, Fraction(1, 2))
    return found


def _join(found: list[Launch], places: list[int], name: str, written_share: Fraction) -> list[Launch]:
    """Put one product in the place of the first of several; all stay as they are if they cannot be one."""
    parts = [found[place] for place in places]
    first = parts[0].layer
    if any(replace(part.layer, name=first.name, N=first.N) != first for part in parts):
        return found
    whole = replace(first, name=name, N=sum(part.layer.N for part in parts))
    joined = Launch(whole, written_share, tuple(part.layer.name for part in parts))
    kept = [each for place, each in enumerate(found) if place not in places]
    at = min(places) - sum(place < min(places) for place in places)
    return [*kept[:at], joined, *kept[at:]]
