"""What a machine can do beyond plain products: its sparse matrix units, and features that are there or not."""

from dataclasses import dataclass

from hwmodels.machine.quantity import Quantity
from nmsim import packing
from nmsim.case import SparseOperand
from nmsim.pattern import Pattern


@dataclass(frozen=True)
class Feature:
    """A yes or no about a machine, with the kind of knowledge behind it and its source."""

    supported: bool
    kind: str
    source: str


@dataclass(frozen=True)
class NativeUnit:
    """A sparse matrix unit: what it takes as it is, without software touching the codes.

    `packings` holds policy names without a word width. `decoder_groups_per_s` is the rate at which the whole
    chip turns codes into positions, None where the maker's sparse peak already holds with codes as input
    (assumption A11); `selector_groups_per_s` the rate at which it prunes activations online, None where
    software must.
    """

    pattern: Pattern
    encodings: tuple[str, ...]
    packings: tuple[str, ...]
    operands: tuple[SparseOperand, ...]
    dtypes: tuple[str, ...]
    source: str
    decoder_groups_per_s: Quantity | None = None
    selector_groups_per_s: Quantity | None = None

    def takes(self, pattern: Pattern, encoding: str, policy: str, operand: str, dtype: str) -> bool:
        """Say whether this unit multiplies a sparse operand that is stored so."""
        return (
            pattern == self.pattern
            and encoding in self.encodings
            and packing.parse(policy).name in self.packings
            and operand in self.operands
            and dtype in self.dtypes
        )
