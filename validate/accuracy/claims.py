"""Claims of both papers, one by one, beside what was measured: a claim is a record with a function from rows to an answer.

Nothing here holds a measured number. A claim says what is compared and when it counts as true; the rows decide.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from nmsim.case import SparseOperand
from nmsim.format import sparse_format
from nmsim.pattern import Pattern
from nmsim.quality.configuration import ALL_LAYERS, Configuration
from nmsim.quality.way import Way
from validate.accuracy.losses import DENSE, LossTable, one_operand, with_way
from validate.accuracy.statistics import (
    FEWEST_WINDOWS,
    UNDECIDED,
    FloatArray,
    Interval,
    difference_of_differences,
    paired_difference,
    ratio_of_excess,
    ratio_of_means,
)

HOLDS, FAILS = "holds", "does not hold"
NOT_MEASURED, NOT_MEASURABLE = "not measured", "not measurable here"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_MEASURED, NOT_MEASURABLE)
NATS, TIMES, SHARE, BITS = "nats/token", "×", "share", "bits/element"
UNITS = (NATS, TIMES, SHARE, BITS)
WEIGHTS_PAPER, ACTIVATIONS_PAPER = "arXiv 2507.03052", "arXiv 2509.22166"
PATTERNS = ("2:4", "4:8", "8:16", "16:32")
ENDS_OF_PATTERNS = ("2:4", "8:16")
"""Patterns at which a mitigation is looked at."""
WANDA = "channel_vector"
CRITERIA_OF: dict[SparseOperand, tuple[str, ...]] = {
    "weights": ("magnitude", WANDA),
    "activations": ("magnitude",),
}
"""Criteria that mitigations are compared under."""
LOOSE_OF = {"magnitude": "unstructured", WANDA: "unstructured_channel_vector"}
"""Criterion of groups -> the same without groups."""
HALF = "1:2"
EQUAL_WITHIN = 0.01
"""Two losses count as equal if the interval of their difference stays within so many nats per token."""
MOST_OF_GAP = 0.9
"""A pattern is close to unstructured if it closes at least this share of the gap between 2:4 and unstructured."""
NEAR = 0.1
"""`Approximately` allows this relative deviation."""
WITHOUT_QKV = (
    frozenset({"!*.q_proj", "!*.k_proj", "!*.v_proj"}),
    frozenset({"*.o_proj", "*.gate_proj", "*.up_proj", "*.down_proj"}),
)
"""Globs that leave the q, k and v projections dense, as sets."""


class Part(NamedTuple):
    """One number that an answer rests on. `windows` is 0 if it is exact and not measured."""

    label: str
    interval: Interval
    unit: str
    verdict: str
    windows: int


class Answer(NamedTuple):
    """A verdict, the numbers it rests on, and why it is no more than that."""

    verdict: str
    parts: tuple[Part, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """What a paper says, its source, how it is read here, and the function that answers it from rows.

    Parameters
    ----------
    name : str
        Short and unique.
    statement : str
    source : str
        The paper and a tag. `[P]` was read in its text, `[C]` in the authors' code or logs; `[D]` is derived from both.
    reading : str
        What is compared, and when the claim holds.
    answer : function
        Takes a `LossTable`.
    """

    name: str
    statement: str
    source: str
    reading: str
    answer: Callable[[LossTable], Answer]


Question = Callable[[LossTable], Iterable[Part]]
"""Gives the parts that can be answered from a table."""


def judged(question: Question) -> Callable[[LossTable], Answer]:
    """Make an answer of parts: it holds if all parts do, and does not hold if one does not.

    Examples
    --------
    >>> judged(lambda table: [])(None).verdict
    'not measured'
    """

    def answer(table: LossTable) -> Answer:
        parts = tuple(question(table))
        verdicts = {part.verdict for part in parts}
        if not parts:
            return Answer(NOT_MEASURED, reason="No rows of what is compared.")
        if FAILS in verdicts:
            return Answer(FAILS, parts)
        return Answer(HOLDS if verdicts == {HOLDS} else UNDECIDED, parts)

    return answer


def not_measurable(reason: str, question: Question = lambda table: ()) -> Callable[[LossTable], Answer]:
    """Say why a claim has no verdict, with the numbers that are nearest to it."""
    return lambda table: Answer(
        NOT_MEASURABLE, tuple(part._replace(verdict="") for part in question(table)), reason
    )


def answer_claims(table: LossTable, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """Answer all claims from the rows of one model and text.

    Parameters
    ----------
    table : LossTable
    claims : sequence of Claim, optional
        `CLAIMS` if left out.

    Returns
    -------
    DataFrame
        A row per claim and part, in their order: `claim`, `statement`, `source`, `reading`, `verdict`, `reason`, `part`,
        `value`, `low`, `high`, `unit`, `part_verdict`, `windows`. A claim without parts has one row, its numbers NaN.
    """
    rows = []
    for claim in CLAIMS if claims is None else claims:
        answer = claim.answer(table)
        nothing = Part("", Interval(*[float("nan")] * 3), "", "", 0)
        rows += [
            {
                "claim": claim.name,
                "statement": claim.statement,
                "source": claim.source,
                "reading": claim.reading,
                "verdict": answer.verdict,
                "reason": answer.reason,
                "part": part.label,
                **dict(zip(("value", "low", "high"), part.interval, strict=True)),
                "unit": part.unit,
                "part_verdict": part.verdict,
                "windows": part.windows,
            }
            for part in answer.parts or (nothing,)
        ]
    return pd.DataFrame(rows)


# What parts are made of


def less(table: LossTable, label: str, lower: Configuration, higher: Configuration) -> list[Part]:
    """The loss of one configuration is below that of another; the part is `lower` minus `higher`."""
    if not table.has(lower, higher):
        return []
    windows = table.windows(lower, higher)
    difference = table.difference(lower, higher)
    return [Part(label, difference, NATS, _verdict(-difference.sign, windows), windows)]


def not_more(table: LossTable, label: str, lower: Configuration, higher: Configuration) -> list[Part]:
    """The loss of one configuration is not above that of another by more than `EQUAL_WITHIN`."""
    if not table.has(lower, higher):
        return []
    windows = table.windows(lower, higher)
    found = table.difference(lower, higher)
    sign = int(found.high < EQUAL_WITHIN) - int(found.low > EQUAL_WITHIN)
    return [Part(label, found, NATS, _verdict(sign, windows), windows)]


def within(label: str, found: Interval, low: float, high: float, *, unit: str, windows: int) -> Part:
    """The whole interval lies between two numbers; it does not hold if none of it does."""
    inside, outside = low <= found.low and found.high <= high, found.high < low or high < found.low
    return Part(label, found, unit, _verdict(int(inside) - int(outside), windows), windows)


def _verdict(sign: int, windows: int) -> str:
    if windows < FEWEST_WINDOWS:
        return UNDECIDED
    return (UNDECIDED, HOLDS, FAILS)[sign]


def increases(table: LossTable, *configurations: Configuration) -> list[FloatArray]:
    """Loss increases against dense per window, on the windows that all of them have."""
    dense, *losses = table.losses(DENSE, *configurations)
    return [np.subtract(one, dense) for one in losses]


# Questions


def activations_lose_less(criterion: str) -> Question:
    """Activations by magnitude against weights by a criterion, at each pattern."""

    def question(table: LossTable) -> Iterable[Part]:
        for pattern in PATTERNS:
            activations = one_operand("activations", pattern)
            weights = one_operand("weights", pattern, criterion=criterion)
            yield from less(table, f"{pattern}: activations minus weights", activations, weights)
        loose = one_operand("activations", HALF, criterion="unstructured")
        weights = one_operand("weights", HALF, criterion=LOOSE_OF[criterion])
        yield from less(table, "unstructured: activations minus weights", loose, weights)

    return question


def wider_loses_less(operand: SparseOperand, criterion: str, patterns: Sequence[str] = PATTERNS) -> Question:
    """Each pattern loses less than the next narrower one of the same density."""

    def question(table: LossTable) -> Iterable[Part]:
        measured = [one for one in patterns if table.has(one_operand(operand, one, criterion=criterion))]
        for narrow, wide in itertools.pairwise(measured):
            pair = (one_operand(operand, one, criterion=criterion) for one in (wide, narrow))
            yield from less(table, f"{operand}, {criterion}: {wide} minus {narrow}", *pair)

    return question


def other_densities(table: LossTable) -> Iterable[Part]:
    """Wider patterns of a quarter and of three quarters kept."""
    for operand in CRITERIA_OF:
        for criterion in CRITERIA_OF[operand]:
            for patterns in (("1:4", "2:8", "4:16"), ("6:8", "12:16")):
                yield from wider_loses_less(operand, criterion, patterns)(table)


def gap_closed(operand: SparseOperand, criterion: str, patterns: Sequence[str] = PATTERNS[1:]) -> Question:
    """Share of the gap between 2:4 and unstructured 50 % that wider patterns close; the last one is judged."""

    def question(table: LossTable) -> Iterable[Part]:
        narrow = one_operand(operand, "2:4", criterion=criterion)
        loose = one_operand(operand, HALF, criterion=LOOSE_OF[criterion])
        for pattern in patterns:
            wide = one_operand(operand, pattern, criterion=criterion)
            if not table.has(narrow, loose, wide):
                continue
            of_narrow, of_loose, of_wide = table.losses(narrow, loose, wide)
            share = ratio_of_means(of_narrow - of_wide, of_narrow - of_loose)
            sign = int(share.low >= MOST_OF_GAP) - int(share.high < MOST_OF_GAP)
            label = f"{operand}, {criterion}: {pattern} closes"
            yield Part(label, share, SHARE, _verdict(sign, len(of_wide)), len(of_wide))

    return question


def last_of(*questions: Question) -> Callable[[LossTable], Answer]:
    """Judge the last part of each question only; the parts before it are shown for comparison."""

    def answer(table: LossTable) -> Answer:
        found = [list(question(table)) for question in questions]
        whole = judged(lambda _: [parts[-1] for parts in found if parts])(table)
        shown = tuple(
            part if part is parts[-1] else part._replace(verdict="") for parts in found for part in parts
        )
        return whole._replace(parts=shown)

    return answer


def increase_ratio(ratio: Callable[..., Interval]) -> Question:
    """The increase of 2:4 over that of 16:32, against 2.7: of the loss, or of the perplexity."""

    def question(table: LossTable) -> Iterable[Part]:
        for operand in CRITERIA_OF:
            for criterion in CRITERIA_OF[operand]:
                pair = [one_operand(operand, pattern, criterion=criterion) for pattern in ("2:4", "16:32")]
                if table.has(DENSE, *pair):
                    narrow, wide = increases(table, *pair)
                    ends = (2.7 * (1 - NEAR), 2.7 * (1 + NEAR))
                    label = f"{operand}, {criterion}: 2:4 over 16:32"
                    yield within(label, ratio(narrow, wide), *ends, unit=TIMES, windows=len(wide))

    return question


def brings(operand: SparseOperand, name: str, *, criteria: Sequence[str] = ()) -> Question:
    """A mitigation, alone, lowers the loss at 2:4 and at 8:16, whatever its size."""

    def question(table: LossTable) -> Iterable[Part]:
        ways = table.ways(operand)
        for way, configuration in ways.items():
            judged_here = str(way.pattern) in ENDS_OF_PATTERNS and way.names == (name,)
            if not judged_here or way.criterion not in (criteria or CRITERIA_OF[operand]):
                continue
            plain = with_way(DENSE, way._replace(mitigation=()))
            label = f"{operand}, {way.pattern} {way.criterion}: {way.mitigation_text} minus none"
            yield from less(table, label, configuration, plain)

    return question


def criterion_brings(operand: SparseOperand, criterion: str, against: str) -> Question:
    """A criterion, without mitigation, loses less than another at 2:4 and at 8:16."""

    def question(table: LossTable) -> Iterable[Part]:
        for pattern in ENDS_OF_PATTERNS:
            pair = (one_operand(operand, pattern, criterion=name) for name in (criterion, against))
            yield from less(table, f"{operand}, {pattern}: {criterion} minus {against}", *pair)

    return question


def every(*questions: Question) -> Question:
    """The parts of several questions."""
    return lambda table: (part for question in questions for part in question(table))


def structured_outliers(table: LossTable) -> Iterable[Part]:
    """Outliers in a pattern against as many without one, at each size and pattern.

    A window that does not divide a row keeps its n in the rest of the row as well. So it keeps more than its share. The
    smallest window of a share has the least such rest, and is the one that is compared.
    """
    for operand in CRITERIA_OF:
        ways = table.ways(operand)
        loose = [way for way in ways if way.names == ("outliers_unstructured",)]
        for other in loose:
            share = Pattern.parse(other.mitigation[0].size)
            fitting = [
                way
                for way in ways
                if way.names == ("outliers",)
                and way._replace(mitigation=()) == other._replace(mitigation=())
                and Pattern.parse(way.mitigation[0].size).density == share.density
            ]
            if not fitting:
                continue
            tight = min(fitting, key=lambda way: Pattern.parse(way.mitigation[0].size).m)
            label = f"{operand}, {other.pattern} {other.criterion}: {tight.mitigation[0].size} minus unstructured {share}"
            yield from not_more(table, label, ways[tight], ways[other])


def correction_at_2_4(name: str, operand: SparseOperand) -> Question:
    """What a mitigation brings at 2:4, minus what it brings at 8:16."""

    def question(table: LossTable) -> Iterable[Part]:
        for criterion in CRITERIA_OF[operand]:
            four = [
                one_operand(operand, pattern, criterion=criterion, mitigation=mitigation)
                for pattern in ENDS_OF_PATTERNS
                for mitigation in (name, "none")
            ]
            if not table.has(*four):
                continue
            ours, plain, theirs, their_plain = table.losses(*four)
            # A change below zero is a gain, so that more gain at 2:4 is a difference below zero.
            found = difference_of_differences((ours, plain), (theirs, their_plain))
            label = f"{operand}, {criterion}, {name}: change at 2:4 minus change at 8:16"
            yield Part(label, found, NATS, _verdict(-found.sign, len(ours)), len(ours))

    return question


def four_of_eight(table: LossTable) -> Iterable[Part]:
    """8:16 against 4:8, and the metadata bits of both."""
    bits = [
        float(sparse_format(pattern, encoding="combinatorial").bits_per_element)
        for pattern in ("4:8", "8:16")
    ]
    for pattern, value in zip(("4:8", "8:16"), bits, strict=True):
        same = HOLDS if bits[0] == bits[1] else FAILS
        yield Part(f"metadata of {pattern}, combinatorial", Interval(value, value, value), BITS, same, 0)
    for operand in CRITERIA_OF:
        for criterion in CRITERIA_OF[operand]:
            pair = (one_operand(operand, pattern, criterion=criterion) for pattern in ("8:16", "4:8"))
            yield from less(table, f"{operand}, {criterion}: 8:16 minus 4:8", *pair)


def storage(table: LossTable) -> Iterable[Part]:
    """Metadata bits of 2:4 and 8:16: exact, of the encoding."""
    for pattern, said in (("2:4", 0.75), ("8:16", 0.875)):
        value = float(sparse_format(pattern, encoding="combinatorial").bits_per_element)
        verdict = HOLDS if value == said else FAILS
        yield Part(f"metadata of {pattern}, combinatorial", Interval(value, value, value), BITS, verdict, 0)


def both_operands(table: LossTable) -> Iterable[Part]:
    """The loss increase of both operands sparse, over the sum of the increases of each alone."""
    for configuration in table.rows:
        weights, activations = configuration.weights, configuration.activations
        if weights is None or activations is None or not (weights.pattern and activations.pattern):
            continue
        alone = [replace(configuration, weights=None), replace(configuration, activations=None)]
        if table.has(DENSE, *alone):
            both, *singles = increases(table, configuration, *alone)
            found = ratio_of_means(both, np.sum(singles, axis=0))
            label = f"{configuration}: together over sum"
            yield within(label, found, 1 - NEAR, 1 + NEAR, unit=TIMES, windows=len(both))


def collapse(table: LossTable) -> Iterable[Part]:
    """Unstructured 70 % against 2:4, which keeps 50 %."""
    for operand in CRITERIA_OF:
        for criterion in CRITERIA_OF[operand]:
            loose = one_operand(operand, "3:10", criterion=LOOSE_OF[criterion])
            narrow = one_operand(operand, "2:4", criterion=criterion)
            label = f"{operand}, {criterion}: 2:4 minus unstructured 70 %"
            yield from less(table, label, narrow, loose)


def without_qkv(table: LossTable) -> Iterable[Part]:
    """q, k and v left dense against all layers pruned."""
    for configuration in table.rows:
        if frozenset(configuration.layers.split()) in WITHOUT_QKV:
            whole = replace(configuration, layers=ALL_LAYERS)
            ways = " ".join(str(way) for way in (configuration.weights, configuration.activations) if way)
            yield from less(table, f"{ways}: q, k, v dense minus all pruned", configuration, whole)


def rounded_before(table: LossTable) -> Iterable[Part]:
    """Values rounded before they are pruned against after; it holds if the order makes no difference."""
    for configuration in table.rows:
        for operand in CRITERIA_OF:
            way = configuration.way(operand)
            if way is None or way.values is None or way.pattern is None or way.values.when != "before":
                continue
            later = way._replace(values=way.values._replace(when="after"))
            after = with_way(configuration, later)
            if table.has(after):
                found, windows = table.difference(configuration, after), table.windows(configuration, after)
                label = f"{_without_when(way)}: before minus after"
                yield within(label, found, -EQUAL_WITHIN, EQUAL_WITHIN, unit=NATS, windows=windows)


def rounded_adds(table: LossTable) -> Iterable[Part]:
    """What rounding adds to a pruned operand, minus what it adds to the dense one."""
    for configuration in table.rows:
        for operand in CRITERIA_OF:
            way = configuration.way(operand)
            if way is None or way.values is None or way.pattern is None or way.values.when != "before":
                continue
            pruned = with_way(configuration, way._replace(values=None))
            alone = with_way(DENSE, Way(operand, None, values=way.values))
            if table.has(pruned, alone, DENSE):
                four = table.losses(configuration, pruned, alone, DENSE)
                found, windows = (
                    difference_of_differences((four[0], four[1]), (four[2], four[3])),
                    len(four[0]),
                )
                label = f"{_without_when(way)}: added to pruned minus added to dense"
                yield within(label, found, -EQUAL_WITHIN, EQUAL_WITHIN, unit=NATS, windows=windows)


def _without_when(way: Way) -> str:
    return str(way).removesuffix("/before")


def eight_of_sixteen(table: LossTable) -> Iterable[Part]:
    """Loss increases of 8:16 against dense, without a verdict."""
    for operand in CRITERIA_OF:
        for criterion in CRITERIA_OF[operand]:
            one = one_operand(operand, "8:16", criterion=criterion)
            if table.has(one, DENSE):
                found = paired_difference(*table.losses(one, DENSE))
                yield Part(
                    f"{operand}, {criterion}: 8:16 minus dense", found, NATS, "", table.windows(one, DENSE)
                )


_NAMED = f"{ACTIVATIONS_PAPER}: light mitigations and criteria [P], this one and its formula [C]"
_LOWER = "At 2:4 and at 8:16 the loss is lower than without it."
_EACH = "Each pattern loses less than the next narrower one."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "activations against weights, by magnitude",
        'Activation pruning "consistently outperforms" weight pruning at matched sparsity.',
        f"{ACTIVATIONS_PAPER} [P]; the weights by magnitude are those of the authors' code [C]",
        "Magnitude on both sides: activations lose less at every pattern.",
        judged(activations_lose_less("magnitude")),
    ),
    Claim(
        "activations against weights, by Wanda",
        "The same against weights that are chosen with the norms of their inputs.",
        f"{ACTIVATIONS_PAPER} [P]; this comparison was not read in the paper",
        "Activations by magnitude, weights by magnitude times input norm: activations lose less at every pattern.",
        judged(activations_lose_less(WANDA)),
    ),
    Claim(
        "wider patterns, weights",
        '8:16 offers "greater flexibility" than 2:4.',
        f"{WEIGHTS_PAPER} [P]",
        _EACH,
        judged(every(*(wider_loses_less("weights", name) for name in CRITERIA_OF["weights"]))),
    ),
    Claim(
        "wider patterns, activations",
        "2:4, 4:8, 8:16 and 16:32 lose less and less.",
        f"{ACTIVATIONS_PAPER} [P]: the patterns, and the last against the first",
        _EACH,
        judged(wider_loses_less("activations", "magnitude")),
    ),
    Claim(
        "16:32 near unstructured, activations",
        '16:32 "approaches the performance of unstructured 50% sparsity".',
        f"{ACTIVATIONS_PAPER} [P]",
        f"16:32 closes at least {MOST_OF_GAP} of the gap between 2:4 and unstructured 50 %.",
        last_of(gap_closed("activations", "magnitude")),
    ),
    Claim(
        "16:32 near unstructured, weights",
        "The same of weights.",
        f"{ACTIVATIONS_PAPER} [P] says it of activations only",
        f"16:32 closes at least {MOST_OF_GAP} of the gap between 2:4 and unstructured 50 %.",
        last_of(*(gap_closed("weights", name) for name in CRITERIA_OF["weights"])),
    ),
    *(
        Claim(
            f"2.7x, as {what}",
            '16:32 is "approximately 2.7x better than 2:4".',
            f"{ACTIVATIONS_PAPER} [P], of activations; what is divided was not read",
            f"Read as a ratio of increases of the {what}: within {NEAR} of 2.7, relatively.",
            judged(increase_ratio(ratio)),
        )
        for what, ratio in (("loss", ratio_of_means), ("perplexity", ratio_of_excess))
    ),
    Claim(
        "8:16 as the balance",
        '8:16 "offers an optimal balance of accuracy and practicality".',
        f"{ACTIVATIONS_PAPER} [P]",
        "The share of the gap between 2:4 and unstructured that 8:16 closes.",
        not_measurable(
            "A balance weighs costs, and losses say nothing of these.",
            every(gap_closed("activations", "magnitude", ("8:16",)), gap_closed("weights", WANDA, ("8:16",))),
        ),
    ),
    Claim(
        "metadata of 2:4 and 8:16",
        '"0.875 vs. 0.75 bits/element".',
        f"{WEIGHTS_PAPER} [P]",
        "Bits of the combinatorial encoding. They are exact, and not measured.",
        judged(storage),
    ),
    Claim(
        "4:8 does not pay",
        "4:8 and 8:16 have the same metadata bits, so 8:16 is the better of the two.",
        "derived from both papers [D]",
        "Equal bits of the combinatorial encoding, and 8:16 loses less.",
        judged(four_of_eight),
    ),
    Claim(
        "other densities",
        "Wider patterns lose less at a quarter and at three quarters kept as well.",
        "derived from both papers [D]; both speak of one half",
        _EACH,
        judged(other_densities),
    ),
    Claim(
        "variance correction, weights",
        "Variance correction improves sparse models.",
        f"{WEIGHTS_PAPER} [P]; its formula was not read",
        _LOWER,
        judged(brings("weights", "weight_correction")),
    ),
    Claim(
        "variance correction, activations",
        "VAR improves sparse activations.",
        _NAMED,
        _LOWER,
        judged(brings("activations", "var")),
    ),
    Claim(
        "variance correction brings more at 2:4",
        "A coarser pattern loses more variance, so that its correction brings more.",
        "derived from both papers [D]",
        "What it changes at 2:4 minus what it changes at 8:16 is below zero.",
        judged(
            every(correction_at_2_4("var", "activations"), correction_at_2_4("weight_correction", "weights"))
        ),
    ),
    Claim(
        "equalisation, weights",
        "SmoothQuant-like equalisation improves sparse models.",
        f"{WEIGHTS_PAPER} [P]; its formula was not read",
        _LOWER,
        judged(brings("weights", "smooth_static")),
    ),
    Claim(
        "equalisation, activations",
        "Equalisation improves sparse activations.",
        f"{ACTIVATIONS_PAPER}: formula [C]",
        _LOWER,
        judged(every(brings("activations", "smooth_static"), brings("activations", "smooth_dynamic"))),
    ),
    *(
        Claim(
            f"{title}, activations",
            f"{title} improves sparse activations.",
            _NAMED,
            _LOWER,
            judged(brings("activations", name)),
        )
        for title, name in (
            ("D-PTS (mean)", "dpts_mean"),
            ("D-PTS (median)", "dpts_median"),
            ("S-PTS", "spts"),
            ("L-PTS", "lpts"),
            ("Learnable scale and shift", "scale_shift"),
            ("R-Sparse", "r_sparse"),
        )
    ),
    Claim(
        "outliers",
        "Outliers that are kept beside the pattern improve sparse models.",
        f"{WEIGHTS_PAPER} [P] for weights",
        _LOWER,
        judged(every(*(brings(operand, "outliers") for operand in CRITERIA_OF))),
    ),
    Claim(
        "structured outliers",
        'Structured patterns for outliers give "equivalent or better results" than unstructured outliers.',
        f"{WEIGHTS_PAPER} [P]",
        f"Their loss is not above that of as many unstructured ones by more than {EQUAL_WITHIN} nats per token.",
        judged(structured_outliers),
    ),
    Claim(
        "salient columns",
        "Whole columns of salient weights that stay dense improve sparse models.",
        f"{WEIGHTS_PAPER} [P] of salient weights; whole columns are of arXiv 2408.15300",
        _LOWER,
        judged(every(*(brings(operand, "salient_columns") for operand in CRITERIA_OF))),
    ),
    *(
        Claim(
            title,
            f"{title} chooses better than magnitude.",
            _NAMED,
            "At 2:4 and at 8:16 it loses less than magnitude.",
            judged(criterion_brings("activations", name, "magnitude")),
        )
        for title, name in (
            ("CLACT", "clact"),
            ("Amber-Pruner", "amber"),
            ("Variance of weights", "weight_variance"),
        )
    ),
    Claim(
        "Wanda",
        "Magnitude times input norm chooses weights better than magnitude.",
        "arXiv 2306.11695; whether the papers use it was not read",
        "At 2:4 and at 8:16 it loses less than magnitude.",
        judged(criterion_brings("weights", WANDA, "magnitude")),
    ),
    Claim(
        "RIA",
        "Relative importance chooses weights better than magnitude times input norm.",
        "arXiv 2402.12419; whether the papers use it was not read",
        "At 2:4 and at 8:16 it loses less than magnitude times input norm.",
        judged(criterion_brings("weights", "ria", WANDA)),
    ),
    Claim(
        "CLACT in decode",
        "With one token, CLACT chooses as magnitude does.",
        f"{ACTIVATIONS_PAPER}: follows from the formula [C]",
        "It would need one step per token.",
        not_measurable(
            "Whole windows are evaluated at once, as in prefill. The statement itself is a proof, not a measurement."
        ),
    ),
    Claim(
        "70 % unstructured",
        "70 % unstructured loses far more than 2:4, which keeps one half.",
        f"{ACTIVATIONS_PAPER}: logs of one model [C]",
        "2:4 loses less than unstructured 70 %.",
        judged(collapse),
    ),
    Claim(
        "q, k and v left dense",
        "One model is pruned with its q, k and v projections left dense.",
        f"{ACTIVATIONS_PAPER}: logs and scripts [C]",
        "The loss is lower than if all layers are pruned.",
        judged(without_qkv),
    ),
    Claim(
        "both operands",
        "Losses of pruned weights and pruned activations add up.",
        "an open question, said by neither paper",
        f"Loss increase of both, over the sum of each alone: within {NEAR} of 1.",
        judged(both_operands),
    ),
    Claim(
        "rounding before or after",
        "It makes no difference whether values are rounded before or after they are pruned.",
        "an open question, said by neither paper",
        f"Both differ by at most {EQUAL_WITHIN} nats per token.",
        judged(rounded_before),
    ),
    Claim(
        "rounding and pruning",
        "Rounding adds as much loss to a pruned operand as to a dense one.",
        "an open question, said by neither paper",
        f"Both additions differ by at most {EQUAL_WITHIN} nats per token.",
        judged(rounded_adds),
    ),
    Claim(
        "Performance Threshold",
        "8:16 can surpass the Performance Threshold, the accuracy of a dense model of equal memory.",
        f"{WEIGHTS_PAPER} [P]",
        "The loss increase of 8:16. The rival of equal memory would be a smaller or a quantised dense model.",
        not_measurable(
            "The measured weights come from a 4-bit file. A dense rival of 4 bits costs no accuracy here, and no smaller "
            "dense model of the same family was measured.",
            eight_of_sixteen,
        ),
    ),
    Claim(
        "four models, six tasks",
        "The results hold for four models of 4 to 8 billion parameters on zero-shot tasks.",
        f"{ACTIVATIONS_PAPER} [P], tasks [C]",
        "It would need those models and tasks.",
        not_measurable(
            "One small model is measured, and by its loss on text. A loss is not an accuracy on a task."
        ),
    ),
)
"""The claims, in the order of the page."""
