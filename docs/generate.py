"""Regenerate every generated page and figure of the docs: `make docs`, or `python docs/generate.py --check`.

A figure is committed with the table it was drawn from. It carries the digest of that table and of the code that drew
it, so that `--check` can tell a stale figure without comparing drawings, which differ between versions of matplotlib.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import matplotlib  # noqa: E402
import pandas as pd  # noqa: E402
import speed  # noqa: E402

import hwmodels  # noqa: E402
from hwmodels import plots  # noqa: E402
from nmsim import Pattern, formats  # noqa: E402
from validate import bits, whole_model  # noqa: E402
from validate.example_checkpoint import ExampleShape, write_example  # noqa: E402
from validate.plots import bytes_per_element  # noqa: E402

PAGES = {"docs/reference/formats.md": formats.page, "docs/reference/speed.md": speed.page}
GALLERY = ROOT / "docs" / "gallery"
DRAWN_BY = ("hwmodels/plots.py", "validate/plots.py", "docs/generate.py")

PATTERNS = [Pattern.parse(text) for text in ("2:4", "4:8", "8:16", "16:32")]
ENCODINGS = ("bitmask", "index", "gap:2", "combinatorial", "joint")
MACHINES = ("h200", "a100-sxm", "h200-8x16")
SMALL = ExampleShape(layers=1, hidden=256, intermediate=512, kv_width=64, vocab=256)


def stored() -> pd.DataFrame:
    """Bits an element really stored, on a small synthetic checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_example(Path(folder) / "example.safetensors", shape=SMALL)
        with bits.open_weights(path, PATTERNS) as checkpoint:
            return bits.bits_per_element(bits.measure_checkpoint(checkpoint, PATTERNS, ENCODINGS))


def predicted() -> pd.DataFrame:
    """Bounds of whole steps of Llama-3.1-8B in bf16, weights pruned."""
    cases = whole_model.case_table(
        hwmodels.load_model("llama-3.1-8b"), PATTERNS, ENCODINGS, "bitstream", [1, 64], [8192], ["weights"]
    )
    return whole_model.sum_layers(whole_model.predict_layers(cases, [hwmodels.load(m) for m in MACHINES]))


FIGURES = {
    "bytes_per_element": (stored, lambda table: bytes_per_element(table)[0]),
    "speedup_vs_pattern": (predicted, lambda table: plots.speedup_vs_pattern(table)[0]),
}


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
    make, draw = FIGURES[name]
    table = make()
    text = table.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    code = "".join((ROOT / source).read_text(encoding="utf-8") for source in DRAWN_BY)
    digest = f"<!-- drawn from {name}.csv, {hashlib.sha256((text + code).encode()).hexdigest()} -->"
    csv, svg = GALLERY / f"{name}.csv", GALLERY / f"{name}.svg"
    if csv.exists() and csv.read_text() == text and svg.exists() and digest in svg.read_text():
        return False
    if write:
        GALLERY.mkdir(exist_ok=True)
        csv.write_text(text)
        with matplotlib.rc_context({"svg.hashsalt": "nmsim"}):
            figure = draw(table)
            figure.savefig(svg, metadata={"Date": None}, facecolor=figure.get_facecolor())
        lines = [line.rstrip() for line in svg.read_text().splitlines()]
        svg.write_text("\n".join([*lines, digest, ""]))
    return True


def main(arguments: list[str]) -> int:
    """Write what is stale; with --check, write nothing and return 1 when something is."""
    write = arguments != ["--check"]
    stale = [name for name, make in PAGES.items() if page_is_stale(name, make(), write=write)]
    stale += [f"docs/gallery/{name}.svg" for name in FIGURES if figure_is_stale(name, write=write)]
    for name in stale:
        print(f"{name}: {'written' if write else 'out of date, run make docs'}")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
