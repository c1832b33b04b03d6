"""Layers and weight densities as Sparseloop's sparse-tensor-core study writes them."""

import re
from dataclasses import dataclass
from fractions import Fraction

from nmsim.case import GemmShape
from nmsim.errors import SpecError
from nmsim.pattern import Pattern

SCHEMES = {
    Fraction("0.4375"): Pattern(7, 16),
    Fraction("0.375"): Pattern(3, 8),
    Fraction("0.3125"): Pattern(5, 16),
}
"""Weight density of a run -> its structure, if that is not 2:M (`design-to-scheme.yaml`)."""
DENSE = Pattern(1, 1)
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_LAYER = re.compile(rf"M([0-9]+)-K([0-9]+)-N([0-9]+)(?:-IAD{_NUMBER})?(?:-WD{_NUMBER})?", re.ASCII)
_EXPECTED_LAYER = "expected text such as 'M128-K1152-N1024-IAD0.44-WD0.25' (IAD and WD may be left out)"
_EXPECTED_DENSITY = (
    "expected a Pattern such as '2:8', or a density above 0, at most 1, such as 'WD-0.25' or 0.25"
)


@dataclass(frozen=True)
class StudyLayer:
    """Z[M, N] = A[M, K] B[K, N] in the letters of the study: A are the weights, B the activations, N counts tokens."""

    M: int
    K: int
    N: int
    operand_b_density: Fraction | None = None
    density: Fraction | None = None


def parse_layer(layer: object) -> StudyLayer:
    """Read a layer.

    Parameters
    ----------
    layer : str, GemmShape or StudyLayer
        The study's text: M out features, K in features, N tokens, IAD the density of B, WD that of A. Or a `GemmShape`,
        whose M and N trade places: there M counts tokens.

    Raises
    ------
    SpecError
        Another text or type, a dimension of 0, or a density that is not above 0 and at most 1.

    Examples
    --------
    >>> parse_layer("M128-K1152-N1024-IAD0.44")
    StudyLayer(M=128, K=1152, N=1024, operand_b_density=Fraction(11, 25), density=None)
    """
    if isinstance(layer, StudyLayer):
        return layer
    if isinstance(layer, GemmShape):
        return StudyLayer(layer.N, layer.K, layer.M)
    match = _LAYER.fullmatch(layer) if isinstance(layer, str) else None
    if match is None:
        raise SpecError(f"layer={layer!r} (type {type(layer).__name__}): {_EXPECTED_LAYER}, or a GemmShape")
    M, K, N = (int(match[i]) for i in (1, 2, 3))
    if not M * K * N:
        raise SpecError(f"layer={layer!r}: a dimension is 0; {_EXPECTED_LAYER}")
    densities = [None if match[i] is None else Fraction(match[i]) for i in (4, 5)]
    for name, value in zip(("IAD", "WD"), densities, strict=True):
        if value is not None and not 0 < value <= 1:
            raise SpecError(f"layer={layer!r}: {name} is a density; expected one above 0, at most 1")
    return StudyLayer(M, K, N, *densities)


def parse_density(density: object, layer: StudyLayer) -> Pattern:
    """Find the structure that a weight density stands for in the study; `Pattern(1, 1)` is dense.

    Parameters
    ----------
    density : Pattern, str, int, float, Fraction or None
        `"WD-0.25"`, 0.25, `"2:8"` or `Pattern(2, 8)`. A bare number means what the study lets it mean, or else 2:M. None
        takes the WD of the layer.
    layer : StudyLayer

    Raises
    ------
    SpecError
        None of these, no structure has that density, or the layer's WD says otherwise.
    PatternError
        A text with a colon that is no pattern.

    Examples
    --------
    >>> print(parse_density("WD-0.3333", parse_layer("M128-K1152-N1024")))
    2:6
    """
    if density is None:
        if layer.density is None:
            raise SpecError(f"density=None, and the layer has no WD: {_EXPECTED_DENSITY}")
        return _structure(layer.density, _name_of(layer.density))
    pattern = _pattern_of(density)
    if layer.density is not None:
        named = _name_of(layer.density)
        if pattern.density != _structure(layer.density, named).density:
            raise SpecError(f"density={density!r}: the layer says {named}; expected the same, or no WD there")
    return pattern


def _name_of(number: Fraction) -> str:
    return f"WD-{float(number):g}"


def _pattern_of(density: object) -> Pattern:
    if isinstance(density, Pattern):
        return density
    if isinstance(density, str) and ":" in density:
        return Pattern.parse(density)
    number = None
    if isinstance(density, str):
        match = re.fullmatch(rf"(?:WD-?)?{_NUMBER}", density, re.ASCII)
        number = Fraction(match[1]) if match else None
    elif isinstance(density, int | float | Fraction) and not isinstance(density, bool) and 0 < density <= 1:
        number = Fraction(str(density))
    if number is None or not 0 < number <= 1:
        raise SpecError(f"density={density!r} (type {type(density).__name__}): {_EXPECTED_DENSITY}")
    return _structure(number, density)


def _structure(number: Fraction, given: object) -> Pattern:
    if number == 1:
        return DENSE
    known = SCHEMES.get(round(number, 4))
    if known is not None:
        return known
    m = round(2 / number)
    if m < 2 or round(Fraction(2, m), 4) != round(number, 4):
        raise SpecError(
            f"density={given!r}: no 2:M has it, and many N:M might; expected a Pattern, such as Pattern(3, 5)"
        )
    return Pattern(2, m)
