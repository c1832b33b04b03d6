"""A campaign: which products and which transfers to measure, as a TOML file says it, and in which rounds.

A round is what is timed interleaved: one shape, value type, number of threads and cache state, every pattern and
encoding of it, and the dense calls.
"""

import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from kernels.measure.campaign_keys import check_choice, check_kernels, check_keys, check_lists, check_variants
from kernels.measure.transfer_round import TransferRound, transfer_rounds
from nmsim.case import VALUE_BITS, GemmShape, Phase, SparseOperand
from nmsim.errors import NmsimError, SpecError
from nmsim.pattern import Pattern
from nmsim.rows.row import L2State

CAMPAIGN_FOLDER = Path(__file__).parent / "campaigns"
COUNTS = ("seed", "repetitions", "warmup", "budget_s")
TABLES = ("round", "transfer")
LISTS = ("shapes", "patterns", "encodings", "dtypes", "threads", "l2_state", "kernels")
OPTIONAL = ("phase", "kernels", "threads", "sparse_operand")
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
    transfers: tuple[TransferRound, ...] = ()
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


def without_transfers(campaign: Campaign, device: str) -> Campaign:
    """Refuse a campaign with transfers, for a device that takes none.

    Raises
    ------
    SpecError
        It has some.
    """
    if campaign.transfers:
        raise SpecError(
            f"campaign {campaign.name}: it has {len(campaign.transfers)} rounds of transfers (the first is "
            f"{campaign.transfers[0]}), which {device} does not take: expected --device cuda, or none of [[transfer]]"
        )
    return campaign


def _campaign(document: dict[str, Any], path: Path) -> Campaign:
    check_keys(document, COUNTS, TABLES, f"{path}")
    for name in COUNTS:
        value, least = document[name], 0 if name in ("seed", "warmup") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SpecError(f"{path}: {name}: {value!r}, expected a whole number of at least {least}")
    if not any(name in document for name in TABLES):
        raise SpecError(f"{path}: round: missing; expected at least one [[round]] or [[transfer]]")
    found = {name: _tables(document, name, path) for name in TABLES}
    rounds = dict.fromkeys(each for where, table in found["round"] for each in _rounds(table, where))
    transfers = dict.fromkeys(
        each for where, table in found["transfer"] for each in transfer_rounds(table, where)
    )
    counts = {name: document[name] for name in COUNTS}
    return Campaign(name=path.stem, rounds=tuple(rounds), transfers=tuple(transfers), **counts)


def _tables(document: dict[str, Any], name: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Tables of an array, each with where it stands."""
    if name not in document:
        return []
    tables = document[name]
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise SpecError(f"{path}: {name}: expected an array of tables, [[{name}]]")
    return [(f"{path}: {name}[{i}]", table) for i, table in enumerate(tables)]


def _rounds(table: dict[str, Any], where: str) -> Iterator[Round]:
    check_keys(table, tuple(name for name in LISTS if name not in OPTIONAL), OPTIONAL, where)
    defaults: dict[str, Any] = {
        "kernels": [BEST], "threads": [1], "phase": "decode", "sparse_operand": "weights",
    }  # fmt: skip
    table = defaults | table
    check_lists(table, LISTS, where)
    try:
        shapes = [GemmShape(*shape) for shape in table["shapes"]]
    except (NmsimError, TypeError) as error:
        raise SpecError(f"{where}: {error}; shapes are [M, N, K]") from error
    variants = check_variants(table["patterns"], table["encodings"], where)
    for name, allowed in (("phase", get_args(Phase)), ("sparse_operand", get_args(SparseOperand))):
        check_choice(table[name], allowed, f"{where}.{name}")
    for name, allowed in (("dtypes", tuple(VALUE_BITS)), ("l2_state", ("cold", "warm"))):
        for value in table[name]:
            check_choice(value, allowed, f"{where}.{name}")
    check_kernels(table["kernels"], where, f", or {BEST!r}")
    threads = [_threads(value, where) for value in table["threads"]]
    for shape, dtype, cores, state in itertools.product(shapes, table["dtypes"], threads, table["l2_state"]):
        yield Round(
            shape,
            table["phase"],
            dtype,
            cores,
            state,
            variants,
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
