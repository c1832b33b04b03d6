"""Numbers that launchers take from measurements: warps of a program, parts of K, and more, per device, kernel and case.

Launchers read them where `NMSIM_TUNED` says, a file or a folder, or in the folder `nmsim/tuned` of the user's caches. Without a
file, they choose by themselves. A file is of one device, one version of Triton, and the sources of its kernels.
`kernels.measure.cuda.tuned` writes it.
"""

import functools
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kernels.stored.errors import KernelError
from kernels.timing.sources import digest_of
from nmsim.errors import brief
from nmsim.format import SparseFormat
from nmsim.support.sources import read_text

VERSION = 1
PATH_VARIABLE = "NMSIM_TUNED"
KERNELS = {
    "gpu.gemv": ("kernels.gpu.products.gemv", ("warps", "n_parts")),
    "gpu.gemm_small": ("kernels.gpu.products.gemm", ("warps", "tile_outputs", "n_parts")),
    "gpu.gemm": ("kernels.gpu.products.gemm", ("dense_tokens",)),
}
"""Kernel -> its module, and the numbers that its launcher takes. `dense_tokens` of `gpu.gemm`: from so many tokens on
weights are made dense first. It holds for any number of tokens and stands with M = 1."""
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
CASE = ("kernel", "format", "dtype", "M", "N", "K")
"""What a configuration is for: M tokens, N outputs, K inputs."""
Case = tuple[str, str, str, int, int, int]


@dataclass(frozen=True)
class Tuned:
    """The configurations of one device.

    Parameters
    ----------
    device : str
        What the device calls itself.
    triton : str
        Version of Triton that compiled what was measured.
    sources : dict of str to str
        Kernel -> digest of the sources that were measured.
    options : dict
        `CASE` -> numbers for the launcher. A case for which the launcher's own choice was fastest has none.
    """

    device: str
    triton: str
    sources: Mapping[str, str]
    options: Mapping[Case, Mapping[str, int]]


def path_of(device: str) -> Path:
    """Where the file of a device is: in the folder, or the file, that `NMSIM_TUNED` names, or among the user's caches.

    Examples
    --------
    >>> path_of("NVIDIA H200").name
    'nvidia-h200.json'
    """
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"
    if asked := os.environ.get(PATH_VARIABLE):
        path = Path(asked)
        return path if path.suffix == ".json" else path / name
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nmsim" / "tuned" / name


def load(path: Path) -> Tuned:
    """Read a file.

    Raises
    ------
    KernelError
        It is no such file, of another version, or holds what no launcher takes. The error names the file and the place.
    """
    try:
        document = json.loads(read_text(path, error=KernelError))
    except ValueError as error:
        raise KernelError(
            f"{path}: {brief(str(error))}: expected JSON that kernels.measure.cuda.tuned wrote"
        ) from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        version = document.get("version") if isinstance(document, dict) else None
        raise KernelError(f"{path}: version={brief(version)}: expected {VERSION}")
    for name, expected in {"device": str, "triton": str, "sources": dict, "configurations": list}.items():
        if not isinstance(document.get(name), expected):
            raise KernelError(f"{path}: {name}={brief(document.get(name))}: expected a {expected.__name__}")
    options: dict[Case, Mapping[str, int]] = {}
    for place, entry in enumerate(document["configurations"]):
        case, numbers = _entry(f"{path}: configurations[{place}]", entry)
        options[case] = numbers
    return Tuned(document["device"], document["triton"], document["sources"], options)


def _entry(where: str, entry: Any) -> tuple[Case, Mapping[str, int]]:
    """Check one configuration."""
    if not isinstance(entry, dict) or set(entry) != {*CASE, "options"}:
        raise KernelError(f"{where}={brief(entry)}: expected {', '.join(CASE)} and options")
    if entry["kernel"] not in KERNELS:
        raise KernelError(f"{where}: kernel={brief(entry['kernel'])}: expected one of {', '.join(KERNELS)}")
    numbers = {name: entry[name] for name in ("M", "N", "K")}
    options = entry["options"]
    names = KERNELS[entry["kernel"]][1]
    if not isinstance(options, dict) or not options or set(options) - set(names):
        raise KernelError(f"{where}: options={brief(options)}: expected some of {', '.join(names)}")
    for name, value in (*numbers.items(), *options.items()):
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise KernelError(f"{where}: {name}={brief(value)}: expected a whole number from 1 on")
    for name in ("warps", "tile_outputs"):
        if options.get(name, 1).bit_count() != 1:
            raise KernelError(f"{where}: {name}={options[name]}: expected a power of two")
    if options.get("warps", 4) > 32:
        raise KernelError(f"{where}: warps={options['warps']}: expected at most 32")
    return tuple(entry[name] for name in CASE), options


def chosen(
    device: torch.device, kernel: str, format: SparseFormat, dtype: torch.dtype, shape: tuple[int, int, int]
) -> Mapping[str, int]:
    """Give the measured numbers for a launch of shape (M, N, K); empty if there are none, so that the launcher chooses.

    Raises
    ------
    KernelError
        The file that `NMSIM_TUNED` names is damaged, of another device, or of other versions than those that run. One among
        the user's caches is then left out, with a warning.
    """
    name = device_name(device)
    known = _of_device(name) if name else {}
    if not known or dtype not in TYPES:
        return {}
    return known.get((kernel, f"{format.pattern}/{format.encoding.name}", TYPES[dtype], *shape), {})


def device_name(device: torch.device) -> str:
    """What a CUDA device calls itself; "" for others."""
    return _name(device.index) if device.type == "cuda" else ""


@functools.cache
def _name(index: int | None) -> str:
    return torch.cuda.get_device_name(index)


@functools.cache
def _of_device(name: str) -> Mapping[Case, Mapping[str, int]]:
    """Configurations of a device, read once per process."""
    path = path_of(name)
    if not path.exists():
        if os.environ.get(PATH_VARIABLE, "").endswith(".json"):
            raise KernelError(f"{path}: does not exist, and {PATH_VARIABLE} names it")
        return {}
    try:
        found = load(path)
        _check_versions(found, name, path)
    except KernelError as error:
        if PATH_VARIABLE in os.environ:
            raise
        warnings.warn(f"{error}; kernels choose by themselves", stacklevel=2)
        return {}
    return found.options


def _check_versions(found: Tuned, device: str, path: Path) -> None:
    """Refuse what was measured on another device or with another compiler or kernel."""
    present = {"device": device, "triton": metadata.version("triton")}
    measured = {"device": found.device, "triton": found.triton}
    for kernel, digest in found.sources.items():
        present[f"sources of {kernel}"] = digest_of(KERNELS[kernel][0]) if kernel in KERNELS else "none"
        measured[f"sources of {kernel}"] = digest
    for name, value in measured.items():
        if value != present[name]:
            raise KernelError(
                f"{path}: {name} is {brief(value)}: expected {brief(present[name])}; measure anew with nmsim measure "
                "cuda-tuning --device cuda, then python -m kernels.measure.cuda.tuned"
            )
