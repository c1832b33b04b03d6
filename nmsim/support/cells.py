"""Text cells of CSV files that a spreadsheet takes for text, and never for a formula.

A spreadsheet runs a cell that begins with `=`, `+`, `-`, `@`, a tab or a line end. Names of tensors, models and files come from
outside. Such a text gets an apostrophe in front when it is written, and loses it when it is read. Texts that begin with
apostrophes get one more, so that every text comes back as it was. Numbers stay as they are, signs included.
"""

import re
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

GUARD = "'"
FORMULA_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""First characters of a formula; the last four are the wide forms that East Asian spreadsheets take too."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


def guarded(text: str) -> str:
    """Write a text for a cell.

    Examples
    --------
    >>> guarded("=1+1"), guarded("'quoted"), guarded("-0.5"), guarded("q_proj")
    ("'=1+1", "''quoted", '-0.5', 'q_proj')
    """
    if text[:1] == GUARD or (text[:1] and text[0] in FORMULA_STARTS and not NUMBER.fullmatch(text)):
        return GUARD + text
    return text


def unguarded(text: str) -> str:
    """Read the text of a cell back; a cell of another program that has no such apostrophe stays as it is.

    Examples
    --------
    >>> unguarded("'=1+1"), unguarded("''quoted"), unguarded("'quoted")
    ('=1+1', "'quoted", "'quoted")
    """
    meant = text[1:2]
    return text[1:] if text[:1] == GUARD and meant and meant in GUARD + FORMULA_STARTS else text


def write_csv(table: "pd.DataFrame", stream: IO[Any], **options: Any) -> None:
    """Write a table as CSV with guarded texts.

    Parameters
    ----------
    table : DataFrame
        Columns of texts, of categories, or of mixed objects are guarded; numbers are not touched.
    stream : file
        Open for writing.
    **options
        As for `DataFrame.to_csv`.
    """
    texts = table.select_dtypes(["object", "string", "category"]).columns
    guarded_columns = {
        name: table[name].astype(object).map(lambda cell: guarded(cell) if isinstance(cell, str) else cell)
        for name in texts
    }
    cells = (cell for column in guarded_columns.values() for cell in column if isinstance(cell, str))
    if any("\r" in cell for cell in cells):
        # The writer quotes a cell with a carriage return only if lines end in one; unquoted, it would end the row.
        options["lineterminator"] = "\r\n"
    table.assign(**guarded_columns).to_csv(stream, index=False, **options)
