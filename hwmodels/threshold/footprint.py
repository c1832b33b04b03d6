"""Exact bytes of a stored model, layer by layer: values, metadata, scales, what lies beside them, head and embedding.

Norms and biases are not counted. Every stream of a layer is rounded up to whole bytes.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from hwmodels.estimate.traffic import metadata_bits, stream
from hwmodels.silicon.structures import index_bits
from hwmodels.threshold.stored import Stored
from hwmodels.workload import Layer, Model
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError
from nmsim.format import as_format, sparse_format
from nmsim.units import bits_to_bytes, ceil_div

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
    """Layers of a model as numbers, or as arrays of one entry a model, and which of them are pruned."""

    counts: tuple[int, ...]
    pruned: tuple[bool, ...]
    head: tuple[bool, ...]
    N: tuple[Any, ...]
    K: tuple[Any, ...]
    embeddings: int


def stacked(model: Model) -> Stacked:
    """Take the layers of one model as numbers.

    Raises
    ------
    RowError
        No layer that is pruned.
    """
    layers: tuple[Layer, ...] = model.layers
    if not any(layer.pruned for layer in layers):
        raise RowError(f"model {model.name!r}: no layer that is pruned, expected at least one")
    return Stacked(
        tuple(layer.count for layer in layers),
        tuple(layer.pruned for layer in layers),
        tuple(layer.name == HEAD for layer in layers),
        tuple(layer.N for layer in layers),
        tuple(layer.K for layer in layers),
        0 if model.tied_head else 1,
    )


def bytes_of(layers: Stacked, how: Stored, value_bits: int | None = None) -> dict[str, Any]:
    """Count bytes and elements by the fields of `Footprint`.

    Parameters
    ----------
    layers : Stacked
        Of one model (int), or of many at once (int64 arrays [models]).
    how : Stored
    value_bits : int, optional
        In place of those of `how.dtype`.

    Returns
    -------
    dict of str to int or int64 array [models]
    """
    bits = VALUE_BITS[how.dtype] if value_bits is None else value_bits
    side_bits, rest_bits = VALUE_BITS[str(how.side_dtype)], VALUE_BITS[how.rest_dtype]
    main, side = stream(as_format(how.pattern, encoding=how.encoding, packing=how.packing)), None
    if how.outliers is not None:
        side = stream(sparse_format(how.outliers, encoding=how.outlier_encoding))
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


def footprint(model: Model, how: Stored, value_bits: int | None = None) -> Footprint:
    """Count the bytes of a model as it is stored.

    Parameters
    ----------
    model : Model
    how : Stored
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
    >>> from hwmodels.workload import load_model
    >>> found = footprint(load_model("llama-3.1-8b"), Stored(pattern="8:16", encoding="combinatorial"))
    >>> found.bits_per_element, found.params_elems
    (8.875, 8029995008)
    """
    for layer in model.layers:
        if layer.pruned and how.columns > layer.K:
            raise RowError(f"columns={how.columns}: expected at most those of {layer.name}, {layer.K}")
    found = bytes_of(stacked(model), how, value_bits)
    return Footprint(**{name: int(value) for name, value in found.items()})
