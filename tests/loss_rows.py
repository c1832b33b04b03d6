"""Rows of losses that no model was run for: made of a formula, to test what is done with them."""

import numpy as np

from nmsim.pattern import Pattern
from nmsim.quality import parse_mitigation
from nmsim.quality.configuration import Configuration
from nmsim.quality.way import Way
from nmsim.rows.loss import LossRow, configuration_cells, loss_cells

PATTERNS = ("2:4", "4:8", "8:16", "16:32")
INCREASES = {"2:4": 1.6, "4:8": 1.1, "8:16": 0.8, "16:32": 0.7}
"""Mean loss increase of magnitude without mitigation, in nats per token."""
FACTORS = {
    ("weights", "magnitude", "none"): 2.5,
    ("weights", "channel_vector", "none"): 1.0,
    ("weights", "channel_vector", "weight_correction"): 1.1,
    ("weights", "magnitude", "outliers=8:256"): 0.5,
    ("activations", "magnitude", "none"): 0.9,
    ("activations", "magnitude", "var"): 0.85,
}
"""What the increase of a way is multiplied by."""


def row(configuration: Configuration, losses, **changes) -> LossRow:
    """A row of these losses of windows."""
    common = {
        "model": "smollm2", "model_digest": "0" * 16, "text": "news", "text_digest": "1" * 16, "window_tokens": 513,
        "first_window_token": 4096, "calibration_tokens": 4096, "layers_pruned": 0 if configuration.is_dense else 210,
        "dtype": "fp32",
    }  # fmt: skip
    return LossRow(**(common | configuration_cells(configuration) | loss_cells(list(losses)) | changes))


def way(operand: str, pattern: str, criterion: str = "magnitude", mitigation: str = "none") -> Way:
    """A way by its texts."""
    return Way(operand, Pattern.parse(pattern), criterion, parse_mitigation(mitigation))


def rows(patterns=PATTERNS, *, windows: int = 12, seed: int = 0, **changes) -> list[LossRow]:
    """A dense row, and one per pattern and way of `FACTORS`."""
    rng = np.random.default_rng(seed)
    dense = 3.0 + 0.3 * rng.random(windows)
    made = [row(Configuration(), dense, **changes)]
    for pattern in patterns:
        for (operand, criterion, mitigation), factor in FACTORS.items():
            one = way(operand, pattern, criterion, mitigation)
            increase = factor * INCREASES[pattern] * (1 + 0.2 * (rng.random(windows) - 0.5))
            made.append(row(Configuration(**{operand: one}), dense + increase, **changes))
    return made
