"""Rounds of a campaign: what is timed interleaved, in which order.

A round has one shape, value type, number of threads and cache state. It has every pattern and encoding of it, and the
baselines. A transfer is a kernel that only moves a matrix: [N, K] of weights, with M = 1, or [M, K] of activations, with N = 1.

This module needs no more than the kernels do. `kernels.measure.campaign` reads and checks campaigns of anybody.
"""

import itertools
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nmsim.case import GemmShape, Phase, SparseOperand
from nmsim.errors import SpecError, brief
from nmsim.format import DEFAULT_ENCODING, DENSE, SparseFormat
from nmsim.rows.measurement import L2State
from nmsim.support.names import did_you_mean
from nmsim.support.sources import read_text

CAMPAIGN_FOLDER = Path(__file__).parent / "campaigns"
ALL_CORES = "all"
BEST = "best"


@dataclass(frozen=True)
class Round:
    """What is timed interleaved. `threads` is None for all cores; `kernels` are names a backend knows.

    A format is None for a transfer that knows no patterns. Kernels fix the packing of codes per encoding.
    """

    shape: GemmShape
    phase: Phase
    dtype: str
    threads: int | None
    l2_state: L2State
    formats: tuple[SparseFormat | None, ...]
    kernels: tuple[str, ...]
    sparse_operand: SparseOperand = "weights"

    def __str__(self) -> str:
        shape = self.shape
        cores = (
            "all cores" if self.threads is None else f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        )
        pruned = "" if self.sparse_operand == "weights" else f", sparse {self.sparse_operand}"
        return f"M={shape.M} N={shape.N} K={shape.K} {self.dtype} {self.l2_state}, {cores}{pruned}"


@dataclass(frozen=True)
class Campaign:
    """Rounds in the order in which they are run, with how often and how long.

    `budget_s` bounds the whole run; the rounds share it, and take fewer repetitions if it is short. `skip` are globs of what
    is left out of all rounds, such as `gpu.gemv 16:32/*`: kernel and format.
    """

    name: str
    seed: int
    repetitions: int
    warmup: int
    budget_s: float
    rounds: tuple[Round, ...]
    skip: tuple[str, ...] = ()

    def skips(self, label: str) -> bool:
        """Whether a kernel on a pattern and encoding is left out."""
        return any(fnmatchcase(label, glob) for glob in self.skip)


def formats_of(patterns: Sequence[str], names: Sequence[str]) -> tuple[SparseFormat | None, ...]:
    """Every pattern with every encoding, and None for `dense`.

    Raises
    ------
    NmsimError
        No pattern or encoding of nmsim, or an encoding that does not take a pattern.
    """
    pairs = itertools.product(patterns, names)
    found = [None if text == DENSE else SparseFormat.parse(text, encoding=name) for text, name in pairs]
    return tuple(dict.fromkeys(found))


def combined(
    *,
    shapes: Sequence[GemmShape],
    patterns: Sequence[str],
    dtypes: Sequence[str],
    l2_state: Sequence[L2State],
    encodings: Sequence[str] | None = None,
    threads: Sequence[int | None] = (1,),
    kernels: Sequence[str] = (BEST,),
    phase: Phase = "decode",
    sparse_operand: SparseOperand = "weights",
) -> Iterator[Round]:
    """Combine shapes, value types, threads and cache states, as a `[[round]]` of a file does; the last varies fastest."""
    formats = formats_of(patterns, encodings or (DEFAULT_ENCODING,))
    for shape, dtype, cores, state in itertools.product(shapes, dtypes, threads, l2_state):
        yield Round(shape, phase, dtype, cores, state, formats, tuple(kernels), sparse_operand)


def shipped(folder: Path = CAMPAIGN_FOLDER) -> list[str]:
    """Name the campaigns that ship with the package, in a folder of it.

    Examples
    --------
    >>> "cpu-quick" in shipped()
    True
    """
    return sorted(path.stem for path in folder.glob("*.toml"))


def campaign_file(campaign: str | Path, *, folder: Path = CAMPAIGN_FOLDER) -> Path:
    """Find the file of a campaign: one that ships with the package in a folder of it, by name, or a TOML file.

    Raises
    ------
    SpecError
        No such campaign.
    """
    path, names = Path(campaign), shipped(folder)
    if path.suffix == ".toml":
        return path
    if str(campaign) not in names:
        raise SpecError(
            f"campaign {brief(str(campaign))}: expected one of {', '.join(names)}, or the path of a .toml file"
            f"{did_you_mean(campaign, names)}"
        )
    return folder / f"{campaign}.toml"


def shipped_campaign(name: str) -> Campaign:
    """Read a campaign that ships with the package, without checks: a test holds that its file passes them.

    A machine with a GPU may lack the packages that checks need.

    Raises
    ------
    SpecError
        No such campaign.
    """
    file = tomllib.loads(read_text(campaign_file(name), error=SpecError))
    rounds = dict.fromkeys(each for table in file.pop("round") for each in combined(**_plain(table)))
    return Campaign(name=name, rounds=tuple(rounds), **file)


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    threads = table.get("threads", [1])
    return {
        **table,
        "shapes": [GemmShape(*shape) for shape in table["shapes"]],
        "threads": [None if cores == ALL_CORES else cores for cores in threads],
    }
