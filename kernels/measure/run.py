"""Measure a campaign: check each result, then time it against its baselines, then append its row.

The baseline of a product is the fastest dense call. The baseline of a transfer, a kernel that only moves a matrix, is the
fastest copy of as many bytes. A `Backend` knows what runs on a device, and `kernels.timing.rounds` when which round runs.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from kernels.measure.round import Campaign, Round
from kernels.timing import interleaved as timing
from kernels.timing import rounds
from kernels.timing.gate import RefusedError
from kernels.timing.rounds import DeviceLostError, Outcome, Pace, Plan, Stamp
from nmsim.case import Case, case_id
from nmsim.errors import MissingPackageError, NmsimError, SpecError, brief
from nmsim.files.output import ROW_FILE, Output, claimed
from nmsim.format import DENSE
from nmsim.rows import Measurement
from nmsim.rows.measurement import SLOW_DENSE_CALL, SOFTWARE, Key
from nmsim.units import ceil_div

SLOW_SAMPLES = 3
SLOW_BASELINE = 3.0
"""A baseline that takes so many times the fastest one's time is not timed further."""
LEAST_COPY_SHARE = 0.85
"""A dense call that memory binds and that reaches less of the rate of a copy is too slow to be compared with."""
COPY_WORD_BYTES = 16
"""Copies are of whole words of so many bytes: what a thread loads at once."""

Task = tuple[Case, str]
"""What a row is of: a case, and the kernel that runs it."""


@dataclass(frozen=True)
class Contender:
    """One call that is checked and timed.

    Parameters
    ----------
    name : str
        The kernel, or the baseline.
    case : Case or None
        None for a baseline. A transfer that knows no patterns has a dense case.
    error : callable
        Runs it and gives back the largest relative error (see `kernels.timing.gate`), or None if bytes were compared. Raises
        a `NmsimError` if the result is wrong, a `RefusedError` if there is none.
    sample : callable
        Seconds of one call, in the cache state of the round.
    cells : mapping of str to object
        Columns of its row that only the backend knows.
    copy_bytes : int
        Of a transfer or a copy: bytes that the copy reads and writes. 0 for products and dense calls. A contender is compared
        with the baselines of the same `copy_bytes`.
    yardstick_bytes : int
        Of a product that memory binds: bytes that a copy moves which is timed too. It tells whether the dense calls are slow.
    """

    name: str
    case: Case | None
    error: Callable[[], float | None]
    sample: Callable[[], float]
    cells: Mapping[str, Any] = field(default_factory=dict)
    copy_bytes: int = 0
    yardstick_bytes: int = 0

    @property
    def label(self) -> str:
        """Name it within its round."""
        if self.case is not None:
            return label_of((self.case, self.name))
        return f"{self.name} of {self.copy_bytes} bytes" if self.copy_bytes else self.name


class Backend(Protocol):
    """A device, as a campaign needs it."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Columns of a row that say what the device and its software are: device, driver, versions."""

    def sources(self, kernel: str) -> str:
        """Digest of the sources of a kernel, by its name in rows; "" for a library's."""

    def threads(self, of: Round) -> int | None:
        """Cores at work in a round; None if that means nothing."""

    def tasks(self, of: Round) -> list[Task]:
        """What a round has to measure, in order."""

    def prepare(self, planned: Plan[Round, Task], time_s: float, progress: rounds.Progress) -> str:
        """Do before the first round what is better done at once, in so many seconds at most; say what failed of it."""

    def contenders(
        self, of: Round, tasks: Sequence[Task], warmup: int
    ) -> contextlib.AbstractContextManager[list[Contender]]:
        """Build data and calls of some tasks and of their baselines, warmed up."""


def copy_bytes(moved_bytes: int) -> int:
    """Count the bytes that a copy reads and writes which moves as many as a kernel, or a few more.

    Examples
    --------
    >>> copy_bytes(64), copy_bytes(65)
    (64, 96)
    """
    return 2 * COPY_WORD_BYTES * ceil_div(moved_bytes, 2 * COPY_WORD_BYTES)


def check(campaign: Campaign, backend: Backend) -> None:
    """Refuse a campaign that a device does not take, or with a glob of what is to be skipped that fits nothing.

    Nothing is measured, and a device that is not there can be asked too.

    Raises
    ------
    SpecError
        What is wrong, and where.
    """
    labels = {label_of(task) for each in campaign.rounds for task in backend.tasks(each)}
    for glob in campaign.skip:
        if not any(fnmatchcase(label, glob) for label in labels):
            raise SpecError(
                f"skip {brief(glob)}: nothing in campaign {campaign.name} fits; expected a glob of kernel and "
                f"format, such as {brief(min(labels))}"
            )


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

    return rounds.plan(campaign.rounds, tasks_of, path)


def run(
    campaign: Campaign,
    backend: Backend,
    path: Path,
    stamp: Stamp,
    *,
    budget_s: float | None = None,
    progress: Callable[[str, float], None] = lambda text, share: None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
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
    BusyError
        Another run appends rows to the file.
    ContainerError
        The file cannot be written.
    """
    outcome: Outcome = Outcome()

    def rows_of(each: Round, tasks: list[Task], pace: Pace) -> Iterator[Measurement]:
        return _measure(each, tasks, campaign, backend, stamp, outcome, pace, clock)

    check(campaign, backend)
    end = clock() + (campaign.budget_s if budget_s is None else budget_s)
    # Held from the look at what is there to the last row: another run would measure the same cases.
    with claimed(Output(path, "rows", ROW_FILE)):
        planned = plan(campaign, backend, path, stamp)
        if problem := backend.prepare(planned, end - clock(), progress):
            outcome.notes.append(problem)
        return rounds.go_through(
            planned, outcome, path, rows_of, budget_s=end - clock(), progress=progress, clock=clock
        )


def _measure(
    each: Round, tasks: list[Task], campaign: Campaign, backend: Backend, stamp: Stamp, outcome: Outcome,
    pace: Pace, clock: Callable[[], float],
) -> Iterator[Measurement]:  # fmt: skip
    """Rows of one round."""
    slow: dict[str, float] = {}
    with backend.contenders(each, tasks, campaign.warmup) as contenders:
        errors = _gate(each, contenders, outcome)
        right = [contender for contender in contenders if contender.label in errors]
        baselines: dict[int, list[Contender]] = {}
        for contender in right:
            if contender.case is None:
                baselines.setdefault(contender.copy_bytes, []).append(contender)
        # A kernel all of whose baselines are wrong has no row.
        kernels = [c for c in right if c.case is not None and c.copy_bytes in baselines]
        if not kernels:
            return
        needed = {size for contender in kernels for size in (contender.copy_bytes, contender.yardstick_bytes)}
        baselines = {size: _drop_slow(found, slow) for size, found in baselines.items() if size in needed}
        enough = pace.enough(campaign.repetitions, clock)
        timed = [*kernels, *(baseline for found in baselines.values() for baseline in found)]
        times = timing.interleave({c.label: c.sample for c in timed}, campaign.repetitions, enough)
    threads = backend.threads(each)
    for kernel in kernels:
        beside = baselines[kernel.copy_bytes]
        medians = {c.name: timing.Spread.of(times[c.label]).p50 for c in beside}
        best = min(beside, key=lambda baseline: medians[baseline.name])
        others = {name: took_s for name, took_s in medians.items() if name != best.name}
        if not kernel.copy_bytes:
            others |= slow
        copies = baselines.get(kernel.yardstick_bytes, ()) if kernel.yardstick_bytes else ()
        copy_s = min((timing.Spread.of(times[c.label]).p50 for c in copies), default=None)
        mark = {"mark": SLOW_DENSE_CALL} if is_slow(medians[best.name], copy_s) else {}
        yield Measurement(
            copy_time_s=None if copy_s is None else rounds.rounded(copy_s),
            threads=threads,
            warmup=campaign.warmup,
            max_rel_err=None if (error := errors[kernel.label]) is None else rounds.rounded(error),
            other_baselines=", ".join(f"{name} {took_s * 1e6:.4g} us" for name, took_s in others.items()),
            kernel_sources=backend.sources(kernel.name),
            **_cells(kernel, each, best, times) | mark,
            **stamp.cells(),
            **backend.about,
        )


def is_slow(dense_s: float, copy_s: float | None) -> bool:
    """Whether a dense product that memory binds reads its weights too slowly to be compared with.

    Parameters
    ----------
    dense_s : float
        Seconds of the fastest dense call.
    copy_s : float or None
        Seconds of a copy that reads and writes as many bytes as the weights have; None if memory does not bind the product.
        A copy of the same length waits for its launch and its first bytes as long as the product does.

    Examples
    --------
    >>> is_slow(1.1e-6, 1e-6), is_slow(1.2e-6, 1e-6), is_slow(1.2e-6, None)
    (False, True, False)
    """
    return copy_s is not None and copy_s < LEAST_COPY_SHARE * dense_s


def _gate(each: Round, contenders: list[Contender], outcome: Outcome) -> dict[str, float | None]:
    """Check every result; errors of those that are right, by label."""
    errors = {}
    for contender in contenders:
        try:
            errors[contender.label] = contender.error()
        except (RefusedError, MissingPackageError) as problem:
            outcome.refused.append(f"{each}: {contender.label}: {problem}")
        except DeviceLostError:
            raise
        except NmsimError as problem:
            outcome.wrong.append(f"{each}: {contender.label}: {problem}")
            outcome.wrong_labels.append(contender.label)
    return errors


def _drop_slow(baselines: list[Contender], slow: dict[str, float]) -> list[Contender]:
    """Keep the baselines worth timing; the least time of a dense call that is far behind goes to `slow`."""
    if baselines[0].copy_bytes:
        return baselines
    first = {
        contender.name: min(contender.sample() for _ in range(SLOW_SAMPLES)) for contender in baselines
    }  # the best of a few: one call that had to wait must not cost a baseline its place
    limit_s = SLOW_BASELINE * min(first.values())
    slow |= {name: took_s for name, took_s in first.items() if took_s > limit_s}
    return [contender for contender in baselines if contender.name not in slow]


def _cells(
    kernel: Contender, each: Round, baseline: Contender, times: Mapping[str, timing.Floats]
) -> dict[str, Any]:
    """Columns of a row that say what ran, and how long it took."""
    case = kernel.case
    assert case is not None
    sparse_s, dense_s = times[kernel.label], times[baseline.label]
    spreads = {
        "sparse_time_s": timing.Spread.of(sparse_s),
        "dense_time_s": timing.Spread.of(dense_s),
        # Ratios are taken per repetition: a change of the machine's speed reaches both times alike.
        "speedup_vs_dense": timing.Spread.of(dense_s / sparse_s),
    }
    stored = case.format
    cells = ("" if kernel.copy_bytes else DENSE, "", "")
    if stored is not None:
        cells = (str(stored.pattern), stored.encoding.name, str(stored.packing))
    return {
        "kernel": kernel.name,
        "case_id": case_id(case, each.phase),
        "M": case.shape.M,
        "N": case.shape.N,
        "K": case.shape.K,
        "phase": each.phase,
        "dtype": case.dtype,
        "sparse_operand": case.sparse_operand,
        **dict(zip(("pattern", "encoding", "packing"), cells, strict=True)),
        "baseline": baseline.name,
        "l2_state": each.l2_state,
        **rounds.spread_cells(spreads),
        "reps": len(sparse_s),
        "gate": "pass",
        "copy_bytes": kernel.copy_bytes or None,
        "sparse_outliers": spreads["sparse_time_s"].outliers,
        "dense_outliers": spreads["dense_time_s"].outliers,
        **kernel.cells,
    }


def label_of(task: Task) -> str:
    """Name a task without its round: kernel and format. The packing is not named: kernels fix it per encoding."""
    case, kernel = task
    return kernel if case.format is None else f"{kernel} {case.format.pattern}/{case.format.encoding.name}"


def _key(task: Task, each: Round, backend: Backend, stamp: Stamp) -> Key:
    case, kernel = task
    of_case = (stamp.machine, case_id(case, each.phase), kernel, backend.threads(each), each.l2_state)
    software = {**backend.about, "kernel_sources": backend.sources(kernel)}
    return (*of_case, *(software.get(name, "") for name in SOFTWARE))
