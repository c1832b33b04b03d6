"""Mitigations that run a second product beside the N:M one: low rank, rotation, outliers, salient columns.

Names and conventions as in `hwmodels.online.mitigations`.
"""

from hwmodels.estimate.traffic import metadata_bits, stream
from hwmodels.online.criteria import Stages
from hwmodels.online.stage_cost import StageCost, Task, kept, offline, parameters, token_buffer
from hwmodels.silicon.selector import comparators, key_bits
from hwmodels.silicon.structures import index_bits
from nmsim.case import GemmShape
from nmsim.errors import RowError
from nmsim.format import sparse_format
from nmsim.pattern import Pattern
from nmsim.units import bits_to_bytes, ceil_div

OUTLIERS_OF = "outliers n:256 beside N:M: arXiv 2507.03052; the codes are counted, not published"


def r_sparse(task: Task) -> Stages:
    """R-Sparse: add ((X - Xsp) B^T) A^T with B [r, K] and A [N, r]: r(K + N) multiply-adds a token.

    The residual goes through a dense product, so X is read in full after all: what is dropped is not left behind.
    """
    tokens, N, K, rank = *_dims(task), task.settings.rank
    side = StageCost(
        name="r_sparse side path",
        part="side path",
        formula="Y + ((X - Xsp) B^T) A^T",
        why="its sums are added to those of the product, and the second of its two products waits for the first",
        passes=1,
        products=(GemmShape(tokens, rank, K), GemmShape(tokens, N, rank)),
        product_bytes=bits_to_bytes(rank * K * task.bits) + bits_to_bytes(rank * N * task.bits),
        l2_written_bytes=bits_to_bytes(tokens * (K - task.kept) * task.bits),
    )
    return side, offline("r_sparse training", "A and B learned")


def rotation(task: Task) -> Stages:
    """La RoSA: rotate X by Q [K, K] before the choice; W Q is made offline. K^2 multiply-adds a token, unless folded."""
    tokens, _, K = _dims(task)
    rotated = StageCost(
        name="rotation product",
        part="side path",
        formula="prune(X Q) (W Q)^T",
        why="each element of X Q depends on the whole token",
        **token_buffer(task, 2),
        products=(GemmShape(tokens, K, K),),
        product_bytes=bits_to_bytes(K * K * task.bits),
    )
    return rotated, offline("rotation weights", "Q from calibration; W Q")


def outliers(task: Task) -> Stages:
    """Keep the n largest of every 256 elements of the sparse operand beside its N:M part, in a matrix of its own.

    The two do not overlap. Stored as n values and a combinatorial code a window. Each token meets each kept element once,
    on vector lanes. Of weights the choice is made offline; of activations by a selector of the window's size.
    """
    (tokens, N, K), settings = _dims(task), task.settings
    pattern = Pattern(settings.outliers, settings.window)
    rows = tokens if task.operand == "activations" else N
    windows = rows * ceil_div(K, pattern.m)
    how = stream(sparse_format(pattern, encoding="combinatorial"))
    codes_bytes = bits_to_bytes(int(metadata_bits(windows, how)))
    stored_bytes = bits_to_bytes(windows * pattern.n * task.bits) + codes_bytes
    online = task.operand == "activations"
    product = StageCost(
        name="outliers product",
        part="side path",
        formula=f"Y + X_out W^T, X_out {pattern}" if online else f"Y + X W_out^T, W_out {pattern}",
        why="windows are whole blocks of the product",
        source=OUTLIERS_OF,
        passes=1 if online else 0,
        lane_macs=tokens * N * kept(K, pattern),
        l2_read_bytes=stored_bytes,
        l2_written_bytes=stored_bytes if online else 0,
        dram_read_bytes=0 if online else stored_bytes,
    )
    if not online:
        return product, offline("outliers choice", f"{pattern} of the weights")
    one = comparators(pattern, settings.selector_kind)
    chosen = StageCost(
        name="outliers select",
        part="selector",
        formula=f"keep the {pattern.n} greatest of {pattern.m} keys: {one} comparators a window",
        why="a choice depends on its window only",
        source="counted in hwmodels.silicon.selector",
        selector_compares=one * windows,
        held_bytes=bits_to_bytes(pattern.m * key_bits(task.dtype)),
    )
    return chosen, product


def salient_columns(task: Task) -> Stages:
    """Keep c columns along K dense, beside the N:M part, whose groups stay as they are: c N multiply-adds a token."""
    (tokens, N, K), count = _dims(task), task.settings.columns
    if count > K:
        raise RowError(f"salient columns: {count}: expected at most K, {K}")
    side = StageCost(
        name="salient_columns product",
        part="side path",
        formula="Y + X_c W_c^T over c columns, which the N:M part leaves out",
        why="the columns are known before X",
        source="columns kept in full precision: GIFT-SW, arXiv 2408.15300",
        products=(GemmShape(tokens, N, count),),
        product_bytes=bits_to_bytes(N * count * task.bits),
        **parameters(bits_to_bytes(count * index_bits(K))),
    )
    return side, offline("salient_columns choice", "columns from calibration")


def _dims(task: Task) -> tuple[int, int, int]:
    return task.shape.M, task.shape.N, task.shape.K
