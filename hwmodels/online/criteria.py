"""Criteria: by what the elements of a group are chosen, and what finding that out costs.

All counts are of the algorithm that `formula` states; a vector that depends on weights or on calibration alone is made offline.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from hwmodels.online.stage_cost import StageCost, Task, offline, parameters, sequence_buffer, token_buffer
from hwmodels.silicon.selector import comparators, key_bits

Stages = tuple[StageCost, ...]


def select(task: Task) -> StageCost:
    """Count the selection itself: a network of comparators over every group of every token.

    Source
    ------
    `hwmodels.silicon.selector.comparators`.

    Examples
    --------
    >>> from nmsim import Pattern
    >>> from nmsim.case import GemmShape
    >>> select(Task(GemmShape(1, 64, 64), Pattern(8, 16), "bf16")).selector_compares
    224
    """
    one = comparators(task.pattern, task.settings.selector_kind)
    return StageCost(
        name="select",
        part="selector",
        formula=f"keep the N greatest of M keys: {one} comparators of {key_bits(task.dtype)} bits and more per group",
        why="a choice depends on its group only",
        source="counted in hwmodels.silicon.selector",
        selector_compares=one * task.groups * task.shape.M,
    )


def magnitude(task: Task) -> Stages:
    """|x|: the sign is left out of the key, which costs nothing."""
    return (select(task),)


def vector(task: Task, name: str, formula: str, source_of_vector: str) -> Stages:
    """|x_j| f_j with a vector f of K elements that is known beforehand: K multiplications a token."""
    scored = StageCost(
        name=f"{name} score",
        part="selector",
        formula=formula,
        why="f is known before X",
        multiplies=task.shape.M * task.shape.K,
        **parameters(task.row_bytes),
    )
    return scored, select(task), offline(f"{name} vector", source_of_vector)


def second_pass(task: Task, name: str, formula: str) -> StageCost:
    """Multiply magnitudes by a vector of K elements that all tokens of the sequence went into."""
    return StageCost(
        name=name,
        part="selector",
        formula=formula,
        why="on the second pass over X",
        waits_for="sequence",
        passes=2,
        multiplies=task.shape.M * task.shape.K,
        shared_read_bytes=task.row_bytes,
    )


def amber(task: Task) -> Stages:
    """Amber-Pruner: |x_j| f_j, where f is the norm of a column of the normalised weights."""
    how = "f_j = |What_:,j| / min_k |What_:,k|, What = (W - mu) / sigma of weights between quantiles 0.5 % and 99.5 %"
    return vector(task, "amber", "|x_j| f_j", how)


def weight_variance(task: Task) -> Stages:
    """|x_j| Var_o(W_oj)."""
    return vector(task, "weight_variance", "|x_j| f_j", "f_j = Var_o(W_oj)")


def channel_vector(task: Task) -> Stages:
    """Any vector of K elements, such as gradients that were accumulated in calibration."""
    return vector(task, "channel_vector", "|x_j| f_j", "f: any vector of K elements")


def clact(task: Task) -> Stages:
    """CLACT: |x_ij| c_j, where c is the norm of a column of X over all tokens.

    The norm of the row, by which the code divides, is the same for all of a group and changes no choice. With one token
    c_j = |x_j|, and the choice is that of the magnitude.
    """
    tokens, K = task.shape.M, task.shape.K
    if tokens == 1:
        return magnitude(task)
    norms = StageCost(
        name="clact norms",
        part="producer",
        formula="c_j = sqrt(sum_i x_ij^2) over all tokens i",
        why="c depends on the last token of the sequence, and on what else is in the batch",
        multiplies=tokens * K,
        adds=(tokens - 1) * K,
        specials=K,
        **sequence_buffer(task),
    )
    scored = second_pass(task, "clact score", "|x_ij| c_j")
    return norms, scored, select(task)


def unstructured(task: Task) -> Stages:
    """Keep the k greatest magnitudes of a token, k = K N/M: the reference that has no groups.

    The k-th magnitude is found bit by bit of the key. One pass per bit counts the keys at or above a candidate (K
    comparisons, K additions, and one comparison with k). A last pass takes the keys above it. Of the keys equal to it, it
    takes the first ones until k are taken.
    """
    waits = token_buffer(task, key_bits(task.dtype) + 1)
    return _greatest(task, "unstructured", "token", task.shape.M, waits)


def unstructured_global(task: Task) -> Stages:
    """Keep the k greatest magnitudes of all L tokens together, k = L K N/M: the whole tensor is one row of `unstructured`.

    A token that is small beside the others may keep nothing. All tokens wait in L2, and are read from there for every pass.
    With one token the choice is that of `unstructured`.
    """
    if task.shape.M == 1:
        return unstructured(task)
    waits = sequence_buffer(task, key_bits(task.dtype) + 1)
    return _greatest(task, "unstructured_global", "sequence", 1, waits)


def _greatest(task: Task, name: str, row: str, rows: int, waits: Mapping[str, Any]) -> Stages:
    """The two stages that keep the k greatest of each of so many rows of equal length."""
    bits, elems = key_bits(task.dtype), task.shape.M * task.shape.K
    found = StageCost(
        name=f"{name} threshold",
        part="producer",
        formula="largest t with count(|x| >= t) >= k, bit by bit",
        why=f"the threshold depends on the last element of the {row}",
        compares=bits * (elems + rows),
        adds=bits * elems,
        **waits,
    )
    taken = StageCost(
        name=f"{name} choice",
        part="selector",
        formula="|x| > t, or |x| = t and fewer than k - count(|x| > t) equals so far",
        why=f"on the last pass over the {row}",
        waits_for=found.waits_for,
        passes=found.passes,
        compares=3 * elems,
        adds=elems + rows,
    )
    return found, taken


CRITERIA: Mapping[str, Callable[[Task], Stages]] = MappingProxyType(
    {
        "magnitude": magnitude,
        "clact": clact,
        "amber": amber,
        "weight_variance": weight_variance,
        "channel_vector": channel_vector,
        "unstructured": unstructured,
        "unstructured_global": unstructured_global,
    }
)
"""Name -> the stages it takes. All except the two unstructured ones end in an N:M mask."""
