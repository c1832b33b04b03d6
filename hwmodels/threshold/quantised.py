"""Dense models of narrow values: the other competitors of a pruned model at equal memory."""

from collections.abc import Callable
from dataclasses import dataclass

from hwmodels.machine.spec import HardwareSpec
from hwmodels.tensorcore.record import SparseTensorCore
from hwmodels.threshold.footprint import Footprint, footprint, stacked
from hwmodels.threshold.products import joules, products, seconds
from hwmodels.threshold.stored import SCALED_BELOW_BITS, Stored
from hwmodels.workload import Model
from nmsim.errors import RowError

DTYPES = {8: "int8", 4: "int4"}
"""Bits of a value -> the value type whose products are predicted. Other widths are known by their bytes alone."""

NARROWEST_BITS = 1


@dataclass(frozen=True)
class QuantisedDense:
    """A dense model whose pruned layers would have values of so many bits, and a scale a group.

    `time_s` and `energy_joules` are of a decode step; None where machine or core does not take such values. Products are
    those of two operands of that type, and scales take no time.
    """

    value_bits: int
    bits_per_element: float
    total_bytes: int
    time_s: float | None
    energy_joules: float | None


def quantised_dense(
    model: Model,
    how: Stored,
    value_bits: int,
    machine: HardwareSpec | None = None,
    core: SparseTensorCore | None = None,
    tokens: int = 1,
) -> QuantisedDense:
    """Say what a dense model of narrow values costs.

    Parameters
    ----------
    model : Model
    how : Stored
        Its groups, scales and rest; pattern and dtype are not read.
    value_bits : int
        Bits of a value, 1 to 15.
    machine, core : optional
        Where time and energy are predicted.
    tokens : int

    Returns
    -------
    QuantisedDense

    Raises
    ------
    RowError
        `value_bits` out of range; otherwise as `footprint`.

    Source
    ------
    Bytes: `footprint`. Time and energy: `hwmodels.predict`, `hwmodels.silicon.energy`.

    Examples
    --------
    >>> from hwmodels.workload import load_model
    >>> quantised_dense(load_model("llama-3.1-8b"), Stored(group_elems=128, scale_bits=16), 4).bits_per_element
    4.125
    """
    if (
        isinstance(value_bits, bool)
        or not isinstance(value_bits, int)
        or not NARROWEST_BITS <= value_bits < SCALED_BELOW_BITS
    ):
        raise RowError(f"value_bits={value_bits!r}: expected {NARROWEST_BITS} to {SCALED_BELOW_BITS - 1}")
    dtype = DTYPES.get(value_bits)
    dense = how.dense(dtype)
    stored = footprint(model, dense, value_bits)
    time_s = energy_joules = None
    if dtype is not None:
        table = products(stacked(model), dense, tokens)
        time_s = _known(lambda: float(seconds(table, machine).nominal[0])) if machine else None
        energy_joules = _known(lambda: float(joules(table, core).nominal[0])) if core else None
    return QuantisedDense(value_bits, stored.bits_per_element, stored.total_bytes, time_s, energy_joules)


def _known(cost: Callable[[], float]) -> float | None:
    """A cost, or None where values of this type are refused."""
    try:
        return cost()
    except RowError:
        return None


def equal_value_bits(pruned: Footprint, how: Stored) -> float:
    """Bits of a value with which a dense model with scales is as small as a pruned one.

    Parameters
    ----------
    pruned : Footprint
        Of the pruned model.
    how : Stored
        Its groups and scales.

    Returns
    -------
    float

    Examples
    --------
    >>> from hwmodels.workload import load_model
    >>> how = Stored(pattern="8:16", encoding="combinatorial")
    >>> equal_value_bits(footprint(load_model("llama-3.1-8b"), how), how)
    8.75
    """
    return pruned.bits_per_element - float(how.scale_bits_per_element(NARROWEST_BITS))
