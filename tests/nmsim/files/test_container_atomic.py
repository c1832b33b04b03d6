"""A file has its name when it is complete, and not before, whatever stops the work."""

import errno
import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nmsim
from nmsim import load_file, save_file
from nmsim.errors import ContainerError
from nmsim.files import atomic, output
from nmsim.files.checkpoint import pack_checkpoint

ROOT = Path(nmsim.__file__).parents[1]
PARTIAL = re.compile(r"^\.packed(\.safetensors)?\.\d+-[0-9a-f]{8}\.nmsim-partial$")

STALLED = """
import sys, time
from nmsim.files.checkpoint import pack_checkpoint
from nmsim.cli.console import tidy_when_terminated

def stall(name, done_bytes, total_bytes):
    if done_bytes:
        print("half way", flush=True)
        time.sleep(60)

with tidy_when_terminated():
    pack_checkpoint(sys.argv[1], sys.argv[2], "2:4", progress=stall)
"""


@pytest.fixture
def dense(tmp_path):
    path = tmp_path / "dense.safetensors"
    save_file({f"{i}.weight": np.ones((64, 64), np.float32) for i in range(3)}, path)
    return path


def stopped(source, target, number):
    """Start packing, stop it half way with a signal, and return the exit status."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, "-c", STALLED, str(source), str(target)]
    # A shell's background job ignores SIGINT, and its children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, preexec_fn=heed) as process:
        try:
            assert process.stdout.readline() == b"half way\n"
            assert not target.exists()
            process.send_signal(number)
            return process.wait(timeout=30)
        finally:
            process.kill()


def test_a_killed_run_leaves_no_half_file_and_does_not_disturb_the_next(tmp_path, dense):
    target = tmp_path / "packed.safetensors"
    assert stopped(dense, target, signal.SIGKILL) == -signal.SIGKILL
    assert not target.exists()
    lock, left = sorted((path for path in tmp_path.iterdir() if path != dense), key=lambda path: path.suffix)
    assert (lock.name, bool(PARTIAL.match(left.name))) == (".packed.safetensors.nmsim-lock", True)
    pack_checkpoint(dense, target, "2:4")
    assert sorted(tmp_path.iterdir()) == [dense, target]
    assert list(load_file(target)) == ["0.weight", "1.weight", "2.weight"]


def test_a_killed_run_leaves_no_half_folder(tmp_path, dense):
    folder = tmp_path / "dense"
    folder.mkdir()
    dense.rename(folder / dense.name)
    names = ", ".join(f'"{i}.weight": "{dense.name}"' for i in range(3))
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{names}}}}}')
    target = tmp_path / "packed"
    assert stopped(folder, target, signal.SIGKILL) == -signal.SIGKILL
    assert not target.exists()
    lock, left = sorted((path for path in tmp_path.iterdir() if path != folder), key=lambda path: path.suffix)
    assert (lock.name, bool(PARTIAL.match(left.name))) == (".packed.nmsim-lock", True)
    pack_checkpoint(folder, target, "2:4")
    assert sorted(tmp_path.iterdir()) == [folder, target]
    assert len(load_file(target / dense.name)) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_leaves_nothing(tmp_path, dense, number):
    assert stopped(dense, tmp_path / "packed.safetensors", number) != 0
    assert list(tmp_path.iterdir()) == [dense]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, RuntimeError])
def test_an_exception_leaves_nothing(tmp_path, dense, error):
    def fail(name, done_bytes, total_bytes):
        if done_bytes:
            raise error

    with pytest.raises(error):
        pack_checkpoint(dense, tmp_path / "packed.safetensors", "2:4", progress=fail)
    assert list(tmp_path.iterdir()) == [dense]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, dense, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    target = tmp_path / "packed.safetensors"
    with pytest.raises(ContainerError, match=f"^{target}: cannot be written: No space left on device$"):
        pack_checkpoint(dense, target, "2:4")
    assert list(tmp_path.iterdir()) == [dense]


def test_an_existing_file_is_replaced_only_by_force(tmp_path, dense):
    target = tmp_path / "packed.safetensors"
    target.write_text("precious")
    with pytest.raises(
        ContainerError,
        match=rf"^{target}: exists already, expected a new name \(or force, `--force` on the command line, to replace",
    ):
        pack_checkpoint(dense, target, "2:4")
    assert target.read_text() == "precious"
    pack_checkpoint(dense, target, "2:4", force=True)
    assert len(load_file(target)) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, dense):
    target = tmp_path / "packed.safetensors"
    with pytest.raises(ContainerError, match="has come to exist meanwhile, expected a new name"):
        pack_checkpoint(dense, target, "2:4", progress=lambda *_: target.write_text("precious"))
    assert target.read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == [dense, target]


@pytest.mark.parametrize("link", ["same name", "symbolic link", "hard link", "other spelling"])
def test_the_input_is_never_replaced(tmp_path, dense, link):
    before = dense.read_bytes()
    target = dense
    if link == "symbolic link":
        target = tmp_path / "other"
        target.symlink_to(dense)
    elif link == "hard link":
        target = tmp_path / "other"
        target.hardlink_to(dense)
    elif link == "other spelling":
        target = tmp_path / ".." / tmp_path.name / dense.name
    with pytest.raises(
        ContainerError, match=f"^{target}: is the input itself, expected another file to write$"
    ):
        pack_checkpoint(dense, target, "2:4", force=True)
    assert dense.read_bytes() == before


def test_long_names_have_room_for_the_partial_one(tmp_path):
    target = tmp_path / ("x" * 250)
    save_file({"x": np.zeros(3)}, target)
    assert list(load_file(target)) == ["x"]


def test_a_name_is_asked_for():
    with pytest.raises(ContainerError, match=r"^'\.': expected a name to write$"):
        output.check([output.Output(Path())])
