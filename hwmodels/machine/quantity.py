"""A number that knows its unit, how it is known, and from where."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from nmsim.errors import SpecError
from nmsim.units import UNIT_SUFFIXES

Kind = Literal["datasheet", "measured", "fitted", "assumed"]
KINDS: tuple[str, ...] = get_args(Kind)

UNITS = (
    *(suffix.removeprefix("_") for suffix in UNIT_SUFFIXES),
    "cores",
    "lanes",
    "lanes_per_core_per_cycle",
    "instructions",
    "ratio",
)
"""Units a `Quantity` may carry, spelled as in the names of variables and TOML keys."""


@dataclass(frozen=True)
class Quantity:
    """A positive number with its unit, the kind of knowledge behind it, and its source.

    Parameters
    ----------
    value : int or float
        Positive and finite.
    unit : str
        One of `UNITS`.
    kind : {"datasheet", "measured", "fitted", "assumed"}
        `"datasheet"`: the maker publishes it, or it follows from published numbers by the arithmetic that the
        source states. `"measured"`: somebody ran it or counted it. `"fitted"`: the source names the rows it
        was fitted on. `"assumed"`: the source gives the reasoning, and an assumption number where there is
        one.
    source : str
        Where the number is from.

    Raises
    ------
    SpecError
        A field is none of the above.

    Examples
    --------
    >>> Quantity(4.8e12, "bytes_per_s", "datasheet", "NVIDIA H200 datasheet").value
    4800000000000.0
    """

    value: int | float
    unit: str
    kind: Kind
    source: str

    def __post_init__(self) -> None:
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not number or not math.isfinite(self.value) or self.value <= 0:
            raise SpecError(
                f"value={self.value!r} (type {type(self.value).__name__}): expected a positive, finite number"
            )
        if self.unit not in UNITS:
            raise SpecError(f"unit={self.unit!r}: expected one of {', '.join(UNITS)}")
        check_provenance(self.kind, self.source)


def check_provenance(kind: object, source: object) -> None:
    """Reject an unknown kind of knowledge and an empty source.

    Raises
    ------
    SpecError
        `kind` is not one of `KINDS`, or `source` is not text.
    """
    if kind not in KINDS:
        raise SpecError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    if not isinstance(source, str) or not source.strip():
        raise SpecError(f"source={source!r}: expected text that says where this is from")
