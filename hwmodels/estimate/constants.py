"""The few global constants of the estimate: what each one means, where it may lie, and what it was fitted to.

No constant belongs to a machine: a machine is described by its datasheet alone. Each constant starts from a prior,
which is an assumption with its reason (A19). `nmsim fit` fits it to published and measured rows.
The fitted values, and those fitted with one family of machines left out, are data: `hwmodels/data/fitted.toml`.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from nmsim.errors import SpecError
from nmsim.support.schema import About, Number, Quantity, Text, read_record, record

FITTED_FILE = Path(__file__).parents[1] / "data" / "fitted.toml"


@dataclass(frozen=True)
class Prior:
    """What was taken to hold of a constant before any row was seen (assumption A19)."""

    value: float
    low: float
    high: float
    unit: str
    reason: str


class Constants(NamedTuple):
    """Values of all global constants, in the base units of `PRIORS`."""

    library_launch_s: float
    sparse_library_launch_s: float
    tile_overhead_s: float
    split_overhead_s: float
    matrix_share: float
    sparse_matrix_share: float
    operand_fetch_share: float
    tensor_energy_joules_per_flop: float
    power_window_s: float
    sparse_energy_ratio: float
    byte_value_energy_ratio: float
    element_latency_s: float
    sparse_element_latency_s: float
    unaligned_share: float
    dram_share: float
    sparse_dram_share: float
    cache_bandwidth_share: float
    cache_residency_share: float
    cache_overflow_ratio: float
    cache_restream_ratio: float
    timed_alone_s: float
    stream_dram_share: float
    cache_writeback_share: float
    fused_dram_share: float
    vector_issue_ratio: float
    vector_energy_joules_per_flop: float
    vector_sparse_share: float
    csr_share: float
    csr_reuse_ratio: float


PRIORS: Mapping[str, Prior] = {
    "library_launch_s": Prior(3e-6, 1e-6, 8e-6, "s", "a kernel launch on an idle stream takes 2 to 5 us"),
    "sparse_library_launch_s": Prior(6e-6, 1e-6, 12e-6, "s", "as a dense launch, with more set-up in the kernel"),
    "tile_overhead_s": Prior(1e-6, 0.2e-6, 4e-6, "s", "fill and drain of a tile's pipeline: two trips to memory"),
    "split_overhead_s": Prior(2e-6, 0.5e-6, 6e-6, "s", "a second small kernel, or atomics, sums the parts of a split K"),
    "matrix_share": Prior(0.98, 0.8, 1.0, "ratio", "the matrix units issue almost every cycle in a full tile"),
    "sparse_matrix_share": Prior(0.97, 0.8, 1.0, "ratio", "as dense: the sparse unit is the same pipeline"),
    "operand_fetch_share": Prior(
        0.3, 0.05, 0.8, "ratio",
        "time to fetch the operands of a 128x128 tile from shared memory that is not hidden, on a core of 2048 flop per cycle",
    ),
    "tensor_energy_joules_per_flop": Prior(
        1.04e-12, 0.6e-12, 1.6e-12, "joules_per_flop", "A100 PCIe: 300 W less idle over its best dense 16-bit rate"
    ),
    "power_window_s": Prior(
        0.5e-3, 0.05e-3, 5e-3, "s",
        "a product called back to back 75 times must last so long each before the board's power limit slows the clock",
    ),
    "sparse_energy_ratio": Prior(
        0.6, 0.45, 1.0, "ratio", "half of the multiplications are done; the dense operand moves as before"
    ),
    "byte_value_energy_ratio": Prior(0.5, 0.3, 0.8, "ratio", "half the bits at twice the rate"),
    "element_latency_s": Prior(
        3.2e-9, 1e-9, 8e-9, "s", "one element along K of a thread block: 800 ns of latency over 4 stages of 64 elements"
    ),
    "sparse_element_latency_s": Prior(3.2e-9, 1e-9, 8e-9, "s", "as dense"),
    "unaligned_share": Prior(
        0.93, 0.8, 1.0, "ratio",
        "rate of an 8-bit 2:4 product whose rows of K are no whole lines of 128 bytes, over that of one whose rows are",
    ),
    "dram_share": Prior(0.8, 0.6, 0.98, "ratio", "refresh, turn-around and row misses; loads stop between tiles"),
    "sparse_dram_share": Prior(0.75, 0.5, 0.95, "ratio", "two streams, values and metadata, of unequal width"),
    "cache_bandwidth_share": Prior(
        0.6, 0.3, 1.0, "ratio", "of 64 bytes per cycle and core from the last-level cache"
    ),
    "cache_residency_share": Prior(0.8, 0.4, 1.0, "ratio", "share of the last-level cache that survives between calls"),
    "cache_overflow_ratio": Prior(0.7, 0.1, 3.0, "ratio", "how far a footprint must exceed it before nothing survives"),
    "cache_restream_ratio": Prior(
        0.6, 0.3, 1.0, "ratio", "share of the last-level cache that holds weights from wave to wave, beside what else flows by"
    ),
    "timed_alone_s": Prior(
        8e-6, 2e-6, 25e-6, "s", "what events around a single kernel add, and a clock that has yet to rise, after a flush"
    ),
    "stream_dram_share": Prior(0.94, 0.8, 1.0, "ratio", "a matrix-vector product is one long read"),
    "cache_writeback_share": Prior(
        0.25, 0.02, 1.0, "ratio", "share of the last-level cache left dirty by what flushed it"
    ),
    "fused_dram_share": Prior(0.85, 0.6, 1.0, "ratio", "decoding between the loads leaves fewer bytes in flight"),
    "vector_issue_ratio": Prior(
        0.35, 0.1, 0.8, "ratio", "loads from shared memory and addresses beside each multiplication: they take issue slots too"
    ),
    "vector_energy_joules_per_flop": Prior(
        9e-12, 4e-12, 16e-12, "joules_per_flop", "RTX 3090: 350 W less idle over its fp32 rate, scaled to 7 nm"
    ),
    "vector_sparse_share": Prior(
        0.9, 0.4, 1.0, "ratio", "of the 128 bytes per cycle of a core's shared memory; the rest goes to conflicts and indices"
    ),
    "csr_share": Prior(
        0.5, 0.2, 1.0, "ratio", "of the 128 bytes per cycle of a core's L1: beside a load, an index and an address are handled"
    ),
    "csr_reuse_ratio": Prior(
        6.0, 1.0, 30.0, "ratio", "of rows that a core works on at a time, some 30, a part is near enough along K to share loads"
    ),
}  # fmt: skip
"""Constant -> what was assumed of it. Others stand in `hwmodels.machine.spec`, `library` and `estimate`."""


@record
class FittedConstant:
    """A fitted value with the rows that it was fitted to."""

    value: Annotated[float, Number("base units of the constant", "Fitted value.")]
    kind: Annotated[Literal["fitted"], About("How it is known.")]
    source: Annotated[Text, About("Rows that it was fitted to.")]


@record
class FittedFile:
    """What `nmsim fit` writes."""

    constants: Annotated[Mapping[str, FittedConstant], About("Constants fitted to all rows.")]
    held_out: Annotated[
        Mapping[str, Mapping[str, Annotated[float, Number("base units of the constant")]]],
        About("Group of machines: constants fitted without its rows."),
    ]


@functools.cache
def _document(path: Path) -> FittedFile:
    return read_record(FittedFile, path)


def read_fitted(path: Path, names: Sequence[str], held_out: str | None = None) -> dict[str, float]:
    """Read the values of a set.

    Parameters
    ----------
    path : Path
        A TOML file as `hwmodels.estimate.fitted.fitted_text` writes it.
    names : sequence of str
        Names of its constants.
    held_out : str, optional
        A group of machines that had no part in the values. A group without rows had none anyway.

    Raises
    ------
    SpecError
        The file holds other names.
    """
    document = _document(path)
    values = {name: float(entry.value) for name, entry in document.constants.items()}
    if held_out is not None and held_out in document.held_out:
        values = {name: float(value) for name, value in document.held_out[held_out].items()}
    if set(values) != set(names):
        raise SpecError(
            f"{path.name}: constants {sorted(set(values) ^ set(names))} are on one side only; "
            "the first line of the file names the command that fits them"
        )
    return values


@functools.cache
def load(held_out: str | None = None) -> Constants:
    """Load the fitted constants.

    Parameters
    ----------
    held_out : str, optional
        A group of machines (`hwmodels.machine.spec.group_of`); its rows had no part in the constants that come back. A group
        that had no rows was never in, so the constants fitted to all rows come back.

    Raises
    ------
    SpecError
        The file and `PRIORS` name different constants.
    """
    return Constants(**read_fitted(FITTED_FILE, Constants._fields, held_out))


def groups() -> tuple[str, ...]:
    """Name the groups of machines that were left out of a fit, one at a time."""
    return tuple(_document(FITTED_FILE).held_out)


def quantities() -> Mapping[str, Quantity]:
    """List the fitted constants with their units and the rows they were fitted to."""
    return {
        name: Quantity(entry.value, PRIORS[name].unit, entry.kind, entry.source)
        for name, entry in _document(FITTED_FILE).constants.items()
    }


def prior() -> Constants:
    """What the constants were before any row was seen."""
    return Constants(**{name: entry.value for name, entry in PRIORS.items()})
