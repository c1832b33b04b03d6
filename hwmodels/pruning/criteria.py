"""Criteria: by what the elements of a group are chosen, and what finding that out costs.

All counts are of the algorithm that `formula` states; a vector that depends on weights or on calibration alone is made offline.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from hwmodels.pruning.stage_cost import StageCost, Task, offline, parameters, sequence_buffer, token_buffer
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
    >>> from nmsim.records import GemmShape
    >>> select(Task(GemmShape(1, 64, 64), Pattern(8, 16), "bf16")).selector_compares
    224
    """
    one = comparators(task.pattern, task.settings.selector_kind)
    return StageCost(
        name="select",
        part="selector",
        formula=f"keep the N greatest of M keys: {one} comparators of {key_bits(task.dtype)} bits and more a group",
        why="a group is all that a choice depends on",
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
        why="f is known before X is",
        multiplies=task.shape.M * task.shape.K,
        **parameters(task.row_bytes),
    )
    return scored, select(task), offline(f"{name} vector", source_of_vector)


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
    scored = StageCost(
        name="clact score",
        part="selector",
        formula="|x_ij| c_j",
        why="on the second pass over X",
        waits_for="sequence",
        passes=2,
        multiplies=tokens * K,
        shared_read_bytes=task.row_bytes,
    )
    return norms, scored, select(task)


def unstructured(task: Task) -> Stages:
    """Keep the k greatest magnitudes of a token, k = K N/M: the reference that has no groups.

    The k-th magnitude is found bit by bit of the key: one pass for each bit that counts the keys at or above a candidate
    (K comparisons, K additions, and one comparison with k). A last pass takes what is above it, and as many of its equals
    as are missing: a key above it or, first come first served, equal to it.
    """
    tokens, K = task.shape.M, task.shape.K
    bits = key_bits(task.dtype)
    found = StageCost(
        name="unstructured threshold",
        part="producer",
        formula="largest t with count(|x_j| >= t) >= k, bit by bit",
        why="the threshold depends on the last element of the token",
        compares=tokens * bits * (K + 1),
        adds=tokens * bits * K,
        **token_buffer(task, bits + 1),
    )
    taken = StageCost(
        name="unstructured choice",
        part="selector",
        formula="|x_j| > t, or |x_j| = t and fewer than k - count(|x| > t) equals so far",
        why="on the last pass over the token",
        waits_for="token",
        passes=bits + 1,
        compares=tokens * 3 * K,
        adds=tokens * (K + 1),
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
    }
)
"""Name -> the stages it takes. All but `unstructured` end in an N:M mask."""
