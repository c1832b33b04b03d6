"""The table of constants in the page on the estimate: priors from the code, values from the last fit."""

from pathlib import Path

from hwmodels.estimate import constants
from hwmodels.estimate.constants import PRIORS, Constants, Prior

PAGE = Path(__file__).parents[1] / "explanation" / "estimate.md"
BEGIN, END = "<!-- constants: made by `make docs` -->\n", "<!-- end of constants -->\n"
NANOSECONDS_BELOW_S = 1e-7
HEAD = (
    "| constant | unit | prior | range | fitted | one die left out | reason for prior and range |\n"
    "|---|---|---|---|---|---|---|\n"
)


def page() -> str:
    """The page as it stands, its table made anew."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table() + END + after


def table() -> str:
    """A line for each constant: its prior, its range, its fitted value, and the spread of the held-out ones."""
    everything = constants.load()
    held_out = [constants.load(group) for group in constants.groups()]
    rows = [_row(name, prior, everything, held_out) for name, prior in PRIORS.items()]
    source = next(iter(constants.quantities().values())).source
    return f"\nFitted to {source}.\n\n{HEAD}{''.join(rows)}\n"


def _row(name: str, prior: Prior, everything: Constants, held_out: list[Constants]) -> str:
    unit, scale = _printed(prior)
    others = [getattr(values, name) for values in held_out]
    numbers = (
        f"{prior.value * scale:.3g}",
        _span(prior.low * scale, prior.high * scale),
        f"{getattr(everything, name) * scale:.3g}",
        _span(min(others) * scale, max(others) * scale),
    )
    return f"| `{name}` | {unit} | {' | '.join(numbers)} | {prior.reason} |\n"


def _span(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _printed(prior: Prior) -> tuple[str, float]:
    if prior.unit == "s":
        return ("ns", 1e9) if prior.value < NANOSECONDS_BELOW_S else ("us", 1e6)
    return {"joules_per_flop": ("pJ/flop", 1e12), "ratio": ("", 1.0)}[prior.unit]
