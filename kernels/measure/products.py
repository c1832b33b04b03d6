"""Measure the products of a campaign: check each result, then time it against every dense call, then append its row.

What runs on which device is a `Backend`'s business, and when which round is that of `kernels.timing.rounds`. This module gates,
interleaves and compares.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kernels.measure.campaign import Campaign, Round
from kernels.timing import interleaved as timing
from kernels.timing import rounds
from kernels.timing.gate import RefusedError
from kernels.timing.rounds import DeviceLostError, Outcome, Pace, Plan, Stamp
from nmsim.case import Case, case_id
from nmsim.errors import NmsimError
from nmsim.rows.measurement import Key, Measurement

SLOW_SAMPLES = 3
SLOW_DENSE = 3.0
"""A dense call that takes so many times the fastest one's time is not timed further."""

Task = tuple[Case, str]
"""What a row is of: a case, and the kernel that runs it."""


@dataclass(frozen=True)
class Contender:
    """One call that is checked and timed.

    Parameters
    ----------
    name : str
        The kernel, or the dense call.
    case : Case or None
        None for a dense call.
    error : callable
        Runs it and gives back the largest relative error (see `kernels.timing.gate`). Raises a `NmsimError` where the result is
        wrong, a `RefusedError` where there is none.
    sample : callable
        Seconds of one product, in the cache state of the round.
    note : str
        What its rows should say.
    """

    name: str
    case: Case | None
    error: Callable[[], float]
    sample: Callable[[], float]
    note: str = ""


class Backend(Protocol):
    """A device, as a campaign needs it."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Columns of a row that say what the device and its software are: device, driver, versions."""

    def threads(self, of: Round) -> int | None:
        """Cores at work in a round; None where that means nothing."""

    def tasks(self, of: Round) -> list[Task]:
        """What a round has to measure, in order."""

    def prepare(self, planned: Plan[Round, Task], time_s: float, progress: rounds.Progress) -> str:
        """Do before the first round what is better done at once, in so many seconds at most; say what failed of it."""

    def contenders(
        self, of: Round, tasks: Sequence[Task], warmup: int
    ) -> contextlib.AbstractContextManager[list[Contender]]:
        """Build data and calls of some tasks and of the dense baselines, warmed up."""


def plan(campaign: Campaign, backend: Backend, path: Path, stamp: Stamp) -> Plan[Round, Task]:
    """Find what a file does not hold yet.

    Raises
    ------
    RowError
        The file is no file of rows, or ends in half a line.
    SpecError
        The device does not take a round.
    """

    def tasks_of(each: Round) -> dict[tuple[object, ...], Task]:
        tasks = (task for task in backend.tasks(each) if not campaign.skips(label_of(task)))
        return {_key(task, each, backend, stamp): task for task in tasks}

    return rounds.plan(campaign.rounds, tasks_of, path, Measurement)


def run(
    campaign: Campaign,
    backend: Backend,
    path: Path,
    stamp: Stamp,
    *,
    budget_s: float | None = None,
    progress: Callable[[str, float], None] = lambda text, share: None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome[Measurement]:
    """Measure what a file does not hold yet.

    Parameters
    ----------
    campaign : Campaign
    backend : Backend
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
    DeviceLostError
        As `rounds.go_through`.
    """
    outcome: Outcome[Measurement] = Outcome()

    def rows_of(each: Round, tasks: list[Task], pace: Pace) -> Iterator[Measurement]:
        return _measure(each, tasks, campaign, backend, stamp, outcome, pace, clock)

    end = clock() + (campaign.budget_s if budget_s is None else budget_s)
    planned = plan(campaign, backend, path, stamp)
    if problem := backend.prepare(planned, end - clock(), progress):
        outcome.notes.append(problem)
    return rounds.go_through(
        planned,
        outcome,
        path,
        rows_of,
        budget_s=end - clock(),
        progress=progress,
        clock=clock,
    )


def _measure(
    each: Round,
    tasks: list[Task],
    campaign: Campaign,
    backend: Backend,
    stamp: Stamp,
    outcome: Outcome[Measurement],
    pace: Pace,
    clock: Callable[[], float],
) -> Iterator[Measurement]:
    """Rows of one round."""
    with backend.contenders(each, tasks, campaign.warmup) as contenders:
        errors = _gate(each, contenders, outcome)
        dense = [c for c in contenders if c.case is None and c.name in errors]
        sparse = [c for c in contenders if c.case is not None and _label(c) in errors]
        if not dense or not sparse:
            return
        dense, slow = _drop_slow(dense)
        enough = pace.enough(campaign.repetitions, clock)
        samples = {_label(c): c.sample for c in (*sparse, *dense)}
        times = timing.interleave(samples, campaign.repetitions, enough)
    medians = {c.name: timing.Spread.of(times[c.name]).p50 for c in dense}
    best = min(medians, key=medians.__getitem__)
    others = [f"{name} {took * 1e6:.4g} us" for name, took in {**medians, **slow}.items() if name != best]
    threads = backend.threads(each)
    for contender in sparse:
        yield _row(
            contender, each, threads, backend.about, stamp, campaign.warmup,
            errors[_label(contender)], best, times[_label(contender)], times[best], others,
        )  # fmt: skip


def _gate(each: Round, contenders: list[Contender], outcome: Outcome[Measurement]) -> dict[str, float]:
    """Check every result; errors of those that are right, by label."""
    errors = {}
    for contender in contenders:
        try:
            errors[_label(contender)] = contender.error()
        except RefusedError as problem:
            outcome.refused.append(f"{each}: {_label(contender)}: {problem}")
        except DeviceLostError:
            raise
        except NmsimError as problem:
            outcome.wrong.append(f"{each}: {_label(contender)}: {problem}")
    return errors


def _drop_slow(dense: list[Contender]) -> tuple[list[Contender], dict[str, float]]:
    """Part the dense calls worth timing from those far behind, with the least time these took."""
    first = {
        contender.name: min(contender.sample() for _ in range(SLOW_SAMPLES)) for contender in dense
    }  # the best of a few: one call that had to wait must not cost a baseline its place
    limit_s = SLOW_DENSE * min(first.values())
    kept = [contender for contender in dense if first[contender.name] <= limit_s]
    return kept, {name: took for name, took in first.items() if took > limit_s}


def _row(
    contender: Contender,
    each: Round,
    threads: int | None,
    about: Mapping[str, Any],
    stamp: Stamp,
    warmup: int,
    error: float,
    baseline: str,
    sparse_s: timing.Floats,
    dense_s: timing.Floats,
    others: list[str],
) -> Measurement:
    case = contender.case
    assert case is not None
    assert case.format is not None
    spreads = {
        "sparse_time_s": timing.Spread.of(sparse_s),
        "dense_time_s": timing.Spread.of(dense_s),
        "speedup_vs_dense": timing.Spread.of(dense_s / sparse_s),
    }
    outliers = (
        f"outliers: {spreads['sparse_time_s'].outliers} sparse, {spreads['dense_time_s'].outliers} dense"
    )
    compared = f"other dense calls: {', '.join(others)}" if others else "no other dense call"
    return Measurement(
        kernel=contender.name,
        case_id=case_id(case, each.phase),
        M=case.shape.M,
        N=case.shape.N,
        K=case.shape.K,
        phase=each.phase,
        dtype=case.dtype,
        pattern=str(case.pattern),
        sparse_operand=case.sparse_operand,
        encoding=case.format.encoding.name,
        packing=str(case.format.packing),
        threads=threads,
        baseline=baseline,
        l2_state=each.l2_state,
        **rounds.spread_cells(spreads),
        reps=len(sparse_s),
        warmup=warmup,
        gate="pass",
        max_rel_err=rounds.rounded(error),
        note="; ".join(filter(None, (contender.note, outliers, compared))),
        **stamp.cells(),
        **about,
    )


def label_of(task: Task) -> str:
    """Name what a task is, but for its round: kernel and format."""
    case, kernel = task
    return f"{kernel} {case.format.short if case.format else case.format}"


def _label(contender: Contender) -> str:
    return contender.name if contender.case is None else label_of((contender.case, contender.name))


def _key(task: Task, each: Round, backend: Backend, stamp: Stamp) -> Key:
    case, kernel = task
    return (stamp.machine, case_id(case, each.phase), kernel, backend.threads(each), each.l2_state)
