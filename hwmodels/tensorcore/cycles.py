"""Closed form of the pipeline: cycles, traffic and actions of products on core designs, without a simulation.

DRAM -> L2 -> shared memory -> registers -> (prune) -> decode -> select -> multiply -> accumulate, and write back. The result is
a lower bound of the simulator's cycles for codes of fixed length, and close to them.

One record of waves is shared by all points of a table, so that compiled code is handed where it lies and no copy.

The bound is the longest of a handful of paths through the graph of who waits for whom. Blocks go through the stages in
order. A stage begins a block when it has finished the one before, the stage before it has delivered, and there is room
behind it. Waves have up to 3 x 3 kinds: the first, those between and the last along either loop. All blocks of a wave are
alike, except the last one. Any schedule has to follow every path here.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numba.np.unsafe import ndarray as fixed
from numpy.typing import NDArray

from hwmodels.tensorcore import services
from hwmodels.tensorcore.point import POINT, Mapping, Point, choose
from hwmodels.tensorcore.services import (
    ACCUMULATE,
    DRAM_BYTES,
    GROUPS,
    IN_BLOCKS,
    L2_BYTES,
    MULTIPLY,
    OFFERED_BYTES,
    SELECT,
    SERVICES,
    SHARED_BYTES,
    STAGES,
    STEPS,
    SUMS,
    WORKS,
    WRITE,
)
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


@njit(cache=True, error_model="numpy")
def longest_path(w: Waves) -> tuple[float, int]:
    """Find the longest path.

    Parameters
    ----------
    w : Waves
        Added up.

    Returns
    -------
    tuple of float and int
        Cycles, and the stage that the path stays at; 9 and the stage if it is the buffers behind that stage.
    """
    prepare(w)
    busy = w.totals
    home, at_least = 0, 0.0
    for stage in range(IN_BLOCKS):
        at_least = max(at_least, w.head[stage] + busy[stage] + w.behind[stage])
        if busy[stage] > busy[home]:
            home = stage
    w.places[0] = home
    longest, limit = 0.0, 0
    for stage in range(IN_BLOCKS):
        path = w.head[stage] + busy[stage] + w.behind[stage]
        if path > longest or (path == longest and stage == MULTIPLY):
            longest, limit = path, stage
        if stage + 1 < IN_BLOCKS and _may_wait(w, stage, at_least):
            path = w.head[stage] + _waiting(w, stage) + w.behind[stage + 1]
            if path > longest:
                longest, limit = path, IN_BLOCKS + 1 + stage
    path = _filling(w) + busy[WRITE]
    if path > longest:
        longest, limit = path, WRITE
    path = w.head[MULTIPLY] + _writing(w)
    if path > longest:
        longest, limit = path, MULTIPLY
    return max(longest, _changing(w)), limit


@njit(cache=True, error_model="numpy")
def _filling(w: Waves) -> float:
    """Cycles of the longest path through the first wave, until it is ready to be written."""
    first, last = w.full[0], w.tail[0]
    longest, behind = 0.0, 0.0
    for stage in range(IN_BLOCKS - 1, -1, -1):
        behind += w.latency[stage] + last[stage]
        longest = max(longest, w.head[stage] + (w.blocks - 1.0) * first[stage] + behind)
    return longest


@njit(cache=True, error_model="numpy")
def _writing(w: Waves) -> float:
    """Cycles, from the first multiplication on, of a path over waves that wait for room for their sums.

    Within a wave it stays at the multipliers, or goes back and forth between them and a neighbour.
    """
    least, most = np.inf, 0.0
    for kind in range(w.kinds):
        one = _one_wave(w, kind)
        least, most = min(least, one), max(most, one)
    path = np.ceil(w.outer * w.inner / w.sums) * least
    if most > least:
        for kind in range(w.kinds):
            path += np.floor(w.waves[kind] / w.sums) * (_one_wave(w, kind) - least)
    return path + w.drain if w.sums == 1.0 else path


@njit(cache=True, error_model="numpy")
def _one_wave(w: Waves, kind: int) -> float:
    """Cycles of one wave from its first multiplication until its sums are written."""
    full, tail = w.full[kind], w.tail[kind]
    path = (w.blocks - 1.0) * full[MULTIPLY]
    for other, at in ((SELECT, SELECT), (ACCUMULATE, MULTIPLY)):
        both = w.rounds[at] * (full[MULTIPLY] + full[other] + w.latency[at])
        both -= full[other] - tail[other]
        path = max(path, both + w.left[at] * full[MULTIPLY])
    return path + tail[MULTIPLY] + tail[ACCUMULATE] + full[WRITE]


@njit(cache=True, error_model="numpy")
def _may_wait(w: Waves, stage: int, at_least: float) -> bool:
    """Say whether `_waiting` may find a path of so many cycles; an upper bound that costs less than the path."""
    room, total = w.room[stage], w.blocks * w.outer * w.inner
    first = w.full[0]
    left_over = (room - 1.0) * (2.0 * w.slowest + w.delay)
    both = first[stage] + first[stage + 1] + w.latency[stage]
    rounds = w.totals[stage] + w.totals[stage + 1] + total * w.latency[stage] + (room - 1.0) * both
    return rounds + room * (w.head[stage] + w.behind[stage + 1] + left_over) >= room * at_least


@njit(cache=True, error_model="numpy")
def _least(w: Waves, stage: int, also: int) -> float:
    """Fewest cycles that two stages together (or one, given twice: its double) take for a block of any wave."""
    least = np.inf
    for kind in range(w.kinds):
        one, other = w.full[kind], w.tail[kind]
        least = min(least, other[stage] + other[also])
        if w.blocks > 1.0:
            least = min(least, one[stage] + one[also])
    return least


@njit(cache=True, error_model="numpy")
def _waiting(w: Waves, stage: int) -> float:
    """Cycles of a path that goes back and forth between a stage and the next, over the room between them.

    The blocks that are left over when room divides their number unevenly go by at the slowest stage.
    """
    least = _least(w, stage, stage + 1)
    room, total = w.room[stage], w.blocks * w.outer * w.inner
    rounds = np.ceil(total / room)
    path = rounds * (least + w.latency[stage])
    in_wave = np.floor(w.blocks / room)
    for kind in range(w.kinds):
        full, tail = w.full[kind], w.tail[kind]
        both = full[stage] + full[stage + 1]
        if both > least:
            even = tail[stage] + tail[stage + 1] == both
            path += w.waves[kind] * (in_wave if even else w.rounds[stage]) * (both - least)
    return path + _left_over(w, total - 1.0 - (rounds - 1.0) * room, stage)


@njit(cache=True, error_model="numpy")
def _left_over(w: Waves, blocks: float, beside: int) -> float:
    """Cycles that a path gains on so few blocks before or after it waits behind the stage `beside`.

    After: downstream, up to the last block. Before: upstream, within the first wave, if that has as many whole blocks.
    """
    if blocks == 0.0:
        return 0.0
    gained = 0.0
    # So many blocks reach into another wave, whose kind is open: the least of all kinds is safe.
    if blocks > w.blocks - 1.0:
        for stage in range(beside + 1, IN_BLOCKS):
            gained = max(gained, blocks * _least(w, stage, stage) / 2.0)
        return gained
    last, tail = w.full[w.kinds - 1], w.tail[w.kinds - 1]
    stay = 0.0
    for stage in range(beside + 1, IN_BLOCKS):
        stay = max(stay, (blocks - 1.0) * last[stage] + tail[stage])
    gained = stay
    for stage in range(beside + 1, IN_BLOCKS - 1):
        rounds = np.floor(blocks / w.room[stage])
        both = tail[stage] + tail[stage + 1] + w.latency[stage]
        both += (rounds - 1.0) * (last[stage] + last[stage + 1] + w.latency[stage])
        if rounds > 0.0:
            gained = max(gained, both + (blocks - rounds * w.room[stage]) * tail[stage + 1])
    if blocks < w.blocks - 1.0:
        first = w.full[0]
        stay = 0.0
        for stage in range(beside + 1):
            stay = max(stay, first[stage])
        gained = max(gained, blocks * stay)
        for stage in range(beside):
            rounds = np.floor(blocks / w.room[stage])
            both = first[stage] + first[stage + 1] + w.latency[stage]
            gained = max(gained, rounds * both + (blocks - rounds * w.room[stage]) * stay)
    return gained


@njit(cache=True, error_model="numpy")
def _slowest(w: Waves, kind: int) -> int:
    """Where a block of a kind of wave takes longest: a stage, or from 8 on the room behind stage `place - 8`."""
    services = w.full[kind]
    place = 0
    for stage in range(1, IN_BLOCKS):
        if services[stage] > services[place]:
            place = stage
    slowest = services[place]
    for stage in range(IN_BLOCKS - 1):
        both = services[stage] + w.latency[stage] + services[stage + 1]
        if both / w.room[stage] > slowest:
            place, slowest = IN_BLOCKS + stage, both / w.room[stage]
    return place


@njit(cache=True, error_model="numpy")
def _at(w: Waves, kind: int, place: int) -> float:
    """Cycles of a path over the blocks of a wave at one place."""
    full, tail = w.full[kind], w.tail[kind]
    if place < IN_BLOCKS:
        return (w.blocks - 1.0) * full[place] + tail[place]
    stage = place - IN_BLOCKS
    return _there_and_back(w, kind, stage, w.rounds[stage], w.left[stage])


@njit(cache=True, error_model="numpy")
def _at_last(w: Waves, kind: int, place: int, blocks: float) -> float:
    """Cycles of a path over the last so many blocks of a wave at one place."""
    full, tail = w.full[kind], w.tail[kind]
    if place < IN_BLOCKS:
        return (blocks - 1.0) * full[place] + tail[place]
    stage = place - IN_BLOCKS
    rounds = np.floor((blocks - 1.0) / w.room[stage])
    return _there_and_back(w, kind, stage, rounds, blocks - 1.0 - rounds * w.room[stage])


@njit(cache=True, error_model="numpy")
def _there_and_back(w: Waves, kind: int, stage: int, rounds: float, left: float) -> float:
    """Cycles of a path that waits so often behind a stage, and for `left` blocks no more, up to the last of a wave."""
    full, tail = w.full[kind], w.tail[kind]
    both = full[stage] + w.latency[stage] + full[stage + 1]
    if left == 0.0:
        return rounds * both + tail[stage] + w.latency[stage] + tail[stage + 1]
    return (rounds + 1.0) * both + (left - 1.0) * full[stage + 1] + tail[stage + 1]


@njit(cache=True, error_model="numpy")
def _changing(w: Waves) -> float:
    """Cycles of the longest path that stays at one place within a wave, but changes between waves if that pays.

    The places are the first of `places`, and those where kinds of waves are slowest.
    """
    places, values = w.places, w.values
    known = 1
    for kind in range(w.kinds):
        place = _slowest(w, kind)
        new = known < len(places)
        for other in range(known):
            new = new and places[other] != place
        if new:
            places[known] = place
            known += 1
    if known == 1:
        return 0.0
    chosen, paths, cycle = places[:known], values[0, :known], values[1, :known]
    scratch = values[2, :known]
    first: Any = np.int64(0)  # as a literal, numba would compile all that it is passed to once more
    for place in range(known):
        entry = _entry(chosen[place])
        paths[place] = w.head[entry] + _at(w, first, chosen[place])
    for o in range(w.outers):
        start = o * w.inners
        if o > 0:
            _go(w, chosen, paths, scratch, start - 1, start)
        _go_along(w, chosen, paths, scratch, start)
        if o == 1 and w.outers == 3 and w.outer > 3.0:
            # The further rounds between the first and the last one: whoever comes back to its place goes on so.
            for place in range(known):
                cycle[:] = -np.inf
                cycle[place] = 0.0
                _go(w, chosen, cycle, scratch, start + w.inners - 1, start)
                _go_along(w, chosen, cycle, scratch, start)
                paths[place] += (w.outer - 3.0) * cycle[place]
    longest = 0.0
    for place in range(known):
        left = _exit(chosen[place])
        longest = max(longest, paths[place] + w.behind[left])
    return longest


@njit(cache=True, error_model="numpy")
def _go_along(w: Waves, chosen: Any, paths: Any, scratch: Any, start: int) -> None:
    """Prolong paths that end in the first wave of a round to its last."""
    for kind in range(start + 1, start + w.inners):
        _go(w, chosen, paths, scratch, kind - 1, kind)
        if kind == start + 1 and w.inners == 3 and w.inner > 3.0:
            for place in range(len(chosen)):
                again = _change(w, chosen[place], chosen[place], kind, kind)
                paths[place] += (w.inner - 3.0) * (again + _at(w, kind, chosen[place]))


@njit(cache=True, error_model="numpy")
def _go(w: Waves, chosen: Any, paths: Any, scratch: Any, kind: int, following: int) -> None:
    """Prolong the longest paths that end at each place by the next wave."""
    for after in range(len(chosen)):
        best = -np.inf
        for before in range(len(chosen)):
            if paths[before] > -np.inf:
                gained = _change(w, chosen[before], chosen[after], kind, following)
                best = max(best, paths[before] + gained)
        scratch[after] = best + _at(w, following, chosen[after])
    paths[:] = scratch


@njit(cache=True, error_model="numpy")
def _entry(place: int) -> int:
    return place if place < IN_BLOCKS else place - IN_BLOCKS


@njit(cache=True, error_model="numpy")
def _exit(place: int) -> int:
    return place if place < IN_BLOCKS else place - IN_BLOCKS + 1


@njit(cache=True, error_model="numpy")
def _change(w: Waves, before: int, after: int, kind: int, following: int) -> float:
    """Cycles that a path gains between two waves, going from one place to another.

    Downstream it takes the last block along. Upstream it goes from free room to free room. It passes over as many blocks as
    there is room for, of one wave or of the other. If a wave has fewer blocks, there is no such path.
    """
    one, other = _exit(before), _entry(after)
    gained = 0.0
    if one == other:
        if one == MULTIPLY and w.sums == 1.0:
            gained = w.tail[kind, ACCUMULATE] + w.full[kind, WRITE]
        return gained
    if other > one:
        for stage in range(one, other):
            gained += w.latency[stage] + w.tail[kind, stage + 1]
        return gained
    ahead = 0.0
    for stage in range(other, one):
        ahead += w.room[stage]
        if stage > other:
            gained += min(w.full[kind, stage], w.tail[kind, stage], w.full[following, stage])
    if ahead > w.blocks - 1.0:
        return -np.inf
    lost = _at(w, following, after)
    lost -= _at_last(w, following, after, w.blocks - ahead + 1.0)
    if before < IN_BLOCKS:
        lost = min(lost, (ahead - 1.0) * w.full[kind, one])
    return gained - lost


STAGES_OF_LIMIT: dict[str, tuple[str, ...]] = {
    **{stage: (stage,) for stage in STAGES},
    **{f"{one} and {other} waiting": (one, other) for one, other in itertools.pairwise(STAGES[:IN_BLOCKS])},
    "latency": (),
}
"""Every limit -> the stages it consists of: one, or two that wait for the room between them. Latency has none: no stage works
for half of the time, and filling and emptying the pipeline takes longer."""
LIMITS = tuple(STAGES_OF_LIMIT)
"""The meaning of `limit`."""
LATENCY = len(LIMITS) - 1


class Cycles(NamedTuple):
    """What the closed form says of points; float64, numbers or arrays [n].

    `limit` is the index in `LIMITS` of the stage at which the longest path stays. `<stage>_cycles` is the working time of a
    stage on the slowest core. Traffic in bytes over the whole product: out of DRAM, into DRAM, out of L2, out of the shared
    memories, into the select networks. Actions are multiply-adds that the array has time for, and the effectual ones, on kept
    elements. Further actions are groups decoded (again each time that they are read) and pruned, and partial sums read or
    written.
    """

    cycles: Any
    limit: Any
    dram_cycles: Any
    l2_cycles: Any
    shared_cycles: Any
    prune_cycles: Any
    decode_cycles: Any
    select_cycles: Any
    multiply_cycles: Any
    accumulate_cycles: Any
    write_cycles: Any
    dram_read_bytes: Any
    dram_write_bytes: Any
    l2_read_bytes: Any
    shared_read_bytes: Any
    operand_b_bytes: Any
    macs: Any
    effectual_macs: Any
    decoded_groups: Any
    pruned_groups: Any
    accumulator_accesses: Any
    waves: Any
    tile_rows: Any
    tile_cols: Any
    tile_k: Any
    wave_rows: Any
    wave_cols: Any


_as_tuple: Any = fixed.to_fixed_tuple
N_MAPPING, N_CYCLES = len(Mapping._fields), len(Cycles._fields)
PLACE = {name: place for place, name in enumerate(Cycles._fields)}
STAGE_AT = PLACE["dram_cycles"]
TRAFFIC_AT = PLACE["dram_read_bytes"]
WORK_AT = PLACE["shared_read_bytes"]
MAPPED_AT = PLACE["tile_rows"]


def closed_form(
    points: NDArray[np.float64], mappings: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Evaluate the closed form.

    Parameters
    ----------
    points : float64 array [n, fields of `Point`]
    mappings : float64 array [n, fields of `Mapping`], optional
        Chosen by `hwmodels.tensorcore.point.choose` when absent.

    Returns
    -------
    float64 array [n, fields of `Cycles`]
        NaN if no tile fits into the core's memories.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> from hwmodels.tensorcore.point import point
    >>> from nmsim.case import Case, GemmShape
    >>> dense = point(load_core("dense"), Case(GemmShape(4096, 4096, 4096)))
    >>> Cycles(*closed_form(np.array([dense]))[0].tolist()).macs == 4096**3
    True
    """
    rows = np.ascontiguousarray(points, np.float64)
    chosen = np.empty((len(rows), N_MAPPING))
    if mappings is not None:
        chosen[:] = mappings
    answers = np.full((len(rows), N_CYCLES), np.nan)
    _fill_table(rows.view(POINT)[:, 0], chosen, mappings is None, np.zeros(1, WAVES)[0], answers)
    return answers


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_table(rows: Any, mappings: Any, by_rule: bool, w: Waves, answers: Any) -> None:
    for row in range(len(rows)):
        p = rows[row]
        m = choose(p) if by_rule else Mapping(*_as_tuple(mappings[row], N_MAPPING))
        if m.tile_k > 0.0:
            _evaluate(p, m, w, answers[row])


@njit(cache=True, error_model="numpy")
def _kinds(waves: float) -> int:
    """Kinds of waves along one loop: the first, those between, the last."""
    return int(min(waves, 3.0))


@njit(cache=True, error_model="numpy")
def _evaluate(p: Point, m: Mapping, w: Waves, answer: Any) -> None:
    """Fill in the answer for one point; `w` is room that the points of a table share."""
    row_waves = np.ceil(p.a_rows / (m.wave_rows * m.tile_rows))
    col_waves = np.ceil(p.b_cols / (m.wave_cols * m.tile_cols))
    w.outer, w.inner = (row_waves, col_waves) if m.inner_cols else (col_waves, row_waves)
    w.outers, w.inners = _kinds(w.outer), _kinds(w.inner)
    w.kinds = w.outers * w.inners
    w.blocks = np.ceil(p.K / m.tile_k)
    w.sums = p.accumulator_buffers
    answer[WORK_AT:MAPPED_AT] = 0.0
    _add_work(p, m, w.work, answer[WORK_AT:MAPPED_AT])
    _fill_kinds(p, m, w)
    for stage in range(IN_BLOCKS):
        w.latency[stage], w.room[stage] = services.latency(p, stage), services.buffered_blocks(p, stage)
    add_up(w)
    answer[0], answer[1] = longest_path(w)
    for stage in range(len(STAGES)):
        answer[STAGE_AT + stage] = w.totals[stage]
    if answer[1] <= WRITE and w.totals[int(answer[1])] < 0.5 * answer[0]:
        answer[1] = LATENCY
    answer[TRAFFIC_AT] = w.totals[DRAM_BYTES]
    answer[TRAFFIC_AT + 1] = np.ceil(p.a_rows * p.b_cols * p.output_bits / 8.0)
    answer[TRAFFIC_AT + 2] = w.totals[L2_BYTES]
    answer[MAPPED_AT - 1] = w.outer * w.inner
    for place_of, value in enumerate((m.tile_rows, m.tile_cols, m.tile_k, m.wave_rows, m.wave_cols)):
        answer[MAPPED_AT + place_of] = value


@njit(cache=True, error_model="numpy")
def _copy(w: Waves, kind: int, to: int) -> None:
    """Give one kind of wave the services of another."""
    for place in range(SERVICES):
        w.full[to, place], w.tail[to, place] = w.full[kind, place], w.tail[kind, place]


@njit(cache=True, error_model="numpy")
def _fill_kind(p: Point, m: Mapping, rows: float, cols: float, last_k: float, w: Waves, kind: int) -> None:
    """Fill in the work of a block of a wave of `rows` x `cols` elements of Y, without DRAM and the write."""
    full, tail = w.full[kind], w.tail[kind]
    row, col = int(rows < m.tile_rows), int(cols < m.tile_cols)
    services.fill(p, m, rows, cols, m.tile_k, w.work[row, col, 0], full)
    if last_k < m.tile_k:
        services.fill(p, m, rows, cols, last_k, w.work[row, col, 1], tail)
    else:
        for place in range(SERVICES):
            tail[place] = full[place]


@njit(cache=True, error_model="numpy")
def _fill_kinds(p: Point, m: Mapping, w: Waves) -> None:
    """Fill in what a block of each kind of wave takes; kinds differ by their edges, and by what comes from DRAM."""
    last_k = p.K - (w.blocks - 1.0) * m.tile_k
    wave_rows, wave_cols = m.wave_rows * m.tile_rows, m.wave_cols * m.tile_cols
    o_total, i_total = (p.a_rows, p.b_cols) if m.inner_cols else (p.b_cols, p.a_rows)
    o_most, i_most = (wave_rows, wave_cols) if m.inner_cols else (wave_cols, wave_rows)
    written, o_before, i_before = 0.0, 0.0, 0.0
    for o in range(w.outers):
        o_place = w.outer - 1.0 if o == w.outers - 1 else float(o)
        o_size = min(o_total - o_place * o_most, o_most)
        for i in range(w.inners):
            i_place = w.inner - 1.0 if i == w.inners - 1 else float(i)
            i_size = min(i_total - i_place * i_most, i_most)
            kind = o * w.inners + i
            # Waves of equal size differ only in their DRAM traffic, which is filled in below.
            if o_size == o_before:
                _copy(w, kind - w.inners, kind)
            elif i > 0 and i_size == i_before:
                _copy(w, kind - 1, kind)
            else:
                rows, cols = (o_size, i_size) if m.inner_cols else (i_size, o_size)
                _fill_kind(p, m, rows, cols, last_k, w, kind)
            i_before = i_size
            full, tail = w.full[kind], w.tail[kind]
            new_a = (i_place if m.inner_cols else o_place) == 0.0 or not m.keep_a
            new_b = (o_place if m.inner_cols else i_place) == 0.0 or not m.keep_b
            services.fill_dram(p, new_a, new_b, written / w.blocks, full)
            services.fill_dram(p, new_a, new_b, written / w.blocks, tail)
            written = np.ceil(o_size * i_size * p.output_bits / 8.0)
            full[WRITE] = tail[WRITE] = np.ceil(written / p.l2_bytes_per_cycle)
            along_outer = w.outer - 2.0 if w.outers == 3 and o == 1 else 1.0
            w.waves[kind] = along_outer * (w.inner - 2.0 if w.inners == 3 and i == 1 else 1.0)
        o_before = o_size
    w.drain = max(0.0, np.ceil(written / p.dram_bytes_per_cycle) - w.full[w.kinds - 1, WRITE])


@njit(cache=True, error_model="numpy")
def _add_work(p: Point, m: Mapping, works: Any, added: Any) -> None:
    """Fill in the work on blocks of whole tiles and of those at the edges, and add it up over all, as in `Cycles`.

    `works` [2, 2, 2, places]: along the rows, the columns and K, whole or left over; only of those that there are.
    """
    row_tiles, last_rows = services.cut(p.a_rows, m.tile_rows)
    col_tiles, last_cols = services.cut(p.b_cols, m.tile_cols)
    blocks, last_k = services.cut(p.K, m.tile_k)
    for row, (rows, along_rows) in enumerate(((m.tile_rows, row_tiles), (last_rows, 1.0))):
        for col, (cols, along_cols) in enumerate(((m.tile_cols, col_tiles), (last_cols, 1.0))):
            for part, (k, along_k) in enumerate(((m.tile_k, blocks), (last_k, 1.0))):
                tiles = along_rows * along_cols
                if tiles * rows * cols * k == 0.0:
                    continue
                times = tiles * along_k
                work = works[row, col, part]
                services.fill_work(p, rows, cols, k, work)
                added[0] += times * work[SHARED_BYTES]
                added[1] += times * work[OFFERED_BYTES]
                added[2] += times * work[STEPS] * p.array_rows * p.array_cols * p.depth
                added[4] += times * work[GROUPS]
                if p.consumer:
                    added[5] += times * services.pruned_groups(p, rows, cols, k)
                added[6] += times * work[SUMS]
    in_groups = p.K % p.a_m
    kept = (p.K - in_groups) / p.a_m * p.a_n + min(p.a_n, in_groups)
    added[3] = p.a_rows * p.b_cols * kept * p.b_n / p.b_m
