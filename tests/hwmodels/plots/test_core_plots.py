"""Figures of tensor cores: what is drawn is what the table says, axes have units, and bad tables are refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color, to_rgba
from matplotlib.figure import Figure

import hwmodels
from hwmodels import plots
from hwmodels.estimate import bounds
from hwmodels.online.break_even import batch_table, break_even_batch, selector_table
from hwmodels.plots import DARK, LIGHT, cores, labels
from hwmodels.plots.cores import TERA
from hwmodels.plots.fronts import scaled
from hwmodels.plots.style import STAGE_COLOURS
from hwmodels.tensorcore.cycles import LIMITS
from hwmodels.tensorcore.record import load_core
from hwmodels.tensorcore.services import STAGES
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError

SHAPES = {"shapes": [[4096, 4096]]}
SPARSE = Case(GemmShape(1, 4096, 4096), "8:16", sparse_operand="activations")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Two cores, two patterns and dense, two encodings, two numbers of tokens; one core refuses one encoding."""
    axes = {
        "core": ["nvidia-like-2x4", "flexible-8x16"],
        "pattern": ["8:16", "dense", "2:4"],
        "encoding": ["index", "combinatorial"],
        "tokens": [1, 2048],
    }
    return hwmodels.sweep({"axes": axes, "workload": SHAPES})


@pytest.fixture(scope="module")
def index_only(table):
    return table[table["encoding"].isin(["none", "index"])]


@pytest.fixture(scope="module")
def roofs() -> pd.DataFrame:
    axes = {"pattern": ["dense", "2:4", "8:16"], "encoding": ["combinatorial"], "tokens": [1, 16, 512, 4096]}
    return hwmodels.sweep({"core": {"base": "flexible-8x16"}, "axes": axes, "workload": SHAPES})


@pytest.fixture(scope="module")
def batches() -> pd.DataFrame:
    core = load_core("flexible-8x16")
    found = [batch_table(SPARSE, core, range(1, 257), placement=name) for name in ("producer", "consumer")]
    return pd.concat(found, ignore_index=True)


@pytest.fixture(scope="module")
def rates() -> pd.DataFrame:
    core = load_core("flexible-8x16")
    found = [
        selector_table(replace(SPARSE, format=p), core, [1, 512]).assign(pattern=p) for p in ("2:4", "8:16")
    ]
    return pd.concat(found, ignore_index=True)


@pytest.fixture(scope="module")
def designs() -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "core": ["a", "b", "c", "d"],
            "pattern": ["dense", "2:4", "2:4", "8:16"],
            "tokens": 64,
            "area_um2": [1e6, 2e6, 3e6, 4e6],
            "time_s": [4e-5, 2e-5, 3e-5, 1e-5],
        }
    )
    return table.assign(area_um2_low=0.5 * table["area_um2"], area_um2_high=3 * table["area_um2"])


def marked(ax):
    """Lines that have markers and points."""
    return [line for line in ax.lines if line.get_marker() not in ("None", "") and len(line.get_xdata())]


def test_speedups_are_those_of_the_table(table):
    fig, grid = plots.core_speedup_vs_pattern(table)
    assert isinstance(fig, Figure)
    assert grid.shape == (2, 2)
    assert grid[0, 0].get_ylabel() == "speedup vs dense [×]"
    assert grid[1, 0].get_xlabel() == "pattern, kept : group [elements]"
    assert [ax.get_title(loc="left") for ax in grid[:, 0]] == ["nvidia-like-2x4", "flexible-8x16"]
    live = table[(table["refused"] == "") & (table["pattern"] != "dense")]
    for ax, (core, tokens) in zip(
        grid.flat, [(c, t) for c in ("nvidia-like-2x4", "flexible-8x16") for t in (1, 2048)], strict=True
    ):
        here = live[(live["core"] == core) & (live["tokens"] == tokens)]
        drawn = np.concatenate([line.get_ydata() for line in marked(ax)])
        assert np.allclose(np.sort(drawn[~np.isnan(drawn)]), np.sort(here["speedup_vs_dense"]))
        filled = [line for line in marked(ax) if same_color(line.get_markerfacecolor(), line.get_color())]
        native = np.concatenate([line.get_ydata() for line in filled])
        assert (~np.isnan(native)).sum() == (here["execution"] == "native").sum()
    assert "decoded, zeros multiplied" in [text.get_text() for text in fig.legends[0].get_texts()]


def test_a_table_with_a_phase_keeps_it(table):
    _, grid = plots.core_speedup_vs_pattern(table.assign(phase="decode"))
    assert [text.get_text() for text in grid[0, 1].texts] == ["decode, batch 2048"]


def test_bars_are_the_shares_of_the_stages(index_only):
    _, grid = plots.core_time_by_stage(index_only)
    assert grid.shape == (4, 1)
    assert grid[0, 0].get_title(loc="left") == "nvidia-like-2x4: decode, batch 1"
    assert grid[3, 0].get_title(loc="left") == "flexible-8x16: prefill, 2048 tokens"
    for unit in ("[s/s]", "[%]"):
        assert unit in grid[-1, 0].get_xlabel()
    stages = [stage for stage in STAGES if (index_only[f"{stage}_cycles"] > 0).any()]
    assert "prune" not in stages
    here = index_only[(index_only["core"] == "flexible-8x16") & (index_only["tokens"] == 2048)]
    ax = grid[3, 0]
    bars = {(round(bar.get_y() + 0.31), bar.get_x()): bar for bar in ax.patches}
    for place, pattern in enumerate(["dense", "2:4", "8:16"]):
        row = here[here["pattern"] == pattern].iloc[0]
        limiting = row["limit"].removesuffix(" waiting").split(" and ")
        for column, stage in enumerate(stages):
            bar = bars[place, cores.LABEL_WIDTH + cores.TIME_WIDTH + column]
            share = row[f"{stage}_cycles"] / row["cycles"]
            assert bar.get_width() / cores.BAR_SHARE == pytest.approx(share)
            assert same_color(bar.get_facecolor(), LIGHT.series[0]) == (stage in limiting)
        start = bars[place, cores.LABEL_WIDTH]
        busiest = max(row[f"{stage}_cycles"] for stage in STAGES)
        rest = bars[place, cores.LABEL_WIDTH + start.get_width()]
        assert rest.get_hatch()
        assert (start.get_width() + rest.get_width()) / start.get_width() == pytest.approx(
            row["cycles"] / busiest
        )
        said = [text.get_text() for text in ax.texts if text.get_position()[1] == place]
        assert f"{row['cycles'] / row['dense_cycles']:.2f}" in said


def test_two_stages_that_wait_for_each_other_are_both_marked(index_only):
    doctored = index_only[(index_only["tokens"] == 1) & (index_only["pattern"] == "2:4")]
    _, grid = plots.core_time_by_stage(doctored.assign(limit="l2 and shared waiting"))
    blue = [bar for bar in grid[0, 0].patches if same_color(bar.get_facecolor(), LIGHT.series[0])]
    assert sorted(bar.get_x() - cores.LABEL_WIDTH - cores.TIME_WIDTH for bar in blue) == pytest.approx([1, 2])


@pytest.mark.parametrize("limit", LIMITS)
def test_every_limit_that_the_model_can_name_is_drawn(index_only, roofs, limit):
    plots.core_time_by_stage(index_only.assign(limit=limit))
    plots.roof_surface(roofs.assign(limit=limit), core=load_core("flexible-8x16"))


def test_every_limit_of_a_machine_has_a_name_and_a_colour():
    assert set(labels.STAGE_NAMES) == set(STAGE_COLOURS) == set(bounds.STAGES)


def test_no_point_is_above_a_roof(roofs):
    core = load_core("flexible-8x16")
    fig, grid = plots.roof_surface(roofs, core=core)
    ax = grid[0, 0]
    assert ax.get_xlabel() == "effectual multiply-adds / DRAM byte [1/byte]"
    assert ax.get_ylabel() == "effectual multiply-adds / time [10¹²/s]"
    x = roofs["effectual_macs"] / (roofs["dram_read_bytes"] + roofs["dram_write_bytes"])
    y = roofs["effectual_macs"] / roofs["time_s"] / TERA
    points = marked(ax)
    assert np.allclose(np.sort([p.get_ydata()[0] for p in points]), np.sort(y))
    assert np.allclose(np.sort([p.get_xdata()[0] for p in points]), np.sort(x))
    memory, array, zeros = (line for line in ax.lines[:3])
    slope = memory.get_ydata()[1] / memory.get_xdata()[1]
    assert slope == pytest.approx(4.8, rel=1e-3)  # the H200's terabytes a second
    assert array.get_ydata()[0] == pytest.approx(989.4 / 2, rel=1e-3)  # multiply-adds: half its dense flop
    assert zeros.get_ydata()[0] == pytest.approx(array.get_ydata()[0] / 2)
    assert (y <= slope * x * (1 + 1e-9)).all()
    assert (y <= array.get_ydata()[0] * (1 + 1e-9)).all()
    moving = [line for line in ax.lines if str(line.get_gid()).startswith("roof of")]
    # A decoder takes dense elements, as many per cycle for 2:4 as for 8:16: both have one roof, and it is drawn once.
    decoded = roofs[roofs["pattern"] != "dense"].sort_values("tokens").groupby("pattern")["decode_cycles"]
    assert len({tuple(cycles) for _, cycles in decoded}) == 1
    (of_both,) = (line for line in moving if line.get_gid() == "roof of decode")
    in_elements = roofs["effectual_macs"] * core.clock_hz / roofs["decode_cycles"] / TERA
    assert set(np.round(of_both.get_ydata(), 6)) == set(np.round(in_elements[roofs["pattern"] == "8:16"], 6))
    for line in moving:
        nearest = [y[np.isclose(x, at)].min() for at in line.get_xdata()]
        assert (np.array(nearest) <= line.get_ydata() * (1 + 1e-9)).all()
    colours = {to_rgba(p.get_color()) for p in points}
    assert to_rgba(STAGE_COLOURS["memory"]) in colours
    assert fig.axes == [ax]


def test_roofs_are_of_one_core_and_one_value_type(table, roofs):
    with pytest.raises(
        RowError, match="rows of nvidia-like-2x4, bf16: expected one value type on flexible-8x16"
    ):
        plots.roof_surface(table, core=load_core("flexible-8x16"))
    both = pd.concat([roofs, roofs.assign(dtype="fp8")])
    with pytest.raises(RowError, match="rows of bf16, fp8: expected one value type"):
        plots.roof_surface(both, core=load_core("flexible-8x16"))


def test_curves_and_marks_of_the_break_even_are_those_of_the_table(batches):
    _, grid = plots.break_even_batch(batches)
    ax = grid[0, 0]
    assert ax.get_xlabel() == "tokens per step (decode batch, prefill length)"
    assert ax.get_ylabel() == "speedup vs dense [×]"
    producer = batches[batches["placement"] == "producer"]
    curves = [line for line in ax.lines if len(line.get_xdata()) == 256]
    assert any(np.allclose(line.get_ydata(), producer["speedup_vs_dense"]) for line in curves)
    weights = producer["speedup_vs_dense"] / producer["speedup_vs_sparse_weights"]
    assert any(np.allclose(line.get_ydata(), weights) for line in curves)
    known = break_even_batch(SPARSE, load_core("flexible-8x16"), most_tokens=256, placement="producer")
    said = [text.get_text() for text in ax.texts]
    assert f"up to {known.decode_tokens}" in said
    assert (f"from {known.prefill_tokens}" in said) == (known.prefill_tokens is not None)


def test_patterns_of_a_break_even_have_panels_in_their_order(batches):
    both = pd.concat([batches.assign(pattern="16:32"), batches.assign(pattern="2:4")])
    _, grid = plots.break_even_batch(both)
    assert [ax.get_title(loc="left") for ax in grid[0]] == ["2:4", "16:32"]


def test_rates_of_selectors_are_those_of_the_table(rates):
    doctored = rates.copy()
    doctored.loc[doctored["tokens"] == 1, "as_fast_as_dense"] = np.inf
    fig, grid = plots.selector_need(doctored, built_elements_per_cycle=128)
    assert grid[0, 0].get_ylabel() == "selector of a core [elements/cycle]"
    for ax, placement in zip(grid[0], ("producer", "consumer"), strict=True):
        here = doctored[doctored["placement"] == placement]
        dots = np.concatenate([line.get_ydata() for line in ax.lines if line.get_marker() == "o"])
        wanted = here[["as_fast_as_dense", "near_free"]].to_numpy().ravel()
        assert np.allclose(np.sort(dots[~np.isnan(dots)]), np.sort(wanted[np.isfinite(wanted)]))
        triangles = sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "^")
        assert triangles == np.isinf(wanted).sum() == 2
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "512"]
    said = [text.get_text() for text in fig.legends[0].get_texts()]
    assert said[:2] == ["2:4", "8:16"]
    assert "what the core has, 128" in said


def test_a_front_is_joined_and_filled(designs):
    front = hwmodels.pareto_front(designs, minimise=["area_um2", "time_s"])
    assert front.tolist() == [True, True, False, True]
    _, grid = plots.pareto(designs, x="area_um2", y="time_s", front=front, label=["core"])
    ax = grid[0, 0]
    assert ax.get_xlabel() == "area [mm²]; range: 0.5 to 3 times, mostly common to all"
    assert ax.get_ylabel() == "time [µs]"
    (steps,) = (line for line in ax.lines if line.get_drawstyle() == "steps-post")
    assert np.allclose(steps.get_xdata(), [1, 2, 4])
    assert np.allclose(steps.get_ydata(), [40, 20, 10])
    filled = [line for line in marked(ax) if same_color(line.get_markerfacecolor(), line.get_color())]
    assert sum(len(line.get_xdata()) for line in filled) == 3
    assert {text.get_text() for text in ax.texts} == {"a", "b", "d"}


def test_fronts_of_patterns_and_bars(designs):
    front = hwmodels.pareto_front(designs, minimise=["area_um2", "time_s"], within=["pattern"])
    _, grid = plots.pareto(
        designs,
        x="area_um2",
        y="time_s",
        front=front,
        within=["tokens"],
        by_pattern=True,
        bars=True,
        label=["core"],
    )
    ax = grid[0, 0]
    assert ax.get_title(loc="left") == "tokens: 64"
    assert len([line for line in ax.lines if line.get_drawstyle() == "steps-post"]) == 3
    (bars,) = ax.collections
    ends = sorted((path.vertices[0, 0], path.vertices[1, 0]) for path in bars.get_paths())
    assert np.allclose(ends, [(0.5, 3), (1, 6), (2, 12)])


@pytest.mark.parametrize(
    ("name", "values", "label"),
    [
        ("area_um2", [1.4e8], "area [mm²]"),
        ("energy_joules", [3e-4], "energy [µJ]"),
        ("time_s", [2.5e-3], "time [ms]"),
        ("cycles", [5e6], "time [10⁶ cycles]"),
        ("dram_read_bytes", [3e6], "dram read [MB]"),
        ("speedup_vs_dense", [1.5], "speedup vs dense [×]"),
        ("utilisation", [0.5], "utilisation [1]"),
    ],
)
def test_units_are_scaled(name, values, label):
    assert scaled(name, values).label == label


@pytest.mark.parametrize(
    "draw",
    [
        plots.core_speedup_vs_pattern,
        plots.core_time_by_stage,
        lambda table: plots.roof_surface(table, core=load_core("flexible-8x16")),
        plots.break_even_batch,
        plots.selector_need,
        lambda table: plots.pareto(table, x="area_um2", y="time_s", front=np.zeros(len(table), bool)),
    ],
)
def test_a_table_without_a_column_or_a_row_is_refused(draw, table, batches, rates):
    whole = pd.concat([table, batches, rates], axis=1).loc[:, lambda t: ~t.columns.duplicated()]
    with pytest.raises(RowError, match=r"no column .*tokens.*: expected|no column area_um2"):
        draw(whole.drop(columns=["tokens", "area_um2"]))
    with pytest.raises(RowError, match="no row to draw"):
        draw(whole[whole["refused"] == "no such thing"])
    with pytest.raises(RowError, match="no row to draw"):
        draw(whole.assign(refused="wrong"))


def test_two_rows_for_one_mark_are_refused(table, batches, rates):
    deeper = pd.concat([table, table.assign(array_depth=32)])
    for draw in (plots.core_speedup_vs_pattern, plots.core_time_by_stage):
        with pytest.raises(RowError, match="several rows for nvidia-like-2x4, decode, 1"):
            draw(deeper)
    with pytest.raises(RowError, match="several rows for 1, producer: expected one"):
        plots.break_even_batch(pd.concat([batches, batches]))
    with pytest.raises(RowError, match="placement 'elsewhere': expected one of producer, consumer"):
        plots.selector_need(rates.assign(placement="elsewhere"))


def test_a_front_of_another_table_is_refused(designs):
    with pytest.raises(RowError, match="front of 2 rows: expected the 4 of the table"):
        plots.pareto(designs, x="area_um2", y="time_s", front=np.array([True, False]))


def test_a_step_that_is_not_there_is_refused(index_only):
    with pytest.raises(RowError, match="no row at decode, batch 3"):
        plots.core_time_by_stage(index_only, steps=[("decode", 3)])


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_legends_lie_over_the_panels_and_inside_the_figure(table, index_only, batches, rates, designs, theme):
    front = hwmodels.pareto_front(designs, minimise=["area_um2", "time_s"])
    figures = [
        plots.core_speedup_vs_pattern(table, theme=theme),
        plots.core_time_by_stage(index_only, theme=theme),
        plots.break_even_batch(batches, theme=theme),
        plots.selector_need(rates, theme=theme),
        plots.pareto(designs, x="area_um2", y="time_s", front=front, label=["core"], theme=theme),
    ]
    for fig, grid in figures:
        assert same_color(fig.get_facecolor(), theme.paper)
        fig.draw_without_rendering()
        legend = fig.legends[0].get_window_extent()
        assert legend.x0 >= 0
        assert legend.x1 <= fig.bbox.x1
        for ax in grid.flat:
            assert legend.y0 >= ax.get_window_extent().y1
            for text in ax.texts:
                box = text.get_window_extent()
                assert box.x0 >= 0
                assert box.x1 <= fig.bbox.x1 + 1
                assert not box.overlaps(legend), text.get_text()
