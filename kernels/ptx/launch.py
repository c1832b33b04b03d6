"""Triton kernels on the emulator: compiled as for a GPU, run on tensors in main memory.

Triton itself binds arguments, specialises and compiles. Only its driver is another one, which names a GPU that is not there,
and the launch of the compiled kernel.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kernels.ptx.errors import PtxError
from kernels.ptx.machine import MOST_STEPS, Code, Counts, Grid, run_program
from kernels.ptx.memory import Buffer, GlobalMemory
from kernels.ptx.parse import read_ptx
from kernels.ptx.program import WARP
from nmsim.errors import brief

CAPABILITY = 90
"""H100 and H200."""
CAPABILITIES = (80, 129)
"""The least and the greatest that Triton compiles for as it does for those here."""
MOST_PROGRAMS = (2**31 - 1, 2**16 - 1, 2**16 - 1)
"""In x, y and z. CUDA C++ Programming Guide, technical specifications per compute capability."""
_COMPILE = JITFunction.run


@dataclass(frozen=True)
class Launch:
    """One launch that the emulator has run.

    Parameters
    ----------
    kernel : str
    grid : tuple of int
    counts : Counts
    """

    kernel: str
    grid: Grid
    counts: Counts


class _Driver:
    """What Triton asks a GPU's driver for when it compiles, of a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, WARP)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        # Triton keeps compiled kernels by device: one number per target.
        return -int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        del device
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def driver_of(capability: int) -> Iterator[None]:
    """Have Triton compile for a capability, then give it its own driver back."""
    before = driver._active
    driver.set_active(_Driver(capability))
    try:
        yield
    finally:
        driver._active = before


def _refuse_interpreter() -> None:
    if triton.knobs.runtime.interpret:
        raise PtxError(
            "Triton interprets in this process: expected TRITON_INTERPRET unset before it is imported"
        )


@lru_cache(maxsize=256)
def _code(ptx: str) -> Code:
    return Code(read_ptx(ptx))


def ptx_of(
    kernel: Any,
    args: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    capability: int = CAPABILITY,
) -> str:
    """Compile a kernel as a launch would, and give its PTX.

    Parameters
    ----------
    kernel : function with @triton.jit
    args : sequence
        Positional arguments; tensors may be in main memory.
    options : mapping, optional
        Arguments by name, and options of the compiler such as `num_warps`.
    capability : int
        Compute capability times ten.

    Returns
    -------
    str

    Raises
    ------
    PtxError
        A process in which Triton interprets, or an invalid argument, by its name.
    """
    _refuse_interpreter()
    _named(kernel, args, options)
    return str(compiled_as_launched(kernel, args, options or {}, capability).asm["ptx"])


def compiled_as_launched(
    kernel: Any, args: Sequence[Any], options: Mapping[str, Any], capability: int
) -> Any:
    """Compile a kernel as a launch would, for a GPU that is not there: what Triton made of it.

    Raises
    ------
    PtxError
        A process in which Triton interprets, or no kernel.
    """
    _refuse_interpreter()
    _check_kernel(kernel)
    _check_capability(capability)
    with driver_of(capability):
        try:
            return _COMPILE(kernel, *args, grid=(1,), warmup=True, **options)
        except KeyError as error:
            raise PtxError(
                f"options: {error.args[0]}; expected arguments of {kernel.__name__} and options of the compiler"
            ) from error


def _check_kernel(kernel: Any) -> None:
    if not isinstance(kernel, JITFunction):
        kind = type(kernel).__name__
        raise PtxError(f"kernel is a {kind}: expected a function with @triton.jit alone, such as its .fn")


def _check_capability(capability: object) -> None:
    least, most = CAPABILITIES
    if not isinstance(capability, int) or isinstance(capability, bool) or not least <= capability <= most:
        raise PtxError(
            f"capability is {brief(capability)}: expected ten times that of a GPU, from {least} to {most}"
        )


def _check_count(name: str, number: object, least: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise PtxError(f"{name} is {brief(number)}: expected a number of at least {least}")


def _named(kernel: Any, args: Any, options: Any) -> dict[str, Any]:
    """Give all arguments of a kernel by name, defaults among them; refuse what is invalid, is there twice or is missing."""
    _check_kernel(kernel)
    names = kernel.arg_names
    if not isinstance(args, list | tuple):
        raise PtxError(f"args is a {type(args).__name__}: expected a list of arguments of {kernel.__name__}")
    if len(args) > len(names):
        raise PtxError(
            f"args has {len(args)} items: {kernel.__name__} takes at most {len(names)} ({', '.join(names)})"
        )
    if options is not None and not isinstance(options, Mapping):
        raise PtxError(f"options is a {type(options).__name__}: expected names with their values")
    by_position = dict(zip(names, args, strict=False))
    by_name = {name: value for name, value in (options or {}).items() if name in names}
    if twice := [name for name in by_name if name in by_position]:
        raise PtxError(f"{', '.join(twice)}: given in args and in options, expected once")
    given = {p.name: p.default for p in kernel.params if p.has_default} | by_position | by_name
    if missing := [name for name in names if name not in given]:
        raise PtxError(f"{kernel.__name__} needs {', '.join(missing)} too: expected in args or options")
    for parameter in kernel.params:
        value = given[parameter.name]
        if not parameter.is_constexpr and not isinstance(value, Tensor | int | float | None):
            raise PtxError(
                f"{parameter.name} is a {type(value).__name__}: expected a torch tensor, a number or None"
            )
    return given


def _whole_grid(grid: Any, given: Mapping[str, Any]) -> Grid:
    """Read the programs in x, y and z."""
    sizes = grid(given) if callable(grid) else grid
    sizes = (sizes,) if isinstance(sizes, int) else sizes
    if (
        not isinstance(sizes, list | tuple)
        or not 1 <= len(sizes) <= len(MOST_PROGRAMS)
        or not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
        or not all(1 <= size <= most for size, most in zip(sizes, MOST_PROGRAMS, strict=False))
    ):
        what = "grid gives" if callable(grid) else "grid is"
        raise PtxError(
            f"{what} {brief(sizes)}: expected one to three numbers of programs, of at least 1 and at most "
            f"{', '.join(map(str, MOST_PROGRAMS))}"
        )
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def run_compiled(
    kernel: Any, grid: Any, *, args: Sequence[Any], options: Mapping[str, Any] | None = None,
    capability: int = CAPABILITY, seed: int | None = None, most_steps: int = MOST_STEPS,
    count_traffic: bool = False,
) -> Launch:  # fmt: skip
    """Compile a Triton kernel for a GPU, and run what the compiler wrote on tensors in main memory.

    No GPU is needed. Results are written to the tensors. Accesses out of bounds, misaligned ones, races in shared memory and
    more are errors, see `kernels.ptx.errors`.

    Parameters
    ----------
    kernel : function with @triton.jit
    grid : int or tuple of int, or function of the arguments by name that gives one
        Programs in x, y and z.
    args : list or tuple
        Positional arguments of the kernel; tensors are in main memory.
    options : mapping, optional
        Arguments by name, and options of the compiler such as `num_warps`.
    capability : int
        Compute capability times ten: 80 (A100) or 90 (H100, H200).
    seed : int, optional
        Shuffles the order of programs.
    most_steps : int
        Instructions after which programs count as endless.
    count_traffic : bool
        Count what accesses of warps ask of caches (`Counts.traffic`), which takes longer.

    Returns
    -------
    Launch

    Raises
    ------
    PtxError
        An invalid argument, by its name. Or one of its kinds: an instruction that the emulator does not have, or a rule of
        the machine that is broken.
    """
    _refuse_interpreter()
    if seed is not None:
        _check_count("seed", seed, 0)
    _check_count("most_steps", most_steps, 1)
    given = _named(kernel, args, options)
    whole = _whole_grid(grid, given)
    compiled = compiled_as_launched(kernel, args, options or {}, capability)
    values = [given[name] for name, kind in compiled.src.signature.items() if kind != "constexpr"]
    kinds = [kind for kind in compiled.src.signature.values() if kind != "constexpr"]
    memory = GlobalMemory([_buffer(value) for value in values if isinstance(value, Tensor)])
    code = _code(compiled.asm["ptx"])
    parameters = [_bits(value, kind, memory) for value, kind in zip(values, kinds, strict=True)]
    # Behind the arguments, Triton passes addresses of scratch memory, which these kernels have none of.
    parameters += [0] * (len(code.program.parameters) - len(parameters))
    counts = run_program(
        code, memory, parameters=parameters, grid=whole, threads=WARP * compiled.metadata.num_warps,
        shared_bytes=compiled.metadata.shared, seed=seed, most_steps=most_steps, count_traffic=count_traffic,
    )  # fmt: skip
    memory.copy_back()
    return Launch(kernel.__name__, whole, counts)


def _buffer(tensor: Tensor) -> Buffer:
    """Give the bytes of the host from a tensor's first element to its last."""
    if tensor.device.type != "cpu":
        raise PtxError(f"a tensor on {tensor.device}: expected main memory")
    if tensor.numel() == 0:
        return Buffer(tensor.data_ptr(), np.empty(0, np.uint8))
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    n_bytes = (last + 1) * tensor.element_size()
    start = tensor.storage_offset() * tensor.element_size()
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return Buffer(tensor.data_ptr(), whole[start : start + n_bytes].numpy())


def _bits(value: Any, kind: str, memory: GlobalMemory) -> int:
    """Give an argument as the bits of a parameter."""
    if isinstance(value, Tensor):
        return memory.address(value.data_ptr())
    if kind in ("fp32", "fp64"):
        dtype, bits = (np.float32, np.uint32) if kind == "fp32" else (np.float64, np.uint64)
        return int(dtype(value).view(bits))
    return int(value)


@contextlib.contextmanager
def emulated(
    *, capability: int = CAPABILITY, seed: int | None = None, count_traffic: bool = False
) -> Iterator[list[Launch]]:
    """Have every launch of a Triton kernel run on the emulator while the context lasts.

    Parameters
    ----------
    capability : int
        Compute capability times ten: 80 (A100) or 90 (H100, H200).
    seed : int, optional
        Shuffles the order of programs.
    count_traffic : bool
        Count what accesses of warps ask of caches, for `run_compiled`.

    Yields
    ------
    list of Launch
        Grows with each launch.

    Raises
    ------
    PtxError
        A process in which Triton interprets, or another capability.
    """
    _refuse_interpreter()
    _check_capability(capability)
    launches: list[Launch] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> None:
        del warmup
        launches.append(
            run_compiled(
                kernel,
                grid,
                args=args,
                options=options,
                capability=capability,
                seed=seed,
                count_traffic=count_traffic,
            )
        )

    before: Callable[..., Any] = JITFunction.run
    JITFunction.run = run
    try:
        yield launches
    finally:
        JITFunction.run = before
