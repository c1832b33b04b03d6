"""How a whole model is pruned: the ways of both operands, and the layers that are pruned."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nmsim.case import SparseOperand
from nmsim.errors import PatternError, brief, brief_names
from nmsim.format import DENSE
from nmsim.quality.way import Way

ALL_LAYERS = "all"


@dataclass(frozen=True)
class Configuration:
    """One model with pruned weights, pruned activations, both or neither.

    Parameters
    ----------
    weights, activations : Way, optional
        How the operand is changed. None leaves it as it is.
    layers : str
        `all`, or globs of names of linear layers, blanks between them: `*.q_proj *.k_proj`. Globs that begin with `!` name
        layers that stay dense, and go with all others if there is no other glob: `!*.q_proj !*.k_proj`.

    Raises
    ------
    PatternError
        A way of the other operand, or a text of layers with nothing in it.

    Examples
    --------
    >>> from nmsim.pattern import Pattern
    >>> str(Configuration(Way("weights", Pattern(8, 16))))
    'weights 8:16 magnitude'
    """

    weights: Way | None = None
    activations: Way | None = None
    layers: str = ALL_LAYERS

    def __post_init__(self) -> None:
        for operand in _OPERANDS:
            way = self.way(operand)
            if way is not None and way.operand != operand:
                raise PatternError(
                    f"configuration: {operand} are given a way of {way.operand}: expected one of {operand}"
                )
        if not self.layers.split():
            raise PatternError(f"layers={brief(self.layers)}: expected {ALL_LAYERS}, or globs of names")

    def way(self, operand: SparseOperand) -> Way | None:
        """The way of an operand."""
        return self.weights if operand == "weights" else self.activations

    @property
    def is_dense(self) -> bool:
        """Nothing is changed."""
        return self.weights is None and self.activations is None

    def names(self, layers: Iterable[str]) -> list[str]:
        """Choose those of a model's linear layers that are changed.

        Raises
        ------
        PatternError
            A glob that fits none.

        Examples
        --------
        >>> Configuration(layers="!*.q").names(["0.q", "0.up"])
        ['0.up']
        """
        known = list(layers)
        if self.layers == ALL_LAYERS:
            return known
        globs = self.layers.split()
        for glob in globs:
            if not any(fnmatchcase(name, glob.removeprefix("!")) for name in known):
                raise PatternError(
                    f"layers={brief(self.layers)}: {brief(glob)} fits none of the model's {len(known)} linear layers, "
                    f"expected a glob of names such as {brief_names(known, most=2)}"
                )
        wanted = [glob for glob in globs if not glob.startswith("!")] or ["*"]
        dense = [glob[1:] for glob in globs if glob.startswith("!")]
        return [name for name in known if _fits(name, wanted) and not _fits(name, dense)]

    def __str__(self) -> str:
        ways = [str(way) for way in (self.weights, self.activations) if way is not None]
        layers = [] if self.layers == ALL_LAYERS else [f"layers {self.layers}"]
        return "; ".join([*ways, *layers]) if ways else DENSE


_OPERANDS: tuple[SparseOperand, ...] = ("weights", "activations")


def _fits(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
