"""A measured number of a machine, with its spread and how it came about."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured number: the median and its spread, in the unit given, and how it came about."""

    p50: float
    p20: float
    p80: float
    unit: str
    cores: int
    repetitions: int
    how: str
