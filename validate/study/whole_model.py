"""Predictions of every linear layer of a model, and their sum: the time of one step of the whole model.

A step is one token of each sequence (decode) or one prompt (prefill). Counted are the linear layers, and attention with its
cache if a context is given. The output head stays dense, and in prefill it runs for the last token only, as serving
engines do.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import hwmodels
from hwmodels import HardwareSpec, Model
from hwmodels.estimate.bounds import STAGES
from hwmodels.steps.attention import Sequences, attention_dtype, attention_name, attention_s, work
from hwmodels.steps.step import EXTRAPOLATED_SHARE
from nmsim.case import DEFAULT_DTYPE, VALUE_BITS, Case, GemmShape, SparseOperand, case_id, value_type
from nmsim.format import SparseFormat

CASE_COLUMNS = (
    "model", "layer", "count", "phase", "tokens", "M", "N", "K",
    "dtype", "sparse_operand", "pattern", "encoding", "packing", "case_id",
)  # fmt: skip
STUDY_COLUMNS = (*CASE_COLUMNS, *hwmodels.PREDICTED_COLUMNS)
"""Columns of `study.csv`: a row per layer, phase, machine and format. Dense rows have no encoding."""

DENSE = "dense"
TIE = 1e-3
"""Speedups that differ by less, relative to the larger one, count as equal."""

STEP_KEYS = ("hardware", "phase", "tokens")
STORED_KEYS = ("sparse_operand", "pattern", "encoding", "packing")
BOUND_COLUMNS = tuple(f"predicted_{stage}_bound_s" for stage in STAGES)
RANGE_COLUMNS = ("predicted_speedup_low", "predicted_speedup_high", "extrapolates")
BOUNDS_COLUMNS = ("bound_time_s", "bound_dense_time_s", "bound_speedup_vs_dense", "speedup_at_most")
MODEL_COLUMNS = (
    *STEP_KEYS, *STORED_KEYS, "execution", "predicted_time_s", "predicted_dense_time_s",
    "predicted_speedup_vs_dense", *RANGE_COLUMNS, *BOUNDS_COLUMNS, *BOUND_COLUMNS, "limit",
)  # fmt: skip
"""Columns of `model.csv`. `predicted_<stage>_bound_s` is the time of the layers which that stage bounds."""


ATTENTION_COLUMNS = ("linear_speedup_vs_dense", "attention_share")
"""Columns that `model.csv` has as well if attention is counted."""


def case_table(
    model: Model,
    formats: Sequence[SparseFormat],
    *,
    batches: Sequence[int],
    prefill: Sequence[int],
    operands: Sequence[SparseOperand] = ("weights",),
    dtype: str | None = DEFAULT_DTYPE,
) -> pd.DataFrame:
    """Make the cases of a study: each layer dense, and each pruned layer in every format.

    Parameters
    ----------
    model : Model
    formats : sequence of SparseFormat
    batches, prefill : sequence of int
        Sequences of a decode step, tokens of a prompt.
    operands : sequence of {"weights", "activations"}
        Which operands are pruned, one at a time.
    dtype : str or None
        None: each layer has the value type that the model says of it, else bf16.

    Returns
    -------
    DataFrame
        Columns `CASE_COLUMNS`. `tokens` is the batch in decode and the length of the prompt in prefill. `M` is the
        same, except for the head in prefill and for experts. A model with experts has the column `experts` of
        `hwmodels.cases` as well. `case_id` is that of `nmsim.case.case_id`.
    """

    def with_types(table: pd.DataFrame) -> pd.DataFrame:
        types = {layer.name: value_type(layer.dtype or DEFAULT_DTYPE) for layer in model.layers}
        return table if dtype is not None else table.assign(dtype=table["layer"].map(types))

    common: dict[str, Any] = {
        "dtype": dtype or DEFAULT_DTYPE,
        "decode_batches": batches,
        "prefill_lengths": prefill,
    }
    dense = with_types(hwmodels.cases(model, formats=[None], unpruned=True, **common))
    heads = {layer.name for layer in model.layers if layer.role == "head"}
    # Of a model with experts, M are the tokens of one expert.
    dense["tokens"] = dense["tokens"] if "experts" in dense else dense["M"]
    dense.loc[dense["layer"].isin(heads) & (dense["phase"] == "prefill"), "M"] = 1
    dense["case_id"] = _case_ids(dense, [None], "weights")
    dense[["sparse_operand", "encoding", "packing"]] = None
    tables = [dense]
    for operand in operands:
        table = with_types(hwmodels.cases(model, sparse_operand=operand, formats=formats, **common))
        tokens = table["tokens"] if "experts" in table else table["M"]
        tables.append(table.assign(tokens=tokens, case_id=_case_ids(table, formats, operand)))
    table = pd.concat(tables, ignore_index=True)
    return table[[*CASE_COLUMNS, *(["experts"] if "experts" in table else [])]]


def predict_layers(cases: pd.DataFrame, machines: Sequence[HardwareSpec]) -> pd.DataFrame:
    """Predict every case on every machine.

    Returns
    -------
    DataFrame
        Columns `STUDY_COLUMNS`. Times in seconds of one product of one layer, or of all experts of it that the batch
        reaches; bytes to or from DRAM.
    """
    asked, added = cases, []
    if "experts" in cases:
        # Experts of a layer run in one launch: N counts the out features of all, each reads tokens of its own.
        rows = (cases["N"] * cases["experts"]).round().astype("int64")
        asked = cases.assign(N=rows, input_copies=cases["experts"])
        added = ["experts"]
    out = pd.concat([hwmodels.predict(asked, machine) for machine in machines], ignore_index=True)
    if added:
        out["N"] = np.tile(cases["N"].to_numpy(), len(machines))
    for name in ("hardware", "execution", "limit"):
        out[name] = out[name].astype(str)
    return out[[*STUDY_COLUMNS, *added]]


@dataclass(frozen=True)
class Context:
    """Attention of a study: tokens of each sequence in decode, and the value type of the cache, None for 16 bits.

    In prefill a prompt attends to itself.
    """

    tokens: int
    kv_dtype: str | None = None


def attention_rows(
    model: Model,
    machines: Sequence[HardwareSpec],
    *,
    context: Context,
    batches: Sequence[int],
    prefill: Sequence[int],
    dtype: str = DEFAULT_DTYPE,
) -> pd.DataFrame:
    """Predict the attention of every step: dense rows beside those of `predict_layers`.

    Returns
    -------
    DataFrame
        Columns `STUDY_COLUMNS`; N and K are 0, `layer` begins with `attention`, bytes are those of the dense operand.
        Times in seconds of one model layer.
    """
    steps = [("decode", batch, Sequences(batch, 1, context.tokens, absorbed=True)) for batch in batches]
    steps += [("prefill", length, Sequences(1, length, length, absorbed=False)) for length in prefill]
    rows = []
    for machine, (phase, tokens, sequences), each in itertools.product(machines, steps, model.attention):
        wide = attention_dtype(machine, dtype)
        kv_bits = VALUE_BITS[wide if context.kv_dtype is None else value_type(context.kv_dtype, "kv_dtype")]
        amount = work(each, sequences, kv_bits=kv_bits, value_bits=VALUE_BITS[wide])
        found = attention_s(amount, machine, wide)
        if not amount.total_bytes:
            continue
        told: dict[str, Any] = dict.fromkeys(STUDY_COLUMNS, 0) | {
            "model": model.name, "layer": attention_name(each), "count": each.count, "phase": phase, "tokens": tokens,
            "M": tokens, "dtype": wide, "sparse_operand": None, "pattern": DENSE, "encoding": None, "packing": None,
            "case_id": "", "hardware": machine.id, "execution": DENSE, "predicted_time_s": found.time_s,
            "predicted_dense_time_s": found.time_s, "predicted_speedup_vs_dense": 1.0, "predicted_speedup_low": 1.0,
            "predicted_speedup_high": 1.0, "bound_time_s": found.bound_time_s, "bound_memory_s": found.memory_s,
            "bound_matrix_s": found.matrix_s, "bound_dense_time_s": found.bound_time_s, "bound_speedup_vs_dense": 1.0,
            "extrapolates": False, "dense_operand_bytes": amount.total_bytes, "dense_traffic_bytes": amount.total_bytes,
            "limit": found.limit,
        }  # fmt: skip
        rows.append(told)
    return pd.DataFrame(rows, columns=list(STUDY_COLUMNS))


def sum_layers(study: pd.DataFrame) -> pd.DataFrame:
    """Add the layers up, with their counts: the time of a step of the whole model.

    Parameters
    ----------
    study : DataFrame
        Columns `STUDY_COLUMNS`; a dense row for each layer, a sparse one for each pruned layer and format.

    Returns
    -------
    DataFrame
        Columns `MODEL_COLUMNS`. A pruned model is its pruned layers and the dense head; the baseline of every
        speedup is the dense model on the same machine. The dense rows of all steps come first.

        `predicted_speedup_low` and `_high` widen the speedup by the mean of the layers' half-widths, as if all layers had the
        same error. The mean is on a logarithmic scale and weighted by time; the dense head has no width. NaN if a layer
        has no interval. A model extrapolates if layers that do so take more than `EXTRAPOLATED_SHARE` of its time.

        `bound_speedup_vs_dense` is a ratio of two bounds. `speedup_at_most` is the estimated dense time over the bound, which
        no estimate exceeds. With rows of attention there are `ATTENTION_COLUMNS` as well. They are the speedup of the linear
        layers alone, and the share of attention in the time of the step.
    """
    # Times add up, speedups do not: all is summed as time and divided at the end.
    summed = study.assign(
        time_s=study["count"] * study["predicted_time_s"], bound_time_s=study["count"] * study["bound_time_s"]
    )
    for end in ("low", "high"):
        ratio = study[f"predicted_speedup_{end}"] / study["predicted_speedup_vs_dense"]
        width = ratio.map(np.log)
        summed[f"{end}_s"] = summed["time_s"] * width
        summed[f"{end}_unknown"] = (width.isna() & (study["pattern"] != DENSE)).astype(float)
    summed["extrapolated_s"] = summed["time_s"].where(study["extrapolates"].astype(bool), 0.0)
    for stage, name in zip(STAGES, BOUND_COLUMNS, strict=True):
        summed[name] = summed["time_s"].where(summed["limit"] == stage, 0.0)
    is_attention = study["N"] == 0
    summed["attention_s"] = summed["time_s"].where(is_attention, 0.0)
    widths = ["low_s", "high_s", "low_unknown", "high_unknown", "extrapolated_s"]
    sums = ["time_s", "bound_time_s", "attention_s", *widths, *BOUND_COLUMNS]
    steps = list(STEP_KEYS)
    is_dense = summed["pattern"] == DENSE
    dense, sparse = summed[is_dense], summed[~is_dense]
    pruned_layers = set(sparse["layer"])
    baseline = dense.groupby(steps, sort=False)[sums].sum()
    head = dense[~dense["layer"].isin(pruned_layers)].groupby(steps, sort=False)[sums].sum()
    grouped = sparse.groupby([*steps, *STORED_KEYS], sort=False)
    pruned = grouped[sums].sum().join(grouped["execution"].first()).reset_index()
    rest = head.reindex(pd.MultiIndex.from_frame(pruned[steps])).fillna(0.0)
    pruned[sums] = pruned[sums].to_numpy() + rest[sums].to_numpy()
    baselines = baseline.reset_index().assign(pattern=DENSE, execution=DENSE)
    out = pd.concat([baselines, pruned], ignore_index=True)
    dense_of_row = baseline.reindex(pd.MultiIndex.from_frame(out[steps]))
    out["predicted_time_s"] = out["time_s"]
    out["predicted_dense_time_s"] = dense_of_row["time_s"].to_numpy()
    out["predicted_speedup_vs_dense"] = out["predicted_dense_time_s"] / out["predicted_time_s"]
    for end in ("low", "high"):
        widened = out["predicted_speedup_vs_dense"] * np.exp(out[f"{end}_s"] / out["time_s"])
        out[f"predicted_speedup_{end}"] = widened.where(out[f"{end}_unknown"] == 0)
    out["extrapolates"] = out["extrapolated_s"] > EXTRAPOLATED_SHARE * out["time_s"]
    out["bound_dense_time_s"] = dense_of_row["bound_time_s"].to_numpy()
    out["bound_speedup_vs_dense"] = out["bound_dense_time_s"] / out["bound_time_s"]
    out["speedup_at_most"] = out["predicted_dense_time_s"] / out["bound_time_s"]
    out["limit"] = np.array(STAGES)[out[list(BOUND_COLUMNS)].to_numpy().argmax(axis=1)]
    if not is_attention.any():
        return out[list(MODEL_COLUMNS)]
    linear_s = out["predicted_dense_time_s"] - out["attention_s"]
    out["linear_speedup_vs_dense"] = linear_s / (out["time_s"] - out["attention_s"])
    out["attention_share"] = out["attention_s"] / out["time_s"]
    return out[[*MODEL_COLUMNS, *ATTENTION_COLUMNS]]


def fastest(model: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Keep one sparse row for each combination of `keys`: the first of those within `TIE` of the fastest.

    Rows are in the order of the formats of the study. Of two encodings with equal speedups, the one named earlier is kept.
    """
    sparse = model[model["pattern"] != DENSE]
    best = sparse.groupby(list(keys), sort=False)["predicted_speedup_vs_dense"].transform("max")
    near = sparse[sparse["predicted_speedup_vs_dense"] >= (1 - TIE) * best]
    return near.drop_duplicates(list(keys)).reset_index(drop=True)


def _case_ids(
    table: pd.DataFrame, formats: Sequence[SparseFormat | None], operand: SparseOperand
) -> list[str]:
    """`case_id` of each row of a table whose rows repeat `formats` in order; equal rows are computed once."""
    known: dict[tuple[Any, ...], str] = {}
    ids = []
    rows = table[["M", "N", "K", "phase", "dtype"]].itertuples(index=False, name=None)
    for row, fmt in zip(rows, itertools.cycle(formats), strict=False):
        if (row, fmt) not in known:
            M, N, K, phase, dtype = row
            case = Case(GemmShape(M, N, K), fmt, dtype=dtype, sparse_operand=operand)
            known[row, fmt] = case_id(case, phase)
        ids.append(known[row, fmt])
    return ids
