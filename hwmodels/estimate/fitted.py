"""Small sets of fitted constants: the text of their file, and the least squares that find them.

As the constants of the estimate (`hwmodels.estimate.constants`), each set has priors and values fitted to all rows. It also
has values that were fitted with one group of machines left out.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hwmodels.estimate.constants import Prior

OUTLIER_ERROR = 0.1
"""Log error beyond which a row pulls with constant force."""
PRIOR_ROWS = 100
"""Pull towards the prior: a constant off by 10 % weighs as much as so many rows off by 10 %."""

Errors = Callable[[Mapping[str, float]], NDArray[np.float64]]


def fitted_text(
    header: str, values: Mapping[str, float], held_out: Mapping[str, Mapping[str, float]], source: str
) -> str:
    """Write a set as TOML, with the rows that it was fitted to."""
    lines = [f"# {header}", "", "[constants]"]
    lines += [
        f'{name} = {{ value = {value:.6g}, kind = "fitted", source = "{source}" }}'
        for name, value in values.items()
    ]
    for group, own in held_out.items():
        lines += ["", f"[held_out.{group}]", *(f"{name} = {value:.6g}" for name, value in own.items())]
    return "\n".join(lines) + "\n"


def fit_all(
    priors: Mapping[str, Prior], errors: Errors, groups: NDArray[np.str_]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Fit a set to all rows, and once more without each group of machines.

    Parameters
    ----------
    priors : mapping of str to Prior
    errors : callable
        Values of the constants -> log errors [rows, kinds].
    groups : str array [rows]

    Returns
    -------
    tuple
        Values from all rows, and those without each group.
    """
    everything = _solve(priors, errors, np.ones(len(groups), bool))
    names = [str(name) for name in dict.fromkeys(groups)]
    return everything, {name: _solve(priors, errors, groups != name) for name in names}


def _solve(priors: Mapping[str, Prior], errors: Errors, chosen: NDArray[np.bool_]) -> dict[str, float]:
    from scipy.optimize import least_squares

    prior = np.array([entry.value for entry in priors.values()])
    low, high = (
        np.log(np.array([getattr(entry, end) for entry in priors.values()]) / prior)
        for end in ("low", "high")
    )

    def values(steps: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(priors, (prior * np.exp(steps)).tolist(), strict=True))

    def residuals(steps: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = errors(values(steps))[chosen].ravel() / OUTLIER_ERROR
        # Pseudo-Huber, as the fit of the estimate: large errors pull with constant force.
        soft = np.sign(rows) * np.sqrt(2.0 * (np.sqrt(1.0 + rows**2) - 1.0))
        return np.concatenate([soft, math.sqrt(PRIOR_ROWS) * steps / OUTLIER_ERROR])

    room = 1e-9
    found = least_squares(residuals, np.zeros(len(prior)), bounds=(low - room, high + room), diff_step=1e-3)
    return values(np.clip(found.x, low, high))
