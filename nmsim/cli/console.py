"""What every verb shares on its way out: tables for people, JSON for programs, progress, and a tidy end."""

import contextlib
import json
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from nmsim.errors import visible
from nmsim.files import checkpoint as reports
from nmsim.files.output import Output, claimed

WIDTH = 100
"""Columns of text that a table takes at most, on every terminal, without `--wide`."""
NO_DEVICE = 3
DELAY_S = 2.0
Shares = Callable[[str, float], None]
"""Receives what is under way, and the share of all work that is done."""

# Brackets and colons of names are no markup and no emoji.
out = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
err = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)
_wide = False


class Answer(NamedTuple):
    """What a verb found: data for `--json`, a function that prints it for people, and the exit code."""

    data: Any
    show: Callable[[], None]
    exit_code: int = 0


class _Run(NamedTuple):
    """A verb at work: what it holds until it ends, and the files and folders that its arguments name."""

    stack: contextlib.ExitStack
    named: tuple[Path, ...]


_run: _Run | None = None


@contextlib.contextmanager
def running(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Run a verb: what it claims is held until the end, and no file that an argument names is replaced."""
    global _run
    before = _run
    with contextlib.ExitStack() as stack:
        _run = _Run(stack, tuple(_named(arguments.values())))
        try:
            yield
        finally:
            _run = before


def _named(values: Iterable[Any]) -> Iterator[Path]:
    """The files and folders that arguments name, alone or joined by commas."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _named(value)
        elif isinstance(value, Path):
            yield value
        elif isinstance(value, str):
            yield from (Path(word) for word in value.split(",") if os.path.exists(word))


def _inputs(outputs: Sequence[Output]) -> list[Path]:
    """The files that the verb may read: those that its other arguments name, and those of the folders that they name."""
    named = list(_run.named) if _run is not None else []
    for output in outputs:
        # Once each: a path that is named twice is an input, too.
        if output.path in named:
            named.remove(output.path)
    inside = [entry for path in named if os.path.isdir(path) for entry in path.iterdir()]
    return [*named, *(entry for entry in inside if entry.suffix in (".safetensors", ".json"))]


def claim(*outputs: Output, force: bool = False) -> None:
    """Check what a verb will write before it works, and hold it until the verb ends. Say what a killed run left there.

    All outputs of a verb are claimed at once. Every other argument that names a file is an input, which is never replaced.

    Parameters
    ----------
    *outputs : Output
    force : bool
        Replace files that exist.

    Raises
    ------
    BusyError, ContainerError
        As `nmsim.files.output.claimed`.
    """
    with contextlib.ExitStack() as alone:
        stack = alone if _run is None else _run.stack
        claim = stack.enter_context(claimed(*outputs, force=force, sources=_inputs(outputs)))
    for holder in claim.killed:
        warn(f"nmsim: an earlier run was stopped before its end: {holder}", "yellow")
    for leftover in claim.leftovers:
        warn(f"nmsim: {leftover}", "yellow")


def deliver(answer: Answer | None, *, as_json: bool, wide: bool) -> None:
    """Print an answer in the form that was asked for, and end the run if its exit code is not 0."""
    global _wide
    if answer is None:
        return
    if as_json:
        print_json(answer.data)
    else:
        _wide = wide
        try:
            answer.show()
        finally:
            _wide = False
    if answer.exit_code:
        raise typer.Exit(answer.exit_code)


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON, and nothing else."""
    # JSON escapes all that does not print but DEL, which some terminals obey.
    text = json.dumps(value, indent=2, allow_nan=False).replace("\x7f", "\\u007f")
    sys.stdout.write(f"{text}\n")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    note: str = "",
    *,
    extra: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Write rows as a table of at most `WIDTH` columns of text; with `--wide` as wide as it needs to be.

    The first column stands to the left, all others to the right. Headings break into lines if the table is too wide. A
    terminal of fewer columns gets lines of its width, or a list if these would break words: a line for each cell.

    Parameters
    ----------
    title, note : str
        Above and below the table.
    columns : sequence of str
        Headings.
    rows : iterable of sequences
        A cell for each heading.
    extra : sequence of str
        Headings of columns that only `--wide` shows.
    spare : sequence of str
        Headings of columns that go one by one, in this order, if the table is still too wide.
    """
    lines = [[visible(str(cell)) for cell in row] for row in rows]
    left_out = [] if _wide else [heading for heading in columns if heading in extra]
    room = min(WIDTH, out.width) if out.is_terminal else WIDTH
    table, width = _table(columns, lines, left_out, broken=False)
    if not _wide and width > room:
        table, width = _table(columns, lines, left_out, broken=True)
    for heading in () if _wide else spare:
        if width > room and heading in columns:
            left_out.append(heading)
            table, width = _table(columns, lines, left_out, broken=True)
    least = Measurement.get(out, out.options.update_width(1000), table).minimum
    table.width = width if _wide else min(width, room)
    out.print(visible(title), style="italic")
    # A table whose words or lines the terminal breaks cannot be read; text that goes into a file has no width.
    if room < WIDTH and not _wide and width > room and least > room:
        shown = [place for place, heading in enumerate(columns) if heading not in left_out]
        for line in lines:
            out.print("\n".join(["", *(f"{visible(columns[place])}: {line[place]}" for place in shown)]))
    else:
        out.print(table, soft_wrap=False, crop=False)
    if left_out:
        note = f"{note} --wide adds: {', '.join(left_out)}.".strip()
    if note:
        out.print(textwrap.fill(visible(note), room), style="dim")


def _table(
    columns: Sequence[str], lines: Sequence[Sequence[str]], left_out: Sequence[str], *, broken: bool
) -> tuple[Table, int]:
    """Make a table, and say how many columns of text it takes if no cell is broken."""
    table = Table(box=box.SIMPLE_HEAD)
    places = [place for place, heading in enumerate(columns) if heading not in left_out]
    for place in places:
        widest = max((len(line[place]) for line in lines), default=0)
        heading = _broken(columns[place], widest) if broken else columns[place]
        table.add_column(
            visible(heading, keep="\n"), justify="left" if place == 0 else "right", overflow="fold"
        )
    for line in lines:
        table.add_row(*(line[place] for place in places))
    return table, Measurement.get(out, out.options.update_width(1000), table).maximum


def _broken(heading: str, width: int) -> str:
    """Break a heading at blanks into lines that are no wider than its cells, or than its longest word."""
    longest = max(map(len, heading.split()), default=0)
    lines = textwrap.wrap(heading, max(width, longest, 1), break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def is_wide() -> bool:
    """Whether `--wide` was given: tables then show all they have."""
    return _wide


def say(text: str, *, gap: bool = False) -> None:
    """Write a line to standard output, and an empty one if there is to be a gap; what does not print is escaped."""
    out.print(visible(text) + "\n" * gap)


def say_appended(rows: int, file: Path, *, skipped: int, left: int) -> None:
    """Say how many rows a run appended to a file, how many were there already, and for how many there was no time."""
    said = [f"{rows} rows appended to {file}"]
    if skipped:
        said.append(f"{skipped} were there already")
    if left:
        said.append(f"{left} left for want of time: run the same command again")
    say("; ".join(said))


def warn(text: str, style: str | None = None) -> None:
    """Write a line to standard error; what does not print is escaped."""
    err.print(visible(text), style=style)


def complain(*problems: str) -> None:
    """Write an error of one or several lines to standard error."""
    for number, problem in enumerate(problems):
        warn(problem if number else f"nmsim: {problem}", "red")


def stop_without(device: str, problem: str) -> NoReturn:
    """End the run with exit code 3, since it cannot have the device it was asked to use."""
    complain(f"--device {device}: {problem}")
    raise typer.Exit(NO_DEVICE)


@contextlib.contextmanager
def share_bar(*, late: bool = False) -> Iterator[Shares]:
    """Show what is under way and the share done, on standard error of a terminal; gone when done.

    Work that is stopped by SIGTERM in here ends tidily.

    Parameters
    ----------
    late : bool
        Show it once two seconds have passed.
    """
    bar = Progress(
        TextColumn("{task.description:<55.55}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    task = bar.add_task("starting", total=1.0)
    with tidy_when_terminated(), _shown_late(bar) if late else bar:
        yield lambda text, share: bar.update(task, description=visible(text), completed=share)


@contextlib.contextmanager
def busy(text: str) -> Iterator[None]:
    """Show what is under way, on standard error of a terminal; for work whose share done is not known."""
    with err.status(Text(visible(text))):
        yield


@contextlib.contextmanager
def bytes_bar() -> Iterator[reports.Progress]:
    """Show bytes done on standard error once two seconds have passed, on a terminal only; gone when done."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    task = bar.add_task("", total=None)

    def report(name: str, done_bytes: int, total_bytes: int) -> None:
        bar.update(task, description=visible(name), completed=done_bytes, total=total_bytes)

    with tidy_when_terminated(), _shown_late(bar):
        yield report


@contextlib.contextmanager
def _shown_late(bar: Progress) -> Iterator[None]:
    """Show a bar once two seconds have passed, on a terminal only; gone when done."""
    # A timer and not a check at each report: the first report can come after a long step.
    late = threading.Timer(DELAY_S, bar.start)
    late.daemon = True
    if err.is_terminal:
        late.start()
    try:
        yield
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
