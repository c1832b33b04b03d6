"""Code of a page, run as a reader runs it: in a process of its own, one step after the other, in one folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 600.0
AFTER_A_STEP = "-- a step of the page ends --\n"
PROGRAM = """
import json, shlex, sys
sys.path.insert(0, sys.argv[1])
for language, text in json.load(sys.stdin):
    if language == "python":
        exec(compile(text, "page", "exec"), {"__name__": "__main__"})
    else:
        from nmsim.cli import main
        try:
            main(shlex.split(text)[1:])
        except SystemExit as stop:
            if stop.code:
                raise
    print(sys.argv[2], end="", flush=True)
"""
"""Runs steps: each block of Python has names of its own. The process is one, since loading the packages takes longest."""
PROSE = {
    *("masks", "bits", "a", "weight", "measured", "times", "dense"),
    *("at", "best", "bound", "decode", "batch", "vs", "the"),
}
"""Words of a comment that its line need not print."""


def python_blocks(page: Path) -> list[str]:
    """Give the blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def printed_by(steps: list[tuple[str, str]], folder: Path) -> list[str]:
    """Run steps, (`python`, block) or (`nmsim`, command line), in a folder; give what each of them prints."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT), AFTER_A_STEP],
        input=json.dumps(steps),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert answer.returncode == 0, answer.stderr
    *printed, rest = answer.stdout.split(AFTER_A_STEP)
    assert (len(printed), rest) == (len(steps), "")
    return printed


def check_claims(block: str, printed: str) -> None:
    """Hold what a block says behind `print(...)  # ` against what it prints."""
    claims = re.findall(r"^print\(.*\)[ ]+# (.+)$", block, re.M)
    lines = printed.splitlines()
    assert len(claims) <= len(lines)
    for claim in claims:
        words = re.findall(r"[\w.:]+", claim)
        assert any(all(word in line or word in PROSE for word in words) for line in lines), (
            f"the page says {claim!r}, but it prints {printed!r}"
        )
