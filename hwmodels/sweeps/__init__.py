"""Sweeps: a space of cores, patterns, encodings and workloads, evaluated point by point, and its Pareto fronts."""

from hwmodels.sweeps.pareto import pareto_front
from hwmodels.sweeps.run import Summary, kept_points, no_rows, sweep
from hwmodels.sweeps.space import EXAMPLE_FILE, Space, load_space

__all__ = [
    "EXAMPLE_FILE",
    "Space",
    "Summary",
    "kept_points",
    "load_space",
    "no_rows",
    "pareto_front",
    "sweep",
]
