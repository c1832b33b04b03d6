"""Linear weights of whole configurations: the cases of the issue, and modules that transformers builds of the same file."""

import csv
import json
from pathlib import Path

import pytest

import hwmodels
from hwmodels.models.build import build

HERE = Path(__file__).parent
CASES, BUILT = (
    list(csv.DictReader((HERE / name).read_text(encoding="utf-8").splitlines()))
    for name in ("linear_weights.csv", "transformers_counts.csv")
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["config"])
def test_linear_weights_of_published_configurations(case):
    model = hwmodels.load_model(HERE / "configs" / case["config"])
    unit = 100_000 if int(case["linear_weights"]) % 1_000_000 else 1_000_000
    assert round(model.weight_elems / unit) * unit == int(case["linear_weights"])


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row["model_type"])
def test_linear_weights_are_those_of_the_modules_of_transformers(row):
    # Counted in modules on the meta device, of odd sizes that share no factor by accident.
    model = build("odd", json.loads(row["config"]), source=row["source"], where="config.json")
    assert model.weight_elems == int(row["linear_weights"])
    assert model.embedding_elems == int(row["embedding_elems"])
    assert model.tied_head is (row["tied_head"] == "true")
    assert model.active_elems <= model.weight_elems
    assert (model.active_elems < model.weight_elems) is any(
        layer.active_experts < layer.experts for layer in model.layers
    )
    assert len({layer.name for layer in model.layers}) == len(model.layers)


def test_most_families_stand_in_the_table_of_built_modules():
    assert len({row["model_type"] for row in BUILT}) >= 100
