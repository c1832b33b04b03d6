"""How activations are pruned on a core: where, by what, with which mitigations, and how fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from hwmodels.online.overheads import mitigation_names
from hwmodels.online.stage_cost import DEFAULT_SETTINGS, Settings
from hwmodels.tensorcore.record import Placement, SelectorKind
from nmsim.errors import RowError

VECTOR_OPS_PER_CYCLE = 128
"""Operations of the vector lanes of a core in a cycle (A47)."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How activations are pruned.

    Parameters
    ----------
    placement : {"producer", "consumer"} or None
        The core's own when None.
    criterion : str
        A key of `hwmodels.online.criteria.CRITERIA` that gives N:M.
    mitigation : str or sequence of str
        Of `hwmodels.online.mitigations.MITIGATIONS`, `+` between several.
    selector_groups_per_cycle : float or None
        Of one core; the core's own when None. Fractions are allowed, `inf` is a selector that takes no time.
    selector_kind : {"all_pairs", "bitonic", "half"} or None
        The core's own when None.
    vector_ops_per_cycle : float
        Of the vector lanes of one core.
    settings : Settings
        Sizes of mitigations; its `selector_kind` is not read.

    Raises
    ------
    RowError
        A field is none of these.

    Examples
    --------
    >>> Way(placement="consumer").criterion
    'magnitude'
    """

    placement: Placement | None = None
    criterion: str = "magnitude"
    mitigation: str | Sequence[str] = ()
    selector_groups_per_cycle: float | None = None
    selector_kind: SelectorKind | None = None
    vector_ops_per_cycle: float = VECTOR_OPS_PER_CYCLE
    settings: Settings = DEFAULT_SETTINGS

    def __post_init__(self) -> None:
        object.__setattr__(self, "mitigation", mitigation_names(self.mitigation))
        if self.placement not in (None, *get_args(Placement)):
            raise RowError(f"placement={self.placement!r}: expected one of {', '.join(get_args(Placement))}")
        if self.criterion.startswith("unstructured"):
            raise RowError(f"criterion={self.criterion!r}: leaves no N:M pattern for a core to skip by")
        if self.selector_groups_per_cycle is not None and not self.selector_groups_per_cycle > 0:
            raise RowError(
                f"selector_groups_per_cycle={self.selector_groups_per_cycle!r}: expected a positive number"
            )
        if not self.vector_ops_per_cycle > 0:
            raise RowError(f"vector_ops_per_cycle={self.vector_ops_per_cycle!r}: expected a positive number")
