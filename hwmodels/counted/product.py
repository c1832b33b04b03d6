"""Which compiled kernel of ours takes a product, and what it is predicted to take: predicted, not measured."""

from hwmodels.counted.table import CountedKernel, counted_kernels, triton_versions
from hwmodels.counted.time import CountedTime, architecture, counted_time
from hwmodels.machine.spec import HardwareSpec
from nmsim.case import GemmShape
from nmsim.errors import SpecError, brief
from nmsim.format import SparseFormat

PRODUCTS = ("gemv", "mma")
"""Kernels that multiply with N:M weights."""
LEAST_MATRIX_TOKENS = 5
"""Tokens from which the layer of this project takes the product on matrix units; fewer take the decode GEMV."""
DTYPE_BYTES = 2
COUNTED_DTYPES = ("fp16", "bf16")
"""Counted for fp16; bf16 takes a few more instructions and the same bytes."""


def counted_product(
    shape: GemmShape, machine: HardwareSpec, *, format: SparseFormat, dtype: str = "fp16",
    triton: str | None = None, launch_s: float | None = None,
) -> CountedTime | None:  # fmt: skip
    """Predict a product with N:M weights by the best of our compiled kernels.

    Parameters
    ----------
    shape : GemmShape
    machine : HardwareSpec
    format : SparseFormat
        Its packing does not matter: the kernels read an order of their own.
    dtype : str
        Of values: 16 bits.
    triton : str, optional
        Version of the compiler; the newest when absent.
    launch_s : float, optional
        See `counted_time`.

    Returns
    -------
    CountedTime or None
        None if no kernel was counted for such a product or machine.

    Raises
    ------
    SpecError
        A version of Triton whose code was not counted.
    """
    kernels = _kernels(machine, triton)
    pattern, encoding = str(format.pattern), format.encoding.name
    fit = [
        row
        for row in kernels
        if row.kernel in PRODUCTS
        and (row.kernel == "gemv" or shape.M >= LEAST_MATRIX_TOKENS)
        and (row.pattern, row.encoding) == (pattern, encoding)
        and row.tokens >= shape.M
    ]
    if not fit or dtype not in COUNTED_DTYPES:
        return None
    # A kernel for more tokens does the work of all of them: each kind serves a count by its narrowest one.
    narrow = {kind: min((row.tokens for row in fit if row.kernel == kind), default=0) for kind in PRODUCTS}
    other_bytes = float(DTYPE_BYTES * shape.M * (shape.N + shape.K))
    found = [
        counted_time(row, machine, outputs=shape.N, k=shape.K, other_bytes=other_bytes, launch_s=launch_s)
        for row in fit
        if row.tokens == narrow[row.kernel] and row.programs
    ]
    return min(found, key=lambda one: one.time_s, default=None)


def counted_pruning(
    elements: int, machine: HardwareSpec, *, format: SparseFormat, triton: str | None = None
) -> tuple[CountedTime, CountedTime] | None:
    """Predict pruning of so many elements of 16 bits, and a copy of them, both in a CUDA graph: None if not counted."""
    kernels = _kernels(machine, triton)
    wanted = (str(format.pattern), format.encoding.name)
    prune = [row for row in kernels if row.kernel == "prune" and (row.pattern, row.encoding) == wanted]
    copy = [row for row in kernels if row.kernel == "copy"]
    if not prune or not copy:
        return None
    pruned, copied = (
        counted_time(row, machine, outputs=1, k=elements, launch_s=0.0) for row in (prune[0], copy[0])
    )
    return pruned, copied


def _kernels(machine: HardwareSpec, triton: str | None) -> list[CountedKernel]:
    versions = triton_versions()
    version = versions[-1] if triton is None else triton
    if version not in versions:
        raise SpecError(f"triton {brief(version)}: expected one of {', '.join(versions)}")
    sm = architecture(machine)
    return [row for row in counted_kernels() if row.triton == version and row.architecture == sm]
