"""The verb sweep, as a user types it."""

import itertools
import json
import os
import signal
import threading
import time

import pandas as pd
import pytest

from hwmodels.sweeps import run
from nmsim.units import short

SPACE = """
[core]
base = "flexible-8x16"
[axes]
pattern = ["dense", "2:4", "8:16"]
encoding = ["bitmask", "gap:2"]
tokens = [1, 512]
array_depth = [8, 16]
core_axis
[workload]
shapes = [[1024, 1024]]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(
        SPACE.replace("core_axis\n", "").replace(', "gap:2"', ', "combinatorial"')
    )
    return tmp_path


def test_a_space_becomes_a_file_and_a_few_lines(nmsim, folder):
    code, text, err = nmsim("sweep", "space.toml", "-o", "out.parquet", "--front", "front.csv")
    assert (code, err) == (0, "")
    table = pd.read_parquet("out.parquet")
    assert len(table) == 5 * 4
    assert "20 points in out.parquet; " in text
    assert "points/s" not in text
    assert "Greatest speedups vs dense" in text
    best = table.nlargest(5, "speedup_vs_dense")["speedup_vs_dense"]
    for speedup in best:
        assert f"{speedup:.2f}x" in text
    front = pd.read_csv("front.csv")
    assert (
        f"Pareto front over time_s, energy_joules, area_um2 (least), for each work: {len(front)} points"
        in text
    )
    assert set(front["tokens"]) == {1, 512}
    for _, row in front.iterrows():
        work = table[table["tokens"] == row["tokens"]]
        better = (work["time_s"] <= row["time_s"]) & (work["energy_joules"] < row["energy_joules"])
        assert not (better & (work["area_um2"] <= row["area_um2"])).any()


def test_a_space_without_costs(nmsim, folder):
    text = (folder / "space.toml").read_text()
    (folder / "space.toml").write_text("costs = false\n" + text)
    code, text, _ = nmsim("sweep", "space.toml", "-o", "out.parquet")
    assert code == 0
    assert "Pareto front over time_s, dram_read_bytes (least)" in text
    assert "energy_joules" not in pd.read_parquet("out.parquet")


def test_json_says_the_same(nmsim, folder):
    code, text, err = nmsim("sweep", "space.toml", "--json", "--workers", "2", "--pareto", "cycles")
    assert (code, err) == (0, "")
    found = json.loads(text)
    assert (found["points"], found["evaluated_points"], found["output"]) == (20, 20, "space.parquet")
    assert len(found["best"]) == 5
    table = pd.read_parquet("space.parquet")
    least = table.groupby("tokens")["cycles"].transform("min")
    assert found["pareto_front_points"] == (table["cycles"] == least).sum()


def test_refusals_are_counted_and_told(nmsim, folder):
    (folder / "space.toml").write_text(
        SPACE.replace('[core]\nbase = "flexible-8x16"\n', "")
        .replace("core_axis", 'core = ["dense", "flexible-8x16"]')
        .replace("gap:2", "index")
    )
    code, text, _ = nmsim("sweep", "space.toml", "-o", "out.csv")
    assert code == 0
    table = pd.read_csv("out.csv", keep_default_na=False)
    refused = table[table["refused"] != ""]
    assert f"{len(refused)} points do not exist (column refused):" in text
    assert f"  {len(refused)}: encoding 'index': dense decodes bitmask" in text
    assert len(refused) == 8


def test_a_quality_is_on_the_front(nmsim, folder):
    (folder / "quality.csv").write_text("pattern,quality\ndense,1\n2:4,0.5\n8:16,0.8\n")
    with open("space.toml", "a") as stream:
        stream.write('[quality]\nfile = "quality.csv"\n')
    code, text, _ = nmsim("sweep", "--front", "front.csv")
    assert code == 0
    assert "Pareto front over time_s, energy_joules, area_um2 (least), quality (most), for each work" in text
    assert set(pd.read_csv("front.csv")["pattern"]) == {"dense", "2:4", "8:16"}


def test_a_stopped_run_goes_on(nmsim, folder, monkeypatch):
    whole, done = run.evaluate_chunk, itertools.count()

    def failing(*arguments):
        if next(done) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(run, "CHUNK_POINTS", 4)
    monkeypatch.setattr(run.sweep, "__kwdefaults__", {**run.sweep.__kwdefaults__, "chunk_points": 4})
    monkeypatch.setattr(run, "evaluate_chunk", failing)
    code, _, err = nmsim("sweep")
    assert code != 0
    assert "stopped: 12 of 20 points kept in space.parquet.parts; the same command goes on\n" in err
    assert not (folder / "space.parquet").exists()
    code, text, _ = nmsim("sweep")
    assert code == 0
    assert "20 points in space.parquet, 12 of them by an earlier run" in text


def test_a_run_that_is_terminated_at_once_says_that_nothing_is_kept(nmsim, folder, monkeypatch):
    def terminated(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(run, "evaluate_chunk", terminated)
    code, _, err = nmsim("sweep")
    assert (code, err) == (143, "stopped: none of the points kept; the same command begins anew\n")


def test_areas_and_energies_are_told_in_units_for_people(nmsim, folder):
    code, text, _ = nmsim("sweep", "-o", "out.parquet", "--wide")
    assert code == 0
    assert "area mm²" in text
    assert "energy µJ" in text
    best = pd.read_parquet("out.parquet").nlargest(1, "speedup_vs_dense").iloc[0]
    (line,) = [line for line in text.splitlines() if f"{best['speedup_vs_dense']:.2f}x" in line][:1]
    assert f" {short(best['area_um2'] / 1e6)} " in line
    assert f" {short(best['energy_joules'] * 1e6)} " in line
    assert "e+" not in text


def test_the_example_runs(nmsim, folder):
    code, text, _ = nmsim("sweep", "mine.toml", "--example")
    assert (code, text) == (0, "mine.toml: written. Now: nmsim sweep mine.toml\n")
    code, text, _ = nmsim("sweep", "mine.toml")
    assert code == 0
    assert "252 points in mine.parquet" in text
    code, _, err = nmsim("sweep", "mine.toml", "--example")
    assert code == 2
    assert "mine.toml: exists already" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.toml"], "none.toml: cannot be read"),
        (["space.toml", "-o", "out.xls"], "expected a name that ends in .parquet or .csv"),
        (["--pareto", "time"], "'time': no such column. Did you mean time_s?"),
        (["--pareto", ","], "no column for --pareto given"),
        (["--maximise", "limit"], "'limit': expected a column of numbers"),
        (["--front", "space.toml"], "space.toml: is the input itself"),
        (
            ["-o", "c.csv", "--front", "c.csv"],
            "c.csv: is named for two outputs, expected another name for one",
        ),
        (["-o", "c.csv", "--front", "./c.csv", "-f"], "c.csv: is named for two outputs"),
        (["none.toml"], "no such file; nmsim sweep none.toml --example writes one to begin with"),
    ],
)
def test_mistakes_cost_no_work(nmsim, folder, arguments, text):
    code, out, err = nmsim("sweep", *arguments)
    assert (code, out) == (2, "")
    assert text in err.replace("\n", " ")
    assert [path.name for path in folder.iterdir()] == ["space.toml"]


def test_a_signal_while_chunks_are_waited_for_ends_the_run_and_its_threads(nmsim, folder, monkeypatch):
    whole = run.evaluate_chunk
    taken = threading.Event()

    def slow(*arguments):
        if taken.is_set():
            time.sleep(0.05)
        else:
            taken.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        return whole(*arguments)

    monkeypatch.setattr(run, "evaluate_chunk", slow)
    monkeypatch.setattr(run.sweep, "__kwdefaults__", {**run.sweep.__kwdefaults__, "chunk_points": 4})
    code, _, err = nmsim("sweep", "--threads", "2")
    assert code == 143
    assert "stopped: " in err
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
