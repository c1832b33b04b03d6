"""Tables as plain data, for programs: numbers, text and None."""

import json
from typing import Any

import pandas as pd


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts; NaN as None.

    Examples
    --------
    >>> records(pd.DataFrame({"pattern": ["2:4", "8:16"], "speedup": [1.5, float("nan")]}))
    [{'pattern': '2:4', 'speedup': 1.5}, {'pattern': '8:16', 'speedup': None}]
    """
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=12))
    return found
