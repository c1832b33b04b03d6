"""Kernels of others, as published: what each family stores and multiplies, and predictions for their measured rows.

A row names its kernel family, because a publication times a given kernel, while `predict` is free to choose.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate import constants
from hwmodels.estimate.constants import Constants
from hwmodels.estimate.estimate import CACHE_STATES, dense_s, energy_ratio, flush_s, stream_s
from hwmodels.estimate.intervals import UNIT_PATTERN, intervals
from hwmodels.estimate.library import Array, Product, library_time_s, norm
from hwmodels.estimate.model import predict_table
from hwmodels.machine.chip import chip
from hwmodels.machine.libraries import VALUE_TYPES, left_out, measured
from hwmodels.machine.spec import HardwareSpec, group_of, load_machine
from nmsim.case import VALUE_BITS
from nmsim.errors import NmsimError, RowError, brief
from nmsim.pattern import Pattern

DELTA_BITS = 4
"""Bits of the distance to the last kept value, for each kept value, in the delta format of MACKO-SpMV."""
CSR_INDEX_BITS = 16
"""Bits of a column index (assumption A26)."""
UNIT_INDEX_BITS = 2
SCALE_BITS = {"fp4": 8 / 16}
"""Bits of scale per stored value: NVFP4, which the libraries run, has a byte for 16 values (MXFP4 has one for 32)."""
CORE_BYTES_PER_CYCLE = 128
"""Bytes that L1 and shared memory of a GPU's core deliver per clock cycle: 32 banks of 4 bytes (CUDA C++ Programming Guide)."""
DEFAULT_CORE_CACHE_BYTES = 1 << 17
"""L1 and shared memory of a core whose hardware file says nothing: as on most GPUs."""
CSR_TILE_TOKENS = 64
"""Tokens that a thread block of Sputnik multiplies with one row (arXiv 2006.10901, one-dimensional tiles)."""


class Tile(NamedTuple):
    """Part of Y that a thread block computes, and that one of its threads computes, in tokens and rows."""

    tokens: int
    rows: int
    thread_tokens: int
    thread_rows: int

    @property
    def words_per_product(self) -> float:
        """Values that a thread reads from shared memory for one multiplication."""
        return 1 / self.thread_tokens + 1 / self.thread_rows

    @property
    def loads_per_product(self) -> float:
        """Values that a block reads from the last-level cache for one multiplication."""
        return 1 / self.tokens + 1 / self.rows


VECTOR_TILES: Mapping[str, Tile] = {"nmsparse": Tile(32, 32, 4, 4), "nm-spmm": Tile(64, 128, 8, 8)}
"""Part of a library's name -> its tile for N:M per vector of rows. nmSPARSE: `nmsparse_vw32_gemm_..._32x32x128_4x4`, its one
kernel for 32 columns. NM-SpMM: `src/kernel_64x128_8x8.cu`, the largest of its four. Both in
https://github.com/M-H482/NM-SpMM, `src` and `benchmark/kernel_performance/run_test`."""
DEFAULT_VECTOR_TILE = VECTOR_TILES["nm-spmm"]
"""Tile of a library that is not named: of the better one."""


class Answer(NamedTuple):
    """Expected seconds of a family's kernel, the least that bytes and operations allow, and the least traffic.

    The least traffic is that of values, metadata, dense operand and output, each moved once.
    """

    time_s: Array
    bound_s: Array
    sparse_bytes: Array


class Rows:
    """Rows of one machine as arrays; what every family's formula reads."""

    def __init__(self, inputs: pd.DataFrame, hardware: HardwareSpec, constants: Constants) -> None:
        self.hardware, self.constants, self.device = hardware, constants, chip(hardware)
        self.M, self.N, self.K = (inputs[name].to_numpy(np.float64) for name in ("M", "N", "K"))
        self.dtype = inputs["dtype"].astype(str).to_numpy()
        self.bits = np.array([VALUE_BITS[name] + SCALE_BITS.get(name, 0.0) for name in self.dtype])
        # Units for fp4 keep values in pairs (paired 4:8), and a pair has one index.
        self.index_bits = np.where(self.dtype == "fp4", UNIT_INDEX_BITS / 2, UNIT_INDEX_BITS)
        self.kind = np.array([VALUE_TYPES.index(name) for name in self.dtype], np.int64)
        self.pattern = [None if pd.isna(text) else Pattern.parse(text) for text in inputs["pattern"]]
        self.kept = inputs["density"].to_numpy(np.float64)
        self.state = state_codes(inputs["l2_state"])
        self.warm = self.state == CACHE_STATES.index("warm")
        self.flushed = self.state == CACHE_STATES.index("cold")
        self.flop = 2.0 * self.M * self.N * self.K
        self.vector = self.dtype == "fp32"
        self.output_bytes = np.where(self.bits == 32, 4.0, 2.0)
        self.kernel = inputs["kernel"].astype(str).to_numpy() if "kernel" in inputs.columns else None

    @property
    def core_bytes_per_s(self) -> float:
        """What L1 or shared memory of all cores deliver together."""
        return self.device.cores * self.device.clock_hz * CORE_BYTES_PER_CYCLE

    @property
    def core_cache_bytes(self) -> float:
        """L1 and shared memory of a core."""
        known = self.hardware.core_cache_bytes
        return float(known.value) if known else float(DEFAULT_CORE_CACHE_BYTES)

    @property
    def cache_bytes_per_s(self) -> float:
        """What the last-level cache delivers: as measured, or by A21."""
        known = self.hardware.last_level_cache_read_bandwidth_bytes_per_s
        return (
            float(known.value)
            if known
            else self.device.cache_bytes_per_s * self.constants.cache_bandwidth_share
        )

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
                f"dtype {brief(missing[0])}: {self.hardware.id} has no {unit} for it; "
                f"it has {', '.join(table) or 'none at all'}"
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
        """Bytes of both operands and the output, dense, each once."""
        return self.least_bytes(self.N * self.K * self.bits / 8, self.K)

    def least_bytes(self, weights_bytes: Array, K: Array) -> Array:
        """Bytes of the weights as stored, of an operand K deep, and of the output, each once."""
        return np.asarray(weights_bytes + self.M * K * self.bits / 8 + self.output_bytes * self.M * self.N)

    def unit_bytes(self, K: Array) -> Array:
        """Bytes of weights that a 2:4 unit reads K deep: values and indices, whole groups."""
        groups = self.N * np.ceil(K / UNIT_PATTERN.m)
        return np.asarray(groups * UNIT_PATTERN.n * (self.bits + self.index_bits) / 8)

    def on_unit(self, K: Array) -> Answer:
        """A 2:4 library product that is K deep."""
        stored = (self.bits + self.index_bits) * UNIT_PATTERN.n / UNIT_PATTERN.m / 8
        energy, peak = self.energy * self.constants.sparse_energy_ratio, self.peak(True)
        product = self._product(K, stored, peak, energy, True)
        total_bytes = self.least_bytes(self.unit_bytes(K), K)
        least_s = np.maximum(total_bytes / self.device.dram_bytes_per_s, 2.0 * self.M * self.N * K / peak)
        time_s = self.wait_s + library_time_s(product, self.device, self.constants)
        return Answer(time_s, least_s, total_bytes)

    def kept_bytes(self, index_bits: float) -> Array:
        """Bytes of kept values, each with an index, of the dense operand and of the output, each once."""
        return self.least_bytes(self.N * self.K * self.kept * (self.bits + index_bits) / 8, self.K)

    def from_dram(self, total_bytes: Array) -> Array:
        """Those bytes that come from DRAM: none if repeated calls leave all of them in the cache."""
        return np.where(self.warm & (total_bytes <= self.device.cache_bytes), 0.0, total_bytes)

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
                f"missing; kernel family {brief(family)} needs an N:M", row=missing, column="pattern"
            )
        return [pattern for pattern in self.pattern if pattern is not None]

    def _product(self, K: Array, stored: Any, rate: Array, energy: Array, sparse: bool) -> Product:
        flags = np.full(len(self.M), sparse)
        return Product(
            self.M,
            self.N,
            K,
            stored,
            self.bits / 8,
            self.output_bytes,
            rate,
            energy,
            flags,
            self.warm,
            self.kind,
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
        raise RowError.at(f"{brief(unknown[0])}: expected cold, warm or nothing", column="l2_state")
    return np.array([CACHE_STATES.index(word) for word in words], np.int8)


def _library(rows: Rows) -> Answer:
    """2:4 as the vendor's library runs it, on the sparse unit."""
    return rows.on_unit(rows.K)


def window_elements(group_elements: Any) -> Any:
    """Count the elements of K that the 2:4 windows of a group take: one window fewer than half the group, of four each."""
    return UNIT_PATTERN.m * (group_elements // 2 - 1)


def _sliding(rows: Rows) -> Answer:
    """(2L-2):2L as L-1 overlapping 2:4 windows a group, in all 2 (L-1) / L of K (SlideSparse, arXiv 2603.05232)."""
    group = np.array([p.m for p in rows.patterns_given("sliding")])
    return rows.on_unit(np.ceil(rows.K / group) * window_elements(group))


def _column(rows: Rows) -> Answer:
    """V:N:M of VENOM: 4 of every M columns chosen for a block of rows, then 2:4 among them: K shrinks to 4 K / M."""
    K = rows.K * np.array([4.0 / p.m for p in rows.patterns_given("column-nm")])
    # Blocks of rows choose different columns, so that together they read all of the other operand.
    return rows.on_unit(K)._replace(sparse_bytes=rows.least_bytes(rows.unit_bytes(K), rows.K))


def _delta(rows: Rows) -> Answer:
    """Kept values, each with the distance to the last one, multiplied with one token (MACKO-SpMV)."""
    total_bytes = rows.kept_bytes(DELTA_BITS)
    time_s = stream_s(total_bytes, rows.warm, rows.device, rows.constants, fused=True)
    return Answer(rows.wait_s + time_s, total_bytes / rows.device.dram_bytes_per_s, total_bytes)


def _vector(rows: Rows) -> Answer:
    """N:M with one mask a vector of rows, on the units of the dense product (NM-SpMM, nmSPARSE).

    Each multiplication reads its operands from shared memory, which is as fast on every core, however many lanes it has.
    Tiles come from the last-level cache. Blocks of few warps hide these reads only in part: they and the arithmetic take the
    root of the sum of their squares (A61).
    """
    launch_s = rows.wait_s + rows.constants.library_launch_s
    tiles = _vector_tiles(rows)
    value_bytes = rows.flop / 2 * rows.kept * rows.bits / 8
    words, loads = (
        value_bytes * np.array([getattr(tile, name) for tile in tiles])
        for name in ("words_per_product", "loads_per_product")
    )
    read_s = (
        words / (rows.core_bytes_per_s * rows.constants.vector_sparse_share) + loads / rows.cache_bytes_per_s
    )
    worked_s = np.hypot((rows.dense_s() - launch_s) * rows.kept, read_s)
    total_bytes = rows.kept_bytes(0.0)
    bytes_s = rows.from_dram(total_bytes) / rows.device.dram_bytes_per_s
    least_s = np.maximum(bytes_s, rows.flop * rows.kept / rows.peak(False))
    return Answer(launch_s + np.maximum(worked_s, least_s), least_s, total_bytes)


def _vector_tiles(rows: Rows) -> list[Tile]:
    """Tile of each row's library."""
    if rows.kernel is None:
        return [DEFAULT_VECTOR_TILE] * len(rows.M)
    known = {name: _vector_tile(str(name)) for name in set(rows.kernel)}
    return [known[name] for name in rows.kernel]


def _vector_tile(kernel: str) -> Tile:
    found = (tile for part, tile in VECTOR_TILES.items() if part in kernel.lower())
    return next(found, DEFAULT_VECTOR_TILE)


def _csr(rows: Rows) -> Answer:
    """Unstructured rows on the vector lanes, one index a kept value (Sputnik).

    Each multiplication loads one value of the dense operand through L1. Most loads go on to the last-level cache. Rows that a
    core works on at the same time share some of them. They share more if they are denser, or if L1 holds more of the operand.
    They drift apart along K as random walks do, so the square root is taken (A62).
    """
    total_bytes = rows.kept_bytes(CSR_INDEX_BITS)
    bytes_s = rows.from_dram(total_bytes) / rows.device.dram_bytes_per_s
    loaded_bytes = rows.flop / 2 * rows.kept * rows.bits / 8
    held = rows.core_cache_bytes / (rows.K * CSR_TILE_TOKENS * rows.bits / 8)
    reuse = 1.0 + rows.constants.csr_reuse_ratio * rows.kept * np.sqrt(held)
    core_s = loaded_bytes / (rows.core_bytes_per_s * rows.constants.csr_share)
    cache_s = loaded_bytes / reuse / rows.cache_bytes_per_s
    launch_s = rows.wait_s + rows.constants.library_launch_s
    time_s = launch_s + norm(core_s, cache_s, bytes_s / rows.constants.dram_share)
    worked_s = rows.flop * rows.kept / rows.device.vector_flop_per_s
    return Answer(time_s, np.maximum(worked_s, bytes_s), total_bytes)


FAMILIES: Mapping[str, Callable[[Rows], Answer]] = {
    "library": _library,
    "sliding": _sliding,
    "column-nm": _column,
    "delta-gemv": _delta,
    "vector-nm": _vector,
    "csr": _csr,
}
"""Kernel family -> its expected time and its bound; `"auto"` is `predict`'s own choice."""


AUTO = "auto"
SOFTWARE = "software"
"""As `predict` would run it on the machine without its sparse units: what kernels do that decode by instructions."""
JUDGED_COLUMNS = (
    "predicted_dense_time_s", "predicted_sparse_time_s", "predicted_speedup_vs_dense", "predicted_speedup_low",
    "predicted_speedup_high", "bound_dense_time_s", "bound_sparse_time_s", "dense_bytes", "sparse_bytes",
    "extrapolates", "family",
)  # fmt: skip


def predict_rows(
    inputs: pd.DataFrame,
    hardware: str | Path | HardwareSpec,
    *,
    held_out: bool = False,
    stranger: bool = False,
) -> pd.DataFrame:
    """Predict measured rows of one machine.

    Parameters
    ----------
    inputs : DataFrame
        One row per product. Columns: `M`, `N`, `K`, `dtype`, `baseline_dtype` (of the dense baseline), `pattern` (N:M
        or nothing), `kernel_family`, `density` (share of elements kept), `l2_state`. `kernel_family` is a key of
        `families.FAMILIES`, `"auto"` for the choice of `predict`, or `"software"` for the same without a sparse
        unit. These two also take `phase`, `sparse_operand`, `encoding`, `packing` and `threads`, if they differ
        from the defaults of `Case`.
    hardware : str, Path or HardwareSpec
    held_out : bool
        Use the constants that were fitted without this group of machines.
    stranger : bool
        Leave the generation of the machine out of `libraries.toml`: the one that it is `like` stands in.

    Returns
    -------
    DataFrame
        `JUDGED_COLUMNS`, index as in `inputs`; seconds of one product. `dense_bytes` and `sparse_bytes` are its least
        traffic: values, metadata, dense operand and output, each moved once.

    Raises
    ------
    RowError
        Naming the place of the first row that cannot be predicted, counted from 0.
    """
    _check(inputs)
    spec = load_machine(hardware)
    if stranger:
        spec = replace(spec, generation=left_out(spec.generation))
    values = constants.load(group_of(spec.id)) if held_out else constants.load()
    together = {
        str(name): np.asarray(at) for name, at in inputs.groupby("kernel_family", sort=False).indices.items()
    }
    parts = [
        _family(inputs.iloc[at], at, name, spec, values, group_of(spec.id) if held_out else "")
        for name, at in together.items()
    ]
    if not parts:
        return pd.DataFrame(columns=list(JUDGED_COLUMNS))
    answers = pd.concat(parts)
    order = np.argsort(np.concatenate(list(together.values())))
    return answers.iloc[order].set_axis(inputs.index)


NEEDED = ("M", "N", "K", "dtype", "baseline_dtype", "pattern", "kernel_family", "density", "l2_state")


def _check(inputs: pd.DataFrame) -> None:
    """Refuse what no family's formula would notice."""
    missing = [name for name in NEEDED if name not in inputs.columns]
    if missing:
        raise RowError.at(f"missing; expected {', '.join(NEEDED)}", column=missing[0])
    for name in ("M", "N", "K"):
        numbers = pd.to_numeric(inputs[name], errors="coerce").to_numpy(np.float64)
        _refuse(inputs, name, ~(numbers >= 1), "a positive int")
    for name in ("dtype", "baseline_dtype"):
        _refuse(
            inputs, name, ~inputs[name].isin(list(VALUE_BITS)).to_numpy(), f"one of {', '.join(VALUE_BITS)}"
        )
    names = (AUTO, SOFTWARE, *FAMILIES)
    _refuse(
        inputs, "kernel_family", ~inputs["kernel_family"].isin(names).to_numpy(), f"one of {', '.join(names)}"
    )
    kept = pd.to_numeric(inputs["density"], errors="coerce").to_numpy(np.float64)
    _refuse(inputs, "density", ~((kept > 0) & (kept <= 1)), "a share above 0, at most 1")
    unit = (inputs["kernel_family"] == "library").to_numpy() & (
        inputs["pattern"].astype(str) != "2:4"
    ).to_numpy()
    _refuse(inputs, "pattern", unit, "2:4, which is what the family 'library' runs")


def _refuse(inputs: pd.DataFrame, name: str, wrong: NDArray[Any], expected: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RowError.at(f"{brief(inputs[name].tolist()[row])}: expected {expected}", row=row, column=name)


def _family(
    inputs: pd.DataFrame, places: NDArray[Any], name: str, spec: HardwareSpec, values: Constants, without: str
) -> pd.DataFrame:
    try:
        if name in (AUTO, SOFTWARE):
            return _auto(inputs, spec if name == AUTO else replace(spec, native=()), values)
        return _foreign(inputs, name, spec, values, without)
    except NmsimError as error:
        row, column, problem = int(places[0]), "", str(error)
        if isinstance(error, RowError):
            column, problem = error.column, error.problem
        raise RowError(f"rows from {row}: {error}", row=row, column=column, problem=problem) from error


def _auto(inputs: pd.DataFrame, spec: HardwareSpec, values: Constants) -> pd.DataFrame:
    fields = (
        "M", "N", "K", "phase", "dtype", "sparse_operand", "pattern", "encoding", "packing", "l2_state", "threads",
    )  # fmt: skip
    cases = inputs[[name for name in fields if name in inputs.columns]]
    answers = predict_table(cases, spec, values)
    known = answers.rename(
        columns={"predicted_time_s": "predicted_sparse_time_s", "bound_time_s": "bound_sparse_time_s"}
    )
    sparse = ("values_bytes", "metadata_bytes", "dense_operand_bytes", "output_bytes")
    return known.assign(
        dense_bytes=answers["dense_traffic_bytes"].astype("float64"),
        sparse_bytes=answers[list(sparse)].sum(axis=1).astype("float64"),
        family="cpu" if spec.family == "cpu" else AUTO,
    )[list(JUDGED_COLUMNS)]


def _foreign(
    inputs: pd.DataFrame, name: str, spec: HardwareSpec, values: Constants, without: str
) -> pd.DataFrame:
    answer = FAMILIES[name](Rows(inputs, spec, values))
    baseline = Rows(inputs.assign(dtype=inputs["baseline_dtype"]), spec, values)
    dense_s = baseline.dense_s()
    speedup = dense_s / answer.time_s
    low, high, widened = intervals(
        name, inputs["dtype"], inputs["M"].to_numpy(np.float64), without, measured=measured(spec.generation)
    )
    return pd.DataFrame(
        {
            "predicted_dense_time_s": dense_s,
            "predicted_sparse_time_s": answer.time_s,
            "predicted_speedup_vs_dense": speedup,
            "predicted_speedup_low": speedup * low,
            "predicted_speedup_high": speedup * high,
            "bound_dense_time_s": baseline.dense_bound_s(),
            "bound_sparse_time_s": answer.bound_s,
            "dense_bytes": baseline.dense_bytes(),
            "sparse_bytes": answer.sparse_bytes,
            "extrapolates": widened,
            "family": name,
        },
        index=inputs.index,
    )[list(JUDGED_COLUMNS)]
