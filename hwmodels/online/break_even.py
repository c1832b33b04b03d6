"""Break-even of activations that are pruned online: how many tokens, and how fast a selector, until they pay."""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from hwmodels.online.pruning import OnlinePruning, PruningSetup, online_pruning, online_prunings
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError, brief

RATE_STEP = 4
"""The search for a selector rate goes in steps of 1/4 dense element per cycle."""
MOST_STEPS = 1 << 20
"""End of the search, in these steps: 262144 dense elements per cycle and core."""
TABULATED = (
    "dense_cycles", "weights_cycles", "product_cycles", "exposed_selector_cycles", "exposed_epilogue_cycles",
    "parameter_cycles", "side_cycles", "net_cycles", "speedup_vs_dense", "speedup_vs_sparse_weights",
)  # fmt: skip
NEAR = 1.01
"""As fast as an infinitely fast selector: within one per cent."""


class BatchBreakEven(NamedTuple):
    """Tokens between which sparse activations pay.

    Up to `decode_tokens` every number of tokens gains; 0: not even one token. From `prefill_tokens` on every number up to
    `most_tokens` gains; None: the last one does not. Where the two meet, all gain.
    """

    decode_tokens: int
    prefill_tokens: int | None
    most_tokens: int


class SelectorBreakEven(NamedTuple):
    """Least elements per cycle of one core's selector, in steps of 1/4 from 1/4 on; infinite if none is fast enough.

    `as_fast_as_dense`: the pruned product takes no longer than the dense one. `near_free`: at most 1 % longer than with a
    selector that takes no time.
    """

    as_fast_as_dense: float
    near_free: float


def _at(case: Case, tokens: int) -> Case:
    return dataclasses.replace(case, shape=GemmShape(tokens, case.shape.N, case.shape.K))


def batch_table(
    case: Case,
    core: SparseTensorCore,
    tokens: Iterable[int],
    *,
    setup: PruningSetup | None = None,
    **changes: Any,
) -> pd.DataFrame:
    """Tabulate sparse activations over numbers of tokens.

    Parameters
    ----------
    case : Case
        Its number of tokens is not read.
    core : SparseTensorCore
    tokens : iterable of int
    setup, **changes
        As `hwmodels.online.pruning.online_pruning`.

    Returns
    -------
    pandas.DataFrame
        A row for each number: `tokens`, `column_share` (of the weight columns that some token needs), cycles by part as in
        `OnlinePruning`, `speedup_vs_dense`, `speedup_vs_sparse_weights`.

    Raises
    ------
    RowError
        As `online_pruning`.

    Source
    ------
    As `online_pruning`.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16", sparse_operand="activations")
    >>> batch_table(case, load_core("flexible-8x16"), [1, 2, 4]).column_share.tolist()
    [0.5, 0.75, 0.9375]
    """
    asked = dataclasses.replace(setup or PruningSetup(), **changes)
    return pd.DataFrame([_row(one) for one in online_prunings([_at(case, t) for t in tokens], core, asked)])


def _row(found: OnlinePruning) -> dict[str, Any]:
    return {
        "tokens": found.case.shape.M,
        "placement": found.placement,
        "column_share": found.weight_columns / found.case.shape.K,
        **{name: getattr(found, name) for name in TABULATED},
    }


def break_even_batch(
    case: Case,
    core: SparseTensorCore,
    *,
    at_least: float = 1.05,
    most_tokens: int = 1024,
    setup: PruningSetup | None = None,
    **changes: Any,
) -> BatchBreakEven:
    """Find the numbers of tokens for which sparse activations are faster than the dense product by a factor.

    Parameters
    ----------
    case : Case
        Its number of tokens is not read.
    core : SparseTensorCore
    at_least : float
        Speedup over the dense product on the same core that counts as a gain.
    most_tokens : int
        Every number from 1 to this is tried.
    setup, **changes
        As `hwmodels.online.pruning.online_pruning`.

    Returns
    -------
    BatchBreakEven

    Raises
    ------
    RowError
        As `online_pruning`; no positive speedup or number of tokens.

    Source
    ------
    As `online_pruning`.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> case = Case(GemmShape(1, 14336, 4096), "8:16", sparse_operand="activations")
    >>> break_even_batch(case, load_core("flexible-8x16"), at_least=1.25, most_tokens=256).decode_tokens
    2
    """
    if not at_least > 0:
        raise RowError(f"at_least={brief(at_least)}: expected a positive speedup")
    if isinstance(most_tokens, bool) or not isinstance(most_tokens, int) or most_tokens < 1:
        raise RowError(f"most_tokens={brief(most_tokens)}: expected a positive whole number")
    speedup = batch_table(case, core, range(1, most_tokens + 1), setup=setup, **changes).speedup_vs_dense
    gains = (speedup >= at_least).tolist()
    decode = gains.index(False) if False in gains else most_tokens
    losing_end = gains[::-1].index(False) if False in gains else most_tokens
    return BatchBreakEven(decode, most_tokens - losing_end + 1 if losing_end else None, most_tokens)


def break_even_selector(
    case: Case, core: SparseTensorCore, *, setup: PruningSetup | None = None, **changes: Any
) -> SelectorBreakEven:
    """Find the slowest selector with which sparse activations are as fast as dense, and as fast as with a free one.

    Parameters
    ----------
    case : Case
    core : SparseTensorCore
    setup, **changes
        As `hwmodels.online.pruning.online_pruning`; its selector rate is not read.

    Returns
    -------
    SelectorBreakEven

    Raises
    ------
    RowError
        As `online_pruning`.

    Source
    ------
    Bisection on the closed form: a faster selector never takes longer.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> case = Case(GemmShape(4096, 14336, 4096), "8:16", sparse_operand="activations")
    >>> break_even_selector(case, load_core("flexible-8x16"), placement="producer").as_fast_as_dense
    0.5
    """
    asked = dataclasses.replace(setup or PruningSetup(), **changes)

    def at(rate: float) -> OnlinePruning:
        return online_pruning(case, core, setup=asked, selector_elements_per_cycle=rate)

    free = at(math.inf)
    return SelectorBreakEven(_least(at, free.dense_cycles), _least(at, NEAR * free.net_cycles))


def _least(at: Any, cycles: float) -> float:
    low, high = 0, MOST_STEPS
    if at(high / RATE_STEP).net_cycles > cycles:
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        if at(middle / RATE_STEP).net_cycles <= cycles:
            high = middle
        else:
            low = middle
    return high / RATE_STEP


def selector_table(
    case: Case,
    core: SparseTensorCore,
    tokens: Iterable[int],
    *,
    setup: PruningSetup | None = None,
    **changes: Any,
) -> pd.DataFrame:
    """Tabulate `break_even_selector` over numbers of tokens, for both places of a selector.

    Returns
    -------
    pandas.DataFrame
        `tokens`, `placement`, `as_fast_as_dense`, `near_free` in elements per cycle and core, and the `speedup_vs_dense` of a
        selector that takes no time.

    Raises
    ------
    RowError
        As `online_pruning`.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> case = Case(GemmShape(1, 4096, 4096), "8:16", sparse_operand="activations")
    >>> selector_table(case, load_core("flexible-8x16"), [64]).placement.tolist()
    ['producer', 'consumer']
    """
    rows = []
    for count, placement in itertools.product(tokens, ("producer", "consumer")):
        asked = dataclasses.replace(setup or PruningSetup(), **{**changes, "placement": placement})
        found = break_even_selector(_at(case, count), core, setup=asked)
        free = online_pruning(_at(case, count), core, setup=asked, selector_elements_per_cycle=math.inf)
        row = {"tokens": count, "placement": placement} | found._asdict()
        rows.append(row | {"speedup_vs_dense": free.speedup_vs_dense})
    return pd.DataFrame(rows)
