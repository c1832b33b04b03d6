"""Constants of the estimate: each has a prior with its reason, and a fitted value within it."""

import re

import pytest

from hwmodels.estimate import constants
from hwmodels.estimate.constants import PRIORS, Constants
from hwmodels.estimate.intervals import RESIDUALS_FILE
from nmsim.errors import SpecError

HELD_OUT = [None, *constants.groups()]


def test_a_prior_for_each_constant_in_the_same_order():
    assert tuple(PRIORS) == Constants._fields


@pytest.mark.parametrize("name", Constants._fields)
def test_a_prior_lies_in_its_range_and_has_a_reason(name):
    prior = PRIORS[name]
    assert 0 < prior.low <= prior.value <= prior.high
    assert len(prior.reason) > 5
    assert prior.unit == ("ratio" if name.endswith(("_share", "_ratio")) else prior.unit)
    for suffix, unit in (("_s", "s"), ("_joules_per_flop", "joules_per_flop")):
        assert not name.endswith(suffix) or prior.unit == unit
    assert not name.endswith("_share") or prior.high <= 1


@pytest.mark.parametrize("group", HELD_OUT)
def test_fitted_values_stay_within_their_priors(group):
    for name, value in constants.load(group)._asdict().items():
        room = 1e-5 * PRIORS[name].high
        assert PRIORS[name].low - room <= value <= PRIORS[name].high + room, name


def test_every_group_with_rows_was_left_out_once():
    import pandas as pd

    residuals = pd.read_csv(RESIDUALS_FILE)
    groups = set(residuals.loc[residuals["family"] != "cpu", "group"])  # nothing is fitted to CPUs
    assert groups == set(constants.groups())
    everything = constants.load()
    for group in groups:
        assert constants.load(group) != everything, group


def test_a_group_without_rows_had_no_part_in_the_fit():
    assert constants.load("mi300x") == constants.load()


def test_values_are_floats():
    """A whole number in the file is a float like the others: compiled code knows one type of constants."""
    for group in HELD_OUT:
        assert {type(value) for value in constants.load(group)} == {float}


def test_quantities_name_their_rows():
    found = constants.quantities()
    assert tuple(found) == Constants._fields
    for name, quantity in found.items():
        assert quantity.kind == "fitted"
        assert quantity.unit == PRIORS[name].unit
        assert quantity.value == getattr(constants.load(), name)
        assert re.fullmatch(r"\d+ rows of \d+ machines, digest [0-9a-f]{12}", quantity.source)


def test_prior_values():
    assert constants.prior()._asdict() == {name: prior.value for name, prior in PRIORS.items()}


@pytest.mark.parametrize("line", ["csr_share = 0.1\n", ""])
def test_a_file_with_other_constants_is_refused(tmp_path, monkeypatch, line):
    """One constant too many, and one too few."""
    text = constants.FITTED_FILE.read_text(encoding="utf-8").split("[held_out")[0]
    kept = "\n".join(row for row in text.splitlines() if not row.startswith("csr_share"))
    entry = '{ value = 0.1, kind = "fitted", source = "here" }'
    more = f"csr_share = {entry}\nluck_share = {entry}\n" if line else ""
    other = f"{kept}\n{more}[held_out]\n"
    (tmp_path / "fitted.toml").write_text(other, encoding="utf-8")
    monkeypatch.setattr(constants, "FITTED_FILE", tmp_path / "fitted.toml")
    wrong = "luck_share" if line else "csr_share"
    with pytest.raises(SpecError, match=rf"fitted.toml: constants \['{wrong}'\] are on one side only"):
        fresh_load()


def fresh_load():
    """`load`, past what it remembers of the committed file, and without leaving anything behind."""
    constants._document.cache_clear()
    try:
        return constants.load.__wrapped__()
    finally:
        constants._document.cache_clear()
