"""Light and dark, colours, panels, axes and legends: what all figures of this folder have in common.

Two style sheets, `light.mplstyle` and `dark.mplstyle`, hold colours of paper and text, sizes and spines. A figure function
draws inside the style of its `theme` (`styled`), so that titles, labels and legends need no colour or size of their own.
Nothing is shown, saved or kept globally: every figure is a `matplotlib.figure.Figure` without a window.
"""

import functools
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from nmsim.errors import NmsimError, brief, visible

AxesGrid = NDArray[Any]
"""Object array of Axes [rows, columns]."""

P = ParamSpec("P")
Result = TypeVar("Result")

MARKERS = "osv^DPX"
MANY_MARKERS: tuple[Any, ...] = (
    *MARKERS, "<", ">", "*", "d", "p", (4, 1, 0), (4, 1, 45), (3, 1, 0), (3, 1, 180), (6, 1, 0), (8, 1, 0), "h",
)  # fmt: skip
"""Markers that can be filled or left hollow. Those of three numbers are stars with so many points."""
MORE_COLOURS = ("#332288", "#882255", "#6B4C1E")
"""Three darker colours, for figures with more patterns than the series of a theme."""
STAGE_COLOURS = MappingProxyType(
    {"memory": "#56B4E9", "decode": "#E69F00", "select": "#CC79A7", "matrix": "#2CA58D"}
)
DASHED: Any = (0, (4, 2))
DOTTED: Any = (0, (1, 2))
WIDTH_IN = 11.0
LEGEND_COLUMNS = 8
RENDER_DPI = 150
POWER_OF_TEN = re.compile(r"\$10\^\{-?\d+\}\$")


@dataclass(frozen=True)
class Theme:
    """A style sheet and its colours, for marks that are drawn in another colour than the next of the series."""

    style_sheet: Path
    paper: str
    ink: str
    faint: str
    quiet: str
    loss: str
    series: tuple[str, ...]

    @classmethod
    def read(cls, name: str) -> "Theme":
        """Read `<name>.mplstyle` of this folder."""
        path = Path(__file__).with_name(f"{name}.mplstyle")
        style: Any = matplotlib.rc_params_from_file(path, use_default_template=False)
        keys = {"paper": "figure.facecolor", "ink": "text.color", "faint": "grid.color"}
        keys |= {"quiet": "axes.edgecolor", "loss": "patch.facecolor"}
        colours = {role: f"#{str(style[key]).lstrip('#')}" for role, key in keys.items()}
        series = tuple(f"#{colour.lstrip('#')}" for colour in style["axes.prop_cycle"].by_key()["color"])
        return cls(path, series=series, **colours)

    def colour(self, place: int) -> str:
        """The colour of a series; they repeat."""
        return self.series[place % len(self.series)]

    def mark(self, place: int, *, size: float = 5.5) -> dict[str, Any]:
        """Colour and marker of a series, as arguments of `Axes.plot`."""
        marker = MARKERS[place % len(MARKERS)]
        return {"color": self.colour(place), "marker": marker, "linestyle": "none", "markersize": size}


LIGHT = Theme.read("light")
DARK = Theme.read("dark")


def styled(draw: Callable[P, Result]) -> Callable[P, Result]:
    """Run a figure function inside the style sheet of its argument `theme`, which is `LIGHT` when absent."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Result:
        theme = kwargs.get("theme", LIGHT)
        if not isinstance(theme, Theme):
            raise NmsimError(f"theme={brief(theme)}: expected LIGHT or DARK of hwmodels.plots")
        with matplotlib.style.context(theme.style_sheet):
            return draw(*args, **kwargs)

    return in_style


def rendered(fig: Figure, kind: str, *, dpi: float = RENDER_DPI) -> bytes:
    """Give the bytes of an image: the same figure has the same bytes.

    Parameters
    ----------
    fig : Figure
    kind : {"svg", "png", "pdf"}
    dpi : float
        Of a png, and of pictures inside the others.
    """
    _show_names_as_they_are(fig)
    stream = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "nmsim"}):
        fig.savefig(stream, format=kind, dpi=dpi, metadata=dates.get(kind, {"Software": None}))
    return stream.getvalue()


def _show_names_as_they_are(fig: Figure) -> None:
    """Escape what does not print, and take dollar signs for themselves, in the texts of a figure.

    Names of machines, models and tensors come from files. Some characters would break an SVG or turn the direction of its
    texts. What stands between two dollar signs would be read as a formula. The only formulas of ours are powers of ten.
    """
    for axes in fig.axes:
        for axis in (axes.xaxis, axes.yaxis):
            # Labels of ticks are made by a function while the figure is drawn.
            if isinstance(formatter := axis.get_major_formatter(), FuncFormatter):
                formatter.func = functools.partial(_label_as_it_is, formatter.func)
    for text in fig.findobj(Text):
        text.set_text(_as_it_is(text.get_text()))


def _as_it_is(text: str) -> str:
    shown = visible(text, keep="\n")
    return shown if POWER_OF_TEN.fullmatch(shown) else re.sub(r"(?<!\\)\$", r"\\$", shown)


def _label_as_it_is(label: Callable[[Any, Any], str], value: Any, place: Any = None) -> str:
    return _as_it_is(label(value, place))


def panel_grid(
    rows: int, columns: int, panel_height_in: float, *, top: float = 0.82, share_y: bool = True
) -> tuple[Figure, AxesGrid]:
    """Make panels of one size, `panel_height_in` inches high, under `top` inches for titles and a legend."""
    gap = 0.18 if share_y else 0.75
    left, right, bottom, between = 0.7, 0.12, 0.55, 0.45
    height = top + bottom + rows * panel_height_in + (rows - 1) * between
    fig = Figure(figsize=(WIDTH_IN, height))
    panel = (WIDTH_IN - left - right - (columns - 1) * gap) / columns
    margins = {"left": left / WIDTH_IN, "right": 1 - right / WIDTH_IN}
    margins |= {"top": 1 - top / height, "bottom": bottom / height}
    fig.subplots_adjust(**margins, wspace=gap / panel, hspace=between / panel_height_in)
    grid: AxesGrid = fig.subplots(rows, columns, squeeze=False, sharey=share_y)
    for ax in grid.flat:
        # How many ticks fit is decided when a figure is saved, outside its style.
        ax.tick_params(labelsize=matplotlib.rcParams["ytick.labelsize"])
    for ax in grid[:, 1:].flat if share_y else ():
        ax.tick_params(axis="y", length=0)
    return fig, grid


def panels_in_rows(
    count: int, columns: int, panel_height_in: float, *, top: float
) -> tuple[Figure, AxesGrid, list[Axes], list[Axes]]:
    """Make `count` panels, at most `columns` beside each other, and hide the rest of the last row.

    Returns
    -------
    tuple
        Figure, Axes array, the panels in order, and the lowest panel of each column.
    """
    columns = min(columns, count)
    fig, grid = panel_grid(-(-count // columns), columns, panel_height_in, top=top)
    panels: list[Axes] = list(grid.flat)
    for ax in panels[count:]:
        ax.set_visible(False)
    return fig, grid, panels[:count], panels[max(0, count - columns) : count]


def label_axes(grid: AxesGrid, x: str = "", y: str = "") -> None:
    """Name the axes, with units: x under the last row of panels, y beside the first column."""
    for ax in grid[-1] if x else ():
        ax.set_xlabel(x)
    for ax in grid[:, 0] if y else ():
        ax.set_ylabel(y)


def title_panels(grid: AxesGrid, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Name each row over its first panel, and each column over the first row."""
    for name, ax in zip(rows, grid[:, 0], strict=True):
        ax.set_title(name)
    for name, ax in zip(columns, grid[0], strict=True):
        ax.annotate(name, (0.5, 1), (0, 20), "axes fraction", "offset points", ha="center", fontsize=9.5)


def speedup_axis(ax: Axes, speedups: Any, theme: Theme) -> None:
    """Make room for speedups from a little below 1 up, and shade what is slower than dense."""
    low, high = min(0.9, float(speedups.min()) - 0.06), max(1.1, float(speedups.max()) + 0.1)
    ax.axhspan(low, 1.0, color=theme.loss, zorder=0)
    ax.axhline(1.0, color=theme.ink, linewidth=0.8, zorder=1)
    ax.set_ylim(low, high)


def named_axis(ax: Axes, names: Iterable[Any], theme: Theme, *, divided: bool = False) -> None:
    """Put names at 0, 1, 2 ... of the x axis, with a faint line between two of them when `divided`."""
    texts = [str(name) for name in names]
    ax.set_xlim(-0.5, len(texts) - 0.5)
    ax.set_xticks(range(len(texts)), texts)
    ax.tick_params(axis="x", length=0)
    for edge in range(1, len(texts) if divided else 0):
        ax.axvline(edge - 0.5, color=theme.faint, linewidth=0.6, zorder=0)


def side_by_side(count: int, reach: float) -> NDArray[np.float64]:
    """Offsets from a name of the x axis, so that `count` marks stand beside each other from -reach to reach."""
    return np.linspace(-reach, reach, count) if count > 1 else np.zeros(1)


def fixed_ticks(axis: Any, ticks: Iterable[float], text: Callable[[float], str]) -> None:
    """Put ticks at given values only, and print them with `text`."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def plain_numbers(axis: Any) -> None:
    """Print 1000 instead of 10³ on a logarithmic axis, and nothing at its minor ticks."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def line_key(label: str, **look: Any) -> Line2D:
    """An entry of a legend that is a line."""
    return Line2D([], [], label=label, **look)


def mark_key(label: str, **look: Any) -> Line2D:
    """An entry of a legend that is a marker."""
    return Line2D([], [], label=label, **{"marker": "o", "linestyle": "none", "markersize": 5.5, **look})


def slower_key(theme: Theme) -> Patch:
    """The entry of a legend for the shade of `speedup_axis`."""
    return Patch(facecolor=theme.loss, label="slower than dense")


def add_legend(fig: Figure, handles: Sequence[Any], columns: int = LEGEND_COLUMNS, **options: Any) -> None:
    """Put one legend over all panels."""
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.0)}
    fig.legend(handles=list(handles), ncols=min(len(handles), columns), **{**place, **options})
