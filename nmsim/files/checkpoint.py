"""Packing and unpacking whole checkpoints, tensor by tensor, in little more memory than the largest takes.

A single file becomes a single file. Shards become a folder of shards of the same names, with an index of its
own. Every file is complete when it takes its name.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from nmsim.errors import ContainerError
from nmsim.files import atomic
from nmsim.files.file_packing import pack_file, plan_packing, unpack_file
from nmsim.files.packed_entry import FORMAT_KEY, read_entries
from nmsim.files.reader import SafetensorsReader
from nmsim.files.report import CheckpointReport, Counter, Progress, TensorReport
from nmsim.files.selection import Selection, refuse_nothing_chosen
from nmsim.files.sharded import Checkpoint, index_text, open_checkpoint
from nmsim.format import FormatLike, sparse_format

__all__ = ["CheckpointReport", "Progress", "TensorReport", "pack_checkpoint", "unpack_checkpoint"]


def pack_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: FormatLike,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    axis: int = -1,
    threads: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> CheckpointReport:
    """Prune and pack the weights of a checkpoint.

    Parameters
    ----------
    source : path
        A `.safetensors` file, a `*.safetensors.index.json`, or the folder of one.
    target : path
        A file for a file. For shards a folder, new or empty, that gets shards of the same names and an index.
        Other files of the source's folder are not copied.
    format : SparseFormat, Pattern or str
        Such as `"8:16/combinatorial"`.
    include, exclude : sequence of str, optional
        See `nmsim.files.selection.Selection`, which also tells what is packed by default. `include=["*"]` is
        everything that can be.
    axis : int
        The axis along which groups run; the last one is "in features" of a Hugging Face linear layer.
    threads : int
        Cores to use.
    progress : function, optional
    force : bool
        Replace a target file. A folder that is not empty is never replaced, nor is the source.

    Returns
    -------
    CheckpointReport

    Raises
    ------
    ContainerError
        A damaged source, no tensor to pack, a name that is taken, or a target that cannot be written. Nothing
        is left under the target's name then.
    PatternError, EncodingError, BitstreamError
        A pattern, axis, encoding or packing that does not exist or does not fit.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from nmsim import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_file({"fc.weight": np.ones((16, 64), np.float16)}, folder / "dense.safetensors")
    >>> report = pack_checkpoint(folder / "dense.safetensors", folder / "packed.safetensors", "8:16/combinatorial")
    >>> report.dense_bytes, report.total_bytes
    (2048, 1136)
    """
    format = sparse_format(format)
    rule = Selection(include, exclude, axis)
    with open_checkpoint(source) as checkpoint:
        plans = [plan_packing(file, rule, format) for file in checkpoint.files]
        if not any(plan.entries for plan in plans):
            refuse_nothing_chosen(source, checkpoint.names)
        counter = Counter(checkpoint.total_bytes, progress)

        def pack_into(number: int, path: Path) -> list[str]:
            pack_file(plans[number], path, counter, threads, force, checkpoint.paths)
            return plans[number].names

        _write_all(checkpoint, Path(target), pack_into)
        counter.tell("")
    return CheckpointReport(Path(target), tuple(counter.tensors))


def unpack_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    threads: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> CheckpointReport:
    """Make a packed checkpoint dense again: what was kept bit for bit, zeros elsewhere.

    Names, shapes, dtypes, order and free entries are those of the checkpoint that was packed.

    Parameters
    ----------
    source, target : path
        As in `pack_checkpoint`.
    threads : int
        Cores to use.
    progress : function, optional
    force : bool
        Replace a target file.

    Returns
    -------
    CheckpointReport

    Raises
    ------
    ContainerError
        A damaged source, one that nmsim has not packed, or a target that cannot be written.
    BitstreamError, EncodingError
        Metadata that no mask has. Nothing is left under the target's name then.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from nmsim import load_file, save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> dense, packed = folder / "dense.safetensors", folder / "packed.safetensors"
    >>> save_file({"weight": np.array([[1, 2, 3, 4]], np.int8)}, dense)
    >>> _ = pack_checkpoint(dense, packed, "2:4")
    >>> _ = unpack_checkpoint(packed, folder / "again.safetensors")
    >>> load_file(folder / "again.safetensors")
    {'weight': array([[0, 0, 3, 4]], dtype=int8)}
    """
    with open_checkpoint(source) as checkpoint:
        entries = [read_entries(file) for file in checkpoint.files]
        if not any(FORMAT_KEY in file.metadata for file in checkpoint.files):
            raise ContainerError(
                f"{source}: has no __metadata__ entry {FORMAT_KEY!r}, expected a checkpoint packed by nmsim"
            )
        counter = Counter(checkpoint.total_bytes, progress)

        def unpack_into(number: int, path: Path) -> list[str]:
            file = checkpoint.files[number]
            return unpack_file(file, entries[number], path, counter, threads, force, checkpoint.paths)

        _write_all(checkpoint, Path(target), unpack_into)
        counter.tell("")
    return CheckpointReport(Path(target), tuple(counter.tensors))


def _write_all(checkpoint: Checkpoint, target: Path, write: Callable[[int, Path], list[str]]) -> None:
    """Write every file of a checkpoint, and the index last; `write` returns the names of a file's tensors."""
    if checkpoint.index_path is None:
        write(0, target)
        return
    if target.suffix in (".safetensors", ".json"):
        raise ContainerError(f"{target}: the source has shards, expected the name of a folder to write")
    with atomic.new_folder(target) as folder:
        where: dict[str, str] = {}
        total_bytes = 0
        for number, file in enumerate(checkpoint.files):
            shard = folder / file.path.name
            names = write(number, shard)
            for name in names:
                if name in where:
                    raise ContainerError(
                        f"{file.path}: tensor name {name!r} is taken by shard {where[name]!r}"
                    )
                where[name] = file.path.name
            with SafetensorsReader(shard) as written:
                total_bytes += sum(info.stored_bytes for info in written.tensors.values())
        text = index_text(checkpoint.index, where, total_bytes)
        with atomic.new_file(folder / checkpoint.index_path.name) as stream:
            stream.write(text.encode())
