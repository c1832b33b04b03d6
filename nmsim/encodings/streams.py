"""The metadata stream of a tensor, written and read piece by piece: each piece holds some groups, in order.

The pieces of a `StreamWriter` make the same bytes as one `Encoding.write_stream` of all groups. A `StreamReader` refuses
all that `Encoding.read_stream` refuses. So a tensor need not be in memory as a whole.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nmsim import packing, words
from nmsim.encodings.base import Encoding
from nmsim.pattern import Pattern
from nmsim.units import bits_to_bytes
from nmsim.words import Words

ReadBytes = Callable[[int, int], NDArray[np.uint8]]
"""Gives the bytes of a stream from the first position up to the second."""


class StreamWriter:
    """Encodes the groups of a tensor piece by piece.

    Parameters
    ----------
    encoding : Encoding
    pattern : Pattern
    policy : str or Policy
        The packing.
    threads : int
        Cores to use.

    Examples
    --------
    >>> from nmsim import encodings
    >>> writer = StreamWriter(encodings.get("index"), Pattern(2, 4))
    >>> first = writer.write(np.array([0b0011, 0b0101, 0b1100], np.uint8))
    >>> last, report = writer.finish()
    >>> first.tobytes().hex() + last.tobytes().hex(), report.payload_bits
    ('840e', 12)
    """

    def __init__(
        self,
        encoding: Encoding,
        pattern: Pattern,
        policy: str | packing.Policy = "bitstream",
        *,
        threads: int = 1,
    ) -> None:
        self._encoding, self._pattern, self._policy, self._threads = encoding, pattern, policy, threads
        self._code_bits = encoding.code_bits(pattern)
        self._fixed = is_fixed(encoding, pattern)
        self._unit_groups = whole_groups(encoding, pattern, policy)
        self._rest = words.zeros(0, pattern.m)
        self._n_codes = self._payload_bits = self._padding_bits = 0
        self._last_byte, self._last_bits = np.uint8(0), 0

    def write(self, group_masks: Words) -> NDArray[np.uint8]:
        """Take the next groups; give back the bytes that are complete.

        Raises
        ------
        EncodingError
            A mask that has not exactly N ones among its low M bits.
        """
        if len(self._rest):
            group_masks = np.concatenate([self._rest, group_masks])
        whole = len(group_masks) // self._unit_groups * self._unit_groups
        self._rest = group_masks[whole:].copy()
        return self._encoded(group_masks[:whole])

    def finish(self) -> tuple[NDArray[np.uint8], packing.PackingReport]:
        """Give back the bytes that are left, and where the bits of the whole stream went."""
        last = self._encoded(self._rest)
        if self._fixed:
            return last, packing.report(self._n_codes, self._code_bits, self._policy)
        if self._last_bits:
            last = np.append(last, self._last_byte)
        used_bits = self._payload_bits + self._padding_bits
        return last, packing.PackingReport(self._payload_bits, self._padding_bits, -used_bits % 8)

    def _encoded(self, group_masks: Words) -> NDArray[np.uint8]:
        if not len(group_masks):
            return np.zeros(0, np.uint8)
        piece, report = self._encoding.write_stream(
            group_masks, self._pattern, self._policy, threads=self._threads
        )
        self._n_codes += self._encoding.n_codes(len(group_masks), self._pattern)
        self._payload_bits += report.payload_bits
        self._padding_bits += report.padding_bits
        # Pieces of codes of one width end with a byte. Others are joined at the bit that the piece before them reached.
        return piece if self._fixed else self._joined(piece, report.payload_bits + report.padding_bits)

    def _joined(self, piece: NDArray[np.uint8], piece_bits: int) -> NDArray[np.uint8]:
        shift, reached = self._last_bits, self._last_bits + piece_bits
        joined = np.zeros(len(piece) + 1, np.uint8)
        joined[:-1] = piece << np.uint8(shift)
        joined[1:] |= piece >> np.uint8(8 - shift)
        joined[0] |= self._last_byte
        whole, self._last_bits = divmod(reached, 8)
        self._last_byte = joined[whole] if self._last_bits else np.uint8(0)
        return joined[:whole]


class StreamReader:
    """Decodes the groups of a tensor piece by piece.

    Parameters
    ----------
    encoding : Encoding
    pattern : Pattern
    policy : str or Policy
        The packing.
    n_groups : int
        Groups of the whole stream.
    stream_bytes : int
        Its length.
    read_bytes : function
        Gives some bytes of it; they are asked for in order.
    threads : int
        Cores to use.
    """

    def __init__(
        self,
        encoding: Encoding,
        pattern: Pattern,
        policy: str | packing.Policy = "bitstream",
        *,
        n_groups: int,
        stream_bytes: int,
        read_bytes: ReadBytes,
        threads: int = 1,
    ) -> None:
        self._encoding, self._pattern, self._policy, self._threads = encoding, pattern, policy, threads
        self._code_bits = encoding.code_bits(pattern)
        self._fixed = is_fixed(encoding, pattern)
        self._unit_groups = whole_groups(encoding, pattern, policy)
        self._n_groups, self._stream_bytes, self._read_bytes = n_groups, stream_bytes, read_bytes
        self._rest = words.zeros(0, pattern.m)
        self._group = self._bit = 0
        self._again = StreamWriter(encoding, pattern, policy)
        if self._fixed:
            report = packing.report(encoding.n_codes(n_groups, pattern), self._code_bits, policy)
            packing.check_length(stream_bytes, report.stream_bytes)
        else:
            packing.refuse_differing_lengths(packing.parse(policy))

    def read(self, n_groups: int) -> Words:
        """Decode the next groups; none are left after the last of the tensor.

        Raises
        ------
        BitstreamError
            The stream is too short or too long, or a padding bit is not zero.
        EncodingError
            A code that no legal mask has.
        """
        if not self._fixed:
            return self._read_differing(n_groups)
        missing = n_groups - len(self._rest)
        if missing > 0:
            wanted = -(-missing // self._unit_groups) * self._unit_groups
            decoded = self._read_fixed(min(wanted, self._n_groups - self._group))
            self._rest = np.concatenate([self._rest, decoded]) if len(self._rest) else decoded
        taken, self._rest = self._rest[:n_groups], self._rest[n_groups:]
        return taken

    def finish(self) -> packing.PackingReport:
        """Check that the stream ends with its last group; say where its bits went."""
        if self._fixed:
            return packing.report(
                self._encoding.n_codes(self._n_groups, self._pattern), self._code_bits, self._policy
            )
        packing.check_length(self._stream_bytes, bits_to_bytes(self._bit))
        last, report = self._again.finish()
        if len(last):
            at = self._stream_bytes - 1
            packing.refuse_padding(self._read_bytes(at, self._stream_bytes), last, first_byte=at)
        return report

    def _read_fixed(self, n_groups: int) -> Words:
        per_code = self._encoding.groups_per_code(self._pattern)
        first_code, n_codes = self._group // per_code, self._encoding.n_codes(n_groups, self._pattern)
        begin = packing.stream_bits(first_code, self._code_bits, self._policy) // 8
        piece = packing.report(n_codes, self._code_bits, self._policy).stream_bytes
        codes = packing.unpack_words(
            self._read_bytes(begin, begin + piece),
            n_codes,
            self._code_bits,
            self._policy,
            threads=self._threads,
            first_code=first_code,
        )
        self._group += n_groups
        return self._encoding.decode_words(
            codes, self._pattern, n_groups, threads=self._threads, first_code=first_code
        )

    def _read_differing(self, n_groups: int) -> Words:
        # The next codes end at the latest if all of them are of the longest kind.
        longest = n_groups * int(packing.parse(self._policy).slot_bits(self._code_bits))
        first_byte = self._bit // 8
        end = min(self._stream_bytes, bits_to_bytes(self._bit + longest))
        piece = self._read_bytes(first_byte, end)
        masks, self._bit, _ = self._encoding.scan_stream(
            piece,
            self._pattern,
            n_groups,
            self._policy,
            first_bit=self._bit,
            first_group=self._group,
        )
        self._group += n_groups
        # Padding is the part of a stream that no code holds, so the codes are written again and compared.
        again = self._again.write(masks)
        packing.refuse_padding(piece[: len(again)], again, first_byte=first_byte)
        return masks


def is_fixed(encoding: Encoding, pattern: Pattern) -> bool:
    """Say whether all codes of a pattern have the same number of bits."""
    return encoding.code_lengths(words.zeros(0, encoding.code_bits(pattern)), pattern) is None


def whole_groups(encoding: Encoding, pattern: Pattern, policy: str | packing.Policy) -> int:
    """Count the groups after any multiple of which a stream may be cut; 1 if codes differ in length.

    Examples
    --------
    >>> from nmsim import encodings
    >>> whole_groups(encodings.get("combinatorial"), Pattern(8, 16), "bitstream")
    4
    """
    if not is_fixed(encoding, pattern):
        return 1
    return encoding.groups_per_code(pattern) * packing.whole_codes(encoding.code_bits(pattern), policy)
