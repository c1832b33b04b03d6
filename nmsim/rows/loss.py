"""The loss of a language model in one configuration as a record: how it was pruned, on which text, and the loss per window."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from nmsim.case import VALUE_BITS, SparseOperand
from nmsim.criteria import named
from nmsim.errors import NmsimError, RowError, brief
from nmsim.pattern import Pattern
from nmsim.quality.configuration import Configuration
from nmsim.quality.way import Way, parse_mitigation, parse_rounding
from nmsim.rows.record import (
    Cell,
    Column,
    Commit,
    Dirty,
    Note,
    NumpyVersion,
    TimeUtc,
    TorchVersion,
    check_cells,
    columns_of,
)

DIGITS = 6
"""Decimals of the loss of a window."""
MEAN_WITHIN = 1e-6
"""The mean loss of a row may differ so much from the mean of its windows, in nats per token."""
OPERANDS: tuple[SparseOperand, ...] = ("weights", "activations")
KEY = (
    *(
        "model",
        "model_digest",
        "text_digest",
        "window_tokens",
        "windows",
        "first_window_token",
        "calibration_tokens",
    ),
    *(
        f"{operand}_{part}"
        for operand in OPERANDS
        for part in ("pattern", "criterion", "mitigation", "values")
    ),
    *("layers", "dtype"),
)
"""Columns that distinguish rows."""
_DIGEST = (r"[0-9a-f]{16}", "16 hex digits")
_PATTERN = Cell("`N:M`, if the operand is pruned", named=Pattern.parse)
_CRITERION = Cell("Criterion of its choice, if it is pruned", named=named)
_MITIGATION = Cell("Mitigations, `+` between several, or `none`, if it is pruned", named=parse_mitigation)
_VALUES = Cell("How values are rounded, such as `int8/64/before`, if they are", named=parse_rounding)


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """The loss of one model in one configuration on one text.

    A loss is the mean negative log-likelihood in nats per predicted token. The perplexity is exp(loss). A window of T tokens
    has T - 1 predicted ones. Windows are paired by number: window i is the same tokens in every row of the same model, text,
    `window_tokens` and `first_window_token`. The cells of an operand that is neither pruned nor rounded are empty.

    Raises
    ------
    RowError
        A field holds what it may not. The error names the field, the value and what was expected.
    """

    model: Annotated[str, Cell("Model by name, or the name of its file or folder")]
    model_digest: Annotated[str, Cell("First 16 hex digits of the SHA-256 of its weights", shape=_DIGEST)]
    text: Annotated[str, Cell("Text by name, or the name of its file")]
    text_digest: Annotated[str, Cell("First 16 hex digits of the SHA-256 of the text", shape=_DIGEST)]
    window_tokens: Annotated[int, Cell("Tokens of a window", least=2)]
    windows: Annotated[int, Cell("Windows that were evaluated")]
    first_window_token: Annotated[int, Cell("Place of the first token of window 0 in the text", least=0)]
    calibration_tokens: Annotated[int, Cell("Tokens before window 0 that parameters are fitted to", least=0)]
    weights_pattern: Annotated[str, _PATTERN] = ""
    weights_criterion: Annotated[str, _CRITERION] = ""
    weights_mitigation: Annotated[str, _MITIGATION] = ""
    weights_values: Annotated[str, _VALUES] = ""
    activations_pattern: Annotated[str, _PATTERN] = ""
    activations_criterion: Annotated[str, _CRITERION] = ""
    activations_mitigation: Annotated[str, _MITIGATION] = ""
    activations_values: Annotated[str, _VALUES] = ""
    layers: Annotated[str, Cell("`all`, or globs of names of linear layers; those after `!` stay dense")]
    layers_pruned: Annotated[int, Cell("Linear layers that were changed", least=0)]
    loss: Annotated[float, Cell("Mean of the losses of the windows, in nats per predicted token", least=0)]
    window_losses: Annotated[
        str,
        Cell(
            "Loss of each window, in nats per predicted token",
            shape=(
                rf"\d+\.\d{{{DIGITS}}}( \d+\.\d{{{DIGITS}}})*",
                f"numbers of {DIGITS} decimals, blanks between them",
            ),
        ),
    ]
    dtype: Annotated[str, Cell("Value type of the arithmetic", texts=tuple(VALUE_BITS))]
    threads: Annotated[int | None, Cell("Cores at work")] = None
    time_s: Annotated[float | None, Cell("Time of fitting and evaluating this configuration")] = None
    peak_memory_bytes: Annotated[int | None, Cell("Most memory that the process has held so far")] = None
    machine: Annotated[str, Cell("Id of the machine")] = ""
    cpu: Annotated[str, Cell("What the processor calls itself")] = ""
    torch: TorchVersion = ""
    transformers: Annotated[str, Cell("Version of transformers")] = ""
    numpy: NumpyVersion = ""
    commit: Commit = ""
    dirty: Dirty = None
    timestamp_utc: TimeUtc = ""
    note: Note = ""
    OLDER: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_cells(self)
        losses = self.losses
        if len(losses) != self.windows:
            raise RowError(
                f"windows={self.windows}: expected {len(losses)}, the number of losses in window_losses",
                column="windows",
            )
        if abs(self.loss - (mean := statistics.fmean(losses))) > MEAN_WITHIN:
            raise RowError(
                f"loss={brief(self.loss)}: expected {mean:.{DIGITS + 1}f}, the mean of window_losses",
                column="loss",
            )
        self._check_configuration()

    @property
    def losses(self) -> list[float]:
        """Loss of each window, in nats per predicted token."""
        return [float(text) for text in self.window_losses.split()]

    @property
    def configuration(self) -> Configuration:
        """How the model was pruned."""
        return Configuration(self._way("weights"), self._way("activations"), self.layers)

    @property
    def key(self) -> tuple[object, ...]:
        """What distinguishes this row, so that a run can skip what a file holds already."""
        return tuple(getattr(self, name) for name in KEY)

    def _check_configuration(self) -> None:
        """Refuse cells of an operand that say the same in other words: the key would be another."""
        try:
            expected = configuration_cells(self.configuration)
        except RowError:
            raise
        except NmsimError as error:
            raise RowError(str(error), column="layers") from None
        for name, text in expected.items():
            if getattr(self, name) != text:
                raise RowError(
                    f"{name}={brief(getattr(self, name))}: expected {brief(text)}, which the other cells give",
                    column=name,
                )

    def _way(self, operand: SparseOperand) -> Way | None:
        pattern, criterion, mitigation, values = (
            getattr(self, f"{operand}_{part}") for part in ("pattern", "criterion", "mitigation", "values")
        )
        rounding = parse_rounding(values) if values else None
        if not pattern:
            return Way(operand, None, values=rounding) if rounding else None
        for part, text in (("criterion", criterion), ("mitigation", mitigation)):
            if not text:
                raise RowError(
                    f"{operand}_{part}='': expected a value, since {operand}_pattern has one",
                    column=f"{operand}_{part}",
                )
        return Way(operand, Pattern.parse(pattern), criterion, parse_mitigation(mitigation), rounding)


LOSS_COLUMNS: Mapping[str, Column] = columns_of(LossRow)
"""The columns of a file of losses, in order, by name."""


def configuration_cells(configuration: Configuration) -> dict[str, str]:
    """Write a configuration as cells of a row: four of each operand, and the layers.

    Examples
    --------
    >>> cells = configuration_cells(Configuration(Way("weights", Pattern(8, 16))))
    >>> cells["weights_pattern"], cells["weights_mitigation"], cells["activations_pattern"], cells["layers"]
    ('8:16', 'none', '', 'all')
    """
    cells: dict[str, str] = {}
    for operand in OPERANDS:
        way = configuration.way(operand)
        pruned = ("", "", "")
        if way is not None and way.pattern is not None:
            pruned = (str(way.pattern), way.criterion, way.mitigation_text)
        values = "" if way is None or way.values is None else str(way.values)
        names = (f"{operand}_{part}" for part in ("pattern", "criterion", "mitigation", "values"))
        cells |= zip(names, (*pruned, values), strict=True)
    return {**cells, "layers": configuration.layers}


def loss_cells(losses: Sequence[float]) -> dict[str, object]:
    """Write the losses of windows as cells of a row: how many there are, each of them, and their mean.

    Raises
    ------
    NmsimError
        No loss, or one that is negative or no finite number.

    Examples
    --------
    >>> loss_cells([1.0, 2.0])
    {'windows': 2, 'loss': 1.5, 'window_losses': '1.000000 2.000000'}
    """
    for number, loss in enumerate(losses):
        if not 0 <= loss < float("inf"):
            raise NmsimError(
                f"loss of window {number} is {brief(loss)}: expected a finite number of at least 0"
            )
    if not losses:
        raise NmsimError("no loss: expected one per window")
    texts = [f"{loss:.{DIGITS}f}" for loss in losses]
    # The mean of what the row holds, so that a reader finds it again.
    mean = statistics.fmean(map(float, texts))
    return {"windows": len(texts), "loss": round(mean, DIGITS + 3), "window_losses": " ".join(texts)}
