"""How a mask of N in M becomes bits: one file an encoding, found by name.

The package is also a mapping, so that `encodings["combinatorial"]` is the encoding and `list(encodings)` their names.
"""

import sys
from collections.abc import Iterator
from types import ModuleType

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


class _Mapping(ModuleType):
    """This module's own type: name -> encoding (see "Customizing module attribute access" in the Python manual)."""

    def __getitem__(self, name: str) -> Encoding:
        return get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)

    def __contains__(self, name: object) -> bool:
        return name in CLASSES


sys.modules[__name__].__class__ = _Mapping
