"""Quality of pruned linear layers, measured on arrays: energy kept, error of the output, and entropy of the masks.

Nothing here opens a file or knows a machine: `validate.quality.measure` brings checkpoints and costs. All sums are
kept as sums, so that layers can be added up.
"""

from nmsim.quality.activations import measure_activations
from nmsim.quality.apply import PrunedWeight, TokenPruner, pruned_weight
from nmsim.quality.configuration import Configuration
from nmsim.quality.layer import Calibration, Measured
from nmsim.quality.way import Rounding, Way, cross, parse_mitigation, parse_rounding
from nmsim.quality.weights import measure_weights

__all__ = [
    "Calibration",
    "Configuration",
    "Measured",
    "PrunedWeight",
    "Rounding",
    "TokenPruner",
    "Way",
    "cross",
    "measure_activations",
    "measure_weights",
    "parse_mitigation",
    "parse_rounding",
    "pruned_weight",
]
