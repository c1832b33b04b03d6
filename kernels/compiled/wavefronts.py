"""What a kernel's accesses ask of L1: counted from the addresses of a run on the emulator.

L1 serves a warp's load in one or more passes, called wavefronts. Addresses that depend on data, such as those of a gather or a
table, cannot be read off machine code. So the kernel runs on random weights, and every address is seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kernels.ptx import emulated
from kernels.ptx.memory import Traffic
from kernels.stored.errors import KernelError

GROUP_ELEMS = 16
WARP_THREADS = 32


@dataclass(frozen=True)
class Wavefronts:
    """Wavefronts of a multiprocessor's L1 for 32 threads with 16 elements of a dense matrix each.

    Parameters
    ----------
    least : float
        If different lines may be read at once, as far as no bank must give two words.
    most : float
        If each line of 128 bytes is a wavefront of its own.
    sectors : float
        Sectors of 32 bytes that loads from global memory name.
    launches : int
        Kernels that the run launched.
    """

    least: float
    most: float
    sectors: float
    launches: int


def wavefronts(run: Callable[[], int], kernel: str, *, capability: int = 90) -> Wavefronts:
    """Run something on the emulator and count the wavefronts of one kernel.

    Parameters
    ----------
    run : callable
        Launches kernels on tensors in main memory, and gives the elements of the dense matrix that they took.
    kernel : str
        The name of the kernel that counts; others that are launched do not.
    capability : {80, 90}

    Returns
    -------
    Wavefronts
        Of the whole kernel, its beginning and end included. Stores count, and so does shared memory, which is the same unit.
        `ldmatrix` and the matrix units are not counted.

    Raises
    ------
    KernelError
        No launch of that kernel.

    Notes
    -----
    How many lines L1 finds in a cycle is not published. So there are two counts, and the truth lies between them.
    """
    with emulated(capability=capability, count_traffic=True) as launches:
        elems = run()
    found = [launch.counts.traffic for launch in launches if launch.kernel == kernel]
    if not found:
        names = ", ".join(sorted({launch.kernel for launch in launches})) or "nothing"
        raise KernelError(f"{kernel} was not launched: found {names}")
    total = {
        name: sum((traffic.get(name, Traffic()) for traffic in found), Traffic())
        for name in ("load", "store", "shared")
    }
    groups = elems / GROUP_ELEMS / WARP_THREADS
    both = total["load"] + total["store"]
    shared = total["shared"].conflicts
    return Wavefronts(
        round((both.conflicts + shared) / groups, 3),
        round((both.lines + shared) / groups, 3),
        round(total["load"].sectors / groups, 3),
        len(launches),
    )
