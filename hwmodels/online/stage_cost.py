"""What a step beside the product costs: exact counts of one criterion or mitigation on one product, and what it waits for."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from hwmodels.estimate.traffic import OUTPUT_BITS
from hwmodels.tensorcore.record import SelectorKind
from nmsim.case import VALUE_BITS, GemmShape, SparseOperand
from nmsim.errors import RowError
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
    selector_kind : {"all_pairs", "bitonic", "half"}

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
                raise RowError(f"settings: {name}={value!r}: expected a positive whole number")
        if self.outliers > self.window:
            raise RowError(f"settings: outliers={self.outliers}: expected at most the window, {self.window}")
        if self.selector_kind not in get_args(SelectorKind):
            raise RowError(
                f"settings: selector_kind={self.selector_kind!r}: expected one of {', '.join(get_args(SelectorKind))}"
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


def token_buffer(product: PrunedProduct, passes: int) -> dict[str, Any]:
    """A token that waits beside the selector until its statistics are known, and is read for every pass except the first."""
    whole = product.shape.M * product.row_bytes
    return {
        "waits_for": "token",
        "passes": passes,
        "shared_written_bytes": whole,
        "shared_read_bytes": (passes - 1) * whole,
        "held_bytes": product.row_bytes,
    }


def sequence_buffer(product: PrunedProduct, passes: int = 2) -> dict[str, Any]:
    """All tokens wait in L2, and are read again for every pass except the first."""
    whole = product.shape.M * product.row_bytes
    return {
        "waits_for": "sequence",
        "passes": passes,
        "l2_written_bytes": whole,
        "l2_read_bytes": (passes - 1) * whole,
        "held_bytes": whole,
    }
