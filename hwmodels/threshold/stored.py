"""How a model is stored: pattern, encoding and packing of its pruned layers, what lies beside them, and value types."""

from dataclasses import dataclass
from fractions import Fraction

from hwmodels.estimate.traffic import stream
from nmsim.case import value_type
from nmsim.errors import PatternError, RowError
from nmsim.format import as_format
from nmsim.pattern import Pattern

SCALED_BELOW_BITS = 16
"""Values narrower than this share a scale in groups along K."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How the layers of a model are stored.

    Parameters
    ----------
    pattern : Pattern, its text, or None
        Of the layers that are pruned; None for a dense model.
    encoding, packing : str
        Of its metadata, as in `nmsim.case.Case`.
    dtype : str
        Value type of the pruned layers, a key of `nmsim.case.VALUE_BITS`.
    rest_dtype : str
        Of everything else: output head and embedding.
    group_elems : int
        Elements along K of a row, kept or not, that share a scale where values have fewer than 16 bits; 0 for no scales.
    scale_bits : int
        Of a scale. Zero points are not counted.
    outliers : Pattern, its text, or None
        A matrix beside the N:M part that keeps n of m elements, which the N:M part leaves out.
    outlier_encoding : str
        Of its metadata, packed as a bitstream.
    columns : int
        Whole columns along K of each pruned layer that are kept beside the N:M part, whose groups stay as they are.
    side_dtype : str or None
        Value type of outliers and columns; `dtype` when None.

    Raises
    ------
    RowError
        An unknown value type, an invalid number, or outliers or columns beside a dense model.
    PatternError, EncodingError, BitstreamError
        An invalid pattern, encoding or packing.

    Examples
    --------
    >>> Stored(pattern="8:16", encoding="combinatorial", outliers="4:256").beside
    '4:256'
    >>> float(Stored(dtype="int4").scale_bits_per_element(4))
    0.125
    """

    pattern: Pattern | None = None
    encoding: str = "bitmask"
    packing: str = "bitstream"
    dtype: str = "bf16"
    rest_dtype: str = "bf16"
    group_elems: int = 128
    scale_bits: int = 16
    outliers: Pattern | None = None
    outlier_encoding: str = "combinatorial"
    columns: int = 0
    side_dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("pattern", "outliers"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Pattern.parse(value))
            elif not isinstance(value, Pattern | None):
                raise PatternError(f"{name}={value!r}: expected a Pattern, its text, or None")
        if self.side_dtype is None:
            object.__setattr__(self, "side_dtype", self.dtype)
        for name in ("dtype", "rest_dtype", "side_dtype"):
            object.__setattr__(self, name, value_type(getattr(self, name), name))
        for name in ("group_elems", "scale_bits", "columns"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise RowError(f"{name}={value!r}: expected a whole number, 0 or more")
        if self.pattern is None and (self.outliers is not None or self.columns):
            raise RowError(f"{self.beside} beside a dense model: expected a pattern N:M")
        stream(as_format(self.pattern, encoding=self.encoding, packing=self.packing))
        stream(as_format(self.outliers, encoding=self.outlier_encoding))

    def dense(self, dtype: str | None = None) -> "Stored":
        """The dense model in the same value types and groups, or in another value type."""
        return Stored(
            dtype=dtype or self.dtype,
            rest_dtype=self.rest_dtype,
            group_elems=self.group_elems,
            scale_bits=self.scale_bits,
        )

    def scale_bits_per_element(self, value_bits: int) -> Fraction:
        """Bits of scales for each element of values so wide, where every group is full."""
        if self.group_elems == 0 or value_bits >= SCALED_BELOW_BITS:
            return Fraction(0)
        return Fraction(self.scale_bits, self.group_elems)

    @property
    def beside(self) -> str:
        """What lies beside the N:M part, as the command line writes it."""
        parts = [str(self.outliers)] if self.outliers else []
        parts += [f"columns:{self.columns}"] if self.columns else []
        return "+".join(parts) or "none"
