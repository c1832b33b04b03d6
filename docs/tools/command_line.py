"""The page on the command line, made of the help that the verbs print."""

from collections.abc import Iterator
from typing import Any

import typer

from nmsim.cli import app

INTRO = """# Command line

Written by `make docs` from the help of each verb. `nmsim help VERB` prints the same on a terminal.

`--json` prints what a table shows as JSON.
"""
OTHER_VERBS = "Verbs"


def page() -> str:
    """Write the verbs in their groups, hidden verbs too, each with its text, its arguments and its options."""
    # typer has brought its own click since 0.29, and before it used the package: neither is named here.
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="nmsim")
    groups: dict[str, list[str]] = {}
    for verb in root.list_commands(context):
        if verb == "help":
            continue
        group = _group(root.commands[verb])
        section = "\n".join(_section(verb, root.get_command(context, verb)))
        groups.setdefault(group, []).append(section)
    return INTRO + "".join(
        f"\n## {title}\n\n" + "\n\n".join(sections) + "\n" for title, sections in groups.items()
    )


def _group(command: Any) -> str:
    panel = getattr(command, "rich_help_panel", None)
    return panel if isinstance(panel, str) else OTHER_VERBS


def _section(verb: str, command: Any) -> Iterator[str]:
    yield f"### nmsim {verb}\n"
    yield _prose(command.help or "")
    arguments = [_usage(p) for p in command.params if p.param_type_name == "argument"]
    yield f"\n```text\n{' '.join(['nmsim', verb, *arguments, '[OPTIONS]'])}\n```"
    if command.epilog:
        lines = [line.strip() for line in command.epilog.splitlines()]
        yield "\n".join(["\n```sh", *(line for line in lines if line.startswith("nmsim")), "```"])
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows:
        yield "\n| argument or option | meaning | default |\n|---|---|---|"
        yield from rows


def _usage(argument: Any) -> str:
    name = _metavar(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = [_metavar(parameter)]
    else:
        names = [*parameter.opts, *parameter.secondary_opts]
    default = parameter.default
    if isinstance(default, list | tuple):
        default = ",".join(map(str, default))
    shown = "" if default in (None, False, "") or callable(default) else f"`{default}`"
    cells = [", ".join(f"`{name}`" for name in names), _prose(parameter.help or ""), shown]
    return f"| {cells[0]} | {cells[1]} | {'required' if parameter.required else cells[2]} |"


def _prose(text: str) -> str:
    """Text of a help as Markdown: one line per paragraph, and no sign that Markdown or HTML takes for its own."""
    paragraphs = [" ".join(part.split()) for part in text.replace("\b", "").split("\n\n")]
    return "\n\n".join(paragraphs).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
