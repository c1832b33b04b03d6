"""The section of the how-to on quality that puts logged accuracies beside output errors measured on the example checkpoint."""

import tempfile
from pathlib import Path

import pandas as pd

import validate
from nmsim.quality import cross
from validate.quality.activation_dump import Synthetic
from validate.quality.measure import Target, measure_quality, open_dense
from validate.study.example_checkpoint import ExampleShape, write_example

PAGE = Path(__file__).parents[1] / "how-to" / "measure-quality.md"
BEGIN, END = "<!-- accuracies: made by `make docs` -->\n", "<!-- end of accuracies -->\n"
LOGS = Path(validate.__file__).parent / "data" / "authors_logs.csv"
RUN = ["model", "layers", "criterion", "mitigation", "pattern"]
WAY = ["criterion", "mitigation", "pattern"]
SMALL = ExampleShape(layers=1, hidden=256, intermediate=512, kv_width=64, vocab=256)
TOKENS = 128
HEAD = (
    "| model | criterion | mitigation | pattern | logged accuracy | standard error | output error here | energy lost here |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def page() -> str:
    """The page as it stands, its table made anew."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + section() + END + after


def section() -> str:
    """What the rows are, and a table of them."""
    means, tasks = logged()
    rows = means.merge(measured(), on=WAY, how="left", validate="many_to_one")
    lines = "".join(
        f"| {row.model} | {row.criterion} | {row.mitigation} | {row.pattern} | {row.accuracy:.3f} | {row.standard_error:.3f} "
        f"| {row.relative_output_error:.3f} | {1 - row.energy_kept_share:.3f} |\n"
        for row in rows.itertuples()
    )
    return (
        f"\nMeans over the tasks that all of these runs have in common: {', '.join(tasks)}. Pattern 1:2 with the criterion "
        f"`unstructured` keeps half of each token without groups. Errors here: the synthetic example checkpoint, {TOKENS} "
        f"synthetic tokens, all layers together.\n\n{HEAD}{lines}\n"
    )


def logged() -> tuple[pd.DataFrame, list[str]]:
    """Mean accuracy of each logged run over the tasks that all runs share, and those tasks.

    Runs whose log is named otherwise than its code ran are left out. Unstructured runs of a token get the criterion
    "unstructured" and, for pattern, the density in lowest terms.
    """
    logs = pd.read_csv(LOGS, keep_default_na=False)
    logs = logs[(logs["label_holds"] == "yes") & (logs["metric"] == "accuracy")]
    loose = (logs["among"] == "token") & (logs["criterion"] == "magnitude") & (logs["sparsity"] == 0.5)
    logs.loc[loose, ["criterion", "pattern"]] = ["unstructured", "1:2"]
    logs = logs[loose | (logs["among"] == "group")].astype({"standard_error": float})
    runs = logs.groupby(RUN, sort=False).ngroups
    shared = logs.groupby("task").filter(lambda rows: len(rows) == runs)
    means = shared.groupby(RUN, sort=False).agg(
        accuracy=("value", "mean"),
        standard_error=("standard_error", lambda errors: (errors**2).sum() ** 0.5 / len(errors)),
    )
    return means.reset_index(), sorted(shared["task"].unique())


def measured() -> pd.DataFrame:
    """Output error and energy of the same ways of pruning, all layers of the example checkpoint together."""
    ways, _ = cross(
        "activations",
        ["2:4", "8:16"],
        ["magnitude", "clact", "unstructured"],
        ["none", "var", "dpts_median"],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write_example(Path(folder) / "example.safetensors", shape=SMALL)
        with open_dense(path) as checkpoint:
            tokens = Synthetic("llm-like", TOKENS, TOKENS)
            table = measure_quality(
                checkpoint, tokens, ways=ways, target=Target(None, None, "combinatorial")
            ).table
    rows = table[(table["layer"] == "all") & (table["pattern"] != "dense")]
    half = rows["criterion"] == "unstructured"
    rows = rows.assign(pattern=rows["pattern"].mask(half, "1:2")).drop_duplicates(WAY)
    return rows[[*WAY, "relative_output_error", "energy_kept_share"]]
