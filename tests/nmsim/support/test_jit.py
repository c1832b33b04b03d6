"""The cache of compiled functions: kept from process to process, and made anew when any source of theirs changes."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import nmsim

PACKAGE = Path(nmsim.__file__).parent
ROOM = {
    "__init__.py": "",
    "caller.py": (
        "from nmsim.support.jit import njit\n"
        "from room.callee import add\n"
        "\n\n"
        "@njit(cache=True)\n"
        "def total(x):\n"
        "    return add(x, 10)\n"
    ),
    "callee.py": (
        "from nmsim.support.jit import njit\n"
        "from room import (\n"
        "    sizes,\n"
        ")\n"
        "\n"
        "STEP = sizes.STEP\n"
        "\n\n"
        "@njit(cache=True)\n"
        "def add(x, y):\n"
        "    return x + y + STEP\n"
    ),
    "sizes.py": "STEP = 100\n",
    "other.py": "UNREAD = 1\n",
}
RUN = "from room.caller import total; print(total(1), sum(total.stats.cache_hits.values()))"


@pytest.fixture
def room(tmp_path):
    """A small package beside a copy of nmsim that holds no more than its compiler."""
    (tmp_path / "nmsim" / "support").mkdir(parents=True)
    (tmp_path / "nmsim" / "__init__.py").touch()
    (tmp_path / "nmsim" / "support" / "__init__.py").touch()
    shutil.copy(PACKAGE / "support" / "jit.py", tmp_path / "nmsim" / "support")
    (tmp_path / "room").mkdir()
    for name, text in ROOM.items():
        (tmp_path / "room" / name).write_text(text)
    return tmp_path / "room"


def ran(folder, code=RUN):
    """What a new process prints that finds its packages in a folder."""
    # Without bytecode, or an edit in the same second could go unseen by Python itself.
    answer = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_second_process_finds_the_code_of_the_first(room):
    assert ran(room.parent) == ["111", "0"]
    assert ran(room.parent) == ["111", "1"]
    edit(room / "other.py", "1", "2")
    assert ran(room.parent) == ["111", "1"]


def test_an_edited_callee_in_another_file_gives_the_new_answer(room):
    assert ran(room.parent) == ["111", "0"]
    edit(room / "callee.py", "x + y + STEP", "x * y + STEP")
    assert ran(room.parent) == ["110", "0"]


def test_an_edited_constant_two_files_away_gives_the_new_answer(room):
    assert ran(room.parent) == ["111", "0"]
    edit(room / "sizes.py", "100", "200")
    assert ran(room.parent) == ["211", "0"]


def test_new_times_of_the_same_sources_change_nothing(room):
    assert ran(room.parent) == ["111", "0"]
    for source in room.glob("*.py"):
        os.utime(source, (1e9, 1e9))
    assert ran(room.parent) == ["111", "1"]


def test_an_edit_in_nmsim_itself(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "nmsim", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np; from nmsim.encodings.bitmask import _copy;"
        "print(_copy(2, np.array([0b11], np.uint64), np.zeros(1, np.uint64)))"
    )
    assert ran(tmp_path, code) == ["True"]
    edit(tmp_path / "nmsim" / "words.py", ">> np.uint64(56)\n", ">> np.uint64(57)\n")
    assert ran(tmp_path, code) == ["False"]


def test_without_a_cache_nothing_is_kept(room):
    edit(room / "caller.py", "cache=True", "nogil=True")
    assert ran(room.parent) == ["111", "0"]
    assert not list(room.glob("__pycache__/caller*.nbi"))


def test_sources_in_an_archive_are_no_hindrance(tmp_path):
    """Numba's own stamp serves where there are no files to read."""
    root = Path(__file__).parents[3]
    with zipfile.ZipFile(tmp_path / "it.zip", "w") as archive:
        for file in sorted((root / "nmsim").rglob("*.py")):
            archive.write(file, file.relative_to(root))
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'it.zip')!r}); import nmsim; print(nmsim.__file__)"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    assert "it.zip" in answer.stdout
