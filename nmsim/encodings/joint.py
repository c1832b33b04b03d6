"""Joint: one code for G groups together, the number whose digits in base C(M, N) are their combinatorial codes."""

import numpy as np

from nmsim import words
from nmsim.encodings.base import Encoding, EncodingSpec, Kernel
from nmsim.encodings.combinatorial import Combinatorial
from nmsim.errors import EncodingError
from nmsim.pattern import Pattern
from nmsim.support.jit import njit

MAX_GROUPS = 4096


class Joint(Encoding):
    """ceil(G * log2 C(M, N)) bits for G groups; `groups` None means the best G whose code fits 64 bits."""

    spec = EncodingSpec(
        name="joint",
        title="rank of G groups together",
        bits_formula="ceil(G * log2 C(M, N)) for G groups",
        code_definition=(
            "Let c_0, c_1, ... be the combinatorial codes of G consecutive groups, and C = C(M, N). The code is the sum of "
            "c_j * C^j. The first group is the least significant digit. If fewer than G groups are left at the end "
            "of a tensor, the missing digits are 0. Without a parameter, G is chosen among those whose code fits 64 bits. "
            "It is the G with the fewest bits per group, and the least G of equal ones. If no code fits, G is 1."
        ),
        decoding=(
            "Digit j is floor(code / C^j) mod C. Rejected: a code of C^G or more, and a missing digit that is not 0."
        ),
        fixed_width=True,
        parameter="G, groups per code, 1 to 4096",
        detects="a flip that makes the code C^G or more; others change one or several groups to other legal masks",
        source="mixed-radix combination of TAOCP 7.2.1.3 ranks; tends to the entropy bound log2 C(M, N)",
    )

    def __init__(self, groups: int | None = None) -> None:
        if groups is not None and not 1 <= groups <= MAX_GROUPS:
            raise EncodingError(f"joint:{groups}: expected 1 to {MAX_GROUPS} groups")
        self._groups = groups
        self._single = Combinatorial()

    @property
    def name(self) -> str:
        """`joint`, or `joint:G`."""
        return "joint" if self._groups is None else f"joint:{self._groups}"

    def groups_per_code(self, pattern: Pattern) -> int:
        """G: as given, or the best that fits a machine word."""
        if self._groups is not None:
            return self._groups
        best, best_bits, power = 1, (pattern.configurations - 1).bit_length(), pattern.configurations
        for groups in range(2, words.WORD_BITS + 1):
            power *= pattern.configurations
            bits = (power - 1).bit_length()
            if bits > words.WORD_BITS:
                break
            if bits * best < best_bits * groups:
                best, best_bits = groups, bits
        return best

    def code_bits(self, pattern: Pattern) -> int:
        """ceil(G * log2 C(M, N)), in exact integers."""
        return int(pattern.configurations ** self.groups_per_code(pattern) - 1).bit_length()

    def encoder(self, pattern: Pattern) -> Kernel:
        groups = self.groups_per_code(pattern)

        def run(masks: words.Words, codes: words.Words) -> int:
            digits = words.empty(len(masks), self._single.code_bits(pattern))
            bad = self._single.encoder(pattern)(masks, digits)
            if bad < 0:
                _combine(pattern.configurations, groups, digits, codes)
            return bad

        return run

    def decoder(self, pattern: Pattern) -> Kernel:
        groups = self.groups_per_code(pattern)

        def run(codes: words.Words, masks: words.Words) -> int:
            digits = words.zeros(len(masks), self._single.code_bits(pattern))
            bad = _split(pattern.configurations, groups, codes, digits)
            if bad < 0:
                self._single.decoder(pattern)(digits, masks)
            return bad

        return run

    def _legal_codes(self, pattern: Pattern) -> str:
        return f"0 <= code < C({pattern.m}, {pattern.n})^{self.groups_per_code(pattern)}, missing digits 0"


def _combine(base: int, groups: int, digits: words.Words, codes: words.Words) -> None:
    if codes.ndim == 1 and digits.ndim == 1:
        _combine_words(np.uint64(base), groups, digits, codes)
        return
    for i in range(len(codes)):
        number = 0
        for position in range(min((i + 1) * groups, len(digits)) - 1, i * groups - 1, -1):
            number = number * base + words.integer_at(digits, position)
        words.put(codes, i, number)


def _split(base: int, groups: int, codes: words.Words, digits: words.Words) -> int:
    if codes.ndim == 1 and digits.ndim == 1:
        return int(_split_words(np.uint64(base), groups, codes, digits))
    for i in range(len(codes)):
        number = words.integer_at(codes, i)
        for position in range(i * groups, min((i + 1) * groups, len(digits))):
            number, digit = divmod(number, base)
            words.put(digits, position, digit)
        if number:
            return i
    return -1


@njit(cache=True, nogil=True)
def _combine_words(base, groups, digits, codes):  # type: ignore[no-untyped-def]
    """Digits [G] -> codes [G / groups], Horner from the last group back."""
    for i in range(codes.size):
        number = np.uint64(0)
        for position in range(min((i + 1) * groups, digits.size) - 1, i * groups - 1, -1):
            number = number * base + np.uint64(digits[position])
        codes[i] = number


@njit(cache=True, nogil=True)
def _split_words(base, groups, codes, digits):  # type: ignore[no-untyped-def]
    """Codes -> digits [G]; the first code with something left over, or -1."""
    for i in range(codes.size):
        number = np.uint64(codes[i])
        for position in range(i * groups, min((i + 1) * groups, digits.size)):
            rest = number // base
            digits[position] = number - rest * base
            number = rest
        if number != 0:
            return i
    return -1
