"""Passes over activations on a GPU: kernels that read a matrix, change it element by element, and write it.

A quantised linear layer needs two: activations become 8-bit values before it, and its sums become 16-bit values after it.
Sliding windows of 2:4 repeat activations in the first of them. Pruning activations online is a pass of the same kind.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hwmodels.estimate.constants import Prior, read_fitted
from hwmodels.estimate.families import window_elements
from hwmodels.estimate.library import norm
from hwmodels.machine.spec import HardwareSpec
from nmsim.errors import RowError, brief
from nmsim.pattern import Pattern

PASSES_FILE = Path(__file__).parents[1] / "data" / "passes.toml"
WIDE_BYTES = 2
"""Bytes of an activation before it is quantised, and after it is not any more."""


class PassConstants(NamedTuple):
    """Values of the constants of passes, in the base units of `PASS_PRIORS`."""

    timed_launch_s: float
    reduction_s: float
    dram_share: float
    element_instructions: float


PASS_PRIORS: Mapping[str, Prior] = {
    "timed_launch_s": Prior(8e-6, 2e-6, 20e-6, "s", "a zeroing and a pass, timed with events after a flush"),
    "reduction_s": Prior(2e-6, 0.2e-6, 8e-6, "s", "the largest value of a token is known only after a whole read of it"),
    "dram_share": Prior(0.85, 0.6, 1.0, "ratio", "a pass is one long read beside one long write"),
    "element_instructions": Prior(
        12.0, 4.0, 40.0, "instructions", "load, convert, absolute value, scale, two clamps, convert, shift, combine"
    ),
}  # fmt: skip
"""Constant -> what was assumed of it, with some of the rows in view."""


@functools.cache
def load_passes(held_out: str | None = None) -> PassConstants:
    """Load the constants of passes, fitted to all rows or without one group of machines."""
    return PassConstants(**read_fitted(PASSES_FILE, PassConstants._fields, held_out))


def prior_passes() -> PassConstants:
    """What the constants of passes are before they are fitted."""
    return PassConstants(**{name: entry.value for name, entry in PASS_PRIORS.items()})


def window_ratio(pattern: str | Pattern | None) -> float:
    """Say by how much sliding windows lengthen K: (2L-2):2L is L-1 windows of four elements.

    Parameters
    ----------
    pattern : str, Pattern or None
        None for a dense layer.

    Raises
    ------
    RowError
        Neither 2:4 nor (2L-2):2L.

    Source
    ------
    SlideSparse, arXiv 2603.05232.

    Examples
    --------
    >>> window_ratio("2:4"), window_ratio("6:8"), window_ratio(None)
    (1.0, 1.5, 1.0)
    """
    if pattern is None:
        return 1.0
    parsed = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
    if parsed.m % 2 or parsed.m < 4 or parsed.n != parsed.m - 2:
        raise RowError(f"pattern {brief(str(parsed))}: expected (2L-2):2L, such as 2:4 or 6:8")
    return float(window_elements(parsed.m) / parsed.m)


def moved_s(total_bytes: Any, hardware: HardwareSpec, values: PassConstants) -> Any:
    """Estimate a pass that computes little: seconds of its bytes, without a launch."""
    return total_bytes / (float(hardware.dram_bandwidth_bytes_per_s.value) * values.dram_share)


def quantise_bytes(tokens: Any, K: Any, windows: Any = 1.0) -> Any:
    """Count the bytes of a quantisation: X is read, the output is zeroed and then written.

    Parameters
    ----------
    tokens, K : array
        Rows and elements of a row.
    windows : array
        From `window_ratio`.

    Source
    ------
    The published kernel zeroes its output first, since it is padded. X is read twice, but a row stays in the cache.
    """
    return tokens * K * (WIDE_BYTES + 2.0 * windows)


def quantise_s(
    tokens: Any, K: Any, hardware: HardwareSpec, values: PassConstants, *, windows: Any = 1.0
) -> Any:
    """Estimate a quantisation to 8 bits per token, with sliding windows if asked for: seconds without its launch.

    Parameters
    ----------
    tokens, K : array
        Rows and elements of a row.
    hardware : HardwareSpec
        A GPU.
    values : PassConstants
    windows : array
        From `window_ratio`.

    Returns
    -------
    array
        Seconds, the norm of two times: bytes over the bandwidth, and instructions over the rate of issue.

    Examples
    --------
    >>> from hwmodels.machine.spec import load_machine
    >>> alone, lifted = (quantise_s(32768, 2560, load_machine("h100-pcie"), load_passes(), windows=w) for w in (1.0, 1.5))
    >>> bool(1.1 < lifted / alone < 1.5)
    True
    """
    lanes_per_s = (
        float(hardware.cores.value) * float(hardware.clock_hz.value)
        * float(hardware.issue_lanes_per_core_per_cycle.value)
    )  # fmt: skip
    instructions = values.element_instructions * tokens * K * (1.0 + windows)
    return norm(moved_s(quantise_bytes(tokens, K, windows), hardware, values), instructions / lanes_per_s)


def timed_quantise_s(
    tokens: Any, K: Any, hardware: HardwareSpec, values: PassConstants, *, windows: Any = 1.0
) -> Any:
    """Estimate a quantisation that is timed alone, as `quantise_s` with what a launch and a first read take."""
    alone_s = quantise_s(tokens, K, hardware, values, windows=windows)
    return values.timed_launch_s + values.reduction_s + alone_s


def timed_copy_s(tokens: Any, K: Any, hardware: HardwareSpec, values: PassConstants) -> Any:
    """Estimate a copy that only converts to 8 bits, timed alone: what the source compares a quantisation with."""
    return np.asarray(values.timed_launch_s + moved_s(quantise_bytes(tokens, K), hardware, values))
