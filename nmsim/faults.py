"""Bit flips in packed metadata: what a decoder detects, and what it silently takes for another mask.

A fault is *detected* if the decoder raises. It is *silent* if the decoder returns other masks, all of them legal.
It is *harmless* if the decoder returns the masks that were written. Faults in payload bits are counted separately
from those that change a padding or alignment bit. A single flip of such a bit is always detected.

>>> inject([0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100], "2:4/combinatorial").payload
FaultCounts(detected=4, silent=14, harmless=0, wrong_groups=14)
"""

import itertools
import operator
from dataclasses import astuple, dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nmsim import packing, words
from nmsim.errors import BitstreamError, EncodingError, brief
from nmsim.format import FormatLike, SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.units import ceil_div
from nmsim.words import Words

DEFAULT_GROUPS = 8
DEFAULT_STREAMS = 16


@dataclass(frozen=True)
class FaultCounts:
    """How often the decoder did what; `wrong_groups` adds up the groups that the silent faults changed."""

    detected: int = 0
    silent: int = 0
    harmless: int = 0
    wrong_groups: int = 0

    def __add__(self, other: Self) -> "FaultCounts":
        return FaultCounts(*map(operator.add, astuple(self), astuple(other)))

    @property
    def faults(self) -> int:
        """Faults tried."""
        return self.detected + self.silent + self.harmless

    @property
    def share_detected(self) -> Fraction | None:
        """Detected faults of all tried; None when none was tried."""
        return Fraction(self.detected, self.faults) if self.faults else None


@dataclass(frozen=True)
class FaultReport:
    """The answer for one encoding, pattern, packing and number of flipped bits.

    Parameters
    ----------
    format : SparseFormat
    flips : {1, 2}
        Bits flipped in a fault.
    payload : FaultCounts
        Faults whose every flipped bit belongs to a code.
    padding : FaultCounts
        Faults with at least one flipped padding or alignment bit.
    """

    format: SparseFormat
    flips: int
    payload: FaultCounts
    padding: FaultCounts

    @property
    def total(self) -> FaultCounts:
        """All faults of the stream as it lies in memory."""
        return self.payload + self.padding


def inject(group_masks: Any, format: FormatLike, *, flips: int = 1) -> FaultReport:
    """Flip every bit, or every pair of bits, of one stream and see what the decoder says.

    Parameters
    ----------
    group_masks : unsigned integers, shape [G]
        Bit i is element i of the group; each with exactly N ones.
    format : SparseFormat, Pattern or str
    flips : {1, 2}
        Bits flipped at a time. The stream is decoded once for each fault: of B bits, B times or
        B (B - 1) / 2 times.

    Returns
    -------
    FaultReport

    Raises
    ------
    EncodingError
        Unknown encoding, an illegal mask, or `flips` that is neither 1 nor 2.
    BitstreamError
        Unknown packing policy, or one that the encoding cannot take.

    Notes
    -----
    **Source**: exhaustive enumeration, no model. By hand: the decoder of `bitmask` detects every single flip.
    Of two flips in one group it detects those that set or clear both. A flip in a `combinatorial` code is
    detected only if it makes the code C(M, N) or more.

    Examples
    --------
    >>> inject([0b0011, 0b0101], "2:4/bitmask").payload.share_detected
    Fraction(1, 1)
    """
    if isinstance(flips, bool) or flips not in (1, 2):
        raise EncodingError(f"flips={brief(flips)} (type {type(flips).__name__}): expected 1 or 2")
    format = sparse_format(format)
    codec, pattern, policy = format.encoding, format.pattern, format.packing
    masks = words.from_integers(group_masks, pattern.m, "group mask")
    stream, _ = codec.write_stream(masks, pattern, policy)
    is_payload = _payload_bits(format, masks)
    payload, padding = FaultCounts(), FaultCounts()
    for bits in itertools.combinations(range(8 * len(stream)), flips):
        outcome = _decode_damaged(format, masks, stream, bits)
        if all(is_payload[bit] for bit in bits):
            payload += outcome
        else:
            padding += outcome
    return FaultReport(format, flips, payload, padding)


def survey(
    format: FormatLike,
    *,
    flips: int = 1,
    n_groups: int | None = None,
    n_streams: int = DEFAULT_STREAMS,
    seed: int = 0,
) -> FaultReport:
    """Sum `inject` over streams of random masks, each mask of the pattern equally likely.

    Parameters
    ----------
    format : SparseFormat, Pattern or str
    flips : {1, 2}
        Bits flipped at a time.
    n_groups : int, optional
        Groups of a stream; 8 unless given, rounded up to whole codes. It matters if codes differ in
        length, because a flip in one group can shift the next. It also matters for pairs: with more groups,
        fewer pairs fall in one.
    n_streams : int
        Streams to try.
    seed : int
        Same seed, same masks.

    Returns
    -------
    FaultReport

    Raises
    ------
    EncodingError
        As for `inject`, or a count that is not positive.
    BitstreamError
        As for `inject`.

    Notes
    -----
    **Source**: as for `inject`.

    Examples
    --------
    >>> survey("8:16/bitmask").payload.share_detected
    Fraction(1, 1)
    """
    format = sparse_format(format)
    pattern = format.pattern
    per_code = format.encoding.groups_per_code(pattern)
    if n_groups is None:
        n_groups = ceil_div(DEFAULT_GROUPS, per_code) * per_code
    for name, count in (("n_groups", n_groups), ("n_streams", n_streams)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise EncodingError(
                f"{name}={brief(count)} (type {type(count).__name__}): expected a positive int"
            )
    rng = np.random.default_rng(seed)
    payload, padding = FaultCounts(), FaultCounts()
    for _ in range(n_streams):
        report = inject(_random_masks(rng, pattern, n_groups), format, flips=flips)
        payload += report.payload
        padding += report.padding
    return FaultReport(format, flips, payload, padding)


def _random_masks(rng: np.random.Generator, pattern: Pattern, n_groups: int) -> list[int]:
    """Masks of the pattern, all equally likely."""
    kept = rng.permuted(np.tile(np.arange(pattern.m), (n_groups, 1)), axis=1)[:, : pattern.n]
    return [sum(1 << position for position in group) for group in kept.tolist()]


def _payload_bits(format: SparseFormat, masks: Words) -> NDArray[np.bool_]:
    """Mark the bits of the stream that belong to a code and are not padding: bool, one per bit."""
    codes = format.encoding.encode_words(masks, format.pattern)
    code_bits = format.code_bits
    lengths = format.encoding.code_lengths(codes, format.pattern)
    each_bits = [code_bits] * len(codes) if lengths is None else lengths.tolist()
    filled = [(1 << bits) - 1 for bits in each_bits]
    stream = packing.pack(filled, code_bits, format.packing, lengths)
    return np.unpackbits(stream, bitorder="little").astype(np.bool_)


def _decode_damaged(
    format: SparseFormat, masks: Words, stream: NDArray[np.uint8], bits: tuple[int, ...]
) -> FaultCounts:
    """Flip the bits in a copy of the stream, decode it, and classify what comes back."""
    damaged = stream.copy()
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    try:
        decoded = format.encoding.read_stream(damaged, format.pattern, len(masks), format.packing)
    except (BitstreamError, EncodingError):
        return FaultCounts(detected=1)
    wrong_groups = int((decoded != masks).reshape(len(masks), -1).any(axis=1).sum())
    return FaultCounts(silent=1, wrong_groups=wrong_groups) if wrong_groups else FaultCounts(harmless=1)
