"""The page on validation: what the estimate gets wrong, on machines that it was not fitted to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import judged
import pandas as pd

from hwmodels.estimate import constants
from hwmodels.estimate.intervals import INTERVAL_SHARE
from validate.judge import metrics, own_machine
from validate.judge.bandwidth import TRAFFIC
from validate.judge.join import why_missed
from validate.judge.judge import GALLERY_ROWS, Judgement

HEADS = ("rows", "speedup", "dense time", "sparse time", "bias", "side of 1", "about 1", "in interval")
MISSED_ROWS = 60
"""Rows missed by the largest factor, that the page lists."""
FIGURES = {
    "speedup_mdape": "speedup",
    "dense_time_mdape": "dense time",
    "sparse_time_mdape": "sparse time",
    "side_share": "right side of 1.0, or about 1",
    "interval_coverage": "in interval",
}
"""Figures of a goal, as the page names them."""
GOALS = (
    ("16-bit types", "dtype_classes", "16-bit", (0.05, 0.10, 0.12, 0.92, (0.76, 0.84))),
    ("8-bit types", "dtype_classes", "8-bit", (0.09, 0.11, 0.11, 0.88, (0.76, 0.84))),
    ("the B200", "machines", "b200", (0.12, 0.20, 0.20, 0.80, (0.70, 0.90))),
    ("up to 64 tokens", "regimes", "decode", (0.10, 0.12, 0.15, 0.88, (0.70, 0.90))),
    ("N:M on vector lanes", "kernel_families", "vector-nm", (0.15, None, None, 0.90, (0.70, 0.90))),
)
"""Rows, the part of a verdict and the group that they are, and a goal for each of `FIGURES`."""

HEAD = """# How far to trust the estimate

No constant and no range on this page was fitted to the machine that it is judged on. The {constants} constants are fitted to
published rows, and once more without each group of machines. A row is predicted with constants that were fitted without its
machine and without boards of the same die. A machine is described by its datasheet alone. Nothing on this page is written by
hand: `make docs` makes rows, figures and text anew.

**One part is not held out.** Properties of vendor libraries belong to a generation and a value type
([libraries.toml](../../hwmodels/data/libraries.toml)). Each was read off published rows of the one machine of its generation.
Rows of this page are among them. So the errors of the families `library` and `sliding` are those of a library that is known. A
new generation will be missed by more.

**What is judged**: {rows} published timings of {machines} GPUs, from {sources} sources, with {kernels} kernel libraries
([published rows](../reference/published-rows.md) has their sources and counts). No GPU of ours measured one of them. **Against
what**: `hwmodels.predict_rows`. It gets shape, value type, pattern, kernel family and whether the row was timed with a cold or
a warm cache. It gets none of its times. The error of a figure is |predicted / published - 1|. Tables show its median over rows:

- *bias* is the median with its sign.
- *side of 1* is the share of rows whose predicted and published speedup lie on the same side of 1.0, or both within {about}.
  Rows of the second kind are *about 1*.
- *in interval* is the share of speedups inside the predicted range, which should hold {share:.0f} %.

Decode is up to 64 tokens, prefill from 1024. A speedup is against the dense baseline that the source chose.

`predict` uses constants that are fitted to all rows. With these the median error of the speedup of 16-bit types is {fitted}
instead of {held_out}. One thing is not held out: the form of the estimate was chosen with all rows in view. The ranges of this
page leave the row's own die out as well. How far further machines may lie is added to how far rows of one machine do
([the interval](estimate.md#the-interval)). No factor is tuned. By family the ranges hold more or less than 80 %, as the
tables show.
"""

ROOFLINE = """## A plain roofline, and other models

The bound of the same rows is bytes over bandwidth or operations over peak, whichever is longer. It misses the speedups of
16-bit types by {bound_speedup} (all rows: {bound_all}), their dense times by {bound_dense} and their sparse times by
{bound_sparse}. The estimate misses them by {speedup} ({all}), {dense} and {sparse}. The best published model of dense
products is LLMCompass (<https://github.com/PrincetonUniversity/LLMCompass>). On an A100 its mean error over ten dense fp16
products is 4.7 %. Its parameters and its 21 us of overhead were tuned to that GPU. The mean error of our dense times on
{a100_rows} 16-bit rows of A100s is {a100}. Its constants had no part of them, the properties of its library had. LLMCompass
knows no sparsity. We found no published model that was compared with measured sparse kernels.
"""

COMMANDS = """## Regenerate

| what | command |
|---|---|
| the rows | `python -m validate.judge.published` |
| constants and residuals, `hwmodels/data/` | `nmsim fit` |
| errors of the published rows, in `validate/data` | `nmsim validate --held-out -r published.csv -r published_more.parquet` |
| the same with our own rows on CPUs | `nmsim validate --held-out` |
| this page, its figures and their tables | `make docs` |
| your own rows | `nmsim validate --rows FILE.csv --hardware MACHINE.toml` ([details](../how-to/measure.md)) |
| the errors that are allowed | `validate/judge/budget.toml`, checked by `make test` |
"""


def page() -> str:
    """The whole page as Markdown."""
    found = judged.published()
    verdict = found.verdict()
    return "\n".join(
        [
            _head(found),
            _goals(verdict),
            "## All rows\n",
            _metric_table(("rows of",), [(("all",), verdict["overall"]), *_named(verdict, "dtype_classes")]),
            _metric_table(("kernel family",), _named(verdict, "kernel_families")),
            _metric_table(("regime",), _named(verdict, "regimes")),
            _figures(),
            "## By machine\n",
            _metric_table(("machine",), _named(verdict, "machines")),
            "![Predicted over published speedup of each machine](../gallery/residuals_by_machine.svg)\n",
            _metric_table(("machine", "type", "regime"), _by_type(found.table)),
            _coverage(verdict),
            _marks(verdict),
            _worst(found.table),
            _violations(verdict["bound_violations"]),
            _roofline(found.table),
            _bandwidth(verdict),
            _own(judged.measured()),
            COMMANDS,
        ]
    )


def _head(found: Judgement) -> str:
    table = found.table
    every = judged.published(held_out=False).table
    narrow = [t[t["dtype_class"] == "16-bit"]["speedup_error"].abs().median() for t in (every, table)]
    return HEAD.format(
        constants=len(constants.PRIORS),
        rows=len(table),
        machines=table["machine"].nunique(),
        sources=table["source_url"].nunique(),
        kernels=table["kernel"].nunique(),
        share=100 * INTERVAL_SHARE,
        about=_percent(metrics.ABOUT_ONE),
        fitted=_percent(narrow[0]),
        held_out=_percent(narrow[1]),
    )


def _goals(verdict: Mapping[str, Any]) -> str:
    """Compare groups of a verdict with the goals; a range is one of the share of rows in their intervals."""
    rows = []
    for text, part, name, goals in GOALS:
        group = next((group for group in verdict.get(part, ()) if name in group.values()), None)
        for figure, goal in zip(FIGURES, goals, strict=True):
            if group is None or goal is None or group[figure] is None:
                continue
            value = group[figure]
            if isinstance(goal, tuple):
                met, allowed = goal[0] <= value <= goal[1], f"{100 * goal[0]:.0f} to {100 * goal[1]:.0f} %"
            elif figure == "side_share":
                met, allowed = value >= goal, f"at least {100 * goal:.0f} %"
            else:
                met, allowed = value <= goal, f"at most {100 * goal:.0f} %"
            word = "met" if met else "**missed**"
            rows.append(
                (f"{text}, {FIGURES[figure]}", allowed, f"{100 * value:.1f} %", str(group["n_rows"]), word)
            )
    return "## Against the goals\n\n" + _table(("figure", "goal", "reached", "rows", ""), rows)


def _figures() -> str:
    return f"""![Predicted over published speedup](../gallery/speedup_scatter.svg)

A point is a row ([table](../gallery/judged.csv)). Of each family of rows (machine, type, regime, kernel) every n-th is
shown, in the order of its errors, about {GALLERY_ROWS} in all. Tables count all rows. A point is hollow if its own source
doubts the row. The times of these speedups:

![Predicted over published times](../gallery/time_scatter.svg)

![Predicted over published speedup by tokens](../gallery/residuals_by_tokens.svg)

![Predicted over published speedup by regime](../gallery/residuals_by_regime.svg)
"""


def _by_type(table: pd.DataFrame) -> list[tuple[Sequence[str], Mapping[str, Any]]]:
    columns = ("machine", "dtype", "regime")
    return [([group[c] for c in columns], group) for group in metrics.grouped(table, columns)]


def _coverage(verdict: Mapping[str, Any]) -> str:
    least, most = (_percent(share) for share in metrics.COVERAGE)
    found = verdict["coverage_warnings"]
    head = (
        f"## Ranges that are too narrow or too wide\n\nA range should hold {100 * INTERVAL_SHARE:.0f} % of its rows. "
        f"Families of at least {metrics.COVERAGE_ROWS} rows whose ranges hold less than {least} or more than {most}: "
        f"{len(found)} of {len(verdict['families'])}.\n\n"
    )
    if not found:
        return head
    lines = [
        (
            *(row[name] for name in metrics.FAMILY),
            str(row["n_rows"]),
            _percent(row["interval_coverage"]),
            row["intervals"],
        )
        for row in found
    ]
    return head + _table(
        ("machine", "type", "regime", "kernel family", "rows", "in interval", "ranges"), lines
    )


def _marks(verdict: Mapping[str, Any]) -> str:
    return (
        "## Rows that their source doubts\n\nThe reason is one of four. The dense baseline is weak. The time was spent on "
        "the host. "
        "The speedup is above what bytes allow. Or the note has a word such as *anomalous*. These rows are part of every "
        "figure above. "
        "Here they are shown separately.\n\n"
        + _metric_table(("mark",), [((names[0] or "none",), g) for names, g in _named(verdict, "marks")])
    )


def _worst(table: pd.DataFrame) -> str:
    rows = metrics.worst(table, MISSED_ROWS)
    rows = rows.assign(why=[why_missed(row) for _, row in rows.iterrows()])
    lines = []
    for (machine, kernel, dtype, why), group in rows.groupby(
        ["machine", "kernel", "dtype", "why"], sort=False
    ):
        first = group.iloc[0]
        lines.append(
            (
                machine,
                kernel,
                dtype,
                str(len(group)),
                f"{first['row']}: {first['M']}, {first['N']}, {first['K']}",
                f"{first['measured_speedup_vs_dense']:.2f}x",
                f"{first['predicted_speedup_vs_dense']:.2f}x",
                *(_percent(first[f"{product}_time_error"], sign=True) for product in ("dense", "sparse")),
                why,
            )
        )
    heads = ("machine", "kernel", "type", "rows", "worst: row, M, N, K", "published", "predicted")
    unknown = int((rows["why"] == "none known").sum())
    return (
        f"## Worst rows\n\nThese are the {MISSED_ROWS} rows whose speedup is missed by the largest factor, down to "
        f"{_factor(rows.iloc[-1]):.2f}. They are grouped, and the worst row of each group is shown. The errors of its dense "
        "and "
        f"sparse time say which side is wrong. For {unknown} of them no reason is known.\n\n"
        + _table((*heads, "dense time", "sparse time", "why"), lines)
    )


def _factor(row: "pd.Series[Any]") -> float:
    ratio = row["predicted_speedup_vs_dense"] / row["measured_speedup_vs_dense"]
    return float(max(ratio, 1 / ratio))


def _violations(found: Sequence[Mapping[str, Any]]) -> str:
    head = "## Faster than the bound\n\n"
    if not found:
        return head + "No published time is below what the bytes and operations of its product allow.\n"
    table = pd.DataFrame(found)
    table["why"] = table["reason"]
    lines = [
        (machine, kernel, product, str(len(group)), f"{100 * group['share'].min():.0f} %", why)
        for (why, machine, kernel, product), group in table.groupby(["why", "machine", "kernel", "product"])
    ]
    return (
        f"{head}{len(found)} published times are below the bound of their machine. The bound moves every operand from DRAM "
        "once. The reasons are inferred from the way a row was timed. The estimate models the cache that the bound leaves "
        "out.\n\n" + _table(("machine", "kernel", "product", "times", "least, of the bound", "why"), lines)
    )


def _roofline(table: pd.DataFrame) -> str:
    bound = table["bound_dense_time_s"] / table["bound_sparse_time_s"]
    errors = pd.DataFrame(
        {
            "speedup": bound / table["measured_speedup_vs_dense"] - 1,
            "dense": table["bound_dense_time_s"] / table["measured_dense_time_s"] - 1,
            "sparse": table["bound_sparse_time_s"] / table["measured_sparse_time_s"] - 1,
        }
    ).abs()
    wide = table["dtype_class"] == "16-bit"
    a100 = table[wide & table["machine"].isin(["a100-pcie", "a100-sxm"])]["dense_time_error"].abs()
    return ROOFLINE.format(
        **{f"bound_{name}": _percent(errors[wide][name].median()) for name in errors},
        bound_all=_percent(errors["speedup"].median()),
        speedup=_percent(table[wide]["speedup_error"].abs().median()),
        all=_percent(table["speedup_error"].abs().median()),
        dense=_percent(table[wide]["dense_time_error"].abs().median()),
        sparse=_percent(table[wide]["sparse_time_error"].abs().median()),
        a100=_percent(a100.mean()),
        a100_rows=int(a100.notna().sum()),
    )


BANDWIDTH = """## Bandwidth

The *effective bandwidth* of a call is its least traffic over its time. Least traffic moves values, metadata, dense operand and
output once. The error of a bandwidth is that of the time turned over, so it is no further evidence for calls that operations
limit. It is for *memory-bound* calls, whose bound is the time of their bytes. For these the share of the DRAM's peak says how
much of a machine a kernel uses. A share above 100 % means that operands lay in a cache: most rows were timed back to back.

`nmsim validate --held-out` prints the same, with our own rows on CPUs beside the published ones, and `--plot` draws the figure.

"""
BANDWIDTH_GOAL = 0.12
BANDWIDTH_HEADS = (
    "call", "limit", "rows", "GB/s", "predicted GB/s", "of the DRAM's peak", "predicted", "error", "bias", "above the peak",
)  # fmt: skip


def _bandwidth(verdict: Mapping[str, Any]) -> str:
    """Effective bandwidths by type, those of memory-bound calls by family and machine, and what the traffic holds."""
    families = [group for group in verdict["bandwidth_families"] if group["limit"] == "memory"]
    machines = [group for group in verdict["bandwidth_machines"] if group["limit"] == "memory"]
    wide = next(group for group in verdict["dtype_classes"] if group["dtype_class"] == "16-bit")
    reached = {product: wide[f"{product}_bandwidth_mdape"] for product in ("dense", "sparse")}
    goals = " and ".join(
        f"{_percent(error)} of the {product} calls ({'met' if error <= BANDWIDTH_GOAL else '**missed**'})"
        for product, error in reached.items()
    )
    # Calls that operations limit make the figure better, and say nothing about bandwidths.
    alone = " and ".join(
        f"{_percent(group['bandwidth_mdape'])} of the {group['product']} ones"
        for group in verdict["bandwidth_dtype_classes"]
        if (group["dtype_class"], group["limit"]) == ("16-bit", "memory")
    )
    return (
        f"{BANDWIDTH}The goal for 16-bit types is a median error of {_percent(BANDWIDTH_GOAL)}. Reached: {goals}. "
        f"Of memory-bound calls alone it is {alone}.\n\n"
        + _bandwidths(("type",), ("dtype_class",), verdict["bandwidth_dtype_classes"])
        + "\n![Predicted over published bandwidth, and shares of the DRAM's peak](../gallery/bandwidth.svg)\n\n"
        "One point per row of the [table](../gallery/judged.csv). Memory-bound calls by kernel family:\n\n"
        + _bandwidths(("kernel family", "regime"), ("kernel_family", "regime"), families)
        + "\nBy machine:\n\n"
        + _bandwidths(("machine",), ("machine",), machines)
        + "\nWhat the least traffic of each family holds, and where the bandwidth is that of the DRAM:\n\n"
        + _table(("kernel family", "least traffic"), [(name, text) for name, text in TRAFFIC.items()])
    )


def _bandwidths(heads: Sequence[str], columns: Sequence[str], groups: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            *(group[column] for column in columns),
            group["product"],
            group["limit"],
            str(group["n_rows"]),
            *(f"{group[f'{kind}_bytes_per_s'] / 1e9:.4g}" for kind in ("measured", "predicted")),
            *(_percent(group[f"{kind}_dram_share"]) for kind in ("measured", "predicted")),
            _percent(group["bandwidth_mdape"]),
            _percent(group["bandwidth_bias"], sign=True),
            _percent(group["above_peak_share"]),
        )
        for group in groups
    ]
    return _table((*heads, *BANDWIDTH_HEADS), rows)


def _own(found: Judgement | None) -> str:
    head = "## Our own CPU rows\n\n"
    if found is None:
        return (
            head
            + "None has been committed yet. Put a campaign of `nmsim measure` under `validate/data/measured/`, beside the "
            "hardware file of `nmsim calibrate`. It appears here, judged by the same code.\n"
        )
    names = sorted(Path(name).name for name in found.files)
    verdict = found.verdict()
    low = verdict["bound_violations"]
    below = f"{len(low)} times lie below the bound." if low else "No time lies below the bound."
    return (
        f"{head}`nmsim measure` timed real products through our own CPU kernels against the best dense call. The machines are "
        f"those that `nmsim calibrate` described ({', '.join(names)}). No constant is fitted to these rows; a "
        f"prediction knows the calibration alone. "
        f"The ranges of `predict` are made from these same rows. So the share of rows inside them "
        f"says nothing about another machine. {below}\n\n"
        + _metric_table(("rows of",), [(("all",), verdict["overall"])])
        + "\n"
        + _metric_table(("machine", "type", "regime"), _by_type(found.table))
        + _own_goals()
    )


OWN_GOAL = 0.1
"""Median error of speedup over a CPU campaign that the project aims at."""
WARM_WORST = (
    "If the operands fit into a core's own cache, the time is that of the call. Calls of numpy and torch take less time than "
    "those of our kernels. The model takes our call's time as the least time of a 16-bit dense call, and torch is faster."
)


def _own_goals() -> str:
    """The campaigns pattern by pattern, their figure, the worst row and why."""
    table = judged.own()
    cold = table[table["l2_state"] == "cold"]
    worst = table.loc[table["speedup_error"].abs().sort_values().index[-1]]
    cold_worst = cold.loc[cold["speedup_error"].abs().sort_values().index[-1]]
    columns = ["machine", "dtype", "threads", "pattern", "encoding"]
    rows = own_machine.summarise(cold[(cold["M"] == 1)], columns)
    errors = {str(name): _own_error(rows_) for name, rows_ in table.groupby("machine")}
    cold_errors = {str(name): _own_error(rows_) for name, rows_ in cold.groupby("machine")}
    goals = " ".join(
        f"On {name} it is {_percent(error)} ({'met' if error <= OWN_GOAL else 'missed'}), and "
        f"{_percent(cold_errors[name])} if operands come from DRAM."
        for name, error in errors.items()
    )
    lines = [
        (
            *(str(row[name]) for name in columns),
            *(f"{row[name]:.2f}" for name in ("measured_speedup_vs_dense", "predicted_speedup_vs_dense")),
            _percent(row["speedup_mdape"]),
            _percent(row["share_of_bound"]),
        )
        for row in rows.to_dict("records")
    ]
    heads = (*("machine", "type", "cores", "pattern", "encoding"), *("measured", "predicted", "error"))
    return (
        f"\nThe goal of the median error of the speedup is {_percent(OWN_GOAL)}. {goals} "
        "Two exponents of the estimate were chosen with products in view (A29). "
        "[The estimate](estimate.md#one-machine-left-out) says what each machine's exponents give on the other one. Times "
        "change with the bandwidth that a shared machine has in that minute. Ratios change less.\n\n"
        "`epyc-milan-2core`, with AVX2:\n\n"
        "![Measured speedups of CPU kernels with AVX2 on predicted ones](../gallery/measured_on_predicted.svg)\n\n"
        "`epyc-genoa-2core`, with AVX-512:\n\n"
        "![Measured speedups of CPU kernels with AVX-512 on predicted ones](../gallery/measured_on_predicted_avx512.svg)\n\n"
        f"The worst row: {_described(worst)}. {WARM_WORST} The worst of the cold rows: {_described(cold_worst)}.\n\n"
        "The next table has one token, from DRAM, 8192 x 8192 and 4096 x 4096, against the best dense call of the same run. "
        "The goals of 1.6x (8:16) and 1.5x were set for AVX-512. `epyc-genoa-2core` has it, `epyc-milan-2core` has AVX2:\n\n"
    ) + _table((*heads, "of the byte bound"), lines)


def _own_error(table: pd.DataFrame) -> float:
    return float(table["speedup_error"].abs().median())


def _described(row: Any) -> str:
    return (
        f"{row['pattern']} {row['encoding']}, {row['dtype']}, {row['M']} tokens, {row['N']} x {row['K']}, {row['threads']} "
        f"cores, {row['l2_state']}: predicted {row['predicted_speedup_vs_dense']:.2f}x, measured "
        f"{row['measured_speedup_vs_dense']:.2f}x"
    )


def _named(verdict: Mapping[str, Any], part: str) -> list[tuple[Sequence[str], Mapping[str, Any]]]:
    """Groups of a part of the verdict that has one column of names."""
    return [((str(next(iter(group.values()))),), group) for group in verdict[part]]


def _metric_table(heads: Sequence[str], rows: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> str:
    lines = [
        (
            *names,
            str(group["n_rows"]),
            *(_percent(group[f"{kind}_mdape"]) for kind in ("speedup", "dense_time", "sparse_time")),
            _percent(group["speedup_bias"], sign=True),
            _percent(group["side_share"]),
            _percent(group["about_one_share"]),
            _percent(group["interval_coverage"]),
        )
        for names, group in rows
    ]
    return _table((*heads, *HEADS), lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _percent(share: float | None, sign: bool = False) -> str:
    if share is None or share != share:
        return "-"
    return f"{100 * share:+.1f} %" if sign else f"{100 * share:.1f} %"
