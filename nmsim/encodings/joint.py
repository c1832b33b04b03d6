"""Joint: one code for G groups together, the number whose digits in base C(M, N) are their combinatorial codes."""

import functools
from typing import NamedTuple

import numpy as np

from nmsim import words
from nmsim.encodings.base import MAX_CODE_BITS, Encoding, EncodingSpec, Kernel
from nmsim.encodings.combinatorial import Combinatorial
from nmsim.errors import EncodingError, brief
from nmsim.pattern import Pattern
from nmsim.support.jit import njit
from nmsim.units import ceil_div

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
            "of a tensor, the missing digits are 0. G is refused if a code takes more than 4096 bits. "
            "Without a parameter, G is chosen among those whose code fits 64 bits. "
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
            raise EncodingError(f"joint:{brief(groups)}: expected 1 to {MAX_GROUPS} groups")
        self._groups = groups
        self._single = Combinatorial()

    @property
    def name(self) -> str:
        """`joint`, or `joint:G`."""
        return "joint" if self._groups is None else f"joint:{self._groups}"

    def groups_per_code(self, pattern: Pattern) -> int:
        """G: as given, or the best that fits a machine word.

        Raises
        ------
        EncodingError
            G groups of this pattern take more than `MAX_CODE_BITS` bits.
        """
        return _size(pattern.configurations, self._groups).groups

    def code_bits(self, pattern: Pattern) -> int:
        """ceil(G * log2 C(M, N)), in exact integers; errors as for `groups_per_code`."""
        return _size(pattern.configurations, self._groups).bits

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


class _Size(NamedTuple):
    """Groups of a code and its bits."""

    groups: int
    bits: int


@functools.lru_cache(maxsize=4096)
def _size(base: int, groups: int | None) -> _Size:
    """Size of a code of `groups` digits in a base; None means the best that fits a machine word."""
    if groups is not None:
        # The least that the bits can be is compared first: a power of 4096 groups takes long to compute.
        least_bits = groups * (base.bit_length() - 1)
        bits = least_bits if least_bits > MAX_CODE_BITS else (base**groups - 1).bit_length()
        if bits > MAX_CODE_BITS:
            most = MAX_CODE_BITS // base.bit_length()
            while (base ** (most + 1) - 1).bit_length() <= MAX_CODE_BITS:
                most += 1
            raise EncodingError(
                f"joint:{groups}: {groups} groups of {brief(base)} masks each take more than {MAX_CODE_BITS} bits, which is "
                f"the most of one code; expected at most joint:{most}"
            )
        return _Size(groups, bits)
    best, best_bits, power = 1, (base - 1).bit_length(), base
    for count in range(2, words.WORD_BITS + 1):
        power *= base
        bits = (power - 1).bit_length()
        if bits > words.WORD_BITS:
            break
        if bits * best < best_bits * count:
            best, best_bits = count, bits
    return _Size(best, best_bits)


def _word_digits(base: int) -> int:
    """Digits in a base that fit a machine word together."""
    return words.WORD_BITS // max(1, (base - 1).bit_length())


def _combine(base: int, groups: int, digits: words.Words, codes: words.Words) -> None:
    if codes.ndim == 1 and digits.ndim == 1:
        _combine_words(np.uint64(base), groups, digits, codes)
        return
    for i in range(len(codes)):
        own = digits[i * groups : (i + 1) * groups]
        radix = base
        if own.ndim == 1:
            # Digits are joined to machine words first: Python then has a few long numbers to handle, not all digits.
            per_word = _word_digits(base)
            parts = np.empty(ceil_div(len(own), per_word), np.uint64)
            _combine_words(np.uint64(base), per_word, own, parts)
            own, radix = parts, base**per_word
        number = 0
        for position in range(len(own) - 1, -1, -1):
            number = number * radix + words.integer_at(own, position)
        words.put(codes, i, number)


def _split(base: int, groups: int, codes: words.Words, digits: words.Words) -> int:
    if codes.ndim == 1 and digits.ndim == 1:
        return int(_split_words(np.uint64(base), groups, codes, digits))
    for i in range(len(codes)):
        number = words.integer_at(codes, i)
        own = digits[i * groups : (i + 1) * groups]
        per_word = _word_digits(base) if own.ndim == 1 else 1
        parts = np.empty(ceil_div(len(own), per_word), np.uint64) if own.ndim == 1 else own
        for position in range(len(parts)):
            # The last word has the digits that are left, and a code beyond them is illegal.
            held = min(per_word, len(own) - position * per_word)
            number, part = divmod(number, base**held)
            words.put(parts, position, part)
        if number or (own.ndim == 1 and _split_words(np.uint64(base), per_word, parts, own) >= 0):
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
