"""How many programs of a kernel a multiprocessor holds at once: registers, shared memory and warps decide."""

from dataclasses import dataclass

from kernels.gpu.products.plan import Machine, programs_at_once
from kernels.stored.errors import KernelError
from nmsim.errors import brief

SOURCE = (
    "CUDA C++ Programming Guide, technical specifications per compute capability; "
    "CUDA Occupancy Calculator: registers of a warp in steps of 256, a partition holds a quarter of them, "
    "1 KiB of shared memory is reserved per program"
)


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor has for programs. Source: `SOURCE`."""

    warps: int
    programs: int
    registers: int
    shared_bytes: int


MULTIPROCESSORS = {
    80: Multiprocessor(64, 32, 65536, 164 * 1024),
    89: Multiprocessor(48, 24, 65536, 100 * 1024),
    90: Multiprocessor(64, 32, 65536, 228 * 1024),
    100: Multiprocessor(64, 32, 65536, 228 * 1024),
}
RESERVED_BYTES = 1024


def programs_per_multiprocessor(
    architecture: int, *, warps: int, registers: int, shared_bytes: int = 0
) -> int:
    """Count the programs that run on one multiprocessor at a time.

    Parameters
    ----------
    architecture : {80, 89, 90, 100}
    warps : int
        Of a program.
    registers : int
        Of a thread.
    shared_bytes : int
        Of a program.

    Returns
    -------
    int
        0 if one alone does not fit.

    Raises
    ------
    KernelError
        Another architecture.

    Source
    ------
    `SOURCE`.

    Examples
    --------
    >>> programs_per_multiprocessor(90, warps=16, registers=40)
    3
    >>> programs_per_multiprocessor(90, warps=16, registers=96)
    1
    """
    if architecture not in MULTIPROCESSORS:
        raise KernelError(
            f"architecture {brief(architecture)}: expected one of {', '.join(map(str, MULTIPROCESSORS))}"
        )
    has = MULTIPROCESSORS[architecture]
    machine = Machine(registers=has.registers, warps=has.warps, programs=has.programs)
    held = programs_at_once(registers, warps, machine)
    return min(held, has.shared_bytes // (shared_bytes + RESERVED_BYTES))


def waves(programs: int, slots: int) -> int:
    """Count how often a machine is filled until all programs have run: the last time perhaps in part.

    Examples
    --------
    >>> waves(448, 396), waves(396, 396)
    (2, 1)
    """
    return -(-programs // slots)
