"""Fields that several file formats share: patterns, encodings, packings and value types."""

from typing import Annotated

from nmsim import encodings, packing
from nmsim.case import VALUE_BITS
from nmsim.pattern import Pattern
from nmsim.support.schema import OneOf, Parsed


def as_pattern(value: Pattern | str) -> Pattern:
    """Read a pattern; one that is read already comes back as it is."""
    return value if isinstance(value, Pattern) else Pattern.parse(value)


Dtype = Annotated[str, OneOf(VALUE_BITS)]
Encoding = Annotated[str, Parsed(encodings.get, keep=True)]
PackingPolicy = Annotated[str, OneOf(packing.POLICIES)]
PatternText = Annotated[Pattern, Parsed(as_pattern)]
