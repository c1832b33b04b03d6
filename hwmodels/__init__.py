"""The machine: hardware specs with sources, workloads, traffic, and the Roof-Surface bound.

>>> import hwmodels
>>> from nmsim.pattern import Pattern
>>> from nmsim.records import Case, GemmShape
>>> case = Case(GemmShape(M=1, N=4096, K=4096), pattern=Pattern(8, 16), encoding="bitmask")
>>> answer = hwmodels.predict(case, "h200")
>>> answer.execution, answer.bound
('expand', 'memory')

Everything `predict` returns is a bound: the best case that a machine's published numbers allow.
"""

from hwmodels.model import PREDICTED_COLUMNS, predict
from hwmodels.quantity import Quantity
from hwmodels.spec import HardwareSpec, NativeUnit, load, names
from hwmodels.workload import Layer, Model, cases, load_model, model_names

__all__ = [
    "PREDICTED_COLUMNS",
    "HardwareSpec",
    "Layer",
    "Model",
    "NativeUnit",
    "Quantity",
    "cases",
    "load",
    "load_model",
    "model_names",
    "names",
    "predict",
]
