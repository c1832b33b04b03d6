"""What an encoding is: a record that describes it, and the methods that every one of them has."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nmsim import packing, words
from nmsim.errors import EncodingError, brief
from nmsim.pattern import Pattern
from nmsim.support import parallel
from nmsim.units import ceil_div
from nmsim.words import Words

SPLIT_GROUPS = 1 << 18
"""Fewest groups worth a thread of their own."""

MAX_CODE_BITS = 4096
"""Most bits of one code in a packed tensor: those of `gap:16` at 256:256, the longest code except for `joint`. A longer
`joint` code would save less than one bit in 4096, and the time to split a code grows with its square."""

Kernel = Callable[[Words, Words], int]
"""Fills the second array from the first; returns the position of the first bad entry, or -1."""


@dataclass(frozen=True)
class EncodingSpec:
    """The facts of one encoding. The formats page is generated from these records and from nothing else.

    Parameters
    ----------
    name : str
        What users write.
    title : str
        Half a line for tables.
    bits_formula : str
        Bits of one code, as a formula in N and M.
    code_definition : str
        How a mask becomes a code, exact enough to write an encoder from.
    decoding : str
        How a code becomes a mask, and which codes are rejected.
    fixed_width : bool
        Every code of a pattern has the same number of bits.
    parameter : str
        What the number after the colon means (`gap:2`), or empty.
    detects : str
        Which corruptions the decoder is sure to notice.
    source : str
        Where the encoding is known from.
    """

    name: str
    title: str
    bits_formula: str
    code_definition: str
    decoding: str
    fixed_width: bool
    parameter: str
    detects: str
    source: str


class Encoding(ABC):
    """One way to write which N of M elements are kept. Masks and codes are unsigned integers."""

    spec: ClassVar[EncodingSpec]

    @property
    def name(self) -> str:
        """The name that gives exactly this encoding back, its parameter included."""
        return self.spec.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"encodings.get({self.name!r})"

    @abstractmethod
    def code_bits(self, pattern: Pattern) -> int:
        """Bits of a code; of the longest one when codes differ in length."""

    @abstractmethod
    def encoder(self, pattern: Pattern) -> Kernel:
        """A kernel from group masks to codes; a position it returns is that of an illegal mask."""

    @abstractmethod
    def decoder(self, pattern: Pattern) -> Kernel:
        """A kernel from codes to group masks; a position it returns is that of an illegal code."""

    def supports(self, pattern: Pattern) -> bool:
        """Say whether the pattern has codes: always, except for `tiled`."""
        return True

    def groups_per_code(self, pattern: Pattern) -> int:
        """Groups that one code covers: 1, except for `joint`."""
        return 1

    def n_codes(self, n_groups: int, pattern: Pattern) -> int:
        """Codes that `n_groups` groups take."""
        return ceil_div(n_groups, self.groups_per_code(pattern))

    def bits_per_group(self, pattern: Pattern) -> int | Fraction:
        """Bits of a code over the groups it covers; of the longest code when they differ in length."""
        ratio = Fraction(self.code_bits(pattern), self.groups_per_code(pattern))
        return int(ratio) if ratio.denominator == 1 else ratio

    def expected_bits_per_group(self, pattern: Pattern) -> Fraction:
        """Mean bits of a group when all masks are equally likely."""
        return Fraction(self.bits_per_group(pattern))

    def code_lengths(self, codes: Any, pattern: Pattern) -> packing.Lengths | None:
        """Bits of each code, or None when all have `code_bits`."""
        return None

    def encode(self, group_masks: Any, pattern: Pattern, *, threads: int = 1) -> NDArray[Any]:
        """Turn group masks into codes.

        Parameters
        ----------
        group_masks : unsigned integers, shape [G]
            Bit i is element i of the group. A sequence or object array of Python ints when M > 64.
        pattern : Pattern
        threads : int
            Cores to use.

        Returns
        -------
        unsigned integer array [n_codes]
            Of the narrowest dtype; an object array of Python ints when a code takes more than 64 bits.

        Raises
        ------
        EncodingError
            A mask that has not exactly N ones among its low M bits; the message names the group.
        """
        masks = words.from_integers(group_masks, pattern.m, "group mask")
        return words.to_integers(self.encode_words(masks, pattern, threads=threads))

    def decode(
        self, codes: Any, pattern: Pattern, n_groups: int | None = None, *, threads: int = 1
    ) -> NDArray[Any]:
        """Turn codes into group masks.

        Parameters
        ----------
        codes : unsigned integers, shape [n_codes]
        pattern : Pattern
        n_groups : int, optional
            Groups to decode; needed only if one code covers several groups and the last is not full.
        threads : int
            Cores to use.

        Returns
        -------
        unsigned integer array [n_groups]
            Of the narrowest dtype; an object array of Python ints when M > 64.

        Raises
        ------
        EncodingError
            A code that no legal mask has; the message names the code.
        """
        taken = words.from_integers(codes, self.code_bits(pattern), "code")
        return words.to_integers(self.decode_words(taken, pattern, n_groups, threads=threads))

    def encode_words(
        self, masks: Words, pattern: Pattern, *, out: Words | None = None, threads: int = 1
    ) -> Words:
        """Like `encode`, on `Words` (wide integers as uint64 rows), into `out` when given."""
        if out is None:
            out = words.empty(self.n_codes(len(masks), pattern), self.code_bits(pattern))
        bad = _run(self.encoder(pattern), masks, out, self.groups_per_code(pattern), 1, threads)
        if bad >= 0:
            raise _illegal_mask(bad, words.integer_at(masks, bad), pattern)
        return out

    def decode_words(
        self,
        codes: Words,
        pattern: Pattern,
        n_groups: int | None = None,
        *,
        out: Words | None = None,
        threads: int = 1,
        first_code: int = 0,
    ) -> Words:
        """Like `decode`, on `Words`, into `out` when given; errors count codes from `first_code`."""
        per_code = self.groups_per_code(pattern)
        if n_groups is None:
            n_groups = len(codes) * per_code
        if self.n_codes(n_groups, pattern) != len(codes):
            raise EncodingError(
                f"{self.name} {pattern}: {brief(n_groups)} groups take {brief(self.n_codes(n_groups, pattern))} codes, "
                f"got {len(codes)}"
            )
        if out is None:
            out = words.empty(n_groups, pattern.m)
        bad = _run(self.decoder(pattern), codes, out, 1, per_code, threads)
        if bad >= 0:
            raise EncodingError(
                f"{self.name} {pattern}: code {first_code + bad} is {brief(words.integer_at(codes, bad))}, "
                f"which no mask has; expected {self._legal_codes(pattern)}"
            )
        return out

    def write_stream(
        self, masks: Words, pattern: Pattern, policy: str | packing.Policy = "bitstream", *, threads: int = 1
    ) -> tuple[NDArray[np.uint8], packing.PackingReport]:
        """Encode and pack: group masks -> the bytes of the metadata, and where its bits go."""
        codes = self.encode_words(masks, pattern, threads=threads)
        lengths = self.code_lengths(codes, pattern)
        bits = self.code_bits(pattern)
        report = packing.report(len(codes), bits, policy, lengths)
        return packing.pack(codes, bits, policy, lengths, threads=threads), report

    def read_stream(
        self,
        stream: NDArray[np.uint8] | bytes,
        pattern: Pattern,
        n_groups: int,
        policy: str | packing.Policy = "bitstream",
        *,
        threads: int = 1,
    ) -> Words:
        """Unpack and decode: the bytes of the metadata -> group masks.

        Raises
        ------
        BitstreamError
            The stream is too short or too long, or a padding bit is not zero.
        EncodingError
            A code that no legal mask has.
        """
        codes = packing.unpack_words(
            stream, self.n_codes(n_groups, pattern), self.code_bits(pattern), policy, threads=threads
        )
        return self.decode_words(codes, pattern, n_groups, threads=threads)

    def stream_report(
        self,
        stream: NDArray[np.uint8] | bytes,
        pattern: Pattern,
        n_groups: int,
        policy: str | packing.Policy = "bitstream",
    ) -> packing.PackingReport:
        """Count where the bits of a stream go; its codes are read only if they differ in length.

        Raises
        ------
        BitstreamError, EncodingError
            The stream is too short or too long, or a code of a differing length is illegal.
        """
        report = packing.report(self.n_codes(n_groups, pattern), self.code_bits(pattern), policy)
        packing.check_length(len(packing.as_stream(stream)), report.stream_bytes)
        return report

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
        """Find codes of differing lengths one after the other, and decode them; padding is not checked.

        Parameters
        ----------
        stream : uint8 array
            From the byte of `first_bit` on.
        pattern : Pattern
        n_groups : int
        policy : str or Policy
        first_bit, first_group : int
            Bits and groups of the tensor's stream before these.

        Returns
        -------
        tuple of Words, int and int
            Group masks, the bit of the tensor's stream at which the last of them ends, and the bits of their codes.

        Raises
        ------
        BitstreamError
            The stream ends inside a code.
        EncodingError
            A code that no legal mask has, or an encoding whose codes have one width.
        """
        raise EncodingError(f"{self.name}: all codes have one width, expected codes of differing lengths")

    def _legal_codes(self, pattern: Pattern) -> str:
        """What a legal code looks like, for errors."""
        return f"a code of {pattern.n} ones among {pattern.m} elements"


def _illegal_mask(position: int, mask: int, pattern: Pattern) -> EncodingError:
    kept = mask.bit_count()
    kind = "over-full" if kept > pattern.n else "under-full" if kept < pattern.n else "out of range"
    return EncodingError(
        f"group mask {position} is {mask:#x}, {kind} with {kept} kept: expected exactly {pattern.n} ones "
        f"among the low {pattern.m} bits"
    )


def _run(kernel: Kernel, source: Words, target: Words, take: int, give: int, threads: int) -> int:
    """Run a kernel over whole arrays, or over slices of them on several cores.

    `take` source entries belong to `give` target entries; slices keep them together.
    """
    if not len(source):
        return -1
    units = ceil_div(len(source), take)
    parts = min(parallel.checked(threads), max(1, units // SPLIT_GROUPS))
    if parts <= 1:
        return kernel(source, target)
    edges = [units * p // parts for p in range(parts + 1)]

    def part(p: int) -> int:
        low, high = edges[p], edges[p + 1]
        bad = kernel(source[low * take : high * take], target[low * give : high * give])
        return bad if bad < 0 else bad + low * take

    return min((bad for bad in parallel.run(part, range(parts), threads) if bad >= 0), default=-1)
