"""Figures of measured losses of whole models: by pattern, by place in the model, and beside figures of `nmsim quality`.

All intervals are of 95 %, over windows. Tables are those of `validate.accuracy`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from hwmodels.plots import style
from hwmodels.plots.labels import DENSE, OPERANDS, PATTERN_LABEL, pattern_order, refuse_empty, refuse_twice
from hwmodels.plots.style import LIGHT, AxesGrid, Theme, styled
from nmsim.errors import RowError
from nmsim.pattern import Pattern
from nmsim.quality.configuration import ALL_LAYERS
from nmsim.quality.way import NONE, is_reference

INCREASE = "loss_increase"
INCREASE_LABEL = "loss increase vs dense [nats/token]"
CRITERION_NAMES = {
    "channel_vector": "Wanda",
    "ria": "RIA",
    "clact": "CLACT",
    "amber": "Amber",
    "weight_variance": "weight variance",
    "unstructured_channel_vector": "Wanda",
}
"""Criterion -> its name in legends; others are named as they are."""
PROXY_LABELS = {
    "energy_lost_share": "energy lost by pruning [share]",
    "relative_output_error": "output error |Y - Yd|² / |Yd|² [1]",
}
HALF = Pattern(1, 2).density
SMALL: dict[str, Any] = {"markersize": 2.5, "alpha": 0.6, "zorder": 3}
"""Of the many marks of single layers, whose bars would cover each other."""
ROW_GAP = 0.36
"""Between rows of panels that have a title and a label of the x axis, as a share of their height."""


@styled
def loss_vs_pattern(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw the loss increase over patterns that keep one half: a panel per operand, a mark per criterion.

    Lines across a panel are unstructured pruning of one half, with its interval as a band. All layers are pruned, without
    mitigation.

    Parameters
    ----------
    table : DataFrame
        From `validate.accuracy.losses.loss_frame`, of one model and text.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [1, operands]

    Raises
    ------
    RowError
        Nothing to draw, or rows of several models or texts.
    """
    _refuse_several(table)
    refuse_empty(table, "losses by pattern")
    rows = pd.concat([_plain(table, operand) for operand in OPERANDS], ignore_index=True)
    groups = rows[~rows["loose"]]
    refuse_empty(groups, "losses by pattern")
    operands = [name for name in OPERANDS if (groups["operand"] == name).any()]
    names = list(dict.fromkeys(groups["criterion"]))
    fig, grid = style.panel_grid(1, len(operands), 3.2, top=0.75)
    for operand, ax in zip(operands, grid[0], strict=True):
        own = groups[groups["operand"] == operand]
        patterns, criteria = (
            pattern_order(own["pattern"]),
            [one for one in names if (own["criterion"] == one).any()],
        )
        # Marks of one pattern stand beside each other: their intervals would hide each other.
        offsets = style.side_by_side(len(criteria), min(0.3, 0.08 * len(criteria)))
        for criterion, offset in zip(criteria, offsets, strict=True):
            points = own[own["criterion"] == criterion].set_index("pattern").reindex(patterns)
            mark = theme.mark(names.index(criterion))
            _with_bars(ax, np.arange(len(patterns)) + offset, points.reset_index(), mark)
        for place, line in enumerate(rows[rows["loose"] & (rows["operand"] == operand)].to_dict("records")):
            colour = _colour_of(str(line["criterion"]), names, theme)
            ax.axhspan(line[f"{INCREASE}_low"], line[f"{INCREASE}_high"], color=colour, alpha=0.15, zorder=0)
            ax.axhline(
                line[INCREASE], color=colour, linewidth=1, linestyle=(style.DASHED, style.DOTTED)[place % 2]
            )
        style.named_axis(ax, patterns, theme, divided=True)
        ax.set_title(f"{operand} pruned")
        _logarithmic(ax.set_yscale, ax.yaxis)
    style.label_axes(grid, PATTERN_LABEL, INCREASE_LABEL)
    handles = [style.mark_key(_name(one), **theme.mark(place)) for place, one in enumerate(names)]
    handles.append(
        style.line_key("unstructured 50 %, of the same colour", color=theme.ink, linestyle=style.DASHED)
    )
    style.add_legend(fig, handles)
    return fig, grid


@styled
def sensitivity(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw the loss increase if only one kind of layers, or only one block, is pruned: a row per operand.

    Parameters
    ----------
    table : DataFrame
        From `validate.accuracy.sensitivity.sensitivity_table`, of one model and text.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [operands, scopes]

    Raises
    ------
    RowError
        Nothing to draw, rows of several models or texts, or two rows of one place and way.
    """
    _refuse_several(table)
    rows = table[table["scope"].isin(["kind", "block"]) & (table["values"] == "")]
    refuse_empty(rows, "losses of single kinds and blocks")
    rows = refuse_twice(
        rows, ["scope", "layers", "operand", "pattern", "criterion", "mitigation"], "losses of kinds and blocks",
        "one row per place and way",
    )  # fmt: skip
    scopes = [scope for scope in ("kind", "block") if (rows["scope"] == scope).any()]
    operands = list(dict.fromkeys(rows["operand"]))
    # A way has the same mark in all panels, though most panels have only some of the ways.
    ways = list(dict.fromkeys(_way(row) for row in rows.to_dict("records")))
    marks = {
        way: {"color": colour, "marker": marker, "linestyle": "none", "markersize": 4}
        for way, colour, marker in zip(ways, _many_colours(theme), style.MANY_MARKERS, strict=False)
    }
    if len(marks) < len(ways):
        raise RowError(f"a figure of {len(ways)} ways to prune, expected at most {len(marks)}")
    fig, grid = style.panel_grid(len(operands), len(scopes), 2.8, top=0.95, share_y=False)
    fig.subplots_adjust(hspace=ROW_GAP)
    for operand, panels in zip(operands, grid, strict=True):
        for scope, ax in zip(scopes, panels, strict=True):
            own = rows[(rows["operand"] == operand) & (rows["scope"] == scope)]
            places = list(dict.fromkeys(own[scope] if scope == "kind" else sorted(own[scope])))
            present = [way for way in ways if any(_way(row) == way for row in own.to_dict("records"))]
            for way, offset in zip(present, style.side_by_side(len(present), 0.25), strict=True):
                points = own[[_way(row) == way for row in own.to_dict("records")]]
                at = np.array([places.index(name) for name in points[scope]]) + offset
                _with_bars(ax, at, points, marks[way])
            style.named_axis(ax, [str(place).removesuffix("_proj") for place in places], theme)
            ax.axhline(0, color=theme.ink, linewidth=0.8, zorder=1)
            ax.set_title(f"{operand}, one {scope} pruned")
            ax.set_ylabel(INCREASE_LABEL)
            ax.set_xlabel(
                {"kind": "kind of linear layer", "block": "block of the model, from its input"}[scope]
            )
            if scope == "block" and len(places) > 12:
                ax.set_xticks(range(0, len(places), 3), [str(place) for place in places[::3]])
    style.add_legend(fig, [style.mark_key(way, **mark) for way, mark in marks.items()], 4)
    return fig, grid


@styled
def proxy_scatter(table: pd.DataFrame, *, theme: Theme = LIGHT) -> tuple[Figure, AxesGrid]:
    """Draw measured loss increases over figures of `nmsim quality`: configurations above, single layers below.

    Single layers have no bars: these would cover each other. Points whose increase is not above zero have no place on the
    logarithmic axis, and the title counts them.

    Parameters
    ----------
    table : DataFrame
        From `validate.accuracy.proxies.beside_quality`, of one model and text.
    theme : Theme

    Returns
    -------
    tuple of Figure and Axes array [configurations and layers, proxies]

    Raises
    ------
    RowError
        Nothing to draw, or rows of several models or texts.
    """
    _refuse_several(table)
    drawn = table[(table[INCREASE] > 0) & (table[list(PROXY_LABELS)] > 0).all(axis=1)]
    refuse_empty(drawn, "losses beside figures of nmsim quality")
    overs = [name for name in ("configurations", "layers") if (drawn["over"] == name).any()]
    series = list(dict.fromkeys(zip(drawn["operand"], drawn["pattern"], strict=True)))
    patterns = pattern_order(drawn["pattern"])
    # A density stands for all that keep it without groups, and the legend says so.
    groups = ~drawn["criterion"].map(is_reference)
    loose = set(patterns) - set(drawn.loc[groups, "pattern"])
    marks = {
        pair: theme.mark(patterns.index(pair[1]), size=4.5)
        | {
            "marker": "o" if pair[0] == "weights" else "^",
            "color": _many_colours(theme)[patterns.index(pair[1])],
        }
        for pair in series
    }
    fig, grid = style.panel_grid(len(overs), len(PROXY_LABELS), 3.1, top=0.95, share_y=False)
    fig.subplots_adjust(hspace=ROW_GAP)
    for over, panels in zip(overs, grid, strict=True):
        own = drawn[drawn["over"] == over]
        hidden = int((table["over"] == over).sum()) - len(own)
        for (proxy, label), ax in zip(PROXY_LABELS.items(), panels, strict=True):
            for pair in series:
                points = own[(own["operand"] == pair[0]) & (own["pattern"] == pair[1])]
                if over == "configurations":
                    _with_bars(ax, points[proxy].to_numpy(float), points, marks[pair])
                else:
                    ax.plot(points[proxy], points[INCREASE], **marks[pair] | SMALL)
            _logarithmic(ax.set_xscale, ax.xaxis)
            _logarithmic(ax.set_yscale, ax.yaxis)
            ax.set_xlabel(label)
            ax.set_ylabel(INCREASE_LABEL)
            more = f"; {hidden} not above 0, not drawn" if hidden else ""
            ax.set_title(f"{len(own)} {over}{more}")
            ax.grid(visible=True, axis="x")
    colours = [
        style.line_key(f"{name} unstructured" if name in loose else name, color=colour, linewidth=4)
        for name, colour in zip(patterns, _many_colours(theme), strict=False)
    ]
    kinds = [
        style.mark_key(operand, color=theme.ink, marker="o" if operand == "weights" else "^")
        for operand in OPERANDS
    ]
    style.add_legend(fig, [*colours, *kinds])
    return fig, grid


def _plain(table: pd.DataFrame, operand: str) -> pd.DataFrame:
    """Rows that prune one operand of all layers to one half, without mitigation or rounding."""
    other = next(name for name in OPERANDS if name != operand)
    kept = (
        (table["layers"] == ALL_LAYERS)
        & (table[f"{operand}_mitigation"] == NONE)
        & (table[f"{operand}_values"] == "")
        & (table[f"{other}_pattern"] == "")
        & (table[f"{other}_values"] == "")
    )
    found = table[kept]
    rows = found.assign(
        operand=operand, pattern=found[f"{operand}_pattern"], criterion=found[f"{operand}_criterion"]
    )
    half = [Pattern.parse(text).density == HALF for text in rows["pattern"]]
    rows = rows[half]
    return rows.assign(loose=[is_reference(name) for name in rows["criterion"]]).astype({"loose": bool})


def _with_bars(ax: Axes, at: NDArray[np.float64], points: pd.DataFrame, mark: dict[str, Any]) -> None:
    middle = points[INCREASE].to_numpy(float)
    low, high = (points[f"{INCREASE}_{end}"].to_numpy(float) for end in ("low", "high"))
    ax.errorbar(
        at, middle, np.array([middle - low, high - middle]).clip(0), fmt=mark["marker"], color=mark["color"],
        markersize=mark["markersize"], elinewidth=1, capsize=1.5, zorder=3,
    )  # fmt: skip


def _logarithmic(scale: Callable[[str], None], axis: Any) -> None:
    """A logarithmic axis with plain numbers, as many per decade as have room."""
    scale("log")
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(
        LogLocator(subs=(1, 2, 3, 5) if decades < 1.3 else (1, 3) if decades < 2.5 else (1,))
    )
    style.plain_numbers(axis)


def _way(row: dict[Any, Any]) -> str:
    words = [row["operand"], row["pattern"], _name(row["criterion"]), row["mitigation"]]
    return " ".join(str(word) for word in words if word not in (NONE, DENSE, ""))


def _name(criterion: str) -> str:
    return CRITERION_NAMES.get(criterion, criterion)


def _colour_of(loose: str, names: Sequence[str], theme: Theme) -> str:
    """The colour of the criterion of groups that an unstructured one corresponds to."""
    like = "channel_vector" if loose.endswith("channel_vector") else "magnitude"
    return theme.colour(names.index(like)) if like in names else theme.ink


def _many_colours(theme: Theme) -> tuple[str, ...]:
    return (*theme.series, *style.MORE_COLOURS, *theme.series)


def _refuse_several(table: pd.DataFrame) -> None:
    """Losses of two models or texts differ by more than pruning changes them."""
    for column in ("model", "text"):
        names = list(dict.fromkeys(table[column]))
        if len(names) > 1:
            raise RowError(f"a figure of losses, {column}: {', '.join(map(str, names[:3]))}: expected one")
