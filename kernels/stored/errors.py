"""The error of all kernels."""

from nmsim.errors import NmsimError


class KernelError(NmsimError):
    """Operands that a kernel cannot take: wrong type, shape or memory order, or an instruction set that is not available."""
