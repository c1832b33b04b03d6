"""The tutorial on designing a core, followed word by word: its commands and its Python, in its order."""

import re
from pathlib import Path

import pandas as pd
from code_of_pages import check_claims, printed_by

PAGE = Path(__file__).parents[2] / "docs/tutorial/design-a-core.md"


def steps() -> list[tuple[str, str]]:
    """Give the blocks of Python and the lines of commands, except one on a checkpoint of the reader's own."""
    found = []
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        if language == "python":
            found.append((language, text))
        else:
            found += [("nmsim", line) for line in text.splitlines() if "model.safetensors" not in line]
    return found


def test_the_tutorial_ends_with_a_picture(tmp_path):
    followed = steps()
    printed = printed_by(followed, tmp_path)
    for (language, text), said in zip(followed, printed, strict=True):
        if language == "python":
            check_claims(text, said)
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
    first, last = (said for (language, _), said in zip(followed, printed, strict=True) if language == "nmsim")
    assert "multiply" in first
    points = len(pd.read_parquet(tmp_path / "out.parquet"))
    assert points == 4680
    assert f"{points:,} points in out.parquet" in last
