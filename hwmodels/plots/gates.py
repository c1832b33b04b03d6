"""Figures of hardware units: gates and depth, what a shorter code costs, which select network, and when a code pays.

Tables of units have the columns of `hwmodels.gates.record.GateRow`. Gates are equivalents of a NAND2 of two inputs, delays are
in FO4. Of several structures, a figure shows the one of the fewest gates and the one of the shortest path.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hwmodels.plots import style
from hwmodels.plots.labels import pattern_order, refuse_empty
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from nmsim.errors import RowError
from nmsim.pattern import Pattern

CODED = {
    "decoder": "decoder: code to mask",
    "position_decoder": "decoder: code to positions",
    "encoder": "encoder: mask to code",
}
GATES_LABEL = "gates [NAND2]"
DELAY_LABEL = "longest path [FO4]"
CODES = ("bitmask", "index", "gap", "combinatorial", "tiled")
NETWORKS = ("mux", "ordered_mux", "onehot", "crossbar", "butterfly")
GOALS = {"area": ("nand2", "fewest gates"), "delay": ("fo4", "shortest path")}


def best_rows(table: pd.DataFrame, goal: str) -> pd.DataFrame:
    """Keep the best row of each unit, pattern, encoding and width for a goal.

    Parameters
    ----------
    table : DataFrame
        Rows of units.
    goal : {"area", "delay"}

    Raises
    ------
    RowError
        A column is missing.

    Examples
    --------
    >>> columns = ["unit", "pattern", "encoding", "width_bits", "variant", "nand2", "fo4"]
    >>> cells = [["decoder", "2:4", "index", 0, "a", 9, 4], ["decoder", "2:4", "index", 0, "b", 12, 2]]
    >>> rows = pd.DataFrame(cells, columns=columns)
    >>> best_rows(rows, "area")["variant"].tolist(), best_rows(rows, "delay")["variant"].tolist()
    (['a'], ['b'])
    """
    by = [*dict.fromkeys((GOALS[goal][0], "nand2", "fo4"))]
    keys = ["unit", "pattern", "encoding", "width_bits"]
    _check(table, [*keys, "variant", "nand2", "fo4"], "gates of units")
    return table.sort_values(by, kind="stable").drop_duplicates(keys)


def _check(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise RowError(f"{what}: no column {', '.join(missing)}: expected {', '.join(columns)}")
    refuse_empty(table, what)


def _named(present: pd.Series, order: Sequence[str]) -> list[str]:
    """Names in the order of the figures; others follow."""
    found = list(dict.fromkeys(present))
    return [*(name for name in order if name in found), *(name for name in found if name not in order)]


def _from_zero(ax: Axes, most: float) -> None:
    """A logarithmic axis that has room for units without a gate."""
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(-0.3, max(2 * most, 10))
    style.fixed_ticks(ax.yaxis, [0, 1, 10, 100, 1000, 10000], lambda value: f"{value:g}")


@styled
def gates_vs_pattern(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw gates and delay of decoders and encoders over patterns, a marker per encoding.

    A filled marker is the structure of the fewest gates, a hollow one that of the shortest path.

    Parameters
    ----------
    table : DataFrame
        Rows of units: `unit`, `pattern`, `encoding`, `width_bits`, `variant`, `nand2`, `fo4`.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [2, 3]

    Raises
    ------
    RowError
        A column is missing, or no row is one of a decoder or an encoder.
    """
    _check(table, ["unit", "pattern", "encoding"], "gates of units")
    rows = table[table["unit"].isin(CODED)]
    refuse_empty(rows, "gates of decoders and encoders")
    patterns, codes = pattern_order(rows["pattern"]), _named(rows["encoding"], CODES)
    fig, grid = style.panel_grid(2, len(CODED), 2.5, top=0.95)
    offsets = style.side_by_side(len(codes), 0.3)
    # Patterns are names and not numbers, so encodings stand side by side at each of them.
    for goal in GOALS:
        best = best_rows(rows, goal)
        for column, unit in enumerate(CODED):
            for place, code in enumerate(codes):
                own = best[(best["unit"] == unit) & (best["encoding"] == code)]
                x = [patterns.index(name) + offsets[place] for name in own["pattern"]]
                for row, what in enumerate(("nand2", "fo4")):
                    mark = theme.mark(place) | ({"markerfacecolor": "none"} if goal == "delay" else {})
                    grid[row, column].plot(x, own[what].tolist(), **mark)
    for ax in grid.flat:
        style.named_axis(ax, patterns, theme, divided=True)
        _from_zero(ax, float(rows[["nand2", "fo4"]].max().max()))
    style.title_panels(grid, ["", ""], list(CODED.values()))
    style.label_axes(grid, "pattern, kept : group [elements]")
    for ax, label in zip(grid[:, 0], (GATES_LABEL, DELAY_LABEL), strict=True):
        ax.set_ylabel(label)
    keys = [style.mark_key(code, **_look(theme, place)) for place, code in enumerate(codes)]
    keys += [
        style.mark_key(text, color=theme.ink, markerfacecolor=theme.ink if goal == "area" else "none")
        for goal, (_, text) in GOALS.items()
    ]
    style.add_legend(fig, keys)
    return fig, grid


def _look(theme: Theme, place: int) -> dict[str, object]:
    mark = theme.mark(place)
    return {"color": mark["color"], "marker": mark["marker"]}


@styled
def gates_vs_bits(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw what a shorter code costs: gates of the decoder to positions over bits per element, a panel per pattern.

    Parameters
    ----------
    table : DataFrame
        `pattern`, `encoding`, `bits_per_element`, `entropy_bits_per_element`, `nand2` (of the structure of the fewest gates),
        `nand2_shallow` (of the shortest path).
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, patterns]

    Raises
    ------
    RowError
        A column is missing, or no row is there.
    """
    columns = [
        "pattern", "encoding", "bits_per_element", "entropy_bits_per_element", "nand2", "nand2_shallow",
    ]  # fmt: skip
    _check(table, columns, "gates over bits")
    patterns, codes = pattern_order(table["pattern"]), _named(table["encoding"], CODES)
    fig, grid = style.panel_grid(1, len(patterns), 2.9, top=0.95)
    for ax, pattern in zip(grid[0], patterns, strict=True):
        rows = table[table["pattern"] == pattern]
        ax.axvline(
            rows["entropy_bits_per_element"].iloc[0], color=theme.quiet, linestyle=style.DASHED, linewidth=0.9
        )
        for place, code in enumerate(codes):
            own = rows[rows["encoding"] == code]
            # A line joins both structures of one code, since their bits are the same.
            for _, row in own.iterrows():
                ends = (row["nand2"], row["nand2_shallow"])
                ax.plot([row["bits_per_element"]] * 2, ends, color=theme.colour(place), linewidth=0.9)
            ax.plot(own["bits_per_element"], own["nand2"], **theme.mark(place))
            ax.plot(
                own["bits_per_element"], own["nand2_shallow"], **theme.mark(place), markerfacecolor="none"
            )
        _from_zero(ax, float(table[["nand2", "nand2_shallow"]].max().max()))
        ax.margins(x=0.12)
        ax.set_title(pattern)
    style.label_axes(grid, "metadata [bits per element]", GATES_LABEL)
    keys = [style.mark_key(code, **_look(theme, place)) for place, code in enumerate(codes)]
    keys.append(
        style.line_key("entropy of the masks", color=theme.quiet, linestyle=style.DASHED, linewidth=0.9)
    )
    keys.append(style.mark_key("shortest path", color=theme.ink, markerfacecolor="none"))
    style.add_legend(fig, keys)
    return fig, grid


@styled
def select_networks(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw gates per selected bit of each select network, over patterns, a panel per width of a value.

    Parameters
    ----------
    table : DataFrame
        Rows of units; those of `select` are drawn.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, widths]

    Raises
    ------
    RowError
        A column is missing, or no row is one of a select network.
    """
    _check(table, ["unit", "pattern", "variant", "width_bits", "nand2"], "gates of select networks")
    rows = table[table["unit"] == "select"]
    refuse_empty(rows, "gates of select networks")
    # A network is a variant, so each keeps its own best row; `best_rows` would keep one of all.
    rows = rows.sort_values("nand2", kind="stable").drop_duplicates(["pattern", "variant", "width_bits"])
    patterns, networks = pattern_order(rows["pattern"]), _named(rows["variant"], NETWORKS)
    widths = sorted(set(rows["width_bits"]))
    fig, grid = style.panel_grid(1, len(widths), 2.9, top=0.95)
    offsets = style.side_by_side(len(networks), 0.3)
    for ax, width in zip(grid[0], widths, strict=True):
        for place, network in enumerate(networks):
            own = rows[(rows["variant"] == network) & (rows["width_bits"] == width)]
            x = [patterns.index(name) + offsets[place] for name in own["pattern"]]
            bits = [Pattern.parse(name).n * width for name in own["pattern"]]
            ax.plot(
                x,
                [gates / count for gates, count in zip(own["nand2"], bits, strict=True)],
                **theme.mark(place),
            )
        style.named_axis(ax, patterns, theme, divided=True)
        ax.set_ylim(0, None)
        ax.set_title(f"values of {width} bits")
    style.label_axes(grid, "pattern, kept : group [elements]", "gates per selected bit [NAND2]")
    style.add_legend(
        fig, [style.mark_key(name, **_look(theme, place)) for place, name in enumerate(networks)]
    )
    return fig, grid


@styled
def code_break_even(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw when a code shorter than a bitmask pays: DRAM bits saved per gate, and how often a group may be decoded.

    Parameters
    ----------
    table : DataFrame
        `pattern`, `encoding`, `saved_bits_per_knand2`, `decodes_low`, `decodes_nominal`, `decodes_high`. Bits of a group's
        code are saved against a bitmask, per 1,000 further NAND2 of the decoder. With so many decodes of a group per fetch
        from DRAM, the energy of these gates is that of the bits saved.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, 2]

    Raises
    ------
    RowError
        A column is missing, or no row is there.
    """
    ends = ["decodes_low", "decodes_nominal", "decodes_high"]
    _check(table, ["pattern", "encoding", "saved_bits_per_knand2", *ends], "break-even of codes")
    patterns, codes = pattern_order(table["pattern"]), _named(table["encoding"], CODES)
    fig, grid = style.panel_grid(1, 2, 2.9, top=0.95, share_y=False)
    left, right = grid[0]
    offsets = style.side_by_side(len(codes), 0.2)
    for place, code in enumerate(codes):
        own = table[table["encoding"] == code]
        x = [patterns.index(name) + offsets[place] for name in own["pattern"]]
        # The bitmask is missing here, and the others keep the colours that they have beside it.
        mark = theme.mark(CODES.index(code) if code in CODES else place)
        left.plot(x, own["saved_bits_per_knand2"], **mark)
        right.vlines(x, own["decodes_low"], own["decodes_high"], color=mark["color"], linewidth=1.1)
        right.plot(x, own["decodes_nominal"], **mark)
    for ax in (left, right):
        style.named_axis(ax, patterns, theme, divided=True)
        ax.set_yscale("log")
        style.plain_numbers(ax.yaxis)
        ax.set_xlabel("pattern, kept : group [elements]")
    left.set_ylabel("bits saved per group\nper 1,000 NAND2")
    right.set_ylabel("decodes per fetch from DRAM\nat equal energy")
    right.axhline(1, color=theme.ink, linewidth=0.8)
    style.add_legend(
        fig,
        [
            style.mark_key(code, **_look(theme, CODES.index(code) if code in CODES else place))
            for place, code in enumerate(codes)
        ],
    )
    return fig, grid
