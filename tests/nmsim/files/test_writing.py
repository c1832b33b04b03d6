"""Every verb that writes: bad outputs cost no work, one writer at a time, nothing lost, nothing left."""

import importlib
import inspect
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import killing
import numpy as np
import pytest
from typer.models import ArgumentInfo

import hwmodels
from hwmodels.tensorcore.record import PRESET_FOLDER
from nmsim import rows, save_file
from nmsim.cli import VERBS, console
from nmsim.files.checkpoint import pack_checkpoint
from nmsim.support.lock import held

INPUTS = {
    "--weights",
    "--activations",
    "--rows",
    "--hardware",
    "--expert-loads",
    "--check",
    "SOURCE",
    "CHECKPOINT",
    "SPACE",
}
"""Options and arguments of type Path that are read. Each other one must be in `WRITES`."""
WRITES = {
    ("pack", "--output"): (["pack", "dense.safetensors", "-p", "2:4"], "file", ".safetensors", "dense.safetensors"),
    ("unpack", "--output"): (["unpack", "packed.safetensors"], "file", ".safetensors", "packed.safetensors"),
    ("convert", "--output"): (["convert", "packed.safetensors"], "file", ".safetensors", "packed.safetensors"),
    ("export", "--output"): (["export", "1,64,64"], "new folder", "README.md", None),
    ("threshold", "--output"): (["threshold", "config.json"], "file", ".csv", "config.json"),
    ("mitigations", "--output"): (["mitigations", "--model", "config.json"], "file", ".csv", "config.json"),
    ("sweep", "--output"): (["sweep", "space.toml"], "file", ".parquet", None),
    ("sweep", "--front"): (["sweep", "space.toml", "-o", "points.parquet"], "file", ".csv", "space.toml"),
    ("sweep", "--plot"): (["sweep", "space.toml", "-o", "points.parquet"], "file", ".svg", "space.toml"),
    ("core", "--write"): (["core", "-c", "core.toml"], "file", ".toml", "core.toml"),
    ("compare", "--output"): (["compare", "core.toml", "dense", "-p", "dense"], "file", ".csv", "core.toml"),
    ("compare", "--plot"): (["compare", "core.toml", "dense", "-p", "dense"], "file", ".svg", "core.toml"),
    ("machine", "--write"): (["machine", "machine.toml"], "file", ".toml", "machine.toml"),
    ("calibrate", "--output"): (["calibrate"], "file", ".toml", None),
    ("measure", "--output"): (["measure", "space.toml"], "rows", ".csv", "space.toml"),
    ("perplexity", "--output"): (["perplexity", "space.toml"], "rows", ".csv", "space.toml"),
    ("validate", "--output"): (["validate", "--rows", "rows.csv"], "file", ".json", "rows.csv"),
    ("validate", "--plot"): (["validate", "--rows", "rows.csv"], "file", ".svg", "rows.csv"),
    ("quality", "--output"): (["quality", "dense.safetensors"], "file", ".csv", "dense.safetensors"),
    ("quality", "--plot"): (["quality", "dense.safetensors", "-o", "q.csv"], "file", ".svg", "dense.safetensors"),
    ("quality", "--save-activations"): (["quality", "model.gguf", "-o", "q.csv"], "file", ".safetensors", None),
    ("study", "--output"): (["study", "--model", "config.json"], "folder", "study.csv", None),
    ("synth", "--output"): (["synth", "-f", "2:4/index"], "rows", ".csv", None),
    ("rtl", "--output"): (["rtl", "-f", "2:4/index"], "file", ".v", None),
    ("fit", "--output"): (["fit"], "folder", "residuals.csv", None),
}  # fmt: skip
"""(verb, option) -> arguments, kind, suffix (of a folder: a file that it gets), and an input of these arguments."""
FILES = [key for key, (_, kind, _, _) in WRITES.items() if not kind.endswith("folder")]
CASES = ("no folder", "folder", "link to folder", "device", "suffix", "exists", "input", "busy")


class WorkBegan(AssertionError):
    """A verb began to work, though its output cannot be written."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with an input of each kind."""
    folder = tmp_path_factory.mktemp("inputs")
    killing.small_model(folder)
    save_file({"a.weight": np.ones((16, 64), np.float32)}, folder / "dense.safetensors")
    pack_checkpoint(folder / "dense.safetensors", folder / "packed.safetensors", "2:4")
    killing.space(folder)
    machine = Path(hwmodels.__file__).parent / "machine" / "specs" / "h200.toml"
    for name, source in (("core.toml", PRESET_FOLDER / "dense.toml"), ("machine.toml", machine)):
        shutil.copy(source, folder / name)
    for name in ("rows.csv", "model.gguf"):
        (folder / name).touch()
    return folder


@pytest.fixture
def folder(inputs, tmp_path, monkeypatch):
    """A folder with inputs, in which no verb may begin to work."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments, **options):
        raise WorkBegan

    for name in ("share_bar", "bytes_bar", "busy"):
        monkeypatch.setattr(console, name, refuse)
    return tmp_path


def test_every_option_that_writes_is_tried():
    found = set()
    for name, verb in VERBS.items():
        function = getattr(importlib.import_module(f"nmsim.cli.{verb.module}"), name)
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            metadata = getattr(parameter.annotation, "__metadata__", ())
            if not metadata or "Path" not in str(parameter.annotation.__origin__):
                continue
            info = metadata[0]
            # Typer keeps the first name of an option as its default, until the command is made.
            names = [info.default, *(info.param_decls or ()), f"--{parameter.name}"]
            option = next(text for text in names if isinstance(text, str) and text.startswith("--"))
            option = info.metavar if isinstance(info, ArgumentInfo) else option
            if option not in INPUTS:
                found.add((name, option))
    assert found == set(WRITES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", FILES, ids="".join)
def test_a_file_that_cannot_be_written_costs_no_work(nmsim, folder, key, case):
    arguments, kind, suffix, source = WRITES[key]
    target = Path(f"out{suffix}")
    match case:
        case "no folder":
            target, text = Path("no") / target, "there is no folder no, expected an existing one"
        case "folder":
            target.mkdir()
            text = "is a folder, expected the name of a file to write"
        case "link to folder":
            Path("elsewhere").mkdir()
            target.symlink_to("elsewhere")
            text = "is a folder, expected the name of a file to write"
        case "device":
            os.mkfifo(target)
            text = "is a FIFO (pipe), expected the name of a file to write"
        case "suffix":
            target, text = Path("out.html"), f"expected a name that ends in {suffix}"
            if key[0] == "convert":
                target, text = (
                    Path("out.gguf"),
                    "expected a name that ends in .safetensors, or the name of a new folder",
                )
            if suffix == ".svg":
                text = "expected a name that ends in .svg or .png or .pdf, got .html"
        case "exists":
            if kind == "rows":
                pytest.skip("rows are appended to a file that exists")
            target.write_text("mine")
            text = "exists already, expected a new name (or force, `--force`"
        case "input":
            if source is None:
                pytest.skip("reads no file that its output could replace")
            target, text = Path(source), "is the input itself, expected another file to write"
        case "busy":
            text = f"is being written by process {os.getpid()} on "
    before = sorted(folder.rglob("*"))
    force = ["-f"] if case == "input" and kind != "rows" else []
    with another_writer(folder / target if case == "busy" else folder / "nobody"):
        code, out, err = nmsim(*arguments, key[1], target, *force)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("case", ["no folder", "file", "not ours", "a folder of that name", "busy"])
@pytest.mark.parametrize("key", [key for key in WRITES if key not in FILES], ids="".join)
def test_a_folder_that_cannot_be_written_costs_no_work(nmsim, folder, key, case):
    arguments, kind, name, _ = WRITES[key]
    target = Path("out")
    match case:
        case "no folder":
            target, text = Path("no") / target, "there is no folder no, expected an existing one"
        case "file":
            target.write_text("mine")
            text = "is a file, expected the name of a folder to write"
        case "not ours":
            target.mkdir()
            (target / name).write_text("mine")
            text = f"{name}: exists, and no earlier run here wrote it; expected a new folder (or force, `--force`"
        case "a folder of that name":
            (target / name).mkdir(parents=True)
            text = f"{name}: is a folder, expected a file or nothing of that name"
    if kind == "new folder" and target.is_dir():
        text = "is a folder that is not empty, expected a new or an empty one"
    if case == "busy":
        text = f"is being written by process {os.getpid()} on "
    before = sorted(folder.rglob("*"))
    with another_writer(folder / target if case == "busy" else folder / "nobody"):
        code, out, err = nmsim(*arguments, key[1], target)
    assert (code, out) == (2, "")
    assert text in err
    assert sorted(folder.rglob("*")) == before


class another_writer:
    """A thread that holds the lock of an output."""

    def __init__(self, place: Path) -> None:
        self._place, self._begun, self._end = place.resolve(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        with held(self._place):
            self._begun.set()
            self._end.wait(60)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._begun.wait(60)

    def __exit__(self, *problem: object) -> None:
        self._end.set()
        self._thread.join()


def test_a_full_disk_costs_no_work(nmsim, folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: (0, 0, 7))
    with pytest.raises(WorkBegan):
        nmsim("pack", "dense.safetensors", "-p", "2:4", "-o", "out.safetensors")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 7}))
    for verb in (["pack", "dense.safetensors", "-p", "2:4"], ["unpack", "packed.safetensors"]):
        code, _, err = nmsim(*verb, "-o", "out.safetensors")
        assert (code, "and its disk has 7 B left: expected more room" in err) == (2, True)
    code, _, err = nmsim("sweep", "space.toml", "-o", "out.csv")
    assert (code, "out.csv: takes at least" in err) == (2, True)
    assert not Path("out.safetensors").exists()


def test_a_folder_of_parts_that_is_not_ours_is_never_touched(nmsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    killing.space(tmp_path)
    mine = tmp_path / "o.parquet.parts" / "precious.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    for extra in ([], ["--restart"], ["-f"], ["-f", "--restart"]):
        code, _, err = nmsim("sweep", "space.toml", "-o", "o.parquet", *extra)
        assert (code, "holds 'precious.txt' and no manifest.json of a sweep" in err) == (2, True)
        assert mine.read_text() == "mine"
    (mine.parent / "manifest.json").write_text('{"mine": 1}')
    assert nmsim("sweep", "space.toml", "-o", "o.parquet", "--restart")[0] == 2
    assert sorted(path.name for path in mine.parent.iterdir()) == ["manifest.json", "precious.txt"]


def test_a_file_that_somebody_put_among_our_parts_stays(tmp_path):
    document = {"core": {"base": "dense"}, "axes": {"pattern": ["dense"]}, "workload": {"shapes": [[64, 64]]}}
    output = tmp_path / "o.parquet"

    def put(done, points):
        (tmp_path / "o.parquet.parts" / "precious.txt").write_text("mine")

    hwmodels.sweep(document, output=output, progress=put)
    assert [path.name for path in (tmp_path / "o.parquet.parts").iterdir()] == ["precious.txt"]
    assert output.exists()


def test_a_file_that_looks_like_a_temporary_one_of_rows_stays(tmp_path):
    mine = tmp_path / ".rows.csv.new"
    mine.write_text("mine")
    rows.write(tmp_path / "rows.csv", [])
    assert mine.read_text() == "mine"


def test_what_a_killed_run_left_is_removed_and_said(nmsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A pid that is alive: whether a file is still being written is known by the lock, not by a number.
    left = [f".out.toml.{os.getppid()}-0123abcd.nmsim-partial", ".out.toml.1-0123abcd.nmsim-partial"]
    others = [
        ".out.toml.1-0123abcd.nmsim-partial.txt",
        ".other.toml.1-0123abcd.nmsim-partial",
        ".out.toml.nmsim-partial",
    ]
    for name in left + others:
        Path(name).write_bytes(b"x" * 1000)
    foreign = Path(".out.toml.2-0123abcd.nmsim-partial")
    foreign.mkdir()
    (foreign / "precious.txt").write_text("mine")
    code, _, err = nmsim("machine", "h200", "--write", "out.toml")
    assert code == 0
    for name in left:
        assert f"removed what a stopped run left: {tmp_path / name} (1000 B)" in err.replace(
            "1.0 kB", "1000 B"
        )
    assert f"left in place: {tmp_path / foreign}" in err
    assert {path.name for path in tmp_path.iterdir()} == {*others, foreign.name, "out.toml"}


def test_two_studies_differ_in_one_line(tmp_path):
    from validate import run_study

    killing.small_model(tmp_path)
    found = []
    for name in ("one", "two"):
        run_study(
            tmp_path / "tiny.safetensors", tmp_path / "config.json", hardware=["h200"], formats=["2:4/index"],
            batches=[1], prefill=[64], out_dir=tmp_path / name, command=f"nmsim study -o {name}",
        )  # fmt: skip
        found.append(killing.contents(tmp_path / name, killing.without_time))
    assert found[0] == found[1]
    assert {"report.html", "study.json"} <= set(found[0])


APPENDER = """
import sys
from dataclasses import replace
from pathlib import Path
from nmsim import rows
from nmsim.errors import BusyError
from nmsim.rows import Measurement

row = Measurement(
    machine="m", kernel="k", M=1, N=64, K=64, phase="decode", dtype="fp16", pattern="unstructured 50%", baseline="b",
    l2_state="", speedup_vs_dense=1.5, source_url="https://example.org/a.csv",
)
for number in range(20):
    while True:
        try:
            rows.append(Path(sys.argv[1]), replace(row, note=f"{sys.argv[2]} {number}"))
            break
        except BusyError:
            pass
"""


def test_rows_of_several_processes_stand_below_one_header(tmp_path):
    target = tmp_path / "rows.csv"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(killing.ROOT), os.environ.get("PYTHONPATH", "")])
    }
    writers = [
        subprocess.Popen([sys.executable, "-c", APPENDER, str(target), str(number)], env=environment)
        for number in range(3)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert len({row.note for row in rows.read(target)}) == len(rows.read(target)) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_the_lock_of_a_killed_process_is_free_at_once_and_it_is_said_whose_it_was(
    nmsim, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with killing.start(tmp_path, "machine", "h200", "--write", "out.toml", kill_at=3) as process:
        process.communicate(timeout=killing.TIMEOUT_S)
    assert process.returncode == -killing.signal.SIGKILL
    assert Path(".out.toml.nmsim-lock").exists()
    code, _, err = nmsim("machine", "h200", "--write", "out.toml")
    assert code == 0
    assert f"an earlier run was stopped before its end: process {process.pid} on " in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.toml"]
