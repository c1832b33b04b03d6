"""Kernels that Triton has compiled, as one archive that travels to the next machine.

A machine that is lent for minutes is bare each time. Triton finds a compiled kernel by the sources of the kernel and of Triton,
by the device's capability and the arguments' types. So an archive serves each machine with the same versions. On another one
what does not fit is compiled, and nothing is wrong.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kernels.timing.sources import digest_of
from nmsim.errors import NmsimError
from nmsim.files.atomic import new_file, part_file
from nmsim.support.checkout import Checkout
from nmsim.support.sources import open_regular

MANIFEST = "nmsim.json"
KEPT = (".cubin", ".json", ".so")
"""Files that a launch needs: machine code, what was compiled and how, and the launcher. The others are steps on the way."""
GROUP = "__grp__"
"""Beginning of the name of a file that lists the files of a kernel, by absolute paths."""
MOST_BYTES = 192 << 20
"""Most bytes that are packed. Machine code shrinks to a quarter or less, so that an archive travels in 64 MiB."""
KERNELS = ("gemv", "mma", "gemm", "skip_gemv", "sparse_activations")


@dataclass(frozen=True)
class Unpacked:
    """How many files an archive held, and the checkout that it was packed from, if its kernels are those that are here."""

    files: int
    checkout: Checkout


def cache_folder() -> Path:
    """The folder in which Triton of this process keeps compiled kernels."""
    given = os.environ.get("TRITON_CACHE_DIR")
    return Path(given) if given else Path(os.environ.get("TRITON_HOME", Path.home())) / ".triton" / "cache"


def sources_digest() -> str:
    """Digest of the sources of the kernels, of this checkout."""
    return "".join(digest_of(f"kernels.gpu.products.{name}") for name in KERNELS)


def pack(archive: Path, at: Checkout, folder: Path | None = None) -> int:
    """Pack what a launch needs of a folder of compiled kernels, up to `MOST_BYTES` before compression.

    Parameters
    ----------
    archive : Path
        Replaced if it exists.
    at : Checkout
        Of the sources that the kernels were compiled from.
    folder : Path, optional
        `cache_folder()` when absent.

    Returns
    -------
    int
        Files packed.
    """
    root = folder or cache_folder()
    manifest = {"commit": at.commit, "dirty": at.dirty, "sources": sources_digest()}
    count = 0
    with new_file(archive, force=True) as stream, tarfile.open(fileobj=stream, mode="w:xz") as tar:
        _add(tar, MANIFEST, json.dumps(manifest).encode())
        for path in _kept(root):
            with open_regular(path) as file:
                content = file.read()
            if path.name.startswith(GROUP):
                names = [name for name in json.loads(content)["child_paths"] if name.endswith(KEPT)]
                content = json.dumps(names).encode()
            _add(tar, path.relative_to(root).as_posix(), content)
            count += 1
    return count


def _kept(root: Path) -> Iterator[Path]:
    """Files to pack, whole kernels only: one whose machine code is left out would be looked for in vain."""
    total = 0
    for kernel in sorted(path for path in root.glob("*") if path.is_dir()):
        files = sorted(path for path in kernel.iterdir() if path.suffix in KEPT)
        total += sum(path.stat().st_size for path in files)
        if total > MOST_BYTES:
            return
        yield from files


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))


def unpack(archive: Path, folder: Path | None = None) -> Unpacked:
    """Unpack an archive into the folder where Triton looks; what is there already stays.

    Raises
    ------
    NmsimError
        No such archive, or a file in it that would lie elsewhere.
    """
    root, count, manifest = folder or cache_folder(), 0, {}
    try:
        with tarfile.open(archive, mode="r:*") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None:
                    continue
                if member.name == MANIFEST:
                    manifest = json.loads(content.read())
                    continue
                count += _written(root, member.name, content.read())
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        raise NmsimError(
            f"{archive}: cannot be unpacked: {error}; expected an archive of compiled kernels"
        ) from error
    same = manifest.get("sources") == sources_digest()
    found = Checkout(manifest["commit"], manifest["dirty"]) if same else Checkout()
    return Unpacked(count, found)


def _written(root: Path, name: str, content: bytes) -> bool:
    """Write a file of an archive, if it is not there.

    Raises
    ------
    ValueError
        A name that is not FOLDER/FILE.
    """
    parts = PurePosixPath(name).parts
    if len(parts) != 2 or ".." in parts or name.startswith("/"):
        raise ValueError(f"{name}: expected FOLDER/FILE")
    path = root.joinpath(*parts)
    if path.exists():
        return False
    if path.name.startswith(GROUP):
        content = json.dumps(
            {"child_paths": {file: str(path.parent / file) for file in json.loads(content)}}
        ).encode()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with part_file(path) as stream:
        stream.write(content)
    return True
