"""What this machine says about itself: processor, cores, caches, memory, and the versions of what runs on it."""

import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

CPU_FOLDER = Path("/sys/devices/system/cpu")
TIMES_LAST_LEVEL = 4
LEAST_BEYOND_BYTES = 64 << 20
MOST_BEYOND_BYTES = 1 << 30
UNKNOWN_CACHE_BYTES = 32 << 20
"""Taken for the last level if the system does not report it."""
SIZE_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Cache:
    """A level of data cache: bytes of one instance, and how many instances the available cores have."""

    level: int
    instance_bytes: int
    instances: int

    @property
    def bytes(self) -> int:
        """Bytes of all instances."""
        return self.instance_bytes * self.instances


@dataclass(frozen=True)
class Host:
    """A machine: the cores that this process may use, and what they share.

    `caches` holds data and unified caches, innermost first; empty if the system does not report it.
    """

    processor: str
    cores: int
    memory_bytes: int
    caches: tuple[Cache, ...]

    @property
    def id(self) -> str:
        """A name for files and rows, such as `"amd-epyc-2core"`."""
        plain = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", " ", self.processor.lower())
        return f"{re.sub(r'[^a-z0-9]+', '-', plain).strip('-') or 'cpu'}-{self.cores}core"

    @property
    def last_level_cache_bytes(self) -> int | None:
        """Bytes of the outermost cache, all instances; None if the system does not report it."""
        return self.caches[-1].bytes if self.caches else None

    @property
    def beyond_caches_bytes(self) -> int:
        """Bytes far beyond the last level of cache, and never more than an eighth of the memory."""
        last = self.last_level_cache_bytes or UNKNOWN_CACHE_BYTES
        wanted = min(max(TIMES_LAST_LEVEL * last, LEAST_BEYOND_BYTES), MOST_BEYOND_BYTES)
        return min(wanted, self.memory_bytes // 8)


def this_machine() -> Host:
    """Ask the system about this machine."""
    cores = _usable_cores()
    return Host(
        processor=_processor(),
        cores=min(len(cores), _quota_cores()),
        memory_bytes=_memory_bytes(),
        caches=_caches(cores),
    )


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed, and "" of those that are not."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quota_cores() -> int:
    """Cores that a container's quota of processor time amounts to, rounded up."""
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    if quota.isdigit() and period.isdigit():
        return max(1, math.ceil(int(quota) / int(period)))
    return 1 << 30


def _processor() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.M)
    return match[1].strip() if match else platform.processor() or platform.machine() or "unknown processor"


def _memory_bytes() -> int:
    match = re.search(r"^MemTotal:\s*(\d+) kB$", _read(Path("/proc/meminfo")), re.M)
    if match:
        return int(match[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 32


def _caches(cores: Sequence[int], folder: Path = CPU_FOLDER) -> tuple[Cache, ...]:
    """Data and unified caches of the cores, as Linux lists them."""
    shared_by: dict[int, set[str]] = {}
    size_bytes: dict[int, int] = {}
    for core in cores:
        for index in (folder / f"cpu{core}" / "cache").glob("index*"):
            size = re.fullmatch(r"(\d+)([KMG]?)", _read(index / "size"))
            level = _read(index / "level")
            if _read(index / "type") not in ("Data", "Unified") or not size or not level.isdigit():
                continue
            size_bytes[int(level)] = int(size[1]) * SIZE_BYTES[size[2]]
            shared_by.setdefault(int(level), set()).add(_read(index / "shared_cpu_list") or str(core))
    return tuple(Cache(level, size_bytes[level], len(shared_by[level])) for level in sorted(size_bytes))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
