"""Pages whose commands are run: what a command prints stands below it, and is written anew by `make docs`.

A block of language `console` has lines `$ nmsim ...`, each followed by what it prints. A block of language `python` is
followed by a block `text` with what it prints, if it prints anything. Nothing else of the page is touched.
"""

import contextlib
import io
import os
import re
import shlex
import tempfile
from pathlib import Path

from nmsim import cli

BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n(\n```text\n.*?^```\n)?", re.M | re.S)


def refilled(page: str) -> str:
    """Run the commands of a page, in its order and in one empty folder, and put what they print below them."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return BLOCK.sub(_answered, page)


def read(path: Path) -> str:
    """Run a page as it stands in a file."""
    return refilled(path.read_text(encoding="utf-8"))


def _answered(block: re.Match[str]) -> str:
    language, text = block[1], block[2]
    if language == "console":
        commands = [line for line in text.splitlines() if line.startswith("$ ")]
        return "```console\n" + "".join(f"{line}\n{_said(line[2:])}" for line in commands) + "```\n"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(text, "page", "exec"), {"__name__": "__main__"})
    return f"```python\n{text}```\n" + (
        f"\n```text\n{_trimmed(said.getvalue())}```\n" if said.getvalue() else ""
    )


def _said(command: str) -> str:
    """What a command prints, on a terminal of 80 columns as on every other."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "nmsim", command
    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(said):
            cli.app(args=arguments, prog_name="nmsim", standalone_mode=False)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return _trimmed(said.getvalue())


def _trimmed(text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line)
