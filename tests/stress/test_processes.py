"""Processes that are killed, and processes that want one output: nothing lost, nothing twice, nothing left."""

from collections import Counter

import killing
import pytest

from nmsim import rows

CAMPAIGN = """
seed = 0
repetitions = 5
warmup = 1
budget_s = 100

[[round]]
shapes = [[1, 32, 64]]
patterns = ["2:4", "8:16"]
encodings = ["bitmask", "index"]
dtypes = ["fp32"]
l2_state = ["cold"]
"""


def test_kills(run, tmp_path):
    """`kill -9` leaves the old output or the new one, whatever the verb; its next run makes what a whole run makes.

    In the default suite the three cheapest verbs are killed once each, since all others are killed in their own tests.
    """
    total = run.size("kills")
    verbs = sorted(killing.WRITINGS) if run.stress else ["core", "machine", "pack"]
    rng = run.rng()
    counts: Counter[str] = Counter()
    for number, verb in enumerate(verbs):
        count = total // len(verbs) + (number < total % len(verbs))
        folder = tmp_path / verb
        folder.mkdir()
        places = [float(place) for place in rng.random(count)]
        counts[f"{verb}: killed"] += killing.killed_runs(folder, killing.WRITINGS[verb], places=places)
        run.tell(number + 1, len(verbs))
    assert sum(counts.values()) == total
    run.figures.update(counts)


def test_kills_at_any_time(run, tmp_path):
    """The same with a kill after a drawn time, which may fall within a write; a process that ends first is counted."""
    if not run.stress:
        pytest.skip("takes minutes: --stress")
    counts: Counter[str] = Counter()
    for verb in ("pack", "sweep", "unpack"):
        folder = tmp_path / verb
        folder.mkdir()
        delays_s = [float(delay_s) for delay_s in 1.0 + 2.0 * run.rng().random(5)]
        killed = killing.killed_runs(folder, killing.WRITINGS[verb], delays_s=delays_s)
        counts[f"{verb}: killed"] += killed
        counts[f"{verb}: ended before"] += len(delays_s) - killed
    run.figures.update(counts)


def small_campaign(folder):
    """A campaign of four cases, which takes less than a second."""
    (folder / "small.toml").write_text(CAMPAIGN)


def whole_rows(folder):
    """The rows of the campaign stand once each, below one header."""
    found = rows.read(folder / "rows.csv")
    assert len(found) == len({row.key for row in found}) == 4


def whole_points(folder):
    """The table of a sweep has each point once, below one header."""
    header, *lines = (folder / "points.csv").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 4096
    assert header not in lines


PAIRS = {
    "measure": ("small.toml -o rows.csv --machine here", small_campaign, whole_rows),
    "sweep": ("space.toml -o points.csv", killing.space, whole_points),
}
"""Verb: arguments, what writes the inputs, and what checks the output."""


@pytest.mark.parametrize("verb", PAIRS)
def test_two_writers(run, tmp_path, verb):
    """Two runs with one output: the second is refused, or finds that all is done."""
    total = run.size("pairs of writers")
    arguments, prepare, check = PAIRS[verb]
    counts: Counter[str] = Counter()
    for number in range(total):
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare(folder)
        before = {path.name for path in folder.iterdir()}
        pair = [killing.start(folder, verb, *arguments.split()) for _ in range(2)]
        ends = [(process.communicate(timeout=killing.TIMEOUT_S)[1], process.returncode) for process in pair]
        for err, code in ends:
            assert code in (0, 2), err
            refused = "is being written by process" in err or "exists" in err
            assert (code == 2) == refused, err
            counts["refused" if refused else "done"] += 1
        check(folder)
        assert len({path.name for path in folder.iterdir()} - before) == 1
        run.tell(number + 1, total)
    assert counts["done"] >= total
    run.figures.update(counts, pairs=total)
