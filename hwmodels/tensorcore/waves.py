"""The waves of a product as the closed form sees them: what blocks of each kind of wave take at each stage, and sums.

One record, shared by all points of a table, so that compiled code is handed where it lies and no copy.
"""

from typing import Any

import numpy as np

from hwmodels.tensorcore.services import IN_BLOCKS, SERVICES, WORKS, WRITE
from nmsim.support.jit import njit

WAVES = np.dtype(
    [
        ("full", float, (9, SERVICES)),
        ("tail", float, (9, SERVICES)),
        ("totals", float, SERVICES),
        ("waves", float, 9),
        ("kinds", int),
        ("work", float, (2, 2, 2, WORKS)),
        ("outers", int),
        ("inners", int),
        ("outer", float),
        ("inner", float),
        ("blocks", float),
        ("latency", float, IN_BLOCKS),
        ("room", float, IN_BLOCKS),
        ("rounds", float, IN_BLOCKS),
        ("left", float, IN_BLOCKS),
        ("sums", float),
        ("drain", float),
        ("slowest", float),
        ("delay", float),
        ("head", float, IN_BLOCKS),
        ("behind", float, IN_BLOCKS),
        ("places", int, 4),
        ("values", float, (3, 4)),
    ],
    align=True,
)
"""The waves of a product: `full` and `tail` are services [kinds, places] of a block by kind of wave.

`tail` is that of a wave's last block; `totals` are sums over all. Of each kind there are `waves` [kinds]. Kinds are in the
order of the waves: `inners` along the inner loop for each of the `outers` along the outer one. Both are 1 to 3. There are
`outer` x `inner` waves of `blocks` blocks. `work` [2, 2, 2, places]: that on one block of one tile, along the rows, the
columns and K, whole or left over. `latency`, `room`: behind each stage, in cycles and blocks [8]. `sums`: waves that there
is room for the sums of. `drain`: cycles by which the last write takes longer than its kind.

`prepare` fills in the rest. `rounds`: how often the blocks of a wave, without the last one, fill the room behind a stage.
`left`: the blocks that then remain. `slowest` and `delay`: the most cycles of a stage in the first and the last kind, and
of a latency. `head` and `behind`: cycles before the first block is at a stage and after the last one has left it. `places`
and `values`: scratch, for stages that may be the end of a path and the cycles of paths that end there.
"""
Waves = Any
"""One such record; compiled code reads its fields by name."""


@njit(cache=True, error_model="numpy")
def add_up(w: Waves) -> None:
    """Fill in `totals`: cycles that each stage works, and bytes."""
    for place in range(SERVICES):
        w.totals[place] = 0.0
    for kind in range(w.kinds):
        waves, full, tail = w.waves[kind], w.full[kind], w.tail[kind]
        for place in range(SERVICES):
            w.totals[place] += waves * ((w.blocks - 1.0) * full[place] + tail[place])
    w.totals[WRITE] = w.drain
    for kind in range(w.kinds):
        w.totals[WRITE] += w.waves[kind] * w.full[kind, WRITE]


@njit(cache=True, error_model="numpy")
def prepare(w: Waves) -> None:
    """Fill in what paths have in common."""
    before = w.blocks - 1.0
    for stage in range(IN_BLOCKS):
        if stage > 0 and w.room[stage] == w.room[stage - 1]:
            w.rounds[stage], w.left[stage] = w.rounds[stage - 1], w.left[stage - 1]
        else:
            w.rounds[stage] = np.floor(before / w.room[stage])
            w.left[stage] = before - w.rounds[stage] * w.room[stage]
    first = w.tail[0] if w.blocks == 1.0 else w.full[0]
    last = w.tail[w.kinds - 1]
    head, behind = 0.0, last[WRITE] + w.drain
    for stage in range(IN_BLOCKS):
        w.head[stage] = head
        head += first[stage] + w.latency[stage]
    for stage in range(IN_BLOCKS - 1, -1, -1):
        behind += w.latency[stage]
        w.behind[stage] = behind
        behind += last[stage]
    w.slowest = w.delay = 0.0
    for stage in range(IN_BLOCKS):
        w.slowest = max(w.slowest, max(w.full[0, stage], w.full[w.kinds - 1, stage]))
        w.delay = max(w.delay, w.latency[stage])
