"""The mitigations by name: what each sets, and what it goes with. Golden models, cost tables and the command line share it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class MitigationKind:
    """What is known of a mitigation before it is applied.

    Parameters
    ----------
    sets : str
        What it sets. Two that set the same exclude each other.
    of_weights : bool
        It also goes with sparse weights.
    fitted_on : tuple of str
        Sparse operands for which its numbers come from calibration tokens.
    size : str
        Its size if none is given: outliers of a window, rank or columns. Empty if it has none.
    """

    sets: str
    of_weights: bool = False
    fitted_on: tuple[str, ...] = ()
    size: str = ""


_ACTIVATIONS, _BOTH = ("activations",), ("activations", "weights")
MITIGATIONS: Mapping[str, MitigationKind] = MappingProxyType(
    {
        "dpts_mean": MitigationKind("shift"),
        "dpts_median": MitigationKind("shift"),
        "spts": MitigationKind("shift", fitted_on=_ACTIVATIONS),
        "lpts": MitigationKind("shift", fitted_on=_ACTIVATIONS),
        "var": MitigationKind("variance"),
        "scale_shift": MitigationKind("scale", of_weights=True, fitted_on=_BOTH),
        "bias1": MitigationKind("kept_bias", fitted_on=_ACTIVATIONS),
        "bias2": MitigationKind("dropped_bias", fitted_on=_ACTIVATIONS),
        "r_sparse": MitigationKind("low_rank", fitted_on=_ACTIVATIONS, size="128"),
        "smooth_dynamic": MitigationKind("equalise"),
        "smooth_static": MitigationKind("equalise", of_weights=True, fitted_on=_BOTH),
        "weight_correction": MitigationKind("correction", of_weights=True),
        "rotation": MitigationKind("rotation", fitted_on=_ACTIVATIONS),
        "outliers": MitigationKind("split", of_weights=True, size="4:256"),
        "salient_columns": MitigationKind("split", of_weights=True, fitted_on=_ACTIVATIONS, size="128"),
    }
)
"""Name -> what is known of it. Every mitigation has a golden model here, and counts in `hwmodels.online.mitigations`."""
