"""What one cell of the array takes to multiply and to sum up: aligned trees of products, or an adder per lane."""

import functools
from typing import NamedTuple

from hwmodels.gates.spread import Spread
from hwmodels.silicon.structures import FLOATS, accumulation, product_tree, significand_bits
from hwmodels.silicon.technology import Technology, load
from hwmodels.tensorcore.record import SparseTensorCore
from nmsim.case import VALUE_BITS

ADDER_BITS = 32
"""Width of the partial sums that accumulation is counted for; others take it in proportion (A54)."""


class Datapath(NamedTuple):
    """Costs of one cell of the array in one value type: multipliers, the sum of their products, accumulation in 32 bits.

    Areas in um2 with room for wires; energies in joules per cycle.
    """

    multiply_um2: Spread
    sum_um2: Spread
    accumulate_um2: Spread
    multiply_joules: Spread
    sum_joules: Spread
    accumulate_joules: Spread


def datapath(core: SparseTensorCore, dtype: str) -> Datapath:
    """Work out what a cell of the array takes in one value type.

    Parameters
    ----------
    core : SparseTensorCore
        Of which node, depth, kind of adder and widths count.
    dtype : str

    Returns
    -------
    Datapath
        `aligned_tree`: products are exact, so that a multiplier of floats is that of their significands. They are aligned,
        summed in a tree, and accumulated once. `per_lane`: published multipliers and adders of floats, one each per lane.

    Raises
    ------
    SpecError
        A technology node that no cost is known for.

    Source
    ------
    `technology.toml`; `hwmodels.silicon.structures.product_tree`; A54.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> found = datapath(load_core("dense"), "int8")
    >>> found.sum_um2.nominal < found.multiply_um2.nominal
    True
    """
    narrow = VALUE_BITS[dtype] <= NARROW_BITS
    fraction_bits = core.narrow_fraction_bits if narrow else core.fraction_bits
    return _datapath(load(core.node_nm), dtype, core.depth(VALUE_BITS[dtype]), core.adder_kind, fraction_bits)


NARROW_BITS = 8
"""Floats of so many bits are narrow."""


@functools.lru_cache(maxsize=4096)
def _datapath(technology: Technology, dtype: str, lanes: int, kind: str, fraction_bits: int) -> Datapath:
    if kind == "per_lane":
        adder = f"{'fp' if dtype in FLOATS else 'int'}{ADDER_BITS}"
        um2, joules = (
            technology.cost(table, dtype).times(lanes) for table in ("multiply_um2", "multiply_joules")
        )
        return Datapath(
            technology.laid_out(um2),
            Spread(),
            technology.laid_out(technology.cost("add_um2", adder).times(lanes)),
            joules,
            Spread(),
            technology.cost("add_joules", adder).times(lanes),
        )
    # Products go into the tree as they are, so that nothing is normalised before the sum.
    um2, joules = (
        exact_product(technology, table, dtype).times(lanes) for table in ("multiply_um2", "multiply_joules")
    )
    tree, once = product_tree(dtype, lanes, fraction_bits), accumulation(dtype, lanes, fraction_bits)
    return Datapath(
        technology.laid_out(um2),
        technology.um2(tree),
        technology.um2(once),
        joules,
        technology.joules(tree),
        technology.joules(once),
    )


def exact_product(technology: Technology, table: str, dtype: str) -> Spread:
    """Cost of a multiplier whose product is neither normalised nor rounded.

    Of integers it is the published one. Of floats it is the published 8-bit one in proportion to the square of the
    significand. Its high end is at least the published multiplier of that type, which does both.

    Source
    ------
    `technology.toml`; A37.

    Examples
    --------
    >>> round(exact_product(load(45), "multiply_um2", "fp16").nominal)
    533
    """
    published = technology.cost(table, dtype).spread
    if dtype not in FLOATS:
        return published
    exact = technology.cost(table, "int8").times((significand_bits(dtype) / VALUE_BITS["int8"]) ** 2)
    return Spread(exact.low, exact.nominal, max(exact.high, published.nominal))
