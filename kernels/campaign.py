"""A campaign: which products to measure, as a TOML file says it, and in which rounds.

A round is what is timed interleaved: one shape, value type, number of threads and cache state, every pattern and
encoding of it, and the dense calls.
"""

import difflib
import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nmsim import encodings
from nmsim.errors import NmsimError, SpecError
from nmsim.measurement import L2State
from nmsim.pattern import Pattern
from nmsim.records import VALUE_BITS, GemmShape, Phase

CAMPAIGN_FOLDER = Path(__file__).parent / "campaigns"
COUNTS = ("seed", "repetitions", "warmup", "budget_s")
LISTS = ("shapes", "patterns", "encodings", "dtypes", "threads", "l2_state", "kernels")
OPTIONAL = ("phase", "kernels", "threads")
ALL_CORES = "all"
BEST = "best"


@dataclass(frozen=True)
class Round:
    """What is timed interleaved. `threads` is None for all cores; `kernels` are names a backend knows."""

    shape: GemmShape
    phase: Phase
    dtype: str
    threads: int | None
    l2_state: L2State
    variants: tuple[tuple[Pattern, str], ...]
    kernels: tuple[str, ...]

    def __str__(self) -> str:
        shape = self.shape
        cores = (
            "all cores" if self.threads is None else f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        )
        return f"M={shape.M} N={shape.N} K={shape.K} {self.dtype} {self.l2_state}, {cores}"


@dataclass(frozen=True)
class Campaign:
    """Rounds in the order in which they are run, with how often and how long.

    `budget_s` bounds the whole run; the rounds share it, and take fewer repetitions where it is short.
    """

    name: str
    seed: int
    repetitions: int
    warmup: int
    budget_s: float
    rounds: tuple[Round, ...]


def shipped() -> list[str]:
    """Name the campaigns that ship with the package.

    Examples
    --------
    >>> "cpu-quick" in shipped()
    True
    """
    return sorted(path.stem for path in CAMPAIGN_FOLDER.glob("*.toml"))


def load(campaign: str | Path) -> Campaign:
    """Read a campaign that ships with the package, by name, or a TOML file.

    Raises
    ------
    SpecError
        No such campaign, or a key that is unknown, missing or malformed: the error names the file and the key.
    """
    path = Path(campaign)
    if path.suffix != ".toml":
        if str(campaign) not in shipped():
            raise SpecError(
                f"campaign {str(campaign)!r}: expected one of {', '.join(shipped())}, or the path of a .toml file"
            )
        path = CAMPAIGN_FOLDER / f"{campaign}.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as TOML: {error}") from error
    return _campaign(document, path)


def _campaign(document: dict[str, Any], path: Path) -> Campaign:
    _check_keys(document, (*COUNTS, "round"), (), f"{path}")
    for name in COUNTS:
        value, least = document[name], 0 if name in ("seed", "warmup") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SpecError(f"{path}: {name}: {value!r}, expected a whole number of at least {least}")
    tables = document["round"]
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise SpecError(f"{path}: round: expected an array of tables, [[round]]")
    rounds = [found for i, table in enumerate(tables) for found in _rounds(table, f"{path}: round[{i}]")]
    counts = {name: document[name] for name in COUNTS}
    return Campaign(name=path.stem, rounds=tuple(dict.fromkeys(rounds)), **counts)


def _rounds(table: dict[str, Any], where: str) -> Iterator[Round]:
    _check_keys(table, tuple(name for name in LISTS if name not in OPTIONAL), OPTIONAL, where)
    defaults: dict[str, Any] = {"kernels": [BEST], "threads": [1], "phase": "decode"}
    table = defaults | table
    for name in LISTS:
        if not isinstance(table[name], list) or not table[name]:
            raise SpecError(f"{where}.{name}: {table[name]!r}, expected a list of at least one")
    try:
        shapes = [GemmShape(*shape) for shape in table["shapes"]]
        patterns = [Pattern.parse(text) for text in table["patterns"]]
        names = [encodings.get(name).name for name in table["encodings"]]
    except (NmsimError, TypeError) as error:
        raise SpecError(f"{where}: {error}; shapes are [M, N, K]") from error
    _check_choice(table["phase"], get_args(Phase), f"{where}.phase")
    for name, allowed in (("dtypes", tuple(VALUE_BITS)), ("l2_state", ("cold", "warm"))):
        for value in table[name]:
            _check_choice(value, allowed, f"{where}.{name}")
    for kernel in table["kernels"]:
        if not isinstance(kernel, str):
            raise SpecError(f"{where}.kernels: {kernel!r}, expected the name of a kernel, or {BEST!r}")
    threads = [_threads(value, where) for value in table["threads"]]
    for shape, dtype, cores, state in itertools.product(shapes, table["dtypes"], threads, table["l2_state"]):
        yield Round(
            shape,
            table["phase"],
            dtype,
            cores,
            state,
            tuple(itertools.product(patterns, names)),
            tuple(table["kernels"]),
        )


def _threads(value: Any, where: str) -> int | None:
    if value == ALL_CORES:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(
            f"{where}.threads: {value!r}, expected a whole number of at least 1, or {ALL_CORES!r}"
        )
    return value


def _check_choice(value: Any, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise SpecError(f"{where}: {value!r}, expected one of {', '.join(allowed)}")


def _check_keys(
    table: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...], where: str
) -> None:
    for name in table:
        if name not in required + optional:
            near = difflib.get_close_matches(name, required + optional, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SpecError(f"{where}: {name}: unknown key{hint}; expected {', '.join(required + optional)}")
    for name in required:
        if name not in table:
            raise SpecError(f"{where}: {name}: missing; this key is required")
