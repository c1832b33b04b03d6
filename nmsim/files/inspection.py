"""What packing a checkpoint would cost and keep, measured tensor by tensor; or what a packed one stores."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes, words
from nmsim import mask as masks
from nmsim.blocks import WeightRows, check_counts
from nmsim.encodings.streams import StreamWriter
from nmsim.energy import EnergySum
from nmsim.errors import ContainerError, NmsimError, brief
from nmsim.files.checkpoint import Counter, Progress
from nmsim.files.container import FORMAT_KEY, MetadataBounds, PackedEntry, read_entries, read_outline
from nmsim.files.safetensors import SafetensorsReader, TensorInfo
from nmsim.files.selection import Choice, Selection, left_by_group
from nmsim.files.sharded import Checkpoint, open_checkpoint
from nmsim.files.weights import weight_rows
from nmsim.format import FormatLike, SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.support import parallel
from nmsim.tensor import Footprint, slabs

DEFAULT_PATTERNS = ("2:4", "4:8", "8:16", "16:32")


@dataclass(frozen=True, kw_only=True)
class InspectionRow:
    """One tensor under one pattern, encoding and packing; those are None for a tensor that stays dense.

    `energy_kept_ratio` is the sum of squares of the kept elements over that of all elements. It is None if it is
    not finite, or not known because only the packed tensor exists. It is 1 if all elements are zero.
    `nonzeros_elems` counts the elements kept that are not zero (of all elements, for a dense row; None if
    the dtype is not counted). `stored` says that the row is of the file, and not a trial. `reason` says why the tensor
    is pruned or left dense, `group` is the kind of a reason to leave it. `weights_elems` counts weights: those in packed
    bytes, and none in scales.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    pattern: str | None = None
    encoding: str | None = None
    packing: str | None = None
    energy_kept_ratio: float | None = 1.0
    nonzeros_elems: int | None
    dense_bytes: int
    values_bytes: int
    values_padding_bytes: int = 0
    metadata_bytes: int = 0
    metadata_payload_bits: int = 0
    metadata_padding_bits: int = 0
    metadata_alignment_bits: int = 0
    stored: bool = True
    group: str = ""
    reason: str = ""
    axis: int | None = None
    weights_elems: int = 0

    @property
    def total_bytes(self) -> int:
        """Values and metadata together."""
        return self.values_bytes + self.metadata_bytes

    @property
    def padding_bits(self) -> int:
        """All that is stored and means nothing: among values, among codes, and at the end."""
        return 8 * self.values_padding_bytes + self.metadata_padding_bits + self.metadata_alignment_bits


def inspect_checkpoint(
    source: str | os.PathLike[str],
    formats: Sequence[FormatLike] = (),
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    axis: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[InspectionRow]:
    """Measure every tensor of a checkpoint in every format. Nothing is written.

    Parameters
    ----------
    source : path
        A `.safetensors` file, a `*.safetensors.index.json`, or the folder of one.
    formats : sequence of SparseFormat, Pattern or str
        If empty: 2:4, 4:8, 8:16 and 16:32, with the encoding of `nmsim.format.DEFAULT_ENCODING`.
    include, exclude, axis
        As in `nmsim.files.checkpoint.pack_checkpoint`.
    threads : int
        Cores to use.
    progress : function, optional

    Returns
    -------
    list of InspectionRow
        In the order of the files and their headers. The bits are those of encoded masks. A packed
        checkpoint gives one row per tensor, with its stored bits.

    Raises
    ------
    ContainerError
        A damaged source, one without a tensor to pack, or formats for one already packed.
    PatternError, EncodingError, BitstreamError
        A pattern, encoding or packing that does not exist, or a pair that does not go together. A weight that is NaN or
        infinite.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nmsim import save_file
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_file({"weight": np.array([[3, 4, 0, 0], [1, 1, 1, 1]], np.float32)}, path)
    >>> row, = inspect_checkpoint(path, ["2:4/combinatorial"])
    >>> row.energy_kept_ratio, row.nonzeros_elems, row.values_bytes, row.metadata_payload_bits
    (0.9310344827586207, 4, 16, 6)
    """
    wanted = _wanted(formats)
    rule = Selection(include, exclude, axis)
    rows: list[InspectionRow] = []
    with open_checkpoint(source) as checkpoint:
        counter = Counter(checkpoint.total_bytes, progress)
        if any(FORMAT_KEY in file.metadata for file in checkpoint.files):
            if formats:
                raise ContainerError(
                    f"{source}: is packed already, expected no format to try (unpack it first)"
                )
            for file in checkpoint.files:
                rows += _stored_rows(file, counter)
        else:
            choice = rule.of(checkpoint)
            infos = choice.tensors.values()
            if not any(choice.why_not(info, pattern) is None for info in infos for pattern in wanted):
                choice.refuse_nothing(source)
            for file in checkpoint.files:
                rows += _trial_rows(file, checkpoint, wanted, choice, threads, counter)
        counter.tell("")
    return rows


def totals(rows: Sequence[InspectionRow]) -> list[dict[str, Any]]:
    """Add up the bytes of a checkpoint for every format tried, tensors that stay dense included.

    Parameters
    ----------
    rows : sequence of InspectionRow
        From `inspect_checkpoint`.

    Returns
    -------
    list of dict
        `pattern`, `encoding`, `packing`, `dense_bytes`, `total_bytes` and their ratio, None for no bytes. A packed
        checkpoint gives one record without a format: what it stores.
    """
    dense_bytes = sum({row.tensor: row.dense_bytes for row in rows}.values())
    as_stored = all(row.stored for row in rows)
    by_format: dict[tuple[str | None, str | None, str | None], list[InspectionRow]] = {}
    for row in rows:
        tried = row.pattern is not None and not row.stored
        if tried or as_stored:
            key = (row.pattern, row.encoding, row.packing) if tried else (None, None, None)
            by_format.setdefault(key, []).append(row)
    sums: list[dict[str, Any]] = []
    for (pattern, encoding, packing), chosen in by_format.items():
        # A tensor that no format takes costs its dense bytes in every sum.
        total_bytes = dense_bytes - sum(row.dense_bytes - row.total_bytes for row in chosen)
        sums.append(
            {
                "pattern": pattern,
                "encoding": encoding,
                "packing": packing,
                "dense_bytes": dense_bytes,
                "total_bytes": total_bytes,
                "total_over_dense_ratio": total_bytes / dense_bytes if dense_bytes else None,
            }
        )
    return sums


def left_dense(rows: Sequence[InspectionRow]) -> list[dict[str, Any]]:
    """Add up what no format takes and why: a record per kind of reason, the largest first.

    Parameters
    ----------
    rows : sequence of InspectionRow
        From `inspect_checkpoint`.

    Returns
    -------
    list of dict
        `why`, `tensors`, `weights_elems`, `dense_bytes`, and an `example` of the reason.
    """
    return left_by_group(
        (row.group, row.reason, row.weights_elems, row.dense_bytes) for row in rows if row.group
    )


def _wanted(formats: Sequence[FormatLike]) -> dict[Pattern, list[SparseFormat]]:
    """Check what is asked for before any work is done: the formats of each pattern, in order."""
    if isinstance(formats, str):
        raise ContainerError(f"formats is {brief(formats)}: expected a sequence of them")
    wanted: dict[Pattern, list[SparseFormat]] = {}
    for format in map(sparse_format, formats or DEFAULT_PATTERNS):
        MetadataBounds.of(format, 0)
        wanted.setdefault(format.pattern, []).append(format)
    return wanted


def _stored_rows(file: SafetensorsReader, counter: Counter) -> Iterator[InspectionRow]:
    entries = read_entries(file)
    by_values = {entry.values_name: entry for entry in entries.values()}
    codes = {entry.metadata_name for entry in entries.values()}
    for info in file.tensors.values():
        entry = by_values.get(info.name)
        counter.tell(entry.name if entry else info.name)
        if entry:
            footprint = read_outline(file, entry).footprint
            # Codes of one width were counted when the header was read. Others have to be read to be counted.
            if not entry.metadata_bounds.exact:
                try:
                    check_counts(file, entry)
                except ContainerError:
                    raise
                except NmsimError as error:
                    raise error.within(file.where(entry.metadata_name)) from error
            yield _row(info.dtype, entry, footprint, None, _count_nonzeros(file, info), stored=True)
        elif info.name not in codes:
            yield _dense_row(file, info)
        counter.done_bytes += info.stored_bytes


def _trial_rows(
    file: SafetensorsReader,
    checkpoint: Checkpoint,
    wanted: dict[Pattern, list[SparseFormat]],
    choice: Choice,
    threads: int,
    counter: Counter,
) -> Iterator[InspectionRow]:
    for info in file.tensors.values():
        counter.tell(info.name)
        left = {pattern: choice.why_not(info, pattern) for pattern in wanted}
        chosen = [pattern for pattern, reason in left.items() if reason is None]
        weights_elems = choice.weights(info)
        if chosen:
            # A tensor is read once per pattern: reading takes far less time than choosing, and no mask is held.
            for pattern in chosen:
                try:
                    axis = masks.checked_axis(info.shape, choice.axis(info))
                except NmsimError as error:
                    raise error.within(file.where(info.name)) from error
                parts = weight_rows(checkpoint, choice, info, pattern)
                try:
                    tried = list(_tried(parts, info, axis, wanted[pattern], threads))
                except ContainerError:
                    raise
                except NmsimError as error:
                    raise error.within(file.where(info.name)) from error
                reason = choice.included_reason(info)
                yield from (
                    replace(row, reason=reason, axis=axis, weights_elems=weights_elems) for row in tried
                )
        else:
            kept = next(reason for reason in left.values() if reason is not None)
            row = _dense_row(file, info)
            yield replace(row, group=kept.group, reason=kept.reason, weights_elems=weights_elems)
        counter.done_bytes += info.stored_bytes


def _tried(
    parts: Iterable[WeightRows], info: TensorInfo, axis: int, formats: Sequence[SparseFormat], threads: int
) -> Iterator[InspectionRow]:
    """Prune block by block and encode for real; the values, whose footprint is all that matters here, are not gathered."""
    streams = [StreamWriter(f.encoding, f.pattern, f.packing, threads=threads) for f in formats]
    stream_bytes = [0] * len(formats)
    energy, nonzeros_elems = EnergySum(threads=threads), 0
    # One mask of a block serves all formats of a pattern, so that choosing is done once.
    for part in parts:
        group_masks, keep, nonzeros = _prune(part, formats[0].pattern, threads)
        energy.add(part.real, keep)
        nonzeros_elems += nonzeros
        for i, stream in enumerate(streams):
            stream_bytes[i] += len(stream.write(group_masks))
    dtype, share_kept = dtypes.BY_CONTAINER_CODE[info.dtype].dtype, energy.result().share_kept
    for format, stream, whole_bytes in zip(formats, streams, stream_bytes, strict=True):
        last, report = stream.finish()
        entry = PackedEntry(
            info.name, format, "linear", info.shape, axis, report.payload_bits, report.padding_bits
        )
        footprint = entry.outline(dtype, whole_bytes + len(last)).footprint
        yield _row(info.dtype, entry, footprint, share_kept, nonzeros_elems, stored=False)


def _prune(weight: WeightRows, pattern: Pattern, threads: int) -> tuple[words.Words, NDArray[np.bool_], int]:
    """Choose in [rows, K]: group masks, what is kept, and how many kept elements are not zero."""
    rows, given = weight.x, weight.keep
    count, k = rows.shape
    per_row = pattern.groups(k)
    group_masks = words.empty(count * per_row, pattern.m)
    keep = np.empty((count, k), np.bool_)

    def one_slab(slab: slice) -> int:
        part = np.ascontiguousarray(rows[slab])
        keys = dtypes.magnitude_keys(part)
        keep[slab] = masks.choose_rows(keys, pattern) if given is None else given[slab]
        full = masks.complete(keep[slab], pattern)
        group_masks[slab.start * per_row : slab.stop * per_row] = masks.to_words(full, pattern)
        return int(np.count_nonzero(keys * keep[slab]))

    return group_masks, keep, sum(parallel.run(one_slab, slabs(count, k, threads), threads))


def _row(
    dtype: str,
    entry: PackedEntry,
    footprint: Footprint,
    energy: float | None,
    nonzeros: int | None,
    *,
    stored: bool,
) -> InspectionRow:
    return InspectionRow(
        tensor=entry.name,
        dtype=dtype,
        shape=entry.shape,
        pattern=str(entry.format.pattern),
        encoding=entry.format.encoding.name,
        packing=str(entry.format.packing),
        energy_kept_ratio=energy,
        nonzeros_elems=nonzeros,
        metadata_bytes=footprint.metadata_bytes,
        stored=stored,
        **asdict(footprint),
    )


def _dense_row(file: SafetensorsReader, info: TensorInfo) -> InspectionRow:
    size = info.stored_bytes
    return InspectionRow(
        tensor=info.name,
        dtype=info.dtype,
        shape=info.shape,
        nonzeros_elems=_count_nonzeros(file, info) if info.dtype in dtypes.BY_CONTAINER_CODE else None,
        dense_bytes=size,
        values_bytes=size,
    )


def _count_nonzeros(file: SafetensorsReader, info: TensorInfo) -> int:
    """Count elements that are not zero, -0.0 being zero and NaN not."""
    dtype = dtypes.BY_CONTAINER_CODE[info.dtype].dtype
    pieces = (piece.view(dtype) for _, piece in file.pieces(info.name))
    return sum(int(np.count_nonzero(dtypes.magnitude_keys(piece))) for piece in pieces)
