"""compressed-tensors `marlin-24`: 2:4 weights in 4 or 8 bits in the order of one GPU kernel. Read only.

A module X with weight [n, k] is `X.weight_packed` I32 [k/32, n*bits/2], `X.scale_packed` F16 [groups, n] and `X.meta` I16
[k/32, 2n]. Reading inverts the writer step by step: all of its steps are permutations. It gives `X.weight` as the stored
integers, I8 [n, k], and `X.weight_scale` F16 [n, groups], which is compressed-tensors' layout `int-quantized`. Source:
compressed-tensors 0.14.0.1, `marlin_24.py`, `permutations_24.py`, `semi_structured_conversions.py`.
"""

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nmsim.interchange.parts import Held, Parts, standing_for, suffixed
from nmsim.interchange.tensors import Block, DenseTensor, slices
from nmsim.layouts.nibbles import LEGAL_NIBBLES, first_outside, split_nibbles, unpack_nibbles

FORMAT = "marlin-24"
ROLES = ("scale_packed", "weight_packed", "meta")
TILE = 16
RUN = 1024
"""Values that are permuted together."""
SCALE_RUN = 64
INTERLEAVE = {4: (0, 2, 4, 6, 1, 3, 5, 7), 8: (0, 2, 1, 3)}
"""Bits of a value -> order of neighbours within a word."""
META_ROWS = 64
"""Rows of the weight that trade places in the order of the metadata."""


def read(held: Held) -> tuple[dict[str, DenseTensor], set[str]]:
    """Find the tensors of this format: name of the part that stands for each -> tensor; names of all parts.

    Raises
    ------
    ContainerError
        Parts that are missing, or do not fit together.
    """
    makers = {"weight_packed": _weight, "scale_packed": _scale}
    return standing_for(suffixed(held, ROLES, signs=1, format=FORMAT), makers)


@functools.cache
def value_order(bits: int) -> NDArray[np.int64]:
    """Tabulate where each of 1024 neighbouring packed values comes from in its tiles.

    Each of 32 threads takes a column of a tile of 16 x 64 values: four rows in two blocks, of four neighbours each.
    """
    order = []
    for thread in range(32):
        column = thread // 4
        rows = [2 * (thread % 4) + step for step in (0, 1, 8, 9)]
        start = 256 * (column // 2) + 8 * (column % 2)
        places = [16 * row + start + 4 * block for block in (0, 1) for row in rows]
        order += [place + neighbour for neighbour in range(4) for place in places]
    width = len(INTERLEAVE[bits])
    table: NDArray[np.int64] = np.array(order, np.int64).reshape(-1, width)[:, INTERLEAVE[bits]].reshape(-1)
    return table


def meta_places(row: NDArray[np.int64], column: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Say where the 16-bit word of a row and a word column lies among all words of `rows` rows."""
    place = (
        row // META_ROWS * META_ROWS
        + row % 2 * 2
        + row % 8 // 4
        + row % 4 // 2 * 32
        + row % META_ROWS // 8 * 4
    )
    # Of each 2 x 2 words, those at the top right and the bottom left trade places.
    swap = (place % 2 == 0).astype(np.int64) * (column % 2 == 1) - (place % 2 == 1) * (column % 2 == 0)
    place, column = place + swap, column - swap
    places: NDArray[np.int64] = column // 2 * rows * 2 + place * 2 + column % 2
    return places


def _sizes(parts: Parts) -> tuple[int, int, int]:
    """Check the shapes of all parts; rows n, columns k and bits of a value."""
    meta, packed, scale = (parts.info(role) for role in ("meta", "weight_packed", "scale_packed"))
    if meta.dtype != "I16" or len(meta.shape) != 2 or meta.shape[1] % (2 * META_ROWS) or 0 in meta.shape:
        parts.refuse("meta", f"is {meta.dtype} {list(meta.shape)}", "I16 [k/32, 2n] with n a multiple of 64")
    k, n = 32 * meta.shape[0], meta.shape[1] // 2
    for bits in INTERLEAVE:
        if (packed.dtype, packed.shape) == ("I32", (k // 32, n * bits // 2)):
            break
    else:
        parts.refuse(
            "weight_packed",
            f"is {packed.dtype} {list(packed.shape)}",
            f"I32 [{k // 32}, {2 * n}] for 4 bits or [{k // 32}, {4 * n}] for 8, by its meta",
        )
    groups = scale.shape[0] if len(scale.shape) == 2 else 0
    if scale.dtype != "F16" or scale.shape != (groups, n) or not groups or k % groups:
        parts.refuse(
            "scale_packed", f"is {scale.dtype} {list(scale.shape)}", f"F16 [groups of {k} columns, {n}]"
        )
    return n, k, bits


def _weight(prefix: str, parts: Parts) -> DenseTensor:
    n, k, bits = _sizes(parts)

    def blocks() -> Iterator[Block]:
        values = _unpacked(parts, n, k, bits)
        meta = parts.array("meta").reshape(-1)
        for part in slices(n, k, 1):
            # The words of these rows are gathered from where the order of the kernel has put them.
            row, column = np.meshgrid(np.arange(part.start, part.stop), np.arange(k // TILE), indexing="ij")
            nibbles = split_nibbles(meta[meta_places(row, column, n)].view(np.uint8))
            outside = first_outside(nibbles, LEGAL_NIBBLES[4])
            if outside is not None:
                at, group = outside
                parts.refuse(
                    "meta",
                    f"row {part.start + at}, group {group} has the code {int(nibbles[at, group]):X}",
                    "one of 4 8 9 C D E",
                )
            kept = unpack_nibbles(nibbles, 4)
            dense = np.zeros(kept.shape, np.int8)
            dense[kept] = values[part].reshape(-1)
            yield Block(dense, kept)

    return DenseTensor(
        name=f"{prefix}.weight",
        dtype="I8",
        shape=(n, k),
        blocks=blocks,
        where=parts.where("weight_packed"),
        shard=parts.file("weight_packed").path.name,
        stored_bytes=parts.info("weight_packed").stored_bytes + parts.info("meta").stored_bytes,
    )


def _unpacked(parts: Parts, n: int, k: int, bits: int) -> NDArray[np.int8]:
    """The kept integers [n, k/2], row by row of the weight."""
    per_word = 32 // bits
    order = value_order(bits)
    packed = parts.array("weight_packed").view(np.uint32)
    values = np.empty((n, k // 2), np.int8)
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    for tile, words in enumerate(packed):
        # A row of words holds 16 kept values of every row of the weight, in tiles of 16 x 16.
        fields = (words[:, None] >> shifts) & np.uint32((1 << bits) - 1)
        shuffled = fields.reshape(-1, RUN)
        tiles = np.empty_like(shuffled)
        tiles[:, order] = shuffled
        block = tiles.reshape(n // TILE, TILE, TILE).transpose(0, 2, 1).reshape(n, TILE)
        values[:, tile * TILE : (tile + 1) * TILE] = block.astype(np.int16) - (1 << (bits - 1))
    return values


def _scale(prefix: str, parts: Parts) -> DenseTensor:
    n, _, _ = _sizes(parts)
    groups = parts.info("scale_packed").shape[0]

    def blocks() -> Iterator[Block]:
        scales = parts.array("scale_packed")
        if groups > 2:
            # Scales of groups are shuffled in runs of 64. The writer compares the size of a group with half of k, because
            # it counts kept values. So the scales of two groups lie in order, as those of whole rows do.
            order = np.arange(SCALE_RUN).reshape(8, 2, 4).transpose(0, 2, 1).reshape(-1)
            straight = np.empty((groups * n // SCALE_RUN, SCALE_RUN), np.uint16)
            straight[:, order] = scales.view(np.uint16).reshape(-1, SCALE_RUN)
            scales = straight.reshape(groups, n).view(np.float16)
        yield Block(np.ascontiguousarray(scales.T))

    return DenseTensor(
        name=f"{prefix}.weight_scale",
        dtype="F16",
        shape=(n, groups),
        blocks=blocks,
        where=parts.where("scale_packed"),
        shard=parts.file("scale_packed").path.name,
        stored_bytes=parts.info("scale_packed").stored_bytes,
    )
