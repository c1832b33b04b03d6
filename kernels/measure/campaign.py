"""A campaign: what to measure, as a TOML file says it, and in which rounds.

A round is what is timed interleaved: one shape, value type, number of threads and cache state, every pattern and
encoding of it, and the baselines. A transfer is a kernel that only moves a matrix: [N, K] of weights, with M = 1, or [M, K] of
activations, with N = 1.
"""

import difflib
import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from nmsim.case import VALUE_BITS, GemmShape, Phase, SparseOperand
from nmsim.errors import NmsimError, SpecError
from nmsim.format import DENSE, SparseFormat
from nmsim.rows.measurement import L2State

CAMPAIGN_FOLDER = Path(__file__).parent / "campaigns"
COUNTS = ("seed", "repetitions", "warmup", "budget_s")
TABLES = ("round",)
LISTS = ("shapes", "patterns", "encodings", "dtypes", "threads", "l2_state", "kernels")
OPTIONAL = ("phase", "kernels", "threads", "sparse_operand")
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

    `budget_s` bounds the whole run; the rounds share it, and take fewer repetitions where it is short. `skip` are globs of what
    is left out of all rounds, such as `gpu.gemv 16:32 *`: kernel, pattern and encoding.
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
    _check_keys(document, (*COUNTS, *TABLES), (), f"{path}")
    for name in COUNTS:
        value, least = document[name], 0 if name in ("seed", "warmup") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SpecError(f"{path}: {name}: {value!r}, expected a whole number of at least {least}")
    tables = document["round"]
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise SpecError(f"{path}: round: expected an array of tables, [[round]]")
    rounds = dict.fromkeys(
        each for place, table in enumerate(tables) for each in _rounds(table, f"{path}: round[{place}]")
    )
    return Campaign(name=path.stem, rounds=tuple(rounds), **{name: document[name] for name in COUNTS})


def _rounds(table: dict[str, Any], where: str) -> Iterator[Round]:
    optional = (*OPTIONAL, "encodings") if table.get("patterns") == [DENSE] else OPTIONAL
    _check_keys(table, tuple(name for name in LISTS if name not in optional), optional, where)
    defaults: dict[str, Any] = {
        "kernels": [BEST], "threads": [1], "phase": "decode", "sparse_operand": "weights",
    }  # fmt: skip
    if table["patterns"] == [DENSE]:
        defaults["encodings"] = ["bitmask"]
    table = defaults | table
    _check_lists(table, LISTS, where)
    try:
        shapes = [GemmShape(*shape) for shape in table["shapes"]]
    except (NmsimError, TypeError) as error:
        raise SpecError(f"{where}: {error}; shapes are [M, N, K]") from error
    formats = _check_formats(table["patterns"], table["encodings"], where)
    for name, allowed in (("phase", get_args(Phase)), ("sparse_operand", get_args(SparseOperand))):
        _check_choice(table[name], allowed, f"{where}.{name}")
    for name, allowed in (("dtypes", tuple(VALUE_BITS)), ("l2_state", ("cold", "warm"))):
        for value in table[name]:
            _check_choice(value, allowed, f"{where}.{name}")
    _check_kernels(table["kernels"], where, f", or {BEST!r}")
    threads = [_threads(value, where) for value in table["threads"]]
    for shape, dtype, cores, state in itertools.product(shapes, table["dtypes"], threads, table["l2_state"]):
        yield Round(
            shape,
            table["phase"],
            dtype,
            cores,
            state,
            formats,
            tuple(table["kernels"]),
            table["sparse_operand"],
        )


def _threads(value: Any, where: str) -> int | None:
    if value == ALL_CORES:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(
            f"{where}.threads: {value!r}, expected a whole number of at least 1, or {ALL_CORES!r}"
        )
    return value


def _check_keys(
    table: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...], where: str
) -> None:
    """Refuse a table with an unknown or a missing key."""
    for name in table:
        if name not in required + optional:
            near = difflib.get_close_matches(name, required + optional, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SpecError(f"{where}: {name}: unknown key{hint}; expected {', '.join(required + optional)}")
    for name in required:
        if name not in table:
            raise SpecError(f"{where}: {name}: missing; this key is required")


def _check_lists(table: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    """Refuse what is no list, or a list of nothing."""
    for name in names:
        if not isinstance(table[name], list) or not table[name]:
            raise SpecError(f"{where}.{name}: {table[name]!r}, expected a list of at least one")


def _check_choice(value: Any, allowed: tuple[str, ...], where: str) -> None:
    """Refuse what is none of some texts."""
    if value not in allowed:
        raise SpecError(f"{where}: {value!r}, expected one of {', '.join(allowed)}")


def _check_kernels(names: list[Any], where: str, hint: str = "") -> None:
    """Refuse names of kernels that are no texts."""
    for kernel in names:
        if not isinstance(kernel, str):
            raise SpecError(f"{where}.kernels: {kernel!r}, expected the name of a kernel{hint}")


def _check_formats(patterns: list[Any], names: list[Any], where: str) -> tuple[SparseFormat | None, ...]:
    """Every pattern with every encoding, and None for "dense"; refuse what is no pattern or encoding of nmsim."""
    try:
        pairs = itertools.product(patterns, names)
        found = [None if text == DENSE else SparseFormat.parse(text, encoding=name) for text, name in pairs]
    except (NmsimError, TypeError) as error:
        raise SpecError(f"{where}: {error}") from error
    return tuple(dict.fromkeys(found))
