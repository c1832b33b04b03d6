"""What the first minutes on a GPU do, in one process: try every kernel once, tune, measure the campaign in order of value.

All three are campaigns whose rows go to files of their own, so that the next process goes on where one was stopped. A process
that loses the device takes down what it was lost in; `kernels.measure.cuda.minute` starts another that leaves it out.
"""

import glob
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kernels.measure import run as measuring
from kernels.measure.cuda.backend import CudaBackend
from kernels.measure.cuda.movers import Kernel
from kernels.measure.round import Campaign, Round, shipped_campaign
from kernels.timing.rounds import DeviceLostError, Outcome, Stamp
from nmsim.case import GemmShape
from nmsim.errors import NmsimError
from nmsim.files.atomic import new_file
from nmsim.format import SparseFormat, sparse_format
from nmsim.support.sources import read_text

SMOKE_SHAPE = (256, 512)
"""Out features and in features of the first try of each kernel: several programs, compiled in the time of one."""
SMOKE_TOKENS = (1, 2, 4, 8, 16, 64)
"""One number of tokens for each way in which a kernel may run."""
SMOKE_FORMATS: tuple[SparseFormat | None, ...] = (
    *map(sparse_format, ("8:16/bitmask", "8:16/index", "8:16/combinatorial", "16:32/bitmask", "2:4/index")),
    None,
)
"""Formats of the first try; None for what knows no pattern."""
SMOKE_REPETITIONS = 1
ROUNDS_AT_ONCE = 24
"""Rounds whose kernels are compiled together, before the first of them is timed: the first rows must not wait for the last."""
LEAST_S = 5.0
"""A stage is not begun with less time."""
BEAT_S = 1.0
"""The file that says what is under way is written at least as often, while something happens."""


@dataclass(frozen=True)
class Fault:
    """What a device was lost in: kernel and format, and the round."""

    label: str
    round_name: str
    said: str


@dataclass(frozen=True)
class Stage:
    """A campaign, the file of its rows, and the share of the time that is left for it which it may take."""

    name: str
    campaign: Campaign
    file: str
    share: float


@dataclass
class Report:
    """What all stages did: rows written and left, wrong results, refusals, notes."""

    rows: int = 0
    left: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def smoke(backend: CudaBackend) -> Campaign:
    """Every kernel that a backend knows, on small shapes that it takes. A new kernel is in it without being named here."""
    n, k = SMOKE_SHAPE
    rounds: list[Round] = []
    for name, kernel in backend.kernels.items():
        shapes = [GemmShape(m, n, k) for m in SMOKE_TOKENS]
        if isinstance(kernel, Kernel):
            shapes = [GemmShape(1, n, k) if kernel.sparse_operand == "weights" else GemmShape(n, 1, k)]
        formats: tuple[SparseFormat | None, ...] = SMOKE_FORMATS
        for shape in shapes:
            of = Round(shape, "decode", "bf16", 1, "cold", (), (name,), kernel.sparse_operand)
            taken = [stored for stored in formats if backend.takes(replace(of, formats=(stored,)))]
            if taken:
                rounds.append(replace(of, formats=tuple(taken)))
                formats = (taken[0],)  # all formats at the first number of tokens, one at the others
    return Campaign("smoke", 0, SMOKE_REPETITIONS, 0, 1e9, tuple(rounds))


def stages(backend: CudaBackend) -> list[Stage]:
    """The stages of a real run, in order."""
    return [
        Stage("smoke", smoke(backend), "smoke.csv", 0.3),
        Stage("tuning", shipped_campaign("cuda-tuning"), "tuning.csv", 0.35),
        Stage("campaign", shipped_campaign("cuda"), "rows.csv", 1.0),
    ]


def go(
    backend: CudaBackend,
    planned: Sequence[Stage],
    folder: Path,
    stamp: Stamp,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], object] = print,
) -> Report:
    """Run stages one after the other until the time is used up.

    Parameters
    ----------
    backend : CudaBackend
    planned : sequence of Stage
    folder : Path
        Gets the rows of each stage, and `under-way.json`. It may hold `faults.json`, of what is left out.
    stamp : Stamp
    budget_s : float
    clock : callable
        Seconds.
    tell : callable
        Gets a line for the user, at once: a process may be lost later.

    Raises
    ------
    DeviceLostError
        The device is of no more use in this process; the fault is in `faults.json`.
    """
    end, report = clock() + budget_s, Report()
    wrong: list[str] = []
    beat = _Beat(folder / "under-way.json", clock)
    for stage in planned:
        stage_end = min(end, clock() + stage.share * (end - clock()))
        for part in parts(stage.campaign):
            faults = read_faults(folder)
            part = _without(part, backend, [*(fault.label for fault in faults), *wrong], faults)
            if (left_s := stage_end - clock()) < LEAST_S:
                report.left += sum(len(backend.tasks(each)) for each in part.rounds)
                continue
            progress = beat.of(stage.name)
            try:
                found = measuring.run(
                    part, backend, folder / stage.file, stamp, budget_s=left_s, progress=progress, clock=clock
                )
            except DeviceLostError as lost:
                add_fault(folder, Fault(lost.label, lost.round_name, str(lost)))
                raise
            _add(report, found, tell)
            # What is wrong on a small shape is not tried on large ones.
            wrong += found.wrong_labels if stage.name == "smoke" else []
    return report


def parts(campaign: Campaign) -> Iterator[Campaign]:
    """Cut a campaign after every few rounds."""
    for start in range(0, len(campaign.rounds), ROUNDS_AT_ONCE):
        yield replace(campaign, rounds=campaign.rounds[start : start + ROUNDS_AT_ONCE])


def _without(
    campaign: Campaign, backend: CudaBackend, labels: Sequence[str], faults: Sequence[Fault]
) -> Campaign:
    """Leave out kernels by label, and rounds whose dense call, or whatever else, was the fault."""
    known = {measuring.label_of(task) for each in campaign.rounds for task in backend.tasks(each)}
    bad_rounds = {fault.round_name for fault in faults if fault.label not in known}
    rounds = []
    for each in campaign.rounds:
        tasks = [measuring.label_of(task) for task in backend.tasks(each)]
        if str(each) not in bad_rounds and not set(tasks) <= set(labels):
            rounds.append(each)
    kept = {measuring.label_of(task) for each in rounds for task in backend.tasks(each)}
    # Names of kernels may hold brackets, which a glob would take for a set of letters.
    skip = tuple(glob.escape(label) for label in dict.fromkeys(labels) if label in kept)
    return replace(campaign, rounds=tuple(rounds), skip=skip)


def _add(report: Report, found: Outcome, tell: Callable[[str], object]) -> None:
    report.rows += len(found.rows)
    report.left += found.left
    for name in ("wrong", "refused", "notes"):
        lines = getattr(found, name)
        getattr(report, name).extend(lines)
        for line in lines:
            tell(f"{name}: {line}")


class _Beat:
    """Says in a file what is under way, so that another process sees what a dead or hanging one was at."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._said, self._at = "", -BEAT_S

    def of(self, stage: str) -> Callable[[str, float], None]:
        def progress(text: str, share: float) -> None:
            del share
            now = self._clock()
            if text == self._said and now - self._at < BEAT_S:
                return
            self._said, self._at = text, now
            write_json(self._path, {"stage": stage, "round": text.partition(": ")[0]})

        return progress


def write_json(path: Path, content: object) -> None:
    """Write a file anew, at once."""
    with new_file(path, force=True) as stream:
        stream.write((json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path, default: Any) -> Any:
    """Read a file that `write_json` wrote; a default if there is none.

    Raises
    ------
    NmsimError
        The file is damaged.
    """
    if not path.exists():
        return default
    try:
        return json.loads(read_text(path, error=NmsimError))
    except json.JSONDecodeError as error:
        raise NmsimError(
            f"{path}: no JSON ({error}): expected a file of an earlier run; remove it"
        ) from error


def read_faults(folder: Path) -> list[Fault]:
    """What the device was lost in, in earlier processes."""
    return [Fault(**each) for each in read_json(folder / "faults.json", [])]


def add_fault(folder: Path, fault: Fault) -> None:
    """Take down a fault."""
    known = [vars(each) for each in read_faults(folder)]
    write_json(folder / "faults.json", [*known, vars(fault)])
