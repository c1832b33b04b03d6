"""The Performance Threshold: the dense models that are as small, as fast and as frugal as a pruned one."""

from hwmodels.threshold.equal import Threshold, equal_energy, equal_memory, equal_time
from hwmodels.threshold.footprint import Footprint, footprint
from hwmodels.threshold.quantised import QuantisedDense, equal_value_bits, quantised_dense
from hwmodels.threshold.search import Counterpart
from hwmodels.threshold.stored import Stored

__all__ = [
    "Counterpart",
    "Footprint",
    "QuantisedDense",
    "Stored",
    "Threshold",
    "equal_energy",
    "equal_memory",
    "equal_time",
    "equal_value_bits",
    "footprint",
    "quantised_dense",
]
