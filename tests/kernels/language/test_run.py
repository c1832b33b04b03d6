"""A campaign of losses on a fake model: rows as they come, resumed, held, bounded, and failures that end nothing."""

import math
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kernels.language import campaign as campaigns
from kernels.language.run import plan, run
from kernels.timing.rounds import Stamp
from nmsim import rows as row_files
from nmsim.errors import BusyError, NmsimError, RowError
from nmsim.files.output import ROW_FILE, Output, claimed
from nmsim.rows import LossRow

LAYERS = [f"{block}.{kind}" for block in (0, 1) for kind in ("q", "up")]
ABOUT = {
    "model": "tiny", "model_digest": "0" * 16, "text": "words", "text_digest": "1" * 16, "first_window_token": 8,
    "dtype": "fp32", "threads": 1, "cpu": "some processor",
}  # fmt: skip
STAMP = Stamp("here", "0123abc", False)
CAMPAIGN = """
calibration_tokens = 8
window_tokens = 4
windows = 2
budget_s = 60
[[set]]
operand = "activations"
patterns = ["2:4", "8:16"]
[[set]]
operand = "weights"
patterns = ["2:4"]
layers = ["each layer"]
windows = 1
"""
KEPT = {"2:4": 1.0, "8:16": 0.5}


class Fake:
    """Losses that follow from the configuration, in a second of a clock of its own."""

    def __init__(self, *, fails=(), stops_after=math.inf, losses=None):
        self.asked, self.now = [], 0.0
        self.fails, self.stops_after, self.fixed = fails, stops_after, losses

    def clock(self):
        return self.now

    def losses(self, configuration, *, windows):
        if len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        self.now += 1
        self.asked.append(str(configuration))
        if str(configuration) in self.fails:
            raise NmsimError("layer 0.q: singular, expected a matrix of full rank")
        if self.fixed is not None:
            return self.fixed
        way = configuration.activations or configuration.weights
        return [3.0 + number + (KEPT[str(way.pattern)] if way else 0) for number in range(windows)]


@pytest.fixture
def planned(tmp_path):
    (tmp_path / "c.toml").write_text(CAMPAIGN)
    return plan(campaigns.load(tmp_path / "c.toml"), layers=LAYERS, about=ABOUT)


@pytest.fixture
def go(planned, tmp_path):
    def act(fake, **options):
        given = {"stamp": STAMP, "budget_s": 60, "clock": fake.clock, **options}
        return run(planned, fake, tmp_path / "losses.csv", **given)

    return act


def test_each_configuration_has_a_row(go, planned, tmp_path):
    outcome = go(Fake())
    rows = row_files.read(tmp_path / "losses.csv", LossRow)
    assert (rows, outcome.found, outcome.failed, outcome.left) == (outcome.rows, [], [], 0)
    assert [str(row.configuration) for row in rows] == [
        "dense", "activations 2:4 magnitude", "activations 8:16 magnitude",
        *(f"weights 2:4 magnitude; layers {name}" for name in LAYERS),
    ]  # fmt: skip
    assert [row.losses for row in rows[:3]] == [[3.0, 4.0], [4.0, 5.0], [3.5, 4.5]]
    assert [(row.windows, row.layers_pruned, row.loss) for row in rows] == [
        (2, 0, 3.5), (2, 4, 4.5), (2, 4, 4.0), *([(1, 1, 4.0)] * 4),
    ]  # fmt: skip
    first = rows[0]
    assert (first.model, first.machine, first.commit, first.window_tokens, first.calibration_tokens) == (
        "tiny", "here", "0123abc", 4, 8,
    )  # fmt: skip
    assert first.peak_memory_bytes > 1e6
    assert first.time_s == 1
    assert [row.key for row in rows] == [one.key for one in planned]
    assert outcome.ordered([one.key for one in planned]) == rows


def test_a_run_that_was_stopped_continues(go, planned, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(Fake(stops_after=3))
    before = (tmp_path / "losses.csv").read_bytes()
    fake = Fake()
    outcome = go(fake)
    assert fake.asked == [f"weights 2:4 magnitude; layers {name}" for name in LAYERS]
    assert (len(outcome.found), len(outcome.rows)) == (3, 4)
    assert (tmp_path / "losses.csv").read_bytes().startswith(before)
    again = Fake()
    assert go(again).ordered([one.key for one in planned]) == [*outcome.found, *outcome.rows]
    assert again.asked == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_run as here

class Killed(here.Fake):
    def losses(self, configuration, *, windows):
        if len(self.asked) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().losses(configuration, windows=windows)

planned = here.plan(here.campaigns.load("c.toml"), layers=here.LAYERS, about=here.ABOUT)
here.run(planned, Killed(), here.Path("losses.csv"), stamp=here.STAMP, budget_s=60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
def test_a_run_that_was_killed_continues(go, planned, tmp_path):
    folder = Path(__file__).parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], cwd=tmp_path, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    before = row_files.read(tmp_path / "losses.csv", LossRow)
    assert len(before) == 3
    fake = Fake()
    # The lock of the killed process is free, and its rows are kept.
    outcome = go(fake)
    assert (outcome.found, len(outcome.rows), len(fake.asked)) == (before, 4, 4)


def test_other_windows_are_other_rows(go, planned, tmp_path):
    go(Fake())
    other = campaigns.load(tmp_path / "c.toml").limited(1)
    found = run(
        plan(other, layers=LAYERS, about=ABOUT), Fake(), tmp_path / "losses.csv", stamp=STAMP, budget_s=60
    )
    assert (len(found.rows), len(found.found)) == (3, 4)


def test_the_budget_ends_a_run_after_the_configuration_in_which_it_is_used_up(go):
    outcome = go(Fake(), budget_s=1.5)
    assert (len(outcome.rows), outcome.left) == (2, 5)
    assert len(go(Fake()).rows) == 5


def test_a_configuration_that_fails_is_listed_and_tried_again(go, planned, tmp_path):
    bad = "activations 2:4 magnitude"
    outcome = go(Fake(fails=[bad]))
    (failure,) = outcome.failed
    assert (failure.configuration, failure.reason) == (
        bad,
        "layer 0.q: singular, expected a matrix of full rank",
    )
    assert len(outcome.rows) == 6
    fake = Fake()
    assert go(fake).failed == []
    assert fake.asked == [bad]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([math.nan, 1.0], "loss of window 0 is nan: expected a finite number"),
        ([1.0, math.inf], "loss of window 1 is inf: expected a finite number"),
        ([-1.0, 1.0], "loss of window 0 is -1.0"),
        ([1.0, 2.0, 3.0], "3 losses: expected one for each of 2 windows"),
    ],
)
def test_what_is_no_loss_gives_no_row(go, losses, message):
    outcome = go(Fake(losses=losses))
    assert message in outcome.failed[0].reason
    assert not [row for row in outcome.rows if row.windows == 2]


def test_memory_that_is_too_small_for_one_configuration_does_not_end_the_run(go):
    class Large(Fake):
        def losses(self, configuration, *, windows):
            if configuration.is_dense:
                raise MemoryError
            return super().losses(configuration, windows=windows)

    outcome = go(Large())
    assert [failure.reason for failure in outcome.failed] == ["MemoryError"]
    assert len(outcome.rows) == 6


def test_half_a_line_stops_a_run_before_any_work(go, tmp_path):
    go(Fake())
    file = tmp_path / "losses.csv"
    file.write_bytes(file.read_bytes()[:-5])
    fake = Fake()
    with pytest.raises(RowError, match=r"ends in its middle"):
        go(fake)
    assert fake.asked == []
    file.write_text("machine,kernel\nhere,x\n")
    with pytest.raises(RowError, match=r"header: missing 'model'"):
        go(fake)
    assert (fake.asked, file.read_text()) == ([], "machine,kernel\nhere,x\n")


def test_a_second_run_on_the_same_file_is_refused(go, tmp_path):
    caught = []

    def other():
        try:
            go(Fake())
        except BusyError as error:
            caught.append(error)

    with claimed(Output(tmp_path / "losses.csv", "rows", ROW_FILE)):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(caught) == 1
    assert not (tmp_path / "losses.csv").exists()


def test_progress_counts_work_and_names_the_time_that_is_left(go):
    said = []
    go(Fake(), progress=lambda text, share: said.append((text, share)))
    # 3 x 2 windows through all layers, then 1 window through 4, 3, 2 and 1 of 4 layers: 8.5 passes of 7 s.
    assert said[0] == ("1 of 7: dense", 0.0)
    assert said[1] == ("2 of 7, 3 s left: activations 2:4 magnitude", pytest.approx(2 / 8.5))
    assert [share for _, share in said[3:]] == pytest.approx([6 / 8.5, 7 / 8.5, 7.75 / 8.5, 8.25 / 8.5])


def test_a_file_with_one_configuration_twice_is_refused(go, tmp_path):
    go(Fake())
    file = tmp_path / "losses.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[2] + "\n")
    before = file.read_bytes()
    with pytest.raises(RowError, match="row 8: .*activations 2:4 magnitude.* stands there already"):
        go(Fake())
    assert file.read_bytes() == before
