"""Measure the transfers of a campaign: check what a kernel moved, time it beside copies of as many bytes, append its row.

What runs on which device is a `TransferBackend`'s business, and when which round is that of `kernels.timing.rounds`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kernels.measure.campaign import Campaign
from kernels.measure.transfer_round import TransferRound
from kernels.timing import interleaved as timing
from kernels.timing import rounds
from kernels.timing.gate import RefusedError
from kernels.timing.rounds import DeviceLostError, Outcome, Pace, Plan, Stamp
from nmsim.errors import NmsimError
from nmsim.pattern import Pattern
from nmsim.rows.transfer import Transfer
from nmsim.units import ceil_div

COPY_WORD_BYTES = 16
"""Copies are of whole words of so many bytes: what a thread loads at once."""


@dataclass(frozen=True)
class Task:
    """What a row is of: a kernel, and what it stores or reads. No pattern, and empty texts, for one that knows no patterns."""

    kernel: str
    pattern: Pattern | None = None
    encoding: str = ""
    packing: str = ""

    def __str__(self) -> str:
        return self.kernel if self.pattern is None else f"{self.kernel} {self.pattern} {self.encoding}"


@dataclass(frozen=True)
class Mover:
    """One call that is checked and timed: a kernel, or a copy that kernels are held against.

    Parameters
    ----------
    name : str
        The kernel, or the copy.
    task : Task or None
        None for a copy.
    moved_bytes : int
        Read and written, each once. A kernel is held against the copies of `copy_bytes(moved_bytes)`.
    check : callable
        Runs it once and raises a `NmsimError` where the result is wrong.
    sample : callable
        Seconds of one call, in the cache state of the round.
    note : str
        What its rows should say.
    """

    name: str
    task: Task | None
    moved_bytes: int
    check: Callable[[], None]
    sample: Callable[[], float]
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} of {self.moved_bytes} bytes" if self.task is None else str(self.task)


class TransferBackend(Protocol):
    """A device, as the transfers of a campaign need it."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Columns of a row that say what the device and its software are: device, driver, versions."""

    def tasks(self, of: TransferRound) -> list[Task]:
        """What a round has to measure, in order."""

    def movers(
        self, of: TransferRound, tasks: Sequence[Task]
    ) -> contextlib.AbstractContextManager[list[Mover]]:
        """Build data and calls of some tasks, and of the copies that they are held against."""


def copy_bytes(moved_bytes: int) -> int:
    """Count the bytes that a copy reads and writes which moves as many as a kernel, or a few more.

    Examples
    --------
    >>> copy_bytes(64), copy_bytes(65)
    (64, 96)
    """
    return 2 * COPY_WORD_BYTES * ceil_div(moved_bytes, 2 * COPY_WORD_BYTES)


def plan(campaign: Campaign, backend: TransferBackend, path: Path, stamp: Stamp) -> Plan[TransferRound, Task]:
    """Find what a file does not hold yet.

    Raises
    ------
    RowError
        The file is no file of transfers, or ends in half a line.
    SpecError
        The device does not take a round.
    """

    def tasks_of(each: TransferRound) -> dict[tuple[object, ...], Task]:
        tasks = (task for task in backend.tasks(each) if not campaign.skips(str(task)))
        return {_key(task, each, stamp): task for task in tasks}

    return rounds.plan(campaign.transfers, tasks_of, path, Transfer)


def run(
    campaign: Campaign,
    backend: TransferBackend,
    path: Path,
    stamp: Stamp,
    *,
    budget_s: float | None = None,
    progress: rounds.Progress = lambda text, share: None,
    clock: rounds.Clock = time.monotonic,
) -> Outcome[Transfer]:
    """Measure what a file does not hold yet.

    Parameters
    ----------
    campaign : Campaign
    backend : TransferBackend
    path : Path
        CSV file that rows are appended to.
    stamp : Stamp
    budget_s : float, optional
        Ends the run after the round in which it is used up. The campaign's own when absent.
    progress : callable
        Called with what is under way, and the share done.
    clock : callable
        Seconds.

    Returns
    -------
    Outcome

    Raises
    ------
    RowError, SpecError
        As `plan`.
    """
    outcome: Outcome[Transfer] = Outcome()

    def rows_of(each: TransferRound, tasks: list[Task], pace: Pace) -> Iterator[Transfer]:
        return _measure(each, tasks, campaign, backend, stamp, outcome, pace, clock)

    return rounds.go_through(
        plan(campaign, backend, path, stamp),
        outcome,
        path,
        rows_of,
        budget_s=campaign.budget_s if budget_s is None else budget_s,
        progress=progress,
        clock=clock,
    )


def _measure(
    each: TransferRound,
    tasks: list[Task],
    campaign: Campaign,
    backend: TransferBackend,
    stamp: Stamp,
    outcome: Outcome[Transfer],
    pace: Pace,
    clock: rounds.Clock,
) -> Iterator[Transfer]:
    """Rows of one round."""
    with backend.movers(each, tasks) as movers:
        right = _gate(each, movers, outcome)
        copies = [mover for mover in right if mover.task is None]
        pairs = [
            (mover, beside)
            for mover in right
            if mover.task
            and (beside := [c for c in copies if c.moved_bytes == copy_bytes(mover.moved_bytes)])
        ]
        if not pairs:
            return
        timed = {str(mover): mover.sample for mover in (*(kernel for kernel, _ in pairs), *copies)}
        for _ in range(campaign.warmup):
            for sample in timed.values():
                sample()
        times = timing.interleave(timed, campaign.repetitions, pace.enough(campaign.repetitions, clock))
    for kernel, beside in pairs:
        yield _row(each, kernel, beside, times, campaign.warmup, backend.about, stamp)


def _gate(each: TransferRound, movers: list[Mover], outcome: Outcome[Transfer]) -> list[Mover]:
    """Check every result; what is right."""
    right = []
    for mover in movers:
        try:
            mover.check()
            right.append(mover)
        except RefusedError as problem:
            outcome.refused.append(f"{each}: {mover}: {problem}")
        except DeviceLostError:
            raise
        except NmsimError as problem:
            outcome.wrong.append(f"{each}: {mover}: {problem}")
    return right


def _row(
    each: TransferRound,
    kernel: Mover,
    copies: Sequence[Mover],
    times: Mapping[str, timing.Floats],
    warmup: int,
    about: Mapping[str, Any],
    stamp: Stamp,
) -> Transfer:
    task = kernel.task
    assert task is not None
    spreads = {copy: timing.Spread.of(times[str(copy)]) for copy in copies}
    best, *others = sorted(copies, key=lambda copy: spreads[copy].p50)
    taken_s, copied_s = times[str(kernel)], times[str(best)]
    taken = timing.Spread.of(taken_s)
    share = kernel.moved_bytes / taken_s / (best.moved_bytes / copied_s)
    cells = {"time_s": taken, "copy_time_s": spreads[best], "share_of_copy": timing.Spread.of(share)}
    slower = [f"{copy.name} {spreads[copy].p50 * 1e6:.4g} us" for copy in others]
    compared = f"other copy: {', '.join(slower)}" if slower else "no other copy"
    outliers = f"outliers: {taken.outliers} kernel, {spreads[best].outliers} copy"
    return Transfer(
        kernel=task.kernel,
        rows=each.rows,
        columns=each.columns,
        dtype=each.dtype,
        pattern="" if task.pattern is None else str(task.pattern),
        encoding=task.encoding,
        packing=task.packing,
        l2_state=each.l2_state,
        moved_bytes=kernel.moved_bytes,
        baseline=best.name,
        copy_bytes=best.moved_bytes,
        **rounds.spread_cells(cells),
        reps=len(taken_s),
        warmup=warmup,
        gate="pass",
        note="; ".join(filter(None, (kernel.note, outliers, compared))),
        **stamp.cells(),
        **about,
    )


def _key(task: Task, each: TransferRound, stamp: Stamp) -> tuple[object, ...]:
    pattern = "" if task.pattern is None else str(task.pattern)
    return (
        stamp.machine, task.kernel, each.rows, each.columns, each.dtype, pattern, task.encoding, each.l2_state,
    )  # fmt: skip
