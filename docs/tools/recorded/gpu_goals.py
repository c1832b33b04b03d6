"""The page of goals by counting: what compiled kernels are predicted to take on an H200, each with its limit."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import judged
import pandas as pd

import hwmodels
from hwmodels.counted.product import COUNTED_DTYPES, counted_product, counted_pruning
from hwmodels.counted.table import CountedKernel, counted_kernels, triton_versions
from hwmodels.counted.time import (
    GRAPH_LAUNCH,
    CountedTime,
    architecture,
    counted_time,
    library_launch_s,
    read_s,
    read_share,
)
from hwmodels.estimate import constants
from hwmodels.estimate.estimate import VECTOR_TOKENS, flush_s
from hwmodels.machine.chip import chip
from hwmodels.steps.fusion import fused
from nmsim.case import Case, GemmShape
from nmsim.format import SparseFormat
from nmsim.units import percent

MACHINE = "h200"
MACHINES = ("a100-sxm", "rtx4090", "h200", "b200")
MODELS = ("llama-3.1-8b", "llama-2-7b", "qwen2.5-7b", "gemma-3-4b")
FORMATS = ("8:16/bitmask", "8:16/index")
VALUE_BYTES = 2
LARGE_BYTES = 30 << 20
PRUNED_ELEMENTS = 8192 * 8192
PASSES = Path(__file__).resolve().parents[3] / "validate" / "data" / "online_passes.parquet"
LARGE_TOKENS = 8192
TOKENS = (1, 2, 4, 8, 16, 64)
NEEDED = {2: 1.3, 4: 1.3, 16: 1.3, 64: 1.0}
"""Tokens -> median speedup over dense that is the goal."""

HEAD = """# Goals by counting

Each goal is set for an H200, 8:16 and 16-bit values, with weights in DRAM. **Every figure here is predicted, not measured.** It
comes from counts of compiled machine code and from datasheets. `make docs` writes this page. The counts are made anew by

```
make gpu-counts
make gpu-counts TRITON=3.6.0
```

The second line takes the version of Triton on the H200 machine. Rows of other versions stay in `hwmodels/data/gpu_kernels.csv`.
`nmsim predict 1,14336,4096 -p 8:16/index -H h200` prints the same model's answer for one product, with the launch of the estimate.

## How a time is predicted

`hwmodels.counted.time` takes the turns of a kernel's loop. A turn takes as long as the slowest of four, or a little longer (fourth-power
mean, A24):

- **DRAM**: its bytes at {share} of the datasheet's bandwidth, the share that libraries reach on this machine (fitted);
- **issue**: its instructions at the rate of the busiest pipe;
- **L1**: its wavefronts, one per cycle, by the upper count (A71);
- **latency**: its serial round trips, each at the latency that others measured without load.

Programs fill the machine in waves, by registers and warps. The number of parts of K, and the warps, are the best that were
counted. A launch takes {launch:.1f} us, as in a CUDA graph (A73); a kernel for which tokens are laid out first takes a second one. The dense rival of up to 8
tokens reads its bytes at the same share of the bandwidth, with the same launch. That of more tokens is the library of the estimate
with this launch. Energy and clocks under load are not in the model.

"""


class Layer(NamedTuple):
    """One shape, predicted: speedup over dense of the best format."""

    name: str
    N: int
    K: int
    dense_s: float
    best: CountedTime
    format: str

    @property
    def speedup(self) -> float:
        return self.dense_s / self.best.time_s


def shapes() -> dict[tuple[int, int], str]:
    """Fused linear layers of the models, each shape once: (N, K) -> what it is."""
    found: dict[tuple[int, int], str] = {}
    for name in MODELS:
        layers = [layer for layer in hwmodels.load_model(name).layers if layer.pruned]
        for each in fused(layers, ["qkv", "gate_up"]):
            found.setdefault((each.layer.N, each.layer.K), f"{name} {each.layer.name}")
    return found


def predicted(tokens: int, triton: str, machine: str = MACHINE) -> list[Layer]:
    """Predict all shapes that a counted kernel takes."""
    spec = hwmodels.load_machine(machine)
    found = []
    for (N, K), name in shapes().items():
        shape = GemmShape(tokens, N, K)
        times = {
            text: counted_product(
                shape, spec, format=SparseFormat.parse(text), triton=triton, launch_s=GRAPH_LAUNCH.value
            )
            for text in FORMATS
        }
        known = {text: time for text, time in times.items() if time is not None}
        if not known:
            continue
        answer = hwmodels.predict(Case(shape, None, dtype="fp16"), spec)
        # Of few tokens the rival is a dense kernel that reads as fast as can be expected, of more the library.
        if tokens <= VECTOR_TOKENS:
            dense_s = read_s(answer.dense_traffic_bytes, spec, launch_s=GRAPH_LAUNCH.value)
        else:
            dense_s = answer.predicted_dense_time_s - library_launch_s(spec) + GRAPH_LAUNCH.value
        best = min(known, key=lambda text: known[text].time_s)
        found.append(Layer(name, N, K, dense_s, known[best], best.split("/")[1]))
    return found


class Tried(NamedTuple):
    """Published times of one kind on one machine beside those from counts: the errors, predicted / measured - 1."""

    what: str
    machine: str
    rows: int
    median_error: float
    least: float
    most: float


def tried() -> list[Tried]:
    """Compare what others measured: dense products of one token in 16 bits, and passes that read and write a matrix."""
    errors: dict[tuple[str, str], list[float]] = {}
    table = judged.published().table
    dense = table[
        (table["M"] == 1) & table["dtype"].isin(COUNTED_DTYPES) & table["measured_dense_time_s"].notna()
    ]
    for row in dense.itertuples():
        spec = hwmodels.load_machine(str(row.machine))
        kernel = _counted("dense", spec)
        if kernel is not None:
            time_s = counted_time(kernel, spec, outputs=int(row.N), k=int(row.K)).time_s
            wait_s = float(flush_s(row.l2_state == "cold", chip(spec), constants.load()))
            errors.setdefault(("dense product, 1 token", spec.id), []).append(
                (time_s + wait_s) / row.measured_dense_time_s - 1
            )
    passes = pd.read_parquet(PASSES).drop_duplicates(["machine", "dtype", "tokens", "K"])
    for row in passes[passes["tokens"] >= LARGE_TOKENS].itertuples():
        spec = hwmodels.load_machine(str(row.machine))
        kernel = _counted("copy", spec)
        if kernel is not None:
            # A pass reads 16 bits and writes 8: a copy moves as much for fewer elements.
            elements = int(row.tokens * row.K * 3 / kernel.bytes_per_elem)
            time_s = counted_time(kernel, spec, outputs=1, k=elements).time_s
            errors.setdefault(("quantising pass as a copy", spec.id), []).append(
                time_s / row.measured_copy_s - 1
            )
    return [
        Tried(what, machine, len(found), statistics.median(found), min(found), max(found))
        for (what, machine), found in sorted(errors.items())
    ]


def _counted(kind: str, machine: hwmodels.HardwareSpec) -> CountedKernel | None:
    newest = triton_versions()[-1]
    return next(
        (
            row
            for row in counted_kernels()
            if (row.kernel, row.triton, row.architecture) == (kind, newest, architecture(machine))
        ),
        None,
    )


class Reached(NamedTuple):
    """What is predicted of a goal by one version of Triton."""

    value: float
    limit: str


def goals() -> Iterator[tuple[str, float, dict[str, Reached | None]]]:
    """Each goal: what it is, the value that is needed, and what each version of Triton reaches."""
    versions = triton_versions()
    single = {version: predicted(1, version) for version in versions}
    large = {
        version: [row for row in rows if row.N * row.K * VALUE_BYTES > LARGE_BYTES]
        for version, rows in single.items()
    }
    yield "1 token, every layer over 30 MB", 1.4, {name: _least(rows) for name, rows in large.items()}
    yield "1 token, median of fused shapes", 1.45, {name: _median(rows) for name, rows in single.items()}
    for tokens, needed in NEEDED.items():
        yield (
            f"{tokens} tokens, median of fused shapes",
            needed,
            {version: _median(predicted(tokens, version)) for version in versions},
        )
    spec = hwmodels.load_machine(MACHINE)
    for text in FORMATS:
        shares: dict[str, Reached | None] = {}
        for version in versions:
            both = counted_pruning(PRUNED_ELEMENTS, spec, format=SparseFormat.parse(text), triton=version)
            shares[version] = None
            if both is not None:
                rates = [time.kernel.bytes_per_elem / time.time_s for time in both]
                shares[version] = Reached(rates[0] / rates[1], both[0].limit)
        yield f"pruning to {text}, bandwidth over that of a copy", 0.85, shares


def _median(rows: list[Layer]) -> Reached | None:
    if not rows:
        return None
    ordered = sorted(rows, key=lambda row: row.speedup)
    return Reached(statistics.median(row.speedup for row in rows), _limit(ordered[len(ordered) // 2]))


def _least(rows: list[Layer]) -> Reached | None:
    worst = min(rows, key=lambda row: row.speedup, default=None)
    return None if worst is None else Reached(worst.speedup, _limit(worst))


def _limit(row: Layer) -> str:
    pipe = row.best.kernel.pipe
    return f"issue ({pipe})" if row.best.limit == "issue" and pipe != "issue" else row.best.limit


def page() -> str:
    """The whole page as Markdown."""
    versions = triton_versions()
    share = percent(read_share(hwmodels.load_machine(MACHINE)), 1)
    lines = [
        HEAD.format(share=share, launch=GRAPH_LAUNCH.value * 1e6) + "## The goals\n",
        "| goal | needed | " + " | ".join(f"Triton {version}" for version in versions) + " |",
        "|---|---|" + "---|" * len(versions),
        *(
            f"| {what} | {needed:g} | "
            + " | ".join(_reached(found[version], needed) for version in versions)
            + " |"
            for what, needed, found in goals()
        ),
        "\nThe limit is that of the layer whose speedup is named, or the one above the middle. Fused shapes: query, key and value",
        f"as one product, gate and up as one, of {', '.join(MODELS)}; each shape counts once.\n",
        "## One token, layer by layer\n",
        f"On an H200, kernels of Triton {versions[-1]}.\n",
        "| layer | N | K | dense MB | dense us | ours us | speedup | format | limit | warps | parts of K | waves |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.name} | {row.N} | {row.K} | {row.N * row.K * VALUE_BYTES / 1e6:.0f} | {row.dense_s * 1e6:.1f} |"
            f" {row.best.time_s * 1e6:.1f} | {row.speedup:.2f}x | {row.format} | {_limit(row)} | {row.best.kernel.warps} |"
            f" {row.best.n_parts} | {row.best.waves:.2f} |"
            for row in predicted(1, versions[-1])
        ),
        "\n## Other GPUs\n",
        f"Median speedup over the same fused shapes, kernels of Triton {versions[-1]}, with the limit of the middle one.\n",
        "| tokens | " + " | ".join(hwmodels.load_machine(name).name for name in MACHINES) + " |",
        "|---|" + "---|" * len(MACHINES),
        *(
            f"| {tokens} | "
            + " | ".join(_cell(_median(predicted(tokens, versions[-1], name))) for name in MACHINES)
            + " |"
            for tokens in TOKENS
        ),
    ]
    lines += [
        "\n## Tried on published times\n",
        "Few measured times fit. The decode kernel itself has none. Our dense product, compiled and counted, stands for a library's.",
        "Passes that quantise activations stand for a copy of as many bytes, from 8192 tokens on. They do more than a copy, so the",
        "prediction is a lower bound for them. Launches are those of the estimate, which was fitted to the dense rows too. Error is",
        "predicted over measured, less one.\n",
        "| what | machine | rows | median error | from | to |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.what} | {row.machine} | {row.rows} | {_signed(row.median_error)} | {_signed(row.least)} |"
            f" {_signed(row.most)} |"
            for row in tried()
        ),
    ]
    return "\n".join(lines) + "\n"


def _signed(error: float) -> str:
    return ("+" if error > 0 else "") + percent(error, 1)


def _reached(found: Reached | None, needed: float) -> str:
    if found is None:
        return "no kernel counted"
    # The goal is compared with what is printed.
    met = "met" if round(found.value, 2) >= needed else "**missed**"
    return f"{_cell(found)}, {met}"


def _cell(found: Reached | None) -> str:
    return "-" if found is None else f"{found.value:.2f}, {found.limit}"
