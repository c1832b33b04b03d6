"""The longest of a handful of paths through the graph of who waits for whom in the pipeline.

Blocks go through the stages in order. A stage begins a block when it has finished the one before, the stage before it
has delivered, and there is room behind it. Waves have up to 3 x 3 kinds: the first, those between and the last along
either loop. All blocks of a wave are alike, except the last one. Any schedule has to follow every path here, so
the result is a lower bound.
"""

from typing import Any

import numpy as np

from hwmodels.tensorcore.services import ACCUMULATE, IN_BLOCKS, MULTIPLY, SELECT, WRITE
from hwmodels.tensorcore.waves import Waves, prepare
from nmsim.support.jit import njit


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
