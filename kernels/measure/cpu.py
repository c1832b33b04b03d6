"""The CPU as a backend of campaigns: our kernels, and every available dense product, on the same numbers.

Cold means that between two uses of an operand at least four times the last level of cache has been read. If the
calls of a repetition do not read that much by themselves, a buffer is read in between. Warm means called again and
again; an operand that fits a core's L2 then stays there.
"""

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from kernels.calibrate import microbench
from kernels.measure.round import BEST, Round
from kernels.measure.run import Contender, Task
from kernels.timing import gate, host, libraries
from kernels.timing import interleaved as timing
from kernels.timing.rounds import Plan, Progress
from kernels.timing.sources import digest_of
from nmsim import bench, mask
from nmsim.case import Case
from nmsim.errors import NmsimError, SpecError
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.support import parallel

LEAST_READ_BYTES = 1 << 12
WAITING_BYTES = 16 << 20


class ColdCache:
    """Counts the bytes that calls read, and reads a buffer if these do not suffice.

    Parameters
    ----------
    machine : host.Host
    clock : callable
        Seconds.
    """

    def __init__(self, machine: host.Host, clock: timing.Clock) -> None:
        self._cores, self._clock = machine.cores, clock
        self._buffer = np.ones(machine.beyond_caches_bytes, np.uint8)
        self._place = 0
        self._read_bytes = 0
        self._last_use: dict[Hashable, int] = {}

    def note_use(self, operand: Hashable, read_bytes: int) -> None:
        """Take down that an operand was read just now, all of it."""
        self._read_bytes += read_bytes
        self._last_use[operand] = self._read_bytes

    def chill(self, operand: Hashable) -> None:
        """Read until `Host.beyond_caches_bytes` lie between now and the operand's last use."""
        since = self._read_bytes - self._last_use.get(operand, self._read_bytes)
        self.read(len(self._buffer) - since)

    def wait(self, until_s: float) -> None:
        """Read until a time, which keeps the cores awake and at their clock."""
        while self._clock() < until_s:
            self.read(WAITING_BYTES)

    def read(self, count_bytes: int) -> None:
        """Read on in the buffer, round and round, on all cores."""
        while count_bytes > 0:
            stop = min(len(self._buffer), self._place + count_bytes)
            part = self._buffer[self._place : stop]
            pieces = [p for p in np.array_split(part, self._cores) if p.nbytes >= LEAST_READ_BYTES]
            parallel.run(microbench.read, pieces, self._cores)
            self._read_bytes += part.nbytes
            count_bytes -= part.nbytes
            self._place = stop % len(self._buffer)


DTYPES: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
PREFIX = "cpu."
WARM_SAMPLE_S = 1e-3
LINGER_S = {"numpy": 0.08, "torch": 0.005}
"""How long the helper threads of a library may keep a core busy after a call on several cores. OpenBLAS 0.3.31 was seen
to poll for up to 63 ms of processor time; libgomp polls some 10^5 turns."""

Floats = NDArray[np.float32]


@dataclass
class _Weights:
    """Matrices of one shape and type, with the references of what is made of them."""

    weights: NDArray[Any]
    masks: dict[Pattern, NDArray[np.bool_]]
    packed: dict[SparseFormat, Any]
    references: dict[tuple[Pattern | None, int], gate.Reference]


@dataclass(frozen=True)
class _Call:
    """A product that can be run: what it reads, what its result is rounded to, where it goes, whose threads it uses."""

    name: str
    action: Callable[[], Any]
    stored_bytes: int
    case: Case | None = None
    result_dtype: str = "fp32"
    out: Floats | None = None
    library: str = ""

    @property
    def operand(self) -> str:
        """Which weights it reads; all dense products read the same."""
        return str(self.case.format) if self.case else ""


class CpuBackend:
    """Products on this machine's cores.

    Parameters
    ----------
    seed : int
        Of the numbers that are multiplied.
    machine : host.Host, optional
        This machine when absent.
    products : module, optional
        `kernels.cpu` when absent.
    torch : bool
        Try torch's dense products, if torch is installed.
    clock : callable
        Seconds, fine enough to time a product.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        machine: host.Host | None = None,
        products: Any = None,
        torch: bool = True,
        clock: timing.Clock = time.perf_counter,
    ) -> None:
        from kernels import cpu

        self.host = machine or host.this_machine()
        self._seed, self._clock = seed, clock
        self._products = products or cpu
        self._torch = libraries.torch_if_installed() if torch else None
        self._blas = ThreadpoolController()
        self._weights: tuple[tuple[int, int, str], _Weights] | None = None
        self._caches = ColdCache(self.host, clock)
        self._quiet_at = 0.0

    @property
    def about(self) -> Mapping[str, Any]:
        """Columns that say what the machine is and what ran on it."""
        found = host.versions(("numpy", "numba"))
        used = {"torch": str(self._torch.__version__)} if self._torch else {}
        return {"device": f"{self.host.processor}, {self.host.cores} cores", **found, **used}

    def sources(self, kernel: str) -> str:
        """Digest of the sources of the products, which all instruction sets share."""
        del kernel
        return digest_of("kernels.cpu.products")

    def threads(self, of: Round) -> int:
        """Cores at work in a round.

        Raises
        ------
        SpecError
            More than there are.
        """
        threads = of.threads or self.host.cores
        if threads > self.host.cores:
            raise SpecError(f"{of}: expected at most {self.host.cores} threads, the cores of this machine")
        return threads

    def tasks(self, of: Round) -> list[Task]:
        """Cases and kernels of a round.

        Raises
        ------
        SpecError
            A kernel, a value type or a sparse operand that the CPU kernels do not have.
        """
        if of.sparse_operand != "weights":
            raise SpecError(
                f"{of}: expected sparse_operand weights: there are no CPU kernels for sparse activations"
            )
        if of.dtype not in DTYPES:
            raise SpecError(f"{of}: expected a dtype that CPU kernels take, one of {', '.join(DTYPES)}")
        from kernels.stored.rows import kernel_format

        # The sets are those of this processor, the best one first.
        sets = self._products.instruction_sets()
        names = [sets[0] if name == BEST else name.removeprefix(PREFIX) for name in of.kernels]
        for name in names:
            if name not in sets:
                known = ", ".join(f"{PREFIX}{each}" for each in sets)
                given = next(kernel for kernel in of.kernels if kernel.removeprefix(PREFIX) == name)
                elsewhere = "" if given.startswith(PREFIX) else "; kernels of a GPU need --device cuda"
                raise SpecError(f"{of}: kernel {given}: this CPU has {known} (or {BEST}){elsewhere}")
        if None in of.formats:
            raise SpecError(
                f"{of}: expected patterns N:M: CPU kernels multiply, and none only moves a matrix"
            )
        try:
            formats = [kernel_format(stored) for stored in of.formats if stored is not None]
            cases = [Case(of.shape, stored, dtype=of.dtype) for stored in formats]
        except NmsimError as error:
            raise SpecError(f"{of}: {error}") from error
        return [(case, f"{PREFIX}{name}") for name in dict.fromkeys(names) for case in cases]

    def prepare(self, planned: Plan[Round, Task], time_s: float, progress: Progress) -> str:
        """Nothing: numba's kernels are compiled once and kept."""
        return ""

    @contextlib.contextmanager
    def contenders(self, of: Round, tasks: Sequence[Task], warmup: int) -> Iterator[list[Contender]]:
        """Build the matrices of a round, warm every call up, and hold the libraries to its number of cores."""
        threads = self.threads(of)
        data = self._data(of)
        x = self._tokens(of)
        with libraries.threads_of_libraries(threads, torch=self._torch, blas=self._blas):
            calls = [self._sparse(of, case, kernel, data, x) for case, kernel in tasks]
            calls += self._dense(of, data.weights, x)
            yield [self._contender(of, call, data, x, warmup) for call in calls]

    def _data(self, of: Round) -> _Weights:
        key = (of.shape.N, of.shape.K, of.dtype)
        if self._weights is None or self._weights[0] != key:
            self._weights = None
            drawn = gate.operands(key[:2], np.random.default_rng([self._seed, *key[:2]]))
            self._weights = key, _Weights(drawn.astype(DTYPES[of.dtype], copy=False), {}, {}, {})
        return self._weights[1]

    def _tokens(self, of: Round) -> Floats:
        """Tokens [M, K] that the value type holds exactly."""
        drawn = gate.operands((of.shape.M, of.shape.K), np.random.default_rng([self._seed, of.shape.K]))
        return drawn.astype(DTYPES[of.dtype]).astype(np.float32)

    def _mask(self, data: _Weights, pattern: Pattern) -> NDArray[np.bool_]:
        if pattern not in data.masks:
            rows, k = data.weights.shape
            drawn = bench.random_masks(pattern, rows * pattern.groups(k), self._seed)
            data.masks[pattern] = mask.from_words(drawn, pattern, rows, pattern.groups(k) * pattern.m)[:, :k]
        return data.masks[pattern]

    def _sparse(self, of: Round, case: Case, kernel: str, data: _Weights, x: Floats) -> _Call:
        stored, threads, isa = case.format, self.threads(of), kernel.removeprefix(PREFIX)
        assert stored is not None
        if stored not in data.packed:
            keep, cores = self._mask(data, stored.pattern), self.host.cores
            data.packed[stored] = self._products.compress(data.weights, stored, mask=keep, threads=cores)
        packed, out = data.packed[stored], np.empty((len(x), of.shape.N), np.float32)
        return _Call(
            kernel,
            lambda: self._products.matmul(x, packed, threads=threads, isa=isa, out=out),
            packed.values_bytes + packed.metadata_bytes,
            case,
            out=out,
        )

    def _dense(self, of: Round, weights: NDArray[Any], x: Floats) -> Iterator[_Call]:
        """Every available dense product of this value type."""
        stored_bytes, threads = weights.nbytes, self.threads(of)
        out = np.empty((len(x), of.shape.N), np.float32)
        yield _Call(
            "cpu.dense_matmul",
            lambda: self._products.dense_matmul(x, weights, threads=threads, out=out),
            stored_bytes,
            out=out,
        )
        one = x[0] if len(x) == 1 else None
        if of.dtype == "fp32":
            by_numpy = (lambda: x @ weights.T) if one is None else (lambda: weights @ one)
            yield _Call("numpy @", by_numpy, stored_bytes, library="numpy")
        if self._torch is not None:
            torch = self._torch
            from kernels.stored.nm_weight import as_tensor

            w = as_tensor(weights)
            tokens = torch.from_numpy(x).to(w.dtype)
            linear = torch.nn.functional.linear
            yield _Call("F.linear", lambda: linear(tokens, w), stored_bytes, None, of.dtype, library="torch")
            if one is not None:
                token = tokens[0]
                yield _Call(
                    "torch.mv", lambda: torch.mv(w, token), stored_bytes, None, of.dtype, library="torch"
                )

    def _contender(self, of: Round, call: _Call, data: _Weights, x: Floats, warmup: int) -> Contender:
        pattern = call.case.pattern if call.case else None
        terms = of.shape.K if pattern is None else int(of.shape.K * pattern.density)

        def error() -> float:
            key = (pattern, len(x))
            if key not in data.references:
                keep = self._mask(data, pattern) if pattern else None
                data.references[key] = gate.reference(x, data.weights, keep)
            if call.out is not None:
                call.out.fill(np.nan)
            result = call.action()
            self._note_use(of, call)
            array = result if isinstance(result, np.ndarray) else result.float().numpy()
            right = data.references[key]
            limit = gate.allowed(right, terms, call.result_dtype, "library")
            return gate.deviation(array.reshape(len(x), -1).astype(np.float64), right, limit).checked()

        for _ in range(warmup):
            call.action()
        sample = self._warm(of, call) if of.l2_state == "warm" else self._cold(of, call)
        cells = {"weights_bytes": call.stored_bytes, "timing": "calls"}
        return Contender(call.name, call.case, error, sample, cells)

    def _cold(self, of: Round, call: _Call) -> Callable[[], float]:
        def sample() -> float:
            self._caches.wait(self._quiet_at)
            self._caches.chill(call.operand)
            took_s = timing.seconds_per_call(call.action, clock=self._clock)
            self._note_use(of, call)
            return took_s

        return sample

    def _warm(self, of: Round, call: _Call) -> Callable[[], float]:
        calls = timing.calls_to_fill(call.action, WARM_SAMPLE_S, self._clock)

        def sample() -> float:
            self._caches.wait(self._quiet_at)
            call.action()
            took_s = timing.seconds_per_call(call.action, calls, self._clock)
            self._note_use(of, call)
            return took_s

        return sample

    def _note_use(self, of: Round, call: _Call) -> None:
        self._caches.note_use(call.operand, call.stored_bytes)
        if self.threads(of) > 1:
            self._quiet_at = self._clock() + LINGER_S.get(call.library, 0.0)
