"""Fits the global constants to measured rows, and once more without each group of machines, for honest error bars.

Least squares on the logarithms of dense time, sparse time and speedup. The loss grows linearly for outliers
(pseudo-Huber), and every constant is pulled to its prior. There is no randomness: the same rows give the same constants.
One benchmark may have a hundred times the rows of another. So a fit takes a sample of each kind of rows, and a family
weighs as the square root of its rows in that sample.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate import constants
from hwmodels.estimate.constants import PRIORS, Constants
from hwmodels.estimate.families import FAMILIES, Rows
from hwmodels.estimate.fitted import fitted_text
from hwmodels.estimate.intervals import RESIDUALS_FILE, regime_of, spread, width_of
from hwmodels.machine.spec import group_of, load_machine

OUTLIER_ERROR = 0.1
"""Log error beyond which a row pulls with constant force."""
PRIOR_WEIGHT = 10.0
"""Pull towards the prior: a constant off by 10 % weighs about as much as a row off by 10 %. So a constant that
few rows depend on stays near its prior."""
EVALUATIONS = 40
MOST_ROWS = 120
"""Rows of one machine, family and value type that a fit takes: if there are more, this many at equal distances."""
FIT_COLUMNS = (
    *("machine", "kernel_family", "M", "N", "K", "dtype", "baseline_dtype", "pattern", "density", "l2_state"),
    *("sparse_products", "dense_products_beside", "measured_dense_time_s", "measured_sparse_time_s"),
)
"""What the fit reads of a row, beside its number."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """What a fit found: constants from all rows, constants with each group left out, and the held-out residuals."""

    values: Constants
    held_out: Mapping[str, Constants]
    residuals: pd.DataFrame
    source: str


def digest(inputs: pd.DataFrame) -> str:
    """Name the rows of a fit by what it reads of them, in their order: 12 hex digits.

    Examples
    --------
    >>> digest(pd.DataFrame(columns=list(FIT_COLUMNS)))
    'de73fb40b091'
    """
    text = inputs[list(FIT_COLUMNS)].to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Problem:
    """Rows grouped by machine and family; residuals of a vector of log multipliers on the priors.

    `libraries` maps a generation to a table in place of `hwmodels.machine.libraries.properties`.
    """

    def __init__(
        self, inputs: pd.DataFrame, libraries: Mapping[str, NDArray[np.float64]] | None = None
    ) -> None:
        self.inputs = inputs.reset_index(drop=True)
        self.dense_s = self.inputs["measured_dense_time_s"].to_numpy(np.float64)
        self.sparse_s = self.inputs["measured_sparse_time_s"].to_numpy(np.float64)
        self.pruned = self.inputs["sparse_products"].to_numpy(np.float64)
        self.beside = self.inputs["dense_products_beside"].to_numpy(np.float64)
        start = constants.prior()
        self.parts = []
        together = self.inputs.groupby(["machine", "kernel_family"], sort=True).indices
        for key, places in together.items():
            machine, family = cast(tuple[str, str], key)
            own, spec = self.inputs.iloc[places], load_machine(machine)
            rows = Rows(own, spec, start)
            baseline = Rows(own.assign(dtype=own["baseline_dtype"]), spec, start)
            table = (libraries or {}).get(str(spec.generation))
            if table is not None:
                rows.device = baseline.device = rows.device._replace(libraries=table)
            self.parts.append((places, FAMILIES[family], rows, baseline))
        self.prior = np.array([entry.value for entry in PRIORS.values()])
        self.low = np.log(np.array([entry.low for entry in PRIORS.values()]) / self.prior)
        self.high = np.log(np.array([entry.high for entry in PRIORS.values()]) / self.prior)

    def constants(self, steps: NDArray[np.float64]) -> Constants:
        return Constants(**dict(zip(PRIORS, (self.prior * np.exp(steps)).tolist(), strict=True)))

    def errors(self, values: Constants) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log errors of dense and sparse times."""
        dense, sparse = np.empty(len(self.inputs)), np.empty(len(self.inputs))
        for places, family, rows, baseline in self.parts:
            dense[places] = baseline.under(values).dense_s()
            sparse[places] = family(rows.under(values)).time_s
        sparse = self.pruned * sparse + self.beside * dense
        dense = (self.pruned + self.beside) * dense
        return np.log(dense / self.dense_s), np.log(sparse / self.sparse_s)

    def solve(self, chosen: NDArray[np.bool_], start: Constants | None = None) -> Constants:
        """Constants of the least loss over the chosen rows, searched from `start` or the priors."""
        from scipy.optimize import least_squares

        families = self.inputs["kernel_family"]
        weight = (families.map(families[chosen].value_counts()).to_numpy(np.float64)[chosen]) ** -0.25
        weight = weight * np.sqrt(len(weight) / np.sum(weight**2))

        def residuals(steps: NDArray[np.float64]) -> NDArray[np.float64]:
            dense, sparse = self.errors(self.constants(steps))
            rows = (dense[chosen], sparse[chosen], (dense - sparse)[chosen])
            return np.concatenate(
                [*(weight * soften(one) for one in rows), PRIOR_WEIGHT * OUTLIER_ERROR * steps]
            )

        room = 1e-9
        first = np.zeros(len(self.prior)) if start is None else np.log(np.array(start) / self.prior)
        found = least_squares(
            residuals, np.clip(first, self.low, self.high - room),
            bounds=(self.low - room, self.high + room), diff_step=1e-3, max_nfev=EVALUATIONS,
        )  # fmt: skip
        return self.constants(np.clip(found.x, self.low, self.high))


def sampled(inputs: pd.DataFrame) -> NDArray[np.bool_]:
    """Choose the rows that a fit takes: all of a machine, family and value type, or `MOST_ROWS` at equal distances.

    Parameters
    ----------
    inputs : DataFrame
        With `machine`, `kernel_family` and `dtype`.

    Returns
    -------
    bool array [rows]
    """
    chosen = np.zeros(len(inputs), bool)
    for places in inputs.groupby(["machine", "kernel_family", "dtype"], sort=False).indices.values():
        count = min(len(places), MOST_ROWS)
        chosen[np.asarray(places)[np.arange(count) * len(places) // count]] = True
    return chosen


def soften(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pseudo-Huber: quadratic for small errors, linear for large ones, as the square root of the loss with its sign."""
    loss = 2.0 * (np.sqrt(1.0 + (errors / OUTLIER_ERROR) ** 2) - 1.0)
    return np.sign(errors) * np.sqrt(loss) * OUTLIER_ERROR


def fit(inputs: pd.DataFrame, progress: Progress = lambda step: None) -> Fitted:
    """Fit the constants to all rows, and for each group of machines to the rows without it.

    Parameters
    ----------
    inputs : DataFrame
        `FIT_COLUMNS`, as for `hwmodels.predict_rows` with all kernel families named, and `row` (its number where it
        came from).
    progress : callable
        Called with the next fit: all rows, then each group that is left out.

    Returns
    -------
    Fitted
    """
    sample = Problem(inputs[sampled(inputs)])
    of_sample = np.array([group_of(machine) for machine in sample.inputs["machine"]])
    progress("all rows")
    values = sample.solve(np.ones(len(of_sample), bool))
    table = inputs.reset_index(drop=True)
    groups = np.array([group_of(machine) for machine in table["machine"]])
    held_out, dense, sparse = {}, np.empty(len(groups)), np.empty(len(groups))
    for group in dict.fromkeys(groups):
        progress(f"without {group}")
        # Without one group the constants lie near those of all rows, so the search begins there.
        held_out[group] = sample.solve(of_sample != group, values)
        # Residuals come from constants that the group had no part in; error bars from fitted rows would be too small.
        own = groups == group
        dense[own], sparse[own] = Problem(table[own]).errors(held_out[group])
    residuals = pd.DataFrame(
        {
            "family": table["kernel_family"],
            "width": [width_of(dtype) for dtype in table["dtype"]],
            "regime": [regime_of(tokens) for tokens in table["M"]],
            "machine": table["machine"],
            "row": table["row"],
            "log_speedup_error": (dense - sparse).round(4),
            "log_dense_time_error": dense.round(4),
            "log_sparse_time_error": sparse.round(4),
        }
    )
    source = f"{len(table)} rows of {len(set(table['machine']))} machines, digest {digest(table)}"
    return Fitted(values, held_out, residuals, source)


HEADER = "# Written by `nmsim fit`"
"""What a file of fitted constants begins with."""


def write(found: Fitted, folder: Path = constants.FITTED_FILE.parent) -> None:
    """Write constants and residuals as the data files that the package reads."""
    header = f"{HEADER}; meanings, units and priors are in hwmodels/estimate/constants.py."
    held_out = {group: values._asdict() for group, values in found.held_out.items()}
    text = fitted_text(header.removeprefix("# "), found.values._asdict(), held_out, found.source)
    (folder / constants.FITTED_FILE.name).write_text(text, encoding="utf-8")
    spread(found.residuals).to_csv(folder / RESIDUALS_FILE.name, index=False, lineterminator="\n")
