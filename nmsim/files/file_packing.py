"""Packing and unpacking one safetensors file, tensor by tensor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmsim import dtypes
from nmsim.errors import ContainerError, NmsimError
from nmsim.files import writer
from nmsim.files.header import TensorInfo
from nmsim.files.packed_entry import (
    ENTRY_PREFIX,
    FORMAT_KEY,
    FORMAT_VERSION,
    METADATA_DTYPE,
    PackedEntry,
    read_packed,
)
from nmsim.files.reader import RawTensor, SafetensorsReader
from nmsim.files.report import Counter, TensorReport
from nmsim.files.selection import Selection
from nmsim.format import SparseFormat
from nmsim.mask import checked_axis
from nmsim.tensor import compress, decompress


@dataclass(frozen=True)
class PackPlan:
    """What is to be done with one file, settled before anything is written."""

    file: SafetensorsReader
    entries: dict[str, PackedEntry]
    reasons: dict[str, str]

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
        return writer.header_room(parts, self.metadata(self.entries))

    def metadata(self, entries: dict[str, PackedEntry]) -> dict[str, str]:
        """The free entries of the packed file."""
        ours = {entry.key: entry.to_json() for entry in entries.values()}
        return self.file.metadata | {FORMAT_KEY: FORMAT_VERSION} | ours


def plan_packing(file: SafetensorsReader, rule: Selection, format: SparseFormat) -> PackPlan:
    """Settle what is packed and check that it can be, before anything is written."""
    for key in file.metadata:
        if key == FORMAT_KEY or key.startswith(ENTRY_PREFIX):
            raise ContainerError(
                f"{file.path}: __metadata__ has an entry {key!r}, expected a checkpoint that is not "
                "packed (unpack it first)"
            )
    entries: dict[str, PackedEntry] = {}
    reasons: dict[str, str] = {}
    for info in file.tensors.values():
        reason = rule.why_not(info, format.pattern)
        if reason is not None:
            reasons[info.name] = reason
            continue
        try:
            axis = checked_axis(info.shape, rule.axis)
            entries[info.name] = PackedEntry.planned(info.name, info.shape, axis, format)
        except NmsimError as error:
            raise type(error)(f"{file.where(info.name)}: {error}") from error
    plan = PackPlan(file, entries, reasons)
    for entry in entries.values():
        # The tensors of a packed file may not take the name of another tensor of the source.
        for part in (entry.values_name, entry.metadata_name):
            if part in file.tensors:
                raise ContainerError(
                    f"{file.where(part)}: takes the name that packing {entry.name!r} needs, expected it free "
                    f"(exclude {entry.name!r}, or rename)"
                )
    writer.refuse_reserved_names(plan.names)
    return plan


def pack_file(
    plan: PackPlan, path: Path, counter: Counter, threads: int, force: bool, sources: Iterable[Path]
) -> None:
    """Write the packed file of a plan."""
    file = plan.file
    finished: dict[str, PackedEntry] = {}
    with writer.create(path, plan.room_bytes, force=force, sources=sources) as sink:
        for info in file.in_data_order():
            counter.tell(info.name)
            entry = plan.entries.get(info.name)
            metadata_bytes = 0
            if entry is None:
                values_bytes = info.stored_bytes
                sink.add(*_part(info), file.raw(info.name))
            else:
                x = file.array(info.name)
                assert not isinstance(x, RawTensor), "the rule takes no such dtype"
                try:
                    packed = compress(x, entry.format, axis=entry.axis, threads=threads)
                except NmsimError as error:
                    raise type(error)(f"{file.where(info.name)}: {error}") from error
                values_bytes, metadata_bytes = packed.values.nbytes, len(packed.metadata)
                finished[info.name] = PackedEntry.of(info.name, packed)
                sink.add(entry.values_name, info.dtype, packed.values.shape, packed.values)
                sink.add_late(entry.metadata_name, METADATA_DTYPE, [metadata_bytes], packed.metadata)
                # Released before the next tensor is read, which bounds the memory by one tensor.
                del x, packed
            file.release(info.name)
            counter.done_bytes += info.stored_bytes
            counter.tensors.append(
                TensorReport(
                    info.name,
                    info.dtype,
                    info.shape,
                    info.stored_bytes,
                    values_bytes,
                    metadata_bytes,
                    plan.reasons.get(info.name, ""),
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
    writer.refuse_reserved_names(order)
    free = {k: v for k, v in file.metadata.items() if k != FORMAT_KEY and not k.startswith(ENTRY_PREFIX)}
    infos = [info for info in file.in_data_order() if info.name not in codes]
    parts: list[tuple[str, str, Sequence[int]]] = []
    for info in infos:
        entry = by_values.get(info.name)
        parts.append((entry.name, info.dtype, entry.shape) if entry else _part(info))
    room = writer.header_room(parts, free)
    with writer.create(path, room, force=force, sources=sources) as sink:
        for info in infos:
            entry = by_values.get(info.name)
            counter.tell(entry.name if entry else info.name)
            if entry is None:
                reason, metadata_bytes, dense_bytes = "is not packed", 0, info.stored_bytes
                sink.add(*_part(info), file.raw(info.name))
            else:
                reason, metadata_bytes = "", file.tensors[entry.metadata_name].stored_bytes
                packed = read_packed(file, entry)
                try:
                    dense = decompress(packed, threads=threads)
                except NmsimError as error:
                    raise type(error)(f"{_where_wrong(file, entry, error)}: {error}") from error
                dense_bytes = dense.nbytes
                sink.add(entry.name, dtypes.of(dense).container_code, dense.shape, dense)
                del packed, dense
                file.release(entry.metadata_name)
            file.release(info.name)
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


def _where_wrong(file: SafetensorsReader, entry: PackedEntry, error: NmsimError) -> str:
    return file.where(entry.values_name if str(error).startswith("values") else entry.metadata_name)


def _part(info: TensorInfo) -> tuple[str, str, Sequence[int]]:
    return info.name, info.dtype, info.shape
