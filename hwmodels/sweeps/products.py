"""What a row of a sweep stands for: the products of a layer or of a model, with their counts and experts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hwmodels.steps.experts import grouped
from hwmodels.steps.fusion import Launch


@dataclass(frozen=True)
class Product:
    """`count` products with weights [N, K], in elements.

    With `experts`, they are one set of experts, of which each token passes `active_experts`. A row counts those that its
    tokens reach, and the tokens of each. `part` 0 are the experts with the fewer tokens, 1 those with one token more.
    `output_bits` are those of an element of Y; 0 if the value type says it. `written_share` of the outputs are written.
    """

    N: int
    K: int
    count: int
    experts: int = 0
    active_experts: int = 0
    part: int = 0
    output_bits: int = 0
    written_share: float = 1.0

    def at(self, tokens: int) -> tuple[int, float]:
        """Tokens of one product, and how many products there are, if so many tokens pass."""
        found = grouped(self.experts, self.active_experts, tokens=tokens)
        each, weight = found.parts[min(self.part, len(found.parts) - 1)]
        # If all experts have as many tokens, there is no second part.
        return each, self.count * found.products * (weight if self.part < len(found.parts) else 0.0)


@dataclass(frozen=True)
class Work:
    """What a row of the answer stands for: one layer (of which the model has `count`), or all products of a model."""

    model: str
    layer: str
    count: int
    products: tuple[Product, ...]


def products_of(launches: Sequence[Launch], output_bits: int = 0, count: int = 0) -> tuple[Product, ...]:
    """List the products of layers: one for all layers of a shape, and two for experts.

    Parameters
    ----------
    launches : sequence of Launch
    output_bits : int
        Of an element of Y; 0 if the value type says it.
    count : int
        Of each layer, in place of its own.

    Returns
    -------
    tuple of Product

    Examples
    --------
    >>> from hwmodels.models import Layer
    >>> from hwmodels.steps.fusion import fused
    >>> products_of(fused([Layer("k", 32, 1024, 4096), Layer("v", 32, 1024, 4096)]))[0].count
    64
    """
    # Layers of one shape take the same cycles, so a model has one product per shape.
    counts: dict[Product, int] = {}
    for launch in launches:
        layer = launch.layer
        share = float(launch.written_share)
        for part in (0, 1) if layer.experts else (0,):
            key = Product(layer.N, layer.K, 0, layer.experts, layer.active_experts, part, output_bits, share)
            counts[key] = counts.get(key, 0) + (count or layer.places * layer.reads)
    return tuple(replace(key, count=number) for key, number in counts.items())
