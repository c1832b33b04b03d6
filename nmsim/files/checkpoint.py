"""Packing and unpacking whole checkpoints, block by block, in memory that does not grow with their tensors.

A single file becomes a single file. Shards become a folder of shards of the same names, with an index of its
own. Every file is complete when it takes its name.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmsim.blocks import copy_tensor, pack_tensor, unpack_tensor
from nmsim.errors import ContainerError, NmsimError, brief
from nmsim.files import atomic, safetensors
from nmsim.files.container import (
    ENTRY_PREFIX,
    FORMAT_KEY,
    FORMAT_VERSION,
    METADATA_DTYPE,
    PackedEntry,
    read_entries,
    read_outline,
)
from nmsim.files.output import Output, claimed, refuse_full_disk
from nmsim.files.safetensors import SafetensorsReader, TensorInfo
from nmsim.files.selection import Choice, Left, Selection, left_by_group
from nmsim.files.sharded import Checkpoint, has_shards, index_text, open_checkpoint
from nmsim.files.weights import weight_rows
from nmsim.format import FormatLike, SparseFormat, sparse_format
from nmsim.mask import checked_axis

Progress = Callable[[str, int, int], None]
"""Called before each tensor with its name, the bytes done and the bytes in all; last with an empty name."""


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor.

    `kept_as_is` says why it was not packed, and is empty if it was. `group` is the kind of that reason, `reason` says why
    it was packed. `weights_elems` counts weights: those in packed bytes, and none in scales.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    dense_bytes: int
    values_bytes: int
    metadata_bytes: int
    kept_as_is: str = ""
    group: str = ""
    reason: str = ""
    axis: int | None = None
    weights_elems: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes in the packed file."""
        return self.values_bytes + self.metadata_bytes


@dataclass(frozen=True)
class CheckpointReport:
    """What became of a checkpoint; all bytes are those of tensors, without headers."""

    target: Path
    tensors: tuple[TensorReport, ...]

    @property
    def packed(self) -> list[TensorReport]:
        """The tensors that are packed."""
        return [tensor for tensor in self.tensors if not tensor.kept_as_is]

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors when dense."""
        return sum(tensor.dense_bytes for tensor in self.tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors in the packed file."""
        return sum(tensor.total_bytes for tensor in self.tensors)

    @property
    def packed_weights_share(self) -> float | None:
        """Share of all weights that are packed; None if there are no weights."""
        total = sum(tensor.weights_elems for tensor in self.tensors)
        return sum(tensor.weights_elems for tensor in self.packed) / total if total else None

    @property
    def left_dense(self) -> list[dict[str, Any]]:
        """What was left dense and why: one record per kind of reason, the largest first."""
        return left_by_group(
            (tensor.group, tensor.kept_as_is, tensor.weights_elems, tensor.dense_bytes)
            for tensor in self.tensors
            if tensor.kept_as_is
        )


@dataclass
class Counter:
    """Bytes done, reported to a progress function."""

    total_bytes: int
    report: Progress | None
    done_bytes: int = 0
    tensors: list[TensorReport] = field(default_factory=list)

    def tell(self, name: str) -> None:
        """Report that a tensor is next; an empty name says that all is done."""
        if self.report is not None:
            self.report(name, self.done_bytes, self.total_bytes)


@dataclass(frozen=True)
class PackPlan:
    """What is to be done with one file, settled before anything is written."""

    file: SafetensorsReader
    entries: dict[str, PackedEntry]
    reasons: dict[str, Left]

    @property
    def names(self) -> list[str]:
        """Names of the tensors of the packed file, in the order of the header."""
        out: list[str] = []
        for name in self.file.tensors:
            entry = self.entries.get(name)
            out += [entry.values_name, entry.metadata_name] if entry else [name]
        return out

    @property
    def room_bytes(self) -> int:
        """Length of the longest header that the packed file can have."""
        parts: list[tuple[str, str, Sequence[int]]] = []
        for info in self.file.in_data_order():
            entry = self.entries.get(info.name)
            parts.append((entry.values_name, info.dtype, entry.values_shape) if entry else _part(info))
        parts += [
            (entry.metadata_name, METADATA_DTYPE, [entry.metadata_bounds.stream_bytes])
            for entry in self.entries.values()
        ]
        return safetensors.header_room(parts, self.metadata(self.entries))

    @property
    def least_bytes(self) -> int:
        """Bytes that the packed file takes at least, with what is kept beside it; codes that differ in length not counted."""
        values = codes = 0
        for info in self.file.tensors.values():
            entry = self.entries.get(info.name)
            values += info.stored_bytes
            if entry is not None:
                values += (safetensors.tensor_bytes(info.dtype, entry.values_shape) or 0) - info.stored_bytes
                codes += entry.metadata_bounds.stream_bytes if entry.metadata_bounds.exact else 0
        # All codes lie in a file of their own until the values are written.
        return self.room_bytes + values + 2 * codes

    def metadata(self, entries: dict[str, PackedEntry]) -> dict[str, str]:
        """The free entries of the packed file."""
        ours = {entry.key: entry.to_json() for entry in entries.values()}
        return self.file.metadata | {FORMAT_KEY: FORMAT_VERSION} | ours


def plan_packing(file: SafetensorsReader, choice: Choice, format: SparseFormat) -> PackPlan:
    """Settle what is packed and check that it can be, before anything is written."""
    for key in file.metadata:
        if key == FORMAT_KEY or key.startswith(ENTRY_PREFIX):
            raise ContainerError(
                f"{file.path}: __metadata__ has an entry {brief(key)}, expected a checkpoint that is not "
                "packed (unpack it first)"
            )
    entries: dict[str, PackedEntry] = {}
    reasons: dict[str, Left] = {}
    for info in file.tensors.values():
        reason = choice.why_not(info, format.pattern)
        if reason is not None:
            reasons[info.name] = reason
            continue
        try:
            axis = checked_axis(info.shape, choice.axis(info))
            entries[info.name] = PackedEntry.planned(info.name, info.shape, axis, format)
        except NmsimError as error:
            raise error.within(file.where(info.name)) from error
    plan = PackPlan(file, entries, reasons)
    for entry in entries.values():
        # The tensors of a packed file may not take the name of another tensor of the source.
        for part in (entry.values_name, entry.metadata_name):
            if part in file.tensors:
                raise ContainerError(
                    f"{file.where(part)}: takes the name that packing {brief(entry.name)} needs, expected it free "
                    f"(exclude {brief(entry.name)}, or rename)"
                )
    safetensors.refuse_reserved_names(plan.names)
    return plan


@dataclass(frozen=True)
class Packing:
    """What all files of a checkpoint are packed with."""

    checkpoint: Checkpoint
    choice: Choice
    exact: bool
    threads: int
    force: bool


def pack_file(plan: PackPlan, path: Path, counter: Counter, job: Packing) -> None:
    """Write the packed file of a plan."""
    file, choice = plan.file, job.choice
    finished: dict[str, PackedEntry] = {}
    with safetensors.create(path, plan.room_bytes, force=job.force, sources=job.checkpoint.paths) as sink:
        for info in file.in_data_order():
            counter.tell(info.name)
            entry = plan.entries.get(info.name)
            metadata_bytes = 0
            if entry is None:
                values_bytes = info.stored_bytes
                copy_tensor(file, info, sink)
            else:
                # The bits of codes that differ in length are known only now, so the planned entry is replaced.
                parts = weight_rows(job.checkpoint, choice, info, entry.format.pattern)
                try:
                    finished[info.name] = pack_tensor(
                        file, entry, sink, parts, exact=job.exact, threads=job.threads
                    )
                except ContainerError:
                    raise
                except NmsimError as error:
                    raise error.within(file.where(info.name)) from error
                values_bytes = sink.stored_bytes(entry.values_name)
                metadata_bytes = sink.stored_bytes(entry.metadata_name)
            counter.done_bytes += info.stored_bytes
            left = plan.reasons.get(info.name)
            counter.tensors.append(
                TensorReport(
                    info.name,
                    info.dtype,
                    info.shape,
                    info.stored_bytes,
                    values_bytes,
                    metadata_bytes,
                    kept_as_is=left.reason if left else "",
                    group=left.group if left else "",
                    reason="" if left else choice.included_reason(info),
                    axis=entry.axis if entry else None,
                    weights_elems=choice.weights(info),
                )
            )
        in_order = {name: finished[name] for name in plan.entries}
        sink.finish(plan.names, plan.metadata(in_order))


def unpack_file(
    file: SafetensorsReader,
    entries: dict[str, PackedEntry],
    path: Path,
    counter: Counter,
    threads: int,
    force: bool,
    sources: Iterable[Path],
) -> list[str]:
    """Write the dense file of a packed one; gives back the names of its tensors."""
    by_values = {entry.values_name: entry for entry in entries.values()}
    codes = {entry.metadata_name for entry in entries.values()}
    # Values and metadata of a packed tensor become one dense tensor, at the place of the values.
    listed = [name for name in file.tensors if name not in codes]
    order = [by_values[name].name if name in by_values else name for name in listed]
    safetensors.refuse_reserved_names(order)
    free = {k: v for k, v in file.metadata.items() if k != FORMAT_KEY and not k.startswith(ENTRY_PREFIX)}
    infos = [info for info in file.in_data_order() if info.name not in codes]
    parts: list[tuple[str, str, Sequence[int]]] = []
    for info in infos:
        entry = by_values.get(info.name)
        parts.append((entry.name, info.dtype, entry.shape) if entry else _part(info))
    room = safetensors.header_room(parts, free)
    with safetensors.create(path, room, force=force, sources=sources) as sink:
        for info in infos:
            entry = by_values.get(info.name)
            counter.tell(entry.name if entry else info.name)
            if entry is None:
                reason, metadata_bytes, dense_bytes = "is not packed", 0, info.stored_bytes
                copy_tensor(file, info, sink)
            else:
                reason, metadata_bytes = "", file.tensors[entry.metadata_name].stored_bytes
                outline = read_outline(file, entry)
                dense_bytes = outline.footprint.dense_bytes
                try:
                    unpack_tensor(file, entry, sink, threads=threads)
                except ContainerError:
                    raise
                except NmsimError as error:
                    raise error.within(_where_wrong(file, entry, error)) from error
            counter.done_bytes += info.stored_bytes + metadata_bytes
            counter.tensors.append(
                TensorReport(
                    entry.name if entry else info.name,
                    info.dtype,
                    entry.shape if entry else info.shape,
                    dense_bytes,
                    info.stored_bytes,
                    metadata_bytes,
                    reason,
                )
            )
        sink.finish(order, free)
    return order


def _least_dense_bytes(file: SafetensorsReader, entries: dict[str, PackedEntry]) -> int:
    """Bytes of the tensors of a packed file when they are dense."""
    by_values = {entry.values_name: entry for entry in entries.values()}
    codes = {entry.metadata_name for entry in entries.values()}
    total = 0
    for info in file.tensors.values():
        if info.name in by_values:
            total += safetensors.tensor_bytes(info.dtype, by_values[info.name].shape) or 0
        elif info.name not in codes:
            total += info.stored_bytes
    return total


def _where_wrong(file: SafetensorsReader, entry: PackedEntry, error: NmsimError) -> str:
    return file.where(entry.values_name if str(error).startswith("values") else entry.metadata_name)


def _part(info: TensorInfo) -> tuple[str, str, Sequence[int]]:
    return info.name, info.dtype, info.shape


__all__ = [
    "CheckpointReport",
    "Progress",
    "TensorReport",
    "checkpoint_output",
    "pack_checkpoint",
    "unpack_checkpoint",
]


def checkpoint_output(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Output:
    """Say what a packed or unpacked checkpoint is: a file for a file, a folder for shards.

    Raises
    ------
    ContainerError
        The source has shards and the target the name of a file.

    Examples
    --------
    >>> checkpoint_output("model.safetensors", "packed.safetensors").kind
    'file'
    """
    path = Path(target)
    if not has_shards(source):
        return Output(path, suffixes=(".safetensors",))
    if path.suffix in (".safetensors", ".json"):
        raise ContainerError(f"{target}: the source has shards, expected the name of a folder to write")
    return Output(path, "new folder")


def pack_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: FormatLike,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    axis: int | None = None,
    exact: bool = False,
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
    axis : int, optional
        The axis along which groups run. By default that of the in features of each weight, as `nmsim.files.roles` finds it.
    exact : bool
        Refuse a weight that holds more than N elements other than zero in a group, instead of dropping some.
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
        A pattern, axis, encoding or packing that does not exist or does not fit. A weight that is NaN or infinite, or with
        `exact` one that would be dropped.

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
    output = checkpoint_output(source, target)
    with claimed(output, force=force, sources=[Path(source)]), open_checkpoint(source) as checkpoint:
        choice = rule.of(checkpoint)
        plans = [plan_packing(file, choice, format) for file in checkpoint.files]
        if not any(plan.entries for plan in plans):
            choice.refuse_nothing(source)
        refuse_full_disk(output.path, sum(plan.least_bytes for plan in plans))
        counter = Counter(checkpoint.total_bytes, progress)
        job = Packing(checkpoint, choice, exact, threads, force)

        def pack_into(number: int, path: Path) -> list[str]:
            pack_file(plans[number], path, counter, job)
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
    output = checkpoint_output(source, target)
    with claimed(output, force=force, sources=[Path(source)]), open_checkpoint(source) as checkpoint:
        entries = [read_entries(file) for file in checkpoint.files]
        if not any(FORMAT_KEY in file.metadata for file in checkpoint.files):
            raise ContainerError(
                f"{source}: has no __metadata__ entry {brief(FORMAT_KEY)}, expected a checkpoint packed by nmsim"
            )
        refuse_full_disk(output.path, sum(map(_least_dense_bytes, checkpoint.files, entries)))
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
    with atomic.new_folder(target) as folder:
        where: dict[str, str] = {}
        total_bytes = 0
        for number, file in enumerate(checkpoint.files):
            shard = folder / file.path.name
            names = write(number, shard)
            for name in names:
                if name in where:
                    raise ContainerError(
                        f"{file.path}: tensor name {brief(name)} is taken by shard {brief(where[name])}"
                    )
                where[name] = file.path.name
            with SafetensorsReader(shard) as written:
                total_bytes += sum(info.stored_bytes for info in written.tensors.values())
        text = index_text(checkpoint.index, where, total_bytes)
        with atomic.new_file(folder / checkpoint.index_path.name) as stream:
            stream.write(text.encode())
