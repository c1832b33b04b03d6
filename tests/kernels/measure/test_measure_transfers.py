"""Transfers of campaigns: what a file may say, the gate, and runs on a pretended device with a pretended clock."""

import contextlib

import pytest

from kernels.measure import campaign
from kernels.measure import products as measure
from kernels.measure import run as campaign_run
from kernels.measure import transfers as measure_transfers
from kernels.measure.transfers import Mover, Task, copy_bytes
from kernels.timing import rounds
from kernels.timing.gate import GateError
from nmsim.case import Case
from nmsim.errors import RowError, SpecError
from nmsim.format import as_format
from nmsim.pattern import Pattern
from nmsim.rows import measurement_file
from nmsim.rows.transfer import Transfer

HEAD = """
seed = 0
repetitions = 9
warmup = 1
budget_s = 60
"""
MOVED = """
[[transfer]]
kernels = ["prune", "pack"]
shapes = [[64, 32], [8, 128]]
patterns = ["2:4", "8:16"]
encodings = ["bitmask"]
dtypes = ["bf16"]
l2_state = ["cold", "warm"]
"""
READ = """
[[transfer]]
kernels = ["read"]
shapes = [[64, 32]]
dtypes = ["fp32"]
l2_state = ["cold"]
"""
MULTIPLIED = """
[[round]]
shapes = [[1, 32, 64], [2, 32, 64], [3, 32, 64], [4, 32, 64]]
patterns = ["2:4"]
encodings = ["bitmask"]
dtypes = ["fp32"]
l2_state = ["cold"]
"""
STAMP = rounds.Stamp("mine", "0123abc", False)
SECONDS = {"prune": 4.0, "pack": 2.0, "read": 1.0, "quick copy": 2.0, "slow copy": 3.0}


@pytest.fixture
def load(tmp_path):
    """Read a campaign from text."""

    def read(text=HEAD + MOVED):
        file = tmp_path / "mine.toml"
        file.write_text(text)
        return campaign.load(file)

    return read


class Pretended:
    """A device whose kernels take the seconds it is told, by a clock that only they move."""

    about = {"device": "pretended", "numpy": "2.4"}  # noqa: RUF012

    def __init__(self, wrong=(), moved_bytes=lambda of, task: of.rows * of.columns):
        self.now, self.wrong, self.moved_bytes, self.built, self.sampled = 0.0, wrong, moved_bytes, [], []

    def tasks(self, of):
        if not of.variants:
            return [Task(of.kernel)]
        return [Task(of.kernel, pattern, encoding, "bitstream") for pattern, encoding in of.variants]

    @contextlib.contextmanager
    def movers(self, of, tasks):
        self.built.append((of, tasks))
        found = [self.mover(task.kernel, task, self.moved_bytes(of, task)) for task in tasks]
        sizes = dict.fromkeys(copy_bytes(each.moved_bytes) for each in found)
        copies = [self.mover(name, None, size) for size in sizes for name in ("slow copy", "quick copy")]
        yield found + copies

    def mover(self, name, task, moved_bytes):
        def sample():
            self.now += SECONDS[name]
            self.sampled.append(name)
            return SECONDS[name]

        def check():
            if {name, str(task), f"{name} of {moved_bytes}"} & set(self.wrong):
                raise GateError("3 bytes differ")

        return Mover(name, task, moved_bytes, check, sample, "a note")


@pytest.fixture
def run(load, tmp_path):
    """Run the transfers of a campaign on a pretended device; give back the outcome."""

    def go(device, text=HEAD + MOVED, **options):
        return measure_transfers.run(
            load(text), device, tmp_path / "moved.csv", STAMP, clock=lambda: device.now, **options
        )

    return go


# campaigns


def test_transfers_are_every_combination_in_order(load):
    found = load()
    assert (found.rounds, len(found.transfers)) == ((), 8)
    assert [str(each) for each in found.transfers[:3]] == [
        "prune 64x32 bf16 cold", "prune 64x32 bf16 warm", "prune 8x128 bf16 cold",
    ]  # fmt: skip
    assert found.transfers[4].kernel == "pack"
    assert found.transfers[0].variants == ((Pattern(2, 4), "bitmask"), (Pattern(8, 16), "bitmask"))
    both = load(HEAD + MOVED + READ + MULTIPLIED)
    assert (len(both.rounds), len(both.transfers), both.transfers[-1].variants) == (4, 9, ())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[transfer]]", "[[transfers]]", r"mine.toml: transfers: unknown key \(did you mean transfer\?\)"),
        ("[[transfer]]", "[transfer]", r"mine.toml: transfer: expected an array of tables, \[\[transfer\]\]"),
        (MOVED, "", r"mine.toml: round: missing; expected at least one \[\[round\]\] or \[\[transfer\]\]"),
        ("kernels", "kernel", r"transfer\[0\]: kernel: unknown key \(did you mean kernels\?\)"),
        ('dtypes = ["bf16"]\n', "", r"transfer\[0\]: dtypes: missing"),
        ('encodings = ["bitmask"]\n', "", r"transfer\[0\]: encodings: missing"),
        ('["2:4", "8:16"]', "[]", r"transfer\[0\].patterns: \[\], expected a list of at least one"),
        ('"2:4"', '"4:2"', r"transfer\[0\]: pattern 4:2: expected 1 <= N <= M"),
        ('"bitmask"', '"csr"', r"transfer\[0\]: encoding 'csr'"),
        ('"bf16"', '"bf17"', r"transfer\[0\].dtypes: 'bf17', expected one of fp32"),
        ('"cold"', '"tepid"', r"transfer\[0\].l2_state: 'tepid', expected one of cold, warm"),
        ('"prune"', "3", r"transfer\[0\].kernels: 3, expected the name of a kernel"),
        ("[8, 128]", "[8, 128, 1]", r"transfer\[0\].shapes: \[8, 128, 1\], expected \[rows, columns\]"),
        ("[8, 128]", "[8, 0]", r"transfer\[0\].shapes: \[8, 0\], expected \[rows, columns\]"),
        ("[8, 128]", "[8, true]", r"transfer\[0\].shapes: \[8, True\], expected \[rows, columns\]"),
        ("[8, 128]", "8", r"transfer\[0\].shapes: 8, expected \[rows, columns\]"),
    ],
)
def test_a_broken_table_is_refused_by_key(load, old, new, message):
    text = HEAD + MOVED
    assert old in text
    with pytest.raises(SpecError, match=message):
        load(text.replace(old, new, 1))


def test_a_device_without_transfers_refuses_them(load):
    with pytest.raises(
        SpecError, match=r"mine: it has 8 rounds of transfers \(the first is prune 64x32 bf16 "
    ):
        campaign.without_transfers(load(), "the CPU")
    without = load(HEAD + MULTIPLIED)
    assert campaign.without_transfers(without, "the CPU") is without


# runs


def test_rows_say_what_was_measured(run, tmp_path):
    outcome = run(Pretended(), budget_s=1e6)
    assert (len(outcome.rows), outcome.skipped, outcome.left, outcome.wrong) == (16, 0, 0, [])
    assert measurement_file.read(tmp_path / "moved.csv", Transfer) == outcome.rows
    row = outcome.rows[1]
    assert (row.machine, row.device, row.kernel, row.commit, row.dirty) == (
        "mine", "pretended", "prune", "0123abc", False,
    )  # fmt: skip
    assert (row.rows, row.columns, row.dtype, row.pattern, row.encoding, row.packing, row.l2_state) == (
        64, 32, "bf16", "8:16", "bitmask", "bitstream", "cold",
    )  # fmt: skip
    assert (row.moved_bytes, row.copy_bytes, row.baseline) == (2048, 2048, "quick copy")
    assert (row.time_s, row.copy_time_s, row.share_of_copy) == (4.0, 2.0, 0.5)
    assert (row.share_of_copy_p20, row.share_of_copy_p80) == (0.5, 0.5)
    assert (row.reps, row.warmup, row.gate) == (9, 1, "pass")
    assert row.note == "a note; outliers: 0 kernel, 0 copy; other copy: slow copy 3e+06 us"


def test_a_kernel_without_patterns_is_one_row_and_may_beat_a_copy(run):
    (row,) = run(Pretended(), HEAD + READ, budget_s=1e6).rows
    assert (row.pattern, row.encoding, row.packing, row.share_of_copy) == ("", "", "", 2.0)


def test_the_share_counts_bytes_of_both_repetition_by_repetition(run, monkeypatch):
    device = Pretended(moved_bytes=lambda of, task: 1000)
    whole, drift = device.mover, iter(range(1, 1000))

    def drifting(name, task, moved_bytes):
        found = whole(name, task, moved_bytes)
        # What a repetition meets slows all of it down: times spread, shares do not.
        return Mover(name, task, moved_bytes, found.check, lambda: found.sample() * slow[0], found.note)

    slow = [1.0]
    interleave = rounds.timing.interleave
    device.mover = drifting

    def interleaved(samples, repetitions, enough):
        def and_slower(done):
            slow[0] = 1.0 + next(drift) % 5
            return enough(done)

        return interleave(samples, repetitions, and_slower)

    monkeypatch.setattr(measure_transfers.timing, "interleave", interleaved)
    row = run(device, budget_s=1e6).rows[0]
    assert copy_bytes(1000) == row.copy_bytes == 1024
    assert row.time_s_p80 > row.time_s_p20
    assert (
        row.share_of_copy_p20
        == row.share_of_copy
        == row.share_of_copy_p80
        == pytest.approx(1000 / 4 / (1024 / 2))
    )


def test_each_kernel_is_held_against_the_copies_of_its_own_bytes(run):
    device = Pretended(moved_bytes=lambda of, task: 100 * task.pattern.m)
    outcome = run(device, budget_s=1e6)
    assert [(row.moved_bytes, row.copy_bytes) for row in outcome.rows[:2]] == [(400, 416), (1600, 1600)]
    assert device.sampled.count("quick copy") == 8 * 2 * (1 + 9)


def test_a_wrong_result_makes_no_row_and_is_named(run):
    outcome = run(Pretended(wrong=("prune 8:16 bitmask",)), budget_s=1e6)
    assert len(outcome.rows) == 12
    assert outcome.wrong == [
        f"prune {shape} bf16 {state}: prune 8:16 bitmask: 3 bytes differ"
        for shape in ("64x32", "8x128") for state in ("cold", "warm")
    ]  # fmt: skip


def test_a_wrong_copy_is_no_baseline(run):
    outcome = run(Pretended(wrong=("quick copy",)), budget_s=1e6)
    assert {(row.baseline, row.share_of_copy) for row in outcome.rows} == {
        ("slow copy", 0.75),
        ("slow copy", 1.5),
    }
    assert all(row.note.endswith("no other copy") for row in outcome.rows)
    assert outcome.wrong[0] == "prune 64x32 bf16 cold: quick copy of 2048 bytes: 3 bytes differ"


def test_without_a_copy_of_its_bytes_a_kernel_has_no_row(run, tmp_path):
    device = Pretended(
        wrong=("quick copy of 416", "slow copy of 416"), moved_bytes=lambda of, task: 100 * task.pattern.m
    )
    assert {row.pattern for row in run(device, budget_s=1e6).rows} == {"8:16"}
    (tmp_path / "moved.csv").unlink()
    assert run(Pretended(wrong=("quick copy", "slow copy")), budget_s=1e6).rows == []
    assert not (tmp_path / "moved.csv").exists()


def test_a_run_that_was_stopped_goes_on(run, tmp_path):
    first = run(Pretended(), budget_s=100)
    assert 0 < len(first.rows) < 16
    assert first.left == 16 - len(first.rows)
    device = Pretended()
    second = run(device, budget_s=1e6)
    assert (second.skipped, len(second.rows)) == (len(first.rows), first.left)
    rows = measurement_file.read(tmp_path / "moved.csv", Transfer)
    assert rows == first.rows + second.rows
    assert len({row.key for row in rows}) == 16
    assert run(device, budget_s=1e6).skipped == 16


def test_a_kill_within_a_round_loses_the_rest_of_that_round_only(run, tmp_path):
    run(Pretended(), budget_s=1e6)
    file = tmp_path / "moved.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))
    device = Pretended()
    assert len(run(device, budget_s=1e6).rows) == 13
    assert len(device.built[0][1]) == 1
    file.write_text("".join(lines[:4])[:-20])
    with pytest.raises(RowError, match="ends in its middle"):
        run(device)


def test_a_short_budget_means_fewer_repetitions_never_too_few(run):
    outcome = run(Pretended(), budget_s=1e-3)
    assert {row.reps for row in outcome.rows} == {rounds.LEAST_REPETITIONS}
    assert outcome.left == 14


# products and transfers in one budget


class PretendedProducts:
    """A device whose products take 3 s, and its dense call 4 s."""

    about = {"device": "pretended"}  # noqa: RUF012

    def __init__(self):
        self.now = 0.0

    def threads(self, of):
        return 1

    def tasks(self, of):
        return [
            (
                Case(
                    of.shape, as_format(pattern, encoding=encoding), dtype=of.dtype, sparse_operand="weights"
                ),
                "multiply",
            )
            for pattern, encoding in of.variants
        ]

    def prepare(self, planned, time_s, progress):
        return ""

    @contextlib.contextmanager
    def contenders(self, of, tasks, warmup):
        dense = measure.Contender("dense", None, lambda: 0.0, lambda: self.take(4.0))
        yield [
            *(measure.Contender(name, case, lambda: 0.0, lambda: self.take(3.0)) for case, name in tasks),
            dense,
        ]

    def take(self, seconds):
        self.now += seconds
        return seconds


@pytest.fixture
def run_all(load, tmp_path):
    """Run all of a campaign on pretended devices that share a clock; give back what was done, in order, and both outcomes."""

    def go(text=HEAD + MULTIPLIED + MOVED, **options):
        products, transfers, done = PretendedProducts(), Pretended(), []
        files = campaign_run.Files(tmp_path / "rows.csv", tmp_path / "rows.transfers.csv")
        outcomes = campaign_run.run(
            load(text), products, transfers, files, STAMP,
            clock=lambda: products.now + transfers.now,
            progress=lambda what, share: done.append(share),
            **options,
        )  # fmt: skip
        return products, transfers, done, outcomes

    return go


def test_a_quarter_of_the_time_is_kept_for_transfers(run_all):
    """A round of products takes 12 s and 7 s a repetition, at least 5 of them; one of transfers 13 s as often and once more."""
    products, _, done, (multiplied, moved) = run_all(budget_s=160)
    assert multiplied.left > 0
    assert moved.rows
    assert moved.left > 0
    assert products.now >= 0.75 * 160
    assert done == sorted(done)
    assert 0 <= done[0] <= done[-1] <= 1


def test_all_of_the_time_is_for_products_once_transfers_are_done(run_all):
    _, _, _, (_, moved) = run_all(HEAD + MOVED, budget_s=1e6)
    assert moved.left == 0
    _, transfers, _, (multiplied, moved) = run_all(budget_s=185)
    assert (transfers.now, moved.skipped) == (0.0, 16)
    assert multiplied.left == 0


def test_products_leave_the_time_they_do_not_use(run_all):
    _, _, _, (multiplied, moved) = run_all(budget_s=2000)
    assert (multiplied.left, moved.left) == (0, 0)


def test_a_bad_file_of_transfers_is_refused_before_any_product(run_all, tmp_path):
    (tmp_path / "rows.transfers.csv").write_text("a,b\n")
    with pytest.raises(RowError, match=r"rows.transfers.csv: header: missing 'machine'"):
        run_all()
    assert not (tmp_path / "rows.csv").exists()


def test_a_campaign_of_products_alone_looks_at_no_file_of_transfers(run_all, tmp_path):
    (tmp_path / "rows.transfers.csv").write_text("a,b\n")
    _, _, _, (multiplied, moved) = run_all(HEAD + MULTIPLIED, budget_s=1e6)
    assert (len(multiplied.rows), moved.rows) == (4, [])
