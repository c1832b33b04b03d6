"""Mitigations by name, and what is to be done beside a product of pruned activations: a record, checked once.

Golden models, cost tables and the command line share the table of names."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import PatternError, brief

ORTHOGONAL_WITHIN = 1e-3
"""Largest error of Q^T Q: matrices that were stored in 16 bits pass."""
TOKEN_SHIFTS = ("mean", "median")
"""Shifts that are found anew for each token. The median is the lower one of two."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """Mitigations of one linear layer, Y = X W^T with X [L, K] and W [O, K], in the order in which they are applied.

    1. `rotation` Q: X Q and W Q in place of X and W (La RoSA).
    2. `equalise` s: X / s and W s in place of X and W (SmoothQuant-like).
    3. `shift` eta: the choice is made on X - eta, and what is kept of it is shifted back (D-PTS, S-PTS, L-PTS).
    4. `variance`: what is kept of token i is scaled by v_i = sqrt(Var_j(x_ij - eta_i) / max(Var_j(kept), 1e-9)), variances
       unbiased, zeros included (VAR).
    5. The product. To it are added `kept_bias` times what is kept, `dropped_bias` times what is dropped, and for `low_rank`
       A, B what is dropped times B^T A^T (R-Sparse).
    6. `scale` s and `bias` b: Y (1 + s) + b (learnable diagonal).

    The authors' code has each of these, and of combinations only variance with scale and bias; this order of the others is
    ours. What `kept_bias`, `dropped_bias` and `low_rank` see is X - eta, not yet scaled by v.

    Parameters
    ----------
    shift : {"none", "mean", "median"}, float or array [K]
        Of each token, one number for all (S-PTS), or one for each in feature (L-PTS).
    variance : bool
    scale, bias : array [O], optional
    kept_bias, dropped_bias : array [K], optional
    low_rank : (A [O, r], B [r, K]), optional
    equalise : {"none", "dynamic"} or array [K]
        Dynamic: s_j = sqrt(max_i |x_ij| / max_o |w_oj|) of the present tokens, 1 if either is zero.
    rotation : array [K, K], optional
        Orthogonal.

    Raises
    ------
    PatternError
        An unknown word, a number that is not finite, or a factor of `equalise` that is not above zero. A matrix that is not a
        rotation, or parts of `low_rank` that do not fit together. Lengths are checked against a layer when there is one.

    Source
    ------
    Formulas, linear_act_sp.py of the code of arXiv 2509.22166; low rank: R-Sparse as that code has it.

    Examples
    --------
    >>> Recipe(shift="mean", variance=True).shift
    'mean'
    """

    shift: str | float | NDArray[Any] = "none"
    variance: bool = False
    scale: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    kept_bias: NDArray[Any] | None = None
    dropped_bias: NDArray[Any] | None = None
    low_rank: tuple[NDArray[Any], NDArray[Any]] | None = None
    equalise: str | NDArray[Any] = "none"
    rotation: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        _check_words("shift", self.shift, ("none", *TOKEN_SHIFTS))
        _check_words("equalise", self.equalise, ("none", "dynamic"))
        if not isinstance(self.variance, bool):
            raise PatternError(f"recipe: variance={brief(self.variance)}: expected True or False")
        for name in ("scale", "bias", "kept_bias", "dropped_bias", "rotation"):
            if getattr(self, name) is not None:
                _check_numbers(name, getattr(self, name))
        if self.rotation is not None:
            _check_rotation(np.asarray(self.rotation))
        if not isinstance(self.equalise, str) and not (np.asarray(self.equalise) > 0).all():
            raise PatternError("recipe: equalise has a factor of zero or less, expected all above zero")
        if self.low_rank is not None:
            a, b = self.low_rank
            _check_numbers("low_rank", a)
            _check_numbers("low_rank", b)
            if np.ndim(a) != 2 or np.ndim(b) != 2 or a.shape[1] != b.shape[0]:
                raise PatternError(
                    f"recipe: low_rank has shapes {np.shape(a)} and {np.shape(b)}: expected [O, r] and [r, K]"
                )

    @property
    def shifts_tokens(self) -> bool:
        """Each token has a shift of its own."""
        return isinstance(self.shift, str) and self.shift in TOKEN_SHIFTS

    @property
    def equalises_dynamically(self) -> bool:
        """The factors are found anew for the present tokens."""
        return isinstance(self.equalise, str) and self.equalise == "dynamic"

    def check(self, out_features: int, in_features: int) -> None:
        """Hold the lengths of all vectors against a layer.

        Raises
        ------
        PatternError
            One that is of another length, or a variance of a single in feature.
        """
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "shift": (self.shift, (in_features,)),
            "scale": (self.scale, (out_features,)),
            "bias": (self.bias, (out_features,)),
            "kept_bias": (self.kept_bias, (in_features,)),
            "dropped_bias": (self.dropped_bias, (in_features,)),
            "equalise": (self.equalise, (in_features,)),
            "rotation": (self.rotation, (in_features, in_features)),
        }
        if self.low_rank is not None:
            rank = len(self.low_rank[1])
            expected["low_rank A"] = (self.low_rank[0], (out_features, rank))
            expected["low_rank B"] = (self.low_rank[1], (rank, in_features))
        for name, (value, shape) in expected.items():
            if value is None or isinstance(value, str) or (name == "shift" and np.ndim(value) == 0):
                continue
            if np.shape(value) != shape:
                raise PatternError(f"recipe: {name} has shape {np.shape(value)}: expected {shape}")
        if self.variance and in_features < 2:
            raise PatternError("recipe: variance with one in feature: expected at least two")


def _check_words(name: str, value: Any, words: tuple[str, ...]) -> None:
    """Take one of some words, or numbers."""
    if not isinstance(value, str):
        _check_numbers(name, value)
    elif value not in words:
        raise PatternError(f"recipe: {name}={brief(value)}: expected one of {', '.join(words)}, or numbers")


def _check_numbers(name: str, value: Any) -> None:
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "fiu":
        raise PatternError(
            f"recipe: {name} is of type {type(value).__name__}, dtype {numbers.dtype}: expected numbers"
        )
    if not np.isfinite(numbers).all():
        raise PatternError(f"recipe: {name} holds what is no finite number, expected numbers")


def _check_rotation(rotation: NDArray[Any]) -> None:
    """Refuse a matrix that changes lengths: X Q (W Q)^T would not be X W^T."""
    if rotation.ndim != 2 or rotation.shape[0] != rotation.shape[1]:
        raise PatternError(f"recipe: rotation has shape {rotation.shape}: expected [K, K]")
    off = np.abs(rotation.T.astype(np.float64) @ rotation - np.eye(len(rotation))).max()
    if off > ORTHOGONAL_WITHIN:
        raise PatternError(f"recipe: rotation is not orthogonal, Q^T Q is {off:.2g} off the unit matrix")


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
        "outliers_unstructured": MitigationKind("split", of_weights=True, size="4:256"),
        "salient_columns": MitigationKind("split", of_weights=True, fitted_on=_ACTIVATIONS, size="128"),
    }
)
"""Name -> what is known of it. Every mitigation has a golden model here, and counts in `hwmodels.online.mitigations`."""
