"""Claims: verdicts follow from rows with planted effects, and turn when the effects do."""

import math

import pytest

from nmsim.quality.configuration import Configuration
from validate.accuracy import claims as said
from validate.accuracy.claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    NOT_MEASURABLE,
    NOT_MEASURED,
    UNITS,
    VERDICTS,
    answer_claims,
)
from validate.accuracy.losses import loss_tables, one_operand
from validate.accuracy.statistics import UNDECIDED

VERDICT = {
    "activations against weights, by magnitude": HOLDS,
    "activations against weights, by Wanda": HOLDS,
    "wider patterns, weights": HOLDS,
    "wider patterns, activations": HOLDS,
    "16:32 near unstructured, activations": HOLDS,
    "16:32 near unstructured, weights": HOLDS,
    "2.7x, as loss": FAILS,
    "8:16 as the balance": NOT_MEASURABLE,
    "metadata of 2:4 and 8:16": HOLDS,
    "4:8 does not pay": HOLDS,
    "other densities": NOT_MEASURED,
    "variance correction, weights": FAILS,
    "variance correction, activations": HOLDS,
    "variance correction brings more at 2:4": FAILS,
    "equalisation, weights": HOLDS,
    "equalisation, activations": NOT_MEASURED,
    "D-PTS (mean), activations": UNDECIDED,
    "S-PTS, activations": NOT_MEASURED,
    "L-PTS, activations": HOLDS,
    "R-Sparse, activations": HOLDS,
    "outliers": HOLDS,
    "structured outliers": FAILS,
    "Amber-Pruner": HOLDS,
    "Variance of weights": FAILS,
    "Wanda": HOLDS,
    "70 % unstructured": HOLDS,
    "q, k and v left dense": HOLDS,
    "both operands": FAILS,
    "rounding before or after": FAILS,
    "rounding and pruning": FAILS,
    "Performance Threshold": NOT_MEASURABLE,
    "four models, six tasks": NOT_MEASURABLE,
}


@pytest.fixture(scope="module")
def table(rows):
    (found,) = loss_tables(rows)
    return found


@pytest.fixture(scope="module")
def answered(table):
    return answer_claims(table)


def verdict(name, table):
    (claim,) = [one for one in CLAIMS if one.name == name]
    return claim.answer(table).verdict


def parts(answered, name):
    rows = answered[answered["claim"] == name]
    return dict(zip(rows["part"], rows["value"], strict=True))


@pytest.mark.parametrize("name", VERDICT)
def test_a_verdict_is_the_planted_one(answered, name):
    assert set(answered.loc[answered["claim"] == name, "verdict"]) == {VERDICT[name]}


def test_claims_have_names_of_their_own_and_say_where_they_were_read():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.statement.endswith(".")
        assert claim.reading.endswith(".")
        assert any(mark in claim.source for mark in ("[P]", "[C]", "[D]", "arXiv", "open question"))


def test_words_and_units_are_those_that_are_listed(answered):
    assert set(answered["verdict"]) <= set(VERDICTS)
    assert set(answered["unit"]) <= {*UNITS, ""}


def test_numbers_are_those_of_the_formula(answered):
    near = parts(answered, "16:32 near unstructured, activations")
    assert near["activations, magnitude: 16:32 closes"] == pytest.approx(0.95, abs=0.01)
    assert near["activations, magnitude: 4:8 closes"] == pytest.approx(0.53, abs=0.01)
    assert parts(answered, "2.7x, as loss")["activations, magnitude: 2:4 over 16:32"] == pytest.approx(
        1.6 / 0.7, rel=0.01
    )
    together = parts(answered, "both operands")
    assert together[
        "weights 8:16 channel_vector; activations 8:16 magnitude: together over sum"
    ] == pytest.approx(2.0 / (0.8 + 0.88), rel=0.01)
    added = parts(answered, "rounding and pruning")
    assert added["activations 8:16 magnitude int4/64: added to pruned minus added to dense"] == pytest.approx(
        0.2, abs=0.01
    )


def test_a_claim_turns_with_the_rows(make_model):
    """The same model with one effect turned around."""
    model = make_model(seed=1)
    wide, narrow = (one_operand("activations", pattern) for pattern in ("8:16", "4:8"))
    for wider, expected in ((0.7, HOLDS), (1.0001, UNDECIDED), (1.3, FAILS)):
        found = [model.row(Configuration(), 0.0), model.row(narrow, 1.0), model.row(wide, wider)]
        assert verdict("wider patterns, activations", *loss_tables(found)) == expected


def test_perplexities_are_divided_as_they_are(answered):
    found = parts(answered, "2.7x, as perplexity")["activations, magnitude: 2:4 over 16:32"]
    assert found == pytest.approx(math.expm1(1.6) / math.expm1(0.7), rel=0.02)


@pytest.mark.parametrize(("ratio", "expected"), [(2.7, HOLDS), (2.45, UNDECIDED), (2.0, FAILS)])
def test_the_ratio_is_near_far_or_at_the_edge(make_model, ratio, expected):
    model = make_model(seed=2)
    ways = (one_operand("activations", pattern) for pattern in ("2:4", "16:32"))
    increases = zip(ways, (ratio, 1.0), strict=True)
    found = [model.row(Configuration(), 0.0), *(model.row(*pair, noise=0.1) for pair in increases)]
    assert verdict("2.7x, as loss", *loss_tables(found)) == expected


def test_few_windows_give_no_verdict(make_model):
    (table,) = loss_tables(make_model(windows=4).rows())
    assert verdict("wider patterns, activations", table) == UNDECIDED


def test_without_rows_nothing_is_measured(make_row):
    (table,) = loss_tables([make_row(Configuration(), [3.0] * 8)])
    exact = {"metadata of 2:4 and 8:16", "4:8 does not pay"}
    found = {claim.name: claim.answer(table).verdict for claim in CLAIMS}
    assert {name for name, word in found.items() if word not in (NOT_MEASURED, NOT_MEASURABLE)} == exact


def test_what_is_exact_needs_no_windows(table):
    (claim,) = [one for one in CLAIMS if one.name == "metadata of 2:4 and 8:16"]
    assert [(part.interval.mean, part.windows) for part in claim.answer(table).parts] == [
        (0.75, 0),
        (0.875, 0),
    ]


def test_equal_losses_are_not_more(make_model):
    """Structured outliers may cost up to a hundredth of a nat, which is what `equivalent` is read as."""
    model = make_model(seed=3)
    names = ("outliers=8:256", "outliers_unstructured=8:256")
    pair = [one_operand("weights", "8:16", mitigation=name) for name in names]
    for more, expected in ((0.0, HOLDS), (0.1, FAILS)):
        found = [model.row(one, 1.0 + more * place, 0.001) for place, one in enumerate(reversed(pair))]
        assert verdict("structured outliers", *loss_tables(found)) == expected


def test_no_measured_number_stands_in_the_claims():
    """What may stand there: numbers of the papers, thresholds, patterns and shares of pruning."""
    text = " ".join(f"{claim.statement} {claim.reading}" for claim in CLAIMS)
    numbers = {word.strip('".,') for word in text.split() if word[0].isdigit() and ":" not in word}
    papers = {"2.7x", "2.7", "0.875", "0.75", "50", "50%", "70", "8", "4", "1"}
    allowed = papers | {str(one) for one in (said.EQUAL_WITHIN, said.MOST_OF_GAP, said.NEAR)}
    assert numbers - allowed == set(), numbers
