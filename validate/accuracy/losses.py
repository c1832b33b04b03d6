"""Rows of losses as tables in which configurations can be compared: one table per model, text and windows."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nmsim.case import SparseOperand
from nmsim.errors import PatternError, RowError, brief
from nmsim.pattern import Pattern
from nmsim.quality.configuration import ALL_LAYERS, Configuration
from nmsim.quality.way import Way, is_reference, parse_mitigation
from nmsim.rows.files import read
from nmsim.rows.loss import OPERANDS, LossRow, configuration_cells
from validate.accuracy.statistics import (
    UNKNOWN,
    FloatArray,
    Interval,
    compare,
    mean_interval,
    paired_difference,
)

DENSE = Configuration()
FOLDER = Path(__file__).parents[1] / "data" / "losses"
"""Rows that ship with nmsim, and the table of `nmsim quality` on the same model."""
QUALITY_FILE = FOLDER / "quality.csv"
SAME_WITHIN = 1e-3
"""Two rows of one configuration may differ by so much in a window, in nats per token; beyond it they are two models."""


class Setting(NamedTuple):
    """What rows have to agree in, so that their windows are the same tokens in the same model and arithmetic."""

    model: str
    model_digest: str
    text: str
    text_digest: str
    window_tokens: int
    first_window_token: int
    dtype: str

    @classmethod
    def of(cls, row: LossRow) -> "Setting":
        """The setting of a row."""
        return cls(*(getattr(row, name) for name in cls._fields))

    def __str__(self) -> str:
        return f"{self.model} on {self.text}, windows of {self.window_tokens} tokens"


@dataclasses.dataclass(frozen=True)
class LossTable:
    """Rows of one setting, each configuration once.

    Criteria without groups are found by their density: `unstructured` at 8:16 is that at 1:2.
    """

    setting: Setting
    rows: Mapping[Configuration, LossRow]

    def find(self, configuration: Configuration) -> LossRow | None:
        """The row of a configuration, if it was measured."""
        return self.rows.get(_lowest_terms(configuration))

    def has(self, *configurations: Configuration) -> bool:
        """Whether all of them were measured."""
        return all(self.find(one) is not None for one in configurations)

    def losses(self, *configurations: Configuration) -> list[FloatArray]:
        """Losses of several configurations on the first windows that all of them have, nats per token.

        Raises
        ------
        RowError
            One was not measured.
        """
        rows = []
        for configuration in configurations:
            row = self.find(configuration)
            if row is None:
                raise RowError(f"{self.setting}: no row of {configuration}: expected one")
            rows.append(row)
        common = min(row.windows for row in rows)
        return [np.array(row.losses[:common]) for row in rows]

    def windows(self, *configurations: Configuration) -> int:
        """How many windows all of them have."""
        return len(self.losses(*configurations)[0])

    def difference(self, configuration: Configuration, reference: Configuration = DENSE) -> Interval:
        """Loss minus that of the reference, paired by window; unknown if either was not measured."""
        if not self.has(configuration, reference):
            return UNKNOWN
        return paired_difference(*self.losses(configuration, reference))

    def ways(self, operand: SparseOperand) -> dict[Way, Configuration]:
        """Ways in which this operand alone was pruned in all layers, its values not rounded, and their configurations."""
        found = {}
        for configuration in self.rows:
            way = configuration.way(operand)
            if way is None or way.pattern is None or way.values is not None:
                continue
            if configuration.layers == ALL_LAYERS and not _prunes_both(configuration):
                found[way] = configuration
        return found


def one_operand(
    operand: SparseOperand,
    pattern: Pattern | str,
    *,
    criterion: str = "magnitude",
    mitigation: str = "none",
    layers: str = ALL_LAYERS,
) -> Configuration:
    """Prune one operand and leave the other dense.

    Raises
    ------
    PatternError
        An unknown operand, criterion or mitigation, or no pattern.

    Examples
    --------
    >>> str(one_operand("weights", "8:16", layers="*.q_proj"))
    'weights 8:16 magnitude; layers *.q_proj'
    """
    if operand not in OPERANDS:
        raise PatternError(f"operand={brief(operand)}: expected one of {', '.join(OPERANDS)}")
    kept = pattern if isinstance(pattern, Pattern) else Pattern.parse(pattern)
    way = Way(operand, kept, criterion, parse_mitigation(mitigation))
    return with_way(Configuration(layers=layers), way)


def with_way(configuration: Configuration, way: Way) -> Configuration:
    """The same configuration with another way of one operand.

    Examples
    --------
    >>> str(with_way(DENSE, Way("weights", Pattern(2, 4))))
    'weights 2:4 magnitude'
    """
    if way.operand == "weights":
        return dataclasses.replace(configuration, weights=way)
    return dataclasses.replace(configuration, activations=way)


def read_losses(paths: str | Path | Iterable[str | Path]) -> list[LossRow]:
    """Read the rows of a file, or of several.

    Raises
    ------
    RowError
        As `nmsim.rows.read`.
    """
    each = [paths] if isinstance(paths, str | Path) else paths
    return [row for path in each for row in read(path, LossRow)]


def shipped_files() -> list[Path]:
    """Files of the rows of losses that ship with nmsim; empty if there are none."""
    return sorted(path for path in FOLDER.glob("*.csv") if path.name != QUALITY_FILE.name)


def loss_tables(rows: Iterable[LossRow]) -> list[LossTable]:
    """Put rows in one table per setting, in the order in which settings come.

    Of two rows of one configuration that differ in their number of windows, the longer one counts.

    Parameters
    ----------
    rows : iterable of LossRow

    Returns
    -------
    list of LossTable

    Raises
    ------
    RowError
        Two rows of one key. Two rows of one configuration that differ in what they were fitted to, or in the loss of a
        window.
    """
    keys: set[tuple[object, ...]] = set()
    tables: dict[Setting, dict[Configuration, LossRow]] = {}
    for row in rows:
        setting, as_written = Setting.of(row), row.configuration
        where = f"{setting}: {as_written}"
        if row.key in keys:
            raise RowError(f"{where}: two rows of one key: expected one (a file that was read twice?)")
        keys.add(row.key)
        of_setting = tables.setdefault(setting, {})
        configuration = _lowest_terms(as_written)
        other = of_setting.get(configuration)
        if other is not None:
            _refuse_contradiction(row, other, where)
        if other is None or row.windows > other.windows:
            of_setting[configuration] = row
    return [LossTable(setting, found) for setting, found in tables.items()]


FRAME_COLUMNS = (
    "model", "text", "window_tokens", "windows", "configuration",
    *(f"{operand}_{part}" for operand in OPERANDS for part in ("pattern", "criterion", "mitigation", "values")),
    "layers", "layers_pruned", "loss", "loss_low", "loss_high", "perplexity", "perplexity_low", "perplexity_high",
    "loss_increase", "loss_increase_low", "loss_increase_high",
    "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high", "against_dense", "time_s",
)  # fmt: skip
"""Columns of `loss_frame`. Losses in nats per token; `increase` and `ratio` are against the dense model."""


def loss_frame(rows: Iterable[LossRow]) -> pd.DataFrame:
    """Put rows in a table of configurations: losses, perplexities and differences to dense, with 95 % intervals.

    Parameters
    ----------
    rows : iterable of LossRow
        Of any models and texts. Each is compared with the dense row of its own setting only.

    Returns
    -------
    DataFrame
        `FRAME_COLUMNS`. An increase is NaN if the setting has no dense row. `against_dense` is `greater`, `less` or
        `cannot be decided`.

    Raises
    ------
    RowError
        As `loss_tables`.
    """
    found = [record for table in loss_tables(rows) for record in _records(table)]
    return pd.DataFrame(found, columns=list(FRAME_COLUMNS))


def _records(table: LossTable) -> Iterator[dict[str, Any]]:
    setting = table.setting
    for configuration, row in table.rows.items():
        loss = mean_interval(row.losses)
        increase = table.difference(configuration)
        yield {
            "model": setting.model,
            "text": setting.text,
            "window_tokens": setting.window_tokens,
            "windows": row.windows,
            "configuration": str(configuration),
            **configuration_cells(configuration),
            "layers_pruned": row.layers_pruned,
            **ends("loss", loss),
            **ends("perplexity", loss.ratio),
            **ends("loss_increase", increase),
            **ends("perplexity_ratio", increase.ratio),
            "against_dense": "" if configuration.is_dense else compare(increase),
            "time_s": row.time_s,
        }


def ends(name: str, interval: Interval) -> dict[str, float]:
    """Columns of an interval: `NAME`, `NAME_low`, `NAME_high`.

    Examples
    --------
    >>> ends("loss", Interval(2.0, 1.5, 2.5))
    {'loss': 2.0, 'loss_low': 1.5, 'loss_high': 2.5}
    """
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _refuse_contradiction(row: LossRow, other: LossRow, where: str) -> None:
    """Two rows of one configuration may differ in their windows only."""
    if row.calibration_tokens != other.calibration_tokens and _is_fitted(row.configuration):
        raise RowError(
            f"{where}: fitted to {other.calibration_tokens} and to {row.calibration_tokens} tokens: expected one of them"
        )
    for number, (ours, theirs) in enumerate(zip(row.losses, other.losses, strict=False)):
        if abs(ours - theirs) > SAME_WITHIN:
            raise RowError(
                f"{where}: window {number} has losses {brief(theirs)} and {brief(ours)}: expected the same within {SAME_WITHIN}"
            )


def _prunes_both(configuration: Configuration) -> bool:
    return configuration.weights is not None and configuration.activations is not None


def _is_fitted(configuration: Configuration) -> bool:
    ways = (configuration.weights, configuration.activations)
    return any(way is not None and way.fitted for way in ways)


def _lowest_terms(configuration: Configuration) -> Configuration:
    """A criterion without groups looks at the density of its pattern alone, so that 8:16 and 1:2 are one way."""
    for operand in OPERANDS:
        way = configuration.way(operand)
        if way is not None and way.pattern is not None and is_reference(way.criterion):
            configuration = with_way(configuration, way._replace(pattern=lowest_terms(way.pattern)))
    return configuration


def lowest_terms(pattern: Pattern) -> Pattern:
    """The pattern of the same density with the smallest group.

    Examples
    --------
    >>> str(lowest_terms(Pattern(8, 16)))
    '1:2'
    """
    return Pattern(pattern.density.numerator, pattern.density.denominator)
