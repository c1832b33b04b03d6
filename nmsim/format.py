"""`SparseFormat`: how a sparse operand is stored. A pattern, a metadata encoding and a packing policy, as one value.

>>> SparseFormat.parse("8:16/combinatorial").bits_per_element
Fraction(7, 8)
>>> str(SparseFormat.parse("2:4/index"))
'2:4/index/bitstream'
"""

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from nmsim import encodings
from nmsim.encodings.base import Encoding
from nmsim.errors import NmsimError, PatternError, brief
from nmsim.packing import Policy, stream_bits
from nmsim.packing import parse as packing_policy
from nmsim.pattern import Pattern
from nmsim.units import bits_to_bytes

DEFAULT_ENCODING = "bitmask"
"""The encoding of a format that names none: every kernel reads it, and it needs no table at any M."""
DEFAULT_PACKING = "bitstream"
"""The packing of a format that names none: no padding between codes."""
DENSE = "dense"
"""The text that stands for "nothing is sparse", beside None."""


@dataclass(frozen=True)
class SparseFormat:
    """How a sparse operand is stored: which elements are kept, how their positions are coded, how codes are packed.

    Parameters
    ----------
    pattern : Pattern
    encoding : Encoding
        See `nmsim.encodings`. `bitmask` if absent.
    packing : Policy
        See `nmsim.packing`. `bitstream` if absent.

    Raises
    ------
    PatternError
        A field has another type.
    EncodingError
        The encoding has no codes for the pattern.

    Examples
    --------
    >>> SparseFormat(Pattern(8, 16), encodings.get("index")).bits_per_group
    32
    """

    pattern: Pattern
    encoding: Encoding = encodings.get(DEFAULT_ENCODING)  # noqa: RUF009 - frozen and cached
    packing: Policy = packing_policy(DEFAULT_PACKING)  # noqa: RUF009 - frozen and cached

    def __post_init__(self) -> None:
        for name, kind in (("pattern", Pattern), ("encoding", Encoding), ("packing", Policy)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise PatternError(
                    f"format {name}={brief(value)} (type {type(value).__name__}): expected a {kind.__name__}; "
                    "SparseFormat.parse reads text"
                )
        if not self.encoding.supports(self.pattern):
            # Whatever asks for a code refuses; a format that nothing can store is refused at once.
            self.encoding.code_bits(self.pattern)

    @classmethod
    def parse(cls, text: str, *, encoding: str = DEFAULT_ENCODING, packing: str = DEFAULT_PACKING) -> Self:
        """Read a format written `N:M`, `N:M/encoding` or `N:M/encoding/packing`.

        Parameters
        ----------
        text : str
        encoding, packing : str
            What a text takes that names none.

        Raises
        ------
        PatternError
            Another number of parts, or a first part that is no pattern.
        EncodingError, BitstreamError
            An unknown encoding or packing.

        Examples
        --------
        >>> SparseFormat.parse("8:16/gap:2/no_straddle:64").packing.word_bits
        64
        """
        if not isinstance(text, str):
            raise PatternError(
                f"format {brief(text)} (type {type(text).__name__}): expected text such as '8:16/index'"
            )
        return cls(*_fields(text, encoding, packing))

    def __str__(self) -> str:
        return f"{self.pattern}/{self.encoding.name}/{self.packing}"

    @property
    def short(self) -> str:
        """The text without the default packing, such as `8:16/index`."""
        return str(self).removesuffix(f"/{DEFAULT_PACKING}")

    @property
    def bits_per_group(self) -> int | Fraction:
        """Metadata bits of one group before packing; of the longest code if codes differ in length."""
        return self.encoding.bits_per_group(self.pattern)

    @property
    def bits_per_element(self) -> Fraction:
        """Metadata bits per element of the dense tensor, before packing."""
        return Fraction(self.bits_per_group) / self.pattern.m

    @property
    def code_bits(self) -> int:
        """Bits of one code; of the longest one if codes differ in length."""
        return self.encoding.code_bits(self.pattern)

    def n_codes(self, n_groups: int) -> int:
        """Count the codes of `n_groups` groups."""
        return self.encoding.n_codes(n_groups, self.pattern)

    def stream_bits(self, n_groups: int) -> int:
        """Count the metadata bits of `n_groups` groups, padding between codes included; codes at their longest.

        Examples
        --------
        >>> SparseFormat.parse("2:4/index").stream_bits(3)
        12
        """
        return stream_bits(self.n_codes(n_groups), self.code_bits, self.packing)

    def stream_bytes(self, n_groups: int) -> int:
        """Count the metadata bytes of `n_groups` groups, as `stream_bits`."""
        return bits_to_bytes(self.stream_bits(n_groups))


FormatLike = SparseFormat | Pattern | str
"""What public calls accept for a format: the record, a pattern with the default encoding, or text."""


@functools.lru_cache(maxsize=4096)
def _fields(text: str, encoding: str, policy: str) -> tuple[Pattern, Encoding, Policy]:
    parts = text.split("/")
    if len(parts) > 3 or not all(part.strip() for part in parts):
        raise PatternError(
            f"format {brief(text)}: expected N:M, N:M/encoding or N:M/encoding/packing, such as '8:16/index'"
        )
    _, named_encoding, named_packing = [part.strip() for part in parts] + [""] * (3 - len(parts))
    return (
        Pattern.parse(parts[0]),
        encodings.get(named_encoding or encoding),
        packing_policy(named_packing or policy),
    )


def sparse_format(
    value: FormatLike, *, encoding: str = DEFAULT_ENCODING, packing: str = DEFAULT_PACKING
) -> SparseFormat:
    """Turn what a caller gave into a format.

    Parameters
    ----------
    value : SparseFormat, Pattern or str
    encoding, packing : str
        For a pattern, or a text that names none.

    Raises
    ------
    PatternError, EncodingError, BitstreamError
        As for `SparseFormat.parse`.

    Examples
    --------
    >>> sparse_format(Pattern(2, 4)).short
    '2:4/bitmask'
    """
    if isinstance(value, SparseFormat):
        return value
    return SparseFormat.parse(
        str(value) if isinstance(value, Pattern) else value, encoding=encoding, packing=packing
    )


def as_format(
    value: FormatLike | None, *, encoding: str = DEFAULT_ENCODING, packing: str = DEFAULT_PACKING
) -> SparseFormat | None:
    """Turn what a caller gave into a format, or None for a dense operand (None or `"dense"`).

    Raises
    ------
    PatternError, EncodingError, BitstreamError
        As for `SparseFormat.parse`.

    Examples
    --------
    >>> as_format("dense") is None
    True
    """
    if value is None or value == DENSE:
        return None
    try:
        return sparse_format(value, encoding=encoding, packing=packing)
    except NmsimError as error:
        if isinstance(value, str) and "/" not in value and ":" not in value:
            raise PatternError(f"{error}, or 'dense'") from None
        raise
