"""Fields that several file formats share: patterns, encodings, packings and value types."""

from typing import Annotated

from nmsim import encodings, packing
from nmsim.case import VALUE_BITS
from nmsim.pattern import Pattern, as_pattern
from nmsim.support.schema import OneOf, Parsed

Dtype = Annotated[str, OneOf(VALUE_BITS)]
Encoding = Annotated[str, Parsed(encodings.get, keep=True)]
PackingPolicy = Annotated[str, OneOf(packing.POLICIES)]
PatternText = Annotated[Pattern, Parsed(as_pattern)]
