"""A sweep with measured qualities: which way of each pattern counts, and what the answer holds."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from loss_rows import rows

import hwmodels
from hwmodels.sweeps import load_space
from nmsim.errors import NmsimError
from nmsim.rows.files import write
from nmsim.rows.loss import LossRow
from validate.accuracy.beside_cost import for_sweep, read_qualities

SPACE = {
    "core": {"base": "flexible-8x16"},
    "axes": {
        "pattern": ["dense", "2:4", "8:16"],
        "sparse_operand": ["weights", "activations"],
        "tokens": [1, 64],
    },
    "workload": {"shapes": [[256, 256]]},
}
TABLE = """layer,operand,pattern,criterion,mitigation,activations,energy_kept_share,relative_output_error
all,weights,2:4,magnitude,none,dump d,0.8,0.3
all,weights,8:16,magnitude,none,dump d,0.9,0.2
"""


@pytest.fixture
def losses(tmp_path):
    path = tmp_path / "losses.csv"
    write(path, rows(), record=LossRow)
    return path


def quality(found, operand, pattern):
    (value,) = set(
        found[(found["sparse_operand"] == operand) & (found["pattern"] == pattern)]["loss_increase"]
    )
    return value


@pytest.mark.parametrize("key", ["file", "losses"])
def test_rows_of_losses_are_an_objective(losses, key):
    space = load_space(SPACE | {"quality": {key: str(losses)}}, read_measured=for_sweep)
    found = hwmodels.sweep(space)
    measured = read_qualities(losses)
    for pattern in ("2:4", "8:16"):
        for operand in ("weights", "activations"):
            assert quality(found, operand, pattern) == measured.best(operand, pattern).value
    assert quality(found, "none", "dense") == 0
    assert (
        (found["loss_increase_low"] <= found["loss_increase"])
        & (found["loss_increase"] <= found["loss_increase_high"])
    ).all()
    # Nothing loses less than dense, so a dense point is on each front.
    front = hwmodels.pareto_front(found, minimise=["time_s", "loss_increase"], within=["tokens"])
    assert set(found[front & (found["pattern"] == "dense")]["tokens"]) == {1, 64}


def test_a_way_may_be_chosen(losses):
    chosen = {"losses": str(losses), "criterion": "magnitude", "mitigation": "none", "of": ["text=news"]}
    found = hwmodels.sweep(load_space(SPACE | {"quality": chosen}, read_measured=for_sweep))
    (one,) = [
        one for one in read_qualities(losses).ways if one.key == ("weights", "2:4", "magnitude", "none")
    ]
    assert quality(found, "weights", "2:4") == one.value


def test_the_table_of_quality_is_an_objective(tmp_path):
    (tmp_path / "quality.csv").write_text(TABLE)
    axes = {"pattern": ["dense", "2:4", "8:16"]}
    for chosen, column, dense in (
        ({}, "relative_output_error", 0.0),
        ({"of": ["quantity=energy_kept"]}, "energy_kept_share", 1.0),
    ):
        table = {"file": str(tmp_path / "quality.csv")} | chosen
        space = load_space(SPACE | {"axes": axes, "quality": table}, read_measured=for_sweep)
        found = hwmodels.sweep(space)
        of_table = pd.read_csv(tmp_path / "quality.csv").set_index("pattern")[column].to_dict() | {
            "dense": dense
        }
        np.testing.assert_array_equal(found[column], found["pattern"].astype(str).map(of_table))
        assert f"{column}_low" not in found


@pytest.mark.parametrize(
    ("changes", "axes", "problem"),
    [
        (
            {},
            {"pattern": ["32:64"]},
            "no loss_increase of weights at 32:64; every point of the space needs one",
        ),
        ({"criterion": "amber"}, {}, "no loss_increase of weights at 2:4"),
        ({"criterion": "no"}, {}, "criterion='no'"),
        ({"mitigation": "no"}, {}, "mitigation='no'"),
        ({"of": ["text"]}, {}, "expected KEY=VALUE"),
        ({}, {"other_pattern": ["2:4"]}, "the space has other_pattern"),
        ({"file": "x"}, {}, "expected either file or losses|cannot be read"),
    ],
)
def test_what_nothing_was_measured_for_is_refused(losses, changes, axes, problem):
    space = SPACE | {"axes": SPACE["axes"] | axes, "quality": {"losses": str(losses)} | changes}
    with pytest.raises(NmsimError, match=problem):
        load_space(space, read_measured=for_sweep)


def test_a_reader_is_needed_and_is_for_measured_values_only(losses, tmp_path):
    with pytest.raises(NmsimError, match="read_measured=for_sweep"):
        load_space(SPACE | {"quality": {"losses": str(losses)}})
    own = tmp_path / "own.csv"
    own.write_text("pattern,quality\ndense,1\n2:4,0.5\n8:16,0.7\n")
    with pytest.raises(NmsimError, match=r"quality\.criterion: .* has figures of your own"):
        load_space(SPACE | {"quality": {"file": str(own), "criterion": "magnitude"}}, read_measured=for_sweep)
    assert load_space(SPACE | {"quality": {"file": str(own)}}).quality.column == "quality"


def test_the_verb_minimises_losses(nmsim, losses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(
        '[core]\nbase = "flexible-8x16"\n[axes]\npattern = ["dense", "2:4", "8:16"]\n[workload]\nshapes = [[256, 256]]\n'
        '[quality]\nlosses = "losses.csv"\n'
    )
    code, text, _ = nmsim("sweep", "space.toml", "-o", "out.csv", "--front", "front.csv")
    assert code == 0
    assert "Pareto front over time_s, energy_joules, area_um2, loss_increase (least), for each work" in text
    front = pd.read_csv(tmp_path / "front.csv")
    assert {"loss_increase", "loss_increase_low", "loss_increase_high"} <= set(front.columns)
    assert "dense" in set(front["pattern"])
    code, text, _ = nmsim("sweep", "space.toml", "-o", "again.csv", "--plot", "front.svg", "--json")
    assert code == 0
    assert "loss_increase" in json.loads(text)["best"][0]
    assert "loss increase vs dense" in texts_of_svg(tmp_path / "front.svg")


def texts_of_svg(path):
    """Texts of a figure, which stand in its comments."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8")))


def test_a_figure_that_cannot_be_read_is_refused_before_any_work(nmsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(
        '[core]\nbase = "flexible-8x16"\n[axes]\npattern = ["2:4"]\ntokens = [1, 2, 3, 4, 5, 6, 7]\n'
        "[workload]\nshapes = [[256, 256]]\n"
    )
    for options, problem in (
        ((), "7 works, each a panel: expected at most 6"),
        (("--pareto", "time_s"), "7 works"),
    ):
        code, _, err = nmsim("sweep", "space.toml", "--plot", "front.png", *options)
        assert (code, problem in err) == (2, True)
    assert not list(tmp_path.glob("space.parquet*"))
