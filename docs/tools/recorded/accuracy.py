"""The page on accuracy: what pruning costs a real language model, from committed rows, through `validate.accuracy`.

Every number and every verdict comes from the rows. Prose says how a number is made, and stays true if the rows change.
"""

import functools
import math
import re
from collections.abc import Iterable, Sequence

import pandas as pd

import validate
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.rows import LossRow
from nmsim.units import percent
from validate.accuracy.claims import (
    CLAIMS,
    HOLDS,
    VERDICTS,
)
from validate.accuracy.gains import gain_table
from validate.accuracy.losses import DENSE, QUALITY_FILE, LossTable, one_operand, shipped_files
from validate.accuracy.sensitivity import additivity
from validate.accuracy.statistics import CONFIDENCE, UNDECIDED, Interval, neighbour_correlation, spearman

INCREASE = ("loss_increase", "loss_increase_low", "loss_increase_high")
NAMES = {
    "magnitude": "magnitude", "channel_vector": "Wanda", "ria": "RIA", "clact": "CLACT", "amber": "Amber",
    "weight_variance": "weight variance", "unstructured": "unstructured, magnitude",
    "unstructured_channel_vector": "unstructured, Wanda",
}  # fmt: skip
MODELS = {"smollm2": "SmolLM2-135M-Instruct"}
TEXTS = {
    "news": "the Lee background corpus, short Australian news that gensim ships",
    "python-topics": "the help topics of Python's own documentation",
}
TRUSTED = "relative_output_error"
WORST_LAYERS = 12
FEWER = r" \*"
MARKED = r"""
A cell with \* has fewer windows than the others. Do not compare it with its neighbours: [paired differences](#what-criteria-bring)
use the windows that both have."""

TITLE = "# Accuracy: what pruning costs a real language model"
WITHOUT_ROWS = f"""{TITLE}

No rows are committed in `validate/data/losses`. `nmsim perplexity` measures them, and `make docs` makes this page of them. It
then shows losses of pruned weights and activations with intervals, sensitive layers, and the claims of both papers.
"""

HEAD = """{title}

Everything on this page is measured on a real language model, and made from [committed rows](../../validate/data/losses) by
`make docs`. Numbers and verdicts come from the rows. The [claims of both papers](#claims-of-both-papers) stand at the end.

**In short.** {short}

## What was measured

- **Model**: {model}, {layers} linear layers. Its weights come from a 4-bit file, and are read as 32-bit numbers. The head and the
  embeddings are never pruned.
- **Text**: {texts}. Parameters are fitted to {calibration} tokens that lie before the evaluated ones.
- **Loss**: the mean negative log-likelihood in nats per predicted token. Perplexity is exp(loss). Each window of {tokens} tokens
  is evaluated by itself, so {windows} windows have {predicted} predicted tokens. {fewer}
- **Dense**: {dense}.
- **Intervals** are of {confidence}, in brackets, from a bootstrap over windows. Differences are paired: the losses of the same
  window are subtracted first. If zero lies in the interval, the verdict is "{cannot}".
- **Rows**: {rows}, {configurations} configurations on the first text. Arithmetic: {dtype}, on {cpu}. The processor
  did other work meanwhile, so that `time_s` of the rows is no measure of speed.
  [Times of idle cores](../how-to/measure-accuracy.md#the-whole-campaign) stand in the how-to.

Windows are drawn as if they were independent. The correlation of each window's increase with the next one's is {correlation} for
activations at 8:16. A correlation above zero makes intervals too narrow.

`nmsim perplexity` makes such rows for this model and for others, see [files](../reference/files.md).
"""

GRID = """## Patterns

Loss increase against the dense model, in nats per token, all {layers} layers pruned. exp of it is the ratio of the perplexities.
Nothing is corrected. "Wanda" is magnitude times the norm of the inputs.{marked}

{table}

{widest_pair}

![Loss increase over patterns for weights and activations](../gallery/loss_vs_pattern.svg)
"""

GAINS = """## What mitigations bring

Loss with the mitigation minus loss without it, in nats per token, under the same criterion. Below zero it helps.

What is fitted is a least squares of one layer to the calibration tokens, not the training of the papers' authors. A fit of as
many numbers as a layer has inputs, such as `bias1`, follows the noise of few tokens. So a fitted mitigation that hurts here may
help after training.

{mitigations}

## What criteria bring

Loss by the criterion minus loss by a plainer one, in nats per token, without mitigation.

{criteria}
"""

OTHERS = """## Both operands, fewer layers, fewer bits

Each row is a configuration as it was measured: its loss increase against dense, in nats per token, and the ratio of perplexities.

{table}
"""

PLACES = """## Which layers bear it

Loss increase in nats per token if layers of one kind only are pruned.

{kinds}

{blocks}

{figure}

{layers}

## Do single losses add up

An assignment of patterns to layers adds losses of single layers. The table compares the sum with the loss of all together. A
ratio above 1 says that layers pruned together lose more than their sum.

{sums}

{verdict}
"""

PLACES_FIGURE = "![Loss increase if one kind or one block is pruned](../gallery/sensitivity.svg)"

PROXIES = """## May `nmsim quality` be trusted

`nmsim quality` prunes one layer at a time and runs no model. So it also works on a checkpoint that is too large to run. Its figures
are compared with measured losses here. Rank correlations have intervals over points. "Within" says by which factor a predicted
increase misses the measured one, for half and for nine tenths of the points. Each point is predicted from all others. "Without" is
the factor of a prediction that knows no figure at all.

{table}

{verdict}

![Measured loss increase over figures of nmsim quality](../gallery/proxy_scatter.svg)
"""

SECOND = """## On another text

The same configurations on {text}: {windows} windows of {tokens} tokens, dense perplexity {dense}.

{table}

{verdict}
"""

CLAIMS_HEAD = """## Claims of both papers

What each paper says, its source, and what the rows say. `[P]` was read in the paper's text, `[C]` in the authors' code or
logs, `[D]` follows from both. Result tables of both papers were not read. A claim of several parts holds if all parts do, and does
not hold if one does not. Verdicts on {count} claims: {verdicts}.

| claim | verdict | source |
|---|---|---|
{table}

### The numbers behind each verdict

{details}
"""

TAIL = """## What this page does not show

- **No accuracy.** A loss on text is not the share of right answers to questions. No task was run.
- **One small model.** Whether larger ones lose more or less was not measured.
- **Nothing of the Performance Threshold.** The weights come from a 4-bit file. So a dense rival of 4 bits costs no accuracy
  here, and no smaller dense model of the same family was measured.
- **No training.** Fitted mitigations use {calibration} calibration tokens, one layer after another.
- **No decode.** Windows are evaluated at once. Criteria that look at all tokens, such as CLACT, see the whole window.
"""


def has_rows() -> bool:
    """Whether rows are committed, without which there is no page."""
    return bool(shipped_files())


@functools.cache
def rows() -> tuple[LossRow, ...]:
    """All committed rows."""
    return tuple(validate.read_losses(shipped_files()))


@functools.cache
def tables() -> tuple[LossTable, ...]:
    """One table per text, the largest first."""
    return tuple(sorted(validate.loss_tables(rows()), key=lambda table: -len(table.rows)))


def main_rows() -> list[LossRow]:
    """Rows of the text that has most of them."""
    return list(tables()[0].rows.values())


@functools.cache
def losses() -> pd.DataFrame:
    """Losses of all configurations on the first text."""
    return validate.loss_frame(main_rows())


@functools.cache
def sensitivities() -> pd.DataFrame:
    """Losses of single layers, kinds and blocks on the first text."""
    return validate.sensitivity_table(main_rows())


@functools.cache
def proxy_points() -> pd.DataFrame:
    """Losses beside figures of `nmsim quality`; empty without these."""
    if not QUALITY_FILE.exists():
        return pd.DataFrame(columns=["over", "loss_increase"])
    quality = pd.read_csv(
        QUALITY_FILE,
        keep_default_na=False,
        na_values={"energy_kept_share": [""], "relative_output_error": [""]},
    )
    return validate.beside_quality(main_rows(), quality)


def drawable(figure: str) -> bool:
    """Whether rows of a figure are committed; figures of other pages always are."""
    if figure == "sensitivity":
        return has_rows() and bool(sensitivities()["scope"].isin(["kind", "block"]).any())
    if figure == "proxy_scatter":
        return has_rows() and not proxy_points().empty
    return figure != "loss_vs_pattern" or has_rows()


def page() -> str:
    """The whole page as Markdown."""
    if not has_rows():
        return WITHOUT_ROWS
    parts = [
        _head(),
        _grid(),
        _gains(),
        _others(),
        _places(),
        _proxies(),
        *map(_second, tables()[1:]),
        _claims(),
    ]
    return "\n".join(
        [*(part for part in parts if part), TAIL.format(calibration=f"{_first().calibration_tokens:,}")]
    )


def _first() -> LossRow:
    row = tables()[0].find(DENSE)
    if row is None:
        raise RowError(f"{tables()[0].setting}: no dense row: expected one, which increases are against")
    return row


def _head() -> str:
    table, dense = tables()[0], _first()
    every = losses()
    cell = every[every["configuration"] == "dense"].iloc[0]
    layers = int(every["layers_pruned"].max())
    eight = one_operand("activations", "8:16")
    correlation = math.nan
    if table.has(eight):
        ours, theirs = table.losses(eight, DENSE)
        correlation = neighbour_correlation(ours - theirs)
    texts = "; ".join(
        f"`{name}`, {TEXTS.get(name, 'a file of its own')}"
        for name in dict.fromkeys(t.setting.text for t in tables())
    )
    perplexity = _interval(Interval(cell["perplexity"], cell["perplexity_low"], cell["perplexity_high"]))
    return HEAD.format(
        title=TITLE,
        short=_short(),
        model=MODELS.get(dense.model, dense.model),
        layers=layers,
        texts=texts,
        calibration=f"{dense.calibration_tokens:,}",
        tokens=dense.window_tokens,
        windows=dense.windows,
        predicted=f"{dense.windows * (dense.window_tokens - 1):,}",
        dense=f"loss {_interval(Interval(cell['loss'], cell['loss_low'], cell['loss_high']))}, perplexity {perplexity}",
        fewer=_fewer(),
        confidence=percent(CONFIDENCE, 0),
        cannot=UNDECIDED,
        rows=len(rows()),
        configurations=len(table.rows),
        dtype=", ".join(dict.fromkeys(row.dtype for row in main_rows())),
        cpu=", ".join(dict.fromkeys(row.cpu for row in rows() if row.cpu)) or "an unknown processor",
        correlation=f"{correlation:.2f}",
    )


def _fewer() -> str:
    """Which rows have fewer windows than the dense one."""
    counts: dict[int, int] = {}
    for row in main_rows():
        counts[row.windows] = counts.get(row.windows, 0) + 1
    few = [f"{counts[windows]} have {windows}" for windows in sorted(counts) if windows < _first().windows]
    return (
        f"Of the configurations, {' and '.join(few)} windows." if few else "All configurations have as many."
    )


def _short() -> str:
    """The first sentences: patterns, operands and verdicts, each with its numbers."""
    every, sentences = losses(), []
    for operand, criterion in (("activations", "magnitude"), ("weights", "channel_vector")):
        plain = _plain(every, operand, criterion).set_index("pattern")
        found = [
            f"{plain.loc[pattern, 'perplexity_ratio']:.2f} at {pattern}"
            for pattern in ("2:4", "8:16", "16:32")
            if pattern in plain.index
        ]
        if found:
            name = operand if criterion == "magnitude" else f"{operand} by {NAMES[criterion]}"
            sentences.append(f"Pruned {name} multiply the perplexity by {', '.join(found)}.")
    verdicts = _verdicts()
    sentences.append(f"Verdicts on {len(CLAIMS)} claims: {_counts(verdicts)}.")
    return " ".join(sentences)


def _grid() -> str:
    every = losses()
    columns = [("activations", name) for name in ("magnitude",)] + [
        ("weights", name) for name in ("magnitude", "channel_vector", "ria")
    ]
    plain = {column: _plain(every, *column).set_index("pattern") for column in columns}
    loose = {column: _plain(every, column[0], _loose(column[1])).set_index("pattern") for column in columns}
    head = ["pattern", "kept", *(f"{operand}, {NAMES[criterion]}" for operand, criterion in columns)]
    # A pattern such as 1:4 stands twice: as groups, and as the density of what has no groups.
    places = [
        (pattern, own, label)
        for own, label in ((plain, ""), (loose, "unstructured"))
        for pattern in _patterns(own.values())
    ]
    lines = [
        [
            label or pattern,
            f"{percent(float(Pattern.parse(pattern).density), 0)}",
            *(_cell(own[column], pattern) for column in columns),
        ]
        for pattern, own, label in sorted(places, key=lambda place: -Pattern.parse(place[0]).density)
    ]
    return GRID.format(
        layers=int(every["layers_pruned"].max()),
        marked=MARKED if any(FEWER in cell for line in lines for cell in line) else "",
        table=_table(head, lines),
        widest_pair=_widest_pair(),
    )


def _widest_pair() -> str:
    """Whether 8:16 and 16:32 differ with so many tokens: one sentence per way."""
    table, words = tables()[0], []
    for operand, criterion in (
        ("activations", "magnitude"),
        ("weights", "magnitude"),
        ("weights", "channel_vector"),
    ):
        wide, narrow = (one_operand(operand, pattern, criterion=criterion) for pattern in ("16:32", "8:16"))
        if table.has(wide, narrow):
            difference = table.difference(wide, narrow)
            apart = "the interval does not contain zero" if difference.sign else "zero lies in the interval"
            words.append(f"- {operand}, {NAMES[criterion]}: {_interval(difference)}; {apart}.")
    tokens = _first().windows * (_first().window_tokens - 1)
    head = f"16:32 minus 8:16 on {tokens:,} predicted tokens, in nats per token:\n\n"
    return head + "\n".join(words) if words else ""


def _gains() -> str:
    gains = gain_table(main_rows())
    mitigations = gains[gains["mitigation"] != "none"]
    criteria = gains[gains["mitigation"] == "none"]
    return GAINS.format(
        mitigations=_gain_lines(mitigations, "mitigation"), criteria=_gain_lines(criteria, "against")
    )


def _gain_lines(gains: pd.DataFrame, last: str) -> str:
    patterns = _order(set(gains["pattern"]))
    chosen = [pattern for pattern in ("2:4", "8:16") if pattern in patterns]
    keys = ["operand", "criterion", last]
    lines = []
    for key, own in gains.groupby(keys, sort=False):
        at = own.set_index("pattern")
        cells = [_change(at.loc[pattern]) if pattern in at.index else "" for pattern in chosen]
        if any(cells):
            names = [str(key[0]), NAMES.get(str(key[1]), str(key[1])), NAMES.get(str(key[2]), str(key[2]))]
            lines.append([*names, *cells])
    return _table([*["operand", "criterion", "minus" if last == "against" else last], *chosen], lines)


def _change(row: pd.Series) -> str:
    interval = Interval(row["change"], row["change_low"], row["change_high"])
    share = f", {_signed(row['share'])} of the increase" if math.isfinite(row["share"]) else ""
    return f"{_interval(interval)}{share}; {row['verdict']}"


def _signed(share: float) -> str:
    """A share with its sign; what rounds to nothing has none."""
    whole = round(100 * share)
    return f"{whole:+d} %" if whole else "0 %"


def _others() -> str:
    every = losses()
    both = (every["weights_pattern"] != "") & (every["activations_pattern"] != "")
    rounded = (every["weights_values"] != "") | (every["activations_values"] != "")
    some = every["layers"].str.startswith("!") | every["layers"].str.contains(" ")
    chosen = every[both | rounded | some]
    lines = [
        [
            f"`{row['configuration']}`",
            _increase(row),
            _interval(Interval(*(row[f"perplexity_ratio{end}"] for end in ("", "_low", "_high")))),
        ]
        for row in chosen.to_dict("records")
    ]
    return (
        OTHERS.format(table=_table(["configuration", "loss increase", "perplexity over dense"], lines))
        if lines
        else ""
    )


def _places() -> str:
    table = sensitivities()
    if table.empty:
        return ""
    sums = validate.sums_of_singles(main_rows())
    return PLACES.format(
        kinds=_by_place(table, "kind"),
        blocks=_by_place(
            table, "block", before="If one block only is pruned, blocks counted from the input:\n\n"
        ),
        figure=PLACES_FIGURE if drawable("sensitivity") else "",
        layers=_worst(table),
        sums=_sums(sums),
        verdict=_additivity(sums),
    )


def _by_place(table: pd.DataFrame, scope: str, before: str = "") -> str:
    own = table[(table["scope"] == scope) & (table["values"] == "")]
    if own.empty:
        return ""
    ways = list(dict.fromkeys(_way(row) for row in own.to_dict("records")))
    places = list(dict.fromkeys(own["layers"]))
    cells = {(row["layers"], _way(row)): _increase(row) for row in own.to_dict("records")}
    lines = [[f"`{place}`", *(cells.get((place, way), "") for way in ways)] for place in places]
    return before + _table([scope, *ways], lines)


def _worst(table: pd.DataFrame) -> str:
    """The single layers that lose most, and how few carry how much."""
    own = table[(table["scope"] == "layer") & (table["values"] == "")]
    if own.empty:
        return ""
    words, lines = [], []
    for way, group in own.groupby([_way(row) for row in own.to_dict("records")], sort=False):
        ordered = group.sort_values("loss_increase", ascending=False)
        top = ordered.head(WORST_LAYERS)
        share = top["loss_increase"].sum() / group["loss_increase"].sum()
        unknown = int((group["against_dense"] == UNDECIDED).sum())
        words.append(
            f"{way}: the {len(top)} most sensitive of {len(group)} layers make {percent(share, 0)} of the sum; of {unknown} layers the increase "
            f"{UNDECIDED}."
        )
        lines += [
            [f"`{row['layers']}`", str(way), _increase(row)] for row in ordered.head(3).to_dict("records")
        ]
    head = "Single layers, pruned alone. The three that lose most in each way:\n\n"
    return (
        head
        + _table(["layer", "pruned", "loss increase"], lines)
        + "\n\n"
        + "\n".join(f"- {word}" for word in words)
    )


def _sums(sums: pd.DataFrame) -> str:
    whole = sums[sums["of"] == "all"]
    lines = [
        [
            _way(row), f"{row['singles']} {row['scope']}s",
            *(_interval(Interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))) for name in ("sum", "measured", "ratio")),
        ]
        for row in whole.to_dict("records")
    ]  # fmt: skip
    return _table(
        ["pruned", "singles", "sum [nats/token]", "measured together [nats/token]", "measured / sum"], lines
    )


def _additivity(sums: pd.DataFrame) -> str:
    found = additivity(sums[sums["scope"] == "layer"])
    if math.isnan(found.mean):
        return (
            "Losses of all single layers were not measured in any way, so that no sum of layers is compared."
        )
    parts = sums[(sums["of"] != "all") & (sums["scope"] == "layer") & sums["ratio"].notna()]
    more = ""
    if len(parts):
        more = (
            f" For single kinds and blocks it is {parts['ratio'].median():.2f} in the median, "
            f"{parts['ratio'].min():.2f} to {parts['ratio'].max():.2f}."
        )
    return (
        f"All layers together: measured over the sum of single layers is {found.mean:.2f} in the median over the ways, from "
        f"{found.low:.2f} to {found.high:.2f}.{more} A sum of single losses has to be multiplied by such a factor before it predicts "
        "the loss of a whole model."
    )


def _proxies() -> str:
    points = proxy_points()
    if points.empty:
        return ""
    found = validate.proxy_table(points)
    lines = [
        [
            f"{row['points']} {row['over']}", row["of"], row["proxy"].replace("_", " "),
            _interval(Interval(*(row[f"spearman{end}"] for end in ("", "_low", "_high")))),
            _interval(Interval(*(row[f"kendall{end}"] for end in ("", "_low", "_high")))),
            row["fit"], f"{row['factor_median']:.2f}, {row['factor_p90']:.2f}", f"{row['factor_without']:.2f}",
        ]
        for row in found.to_dict("records")
    ]  # fmt: skip
    head = ["points", "of", "figure", "Spearman", "Kendall", "fit", "within (half, nine tenths)", "without"]
    return PROXIES.format(table=_table(head, lines), verdict=_trust(found))


def _trust(found: pd.DataFrame) -> str:
    """Say for configurations and layers how far the output error goes, the figure that `nmsim quality` draws."""
    words = []
    for over, own in found[found["fit"] == "power law"].groupby("over", sort=False):
        for of, group in own.groupby("of", sort=False):
            best = group[group["proxy"] == TRUSTED].iloc[0]
            order = "orders them" if best["spearman_low"] > 0 else "does not order them for certain"
            useful = "less than" if best["factor_median"] < best["factor_without"] else "no less than"
            words.append(
                f"- {over}, {of}: `{best['proxy']}` {order} (Spearman {best['spearman']:.2f}). It misses half of the increases by a "
                f"factor of at most {best['factor_median']:.2f}, {useful} {best['factor_without']:.2f} without it, and nine tenths "
                f"by at most {best['factor_p90']:.2f}."
            )
    return "\n".join(words)


def _second(table: LossTable) -> str:
    """Another text: the same increases beside those of the first one."""
    first = tables()[0]
    shared = [one for one in table.rows if not one.is_dense and first.has(one, DENSE) and table.has(DENSE)]
    dense = table.find(DENSE)
    if not shared or dense is None:
        return ""
    pairs = [(first.difference(one), table.difference(one)) for one in shared]
    lines = [
        [f"`{one}`", _interval(ours), _interval(theirs)]
        for one, (ours, theirs) in zip(shared, pairs, strict=True)
    ]
    head = ["configuration", f"on {first.setting.text} [nats/token]", f"on {table.setting.text} [nats/token]"]
    ranks = spearman([ours.mean for ours, _ in pairs], [theirs.mean for _, theirs in pairs])
    return SECOND.format(
        text=f"`{table.setting.text}`",
        windows=dense.windows,
        tokens=dense.window_tokens,
        dense=f"{math.exp(dense.loss):.2f}",
        table=_table(head, lines),
        verdict=f"Both texts put the {len(shared)} configurations in nearly one order if Spearman's correlation is near 1: it is "
        f"{_interval(ranks)}.",
    )


@functools.cache
def _answers() -> pd.DataFrame:
    return validate.answer_claims(tables()[0])


def _verdicts() -> list[str]:
    return _answers().drop_duplicates("claim")["verdict"].to_list()


def _counts(verdicts: Sequence[str]) -> str:
    return "; ".join(f"{word} {verdicts.count(word)}" for word in VERDICTS if word in verdicts)


def _claims() -> str:
    found = _answers()
    once = found.drop_duplicates("claim")
    table = "\n".join(
        f"| {row['claim']}: {row['statement']} | **{row['verdict']}**{_of_parts(found, row['claim'])} | {row['source']} |"
        for row in once.to_dict("records")
    )
    details = "\n\n".join(_detail(own) for _, own in found.groupby("claim", sort=False))
    verdicts = once["verdict"].to_list()
    return CLAIMS_HEAD.format(count=len(once), verdicts=_counts(verdicts), table=table, details=details)


def _of_parts(found: pd.DataFrame, claim: str) -> str:
    """How many of several parts hold."""
    judged = found.loc[(found["claim"] == claim) & (found["part_verdict"] != ""), "part_verdict"]
    return f" ({int((judged == HOLDS).sum())} of {len(judged)} parts hold)" if len(judged) > 1 else ""


def _detail(own: pd.DataFrame) -> str:
    first = own.iloc[0]
    lines = [f"**{first['claim']}**: {first['verdict']}. {first['reading']} {first['reason']}".strip()]
    parts = [row for row in own.to_dict("records") if row["part"]]
    if parts:
        lines += ["", "| compared | value | unit | verdict |", "|---|---|---|---|"]
    for row in parts:
        value = Interval(row["value"], row["low"], row["high"])
        text = f"{value.mean:g}" if not row["windows"] else _interval(value)
        lines.append(f"| {_readable(row['part'])} | {text} | {row['unit']} | {row['part_verdict']} |")
    return "\n".join(lines)


def _readable(label: str) -> str:
    for name, readable in NAMES.items():
        if name != "unstructured":
            label = re.sub(rf"\b{name}\b", readable, label)
    return label


def _plain(every: pd.DataFrame, operand: str, criterion: str) -> pd.DataFrame:
    """Rows that prune one operand of all layers by a criterion, without mitigation or rounding."""
    other = "weights" if operand == "activations" else "activations"
    kept = (
        (every["layers"] == "all")
        & (every[f"{operand}_criterion"] == criterion)
        & (every[f"{operand}_mitigation"] == "none")
    )
    kept &= (
        (every[f"{operand}_pattern"] != "")
        & (every[f"{other}_pattern"] == "")
        & (every[f"{operand}_values"] == "")
        & (every[f"{other}_values"] == "")
    )
    found = every[kept]
    return found.assign(pattern=found[f"{operand}_pattern"])


def _loose(criterion: str) -> str:
    return {"magnitude": "unstructured", "channel_vector": "unstructured_channel_vector"}.get(criterion, "")


def _way(row: dict[str, object]) -> str:
    words = [
        row["operand"],
        row["pattern"],
        NAMES.get(str(row["criterion"]), row["criterion"]),
        row["mitigation"],
    ]
    return " ".join(str(word) for word in words if word not in ("none", ""))


def _cell(frame: pd.DataFrame, pattern: str) -> str:
    """The increase of one pattern, marked if it has fewer windows than the dense row, so that none reads across."""
    if pattern not in frame.index:
        return ""
    row = frame.loc[pattern].to_dict()
    return _increase(row) + (FEWER if row["windows"] < _first().windows else "")


def _increase(row: dict[str, float]) -> str:
    return _interval(Interval(*(row[name] for name in INCREASE)))


def _interval(found: Interval) -> str:
    """Mean and ends with as many decimals as the width of the interval needs."""
    if not math.isfinite(found.mean):
        return "unknown"
    width = found.high - found.low
    decimals = (
        3 if not math.isfinite(width) or width <= 0 else min(max(1 - math.floor(math.log10(width)), 0), 5)
    )
    mean, low, high = (f"{0.0 if abs(end) < 0.5 * 10**-decimals else end:.{decimals}f}" for end in found)
    return f"{mean} ({low} to {high})" if math.isfinite(width) else mean


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows_of_text = [f"| {' | '.join(map(str, line))} |" for line in lines]
    if not rows_of_text:
        return "No such rows are committed."
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows_of_text])


def _patterns(frames: Iterable[pd.DataFrame]) -> list[str]:
    return _order({pattern for frame in frames for pattern in frame.index})


def _order(patterns: Iterable[str]) -> list[str]:
    return sorted(patterns, key=lambda text: (Pattern.parse(text).m, Pattern.parse(text).n))
