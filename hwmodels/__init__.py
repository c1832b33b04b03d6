"""The machine: hardware specs with sources, workloads, traffic, the Roof-Surface bound, and the estimate above it.

>>> import hwmodels
>>> from nmsim.pattern import Pattern
>>> from nmsim.case import Case, GemmShape
>>> case = Case(GemmShape(M=1, N=4096, K=4096), "8:16/bitmask")
>>> answer = hwmodels.predict(case, "h200")
>>> answer.execution, answer.limit
('expand', 'memory')

`predict` returns an estimate with an error bar, fitted to measured rows, and the bound: the least time that a machine's
published numbers allow. `predict_core` and `simulate` are about sparse tensor cores that somebody may build, `sweep` about
many of them.
"""

from typing import TYPE_CHECKING

from nmsim.support.lazy import lazy_exports

if TYPE_CHECKING:
    from hwmodels.chips.formats import best_format
    from hwmodels.chips.load import Chip, load_chip, load_chips
    from hwmodels.chips.predict import predict
    from hwmodels.estimate.families import JUDGED_COLUMNS, predict_rows
    from hwmodels.estimate.model import PREDICTED_COLUMNS
    from hwmodels.machine.spec import HardwareSpec, NativeUnit, load_machine, machine_names
    from hwmodels.models import Attention, Layer, Model, load_model, model_names
    from hwmodels.steps.attention import kv_cache_bytes
    from hwmodels.steps.experts import distinct_experts, load_expert_shares
    from hwmodels.steps.step import Remainder, Step, StepRow, step
    from hwmodels.sweeps import pareto_front, sweep
    from hwmodels.tensorcore.answer import CoreAnswer, predict_core
    from hwmodels.tensorcore.record import SparseTensorCore, core_names, load_core
    from hwmodels.tensorcore.simulate import Simulation, simulate
    from hwmodels.workload import cases
    from nmsim.support.schema import Quantity
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "hwmodels.chips.formats": "best_format",
            "hwmodels.chips.load": "Chip load_chip load_chips",
            "hwmodels.chips.predict": "predict",
            "hwmodels.estimate.model": "PREDICTED_COLUMNS",
            "hwmodels.estimate.families": "JUDGED_COLUMNS predict_rows",
            "nmsim.support.schema": "Quantity",
            "hwmodels.machine.spec": "HardwareSpec NativeUnit load_machine machine_names",
            "hwmodels.steps.attention": "kv_cache_bytes",
            "hwmodels.steps.experts": "distinct_experts load_expert_shares",
            "hwmodels.steps.step": "Remainder Step StepRow step",
            "hwmodels.sweeps": "pareto_front sweep",
            "hwmodels.tensorcore.answer": "CoreAnswer predict_core",
            "hwmodels.tensorcore.record": "SparseTensorCore core_names load_core",
            "hwmodels.tensorcore.simulate": "Simulation simulate",
            "hwmodels.models": "Attention Layer Model load_model model_names",
            "hwmodels.workload": "cases",
        },
    )

__all__ = [
    "JUDGED_COLUMNS",
    "PREDICTED_COLUMNS",
    "Attention",
    "Chip",
    "CoreAnswer",
    "HardwareSpec",
    "Layer",
    "Model",
    "NativeUnit",
    "Quantity",
    "Remainder",
    "Simulation",
    "SparseTensorCore",
    "Step",
    "StepRow",
    "best_format",
    "cases",
    "core_names",
    "distinct_experts",
    "kv_cache_bytes",
    "load_chip",
    "load_chips",
    "load_core",
    "load_expert_shares",
    "load_machine",
    "load_model",
    "machine_names",
    "model_names",
    "pareto_front",
    "predict",
    "predict_core",
    "predict_rows",
    "simulate",
    "step",
    "sweep",
]
