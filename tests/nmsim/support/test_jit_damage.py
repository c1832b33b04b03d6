"""No state of the files of compiled code ends a run: it is compiled anew, and the files are whole again."""

import importlib.util
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import nmsim
from nmsim.support import jit

ROOT = Path(nmsim.__file__).parents[1]
SOURCE = """
from nmsim.support.jit import njit

@njit(cache=True)
def twice(x):
    return 2 * x
"""
NUMBER = itertools.count()


def sealed(content):
    """A whole file of a content, as the cache writes it."""
    raw = pickle.dumps(content) if not isinstance(content, bytes) else content
    return jit.MARK + jit.hashlib.sha256(raw).digest() + raw


GONE_MODULE = sealed(b"cno_such_module\nThing\n.")
GONE_CLASS = sealed(b"cnmsim.support.jit\nNoSuchThing\n.")
DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "first byte only": lambda path: path.write_bytes(path.read_bytes()[:1]),
    "cut after the digest": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "last byte missing": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("no such thing\n" * 99),
    "more at the end": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a pickle of numba's own form": lambda path: path.write_bytes(
        pickle.dumps("0.1") + pickle.dumps((1, {}))
    ),
    "a module that is gone": lambda path: path.write_bytes(GONE_MODULE),
    "a class that is gone": lambda path: path.write_bytes(GONE_CLASS),
    "another content": lambda path: path.write_bytes(sealed((1, 2, 3))),
    "no pair": lambda path: path.write_bytes(sealed(7)),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "not readable": lambda path: path.chmod(0),
}


def flipped(text):
    """One bit in the middle is another."""
    middle = len(text) // 2
    return text[:middle] + bytes([text[middle] ^ 4]) + text[middle + 1 :]


def load(path):
    """The function of a source file, as a new process would see it."""
    jit.digest.cache_clear()
    jit._read.cache_clear()
    jit._only_we_write.cache_clear()
    spec = importlib.util.spec_from_file_location(f"source{next(NUMBER)}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


def hits(function):
    """How many signatures came from files."""
    return sum(function.stats.cache_hits.values())


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A source file whose code is kept beside it, for an integer."""
    monkeypatch.setattr(jit, "digest", jit.functools.cache(lambda module, file: "stamp"))
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    (tmp_path / "__pycache__").mkdir(mode=0o755)
    assert load(path)(21) == 42
    return path


def kept(source):
    """The files of code beside a source."""
    return sorted((source.parent / "__pycache__").glob("*.nb?"))


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_costs_a_compilation_and_nothing_else(source, damage, suffix):
    assert hits(warm(source)) == 1
    (path,) = (path for path in kept(source) if path.suffix == suffix)
    DAMAGES[damage](path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a folder in the place of a file cannot be replaced
        function = warm(source)
    readable = damage == "not readable" and os.access(path, os.R_OK)
    assert hits(function) == (1 if readable else 0)
    if damage != "a folder":
        assert hits(warm(source)) == 1
        assert len(kept(source)) == 2


def warm(source):
    """The function, called once."""
    function = load(source)
    assert function(21) == 42
    return function


def test_code_of_another_function_or_signature_is_not_taken(source):
    function = load(source)
    assert function(1.5) == 3.0
    first, second = (path for path in kept(source) if path.suffix == ".nbc")
    shutil.copy(first, second)
    function = load(source)
    assert (function(1.5), function(21)) == (3.0, 42)
    assert hits(function) == 1


def test_files_of_a_killed_process_are_removed_later(source):
    folder = source.parent / "__pycache__"
    old, new = folder / f"{kept(source)[0].name}.tmp.old", folder / f"{kept(source)[0].name}.tmp.new"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    assert load(source)(1.5) == 3.0
    assert not old.exists()
    assert new.exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have no number here")
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_is_not_used(source, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jit._private_folder.cache_clear()
    before = {path: path.read_bytes() for path in kept(source)}
    (source.parent / "__pycache__").chmod(mode)
    assert hits(warm(source)) == 0
    assert {path: path.read_bytes() for path in kept(source)} == before
    (private,) = (tmp_path / "cache/nmsim/code").iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    assert {path.suffix for path in private.iterdir()} == {".nbi", ".nbc"}
    assert hits(warm(source)) == 1


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to give a file away")
@pytest.mark.parametrize("given", ["folder", "file"])
def test_what_belongs_to_another_user_is_not_used(source, tmp_path, monkeypatch, given):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jit._private_folder.cache_clear()
    for path in [source.parent / "__pycache__"] if given == "folder" else kept(source):
        os.chown(path, 12345, -1)
    assert hits(warm(source)) == 0
    assert hits(warm(source)) == 1


def new_process(folder, code, **environment):
    """Run some lines in a new process; its output, and its warnings on one channel."""
    return subprocess.Popen(
        [sys.executable, "-B", "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


CALL = "from source import twice; print(twice(21), twice(1.5), sum(twice.stats.cache_hits.values()))"
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"


@pytest.mark.parametrize("case", ["no folder", "full disk"])
def test_without_room_each_run_compiles_and_one_warning_says_so(tmp_path, case):
    (tmp_path / "source.py").write_text(SOURCE + SOURCE.replace("twice", "thrice"))
    if case == "no folder":
        (tmp_path / "__pycache__").touch()
    code = (FULL if case == "full disk" else "") + CALL + "; from source import thrice; thrice(1)"
    output, _ = new_process(tmp_path, code, HOME="/dev/null", XDG_CACHE_HOME="/dev/null").communicate()
    assert "42 3.0 0" in output
    assert output.count("RuntimeWarning: compiled functions are not kept") == 1
    assert "Traceback" not in output
    assert not list(tmp_path.glob("__pycache__/*.nb*"))


def test_processes_that_compile_at_once_leave_whole_files(tmp_path):
    (tmp_path / "source.py").write_text(SOURCE)
    runs = [new_process(tmp_path, CALL) for _ in range(3)]
    assert [run.communicate()[0].startswith("42 3.0") for run in runs] == [True] * 3
    assert [run.returncode for run in runs] == [0] * 3
    for _ in range(2):
        output = new_process(tmp_path, CALL).communicate()[0].split()
    assert output == ["42", "3.0", "2"]


def test_another_numba_compiles_without_keeping(monkeypatch):
    monkeypatch.setattr(jit, "_SourcesCache", None)
    jit._told.cache_clear()
    with pytest.warns(RuntimeWarning, match="compiled functions are not kept"):
        function = jit.njit(cache=True)(abs_of)
    assert function(-2) == 2
    jit._told.cache_clear()


def abs_of(x):
    return abs(x)


def test_the_numba_in_use_keeps_code():
    assert isinstance(jit.njit(cache=True)(abs_of)._cache, jit._SourcesCache)
