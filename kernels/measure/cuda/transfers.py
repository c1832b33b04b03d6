"""A CUDA device as a backend of transfers: our kernels that move data, and the copies beside them.

Every call has operands and results of its own, in as many copies as the clock asks for, which it goes through in turn
(`kernels.measure.cuda.clock`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kernels.measure.cuda import device as cuda_device
from kernels.measure.cuda.backend import DTYPES
from kernels.measure.cuda.clock import Clock, CudaClock
from kernels.measure.cuda.movers import KERNELS, Call, Kernel, Matrix, check_copy, copies
from kernels.measure.cuda.operands import drawn
from kernels.measure.transfer_round import TransferRound
from kernels.measure.transfers import Mover, Task, copy_bytes
from kernels.stored.rows import PACKINGS, checked_encoding, kernel_format
from kernels.timing import host
from kernels.timing.gate import RefusedError
from nmsim.errors import NmsimError, SpecError

NUMBERS, VECTOR, WORDS = range(10, 13)
"""Streams of random numbers, others than those of products."""
REPEATED_ROWS = 256
"""Rows of a matrix that are drawn; further ones repeat them. The host packs as many again for each case: with all 16384 it
would take as long as the measuring."""
POISON = 0xFF
"""Bytes of results before a call that is checked: NaN where numbers belong."""


class CudaTransfers:
    """Kernels that move data on the current CUDA device.

    Parameters
    ----------
    seed : int
        Of the numbers that are moved.
    about : mapping of str to str
        Columns that say what the device is and what runs on it, as `CudaBackend.about`.
    device : str
        Where tensors are made.
    clock : Clock, optional
        `CudaClock` when absent.
    kernels : mapping of str to Kernel
        By the name that rows have.
    """

    def __init__(
        self,
        seed: int,
        about: Mapping[str, Any],
        *,
        device: str = "cuda",
        clock: Clock | None = None,
        kernels: Mapping[str, Kernel] = KERNELS,
    ) -> None:
        import torch

        self._torch, self._seed, self._device, self._kernels = torch, seed, device, kernels
        self._given_clock = clock
        self._matrix: tuple[tuple[int, int, str], Matrix] | None = None
        self.about: Mapping[str, Any] = {**about, **host.versions(("numba",))}

    @functools.cached_property
    def _clock(self) -> Clock:
        """Made when something is to be timed: what a campaign asks for can be told without a device."""
        return self._given_clock or CudaClock(self._torch)

    def tasks(self, of: TransferRound) -> list[Task]:
        """Kernel, pattern and encoding of each row of a round.

        Raises
        ------
        SpecError
            A value type, kernel, pattern or encoding that there is no such kernel of.
        """
        if of.dtype not in DTYPES:
            raise SpecError(f"{of}: expected a dtype that CUDA kernels take, one of {', '.join(DTYPES)}")
        if of.kernel not in self._kernels:
            raise SpecError(f"{of}: expected a kernel that moves data, one of {', '.join(self._kernels)}")
        if self._kernels[of.kernel].of_patterns != bool(of.variants):
            wanted = "a table with" if not of.variants else "a table of its own without"
            raise SpecError(f"{of}: expected {wanted} patterns and encodings")
        if not of.variants:
            return [Task(of.kernel)]
        try:
            return [
                Task(
                    of.kernel,
                    kernel_format(f"{pattern}/{checked_encoding(encoding)}").pattern,
                    encoding,
                    PACKINGS[encoding],
                )
                for pattern, encoding in of.variants
            ]
        except NmsimError as error:
            raise SpecError(f"{of}: {error}") from error

    @contextlib.contextmanager
    def movers(self, of: TransferRound, tasks: Sequence[Task]) -> Iterator[list[Mover]]:
        """Build the calls of a round, and copies of as many bytes as each moves."""
        matrix = self._drawn(of)
        found = [self._kernel(of, matrix, task) for task in tasks]
        sizes = dict.fromkeys(copy_bytes(mover.moved_bytes) for mover in found if mover.moved_bytes)
        yield [*found, *(mover for size in sizes for mover in self._copies(of, size))]

    def _drawn(self, of: TransferRound) -> Matrix:
        """The matrix of a round, kept while the next has the same."""
        key = (of.rows, of.columns, of.dtype)
        if self._matrix is None or self._matrix[0] != key:
            torch = self._torch
            self._matrix = None
            numbers, vector = (
                drawn(torch, rows, of.columns, dtype, self._device, [self._seed, stream])
                for rows, dtype, stream in (
                    (min(of.rows, REPEATED_ROWS), getattr(torch, DTYPES[of.dtype]), NUMBERS),
                    (1, torch.float32, VECTOR),
                )
            )
            self._matrix = key, Matrix(numbers, vector[0], of.rows)
        return self._matrix[1]

    def _kernel(self, of: TransferRound, matrix: Matrix, task: Task) -> Mover:
        kernel = self._kernels[task.kernel]
        try:
            with cuda_device.guarded(str(task), self._clock.synchronize, cuda_device.refusals()):
                first = kernel.build(matrix, task)
                first.run()
                self._clock.synchronize()
                rest = self._clock.copies(first.moved_bytes, of.l2_state) - 1
                calls = [first, *(kernel.build(matrix, task) for _ in range(rest))]
                return self._mover(
                    of, task.kernel, task, calls, lambda results: kernel.check(matrix, task, results)
                )
        except RefusedError as problem:
            return _refused(task, str(problem))

    def _copies(self, of: TransferRound, size: int) -> Iterator[Mover]:
        torch, seed = self._torch, self._seed + WORDS
        generator = torch.Generator(device=self._device).manual_seed(seed)
        shape, about = (size // 8,), {"dtype": torch.int32, "device": self._device}
        source = torch.randint(-(2**31), 2**31 - 1, shape, generator=generator, **about)
        sets = [copies(source.clone()) for _ in range(self._clock.copies(size, of.l2_state))]
        for name in sets[0]:
            calls = [each[name] for each in sets]
            yield self._mover(of, name, None, calls, lambda results: check_copy(source, results))

    def _mover(
        self,
        of: TransferRound,
        name: str,
        task: Task | None,
        calls: Sequence[Call],
        check: Callable[[tuple[Any, ...]], None],
    ) -> Mover:
        """A call on each of its copies, its gate, and how it is timed."""
        first = calls[0]
        timed = self._clock.timed([call.run for call in calls], of.l2_state)
        what = name if task is None else str(task)
        guarded = functools.partial(cuda_device.guarded, what, self._clock.synchronize, cuda_device.faults())

        def poisoned_check() -> None:
            with guarded():
                for part in timed.replay()[0]:
                    part.view(self._torch.uint8).fill_(POISON)  # where the next result goes
                check(timed.replay()[0])

        def sample() -> float:
            with guarded():
                return timed.sample()

        return Mover(
            name, task, first.moved_bytes, poisoned_check, sample, f"{timed.how} of {len(calls)} copies"
        )


def _refused(task: Task, said: str) -> Mover:
    """A call that cannot be made: its gate says why."""

    def check() -> None:
        raise RefusedError(said)

    return Mover(task.kernel, task, 0, check, lambda: float("nan"))
