"""Laws over patterns and lines over widths: what they predict, and the error that they state."""

import numpy as np
import pytest

from hwmodels.gates.fit import LAWS, LEAST_PATTERNS, ONE_WIDTH_ERROR, at_width, fit, width_ratios
from hwmodels.gates.record import GateRow
from nmsim.pattern import Pattern

PATTERNS = [
    Pattern(*one)
    for one in (
        (2, 4),
        (4, 8),
        (8, 16),
        (1, 4),
        (2, 8),
        (4, 16),
        (16, 32),
        (6, 8),
        (12, 16),
        (1, 8),
        (1, 16),
        (1, 32),
    )
]


def row(bits, nand2, **other):
    cells = {"unit": "select", "pattern": "2:4", "variant": "mux", "goal": "area", "levels": 2, "fo4": 3.0}
    return GateRow(**cells | {"width_bits": bits, "nand2": nand2, "flip_flops": 0} | other)


@pytest.mark.parametrize("law", [law for law in LAWS if "bits" not in law])
def test_a_law_of_the_list_is_found_again(law):
    def true(pattern):
        terms = LAWS[law](pattern, 0.0)
        return 3.0 * float(np.prod([term ** (1.5 - at) for at, term in enumerate(terms)]))

    found = fit({pattern: true(pattern) for pattern in PATTERNS})
    assert found.error < 1e-9
    assert found.at(Pattern(6, 16)) == pytest.approx(true(Pattern(6, 16)))


def test_the_error_is_that_of_patterns_that_were_left_out():
    values = {pattern: 2.0 * pattern.m**2 for pattern in PATTERNS}
    exact = fit(values)
    planted = fit(values | {Pattern(4, 8): 3.0 * 8**2})
    assert exact.error < 1e-9
    # One value half as large again: whichever law is taken, some prediction of it is off by about a third or more.
    assert planted.error > 0.25


def test_the_error_grows_with_each_doubling_beyond_what_was_fitted():
    law = fit({pattern: pattern.m * (1.1 if pattern.n == 1 else 1.0) for pattern in PATTERNS})
    assert law.error > 0
    assert law.error_at(Pattern(8, 32)) == law.error
    assert law.error_at(Pattern(64, 128)) == pytest.approx(3 * law.error)


def test_patterns_that_keep_one_half_say_nothing_of_others():
    """With N = M / 2 throughout, a law of N and M - N fits noise with powers of any size."""
    halves = {Pattern(n, 2 * n): 3.0 * n**2 * (1.0 + 0.02 * (n % 3)) for n in (2, 4, 8, 16)}
    law = fit(halves)
    assert 0.3 < law.at(Pattern(12, 16)) / halves[Pattern(8, 16)] < 3


def test_too_few_patterns_give_no_law():
    few = dict.fromkeys(PATTERNS[: LEAST_PATTERNS - 1], 5.0)
    assert fit(few) is None
    assert fit(few | {PATTERNS[3]: 5.0}).at(Pattern(1, 2)) == pytest.approx(5.0)


def test_bits_of_codes_explain_units_of_codes():
    bits = {pattern: float(pattern.n * (pattern.m - 1).bit_length()) for pattern in PATTERNS}
    law = fit(bits, "index")
    assert law.at(Pattern(3, 8), "index") == pytest.approx(9.0)
    assert law.error < 1e-9


def test_a_width_between_two_others_and_beyond_them():
    rows = [row(8, 100.0), row(16, 180.0)]
    for bits, nand2 in ((12, 140.0), (4, 60.0), (32, 340.0)):
        numbers, error = at_width(rows, bits)
        assert numbers["nand2"] == pytest.approx(nand2)
    # Through the origin and (16, 180), the value at 8 would be 90; through (8, 100), the one at 16 would be 200.
    assert error == pytest.approx(max(1 - 90 / 100, 200 / 180 - 1))


def test_one_width_alone_is_taken_in_proportion_with_the_same_delay():
    ratios, error = width_ratios([[row(8, 100.0)]], 8, 16)
    assert ratios == {"nand2": 2.0, "fo4": 1.0, "cut_bits": 2.0}
    assert error == ONE_WIDTH_ERROR


def test_one_width_alone_grows_as_other_patterns_do():
    others = [[row(8, 100.0), row(16, 180.0)], [row(8, 200.0), row(16, 400.0)], [row(8, 50.0)]]
    ratios, error = width_ratios(others, 8, 16)
    assert ratios["nand2"] == pytest.approx(1.9)
    assert error == pytest.approx(1.9 / 1.8 - 1)
