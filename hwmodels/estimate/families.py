"""Kernels of others, as published: what each family stores and multiplies, so that its rows can be judged.

A row names its kernel family, because a publication times a given kernel where `predict` is free to choose.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate.constants import Constants
from hwmodels.estimate.estimate import CACHE_STATES, dense_s, energy_ratio, flush_s, stream_s
from hwmodels.estimate.library import Array, Product, library_time_s, norm
from hwmodels.machine.chip import chip
from hwmodels.machine.spec import HardwareSpec
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError
from nmsim.pattern import Pattern

DELTA_BITS = 4
"""Bits of the distance to the last kept value, for each kept value, in the delta format of MACKO-SpMV."""
CSR_INDEX_BITS = 16
"""Bits of a column index (assumption A26)."""
UNIT_PATTERN = Pattern(2, 4)
UNIT_INDEX_BITS = 2


class Answer(NamedTuple):
    """Expected seconds of a family's kernel, and the least that bytes and operations allow."""

    time_s: Array
    bound_s: Array


class Rows:
    """Rows of one machine as arrays; what every family's formula reads."""

    def __init__(self, inputs: pd.DataFrame, hardware: HardwareSpec, constants: Constants) -> None:
        self.hardware, self.constants, self.device = hardware, constants, chip(hardware)
        self.M, self.N, self.K = (inputs[name].to_numpy(np.float64) for name in ("M", "N", "K"))
        self.dtype = inputs["dtype"].astype(str).to_numpy()
        self.bits = np.array([VALUE_BITS[name] for name in self.dtype], np.float64)
        self.pattern = [None if pd.isna(text) else Pattern.parse(text) for text in inputs["pattern"]]
        self.kept = inputs["density"].to_numpy(np.float64)
        self.state = state_codes(inputs["l2_state"])
        self.warm = self.state == CACHE_STATES.index("warm")
        self.flushed = self.state == CACHE_STATES.index("cold")
        self.flop = 2.0 * self.M * self.N * self.K
        self.vector = self.dtype == "fp32"
        self.output_bytes = np.where(self.bits == 32, 4.0, 2.0)

    def under(self, constants: Constants) -> "Rows":
        """The same rows under other constants."""
        other = copy.copy(self)
        other.constants = constants
        return other

    @property
    def energy(self) -> Array:
        """Joules of an operation of each row over those of a dense 16-bit one."""
        return np.asarray(energy_ratio(self.bits, self.vector, self.constants))

    def peak(self, sparse: bool) -> Array:
        """Peak rate of each row's value type."""
        table = self.hardware.sparse_peak_flop_per_s if sparse else self.hardware.dense_peak_flop_per_s
        missing = [name for name in dict.fromkeys(self.dtype) if name not in table]
        if missing:
            unit = "sparse matrix unit" if sparse else "peak"
            raise RowError(
                f"dtype {missing[0]!r}: {self.hardware.id} has no {unit} for it; it has {', '.join(table) or 'none at all'}"
            )
        return np.array([float(table[name].value) for name in self.dtype])

    @property
    def wait_s(self) -> Array:
        """What a flush before it costs each row."""
        return np.asarray(flush_s(self.flushed, self.device, self.constants))

    def dense_s(self) -> Array:
        """Expected time of the dense baseline: a library product, or one long read for few tokens."""
        product = self._product(self.K, self.bits / 8, self.peak(False), self.energy, False)
        library_s = library_time_s(product, self.device, self.constants)
        alone_s = dense_s(self.M, library_s, self.dense_bytes(), self.warm, self.device, self.constants)
        return np.asarray(self.wait_s + alone_s)

    def dense_bytes(self) -> Array:
        """Bytes of both operands and the output, dense."""
        operands = (self.N + self.M) * self.K * self.bits / 8
        return np.asarray(operands + self.output_bytes * self.M * self.N)

    def on_unit(self, K: Array) -> Answer:
        """A 2:4 library product that is K deep."""
        stored = (self.bits * UNIT_PATTERN.n + UNIT_INDEX_BITS * UNIT_PATTERN.n) / UNIT_PATTERN.m / 8
        energy, peak = self.energy * self.constants.sparse_energy_ratio, self.peak(True)
        product = self._product(K, stored, peak, energy, True)
        total_bytes = self.N * K * stored + self.M * K * self.bits / 8 + self.output_bytes * self.M * self.N
        least_s = np.maximum(total_bytes / self.device.dram_bytes_per_s, 2.0 * self.M * self.N * K / peak)
        return Answer(self.wait_s + library_time_s(product, self.device, self.constants), least_s)

    def kept_bytes(self, index_bits: float) -> Array:
        """Bytes of kept values, each with an index, of the dense operand and of the output; from DRAM, once."""
        kept = self.N * self.K * self.kept * (self.bits + index_bits)
        total = kept / 8 + self.M * self.K * self.bits / 8 + self.output_bytes * self.M * self.N
        return np.where(self.warm & (total <= self.device.cache_bytes), 0.0, total)

    def dense_bound_s(self) -> Array:
        """Least time of the dense baseline."""
        least_s = np.maximum(self.dense_bytes() / self.device.dram_bytes_per_s, self.flop / self.peak(False))
        return np.asarray(least_s)

    def patterns_given(self, family: str) -> list[Pattern]:
        """Patterns of all rows.

        Raises
        ------
        RowError
            A row has none.
        """
        missing = next((row for row, pattern in enumerate(self.pattern) if pattern is None), None)
        if missing is not None:
            raise RowError.at(
                f"missing; kernel family {family!r} needs an N:M", row=missing, column="pattern"
            )
        return [pattern for pattern in self.pattern if pattern is not None]

    def _product(self, K: Array, stored: Any, rate: Array, energy: Array, sparse: bool) -> Product:
        flags = np.full(len(self.M), sparse)
        return Product(
            self.M, self.N, K, stored, self.bits / 8, self.output_bytes, rate, energy, flags, self.warm
        )


def state_codes(column: pd.Series) -> NDArray[np.int8]:
    """Places of cache states in `CACHE_STATES`.

    Raises
    ------
    RowError
        Another word.
    """
    words = column.fillna("").astype(str).to_numpy()
    unknown = [word for word in dict.fromkeys(words) if word not in CACHE_STATES]
    if unknown:
        raise RowError.at(f"{unknown[0]!r}: expected cold, warm or nothing", column="l2_state")
    return np.array([CACHE_STATES.index(word) for word in words], np.int8)


def _library(rows: Rows) -> Answer:
    """2:4 as the vendor's library runs it, on the sparse unit."""
    return rows.on_unit(rows.K)


def _sliding(rows: Rows) -> Answer:
    """(2L-2):2L as L-1 overlapping 2:4 windows a group, in all 2 (L-1) / L of K (SlideSparse, arXiv 2603.05232)."""
    windows = np.array([4.0 * (p.m // 2 - 1) / p.m for p in rows.patterns_given("sliding")])
    return rows.on_unit(rows.K * windows)


def _column(rows: Rows) -> Answer:
    """V:N:M of VENOM: 4 of every M columns chosen for a block of rows, then 2:4 among them: K shrinks to 4 K / M."""
    return rows.on_unit(rows.K * np.array([4.0 / p.m for p in rows.patterns_given("column-nm")]))


def _delta(rows: Rows) -> Answer:
    """Kept values, each with the distance to the last one, multiplied with one token (MACKO-SpMV)."""
    kept_bytes = rows.N * rows.K * rows.kept * (rows.bits + DELTA_BITS) / 8
    total_bytes = kept_bytes + rows.M * rows.K * rows.bits / 8 + rows.output_bytes * rows.M * rows.N
    time_s = stream_s(total_bytes, rows.warm, rows.device, rows.constants, fused=True)
    return Answer(rows.wait_s + time_s, total_bytes / rows.device.dram_bytes_per_s)


def _vector(rows: Rows) -> Answer:
    """N:M with one mask a vector of rows, on the units of the dense product (NM-SpMM, nmSPARSE)."""
    launch_s = rows.wait_s + rows.constants.library_launch_s
    worked_s = (rows.dense_s() - launch_s) * rows.kept / rows.constants.vector_sparse_share
    bytes_s = rows.kept_bytes(0.0) / rows.device.dram_bytes_per_s
    least_s = np.maximum(bytes_s, rows.flop * rows.kept / rows.peak(False))
    return Answer(launch_s + np.maximum(worked_s, least_s), least_s)


def _csr(rows: Rows) -> Answer:
    """Unstructured rows on the vector lanes, one index a kept value (Sputnik)."""
    bytes_s = rows.kept_bytes(CSR_INDEX_BITS) / rows.device.dram_bytes_per_s
    worked_s = rows.flop * rows.kept / rows.device.vector_flop_per_s
    launch_s = rows.wait_s + rows.constants.library_launch_s
    time_s = launch_s + norm(worked_s / rows.constants.csr_share, bytes_s / rows.constants.dram_share)
    return Answer(time_s, np.maximum(worked_s, bytes_s))


FAMILIES: Mapping[str, Callable[[Rows], Answer]] = {
    "library": _library,
    "sliding": _sliding,
    "column-nm": _column,
    "delta-gemv": _delta,
    "vector-nm": _vector,
    "csr": _csr,
}
"""Kernel family -> its expected time and its bound; `"auto"` is `predict`'s own choice."""
