"""A campaign of losses: in which configurations a language model is evaluated, as a TOML file says it.

A file names sets. A set crosses patterns, criteria, mitigations, roundings and choices of layers. The dense model always comes
first. Words such as `each layer` stand for the layers of a model, and are replaced when the model is known.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from kernels.measure.round import campaign_file
from nmsim import criteria as known_criteria
from nmsim.case import SparseOperand
from nmsim.errors import NmsimError, SpecError, brief
from nmsim.format import DENSE
from nmsim.pattern import Pattern
from nmsim.quality.configuration import ALL_LAYERS, Configuration
from nmsim.quality.way import NONE, Rounding, Way, parse_mitigation, parse_rounding, why_not
from nmsim.support.schema import About, Number, Parsed, Text, read_record, record

CAMPAIGN_FOLDER = Path(__file__).parent / "campaigns"
BOTH = "both"
MAGNITUDE = "magnitude"
MOST_TOKENS = 1 << 20
"""Tokens of a window, of calibration, or windows: more is a slip."""


def _pattern(text: Any) -> str:
    return DENSE if text == DENSE else str(Pattern.parse(text))


def _criterion(text: Any) -> str:
    known_criteria.named(text)
    return str(text)


def _mitigation(text: Any) -> str:
    if not isinstance(text, str):
        raise SpecError("expected text")
    return Way("weights", None, mitigation=parse_mitigation(text)).mitigation_text


def _values(text: Any) -> str:
    if not isinstance(text, str):
        raise SpecError("expected text")
    return NONE if text == NONE else str(parse_rounding(text))


PatternText = Annotated[str, Parsed(_pattern)]
CriterionText = Annotated[str, Parsed(_criterion)]
MitigationText = Annotated[str, Parsed(_mitigation)]
ValuesText = Annotated[str, Parsed(_values)]


# fmt: off
@record
class SetTable:
    """Configurations of all combinations of patterns, criteria, mitigations, roundings and layers."""

    operand: Annotated[Literal["weights", "activations", "both"], About("What is pruned.")]
    patterns: Annotated[tuple[PatternText, ...], About("Patterns, of both operands alike. `dense` goes with `values` only.")]
    criteria: Annotated[tuple[CriterionText, ...], About("Criteria. Of `both` operands, those of activations.")] = (MAGNITUDE,)
    mitigations: Annotated[
        tuple[MitigationText, ...], About("Mitigations, or `none`. Of `both` operands, those of activations.")
    ] = (NONE,)
    values: Annotated[
        tuple[ValuesText, ...],
        About("How values are rounded, such as `int8/64/before`, or `none`. Of `both` operands, values of activations."),
    ] = (NONE,)
    weights_criteria: Annotated[tuple[CriterionText, ...] | None, About("Of `both` operands: criteria of weights.")] = None
    weights_mitigations: Annotated[
        tuple[MitigationText, ...] | None, About("Of `both` operands: mitigations of weights.")
    ] = None
    layers: Annotated[
        tuple[Text, ...],
        About("Layers that are changed: `all`, globs of names with blanks between them, or `each layer`, `each kind`, "
              "`each block`. Globs after `!` stay dense."),
    ] = (ALL_LAYERS,)
    windows: Annotated[
        int | None, Number("windows", "Windows of each configuration, fewer than the campaign has.", least=1, most=MOST_TOKENS)
    ] = None
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse empty lists, and what does not go together."""
        lists = ("patterns", "criteria", "mitigations", "values", "weights_criteria", "weights_mitigations", "layers")
        empty = [name for name in lists if getattr(self, name) == ()]
        yield from ((name, "empty, expected a list of at least one") for name in empty)
        for name in ("weights_criteria", "weights_mitigations"):
            if self.operand != BOTH and getattr(self, name) is not None:
                yield name, f"goes with operand {BOTH} only; expected {name.removeprefix('weights_')}"
        if DENSE in self.patterns and (self.operand == BOTH or NONE in self.values):
            yield (
                "patterns",
                f"{DENSE} goes with one operand and with values other than {NONE}; each campaign begins with the dense model",
            )
        for operand in _operands(self.operand):
            yield from self._why_not(operand)

    def _why_not(self, operand: SparseOperand) -> Iterator[tuple[str, str]]:
        criteria, mitigations = self.choices(operand)
        for criterion, mitigation in itertools.product(criteria, mitigations):
            if reason := why_not(Way(operand, None, criterion, parse_mitigation(mitigation))):
                yield "", f"{operand}, {criterion}, {mitigation}: {reason}"

    def choices(self, operand: SparseOperand) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Criteria and mitigations of an operand."""
        if self.operand == BOTH and operand == "weights":
            return self.weights_criteria or (MAGNITUDE,), self.weights_mitigations or (NONE,)
        return self.criteria, self.mitigations

    def configurations(self) -> Iterator[Configuration]:
        """All combinations, patterns first, then what is done, then layers. Words for layers are still words."""
        for pattern in self.patterns:
            ways = [self._ways(operand, pattern) for operand in _operands(self.operand)]
            for chosen, layers in itertools.product(itertools.product(*ways), self.layers):
                yield Configuration(**{way.operand: way for way in chosen}, layers=layers)

    def _ways(self, operand: SparseOperand, text: str) -> list[Way]:
        values = (NONE,) if self.operand == BOTH and operand == "weights" else self.values
        roundings = [_rounding(value) for value in values]
        if text == DENSE:
            return [Way(operand, None, values=rounding) for rounding in roundings]
        pattern = Pattern.parse(text)
        return [
            Way(operand, pattern, criterion, parse_mitigation(mitigation), rounding)
            for criterion, mitigation, rounding in itertools.product(*self.choices(operand), roundings)
        ]


# fmt: off
@record
class LossCampaignFile:
    """What a campaign file of losses holds."""

    calibration_tokens: Annotated[
        int, Number("tokens", "Tokens that parameters are fitted to; whole windows.", least=1, most=MOST_TOKENS)
    ]
    window_tokens: Annotated[int, Number("tokens", "Tokens of a window.", least=2, most=MOST_TOKENS)]
    windows: Annotated[int, Number("windows", "Windows of the dense model, and of each set if it has no others.", least=1,
                                   most=MOST_TOKENS)]
    budget_s: Annotated[int, Number("s", "Time for all configurations.", least=1, most=1e9)]
    set: Annotated[tuple[SetTable, ...], About("Sets of configurations, in the order in which they are evaluated.")]
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse a campaign without sets, calibration of half windows, and sets of more windows than the dense model has."""
        if not self.set:
            yield "set", "empty, expected an array of tables, [[set]]"
        if self.calibration_tokens % self.window_tokens:
            yield (
                "calibration_tokens",
                f"{self.calibration_tokens}: expected a multiple of window_tokens, {self.window_tokens}",
            )
        for number, table in enumerate(self.set):
            if (table.windows or 0) > self.windows:
                yield f"set[{number}].windows", f"{table.windows}: expected at most windows of the campaign, {self.windows}"


class Evaluation(NamedTuple):
    """A configuration, and on how many windows it is evaluated."""

    configuration: Configuration
    windows: int


@dataclass(frozen=True)
class LossCampaign:
    """Configurations in the order in which they are evaluated, the dense model first, and on how many tokens.

    `budget_s` bounds the whole run. `planned` may hold words for layers, which `evaluations` replaces.
    """

    name: str
    calibration_tokens: int
    window_tokens: int
    windows: int
    budget_s: float
    planned: tuple[Evaluation, ...]

    def limited(self, windows: int) -> "LossCampaign":
        """The same campaign with so many windows for each configuration, or fewer if it has fewer there."""
        planned = (one._replace(windows=min(one.windows, windows)) for one in self.planned)
        return replace(self, windows=min(self.windows, windows), planned=tuple(dict.fromkeys(planned)))

    def evaluations(self, layers: Iterable[str]) -> list[Evaluation]:
        """What is evaluated on a model with these linear layers, each once.

        Raises
        ------
        PatternError
            Globs that fit no layer.
        SpecError
            Globs that leave no layer.
        """
        names = list(layers)
        found = dict.fromkeys(
            one._replace(configuration=replace(one.configuration, layers=text))
            for one in self.planned
            for text in expand(one.configuration.layers, names)
        )
        for text in dict.fromkeys(one.configuration.layers for one in found):
            if not Configuration(layers=text).names(names):
                raise SpecError(f"campaign {self.name}: layers={brief(text)}: leaves no layer, expected at least one")
        return list(found)


def load(campaign: str | Path) -> LossCampaign:
    """Read a campaign that ships with the package, by name, or a TOML file.

    Raises
    ------
    SpecError
        No such campaign, or keys that are unknown, missing or malformed: the error names the file and each key.

    Examples
    --------
    >>> str(load("accuracy-quick").planned[0].configuration)
    'dense'
    """
    path = campaign_file(campaign, folder=CAMPAIGN_FOLDER)
    file = read_record(LossCampaignFile, path)
    planned = [Evaluation(Configuration(), file.windows)]
    try:
        planned += (
            Evaluation(configuration, table.windows or file.windows)
            for table in file.set
            for configuration in table.configurations()
        )
    except NmsimError as error:
        raise SpecError(*error.args).within(str(path)) from None
    return LossCampaign(
        path.stem, file.calibration_tokens, file.window_tokens, file.windows, file.budget_s,
        tuple(dict.fromkeys(planned)),
    )  # fmt: skip


def kind_of(layer: str) -> str:
    """Name the layers of the same kind in all blocks, as a glob.

    Examples
    --------
    >>> kind_of("model.layers.3.mlp.up_proj")
    '*.up_proj'
    """
    _, dot, last = layer.rpartition(".")
    return f"*.{last}" if dot else last


def block_of(layer: str) -> str:
    """Name the layers of the same block, as a glob; empty if the layer lies in none.

    Examples
    --------
    >>> block_of("model.layers.3.mlp.up_proj"), block_of("score")
    ('model.layers.3.*', '')
    """
    parts = layer.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    return "" if number is None else ".".join([*parts[: number + 1], "*"])


EACH: dict[str, Callable[[str], str]] = {"each layer": str, "each kind": kind_of, "each block": block_of}
"""Words for choices of layers, and what each makes of the name of a layer."""


def expand(text: str, layers: Iterable[str]) -> list[str]:
    """Replace a word for layers by texts of layers, one per configuration.

    Examples
    --------
    >>> expand("each kind", ["0.up", "0.down", "1.up"]), expand("!*.up", ["0.up"])
    (['*.up', '*.down'], ['!*.up'])
    """
    if text not in EACH:
        return [text]
    return list(dict.fromkeys(glob for layer in layers if (glob := EACH[text](layer))))


def _operands(operand: str) -> tuple[SparseOperand, ...]:
    every: tuple[SparseOperand, ...] = ("weights", "activations")
    return tuple(one for one in every if operand in (one, BOTH))


def _rounding(text: str) -> Rounding | None:
    return None if text == NONE else parse_rounding(text)
