"""The front door: `nmsim <verb>`. Verbs import the other packages when they run, so that help is quick."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import nmsim
from nmsim.cli import (
    bench,
    bits,
    calibrate,
    console,
    core,
    fit,
    measure,
    mitigations,
    pack,
    predict,
    quality,
    study,
    sweep,
    threshold,
    validate,
)
from nmsim.errors import NmsimError

BAD_INPUT = 2

app = typer.Typer(
    name="nmsim",
    help="N:M sparsity, bit by bit: patterns, metadata encodings, footprints and predicted speedups.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("bits")(bits.bits)
app.command("pack")(pack.pack)
app.command("unpack")(pack.unpack)
app.command("inspect")(pack.inspect)
app.command("predict")(predict.predict)
app.command("core")(core.core)
app.command("mitigations")(mitigations.mitigations)
app.command("study")(study.study)
app.command("quality")(quality.quality)
app.command("sweep")(sweep.sweep)
app.command("threshold")(threshold.threshold)
app.command("calibrate")(calibrate.calibrate)
app.command("measure")(measure.measure)
app.command("fit")(fit.fit)
app.command("validate")(validate.validate)
app.command("bench")(bench.bench)


def _version(wanted: bool) -> None:
    if wanted:
        print(nmsim.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """N:M sparsity, bit by bit: patterns, metadata encodings, footprints and predicted speedups."""


@app.command("help")
def help_(
    verb: Annotated[str | None, typer.Argument(help="A verb; the list of verbs when absent.")] = None,
) -> None:
    """Show the help of a verb."""
    main([verb, "--help"] if verb else ["--help"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Bad input is one line on standard error and exit code 2."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="nmsim")
    except NmsimError as error:
        console.err.print(f"nmsim: {error}", style="red", highlight=False, markup=False)
        sys.exit(BAD_INPUT)
    except OSError as error:
        console.err.print(f"nmsim: {error}", style="red", highlight=False, markup=False)
        sys.exit(BAD_INPUT)
