"""Origin of a result: versions, commit, inputs, machine, time."""

import datetime
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nmsim
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

    `commit` is empty outside a checkout; `dirty` says that the checkout held changes that are not committed.
    """

    nmsim: str
    commit: str
    dirty: bool
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
    commit, dirty = _commit()
    return Provenance(
        nmsim=nmsim.__version__,
        commit=commit,
        dirty=dirty,
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


def _commit() -> tuple[str, bool]:
    root = Path(nmsim.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "", False
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return "", False


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return run.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
