"""Go through the rounds of a campaign within a budget of time.

A row is written as soon as it exists. Rows that a file already holds are not measured again. So a run that was stopped
continues.
"""

import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from kernels.timing import interleaved as timing
from kernels.timing.gate import RefusedError
from nmsim import rows as row_files
from nmsim.errors import NmsimError
from nmsim.rows import Measurement

LEAST_REPETITIONS = 5
DIGITS = 7

Of = TypeVar("Of")
Task = TypeVar("Task")
Clock = Callable[[], float]
Progress = Callable[[str, float], None]
"""Called with what is under way, and the share done."""


class DeviceLostError(NmsimError):
    """A device that runs nothing more in this process: the run ends.

    Parameters
    ----------
    message : str
    label : str
        Kernel and format that it was lost in, or the name of a dense call.
    round_name : str
        The round.
    """

    def __init__(self, message: str, *, label: str = "", round_name: str = "") -> None:
        super().__init__(message)
        self.label, self.round_name = label, round_name


@dataclass(frozen=True)
class Stamp:
    """What all rows of a run share."""

    machine: str
    commit: str = ""
    dirty: bool | None = None

    def cells(self) -> dict[str, Any]:
        """Columns of a row that is made now."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "machine": self.machine, "commit": self.commit, "dirty": self.dirty, "timestamp_utc": now,
        }  # fmt: skip


@dataclass
class Outcome:
    """What a run did.

    Parameters
    ----------
    rows : list of Measurement
        Written to the file.
    skipped : int
        Tasks found in the file.
    wrong : list of str
        Results that were wrong; they have no row.
    refused : list of str
        What the device, its compiler or a library does not run; neither has that.
    left : int
        Tasks there was no time for.
    notes : list of str
        What else the user should know.
    wrong_labels : list of str
        Kernel and format of each wrong result, or the name of a dense call.
    """

    rows: list[Measurement] = field(default_factory=list)
    skipped: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    left: int = 0
    notes: list[str] = field(default_factory=list)
    wrong_labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan(Generic[Of, Task]):
    """Rounds with something to measure, each with what, and how many tasks a file holds already."""

    rounds: list[tuple[Of, list[Task]]]
    skipped: int


@dataclass(frozen=True)
class Pace:
    """How far a round may go: seconds left for it, when asked, and whom to tell the share of it that is done."""

    time_left: Callable[[], float]
    report: Callable[[float], None]

    def enough(self, repetitions: int, clock: Clock) -> Callable[[int], bool]:
        """From now on: whether so many repetitions are enough, told after each."""
        end = clock() + self.time_left()

        def answer(done: int) -> bool:
            self.report(done / repetitions)
            return done >= LEAST_REPETITIONS and clock() >= end

        return answer


def plan(
    rounds: Iterable[Of], tasks_of: Callable[[Of], Mapping[tuple[object, ...], Task]], path: Path
) -> Plan[Of, Task]:
    """Find what a file does not hold yet; tasks by the key of their rows.

    Raises
    ------
    RowError
        The file is no file of such rows, or ends in half a line.
    """
    found: set[tuple[object, ...]] = (
        set() if row_files.check(path) else {row.key for row in row_files.read(path)}
    )
    open_rounds, skipped = [], 0
    for each in rounds:
        tasks = tasks_of(each)
        fresh = [task for key, task in tasks.items() if key not in found]
        skipped += len(tasks) - len(fresh)
        found |= tasks.keys()
        if fresh:
            open_rounds.append((each, fresh))
    return Plan(open_rounds, skipped)


def go_through(
    planned: Plan[Of, Task],
    outcome: Outcome,
    path: Path,
    rows_of: Callable[[Of, list[Task], Pace], Iterator[Measurement]],
    *,
    budget_s: float,
    progress: Progress = lambda text, share: None,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Measure what is planned, round by round, until the budget is used up; the time left is shared among the rounds left.

    Parameters
    ----------
    planned : Plan
    outcome : Outcome
        Is filled, and given back.
    path : Path
        CSV file that rows are appended to.
    rows_of : callable
        Measures the tasks of a round.
    budget_s : float
        Ends the run after the round in which it is used up.

    Raises
    ------
    DeviceLostError
        The device is of no more use; what was measured before is in the file.
    """
    outcome.skipped = planned.skipped
    end, total = clock() + budget_s, len(planned.rounds)
    for place, (each, tasks) in enumerate(planned.rounds):
        if clock() >= end:
            outcome.left = sum(len(rest) for _, rest in planned.rounds[place:])
            break
        progress(f"{each}: preparing", place / total)

        def report(share: float, what: str = str(each), done: int = place) -> None:
            progress(what, (done + share) / total)

        def time_left(share: float = 1 / (total - place)) -> float:
            return (end - clock()) * share

        try:
            for row in rows_of(each, tasks, Pace(time_left, report)):
                row_files.append(path, row)
                outcome.rows.append(row)
        except RefusedError as problem:
            outcome.refused.append(f"{each}: {problem}")
        # A round that does not fit into memory must not end the campaign.
        except MemoryError as problem:
            outcome.refused.append(f"{each}: more than memory holds: {problem}")
        except DeviceLostError as lost:
            kept = f"{len(outcome.rows)} rows of this run are in {path}"
            raise DeviceLostError(
                f"{each}: {lost}; {kept}: run the same command again, with --skip for what it stopped at",
                label=lost.label,
                round_name=str(each),
            ) from None
    return outcome


def spread_cells(spreads: Mapping[str, timing.Spread]) -> dict[str, Any]:
    """Columns of medians and percentiles, by the name of the median's."""
    return {
        f"{name}{suffix}": rounded(value)
        for name, spread in spreads.items()
        for suffix, value in (("", spread.p50), ("_p20", spread.p20), ("_p80", spread.p80))
    }


def rounded(value: float) -> float:
    """Drop the digits that no clock has."""
    return float(f"{value:.{DIGITS}g}")
