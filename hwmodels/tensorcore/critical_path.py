"""The longest of a handful of paths through the graph of who waits for whom in the pipeline.

Blocks go through the stages in order. A stage begins a block when it is done with the one before, when the stage before it
has delivered, and when there is room behind it. Waves come in up to 3 x 3 kinds, the first, those between and the last along
either loop, and all blocks of a wave are alike but for the last one. Every path here is one that any schedule has to walk, so
that the result is a lower bound.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from hwmodels.tensorcore.services import ACCUMULATE, IN_BLOCKS, MULTIPLY, SELECT, WRITE


class Waves(NamedTuple):
    """The waves of a product: `full` and `tail` are cycles [3, 3, 9 or more] of a block by kind of wave and stage.

    `tail` is that of a wave's last block. `outers`, `inners`: kinds along either loop, 1 to 3, of `outer` x `inner` waves
    of `blocks` blocks. `latency`, `room`: behind each stage, in cycles and blocks [8]. `sums`: waves that there is room for
    the sums of. `drain`: cycles by which the last write takes longer than its kind. `places`
    [4], `values` [3, 4]: scratch, for places that come into question and the cycles of paths that end there.
    """

    full: Any
    tail: Any
    outers: int
    inners: int
    outer: float
    inner: float
    blocks: float
    latency: Any
    room: Any
    sums: float
    drain: float
    places: Any
    values: Any


@njit(cache=True, inline="always")
def count(place: int, kinds: int, waves: float) -> float:
    """Waves of a kind along one loop."""
    return waves - 2.0 if kinds == 3 and place == 1 else 1.0


@njit(cache=True)
def fill_busy(w: Waves, busy: Any) -> None:
    """Fill in the cycles [9] that each stage works."""
    busy[:] = 0.0
    for o in range(w.outers):
        for i in range(w.inners):
            waves = count(o, w.outers, w.outer) * count(i, w.inners, w.inner)
            for stage in range(IN_BLOCKS):
                busy[stage] += waves * ((w.blocks - 1.0) * w.full[o, i, stage] + w.tail[o, i, stage])
            busy[WRITE] += waves * w.full[o, i, WRITE]
    busy[WRITE] += w.drain


@njit(cache=True)
def longest_path(w: Waves, busy: Any) -> tuple[float, int]:
    """Find the longest path.

    Parameters
    ----------
    w : Waves
    busy : float64 array [9]
        From `fill_busy`.

    Returns
    -------
    tuple of float and int
        Cycles, and the stage that the path stays at; 9 and the stage where it is the buffers behind that stage.
    """
    head, behind = 0.0, w.full[w.outers - 1, w.inners - 1, WRITE] + w.drain
    last = w.tail[w.outers - 1, w.inners - 1]
    first = w.tail[0, 0] if w.blocks == 1.0 else w.full[0, 0]
    for stage in range(IN_BLOCKS):
        behind += last[stage] + w.latency[stage]
    longest, limit, filled = 0.0, 0, 0.0
    for stage in range(IN_BLOCKS):
        behind -= last[stage]
        path = head + busy[stage] + behind
        if path > longest or (path == longest and stage == MULTIPLY):
            longest, limit = path, stage
        behind -= w.latency[stage]
        if stage + 1 < IN_BLOCKS:
            path = head + _waiting(w, stage) + behind - last[stage + 1]
            if path > longest:
                longest, limit = path, IN_BLOCKS + 1 + stage
        rest = (w.blocks - 1.0) * w.full[0, 0, stage] + w.tail[0, 0, stage] + head
        for after in range(stage, IN_BLOCKS):
            rest += w.latency[after] + (w.tail[0, 0, after] if after > stage else 0.0)
        filled = max(filled, rest)
        head += first[stage] + w.latency[stage]
    path = filled + busy[WRITE]
    if path > longest:
        longest, limit = path, WRITE
    path = _writing(w)
    for stage in range(MULTIPLY):
        path += first[stage] + w.latency[stage]
    if path > longest:
        longest, limit = path, MULTIPLY
    home = 0
    for stage in range(1, IN_BLOCKS):
        if busy[stage] > busy[home]:
            home = stage
    longest = max(longest, _changing(w, home))
    return longest, limit


@njit(cache=True)
def _writing(w: Waves) -> float:
    """Cycles, from the first multiplication on, of a path over waves that wait for room for their sums.

    Within a wave it stays at the multipliers, or goes back and forth between them and a neighbour.
    """
    least = np.inf
    for o in range(w.outers):
        for i in range(w.inners):
            least = min(least, _one_wave(w, o, i))
    path = np.ceil(w.outer * w.inner / w.sums) * least
    for o in range(w.outers):
        for i in range(w.inners):
            waves = count(o, w.outers, w.outer) * count(i, w.inners, w.inner)
            path += np.floor(waves / w.sums) * (_one_wave(w, o, i) - least)
    return path + w.drain if w.sums == 1.0 else path


@njit(cache=True)
def _one_wave(w: Waves, o: int, i: int) -> float:
    """Cycles of one wave from its first multiplication until its sums are written."""
    full, tail = w.full[o, i], w.tail[o, i]
    before = w.blocks - 1.0
    path = before * full[MULTIPLY]
    for other, at in ((SELECT, SELECT), (ACCUMULATE, MULTIPLY)):
        rounds = np.floor(before / w.room[at])
        both = rounds * (full[MULTIPLY] + full[other] + w.latency[at])
        both -= full[other] - tail[other]
        path = max(path, both + (before - rounds * w.room[at]) * full[MULTIPLY])
    return path + tail[MULTIPLY] + tail[ACCUMULATE] + full[WRITE]


@njit(cache=True)
def _least(w: Waves, stage: int, also: int) -> float:
    """Fewest cycles that two stages together (or one, given twice: its double) take for a block of any wave."""
    least = np.inf
    for o in range(w.outers):
        for i in range(w.inners):
            one, other = w.full[o, i], w.tail[o, i]
            least = min(least, other[stage] + other[also])
            if w.blocks > 1.0:
                least = min(least, one[stage] + one[also])
    return least


@njit(cache=True)
def _waiting(w: Waves, stage: int) -> float:
    """Cycles of a path that goes back and forth between a stage and the next, over the room between them.

    The blocks that are left over when room divides their number unevenly go by at the slowest stage.
    """
    least = _least(w, stage, stage + 1)
    room, total = w.room[stage], w.blocks * w.outer * w.inner
    rounds = np.ceil(total / room)
    path = rounds * (least + w.latency[stage])
    for o in range(w.outers):
        for i in range(w.inners):
            waves = count(o, w.outers, w.outer) * count(i, w.inners, w.inner)
            more = w.full[o, i, stage] + w.full[o, i, stage + 1] - least
            even = (
                w.tail[o, i, stage] + w.tail[o, i, stage + 1] == w.full[o, i, stage] + w.full[o, i, stage + 1]
            )
            if more > 0.0:
                path += waves * np.floor((w.blocks if even else w.blocks - 1.0) / room) * more
    return path + _left_over(w, total - 1.0 - (rounds - 1.0) * room, stage)


@njit(cache=True)
def _left_over(w: Waves, blocks: float, beside: int) -> float:
    """Cycles that a path gains on so few blocks before or after it waits behind the stage `beside`.

    After: downstream, up to the very last block. Before: upstream, within the first wave, if that has as many whole blocks.
    """
    if blocks == 0.0:
        return 0.0
    gained = 0.0
    if blocks > w.blocks - 1.0:
        for stage in range(beside + 1, IN_BLOCKS):
            gained = max(gained, blocks * _least(w, stage, stage) / 2.0)
        return gained
    last, tail = w.full[w.outers - 1, w.inners - 1], w.tail[w.outers - 1, w.inners - 1]
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
        first = w.full[0, 0]
        stay = 0.0
        for stage in range(beside + 1):
            stay = max(stay, first[stage])
        gained = max(gained, blocks * stay)
        for stage in range(beside):
            rounds = np.floor(blocks / w.room[stage])
            both = first[stage] + first[stage + 1] + w.latency[stage]
            gained = max(gained, rounds * both + (blocks - rounds * w.room[stage]) * stay)
    return gained


@njit(cache=True)
def _rate(w: Waves, o: int, i: int, place: int) -> float:
    """Cycles a block of a kind of wave takes at a place: a stage, or from 8 on the room behind stage `place - 8`."""
    services = w.full[o, i]
    if place < IN_BLOCKS:
        return services[place]
    stage = place - IN_BLOCKS
    return (services[stage] + w.latency[stage] + services[stage + 1]) / w.room[stage]


@njit(cache=True)
def _slowest(w: Waves, o: int, i: int) -> int:
    place = 0
    for other in range(1, 2 * IN_BLOCKS - 1):
        if _rate(w, o, i, other) > _rate(w, o, i, place):
            place = other
    return place


@njit(cache=True)
def _left(w: Waves, place: int, blocks: float) -> float:
    """Blocks of the last so many of a wave that go by after a path has waited for the last time."""
    if place < IN_BLOCKS:
        return 0.0
    return blocks - 1.0 - np.floor((blocks - 1.0) / w.room[place - IN_BLOCKS]) * w.room[place - IN_BLOCKS]


@njit(cache=True)
def _at(w: Waves, o: int, i: int, place: int, blocks: float) -> float:
    """Cycles of a path over the last so many blocks of a wave at one place."""
    full, tail = w.full[o, i], w.tail[o, i]
    if place < IN_BLOCKS:
        return (blocks - 1.0) * full[place] + tail[place]
    stage = place - IN_BLOCKS
    both, left = full[stage] + w.latency[stage] + full[stage + 1], _left(w, place, blocks)
    path = (blocks - 1.0 - left) / w.room[stage] * both
    if left == 0.0:
        return path + tail[stage] + w.latency[stage] + tail[stage + 1]
    return path + both + (left - 1.0) * full[stage + 1] + tail[stage + 1]


@njit(cache=True)
def _changing(w: Waves, home: int) -> float:
    """Cycles of the longest path that stays at one place within a wave, but changes between waves where that pays."""
    places, values = w.places, w.values
    places[0], known = home, 1
    for o in range(w.outers):
        for i in range(w.inners):
            place = _slowest(w, o, i)
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
    for place in range(known):
        paths[place] = 0.0
        for stage in range(_entry(chosen[place])):
            paths[place] += (w.tail if w.blocks == 1.0 else w.full)[0, 0, stage] + w.latency[stage]
        paths[place] += _at(w, 0, 0, chosen[place], w.blocks)
    for o in range(w.outers):
        if o > 0:
            _go(w, chosen, paths, scratch, o - 1, w.inners - 1, o, 0)
        _go_along(w, chosen, paths, scratch, o)
        if o == 1 and w.outers == 3 and w.outer > 3.0:
            # The further rounds between the first and the last one: whoever comes back to its place goes on so.
            for place in range(known):
                cycle[:] = -np.inf
                cycle[place] = 0.0
                _go(w, chosen, cycle, scratch, 1, w.inners - 1, 1, 0)
                _go_along(w, chosen, cycle, scratch, 1)
                paths[place] += (w.outer - 3.0) * cycle[place]
    last_o, last_i = w.outers - 1, w.inners - 1
    longest = 0.0
    for place in range(known):
        left = _exit(chosen[place])
        for stage in range(left, IN_BLOCKS):
            paths[place] += w.latency[stage] + (w.tail[last_o, last_i, stage] if stage > left else 0.0)
        longest = max(longest, paths[place])
    return longest + w.full[last_o, last_i, WRITE] + w.drain


@njit(cache=True)
def _go_along(w: Waves, chosen: Any, paths: Any, scratch: Any, o: int) -> None:
    """Prolong paths that end in the first wave of a round to its last."""
    for i in range(1, w.inners):
        _go(w, chosen, paths, scratch, o, i - 1, o, i)
        if i == 1 and w.inners == 3 and w.inner > 3.0:
            for place in range(len(chosen)):
                again = _change(w, chosen[place], chosen[place], o, 1, o, 1)
                paths[place] += (w.inner - 3.0) * (again + _at(w, o, 1, chosen[place], w.blocks))


@njit(cache=True)
def _go(w: Waves, chosen: Any, paths: Any, scratch: Any, o: int, i: int, next_o: int, next_i: int) -> None:
    """Prolong the longest paths that end at each place by the next wave."""
    for after in range(len(chosen)):
        best = -np.inf
        for before in range(len(chosen)):
            if paths[before] > -np.inf:
                gained = _change(w, chosen[before], chosen[after], o, i, next_o, next_i)
                best = max(best, paths[before] + gained)
        scratch[after] = best + _at(w, next_o, next_i, chosen[after], w.blocks)
    paths[:] = scratch


@njit(cache=True)
def _entry(place: int) -> int:
    return place if place < IN_BLOCKS else place - IN_BLOCKS


@njit(cache=True)
def _exit(place: int) -> int:
    return place if place < IN_BLOCKS else place - IN_BLOCKS + 1


@njit(cache=True)
def _change(w: Waves, before: int, after: int, o: int, i: int, next_o: int, next_i: int) -> float:
    """Cycles that a path gains between two waves, going from one place to another.

    Downstream it takes the last block along. Upstream it goes from free room to free room, and passes over as many blocks as
    there is room for, of one wave or of the other; where a wave has fewer, there is no such path.
    """
    one, other = _exit(before), _entry(after)
    gained = 0.0
    if one == other:
        if one == MULTIPLY and w.sums == 1.0:
            gained = w.tail[o, i, ACCUMULATE] + w.full[o, i, WRITE]
        return gained
    if other > one:
        for stage in range(one, other):
            gained += w.latency[stage] + w.tail[o, i, stage + 1]
        return gained
    ahead = 0.0
    for stage in range(other, one):
        ahead += w.room[stage]
        if stage > other:
            gained += min(w.full[o, i, stage], w.tail[o, i, stage], w.full[next_o, next_i, stage])
    if ahead > w.blocks - 1.0:
        return -np.inf
    lost = _at(w, next_o, next_i, after, w.blocks)
    lost -= _at(w, next_o, next_i, after, w.blocks - ahead + 1.0)
    if before < IN_BLOCKS or (before == after and _left(w, before, w.blocks) == ahead - 1.0):
        lost = min(lost, (ahead - 1.0) * w.full[o, i, one])
    return gained - lost
