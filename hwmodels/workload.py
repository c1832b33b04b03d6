"""The table of cases that the linear layers of a model make."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pandas as pd

from hwmodels.estimate.table import format_cells
from hwmodels.models import Model, load_model
from hwmodels.steps.experts import grouped
from nmsim.case import DEFAULT_DTYPE, SparseOperand, value_type
from nmsim.errors import SpecError, brief
from nmsim.format import FormatLike, as_format

CASE_COLUMNS = (
    "model", "layer", "count", "M", "N", "K",
    "phase", "dtype", "sparse_operand", "pattern", "encoding", "packing",
)  # fmt: skip

EXPERT_COLUMNS = ("experts", "tokens")
"""Further columns of a model with experts."""

CASE_FORMATS = tuple(
    f"{pattern}/{encoding}"
    for pattern in ("2:4", "4:8", "8:16", "16:32")
    for encoding in ("bitmask", "index", "combinatorial")
)


def cases(
    model: str | Path | Model,
    *,
    dtype: str = DEFAULT_DTYPE,
    formats: Iterable[FormatLike | None] = CASE_FORMATS,
    sparse_operand: SparseOperand = "weights",
    decode_batches: Iterable[int] = (1,),
    prefill_lengths: Iterable[int] = (),
    prefill_batch: int = 1,
    unpruned: bool = False,
) -> pd.DataFrame:
    """Make the table of cases of a model: each layer in each phase with each format.

    Parameters
    ----------
    model : str, Path or Model
        As for `load_model`.
    dtype : str
        Value type of both operands.
    formats : iterable of SparseFormat, Pattern, str or None
        How the sparse operand is stored; None or `"dense"` for a dense row.
    sparse_operand : {"weights", "activations"}
    decode_batches : iterable of int
        Sequences decoded together; M = batch tokens.
    prefill_lengths : iterable of int
        Tokens of a prompt; M = `prefill_batch` * length.
    prefill_batch : int
        Prompts processed together.
    unpruned : bool
        Add a dense row (pattern `"dense"`) for layers that are not pruned (`lm_head`), once per phase.

    Returns
    -------
    DataFrame
        Columns `CASE_COLUMNS`; `count` says how many layers of the model a row stands for. A model with experts has
        `EXPERT_COLUMNS` as well. `experts`: so many products of the row's shape, with other weights and tokens, run in
        one launch of a layer. `tokens`: those of the step, while M are those of one expert. `count` may be a part of the
        layers (`docs/explanation/whole-model.md`).

    Raises
    ------
    RowError
        An unknown value type.
    SpecError
        As `load_model`; an unknown operand; a batch or length that is no positive int.
    PatternError, EncodingError, BitstreamError
        A format that does not exist.

    Examples
    --------
    >>> table = cases("llama-3.1-8b", formats=["8:16/bitmask"])
    >>> len(table), table["layer"].tolist()
    (7, ['q', 'k', 'v', 'o', 'gate', 'up', 'down'])
    """
    loaded = load_model(model)
    dtype = value_type(dtype)
    if sparse_operand not in get_args(SparseOperand):
        raise SpecError(
            f"sparse_operand={brief(sparse_operand)}: expected one of {', '.join(get_args(SparseOperand))}"
        )
    positive = {"prefill_batch": [prefill_batch], "decode_batches": list(decode_batches)}
    positive["prefill_lengths"] = list(prefill_lengths)
    for name, values in positive.items():
        for value in values:
            # True is an int in Python, but no number of tokens.
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpecError(f"{name}: {brief(value)}: expected a positive int")
    phases = [("decode", batch) for batch in positive["decode_batches"]]
    phases += [("prefill", prefill_batch * length) for length in positive["prefill_lengths"]]
    dense, stored = format_cells(None), [format_cells(as_format(format)) for format in formats]
    rows = []
    for (phase, tokens), layer in itertools.product(phases, loaded.layers):
        if not (layer.pruned or unpruned):
            continue
        count = layer.places * layer.reads
        group = grouped(layer.experts, layer.active_experts, tokens=tokens)
        # Experts may have one token more than others: then a row stands for a part of the model layers.
        rows += [
            (
                loaded.name, layer.name, count if weight == 1 else count * weight, each, layer.N, layer.K, phase,
                dtype, sparse_operand, *cells, group.products, tokens,
            )
            for each, weight in group.parts
            for cells in (stored if layer.pruned else [dense])
        ]  # fmt: skip
    table = pd.DataFrame(rows, columns=[*CASE_COLUMNS, *EXPERT_COLUMNS])
    return table if any(layer.experts for layer in loaded.layers) else table[list(CASE_COLUMNS)]
