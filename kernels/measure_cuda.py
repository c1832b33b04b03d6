"""A CUDA device as a backend of campaigns: our kernels, torch's 2:4, and every dense call, on the same numbers.

Weights are drawn and pruned on the device, and each result is held against a product in float64 there, of the very values that
are stored. Every call has copies of its operands that it goes through in turn (`kernels.cuda_timing`).
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels import gate, host
from kernels.campaign import BEST, Round
from kernels.cuda_calls import PRODUCTS, Product, best_of, dense_calls
from kernels.cuda_timing import Clock, CudaClock
from kernels.measure import Contender, Task
from nmsim.errors import SpecError
from nmsim.pattern import Pattern
from nmsim.records import Case

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass
class _Weights:
    """Weights [N, K] of a shape and type, and what was made of them."""

    dense: Any
    pruned: dict[Pattern, Any]
    packed: dict[tuple[Pattern, str], Any]


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
        self._clock = clock or CudaClock(torch)
        self._weights: tuple[tuple[int, int, str], _Weights] | None = None

    @property
    def about(self) -> Mapping[str, Any]:
        """Columns that say what the device is and what ran on it."""
        torch = self._torch
        found = host.versions(("numpy", "triton"))
        on_gpu = self._device != "cpu"
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "driver": _driver() if on_gpu else "",
            "cuda": str(torch.version.cuda or ""),
            "torch": str(torch.__version__),
            **found,
        }

    def threads(self, of: Round) -> None:
        """None: a device has no number of cores at work."""
        return

    def tasks(self, of: Round) -> list[Task]:
        """Cases and kernels of a round; a kernel that is named has to take every case.

        Raises
        ------
        SpecError
            A value type or a kernel that there is none of, or a case that a kernel does not take.
        """
        if of.dtype not in DTYPES:
            raise SpecError(f"{of}: expected a dtype that CUDA kernels take, one of {', '.join(DTYPES)}")
        found: list[Task] = []
        for name in dict.fromkeys(of.kernels):
            for pattern, encoding in of.variants:
                case = self._case(of, pattern, encoding)
                kernel = best_of(case) if name == BEST else name
                if kernel not in self._products:
                    raise SpecError(
                        f"{of}: kernel {kernel}: expected one of {', '.join(self._products)} (or {BEST})"
                    )
                if problem := self._products[kernel].problem(case):
                    raise SpecError(f"{of}: kernel {kernel}: {problem}")
                found.append((case, kernel))
        return found

    @contextlib.contextmanager
    def contenders(self, of: Round, tasks: Sequence[Task], warmup: int) -> Iterator[list[Contender]]:
        """Build weights, tokens and calls of a round, warmed up. Calls that share weights share their copies."""
        data, x = self._data(of), self._tokens(of)
        with self._torch.inference_mode():
            made = [self._sparse(of, case, kernel, data, x) for case, kernel in tasks]
            yield [*made, *self._dense(of, data.dense, x)]

    def _case(self, of: Round, pattern: Pattern, encoding: str) -> Case:
        from kernels.cpu.weights import PACKINGS, checked_encoding

        return Case(
            of.shape, of.phase, of.dtype, pattern, "weights", encoding, PACKINGS[checked_encoding(encoding)]
        )

    def _generator(self, *stream: int) -> Any:
        mixed = np.random.SeedSequence([self._seed, *stream]).generate_state(1)[0]
        return self._torch.Generator(device=self._device).manual_seed(int(mixed))

    def _drawn(self, rows: int, columns: int, dtype: str, stream: int) -> Any:
        """Numbers of either sign whose magnitudes lie in [0.5, 1.5), as `gate.operands`."""
        torch = self._torch
        drawn = torch.rand(
            rows, columns, generator=self._generator(rows, columns, stream), device=self._device
        )
        drawn = drawn * 2 * (gate.MOST - gate.LEAST) - (gate.MOST - gate.LEAST)
        return (drawn + torch.copysign(torch.full_like(drawn, gate.LEAST), drawn)).to(
            getattr(torch, DTYPES[dtype])
        )

    def _data(self, of: Round) -> _Weights:
        key = (of.shape.N, of.shape.K, of.dtype)
        if self._weights is None or self._weights[0] != key:
            self._weights = None
            self._weights = key, _Weights(self._drawn(*key, 0), {}, {})
        return self._weights[1]

    def _tokens(self, of: Round) -> Any:
        return self._drawn(of.shape.M, of.shape.K, of.dtype, 1)

    def _pruned(self, data: _Weights, pattern: Pattern) -> Any:
        """The dense weights with what the pattern drops set to zero: by sorting groups, on no road of our kernels."""
        if pattern not in data.pruned:
            torch, (rows, k) = self._torch, data.dense.shape
            filled = torch.nn.functional.pad(data.dense, (0, -k % pattern.m))
            groups = filled.reshape(rows, -1, pattern.m)
            order = groups.float().abs().sort(dim=-1, descending=True, stable=True).indices
            keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., : pattern.n], True)
            data.pruned[pattern] = torch.where(keep, groups, 0).reshape(rows, -1)[:, :k].contiguous()
        return data.pruned[pattern]

    def _sparse(self, of: Round, case: Case, kernel: str, data: _Weights, x: Any) -> Contender:
        from kernels.ops import pack

        pattern = case.pattern
        assert pattern is not None
        pruned, key = self._pruned(data, pattern), (pattern, case.encoding)
        if key not in data.packed:
            data.packed[key] = pack(pruned, pattern, case.encoding)
        build = self._products[kernel].build
        try:
            first = build(data.packed[key], pruned, x)
            first.run()
        except RuntimeError as problem:  # a library's own, where it does not serve the device or the shape
            return _refused(kernel, case, problem)
        rest = self._clock.copies(first.stored_bytes, of.l2_state) - 1
        calls = [first.run, *(build(data.packed[key], pruned, x).run for _ in range(rest))]
        return self._contender(of, kernel, case, pruned, x, calls, first.stored_bytes)

    def _dense(self, of: Round, weight: Any, x: Any) -> Iterator[Contender]:
        copies = [
            weight,
            *(weight.clone() for _ in range(self._clock.copies(weight.nbytes, of.l2_state) - 1)),
        ]
        for name in dense_calls(self._torch, x, weight):
            calls = [dense_calls(self._torch, x, copy)[name] for copy in copies]
            yield self._contender(of, name, None, weight, x, calls, weight.nbytes)

    def _contender(
        self, of: Round, name: str, case: Case | None, weight: Any, x: Any, calls: Sequence[Callable[[], Any]],
        stored_bytes: int,
    ) -> Contender:  # fmt: skip
        """A call on each of its copies, its gate, and how it is timed."""

        def error() -> float:
            calls[0]().fill_(np.nan)  # where the next result goes, if it goes to the same place
            return self._error(calls[0]().reshape(len(x), -1), x, weight)

        sample, how = self._clock.sampler(calls, of.l2_state)
        terms = of.shape.K if case is None or case.pattern is None else int(of.shape.K * case.pattern.density)
        note = f"weights take {stored_bytes} bytes; {how} of {len(calls)} copies"
        return Contender(name, case, error, gate.tolerance(terms, of.dtype), sample, note)

    def _error(self, result: Any, x: Any, weight: Any) -> float:
        """Largest error as a share of |x| |W|^T, products in float64 on the device; infinite where a result is no number."""
        torch = self._torch
        tokens, values = x.double(), weight.double()
        scale = tokens.abs() @ values.abs().T
        error = (result.double() - tokens @ values.T).abs() / scale
        return float(torch.where(torch.isfinite(error), error, torch.inf).max())


def _refused(kernel: str, case: Case, problem: Exception) -> Contender:
    """A call that cannot be made: its gate is red and says why."""
    said = str(problem).strip().splitlines()

    def error() -> float:
        raise gate.GateError(f"{type(problem).__name__}: {said[0] if said else 'no more was said'}")

    return Contender(kernel, case, error, 0.0, lambda: float("nan"))


def _driver() -> str:
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    return answer.stdout.strip()
