"""What every verb shares: tables for people, JSON for programs, errors for both."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON, and nothing else."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> None:
    """Write rows as a table: the first column to the left, all others to the right."""
    table = Table(title=title, title_justify="left", caption=note, caption_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    out.print(table)


def split_names(values: Iterable[str]) -> list[str]:
    """Take names given one by one or joined by commas, in order, each once.

    Examples
    --------
    >>> split_names(["2:4,4:8", "8:16", "2:4"])
    ['2:4', '4:8', '8:16']
    """
    names = (name.strip() for value in values for name in value.split(","))
    return list(dict.fromkeys(name for name in names if name))
