"""What kernels look up in memory: the positions, or the masks, of codes.

Codes that no mask has have entries too, so that no code makes a kernel read beyond its table.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.recipe import Recipe
from nmsim import encodings

BYTES = 256
LONG_ORDER = (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15)
"""The kept elements of a 16:32 group in the order of the 16-bit lanes that hold their positions."""


@functools.cache
def table(recipe: Recipe) -> NDArray[Any]:
    """The table of a kernel; a single zero where it computes all it needs."""
    if recipe.x_in_planes and (recipe.m, recipe.encoding) == (32, "bitmask"):
        return _upper_halves()
    if recipe.pattern is None or recipe.encoding == "index" or recipe.m == 32:
        return np.zeros(1, np.uint8)
    if recipe.by_columns or recipe.isa != "avx2":
        return _masks(recipe)
    if recipe.m == 8 or (recipe.m == 16 and recipe.encoding == "combinatorial"):
        return positions_of_codes(recipe)
    return np.zeros(1, np.uint8)


def positions_of_codes(recipe: Recipe) -> NDArray[np.uint32]:
    """Code -> its positions as fields, the first lowest, of 2, 8 and 4 bits each for M = 4, 8 and 16."""
    assert recipe.pattern is not None
    n, m = recipe.pattern.n, recipe.m
    masks = _legal_masks(recipe)
    ones = np.nonzero(masks[:, None] >> np.arange(m, dtype=masks.dtype) & 1)[1].reshape(-1, n)
    field_bits = {4: 2, 8: 8, 16: 4}[m]
    by_code = np.zeros(1 << m, np.uint32)
    by_code[_codes(recipe)] = (ones << (field_bits * np.arange(n))).sum(axis=1)
    return by_code


def _upper_halves() -> NDArray[np.uint16]:
    """Ones in the low half of a 16:32 mask -> 16 for every kept element that lies in the high half, in its lane."""
    return np.where(np.array(LONG_ORDER) >= np.arange(17)[:, None], 16, 0).astype(np.uint16)


def _masks(recipe: Recipe) -> NDArray[np.uint16]:
    """A 16-bit code -> its mask; or a byte of shorter codes, as the low and as the high half of 16 elements."""
    masks = np.zeros(1 << recipe.m, np.uint16)
    masks[_codes(recipe)] = _legal_masks(recipe)
    if recipe.m == 16:
        return masks
    if recipe.m == 4:
        every = np.arange(BYTES)
        masks = masks[every & 15] | masks[every >> 4] << 4
    return np.concatenate([masks, masks << 8])


def _legal_masks(recipe: Recipe) -> NDArray[Any]:
    assert recipe.pattern is not None
    every = np.arange(1 << recipe.m, dtype=np.uint16 if recipe.m > 8 else np.uint8)
    return np.extract(np.bitwise_count(every) == recipe.pattern.n, every)


def _codes(recipe: Recipe) -> NDArray[np.int64]:
    assert recipe.pattern is not None
    return encodings.get(recipe.encoding).encode(_legal_masks(recipe), recipe.pattern).astype(np.int64)
