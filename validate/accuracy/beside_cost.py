"""Measured quality of ways to prune, to stand beside their costs: loss increases, or the figures of `nmsim quality`.

One reader takes both kinds of files. Each quality says what it is, and names its model and its text. Values of two models,
of two texts or of two numbers of windows never become one value: the caller has to choose.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from hwmodels.online.mitigations import CRITERIA, MITIGATIONS, PrunedProduct
from hwmodels.sweeps.space import MeasuredQuality, WayChoice
from hwmodels.threshold import ModelFormat
from nmsim.case import DEFAULT_DTYPE, GemmShape
from nmsim.criteria import named
from nmsim.errors import NmsimError, RowError, brief, brief_names
from nmsim.format import DENSE
from nmsim.pattern import Pattern
from nmsim.quality.configuration import ALL_LAYERS
from nmsim.quality.way import NONE, Way, is_reference, parse_mitigation
from nmsim.rows.loss import LossRow
from nmsim.support.sources import csv_rows, read_text
from validate.accuracy.losses import SAME_WITHIN, read_losses, shipped_files
from validate.accuracy.statistics import Interval, paired_difference

SHIPPED = "smollm2"
"""Name of the rows that ship with nmsim."""
SHIPPED_TEXT = "news"
"""The text of the shipped rows that counts unless another is chosen."""
NAMES = {SHIPPED: "SmolLM2-135M"}
"""Name of a model in rows -> its name for people."""
NOTES = {SHIPPED: "The measured weights come from a 4-bit file."}
"""Name of a model in rows -> what is to be said beside every loss of it."""
OF_ROWS = "window_losses"
OF_LAYERS = (
    "layer",
    "operand",
    "pattern",
    "criterion",
    "mitigation",
    "energy_kept_share",
    "relative_output_error",
)
"""Columns by which a table of losses, and one of `nmsim quality`, are known."""
SAME = ("model", "model_digest", "text", "text_digest", "window_tokens", "first_window_token", "dtype")
"""Columns that have to agree between rows whose losses are subtracted. The first windows of such rows are the same tokens."""
CHOICES = (*SAME, "windows", "calibration_tokens", "layers")
QUANTITY = "quantity"


class Quantity(NamedTuple):
    """What a quality is: the column of its values, its name with the unit, and whether less of it is better."""

    column: str
    label: str
    least: bool


LOSS_INCREASE = Quantity("loss_increase", "loss increase vs dense [nats/token]", True)
OUTPUT_ERROR = Quantity("relative_output_error", "output error |Y - Yd|² / |Yd|² [1]", True)
ENERGY_KEPT = Quantity("energy_kept_share", "energy kept [1]", False)
LOSS_COLUMNS = tuple(
    f"{LOSS_INCREASE.column}{end}" for end in ("", "_low", "_high", "_windows", "_model", "_text")
)
"""Columns that losses add to a table of `nmsim quality`."""
OF_ALL_LAYERS = "all"
"""What the column `layer` of such a table says of sums."""
OF_TABLE = {"output_error": OUTPUT_ERROR, "energy_kept": ENERGY_KEPT}
"""What `quantity` may choose in a table of `nmsim quality`."""


class WayQuality(NamedTuple):
    """The quality of one way to prune one operand of all layers, and its interval; NaN ends if there is none."""

    way: Way
    value: float
    low: float = math.nan
    high: float = math.nan
    windows: int = 0
    """Windows of text that the value is a mean of; 0 if there are none."""
    rank: float = math.nan
    """The value over the windows that all ways of this operand and pattern have, to order them by."""

    @property
    def pattern(self) -> str:
        """The pattern as text, `dense` without one."""
        return str(self.way.pattern) if self.way.pattern else DENSE

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Operand, pattern, criterion and mitigation, as columns of tables have them."""
        way = self.way
        return way.operand, self.pattern, way.criterion if way.pattern else DENSE, way.mitigation_text

    @property
    def ratio(self) -> Interval:
        """Of a loss increase, the ratio of perplexities."""
        return Interval(self.value, self.low, self.high).ratio

    @property
    def is_free(self) -> bool:
        """Whether the way costs no more than its format: what it adds is made offline, as far as it is not selection."""
        return costs_nothing_more(self.way)


@dataclass(frozen=True)
class Qualities:
    """Qualities of ways to prune, all of one quantity, one model and one text.

    Parameters
    ----------
    quantity : Quantity
    ways : tuple of WayQuality
        Without rounded values, of all layers, one operand at a time. Criteria without groups are among them.
    model, text : str
        As the rows name them. Of a table of `nmsim quality`: the file, and where its activations come from.
    source : str
        What was read.
    window_tokens : int
        Tokens of a window; 0 for a table of `nmsim quality`.
    dense_loss : float
        Loss of the dense model, nats per token; NaN for a table of `nmsim quality`.
    left_out : mapping of str to int
        Why rows are not among the ways, and how many.
    """

    quantity: Quantity
    ways: tuple[WayQuality, ...]
    model: str
    text: str
    source: str
    window_tokens: int = 0
    dense_loss: float = math.nan
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """The model's name for people."""
        return NAMES.get(self.model, self.model)

    @property
    def description(self) -> str:
        """What the values are, and what they are of, in one sentence."""
        if self.quantity is LOSS_INCREASE:
            return (
                f"Loss increases are of {self.model_name} on the text {self.text}: nats per token against the dense model, "
                f"means over {self._windows()} windows of {self.window_tokens - 1} tokens, with 95 % intervals over windows."
            )
        return f"{self.quantity.label}: layers one at a time, from {self.model}; activations: {self.text}. It is no accuracy."

    def _windows(self) -> str:
        counts = [one.windows for one in self.ways] or [0]
        return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(max(counts))

    def caveat(self, studied: str) -> str:
        """What has to be said if these values stand beside the costs of another model.

        Examples
        --------
        >>> Qualities(LOSS_INCREASE, (), "smollm2", "news", "smollm2").caveat("llama-3.1-8b")
        'They are not of llama-3.1-8b: another model may lose more or less. The measured weights come from a 4-bit file.'
        """
        about = f"They are not of {studied}: another model may lose more or less."
        return f"{about} {NOTES[self.model]}" if self.model in NOTES else about

    def of(self, operand: str, pattern: str) -> list[WayQuality]:
        """The ways that leave groups of a pattern in an operand, the best first over the windows that all of them have."""
        found = [
            one
            for one in self.ways
            if one.way.operand == operand and one.pattern == pattern and not is_reference(one.way.criterion)
        ]
        return sorted(found, key=lambda one: one.rank if self.quantity.least else -one.rank)

    def best(self, operand: str, pattern: str) -> WayQuality | None:
        """The best way among those that cost no more than the format; None if there is none."""
        return next((one for one in self.of(operand, pattern) if one.is_free), None)

    def of_format(self, how: ModelFormat) -> list[WayQuality]:
        """The ways to prune weights that are stored in a format, the best first: with what lies beside its N:M part."""
        if how.pattern is None:
            return []
        beside = {
            "outliers": str(how.outliers.pattern) if how.outliers else None,
            "salient_columns": str(how.columns) if how.columns else None,
        }
        return [one for one in self.of("weights", str(how.pattern)) if _stored_so(one.way, beside)]

    def find(self, key: tuple[str, str, str, str]) -> WayQuality | None:
        """The way of an operand, pattern, criterion and mitigation."""
        return next((one for one in self.ways if one.key == key), None)

    def sentence(self, one: WayQuality) -> str:
        """Say the quality of one way, with its interval."""
        ends = "" if math.isnan(one.low) else f" ({one.low:.3f} to {one.high:.3f})"
        _, _, criterion, mitigation = one.key
        by = criterion if mitigation == NONE else f"{criterion}, {mitigation}"
        return f"Measured on {self.model_name}, by {by}: {self.quantity.label.partition(' [')[0]} {one.value:.3f}{ends}."

    def cells(self, one: WayQuality | None) -> dict[str, Any]:
        """Columns of a table: the value and its ends, named after the quantity, and what they are of."""
        column = self.quantity.column
        value, low, high = (one.value, one.low, one.high) if one else (math.nan,) * 3
        return {
            column: value,
            f"{column}_low": low,
            f"{column}_high": high,
            **(
                {f"{column}_windows": one.windows if one else math.nan}
                if self.quantity is LOSS_INCREASE
                else {}
            ),
            f"{column}_model": self.model,
            f"{column}_text": self.text,
        }


def with_losses(table: pd.DataFrame, qualities: Qualities | None) -> pd.DataFrame:
    """Add the columns `LOSS_COLUMNS` to a table of `nmsim quality`: values in rows of all layers whose way was measured.

    Parameters
    ----------
    table : DataFrame
        From `validate.measure_quality`.
    qualities : Qualities or None
        None: the columns are empty.

    Raises
    ------
    RowError
        These qualities are no losses.
    """
    if qualities is not None and qualities.quantity is not LOSS_INCREASE:
        column = qualities.quantity.column
        raise RowError(f"{qualities.source}: {column}: expected rows of losses, to stand beside such figures")
    known = {one.key: one for one in qualities.ways} if qualities is not None else {}
    nothing = dict.fromkeys(LOSS_COLUMNS[:4], math.nan) | dict.fromkeys(LOSS_COLUMNS[4:], "")
    keys = zip(*(table[name] for name in ("operand", "pattern", "criterion", "mitigation")), strict=True)
    # Losses of rounded values are not among the ways, and those of whole values are not theirs.
    of_all = (table["layer"] == OF_ALL_LAYERS) & (table["values"] == "")
    found = [
        qualities.cells(known[key]) if qualities is not None and is_of_all and key in known else nothing
        for is_of_all, key in zip(of_all, keys, strict=True)
    ]
    return table.assign(**pd.DataFrame(found, columns=list(LOSS_COLUMNS), index=table.index))


def _stored_so(way: Way, beside: Mapping[str, str | None]) -> bool:
    """Whether a way keeps this beside its N:M part, mitigation -> size, and costs no more than that."""
    sizes = {name: found.size if (found := way.find(name)) else None for name in beside}
    rest = tuple(one for one in way.mitigation if one.name not in beside)
    return sizes == beside and costs_nothing_more(way._replace(mitigation=rest))


def costs_nothing_more(way: Way) -> bool:
    """Whether a way takes no more time or room than its format alone.

    Mitigations have to be made offline. Activations also have to be chosen by magnitude, which a selector needs no
    multiplication for.

    Source
    ------
    `hwmodels.online.mitigations`.

    Examples
    --------
    >>> costs_nothing_more(Way("weights", Pattern(8, 16), "channel_vector", parse_mitigation("weight_correction")))
    True
    >>> costs_nothing_more(Way("activations", Pattern(8, 16), "magnitude", parse_mitigation("var")))
    False
    """
    product = PrunedProduct(GemmShape(2, 256, 256), way.pattern or Pattern(2, 4), DEFAULT_DTYPE, way.operand)
    stages = [stage for name in way.names for stage in MITIGATIONS[name](product)]
    if way.operand == "activations":
        stages += [stage for stage in CRITERIA[way.criterion](product) if stage.name != "select"]
    return all(stage.part == "offline" for stage in stages)


def asked_qualities(
    source: str | None, of: Iterable[str] = (), *, patterns: Iterable[Pattern | str] | None = None
) -> Qualities | None:
    """Read what `--losses` names: the shipped rows if it was not given, nothing if it is empty.

    Parameters
    ----------
    source : str or None
        As for `read_qualities`.
    of : iterable of str
        Choices, `KEY=VALUE`.
    patterns
        As for `read_qualities`.

    Raises
    ------
    RowError
        As `read_qualities`, or a choice that is not `KEY=VALUE`.
    """
    chosen = _choices(of)
    if source is None and not shipped_files():
        return None
    if source == "":
        return None
    return read_qualities(SHIPPED if source is None else source, of=chosen, patterns=patterns)


def read_qualities(
    source: str | Path,
    *,
    of: Mapping[str, str] | None = None,
    patterns: Iterable[Pattern | str] | None = None,
) -> Qualities:
    """Read qualities of ways to prune from rows of losses, or from the table that `nmsim quality` writes.

    Parameters
    ----------
    source : str or Path
        `smollm2` for the rows that ship with nmsim, or a CSV file of either kind.
    of : mapping, optional
        Which rows count, by column: `{"text": "news"}`. Of a table of `nmsim quality`, `quantity` is `output_error`, the
        default, or `energy_kept`.
    patterns : iterable, optional
        Patterns that are asked for; all if left out. Intervals of others are not computed.

    Returns
    -------
    Qualities

    Raises
    ------
    RowError
        No such file, a file of another kind, or no row that counts. Rows of two models, texts or windows, unless one is
        chosen. Rows without a dense one. A way that comes twice.

    Source
    ------
    Intervals: `validate.accuracy.statistics.paired_difference`.
    """
    chosen = dict(of or {})
    wanted = None if patterns is None else {str(pattern) for pattern in patterns}
    if str(source) == SHIPPED:
        files = shipped_files()
        if not files:
            raise RowError(f"{SHIPPED}: no rows ship with this version of nmsim, expected a file of rows")
        rows = read_losses(files)
        if "text" not in chosen and any(row.text == SHIPPED_TEXT for row in rows):
            chosen["text"] = SHIPPED_TEXT
        return _of_losses(rows, SHIPPED, chosen, wanted)
    path = Path(source)
    lines = csv_rows(
        read_text(path, error=RowError, encoding="utf-8-sig").splitlines(), where=path, error=RowError
    )
    header = lines[0] if lines else []
    if OF_ROWS in header:
        return _of_losses(read_losses(path), str(path), chosen, wanted)
    if set(OF_LAYERS) <= set(header):
        return _of_table(header, lines[1:], str(path), chosen, wanted)
    raise RowError(
        f"{path}: columns {brief_names(header) or 'none'}: expected rows of losses, or the table that nmsim quality writes"
    )


def for_sweep(source: str, choice: WayChoice, patterns: Sequence[Pattern]) -> MeasuredQuality:
    """Read qualities for the points of a sweep: one way per operand and pattern.

    If neither a criterion nor a mitigation is chosen, it is the best way among those that cost no more than their format.

    Parameters
    ----------
    source : str
        As for `read_qualities`.
    choice : WayChoice
    patterns : sequence of Pattern
        Those of the space.

    Returns
    -------
    MeasuredQuality
        For `hwmodels.sweeps.space.load_space`.

    Raises
    ------
    RowError
        As `read_qualities`, or an unknown criterion or mitigation.
    """
    found = read_qualities(source, of=_choices(choice.of), patterns=patterns)
    mitigation = (
        Way("weights", None, mitigation=parse_mitigation(choice.mitigation)).mitigation_text
        if choice.mitigation
        else ""
    )
    if choice.criterion:
        named(choice.criterion)
    ways: dict[tuple[str, str], tuple[float, float, float]] = {}
    for operand, pattern in dict.fromkeys((one.way.operand, one.pattern) for one in found.ways):
        fits = [
            one
            for one in found.of(operand, pattern)
            if choice.criterion in ("", one.way.criterion)
            and mitigation in ("", one.way.mitigation_text)
            and (one.is_free or choice.criterion or mitigation)
        ]
        if fits:
            ways[operand, pattern] = (fits[0].value, fits[0].low, fits[0].high)
    return MeasuredQuality(found.quantity.column, found.quantity.least, ways, found.source)


def _choices(texts: Iterable[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for text in texts:
        key, mark, value = text.partition("=")
        if not mark or key not in (*CHOICES, QUANTITY) or key in chosen:
            raise RowError(
                f"choice of losses {brief(text)}: expected KEY=VALUE, each key once, of {', '.join((*CHOICES, QUANTITY))}"
            )
        chosen[key] = value
    return chosen


def _of_losses(
    rows: Sequence[LossRow], source: str, of: Mapping[str, str], patterns: set[str] | None
) -> Qualities:
    """Loss increases of the rows that count, each against the dense row of the same windows."""
    if unknown := set(of) - set(CHOICES):
        raise RowError(
            f"{source}: no choice by {brief_names(sorted(unknown))}: expected {', '.join(CHOICES)}"
        )
    layers = of.get("layers", ALL_LAYERS)
    left_out: dict[str, int] = {}
    dense: dict[tuple[Any, ...], LossRow] = {}
    pruned: dict[tuple[Any, ...], list[tuple[Way, LossRow]]] = {}
    for row in rows:
        way, why = _way_of(row, layers)
        # Nothing of a dense row was fitted, and its first windows are those of a row with fewer.
        free = ("layers", *(("calibration_tokens", "windows") if way is None and not why else ()))
        if any(str(getattr(row, name)) != text for name, text in of.items() if name not in free):
            continue
        if way is None and not why:
            other = dense.setdefault(_same(row), row)
            if any(abs(a - b) > SAME_WITHIN for a, b in zip(other.losses, row.losses, strict=False)):
                raise RowError(f"{source}: two dense rows of the same windows differ, expected one")
            dense[_same(row)] = max(other, row, key=_count)
        elif why:
            left_out[why] = left_out.get(why, 0) + 1
        elif way is not None:
            pruned.setdefault((*_same(row), row.calibration_tokens), []).append((way, row))
    if not pruned:
        raise RowError(
            f"{source}: none of its {len(rows)} rows counts, expected pruned weights or activations of "
            f"layers {brief(layers)}{_as_chosen(of)}"
        )
    _refuse_several(list(pruned), source)
    ((key, found),) = pruned.items()
    if key[:-1] not in dense:
        raise RowError(f"{source}: no dense row of the same {', '.join(SAME)}: expected one to compare with")
    base = dense[key[:-1]]
    # Of two rows of one way, the one with more windows has those of the other.
    most: dict[Way, int] = {}
    for way, row in found:
        most[way] = max(row.windows, most.get(way, 0))
    found = [(way, row) for way, row in found if row.windows == most[way]]
    shared: dict[tuple[Any, ...], list[int]] = {}
    for way, row in found:
        shared.setdefault((way.operand, way.pattern), []).append(row.windows)
    ways: dict[Way, WayQuality] = {}
    for way, row in found:
        if way in ways:
            raise RowError(f"{source}: {way} comes twice, expected one row of each way")
        if patterns is None or str(way.pattern) in patterns:
            count = min(base.windows, *shared[way.operand, way.pattern])
            increase = paired_difference(row.losses[: base.windows], base.losses[: row.windows])
            rank = fmean(row.losses[:count]) - fmean(base.losses[:count])
            ways[way] = WayQuality(way, *increase, min(row.windows, base.windows), rank)
    return Qualities(
        LOSS_INCREASE,
        tuple(ways.values()),
        base.model,
        base.text,
        source,
        base.window_tokens,
        float(base.loss),
        left_out,
    )


def _way_of(row: LossRow, layers: str) -> tuple[Way | None, str]:
    """The one way of a row, None if it is dense, and why the row does not count; empty if it does."""
    configuration = row.configuration
    ways = [way for way in (configuration.weights, configuration.activations) if way is not None]
    if not ways:
        return None, ""
    if configuration.layers != layers:
        return None, "other layers"
    if len(ways) > 1:
        return None, "both operands pruned"
    if ways[0].pattern is None or ways[0].values is not None:
        return None, "rounded values"
    return ways[0], ""


def _count(row: LossRow) -> int:
    return row.windows


def _same(row: LossRow) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in SAME)


def _refuse_several(keys: Sequence[tuple[Any, ...]], source: str) -> None:
    """Refuse rows that differ in what they are of: their losses cannot be compared."""
    if len(keys) == 1:
        return
    names = (*SAME, "calibration_tokens")
    several = {
        name: list(dict.fromkeys(str(key[place]) for key in keys))
        for place, name in enumerate(names)
        if len({key[place] for key in keys}) > 1
    }
    said = "; ".join(f"{name} {brief_names(values)}" for name, values in several.items())
    name, values = next(iter(several.items()))
    raise RowError(
        f"{source}: rows of several kinds ({said}): expected one, chosen such as by {name}={values[0]}"
    )


def _as_chosen(of: Mapping[str, str]) -> str:
    return f", chosen by {', '.join(f'{name}={value}' for name, value in of.items())}" if of else ""


def _of_table(
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    source: str,
    of: Mapping[str, str],
    patterns: set[str] | None,
) -> Qualities:
    """Figures of all layers of a table of `nmsim quality`."""
    name = of.get(QUANTITY, "output_error")
    if set(of) - {QUANTITY} or name not in OF_TABLE:
        raise RowError(
            f"{source}: a table of nmsim quality{_as_chosen(of)}: expected quantity={' or quantity='.join(OF_TABLE)} alone"
        )
    quantity = OF_TABLE[name]
    ways: dict[Way, WayQuality] = {}
    activations = ""
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise RowError(f"{source}: row {number}: {len(line)} cells, expected {len(header)}", row=number)
        cells = dict(zip(header, line, strict=True))
        # Sums over the layers stand for the model; a row of one layer says nothing of the others. Nothing is known of what
        # rounded values cost.
        if cells["layer"] != OF_ALL_LAYERS or cells.get("values"):
            continue
        try:
            way, value = _way_of_cells(cells), float(cells[quantity.column] or "nan")
        except (NmsimError, ValueError) as error:
            raise RowError(f"{source}: row {number}: {error}", row=number) from error
        if way in ways:
            raise RowError(
                f"{source}: row {number}: {way} comes twice, expected one row of each way", row=number
            )
        activations = cells.get("activations", "")
        if (
            way.pattern is not None
            and math.isfinite(value)
            and (patterns is None or str(way.pattern) in patterns)
        ):
            ways[way] = WayQuality(way, value, rank=value)
    if not ways:
        raise RowError(
            f"{source}: no row of all layers with {quantity.column}, expected one per way to prune"
        )
    return Qualities(quantity, tuple(ways.values()), Path(source).name, activations, source)


def _way_of_cells(cells: Mapping[str, str]) -> Way:
    operand = cells["operand"]
    if operand not in ("weights", "activations"):
        raise RowError(f"operand={brief(operand)}: expected weights or activations")
    if cells["pattern"] == DENSE:
        return Way("weights" if operand == "weights" else "activations", None)
    if cells["criterion"] not in CRITERIA:
        raise RowError(f"criterion={brief(cells['criterion'])}: expected one of {', '.join(CRITERIA)}")
    return Way(
        "weights" if operand == "weights" else "activations",
        Pattern.parse(cells["pattern"]),
        cells["criterion"],
        parse_mitigation(cells["mitigation"]),
    )
