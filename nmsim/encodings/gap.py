"""Gap (run length): how many dropped elements precede each kept one, in R-bit symbols, with an escape for long gaps."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import bitstream, packing, words
from nmsim.encodings.base import Encoding, EncodingSpec, Kernel
from nmsim.errors import BitstreamError, EncodingError, brief
from nmsim.pattern import Pattern
from nmsim.support.jit import njit
from nmsim.units import bits_to_bytes
from nmsim.words import Words

MAX_SYMBOL_BITS = 16


class Gap(Encoding):
    """N symbols and their escapes; `symbol_bits` None means the narrowest symbol that never needs an escape."""

    spec = EncodingSpec(
        name="gap",
        title="number of dropped elements before each kept one",
        bits_formula="N * R + escapes * R; R = bit length of M - N + 1 unless given; this R needs no escape",
        code_definition=(
            "The gap of a kept element is the number of dropped elements since the kept one before it, or since the "
            "start of the group. With ESC = 2^R - 1, a gap g becomes floor(g / ESC) symbols of value ESC, and then the symbol "
            "g mod ESC. A symbol ESC skips ESC dropped elements and keeps none. Symbols follow each other from "
            "the lowest bits up. Dropped elements after the last kept one are not written."
        ),
        decoding=(
            "Read symbols until N elements are kept. Rejected: a position of M or more, a code that ends early, bits "
            "after the last symbol."
        ),
        fixed_width=False,
        parameter="R, bits per symbol, 1 to 16",
        detects="flips that make a position M or more; others give another legal mask",
        source="Timeloop format model 'run-length-encoding'",
    )

    def __init__(self, symbol_bits: int | None = None) -> None:
        if symbol_bits is not None and not 1 <= symbol_bits <= MAX_SYMBOL_BITS:
            raise EncodingError(f"gap:{brief(symbol_bits)}: expected a symbol of 1 to {MAX_SYMBOL_BITS} bits")
        self._symbol_bits = symbol_bits

    @property
    def name(self) -> str:
        """`gap`, or `gap:R`."""
        return "gap" if self._symbol_bits is None else f"gap:{self._symbol_bits}"

    def symbol_bits(self, pattern: Pattern) -> int:
        """R: as given, or the least that never needs an escape."""
        return self._symbol_bits or (pattern.m - pattern.n + 1).bit_length()

    def code_bits(self, pattern: Pattern) -> int:
        """R * (N + floor((M - N) / ESC)): the longest code."""
        symbol = self.symbol_bits(pattern)
        return symbol * (pattern.n + (pattern.m - pattern.n) // ((1 << symbol) - 1))

    def expected_bits_per_group(self, pattern: Pattern) -> Fraction:
        """Mean over all masks; all N gaps are distributed alike, a gap of g in C(M-g-1, N-1) of C(M, N) masks."""
        symbol = self.symbol_bits(pattern)
        escape = (1 << symbol) - 1
        n, m = pattern.n, pattern.m
        escapes = sum(g // escape * math.comb(m - g - 1, n - 1) for g in range(escape, m - n + 1))
        return symbol * n * (1 + Fraction(escapes, pattern.configurations))

    def is_fixed(self, pattern: Pattern) -> bool:
        """Say whether no mask of the pattern needs an escape."""
        return pattern.m - pattern.n < (1 << self.symbol_bits(pattern)) - 1

    def code_lengths(self, codes: Any, pattern: Pattern) -> packing.Lengths | None:
        """Bits of each code, read off its symbols; None when no mask needs an escape."""
        if self.is_fixed(pattern):
            return None
        taken = codes if _is_words(codes) else words.from_integers(codes, self.code_bits(pattern), "code")
        lengths = np.empty(len(taken), np.uint16)
        _measure(self.symbol_bits(pattern), pattern.n, words.rows(taken), self.code_bits(pattern), lengths)
        return lengths

    def read_stream(
        self,
        stream: NDArray[np.uint8] | bytes,
        pattern: Pattern,
        n_groups: int,
        policy: str | packing.Policy = "bitstream",
        *,
        threads: int = 1,
    ) -> Words:
        """Unpack and decode; codes of differing lengths are found one after the other."""
        if self.is_fixed(pattern):
            return super().read_stream(stream, pattern, n_groups, policy, threads=threads)
        data = packing.as_stream(stream)
        masks, _ = self._read_differing(data, pattern, n_groups, packing.parse(policy))
        again, _ = self.write_stream(masks, pattern, policy)
        packing.refuse_padding(data, again)
        return masks

    def stream_report(
        self,
        stream: NDArray[np.uint8] | bytes,
        pattern: Pattern,
        n_groups: int,
        policy: str | packing.Policy = "bitstream",
    ) -> packing.PackingReport:
        """Count where the bits of a stream go, from its codes if they differ in length."""
        if self.is_fixed(pattern):
            return super().stream_report(stream, pattern, n_groups, policy)
        data = packing.as_stream(stream)
        return self._read_differing(data, pattern, n_groups, packing.parse(policy))[1]

    def _read_differing(
        self, data: NDArray[np.uint8], pattern: Pattern, n_groups: int, how: packing.Policy
    ) -> tuple[Words, packing.PackingReport]:
        """Read codes of differing lengths: group masks, and where the bits go."""
        masks, bit, payload = self.scan_stream(data, pattern, n_groups, how)
        packing.check_length(len(data), bits_to_bytes(bit))
        return masks, packing.PackingReport(payload, bit - payload, 8 * len(data) - bit)

    def scan_stream(
        self,
        stream: NDArray[np.uint8],
        pattern: Pattern,
        n_groups: int,
        policy: str | packing.Policy = "bitstream",
        *,
        first_bit: int = 0,
        first_group: int = 0,
    ) -> tuple[Words, int, int]:
        """Decode symbol by symbol; a code ends with the symbol of its N-th kept element."""
        how = packing.parse(policy)
        packing.refuse_differing_lengths(how)
        if n_groups < 0:
            raise BitstreamError(f"{brief(n_groups)} groups: expected 0 or more")
        symbol = self.symbol_bits(pattern)
        source = bitstream.as_words(stream)
        masks = words.zeros(n_groups, pattern.m)
        slots = how.slot_bits(np.arange(self.code_bits(pattern) + 1, dtype=np.int64))
        start, end = first_bit % 8, 8 * len(stream)
        group, reached, payload = _scan(
            symbol, pattern.n, pattern.m, source, start, end, slots, words.rows(masks)
        )
        bit = first_bit - start + int(reached)
        if group >= 0 and reached >= end:
            raise BitstreamError(
                f"metadata stream is truncated: it ends inside group {first_group + group}, expected more than "
                f"{bits_to_bytes(bit)} bytes"
            )
        if group >= 0:
            raise EncodingError(
                f"{self.name} {pattern}: code {first_group + group}, which ends at bit {bit}, keeps an element at or "
                f"beyond {pattern.m}; expected {self._legal_codes(pattern)}"
            )
        return masks, bit, int(payload)

    def encoder(self, pattern: Pattern) -> Kernel:
        symbol, bits = self.symbol_bits(pattern), self.code_bits(pattern)

        def run(masks: Words, codes: Words) -> int:
            return int(_encode(symbol, pattern.n, words.rows(masks), words.rows(codes), bits))

        return run

    def decoder(self, pattern: Pattern) -> Kernel:
        symbol, bits = self.symbol_bits(pattern), self.code_bits(pattern)

        def run(codes: Words, masks: Words) -> int:
            return int(_decode(symbol, pattern.n, pattern.m, words.rows(codes), bits, words.rows(masks)))

        return run

    def _legal_codes(self, pattern: Pattern) -> str:
        return f"{pattern.n} gaps that sum to at most {pattern.m - pattern.n}"


def _is_words(codes: Any) -> bool:
    return isinstance(codes, np.ndarray) and codes.dtype.kind == "u"


@njit(cache=True, nogil=True)
def _symbol_at(row, bit, symbol):  # type: ignore[no-untyped-def]
    """R bits of a row of words, or of one narrow code."""
    word, shift = bit >> 6, np.uint64(bit & 63)
    value = np.uint64(row[word]) >> shift
    if np.int64(shift) + symbol > 64:
        value |= np.uint64(row[word + 1]) << (np.uint64(64) - shift)
    return np.int64(value & ((np.uint64(1) << np.uint64(symbol)) - np.uint64(1)))


@njit(cache=True, nogil=True)
def _put_symbol(row, bit, symbol, value):  # type: ignore[no-untyped-def]
    word, shift = bit >> 6, np.uint64(bit & 63)
    row[word] |= np.uint64(value) << shift
    if np.int64(shift) + symbol > 64:
        row[word + 1] |= np.uint64(value) >> (np.uint64(64) - shift)


@njit(cache=True, nogil=True)
def _encode(symbol, n, masks, codes, bits):  # type: ignore[no-untyped-def]
    """Masks [G, V] -> codes [G, W]."""
    escape = (1 << symbol) - 1
    for i in range(masks.shape[0]):
        codes[i, :] = 0
        at, held, gap = 0, 0, 0
        for v in range(masks.shape[1]):
            mask = np.uint64(masks[i, v])
            seen = 0
            while mask:
                if mask & np.uint64(1):
                    held += 1
                    if held > n:
                        return i
                    while gap >= escape:
                        _put_symbol(codes[i], at, symbol, escape)
                        at += symbol
                        gap -= escape
                    _put_symbol(codes[i], at, symbol, gap)
                    at += symbol
                    gap = 0
                else:
                    gap += 1
                mask >>= np.uint64(1)
                seen += 1
            # The loop stops at the highest one of a word; the zeros above it belong to the gap as well.
            gap += 64 - seen
        if held != n:
            return i
    return -1


@njit(cache=True, nogil=True)
def _decode(symbol, n, m, codes, bits, masks):  # type: ignore[no-untyped-def]
    """Codes [G, W] -> masks [G, V]."""
    escape = (1 << symbol) - 1
    for i in range(codes.shape[0]):
        masks[i, :] = 0
        at, held, position = 0, 0, -1
        while held < n:
            if at + symbol > bits:
                return i
            value = _symbol_at(codes[i], at, symbol)
            at += symbol
            position += value
            if value != escape:
                position += 1
                if position >= m:
                    return i
                masks[i, position >> 6] |= np.uint64(1) << np.uint64(position & 63)
                held += 1
            elif position >= m:
                return i
        while at < bits:
            step = min(symbol, bits - at)
            if _symbol_at(codes[i], at, step) != 0:
                return i
            at += step
    return -1


@njit(cache=True, nogil=True)
def _measure(symbol, n, codes, bits, lengths):  # type: ignore[no-untyped-def]
    """Bits up to and including the symbol of the N-th kept element."""
    escape = (1 << symbol) - 1
    for i in range(codes.shape[0]):
        at, held = 0, 0
        while held < n and at + symbol <= bits:
            if _symbol_at(codes[i], at, symbol) != escape:
                held += 1
            at += symbol
        lengths[i] = at


@njit(cache=True, nogil=True)
def _scan(symbol, n, m, source, start, bits, slots, masks):  # type: ignore[no-untyped-def]
    """Codes of differing lengths between two bits -> masks [G, V]; (first bad group or -1, bit reached, bits of codes)."""
    escape = (1 << symbol) - 1
    payload = 0
    for i in range(masks.shape[0]):
        at, held, position = start, 0, -1
        while held < n:
            if at + symbol > bits:
                return i, bits, payload
            value = _symbol_at(source, at, symbol)
            at += symbol
            position += value
            if value != escape:
                position += 1
                held += 1
                if position < m:
                    masks[i, position >> 6] |= np.uint64(1) << np.uint64(position & 63)
            if position >= m:
                return i, at, payload
        payload += at - start
        start += slots[at - start]
    return -1, start, payload
