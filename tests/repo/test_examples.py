"""The examples run, the notebook prints what it holds, and the types of all code that readers copy are right."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
MAX_LINES = 40


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python on the packages of this checkout."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_prints_something(example, tmp_path, monkeypatch, capsys):
    """In this process, which has loaded the packages. That an example imports all it uses is held by its types, below."""
    assert len(example.read_text(encoding="utf-8").splitlines()) < MAX_LINES
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_the_page_of_the_examples_lists_them_all():
    page = (ROOT / "docs/examples/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.py)\)", page)) == {path.name for path in EXAMPLES}


def test_the_notebook_prints_what_it_holds(tmp_path):
    answer = run(str(ROOT / "docs/tools/site/notebook.py"), "--check", cwd=tmp_path)
    assert answer.returncode == 0, f"run python docs/tools/site/notebook.py\n{answer.stderr}"


def test_the_types_of_what_readers_copy_are_right(tmp_path):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    assert blocks
    for number, block in enumerate(blocks):
        (tmp_path / f"readme_{number}.py").write_text(block, encoding="utf-8")
    # One run for all: the packages are the part that takes long. The cache of `make check` is used if it is there.
    files = [*map(str, sorted(tmp_path.glob("*.py"))), *map(str, EXAMPLES)]
    answer = run("-m", "mypy", "--strict", *files, cwd=ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
