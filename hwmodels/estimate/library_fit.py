"""Reads the properties of vendor libraries off measured rows: the values of `hwmodels/data/libraries.toml`.

The file says which properties a generation has, and which it takes from another one. The values are found in rounds. First
the constants are fitted with the properties held, and then the properties of each generation with the constants held. The
search begins at the priors, with all ratios 1, so the same rows give the same values whatever the file held before.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.estimate import constants
from hwmodels.estimate.constants import Constants
from hwmodels.estimate.fit import Problem, sampled, soften
from hwmodels.estimate.intervals import VENDOR_FAMILIES
from hwmodels.machine.libraries import (
    CACHE,
    DRAM,
    LATENCY,
    LAUNCH,
    LIBRARIES_FILE,
    NO_REREAD_TOKENS,
    PARTS,
    RATE,
    REREAD_TOKENS,
    RESTREAM_TOKENS,
    VALUE_TYPES,
    chain,
    libraries,
    measured,
    properties,
)
from hwmodels.machine.spec import load_machine
from nmsim.support.sources import read_text

ROUNDS = 3
EVALUATIONS = 15
EVALUATIONS_OF_A_CHOICE = 4
EVERY_ROW = 3
"""Of the rows of a generation each third is read: they are many, and alike."""
PRIOR_SHARE = 0.02
"""Pull of a ratio towards 1, as a share of what all rows of its generation pull."""
SPLITS = (1.0, 2.0, 4.0, 8.0)
SIDES = ("", "sparse_")
SHARED = {"bf16": ("bf16", "fp16")}
"""Type in the file -> the value types whose rows it is read off."""

Values = Mapping[tuple[str, str], float]
"""Section of the file and name of a property -> its value."""
Progress = Callable[[str, float], None]


class _Generation:
    """Rows of one generation, its table of properties, and the places in it that a least-squares step moves."""

    def __init__(self, name: str, inputs: pd.DataFrame, table: NDArray[np.float64]) -> None:
        self.name, self.table = name, table
        entry = libraries()[name]
        rows = inputs[inputs["kernel_family"].isin(VENDOR_FAMILIES) & (inputs["l2_state"] == "warm")]
        self.problem = Problem(rows.iloc[::EVERY_ROW], {name: table})
        every = list(range(len(VALUE_TYPES)))
        section = f"generation.{name}"
        # A ratio of the generation stands in several cells of the table, one of a type in those of its types.
        self.cells: dict[tuple[str, str], tuple[list[int], list[int], int]] = {
            (section, "launch_ratio"): (every, [0], LAUNCH),
            (section, "sparse_launch_ratio"): (every, [1], LAUNCH),
            (section, "dram_ratio"): (every, [0, 1], DRAM),
            (section, "cache_ratio"): (every, [0, 1], CACHE),
        }
        for dtype in entry.types:
            kinds = [VALUE_TYPES.index(one) for one in SHARED.get(dtype, (dtype,))]
            for side, prefix in enumerate(SIDES):
                for column, what in ((RATE, "rate_share"), (LATENCY, "latency_ratio")):
                    self.cells[f"{section}.types.{dtype}", prefix + what] = (kinds, [side], column)
        wide = [VALUE_TYPES.index(one) for one in SHARED["bf16"]]
        self.choices = {
            (section, "parts"): (every, [0], PARTS, SPLITS),
            (section, "sparse_parts"): (every, [1], PARTS, SPLITS),
            (section, "restream_tokens"): (wide, [1], RESTREAM_TOKENS, (REREAD_TOKENS, NO_REREAD_TOKENS)),
        }
        self.steps = np.zeros(len(self.cells))

    def set(self, steps: NDArray[np.float64]) -> None:
        for (kinds, sides, column), value in zip(self.cells.values(), np.exp(steps), strict=True):
            self.table[np.ix_(kinds, sides, [column])] = value

    def solve(self, values: Constants, evaluations: int) -> float:
        """Find the ratios of the least loss, and return the loss."""
        from scipy.optimize import least_squares

        pull = PRIOR_SHARE * np.sqrt(len(self.problem.inputs))

        def residuals(steps: NDArray[np.float64]) -> NDArray[np.float64]:
            self.set(steps)
            dense, sparse = self.problem.errors(values)
            return np.concatenate([*(soften(one) for one in (dense, sparse, dense - sparse)), pull * steps])

        found = least_squares(residuals, self.steps, diff_step=3e-3, max_nfev=evaluations)
        self.steps = found.x
        self.set(self.steps)
        return float(found.cost)

    def choose(self, values: Constants) -> None:
        """Try each number of parts and of tokens per pass, and keep the one that leaves the least loss."""
        for kinds, sides, column, options in self.choices.values():
            place, start = np.ix_(kinds, sides, [column]), self.steps
            losses = []
            for option in options:
                self.table[place], self.steps = option, start
                losses.append((self.solve(values, EVALUATIONS_OF_A_CHOICE), option, self.steps))
            _, self.table[place], self.steps = min(losses, key=lambda tried: tried[0])
            self.set(self.steps)

    def values(self) -> Iterator[tuple[tuple[str, str], float]]:
        yield from zip(self.cells, np.exp(self.steps).tolist(), strict=True)
        for name, (kinds, sides, column, _) in self.choices.items():
            yield name, float(self.table[kinds[0], sides[0], column])


def fit_libraries(
    inputs: pd.DataFrame, progress: Progress = lambda step, share: None
) -> dict[tuple[str, str], float]:
    """Read the properties of all generations that the file calls measured off rows.

    Parameters
    ----------
    inputs : DataFrame
        As for `hwmodels.estimate.fit.fit`.
    progress : callable
        Receives what is under way, and the share done.

    Returns
    -------
    dict
        Section of the file and name of a property -> value, for generations that have rows.
    """
    generations = inputs["machine"].map(lambda machine: load_machine(machine).generation)
    names = [name for name in libraries() if measured(name) and _enough(inputs[generations == name])]
    tables = {name: properties(None) for name in names}
    # A generation without an entry of its own shares the table of the one that it is like.
    shared = {
        str(one): tables[source]
        for one in set(generations.dropna())
        if (source := next((name for name in chain(one) if name in tables), None))
    }
    fitted = [_Generation(name, inputs[generations == name], tables[name]) for name in names]
    sample = Problem(inputs[sampled(inputs)], shared)
    chosen = np.ones(len(sample.inputs), bool)
    values, steps, done = constants.prior(), ROUNDS * (1 + len(fitted)), 0
    for turn in range(ROUNDS):
        progress(f"round {turn + 1}: constants", done / steps)
        values, done = sample.solve(chosen, values), done + 1
        for one in fitted:
            progress(f"round {turn + 1}: {one.name}", done / steps)
            one.solve(values, EVALUATIONS)
            if turn == 0:
                one.choose(values)
                one.solve(values, EVALUATIONS)
            done += 1
    return {key: value for one in fitted for key, value in one.values()}


def _enough(rows: pd.DataFrame) -> bool:
    """Whether rows of a vendor's library are there at all: in runs back to back, as the properties are defined."""
    return bool((rows["kernel_family"].isin(VENDOR_FAMILIES) & (rows["l2_state"] == "warm")).any())


_LINE = re.compile(r"(?P<name>\w+) = \{ value = (?P<value>[^,]+), kind = \"(?P<kind>\w+)\"")


def _lines(text: str) -> Iterator[tuple[str, str, re.Match[str] | None]]:
    """Lines of the file with their section, and the match of those that hold a value."""
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        yield line, section, _LINE.match(line)


def values_of(text: str) -> dict[tuple[str, str], float]:
    """Read the values that a text of `libraries.toml` holds: section and name of a property -> value."""
    return {(section, match["name"]): float(match["value"]) for _, section, match in _lines(text) if match}


def libraries_text(found: Values, path: Path = LIBRARIES_FILE) -> str:
    """Put values into the text of the file; all else stays as it is.

    A property of kind `measured` takes its own value, and one of kind `assumed` the geometric mean over all generations.

    Parameters
    ----------
    found : mapping
        As from `fit_libraries`.
    path : Path
    """
    lines = []
    for line, section, match in _lines(read_text(path)):
        if match:
            name = match["name"]
            values = [found[section, name]] if (section, name) in found else []
            if match["kind"] == "assumed":
                values = [value for (_, other), value in found.items() if other == name]
            if values:
                value = float(np.exp(np.mean(np.log(values))))
                rounded = round(value) if "parts" in name or "tokens" in name else float(f"{value:.3g}")
                line = f"{line[: match.start('value')]}{rounded}{line[match.end('value') :]}"
        lines.append(line)
    return "\n".join(lines) + "\n"
