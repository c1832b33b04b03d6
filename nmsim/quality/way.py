"""A way to prune one operand: pattern, criterion, mitigations by name, and which of them go together."""

import itertools
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from nmsim.case import SparseOperand
from nmsim.criteria import named
from nmsim.errors import PatternError, brief
from nmsim.mitigation.recipe import MITIGATIONS
from nmsim.pattern import Pattern, as_pattern

NONE = "none"
UNSTRUCTURED = "unstructured"
SPLITS = tuple(name for name, kind in MITIGATIONS.items() if kind.sets == "split")
"""What keeps a second part beside N:M: outliers, and salient columns."""
WITH_DYNAMIC = ("smooth_dynamic", "scale_shift", "rotation")


class Mitigation(NamedTuple):
    """A mitigation and its size: `outliers=8:256`, `r_sparse=64`, `salient_columns=32`. Others have none."""

    name: str
    size: str = ""

    @property
    def number(self) -> int:
        """Rank or columns."""
        return int(self.size)

    def __str__(self) -> str:
        plain = not self.size or self.size == MITIGATIONS[self.name].size
        return self.name if plain else f"{self.name}={self.size}"


class Rounding(NamedTuple):
    """Values rounded to nearest in whole numbers of some bits, one scale per group of values along K.

    Written as `int8/64/before`: bits, values per scale, and whether they are rounded before or after they are pruned.
    `nmsim.mitigation.rounding` has the formula. A group is so many places of the dense row.

    Before: the choice, and all that is fitted, sees rounded values. Scale, bias and low rank still aim at the output of values
    that are not rounded. After: what is kept is rounded, and a scale is made of that alone. The factors of a variance and the
    side paths are of values before the rounding. Static equalisation comes before either: X / s and W s are rounded. The
    factors of dynamic equalisation are never applied, so that X itself is rounded.
    """

    bits: int
    group: int
    when: Literal["before", "after"] = "before"

    def __str__(self) -> str:
        return f"int{self.bits}/{self.group}/{self.when}"


class Way(NamedTuple):
    """One way to prune an operand; without a pattern, the dense reference."""

    operand: SparseOperand
    pattern: Pattern | None
    criterion: str = "magnitude"
    mitigation: tuple[Mitigation, ...] = ()
    values: Rounding | None = None
    """How values are rounded; None leaves them as they are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the mitigations, sizes left out."""
        return tuple(one.name for one in self.mitigation)

    @property
    def mitigation_text(self) -> str:
        """As it was written: `dpts_mean+var`, or `none`."""
        return "+".join(map(str, self.mitigation)) or NONE

    def __str__(self) -> str:
        parts = [self.operand, str(self.pattern) if self.pattern else "dense"]
        parts += [self.criterion] if self.pattern else []
        parts += [self.mitigation_text] if self.mitigation else []
        return " ".join([*parts, *([str(self.values)] if self.values else [])])

    @property
    def fitted(self) -> tuple[str, ...]:
        """What of it comes from calibration tokens; Wanda's criterion and RIA are among them."""
        names = [name for name in self.names if self.operand in MITIGATIONS[name].fitted_on]
        return (*([self.criterion] if self.pattern and named(self.criterion).takes_vector else []), *names)

    def find(self, name: str) -> Mitigation | None:
        """A mitigation of that name, if it is among them."""
        return next((one for one in self.mitigation if one.name == name), None)


def parse_rounding(text: str) -> Rounding:
    """Read a rounding, as `int8/64/before` or `int8/64`.

    Raises
    ------
    PatternError
        Another text, fewer than 2 or more than 8 bits, or no value per scale.

    Examples
    --------
    >>> parse_rounding("int4/64/after")
    Rounding(bits=4, group=64, when='after')
    """
    match = re.fullmatch(r"int([2-8])/([1-9]\d{0,5})(?:/(before|after))?", text, re.ASCII)
    if match is None:
        raise PatternError(
            f"values={brief(text)}: expected intB/G/before or intB/G/after, of 2 to 8 bits B and G values per scale"
        )
    bits, group, when = match.groups()
    return Rounding(int(bits), int(group), "after" if when == "after" else "before")


def is_reference(criterion: str) -> bool:
    """Whether a criterion leaves no groups, so that no N:M hardware gains by it.

    Examples
    --------
    >>> [is_reference(name) for name in ("magnitude", "unstructured", "unstructured_global")]
    [False, True, True]
    """
    return named(criterion).among != "group"


def parse_mitigation(text: str) -> tuple[Mitigation, ...]:
    """Read names joined by `+`, each with its size after `=` if it has one; `none` is no mitigation.

    Raises
    ------
    PatternError
        An unknown name, an invalid size, or two that exclude each other.

    Examples
    --------
    >>> [str(one) for one in parse_mitigation("dpts_mean+var")]
    ['dpts_mean', 'var']
    >>> parse_mitigation("outliers=8:256")
    (Mitigation(name='outliers', size='8:256'),)
    """
    found = []
    for word in (word.strip() for word in text.split("+")):
        name, mark, size = word.partition("=")
        if word == NONE and "+" not in text:
            return ()
        if name not in MITIGATIONS:
            raise PatternError(
                f"mitigation={brief(text)}: {brief(name)}: expected none, or some of {', '.join(MITIGATIONS)}"
            )
        if mark and not MITIGATIONS[name].size:
            sized = [known for known, kind in MITIGATIONS.items() if kind.size]
            raise PatternError(
                f"mitigation={brief(text)}: {name} has no size; those that have one: {', '.join(sized)}"
            )
        found.append(Mitigation(name, _size(name, size if mark else MITIGATIONS[name].size)))
    by_field: dict[str, str] = {}
    for one in found:
        other = by_field.setdefault(MITIGATIONS[one.name].sets, one.name)
        if other != one.name or found.count(one) > 1:
            raise PatternError(
                f"mitigation={brief(text)}: {other} and {one.name} set the same, expected one of them"
            )
    return tuple(found)


def _size(name: str, text: str) -> str:
    if name.startswith("outliers"):
        return str(Pattern.parse(text))
    if MITIGATIONS[name].size and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise PatternError(f"mitigation {name}={brief(text)}: expected a positive whole number")
    return text


def cross(
    operand: SparseOperand,
    patterns: Iterable[Pattern | str],
    criteria: Iterable[str],
    mitigations: Iterable[str],
) -> tuple[list[Way], dict[str, str]]:
    """Cross patterns, criteria and mitigations, and add the references: dense, and unstructured at each density.

    Returns
    -------
    ways : list of Way
        References first.
    left_out : dict
        Criterion or mitigation, or both -> why it does not go with the operand.

    Raises
    ------
    PatternError
        An unknown name.

    Examples
    --------
    >>> ways, left_out = cross("activations", ["2:4"], ["magnitude"], ["none", "weight_correction"])
    >>> [(str(way.pattern), way.criterion, way.mitigation_text) for way in ways]
    [('None', 'magnitude', 'none'), ('2:4', 'unstructured', 'none'), ('2:4', 'magnitude', 'none')]
    >>> left_out
    {'magnitude, weight_correction': 'weight_correction is of pruned weights'}
    """
    parsed = [as_pattern(one) for one in patterns]
    of_density = {pattern.density: pattern for pattern in reversed(parsed)}
    ways = [Way(operand, None)]
    ways += [Way(operand, pattern, UNSTRUCTURED) for pattern in reversed(of_density.values())]
    left_out = {}
    read = [(text, parse_mitigation(text)) for text in mitigations]
    for criterion, (text, mitigation) in itertools.product(criteria, read):
        named(criterion)
        why = why_not(Way(operand, None, criterion, mitigation))
        if why:
            left_out[f"{criterion}, {text}"] = why
            continue
        ways += [
            way for pattern in parsed if (way := Way(operand, pattern, criterion, mitigation)) not in ways
        ]
    return ways, left_out


def why_not(way: Way) -> str:
    """Say why criterion and mitigations of a way do not go together, or not with its operand; empty if they do.

    Examples
    --------
    >>> why_not(Way("weights", Pattern(8, 16), "magnitude", parse_mitigation("var")))
    'var is of pruned activations'
    """
    names, criterion = way.names, way.criterion
    if way.operand == "weights":
        others = [name for name in names if not MITIGATIONS[name].of_weights]
        if others:
            return f"{others[0]} is of pruned activations"
        if not named(criterion).of_weights:
            return f"{criterion} is a criterion of activations"
        if criterion == "ria" and "smooth_static" in names:
            return "equalisation changes the sums that ria divides by"
        if is_reference(criterion) and {*SPLITS, "smooth_static"} & set(names):
            return f"{criterion} leaves no groups beside outliers or equalisation"
        return ""
    if "weight_correction" in names:
        return "weight_correction is of pruned weights"
    if criterion == "ria":
        return "ria is a criterion of weights"
    if named(criterion).takes_vector:
        return f"{criterion} of activations needs a vector that no checkpoint has"
    if set(SPLITS) & set(names):
        if len(names) > 1:
            return (
                f"{names[0]} and {names[1]}: outliers and salient columns of activations are measured alone"
            )
        if is_reference(criterion):
            return f"{criterion} leaves no groups beside {names[0]}"
    if {"smooth_static", "rotation"} <= set(names):
        return "smooth_static and rotation both change X beforehand"
    # Its factors cancel only if the choice looks at magnitudes and nothing else reads the values.
    if "smooth_dynamic" in names and (criterion != "magnitude" or not set(names) <= set(WITH_DYNAMIC)):
        return "dynamic equalisation has no cheap form beside what depends on values"
    return ""
