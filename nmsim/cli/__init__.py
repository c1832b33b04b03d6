"""The command line: `nmsim <verb>`. A verb's module is imported only if that verb is called, so that help is quick."""

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
import typer.core
import typer.main

from nmsim.errors import NmsimError

BAD_INPUT = 2
FILES, PREDICT, DESIGN, JUDGE = "Files", "Predict", "Design", "Measure and judge"


class Verb(NamedTuple):
    """Where a verb is, without its module: `nmsim.cli.<module>` has a function of the verb's name."""

    module: str
    group: str
    help: str
    hidden: bool = False


VERBS = {
    "bits": Verb(
        "bits",
        FILES,
        "Show the metadata bits of one group and one element for every encoding, beside the entropy bound.",
    ),
    "pack": Verb(
        "pack",
        FILES,
        "Prune weights to N:M by magnitude and write them packed: values, metadata, and nothing else.",
    ),
    "unpack": Verb(
        "pack", FILES, "Make a packed checkpoint dense again: what was kept bit for bit, zeros elsewhere."
    ),
    "inspect": Verb(
        "pack",
        FILES,
        "Show tensor by tensor what each pattern and encoding keeps and costs, measured; nothing is written.",
    ),
    "predict": Verb(
        "predict",
        PREDICT,
        "Predict the time of Y[M,N] = X[M,K] W[N,K]^T, sparse against dense, with an error bar and the bound.",
    ),
    "threshold": Verb(
        "threshold",
        PREDICT,
        "Find the dense models that are as small, as fast and as frugal as a pruned one: the Performance Threshold.",
    ),
    "mitigations": Verb(
        "mitigations",
        PREDICT,
        "Tabulate what criteria and mitigations of N:M pruning cost: operations, bytes, and what a choice waits for.",
    ),
    "core": Verb(
        "core",
        DESIGN,
        "Predict the cycles of Y[M,N] = X[M,K] W[N,K]^T on sparse tensor cores, with the stage that limits them.",
    ),
    "sweep": Verb(
        "sweep",
        DESIGN,
        "Evaluate every point of a design space: cores, patterns, encodings, packings, value types, tokens and workloads.",
    ),
    "calibrate": Verb(
        "calibrate",
        JUDGE,
        "Measure what this machine reads, copies, multiplies and issues at best, and write it as a hardware TOML file.",
    ),
    "measure": Verb(
        "measure",
        JUDGE,
        "Run sparse products on this machine beside the best dense call at hand, check every result, and append rows.",
    ),
    "validate": Verb(
        "validate",
        JUDGE,
        "Join measured or published rows with predictions, and report the error of each family of rows.",
    ),
    "quality": Verb(
        "quality",
        JUDGE,
        "Measure what each pattern, criterion and mitigation does to the outputs of linear layers, beside bits and "
        "speedups.",
    ),
    "study": Verb(
        "study",
        JUDGE,
        "Encode a checkpoint, predict a model on machines, and write a report: what to build, and what it brings.",
    ),
    "fit": Verb(
        "fit",
        JUDGE,
        "Fit the constants of the estimate to measured rows, and again without each group of machines.",
        hidden=True,
    ),
    "bench": Verb(
        "bench",
        JUDGE,
        "Time every codec against a plain copy of the decoded masks; with --models the predictor, tensor cores and "
        "sweeps.",
        hidden=True,
    ),
}
"""Every verb, in the order of the help; a test holds that `help` is the first line of the verb's docstring."""


class _Verbs(typer.core.TyperGroup):
    """A group that lists its verbs from `VERBS`, and imports the module of the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._formats_help = False
        for name, verb in VERBS.items():
            self.commands[name] = typer.core.TyperCommand(
                name, help=verb.help, hidden=verb.hidden, rich_help_panel=verb.group
            )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself; while help is written, a stand-in that has its line of help only."""
        if cmd_name not in VERBS or self._formats_help:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"{__name__}.{VERBS[cmd_name].module}")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(cmd_name, epilog=getattr(module, "EXAMPLES", {}).get(cmd_name))(
            getattr(module, cmd_name)
        )
        return typer.main.get_command(alone)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._formats_help = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._formats_help = False


app = typer.Typer(
    name="nmsim",
    cls=_Verbs,
    help="N:M sparsity, bit by bit: patterns, metadata encodings, footprints and predicted speedups.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from nmsim import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """N:M sparsity, bit by bit: patterns, metadata encodings, footprints and predicted speedups."""


@app.command("help", hidden=True)
def help_(
    verb: Annotated[str | None, typer.Argument(help="A verb; the list of verbs when absent.")] = None,
) -> None:
    """Show the help of a verb."""
    main([verb, "--help"] if verb else ["--help"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Bad input is one line on standard error and exit code 2."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="nmsim")
    except (NmsimError, OSError) as error:
        from nmsim.cli import console

        console.complain(str(error))
        sys.exit(BAD_INPUT)
