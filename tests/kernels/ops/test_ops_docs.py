"""The page on torch: its blocks run, one after the other, and print what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from kernels.ops import weights as weights_room  # noqa: E402

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "use-in-torch.md"


def test_the_page_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) + text.count("```sh\n") == text.count("```") // 2
    names: dict[str, object] = {}
    claims = 0
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(block, names)
        for claim in re.findall(r"^print\(.*?\)  # (.+)$", block, re.M):
            assert claim in printed.getvalue()
            claims += 1
    assert claims == 16


def test_the_page_tells_the_thresholds_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    assert (
        f"From {weights_room.MANY_TOKENS} tokens per call on ({weights_room.MANY_TOKENS_PORTABLE} if" in text
    )
