"""What every verb shares: tables for people, JSON for programs, errors for both."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from nmsim.errors import NmsimError

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON, and nothing else."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> None:
    """Write rows as a table, as wide as it needs to be: the first column to the left, all others to the right."""
    table = Table(
        title=escape(title),
        title_justify="left",
        caption=escape(note),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for position, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if position == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    needed = Measurement.get(out, out.options.update_width(1000), table).maximum
    table.width = needed if needed > out.width else None
    out.print(table)


def say(text: str) -> None:
    """Write a line to standard output as it is: no colours, no markup."""
    out.print(text, highlight=False, markup=False)


def warn(text: str, style: str | None = None) -> None:
    """Write a line to standard error as it is."""
    err.print(text, style=style, highlight=False, markup=False)


def complain(text: str) -> None:
    """Write an error to standard error."""
    warn(f"nmsim: {text}", "red")


def split_names(values: Iterable[str], what: str = "") -> list[str]:
    """Take names given one by one or joined by commas, in order, each once; none at all is refused if `what` is said.

    Examples
    --------
    >>> split_names(["2:4,4:8", "8:16", "2:4"])
    ['2:4', '4:8', '8:16']
    """
    names = (name.strip() for value in values for name in value.split(","))
    found = list(dict.fromkeys(name for name in names if name))
    if what and not found:
        raise NmsimError(f"no {what} given: expected at least one")
    return found
