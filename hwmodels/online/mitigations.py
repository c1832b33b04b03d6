"""Criteria and mitigations: by what elements are chosen, what is done beside the product, and what each of it costs.

X is [M, K] with tokens i and in features j, W is [N, K], `Xsp` is X pruned. Counts are of the cheapest exact form, which
`formula` states. What a form needs of the weights or of calibration alone is made offline.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from hwmodels.estimate.bounds import OUTPUT_BITS, metadata_bits, stream
from hwmodels.silicon.structures import index_bits
from hwmodels.silicon.units import comparators, key_bits
from hwmodels.tensorcore.record import SelectorKind
from nmsim import criteria
from nmsim.case import VALUE_BITS, GemmShape, SparseOperand
from nmsim.errors import RowError, brief
from nmsim.format import sparse_format
from nmsim.mitigation import recipe as registry
from nmsim.pattern import Pattern
from nmsim.units import bits_to_bytes, ceil_div

Part = Literal["producer", "selector", "epilogue", "side path", "offline"]
"""`producer`: beside the operation that makes X. `selector`: on every element that is about to be chosen, wherever the
selector stands. `epilogue`: on rows of Y. `side path`: a second product. `offline`: once, when weights are prepared."""
Wait = Literal["group", "token", "sequence"]
WAITS: tuple[str, ...] = get_args(Wait)
"""What has to be there before a group can be chosen. Only `group` streams."""

CODE = "formula: https://github.com/On-Point-RND/Structured-Sparse-Activations-Inference, linear_act_sp.py (arXiv 2509.22166)"
"""Where most formulas are from: what the authors' code does, not what the paper's text says."""


RIA_OF = "formula: arXiv 2402.12419 and the code of its authors, Relative-importance-and-activation-pruning, prune.py"


@dataclass(frozen=True)
class Settings:
    """Free sizes of the mitigations.

    Parameters
    ----------
    rank : int
        Of the side path of R-Sparse; 128 in the authors' code.
    outliers, window : int
        An outlier matrix keeps `outliers` of `window` elements: 4:256.
    columns : int
        Salient columns; 128 in GIFT-SW, arXiv 2408.15300.
    selector_kind : {"all_pairs", "bitonic", "half", "planes"}

    Raises
    ------
    RowError
        Not a positive whole number, an unknown kind, or more outliers than the window has elements.

    Examples
    --------
    >>> Settings(rank=64).rank
    64
    """

    rank: int = 128
    outliers: int = 4
    window: int = 256
    columns: int = 128
    selector_kind: SelectorKind = "half"

    def __post_init__(self) -> None:
        for name in ("rank", "outliers", "window", "columns"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RowError(f"settings: {name}={brief(value)}: expected a positive whole number")
        if self.outliers > self.window:
            raise RowError(f"settings: outliers={self.outliers}: expected at most the window, {self.window}")
        if self.selector_kind not in get_args(SelectorKind):
            raise RowError(
                f"settings: selector_kind={brief(self.selector_kind)}: expected one of {', '.join(get_args(SelectorKind))}"
            )


DEFAULT_SETTINGS = Settings()


class PrunedProduct(NamedTuple):
    """A product of which one operand is pruned, and the sizes that its counts are made of."""

    shape: GemmShape
    pattern: Pattern
    dtype: str
    operand: SparseOperand = "activations"
    settings: Settings = DEFAULT_SETTINGS

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return VALUE_BITS[self.dtype]

    @property
    def groups(self) -> int:
        """Groups of a row along K."""
        return ceil_div(self.shape.K, self.pattern.m)

    @property
    def kept(self) -> int:
        """Elements of a row along K that are kept."""
        return kept(self.shape.K, self.pattern)

    @property
    def row_bytes(self) -> int:
        """Bytes of a dense row along K: a token of X."""
        return bits_to_bytes(self.shape.K * self.bits)

    @property
    def out_row_bytes(self) -> int:
        """Bytes of a vector along N, in the type of Y."""
        return bits_to_bytes(self.shape.N * (32 if self.bits == 32 else OUTPUT_BITS))


def kept(K: int, pattern: Pattern) -> int:
    """Count the elements of a row of K that a pattern keeps; a tail of fewer than N keeps all.

    Examples
    --------
    >>> kept(36, Pattern(8, 16)), kept(42, Pattern(8, 16))
    (20, 24)
    """
    return K // pattern.m * pattern.n + min(pattern.n, K % pattern.m)


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One step beside the product: counts of the whole product, all tokens together.

    Parameters
    ----------
    name, part, formula, why, source : str
        `why` says why it streams or does not.
    waits_for : {"group", "token", "sequence"}
        What must have arrived before the first group can be chosen.
    passes : int
        Times that the elements of a token are gone through; 1 is the pass in which they arrive.
    multiplies, adds, compares, specials : int
        On vector lanes. A special is a division or a square root.
    selector_compares : int
        In the selector's network of comparators.
    lane_macs : int
        Multiply-adds on vector lanes, with gathered operands.
    products : tuple of GemmShape
        Dense products on the matrix array.
    product_bytes : int
        Bytes of their weights.
    dram_read_bytes : int
        Other parameters, once a product.
    l2_read_bytes, l2_written_bytes, shared_read_bytes, shared_written_bytes : int
        Parameters on their way, and elements that are kept waiting. Those of `products` are not among them.
    held_bytes : int
        Room for what is kept waiting at one time.
    """

    name: str
    part: Part
    formula: str
    why: str
    source: str = CODE
    waits_for: Wait = "group"
    passes: int = 1
    multiplies: int = 0
    adds: int = 0
    compares: int = 0
    specials: int = 0
    selector_compares: int = 0
    lane_macs: int = 0
    products: tuple[GemmShape, ...] = ()
    product_bytes: int = 0
    dram_read_bytes: int = 0
    l2_read_bytes: int = 0
    l2_written_bytes: int = 0
    shared_read_bytes: int = 0
    shared_written_bytes: int = 0
    held_bytes: int = 0

    def __post_init__(self) -> None:
        assert all(getattr(self, name) >= 0 for name in COUNTS), self

    @property
    def streams(self) -> bool:
        """A group can be chosen as soon as it has arrived."""
        return self.waits_for == "group"

    @property
    def macs(self) -> int:
        """Multiply-adds of side paths, on lanes and on the array."""
        return self.lane_macs + sum(one.M * one.N * one.K for one in self.products)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of parameters that are stored beside the weights and read for a product."""
        return self.product_bytes + self.dram_read_bytes

    def times(self, factor: int) -> "StageCost":
        """Do the step's operations so many times, its bytes from DRAM once."""
        repeated = ("multiplies", "adds", "compares", "specials", "selector_compares", "lane_macs")
        return dataclasses.replace(self, **{name: factor * getattr(self, name) for name in repeated})


COUNTS = tuple(part.name for part in dataclasses.fields(StageCost) if part.type is int)


def offline(name: str, formula: str) -> StageCost:
    """What is made of weights or in training: no operation of a token."""
    return StageCost(name=name, part="offline", formula=formula, why="once, for all tokens", passes=0)


def parameters(size_bytes: int) -> dict[str, Any]:
    """Bytes of a vector of parameters that comes from DRAM, through L2, once a product."""
    return {"dram_read_bytes": size_bytes, "l2_read_bytes": size_bytes}


def _waiting(product: PrunedProduct, wait: Wait, level: str, passes: int, held_bytes: int) -> dict[str, Any]:
    """Tokens that are written at a level of memory, and read for every pass except the first."""
    whole = product.shape.M * product.row_bytes
    written = {f"{level}_written_bytes": whole, f"{level}_read_bytes": (passes - 1) * whole}
    return {"waits_for": wait, "passes": passes, "held_bytes": held_bytes} | written


def token_buffer(product: PrunedProduct, passes: int) -> dict[str, Any]:
    """A token that waits beside the selector until its statistics are known, and is read for every pass except the first."""
    return _waiting(product, "token", "shared", passes, product.row_bytes)


def sequence_buffer(product: PrunedProduct, passes: int = 2) -> dict[str, Any]:
    """All tokens wait in L2, and are read again for every pass except the first."""
    return _waiting(product, "sequence", "l2", passes, product.shape.M * product.row_bytes)


Stages = tuple[StageCost, ...]


def select(product: PrunedProduct) -> StageCost:
    """Count the selection itself: a network of comparators over every group of every token.

    Source
    ------
    `hwmodels.silicon.units.comparators`.

    Examples
    --------
    >>> from nmsim import Pattern
    >>> from nmsim.case import GemmShape
    >>> select(PrunedProduct(GemmShape(1, 64, 64), Pattern(8, 16), "bf16")).selector_compares
    224
    """
    one = comparators(product.pattern, product.settings.selector_kind)
    return StageCost(
        name="select",
        part="selector",
        formula=f"keep the N greatest of M keys: {one} comparators of {key_bits(product.dtype)} bits and more per group",
        why="a choice depends on its group only",
        source="counted in hwmodels.silicon.units",
        selector_compares=one * product.groups * product.shape.M,
    )


def magnitude(product: PrunedProduct) -> Stages:
    """|x|: the sign is left out of the key, which costs nothing."""
    return (select(product),)


def vector(product: PrunedProduct, name: str, formula: str, source_of_vector: str) -> Stages:
    """|x_j| f_j with a vector f of K elements that is known beforehand: K multiplications a token."""
    scored = StageCost(
        name=f"{name} score",
        part="selector",
        formula=formula,
        why="f is known before X",
        multiplies=product.shape.M * product.shape.K,
        **parameters(product.row_bytes),
    )
    return scored, select(product), offline(f"{name} vector", source_of_vector)


def second_pass(product: PrunedProduct, name: str, formula: str) -> StageCost:
    """Multiply magnitudes by a vector of K elements that all tokens of the sequence went into."""
    return StageCost(
        name=name,
        part="selector",
        formula=formula,
        why="on the second pass over X",
        waits_for="sequence",
        passes=2,
        multiplies=product.shape.M * product.shape.K,
        shared_read_bytes=product.row_bytes,
    )


def amber(product: PrunedProduct) -> Stages:
    """Amber-Pruner: |x_j| f_j, where f is the norm of a column of the normalised weights."""
    how = "f_j = |What_:,j| / min_k |What_:,k|, What = (W - mu) / sigma of weights between quantiles 0.5 % and 99.5 %"
    return vector(product, "amber", "|x_j| f_j", how)


def weight_variance(product: PrunedProduct) -> Stages:
    """|x_j| Var_o(W_oj)."""
    return vector(product, "weight_variance", "|x_j| f_j", "f_j = Var_o(W_oj)")


def channel_vector(product: PrunedProduct) -> Stages:
    """Any vector of K elements, such as gradients that were accumulated in calibration."""
    return vector(product, "channel_vector", "|x_j| f_j", "f: any vector of K elements")


def ria(product: PrunedProduct) -> Stages:
    """RIA: |x_ij| (1 / R_i + 1 / C_j) g_j with the sums R of rows and C of columns, and g_j = sqrt(|f_j|).

    It is a criterion of weights, which are pruned offline. These are the counts if a selector ranked tokens by it.
    """
    tokens, K = product.shape.M, product.shape.K
    sums = StageCost(
        name="ria sums",
        part="producer",
        formula="1 / R_i = 1 / sum_j |x_ij|, 1 / C_j = 1 / sum_i |x_ij|",
        why="C depends on the last token of the sequence, R on the last element of the token",
        source=RIA_OF,
        adds=tokens * (K - 1) + (tokens - 1) * K,
        specials=tokens + K,
        **(token_buffer(product, 2) if tokens == 1 else sequence_buffer(product)),
    )
    scored = dataclasses.replace(
        second_pass(product, "ria score", "|x_ij| (1 / R_i + 1 / C_j) g_j"),
        source=RIA_OF,
        adds=tokens * K,
        multiplies=2 * tokens * K,
        waits_for=sums.waits_for,
        **parameters(product.row_bytes),
    )
    return sums, scored, select(product), offline("ria vector", "g_j = sqrt(|f_j|), f: norms of in features")


def clact(product: PrunedProduct) -> Stages:
    """CLACT: |x_ij| c_j, where c is the norm of a column of X over all tokens.

    The norm of the row, by which the code divides, is the same for all of a group and changes no choice. With one token
    c_j = |x_j|, and the choice is that of the magnitude.
    """
    tokens, K = product.shape.M, product.shape.K
    if tokens == 1:
        return magnitude(product)
    norms = StageCost(
        name="clact norms",
        part="producer",
        formula="c_j = sqrt(sum_i x_ij^2) over all tokens i",
        why="c depends on the last token of the sequence, and on what else is in the batch",
        multiplies=tokens * K,
        adds=(tokens - 1) * K,
        specials=K,
        **sequence_buffer(product),
    )
    scored = second_pass(product, "clact score", "|x_ij| c_j")
    return norms, scored, select(product)


def unstructured(product: PrunedProduct) -> Stages:
    """Keep the k greatest magnitudes of a token, k = K N/M: the reference that has no groups.

    The k-th magnitude is found bit by bit of the key. One pass per bit counts the keys at or above a candidate (K
    comparisons, K additions, and one comparison with k). A last pass takes the keys above it. Of the keys equal to it, it
    takes the first ones until k are taken.
    """
    waits = token_buffer(product, key_bits(product.dtype) + 1)
    return _greatest(product, "unstructured", "token", product.shape.M, waits)


def unstructured_channel_vector(product: PrunedProduct) -> Stages:
    """Keep the k greatest |x_j f_j| of a token, k = K N/M: `channel_vector` without groups."""
    scored, _, made = channel_vector(product)
    waits = token_buffer(product, key_bits(product.dtype) + 1)
    return scored, *_greatest(product, "unstructured_channel_vector", "token", product.shape.M, waits), made


def unstructured_global(product: PrunedProduct) -> Stages:
    """Keep the k greatest magnitudes of all L tokens together, k = L K N/M: the whole tensor is one row of `unstructured`.

    A token that is small beside the others may keep nothing. All tokens wait in L2, and are read from there for every pass.
    With one token the choice is that of `unstructured`.
    """
    if product.shape.M == 1:
        return unstructured(product)
    waits = sequence_buffer(product, key_bits(product.dtype) + 1)
    return _greatest(product, "unstructured_global", "sequence", 1, waits)


def _greatest(product: PrunedProduct, name: str, row: str, rows: int, waits: Mapping[str, Any]) -> Stages:
    """The two stages that keep the k greatest of each of so many rows of equal length."""
    bits, elems = key_bits(product.dtype), product.shape.M * product.shape.K
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


CRITERIA: Mapping[str, Callable[[PrunedProduct], Stages]] = MappingProxyType(
    {name: globals()[name] for name in criteria.CRITERIA}
)
"""Name -> the stages it takes. All except the unstructured ones end in an N:M mask."""


OUTLIERS_OF = "outliers n:256 beside N:M: arXiv 2507.03052; the codes are counted, not published"


def r_sparse(product: PrunedProduct) -> Stages:
    """R-Sparse: add ((X - Xsp) B^T) A^T with B [r, K] and A [N, r]: r(K + N) multiply-adds a token.

    The residual goes through a dense product, so X is read in full after all: what is dropped is not left behind.
    """
    tokens, N, K, rank = *_dims(product), product.settings.rank
    side = StageCost(
        name="r_sparse side path",
        part="side path",
        formula="Y + ((X - Xsp) B^T) A^T",
        why="its sums are added to those of the product, and the second of its two products waits for the first",
        passes=1,
        products=(GemmShape(tokens, rank, K), GemmShape(tokens, N, rank)),
        product_bytes=bits_to_bytes(rank * K * product.bits) + bits_to_bytes(rank * N * product.bits),
        l2_written_bytes=bits_to_bytes(tokens * (K - product.kept) * product.bits),
    )
    return side, offline("r_sparse training", "A and B learned")


def rotation(product: PrunedProduct) -> Stages:
    """La RoSA: rotate X by Q [K, K] before the choice; W Q is made offline. K^2 multiply-adds a token, unless folded."""
    tokens, _, K = _dims(product)
    rotated = StageCost(
        name="rotation product",
        part="side path",
        formula="prune(X Q) (W Q)^T",
        why="each element of X Q depends on the whole token",
        **token_buffer(product, 2),
        products=(GemmShape(tokens, K, K),),
        product_bytes=bits_to_bytes(K * K * product.bits),
    )
    return rotated, offline("rotation weights", "Q from calibration; W Q")


def outliers(product: PrunedProduct) -> Stages:
    """Keep the n largest of every 256 elements of the sparse operand beside its N:M part, in a matrix of its own.

    The two do not overlap. Stored as n values and a combinatorial code a window. Each token meets each kept element once,
    on vector lanes. Of weights the choice is made offline; of activations by a selector of the window's size.
    """
    (tokens, N, K), settings = _dims(product), product.settings
    pattern = Pattern(settings.outliers, settings.window)
    rows = tokens if product.operand == "activations" else N
    windows = rows * ceil_div(K, pattern.m)
    how = stream(sparse_format(pattern, encoding="combinatorial"))
    codes_bytes = bits_to_bytes(int(metadata_bits(windows, how)))
    stored_bytes = bits_to_bytes(windows * pattern.n * product.bits) + codes_bytes
    online = product.operand == "activations"
    beside = StageCost(
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
    # Outliers of weights are chosen before any token, which costs no operations per token.
    if not online:
        return beside, offline("outliers choice", f"{pattern} of the weights")
    one = comparators(pattern, settings.selector_kind)
    chosen = StageCost(
        name="outliers select",
        part="selector",
        formula=f"keep the {pattern.n} greatest of {pattern.m} keys: {one} comparators a window",
        why="a choice depends on its window only",
        source="counted in hwmodels.silicon.units",
        selector_compares=one * windows,
        held_bytes=bits_to_bytes(pattern.m * key_bits(product.dtype)),
    )
    return chosen, beside


def outliers_unstructured(product: PrunedProduct) -> Stages:
    """Keep the greatest elements of a whole row of the sparse operand beside its N:M part: as many as `outliers`, no window.

    Stored as values with the index of each in its row. Each token meets each kept element once, on vector lanes. Of
    activations they are found as `unstructured` finds its elements, before N:M is chosen among the rest.
    """
    (tokens, N, K), settings = _dims(product), product.settings
    count = K * settings.outliers // settings.window
    online = product.operand == "activations"
    elems = (tokens if online else N) * count
    stored_bytes = bits_to_bytes(elems * product.bits) + bits_to_bytes(elems * index_bits(K))
    beside = StageCost(
        name="outliers_unstructured product",
        part="side path",
        formula=f"Y + X_out W^T, {count} of a token" if online else f"Y + X W_out^T, {count} of a row",
        why="its elements are known before the product",
        source=OUTLIERS_OF,
        passes=1 if online else 0,
        lane_macs=tokens * N * count,
        l2_read_bytes=stored_bytes,
        l2_written_bytes=stored_bytes if online else 0,
        dram_read_bytes=0 if online else stored_bytes,
    )
    if not online:
        return beside, offline("outliers_unstructured choice", f"{count} of each row of the weights")
    waits = token_buffer(product, key_bits(product.dtype) + 1)
    return *_greatest(product, "outliers_unstructured", "token", tokens, waits), beside


def salient_columns(product: PrunedProduct) -> Stages:
    """Keep c columns along K dense, beside the N:M part, whose groups stay as they are: c N multiply-adds a token."""
    (tokens, N, K), count = _dims(product), product.settings.columns
    if count > K:
        raise RowError(f"salient columns: {count}: expected at most K, {K}")
    side = StageCost(
        name="salient_columns product",
        part="side path",
        formula="Y + X_c W_c^T over c columns, which the N:M part leaves out",
        why="the columns are known before X",
        source="columns kept in full precision: GIFT-SW, arXiv 2408.15300",
        products=(GemmShape(tokens, N, count),),
        product_bytes=bits_to_bytes(N * count * product.bits),
        **parameters(bits_to_bytes(count * index_bits(K))),
    )
    return side, offline("salient_columns choice", "columns from calibration")


def _dims(product: PrunedProduct) -> tuple[int, int, int]:
    return product.shape.M, product.shape.N, product.shape.K


def _shifted(
    product: PrunedProduct, name: str, formula: str, passes: int, vector_bytes: int = 0
) -> StageCost:
    """Subtract something from every element before it is chosen, on the last of so many passes."""
    return StageCost(
        name=f"{name} subtract",
        part="selector",
        formula=formula,
        why="eta is known before X" if passes == 1 else "on the last pass over the token",
        adds=product.shape.M * product.shape.K,
        waits_for="group" if passes == 1 else "token",
        passes=passes,
        **parameters(vector_bytes),
    )


def _on_outputs(
    product: PrunedProduct,
    name: str,
    formula: str,
    why: str,
    *,
    multiplies: int = 0,
    adds: int = 0,
    vectors: int = 0,
) -> StageCost:
    """So many operations on every element of Y, with so many vectors of N parameters."""
    outputs = product.shape.M * product.shape.N
    return StageCost(
        name=name,
        part="epilogue",
        formula=formula,
        why=why,
        passes=0,
        multiplies=multiplies * outputs,
        adds=adds * outputs,
        **parameters(vectors * product.out_row_bytes),
    )


def _bias(product: PrunedProduct, name: str, formula: str) -> StageCost:
    """Y + b with a constant b of N elements."""
    why = "b is known before X; it adds no work if the layer has a bias already"
    return _on_outputs(product, f"{name} bias", formula, why, adds=1, vectors=1)


def _rank_one(product: PrunedProduct, name: str) -> StageCost:
    """Y + eta_i r with the row sums r of the weights."""
    why = "eta_i is known long before the row; adding it to Xsp would make X dense again"
    formula = "Y_io + eta_i r_o, r = W 1"
    return _on_outputs(product, f"{name} restore", formula, why, multiplies=1, adds=1, vectors=1)


def dpts_mean(product: PrunedProduct) -> Stages:
    """D-PTS with the mean: shift each token by its mean before the choice, and put it back by a rank-one term.

    A token takes K - 1 additions and a multiplication by 1/K, then K subtractions.
    """
    tokens, K = product.shape.M, product.shape.K
    mean = StageCost(
        name="dpts_mean statistic",
        part="producer",
        formula="eta_i = sum_j x_ij / K",
        why="the mean depends on the last element of the token",
        adds=tokens * (K - 1),
        multiplies=tokens,
        **token_buffer(product, 2),
    )
    shifted = _shifted(product, "dpts_mean", "x_ij - eta_i", 2)
    return mean, shifted, _rank_one(product, "dpts_mean"), offline("dpts_mean row sums", "r = W 1")


def dpts_median(product: PrunedProduct) -> Stages:
    """D-PTS with the (lower) median, as the code has it: found bit by bit of the ordered value.

    Each bit of the value takes a pass over the token. A pass has K comparisons with a candidate, K additions that count, and
    one comparison of the count. The token arrives in the first pass. One more pass subtracts.
    """
    tokens, K = product.shape.M, product.shape.K
    median = StageCost(
        name="dpts_median statistic",
        part="producer",
        formula="eta_i = largest t with count(x_ij >= t) >= K - floor((K - 1) / 2), bit by bit",
        why="the median depends on the last element of the token",
        compares=tokens * product.bits * (K + 1),
        adds=tokens * product.bits * K,
        **token_buffer(product, product.bits + 1),
    )
    shifted = _shifted(product, "dpts_median", "x_ij - eta_i", median.passes)
    return median, shifted, _rank_one(product, "dpts_median"), offline("dpts_median row sums", "r = W 1")


def spts(product: PrunedProduct) -> Stages:
    """S-PTS: shift by one constant of the layer; what it takes away comes back as a constant bias."""
    return (
        _shifted(product, "spts", "x_ij - eta", 1),
        _bias(product, "spts", "Y_io + b_o, b = eta W 1"),
        offline("spts calibration", "eta = mean of the medians of the first 100 calls; b = eta W 1"),
    )


def lpts(product: PrunedProduct) -> Stages:
    """L-PTS: shift by a learned vector of K elements; what it takes away comes back as a constant bias."""
    return (
        _shifted(product, "lpts", "x_ij - eta_j", 1, product.row_bytes),
        _bias(product, "lpts", "Y_io + b_o, b = W eta"),
        offline("lpts training", "eta learned; b = W eta"),
    )


def var(product: PrunedProduct) -> Stages:
    """VAR: scale each row of Y by the square root of the variance of x_i over that of what is kept of it.

    With Q(x) = sum x^2 - (sum x)^2 / K, v_i = sqrt(Q(x) / max(Q(xsp), 1e-9 (K - 1))): the divisors K - 1 cancel. Squares
    are made once (K multiplications) and added up twice, over all and over those kept. Each Q takes two multiplications
    and a subtraction. The scale commutes with the product.
    """
    tokens, K, left = product.shape.M, product.shape.K, product.kept
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
    scaled = _on_outputs(product, "var scale", "v_i Y_io", "a factor of the whole token", multiplies=1)
    return moments, scaled


def scale_shift(product: PrunedProduct) -> Stages:
    """Learnable diagonal: (Xsp W^T) (1 + s) + b. Free where 1 + s is folded into W, and b into the layer's bias."""
    formula, why = "Y_io g_o + b_o, g = 1 + s", "two vectors that are known before X"
    applied = _on_outputs(product, "scale_shift apply", formula, why, multiplies=1, adds=1, vectors=2)
    return applied, offline("scale_shift training", "s and b learned, block by block")


def _token_bias(product: PrunedProduct, name: str, formula: str, elements: int, why: str) -> Stages:
    tokens = product.shape.M
    dot = StageCost(
        name=f"{name} dot",
        part="selector",
        formula=f"d_i = {formula}",
        why=why,
        multiplies=tokens * elements,
        adds=tokens * max(0, elements - 1),
        **parameters(product.row_bytes),
    )
    added = _on_outputs(product, f"{name} add", "Y_io + d_i", "one number per token", adds=1)
    return dot, added, offline(f"{name} training", "b learned")


def bias1(product: PrunedProduct) -> Stages:
    """Add Xsp b with a learned b of K elements: a dot product over what is kept."""
    return _token_bias(product, "bias1", "sum_j xsp_ij b_j", product.kept, "runs behind the selector")


def bias2(product: PrunedProduct) -> Stages:
    """Add (X - Xsp) b with a learned b of K elements: a dot product over what is dropped."""
    why = "runs behind the selector, on the dropped half"
    return _token_bias(product, "bias2", "sum_j (x_ij - xsp_ij) b_j", product.shape.K - product.kept, why)


def smooth_dynamic(product: PrunedProduct) -> Stages:
    """SmoothQuant-like scaling by s_j = sqrt(max_i |x_ij| / max_o |W_oj|) of this sequence.

    prune(X / s) (W s)^T = (mask of |X| / s, applied to X) W^T: s cancels in every product, and only the choice is left.
    With one token |x_j| / s_j = sqrt(|x_j| w_j), and the choice is that of |x_j| w_j with a known vector.
    """
    tokens, K = product.shape.M, product.shape.K
    if tokens == 1:
        scored, _, made = vector(product, "smooth_dynamic", "|x_j| w_j", "w_j = max_o |W_oj|")
        return scored, made
    scales = StageCost(
        name="smooth_dynamic scales",
        part="producer",
        formula="1 / s_j = sqrt(w_j / max_i |x_ij|), w_j = max_o |W_oj|",
        why="s depends on the last token of the sequence",
        compares=(tokens - 1) * K,
        specials=2 * K,
        **sequence_buffer(product)
        | {"dram_read_bytes": product.row_bytes, "l2_read_bytes": (tokens + 1) * product.row_bytes},
    )
    scored = second_pass(product, "smooth_dynamic score", "|x_ij| (1 / s_j)")
    return scales, scored, offline("smooth_dynamic weights", "w_j = max_o |W_oj|")


def smooth_static(product: PrunedProduct) -> Stages:
    """SmoothQuant-like scaling with s from calibration, folded into W and into the operation that makes X."""
    return (offline("smooth_static folding", "W s into the weights, 1 / s into the operation before"),)


def weight_correction(product: PrunedProduct) -> Stages:
    """Variance correction of pruned weights: rows scaled by sqrt(Var(W) / Var(Wsp)), folded into W."""
    return (offline("weight_correction folding", "W_o sqrt(Var(W_o) / Var(Wsp_o)), Wsp the pruned row"),)


MITIGATIONS: Mapping[str, Callable[[PrunedProduct], Stages]] = MappingProxyType(
    {name: globals()[name] for name in registry.MITIGATIONS}
)
"""Name -> the stages it adds."""
OF_WEIGHTS = tuple(name for name, kind in registry.MITIGATIONS.items() if kind.of_weights)
"""Those that also go with sparse weights."""
