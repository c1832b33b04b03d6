"""Which instruction sets this CPU has, and which of them a call may use."""

import functools
import os
import platform

from kernels.stored.errors import KernelError
from nmsim.errors import brief

ALL = ("avx512", "avx2", "portable")
"""Best first."""
CAP_VARIABLE = "NMSIM_CPU_ISA"
NEEDED = {
    "avx2": frozenset({"avx2", "fma", "f16c", "bmi", "bmi2", "popcnt"}),
    "avx512": frozenset({"avx2", "fma", "f16c", "bmi", "bmi2", "popcnt", "avx512f", "avx512bw", "avx512vl", "avx512dq"}),
}  # fmt: skip
"""CPU features, in LLVM's names, that the generated code of a set uses."""


def instruction_sets() -> tuple[str, ...]:
    """Name the instruction sets that kernels may use here, best first; `"portable"` is always the last.

    The environment variable `NMSIM_CPU_ISA` (one of `avx512`, `avx2`, `portable`) leaves out what is better than
    it says.

    Raises
    ------
    KernelError
        The variable holds something else.

    Examples
    --------
    >>> instruction_sets()[-1]
    'portable'
    """
    return _up_to(os.environ.get(CAP_VARIABLE) or ALL[0])


def chosen(isa: str | None) -> str:
    """Take the best instruction set, or the one asked for.

    Raises
    ------
    KernelError
        Not a known name, or not usable here.
    """
    usable = instruction_sets()
    if isa is None:
        return usable[0]
    if isa not in ALL:
        raise KernelError(f"isa={brief(isa)}: expected one of {', '.join(ALL)}, or None for the best")
    if isa not in _of_this_cpu():
        raise KernelError(f"isa={brief(isa)}: this CPU lacks it, expected one of {', '.join(usable)}")
    if isa not in usable:
        raise KernelError(
            f"isa={brief(isa)}: {CAP_VARIABLE}={os.environ[CAP_VARIABLE]} leaves it out, expected one of {', '.join(usable)}"
        )
    return isa


@functools.cache
def _up_to(cap: str) -> tuple[str, ...]:
    if cap not in ALL:
        raise KernelError(
            f"environment variable {CAP_VARIABLE}={brief(cap)}: expected one of {', '.join(ALL)}"
        )
    return tuple(isa for isa in _of_this_cpu() if ALL.index(isa) >= ALL.index(cap))


@functools.cache
def _of_this_cpu() -> tuple[str, ...]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ("portable",)
    from llvmlite import binding  # type: ignore[import-untyped]

    features = {name for name, present in binding.get_host_cpu_features().items() if present}
    return (*(isa for isa in ALL[:-1] if features >= NEEDED[isa]), "portable")
