"""The errors that a user can get. All are `NmsimError`, all say what, where and what was expected.

Each problem is one line of at most `MAX_LINE_CHARS` characters, whatever the input holds. Values go into a message
through `brief`, never through `repr`. A value from outside may be an integer of any size, or a text of any length.
"""

import builtins
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Self

MAX_LINE_CHARS = 290
"""Most characters of one problem. With `nmsim: ` in front, a printed line stays below 300."""
CUT = "..."
"""Stands for what is left out."""
_WORD_CHARS = 96
_PLAIN_INT_BITS = 128
_HEX_DIGITS = 8


class _Brief(reprlib.Repr):
    """A `repr` of bounded length, whose work does not grow with digits, texts or lists."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 80
        self.ends = (5, 2)

    def repr_int(self, x: int, level: int) -> str:
        """Decimal up to `_PLAIN_INT_BITS` bits. Hexadecimal beyond, since Python refuses long decimal texts."""
        if x.bit_length() <= _PLAIN_INT_BITS:
            return str(int(x))
        digits = f"{abs(x):x}"
        sign = "-" if x < 0 else ""
        return f"{sign}0x{digits[:_HEX_DIGITS]}{CUT}{digits[-_HEX_DIGITS:]} ({x.bit_length()} bits)"

    def repr_bytes(self, x: bytes, level: int) -> str:
        """Bytes are cut as texts are."""
        return self.repr_str(x, level)  # type: ignore[arg-type]

    def repr_list(self, x: list[Any], level: int) -> str:
        """The first items and the last ones."""
        return f"[{self._items(x, level)}]"

    def repr_tuple(self, x: tuple[Any, ...], level: int) -> str:
        """The first items and the last ones."""
        return f"({self._items(x, level)}{',' if len(x) == 1 else ''})"

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        """The first items, in their order."""
        if level <= 0 and x:
            return f"{{{CUT}}}"
        first = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(x.items(), sum(self.ends))
        ]
        return f"{{{', '.join([*first, *([CUT] if len(x) > len(first) else [])])}}}"

    def repr_instance(self, x: Any, level: int) -> str:
        """Any other object; its type if its own `repr` fails."""
        try:
            text = builtins.repr(x)
        except Exception:
            return f"<{type(x).__name__}>"
        return _middle_cut(text, self.maxother)

    def _items(self, x: Any, level: int) -> str:
        first, last = self.ends
        if level <= 0 and x:
            return CUT
        if len(x) <= first + last:
            return ", ".join(self.repr1(item, level - 1) for item in x)
        ends = [self.repr1(item, level - 1) for item in (*x[:first], *x[-last:])]
        return ", ".join([*ends[:first], CUT, *ends[first:]])


_BRIEF = _Brief()


def brief(value: object) -> str:
    """Show a value in an error: as `repr` does, but short.

    Parameters
    ----------
    value : object
        Integers above 128 bits become shortened hexadecimal. Texts and lists are cut in the middle.

    Returns
    -------
    str

    Examples
    --------
    >>> brief("w"), brief(12), brief(1 << 20000)
    ("'w'", '12', '0x10000000...00000000 (20001 bits)')
    >>> brief(list(range(1000)))
    '[0, 1, 2, 3, 4, ..., 998, 999]'
    """
    return _BRIEF.repr(value)


def brief_names(names: Iterable[object], *, most: int = 6) -> str:
    """List names for an error: the first `most` of them, each short.

    Examples
    --------
    >>> brief_names(["a", "b", "c"], most=2)
    'a, b, ...'
    """
    first = list(islice(names, most + 1))
    shown = [_middle_cut(str(name), 48) for name in first[:most]]
    return ", ".join(shown + ([CUT] if len(first) > most else []))


def visible(text: str, *, keep: str = "") -> str:
    """Write characters that do not print as escapes, such as `\\x1b` or `\\u202e`.

    These are control characters, line ends, marks that turn the direction of a text, characters of no width, and halves of
    surrogate pairs. A terminal would obey some of them, and a page would show another text than the one that is there.
    All that leaves for people passes here: errors, tables, lines, progress and reports.

    Parameters
    ----------
    text : str
    keep : str
        Characters that stay, such as a line end.

    Examples
    --------
    >>> print(visible("red \\x1b[31m name"))
    red \\x1b[31m name
    >>> visible("two\\nlines", keep="\\n")
    'two\\nlines'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: str) -> str:
    """Make one line of at most `MAX_LINE_CHARS` characters of any text.

    Characters that do not print, line ends among them, become escapes such as `\\n`. Words of more than 96 characters
    are cut first, the longest before others, because these are paths and names. Then a part of the line is left out
    that stands between what is wrong and what was expected.

    Examples
    --------
    >>> one_line("two\\nlines")
    'two\\\\nlines'
    >>> len(one_line("x" * 1000)) <= MAX_LINE_CHARS
    True
    """
    # Cut first: the work on a message of 50 MB is then that on a short one. Escapes only make a text longer.
    line = _middle_cut(text, 64 * MAX_LINE_CHARS)
    line = visible(line)
    while len(line) > MAX_LINE_CHARS:
        word = max(re.findall(r"\S+", line), key=len, default="")
        if len(word) <= _WORD_CHARS:
            break
        wanted = max(_WORD_CHARS, len(word) - (len(line) - MAX_LINE_CHARS))
        # The end of a path or name says more than its start.
        line = line.replace(word, _middle_cut(word, wanted, head_share=0.3))
    return _middle_cut(line, MAX_LINE_CHARS, head_share=0.7)


def _middle_cut(text: str, most: int, *, head_share: float = 0.5) -> str:
    """Leave out the middle of a text that has more than `most` characters."""
    if len(text) <= most:
        return text
    head = int((most - len(CUT)) * head_share)
    return text[:head] + CUT + text[len(text) - (most - len(CUT) - head) :]


class NmsimError(ValueError):
    """Base of every error nmsim raises on bad input. The command line turns it into exit code 2.

    Parameters
    ----------
    *problems : str
        One or several. Each becomes one line of at most `MAX_LINE_CHARS` characters, see `one_line`.
    """

    def __init__(self, *problems: object) -> None:
        super().__init__(*(one_line(str(problem)) for problem in problems))

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))

    def within(self, where: str) -> Self:
        """Make the same error anew, each of its problems after the place where it was found."""
        return type(self)(*(f"{where}: {problem}" for problem in self.args))


class PatternError(NmsimError):
    """An invalid pattern, or a mask that does not follow its pattern."""


class EncodingError(NmsimError):
    """An unknown encoding, a mask that cannot be encoded, or a code outside its range."""


class BitstreamError(NmsimError):
    """A stream that is truncated, too long, or has padding bits that are not zero."""


class ContainerError(NmsimError):
    """A file that cannot be read as what it claims to be, or an output that cannot be written."""


class BusyError(ContainerError):
    """An output that another process writes at this moment. The error says which process, where and since when."""


class MissingPackageError(NmsimError):
    """Something that needs a Python package which is not installed."""


class SpecError(NmsimError):
    """A hardware, workload or campaign file with an unknown, missing or malformed entry."""


class RowError(NmsimError):
    """A row of a table that matches nothing or misses a column.

    Parameters
    ----------
    *messages : str
        The whole text of the error: one line, or several if a table has several problems.
    row : int, optional
        Number of the row in its table. A DataFrame counts from 0, a file from 1, its first row below the header.
    column : str
        Name of the column; "" if the error is of no single column.
    problem : str
        What is wrong, without the place; the first message if absent.
    """

    def __init__(
        self, *messages: str, row: int | None = None, column: str = "", problem: str | None = None
    ) -> None:
        super().__init__(*messages)
        self.row = row
        self.column = column
        self.problem = one_line(messages[0] if problem is None else problem)

    @classmethod
    def of_all(cls, errors: Sequence["RowError"], *, most: int = 20) -> "RowError":
        """Make one error of those of a table. Row and column are those of the first; the last line counts what is left out."""
        first, lines = errors[0], [str(line) for error in errors for line in error.args]
        left_out = [f"and {len(lines) - most} more problems"] if len(lines) > most else []
        return cls(*lines[:most], *left_out, row=first.row, column=first.column, problem=first.problem)

    @classmethod
    def at(cls, problem: str, *, row: int | None = None, column: str = "", table: str = "") -> "RowError":
        """Make an error whose message begins with its place: `TABLE: row ROW, column COLUMN: problem`."""
        place = ", ".join(
            [*([f"row {row}"] if row is not None else []), *([f"column {column}"] if column else [])]
        )
        message = ": ".join(part for part in (table, place, problem) if part)
        return cls(message, row=row, column=column, problem=problem)
