"""Figures of losses: what is drawn is what the tables say, axes have units, and tables of two texts are refused."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.container import ErrorbarContainer

from hwmodels import plots
from nmsim.errors import RowError
from validate import beside_quality, loss_frame, sensitivity_table


@pytest.fixture(scope="module")
def frame(rows):
    return loss_frame(rows)


@pytest.fixture(scope="module")
def points(rows, frame):
    """One output error per way of all layers, and per single layer."""
    own = frame[
        (frame["layers"] == "all") & (frame["activations_pattern"] != "") & (frame["weights_pattern"] == "")
    ]
    names = ["pattern", "criterion", "mitigation"]
    quality = own[own["activations_values"] == ""][[f"activations_{name}" for name in names]]
    quality = quality.set_axis(names, axis="columns").assign(layer="all", operand="activations")
    singles = sensitivity_table(rows).query("scope == 'layer'")[["layers", "operand", *names]]
    both = pd.concat([quality, singles.rename(columns={"layers": "layer"})], ignore_index=True)
    errors = np.linspace(0.01, 0.9, len(both))
    return beside_quality(rows, both.assign(relative_output_error=errors, energy_kept_share=1 - errors))


def bars(ax):
    """Middles, and ends, of everything that has error bars."""
    found = [one for one in ax.containers if isinstance(one, ErrorbarContainer)]
    middles = np.concatenate([one.lines[0].get_ydata() for one in found])
    segments = np.concatenate([one.lines[2][0].get_segments() for one in found])
    return middles[np.isfinite(middles)], segments


def test_losses_by_pattern_are_those_of_the_table(frame):
    fig, grid = plots.loss_vs_pattern(frame)
    assert grid.shape == (1, 2)
    assert [ax.get_title(loc="left") for ax in grid[0]] == ["weights pruned", "activations pruned"]
    assert grid[0, 0].get_ylabel() == "loss increase vs dense [nats/token]"
    own = frame[
        (frame["layers"] == "all") & (frame["activations_mitigation"] == "none") & (frame["activations_values"] == "")
        & (frame["weights_pattern"] == "") & ~frame["activations_pattern"].isin(["1:2", "3:10"])
    ]  # fmt: skip
    middles, segments = bars(grid[0, 1])
    assert np.sort(middles) == pytest.approx(np.sort(own["loss_increase"]))
    assert np.sort(segments[:, 0, 1]) == pytest.approx(np.sort(own["loss_increase_low"]))
    assert np.sort(segments[:, 1, 1]) == pytest.approx(np.sort(own["loss_increase_high"]))
    loose = frame[
        (frame["activations_criterion"] == "unstructured") & (frame["activations_pattern"] == "1:2")
    ]
    assert loose["loss_increase"].item() in [line.get_ydata()[0] for line in grid[0, 1].lines]
    assert {"magnitude", "Wanda", "CLACT"} <= {text.get_text() for text in fig.legends[0].get_texts()}


def test_an_unstructured_line_has_the_colour_of_its_criterion(frame):
    _, grid = plots.loss_vs_pattern(frame)
    wanda = frame[frame["weights_criterion"] == "unstructured_channel_vector"].query(
        "weights_pattern == '1:2'"
    )
    (line,) = [one for one in grid[0, 0].lines if one.get_ydata()[0] == wanda["loss_increase"].item()]
    assert same_color(line.get_color(), plots.LIGHT.colour(1))


def test_sensitivities_are_those_of_the_table(rows):
    table = sensitivity_table(rows)
    _, grid = plots.sensitivity(table, theme=plots.DARK)
    assert grid.shape == (1, 2)
    for ax, scope in zip(grid[0], ("kind", "block"), strict=True):
        own = table[table["scope"] == scope]
        middles, segments = bars(ax)
        assert np.sort(middles) == pytest.approx(np.sort(own["loss_increase"]))
        assert np.sort(segments[:, 1, 1]) == pytest.approx(np.sort(own["loss_increase_high"]))
        assert ax.get_ylabel().endswith("[nats/token]")
    assert [text.get_text() for text in grid[0, 0].get_xticklabels()] == [
        "q",
        "k",
        "v",
        "o",
        "gate",
        "up",
        "down",
    ]


def test_proxies_are_drawn_over_configurations_and_layers(points):
    negative = points.assign(
        loss_increase=points["loss_increase"].mask(points.index == points.index[-1], -0.1)
    )
    _, grid = plots.proxy_scatter(negative)
    assert grid.shape == (2, 2)
    assert grid[1, 0].get_title(loc="left") == "27 layers; 1 not above 0, not drawn"
    assert grid[0, 1].get_xlabel() == "output error |Y - Yd|² / |Yd|² [1]"
    assert len(bars(grid[0, 0])[0]) == (points["over"] == "configurations").sum()


@pytest.mark.parametrize("draw", [plots.loss_vs_pattern, plots.sensitivity, plots.proxy_scatter])
def test_tables_of_two_texts_and_empty_ones_are_refused(draw, frame, points, rows):
    table = {
        plots.loss_vs_pattern: frame,
        plots.sensitivity: sensitivity_table(rows),
        plots.proxy_scatter: points,
    }[draw]
    with pytest.raises(RowError, match="a figure of losses, text: news, lambada: expected one"):
        draw(pd.concat([table, table.assign(text="lambada")]))
    with pytest.raises(RowError, match="no row to draw"):
        draw(table.iloc[:0])
