"""Let Triton compile what a campaign will run, on all cores, before anything is timed.

Triton compiles a kernel when it is first called, on one core, and keeps the result on disk. A process for each pattern and
encoding calls what is to be measured once; the campaign then finds its kernels there. What a process holds of the device
ends with it.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kernels.measure.round import Round
from kernels.measure.run import Task
from kernels.timing import host
from kernels.timing.rounds import Clock, Plan, Progress

FEWEST_TASKS = 24
"""Fewer are compiled in about the time that a process takes to begin."""
TIME_SHARE = 0.5
"""Processes that have not ended after this share of the time are ended."""
POLL_S = 0.05

Work = list[tuple[Round, list[Task]]]


class Backend(Protocol):
    """What a process makes to run products."""

    def run_once(self, of: Round, tasks: Sequence[Task]) -> None:
        """Build and run products of a round once; what refuses is passed over."""


def ahead(
    make: Callable[[], Backend],
    planned: Plan[Round, Task],
    time_s: float,
    progress: Progress,
    *,
    cores: int | None = None,
    context: Any = None,
    clock: Clock = time.monotonic,
) -> str:
    """Run every product of a plan once, in as many processes at a time as there are cores.

    Parameters
    ----------
    make : callable
        Makes a backend, in another process: it has to be picklable.
    planned : Plan
    time_s : float
        Seconds of the whole campaign.
    progress : callable
        Called with how far this is, and 0.
    cores : int, optional
        Those of this machine when absent.
    context : multiprocessing context, optional
        `spawn` when absent: a process that has used CUDA cannot be forked.
    clock : callable
        Seconds.

    Returns
    -------
    str
        A message for the user: processes did not begin, failed or took too long. It is empty if all went well. It is also
        empty on one core or with few tasks, because nothing is done then.
    """
    work = by_variant(planned)
    cores = cores or host.this_machine().cores
    if cores < 2 or time_s <= 0 or sum(len(tasks) for part in work for _, tasks in part) < FEWEST_TASKS:
        return ""
    context = context or multiprocessing.get_context("spawn")
    waiting, failed, end = list(work), 0, clock() + TIME_SHARE * time_s
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < cores:
                process = context.Process(target=_run, args=(make, waiting.pop(0)), daemon=True)
                process.start()
                running.append(process)
            done = len(work) - len(waiting) - len(running)
            progress(f"compiling, {done} of {len(work)}", 0.0)
            running[0].join(POLL_S)
            failed += sum(process.exitcode not in (None, 0) for process in running)
            running = [process for process in running if process.exitcode is None]
            # Compiling uses the time of the campaign, so it is stopped in favour of the measurement.
            if clock() >= end and (waiting or running):
                return _said(
                    f"{len(work) - done} of {len(work)} processes took longer than {TIME_SHARE * time_s:.0f} s"
                )
    except OSError as error:
        return _said(f"no process could be started ({error})")
    finally:
        for process in running:
            process.terminate()
            process.join()
    return _said(f"{failed} of {len(work)} processes failed") if failed else ""


def by_variant(planned: Plan[Round, Task]) -> list[Work]:
    """Part a plan by pattern and encoding; each product once, and rounds of the same weights one after the other."""
    seen: set[tuple[object, ...]] = set()
    found: dict[object, dict[Round, list[Task]]] = {}
    for of, tasks in sorted(
        planned.rounds, key=lambda each: (each[0].dtype, each[0].shape.N, each[0].shape.K)
    ):
        for case, kernel in tasks:
            if (case, kernel) not in seen:
                seen.add((case, kernel))
                found.setdefault(case.format, {}).setdefault(of, []).append((case, kernel))
    return [list(rounds.items()) for rounds in found.values()]


def _run(make: Callable[[], Backend], work: Work) -> None:
    """Run the tasks of a process, silently: a failure is reported when it is measured."""
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    import torch

    torch.set_num_threads(1)
    backend = make()
    for of, tasks in work:
        backend.run_once(of, tasks)


def _said(reason: str) -> str:
    return f"kernels were not all compiled ahead: {reason}; the others are compiled on the way"
