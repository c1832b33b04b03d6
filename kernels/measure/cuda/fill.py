"""Compile what the first minutes on a GPU will run, on a machine without one: `python -m kernels.measure.cuda.fill -o ARCHIVE`.

The launchers run as they do on a device, on tensors that have a shape and a type and no memory. Triton compiles what they
launch, for the capability that is asked for. Nothing is run.

Triton looks a compiled kernel up by its own sources too, and its library differs between versions of Python. `--triton FOLDER`
names an unpacked wheel of the version that the other machine has, such as 3.6.0 for Python 3.12. This process must have the
same version of Triton, for whatever Python. Compiled kernels are kept where Triton keeps them (`TRITON_CACHE_DIR`).
"""

import argparse
import contextlib
import functools
import importlib
import inspect
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from kernels.measure.cuda import compile_cache, dry, minute, stages
from kernels.measure.cuda.backend import DTYPES, CudaBackend, Operand
from kernels.measure.round import Round
from kernels.measure.run import Task
from nmsim.errors import NmsimError
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern
from nmsim.support.checkout import checkout
from nmsim.units import ceil_div

BUDGET_S = 3600.0
CAPABILITY = 90
H200 = {
    "multi_processor_count": 132, "L2_cache_size": 50 << 20, "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
}  # fmt: skip
"""What the plans of kernels ask a device for, where nobody says otherwise: an H200."""


class HollowOperand(Operand):
    """A matrix that has a shape and nothing else: pruned and packed it has the shapes that these have."""

    def pruned(self, pattern: Pattern) -> Any:
        """Give the matrix itself."""
        del pattern
        return self.dense

    def packed(self, format: SparseFormat) -> Any:
        """Make room for what would be packed."""
        from kernels.stored.nm_weight import NMWeight, empty_rows

        return NMWeight(*empty_rows(self.dense, format), format, tuple(self.dense.shape))


class HollowBackend(CudaBackend):
    """The backend, on tensors without memory."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, device="meta", clock=dry.DryClock())
        self.refused: Counter[str] = Counter()

    def _drawn(self, rows: int, columns: int, dtype: str, stream: int) -> HollowOperand:
        del stream
        kind = getattr(self._torch, DTYPES[dtype])
        return HollowOperand(self._torch, self._torch.empty(rows, columns, dtype=kind, device=self._device))

    def compile(self, of: Round, tasks: Sequence[Task]) -> None:
        """Launch each product of a round once."""
        from kernels.gpu import controls

        weights, tokens = self._operands(of)
        if of.shape.M <= controls.MOST_TOKENS and of.dtype != "fp32":
            x = tokens.dense
            controls.dense(x, weights.dense, x.new_empty(len(x), len(weights.dense)))
        for case, kernel in tasks:
            if kernel in self._movers or kernel.startswith("torch."):
                continue
            try:
                self._builder(case, kernel, weights, tokens)(0).run()
            except (RuntimeError, NmsimError, AttributeError, TypeError) as problem:
                self.refused[f"{kernel}: {type(problem).__name__}: {problem}"] += 1


@dataclass(frozen=True)
class Compiled:
    """What a launch gives in place of a kernel that could be run."""

    cubin: bytes
    run: bool = True

    @functools.cached_property
    def n_regs(self) -> int:
        """Registers of a thread."""
        from kernels.compiled.sass import registers_of

        return registers_of(self.cubin)


@contextlib.contextmanager
def pretended_device(about: dict[str, int], capability: int) -> Iterator[Counter[str]]:
    """Have launches compile and not run, as for a CUDA device that is not there; count them by kernel.

    Parameters
    ----------
    about : dict
        What plans ask the device for, by torch's names.
    capability : int
        Compute capability times ten.
    """
    import torch
    from torch import Tensor
    from triton.runtime.jit import JITFunction, MockTensor

    from kernels.gpu import controls, split
    from kernels.gpu.products import gemv, plan
    from kernels.ptx.launch import compiled_as_launched
    from kernels.stored import shuffled

    cut, split_k = gemv._cut, split.split
    compiled: Counter[str] = Counter()
    here = torch.device("cuda", 0)

    def bound(value: Any) -> Any:
        return MockTensor(value.dtype) if isinstance(value, Tensor) else value

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
        del grid, warmup
        named = {name: bound(value) for name, value in options.items()}
        found = compiled_as_launched(kernel, [bound(value) for value in args], named, capability)
        compiled[kernel.__name__] += 1
        return Compiled(found.asm["cubin"])

    def cut_here(device: Any, *given: Any) -> tuple[int, int]:
        del device
        return cut.__wrapped__(here, *given)

    def split_here(
        length: int, step: int, programs: int, device: Any, n_parts: int | None = None
    ) -> tuple[int, int]:
        del device
        return split_k(length, step, programs, here, n_parts)

    properties = types.SimpleNamespace(name="pretended", **about)
    with contextlib.ExitStack() as stack:

        def swap(owner: Any, name: str, stand_in: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, stand_in))

        swap(JITFunction, "run", run)
        swap(torch.cuda, "get_device_properties", lambda _: properties)
        swap(torch.cuda, "device", lambda _: contextlib.nullcontext())
        swap(gemv, "_cut", cut_here)
        products = (importlib.import_module(f"kernels.gpu.products.{name}") for name in compile_cache.KERNELS)
        swap(shuffled, "quantize", _hollow_quantize)
        for module in (controls, *products):
            if getattr(module, "split", None) is split_k:
                swap(module, "split", split_here)
            if hasattr(module, "machine_of"):
                swap(module, "machine_of", lambda _: plan.machine_of(here))
        # Neither may what another device said be taken here, nor what this one said be taken later.
        for cache in (gemv._registers, plan.machine_of):
            cache.cache_clear()
            stack.callback(cache.cache_clear)
        yield compiled


def _hollow_quantize(values: Any, *, type_name: str, block: int | None = None) -> tuple[Any, Any]:
    """Room for what `kernels.stored.scaled.quantize` gives, which looks at the values."""
    import torch

    from kernels.stored.scaled import checked_type_name

    rows, columns = values.shape
    stored = values.new_empty((rows, columns), dtype=checked_type_name(type_name))
    return stored, values.new_empty((rows, ceil_div(columns, block or columns)), dtype=torch.float32)


@contextlib.contextmanager
def key_of(wheel: Path | None) -> Iterator[None]:
    """Have Triton take itself for the one in a folder when it looks for compiled kernels.

    Parameters
    ----------
    wheel : Path, optional
        An unpacked wheel of the version that runs here, for another Python.

    Raises
    ------
    NmsimError
        No such wheel, or one of another version.
    """
    if wheel is None:
        yield
        return
    import triton
    from triton.runtime import cache

    source = wheel / "triton" / "runtime" / "cache.py"
    if not source.exists() or not list(wheel.glob(f"triton-{triton.__version__}*.dist-info")):
        raise NmsimError(f"{wheel}: expected an unpacked wheel of Triton {triton.__version__}")
    key = inspect.unwrap(cache.triton_key)
    # The function finds the files that it digests beside its own.
    of_wheel = functools.cache(types.FunctionType(key.__code__, {**key.__globals__, "__file__": str(source)}))
    with mock.patch.object(cache, "triton_key", of_wheel):
        yield


def fill(
    rounds: Sequence[Round], *, budget_s: float, capability: int, tell: Callable[[str], object]
) -> Counter[str]:
    """Compile what rounds launch, in order, until the time is used up.

    Returns
    -------
    Counter
        Launches by kernel.
    """
    device, end = HollowBackend(), time.monotonic() + budget_s
    with pretended_device(H200, capability) as compiled:
        for place, each in enumerate(rounds):
            if time.monotonic() >= end:
                tell(f"{len(rounds) - place} of {len(rounds)} rounds are left: run the same command again")
                break
            device.compile(each, device.tasks(each))
    for problem, count in device.refused.items():
        tell(f"not compiled, {count} times: {problem}")
    return compiled


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kernels.measure.cuda.fill", description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="archive to write, such as compiled.tar.xz")
    add(
        "--triton",
        type=Path,
        help="unpacked wheel of Triton of the other machine. Default: the one that runs here",
    )
    add("--budget-s", type=float, default=BUDGET_S, help=f"seconds for all. Default: {BUDGET_S:.0f}")
    add(
        "--capability",
        type=int,
        default=CAPABILITY,
        help=f"compute capability times ten. Default: {CAPABILITY}",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    options = _parser().parse_args(arguments)
    device = CudaBackend(device="cpu", clock=dry.DryClock())
    planned = {stage.name: stage.campaign.rounds for stage in stages.stages(device)}
    rounds = [*planned["smoke"], *planned["campaign"], *planned["tuning"]]
    try:
        with key_of(options.triton):
            launches = fill(rounds, budget_s=options.budget_s, capability=options.capability, tell=print)
        files = compile_cache.pack(options.output, checkout(minute.ROOT))
    except NmsimError as error:
        print(f"kernels.measure.cuda.fill: {error}", file=sys.stderr)
        return 2
    size = options.output.stat().st_size / 1e6
    print(f"{launches.total()} launches; {files} files in {options.output}, {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
