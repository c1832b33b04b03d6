"""Mitigations: what is done beside an N:M product to make its result better, and what each costs.

X is [M, K] with tokens i and in features j, W is [N, K], `Xsp` is X pruned. Counts are of the cheapest exact form, which
`formula` states; what a form needs of the weights alone is made offline.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from hwmodels.online.criteria import Stages, second_pass, vector
from hwmodels.online.side_paths import outliers, r_sparse, rotation, salient_columns
from hwmodels.online.stage_cost import (
    StageCost,
    Task,
    offline,
    parameters,
    sequence_buffer,
    token_buffer,
)


def _shifted(task: Task, name: str, formula: str, passes: int, vector_bytes: int = 0) -> StageCost:
    """Subtract something from every element before it is chosen, on the last of so many passes."""
    return StageCost(
        name=f"{name} subtract",
        part="selector",
        formula=formula,
        why="eta is known before X" if passes == 1 else "on the last pass over the token",
        adds=task.shape.M * task.shape.K,
        waits_for="group" if passes == 1 else "token",
        passes=passes,
        **parameters(vector_bytes),
    )


def _on_outputs(
    task: Task, name: str, formula: str, why: str, *, multiplies: int = 0, adds: int = 0, vectors: int = 0
) -> StageCost:
    """So many operations on every element of Y, with so many vectors of N parameters."""
    outputs = task.shape.M * task.shape.N
    return StageCost(
        name=name,
        part="epilogue",
        formula=formula,
        why=why,
        passes=0,
        multiplies=multiplies * outputs,
        adds=adds * outputs,
        **parameters(vectors * task.out_row_bytes),
    )


def _bias(task: Task, name: str, formula: str) -> StageCost:
    """Y + b with a constant b of N elements."""
    why = "b is known before X; it adds no work if the layer has a bias already"
    return _on_outputs(task, f"{name} bias", formula, why, adds=1, vectors=1)


def _rank_one(task: Task, name: str) -> StageCost:
    """Y + eta_i r with the row sums r of the weights."""
    why = "eta_i is known long before the row; adding it to Xsp would make X dense again"
    formula = "Y_io + eta_i r_o, r = W 1"
    return _on_outputs(task, f"{name} restore", formula, why, multiplies=1, adds=1, vectors=1)


def dpts_mean(task: Task) -> Stages:
    """D-PTS with the mean: shift each token by its mean before the choice, and put it back by a rank-one term.

    A token takes K - 1 additions and a multiplication by 1/K, then K subtractions.
    """
    tokens, K = task.shape.M, task.shape.K
    mean = StageCost(
        name="dpts_mean statistic",
        part="producer",
        formula="eta_i = sum_j x_ij / K",
        why="the mean depends on the last element of the token",
        adds=tokens * (K - 1),
        multiplies=tokens,
        **token_buffer(task, 2),
    )
    shifted = _shifted(task, "dpts_mean", "x_ij - eta_i", 2)
    return mean, shifted, _rank_one(task, "dpts_mean"), offline("dpts_mean row sums", "r = W 1")


def dpts_median(task: Task) -> Stages:
    """D-PTS with the (lower) median, as the code has it: found bit by bit of the ordered value.

    Each bit of the value takes a pass over the token. A pass has K comparisons with a candidate, K additions that count, and
    one comparison of the count. The token arrives in the first pass. One more pass subtracts.
    """
    tokens, K = task.shape.M, task.shape.K
    median = StageCost(
        name="dpts_median statistic",
        part="producer",
        formula="eta_i = largest t with count(x_ij >= t) >= K - floor((K - 1) / 2), bit by bit",
        why="the median depends on the last element of the token",
        compares=tokens * task.bits * (K + 1),
        adds=tokens * task.bits * K,
        **token_buffer(task, task.bits + 1),
    )
    shifted = _shifted(task, "dpts_median", "x_ij - eta_i", median.passes)
    return median, shifted, _rank_one(task, "dpts_median"), offline("dpts_median row sums", "r = W 1")


def spts(task: Task) -> Stages:
    """S-PTS: shift by one constant of the layer; what it takes away comes back as a constant bias."""
    return (
        _shifted(task, "spts", "x_ij - eta", 1),
        _bias(task, "spts", "Y_io + b_o, b = eta W 1"),
        offline("spts calibration", "eta = mean of the medians of the first 100 calls; b = eta W 1"),
    )


def lpts(task: Task) -> Stages:
    """L-PTS: shift by a learned vector of K elements; what it takes away comes back as a constant bias."""
    return (
        _shifted(task, "lpts", "x_ij - eta_j", 1, task.row_bytes),
        _bias(task, "lpts", "Y_io + b_o, b = W eta"),
        offline("lpts training", "eta learned; b = W eta"),
    )


def var(task: Task) -> Stages:
    """VAR: scale each row of Y by the square root of the variance of x_i over that of what is kept of it.

    With Q(x) = sum x^2 - (sum x)^2 / K, v_i = sqrt(Q(x) / max(Q(xsp), 1e-9 (K - 1))): the divisors K - 1 cancel. Squares
    are made once (K multiplications) and added up twice, over all and over those kept. Each Q takes two multiplications
    and a subtraction. The scale commutes with the product.
    """
    tokens, K, left = task.shape.M, task.shape.K, task.kept
    moments = StageCost(
        name="var moments",
        part="selector",
        formula="v_i = sqrt(Q(x) / max(Q(xsp), 1e-9 (K - 1))), Q(x) = sum x^2 - (sum x)^2 / K",
        why="v_i is needed in the epilogue only, so the sums run beside the selector",
        multiplies=tokens * (K + 4),
        adds=tokens * (2 * (K - 1) + 2 * (left - 1) + 2),
        compares=tokens,
        specials=2 * tokens,
    )
    scaled = _on_outputs(task, "var scale", "v_i Y_io", "a factor of the whole token", multiplies=1)
    return moments, scaled


def scale_shift(task: Task) -> Stages:
    """Learnable diagonal: (Xsp W^T) (1 + s) + b. Free where 1 + s is folded into W, and b into the layer's bias."""
    formula, why = "Y_io g_o + b_o, g = 1 + s", "two vectors that are known before X"
    applied = _on_outputs(task, "scale_shift apply", formula, why, multiplies=1, adds=1, vectors=2)
    return applied, offline("scale_shift training", "s and b learned, block by block")


def _token_bias(task: Task, name: str, formula: str, elements: int, why: str) -> Stages:
    tokens = task.shape.M
    dot = StageCost(
        name=f"{name} dot",
        part="selector",
        formula=f"d_i = {formula}",
        why=why,
        multiplies=tokens * elements,
        adds=tokens * max(0, elements - 1),
        **parameters(task.row_bytes),
    )
    added = _on_outputs(task, f"{name} add", "Y_io + d_i", "one number per token", adds=1)
    return dot, added, offline(f"{name} training", "b learned")


def bias1(task: Task) -> Stages:
    """Add Xsp b with a learned b of K elements: a dot product over what is kept."""
    return _token_bias(task, "bias1", "sum_j xsp_ij b_j", task.kept, "runs behind the selector")


def bias2(task: Task) -> Stages:
    """Add (X - Xsp) b with a learned b of K elements: a dot product over what is dropped."""
    why = "runs behind the selector, on the dropped half"
    return _token_bias(task, "bias2", "sum_j (x_ij - xsp_ij) b_j", task.shape.K - task.kept, why)


def smooth_dynamic(task: Task) -> Stages:
    """SmoothQuant-like scaling by s_j = sqrt(max_i |x_ij| / max_o |W_oj|) of the sequence at hand.

    prune(X / s) (W s)^T = (mask of |X| / s, applied to X) W^T: s cancels in every product, and only the choice is left.
    With one token |x_j| / s_j = sqrt(|x_j| w_j), and the choice is that of |x_j| w_j with a known vector.
    """
    tokens, K = task.shape.M, task.shape.K
    if tokens == 1:
        scored, _, made = vector(task, "smooth_dynamic", "|x_j| w_j", "w_j = max_o |W_oj|")
        return scored, made
    scales = StageCost(
        name="smooth_dynamic scales",
        part="producer",
        formula="1 / s_j = sqrt(w_j / max_i |x_ij|), w_j = max_o |W_oj|",
        why="s depends on the last token of the sequence",
        compares=(tokens - 1) * K,
        specials=2 * K,
        **sequence_buffer(task)
        | {"dram_read_bytes": task.row_bytes, "l2_read_bytes": (tokens + 1) * task.row_bytes},
    )
    scored = second_pass(task, "smooth_dynamic score", "|x_ij| (1 / s_j)")
    return scales, scored, offline("smooth_dynamic weights", "w_j = max_o |W_oj|")


def smooth_static(task: Task) -> Stages:
    """SmoothQuant-like scaling with s from calibration, folded into W and into the operation that makes X."""
    return (offline("smooth_static folding", "W s into the weights, 1 / s into the operation before"),)


def weight_correction(task: Task) -> Stages:
    """Variance correction of pruned weights: rows scaled by sqrt(Var(W) / Var(Wsp)), folded into W."""
    return (offline("weight_correction folding", "W_o sqrt(Var(W_o) / Var(Wsp_o)), Wsp the pruned row"),)


MITIGATIONS: Mapping[str, Callable[[Task], Stages]] = MappingProxyType(
    {
        one.__name__: one
        for one in (
            dpts_mean, dpts_median, spts, lpts, var, scale_shift, bias1, bias2, r_sparse, smooth_dynamic, smooth_static,
            weight_correction, rotation, outliers, salient_columns,
        )
    }
)  # fmt: skip
"""Name -> the stages it adds."""
OF_WEIGHTS = ("scale_shift", "smooth_static", "weight_correction", "outliers", "salient_columns")
"""Those that also go with sparse weights."""
