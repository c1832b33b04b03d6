"""The tutorial on designing a core, followed word by word: its commands and its Python, in its order."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorial/design-a-core.md"


def steps():
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def run(arguments, folder):
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorial_ends_with_a_picture(tmp_path):
    """But for the checkpoint of the reader's own, which nobody else has."""
    said = {}
    for language, text in steps():
        if language == "python":
            run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{text}"], tmp_path)
            continue
        for line in text.splitlines():
            if "model.safetensors" not in line:
                command = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from nmsim.cli import main; main(sys.argv[1:])"
                said[line] = run([sys.executable, "-c", command, *line.split()[1:]], tmp_path)
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
    assert len(said) == 2
    assert f"{len(pd.read_parquet(tmp_path / 'out.parquet')):,} points in out.parquet" in next(
        reversed(said.values())
    )
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 4680
    assert "multiply" in next(iter(said.values()))
