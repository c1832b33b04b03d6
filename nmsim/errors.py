"""The errors that a user can get. All are `NmsimError`, all say what, where and what was expected."""


class NmsimError(ValueError):
    """Base of every error nmsim raises on bad input. The command line turns it into exit code 2."""


class PatternError(NmsimError):
    """An invalid pattern, or a mask that does not follow its pattern."""


class EncodingError(NmsimError):
    """An unknown encoding, a mask that cannot be encoded, or a code outside its range."""


class BitstreamError(NmsimError):
    """A stream that is truncated, too long, or has padding bits that are not zero."""


class ContainerError(NmsimError):
    """A file that cannot be read as what it claims to be."""


class SpecError(NmsimError):
    """A hardware, workload or campaign file with an unknown, missing or malformed entry."""


class RowError(NmsimError):
    """A row of a table that matches nothing or misses a column.

    Parameters
    ----------
    message : str
        The whole text of the error.
    row : int, optional
        Number of the row in its table. A DataFrame counts from 0, a file from 1, its first row below the header.
    column : str
        Name of the column; "" if the error is of no single column.
    problem : str
        What is wrong, without the place; the message if absent.
    """

    def __init__(
        self, message: str, *, row: int | None = None, column: str = "", problem: str | None = None
    ) -> None:
        super().__init__(message)
        self.row = row
        self.column = column
        self.problem = message if problem is None else problem

    @classmethod
    def at(cls, problem: str, *, row: int | None = None, column: str = "", table: str = "") -> "RowError":
        """Make an error whose message begins with its place: `TABLE: row ROW, column COLUMN: problem`."""
        place = ", ".join(
            [*([f"row {row}"] if row is not None else []), *([f"column {column}"] if column else [])]
        )
        message = ": ".join(part for part in (table, place, problem) if part)
        return cls(message, row=row, column=column, problem=problem)
