"""How a way of pruning looks in the figure of `validate.quality`: a colour a pattern, a marker a mitigation, no two alike."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hwmodels.plots.predicted import LIGHT, MARKERS, Theme, pattern_order
from nmsim.errors import RowError

MARKS: tuple[Any, ...] = (
    *MARKERS, "<", ">", "*", "d", "p", (4, 1, 0), (4, 1, 45), (3, 1, 0), (3, 1, 180), (6, 1, 0), (8, 1, 0), "h",
)  # fmt: skip
"""Markers with an inside that can be filled or left empty; those of three numbers are stars with so many points."""
COLOURS = (*LIGHT.series, "#332288", "#882255", "#6B4C1E")
"""The series of all figures, and three darker ones."""


@dataclass(frozen=True)
class Looks:
    """Patterns and mitigations of a figure, each in the order of the legend.

    Raises
    ------
    RowError
        More than there are colours or markers.

    Examples
    --------
    >>> looks = Looks.of(["8:16", "2:4"], ["none", "var"])
    >>> looks.patterns, looks.look("2:4", "var")["marker"]
    (('2:4', '8:16'), 's')
    """

    patterns: tuple[str, ...]
    mitigations: tuple[str, ...]

    def __post_init__(self) -> None:
        for what, names, most in (
            ("patterns", self.patterns, len(COLOURS)),
            ("mitigations", self.mitigations, len(MARKS)),
        ):
            if len(names) > most:
                raise RowError(
                    f"a figure of {len(names)} {what}, expected at most {most}: no more could be told apart"
                )

    @classmethod
    def of(cls, patterns: Iterable[str], mitigations: Iterable[str]) -> "Looks":
        """Take each name once."""
        return cls(tuple(pattern_order(patterns)), tuple(dict.fromkeys(mitigations)))

    def look(self, pattern: str, mitigation: str) -> dict[str, Any]:
        """Arguments of `Axes.plot` for one point."""
        return {"color": COLOURS[self.patterns.index(pattern)], **self.mark(mitigation)}

    def mark(self, mitigation: str) -> dict[str, Any]:
        """The same but for the colour."""
        return {
            "marker": MARKS[self.mitigations.index(mitigation)],
            "linestyle": "none",
            "markersize": 5.5,
            "markeredgewidth": 1.1,
        }

    def reference(self, theme: Theme) -> dict[str, Any]:
        """Of a point without groups, which no pattern or mitigation is of."""
        return {"color": theme.ink, "marker": ".", "linestyle": "none", "markersize": 6.0}
