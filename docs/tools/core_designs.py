"""Tables of tensor cores that the gallery draws: presets, one core under its roofs, selectors, and designs that compete."""

import dataclasses
import functools
import itertools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import hwmodels
from hwmodels import plots
from hwmodels.online.break_even import batch_table, break_even_batch, selector_table
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from nmsim import Case, GemmShape, Pattern

MODEL = {"model": "llama-3.1-8b", "per": "model"}
PATTERNS = ("2:4", "4:8", "8:16", "16:32")
ROOF_ELEMENTS = 16
LAYER = Case(GemmShape(1, 14336, 4096), "8:16/combinatorial", sparse_operand="activations")
MOST_TOKENS = 1024
POINT = ["core", "dtype", "tokens", "model", "pattern", "encoding", "packing", "sparse_operand", "execution"]


def presets() -> pd.DataFrame:
    """Llama-3.1-8B, weights pruned, on what is sold and on a core that takes all four patterns."""
    axes = {
        "core": ["nvidia-like-2x4", "flexible-16x32"],
        "pattern": ["dense", *PATTERNS],
        "encoding": ["index", "bitmask", "combinatorial"],
        "tokens": [1, 64, 8192],
    }
    found = hwmodels.sweep({"axes": axes, "workload": MODEL})
    return found[found["refused"] == ""].reset_index(drop=True)


def one_encoding(table: pd.DataFrame) -> pd.DataFrame:
    """Of the presets: one encoding each, at the ends."""
    encoding = table["core"].map({"nvidia-like-2x4": "index", "flexible-16x32": "combinatorial"}).astype(str)
    own = table["encoding"].astype(str)
    return table[((own == encoding) | (own == "none")) & (table["tokens"] != 64)]


@functools.cache
def roof_core() -> SparseTensorCore:
    """The core of the roofs: with decoders so slow that they matter."""
    return dataclasses.replace(
        load_core("flexible-16x32"),
        id=f"flexible-16x32-decoding-{ROOF_ELEMENTS}",
        name=f"flexible 16:32 core that decodes {ROOF_ELEMENTS} elements per cycle",
        decoder_elements_per_cycle=ROOF_ELEMENTS,
    )


def roofs() -> pd.DataFrame:
    """Llama-3.1-8B on one core from 1 to 8192 tokens."""
    axes = {
        "core": [roof_core()],
        "pattern": ["dense", "2:4", "16:32"],
        "encoding": ["combinatorial"],
        "tokens": [1 << power for power in range(14)],
    }
    return hwmodels.sweep({"axes": axes, "workload": MODEL})


def activations() -> pd.DataFrame:
    """Gate and up of Llama-3.1-8B with activations pruned online, on a large and on a small core."""
    tables = []
    for name, dtype in (("flexible-8x16", "bf16"), ("edge-npu-8x16", "int8")):
        case, core = dataclasses.replace(LAYER, dtype=dtype), load_core(name)
        for placement in ("producer", "consumer"):
            found = break_even_batch(case, core, most_tokens=MOST_TOKENS, placement=placement)
            ends = [found.decode_tokens, found.prefill_tokens or MOST_TOKENS]
            edges = {tokens for end in ends for tokens in (end - 1, end, end + 1)}
            tokens = {*range(1, 17), *range(16, MOST_TOKENS + 1, 16), *edges}
            shown = sorted(count for count in tokens if 1 <= count <= MOST_TOKENS)
            tables.append(batch_table(case, core, shown, placement=placement).assign(core=name))
    return pd.concat(tables, ignore_index=True)


def selectors() -> pd.DataFrame:
    """The same layer on the core that takes all patterns: how fast a selector has to be."""
    core, tokens = load_core("flexible-16x32"), (1, 16, 256, 4096)
    tables = [
        selector_table(
            dataclasses.replace(
                LAYER, format=dataclasses.replace(LAYER.format, pattern=Pattern.parse(pattern))
            ),
            core,
            tokens,
        ).assign(pattern=pattern)
        for pattern in PATTERNS
    ]
    return pd.concat(tables, ignore_index=True)


def designs() -> pd.DataFrame:
    """One core a pattern, with arrays of three depths that decode 128 or 512 elements per cycle, and the dense core."""
    tables = []
    for pattern, depth, decoded in itertools.product(("dense", *PATTERNS), (8, 16, 32), (128, 512)):
        if pattern == "dense":
            if decoded > 128:
                continue
            core, name = load_core("dense"), f"depth {depth}"
        else:
            core = dataclasses.replace(
                load_core("flexible-16x32"),
                patterns=(Pattern.parse(pattern),),
                sparse_operands=("weights",),
                encodings=("combinatorial",),
                selector_elements_per_cycle=0,
                decoder_elements_per_cycle=decoded,
            )
            name = f"depth {depth}, decodes {decoded}"
        width = core.operand_b_bytes_per_cycle * depth // core.array_depth
        core = dataclasses.replace(
            core,
            id=name.replace(", ", "-").replace(" ", "-"),
            array_depth=depth,
            operand_b_bytes_per_cycle=width,
        )
        axes = {"core": [core], "pattern": [pattern], "encoding": ["combinatorial"], "tokens": [64, 4096]}
        tables.append(hwmodels.sweep({"axes": axes, "workload": MODEL}).assign(core=name))
    found = pd.concat(tables, ignore_index=True)
    costs = [f"{name}{end}" for name in ("area_um2", "energy_joules") for end in ("_low", "", "_high")]
    return found[[*POINT, "limit", "cycles", "time_s", "speedup_vs_dense", *costs]]


def fronts(table: pd.DataFrame) -> tuple[Figure, Any]:
    """Draw time over area, each pattern by itself."""
    front = hwmodels.pareto_front(table, minimise=["area_um2", "time_s"], within=["tokens", "pattern"])
    return plots.pareto(
        table, x="area_um2", y="time_s", front=front, within=["tokens"], by_pattern=True, label=["core"]
    )
