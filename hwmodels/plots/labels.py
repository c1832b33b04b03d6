"""Names, orders and checks that figures and reports share; nothing here draws.

Tables name a pattern as text, with `"dense"` for the baseline. A step is a phase and its tokens.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from nmsim.errors import RowError
from nmsim.pattern import Pattern

Step = tuple[str, int]
"""A phase and its tokens: `("decode", 16)`."""

DENSE = "dense"
SPEEDUP = "predicted_speedup_vs_dense"
SPEEDUP_LABEL = "speedup vs dense [×]"
PATTERN_LABEL = "pattern, kept : group [elements]"
TOKENS_LABEL = "tokens per step (decode batch, prefill length)"
OPERANDS = ("weights", "activations")
STAGE_NAMES = {
    "memory": "memory",
    "decode": "decoding of codes",
    "select": "online pruning",
    "matrix": "arithmetic",
}
"""Stage of a predicted product -> its name in legends and sentences."""
MAX_STEPS = 4
PREFILL_FROM = 256
"""A step without a phase is named prefill from this number of tokens on, and decode below it."""


def pattern_order(patterns: Iterable[str]) -> list[str]:
    """Sort patterns by M, then N, each once, without the dense baseline.

    Examples
    --------
    >>> pattern_order(["16:32", "dense", "2:4", "8:16", "2:4"])
    ['2:4', '8:16', '16:32']
    """
    once = {Pattern.parse(text) for text in patterns if text != DENSE}
    return [str(pattern) for pattern in sorted(once, key=lambda pattern: (pattern.m, pattern.n))]


def choose_steps(table: pd.DataFrame, limit: int = MAX_STEPS) -> list[Step]:
    """Choose the steps to show: the ends of decode and of prefill, or evenly spread ones of a single phase.

    Examples
    --------
    >>> steps = [("decode", 1), ("decode", 8), ("decode", 64), ("prefill", 512), ("prefill", 8192)]
    >>> choose_steps(pd.DataFrame(steps, columns=["phase", "tokens"]))
    [('decode', 1), ('decode', 64), ('prefill', 512), ('prefill', 8192)]
    """
    by_phase = [
        [(phase, int(tokens)) for tokens in sorted(table.loc[table["phase"] == phase, "tokens"].unique())]
        for phase in ("decode", "prefill")
    ]
    used = [steps for steps in by_phase if steps]
    room = limit if len(used) == 1 else limit // 2
    places = [np.linspace(0, len(steps) - 1, min(room, len(steps))).round().astype(int) for steps in used]
    return [steps[place] for steps, chosen in zip(used, places, strict=True) for place in chosen]


def step_name(step: Step) -> str:
    """Name a step in words.

    Examples
    --------
    >>> step_name(("decode", 16)), step_name(("prefill", 8192))
    ('decode, batch 16', 'prefill, 8192 tokens')
    """
    phase, tokens = step
    return f"decode, batch {tokens}" if phase == "decode" else f"prefill, {tokens} tokens"


def at_step(rows: pd.DataFrame, step: Step) -> pd.DataFrame:
    """Keep the rows of one step."""
    return rows[(rows["phase"] == step[0]) & (rows["tokens"] == step[1])]


def rows_of(table: pd.DataFrame, columns: Sequence[str], what: str) -> pd.DataFrame:
    """Check the table of a sweep and keep the rows that can be drawn.

    Refused points are left out. Texts become plain objects. A table without a column `phase` gets one from its tokens
    (`PREFILL_FROM`); the phase only names a step.

    Raises
    ------
    RowError
        A column is missing, or no row is left.

    Examples
    --------
    >>> rows_of(pd.DataFrame({"tokens": [1, 512]}), ["tokens"], "an example").phase.tolist()
    ['decode', 'prefill']
    """
    columns = tuple(dict.fromkeys(columns))
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise RowError(
            f"{what}: no column {', '.join(missing)}: expected {', '.join(columns)}, as in the table of a sweep"
        )
    rows = table[table["refused"].astype(str) == ""] if "refused" in table.columns else table
    if rows.empty:
        raise RowError(f"{what}: no row to draw: expected a table of at least one point that is not refused")
    texts = [name for name in rows.columns if not pd.api.types.is_numeric_dtype(rows[name])]
    rows = rows.assign(**{name: rows[name].astype(object) for name in texts})
    if "phase" not in rows.columns and "tokens" in rows.columns:
        rows["phase"] = np.where(rows["tokens"] < PREFILL_FROM, "decode", "prefill")
        rows["phase"] = rows["phase"].astype(object)
    return rows


def refuse_twice(rows: pd.DataFrame, keys: Sequence[str], what: str, advice: str) -> pd.DataFrame:
    """Refuse a table with several rows for one mark; give it back otherwise.

    Raises
    ------
    RowError
        Two rows agree in all `keys`.
    """
    keys = [name for name in keys if name in rows.columns]
    twice = rows.duplicated(keys)
    if twice.any():
        where = ", ".join(str(value) for value in rows.loc[twice, keys].iloc[0])
        raise RowError(f"{what}: several rows for {where}: expected one ({advice})")
    return rows


def refuse_empty(table: pd.DataFrame, what: str) -> None:
    """Refuse a table without rows.

    Raises
    ------
    RowError
    """
    if table.empty:
        raise RowError(f"{what}: no row to draw: expected at least one")
