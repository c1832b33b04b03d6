"""Experts that a batch reaches: how many of them are read, and how many tokens each of them multiplies."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hwmodels.estimate.table import is_number
from nmsim.errors import SpecError, brief
from nmsim.support.schema import read_json
from nmsim.support.sources import csv_rows, read_text

WHOLE = 1e-9
"""Tokens per expert that are so near to a whole number, relative to it, are that number."""
MOST_EXPERTS = 1 << 16
"""Experts that a file of loads may name."""
MOST_LOAD = 1e15
"""Largest load of an expert; sums of loads are exact enough below it."""


def distinct_experts(
    experts: int, active_experts: int, *, tokens: int, shares: Sequence[float] | None = None
) -> float:
    """Count the experts of one layer that a batch of tokens reaches, in expectation.

    Parameters
    ----------
    experts, active_experts : int
        Experts of the layer, and those that each token picks, all different.
    tokens : int
        Tokens that pass the layer together.
    shares : sequence of float [experts], optional
        Measured loads: the share of all picks that each expert takes; their sum is taken as 1. Equal if absent.

    Returns
    -------
    float
        From `active_experts` for one token to `experts` for many.

    Raises
    ------
    SpecError
        No positive numbers, more active experts than there are, or a share that no expert can have.

    Source
    ------
    Token t picks expert i with the chance p_i, so T tokens miss it with (1 - p_i)^T. Picks of different tokens are
    independent (assumption A55). With equal loads p_i = k / E, and the sum is E (1 - (1 - k/E)^T). With measured shares
    p_i = k share_i, which needs no further assumption on the k picks of one token.

    Examples
    --------
    >>> distinct_experts(8, 2, tokens=1), distinct_experts(8, 2, tokens=2)
    (2.0, 3.5)
    >>> distinct_experts(4, 1, tokens=2, shares=[1.0, 0.0, 0.0, 0.0])
    1.0
    """
    for name, value in (("experts", experts), ("active_experts", active_experts), ("tokens", tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"{name}={brief(value)}: expected a positive int")
    if active_experts > experts:
        raise SpecError(f"active_experts={active_experts}: expected at most experts={experts}")
    if shares is None:
        reached = experts * _reached(active_experts / experts, tokens)
    else:
        reached = math.fsum(_reached(chance, tokens) for chance in chances(shares, experts, active_experts))
    # A token reaches its own experts, and all tokens together at most those that there are.
    return min(max(reached, float(active_experts)), float(min(experts, tokens * active_experts)))


def _reached(chance: float, tokens: int) -> float:
    """1 - (1 - chance)^tokens, without loss for small chances."""
    return 1.0 if chance >= 1.0 else -math.expm1(tokens * math.log1p(-chance))


def chances(shares: Sequence[float], experts: int, active_experts: int) -> list[float]:
    """Turn shares of all picks into the chance that a token picks each expert.

    Raises
    ------
    SpecError
        Another number of shares than experts, or a share that is no number from 0. A share above 1 / active_experts,
        since a token picks an expert at most once.

    Examples
    --------
    >>> chances([3, 1, 2, 2], experts=4, active_experts=2)
    [0.75, 0.25, 0.5, 0.5]
    """
    if len(shares) != experts:
        raise SpecError(f"expert shares: {len(shares)} of them: expected one for each of {experts} experts")
    for place, share in enumerate(shares):
        if not is_number(share) or not 0 <= share <= MOST_LOAD:
            raise SpecError(
                f"expert shares: no share of expert {place}: expected a number from 0 to {MOST_LOAD:.0e}"
            )
    total = math.fsum(shares)
    if total <= 0:
        raise SpecError("expert shares: all are 0: expected at least one above 0")
    found = [active_experts * share / total for share in shares]
    for place, chance in enumerate(found):
        if chance > 1.0 + WHOLE:
            raise SpecError(
                f"expert shares: expert {place} takes {chance / active_experts:.4g} of all picks: expected at most "
                f"1/{active_experts}, since a token picks an expert once"
            )
    return [min(chance, 1.0) for chance in found]


class Grouped(NamedTuple):
    """Grouped products of an expert layer: `products` of them, as pairs of whole tokens and their weight.

    The weights of `parts` sum up to 1, and the mean of their tokens is that of an expert.
    """

    products: float
    parts: tuple[tuple[int, float], ...]

    @property
    def tokens(self) -> float:
        """Tokens of one product, in the mean."""
        return math.fsum(tokens * weight for tokens, weight in self.parts)


def grouped(
    experts: int, active_experts: int, *, tokens: int, shares: Sequence[float] | None = None
) -> Grouped:
    """Say how many experts multiply, and how many tokens each.

    Parameters
    ----------
    experts, active_experts, tokens, shares
        As `distinct_experts`; 0 experts for a layer that every token passes.

    Returns
    -------
    Grouped
        T k / distinct tokens per expert. If that is no whole number, some experts take the whole number below it. The
        others take the one above. The sums of tokens and of experts stay the same.

    Examples
    --------
    >>> grouped(8, 2, tokens=2)
    Grouped(products=3.5, parts=((1, 0.8571428571428572), (2, 0.1428571428571428)))
    >>> grouped(0, 0, tokens=5)
    Grouped(products=1.0, parts=((5, 1.0),))
    """
    if not experts:
        return Grouped(1.0, ((tokens, 1.0),))
    products = distinct_experts(experts, active_experts, tokens=tokens, shares=shares)
    mean = tokens * active_experts / products
    nearest = round(mean)
    if abs(mean - nearest) <= WHOLE * nearest:
        return Grouped(products, ((nearest, 1.0),))
    below = math.floor(mean)
    return Grouped(products, ((below, below + 1 - mean), (below + 1, mean - below)))


def load_expert_shares(path: str | Path) -> list[float]:
    """Read a measured histogram of expert loads.

    Parameters
    ----------
    path : str or Path
        A CSV file with the columns `expert` (0, 1, ...) and `load`, or a JSON list with a load per expert. A load is
        a share, or a count of picks.

    Returns
    -------
    list of float
        Loads by expert, as they stand in the file.

    Raises
    ------
    SpecError
        The file cannot be read, has other columns, or names experts that are not 0, 1, ... each once.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "loads.csv"
    >>> _ = file.write_text("expert,load\\n1,30\\n0,10\\n")
    >>> load_expert_shares(file)
    [10.0, 30.0]
    """
    file = Path(path)
    if file.suffix.lower() == ".json":
        found: Any = read_json(file)
        if not isinstance(found, list) or not all(
            is_number(load) and abs(load) <= MOST_LOAD for load in found
        ):
            raise SpecError(
                f"{file}: expected a JSON list with one number per expert, at most {MOST_LOAD:.0e}"
            )
        return [float(load) for load in found]
    text = read_text(file, error=SpecError, encoding="utf-8-sig")
    lines = csv_rows(text.splitlines(), where=file, error=SpecError)
    if not lines or [name.strip() for name in lines[0]] != ["expert", "load"]:
        raise SpecError(f"{file}: expected a CSV file with the columns expert,load, or a .json list of loads")
    # Experts may stand in any order, so a missing or doubled one is found only by its number.
    loads: dict[int, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            expert, load = (cell.strip() for cell in line)
            place, value = int(expert), float(load)
        except ValueError:
            raise SpecError(f"{file}: line {number}: expected the number of an expert and its load") from None
        if place in loads or not 0 <= place < MOST_EXPERTS:
            raise SpecError(f"{file}: line {number}: expert {brief(place)}: expected 0, 1, ... each once")
        loads[place] = value
    missing = next((place for place in range(len(loads)) if place not in loads), None)
    if missing is not None:
        raise SpecError(
            f"{file}: no load of expert {missing}: expected one for each expert, 0 if it takes nothing"
        )
    return [loads[place] for place in range(len(loads))]
