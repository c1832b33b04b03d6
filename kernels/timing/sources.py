"""What a kernel is made of: a digest of its sources, so that a row says which version of the kernel it is of."""

from pathlib import Path

from nmsim.support.jit import digest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = 12


def digest_of(module: str) -> str:
    """Digest the sources of a module, and of all that it imports from its package and from nmsim; nothing is imported.

    Parameters
    ----------
    module : str
        Its full name, such as `"kernels.gpu.products.gemv"`; "" for what is not ours.

    Returns
    -------
    str
        12 hex digits; "" for what is not ours.

    Examples
    --------
    >>> digest_of("kernels.gpu.products.gemv") == digest_of("kernels.gpu.products.gemm"), digest_of("")
    (False, '')
    """
    if not module:
        return ""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return digest(module, str(path))[:DIGITS]
