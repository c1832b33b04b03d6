"""A progress bar for long work, and a tidy end when the work is stopped."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nmsim.cli import console
from nmsim.files import report as reports

DELAY_S = 2.0
Shares = Callable[[str, float], None]
"""Called with the present step and the share of all work that is done."""


@contextlib.contextmanager
def share_bar() -> Iterator[Shares]:
    """Show the present step and the share that is done, on standard error of a terminal; removed at the end.

    Work that is stopped by SIGTERM in here ends tidily.
    """
    bar = Progress(
        TextColumn("{task.description:<55.55}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console.err,
        transient=True,
        disable=not console.err.is_terminal,
    )
    task = bar.add_task("starting", total=1.0)
    with tidy_when_terminated(), bar:
        yield lambda text, share: bar.update(task, description=text, completed=share)


@contextlib.contextmanager
def progress_bar() -> Iterator[reports.Progress]:
    """Show bytes done on standard error once two seconds have passed, on a terminal only; gone when done."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console.err,
        transient=True,
    )
    task = bar.add_task("", total=None)
    late = threading.Timer(DELAY_S, bar.start)
    late.daemon = True
    if console.err.is_terminal:
        late.start()

    def report(name: str, done_bytes: int, total_bytes: int) -> None:
        bar.update(task, description=name, completed=done_bytes, total=total_bytes)

    try:
        yield report
    finally:
        late.cancel()
        if late.is_alive():
            late.join()
        if bar.live.is_started:
            bar.stop()


@contextlib.contextmanager
def tidy_when_terminated() -> Iterator[None]:
    """Turn SIGTERM into an exit that removes what is half written, as an interrupt does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
