"""The room of the figures: one form for all functions, two style sheets with the same keys, and nothing left behind."""

import inspect
from xml.etree import ElementTree

import matplotlib
import pandas as pd
import pytest
from matplotlib.colors import same_color

from hwmodels import plots
from hwmodels.plots import style
from hwmodels.plots.labels import refuse_twice
from nmsim.errors import NmsimError, RowError

DRAWING = [name for name in plots.__all__ if name not in ("CostPanel", "DARK", "LIGHT", "Theme", "rendered")]
BITS = pd.DataFrame(
    {
        "pattern": ["2:4"],
        "encoding": ["index"],
        "measured_values_bits_per_elem": [8.0],
        "measured_metadata_bits_per_elem": [1.0],
        "entropy_bits_per_elem": [0.65],
        "dense_bits_per_elem": [16.0],
    }
)


@pytest.mark.parametrize("name", DRAWING)
def test_a_figure_takes_one_table_and_keywords(name):
    table, *others = inspect.signature(getattr(plots, name)).parameters.values()
    assert table.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {other.kind for other in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert others[-1].name == "theme"
    assert others[-1].default is plots.LIGHT


def test_the_style_sheets_say_the_same_of_different_colours():
    light, dark = (
        matplotlib.rc_params_from_file(theme.style_sheet, use_default_template=False)
        for theme in (plots.LIGHT, plots.DARK)
    )
    assert set(light) == set(dark)
    changed = {key for key in light if light[key] != dark[key]}
    assert {"figure.facecolor", "text.color", "grid.color", "axes.edgecolor", "patch.facecolor"} <= changed
    assert all(key.endswith("color") for key in changed)


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK], ids=["light", "dark"])
def test_text_and_paper_are_those_of_the_theme(theme):
    fig, grid = plots.bytes_per_element(BITS, theme=theme)
    ax = grid[0, 0]
    assert same_color(fig.get_facecolor(), theme.paper)
    assert same_color(ax.get_facecolor(), theme.paper)
    for text in (ax.xaxis.label, ax.yaxis.label, *fig.legends[0].get_texts(), *ax.get_xticklabels()):
        assert same_color(text.get_color(), theme.ink)


def test_the_settings_of_the_caller_are_left_as_they_were():
    before = dict(matplotlib.rcParams)
    plots.bytes_per_element(BITS, theme=plots.DARK)
    with pytest.raises(RowError, match="no row to draw"):
        plots.bytes_per_element(BITS.iloc[:0], theme=plots.DARK)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_same_figure_has_the_same_bytes(kind, start):
    one, other = (plots.rendered(plots.bytes_per_element(BITS)[0], kind) for _ in range(2))
    assert one == other
    assert one.startswith(start)


def test_a_theme_is_one_of_two():
    with pytest.raises(NmsimError, match="theme='dark': expected LIGHT or DARK"):
        plots.bytes_per_element(BITS, theme="dark")


def test_panels_beyond_the_last_are_hidden():
    _, grid, panels, lowest = style.panels_in_rows(5, 3, 1.0, top=0.5)
    assert grid.shape == (2, 3)
    assert [ax.get_visible() for ax in grid.flat] == [True] * 5 + [False]
    assert panels == list(grid.flat)[:5]
    assert lowest == [grid[0, 2], grid[1, 0], grid[1, 1]]


def test_two_rows_of_one_mark_are_named():
    rows = pd.DataFrame({"pattern": ["2:4", "2:4"], "encoding": ["index", "bitmask"]})
    assert refuse_twice(rows, ["pattern", "encoding"], "bits", "drop one") is rows
    with pytest.raises(RowError, match=r"bits: several rows for 2:4: expected one \(drop one\)"):
        refuse_twice(rows, ["pattern", "absent"], "bits", "drop one")


def test_names_in_a_figure_are_shown_and_never_obeyed():
    """A control character would make an invalid SVG, and two dollar signs a formula that may not parse."""
    name = "<b>\x1b[31m\u202e $\\frac{$ --"
    fig, grid = style.panel_grid(1, 1, 1.0)
    axes = grid.flat[0]
    axes.set_title(name)
    axes.plot([0, 1], [0, 1], label=name)
    axes.legend()
    axes.set_xticks([0, 1], [name, "$10^{3}$"])
    shown = style.rendered(fig, "svg")
    ElementTree.fromstring(shown)
    assert "\u202e" not in shown.decode()
    assert style.rendered(fig, "png").startswith(b"\x89PNG")
