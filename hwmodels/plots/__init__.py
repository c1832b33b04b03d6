"""All figures of the project: each function takes a table and returns `(fig, axes)`, in a light or a dark theme.

>>> import pandas as pd
>>> from hwmodels import plots
>>> table = pd.DataFrame({"pattern": ["dense", "2:4"], "area_um2": [1e6, 2e6], "time_s": [2e-5, 1e-5]})
>>> fig, grid = plots.pareto(table, x="area_um2", y="time_s", front=[True, True], label=[], theme=plots.DARK)
>>> image = plots.rendered(fig, "svg")

Tables are plain pandas tables: those of `hwmodels.sweep`, of a study or of the judge. Only this package imports matplotlib,
and only when it draws a figure. Nothing is shown, saved or kept globally.
"""

from typing import TYPE_CHECKING

from nmsim.support.lazy import lazy_exports

if TYPE_CHECKING:
    from hwmodels.plots.accuracy import loss_vs_pattern, proxy_scatter, sensitivity
    from hwmodels.plots.causes import waterfall
    from hwmodels.plots.cores import (
        break_even_batch,
        core_speedup_vs_pattern,
        core_time_by_stage,
        roof_surface,
        selector_need,
    )
    from hwmodels.plots.fronts import pareto, quality_cost
    from hwmodels.plots.gates import code_break_even, gates_vs_bits, gates_vs_pattern, select_networks
    from hwmodels.plots.judged import (
        bandwidth,
        break_even,
        bytes_per_element,
        measured_on_predicted,
        residuals_by,
        residuals_by_tokens,
        speedup_scatter,
        time_scatter,
        window_speedups,
    )
    from hwmodels.plots.losses import CostPanel, quality_beside_cost
    from hwmodels.plots.predicted import bound_by_stage, speedup_vs_pattern, speedup_vs_tokens
    from hwmodels.plots.served import whole_models
    from hwmodels.plots.style import DARK, LIGHT, Theme, rendered
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "hwmodels.plots.accuracy": "loss_vs_pattern proxy_scatter sensitivity",
            "hwmodels.plots.causes": "waterfall",
            "hwmodels.plots.cores": "break_even_batch core_speedup_vs_pattern core_time_by_stage roof_surface selector_need",
            "hwmodels.plots.fronts": "pareto quality_cost",
            "hwmodels.plots.gates": "code_break_even gates_vs_bits gates_vs_pattern select_networks",
            "hwmodels.plots.judged": "bandwidth break_even bytes_per_element measured_on_predicted "
            "residuals_by residuals_by_tokens speedup_scatter time_scatter window_speedups",
            "hwmodels.plots.losses": "CostPanel quality_beside_cost",
            "hwmodels.plots.predicted": "bound_by_stage speedup_vs_pattern speedup_vs_tokens",
            "hwmodels.plots.served": "whole_models",
            "hwmodels.plots.style": "DARK LIGHT Theme rendered",
        },
    )

__all__ = [
    "DARK",
    "LIGHT",
    "CostPanel",
    "Theme",
    "bandwidth",
    "bound_by_stage",
    "break_even",
    "break_even_batch",
    "bytes_per_element",
    "code_break_even",
    "core_speedup_vs_pattern",
    "core_time_by_stage",
    "gates_vs_bits",
    "gates_vs_pattern",
    "loss_vs_pattern",
    "measured_on_predicted",
    "pareto",
    "proxy_scatter",
    "quality_beside_cost",
    "quality_cost",
    "rendered",
    "residuals_by",
    "residuals_by_tokens",
    "roof_surface",
    "select_networks",
    "selector_need",
    "sensitivity",
    "speedup_scatter",
    "speedup_vs_pattern",
    "speedup_vs_tokens",
    "time_scatter",
    "waterfall",
    "whole_models",
    "window_speedups",
]
