"""Transfers in campaigns: kernels that move a matrix, held against copies of as many bytes, on a pretended device."""

import contextlib

import pytest

from kernels.measure import campaign
from kernels.measure import cpu as measure_cpu
from kernels.measure import run as measure
from kernels.measure.run import Contender, copy_bytes
from kernels.timing.gate import GateError
from nmsim import rows as row_files
from nmsim.case import Case
from nmsim.errors import SpecError
from nmsim.format import sparse_format

TEXT = """
seed = 0
repetitions = 9
warmup = 1
budget_s = 60

[[round]]
kernels = ["prune", "pack"]
shapes = [[1, 64, 32], [1, 8, 128]]
patterns = ["2:4", "8:16"]
encodings = ["bitmask"]
dtypes = ["bf16"]
l2_state = ["cold"]
"""
READ = """
[[round]]
kernels = ["read"]
shapes = [[1, 64, 32]]
patterns = ["dense"]
dtypes = ["fp32"]
l2_state = ["cold"]
"""
STAMP = measure.Stamp("mine", "0123abc", False)
SECONDS = {"prune": 4.0, "pack": 2.0, "read": 1.0, "quick copy": 2.0, "slow copy": 7.0}


class Pretended:
    """A device whose kernels take the seconds it is told, by a clock that only they move."""

    about = {"device": "pretended", "numpy": "2.4"}  # noqa: RUF012

    def __init__(self, wrong=(), moved_bytes=lambda case: case.shape.N * case.shape.K):
        self.now, self.wrong, self.moved_bytes, self.sampled = 0.0, wrong, moved_bytes, []

    def sources(self, kernel):
        return ""

    def threads(self, of):
        return None

    def tasks(self, of):
        cases = [Case(of.shape, stored, dtype=of.dtype) for stored in of.formats]
        return [(case, kernel) for kernel in of.kernels for case in cases]

    def prepare(self, planned, time_s, progress):
        return ""

    @contextlib.contextmanager
    def contenders(self, of, tasks, warmup):
        found = [self.contender(name, case, self.moved_bytes(case)) for case, name in tasks]
        sizes = dict.fromkeys(each.copy_bytes for each in found)
        copies = [self.contender(name, None, size) for size in sizes for name in ("slow copy", "quick copy")]
        yield found + copies

    def contender(self, name, case, moved_bytes):
        def sample():
            self.now += SECONDS[name]
            self.sampled.append(name)
            return SECONDS[name]

        def error():
            if {name, made.label} & set(self.wrong):
                raise GateError("3 bytes differ")

        cells = {"moved_bytes": moved_bytes, "note": "a note"} if case else {}
        made = Contender(name, case, error, sample, cells, copy_bytes(moved_bytes))
        return made


@pytest.fixture
def run(tmp_path):
    """Run a campaign on a pretended device; give back the outcome."""

    def go(device, text=TEXT):
        (tmp_path / "mine.toml").write_text(text)
        mine = campaign.load(tmp_path / "mine.toml")
        return measure.run(
            mine, device, tmp_path / "moved.csv", STAMP, budget_s=1e6, clock=lambda: device.now
        )

    return go


def test_rows_say_what_was_moved(run, tmp_path):
    outcome = run(Pretended())
    assert (len(outcome.rows), outcome.skipped, outcome.left, outcome.wrong) == (8, 0, 0, [])
    assert row_files.read(tmp_path / "moved.csv") == outcome.rows
    row = outcome.rows[1]
    assert (row.kernel, row.M, row.N, row.K, row.dtype, row.pattern, row.encoding) == (
        "prune", 1, 64, 32, "bf16", "8:16", "bitmask",
    )  # fmt: skip
    assert (row.moved_bytes, row.copy_bytes, row.baseline, row.is_transfer) == (
        2048,
        2048,
        "quick copy",
        True,
    )
    assert (row.sparse_time_s, row.dense_time_s, row.speedup_vs_dense) == (4.0, 2.0, 0.5)
    assert (row.reps, row.warmup, row.gate, row.max_rel_err) == (9, 1, "pass", None)
    assert (row.note, row.other_baselines) == ("a note", "slow copy 7e+06 us")


def test_a_run_goes_on_where_it_was(run):
    run(Pretended())
    again = run(Pretended(), TEXT + READ)
    assert (again.skipped, [row.kernel for row in again.rows]) == (8, ["read"])


def test_a_kernel_without_patterns_is_one_row_and_may_beat_a_copy(run):
    (row,) = run(Pretended(), TEXT.split("[[round]]")[0] + READ).rows
    assert (row.pattern, row.encoding, row.packing, row.speedup_vs_dense) == ("", "", "", 2.0)


def test_each_kernel_is_held_against_the_copies_of_its_own_bytes(run):
    device = Pretended(moved_bytes=lambda case: 100 * case.pattern.m)
    outcome = run(device)
    assert [(row.moved_bytes, row.copy_bytes) for row in outcome.rows[:2]] == [(400, 416), (1600, 1600)]
    # Two shapes with copies of two sizes; no copy is dropped, however slow.
    assert device.sampled.count("quick copy") == device.sampled.count("slow copy") == 2 * 2 * 9


def test_a_wrong_result_makes_no_row_and_is_named(run):
    outcome = run(Pretended(wrong=("prune 8:16/bitmask",)))
    assert len(outcome.rows) == 6
    assert outcome.wrong == [
        f"{shape} bf16 cold, 1 thread: prune 8:16/bitmask: 3 bytes differ"
        for shape in ("M=1 N=64 K=32", "M=1 N=8 K=128")
    ]


def test_a_wrong_copy_is_no_baseline(run):
    outcome = run(Pretended(wrong=("quick copy",)))
    assert {(row.baseline, row.speedup_vs_dense) for row in outcome.rows} == {
        ("slow copy", 1.75),
        ("slow copy", 3.5),
    }
    assert {row.other_baselines for row in outcome.rows} == {""}
    assert outcome.wrong[0] == "M=1 N=64 K=32 bf16 cold, 1 thread: quick copy of 2048 bytes: 3 bytes differ"


def test_without_a_copy_of_its_bytes_a_kernel_has_no_row(run, tmp_path):
    wrong = ("quick copy of 416 bytes", "slow copy of 416 bytes")
    device = Pretended(wrong=wrong, moved_bytes=lambda case: 100 * case.pattern.m)
    assert {row.pattern for row in run(device).rows} == {"8:16"}
    (tmp_path / "moved.csv").unlink()
    assert run(Pretended(wrong=("quick copy", "slow copy"))).rows == []
    assert not (tmp_path / "moved.csv").exists()


def test_a_pattern_may_be_dense_and_then_needs_no_encoding(run, tmp_path):
    run(Pretended(), TEXT + READ)
    found = campaign.load(tmp_path / "mine.toml").rounds
    assert [each.formats for each in found[-2:]] == [
        (sparse_format("2:4"), sparse_format("8:16")), (None,),
    ]  # fmt: skip
    with pytest.raises(SpecError, match=r"expected patterns N:M: CPU kernels multiply, and none only moves"):
        measure_cpu.CpuBackend().tasks(
            campaign.Round(found[-1].shape, "decode", "fp32", 1, "cold", (None,), ("best",))
        )
