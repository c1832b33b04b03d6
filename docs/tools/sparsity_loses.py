"""The page on the cases in which 2:4 loses: a map of predictions, published points, and sentences on both."""

from collections.abc import Sequence

import judged
import pandas as pd

from hwmodels.estimate.intervals import REGIMES
from validate.judge import break_even

DECODE_TOKENS, PREFILL_TOKENS = 1, 4096
"""Tokens of the map that the sentences name."""

HEAD = """# When does sparsity lose?

A 2:4 product reads half the weights and can multiply twice as fast. Still it is often slower than the dense one. Its
kernel has more to set up and does not split K. What it saves must be more than that.
The maps show the predicted speedup of the vendor's 2:4 library product of 16-bit values over the dense one. The weights are
square and come from DRAM. Below the line, in orange, sparsity loses.

{sentences}

![Predicted break-even of 2:4 and published points, GPU by GPU](../gallery/break_even.svg)

Shades and line show the estimate of the library's product, with constants fitted to all rows
([table](../gallery/break_even.csv)). Points show published 2:4 timings of 16-bit types, at their tokens and the square root of
their weight count. A point is filled if sparsity won, and hollow if it lost. A row whose time is that of the host is left out.
Most were timed back to back. So small weights came from the cache, while the map reads them from DRAM.

GPUs without such published rows, from their datasheets alone:

![Predicted break-even of 2:4 on GPUs without published rows](../gallery/break_even_unmeasured.svg)

## Counted

The table has the share of cases with a speedup below 1.0. *Published* and *predicted* are of the same rows. Each row is
predicted with constants that were fitted without its machine, and in the cache state in which it was timed. The columns *of
the map* count its points: {grid}.

"""

TAIL = """[Validation](validation.md) says how far to trust the estimate. `make docs` makes this page anew.
"""


def page() -> str:
    """The whole page as Markdown."""
    mapped, points = judged.mapped(), judged.points()
    tokens, sides = break_even.MAP_TOKENS, break_even.MAP_SIDES
    grid = (
        f"{len(tokens)} numbers of tokens from {tokens[0]} to {tokens[-1]}, times {len(sides)} sides from {sides[0]} to "
        f"{sides[-1]}. Both are in steps of a square root of two"
    )
    return (
        HEAD.format(sentences="\n".join(f"- {text}" for text in sentences(points, mapped)), grid=grid)
        + _losses(break_even.losses(points, mapped))
        + TAIL
    )


def sentences(points: pd.DataFrame, mapped: pd.DataFrame) -> list[str]:
    """Three texts on the result; every number is counted from the tables."""
    lost = points["measured_speedup_vs_dense"] < 1
    said = points[break_even.SPEEDUP] < 1
    shares = [
        f"{lost[points['regime'] == r].sum()} of {(points['regime'] == r).sum()} in {r}" for r in REGIMES
    ]
    first = (
        f"Of {len(points)} published 2:4 timings of 16-bit types on {points['machine'].nunique()} GPUs {lost.sum()} lose. "
        f"These are {', '.join(shares)}. The estimate, fitted without each machine, finds {(lost & said).sum()} of them. It "
        "also "
        f"predicts {(said & ~lost).sum()} losses that win."
    )
    machines = list(mapped["machine"].unique())
    sides = {m: break_even.break_even_side(mapped, m, DECODE_TOKENS) for m in machines}
    known = sorted((side, machine) for machine, side in sides.items() if side is not None)
    second = (
        f"For one token reading the weights must take longer than the kernel's set-up. The needed size goes from a side of "
        f"{known[0][0]} elements on the {known[0][1]} to {known[-1][0]} on the {known[-1][1]}, and grows with memory "
        "bandwidth. "
        "More tokens move the line down, until arithmetic takes most of the time."
    )
    losing = [m for m in machines if break_even.break_even_side(mapped, m, PREFILL_TOKENS) is None]
    measured = [m for m in losing if (points["machine"] == m).any()]
    guessed = [m for m in losing if m not in measured]
    third = f"At {PREFILL_TOKENS} tokens no GPU is predicted to lose on the largest weights."
    if losing:
        third = (
            f"At {PREFILL_TOKENS} tokens large weights lose again on GPUs with little bandwidth or cache for their arithmetic. "
            "There the sparse kernel reads them anew for each wave of tiles. "
            + " ".join(
                f"{basis}: {_row(names)}{note}."
                for basis, names, note in (
                    ("Published rows lose on", measured, f" ({_published(points, measured)})"),
                    ("No rows exist, and a loss is predicted, for", guessed, ""),
                )
                if names
            )
        )
    return [first, second, third]


def _published(points: pd.DataFrame, machines: Sequence[str]) -> str:
    """How many published prefill rows of these machines lose."""
    own = points[points["machine"].isin(machines) & (points["regime"] == REGIMES[-1])]
    lost = own[own["measured_speedup_vs_dense"] < 1]
    doubt = ", which their source calls anomalous" if (lost["mark"] == "anomalous").any() else ""
    return f"{len(lost)} of {len(own)} rows in prefill{doubt}"


def _row(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _losses(table: pd.DataFrame) -> str:
    lines = [
        "| GPU | "
        + " | ".join(f"{regime}: rows | published | predicted | of the map" for regime in REGIMES)
        + " |",
        "|---|" + "---|---|---|---|" * len(REGIMES),
    ]
    for machine, rows in table.groupby("machine", sort=False):
        cells = [str(machine)]
        for _, row in rows.iterrows():
            cells.append(str(row["n_rows"]) if row["n_rows"] else "")
            cells += [_share(row[name]) for name in ("published_losing", "predicted_losing", "map_losing")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(value: float) -> str:
    return "" if value != value else f"{100 * value:.0f} %"
