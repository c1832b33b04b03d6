"""Random designs and products for tests of the tensor-core model; everything follows from a seed."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from hwmodels.tensorcore.record import SparseTensorCore, load_core
from nmsim.case import Case, GemmShape
from nmsim.format import as_format

BASES = ("dense", "nvidia-like-2x4", "flexible-4x8", "flexible-8x16", "flexible-16x32", "edge-npu-8x16")
DOUBLE_BUFFERED = {
    "register_blocks": (2, 3, 4),
    "shared_blocks": (2, 3, 4),
    "l2_blocks": (2, 4, 8, 16),
    "accumulator_buffers": (2,),
}
ANY_BUFFERS = {
    "register_blocks": (1, 2, 3),
    "shared_blocks": (1, 2, 4),
    "l2_blocks": (1, 2, 8, 16),
    "accumulator_buffers": (1, 2),
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "cores": (1, 2, 7, 16, 64, 132),
    "array_rows": (4, 8, 16, 32),
    "array_cols": (4, 8, 16),
    "array_depth": (4, 8, 16, 32),
    "accumulate_steps": (1, 2, 4),
    "accumulator_bytes_per_cycle": (256, 1024, 4096),
    "decoder_elements_per_cycle": (8, 48, 256, 1024),
    "decoder_latency_cycles": (0, 2, 20),
    "operand_b_bytes_per_cycle": (64, 256, 512, 2048),
    "selector_elements_per_cycle": (16, 50, 256),
    "selector_latency_cycles": (0, 8, 30),
    "selector_placement": ("producer", "consumer"),
    "fragment_rows": (16, 64, 256),
    "fragment_cols": (16, 64, 256),
    "shared_bytes_per_cycle": (32, 128, 512),
    "l2_bytes_per_cycle": (64, 512, 4096),
    "l2_latency_cycles": (0, 100, 300),
    "multicast": (False, True),
    "dram_bytes_per_cycle": (16.0, 64.0, 512.0, 2600.0),
    "dram_latency_cycles": (0, 100, 500),
    "l2_bytes": (1 << 18, 1 << 21, 1 << 25),
}


def designs(
    seed: int, count: int, *, regular: bool, column_skip: bool = False
) -> Iterator[tuple[Case, SparseTensorCore]]:
    """Draw cases on designs. `regular`: buffers are at least double, and shapes are those of layers."""
    rng = np.random.default_rng(seed)

    def pick(*options: Any) -> Any:
        return options[rng.integers(len(options))]

    for _ in range(count):
        base = load_core(pick(*BASES))
        choices = CHOICES | (DOUBLE_BUFFERED if regular else ANY_BUFFERS)
        core = dataclasses.replace(
            base, **{name: pick(*options) for name, options in choices.items()}, column_skip=column_skip
        )
        pattern = pick(None, *map(str, core.patterns), "2:8", "1:4") if core.patterns else None
        if regular:
            shape = (pick(1, 8, 16, 64, 256, 1024), pick(512, 1024, 2048, 4096), pick(2048, 3584, 4096))
        else:
            shape = (pick(1, 3, 16, 100, 512), pick(64, 100, 512, 777, 2048), pick(64, 100, 512, 1000, 2048))
        case = Case(
            GemmShape(*shape),
            as_format(pattern, encoding=pick(*core.encodings)),
            dtype=pick(*core.dtypes),
            sparse_operand=pick("weights", "activations"),
        )
        yield case, core
