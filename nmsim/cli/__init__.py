"""The command line: `nmsim <verb>`. A verb's module is imported only if that verb is called, so that help is quick."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer
import typer.core
import typer.main
from typer import Argument, Option

from nmsim.errors import NmsimError, visible

BAD_INPUT = 2
FILES, PREDICT, DESIGN, JUDGE = "Files", "Predict", "Design", "Measure and judge"
MAINTAIN = "For maintainers"


class Verb(NamedTuple):
    """Where a verb is, without its module: `nmsim.cli.<module>` has a function of the verb's name.

    `nmsim --help` leaves out hidden verbs; the page of the command line has them.
    """

    module: str
    group: str
    help: str
    hidden: bool = False


VERBS = {
    "bits": Verb("files", FILES, "Show the metadata bits per group and per element of every encoding."),
    "pack": Verb("files", FILES, "Prune weights to N:M by magnitude and write them packed."),
    "unpack": Verb("files", FILES, "Make a packed checkpoint dense again."),
    "inspect": Verb("files", FILES, "Show what each format keeps and costs, tensor by tensor."),
    "check": Verb("files", FILES, "Say whether the weights of a checkpoint are N:M, and where they are not."),
    "convert": Verb("files", FILES, "Read sparse weights of another tool, or write them for one."),
    "model": Verb(
        "models",
        PREDICT,
        "Show the linear layers and the attention of a model, and what was assumed about it.",
    ),
    "predict": Verb(
        "predict",
        PREDICT,
        "Predict the time of a product, or of a step of a model, sparse and dense, with its range.",
    ),
    "threshold": Verb("threshold", PREDICT, "Find the dense models that cost as little as a pruned one."),
    "mitigations": Verb(
        "models", PREDICT, "Count what criteria and mitigations of pruning cost.", hidden=True
    ),
    "core": Verb("hardware", DESIGN, "Predict the cycles of a product on sparse tensor cores."),
    "compare": Verb(
        "hardware", DESIGN, "Compare two chips on one model, and show where the difference comes from."
    ),
    "sweep": Verb("sweep", DESIGN, "Evaluate every point of a design space of tensor cores."),
    "machine": Verb(
        "hardware", DESIGN, "Show a machine with its sources, list machines, or write one as a file."
    ),
    "rtl": Verb(
        "gates", DESIGN, "Write a unit of hardware as Verilog, with a test bench that checks itself."
    ),
    "synth": Verb("gates", DESIGN, "Synthesise units of hardware, and show what they take."),
    "calibrate": Verb("measure", JUDGE, "Measure what this machine can do, and write it as a hardware file."),
    "measure": Verb("measure", JUDGE, "Time sparse products on this machine, and append rows to a file."),
    "validate": Verb("validate", JUDGE, "Compare predictions with measured and published rows."),
    "quality": Verb("quality", JUDGE, "Measure what pruning does to the outputs of linear layers."),
    "perplexity": Verb(
        "perplexity",
        JUDGE,
        "Measure the loss of a language model in many pruned configurations, and append rows to a file.",
    ),
    "study": Verb("validate", JUDGE, "Encode a checkpoint, predict a model, and write a report."),
    "export": Verb("files", DESIGN, "Write input files for another simulator."),
    "fit": Verb("maintain", MAINTAIN, "Fit the constants of the estimate to measured rows.", hidden=True),
    "bench": Verb("maintain", MAINTAIN, "Time the codecs and the models on this machine.", hidden=True),
}
"""Every verb, in the order of the help; a test holds that `help` is the first line of the verb's docstring."""


@contextlib.contextmanager
def _visible_usage_errors() -> Iterator[None]:
    """Escape what does not print in errors of typer's own, such as that of an unknown option."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            error.message = visible(message)  # type: ignore[attr-defined]
        raise


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
        examples = "\n\n".join(["Examples:", *module.EXAMPLES[cmd_name]])
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(cmd_name, epilog=examples)(_answering(getattr(module, cmd_name)))
        return typer.main.get_command(alone)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _visible_usage_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _visible_usage_errors():
            return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._formats_help = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._formats_help = False


def _answering(function: Callable[..., Any]) -> Callable[..., None]:
    """A verb with the options `--json` and `--wide`, whose answer is printed as they say."""
    from nmsim.cli import console, options

    def verb(*, as_json: bool, wide: bool, **arguments: Any) -> None:
        with console.running(arguments):
            console.deliver(function(**arguments), as_json=as_json, wide=wide)

    signature = inspect.signature(function, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("as_json", options.AsJson), ("wide", options.Wide))
    ]
    verb.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    # Typer keeps the lines of a paragraph as the source breaks them; a terminal has another width.
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    verb.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return verb


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
        bool, Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """N:M sparsity, bit by bit: patterns, metadata encodings, footprints and predicted speedups."""


@app.command("help", hidden=True)
def help_(
    verb: Annotated[str | None, Argument(help="A verb; the list of verbs when absent.")] = None,
) -> None:
    """Show the help of a verb."""
    main([verb, "--help"] if verb else ["--help"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Bad input is one line on standard error and exit code 2."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="nmsim")
    except (NmsimError, OSError) as error:
        from nmsim.cli import console

        # An error of the system repeats the path it was given, which has any length and any characters.
        console.complain(*(error if isinstance(error, NmsimError) else NmsimError(error)).args)
        sys.exit(BAD_INPUT)
