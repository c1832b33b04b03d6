"""The page of a study: one HTML file that needs no other file.

A page is a list of sections. Each section has a template in `templates/` and an entry in `sections`; a new one changes no
other section.
"""

import base64
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from hwmodels import HardwareSpec, plots
from hwmodels.plots.labels import OPERANDS, SPEEDUP, Step, choose_steps, pattern_order
from hwmodels.steps.step import EXTRAPOLATED_SHARE
from hwmodels.tensorcore.record import load_core
from nmsim.errors import visible
from nmsim.units import format_bytes, percent
from validate.accuracy.beside_cost import Qualities
from validate.judge import own_machine
from validate.judge.judge import judged_columns, thinned
from validate.study import cores, losses, trust
from validate.study.answer import PAYS_FROM, Answer, heat, reach, times
from validate.study.provenance import Provenance
from validate.study.whole_model import DENSE, TIE, fastest

BEST_KEYS = ("hardware", "phase", "tokens", "sparse_operand", "pattern")
TRUST_FIGURES = ("speedup_scatter", "residuals_by_tokens", "bandwidth")
FIGURES = ("bytes_per_element", "speedup_vs_pattern", "bound_by_stage", "speedup_vs_tokens", *TRUST_FIGURES)
OWN_FIGURE = "measured_on_predicted"


@dataclass(frozen=True)
class Drawing:
    """A figure for the page: as SVG on light and on dark paper, and as PNG for a file of its own."""

    name: str
    light_svg: bytes
    dark_svg: bytes
    png: bytes

    @property
    def light_uri(self) -> str:
        """The light one as a data URI."""
        return _uri(self.light_svg)

    @property
    def dark_uri(self) -> str:
        """The dark one as a data URI."""
        return _uri(self.dark_svg)


@dataclass(frozen=True)
class Section:
    """A part of the page: where links point to, its heading, its template and what the template shows."""

    anchor: str
    title: str
    template: str
    context: Mapping[str, Any]


@dataclass(frozen=True)
class Findings:
    """What a page is made from."""

    model_name: str
    dtype: str
    packing: str
    weights_name: str
    synthetic: str
    machines: tuple[HardwareSpec, ...]
    model: pd.DataFrame
    bits: pd.DataFrame
    cores: pd.DataFrame
    answer: Answer
    provenance: Provenance
    files: Mapping[str, str]
    own: pd.DataFrame | None = None
    doubts: tuple[str, ...] = ()
    context_tokens: int = 0
    left_dense: tuple[dict[str, Any], ...] = ()
    losses: pd.DataFrame | None = None
    qualities: Qualities | None = None

    @property
    def operands(self) -> list[str]:
        """The sparse operands studied, weights first."""
        present = set(self.model["sparse_operand"].dropna())
        return [name for name in OPERANDS if name in present]

    @property
    def best(self) -> pd.DataFrame:
        """Dense rows, and for each machine, step, operand and pattern the row of the fastest encoding."""
        dense = self.model[self.model["pattern"] == DENSE]
        return pd.concat([dense, fastest(self.model, BEST_KEYS)], ignore_index=True)


def draw(found: Findings) -> dict[str, Drawing]:
    """Draw the figures of a page, by name."""
    operand = found.operands[0]
    drawings = [
        _drawn("bytes_per_element", found.bits),
        _drawn("speedup_vs_pattern", found.model, operand=operand),
        _drawn("bound_by_stage", _of(found.best, operand), operand=operand),
        _drawn("speedup_vs_tokens", found.best),
        *(_drawn_trust(name) for name in TRUST_FIGURES),
    ]
    if len(found.cores):
        tables = cores.figure_tables(found.cores)
        drawings += [_drawn(name, table, steps=steps) for name, (table, steps) in tables.items()]
    if found.losses is not None and found.qualities is not None:
        named = losses.figures(found.losses, found.qualities).items()
        drawings += [
            _drawn(name, table, "quality_beside_cost", **options) for name, (table, options) in named
        ]
    if found.own is not None:
        drawings.append(_drawn(OWN_FIGURE, found.own))
    return {drawing.name: drawing for drawing in drawings}


@functools.cache
def _drawn_trust(name: str) -> Drawing:
    """A figure that is the same for every study."""
    return _drawn(name, judged_columns(thinned(trust.judged())))


def _drawn(name: str, table: pd.DataFrame, function: str = "", **options: Any) -> Drawing:
    """Draw a figure of `hwmodels.plots` in both themes; `function` draws it if it has another name."""
    figure: Callable[..., Any] = getattr(plots, function or name)
    light, dark = (figure(table, **options, theme=theme)[0] for theme in (plots.LIGHT, plots.DARK))
    return Drawing(
        name, plots.rendered(light, "svg"), plots.rendered(dark, "svg"), plots.rendered(light, "png")
    )


def render(found: Findings, drawings: Mapping[str, Drawing]) -> str:
    """Write the page.

    Returns
    -------
    str
        HTML that needs no other file, no network and no script.
    """
    page = environment().get_template("report.html.j2")
    made_up = [spec.id for spec in found.machines if spec.hypothetical]
    return page.render(found=found, drawings=drawings, sections=sections(found), hypothetical=made_up)


def environment() -> jinja2.Environment:
    """Make the environment of all templates: HTML is escaped, and what does not print is shown as an escape."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("validate.study"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Escape what does not print in a text that a template shows; markup of templates passes as it is."""
    plain = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
    return visible(value, keep="\n") if plain else value


def sections(found: Findings) -> list[Section]:
    """The sections of a page, in order."""
    # Tables show all steps, figures and the first table only the ends of decode and prefill.
    steps = choose_steps(found.model, limit=1 << 10)
    names = [(phase, str(tokens)) for phase, tokens in steps]
    common = {"steps": names, "pays_from": PAYS_FROM, "tie": TIE, "dtype": found.dtype}
    tables = {operand: _speedup_table(found, operand, steps) for operand in found.operands}
    ends = choose_steps(found.model)
    few = {**common, "steps": [(phase, str(tokens)) for phase, tokens in ends], "operands": found.operands}
    return [
        Section(
            "machines", "Each machine at its best", "best.html.j2", {**few, "rows": _best_table(found, ends)}
        ),
        Section(
            "stored",
            "What is stored",
            "stored.html.j2",
            {"rows": _bits_rows(found.bits), "found": found, "percent": percent},
        ),
        Section(
            "speedup",
            f"What pruned {found.operands[0]} can bring",
            "speedup.html.j2",
            {**common, "operand": found.operands[0], "rows": tables[found.operands[0]]},
        ),
        Section("bound", "What limits it", "bound.html.j2", {"operand": found.operands[0]}),
        Section(
            "tokens",
            "Weights or activations, few tokens or many" if len(tables) > 1 else "Few tokens or many",
            "tokens.html.j2",
            {**common, "rows": tables.get("activations") if len(tables) > 1 else None},
        ),
        *_loss_section(found),
        _core_section(found, ends),
        Section(
            "trust",
            "How far to trust this",
            "trust.html.j2",
            {"regimes": trust.regimes(steps), "rows": trust.rows(found.machines, found.dtype, steps)}
            | {"windows": trust.windows(found.machines, found.dtype, steps)}
            | trust.totals()
            | {"extrapolated_share": EXTRAPOLATED_SHARE},
        ),
        *([_own_section(found.own, found.doubts)] if found.own is not None else []),
        Section(
            "assumptions",
            "What this rests on",
            "assumptions.html.j2",
            {
                "numbers": trust.machine_numbers(found.machines, found.dtype),
                "units": trust.native_units(found.machines),
                "software": trust.software_numbers(),
                "study": trust.study_assumptions(found.context_tokens),
                "numbered": trust.numbered_assumptions(),
                "dtype": found.dtype,
            },
        ),
        Section(
            "provenance", "Where this is from", "provenance.html.j2", {"found": found, "bytes": format_bytes}
        ),
    ]


def _core_section(found: Findings, ends: Sequence[Step]) -> Section:
    """The section on a tensor core that takes the patterns; it is empty if the core does not take the value type."""
    context: dict[str, Any] = {"steps": [(phase, str(tokens)) for phase, tokens in ends], "base": cores.BASE}
    context |= {"dtype": found.dtype, "dtypes": load_core(cores.BASE).dtypes, "rows": [], "sentences": []}
    if len(found.cores):
        context["rows"] = cores.section_rows(found.cores, ends)
        context["sentences"] = cores.sentences(found.cores)
    return Section("cores", "A tensor core that takes the pattern", "cores.html.j2", context)


def _loss_section(found: Findings) -> list[Section]:
    """The section on measured losses beside costs; none without losses."""
    if found.losses is None or found.qualities is None:
        return []
    patterns = [str(pattern) for pattern in found.model["pattern"].unique() if pattern != DENSE]
    context = losses.section_context(found.losses, found.qualities, found.model_name, patterns)
    return [Section("losses", "Quality beside cost", "losses.html.j2", context)]


def _own_section(own: pd.DataFrame, doubts: Sequence[str]) -> Section:
    """The machine that made the page: what it was predicted to do, and what it did."""
    rows = own_machine.summarise(own, ["dtype", "pattern", "encoding"])
    context = {
        "overall": own_machine.summarise(own.assign(all=""), ["all"]).to_dict("records")[0],
        "worst": own.sort_values("speedup_error", key=abs).iloc[-1].to_dict(),
        "rows": rows.to_dict("records"),
        "doubts": doubts,
    }
    return Section("own", "Measured on the machine that made this page", "own.html.j2", context)


def _bits_rows(bits: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the table of bits, patterns in their order."""
    order = {pattern: place for place, pattern in enumerate(pattern_order(bits["pattern"]))}
    sort = bits.sort_values("pattern", key=lambda column: column.map(order), kind="stable")
    rows: list[dict[str, Any]] = sort.to_dict("records")  # type: ignore[assignment]
    return rows


def _speedup_table(found: Findings, operand: str, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """One row per machine and pattern, one cell per step."""
    best = _of(found.best, operand)
    best = best[best["pattern"] != DENSE].set_index(["hardware", "pattern", "phase", "tokens"])
    patterns = pattern_order(found.model["pattern"])
    return [
        {
            "machine": machine.id,
            "first": place == 0,
            "span": len(patterns),
            "pattern": pattern,
            "cells": [_cell(best.loc[[(machine.id, pattern, *step)]]) for step in steps],
        }
        for machine in found.machines
        for place, pattern in enumerate(patterns)
    ]


def _best_table(found: Findings, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """One row per machine: the best pattern and encoding of each operand at each step shown."""
    keys = ["hardware", "sparse_operand", "phase", "tokens"]
    rows = fastest(found.model, keys).set_index(keys)
    return [
        {
            "machine": spec.id,
            "name": spec.name,
            "cells": [
                _cell(rows.loc[[(spec.id, operand, *step)]]) for operand in found.operands for step in steps
            ],
        }
        for spec in found.machines
    ]


def _cell(found: pd.DataFrame) -> dict[str, Any]:
    """What a cell shows of the one row there is."""
    row: Any
    (row,) = found.reset_index().to_dict("records")
    return {
        "text": times(row[SPEEDUP]),
        "heat": heat(row[SPEEDUP]),
        "pattern": row["pattern"],
        "encoding": row["encoding"],
        "limit": row["limit"],
        "reach": reach(row),
        "native": row["execution"] == "native",
    }


def _of(table: pd.DataFrame, operand: str) -> pd.DataFrame:
    """Rows of one operand, and the dense ones."""
    return table[(table["sparse_operand"] == operand) | (table["pattern"] == DENSE)]


def _uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
