"""Every `nmsim` command that a page shows has a verb and options that exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from nmsim.cli import VERBS, app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HISTORY = "CHANGELOG.md"
"""A page that also names what is gone."""
INLINE = re.compile(r"`(nmsim [^`\n]+)`")
BLOCK = re.compile(r"^```(?:console|sh|bash|shell)?\n(.*?)^```", re.M | re.S)


def commands(page):
    """Commands of a page: those in its code blocks and those within its lines, without what is behind a #."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split("&&"):
                if part.strip().startswith("nmsim "):
                    yield part.strip()
    yield from INLINE.findall(BLOCK.sub("", text))


def parsed(command):
    """Parse a command without running it; the name of the verb."""
    _, verb, *arguments = shlex.split(command, comments=True)
    if verb in ("help", "VERB", "<verb>") or verb.startswith("-"):
        return verb
    assert verb in VERBS, command
    if not arguments or "..." in command or "[" in command:
        return verb
    group = typer.main.get_command(app)
    context = group.make_context("nmsim", [verb, *arguments])
    name, found, rest = group.resolve_command(context, [verb, *arguments])
    found.make_context(name, rest, parent=context, resilient_parsing=False)
    return verb


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.name != HISTORY and "nmsim " in p.read_text()],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_commands_of_a_page_are_understood(page):
    for command in commands(page):
        try:
            parsed(command)
        except typer.Exit:
            continue
        except Exception as error:
            message = getattr(error, "message", error)
            # In the middle of a sentence a command may be named with some of its arguments only.
            if not re.search("Missing|requires an argument", str(message)):
                raise AssertionError(f"{page.name}: {command}: {message}") from error


@pytest.mark.parametrize(
    "command", ["nmsim predict 1,2,3 --phase decode", "nmsim foresee 1,2,3", "nmsim bits --jsn"]
)
def test_a_command_of_another_version_is_noticed(command):
    with pytest.raises(Exception, match="phase|foresee|jsn"):
        parsed(command)


def test_examples_of_the_help_are_understood():
    for name, verb in VERBS.items():
        examples = importlib.import_module(f"nmsim.cli.{verb.module}").EXAMPLES[name]
        assert examples
        for example in examples:
            assert parsed(example) == name
