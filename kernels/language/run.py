"""Evaluate a campaign of losses: configuration by configuration, each row appended as soon as it exists.

An `Evaluator` knows the model and the text. Rows that a file already holds are not evaluated again, so a run that was stopped
continues. A configuration that fails has no row, and does not end the run.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.linalg import LinAlgError

from kernels.language.campaign import Evaluation, LossCampaign
from kernels.timing.rounds import Clock, Progress, Stamp, rounded
from nmsim import rows as row_files
from nmsim.errors import NmsimError, RowError, brief, one_line
from nmsim.files.output import ROW_FILE, Output, claimed
from nmsim.quality.configuration import Configuration
from nmsim.rows.loss import LossRow, configuration_cells, loss_cells


class Evaluator(Protocol):
    """A model and a text, as a campaign needs them."""

    def losses(self, configuration: Configuration, *, windows: int) -> Sequence[float]:
        """Loss of each of the first windows, in nats per predicted token. A `NmsimError` says why there is none."""


@dataclass(frozen=True)
class Failure:
    """A configuration that has no row, and why."""

    configuration: str
    reason: str


@dataclass
class Outcome:
    """What a run did.

    Parameters
    ----------
    rows : list of LossRow
        Written to the file.
    found : list of LossRow
        Rows of the campaign that the file held already.
    failed : list of Failure
        Configurations without a row.
    left : int
        Configurations there was no time for.
    """

    rows: list[LossRow] = field(default_factory=list)
    found: list[LossRow] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    left: int = 0

    def ordered(self, keys: Sequence[tuple[object, ...]]) -> list[LossRow]:
        """All rows of the campaign that the file holds now, in the order of these keys."""
        by_key = {row.key: row for row in (*self.found, *self.rows)}
        return [by_key[key] for key in keys if key in by_key]


@dataclass(frozen=True)
class Planned:
    """One evaluation of a run.

    Parameters
    ----------
    evaluation : Evaluation
    cells : mapping
        Columns of its row that are known before it runs.
    key : tuple
        As its row has it.
    work : float
        Windows through which it runs, in passes of the whole model. What lies before the first changed layer is known from the
        dense model.
    """

    evaluation: Evaluation
    cells: Mapping[str, Any]
    key: tuple[object, ...]
    work: float


def plan(campaign: LossCampaign, *, layers: Sequence[str], about: Mapping[str, Any]) -> list[Planned]:
    """List what a campaign evaluates on a model.

    Parameters
    ----------
    campaign : LossCampaign
    layers : sequence of str
        Names of the model's linear layers, in the order in which they are called.
    about : mapping
        Columns that all rows share: model, text, their digests, `first_window_token`, `dtype`, and versions.

    Raises
    ------
    PatternError, SpecError
        As `LossCampaign.evaluations`.
    """
    found = []
    for one in campaign.evaluations(layers):
        configuration = one.configuration
        changed = [] if configuration.is_dense else configuration.names(layers)
        first = layers.index(changed[0]) if changed else 0
        cells = {
            **about,
            **configuration_cells(configuration),
            "window_tokens": campaign.window_tokens,
            "windows": one.windows,
            "calibration_tokens": campaign.calibration_tokens,
            "layers_pruned": len(changed),
        }
        # The key of a row of these cells, whatever its losses will be.
        row = LossRow(**{**cells, **loss_cells([0.0] * one.windows)})
        work = one.windows * (1 - first / max(len(layers), 1))
        found.append(Planned(one, cells, row.key, work))
    return found


def _held(path: Path) -> dict[tuple[object, ...], LossRow]:
    """Rows of a file by their key. A file with two of one key is refused: nobody could say which of them counts."""
    held: dict[tuple[object, ...], LossRow] = {}
    if row_files.check(path, LossRow):
        return held
    for number, row in enumerate(row_files.read(path, LossRow), start=1):
        if row.key in held:
            raise RowError(
                f"{path}: row {number}: {brief(str(row.configuration))} stands there already, expected one row of each "
                "configuration, model and text",
                row=number,
            )
        held[row.key] = row
    return held


def run(
    planned: Sequence[Planned],
    evaluator: Evaluator,
    path: Path,
    *,
    stamp: Stamp,
    budget_s: float,
    progress: Progress = lambda text, share: None,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Evaluate what a file does not hold yet.

    Parameters
    ----------
    planned : sequence of Planned
    evaluator : Evaluator
    path : Path
        CSV file that rows are appended to.
    stamp : Stamp
        The machine, and the commit of nmsim.
    budget_s : float
        Ends the run after the configuration in which it is used up.
    progress : callable
        Called with what is under way and the time that is left, and the share of all work that is done.
    clock : callable
        Seconds.

    Returns
    -------
    Outcome

    Raises
    ------
    RowError
        The file is no file of such rows, has one twice, or ends in half a line.
    BusyError
        Another run appends rows to the file.
    ContainerError
        The file cannot be written.
    """
    outcome = Outcome()
    begin = clock()
    # Held from the look at what is there to the last row: another run would evaluate the same configurations.
    with claimed(Output(path, "rows", ROW_FILE)):
        held = _held(path)
        outcome.found = [held[one.key] for one in planned if one.key in held]
        fresh = [one for one in planned if one.key not in held]
        total, done = sum(one.work for one in fresh), 0.0
        for place, one in enumerate(fresh):
            spent_s = clock() - begin
            if spent_s >= budget_s:
                outcome.left = len(fresh) - place
                break
            left_s = spent_s / done * (total - done) if done else None
            progress(_under_way(one, place, len(fresh), left_s), done / total)
            try:
                row = _evaluate(one, evaluator, stamp, clock)
            # One configuration that cannot be fitted, or takes too much memory, must not end the campaign.
            except (NmsimError, LinAlgError, MemoryError) as problem:
                reason = one_line(str(problem) or type(problem).__name__)
                outcome.failed.append(Failure(str(one.evaluation.configuration), reason))
            else:
                row_files.append(path, row)
                outcome.rows.append(row)
            done += one.work
    return outcome


def _evaluate(one: Planned, evaluator: Evaluator, stamp: Stamp, clock: Callable[[], float]) -> LossRow:
    """The row of one configuration."""
    windows, begin = one.evaluation.windows, clock()
    losses = evaluator.losses(one.evaluation.configuration, windows=windows)
    time_s = clock() - begin
    if len(losses) != windows:
        raise NmsimError(f"{len(losses)} losses: expected one for each of {windows} windows")
    return LossRow(
        **{
            **one.cells,
            **loss_cells(losses),
            "time_s": rounded(time_s) or None,
            "peak_memory_bytes": peak_memory_bytes(),
            **stamp.cells(),
        }
    )


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held so far; None if the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _under_way(one: Planned, place: int, of: int, left_s: float | None) -> str:
    """What is under way, for a line of progress: the time that is left stands in front, since long lines are cut."""
    left = "" if left_s is None else f", {_duration(left_s)} left"
    return f"{place + 1} of {of}{left}: {one.evaluation.configuration}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
