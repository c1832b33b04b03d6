"""The public calls: a mask to the metadata words of an architecture, and back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import EncodingError, PatternError, brief
from nmsim.layouts import orders
from nmsim.layouts.nibbles import (
    EMPTY_NIBBLE,
    LEGAL_NIBBLES,
    first_outside,
    pack_nibbles,
    split_nibbles,
    unpack_nibbles,
)
from nmsim.layouts.orders import WordOrder
from nmsim.units import ceil_div

ARCHITECTURES = ("linear", "sm80", "sm90", "sm100")
"""Orders by name. `linear` is no architecture: rows one after the other, what one keeps on disk."""

VALUE_BITS = (8, 16, 32)
"""Bits of a stored value. 8 and 16 mean 2:4, 32 means 1:2."""

PADDING_NIBBLES = (0x0, EMPTY_NIBBLE)
"""What a padding group may hold: 0x0 where CUTLASS's compressor cleared the buffer, 0xE where we wrote it."""


@dataclass(frozen=True)
class _Plan:
    """A checked request: the padded extents and the order of words over them."""

    group_elems: int
    padded_rows: int
    padded_k: int
    dtype: np.dtype[Any]
    order: WordOrder

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the metadata array."""
        nibbles_per_item = 2 * self.dtype.itemsize
        return self.padded_rows, self.padded_k // (self.group_elems * nibbles_per_item)

    @property
    def word_groups(self) -> int:
        """Groups in a word of the order."""
        return 2 * np.dtype(self.order.word).itemsize


def _extent(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise EncodingError(f"{name}={brief(value)} (type {type(value).__name__}): expected a positive int")
    return int(value)


def _atom(arch: str, value_bits: int, tile_k: int | None, k: int, group_elems: int) -> orders.Atom:
    if arch == "sm100":
        return orders.sm100_atom(value_bits)
    if arch == "linear":
        return orders.linear_atom(k, group_elems)
    atom_k = orders.DEFAULT_TILE_K if tile_k is None else _extent("tile_k", tile_k)
    block = orders.k_block(value_bits)
    if atom_k % block or atom_k > orders.MAX_TILE_K:
        raise EncodingError(
            f"tile_k={brief(atom_k)} with {value_bits}-bit values: expected a multiple of {block}, at most "
            f"{orders.MAX_TILE_K}. A kernel with a larger K tile stores its metadata for {orders.MAX_TILE_K}."
        )
    return orders.sm90_atom(value_bits, atom_k)


def _plan(rows: object, k: object, arch: str, value_bits: int, tile_k: int | None) -> _Plan:
    """Check a request and pick its order."""
    if arch not in ARCHITECTURES:
        raise EncodingError(f"arch={brief(arch)}: expected one of {', '.join(ARCHITECTURES)}")
    if not isinstance(value_bits, int) or value_bits not in VALUE_BITS:
        raise EncodingError(
            f"value_bits={brief(value_bits)} (type {type(value_bits).__name__}): expected one of "
            f"{', '.join(map(str, VALUE_BITS))}"
        )
    if tile_k is not None and arch != "sm90":
        raise EncodingError(
            f"tile_k={brief(tile_k)} with arch={brief(arch)}: only the order of sm90 depends on the kernel's K tile"
        )
    n_rows, n_k = _extent("rows", rows), _extent("K", k)
    group_elems = 2 if value_bits == 32 else 4
    if arch == "sm80":
        dtype = np.dtype(orders.SM80_WORD_TYPE[value_bits])
        row_multiple = orders.SM80_ROW_MULTIPLE[value_bits]
        k_multiple = orders.SM80_COLUMN_MULTIPLE * group_elems * 2 * dtype.itemsize
        for name, extent, multiple in (("rows", n_rows, row_multiple), ("K", n_k, k_multiple)):
            if extent % multiple:
                raise EncodingError(
                    f"{name}={brief(extent)}: expected a multiple of {multiple} for arch='sm80' with "
                    f"{value_bits}-bit values"
                )
        order = orders.sm80_order(n_rows, n_k // (group_elems * 2 * dtype.itemsize), value_bits)
        return _Plan(group_elems, n_rows, n_k, dtype, order)
    if n_k % group_elems:
        raise EncodingError(
            f"K={brief(n_k)}: expected a multiple of {group_elems}, one group of {value_bits}-bit values"
        )
    atom = _atom(arch, value_bits, tile_k, n_k, group_elems)
    # The kernels of sm90 and sm100 read whole atoms, so rows and K are rounded up to them.
    padded_rows = ceil_div(n_rows, atom.rows) * atom.rows
    padded_k = ceil_div(n_k, atom.k_elems) * atom.k_elems
    order = atom.word_order(padded_rows, padded_k, group_elems)
    return _Plan(group_elems, padded_rows, padded_k, np.dtype(np.uint8), order)


def _illegal_nibble(
    plan: _Plan, metadata: NDArray[Any], row: int, group: int, nibble: int, allowed: tuple[int, ...]
) -> EncodingError:
    """Say where an illegal nibble lies, both in memory and in the matrix."""
    column, within_word = divmod(group, plan.word_groups)
    offset = int(plan.order.offsets()[row, column]) * plan.word_groups + within_word
    word, place = divmod(offset, 2 * plan.dtype.itemsize)
    unsigned = metadata.reshape(-1).view(f"u{plan.dtype.itemsize}")
    first = group * plan.group_elems
    padding = " (padding)" if allowed is PADDING_NIBBLES else ""
    return EncodingError(
        f"metadata word {word} = {int(unsigned[word]):#0{2 + 2 * plan.dtype.itemsize}x}, nibble {place} = "
        f"{nibble:X}: row {row}, group {group}, elements {first} to {first + plan.group_elems - 1}{padding}: "
        f"expected one of {' '.join(f'{legal:X}' for legal in allowed)}"
    )


def nvidia_metadata(
    mask: NDArray[np.bool_], *, arch: str = "sm80", value_bits: int = 16, tile_k: int | None = None
) -> NDArray[Any]:
    """Turn a mask into metadata words, in the order that the architecture's kernels read.

    Parameters
    ----------
    mask : ndarray of bool, shape [rows, K]
        True where an element is kept. Groups are consecutive along K: at most 2 of 4 kept for 8- and 16-bit
        values, at most 1 of 2 for 32-bit ones.
    arch : {"sm80", "sm90", "sm100", "linear"}
        Whose order. `"linear"` is plain row order, for storage.
    value_bits : {16, 8, 32}
        Bits of one stored value.
    tile_k : int, optional
        `arch="sm90"` only: K tile of the kernel, in elements; the default is 128. A kernel with a larger K tile
        also stores its metadata as for 128. A multiple of 512 / `value_bits`.

    Returns
    -------
    ndarray
        The words, in the order of memory. The two dimensions only count them.

        - sm80: int16 [rows, K / 16] for 16-bit values, int32 [rows, K / 32] for 8-bit, int16 [rows, K / 8]
          for 32-bit: torch's dtype, shape and bytes. `rows` is a multiple of 32 (8-bit: 16), K of 32 (8-bit:
          64, 32-bit: 16).
        - sm90, sm100: uint8 [R, P / 8], for 32-bit values [R, P / 4], where R and P are `rows` and K rounded
          up to the atom: 64 x `tile_k` on sm90; 128 x 128 (32-bit: 128 x 64) on sm100.
        - linear: uint8 [rows, P / 8], for 32-bit values [rows, P / 4], where P is K rounded up to 4 groups.

        Padding groups hold 0xE, as a group that keeps nothing does.

    Raises
    ------
    PatternError
        `mask` is no 2-D bool array, or a group keeps too many elements.
    EncodingError
        Unknown `arch`, `value_bits` or `tile_k`, or a shape that the order does not take.

    Notes
    -----
    A group that keeps fewer than two is written as a pair, as torch 2.13 does. None, 2 or 3 -> (2, 3);
    0 -> (0, 2); 1 -> (1, 2). The kept element of such a pair cannot be read back.

    **Source**: sm80: CUTLASS `host_reorder.h`, `reorder_meta`, compared byte for byte with
    `torch.sparse._semi_structured_conversions` of torch 2.13. sm90, sm100: CUTLASS `sm90_sparse_config.inl`,
    `sm1xx_sparse_config.inl`; compared with those formulas only, not run on a GPU.

    Examples
    --------
    >>> mask = np.tile([True, True, False, False], (32, 8))
    >>> [hex(word) for word in nvidia_metadata(mask)[0]]
    ['0x4444', '0x4444']
    >>> nvidia_metadata(mask, arch="sm90").shape
    (64, 16)
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        seen = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise PatternError(f"mask ({seen}): expected a numpy array of bool, shape [rows, K]")
    rows, k = mask.shape
    plan = _plan(rows, k, arch, value_bits, tile_k)
    if (plan.padded_rows, plan.padded_k) != (rows, k):
        mask = np.pad(mask, ((0, plan.padded_rows - rows), (0, plan.padded_k - k)))
    words = pack_nibbles(mask, plan.group_elems).view(plan.order.word)
    return plan.order.scatter(words).view(plan.dtype).reshape(plan.shape)


def nvidia_mask(
    metadata: NDArray[Any],
    shape: tuple[int, int],
    *,
    arch: str = "sm80",
    value_bits: int = 16,
    tile_k: int | None = None,
) -> NDArray[np.bool_]:
    """Read metadata words back into a mask: the inverse of `nvidia_metadata`.

    Parameters
    ----------
    metadata : ndarray
        Words as `nvidia_metadata` returns them, of exactly that dtype and shape.
    shape : (int, int)
        Rows and K of the mask, without padding.
    arch, value_bits, tile_k
        As given to `nvidia_metadata`.

    Returns
    -------
    ndarray of bool, shape [rows, K]
        Exactly 2 of 4 (32-bit values: 1 of 2) kept in every group. A group that was under-full comes back
        with the pair that stood for it.

    Raises
    ------
    EncodingError
        As for `nvidia_metadata`, or `metadata` has another dtype or shape. A nibble is illegal: 2:4 has 4 8 9 C D E
        only, 1:2 has 4 and E. A padding group holds something else than 0 or E. The message names
        word, nibble and group.

    Notes
    -----
    **Source**: legal nibbles from the PTX ISA, "Sparse matrix storage", and CUTLASS's
    `TensorFillRandomSparseMeta`. CUTLASS's Hopper compressor leaves padding cleared and also writes 0x0 for a
    group of zeros. The first is accepted here. The second is not, because it names element 0 twice.

    Examples
    --------
    >>> words = np.full((32, 2), 0x4444, dtype=np.int16)
    >>> nvidia_mask(words, (32, 32))[0, :8].tolist()
    [True, True, False, False, True, True, False, False]
    """
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise EncodingError(f"shape={brief(shape)} (type {type(shape).__name__}): expected a tuple (rows, K)")
    rows, k = shape
    plan = _plan(rows, k, arch, value_bits, tile_k)
    if not isinstance(metadata, np.ndarray) or (metadata.dtype, metadata.shape) != (plan.dtype, plan.shape):
        seen = (
            f"{metadata.dtype} {list(metadata.shape)}"
            if isinstance(metadata, np.ndarray)
            else type(metadata).__name__
        )
        raise EncodingError(
            f"metadata ({seen}): expected a numpy array of {plan.dtype}, shape {brief(list(plan.shape))}, for a "
            f"mask of shape {brief([rows, k])} with arch={brief(arch)}, value_bits={value_bits}"
        )
    words = plan.order.gather(np.ascontiguousarray(metadata).reshape(-1).view(plan.order.word))
    nibbles = split_nibbles(words.view(np.uint8))
    groups = k // plan.group_elems
    for first_row, end_row, first_group, end_group, allowed in (
        # Three regions: the mask itself, the padding along K, and the padding rows.
        (0, rows, 0, groups, LEGAL_NIBBLES[plan.group_elems]),
        (0, rows, groups, None, PADDING_NIBBLES),
        (rows, None, 0, None, PADDING_NIBBLES),
    ):
        found = first_outside(nibbles[first_row:end_row, first_group:end_group], allowed)
        if found is not None:
            row, group = first_row + found[0], first_group + found[1]
            raise _illegal_nibble(plan, metadata, row, group, int(nibbles[row, group]), allowed)
    return unpack_nibbles(nibbles[:rows, :groups], plan.group_elems)


def nvidia_offsets(
    rows: int, k: int, *, arch: str = "sm80", value_bits: int = 16, tile_k: int | None = None
) -> NDArray[np.int64]:
    """Tabulate where each group's nibble lies in memory.

    Parameters
    ----------
    rows, k : int
        Shape of the mask, in elements.
    arch, value_bits, tile_k
        As for `nvidia_metadata`.

    Returns
    -------
    ndarray of int64, shape [padded rows, padded K / elements of a group]
        Entry [r, g] is the position of the nibble of row r, group g, counted in nibbles from the start of the
        metadata. Nibble p is the low (p even) or high (p odd) half of byte p // 2. A permutation of 0, 1, ...

    Raises
    ------
    EncodingError
        As for `nvidia_metadata`.

    Notes
    -----
    **Source**: as for `nvidia_metadata`.

    Examples
    --------
    >>> nvidia_offsets(32, 32)[:9:8, ::4].tolist()  # rows 0 and 8: the first nibble of both words
    [[0, 8], [4, 12]]
    """
    plan = _plan(rows, k, arch, value_bits, tile_k)
    within_word = np.arange(plan.word_groups, dtype=np.int64)
    offsets = plan.order.offsets()[:, :, None] * plan.word_groups + within_word
    return offsets.reshape(plan.padded_rows, -1)
