"""The page on speed, written from the rows that `nmsim bench --json` gave on one machine (`reference/speed.json`)."""

import json
from pathlib import Path
from typing import Any

from hwmodels.bench import FIGURES

ROWS = Path(__file__).resolve().parents[2] / "reference" / "speed.json"

HEAD = """# Speed

The unit is 10⁹ elements of the dense tensor per second. Rows are in [speed.json](speed.json). The commands below made them, and
`make docs` puts them into this page. Each cell is the median over interleaved repetitions with its 20th and 80th
percentiles. After it comes the share of a plain copy of the decoded masks in the same repetition. The runs are of two machines. That of
2026-11-22 has AVX2; it is shared and runs at two speeds that differ by 1.6, and a run has one or both. Several runs are shown
unchanged.
"""

GOALS = """## Against the goals

| goal, one core | reached |
|---|---|
| 8:16 `combinatorial` encode 15, decode 25 | Zen 4: 24 and 44. AVX2: 18.5 and 29.1 in the undisturbed run; 11.8 to 15.4 and 17.5 to 23.0 in the disturbed ones |
| 8:16 decode at least 1/8 of a copy | Zen 4: `combinatorial` 0.15 to 0.16, `index` 0.14 to 0.16, `bitmask` 0.80 |
| `bitmask` and `index` no slower | `bitmask` yes; `index` at 8:16 within 5 % either way, and above the same goals (17.7, 28.2); at 16:32, with codes of 80 bits, it encodes 5 times slower than `combinatorial` |
| 16:32 within 4x of 8:16 | `combinatorial` encode yes (2.2x), `read_stream` yes (1.8x); **decode missed**: 6.8x, and in a loop of its own 4.7x. `index` decode missed: 4.7x (35x before), encode 9x |
| two cores at least 1.7x | **not always**: codes of 134 M elements, `combinatorial` and `joint` 1.4x to 1.8x, `bitmask` 1.2x to 1.5x, streams 1.0x to 1.7x; two processes, one per core, gain 1.7x to 1.8x together |
| `predict`: 1 M cases/s, one case in 200 us | 3.0 to 3.6 M with repeats, 1.25 to 1.29 M all distinct; 169 to 175 us (up to 330 us while other processes run) |
| closed form of a core: 1 M points/s | 1.03 M on layers of a model; about 0.7 M on odd shapes, whose edges all differ. **A whole sweep is slower**: 0.65 to 0.71 M points/s with the work around the closed form, 0.28 to 0.34 M with energy and area |
| simulator: 20 M events/s, a layer of Llama-3.1-8B in 10 s | 78 to 89 M; 1.5 s, of which most is counting the mask |

**Why 16:32 decoding is slow, and what could change it.** A 30-bit code is split at the upper 16 bits of the mask. A guide names a high half,
one comparison corrects it, and a table gives the low half. These are three dependent loads from tables of half a megabyte. They
lie in the second-level cache, if nothing else does. A second comparison is needed in some codes, and the processor then mispredicts. In
a loop of its own, decoding took 12 cycles per code on Zen 4. Byte by byte it took 18 to 21. Two changes may help further. One is vector gathers
over eight codes (AVX-512). The other is an encoding of 16:32 as two coupled halves whose codes need no search. Codes of 16:32 `index`
have 80 bits. Their two halves are decoded on vector lanes, twice the work of 8:16.

**What changed the speed**, as medians in the undisturbed state of this machine:

- 16:32 `combinatorial` encode, 3.2 to 11.6: popcounts instead of a running count, 32-bit tables and unsigned indices.
- 16:32 `combinatorial` decode, 1.4 to 5.2 on small arrays: guide tables that are fine enough to leave a step or two.
- 16:32 `combinatorial` decode on Zen 4, 5.6 to between 6.4 and 7.8 (6.6 to 9.5 in a loop of its own): halves instead of bytes.
- 16:32 `index` decode on Zen 4, 1.2 to 8.9: two halves of the fields on vector lanes, instead of one field at a time.
- 8:16 `combinatorial` decode on Zen 4, 35 to 45: the codes of a block are compared before they are looked up.
- 8:16 `index` decode, 12 to 28: all neighbouring fields are compared in two guarded subtractions on vector lanes. Before,
  each needed two lookups in a table of 64 KiB entries. The compiler vectorised it only with slices instead of computed
  indices (10 to 24).
- 8:16 `index` encode, 14 to 18: one table that knows the place of the other.
- Pruning, 0.19 to 0.45: groups ranked side by side, one per vector lane.
- Rebuilding a tensor, 0.2 to 0.9: a loop over set bits instead of a test of each element.
- Two cores, 1.25x to between 1.4x and 1.9x: the calling thread does its share and helper threads stay alive.

`write_stream` and `read_stream` include bit packing and fresh memory; `encode` and `decode` reuse their output. The bound
of all is the copy of the masks: one read and one write of M bits per group.
"""


def page() -> str:
    """The whole page as Markdown."""
    rows = json.loads(ROWS.read_text(encoding="utf-8"))
    return "\n".join([HEAD, *(_run(run) for run in rows["runs"]), *_models(rows["models"]), GOALS])


def _models(runs: list[dict[str, Any]]) -> list[str]:
    """The models' figures: one line per figure, one column per run."""
    if not runs:
        return []
    commits = " | ".join(f"{run['timestamp_utc']}, {run['commit'][:10]}" for run in runs)
    lines = [
        f"## `{runs[0]['command']}`\n",
        f"{runs[0]['machine']}. One core; medians, and the 20th and 80th percentiles.\n",
        f"| figure | unit | {commits} |",
        "|---|---|" + "---|" * len(runs),
    ]
    for name, figure in FIGURES.items():
        cells = " | ".join("**{1}** ({2})".format(*figure.line(run[name])) for run in runs)
        lines.append(f"| {figure.title} | {figure.unit} | {cells} |")
    return ["\n".join(lines) + "\n"]


def _run(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    predicted = run.get("predict_cases_per_s")
    beside = f"; `predict` {predicted['p50'] / 1e6:.2f} M cases/s" if predicted else ""
    lines = [
        f"## `{run['command']}`\n",
        f"{run['machine']}; {run['timestamp_utc']}; {versions}; commit {run['commit'][:10]}{beside}.\n",
        "| pattern | encoding | cores | encode | decode | write stream | read stream |",
        "|---|---|---|---|---|---|---|",
    ]
    table: dict[tuple[Any, ...], list[str]] = {}
    for row in run["codecs"]:
        table.setdefault((row["pattern"], row["encoding"], row["threads"]), []).append(_cell(row))
    for key, cells in table.items():
        lines.append("| " + " | ".join([*map(str, key), *cells, *[""] * (4 - len(cells))]) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    low, median, high = (row[f"{p}_elems_per_s"] / 1e9 for p in ("p20", "p50", "p80"))
    gain = f", {row['p50_times_one_core']:.2f}x one core" if row["threads"] > 1 else ""
    return f"**{median:.3g}** ({low:.3g} to {high:.3g}), {row['p50_share_of_copy']:.2g}{gain}"
