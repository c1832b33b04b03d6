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

WINDOWS = """## 8:16 without new hardware

No unit takes 8:16. But any 8:16 mask fits a 2:4 unit through *sliding windows* (SlideSparse, arXiv 2603.05232). Seven
windows of four elements, two apart, cover a group of 16. Each window is a 2:4 group and holds two kept elements. So seven
hold up to 14 of 16, wherever they are. A [test](../../tests/hwmodels/estimate/test_windows.py) assigns all 12,870 masks of
8:16. It also shows that six of the seven do not hold all of them. The cost is that of 14:16: 28 elements of K instead of
16, or 1.75 times the work of 2:4. If operations limit both, this is at best 2 / 1.75 = 1.14 times as fast as dense.

So published rows of 14:16 measure what 8:16 brings today: {rows} rows of {machines} GPUs. Their median speedup is {median},
and {winning} of them are faster than dense. Elements of X must be repeated for the windows. That time is not in these rows.
Rows in fp4 are left out: units for fp4 keep values in pairs, and windows of pairs do not hold every mask.

![Speedups of 14:16 through sliding windows over tokens](../gallery/window_speedups.svg)

Lines are medians, shades the 10th to 90th percentile ([table](../gallery/windows.csv)). Dotted lines are the ratio of the
bounds if the unit took 8:16 with combinatorial codes, at its peak of 2:4 (A60). The gap between both is what new hardware may
bring. A solid line above the dotted one, as for INT8 on the B200, is no gain of sparsity: there the dense library is slow.

| GPU | type | regime | rows | published, 10 to 90 % | median | predicted | with a unit of its own, at most |
|---|---|---|---|---|---|---|---|
{table}

`nmsim validate --rows validate/data/published_more.parquet --held-out --skip-unknown` prints this table. For one machine:
`nmsim predict 4096,4096,4096 -p 8:16 -H a100-pcie`.

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
        + "\n"
        + _windows(judged.published().table)
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
    doubted = int((lost["mark"] == "anomalous").sum())
    doubt = f", of which their source calls {doubted} anomalous" if doubted else ""
    return f"{len(lost)} of {len(own)} rows in prefill{doubt}"


def _row(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _windows(table: pd.DataFrame) -> str:
    """8:16 through sliding windows: what was published, and what a unit of its own would bring."""
    rows = break_even.window_rows(table, "8:16")
    measured = rows[break_even.MEASURED]
    groups = [
        group
        for group in break_even.windows_by(table, ("machine", "dtype", "regime"))
        if group["pattern"] == "8:16"
    ]
    lines = [
        f"| {group['machine']} | {group['dtype']} | {group['regime']} | {group['n_rows']} | {group['measured_low']:.2f} to "
        f"{group['measured_high']:.2f} | {group['measured_median']:.2f} | {group[break_even.SPEEDUP]:.2f} | "
        f"{group[break_even.NATIVE]:.2f} |"
        for group in groups
    ]
    return WINDOWS.format(
        rows=len(rows),
        machines=rows["machine"].nunique(),
        median=f"{measured.median():.2f}",
        winning=_share((measured > 1).mean()),
        table="\n".join(lines),
    )


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
