"""A model that no computer ran: every loss is a formula with effects that are known, so that verdicts can be checked."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from nmsim.pattern import Pattern
from nmsim.quality.configuration import Configuration
from nmsim.quality.way import Way, parse_mitigation, parse_rounding
from nmsim.rows import LossRow
from nmsim.rows.loss import configuration_cells, loss_cells
from validate.accuracy.losses import one_operand

BASE = {"2:4": 1.6, "4:8": 1.1, "8:16": 0.8, "16:32": 0.7, "1:2": 0.65, "3:10": 4.0}
"""Loss increase of activations by magnitude. Of the gap from 2:4 to unstructured, 16:32 closes 0.95."""
CRITERIA = {
    "weights": {"magnitude": 3.0, "channel_vector": 1.1, "ria": 1.09},
    "activations": {"magnitude": 1.0, "clact": 0.97, "amber": 0.93, "weight_variance": 1.3},
}
LOOSE = {"unstructured": "magnitude", "unstructured_channel_vector": "channel_vector"}
MITIGATIONS = {
    "weights": {
        "weight_correction": 0.04, "smooth_static": -0.1, "outliers=4:256": -0.1, "outliers=8:256": -0.2,
        "outliers_unstructured=4:256": -0.1, "outliers_unstructured=8:256": -0.3,
    },
    "activations": {"var": -0.1, "dpts_mean": 0.0, "dpts_median": -0.001, "r_sparse=64": -0.3, "lpts": -0.02},
}  # fmt: skip
"""Mitigation -> relative change of the loss increase."""
KINDS = ("q", "k", "v", "o", "gate", "up", "down")
BLOCKS = range(4)
SHARES = {kind: 1 + place for place, kind in enumerate(KINDS)}
"""Kind of layer -> how much pruning it costs, relatively."""
TOGETHER = 1.25
"""All layers together lose so much more than the sum of single layers."""


def layer(kind: str, block: int) -> str:
    """The name of a layer."""
    part = "self_attn" if kind in "qkvo" else "mlp"
    return f"model.layers.{block}.{part}.{kind}_proj"


def share(kind: str, block: int) -> float:
    """Share of a layer in the sum of the losses of single layers."""
    weights = {(k, b): SHARES[k] * (1 + b) for k in KINDS for b in BLOCKS}
    return weights[kind, block] / sum(weights.values())


def as_row(configuration: Configuration, losses, **changes) -> LossRow:
    """A row of these losses of windows."""
    pruned = 0 if configuration.is_dense else len(KINDS) * len(BLOCKS)
    common = {
        "model": "smollm2", "model_digest": "0" * 16, "text": "news", "text_digest": "1" * 16, "window_tokens": 512,
        "first_window_token": 4096, "calibration_tokens": 4096, "layers_pruned": pruned, "dtype": "fp32",
    }  # fmt: skip
    return LossRow(**(common | configuration_cells(configuration) | loss_cells(list(losses)) | changes))


class Model:
    """Losses of windows for any increase: dense ones, and noise that differs per configuration."""

    def __init__(self, windows: int = 24, seed: int = 0, **changes):
        self.generator = np.random.default_rng(seed)
        self.dense = 3.0 + 0.5 * self.generator.random(windows)
        self.changes = changes

    def row(self, configuration: Configuration, increase: float, noise: float = 0.01, **changes) -> LossRow:
        """The row of a configuration that loses `increase`, relative noise per window."""
        spread = 1 + noise * self.generator.standard_normal(len(self.dense))
        return as_row(configuration, self.dense + increase * spread, **(self.changes | changes))

    def rows(self) -> Iterator[LossRow]:
        """All that the claims look at."""
        yield self.row(Configuration(), 0.0)
        for operand, criteria in CRITERIA.items():
            for pattern, base in BASE.items():
                for criterion, factor in criteria.items():
                    loose = pattern in ("1:2", "3:10")
                    names = (
                        [name for name, like in LOOSE.items() if like == criterion] if loose else [criterion]
                    )
                    for name in names:
                        yield self.row(one_operand(operand, pattern, criterion=name), base * factor)
            for pattern in ("2:4", "8:16"):
                for criterion in ("magnitude", "channel_vector") if operand == "weights" else ("magnitude",):
                    for name, change in MITIGATIONS[operand].items():
                        one = one_operand(operand, pattern, criterion=criterion, mitigation=name)
                        yield self.row(one, BASE[pattern] * criteria[criterion] * (1 + change))
        yield from self.singles()
        yield from self.others()

    def singles(self, pattern: str = "8:16") -> Iterator[LossRow]:
        """Each layer, kind and block of activations alone; sums of layers are the losses of kinds and blocks."""
        whole = BASE[pattern] / TOGETHER
        for kind in KINDS:
            for block in BLOCKS:
                one = one_operand("activations", pattern, layers=layer(kind, block))
                yield self.row(one, whole * share(kind, block), layers_pruned=1)
        for kind in KINDS:
            one = one_operand("activations", pattern, layers=f"*.{kind}_proj")
            yield self.row(one, whole * sum(share(kind, b) for b in BLOCKS), layers_pruned=len(BLOCKS))
        for block in BLOCKS:
            one = one_operand("activations", pattern, layers=f"model.layers.{block}.*")
            yield self.row(one, whole * sum(share(k, block) for k in KINDS), layers_pruned=len(KINDS))

    def others(self) -> Iterator[LossRow]:
        """q, k and v left dense, both operands, and rounded values."""
        globs = "!*.q_proj !*.k_proj !*.v_proj"
        yield self.row(one_operand("activations", "8:16", layers=globs), 0.6, layers_pruned=16)
        weights = Way("weights", Pattern(8, 16), "channel_vector")
        activations = Way("activations", Pattern(8, 16))
        yield self.row(Configuration(weights, activations), 2.0)
        for text, added in (
            ("int8/64/before", 0.001),
            ("int8/64/after", 0.001),
            ("int4/64/before", 0.5),
            ("int4/64/after", 0.2),
        ):
            rounded = activations._replace(values=parse_rounding(text))
            yield self.row(Configuration(activations=rounded), BASE["8:16"] + added, 0.001)
        for text, added in (("int8/64/before", 0.001), ("int4/64/before", 0.3)):
            yield self.row(
                Configuration(activations=Way("activations", None, values=parse_rounding(text))), added, 0.001
            )


@pytest.fixture(scope="session")
def make_row() -> Callable[..., LossRow]:
    """`as_row`, for tests that want losses of their own."""
    return as_row


@pytest.fixture(scope="session")
def make_model() -> type[Model]:
    """`Model`, for tests that want another text or number of windows."""
    return Model


@pytest.fixture(scope="session")
def rows() -> list[LossRow]:
    """One model on one text."""
    return list(Model().rows())


@pytest.fixture(scope="session")
def way() -> Callable[..., Way]:
    """A way by its texts."""

    def by_texts(operand: str, pattern: str, criterion: str = "magnitude", mitigation: str = "none") -> Way:
        return Way(operand, Pattern.parse(pattern), criterion, parse_mitigation(mitigation))

    return by_texts
