"""Regenerate every generated page and figure of the docs: `make docs`, or `python docs/tools/generate.py --check`.

A figure is committed with the table it was drawn from. It carries the digest of that table and of the code that drew
it, so that `--check` recognises a stale figure without comparing drawings. These differ between versions of matplotlib.
"""

import functools
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import command_line  # noqa: E402
import core_designs  # noqa: E402
import estimate_constants  # noqa: E402
import file_formats  # noqa: E402
import formats_page  # noqa: E402
import gate_tables  # noqa: E402
import judged  # noqa: E402
import logged_accuracies  # noqa: E402
import mitigations  # noqa: E402
import models  # noqa: E402
import pandas as pd  # noqa: E402
import sass  # noqa: E402
import sparsity_loses  # noqa: E402
import transcript  # noqa: E402
import validation  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from recorded import accuracy, gpu_goals, published_rows, robustness, speed, whole_models  # noqa: E402

import hwmodels  # noqa: E402
from hwmodels import plots  # noqa: E402
from nmsim.format import sparse_format  # noqa: E402
from validate.study import (  # noqa: E402
    bits,
    defaults,
    whole_model,
)
from validate.study.example_checkpoint import ExampleShape, write_example  # noqa: E402

PAGES = {
    "docs/explanation/accuracy.md": accuracy.page,
    "docs/how-to/measure-quality.md": logged_accuracies.page,
    "docs/reference/command-line.md": command_line.page,
    "docs/reference/files.md": file_formats.page,
    **file_formats.schemas(),
    "docs/reference/formats.md": formats_page.page,
    "docs/reference/gpu-goals.md": gpu_goals.page,
    "docs/reference/mitigations.md": mitigations.page,
    "docs/reference/models.md": models.page,
    "docs/reference/published-rows.md": published_rows.page,
    "docs/reference/robustness.md": robustness.page,
    "docs/reference/sass.md": sass.page,
    "docs/reference/speed.md": speed.page,
    "docs/explanation/estimate.md": estimate_constants.page,
    "docs/explanation/gates.md": gate_tables.page,
    "docs/explanation/measured-models.md": whole_models.page,
    "docs/explanation/validation.md": validation.page,
    "docs/explanation/when-sparsity-loses.md": sparsity_loses.page,
    "docs/explanation/open-questions.md": lambda: transcript.read(
        ROOT / "docs/explanation/open-questions.md"
    ),
}
GALLERY = ROOT / "docs" / "gallery"
DRAWN_BY = (
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "hwmodels" / "plots").glob("*.*")),
    *(
        "docs/tools/generate.py",
        "docs/tools/judged.py",
        "docs/tools/core_designs.py",
        "docs/tools/gate_tables.py",
    ),
)

FORMATS = [sparse_format(text) for text in defaults.FORMATS]
MACHINES = ("h200", "a100-sxm", "h200-8x16")
SMALL = ExampleShape(layers=1, hidden=256, intermediate=512, kv_width=64, vocab=256)


def stored() -> pd.DataFrame:
    """Bits per element that are stored, on a small synthetic checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_example(Path(folder) / "example.safetensors", shape=SMALL)
        with bits.open_weights(path, FORMATS) as checkpoint:
            return bits.bits_per_element(bits.measure_checkpoint(checkpoint, FORMATS))


def predicted() -> pd.DataFrame:
    """Bounds of whole steps of Llama-3.1-8B in bf16, weights pruned."""
    cases = whole_model.case_table(
        hwmodels.load_model("llama-3.1-8b"), FORMATS, batches=[1, 64], prefill=[8192]
    )
    return whole_model.sum_layers(
        whole_model.predict_layers(cases, [hwmodels.load_machine(m) for m in MACHINES])
    )


class Drawn(NamedTuple):
    """A figure of the gallery: the table it is drawn from, by its name there, and what draws it."""

    table: str
    draw: Callable[[pd.DataFrame], tuple[Figure, Any]]


TABLES = {
    "bytes_per_element": stored,
    "speedup_vs_pattern": predicted,
    "judged": judged.judged,
    "whole_models": whole_models.ratios,
    "windows": judged.windows,
    "break_even": judged.mapped,
    "measured_on_predicted": judged.own,
    "cores": core_designs.presets,
    "core_roofs": core_designs.roofs,
    "online_pruning": core_designs.activations,
    "selectors": core_designs.selectors,
    "core_designs": core_designs.designs,
    "losses": accuracy.losses,
    "sensitivity": accuracy.sensitivities,
    "proxy_points": accuracy.proxy_points,
    "units": gate_tables.units,
    "codes": gate_tables.codes,
    "short_codes": gate_tables.pays,
}
FIGURES = {
    "bytes_per_element": Drawn("bytes_per_element", plots.bytes_per_element),
    "speedup_vs_pattern": Drawn("speedup_vs_pattern", plots.speedup_vs_pattern),
    "speedup_scatter": Drawn("judged", plots.speedup_scatter),
    "whole_models": Drawn("whole_models", plots.whole_models),
    "time_scatter": Drawn("judged", plots.time_scatter),
    "bandwidth": Drawn("judged", plots.bandwidth),
    "window_speedups": Drawn("windows", plots.window_speedups),
    "residuals_by_tokens": Drawn("judged", plots.residuals_by_tokens),
    "residuals_by_machine": Drawn("judged", lambda table: plots.residuals_by(table, column="machine")),
    "residuals_by_regime": Drawn("judged", lambda table: plots.residuals_by(table, column="regime")),
    "measured_on_predicted": Drawn(
        "measured_on_predicted", lambda table: judged.drawn_of(table, "epyc-milan-2core")
    ),
    "measured_on_predicted_avx512": Drawn(
        "measured_on_predicted", lambda table: judged.drawn_of(table, "epyc-genoa-2core")
    ),
    "break_even": Drawn(
        "break_even",
        lambda table: plots.break_even(table, points=judged.points(), machines=judged.with_points()),
    ),
    "break_even_unmeasured": Drawn(
        "break_even",
        lambda table: plots.break_even(table, points=judged.points(), machines=judged.without_points()),
    ),
    "core_speedup_vs_pattern": Drawn("cores", plots.core_speedup_vs_pattern),
    "core_time_by_stage": Drawn(
        "cores", lambda table: plots.core_time_by_stage(core_designs.one_encoding(table))
    ),
    "core_roof_surface": Drawn(
        "core_roofs", lambda table: plots.roof_surface(table, core=core_designs.roof_core())
    ),
    "break_even_batch": Drawn("online_pruning", plots.break_even_batch),
    "selector_need": Drawn(
        "selectors", lambda table: plots.selector_need(table, built_elements_per_cycle=128)
    ),
    "core_pareto": Drawn("core_designs", core_designs.fronts),
    "loss_vs_pattern": Drawn("losses", plots.loss_vs_pattern),
    "sensitivity": Drawn("sensitivity", plots.sensitivity),
    "proxy_scatter": Drawn("proxy_points", plots.proxy_scatter),
    "gates_vs_pattern": Drawn("units", plots.gates_vs_pattern),
    "gates_vs_bits": Drawn("codes", plots.gates_vs_bits),
    "select_networks": Drawn("units", plots.select_networks),
    "code_break_even": Drawn("short_codes", plots.code_break_even),
}


@functools.cache
def table_of(name: str) -> tuple[pd.DataFrame, str]:
    """A table of the gallery, and the text of its file."""
    table = TABLES[name]()
    return table, table.to_csv(index=False, float_format="%.8g", lineterminator="\n")


def page_is_stale(name: str, text: str, *, write: bool) -> bool:
    """Compare a page with what it should be, and put it right when `write`."""
    path = ROOT / name
    stale = not path.exists() or path.read_text(encoding="utf-8") != text
    if stale and write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return stale


def figure_is_stale(name: str, *, write: bool) -> bool:
    """Compare a figure's table and digest with what they should be, and draw it anew when `write`."""
    source, draw = FIGURES[name]
    table, text = table_of(source)
    code = "".join((ROOT / path).read_text(encoding="utf-8") for path in DRAWN_BY)
    digest = f"<!-- drawn from {source}.csv, {hashlib.sha256((text + code).encode()).hexdigest()} -->"
    csv, svg = GALLERY / f"{source}.csv", GALLERY / f"{name}.svg"
    if csv.exists() and csv.read_text() == text and svg.exists() and digest in svg.read_text():
        return False
    if write:
        GALLERY.mkdir(exist_ok=True)
        csv.write_text(text)
        drawn = plots.rendered(draw(table)[0], "svg").decode()
        lines = [line.rstrip() for line in drawn.splitlines()]
        svg.write_text("\n".join([*lines, digest, ""]))
    return True


def main(arguments: list[str]) -> int:
    """Write what is stale; with --check, write nothing and return 1 when something is."""
    write = arguments != ["--check"]
    stale = [name for name, make in PAGES.items() if page_is_stale(name, make(), write=write)]
    drawn = [name for name in FIGURES if accuracy.drawable(name)]
    stale += [f"docs/gallery/{name}.svg" for name in drawn if figure_is_stale(name, write=write)]
    for name in stale:
        print(f"{name}: {'written' if write else 'out of date, run make docs'}")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
