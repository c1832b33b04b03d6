"""`PackedTensor`: the kept values of a tensor, and the metadata that says where they were."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes, packing
from nmsim import mask as masks
from nmsim.errors import BitstreamError, PatternError, brief
from nmsim.format import FormatLike, SparseFormat, sparse_format
from nmsim.mask import BoolArray
from nmsim.pattern import Pattern
from nmsim.support import parallel
from nmsim.support.jit import njit
from nmsim.words import Words, popcount
from nmsim.words import empty as new_words
from nmsim.words import rows as word_rows

CHUNK_ELEMS = 1 << 22
"""Elements worked on at a time, so that temporaries stay small beside a large tensor."""


@dataclass(frozen=True)
class Footprint:
    """Bytes and bits of a packed tensor and of the dense one. Padding is counted separately from content."""

    dense_bytes: int
    values_bytes: int
    values_padding_bytes: int
    metadata_payload_bits: int
    metadata_padding_bits: int
    metadata_alignment_bits: int

    @property
    def metadata_bytes(self) -> int:
        """Bytes of the metadata stream, padding and alignment included."""
        bits = self.metadata_payload_bits + self.metadata_padding_bits + self.metadata_alignment_bits
        return bits // 8

    @property
    def total_bytes(self) -> int:
        """Values and metadata together, all padding included."""
        return self.values_bytes + self.metadata_bytes


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A tensor of which N in M elements are stored.

    Parameters
    ----------
    values : array [rows, G * N]
        Kept values in ascending position, group after group; `rows` counts all axes but the pruned one, in C
        order, and G = ceil(K / M). Zero if a group has fewer than N kept elements.
    metadata : uint8 array
        The stream of codes, all groups of row 0 first.
    format : SparseFormat
    shape : tuple of int
        Of the dense tensor.
    axis : int
        The pruned axis, not negative.
    metadata_payload_bits, metadata_padding_bits : int
        Bits of the codes themselves, and of the padding between them.
    layout : str
        Order of the metadata words; `"linear"` is the order above.

    Raises
    ------
    PatternError, BitstreamError
        Fields that do not fit together.
    """

    values: NDArray[Any]
    metadata: NDArray[np.uint8]
    format: SparseFormat
    shape: tuple[int, ...]
    axis: int
    metadata_payload_bits: int
    metadata_padding_bits: int
    layout: str = "linear"

    def __post_init__(self) -> None:
        if not isinstance(self.format, SparseFormat):
            raise PatternError(f"packed tensor format {brief(self.format)}: expected a SparseFormat")
        if self.layout != "linear":
            raise PatternError(f"packed tensor layout {brief(self.layout)}: expected 'linear'")
        if any(isinstance(d, bool) or not isinstance(d, int) or d < 0 for d in self.shape):
            raise PatternError(f"packed tensor shape {brief(self.shape)}: expected non-negative ints")
        masks.checked_axis(self.shape, self.axis)
        dtypes.of(self.values)
        expected = (self.rows, self.groups_per_row * self.pattern.n)
        if self.values.shape != expected:
            raise PatternError(
                f"values have shape {self.values.shape}: expected {brief(expected)} for shape {brief(self.shape)}, "
                f"axis {self.axis}, pattern {self.pattern}"
            )
        packing.as_stream(self.metadata)
        spare = 8 * len(self.metadata) - self.metadata_payload_bits - self.metadata_padding_bits
        if min(spare, self.metadata_payload_bits, self.metadata_padding_bits) < 0:
            raise BitstreamError(
                f"metadata of {len(self.metadata)} bytes cannot hold {brief(self.metadata_payload_bits)} payload and "
                f"{brief(self.metadata_padding_bits)} padding bits"
            )

    @property
    def pattern(self) -> Pattern:
        """The pattern of the format."""
        return self.format.pattern

    @property
    def row_elems(self) -> int:
        """Elements along the pruned axis, K."""
        return self.shape[self.axis]

    @property
    def rows(self) -> int:
        """Product of all axes but the pruned one."""
        return math.prod(self.shape[: self.axis] + self.shape[self.axis + 1 :])

    @property
    def groups_per_row(self) -> int:
        """ceil(K / M)."""
        return self.pattern.groups(self.row_elems)

    @property
    def n_groups(self) -> int:
        """Groups of the whole tensor."""
        return self.rows * self.groups_per_row

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the dense tensor."""
        return self.values.dtype

    @property
    def footprint(self) -> Footprint:
        """What is stored, in bytes and bits."""
        item = self.values.itemsize
        real = self.rows * _kept_in_row(self.row_elems, self.pattern)
        return Footprint(
            dense_bytes=math.prod(self.shape) * item,
            values_bytes=self.values.nbytes,
            values_padding_bytes=self.values.nbytes - real * item,
            metadata_payload_bits=self.metadata_payload_bits,
            metadata_padding_bits=self.metadata_padding_bits,
            metadata_alignment_bits=8 * len(self.metadata)
            - self.metadata_payload_bits
            - self.metadata_padding_bits,
        )

    def mask(self, *, threads: int = 1) -> BoolArray:
        """Decode the metadata: bool array of the dense shape, True where a value is stored.

        Raises
        ------
        BitstreamError, EncodingError
            The metadata is truncated, too long, or holds a code that no mask has.
        """
        words = self._group_masks(threads)
        rows = masks.from_words(words, self.pattern, self.rows, self.row_elems)
        return _from_rows(rows, self.shape, self.axis)

    def check_counts(self) -> None:
        """Compare the stated payload and padding bits with those of the codes.

        Raises
        ------
        BitstreamError, EncodingError
            Other bits are stated, or the metadata cannot be read.
        """
        read = self.format.encoding.stream_report(
            self.metadata, self.pattern, self.n_groups, self.format.packing
        )
        refuse_other_counts((self.metadata_payload_bits, self.metadata_padding_bits), read)

    def _group_masks(self, threads: int) -> Words:
        masks = self.format.encoding.read_stream(
            self.metadata, self.pattern, self.n_groups, self.format.packing, threads=threads
        )
        self.check_counts()
        return masks


def refuse_other_counts(stated: tuple[int, int], read: packing.PackingReport) -> None:
    """Refuse stated payload and padding bits that are not those of the codes."""
    if stated != (read.payload_bits, read.padding_bits):
        raise BitstreamError(
            f"metadata is stated to have {brief(stated[0])} payload and {brief(stated[1])} padding bits, expected "
            f"{read.payload_bits} and {read.padding_bits}, those of its codes"
        )


def compress(
    x: NDArray[Any], format: FormatLike, *, axis: int = -1, mask: BoolArray | None = None, threads: int = 1
) -> PackedTensor:
    """Keep N in M elements of a tensor and encode where they are.

    Parameters
    ----------
    x : array, at least 1-D
    format : SparseFormat, Pattern or str
        A pattern, or a text that names no encoding, takes the defaults of `nmsim.format`.
    axis : int
        The axis along which groups run.
    mask : bool array like x, optional
        What to keep; `prune(x, pattern)` if absent. A group may keep fewer than N elements: it is completed
        with its lowest free positions, for which zeros are stored. With a mask, NaN and infinity are stored as they are.
    threads : int
        Cores to use.

    Returns
    -------
    PackedTensor

    Raises
    ------
    PatternError
        A group of `mask` keeps more than N, or `mask` is not bool or not of x's shape. Without a mask, an element that is
        NaN or infinite.
    EncodingError, BitstreamError
        Unknown encoding or packing, or a pair that does not go together.

    Examples
    --------
    >>> packed = compress(np.arange(16, dtype=np.float32), "8:16/combinatorial")
    >>> packed.values.tolist(), packed.metadata.tobytes().hex()
    ([[8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]], '4532')
    """
    format = sparse_format(format)
    pattern = format.pattern
    x = np.asarray(x)
    axis = masks.checked_axis(x.shape, axis)
    kind = dtypes.of(x)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != x.shape:
            raise PatternError(f"mask is {mask.dtype} {mask.shape}: expected bool {x.shape}")
    else:
        dtypes.refuse_not_finite(x)
    k = x.shape[axis]
    rows = math.prod(x.shape[:axis] + x.shape[axis + 1 :])
    dense = _to_rows(x, axis).reshape(rows, k)
    chosen = None if mask is None else _to_rows(mask, axis).reshape(rows, k)

    per_row = pattern.groups(k)
    values = np.empty((rows, per_row * pattern.n), kind.bits_dtype)
    words = new_words(rows * per_row, pattern.m)

    # Bits are gathered instead of numbers: so no value is rounded, and one kernel serves all types of a width.
    pack_rows(dense, pattern, values=values, group_masks=words, keep=chosen, threads=threads)
    metadata, report = format.encoding.write_stream(words, pattern, format.packing, threads=threads)
    return PackedTensor(
        values=values.view(kind.dtype),
        metadata=metadata,
        format=format,
        shape=x.shape,
        axis=axis,
        metadata_payload_bits=report.payload_bits,
        metadata_padding_bits=report.padding_bits,
    )


def decompress(packed: PackedTensor, *, threads: int = 1) -> NDArray[Any]:
    """Rebuild the dense tensor: kept values bit for bit, zeros elsewhere.

    Parameters
    ----------
    packed : PackedTensor
    threads : int
        Cores to use.

    Returns
    -------
    array of `packed.shape` and `packed.dtype`

    Raises
    ------
    BitstreamError, EncodingError
        The metadata is truncated, too long, or holds a code that no mask has. Or a value that is not zero is stored
        for a position beyond the end of a row.
    """
    pattern, k = packed.pattern, packed.row_elems
    words = packed._group_masks(threads)
    out = unpack_rows(dtypes.stored_bits(packed.values), words, pattern, row_elems=k, threads=threads)
    return _from_rows(out.view(packed.values.dtype), packed.shape, packed.axis)


def pack_rows(
    dense: NDArray[Any],
    pattern: Pattern,
    *,
    values: NDArray[Any],
    group_masks: Words,
    keep: BoolArray | None = None,
    threads: int = 1,
) -> None:
    """Choose in some rows and gather what is kept, on all cores.

    Parameters
    ----------
    dense : array [rows, K]
    pattern : Pattern
    values : unsigned array [rows, G * N]
        Filled with the stored bits of the kept values, G = ceil(K / M).
    group_masks : Words, rows * G of them
        Filled with one mask of exactly N ones per group.
    keep : bool array [rows, K], optional
        What to keep; by magnitude if absent.
    threads : int
        Cores to use.

    Raises
    ------
    PatternError
        A group of `keep` keeps more than N.
    """
    rows, k = dense.shape
    per_row = pattern.groups(k)

    def one_slab(slab: slice) -> None:
        part = np.ascontiguousarray(dense[slab])
        bits = dtypes.stored_bits(part)
        if keep is None:
            chosen = masks.choose_rows(dtypes.magnitude_keys(part), pattern)
        else:
            chosen = np.ascontiguousarray(keep[slab])
            bits = bits * chosen  # a place that completion adds holds zero
        full = masks.complete(chosen, pattern, first_row=slab.start)
        groups = slice(slab.start * per_row, slab.stop * per_row)
        group_masks[groups] = masks.to_words(full, pattern)
        _gather(bits, word_rows(group_masks[groups]), pattern.m, values[slab])

    parallel.run(one_slab, slabs(rows, k, threads), threads)


def unpack_rows(
    values: NDArray[Any],
    group_masks: Words,
    pattern: Pattern,
    *,
    row_elems: int,
    first_row: int = 0,
    threads: int = 1,
) -> NDArray[Any]:
    """Put the stored bits of kept values back between zeros, on all cores.

    Parameters
    ----------
    values : unsigned array [rows, G * N]
    group_masks : Words, rows * G of them
    pattern : Pattern
    row_elems : int
        K.
    first_row : int
        Rows of the tensor before these, for errors.
    threads : int
        Cores to use.

    Returns
    -------
    unsigned array [rows, K]

    Raises
    ------
    BitstreamError
        A value that is not zero is stored for a position beyond the end of a row.
    """
    rows, per_row = len(values), pattern.groups(row_elems)
    out = np.zeros((rows, row_elems), values.dtype)

    def one_slab(slab: slice) -> None:
        groups = slice(slab.start * per_row, slab.stop * per_row)
        bad = _scatter(values[slab], word_rows(group_masks[groups]), pattern.m, out[slab])
        if bad >= 0:
            raise BitstreamError(
                f"values row {first_row + slab.start + bad}: a value that is not zero is stored beyond the row's "
                f"{row_elems} elements, expected 0"
            )

    parallel.run(one_slab, slabs(rows, row_elems, threads), threads)
    return out


def slabs(rows: int, k: int, threads: int) -> list[slice]:
    """Rows cut into pieces of about `CHUNK_ELEMS` elements over all cores; none when rows are empty."""
    step = max(1, CHUNK_ELEMS // parallel.checked(threads) // max(1, k))
    return [slice(low, min(rows, low + step)) for low in range(0, rows if k else 0, step)]


def _kept_in_row(k: int, pattern: Pattern) -> int:
    """Values of a row that stand for elements which exist."""
    whole, tail = divmod(k, pattern.m)
    return whole * pattern.n + min(pattern.n, tail)


def _to_rows(array: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.moveaxis(array, axis, -1)


def _from_rows(rows: NDArray[Any], shape: tuple[int, ...], axis: int) -> NDArray[Any]:
    others = shape[:axis] + shape[axis + 1 :]
    return np.ascontiguousarray(np.moveaxis(rows.reshape(*others, shape[axis]), -1, axis))


@njit(cache=True, nogil=True)
def _gather(dense, groups, m, values):  # type: ignore[no-untyped-def]
    """[rows, K] and the masks of their groups [rows * G, W] -> [rows, G * N]; zero beyond the end of a row."""
    k, one = np.uint64(dense.shape[1]), np.uint64(1)
    per_row = groups.shape[0] // dense.shape[0]
    for r in range(dense.shape[0]):
        at = np.uint64(0)
        for g in range(per_row):
            for w in range(groups.shape[1]):
                start = np.uint64(g * m + 64 * w)
                mask = np.uint64(groups[r * per_row + g, w])
                while mask:
                    column = start + popcount((mask & (~mask + one)) - one)
                    if column < k:
                        values[r, at] = dense[r, column]
                    else:
                        values[r, at] = 0
                    at += one
                    mask &= mask - one


@njit(cache=True, nogil=True)
def _scatter(values, groups, m, dense):  # type: ignore[no-untyped-def]
    """[rows, G * N] and the masks of their groups [rows * G, W] -> [rows, K] of zeros.

    Returns the first row with a value other than zero beyond its end, or -1.
    """
    k, one = np.uint64(dense.shape[1]), np.uint64(1)
    per_row = groups.shape[0] // dense.shape[0]
    for r in range(dense.shape[0]):
        at = np.uint64(0)
        for g in range(per_row):
            for w in range(groups.shape[1]):
                start = np.uint64(g * m + 64 * w)
                mask = np.uint64(groups[r * per_row + g, w])
                while mask:
                    column = start + popcount((mask & (~mask + one)) - one)
                    if column < k:
                        dense[r, column] = values[r, at]
                    elif values[r, at] != 0:
                        return r
                    at += one
                    mask &= mask - one
    return -1
