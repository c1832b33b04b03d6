"""A CUDA device as a backend of campaigns: our kernels, torch's 2:4, and every dense call, on the same numbers.

Operands are drawn and pruned on the device (`kernels.measure.cuda.operands`), and each result is held against
a product in float64 there, of the very values that are stored. Every call has copies of its weights, used in turn
(`kernels.measure.cuda.clock`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.measure.campaign import BEST, Round
from kernels.measure.cuda import device as cuda_device
from kernels.measure.cuda import precompile
from kernels.measure.cuda.calls import PRODUCTS, Call, DenseCall, Product, best_of, dense_calls
from kernels.measure.cuda.clock import Clock, CudaClock, Timed
from kernels.measure.cuda.operands import Operand, drawn
from kernels.measure.cuda.variants import named
from kernels.measure.products import Contender, Task
from kernels.timing import gate, host
from kernels.timing.rounds import Plan, Progress
from nmsim.case import Case
from nmsim.errors import SpecError
from nmsim.format import as_format
from nmsim.pattern import Pattern

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
BLOCK_ELEMS = 1 << 25
"""Elements of an operand that are multiplied at once in float64: 268 MB."""

Build = Callable[[int], Call]
"""Gives a call on one of many copies of its operands."""


class CudaBackend:
    """Products on the current CUDA device.

    Parameters
    ----------
    seed : int
        Of the numbers that are multiplied.
    device : str
        Where tensors are made.
    clock : Clock, optional
        `CudaClock` when absent.
    products : mapping of str to Product
        Kernels by the name that rows have.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        device: str = "cuda",
        clock: Clock | None = None,
        products: Mapping[str, Product] = PRODUCTS,
    ) -> None:
        import torch

        self._torch, self._seed, self._device, self._products = torch, seed, device, products
        self._given_clock = clock
        self._weights: tuple[tuple[int, int, str], Operand] | None = None

    @functools.cached_property
    def about(self) -> Mapping[str, Any]:
        """Columns that say what the device is and what ran on it; asked for once, since every row has them."""
        torch = self._torch
        found = host.versions(("numpy", "triton"))
        on_gpu = self._device != "cpu"
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "driver": cuda_device.told("driver_version") if on_gpu else "",
            "cuda": str(torch.version.cuda or ""),
            "torch": str(torch.__version__),
            **found,
        }

    def threads(self, of: Round) -> None:
        """None: a device has no number of cores at work."""
        return

    @functools.cached_property
    def _clock(self) -> Clock:
        """Made when something is to be timed: what a campaign asks for can be told without a device."""
        return self._given_clock or CudaClock(self._torch)

    def tasks(self, of: Round) -> list[Task]:
        """Cases and kernels of a round; a kernel that is named has to take every case.

        Raises
        ------
        SpecError
            A value type or a kernel that there is none of, a kernel for the other operand, or a case that a kernel does not
            take.
        """
        if of.dtype not in DTYPES:
            raise SpecError(f"{of}: expected a dtype that CUDA kernels take, one of {', '.join(DTYPES)}")
        found: list[Task] = []
        for name in dict.fromkeys(of.kernels):
            for pattern, encoding in of.variants:
                case = self._case(of, pattern, encoding)
                kernel = best_of(case) if name == BEST else name
                try:
                    problem = self._problem(kernel, case)
                except SpecError as error:
                    raise SpecError(f"{of}: {error}") from error
                if problem:
                    raise SpecError(f"{of}: kernel {kernel}: {problem}")
                found.append((case, kernel))
        return found

    def prepare(self, planned: Plan[Round, Task], time_s: float, progress: Progress) -> str:
        """Let Triton compile on all cores what the rounds will ask for."""
        if self._device == "cpu":
            return ""
        backend = functools.partial(CudaBackend, self._seed, device=self._device)
        return precompile.ahead(backend, planned, time_s, progress)

    def run_once(self, of: Round, tasks: Sequence[Task]) -> None:
        """Build and run products of a round once, for what a first call leaves: compiled kernels.

        What refuses is passed over; `contenders` says of it.
        """
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
        with cuda_device.guarded("operands", self._clock.synchronize, cuda_device.refusals()):
            weights, tokens = self._operands(of)
        with self._torch.inference_mode():
            made = [self._sparse(of, case, kernel, weights, tokens, warmup) for case, kernel in tasks]
            yield [*made, *self._dense(of, weights, tokens.dense, warmup)]

    def _case(self, of: Round, pattern: Pattern, encoding: str) -> Case:
        from kernels.stored.rows import PACKINGS, checked_encoding

        packing = PACKINGS[checked_encoding(encoding)]
        return Case(
            of.shape,
            as_format(pattern, encoding=encoding, packing=packing),
            dtype=of.dtype,
            sparse_operand=of.sparse_operand,
        )

    def _problem(self, kernel: str, case: Case) -> str:
        """What speaks against a kernel for a case; nothing when it takes it. A SpecError where there is no such kernel."""
        product = named(self._products, kernel)
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
        assert stored is not None
        pattern, of_weights = stored.pattern, case.sparse_operand == "weights"
        packed = (weights if of_weights else tokens).packed(pattern, stored.encoding.name)

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
        pattern = case.pattern
        assert pattern is not None
        of_weights = case.sparse_operand == "weights"
        right = _Right(
            tokens.dense if of_weights else tokens.pruned(pattern),
            weights.pruned(pattern) if of_weights else weights.dense,
            int(of.shape.K * pattern.density),
            of.dtype,
            named(self._products, kernel).rounding,
        )
        builder = functools.partial(self._builder, case, kernel, weights, tokens)
        return self._contender(of, kernel, case, builder, right, warmup)

    def _dense(self, of: Round, weights: Operand, x: Any, warmup: int) -> Iterator[Contender]:
        for name, dense in dense_calls(self._torch, x).items():
            builder = functools.partial(_dense_builder, dense, weights)
            right = _Right(x, weights.dense, of.shape.K, of.dtype, dense.rounding)
            yield self._contender(of, name, None, builder, right, warmup)

    def _contender(
        self,
        of: Round,
        name: str,
        case: Case | None,
        builder: Callable[[], Build],
        right: "_Right",
        warmup: int,
    ) -> Contender:
        """A call on each of its copies, its gate, and how it is timed; one that is refused says so in its gate."""
        what = name if case is None else f"{name} {case.format}"
        guarded = functools.partial(cuda_device.guarded, what, self._clock.synchronize)
        try:
            with guarded(cuda_device.refusals()):
                build, first = self._begun(builder)
                copies = self._clock.copies(first.stored_bytes, of.l2_state)
                calls = [first, *map(build, range(1, copies))]
                timed = self._clock.timed([call.run for call in calls], of.l2_state)
                for _ in range(warmup):
                    timed.sample()
                self._clock.synchronize()
        except gate.RefusedError as problem:
            return _refused(name, case, str(problem))

        def error() -> float:
            with guarded(cuda_device.faults()):
                return self._deviation(_results(calls, timed), right).checked()

        def sample() -> float:
            with guarded(cuda_device.faults()):
                return timed.sample()

        said = (f"reads {first.stored_bytes} bytes of weights", first.note, f"{timed.how} of {copies} copies")
        return Contender(name, case, error, sample, "; ".join(filter(None, said)))

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


@dataclass(frozen=True)
class _Right:
    """What a product is held against: its operands with their zeros, and how it adds up and rounds."""

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


def _refused(name: str, case: Case | None, said: str) -> Contender:
    """A call that cannot be made: its gate says why."""

    def error() -> float:
        raise gate.RefusedError(said)

    return Contender(name, case, error, lambda: float("nan"))
