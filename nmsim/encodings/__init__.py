"""How a mask of N in M becomes bits: one file an encoding, found by name."""

from nmsim.encodings.base import Encoding, EncodingSpec
from nmsim.encodings.registry import CLASSES, get
from nmsim.encodings.unstructured import coo_bits, csr_bits

__all__ = ["Encoding", "EncodingSpec", "coo_bits", "csr_bits", "get", "names", "specs"]


def names() -> list[str]:
    """List the encodings' names, without parameters."""
    return list(CLASSES)


def specs() -> list[EncodingSpec]:
    """List the records that describe the encodings."""
    return [kind.spec for kind in CLASSES.values()]
