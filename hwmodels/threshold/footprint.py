"""How a model is stored, and its exact bytes: values, metadata, scales, what lies beside them, head and embedding.

Norms and biases are not counted. Every stream of a layer is rounded up to whole bytes.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from hwmodels.estimate.bounds import metadata_bits, stream
from hwmodels.models import Layer, Model
from hwmodels.silicon.structures import index_bits
from nmsim.case import DEFAULT_DTYPE, VALUE_BITS, value_type
from nmsim.errors import PatternError, RowError, brief
from nmsim.format import DEFAULT_ENCODING, DEFAULT_PACKING, FormatLike, SparseFormat, as_format
from nmsim.pattern import Pattern
from nmsim.units import bits_to_bytes, ceil_div

NONE = "none"
"""What lies beside the N:M part of a model that keeps nothing beside it."""
OUTLIER_ENCODING = "combinatorial"
"""Encoding of outliers that name none: at so low a density it takes the fewest bits."""
SCALED_BELOW_BITS = 16
"""Values narrower than this share a scale in groups along K."""


@dataclass(frozen=True, init=False)
class ModelFormat:
    """How the layers of a model are stored.

    Parameters
    ----------
    format : SparseFormat, Pattern, text, or None
        Of the layers that are pruned; None or `"dense"` for a dense model.
    dtype : str
        Value type of the pruned layers, a key of `nmsim.case.VALUE_BITS`.
    rest_dtype : str
        Of everything else: output head and embedding.
    group_elems : int
        Elements along K of a row, kept or not, that share a scale if values have fewer than 16 bits; 0 for no scales.
    scale_bits : int
        Of a scale. Zero points are not counted.
    outliers : SparseFormat, Pattern, text, or None
        A matrix beside the N:M part that keeps n of m elements, which the N:M part leaves out. Its encoding is
        `combinatorial` if none is named.
    columns : int
        Whole columns along K of each pruned layer that are kept beside the N:M part, whose groups stay as they are.
    side_dtype : str or None
        Value type of outliers and columns; `dtype` when None.

    Raises
    ------
    RowError
        An unknown value type, an invalid number, or outliers or columns beside a dense model.
    PatternError, EncodingError, BitstreamError
        A format that does not exist.

    Examples
    --------
    >>> ModelFormat("8:16/combinatorial", outliers="4:256").beside
    '4:256'
    >>> float(ModelFormat(dtype="int4").scale_bits_per_element(4))
    0.125
    """

    format: SparseFormat | None
    dtype: str
    rest_dtype: str
    group_elems: int
    scale_bits: int
    outliers: SparseFormat | None
    columns: int
    side_dtype: str

    def __init__(
        self,
        format: FormatLike | None = None,
        *,
        dtype: str = DEFAULT_DTYPE,
        rest_dtype: str = DEFAULT_DTYPE,
        group_elems: int = 128,
        scale_bits: int = 16,
        outliers: FormatLike | None = None,
        columns: int = 0,
        side_dtype: str | None = None,
    ) -> None:
        types = {
            "dtype": dtype,
            "rest_dtype": rest_dtype,
            "side_dtype": dtype if side_dtype is None else side_dtype,
        }
        fields: dict[str, Any] = {name: value_type(text, name) for name, text in types.items()}
        counts = {"group_elems": group_elems, "scale_bits": scale_bits, "columns": columns}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise RowError(f"{name}={brief(value)}: expected a whole number, 0 or more")
        formats = {"format": (format, DEFAULT_ENCODING), "outliers": (outliers, OUTLIER_ENCODING)}
        for name, (given, encoding) in formats.items():
            if not isinstance(given, SparseFormat | Pattern | str | None):
                raise PatternError(
                    f"{name}={brief(given)}: expected a SparseFormat, a Pattern, its text, or None"
                )
            fields[name] = as_format(given, encoding=encoding)
            stream(fields[name])
        for name, field in (fields | counts).items():
            object.__setattr__(self, name, field)
        if self.format is None and self.beside != NONE:
            raise RowError(f"{self.beside} beside a dense model: expected a pattern N:M")

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of the pruned layers; None for a dense model."""
        return self.format.pattern if self.format else None

    def dense(self, dtype: str | None = None) -> "ModelFormat":
        """The dense model in the same value types and groups, or in another value type."""
        return ModelFormat(
            dtype=dtype or self.dtype,
            rest_dtype=self.rest_dtype,
            group_elems=self.group_elems,
            scale_bits=self.scale_bits,
        )

    def row(self) -> dict[str, Any]:
        """All of it as cells of a table, in columns of their own."""
        stored, beside = self.format, self.outliers
        return {
            "pattern": str(self.pattern),
            "encoding": stored.encoding.name if stored else DEFAULT_ENCODING,
            "packing": str(stored.packing) if stored else DEFAULT_PACKING,
            "dtype": self.dtype,
            "rest_dtype": self.rest_dtype,
            "group_elems": self.group_elems,
            "scale_bits": self.scale_bits,
            "outliers": str(beside.pattern) if beside else None,
            "outlier_encoding": beside.encoding.name if beside else OUTLIER_ENCODING,
            "columns": self.columns,
            "side_dtype": self.side_dtype,
        }

    def scale_bits_per_element(self, value_bits: int) -> Fraction:
        """Bits of scales for each element of values so wide, where every group is full."""
        if self.group_elems == 0 or value_bits >= SCALED_BELOW_BITS:
            return Fraction(0)
        return Fraction(self.scale_bits, self.group_elems)

    @property
    def beside(self) -> str:
        """What lies beside the N:M part, as the command line writes it."""
        parts = [str(self.outliers.pattern)] if self.outliers else []
        parts += [f"columns:{self.columns}"] if self.columns else []
        return "+".join(parts) or NONE


HEAD = "lm_head"
"""Name of the output head; the input embedding has its shape, and is the same tensor in a model with a tied head."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model.

    `values_bytes`, `metadata_bytes`, `scales_bytes`, `side_values_bytes` and `side_metadata_bytes` are of the pruned layers.
    In a dense model they are of the same layers. `rest_bytes` is of the layers that stay dense, and `embedding_bytes` of a
    separate input embedding.
    """

    values_bytes: int
    metadata_bytes: int
    scales_bytes: int
    side_values_bytes: int
    side_metadata_bytes: int
    rest_bytes: int
    embedding_bytes: int
    pruned_elems: int
    params_elems: int

    @property
    def pruned_bytes(self) -> int:
        """Bytes of the pruned layers."""
        side_bytes = self.side_values_bytes + self.side_metadata_bytes
        return self.values_bytes + self.metadata_bytes + self.scales_bytes + side_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of the model."""
        return self.pruned_bytes + self.rest_bytes + self.embedding_bytes

    @property
    def bits_per_element(self) -> float:
        """Bits of the pruned layers for each of their elements, kept or not."""
        return 8 * self.pruned_bytes / self.pruned_elems


class Stacked(NamedTuple):
    """Layers of a model as numbers, or as arrays of one entry a model, and which of them are pruned.

    `of` are the layers of the unpruned model.
    """

    counts: tuple[int, ...]
    pruned: tuple[bool, ...]
    head: tuple[bool, ...]
    N: tuple[Any, ...]
    K: tuple[Any, ...]
    embeddings: int
    of: tuple[Layer, ...]


def stacked(model: Model) -> Stacked:
    """Take the layers of one model as numbers.

    Raises
    ------
    RowError
        No layer that is pruned.
    """
    layers: tuple[Layer, ...] = model.layers
    if not any(layer.pruned for layer in layers):
        raise RowError(f"model {brief(model.name)}: no layer that is pruned, expected at least one")
    return Stacked(
        tuple(layer.count for layer in layers),
        tuple(layer.pruned for layer in layers),
        tuple(layer.name == HEAD for layer in layers),
        tuple(layer.N for layer in layers),
        tuple(layer.K for layer in layers),
        0 if model.tied_head else 1,
        layers,
    )


def bytes_of(layers: Stacked, how: ModelFormat, value_bits: int | None = None) -> dict[str, Any]:
    """Count bytes and elements by the fields of `Footprint`.

    Parameters
    ----------
    layers : Stacked
        Of one model (int), or of many at once (int64 arrays [models]).
    how : ModelFormat
    value_bits : int, optional
        In place of those of `how.dtype`.

    Returns
    -------
    dict of str to int or int64 array [models]
    """
    bits = VALUE_BITS[how.dtype] if value_bits is None else value_bits
    side_bits, rest_bits = VALUE_BITS[str(how.side_dtype)], VALUE_BITS[how.rest_dtype]
    main, side = stream(how.format), stream(how.outliers) if how.outliers else None
    scaled = how.scale_bits_per_element(bits) > 0
    total: dict[str, Any] = dict.fromkeys(Footprint.__dataclass_fields__, 0)

    def add(name: str, amount: Any) -> None:
        total[name] = total[name] + amount

    for count, pruned, is_head, N, K in zip(*layers[:5], strict=True):
        add("params_elems", count * N * K)
        if is_head:
            add("params_elems", layers.embeddings * count * N * K)
            add("embedding_bytes", layers.embeddings * count * bits_to_bytes(N * K * rest_bits))
        if not pruned:
            add("rest_bytes", count * bits_to_bytes(N * K * rest_bits))
            continue
        # A tail group is stored in full.
        groups = N * ceil_div(K, main.m)
        add("pruned_elems", count * N * K)
        add("values_bytes", count * bits_to_bytes(groups * main.n * bits))
        add("metadata_bytes", count * bits_to_bytes(metadata_bits(groups, main)))
        if scaled:
            add("scales_bytes", count * bits_to_bytes(N * ceil_div(K, how.group_elems) * how.scale_bits))
        if side is not None:
            windows = N * ceil_div(K, side.m)
            add("side_values_bytes", count * bits_to_bytes(windows * side.n * side_bits))
            add("side_metadata_bytes", count * bits_to_bytes(metadata_bits(windows, side)))
        if how.columns:
            add("side_values_bytes", count * bits_to_bytes(N * how.columns * side_bits))
            add("side_metadata_bytes", count * bits_to_bytes(how.columns * index_bits(K)))
    return total


def footprint(model: Model, how: ModelFormat, value_bits: int | None = None) -> Footprint:
    """Count the bytes of a model as it is stored.

    Parameters
    ----------
    model : Model
    how : ModelFormat
    value_bits : int, optional
        Bits of a value of the pruned layers, in place of those of `how.dtype`: for widths that no value type has.

    Returns
    -------
    Footprint

    Raises
    ------
    RowError
        No layer of the model is pruned, or more salient columns are asked for than a layer has.

    Source
    ------
    Formula, `docs/explanation/performance-threshold.md`.

    Examples
    --------
    >>> from hwmodels.models import load_model
    >>> found = footprint(load_model("llama-3.1-8b"), ModelFormat("8:16/combinatorial"))
    >>> found.bits_per_element, found.params_elems
    (8.875, 8029995008)
    """
    for layer in model.layers:
        if layer.pruned and how.columns > layer.K:
            raise RowError(f"columns={how.columns}: expected at most those of {layer.name}, {layer.K}")
    found = bytes_of(stacked(model), how, value_bits)
    return Footprint(**{name: int(value) for name, value in found.items()})
