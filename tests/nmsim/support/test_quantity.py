"""A number without unit, kind and source is refused."""

import math

import pytest

from nmsim.errors import SpecError
from nmsim.support.schema import KINDS, UNITS, Quantity


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", UNITS)
def test_accepts_every_kind_and_unit(kind, unit):
    quantity = Quantity(1.5, unit, kind, "page 3")
    assert (quantity.value, quantity.unit, quantity.kind, quantity.source) == (1.5, unit, kind, "page 3")


@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf, "4.8", None, True])
def test_refuses_what_is_no_positive_number(value):
    with pytest.raises(SpecError, match=r"value=.*: expected a positive, finite number"):
        Quantity(value, "hz", "datasheet", "page 3")


@pytest.mark.parametrize(
    ("unit", "kind", "source", "message"),
    [
        ("gb_per_s", "datasheet", "page 3", r"unit='gb_per_s': expected one of bits, bytes, .*bytes_per_s"),
        ("hz", "guessed", "page 3", r"kind='guessed': expected one of datasheet, measured, fitted, assumed"),
        ("hz", "datasheet", "  ", r"source='  ': expected text"),
        ("hz", "datasheet", None, r"source=None: expected text"),
    ],
)
def test_names_the_bad_field(unit, kind, source, message):
    with pytest.raises(SpecError, match=message):
        Quantity(1, unit, kind, source)


def test_is_frozen():
    with pytest.raises(AttributeError):
        Quantity(1, "hz", "datasheet", "page 3").value = 2
