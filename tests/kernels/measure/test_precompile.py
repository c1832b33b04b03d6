"""Compilation ahead of a campaign: processes that run pretended products, and processes that are pretended themselves."""

import functools
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from kernels.measure import campaign
from kernels.measure.cuda import precompile
from kernels.measure.cuda.backend import CudaBackend
from kernels.measure.cuda.calls import Call, Product
from kernels.timing.rounds import Plan

TEXT = """
seed = 3
repetitions = 5
warmup = 1
budget_s = 60

[[round]]
shapes = [[1, 24, 64], [5, 24, 64], [2, 8, 32]]
patterns = ["2:4", "8:16"]
encodings = ["bitmask", "index"]
dtypes = ["fp32", "bf16"]
kernels = ["ours"]
l2_state = ["cold", "warm"]
"""


class NoClock:
    """Waits for nothing, and times nothing."""

    def synchronize(self):
        pass


def noting(folder):
    """A backend whose only product notes what it was built for in a folder; of 2:4 it refuses."""

    def build(packed, dense, x):
        if str(packed.pattern) == "2:4":
            raise RuntimeError("no kernel")
        name = (
            f"{os.getpid()} {packed.pattern} {packed.encoding} {len(x)} {packed.shape[0]} {x.dtype}".replace(
                ":", "of"
            )
        )
        return Call((Path(folder) / name).touch, 0)

    return CudaBackend(3, device="cpu", clock=NoClock(), products={"ours": Product(lambda case: "", build)})


def dying(folder):
    """A process that ends where it stands, as one that a compiler takes down with it."""
    os._exit(9)


@pytest.fixture
def planned(tmp_path):
    (tmp_path / "mine.toml").write_text(TEXT)
    rounds = campaign.load(tmp_path / "mine.toml").rounds
    backend = noting(tmp_path)
    return Plan([(of, backend.tasks(of)) for of in rounds], 0)


def few_parts(planned, monkeypatch, which):
    """Let a plan have some of its parts: a process for each takes seconds to begin."""
    parts = precompile.by_variant(planned)[which]
    monkeypatch.setattr(precompile, "by_variant", lambda _: parts)
    monkeypatch.setattr(precompile, "FEWEST_TASKS", 1)


def test_processes_run_each_product_once_and_what_raises_does_not_matter(planned, tmp_path, monkeypatch):
    few_parts(planned, monkeypatch, slice(1, None))  # two that note, and one that refuses
    folder = tmp_path / "noted"
    folder.mkdir()
    told = []
    said = precompile.ahead(
        functools.partial(noting, folder),
        planned,
        600,
        lambda text, share: told.append((text, share)),
        cores=2,
    )
    assert said == ""
    noted = sorted(file.name.split(" ", 1) for file in folder.iterdir())
    found = [what for _, what in noted]
    assert len(found) == len(set(found)) == 2 * 3 * 2
    assert {what[:5] for what in found} == {"8of16"}
    assert len({process for process, _ in noted}) == 2
    assert str(os.getpid()) not in {process for process, _ in noted}
    assert (told[0], told[-1][1]) == (("compiling, 0 of 3", 0.0), 0.0)
    assert {text for text, _ in told} <= {f"compiling, {done} of 3" for done in range(4)}


def test_a_process_that_dies_is_told_and_nothing_more(planned, tmp_path, capfd, monkeypatch):
    few_parts(planned, monkeypatch, slice(2))
    said = precompile.ahead(
        functools.partial(dying, tmp_path), planned, 600, lambda text, share: None, cores=4
    )
    assert said == (
        "kernels were not all compiled ahead: 2 of 2 processes failed; the others are compiled on the way"
    )
    assert capfd.readouterr() == ("", "")


def test_a_plan_is_parted_by_pattern_and_encoding_each_product_once(planned):
    parts = precompile.by_variant(planned)
    variants = [
        {(str(case.pattern), case.format.encoding.name) for _, tasks in part for case, _ in tasks}
        for part in parts
    ]
    assert variants == [{("2:4", "bitmask")}, {("2:4", "index")}, {("8:16", "bitmask")}, {("8:16", "index")}]
    for part in parts:
        shapes = [(of.dtype, of.shape.N, of.shape.K, of.shape.M) for of, _ in part]
        assert len(shapes) == len(set(shapes)) == 6
        weights = [shape[:3] for shape in shapes]
        assert weights == sorted(weights)
        assert all(len(tasks) == 1 for _, tasks in part)


class Processes:
    """A context whose processes run nothing: they end after so many looks, or never, or do not start."""

    def __init__(self, looks=2, code=0, starts=100):
        self.looks, self.code, self.starts, self.now, self.at_once = looks, code, starts, 0.0, [0]
        self.made = []

    def Process(self, target, args, daemon):
        assert daemon
        process = Process(self)
        self.made.append(process)
        return process


class Process:
    def __init__(self, context):
        self.context, self.left, self.exitcode, self.terminated = context, context.looks, None, False

    def start(self):
        if len(self.context.made) > self.context.starts:
            raise BlockingIOError("no more processes")
        self.context.at_once.append(sum(each.exitcode is None for each in self.context.made))

    def join(self, timeout=None):
        self.context.now += timeout or 0
        for each in self.context.made:
            each.left -= 1
            if each.left <= 0 and each.exitcode is None:
                each.exitcode = self.context.code

    def terminate(self):
        self.terminated, self.exitcode = True, -15


def go(planned, processes, time_s=600.0, **options):
    return precompile.ahead(
        noting,
        planned,
        time_s,
        lambda text, share: None,
        context=processes,
        clock=lambda: processes.now,
        **options,
    )


@pytest.mark.parametrize(("cores", "most"), [(2, 2), (3, 3), (16, 4)])
def test_no_more_processes_at_once_than_cores(planned, cores, most):
    processes = Processes()
    assert go(planned, processes, cores=cores) == ""
    assert (len(processes.made), max(processes.at_once)) == (4, most)
    assert not any(process.terminated for process in processes.made)


def test_one_core_or_few_tasks_or_no_time_compile_nothing_ahead(planned):
    processes = Processes()
    few = Plan(planned.rounds[:1], 0)
    for plan, time_s, cores in ((planned, 600, 1), (few, 600, 16), (planned, 0, 16), (Plan([], 9), 600, 16)):
        assert go(plan, processes, time_s, cores=cores) == ""
    assert processes.made == []


def test_processes_that_take_too_long_are_ended(planned):
    processes = Processes(looks=10**9)
    said = go(planned, processes, 2.0, cores=3)
    assert "4 of 4 processes took longer than 1 s" in said
    assert processes.now == pytest.approx(1.0, abs=2 * precompile.POLL_S)
    assert all(process.terminated for process in processes.made)


def test_where_no_process_starts_the_campaign_goes_on(planned):
    processes = Processes(starts=1)
    assert "no process could be started (no more processes)" in go(planned, processes, cores=3)
    assert processes.made[0].terminated
