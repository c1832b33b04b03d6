"""Figures of `nmsim quality` beside losses: a proxy that follows the loss is distinguished from one that does not."""

import numpy as np
import pandas as pd
import pytest

from nmsim.errors import RowError
from nmsim.quality.configuration import Configuration
from validate.accuracy.losses import loss_frame, one_operand
from validate.accuracy.proxies import FITS, PROXY_COLUMNS, beside_quality, leave_one_out, proxy_table
from validate.accuracy.sensitivity import sensitivity_table

WAY = ("operand", "pattern", "criterion", "mitigation")


@pytest.fixture(scope="module")
def quality(rows):
    """Output errors are a power of the loss; energies are drawn at random."""
    generator = np.random.default_rng(0)
    frame = loss_frame(rows)
    records = []
    for operand in ("weights", "activations"):
        other = {"weights": "activations", "activations": "weights"}[operand]
        own = frame[
            (frame["layers"] == "all")
            & (frame[f"{operand}_pattern"] != "")
            & (frame[f"{other}_pattern"] == "")
        ]
        own = own[own[f"{operand}_values"] == ""]
        for row in own.to_dict("records"):
            way = {name: row[f"{operand}_{name}"] for name in WAY[1:]}
            records.append({"layer": "all", "operand": operand, **way, "loss": row["loss_increase"]})
    layers = sensitivity_table(rows).query("scope == 'layer'")
    records += [
        {
            "layer": f"{row['layers']}.weight",
            **{name: row[name] for name in WAY},
            "loss": row["loss_increase"],
        }
        for row in layers.to_dict("records")
    ]
    table = pd.DataFrame(records)
    return table.assign(
        relative_output_error=0.3 * table["loss"].clip(1e-6) ** 0.5,
        energy_kept_share=generator.random(len(table)),
    ).drop(columns="loss")


def test_losses_and_figures_are_joined_by_way_and_layer(rows, quality):
    points = beside_quality(rows, quality)
    assert points["over"].value_counts()["layers"] == 28
    one = points[(points["layer"] == "model.layers.1.mlp.up_proj")].iloc[0]
    assert one["relative_output_error"] == pytest.approx(0.3 * one["loss_increase"] ** 0.5, rel=1e-6)
    loose = points[points["criterion"] == "unstructured"]
    assert set(loose["pattern"]) == {"1:2", "3:10"}


def test_unstructured_figures_go_by_their_density(rows, quality):
    renamed = quality.assign(
        pattern=quality["pattern"].mask(
            quality["criterion"].str.startswith("unstructured") & (quality["pattern"] == "1:2"), "8:16"
        )
    )
    twice = pd.concat([renamed, quality[quality["criterion"].str.startswith("unstructured")]])
    for table in (renamed, twice):
        pd.testing.assert_frame_equal(beside_quality(rows, table), beside_quality(rows, quality))


def test_a_proxy_that_tells_the_loss_is_told_from_one_that_does_not(rows, quality):
    table = proxy_table(beside_quality(rows, quality))
    assert tuple(table.columns) == PROXY_COLUMNS
    for of in ("both operands", "activations 8:16 magnitude"):
        own = table[(table["of"] == of) & (table["fit"] == "power law")].set_index("proxy")
        good, noise = own.loc["relative_output_error"], own.loc["energy_lost_share"]
        assert good["spearman"] == pytest.approx(1.0)
        assert good["kendall"] == pytest.approx(1.0)
        assert good["factor_p90"] == pytest.approx(1.0, abs=1e-6)
        assert abs(noise["spearman"]) < 0.7
        assert noise["spearman_low"] < noise["spearman"] < noise["spearman_high"]
        assert noise["factor_p90"] > 1.5
        assert good["factor_without"] > 1.2
    monotone = table[(table["fit"] == "monotone") & (table["proxy"] == "relative_output_error")]
    assert (monotone["factor_median"] < 1.5).all()


def test_a_point_is_predicted_from_the_others_only():
    """The last point lies far off the line of the others. A fit that had seen it would come nearer."""
    pairs = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0], [16.0, 16.0], [32.0, 3200.0]])
    factors = [leave_one_out(pairs, fit)["factor_p90"] for fit in FITS]
    assert factors[0] > 5
    x, y = np.log(pairs).T
    alone = np.exp(FITS[0].predict(x[:-1], y[:-1], x[-1:])[0])
    assert alone == pytest.approx(32.0)


def test_increases_that_are_not_above_zero_are_left_out_of_the_fit(make_model):
    model = make_model(seed=5)
    ways = [one_operand("activations", f"{n}:16") for n in range(2, 14)]
    increases = [2.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, -0.1, -0.2]
    found = [model.row(Configuration(), 0.0), *map(model.row, ways, increases)]
    quality = pd.DataFrame(
        {
            "layer": "all", "operand": "activations", "pattern": [f"{n}:16" for n in range(2, 14)],
            "criterion": "magnitude", "mitigation": "none", "energy_kept_share": np.linspace(0.1, 0.9, 12),
            "relative_output_error": np.linspace(0.9, 0.1, 12),
        }
    )  # fmt: skip
    table = proxy_table(beside_quality(found, quality))
    assert set(table["points"]) == {12}
    assert set(table["fitted_points"]) == {10}
    assert table["spearman"].to_list() == pytest.approx([1.0] * len(table))


def test_tables_of_another_kind_are_refused(rows, quality):
    with pytest.raises(
        RowError, match="quality: no column energy_kept_share: expected the table of nmsim quality"
    ):
        beside_quality(rows, quality.drop(columns="energy_kept_share"))
    with pytest.raises(RowError, match="comes twice: expected one row per layer and way"):
        beside_quality(rows, pd.concat([quality, quality]))


def test_few_points_give_no_correlation(rows, quality):
    points = beside_quality(rows, quality)
    assert proxy_table(points[points["over"] == "configurations"].head(4)).empty
    assert proxy_table(beside_quality([], quality)).empty
