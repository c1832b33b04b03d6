"""The formats by name, which one a file has, and opening a source of any of them."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nmsim.errors import ContainerError, brief
from nmsim.files.container import ENTRY_PREFIX, FORMAT_KEY
from nmsim.files.sharded import Checkpoint, open_checkpoint
from nmsim.interchange import (
    config,
    gguf,
    marlin_24,
    maskllm,
    packed,
    semi_structured,
    sparse_24_bitmask,
    sparse_bitmask,
)
from nmsim.interchange.parts import Held
from nmsim.interchange.tensors import DenseTensor, Source, stored_tensor
from nmsim.support.sources import open_regular

DENSE = "dense"


@dataclass(frozen=True)
class FileFormat:
    """One format of sparse weights.

    Parameters
    ----------
    name : str
        As `--from` and `--to` take it.
    title : str
    patterns : str
        What N:M it holds.
    writes : bool
        Whether nmsim writes it too.
    """

    name: str
    title: str
    patterns: str
    writes: bool


FORMATS = {
    entry.name: entry
    for entry in (
        FileFormat(DENSE, "safetensors, pruned weights as zeros", "any", True),
        FileFormat(packed.FORMAT, "packed files of nmsim", "any N:M", True),
        FileFormat(
            sparse_24_bitmask.FORMAT, "compressed-tensors, 2 of 4 with a bit per element", "2:4", True
        ),
        FileFormat(
            sparse_bitmask.FORMAT, "compressed-tensors, all non-zeros with a bit per element", "any", True
        ),
        FileFormat(
            marlin_24.FORMAT, "compressed-tensors, 2:4 in 4 or 8 bits for one GPU kernel", "2:4", False
        ),
        FileFormat(maskllm.FORMAT, "MaskLLM masks (.npz) beside a checkpoint", "2:4", True),
        FileFormat(
            semi_structured.FORMAT, "torch and torchao tensors: packed and meta", "2:4 (FP32: 1:2)", False
        ),
        FileFormat(gguf.FORMAT, f"GGUF of {', '.join(gguf.TYPES)}", "any, as zeros", False),
    )
}
"""Name -> format, in the order of the list that `nmsim convert --list` prints."""

READERS = {
    sparse_bitmask.FORMAT: sparse_bitmask.read,
    sparse_24_bitmask.FORMAT: sparse_24_bitmask.read,
    marlin_24.FORMAT: marlin_24.read,
    semi_structured.FORMAT: semi_structured.read,
}
"""Formats whose packed tensors are several tensors of a safetensors file."""
SIGNS = {
    sparse_24_bitmask.FORMAT: (".bitmask", ".compressed"),
    marlin_24.FORMAT: (".weight_packed", ".meta"),
}
"""Formats that two names with the same beginning identify."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
MAGIC = {b"GGUF": gguf.FORMAT, b"PK\x03\x04": maskllm.FORMAT, b"PK\x05\x06": maskllm.FORMAT}
"""First bytes of a file -> its format."""


def detect_format(source: str | Path) -> str:
    """Say which format a file or folder has.

    Parameters
    ----------
    source : path
        A `.safetensors` file, its index or folder, a `.npz` or a `.gguf` file.

    Returns
    -------
    str
        A key of `FORMATS`.

    Raises
    ------
    ContainerError
        A file that is damaged, a pickle, or a checkpoint that holds tensors of two formats.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from nmsim import save_file
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_file({"x.weight": np.zeros((4, 8), np.float16)}, path)
    >>> detect_format(path)
    'dense'
    """
    path = Path(source)
    alone = _format_of_file(path)
    if alone is not None:
        return alone
    with open_checkpoint(path) as checkpoint:
        return _format_of_tensors(checkpoint)


def _format_of_file(path: Path) -> str | None:
    """The format that the name or the first bytes of a single file tell; None for safetensors."""
    if path.suffix.lower() in PICKLES:
        raise ContainerError(
            f"{path}: may be a pickle, which can run any code when it is read; expected a safetensors, GGUF or .npz file"
        )
    if not path.is_file() or path.suffix == ".json":
        return None
    with open_regular(path) as stream:
        return MAGIC.get(stream.read(4))


def _format_of_tensors(checkpoint: Checkpoint) -> str:
    names = set(checkpoint.names)
    found = [
        format
        for format, (first, second) in SIGNS.items()
        if any(name.endswith(first) and name.removesuffix(first) + second in names for name in names)
    ]
    if any(FORMAT_KEY in file.metadata for file in checkpoint.files):
        found.append(packed.FORMAT)
    if any(_is_semi_structured(name, names) for name in names):
        found.append(semi_structured.FORMAT)
    if sparse_24_bitmask.FORMAT in found and any(
        name.endswith(".row_offsets") and name.removesuffix(".row_offsets") + ".bitmask" in names
        for name in names
    ):
        found[found.index(sparse_24_bitmask.FORMAT)] = sparse_bitmask.FORMAT
    if len(found) > 1:
        raise ContainerError(
            f"{checkpoint.path}: holds tensors of {' and of '.join(found)}, expected one format (name one with --from)"
        )
    return found[0] if found else DENSE


def _is_semi_structured(name: str, names: set[str]) -> bool:
    match = semi_structured.PART.fullmatch(name)
    if match is None:
        return False
    role = match["role"]
    beside = semi_structured.KINDS.get(role, ("",))[0]
    return role == semi_structured.OPAQUE or match["stem"] + match["sep"] + beside in names


@contextlib.contextmanager
def open_source(
    source: str | Path, format: str | None = None, *, weights: str | Path | None = None
) -> Iterator[Source]:
    """Open a source of any format; its tensors are read block by block while it is open.

    Parameters
    ----------
    source : path
    format : str, optional
        A key of `FORMATS`; found out if absent.
    weights : path, optional
        The checkpoint that MaskLLM masks belong to.

    Raises
    ------
    ContainerError
        An unknown format, a damaged source, masks without weights, or weights without masks.
    """
    path = Path(source)
    if format is None:
        format = detect_format(path)
    if format not in FORMATS:
        raise ContainerError(f"format {brief(format)}: expected one of {', '.join(FORMATS)}")
    if (format == maskllm.FORMAT) != (weights is not None):
        problem = (
            "has no shapes and no values" if weights is None else f"is {format}, which has its own weights"
        )
        wanted = "the checkpoint it belongs to (`--weights`)" if weights is None else "no `--weights`"
        raise ContainerError(f"{path}: {problem}, expected {wanted}")
    # A GGUF file has its own reader, all other sources lie in safetensors files or beside one.
    if format == gguf.FORMAT:
        yield Source(path, format, gguf.read(path), (path,))
        return
    with contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(path if weights is None else weights))
        tensors: Iterable[DenseTensor] = _tensors(checkpoint, format)
        paths = checkpoint.paths
        if format == maskllm.FORMAT:
            archive = stack.enter_context(maskllm.open_masks(path))
            tensors = maskllm.read(archive, path, tensors)
            paths = [*paths, path]
        yield Source(
            path,
            format,
            tuple(tensors),
            tuple(paths),
            metadata={file.path.name: _free(file.metadata) for file in checkpoint.files},
            index=checkpoint.index,
            index_name=checkpoint.index_path.name if checkpoint.index_path else "",
            config=config.read_config(checkpoint.files[0].path.parent),
        )


def _free(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key != FORMAT_KEY and not key.startswith(ENTRY_PREFIX)
    }


def _tensors(checkpoint: Checkpoint, format: str) -> list[DenseTensor]:
    held: Held = {name: file for file in checkpoint.files for name in file.tensors}
    found: dict[str, DenseTensor] = {}
    parts: set[str] = set()
    if format == packed.FORMAT:
        for file in checkpoint.files:
            tensors, names = packed.read(file)
            found, parts = found | tensors, parts | names
    elif format in READERS:
        found, parts = READERS[format](held)
    if format not in (DENSE, maskllm.FORMAT) and not found:
        raise ContainerError(f"{checkpoint.path}: holds no tensor of {format}, expected at least one")
    # A packed tensor stands at the place of its values, all others stay where they were.
    listed = [name for name in held if name in found or name not in parts]
    return [found[name] if name in found else stored_tensor(held[name], name) for name in listed]
