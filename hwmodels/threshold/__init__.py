"""The Performance Threshold: the dense models that are as small, as fast and as frugal as a pruned one."""

from hwmodels.threshold.equal import (
    Counterpart,
    QuantisedDense,
    Threshold,
    equal_energy,
    equal_memory,
    equal_time,
    equal_value_bits,
    quantised_dense,
)
from hwmodels.threshold.footprint import Footprint, ModelFormat, footprint

__all__ = [
    "Counterpart",
    "Footprint",
    "ModelFormat",
    "QuantisedDense",
    "Threshold",
    "equal_energy",
    "equal_memory",
    "equal_time",
    "equal_value_bits",
    "footprint",
    "quantised_dense",
]
