"""Bitmask: the code of a mask is the mask."""

from functools import partial

import numpy as np

from nmsim.encodings.base import Encoding, EncodingSpec, Kernel
from nmsim.pattern import Pattern
from nmsim.support.jit import njit
from nmsim.words import popcount


class Bitmask(Encoding):
    """M bits per group, bit i set when element i is kept."""

    spec = EncodingSpec(
        name="bitmask",
        title="one bit per element",
        bits_formula="M",
        code_definition="The code is the mask: bit i (value 2^i) is 1 when element i of the group is kept.",
        decoding="The mask is the code. A code without exactly N ones is rejected.",
        fixed_width=True,
        parameter="",
        detects="every single bit flip, because every mask has N ones; of two flips, those that change the count",
        source="Timeloop format model 'bitmask'; SpInfer (EuroSys 2025) stores unstructured weights in this form",
    )

    def code_bits(self, pattern: Pattern) -> int:
        """M."""
        return pattern.m

    def encoder(self, pattern: Pattern) -> Kernel:
        return partial(_copy_checked, pattern.n, pattern.m)

    def decoder(self, pattern: Pattern) -> Kernel:
        return partial(_copy_checked, pattern.n, pattern.m)


def _copy_checked(n, m, source, target):  # type: ignore[no-untyped-def]
    if source.ndim == 2:
        target[:] = source
        wrong = np.bitwise_count(source).sum(axis=1) != n
        return int(np.argmax(wrong)) if wrong.any() else -1
    if _copy(n, source, target):
        return -1
    return int(np.argmax(np.bitwise_count(source) != n))


@njit(cache=True, nogil=True)
def _copy(n, source, target):  # type: ignore[no-untyped-def]
    """[G] -> [G], True when every entry has n ones."""
    wrong = np.uint64(0)
    ones = np.uint64(n)
    for i in range(source.size):
        target[i] = source[i]
        wrong |= popcount(np.uint64(source[i])) ^ ones
    return wrong == 0
