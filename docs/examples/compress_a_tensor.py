"""Prune a matrix, compress it, look at its bytes, and decompress it again."""

import numpy as np

from nmsim import compress, decompress, prune
from nmsim.energy import energy

weights = np.random.default_rng(0).standard_normal((1024, 4096)).astype(np.float16)
for text in ("2:4/index", "8:16/combinatorial", "16:32/combinatorial"):
    packed = compress(weights, text)
    mask = prune(weights, packed.format.pattern)
    # Kept elements come back bit for bit, and all others are zero.
    assert np.array_equal(decompress(packed), np.where(mask, weights, 0))
    footprint = packed.footprint
    print(
        f"{text:20} {footprint.values_bytes:9,} bytes of values, {footprint.metadata_bytes:7,} of metadata, "
        f"{footprint.total_bytes / footprint.dense_bytes:.3f} of dense, "
        f"energy kept {energy(weights, mask).share_kept:.4f}"
    )
