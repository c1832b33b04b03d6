"""A CUDA device as a backend of campaigns: our kernels, torch's 2:4, and every dense call, on the same numbers.

Kernels that only move a matrix have copies of as many bytes as baselines. Operands are drawn and pruned on the device.
Pruning there sorts, without our kernels. The result of a product is compared with a product in float64 there, of the stored
values. Every call has copies of its operands, used in turn (`kernels.measure.cuda.clock`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kernels.measure.cuda import precompile
from kernels.measure.cuda.calls import PRODUCTS, Call, DenseCall, Product, as_fp8, best_of, dense_calls, named
from kernels.measure.cuda.clock import Clock, CudaClock, Timed
from kernels.measure.cuda.movers import KERNELS, Kernel, Matrix, check_copy, copies
from kernels.measure.round import BEST, Round
from kernels.measure.run import Contender, Task, copy_bytes, label_of
from kernels.timing import cuda_device, gate, host
from kernels.timing.rounds import Plan, Progress
from kernels.timing.sources import digest_of
from nmsim.case import VALUE_BITS, Case
from nmsim.errors import NmsimError, SpecError
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern


class Operand:
    """A matrix on a device, with what was made of it so far.

    Parameters
    ----------
    torch : module
    dense : Tensor [rows, K]
    """

    def __init__(self, torch: Any, dense: Any) -> None:
        self._torch, self.dense = torch, dense
        self._pruned: dict[Pattern, Any] = {}
        self._packed: dict[SparseFormat, Any] = {}
        self._copies: dict[bool, list[Any]] = {False: [dense], True: []}

    def pruned(self, pattern: Pattern) -> Any:
        """Set what a pattern drops to zero: Tensor [rows, K]."""
        if pattern not in self._pruned:
            torch, (rows, k) = self._torch, self.dense.shape
            filled = torch.nn.functional.pad(self.dense, (0, -k % pattern.m))
            groups = filled.reshape(rows, -1, pattern.m)
            order = groups.float().abs().sort(dim=-1, descending=True, stable=True).indices
            keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., : pattern.n], True)
            self._pruned[pattern] = torch.where(keep, groups, 0).reshape(rows, -1)[:, :k].contiguous()
        return self._pruned[pattern]

    def packed(self, format: SparseFormat) -> Any:
        """Pack what `pruned` leaves: an `NMWeight`."""
        from kernels.ops import compress

        if format not in self._packed:
            self._packed[format] = compress(self.pruned(format.pattern), format)
        return self._packed[format]

    def copy(self, place: int, *, k_major: bool = False) -> Any:
        """One of as many copies of the matrix as are asked for: Tensor [rows, K], or K-major [K, rows]."""
        copies, source = self._copies[k_major], self.dense.T if k_major else self.dense
        while len(copies) <= place:
            copies.append(source.clone(memory_format=self._torch.contiguous_format))
        return copies[place]


def drawn(torch: Any, rows: int, columns: int, dtype: Any, device: str, seed: list[int]) -> Any:
    """Draw numbers of either sign whose magnitudes lie in [0.5, 1.5), as `gate.operands`: Tensor [rows, columns]."""
    mixed = np.random.SeedSequence([*seed, rows, columns]).generate_state(1)[0]
    generator = torch.Generator(device=device).manual_seed(int(mixed))
    numbers = torch.rand(rows, columns, generator=generator, device=device)
    numbers = numbers * 2 * (gate.MOST - gate.LEAST) - (gate.MOST - gate.LEAST)
    return (numbers + torch.copysign(torch.full_like(numbers, gate.LEAST), numbers)).to(dtype)


DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
BLOCK_ELEMS = 1 << 25
"""Elements of an operand that are multiplied at once in float64: 268 MB."""
NUMBERS, VECTOR, WORDS = range(10, 13)
"""Streams of random numbers for transfers, others than those of products."""
REPEATED_ROWS = 256
"""Rows of a transfer's matrix that are drawn; further ones repeat them. The host packs as many again for each case: with all
16384 it would take as long as the measuring."""
MEMORY_BOUND_TOKENS = 16
"""Tokens up to which memory binds a dense product of 16-bit values. Arithmetic then takes under a tenth of the time, on GPUs
with 200 FLOP per byte and more."""
POISON = 0xFF
"""Bytes of a transfer's results before a call that is checked: NaN in place of numbers."""

Build = Callable[[int], Call]
"""Gives a call on one of many copies of its operands."""
Gate = Callable[[Sequence[Call], Timed], float | None]
"""Checks the results of calls: gives the largest relative error, or None if bytes were compared."""


class CudaBackend:
    """Products and transfers on the current CUDA device.

    Parameters
    ----------
    seed : int
        Of the numbers that are multiplied.
    device : str
        Where tensors are made.
    clock : Clock, optional
        `CudaClock` when absent.
    products : mapping of str to Product
        Kernels that multiply, by the name that rows have.
    movers : mapping of str to Kernel
        Kernels that move a matrix.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        device: str = "cuda",
        clock: Clock | None = None,
        products: Mapping[str, Product] = PRODUCTS,
        movers: Mapping[str, Kernel] = KERNELS,
    ) -> None:
        import torch

        self._torch, self._seed, self._device, self._products = torch, seed, device, products
        self._movers = movers
        self._given_clock = clock
        self._weights: tuple[tuple[int, int, str], Operand] | None = None
        self._matrix: tuple[tuple[int, int, str], Matrix] | None = None

    @functools.cached_property
    def about(self) -> Mapping[str, Any]:
        """Columns that say what the device is and what ran on it; asked for once, since every row has them."""
        torch = self._torch
        found = host.versions(("numpy", "numba", "triton"))
        on_gpu = self._device != "cpu"
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "driver": cuda_device.told("driver_version") if on_gpu else "",
            "cuda": str(torch.version.cuda or ""),
            "torch": str(torch.__version__),
            **found,
        }

    def sources(self, kernel: str) -> str:
        """Digest of the sources of a kernel that is ours."""
        mover = self._movers.get(kernel)
        return digest_of(named(self._products, kernel).module if mover is None else mover.module)

    def threads(self, of: Round) -> None:
        """None: a device has no number of cores at work."""
        return

    @functools.cached_property
    def _clock(self) -> Clock:
        """Made when a call is timed: a campaign can be checked without a device."""
        return self._given_clock or CudaClock(self._torch)

    def tasks(self, of: Round) -> list[Task]:
        """Cases and kernels of a round; a kernel that is named has to take every case.

        Raises
        ------
        SpecError
            An unknown value type or kernel, a kernel for the other operand, or a case that a kernel does not take.
        """
        if of.dtype not in DTYPES:
            raise SpecError(f"{of}: expected a dtype that CUDA kernels take, one of {', '.join(DTYPES)}")
        found: list[Task] = []
        for name in dict.fromkeys(of.kernels):
            for stored in of.formats:
                try:
                    case = self._case(of, stored)
                    kernel = best_of(case) if name == BEST else name
                    problem = self._problem(kernel, case)
                except NmsimError as error:
                    raise SpecError(f"{of}: {error}") from error
                if problem:
                    raise SpecError(f"{of}: kernel {kernel}: {problem}")
                found.append((self._as_stored(kernel, case), kernel))
        return found

    @property
    def kernels(self) -> Mapping[str, Product | Kernel]:
        """Every kernel by the name that rows have."""
        return {**self._products, **self._movers}

    def takes(self, of: Round) -> bool:
        """Whether a round can be run: its kernels take all its cases."""
        try:
            return bool(self.tasks(of))
        except SpecError:
            return False

    def prepare(self, planned: Plan[Round, Task], time_s: float, progress: Progress) -> str:
        """Let Triton compile on all cores what the rounds will ask for."""
        if self._device == "cpu":
            return ""
        backend = functools.partial(CudaBackend, self._seed, device=self._device)
        return precompile.ahead(backend, planned, time_s, progress)

    def run_once(self, of: Round, tasks: Sequence[Task]) -> None:
        """Build and run products of a round once, for what a first call leaves: compiled kernels.

        What refuses is passed over; `contenders` says of it. Transfers are few, and what the host packs for them is slow.
        """
        tasks = [(case, kernel) for case, kernel in tasks if kernel not in self._movers]
        if not tasks:
            return
        with contextlib.suppress(*cuda_device.refusals()), self._torch.inference_mode():
            weights, tokens = self._operands(of)
            for case, kernel in tasks:
                with contextlib.suppress(*cuda_device.refusals()):
                    self._begun(functools.partial(self._builder, case, kernel, weights, tokens))

    @contextlib.contextmanager
    def contenders(self, of: Round, tasks: Sequence[Task], warmup: int) -> Iterator[list[Contender]]:
        """Build weights, tokens and calls of a round, and take some samples of each that nobody looks at.

        Calls that read dense weights share their copies.
        """
        products = [(case, kernel) for case, kernel in tasks if kernel not in self._movers]
        transfers = [(case, kernel) for case, kernel in tasks if kernel in self._movers]
        made: list[Contender] = []
        with self._torch.inference_mode():
            if products:
                with cuda_device.guarded("operands", self._clock.synchronize, cuda_device.refusals()):
                    weights, tokens = self._operands(of)
                made += [self._sparse(of, case, kernel, weights, tokens, warmup) for case, kernel in products]
                made += self._dense(of, weights, tokens.dense, warmup)
                if yardstick_bytes(of):
                    made += self._copies(of, yardstick_bytes(of), warmup, names=("torch.copy_",))
            if transfers:
                moved = [self._transfer(of, case, kernel, warmup) for case, kernel in transfers]
                sizes = dict.fromkeys(contender.copy_bytes for contender in moved if contender.copy_bytes)
                made += [*moved, *(copy for size in sizes for copy in self._copies(of, size, warmup))]
            yield made

    def _case(self, of: Round, stored: SparseFormat | None) -> Case:
        from kernels.stored.rows import kernel_format

        if stored is None:
            return Case(of.shape, dtype=of.dtype)
        return Case(of.shape, kernel_format(stored), dtype=of.dtype, sparse_operand=of.sparse_operand)

    def _as_stored(self, kernel: str, case: Case) -> Case:
        """The case of a row: its value type is that of the weights, if a kernel stores them in another than the tokens."""
        dtype = "" if kernel in self._movers else named(self._products, kernel).value_dtype
        return replace(case, dtype=dtype) if dtype else case

    def _problem(self, kernel: str, case: Case) -> str:
        """The reason against a kernel for a case; empty if it takes the case. A SpecError if there is no such kernel."""
        if kernel in self._movers:
            return self._movers[kernel].problem(case)
        product = named(self._products, kernel, self._movers)
        if product.dense_dtype:
            return (
                product.problem(case) if case.pattern is None else "it is dense, expected the pattern dense"
            )
        if case.pattern is None:
            return "it multiplies, expected patterns N:M and not dense"
        if product.sparse_operand != case.sparse_operand:
            return f"it takes sparse {product.sparse_operand}, expected one for sparse {case.sparse_operand}"
        return product.problem(case)

    def _operands(self, of: Round) -> tuple[Operand, Operand]:
        """Weights [N, K], kept from round to round while they stay the same, and tokens [M, K]."""
        shape, key = of.shape, (of.shape.N, of.shape.K, of.dtype)
        if self._weights is None or self._weights[0] != key:
            self._weights = None
            self._weights = key, self._drawn(shape.N, shape.K, of.dtype, 0)
        return self._weights[1], self._drawn(shape.M, shape.K, of.dtype, 1)

    def _drawn(self, rows: int, columns: int, dtype: str, stream: int) -> Operand:
        torch_dtype = getattr(self._torch, DTYPES[dtype])
        numbers = drawn(self._torch, rows, columns, torch_dtype, self._device, [self._seed, stream])
        return Operand(self._torch, numbers)

    def _builder(self, case: Case, kernel: str, weights: Operand, tokens: Operand) -> Build:
        """What builds a call of a sparse product on one of many copies of its operands."""
        product, stored = named(self._products, kernel), case.format
        if stored is None:
            return lambda place: product.build(None, weights.copy(place), tokens.dense)
        pattern, of_weights = stored.pattern, case.sparse_operand == "weights"
        packed = (weights if of_weights else tokens).packed(stored)

        def build(place: int) -> Call:
            weight = weights.pruned(pattern) if of_weights else weights.copy(place, k_major=product.k_major)
            return product.build(packed, weight, tokens.dense)

        return build

    def _begun(self, builder: Callable[[], Build]) -> tuple[Build, Call]:
        """Build the first call, and run it to its end."""
        build = builder()
        first = build(0)
        first.run()
        self._clock.synchronize()
        return build, first

    def _sparse(
        self, of: Round, case: Case, kernel: str, weights: Operand, tokens: Operand, warmup: int
    ) -> Contender:
        product, pattern = named(self._products, kernel), case.pattern
        as_stored, rounding = product.as_stored or (lambda weight: weight), product.rounding
        if pattern is None:
            x, weight = (
                values.double() * scale for values, scale in map(as_fp8, (tokens.dense, weights.dense))
            )
            right = _Right(x, weight, of.shape.K, of.dtype, rounding)
        else:
            of_weights = case.sparse_operand == "weights"
            right = _Right(
                tokens.dense if of_weights else tokens.pruned(pattern),
                as_stored(weights.pruned(pattern)) if of_weights else weights.dense,
                int(of.shape.K * pattern.density),
                of.dtype,
                rounding,
            )
        builder = functools.partial(self._builder, case, kernel, weights, tokens)
        return self._contender(of, kernel, case, builder, self._gate_of_product(right), warmup)

    def _dense(self, of: Round, weights: Operand, x: Any, warmup: int) -> Iterator[Contender]:
        for name, dense in dense_calls(self._torch, x).items():
            builder = functools.partial(_dense_builder, dense, weights)
            right = _Right(x, weights.dense, of.shape.K, of.dtype, dense.rounding)
            yield self._contender(of, name, None, builder, self._gate_of_product(right), warmup)

    def _transfer(self, of: Round, case: Case, kernel: str, warmup: int) -> Contender:
        mover = self._movers[kernel]
        matrix = functools.partial(self._drawn_matrix, *mover.matrix_shape(case), of.dtype)

        def builder() -> Build:
            whole = matrix()
            return lambda place: mover.build(whole, case)

        gate_of = self._gate_of_transfer(lambda results: mover.check(matrix(), case, results))
        return self._contender(of, kernel, case, builder, gate_of, warmup)

    def _drawn_matrix(self, rows: int, columns: int, dtype: str) -> Matrix:
        """The matrix that transfers of a round move, kept while the next round has the same."""
        key = (rows, columns, dtype)
        if self._matrix is None or self._matrix[0] != key:
            self._matrix = None
            numbers = self._drawn(min(rows, REPEATED_ROWS), columns, dtype, NUMBERS)
            vector = self._drawn(1, columns, "fp32", VECTOR)
            self._matrix = key, Matrix(numbers.dense, vector.dense[0], rows)
        return self._matrix[1]

    def _copies(self, of: Round, size: int, warmup: int, names: Sequence[str] = ()) -> Iterator[Contender]:
        """Every available copy that reads and writes so many bytes, or those with some names."""
        torch = self._torch
        generator = torch.Generator(device=self._device).manual_seed(self._seed + WORDS)
        about = {"dtype": torch.int32, "device": self._device}
        source = torch.randint(-(2**31), 2**31 - 1, (size // 8,), generator=generator, **about)
        gate_of = self._gate_of_transfer(lambda results: check_copy(source, results))
        for name in names or copies(source.new_empty(0)):
            builder = functools.partial(_copy_builder, name, source)
            yield self._contender(of, name, None, builder, gate_of, warmup, size)

    def _contender(
        self, of: Round, name: str, case: Case | None, builder: Callable[[], Build], gate_of: Gate,
        warmup: int, size: int = 0,
    ) -> Contender:  # fmt: skip
        """A call on each of its copies, its gate, and how it is timed; one that is refused says so in its gate."""
        what = name if case is None else label_of((case, name))
        guarded = functools.partial(cuda_device.guarded, what, self._clock.synchronize)
        try:
            with guarded(cuda_device.refusals()):
                build, first = self._begun(builder)
                # The number of copies follows from the bytes of the first one: together they must exceed L2.
                n_copies = self._clock.copies(first.used_bytes, of.l2_state)
                calls = [first, *map(build, range(1, n_copies))]
                timed = self._clock.timed([call.run for call in calls], of.l2_state)
                for _ in range(warmup):
                    timed.sample()
                self._clock.synchronize()
        except gate.RefusedError as problem:
            return _refused(name, case, str(problem), size)

        def error() -> float | None:
            with guarded(cuda_device.faults()):
                return gate_of(calls, timed)

        def sample() -> float:
            with guarded(cuda_device.faults()):
                return timed.sample()

        moves = name in self._movers and case is not None
        cells = {
            "moved_bytes" if moves else "weights_bytes": first.used_bytes,
            "timing": timed.how,
            "operand_copies": n_copies,
            **first.cells,
        }
        beside = copy_bytes(first.used_bytes) if moves else size
        yardstick = yardstick_bytes(of) if case is not None and not moves else 0
        return Contender(name, case, error, sample, cells, beside, yardstick)

    def _gate_of_product(self, right: "_Right") -> Gate:
        return lambda calls, timed: self._deviation(_results(calls, timed), right).checked()

    def _gate_of_transfer(self, check: Callable[[tuple[Any, ...]], None]) -> Gate:
        def checked(calls: Sequence[Call], timed: Timed) -> None:
            for part in timed.replay()[0]:
                part.view(self._torch.uint8).fill_(POISON)  # where the next result goes
            check(timed.replay()[0])

        return checked

    def _deviation(self, results: Sequence[Any], right: "_Right") -> gate.Deviation:
        """How far off results are at worst, a block of the float64 product at a time."""
        found = gate.Deviation(0.0, 0.0)
        step = max(1, BLOCK_ELEMS // right.x.shape[1])
        of_results = [result.reshape(len(right.x), -1).split(step) for result in results]
        for tokens, *rows in zip(right.x.split(step), *of_results, strict=True):
            x, of_rows = tokens.double(), [result.split(step, dim=1) for result in rows]
            for weights, *blocks in zip(right.weight.split(step), *of_rows, strict=True):
                of = gate.multiplied(x, weights.double(), right.rounding)
                limit = gate.allowed(of, right.terms, right.dtype, right.rounding)
                for block in blocks:
                    found = found.or_worse(gate.deviation(block.double(), of, limit))
        return found


def yardstick_bytes(of: Round) -> int:
    """Bytes that a copy moves beside the dense products of a round, to see whether these are as fast as memory allows.

    They are the bytes of the dense weights. 0 if a round has so many tokens that a product is not bound by memory.
    """
    if of.shape.M > MEMORY_BOUND_TOKENS:
        return 0
    return copy_bytes(of.shape.N * of.shape.K * VALUE_BITS[of.dtype] // 8)


@dataclass(frozen=True)
class _Right:
    """The reference of a product: its operands with their zeros, and how it adds up and rounds."""

    x: Any
    weight: Any
    terms: int
    dtype: str
    rounding: gate.Rounding


def _dense_builder(dense: DenseCall, weights: Operand) -> Build:
    """What builds a dense product on one of many copies of its weights."""

    def build(place: int) -> Call:
        return Call(dense.build(weights.copy(place, k_major=dense.k_major)), weights.dense.nbytes)

    return build


def _copy_builder(name: str, source: Any) -> Build:
    """What builds a copy of one of many copies of its source."""
    return lambda place: copies(source.clone())[name]


def _results(calls: Sequence[Call], timed: Timed) -> list[Any]:
    """Results of a first call and of every call of a replay, each written after its place was spoiled."""
    first = calls[0]
    _spoil((first.run(), *first.scratch))
    begun = first.run().clone()
    _spoil((*timed.replay(), *(part for call in calls for part in call.scratch)))
    return [begun, *timed.replay()]


def _spoil(parts: Iterable[Any]) -> None:
    """Fill tensors with what is no number, so that what is left unwritten shows."""
    for part in parts:
        part.fill_(np.nan if part.is_floating_point() else 0xFF)


def _refused(name: str, case: Case | None, said: str, size: int) -> Contender:
    """A call that cannot be made: its gate says why."""

    def error() -> float:
        raise gate.RefusedError(said)

    return Contender(name, case, error, lambda: float("nan"), copy_bytes=size)
