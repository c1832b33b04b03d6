"""Origin of a result: versions, commit, inputs, machine, time."""

import datetime
import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nmsim
from nmsim.support.checkout import checkout
from nmsim.support.sources import open_regular

PACKAGES = ("numpy", "numba", "pandas", "matplotlib")
READ_BYTES = 1 << 22


@dataclass(frozen=True)
class InputFile:
    """A file that was read: its name, length and SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """What it takes to make a result again.

    `commit` is empty if it is unknown, as outside a checkout. `dirty` says whether the checkout held changes that are not
    committed; None if unknown.
    """

    nmsim: str
    commit: str
    dirty: bool | None
    timestamp_utc: str
    command: str
    python: str
    packages: dict[str, str]
    machine: str
    inputs: tuple[InputFile, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, for JSON."""
        return asdict(self)


def collect(command: str, inputs: Sequence[Path]) -> Provenance:
    """Collect the origin of a result.

    Parameters
    ----------
    command : str
        What made it.
    inputs : sequence of Path
        Files it depends on; read in full for their hash.
    """
    found = checkout(Path(nmsim.__file__).resolve().parent.parent)
    return Provenance(
        nmsim=nmsim.__version__,
        commit=found.commit,
        dirty=found.dirty,
        timestamp_utc=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=command,
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in PACKAGES},
        machine=f"{_processor()}, {os.cpu_count()} threads, {platform.system()} {platform.machine()}",
        inputs=tuple(InputFile(path.name, path.stat().st_size, _sha256(path)) for path in inputs),
    )


def command_line() -> str:
    """The `nmsim` command that runs, quoted as a shell takes it."""
    return shlex.join(["nmsim", *sys.argv[1:]])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while part := stream.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
